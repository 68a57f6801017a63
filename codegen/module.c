/* The descriptor that the runtime reads: struct intc_module of runtime/abi.h as LLVM constants. Before: the entry functions are emitted.
 * After: the module exports the symbol intc_module and nothing else. */
#include "codegen/emit.h"
#include "runtime/fixed.h"

#include <stdlib.h>
#include <string.h>

enum { MODULE_GRAPHS = 3 };

/* One row of the tensor table; the value is of the first graph that has it. */
typedef struct {
    const Value *value;
    const char *name;
    int kind, scope;
    int64_t exponent; /* place of a constant exponent; -1: the value's own */
    int64_t calibrated;
    int64_t classes, ignored;
} Row;

typedef struct {
    Row *rows;
    int count, room;
} Table;

static LLVMValueRef global_text(Codegen *cg, const char *text) {
    return text == NULL ? LLVMConstPointerNull(cg->ptr) : const_text(cg, text);
}

static LLVMValueRef structure(Codegen *cg, LLVMValueRef *fields, int count) {
    return LLVMConstStructInContext(cg->context, fields, (unsigned)count, false);
}

#define STRUCTURE(cg, ...) structure(cg, (LLVMValueRef[]){__VA_ARGS__}, (int)(sizeof((LLVMValueRef[]){__VA_ARGS__}) / sizeof(LLVMValueRef)))

/* A private array of equal structures. */
static LLVMValueRef global_array(Codegen *cg, LLVMValueRef *items, int64_t count) {
    if (count == 0)
        return LLVMConstPointerNull(cg->ptr);
    LLVMValueRef init = LLVMConstArray2(LLVMTypeOf(items[0]), items, (uint64_t)count);
    LLVMValueRef global = LLVMAddGlobal(cg->module, LLVMTypeOf(init), "");
    LLVMSetInitializer(global, init);
    LLVMSetGlobalConstant(global, true);
    LLVMSetLinkage(global, LLVMPrivateLinkage);
    return global;
}

static unsigned char *zeroed(int64_t size) {
    unsigned char *memory = calloc((size_t)size + 1, 1);
    if (memory == NULL)
        internal_error("out of memory");
    return memory;
}

static LLVMValueRef *new_items(Codegen *cg, int64_t count) {
    return arena_alloc(cg->memory, (size_t)count + 1, sizeof(LLVMValueRef));
}

/* --- tensor table --- */

static const char *tensor_name(const Value *value) {
    return value->onnx_name != NULL ? value->onnx_name : value->name;
}

/* Returns the row. */
static Row *table_add(Table *table, const Value *value, const char *name, int kind, int scope) {
    if (value->offset < 0)
        return NULL;
    for (int i = 0; i < table->count; i++) {
        Row *row = &table->rows[i];
        if (row->kind == kind && strcmp(row->name, name) == 0 && row->value->offset == value->offset) {
            row->scope |= scope;
            return row;
        }
    }
    if (table->count == table->room)
        internal_error("codegen: tensor table overflows");
    Row *row = &table->rows[table->count++];
    *row = (Row){.value = value, .name = name, .kind = kind, .scope = scope, .exponent = -1, .calibrated = -1, .ignored = INT32_MIN};
    return row;
}

/* Whether a prediction of the graph depends on the value: a data input, not a target. */
static bool predicts(const Graph *graph, const char *name) {
    const bool *reached = graph_reaching(graph, ROLE_PREDICTION);
    for (int i = 0; i < graph->value_count; i++)
        if (reached[i] && graph->values[i]->kind == VALUE_INPUT && strcmp(graph->values[i]->name, name) == 0)
            return true;
    return false;
}

static int input_kind(const Codegen *cg, const Value *value) {
    const Graph *infer = cg->source->infer;
    bool data = infer != NULL ? predicts(infer, value->name) : !value->integer;
    return data ? INTC_INPUT : INTC_TARGET;
}

