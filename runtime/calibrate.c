/* Calibration: the exponents that inference uses, from some batches in the order of the files. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

enum { NARROW_BITS = 8, GROUP_ROWS = 128 };

static bool has_slot(const struct intc_tensor *tensor) {
    return (tensor->scope & INTC_IN_INFER) && tensor->calibrated_offset >= 0 && tensor->exponent_offset >= 0;
}

/* The slots of a module: those of its graph, then those of its inputs and predictions. */
static uint32_t slot_count(const struct intc_module *module) {
    return module->calibration_count + module->tensor_count;
}

/* False where the tensor has none. */
static bool slot_at(const struct intc_module *module, uint32_t i, struct intc_calibration *slot) {
    if (i < module->calibration_count) {
        *slot = module->calibrations[i];
        return true;
    }
    const struct intc_tensor *tensor = module->tensors + (i - module->calibration_count);
    *slot = (struct intc_calibration){tensor->exponent_offset, tensor->calibrated_offset, tensor->bits};
    return has_slot(tensor);
}

static int compare_exponents(const void *a, const void *b) {
    int32_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* From the largest exponents of groups of rows. Of 8 bits the median (the lower of two), groups of zeros left out: the largest is set by
 * the outliers of one group and costs every value a bit, while what saturates is few values of some groups. Of more bits, where a bit costs
 * nothing, the largest. */
static int32_t chosen_exponent(int32_t *exponents, int64_t count, int32_t bits) {
    qsort(exponents, (size_t)count, sizeof *exponents, compare_exponents);
    int64_t zeros = 0;
    while (zeros < count - 1 && exponents[zeros] == INTC_EXPONENT_ZERO)
        zeros++;
    return exponents[bits > NARROW_BITS ? count - 1 : zeros + (count - zeros - 1) / 2];
}

/* exponents: [slot][group], filled with INTC_EXPONENT_ZERO; `each` batches are a group, the last may be larger. */
static bool run_batches(const Session *session, const Feeds *feeds, int64_t batches, int64_t each, int32_t *exponents, Error *error) {
    const struct intc_module *module = session->module;
    struct intc_calibration slot;
    int64_t groups = batches / each;
    for (int64_t b = 0; b < batches; b++) {
        for (int64_t i = 0; i < feeds->batch; i++)
            feeds->chosen[i] = (b * feeds->batch + i) % feeds->rows;
        if (!intc_rt_feed_batch(feeds, FEED_CALIBRATE, session->arena, session->pool, error))
            return false;
        intc_rt_set_random(session, 0, b);
        module->calibrate(session->arena, session->pool);
        int64_t group = b / each < groups ? b / each : groups - 1;
        for (uint32_t i = 0; i < slot_count(module); i++)
            if (slot_at(module, i, &slot)) {
                int32_t exponent = intc_rt_exponent(session->arena, slot.exponent_offset), *largest = exponents + i * groups + group;
                *largest = exponent > *largest ? exponent : *largest;
            }
    }
    for (uint32_t i = 0; i < slot_count(module); i++)
        if (slot_at(module, i, &slot))
            intc_rt_set_exponent(session->arena, slot.slot_offset, chosen_exponent(exponents + i * groups, groups, slot.bits));
    return true;
}

bool intc_rt_calibrate(const Session *session, const Feeds *feeds, int64_t batches, Error *error) {
    const struct intc_module *module = session->module;
    if (!module->calibrate) /* float32: there are no exponents */
        return true;
    int64_t available = feeds->rows >= feeds->batch ? feeds->rows / feeds->batch : 1;
    batches = batches < available ? batches : available;
    int64_t each = (GROUP_ROWS - 1) / feeds->batch + 1;
    each = each < batches ? each : batches;
    size_t count = (size_t)slot_count(module) * (size_t)(batches / each);
    int32_t *exponents = malloc((count + 1) * sizeof *exponents);
    if (!exponents)
        return intc_rt_fail(error, "out of memory");
    for (size_t i = 0; i < count; i++)
        exponents[i] = INTC_EXPONENT_ZERO;
    bool good = run_batches(session, feeds, batches, each, exponents, error);
    free(exponents);
    return good;
}

bool intc_rt_calibrated(const Session *session) {
    const struct intc_module *module = session->module;
    struct intc_calibration slot;
    bool any = false;
    for (uint32_t i = 0; i < slot_count(module); i++)
        if (slot_at(module, i, &slot)) {
            any = true;
            if (intc_rt_exponent(session->arena, slot.slot_offset) != INTC_EXPONENT_ZERO)
                return true;
        }
    return !any;
}
