/* What lowering and folding hooks use: attributes, operands, emission of IR. Before: the inputs of the node are known operands. After: the
 * outputs are set, or a diagnostic names the node. */
#include "frontend/importer.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

bool node_refuse(OnnxNode *node, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0)
        internal_error("out of memory");
    va_end(args);
    diag_error(node->importer->diag, &node->from.origin, "%s", text);
    free(text);
    return false;
}

/* --- attributes --- */

const Onnx__AttributeProto *node_attr(OnnxNode *node, const char *name) {
    for (size_t i = 0; i < node->proto->n_attribute; i++) {
        const Onnx__AttributeProto *attr = node->proto->attribute[i];
        if (attr->name != NULL && strcmp(attr->name, name) == 0) {
            node->attr_read[i] = true;
            return attr;
        }
    }
    return NULL;
}

int64_t node_attr_int(OnnxNode *node, const char *name, int64_t absent) {
    const Onnx__AttributeProto *attr = node_attr(node, name);
    return attr == NULL ? absent : attr->i;
}

double node_attr_real(OnnxNode *node, const char *name, double absent) {
    const Onnx__AttributeProto *attr = node_attr(node, name);
    return attr == NULL ? absent : (double)attr->f;
}

const char *node_attr_text(OnnxNode *node, const char *name, const char *absent) {
    const Onnx__AttributeProto *attr = node_attr(node, name);
    if (attr == NULL || attr->s.len == 0)
        return absent;
    return arena_printf(node->importer->arena, "%.*s", (int)(attr->s.len < 256 ? attr->s.len : 256), (const char *)attr->s.data);
}

const int64_t *node_attr_ints(OnnxNode *node, const char *name, int *count) {
    const Onnx__AttributeProto *attr = node_attr(node, name);
    *count = 0;
    if (attr == NULL || attr->n_ints == 0 || attr->n_ints > INT32_MAX)
        return NULL;
    *count = (int)attr->n_ints;
    return attr->ints;
}

/* --- operands --- */

Operand *node_in(const OnnxNode *node, int i) {
    return i < node->in_count ? node->in[i] : NULL;
}

bool node_wants(const OnnxNode *node, int out) {
    return out < node->out_count && node->out[out] != NULL;
}

bool node_check_inputs(OnnxNode *node, int least, int most) {
    if (node->in_count < least || node->in_count > most)
        return node_refuse(node, "takes %d to %d inputs, found %d", least, most, node->in_count);
    for (int i = 0; i < least; i++)
        if (node->in[i] == NULL)
            return node_refuse(node, "input %d is missing", i);
    return node->out_count > 0 || node_refuse(node, "has no output");
}

static const OnnxTensor *decoded(Importer *importer, Operand *operand, const Origin *origin) {
    if (operand->constant == NULL && operand->proto != NULL)
        operand->constant = onnx_decode(importer->file, importer->arena, operand->proto, origin, importer->diag);
    return operand->constant;
}

const OnnxTensor *operand_constant(Importer *importer, Operand *operand) {
    if (operand == NULL || operand->learns)
        return NULL;
    return decoded(importer, operand, NULL);
}

static const double *tensor_reals(Arena *arena, const OnnxTensor *tensor) {
    if (tensor->reals != NULL)
        return tensor->reals;
    double *reals = arena_alloc(arena, (size_t)tensor->count, sizeof *reals);
    for (int64_t i = 0; i < tensor->count; i++)
        reals[i] = (double)tensor->ints[i];
    return reals;
}

Value *node_value(OnnxNode *node, int i) {
    Operand *operand = node_in(node, i);
    if (operand == NULL) {
        node_refuse(node, "input %d is missing", i);
        return NULL;
    }
    if (operand->value != NULL)
        return operand->value;
    Importer *importer = node->importer;
    const OnnxTensor *tensor = decoded(importer, operand, &node->from.origin);
    if (tensor == NULL) {
        if (operand->proto == NULL)
            node_refuse(node, "input '%s' has no value here", operand->name);
        return NULL;
    }
    for (int64_t k = 0; tensor->reals != NULL && k < tensor->count; k++)
        if (!isfinite(tensor->reals[k])) {
            node_refuse(node, "'%s' holds %g (element %lld): only finite numbers are supported, such as -1e4 for -inf in a mask",
                        operand->name, tensor->reals[k], (long long)k);
            return NULL;
        }
    operand->value =
        graph_value(importer->graph, operand->learns ? VALUE_PARAM : VALUE_CONST, operand->learns ? operand->name : NULL, tensor->shape);
    operand->value->real = tensor_reals(importer->arena, tensor);
    operand->value->onnx_name = operand->learns ? operand->name : NULL;
    return operand->value;
}

const OnnxTensor *node_constant(OnnxNode *node, int i, const char *what) {
    Operand *operand = node_in(node, i);
    if (operand == NULL) {
        node_refuse(node, "%s is missing", what);
        return NULL;
    }
    const OnnxTensor *tensor = decoded(node->importer, operand, &node->from.origin);
    if (tensor == NULL)
        tensor = operand->given;
    if (tensor == NULL)
        node_refuse(node, "%s '%s' must be constant: intc compiles for fixed shapes and bounds", what, operand->name);
    return tensor;
}

const int64_t *node_ints(OnnxNode *node, int i, const char *what, int *count) {
    const OnnxTensor *tensor = node_constant(node, i, what);
    *count = 0;
    if (tensor == NULL)
        return NULL;
    if (tensor->ints == NULL || tensor->shape.rank > 1 || tensor->count > INT32_MAX) {
        node_refuse(node, "%s must be a list of integers, found %s of shape [%s]", what, onnx_type_name(tensor->type),
                    shape_text(node->importer->arena, tensor->shape));
        return NULL;
    }
    *count = (int)tensor->count;
    return tensor->ints;
}

