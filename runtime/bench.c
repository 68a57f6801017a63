/* Speed and memory on made-up data: the time of step and infer alone, without reading files. */
#include "runtime/runtime.h"

#include <sys/resource.h>

enum { WARM_UP = 5 };

static void make_up(const struct intc_tensor *tensor, unsigned char *arena, uint64_t stream) {
    uint64_t key = intc_random_key(1, 0, stream);
    int64_t elements = intc_rt_tensor_elements(tensor), top = ((int64_t)1 << (tensor->bits > 1 ? tensor->bits - 1 : 1)) - 1;
    Cursor at = intc_rt_cursor(tensor);
    for (int64_t i = 0; i < elements; i++, intc_rt_cursor_next(&at)) {
        int64_t random = (int64_t)intc_random_bits(key, (uint32_t)i), value = random % (2 * top + 1) - top;
        if (tensor->integer)
            value = random % (tensor->classes > 0 ? tensor->classes : 2);
        if (tensor->type == INTC_F32)
            value = intc_rt_float_bits(value, 1 - tensor->bits);
        intc_rt_store(arena + at.place, tensor->type, value);
    }
    intc_rt_set_exponent(arena, tensor->exponent_offset, 1 - tensor->bits);
}

static void make_up_all(const Session *session, int32_t scope) {
    for (uint32_t i = 0; i < session->module->tensor_count; i++) {
        const struct intc_tensor *tensor = session->module->tensors + i;
        if ((tensor->kind == INTC_INPUT || tensor->kind == INTC_TARGET) && (tensor->scope & scope))
            make_up(tensor, session->arena, i);
    }
}

static void report(const char *what, int64_t steps, int64_t batch, int64_t nanoseconds) {
    char milliseconds[NUMBER_TEXT], speed[NUMBER_TEXT];
    nanoseconds = nanoseconds > 0 ? nanoseconds : 1;
    intc_rt_print_ratio(nanoseconds / steps, 1000000, 3, milliseconds);
    Wide rate = (Wide)steps * 1000000000 * 100 / nanoseconds;
    printf("%-8s %s ms, %s a second, %lld samples/s\n", what, milliseconds, intc_rt_print_ratio((int64_t)rate, 100, 2, speed),
           (long long)((Wide)steps * batch * 1000000000 / nanoseconds));
}

bool intc_rt_bench(const Session *session, int64_t steps, bool profile, Error *error) {
    const struct intc_module *module = session->module;
    Fixed rate = FIXED_ZERO, momentum = FIXED_ZERO;
    intc_rt_decimal("0.01", 4, 31, &rate);
    intc_rt_decimal("0.9", 3, 31, &momentum);
    Hyper hyper = intc_rt_hyper(rate, momentum, FIXED_ZERO, false);
    if (!intc_rt_hyper_write(module, session->arena, &hyper, error))
        return false;
    int64_t started = 0, spent = 0;
    for (int64_t i = -WARM_UP; i < steps; i++) {
        make_up_all(session, INTC_IN_STEP); /* scratch may share their place */
        if (module->random_offset >= 0)
            intc_rt_store(session->arena + module->random_offset + 8, INTC_I64, i + WARM_UP);
        intc_rt_hyper_write(module, session->arena, &hyper, error);
        if (profile && i == 0 && !intc_rt_profile_open(module, error))
            return false;
        started = intc_rt_clock();
        module->step(session->arena, session->pool);
        spent += i >= 0 ? intc_rt_clock() - started : 0;
    }
    report("step", steps, module->batch, spent);
    if (profile)
        return intc_rt_profile_close(steps, error);
    spent = 0;
    for (int64_t i = -WARM_UP; i < steps; i++) {
        make_up_all(session, INTC_IN_INFER);
        started = intc_rt_clock();
        module->infer(session->arena, session->pool);
        spent += i >= 0 ? intc_rt_clock() - started : 0;
    }
    report("infer", steps, module->batch, spent);
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        printf("memory   %ld KiB at most, of them %lld KiB arena\n", usage.ru_maxrss, (long long)(module->arena_size / 1024));
    return true;
}