static void add_output(const Codegen *cg, Table *table, const Output *output, int kind, int scope) {
    Row *row = table_add(table, output->value, output->name, kind, scope);
    if (row != NULL && output->value->exponent_kind == EXPONENT_CONST)
        row->exponent = output_exponent_place(cg, output);
}

static void table_collect(const Codegen *cg, Table *table, const Graph *graph, int scope) {
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        if (value->kind == VALUE_INPUT)
            table_add(table, value, tensor_name(value), input_kind(cg, value), scope);
        else if (value->kind == VALUE_PARAM)
            table_add(table, value, tensor_name(value), INTC_PARAM, scope);
        else if (value->kind == VALUE_STATE && !value->integer)
            table_add(table, value, value->name, INTC_STATE, scope);
        else if (value->kind == VALUE_HYPER)
            table_add(table, value, value->name, INTC_HYPER, scope);
    }
    for (int i = 0; i < graph->output_count; i++) {
        const Output *output = &graph->outputs[i];
        int kind = output->role == ROLE_PREDICTION ? INTC_PREDICTION : output->role == ROLE_LOSS ? INTC_LOSS : INTC_METRIC;
        if (kind != INTC_PREDICTION || scope == INTC_IN_INFER)
            add_output(cg, table, output, kind, scope);
    }
}

/* Whether a node's labels are those of the input, possibly reshaped. */
static bool reads_labels(const Node *node, const Value *target) {
    if (node->in_count < 2 || !node->in[1]->integer)
        return false;
    const Value *labels = node->in[1];
    while (labels->def != NULL && labels->def->op == OP_reshape)
        labels = labels->def->in[0];
    return labels->kind == VALUE_INPUT && strcmp(labels->name, target->name) == 0;
}

/* Classes of an integer target or input: the length of the axis that its labels or indices index; 0 if nothing of the graph tells. */
static int64_t target_classes(const Value *target, const Graph *graph) {
    for (int i = 0; graph != NULL && i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        if (!reads_labels(node, target))
            continue;
        if (node->op == OP_cross_entropy || node->op == OP_pick || node->op == OP_count_correct || node->op == OP_cross_entropy_grad)
            return node->in[0]->shape.dim[attr_int(node, "axis", 1)];
        if (node->op == OP_gather)
            return node->in[0]->shape.dim[attr_int(node, "axis", 0)];
        if (node->op == OP_pick_grad)
            return node->out[0]->shape.dim[attr_int(node, "axis", 1)];
    }
    return 0;
}

/* The label that the loss of an integer target leaves out; INT32_MIN: none. */
static int64_t target_ignored(const Value *target, const Graph *graph) {
    for (int i = 0; graph != NULL && i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        if ((node->op == OP_cross_entropy || node->op == OP_pick) && reads_labels(node, target))
            return attr_int(node, "ignore_index", INT32_MIN);
    }
    return INT32_MIN;
}

static void table_complete(const Codegen *cg, Table *table) {
    const ModuleSource *source = cg->source;
    for (int i = 0; i < table->count; i++) {
        Row *row = &table->rows[i];
        for (int k = 0; row->kind == INTC_INPUT && (row->scope & INTC_IN_INFER) && k < source->slot_count; k++)
            if (source->slots[k].value->kind == VALUE_INPUT && strcmp(source->slots[k].value->name, row->value->name) == 0)
                row->calibrated = source->slots[k].slot->offset;
        if ((row->kind == INTC_TARGET || row->kind == INTC_INPUT) && row->value->integer) {
            row->classes = target_classes(row->value, source->step);
            if (row->classes == 0)
                row->classes = target_classes(row->value, source->infer);
            row->ignored = target_ignored(row->value, source->step);
        }
    }
}

/* Bits of a symmetric bound 2^(b-1) - 1, or of the saturating 2^(b-1). */
static int bits_of_bound(int64_t bound) {
    bool power = bound > 0 && (bound & (bound - 1)) == 0;
    return intc_bit_length((uint64_t)bound) + (power ? 0 : 1);
}

