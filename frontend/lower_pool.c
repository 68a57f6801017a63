/* Lowering of pooling. Before: known operands. After: maxpool; sumpool and a multiplication; or a reduction. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

static bool pool_input(OnnxNode *node) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    for (int i = 1; i < node->out_count; i++)
        if (node_wants(node, i))
            return node_refuse(node, "output %d (indices) is not supported", i);
    return true;
}

static Value *pool(OnnxNode *node, Op op, const Window *window) {
    int n = window->rank;
    return node_emit(node, op, INPUTS(node_value(node, 0)),
                     ATTRS(ATTR_L("kernel", n, window->kernel), ATTR_L("strides", n, window->strides), ATTR_L("pads", 2 * n, window->pads),
                           ATTR_L("dilations", n, window->dilations)));
}

/* Positions in x as real numbers: that of each window's first place, plus that of the largest element within the window, from a table of
 * the places of a window. Columns: x is counted column by column. */
static Value *indices(OnnxNode *node, Value *largest, const Window *window, bool columns) {
    Shape in = node->in[0]->shape, out = largest->shape;
    int64_t stride[MAX_RANK], size = 1, places = 1, count = checked_elements(out, CONSTANT_LIMIT);
    for (int i = window->rank; i-- > 0;) {
        int d = columns ? window->rank - 1 - i : i;
        stride[d] = size;
        size *= in.dim[d + 2];
        places *= window->kernel[d];
    }
    if (count < 0) {
        node_refuse(node, "its indices are more than 2^28");
        return NULL;
    }
    double *table = arena_alloc(node->importer->arena, (size_t)places + 1, sizeof *table);
    double *first = arena_alloc(node->importer->arena, (size_t)count + 1, sizeof *first);
    for (int64_t k = 0; k < places; k++)
        for (int64_t i = window->rank, rest = k; i-- > 0; rest /= window->kernel[i])
            table[k] += (double)(rest % window->kernel[i] * window->dilations[i] * stride[i]);
    for (int64_t k = 0; k < count; k++) {
        int64_t rest = k;
        for (int64_t i = window->rank; i-- > 0; rest /= out.dim[i + 2])
            first[k] += (double)((rest % out.dim[i + 2] * window->strides[i] - window->pads[i]) * stride[i]);
        first[k] += (double)(rest * size);
    }
    Value *within = node_emit(node, OP_gather, INPUTS(node_const_value(node, shape_of(1, &places), table), largest->def->out[1]),
                              ATTRS(ATTR_I("axis", 0)));
    return node_emit(node, OP_add, INPUTS(within, node_const_value(node, out, first)), NO_ATTRS);
}

bool lower_max_pool(OnnxNode *node) {
    Window window;
    if (!node_check_inputs(node, 1, 1) || !node_window(node, node->in[0]->shape, NULL, true, true, &window))
        return false;
    bool columns = node_attr_int(node, "storage_order", 0) != 0;
    Value *largest = pool(node, OP_maxpool, &window);
    if (largest == NULL || !node_wants(node, 1))
        return node_set(node, 0, largest);
    return node_set(node, 0, largest) &&
           node_set_typed(node, 1, indices(node, largest, &window, columns), ONNX__TENSOR_PROTO__DATA_TYPE__INT64);
}

/* Number of places of the window at `out` that count along one axis. */
static int64_t places(const Window *window, int axis, int64_t out, int64_t size, bool include_pad) {
    int64_t count = 0;
    for (int64_t k = 0; k < window->kernel[axis]; k++) {
        int64_t at = out * window->strides[axis] - window->pads[axis] + k * window->dilations[axis];
        count += include_pad ? at < window->counted[axis] : at >= 0 && at < size;
    }
    return count;
}

bool lower_average_pool(OnnxNode *node) {
    Window window;
    if (!pool_input(node) || !node_window(node, node->in[0]->shape, NULL, true, node->since >= 19, &window))
        return false;
    bool include_pad = node->since >= 7 && node_attr_int(node, "count_include_pad", 0) != 0;
    Shape in = node->in[0]->shape, shape = {.rank = in.rank, .dim = {1, 1}};
    bool uniform = true;
    for (int i = 0; i < window.rank; i++) {
        shape.dim[i + 2] = window.out[i];
        for (int64_t k = 0; k < window.out[i]; k++)
            uniform = uniform && places(&window, i, k, in.dim[i + 2], include_pad) == places(&window, i, 0, in.dim[i + 2], include_pad);
    }
    int64_t count = checked_elements(shape, CONSTANT_LIMIT);
    if (count < 0)
        return node_refuse(node, "its result has more than 2^28 places");
    count = uniform ? (count > 0 ? 1 : 0) : count;
    double *reciprocal = arena_alloc(node->importer->arena, (size_t)count + 1, sizeof *reciprocal);
    for (int64_t k = 0; k < count; k++) {
        int64_t rest = k, divisor = 1;
        for (int i = window.rank; i-- > 0; rest /= window.out[i])
            divisor *= places(&window, i, rest % window.out[i], in.dim[i + 2], include_pad);
        reciprocal[k] = divisor == 0 ? 0 : 1.0 / (double)divisor;
    }
    Value *sum = pool(node, OP_sumpool, &window);
    if (uniform)
        return node_set(node, 0, node_mul_const(node, sum, reciprocal[0]));
    return node_set(node, 0, node_emit(node, OP_mul, INPUTS(sum, node_const_value(node, shape, reciprocal)), NO_ATTRS));
}

bool lower_global_average_pool(OnnxNode *node) {
    if (!pool_input(node))
        return false;
    Shape in = node->in[0]->shape;
    int64_t axes[MAX_RANK], count = 1;
    if (in.rank < 3)
        return node_refuse(node, "takes [N, C, D...], found [%s]", shape_text(node->importer->arena, in));
    for (int i = 2; i < in.rank; i++) {
        axes[i - 2] = i;
        count *= in.dim[i];
    }
    if (count == 0)
        return node_refuse(node, "averages nothing: shape [%s]", shape_text(node->importer->arena, in));
    Value *sum =
        node_emit(node, OP_reduce_sum, INPUTS(node_value(node, 0)), ATTRS(ATTR_L("axes", in.rank - 2, axes), ATTR_I("keepdims", 1)));
    return node_set(node, 0, node_mul_const(node, sum, 1.0 / (double)count));
}

bool lower_global_max_pool(OnnxNode *node) {
    if (!pool_input(node))
        return false;
    Shape in = node->in[0]->shape;
    if (in.rank < 3)
        return node_refuse(node, "takes [N, C, D...], found [%s]", shape_text(node->importer->arena, in));
    Window window = {.rank = in.rank - 2};
    for (int i = 0; i < window.rank; i++) {
        window.kernel[i] = in.dim[i + 2];
        window.strides[i] = window.dilations[i] = 1;
    }
    return node_set(node, 0, pool(node, OP_maxpool, &window));
}
