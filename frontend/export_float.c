/* ONNX out, float: the input model with places for the trained weights. Before: the file and its inference graph. After: a template that is
 * the model itself, unknown fields included; initializers that learn are raw data in their own element type, and data of other files is
 * within. */
#include "frontend/export.h"
#include "frontend/frontend.h"
#include "frontend/onnx_file.h"

#include <string.h>

typedef struct {
    const OnnxFile *file;
    const Graph *graph;
    Diag *diag;
    ModelTemplate *model;
    PointerList patches;
} FloatExport;

static const Value *trained(const Graph *graph, const char *name) {
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        const char *known = value->onnx_name != NULL ? value->onnx_name : value->name;
        bool kept = value->kind == VALUE_PARAM || (value->kind == VALUE_STATE && value->onnx_name != NULL);
        if (kept && strcmp(known, name) == 0)
            return value;
    }
    return NULL;
}

static bool is_external(const Onnx__TensorProto *tensor) {
    return tensor->has_data_location && tensor->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
}

static int patch_kind(int type) {
    return type == ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT     ? INTC_PATCH_F32
           : type == ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT16 ? INTC_PATCH_F16
           : type == ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE  ? INTC_PATCH_F64
                                                            : -1;
}

static int64_t element_size(int kind) {
    return kind == INTC_PATCH_F16 ? 2 : kind == INTC_PATCH_F64 ? 8 : 4;
}

static void refuse(FloatExport *e, const char *name, const char *sentence) {
    e->model->refusal = arena_printf(e->graph->arena, "initializer '%s' %s", name, sentence);
}

/* The tensor with raw data alone. */
static Onnx__TensorProto *with_raw_data(const FloatExport *e, const Onnx__TensorProto *tensor, const uint8_t *bytes, size_t size) {
    Onnx__TensorProto *copy = arena_alloc(e->graph->arena, 1, sizeof *copy);
    *copy = *tensor;
    copy->n_float_data = copy->n_int32_data = copy->n_int64_data = copy->n_double_data = copy->n_uint64_data = copy->n_string_data = 0;
    copy->n_external_data = 0;
    copy->has_data_location = 0;
    copy->has_raw_data = 1;
    copy->raw_data = (ProtobufCBinaryData){.len = size, .data = arena_alloc(e->graph->arena, size, 1)};
    if (bytes != NULL && size > 0)
        memcpy(copy->raw_data.data, bytes, size);
    return copy;
}

static Onnx__TensorProto *trained_tensor(FloatExport *e, const Onnx__TensorProto *tensor, const Value *param, int index) {
    int kind = patch_kind(tensor->data_type);
    int64_t elements = 1;
    for (size_t i = 0; i < tensor->n_dims; i++)
        elements *= tensor->dims[i];
    if (kind < 0 || elements != shape_elements(param->shape)) {
        refuse(e, tensor->name, "has an element type or shape that cannot be written");
        return NULL;
    }
    ExportPatch *patch = arena_alloc(e->graph->arena, 1, sizeof *patch);
    *patch = (ExportPatch){.initializer = index,
                           .patch = {.size = elements * element_size(kind), .kind = kind, .param = param->name, .exponent = -1}};
    if (elements > 0)
        list_add(e->graph->arena, &e->patches, patch);
    return with_raw_data(e, tensor, NULL, (size_t)patch->patch.size);
}

static Onnx__TensorProto *plain_tensor(FloatExport *e, Onnx__TensorProto *tensor) {
    if (!is_external(tensor))
        return tensor;
    const uint8_t *bytes;
    size_t size;
    if (!file_read_external(e->file, e->graph->arena, tensor, &bytes, &size, e->diag))
        return NULL;
    return with_raw_data(e, tensor, bytes, size);
}

/* Data of attributes stay where they are; nobody could find them beside another file. */
static bool attributes_are_inside(FloatExport *e, const Onnx__GraphProto *graph) {
    for (size_t i = 0; i < graph->n_node; i++)
        for (size_t k = 0; k < graph->node[i]->n_attribute; k++) {
            const Onnx__AttributeProto *attr = graph->node[i]->attribute[k];
            if (attr->t != NULL && is_external(attr->t)) {
                e->model->refusal = arena_printf(e->graph->arena, "an attribute of node '%s' lies in another file",
                                                 graph->node[i]->name != NULL ? graph->node[i]->name : "");
                return false;
            }
        }
    return true;
}

static bool pack(FloatExport *e, Onnx__TensorProto **tensors) {
    Arena *arena = e->graph->arena;
    Onnx__GraphProto graph = *e->file->model->graph;
    graph.initializer = tensors;
    Onnx__ModelProto proto = *e->file->model;
    proto.graph = &graph;
    int64_t *offset = arena_alloc(arena, graph.n_initializer, sizeof *offset);
    if (!export_pack(arena, &proto, &e->model->bytes, &e->model->size, offset)) {
        e->model->refusal = "the exported model would be larger than 2 GiB";
        return false;
    }
    TemplatePatch *patches = arena_alloc(arena, (size_t)e->patches.count, sizeof *patches);
    for (int i = 0; i < e->patches.count; i++) {
        const ExportPatch *patch = e->patches.at[i];
        patches[i] = patch->patch;
        patches[i].offset = offset[patch->initializer];
    }
    e->model->patches = patches;
    e->model->patch_count = e->patches.count;
    return true;
}

bool onnx_export_float(const OnnxFile *file, const Graph *infer, ModelTemplate *models, int *count, Diag *diag) {
    ModelTemplate *model = &models[(*count)++];
    *model = (ModelTemplate){.format = "float"};
    FloatExport e = {.file = file, .graph = infer, .diag = diag, .model = model};
    const Onnx__GraphProto *graph = file->model->graph;
    Onnx__TensorProto **tensors = arena_alloc(infer->arena, graph->n_initializer, sizeof *tensors);
    if (!attributes_are_inside(&e, graph))
        return true;
    for (size_t i = 0; i < graph->n_initializer; i++) {
        Onnx__TensorProto *tensor = graph->initializer[i];
        const Value *param = tensor->name != NULL ? trained(infer, tensor->name) : NULL;
        tensors[i] = param != NULL ? trained_tensor(&e, tensor, param, (int)i) : plain_tensor(&e, tensor);
        if (tensors[i] == NULL)
            return diag_errors(diag) == 0;
    }
    pack(&e, tensors);
    return true;
}