static int type_code(Type type) {
    return type == T_I8 ? INTC_I8 : type == T_I16 ? INTC_I16 : type == T_I32 ? INTC_I32 : type == T_I64 ? INTC_I64 : INTC_F32;
}

static LLVMValueRef const8(const Codegen *cg, int64_t x) {
    return LLVMConstInt(cg->i8, (unsigned long long)x, true);
}

static LLVMValueRef numbers(Codegen *cg, const int64_t *data, int count) {
    return count == 0 ? LLVMConstPointerNull(cg->ptr) : const_table(cg, cg->i64, data, count);
}

static LLVMValueRef tensor_constant(Codegen *cg, const Row *row) {
    const Value *value = row->value;
    int64_t strides[MAX_RANK];
    value_strides(value, strides);
    int bits = value->integer || value->type == T_REAL ? type_bytes(value->type) * 8 : bits_of_bound(value->bound);
    int64_t exponent = value->integer ? -1 : row->exponent >= 0 ? row->exponent : value->exponent_offset;
    return STRUCTURE(cg, global_text(cg, row->name), const8(cg, row->kind), const8(cg, row->scope), const8(cg, type_code(value->type)),
                     const8(cg, value->shape.rank), const8(cg, value->integer), const8(cg, bits),
                     numbers(cg, value->shape.dim, value->shape.rank), numbers(cg, strides, value->shape.rank), const64(cg, value->offset),
                     const64(cg, exponent), const64(cg, row->calibrated), const64(cg, row->classes), const64(cg, row->ignored));
}

static int table_find(const Table *table, const char *name) {
    for (int i = 0; name != NULL && i < table->count; i++)
        if ((table->rows[i].kind == INTC_PARAM || table->rows[i].kind == INTC_STATE) &&
            (strcmp(table->rows[i].value->name, name) == 0 || strcmp(table->rows[i].name, name) == 0))
            return i;
    return -1;
}

/* --- images --- */

enum { BLOCK = 64 }; /* what holds zeros alone is left out */

/* The end of the blocks from `at` on that are all zeros, or all not. */
static int64_t stretch(const unsigned char *bytes, int64_t at, int64_t size, bool zeros) {
    static const unsigned char none[BLOCK];
    for (; at < size; at += BLOCK)
        if ((memcmp(bytes + at, none, (size_t)(size - at < BLOCK ? size - at : BLOCK)) == 0) != zeros)
            return at;
    return size;
}

/* struct intc_image; overwrites `bytes`. */
static LLVMValueRef image_constant(Codegen *cg, unsigned char *bytes, int64_t size) {
    LLVMValueRef *runs = new_items(cg, size / BLOCK + 1);
    int64_t count = 0, kept = 0;
    for (int64_t at = stretch(bytes, 0, size, true), end; at < size; at = stretch(bytes, end, size, true)) {
        end = stretch(bytes, at, size, false);
        runs[count++] = STRUCTURE(cg, const64(cg, at), const64(cg, end - at));
        memmove(bytes + kept, bytes + at, (size_t)(end - at));
        kept += end - at;
    }
    LLVMValueRef rest = kept > 0 ? const_bytes(cg, bytes, kept) : LLVMConstPointerNull(cg->ptr);
    return STRUCTURE(cg, global_array(cg, runs, count), const64(cg, count), rest);
}

/* --- models --- */

static int64_t slot_offset(const Codegen *cg, const char *name) {
    const Graph *graph = cg->source->infer;
    for (int i = 0; name != NULL && graph != NULL && i < graph->value_count; i++)
        if (graph->values[i]->kind == VALUE_STATE && strcmp(graph->values[i]->name, name) == 0)
            return graph->values[i]->offset;
    return -1;
}

