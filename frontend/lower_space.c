/* Lowering of operators that move blocks between channels and space, and of linear maps along an axis: DepthToSpace, SpaceToDepth, CumSum;
 * ReduceSumSquare. Before: known operands. After: moves, and products with constant matrices. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

Value *node_transpose(OnnxNode *node, Value *value, const int64_t perm[MAX_RANK]) {
    if (value == NULL)
        return NULL;
    bool same = true;
    for (int i = 0; i < value->shape.rank; i++)
        same = same && perm[i] == i;
    return same ? value : node_emit(node, OP_transpose, INPUTS(value), ATTRS(ATTR_L("perm", value->shape.rank, perm)));
}

Value *node_map_axis(OnnxNode *node, Value *value, int axis, int64_t out, const double *matrix) {
    if (value == NULL)
        return NULL;
    Shape shape = value->shape;
    int64_t size = shape.dim[axis], outer = 1, inner = 1;
    for (int i = 0; i < shape.rank; i++)
        *(i < axis ? &outer : &inner) *= i == axis ? 1 : shape.dim[i];
    shape.dim[axis] = out;
    if (inner == 1) {
        Value *rows = node_reshape(node, value, shape_of(2, (int64_t[]){outer, size}));
        Value *map = node_const_value(node, shape_of(2, (int64_t[]){size, out}), matrix);
        return node_reshape(node, node_emit(node, OP_matmul, INPUTS(rows, map), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 0))), shape);
    }
    double *turned = arena_alloc(node->importer->arena, (size_t)(size * out), sizeof *turned);
    for (int64_t i = 0; i < size; i++)
        for (int64_t k = 0; k < out; k++)
            turned[k * size + i] = matrix[i * out + k];
    Value *columns = node_reshape(node, value, shape_of(3, (int64_t[]){outer, size, inner}));
    Value *map = node_const_value(node, shape_of(2, (int64_t[]){out, size}), turned);
    return node_reshape(node, node_emit(node, OP_matmul, INPUTS(map, columns), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 0))), shape);
}

/* --- blocks --- */

static bool block_size(OnnxNode *node, int64_t *block) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    *block = node_attr_int(node, "blocksize", 0);
    if (node->in[0]->shape.rank != 4 || *block < 1 || *block > INT16_MAX)
        return node_refuse(node, "takes [N, C, H, W] and a positive 'blocksize', found [%s] and %lld",
                           shape_text(node->importer->arena, node->in[0]->shape), (long long)*block);
    return true;
}

static bool move_blocks(OnnxNode *node, Shape split, const int64_t *perm, Shape result) {
    Value *value = node_reshape(node, node_value(node, 0), split);
    return node_set(node, 0, node_reshape(node, node_transpose(node, value, perm), result));
}

bool lower_depth_to_space(OnnxNode *node) {
    int64_t b;
    if (!block_size(node, &b))
        return false;
    const char *mode = node->since >= 11 ? node_attr_text(node, "mode", "DCR") : "DCR";
    bool depth_first = strcmp(mode, "DCR") == 0;
    Shape in = node->in[0]->shape;
    if (!depth_first && strcmp(mode, "CRD") != 0)
        return node_refuse(node, "attribute 'mode' is '%s'", mode);
    if (in.dim[1] % (b * b) != 0)
        return node_refuse(node, "%lld channels are no multiple of blocksize squared", (long long)in.dim[1]);
    int64_t n = in.dim[0], c = in.dim[1] / (b * b), h = in.dim[2], w = in.dim[3];
    Shape result = shape_of(4, (int64_t[]){n, c, h * b, w * b});
    if (depth_first)
        return move_blocks(node, shape_of(6, (int64_t[]){n, b, b, c, h, w}), (int64_t[MAX_RANK]){0, 3, 4, 1, 5, 2}, result);
    return move_blocks(node, shape_of(6, (int64_t[]){n, c, b, b, h, w}), (int64_t[MAX_RANK]){0, 1, 4, 2, 5, 3}, result);
}

bool lower_space_to_depth(OnnxNode *node) {
    int64_t b;
    if (!block_size(node, &b))
        return false;
    Shape in = node->in[0]->shape;
    if (in.dim[2] % b != 0 || in.dim[3] % b != 0)
        return node_refuse(node, "[%s] is not divisible into blocks of %lld", shape_text(node->importer->arena, in), (long long)b);
    int64_t n = in.dim[0], c = in.dim[1], h = in.dim[2] / b, w = in.dim[3] / b;
    return move_blocks(node, shape_of(6, (int64_t[]){n, c, h, b, w, b}), (int64_t[MAX_RANK]){0, 3, 5, 1, 2, 4},
                       shape_of(4, (int64_t[]){n, c * b * b, h, w}));
}

/* --- sums --- */

bool lower_cum_sum(OnnxNode *node) {
    double place;
    if (!node_check_inputs(node, 2, 2) || !node_scalar(node, 1, "the axis", &place))
        return false;
    bool exclusive = node_attr_int(node, "exclusive", 0) != 0, reverse = node_attr_int(node, "reverse", 0) != 0;
    Shape in = node->in[0]->shape;
    int axis = node_axis(node, (int64_t)place, in.rank);
    if (axis < 0)
        return false;
    int64_t n = in.dim[axis];
    if (checked_elements(shape_of(2, (int64_t[]){n, n}), CONSTANT_LIMIT) < 0)
        return node_refuse(node, "sums over %lld elements, more than its matrix can hold", (long long)n);
    double *matrix = arena_alloc(node->importer->arena, (size_t)(n * n) + 1, sizeof *matrix);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < n; k++)
            matrix[i * n + k] = (i == k && !exclusive) || (reverse ? i > k : i < k) ? 1 : 0;
    return node_set(node, 0, node_map_axis(node, node_value(node, 0), axis, n, matrix));
}

bool lower_reduce_sum_square(OnnxNode *node) {
    ReducePlan plan;
    if (!node_reduce_plan(node, &plan))
        return false;
    Value *x = node_value(node, 0), *square = node_emit(node, OP_mul, INPUTS(x, x), NO_ATTRS);
    if (plan.count == 0)
        return node_set(node, 0, square);
    bool keep = plan.result.rank == plan.kept.rank;
    return node_set(node, 0,
                    node_emit(node, OP_reduce_sum, INPUTS(square), ATTRS(ATTR_L("axes", plan.count, plan.axes), ATTR_I("keepdims", keep))));
}