bool node_scalar(OnnxNode *node, int i, const char *what, double *value) {
    const OnnxTensor *tensor = node_constant(node, i, what);
    if (tensor == NULL)
        return false;
    if (tensor->count != 1)
        return node_refuse(node, "%s must be a single number, found shape [%s]", what, shape_text(node->importer->arena, tensor->shape));
    *value = tensor->reals != NULL ? tensor->reals[0] : (double)tensor->ints[0];
    return true;
}

int node_axis(OnnxNode *node, int64_t axis, int rank) {
    if (axis < -rank || axis >= rank) {
        node_refuse(node, "axis %lld is outside [%d, %d)", (long long)axis, -rank, rank);
        return -1;
    }
    return (int)(axis < 0 ? axis + rank : axis);
}

bool node_axes(OnnxNode *node, int input_since, int i, int rank, int axes[MAX_RANK], int *count) {
    int n = 0;
    const int64_t *list = NULL;
    if (node->since < input_since) {
        list = node_attr_ints(node, "axes", &n);
    } else if (node_in(node, i) != NULL) {
        list = node_ints(node, i, "axes", &n);
        if (list == NULL)
            return false;
    }
    *count = list == NULL || n == 0 ? -1 : 0;
    bool set[MAX_RANK] = {false};
    for (int k = 0; k < n; k++) {
        int axis = node_axis(node, list[k], rank);
        if (axis < 0)
            return false;
        if (set[axis])
            return node_refuse(node, "axis %d is listed twice", axis);
        set[axis] = true;
    }
    for (int axis = 0; axis < rank && *count >= 0; axis++)
        if (set[axis])
            axes[(*count)++] = axis;
    return true;
}

/* --- emission --- */

Value *node_emit(OnnxNode *node, Op op, Value *const *in, int in_count, const Attr *attrs, int attr_count) {
    for (int i = 0; i < in_count; i++)
        if (in[i] == NULL)
            return NULL;
    Node *made = graph_node(node->importer->graph, node->importer->diag, op, &node->from, in, in_count, attrs, attr_count);
    if (made == NULL)
        return NULL;
    if (checked_elements(made->out[0]->shape, ELEMENT_LIMIT) < 0) {
        node_refuse(node, "its result has more than 2^31 elements");
        return NULL;
    }
    return made->out[0];
}

Value *node_reshape(OnnxNode *node, Value *value, Shape shape) {
    if (value == NULL || shape_equal(value->shape, shape))
        return value;
    return node_emit(node, OP_reshape, INPUTS(value), ATTRS(ATTR_L("shape", shape.rank, shape.dim)));
}

Value *node_mul_const(OnnxNode *node, Value *value, double factor) {
    if (value == NULL || factor == 1)
        return value;
    if (!isfinite(factor)) {
        node_refuse(node, "multiplies by %g", factor);
        return NULL;
    }
    return node_emit(node, OP_mul_const, INPUTS(value), ATTRS(ATTR_R("value", factor)));
}

Value *node_const_value(OnnxNode *node, Shape shape, const double *real) {
    return graph_const(node->importer->graph, NULL, shape, real);
}

bool node_set_typed(OnnxNode *node, int i, Value *value, int type) {
    if (value == NULL)
        return false;
    if (!node_wants(node, i))
        return true;
    Operand *out = node->out[i];
    out->known = true;
    out->type = type;
    out->shape = value->shape;
    out->value = value;
    out->fixed = true;
    for (int k = 0; k < node->in_count; k++)
        if (node->in[k] != NULL && !node->in[k]->fixed)
            out->fixed = false;
    return true;
}

bool node_set(OnnxNode *node, int i, Value *value) {
    return node_set_typed(node, i, value, node->in_count > 0 && node->in[0] != NULL ? node->in[0]->type : 1);
}

bool node_set_constant(OnnxNode *node, int i, OnnxTensor *tensor) {
    if (tensor == NULL)
        return false;
    if (!node_wants(node, i))
        return true;
    Operand *out = node->out[i];
    out->known = out->fixed = true;
    out->type = tensor->type;
    out->shape = tensor->shape;
    out->constant = tensor;
    return true;
}

bool node_alias(OnnxNode *node, int i, int k) {
    if (!node_wants(node, i))
        return true;
    names_set(node->importer->tensors, node->out[i]->name, node->in[k]);
    node->out[i] = node->in[k];
    return true;
}

OnnxTensor *node_tensor(OnnxNode *node, int type, Shape shape) {
    OnnxTensor *tensor = arena_alloc(node->importer->arena, 1, sizeof *tensor);
    tensor->type = type;
    tensor->shape = shape;
    tensor->count = checked_elements(shape, CONSTANT_LIMIT);
    if (tensor->count < 0) {
        node_refuse(node, "a constant of more than 2^28 elements");
        return NULL;
    }
    if (onnx_type_is_real(type))
        tensor->reals = arena_alloc(node->importer->arena, (size_t)tensor->count, sizeof *tensor->reals);
    else
        tensor->ints = arena_alloc(node->importer->arena, (size_t)tensor->count, sizeof *tensor->ints);
    return tensor;
}

bool value_is_accumulator(const Value *value) {
    while (value->def != NULL) {
        switch (value->def->op) {
        case OP_matmul:
        case OP_conv:
        case OP_conv_dgrad:
            return true;
        case OP_reshape:
        case OP_transpose:
        case OP_mul_const:
            value = value->def->in[0];
            break;
        default:
            return false;
        }
    }
    return false;
}

bool shape_fits_into(Shape b, Shape a) {
    Shape both;
    return shape_broadcast(a, b, &both) && shape_equal(both, a);
}