static struct intc_exponent *model_exponents(const Codegen *cg, const Table *table, const ModelTemplate *model) {
    struct intc_exponent *rows = arena_alloc(cg->memory, (size_t)model->exponent_count + 1, sizeof *rows);
    for (int i = 0; i < model->exponent_count; i++) {
        const TemplateExponent *e = &model->exponents[i];
        rows[i] = (struct intc_exponent){.kind = e->kind,
                                         .a = e->a,
                                         .b = e->b,
                                         .constant = e->constant,
                                         .tensor = table_find(table, e->param),
                                         .bits = e->bits,
                                         .offset = slot_offset(cg, e->slot)};
    }
    return rows;
}

static struct intc_patch *model_patches(const Codegen *cg, const Table *table, const ModelTemplate *model) {
    struct intc_patch *rows = arena_alloc(cg->memory, (size_t)model->patch_count + 1, sizeof *rows);
    for (int i = 0; i < model->patch_count; i++) {
        const TemplatePatch *p = &model->patches[i];
        rows[i] = (struct intc_patch){.offset = p->offset,
                                      .size = p->size,
                                      .kind = p->kind,
                                      .tensor = table_find(table, p->param),
                                      .bits = p->bits,
                                      .exponent = p->exponent};
    }
    return rows;
}

static LLVMValueRef model_constant(Codegen *cg, const Table *table, const ModelTemplate *model) {
    Record record = record_new(cg, model, model_exponents(cg, table, model), model_patches(cg, table, model));
    LLVMValueRef bytes = const_bytes(cg, record.bytes, record.size);
    if (record.size > 0)
        LLVMSetAlignment(bytes, sizeof(int64_t));
    return STRUCTURE(cg, global_text(cg, model->format), global_text(cg, model->refusal), const64(cg, model->size),
                     const64(cg, model->exponent_count), const64(cg, model->patch_count), const64(cg, model->condition_count), bytes,
                     const64(cg, record.size), const64(cg, record.unpacked));
}

/* --- initial contents --- */

static void put(unsigned char *at, int64_t x, int bytes) {
    for (int i = 0; i < bytes; i++)
        at[i] = (unsigned char)((uint64_t)x >> (8 * i));
}

static int64_t float_bits(double x) {
    float single = (float)x;
    int32_t bits;
    memcpy(&bits, &single, sizeof bits);
    return bits;
}

/* Mantissas or floats of a value in its physical order. */
static void put_contents(unsigned char *memory, const Value *value) {
    bool real = value->type == T_REAL;
    if (real ? value->real == NULL : value->mantissa == NULL)
        return;
    int64_t stride[MAX_RANK], index[MAX_RANK] = {0}, n = shape_elements(value->shape);
    int bytes = type_bytes(value->type), last = value->shape.rank - 1;
    value_strides(value, stride);
    int64_t row = last < 0 ? 1 : value->shape.dim[last], step = last < 0 ? 0 : stride[last] * bytes;
    for (int64_t i = 0; i < n; i += row) {
        unsigned char *at = memory;
        for (int d = 0; d < last; d++)
            at += index[d] * stride[d] * bytes;
        for (int64_t k = 0; k < row; k++)
            put(at + k * step, real ? float_bits(value->real[i + k]) : value->mantissa[i + k], bytes);
        for (int d = last - 1; d >= 0 && ++index[d] == value->shape.dim[d]; d--)
            index[d] = 0;
    }
}

/* The first `size` bytes of the arena at start: values of the kinds that live there. */
static LLVMValueRef initial_image(Codegen *cg, int64_t size) {
    unsigned char *memory = zeroed(size);
    const Graph *graphs[MODULE_GRAPHS] = {cg->source->step, cg->source->calibrate, cg->source->infer};
    for (int g = 0; g < MODULE_GRAPHS; g++)
        for (int i = 0; graphs[g] != NULL && i < graphs[g]->value_count; i++) {
            const Value *value = graphs[g]->values[i];
            bool kept = value->kind == VALUE_PARAM || value->kind == VALUE_STATE || value->kind == VALUE_CONST;
            if (!kept || value->offset < 0 || value->offset + value_bytes(value) > size)
                continue;
            put_contents(memory + value->offset, value);
            bool zero = value->mantissa == NULL && value->exponent_kind == EXPONENT_DYNAMIC;
            if (value->exponent_offset >= 0 && value->exponent_offset + 4 <= size)
                put(memory + value->exponent_offset, zero ? INTC_EXPONENT_ZERO : value->exponent, 4);
        }
    LLVMValueRef image = image_constant(cg, memory, size);
    free(memory);
    return image;
}

