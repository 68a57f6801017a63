/* The record of an exported model (struct intc_model of runtime/abi.h), deflated where the trainer can inflate it: an exact int8 model of a
 * transformer has more bytes of nodes and names than of weights. */
#include "codegen/emit.h"

#include <string.h>
#include <zlib.h>

enum { LEVEL = 9, MOST = 8 * 1024 * 1024 };

static unsigned char *append(unsigned char *at, const void *data, size_t size) {
    if (size > 0)
        memcpy(at, data, size);
    return at + size;
}

/* Bytes of the model that no patch writes. */
static size_t bytes_kept(const ModelTemplate *model) {
    int64_t size = model->size;
    for (int i = 0; i < model->patch_count; i++)
        size -= model->patches[i].size;
    return (size_t)size;
}

static unsigned char *append_kept(const ModelTemplate *model, unsigned char *to) {
    int64_t from = 0;
    for (int i = 0; i < model->patch_count; i++) {
        const TemplatePatch *patch = &model->patches[i];
        if (patch->offset < from)
            internal_error("codegen: the patches of a model are not in order");
        to = append(to, model->bytes + from, (size_t)(patch->offset - from));
        from = patch->offset + patch->size;
    }
    return append(to, model->bytes + from, (size_t)(model->size - from));
}

/* Packed only if that is smaller. Most of a large record are weights that do not learn: they take long to deflate, and stay as large. */
static Record deflated(const Codegen *cg, const unsigned char *bytes, size_t size) {
    Record whole = {bytes, (int64_t)size, (int64_t)size};
    if (size > MOST || is_foreign(cg->target->triple))
        return whole;
    uLongf packed = compressBound(size);
    unsigned char *room = arena_alloc(cg->memory, packed, 1);
    bool smaller = compress2(room, &packed, bytes, size, LEVEL) == Z_OK && packed < size;
    return smaller ? (Record){room, (int64_t)packed, (int64_t)size} : whole;
}

Record record_new(const Codegen *cg, const ModelTemplate *model, const struct intc_exponent *exponents, const struct intc_patch *patches) {
    if (model->refusal != NULL)
        return (Record){0};
    size_t exponent_bytes = (size_t)model->exponent_count * sizeof *exponents, patch_bytes = (size_t)model->patch_count * sizeof *patches;
    size_t text_at = exponent_bytes + patch_bytes + (size_t)model->condition_count * sizeof(struct intc_condition) + bytes_kept(model);
    size_t size = text_at;
    for (int i = 0; i < model->condition_count; i++)
        size += strlen(model->conditions[i].text) + 1;
    unsigned char *bytes = arena_alloc(cg->memory, size + 1, 1);
    unsigned char *at = append(append(bytes, exponents, exponent_bytes), patches, patch_bytes), *text = bytes + text_at;
    for (int i = 0; i < model->condition_count; i++) {
        const TemplateCondition *c = &model->conditions[i];
        struct intc_condition row = {.exponent = c->exponent, .low = c->low, .high = c->high, .text = (int32_t)(text - bytes)};
        at = append(at, &row, sizeof row);
        text = append(text, c->text, strlen(c->text) + 1);
    }
    if (append_kept(model, at) != bytes + text_at)
        internal_error("codegen: the record of a model is not as long as planned");
    return deflated(cg, bytes, size);
}
