/* Lowering of ReduceMax, ReduceMin, ArgMax, ArgMin and ReduceLogSumExp. Before: known operands. After: argmax and pick, whose gradient goes
 * to the first of equal elements; log_softmax. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

/* The reduced axes of the input as its last one. */
static Value *reduced_last(OnnxNode *node, const ReducePlan *plan) {
    Shape in = node->in[0]->shape, rows = {.rank = 0};
    int64_t perm[MAX_RANK];
    bool gone[MAX_RANK] = {false};
    for (int i = 0; i < plan->count; i++)
        gone[plan->axes[i]] = true;
    int count = 0;
    for (int i = 0; i < in.rank; i++)
        if (!gone[i]) {
            perm[count++] = i;
            rows.dim[rows.rank++] = in.dim[i];
        }
    for (int i = 0; i < plan->count; i++)
        perm[count++] = plan->axes[i];
    rows.dim[rows.rank++] = plan->elements;
    return node_reshape(node, node_transpose(node, node_value(node, 0), perm), rows);
}

static bool plan_of(OnnxNode *node, ReducePlan *plan) {
    if (!node_reduce_plan(node, plan))
        return false;
    if (!onnx_type_is_real(node->in[0]->type))
        return node_refuse(node, "of %s is supported only on constants", onnx_type_name(node->in[0]->type));
    return plan->elements > 0 || node_refuse(node, "reduces nothing: shape [%s]", shape_text(node->importer->arena, node->in[0]->shape));
}

static bool lower_extreme(OnnxNode *node, bool largest) {
    ReducePlan plan;
    if (!plan_of(node, &plan))
        return false;
    if (plan.count == 0)
        return node_alias(node, 0, 0);
    Value *x = reduced_last(node, &plan);
    if (!largest)
        x = node_emit(node, OP_neg, INPUTS(x), NO_ATTRS);
    if (x == NULL)
        return false;
    int axis = x->shape.rank - 1;
    Value *index = node_emit(node, OP_argmax, INPUTS(x), ATTRS(ATTR_I("axis", axis)));
    Value *result = node_emit(node, OP_pick, INPUTS(x, index), ATTRS(ATTR_I("axis", axis))); /* -x at the index */
    if (largest)
        result = node_emit(node, OP_neg, INPUTS(result), NO_ATTRS);
    return node_set(node, 0, node_reshape(node, result, plan.result));
}

bool lower_reduce_max(OnnxNode *node) {
    return lower_extreme(node, true);
}

bool lower_reduce_min(OnnxNode *node) {
    return lower_extreme(node, false);
}

/* log Σ exp x = x_0 - log_softmax(x)_0 for any element. */
bool lower_reduce_log_sum_exp(OnnxNode *node) {
    ReducePlan plan;
    if (!plan_of(node, &plan))
        return false;
    if (plan.count == 0)
        return node_alias(node, 0, 0);
    Value *x = reduced_last(node, &plan);
    if (x == NULL)
        return false;
    int axis = x->shape.rank - 1;
    Value *logs = node_emit(node, OP_log_softmax, INPUTS(x), ATTRS(ATTR_I("axis", axis)));
    Value *first = node_slice(node, x, axis, 0, 1), *below = node_slice(node, logs, axis, 0, 1);
    return node_set(node, 0, node_reshape(node, node_emit(node, OP_sub, INPUTS(first, below), NO_ATTRS), plan.result));
}

/* size - 1 - index, by a table of integers. */
static Value *from_end(OnnxNode *node, Value *index, int64_t size) {
    int64_t *table = arena_alloc(node->importer->arena, (size_t)size, sizeof *table);
    for (int64_t i = 0; i < size; i++)
        table[i] = size - 1 - i;
    Value *places = graph_integer(node->importer->graph, VALUE_CONST, NULL, shape_of(1, &size), T_I32, size);
    places->mantissa = table;
    return node_emit(node, OP_gather, INPUTS(places, index), ATTRS(ATTR_I("axis", 0)));
}

static bool lower_place(OnnxNode *node, bool largest) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    Shape in = node->in[0]->shape, kept = in;
    int axis = node_axis(node, node_attr_int(node, "axis", 0), in.rank);
    bool keep = node_attr_int(node, "keepdims", 1) != 0, last = node_attr_int(node, "select_last_index", 0) != 0;
    if (axis < 0)
        return false;
    if (in.dim[axis] < 1 || !onnx_type_is_real(node->in[0]->type))
        return node_refuse(node, "takes real numbers, at least one along the axis");
    Value *x = node_value(node, 0);
    if (!largest)
        x = node_emit(node, OP_neg, INPUTS(x), NO_ATTRS);
    int64_t reversed = axis;
    if (last)
        x = node_emit(node, OP_reverse, INPUTS(x), ATTRS(ATTR_L("axes", 1, &reversed)));
    Value *index = node_emit(node, OP_argmax, INPUTS(x), ATTRS(ATTR_I("axis", axis)));
    if (last)
        index = from_end(node, index, in.dim[axis]);
    kept.dim[axis] = 1;
    return node_set_typed(node, 0, keep ? node_reshape(node, index, kept) : index, ONNX__TENSOR_PROTO__DATA_TYPE__INT64);
}

bool lower_arg_max(OnnxNode *node) {
    return lower_place(node, true);
}

bool lower_arg_min(OnnxNode *node) {
    return lower_place(node, false);
}
