/* An ONNX model under construction: nodes, initializers, the exponents and conditions of its template. Before: an Exporter of zeros with
 * arena and graph. After ex_finish: a ModelTemplate; names depend on nothing but the order of calls. */
#include "frontend/export.h"

#include <stdarg.h>
#include <string.h>

enum { EXPORT_OPSET = 13, EXPORT_IR_VERSION = 8, SHARED_SIZE = 64 };
#define DOMAIN_MICROSOFT "com.microsoft"

void list_add(Arena *arena, PointerList *list, void *item) {
    if (list->count == list->room) {
        list->room = list->room == 0 ? 16 : 2 * list->room;
        void **grown = arena_alloc(arena, (size_t)list->room, sizeof *grown);
        if (list->count > 0)
            memcpy(grown, list->at, (size_t)list->count * sizeof *grown);
        list->at = grown;
    }
    list->at[list->count++] = item;
}

/* protobuf-c's strings are not const; nothing writes to them. */
static char *text(const Exporter *x, const char *string) {
    return arena_strdup(x->arena, string);
}

const char *ex_label(const Exporter *x, const Node *node) {
    const char *type = node->origin.op_type != NULL ? node->origin.op_type : op_info(node->op)->name;
    return node->origin.name != NULL ? arena_printf(x->arena, "%s '%s'", type, node->origin.name) : type;
}

const char *ex_refuse(Exporter *x, const Node *node, const char *format, ...) {
    if (x->refusal == NULL) {
        char sentence[512];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(sentence, sizeof sentence, format, arguments);
        va_end(arguments);
        x->refusal = node == NULL ? arena_strdup(x->arena, sentence) : arena_printf(x->arena, "%s: %s", ex_label(x, node), sentence);
    }
    return "refused";
}

/* --- nodes --- */

/* Names of the model's own inputs and outputs are taken. */
static bool taken(const Exporter *x, const char *name) {
    for (int i = 0; i < x->graph->value_count; i++) {
        const Value *value = x->graph->values[i];
        if (value->kind == VALUE_INPUT && (strcmp(value->name, name) == 0 || (value->onnx_name && strcmp(value->onnx_name, name) == 0)))
            return true;
    }
    for (int i = 0; i < x->graph->output_count; i++)
        if (strcmp(x->graph->outputs[i].name, name) == 0)
            return true;
    return false;
}

static char *new_name(Exporter *x, const char *hint) {
    char *name;
    do
        name = arena_printf(x->arena, "%s_%d", hint, x->names++);
    while (taken(x, name));
    return name;
}

Onnx__NodeProto *ex_node(Exporter *x, const char *type, const char *const *in, int in_count) {
    Onnx__NodeProto *node = arena_alloc(x->arena, 1, sizeof *node);
    onnx__node_proto__init(node);
    node->op_type = text(x, type);
    if (strcmp(type, "QGemm") == 0)
        node->domain = text(x, DOMAIN_MICROSOFT);
    node->n_input = (size_t)in_count;
    node->input = arena_alloc(x->arena, (size_t)in_count, sizeof *node->input);
    for (int i = 0; i < in_count; i++)
        node->input[i] = text(x, in[i]);
    node->n_output = 1;
    node->output = arena_alloc(x->arena, 1, sizeof *node->output);
    node->name = node->output[0] = new_name(x, type);
    list_add(x->arena, &x->nodes, node);
    return node;
}

const char *ex_output(const Onnx__NodeProto *node) {
    return node->output[0];
}

const char *ex_emit(Exporter *x, const char *type, const char *const *in, int in_count) {
    return ex_output(ex_node(x, type, in, in_count));
}

static Onnx__AttributeProto *attribute(Exporter *x, Onnx__NodeProto *node, const char *name, Onnx__AttributeProto__AttributeType type) {
    Onnx__AttributeProto *attr = arena_alloc(x->arena, 1, sizeof *attr);
    onnx__attribute_proto__init(attr);
    attr->name = text(x, name);
    attr->has_type = 1;
    attr->type = type;
    Onnx__AttributeProto **grown = arena_alloc(x->arena, node->n_attribute + 1, sizeof(Onnx__AttributeProto *));
    if (node->n_attribute > 0)
        memcpy(grown, node->attribute, node->n_attribute * sizeof *grown);
    grown[node->n_attribute++] = attr;
    node->attribute = grown;
    return attr;
}