/* --- the descriptor --- */

static LLVMValueRef calibrations(Codegen *cg, int *count) {
    const ModuleSource *source = cg->source;
    LLVMValueRef *items = new_items(cg, source->slot_count);
    *count = 0;
    for (int i = 0; i < source->slot_count; i++) {
        const CalibrationSlot *slot = &source->slots[i];
        if (slot->value->exponent_offset >= 0 && slot->slot->offset >= 0)
            items[(*count)++] = STRUCTURE(cg, const64(cg, slot->value->exponent_offset), const64(cg, slot->slot->offset),
                                          const32(cg, bits_of_bound(slot->value->bound)));
    }
    return global_array(cg, items, *count);
}

static Table tensor_table(Codegen *cg) {
    const ModuleSource *source = cg->source;
    Table table = {0};
    const Graph *graphs[2] = {source->step, source->infer};
    for (int g = 0; g < 2; g++)
        if (graphs[g] != NULL)
            table.room += graphs[g]->value_count + graphs[g]->output_count;
    table.rows = arena_alloc(cg->memory, (size_t)table.room + 1, sizeof *table.rows);
    table_collect(cg, &table, source->step, INTC_IN_STEP);
    if (source->infer != NULL)
        table_collect(cg, &table, source->infer, INTC_IN_INFER);
    table_complete(cg, &table);
    return table;
}

static int64_t batch_of(const Table *table) {
    for (int i = 0; i < table->count; i++)
        if (table->rows[i].kind == INTC_INPUT && table->rows[i].value->shape.rank > 0)
            return table->rows[i].value->shape.dim[0];
    return 1;
}

void emit_descriptor(Codegen *cg, LLVMValueRef step, LLVMValueRef calibrate, LLVMValueRef infer) {
    const ModuleSource *source = cg->source;
    Table table = tensor_table(cg);
    LLVMValueRef *rows = new_items(cg, table.count), *models = new_items(cg, source->model_count);
    for (int i = 0; i < table.count; i++)
        rows[i] = tensor_constant(cg, &table.rows[i]);
    for (int i = 0; i < source->model_count; i++)
        models[i] = model_constant(cg, &table, &source->models[i]);
    int calibration_count;
    LLVMValueRef slots = calibrations(cg, &calibration_count), null = LLVMConstPointerNull(cg->ptr);
    int64_t size = scratch_base(cg) + cg->scratch_size;
    LLVMValueRef init = STRUCTURE(
        cg, const32(cg, INTC_ABI_VERSION), const32(cg, table.count), const32(cg, calibration_count), const32(cg, source->model_count),
        const32(cg, cg->matrix_registers), global_text(cg, source->name != NULL ? source->name : ""),
        global_text(cg, source->options != NULL ? source->options : ""), global_text(cg, source->loss != NULL ? source->loss : ""),
        global_array(cg, rows, table.count), slots, global_array(cg, models, source->model_count), const64(cg, batch_of(&table)),
        const64(cg, size), const64(cg, source->state_size), const64(cg, source->random_offset), const64(cg, source->constants_size),
        initial_image(cg, source->state_size + source->constants_size), cg->calls.address, const64(cg, cg->calls.count), step,
        calibrate != NULL ? calibrate : null, infer != NULL ? infer : null);
    LLVMValueRef global = LLVMAddGlobal(cg->module, LLVMTypeOf(init), "intc_module");
    LLVMSetInitializer(global, init);
    LLVMSetGlobalConstant(global, true);
}
