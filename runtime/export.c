/* Exported models: the bytes that the compiler prepared, with the trained values between them. Needs memory for what does not depend on the
 * training, and for the largest tensor. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

/* The format must exist and at least one of its models be possible. */
const struct intc_model *intc_rt_model_find(const struct intc_module *module, const char *format, Error *error) {
    const char *refusal = "this trainer was compiled without that format";
    for (uint32_t i = 0; i < module->model_count; i++) {
        if (strcmp(module->models[i].format, format) != 0)
            continue;
        if (!module->models[i].refusal)
            return module->models + i;
        refusal = module->models[i].refusal;
    }
    intc_rt_fail(error, "--format %s: %s", format, refusal);
    return NULL;
}

/* Shift from the stored mantissas to `bits` bits; false for a tensor of zeros. */
static bool mapped_shift(const Session *session, const struct intc_tensor *tensor, int bits, int *shift) {
    uint64_t maximum = 0;
    int64_t elements = intc_rt_tensor_elements(tensor);
    Cursor at = intc_rt_cursor(tensor);
    for (int64_t i = 0; i < elements; i++, intc_rt_cursor_next(&at)) {
        uint64_t magnitude = intc_magnitude(intc_rt_cursor_get(&at, session->arena));
        maximum = magnitude > maximum ? magnitude : maximum;
    }
    *shift = intc_rescale_shift(maximum, bits, false);
    return maximum != 0;
}

static const struct intc_tensor *tensor_at(const Session *session, int32_t index) {
    return index >= 0 && (uint32_t)index < session->module->tensor_count ? session->module->tensors + index : NULL;
}

/* Computes exponent i from those before it; false if it refers to something else. */
static bool compute_exponent(const Session *session, const struct intc_exponent *row, int64_t i, int64_t *values) {
    const struct intc_tensor *tensor = tensor_at(session, row->tensor);
    bool pair = row->kind >= INTC_EXPONENT_ADD, known = row->a >= 0 && row->a < i && row->b >= 0 && row->b < i;
    if ((pair && !known) || (!tensor && row->kind >= INTC_EXPONENT_PARAM && row->kind <= INTC_EXPONENT_LEAST))
        return false;
    int64_t a = pair ? values[row->a] : 0, b = pair ? values[row->b] : 0, elements;
    int shift;
    Cursor cursor;
    switch (row->kind) {
    case INTC_EXPONENT_CONST:
        values[i] = row->constant;
        return true;
    case INTC_EXPONENT_SLOT:
        values[i] = intc_rt_exponent(session->arena, row->offset);
        return true;
    case INTC_EXPONENT_PARAM:
        values[i] = intc_rt_exponent(session->arena, tensor->exponent_offset);
        return true;
    case INTC_EXPONENT_MAPPED:
        values[i] = INTC_EXPONENT_ZERO;
        if (mapped_shift(session, tensor, row->bits, &shift))
            values[i] = intc_exponent_clamp((int64_t)intc_rt_exponent(session->arena, tensor->exponent_offset) + shift);
        return true;
    case INTC_EXPONENT_LEAST:
        values[i] = INT16_MAX;
        cursor = intc_rt_cursor(tensor);
        elements = intc_rt_tensor_elements(tensor);
        for (int64_t k = 0; k < elements; k++, intc_rt_cursor_next(&cursor)) {
            int64_t x = intc_rt_cursor_get(&cursor, session->arena);
            values[i] = x < values[i] ? x : values[i];
        }
        return true;
    case INTC_EXPONENT_ADD:
        values[i] = intc_exponent_clamp(a + b + row->constant);
        return true;
    case INTC_EXPONENT_SUB:
        values[i] = intc_exponent_clamp(a - b + row->constant);
        return true;
    case INTC_EXPONENT_MAX:
        values[i] = a > b ? a : b;
        return true;
    case INTC_EXPONENT_MIN:
        values[i] = a < b ? a : b;
        return true;
    case INTC_EXPONENT_HALF:
        values[i] = (a - (a & 1)) / 2;
        return true;
    default:
        return false;
    }
}