void ex_attr_int(Exporter *x, Onnx__NodeProto *node, const char *name, int64_t value) {
    Onnx__AttributeProto *attr = attribute(x, node, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    attr->has_i = 1;
    attr->i = value;
}

void ex_attr_ints(Exporter *x, Onnx__NodeProto *node, const char *name, int count, const int64_t *values) {
    Onnx__AttributeProto *attr = attribute(x, node, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS);
    attr->n_ints = (size_t)count;
    attr->ints = arena_alloc(x->arena, (size_t)count, sizeof *attr->ints);
    memcpy(attr->ints, values, (size_t)count * sizeof *values);
}

const char *ex_cast(Exporter *x, const char *in, int type) {
    Onnx__NodeProto *node = ex_node(x, "Cast", EX_NAMES(in));
    ex_attr_int(x, node, "to", type);
    return ex_output(node);
}

/* --- initializers --- */

static Onnx__TensorProto *new_tensor(Exporter *x, const char *hint, int type, Shape shape, size_t size) {
    Onnx__TensorProto *tensor = arena_alloc(x->arena, 1, sizeof *tensor);
    onnx__tensor_proto__init(tensor);
    tensor->name = new_name(x, hint);
    tensor->has_data_type = 1;
    tensor->data_type = type;
    tensor->n_dims = (size_t)shape.rank;
    tensor->dims = arena_alloc(x->arena, (size_t)shape.rank, sizeof *tensor->dims);
    memcpy(tensor->dims, shape.dim, (size_t)shape.rank * sizeof *shape.dim);
    tensor->has_raw_data = 1;
    tensor->raw_data = (ProtobufCBinaryData){.len = size, .data = arena_alloc(x->arena, size, 1)};
    list_add(x->arena, &x->initializers, tensor);
    return tensor;
}

static bool patched(const Exporter *x, int initializer) {
    for (int i = 0; i < x->patches.count; i++)
        if (((const ExportPatch *)x->patches.at[i])->initializer == initializer)
            return true;
    return false;
}

static bool equal_tensor(const Onnx__TensorProto *tensor, int type, Shape shape, const void *bytes, size_t size) {
    return tensor->data_type == type && tensor->n_dims == (size_t)shape.rank && tensor->raw_data.len == size &&
           (shape.rank == 0 || memcmp(tensor->dims, shape.dim, (size_t)shape.rank * sizeof *shape.dim) == 0) &&
           (size == 0 || memcmp(tensor->raw_data.data, bytes, size) == 0);
}

const char *ex_tensor(Exporter *x, int type, Shape shape, const void *bytes, size_t size) {
    for (int i = 0; i < x->initializers.count && size <= SHARED_SIZE; i++) {
        const Onnx__TensorProto *tensor = x->initializers.at[i];
        if (equal_tensor(tensor, type, shape, bytes, size) && !patched(x, i))
            return tensor->name;
    }
    Onnx__TensorProto *tensor = new_tensor(x, "constant", type, shape, size);
    if (size > 0)
        memcpy(tensor->raw_data.data, bytes, size);
    return tensor->name;
}

const char *ex_f64(Exporter *x, double value) {
    return ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE, (Shape){0}, &value, sizeof value);
}

const char *ex_i8(Exporter *x, int value) {
    int8_t byte = (int8_t)value;
    return ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__INT8, (Shape){0}, &byte, 1);
}

const char *ex_i64s(Exporter *x, int count, const int64_t *values) {
    Shape shape = {.rank = 1, .dim = {count}};
    return ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, shape, values, (size_t)count * sizeof *values);
}

/* The initializer that the patch fills; its size is that of `type` times the shape. */
static const char *filled(Exporter *x, const char *hint, int type, size_t element, Shape shape, TemplatePatch patch) {
    for (int i = 0; i < x->patches.count; i++) {
        const ExportPatch *old = x->patches.at[i];
        bool same = old->patch.kind == patch.kind && old->patch.bits == patch.bits && old->patch.exponent == patch.exponent;
        if (same && (old->patch.param == patch.param || (old->patch.param && patch.param && strcmp(old->patch.param, patch.param) == 0)))
            return ((const Onnx__TensorProto *)x->initializers.at[old->initializer])->name;
    }
    patch.size = shape_elements(shape) * (int64_t)element;
    Onnx__TensorProto *tensor = new_tensor(x, hint, type, shape, (size_t)patch.size);
    if (patch.size > 0) {
        ExportPatch *kept = arena_alloc(x->arena, 1, sizeof *kept);
        *kept = (ExportPatch){.initializer = x->initializers.count - 1, .patch = patch};
        list_add(x->arena, &x->patches, kept);
    }
    return tensor->name;
}

