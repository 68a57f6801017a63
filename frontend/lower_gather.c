/* Lowering of Gather: constant indices that are evenly spaced are moves, all others the op `gather`. Before: known operands. After: moves
 * or gather. Source: ONNX Operators.md, Gather. */
#include "frontend/importer.h"

#include <string.h>

static Value *indices(OnnxNode *node, Shape shape, const int64_t *index, int64_t bound) {
    Value *value = graph_integer(node->importer->graph, VALUE_CONST, NULL, shape, bound > 127 ? T_I32 : T_I8, bound);
    value->mantissa = index;
    return value;
}

/* Whether index[k] = k / repeats for a whole number of repeats of every element. */
static bool is_repeated(const int64_t *index, int64_t count, int64_t size) {
    bool good = size > 0 && count % size == 0;
    for (int64_t k = 0; k < count && good; k++)
        good = index[k] == k / (count / size);
    return good;
}

static Value *repeated(OnnxNode *node, Value *value, int axis, int64_t repeats) {
    Shape in = value->shape, wide = {.rank = in.rank + 1}, out = in;
    for (int i = 0; i < wide.rank; i++)
        wide.dim[i] = i <= axis ? in.dim[i] : i == axis + 1 ? 1 : in.dim[i - 1];
    value = node_reshape(node, value, wide);
    wide.dim[axis + 1] = repeats;
    out.dim[axis] *= repeats;
    if (value != NULL)
        value = node_emit(node, OP_broadcast, INPUTS(value), ATTRS(ATTR_L("shape", wide.rank, wide.dim)));
    return node_reshape(node, value, out);
}

/* start, start + step, ...: step may be negative. */
static Value *spaced(OnnxNode *node, Value *value, int axis, int64_t start, int64_t step, int64_t count) {
    Shape shape = value->shape;
    int64_t starts[MAX_RANK] = {0}, steps[MAX_RANK], axes[1] = {axis};
    for (int i = 0; i < shape.rank; i++)
        steps[i] = 1;
    if (step < 0) {
        value = node_emit(node, OP_reverse, INPUTS(value), ATTRS(ATTR_L("axes", 1, axes)));
        start = shape.dim[axis] - 1 - start;
        step = -step;
    }
    if (value == NULL || (start == 0 && step == 1 && count == shape.dim[axis]))
        return value;
    starts[axis] = start;
    steps[axis] = step;
    shape.dim[axis] = count;
    return node_emit(
        node, OP_slice, INPUTS(value),
        ATTRS(ATTR_L("starts", shape.rank, starts), ATTR_L("steps", shape.rank, steps), ATTR_L("shape", shape.rank, shape.dim)));
}

Value *node_take(OnnxNode *node, Value *value, int axis, int64_t count, const int64_t *index) {
    if (value == NULL)
        return NULL;
    int64_t size = value->shape.dim[axis], step = count > 1 ? index[1] - index[0] : 1;
    bool even = step != 0;
    for (int64_t k = 1; k < count && even; k++)
        even = index[k] - index[k - 1] == step;
    if (count == 0 || even)
        return spaced(node, value, axis, count == 0 ? 0 : index[0], step, count);
    if (value->shape.rank < MAX_RANK && is_repeated(index, count, size))
        return repeated(node, value, axis, count / size);
    return node_emit(node, OP_gather, INPUTS(value, indices(node, shape_of(1, &count), index, size - 1)), ATTRS(ATTR_I("axis", axis)));
}

static Shape gathered_shape(Shape in, Shape index, int axis) {
    Shape shape = {.rank = in.rank - 1 + index.rank};
    for (int k = 0; k < shape.rank; k++)
        shape.dim[k] = k < axis ? in.dim[k] : k < axis + index.rank ? index.dim[k - axis] : in.dim[k - index.rank + 1];
    return shape;
}

/* Indices that the model computes or reads: known only while it runs. The runtime refuses those of an input that are out of range. */
static bool gather_data(OnnxNode *node, int axis, int64_t size) {
    const Operand *operand = node->in[1];
    if (operand->value == NULL || !operand->value->integer)
        return node_refuse(node, "indices '%s' are neither constant nor an integer input", operand->name);
    if (operand->value->bound >= size) {
        if (operand->value->kind != VALUE_INPUT)
            return node_refuse(node, "indices '%s' may reach %lld, axis %d has %lld elements", operand->name,
                               (long long)operand->value->bound, axis, (long long)size);
        operand->value->bound = size - 1;
    }
    return node_set(node, 0, node_emit(node, OP_gather, INPUTS(node_value(node, 0), operand->value), ATTRS(ATTR_I("axis", axis))));
}

bool lower_gather(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    Shape in = node->in[0]->shape, index = node->in[1]->shape;
    int axis = node_axis(node, node_attr_int(node, "axis", 0), in.rank);
    if (axis < 0)
        return false;
    if (in.rank - 1 + index.rank > MAX_RANK || in.dim[axis] < 1)
        return node_refuse(node, "takes from [%s] with indices of shape [%s]", shape_text(node->importer->arena, in),
                           shape_text(node->importer->arena, index));
    const OnnxTensor *constant = operand_constant(node->importer, node->in[1]);
    if (constant == NULL && node->in[1]->given != NULL)
        constant = node->in[1]->given;
    if (constant == NULL)
        return gather_data(node, axis, in.dim[axis]);
    if (constant->ints == NULL)
        return node_refuse(node, "indices must be integers");
    int64_t *list = arena_alloc(node->importer->arena, (size_t)constant->count + 1, sizeof *list);
    for (int64_t k = 0; k < constant->count; k++) {
        list[k] = constant->ints[k] + (constant->ints[k] < 0 ? in.dim[axis] : 0);
        if (list[k] < 0 || list[k] >= in.dim[axis])
            return node_refuse(node, "index %lld is outside the %lld elements of axis %d", (long long)constant->ints[k],
                               (long long)in.dim[axis], axis);
    }
    Value *taken = node_take(node, node_value(node, 0), axis, constant->count, list);
    return node_set(node, 0, node_reshape(node, taken, gathered_shape(in, index, axis)));
}
