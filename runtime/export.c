/* Exported models: the bytes that the compiler prepared, with the trained values written into their places. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

const struct intc_model *intc_rt_model_find(const struct intc_module *module, const char *format, Error *error) {
    for (uint32_t i = 0; i < module->model_count; i++)
        if (strcmp(module->models[i].format, format) == 0) {
            if (!module->models[i].refusal)
                return module->models + i;
            intc_rt_fail(error, "--format %s: %s", format, module->models[i].refusal);
            return NULL;
        }
    intc_rt_fail(error, "--format %s: this trainer was compiled without that format", format);
    return NULL;
}

/* A parameter of 8 bits keeps this exponent when it is all zeros: any will do, but a scale must be a float32. */
enum { ZERO_WEIGHT_EXPONENT = -24 };

/* Shift from the master mantissas to `bits` bits. */
static int narrow_shift(const Session *session, const struct intc_tensor *tensor, int bits, bool *zero) {
    uint64_t maximum = 0;
    int64_t elements = intc_rt_tensor_elements(tensor);
    for (int64_t i = 0; i < elements; i++) {
        uint64_t magnitude = intc_magnitude(intc_rt_tensor_get(session->arena, tensor, i));
        maximum = magnitude > maximum ? magnitude : maximum;
    }
    *zero = maximum == 0;
    return intc_rescale_shift(maximum, bits, false);
}

static int64_t narrow_exponent(const Session *session, const struct intc_tensor *tensor, int bits) {
    bool zero;
    int shift = narrow_shift(session, tensor, bits, &zero);
    return zero ? ZERO_WEIGHT_EXPONENT : intc_rt_exponent(session->arena, tensor->exponent_offset) + shift;
}

static void write_little(unsigned char *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

static void patch_float(const Session *session, const struct intc_patch *patch, const struct intc_tensor *tensor, unsigned char *at) {
    int bytes = patch->kind == INTC_PATCH_F16 ? 2 : patch->kind == INTC_PATCH_F32 ? 4 : 8;
    int places = bytes == 2 ? 10 : bytes == 4 ? 23 : 52, width = bytes == 2 ? 5 : bytes == 4 ? 8 : 11;
    int exponent = intc_rt_exponent(session->arena, tensor->exponent_offset);
    int64_t elements = intc_rt_tensor_elements(tensor);
    for (int64_t i = 0; i < elements; i++)
        write_little(at + i * bytes, intc_rt_pack_float(intc_rt_tensor_get(session->arena, tensor, i), exponent, places, width), bytes);
}

static void patch_narrow(const Session *session, const struct intc_patch *patch, const struct intc_tensor *tensor, unsigned char *at) {
    bool zero;
    int shift = narrow_shift(session, tensor, patch->bits, &zero);
    int64_t elements = intc_rt_tensor_elements(tensor);
    int64_t rows = tensor->rank == 2 ? tensor->dim[0] : 1, columns = elements / rows;
    for (int64_t i = 0; i < elements; i++) {
        int64_t place = patch->transpose && tensor->rank == 2 ? i % columns * rows + i / columns : i;
        at[place] = (unsigned char)intc_round_even(intc_rt_tensor_get(session->arena, tensor, i), shift);
    }
}

/* value * 2^-shift as int32, nearest, saturated. */
static int64_t to_int32(int64_t value, int64_t shift) {
    if (shift < -32 && value != 0)
        return value < 0 ? INT32_MIN : INT32_MAX;
    return intc_saturate(intc_align(value, shift > 63 ? 63 : (int)shift), INT32_MIN, INT32_MAX);
}

static void patch_bias(const Session *session, const struct intc_patch *patch, const struct intc_tensor *tensor, unsigned char *at) {
    int64_t target = intc_rt_exponent(session->arena, patch->exponent_offset);
    if (patch->weight >= 0)
        target += narrow_exponent(session, session->module->tensors + patch->weight, patch->bits > 0 ? patch->bits : 8);
    int64_t shift = target - intc_rt_exponent(session->arena, tensor->exponent_offset), elements = intc_rt_tensor_elements(tensor);
    for (int64_t i = 0; i < elements; i++)
        write_little(at + 4 * i, (uint64_t)to_int32(intc_rt_tensor_get(session->arena, tensor, i), shift), 4);
}

static void patch_scale(const Session *session, const struct intc_patch *patch, unsigned char *at) {
    int64_t exponent = patch->weight >= 0
                           ? narrow_exponent(session, session->module->tensors + patch->weight, patch->bits > 0 ? patch->bits : 8)
                           : intc_rt_exponent(session->arena, patch->exponent_offset);
    /* A scale must be a normal float32; only a tensor of zeros is outside. */
    write_little(at, intc_rt_pack_float(1, (int)intc_saturate(exponent, -126, 127), 23, 8), 4);
}

static int64_t patch_size(const struct intc_patch *patch, const struct intc_tensor *tensor) {
    static const int bytes[] = {
        [INTC_PATCH_F32] = 4, [INTC_PATCH_F16] = 2, [INTC_PATCH_F64] = 8, [INTC_PATCH_I8] = 1, [INTC_PATCH_I32_AT] = 4};
    if (patch->kind == INTC_PATCH_SCALE)
        return 4;
    return tensor && patch->kind >= 0 && patch->kind < INTC_PATCH_SCALE ? intc_rt_tensor_elements(tensor) * bytes[patch->kind] : -1;
}

static bool apply(const Session *session, const struct intc_model *model, const struct intc_patch *patch, unsigned char *bytes) {
    const struct intc_module *module = session->module;
    const struct intc_tensor *tensor =
        patch->tensor >= 0 && patch->tensor < (int32_t)module->tensor_count ? module->tensors + patch->tensor : NULL;
    if (patch_size(patch, tensor) != patch->size || patch->weight >= (int32_t)module->tensor_count || patch->offset < 0 ||
        patch->size > model->size - patch->offset)
        return false;
    unsigned char *at = bytes + patch->offset;
    switch (patch->kind) {
    case INTC_PATCH_I8:
        patch_narrow(session, patch, tensor, at);
        return true;
    case INTC_PATCH_I32_AT:
        patch_bias(session, patch, tensor, at);
        return true;
    case INTC_PATCH_SCALE:
        patch_scale(session, patch, at);
        return true;
    default:
        patch_float(session, patch, tensor, at);
        return true;
    }
}

bool intc_rt_export(const Session *session, const struct intc_model *model, const char *path, Error *error) {
    unsigned char *bytes = malloc((size_t)model->size + 1);
    if (!bytes)
        return intc_rt_fail(error, "out of memory");
    memcpy(bytes, model->bytes, (size_t)model->size);
    bool good = true;
    for (int64_t i = 0; i < model->patch_count && good; i++)
        if (!apply(session, model, model->patches + i, bytes))
            good = intc_rt_fail(error, "%s: internal error: place %lld of the %s model does not fit", path, (long long)i, model->format);
    Output output;
    good = good && intc_rt_output_open(&output, path, error);
    if (good) {
        intc_rt_output_write(&output, bytes, (size_t)model->size);
        good = intc_rt_output_close(&output, true, error);
    }
    free(bytes);
    return good;
}