const char *ex_scale32(Exporter *x, int exponent) {
    TemplatePatch patch = {.kind = INTC_PATCH_SCALE_F32, .exponent = exponent};
    return filled(x, "scale", ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, 4, (Shape){0}, patch);
}

const char *ex_power(Exporter *x, int a, int b, int constant) {
    int exponent = b < 0 ? ex_sum(x, a, ex_constant(x, 0), constant) : ex_difference(x, a, b, constant);
    TemplatePatch patch = {.kind = INTC_PATCH_SCALE_F64, .exponent = exponent};
    return filled(x, "power", ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE, 8, (Shape){0}, patch);
}

const char *ex_number(Exporter *x, int exponent) {
    TemplatePatch patch = {.kind = INTC_PATCH_NUMBER_F64, .exponent = exponent};
    return filled(x, "exponent", ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE, 8, (Shape){0}, patch);
}

static const char *param_name(const Value *param) {
    return param->onnx_name != NULL ? param->onnx_name : param->name;
}

bool ex_is_kept(const Value *value) {
    return value->kind == VALUE_PARAM || (value->kind == VALUE_STATE && !value->integer);
}

const char *ex_param_i8(Exporter *x, const Value *param, int bits) {
    TemplatePatch patch = {.kind = INTC_PATCH_I8, .param = param->name, .bits = bits, .exponent = -1};
    return filled(x, param_name(param), ONNX__TENSOR_PROTO__DATA_TYPE__INT8, 1, param->shape, patch);
}

const char *ex_param_i32(Exporter *x, const Value *param, int exponent) {
    TemplatePatch patch = {.kind = INTC_PATCH_I32, .param = param->name, .exponent = exponent};
    return filled(x, param_name(param), ONNX__TENSOR_PROTO__DATA_TYPE__INT32, 4, param->shape, patch);
}

/* --- exponents --- */

static bool same_text(const char *a, const char *b) {
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

int ex_exponent(Exporter *x, TemplateExponent wanted) {
    for (int i = 0; i < x->exponents.count; i++) {
        const TemplateExponent *e = x->exponents.at[i];
        if (e->kind == wanted.kind && e->a == wanted.a && e->b == wanted.b && e->constant == wanted.constant && e->bits == wanted.bits &&
            same_text(e->param, wanted.param) && same_text(e->slot, wanted.slot))
            return i;
    }
    TemplateExponent *kept = arena_alloc(x->arena, 1, sizeof *kept);
    *kept = wanted;
    list_add(x->arena, &x->exponents, kept);
    return x->exponents.count - 1;
}

int ex_constant(Exporter *x, int value) {
    return ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_CONST, .constant = value});
}

int ex_sum(Exporter *x, int a, int b, int constant) {
    return ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_ADD, .a = a, .b = b, .constant = constant});
}

int ex_difference(Exporter *x, int a, int b, int constant) {
    return ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_SUB, .a = a, .b = b, .constant = constant});
}

int ex_half(Exporter *x, int a) {
    return ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_HALF, .a = a});
}

int ex_larger(Exporter *x, int a, int b) {
    return a == b ? a : ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_MAX, .a = a, .b = b});
}

int ex_smaller(Exporter *x, int a, int b) {
    return a == b ? a : ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_MIN, .a = a, .b = b});
}

void ex_condition(Exporter *x, int exponent, int low, int high, const char *sentence) {
    TemplateCondition *kept = arena_alloc(x->arena, 1, sizeof *kept);
    *kept = (TemplateCondition){.exponent = exponent, .low = low, .high = high, .text = sentence};
    list_add(x->arena, &x->conditions, kept);
}

/* --- the whole --- */

