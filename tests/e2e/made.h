/* ONNX models under construction, for tests: initializers, nodes, inputs and outputs. Everything lives in the arena. */
#ifndef INTC_TESTS_MADE_H
#define INTC_TESTS_MADE_H

#include "frontend/frontend.h"

#include "onnx/onnx.pb-c.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 16 }; /* nodes, initializers, inputs and outputs each */

typedef struct {
    Arena *arena;
    Onnx__ModelProto model;
    Onnx__GraphProto graph;
    Onnx__OperatorSetIdProto opset, *opsets[1];
    Onnx__NodeProto *nodes[MOST];
    Onnx__TensorProto *initializers[MOST];
    Onnx__ValueInfoProto *inputs[MOST], *outputs[MOST];
} Made;

static inline Made *made_new(int64_t opset) {
    Arena *arena = arena_new();
    Made *made = arena_alloc(arena, 1, sizeof *made);
    made->arena = arena;
    onnx__model_proto__init(&made->model);
    onnx__graph_proto__init(&made->graph);
    onnx__operator_set_id_proto__init(&made->opset);
    made->opset.has_version = 1;
    made->opset.version = opset;
    made->opsets[0] = &made->opset;
    made->model.opset_import = made->opsets;
    made->model.n_opset_import = 1;
    made->model.graph = &made->graph;
    made->graph.node = made->nodes;
    made->graph.initializer = made->initializers;
    made->graph.input = made->inputs;
    made->graph.output = made->outputs;
    return made;
}

/* dims as in "N,3,8": names or numbers. */
static inline Onnx__ValueInfoProto *info_new(Made *made, const char *name, int type, const char *dims) {
    Onnx__ValueInfoProto *info = arena_alloc(made->arena, 1, sizeof *info);
    onnx__value_info_proto__init(info);
    info->name = arena_strdup(made->arena, name);
    info->type = arena_alloc(made->arena, 1, sizeof *info->type);
    onnx__type_proto__init(info->type);
    info->type->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    Onnx__TypeProto__Tensor *tensor = info->type->tensor_type = arena_alloc(made->arena, 1, sizeof *tensor);
    onnx__type_proto__tensor__init(tensor);
    tensor->has_elem_type = 1;
    tensor->elem_type = type;
    tensor->shape = arena_alloc(made->arena, 1, sizeof *tensor->shape);
    onnx__tensor_shape_proto__init(tensor->shape);
    tensor->shape->dim = arena_alloc(made->arena, MOST, sizeof *tensor->shape->dim);
    char *copy = arena_strdup(made->arena, dims), *rest = NULL;
    for (char *part = strtok_r(copy, ",", &rest); part != NULL; part = strtok_r(NULL, ",", &rest)) {
        Onnx__TensorShapeProto__Dimension *dim = arena_alloc(made->arena, 1, sizeof *dim);
        onnx__tensor_shape_proto__dimension__init(dim);
        bool number = strspn(part, "0123456789") == strlen(part);
        dim->value_case =
            number ? ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE : ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
        if (number)
            dim->dim_value = atoll(part);
        else
            dim->dim_param = part;
        tensor->shape->dim[tensor->shape->n_dim++] = dim;
    }
    return info;
}

static inline void add_input(Made *made, const char *name, int type, const char *dims) {
    made->inputs[made->graph.n_input++] = info_new(made, name, type, dims);
}

static inline void add_output(Made *made, const char *name) {
    made->outputs[made->graph.n_output++] = info_new(made, name, 1, "");
}

/* Names separated by commas. */
static inline char **names_of(Made *made, const char *list, size_t *count) {
    char **names = arena_alloc(made->arena, MOST, sizeof *names);
    char *copy = arena_strdup(made->arena, list), *rest = NULL;
    *count = 0;
    for (char *part = strtok_r(copy, ",", &rest); part != NULL; part = strtok_r(NULL, ",", &rest))
        names[(*count)++] = part;
    return names;
}

