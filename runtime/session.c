/* A module with its arena and threads, and the hashes of parameters and of the module. */
#include "runtime/runtime.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

int64_t intc_rt_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

bool intc_rt_session_open(Session *session, const struct intc_module *module, int64_t threads, Error *error) {
    *session = (Session){.module = module};
    if (module->abi != INTC_ABI_VERSION)
        return intc_rt_fail(error, "the compiled module has ABI %u, this runtime %d: compile and link with one version of intc",
                            module->abi, INTC_ABI_VERSION);
    if (module->matrix_registers && !intc_rt_matrix_registers())
        return intc_rt_fail(
            error, "this trainer was compiled for a CPU with AMX, which this machine does not allow: compile it with --features=-amx-int8");
    void *arena = mmap(NULL, (size_t)module->arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED)
        return intc_rt_fail(error, "cannot allocate the arena of %lld bytes: %s", (long long)module->arena_size, strerror(errno));
    session->arena = arena;
    madvise(arena, (size_t)module->arena_size, MADV_HUGEPAGE); /* a wish: fewer misses of the address translation */
    intc_image_copy(&module->initial, session->arena);
    session->pool = intc_rt_pool_new(threads > 0 ? threads : intc_rt_cores());
    return true;
}

void intc_rt_session_close(Session *session) {
    intc_rt_pool_free(session->pool);
    if (session->arena)
        munmap(session->arena, (size_t)session->module->arena_size);
    *session = (Session){0};
}

static void hash_number(Sha256 *hash, int64_t value, int bytes) {
    unsigned char buffer[8];
    for (int i = 0; i < bytes; i++)
        buffer[i] = (unsigned char)((uint64_t)value >> (8 * i));
    intc_rt_sha256_add(hash, buffer, (size_t)bytes);
}

void intc_rt_parameters_hash(const Session *session, unsigned char digest[32]) {
    const struct intc_module *module = session->module;
    Sha256 hash;
    intc_rt_sha256_start(&hash);
    for (uint32_t i = 0; i < module->tensor_count; i++) {
        const struct intc_tensor *tensor = module->tensors + i;
        bool seen = tensor->kind != INTC_PARAM;
        for (uint32_t k = 0; k < i && !seen; k++)
            seen = module->tensors[k].kind == INTC_PARAM && module->tensors[k].offset == tensor->offset;
        if (seen)
            continue;
        int64_t elements = intc_rt_tensor_elements(tensor);
        Cursor at = intc_rt_cursor(tensor);
        for (int64_t e = 0; e < elements; e++, intc_rt_cursor_next(&at))
            hash_number(&hash, intc_rt_cursor_get(&at, session->arena), at.size);
        hash_number(&hash, intc_rt_exponent(session->arena, tensor->exponent_offset), 4);
    }
    intc_rt_sha256_end(&hash, digest);
}

void intc_rt_set_random(const Session *session, int64_t seed, int64_t step) {
    if (session->module->random_offset < 0)
        return;
    intc_rt_store(session->arena + session->module->random_offset, INTC_I64, seed);
    intc_rt_store(session->arena + session->module->random_offset + 8, INTC_I64, step);
}

void intc_rt_module_hash(const struct intc_module *module, unsigned char digest[32]) {
    Sha256 hash;
    intc_rt_sha256_start(&hash);
    hash_number(&hash, module->abi, 4);
    hash_number(&hash, module->batch, 8);
    hash_number(&hash, module->state_size, 8);
    intc_rt_sha256_add(&hash, module->options, strlen(module->options) + 1);
    intc_rt_sha256_add(&hash, module->loss, strlen(module->loss) + 1);
    for (uint32_t i = 0; i < module->tensor_count; i++) {
        const struct intc_tensor *tensor = module->tensors + i;
        intc_rt_sha256_add(&hash, tensor->name, strlen(tensor->name) + 1);
        const int64_t numbers[] = {tensor->kind, tensor->scope, tensor->type, tensor->rank, tensor->integer, tensor->bits, tensor->classes};
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
            hash_number(&hash, numbers[k], 8);
        for (int k = 0; k < tensor->rank; k++)
            hash_number(&hash, tensor->dim[k], 8);
        /* Places inside the state must agree; scratch may move. */
        if (tensor->kind == INTC_PARAM || tensor->kind == INTC_STATE) {
            hash_number(&hash, tensor->offset, 8);
            hash_number(&hash, tensor->exponent_offset, 8);
            for (int k = 0; k < tensor->rank; k++)
                hash_number(&hash, tensor->stride[k], 8);
        }
    }
    intc_rt_sha256_end(&hash, digest);
}