static void write_little(unsigned char *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

static void patch_float(const Session *session, const struct intc_tensor *tensor, int bytes, unsigned char *at) {
    int places = bytes == 2 ? 10 : bytes == 4 ? 23 : 52, width = bytes == 2 ? 5 : bytes == 4 ? 8 : 11;
    int64_t elements = intc_rt_tensor_elements(tensor);
    Cursor from = intc_rt_cursor(tensor);
    for (int64_t i = 0; i < elements; i++, intc_rt_cursor_next(&from)) {
        Fixed x = intc_rt_tensor_number(session->arena, tensor, from.place);
        write_little(at + i * bytes, intc_rt_pack_float(x.mantissa, x.exponent, places, width), bytes);
    }
}

static void patch_int8(const Session *session, const struct intc_tensor *tensor, int bits, unsigned char *at) {
    int shift;
    mapped_shift(session, tensor, bits, &shift);
    int64_t elements = intc_rt_tensor_elements(tensor);
    Cursor from = intc_rt_cursor(tensor);
    for (int64_t i = 0; i < elements; i++, intc_rt_cursor_next(&from))
        at[i] = (unsigned char)intc_round_even(intc_rt_cursor_get(&from, session->arena), shift);
}

/* value * 2^-shift as int32, nearest, saturated. */
static int64_t to_int32(int64_t value, int64_t shift) {
    if (shift < -32 && value != 0)
        return value < 0 ? INT32_MIN : INT32_MAX;
    return value == 0 ? 0 : intc_saturate(intc_align(value, shift > 63 ? 63 : (int)shift), INT32_MIN, INT32_MAX);
}

static void patch_int32(const Session *session, const struct intc_tensor *tensor, const int64_t *target, unsigned char *at) {
    int64_t shift = target ? *target - intc_rt_exponent(session->arena, tensor->exponent_offset) : 0;
    int64_t elements = intc_rt_tensor_elements(tensor);
    Cursor from = intc_rt_cursor(tensor);
    for (int64_t i = 0; i < elements; i++, intc_rt_cursor_next(&from))
        write_little(at + 4 * i, (uint64_t)to_int32(intc_rt_cursor_get(&from, session->arena), shift), 4);
}

static int64_t patch_size(const struct intc_patch *patch, const struct intc_tensor *tensor) {
    static const int bytes[] = {
        [INTC_PATCH_F32] = 4, [INTC_PATCH_F16] = 2, [INTC_PATCH_F64] = 8, [INTC_PATCH_I8] = 1, [INTC_PATCH_I32] = 4};
    if (patch->kind >= INTC_PATCH_SCALE_F32 && patch->kind <= INTC_PATCH_NUMBER_F64)
        return patch->exponent < 0 ? -1 : patch->kind == INTC_PATCH_SCALE_F32 ? 4 : 8;
    return tensor && patch->kind >= 0 && patch->kind <= INTC_PATCH_I32 ? intc_rt_tensor_elements(tensor) * bytes[patch->kind] : -1;
}

static void fill_patch(const Session *session, const struct intc_patch *patch, const int64_t *exponents, unsigned char *at) {
    const struct intc_tensor *tensor = tensor_at(session, patch->tensor);
    const int64_t *exponent = patch->exponent >= 0 ? exponents + patch->exponent : NULL;
    if (patch->kind == INTC_PATCH_SCALE_F32)
        write_little(at, intc_rt_pack_float(1, (int)intc_saturate(*exponent, -126, 127), 23, 8), 4);
    else if (patch->kind == INTC_PATCH_SCALE_F64)
        write_little(at, intc_rt_pack_float(1, (int)intc_saturate(*exponent, -900, 900), 52, 11), 8);
    else if (patch->kind == INTC_PATCH_NUMBER_F64)
        write_little(at, intc_rt_pack_float(*exponent, 0, 52, 11), 8);
    else if (patch->kind == INTC_PATCH_I8)
        patch_int8(session, tensor, patch->bits, at);
    else if (patch->kind == INTC_PATCH_I32)
        patch_int32(session, tensor, exponent, at);
    else
        patch_float(session, tensor, patch->kind == INTC_PATCH_F16 ? 2 : patch->kind == INTC_PATCH_F32 ? 4 : 8, at);
}

/* --- records --- */

typedef struct {
    const struct intc_model *model;
    const struct intc_exponent *exponents;
    const struct intc_patch *patches;
    const struct intc_condition *conditions;
    const unsigned char *bytes, *start;
    unsigned char *memory; /* NULL: the record is used where it lies */
} Record;

/* Whether the patches fit the tensors and the model, in ascending order; `most` becomes the largest one's size. */
static bool patches_fit(const Session *session, const Record *record, int64_t *most) {
    const struct intc_model *model = record->model;
    int64_t at = 0, patched = 0;
    *most = 0;
    for (int64_t i = 0; i < model->patch_count; i++) {
        const struct intc_patch *patch = &record->patches[i];
        if (patch_size(patch, tensor_at(session, patch->tensor)) != patch->size || patch->exponent >= model->exponent_count ||
            patch->offset < at || patch->offset > model->size || patch->size > model->size - patch->offset)
            return false;
        at = patch->offset + patch->size;
        patched += patch->size;
        *most = patch->size > *most ? patch->size : *most;
    }
    return record->bytes + (model->size - patched) <= record->start + model->unpacked_size;
}

static bool record_open(Record *record, const struct intc_model *model, Error *error) {
    *record = (Record){.model = model, .start = model->record};
    if (model->record_size != model->unpacked_size) {
        record->start = record->memory = malloc((size_t)model->unpacked_size);
        if (!record->memory)
            return intc_rt_fail(error, "out of memory");
        if (!intc_rt_unpack(model->record, model->record_size, record->memory, model->unpacked_size, error))
            return false;
    }
    record->exponents = (const void *)record->start;
    record->patches = (const void *)(record->exponents + model->exponent_count);
    record->conditions = (const void *)(record->patches + model->patch_count);
    record->bytes = (const unsigned char *)(record->conditions + model->condition_count);
    return true;
}

/* --- models --- */

typedef enum { MODEL_WRITTEN, MODEL_CONDITION, MODEL_FAILED } ModelStatus;

/* What lies between the patches, and each patch as it comes. */
static void write_parts(const Session *session, const Record *record, const int64_t *exponents, unsigned char *buffer, Output *output) {
    const unsigned char *from = record->bytes;
    int64_t at = 0;
    for (int64_t i = 0; i <= record->model->patch_count; i++) {
        const struct intc_patch *patch = i < record->model->patch_count ? &record->patches[i] : NULL;
        int64_t gap = (patch ? patch->offset : record->model->size) - at;
        intc_rt_output_write(output, from, (size_t)gap);
        from += gap;
        if (patch) {
            fill_patch(session, patch, exponents, buffer);
            intc_rt_output_write(output, buffer, (size_t)patch->size);
            at = patch->offset + patch->size;
        }
    }
}

static bool write_model(const Session *session, const Record *record, const int64_t *exponents, const char *path, Error *error) {
    int64_t most;
    if (!patches_fit(session, record, &most))
        return intc_rt_fail(error, "%s: internal error: the places of the %s model do not fit", path, record->model->format);
    unsigned char *buffer = malloc((size_t)most + 1);
    if (!buffer)
        return intc_rt_fail(error, "out of memory");
    Output output;
    bool good = intc_rt_output_open(&output, path, error);
    if (good) {
        write_parts(session, record, exponents, buffer, &output);
        good = intc_rt_output_close(&output, true, error);
    }
    free(buffer);
    return good;
}

static ModelStatus write_record(const Session *session, const Record *record, int64_t *exponents, const char *path, Error *error) {
    const struct intc_model *model = record->model;
    for (int64_t i = 0; i < model->exponent_count; i++)
        if (!compute_exponent(session, record->exponents + i, i, exponents)) {
            intc_rt_fail(error, "%s: internal error: exponent %lld of the %s model", path, (long long)i, model->format);
            return MODEL_FAILED;
        }
    for (int64_t i = 0; i < model->condition_count; i++) {
        const struct intc_condition *condition = record->conditions + i;
        int64_t value = exponents[condition->exponent];
        if (value < condition->low || value > condition->high) {
            intc_rt_fail(error, "--format %s: %s", model->format, (const char *)record->start + condition->text);
            return MODEL_CONDITION;
        }
    }
    return write_model(session, record, exponents, path, error) ? MODEL_WRITTEN : MODEL_FAILED;
}

static ModelStatus try_model(const Session *session, const struct intc_model *model, const char *path, Error *error) {
    ModelStatus status = MODEL_FAILED;
    int64_t *exponents = calloc((size_t)model->exponent_count + 1, sizeof *exponents);
    Record record = {0};
    if (!exponents)
        intc_rt_fail(error, "out of memory");
    else if (record_open(&record, model, error))
        status = write_record(session, &record, exponents, path, error);
    free(record.memory);
    free(exponents);
    return status;
}

bool intc_rt_export(const Session *session, const char *format, const char *path, Error *error) {
    const struct intc_module *module = session->module;
    if (!intc_rt_model_find(module, format, error))
        return false;
    ModelStatus status = MODEL_CONDITION;
    for (uint32_t i = 0; i < module->model_count && status == MODEL_CONDITION; i++)
        if (strcmp(module->models[i].format, format) == 0 && !module->models[i].refusal)
            status = try_model(session, module->models + i, path, error);
    return status == MODEL_WRITTEN;
}