static inline Onnx__NodeProto *add_node(Made *made, const char *op_type, const char *inputs, const char *outputs) {
    Onnx__NodeProto *node = arena_alloc(made->arena, 1, sizeof *node);
    onnx__node_proto__init(node);
    node->op_type = arena_strdup(made->arena, op_type);
    node->name = arena_printf(made->arena, "node_%s", outputs);
    node->input = names_of(made, inputs, &node->n_input);
    node->output = names_of(made, outputs, &node->n_output);
    node->attribute = arena_alloc(made->arena, MOST, sizeof *node->attribute);
    made->nodes[made->graph.n_node++] = node;
    return node;
}

static inline Onnx__AttributeProto *add_attribute(Made *made, Onnx__NodeProto *node, const char *name,
                                                  Onnx__AttributeProto__AttributeType type) {
    Onnx__AttributeProto *attr = arena_alloc(made->arena, 1, sizeof *attr);
    onnx__attribute_proto__init(attr);
    attr->name = arena_strdup(made->arena, name);
    attr->has_type = 1;
    attr->type = type;
    return node->attribute[node->n_attribute++] = attr;
}

static inline void add_int(Made *made, Onnx__NodeProto *node, const char *name, int64_t value) {
    Onnx__AttributeProto *attr = add_attribute(made, node, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    attr->has_i = 1;
    attr->i = value;
}

static inline void add_float(Made *made, Onnx__NodeProto *node, const char *name, float value) {
    Onnx__AttributeProto *attr = add_attribute(made, node, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT);
    attr->has_f = 1;
    attr->f = value;
}

static inline Onnx__TensorProto *tensor_new(Made *made, const char *name, int type, int rank, const int64_t *dims) {
    Onnx__TensorProto *tensor = arena_alloc(made->arena, 1, sizeof *tensor);
    onnx__tensor_proto__init(tensor);
    tensor->name = arena_strdup(made->arena, name);
    tensor->has_data_type = 1;
    tensor->data_type = type;
    tensor->n_dims = (size_t)rank;
    tensor->dims = arena_alloc(made->arena, MOST, sizeof *tensor->dims);
    for (int i = 0; i < rank; i++)
        tensor->dims[i] = dims[i];
    made->initializers[made->graph.n_initializer++] = tensor;
    return tensor;
}

/* A float initializer, all elements of one value. */
static inline void add_floats(Made *made, const char *name, int rank, const int64_t *dims, float value) {
    Onnx__TensorProto *tensor = tensor_new(made, name, 1, rank, dims);
    tensor->n_float_data = (size_t)shape_elements(shape_of(rank, dims));
    tensor->float_data = arena_alloc(made->arena, tensor->n_float_data, sizeof(float));
    for (size_t i = 0; i < tensor->n_float_data; i++)
        tensor->float_data[i] = value;
}

static inline void add_ints(Made *made, const char *name, int count, const int64_t *values) {
    Onnx__TensorProto *tensor = tensor_new(made, name, 7, 1, (int64_t[]){count});
    tensor->n_int64_data = (size_t)count;
    tensor->int64_data = arena_alloc(made->arena, (size_t)count + 1, sizeof(int64_t));
    for (int i = 0; i < count; i++)
        tensor->int64_data[i] = values[i];
}

/* Tensor data in another file. */
static inline void add_external(Made *made, const char *name, const char *location, const char *offset) {
    Onnx__TensorProto *tensor = tensor_new(made, name, 1, 2, (int64_t[]){4, 3});
    const char *pairs[2][2] = {{"location", location}, {"offset", offset}};
    tensor->has_data_location = 1;
    tensor->data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    tensor->external_data = arena_alloc(made->arena, 2, sizeof *tensor->external_data);
    for (int i = 0; i < 2; i++) {
        Onnx__StringStringEntryProto *entry = arena_alloc(made->arena, 1, sizeof *entry);
        onnx__string_string_entry_proto__init(entry);
        entry->key = arena_strdup(made->arena, pairs[i][0]);
        entry->value = arena_strdup(made->arena, pairs[i][1]);
        tensor->external_data[tensor->n_external_data++] = entry;
    }
}

#endif