static Onnx__ValueInfoProto *value_info(const Exporter *x, const char *name, int type_of_element, Shape shape) {
    Onnx__ValueInfoProto *info = arena_alloc(x->arena, 1, sizeof *info);
    Onnx__TypeProto *type = arena_alloc(x->arena, 1, sizeof *type);
    Onnx__TypeProto__Tensor *tensor = arena_alloc(x->arena, 1, sizeof *tensor);
    Onnx__TensorShapeProto *dims = arena_alloc(x->arena, 1, sizeof *dims);
    onnx__value_info_proto__init(info);
    onnx__type_proto__init(type);
    onnx__type_proto__tensor__init(tensor);
    onnx__tensor_shape_proto__init(dims);
    dims->n_dim = (size_t)shape.rank;
    dims->dim = arena_alloc(x->arena, (size_t)shape.rank, sizeof *dims->dim);
    for (int i = 0; i < shape.rank; i++) {
        Onnx__TensorShapeProto__Dimension *dim = dims->dim[i] = arena_alloc(x->arena, 1, sizeof *dim);
        onnx__tensor_shape_proto__dimension__init(dim);
        bool any = i == 0 && x->any_rows;
        dim->value_case = any ? ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM : ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
        if (any)
            dim->dim_param = text(x, "batch");
        else
            dim->dim_value = shape.dim[i];
    }
    tensor->has_elem_type = 1;
    tensor->elem_type = type_of_element;
    tensor->shape = dims;
    type->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    type->tensor_type = tensor;
    info->name = text(x, name);
    info->type = type;
    return info;
}

void ex_input(Exporter *x, const char *name, int type, Shape shape) {
    list_add(x->arena, &x->inputs, value_info(x, name, type, shape));
}

void ex_model_output(Exporter *x, const char *name, Shape shape) {
    list_add(x->arena, &x->outputs, value_info(x, name, ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, shape));
}

static Onnx__OperatorSetIdProto *opset(const Exporter *x, const char *domain, int version) {
    Onnx__OperatorSetIdProto *set = arena_alloc(x->arena, 1, sizeof *set);
    onnx__operator_set_id_proto__init(set);
    set->domain = text(x, domain);
    set->has_version = 1;
    set->version = version;
    return set;
}

static bool pack(Exporter *x, ModelTemplate *model, int64_t *offset) {
    Onnx__GraphProto graph;
    onnx__graph_proto__init(&graph);
    graph.name = text(x, x->graph->name);
    graph.n_node = (size_t)x->nodes.count;
    graph.node = (Onnx__NodeProto **)x->nodes.at;
    graph.n_initializer = (size_t)x->initializers.count;
    graph.initializer = (Onnx__TensorProto **)x->initializers.at;
    graph.n_input = (size_t)x->inputs.count;
    graph.input = (Onnx__ValueInfoProto **)x->inputs.at;
    graph.n_output = (size_t)x->outputs.count;
    graph.output = (Onnx__ValueInfoProto **)x->outputs.at;
    Onnx__OperatorSetIdProto *sets[] = {opset(x, "", EXPORT_OPSET), opset(x, DOMAIN_MICROSOFT, 1)};
    Onnx__ModelProto proto;
    onnx__model_proto__init(&proto);
    proto.has_ir_version = 1;
    proto.ir_version = EXPORT_IR_VERSION;
    proto.producer_name = text(x, "intc");
    proto.n_opset_import = 2;
    proto.opset_import = sets;
    proto.graph = &graph;
    return export_pack(x->arena, &proto, &model->bytes, &model->size, offset);
}

void ex_finish(Exporter *x, const char *format, ModelTemplate *model) {
    int64_t *offset = arena_alloc(x->arena, (size_t)x->initializers.count, sizeof *offset);
    *model = (ModelTemplate){.format = format};
    if (x->refusal == NULL && !pack(x, model, offset))
        ex_refuse(x, NULL, "the exported model would be larger than 2 GiB");
    model->refusal = x->refusal;
    if (x->refusal != NULL)
        return;
    TemplateExponent *exponents = arena_alloc(x->arena, (size_t)x->exponents.count, sizeof *exponents);
    TemplatePatch *patches = arena_alloc(x->arena, (size_t)x->patches.count, sizeof *patches);
    TemplateCondition *conditions = arena_alloc(x->arena, (size_t)x->conditions.count, sizeof *conditions);
    for (int i = 0; i < x->exponents.count; i++)
        exponents[i] = *(const TemplateExponent *)x->exponents.at[i];
    for (int i = 0; i < x->patches.count; i++) {
        const ExportPatch *patch = x->patches.at[i];
        patches[i] = patch->patch;
        patches[i].offset = offset[patch->initializer];
    }
    for (int i = 0; i < x->conditions.count; i++)
        conditions[i] = *(const TemplateCondition *)x->conditions.at[i];
    model->exponents = exponents;
    model->exponent_count = x->exponents.count;
    model->patches = patches;
    model->patch_count = x->patches.count;
    model->conditions = conditions;
    model->condition_count = x->conditions.count;
}
