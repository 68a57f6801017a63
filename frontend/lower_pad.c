/* Lowering of Pad in every mode. Before: a known operand. After: zeros by `pad`, another constant by an addition, reflect, edge and wrap by
 * slices and joins, axis by axis. Source: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

typedef struct {
    int64_t low[MAX_RANK], high[MAX_RANK]; /* negative: cut */
    const char *mode;
    double value;
} Padding;

static bool padding_lists(OnnxNode *node, Padding *padding) {
    int rank = node->in[0]->shape.rank, count, axis_count = rank;
    const int64_t *pads = node->since < 11 ? node_attr_ints(node, "pads", &count) : node_ints(node, 1, "pads", &count);
    if (pads == NULL)
        return (node->since < 11 && rank == 0) || (node->since < 11 && node_refuse(node, "attribute 'pads' is missing"));
    const int64_t *axes = NULL;
    if (node->since >= 18 && node_in(node, 3) != NULL && (axes = node_ints(node, 3, "axes", &axis_count)) == NULL)
        return false;
    if (count != 2 * axis_count)
        return node_refuse(node, "%d pads for %d axes", count, axis_count);
    bool set[MAX_RANK] = {false};
    for (int i = 0; i < axis_count; i++) {
        int axis = node_axis(node, axes != NULL ? axes[i] : i, rank);
        if (axis < 0)
            return false;
        int64_t low = pads[i], high = pads[axis_count + i], size = node->in[0]->shape.dim[axis];
        if (set[axis] || low > INT32_MAX || high > INT32_MAX || low < -size || high < -size || low + high < -size)
            return node_refuse(node, "pads %lld and %lld of axis %d (size %lld) are out of range or listed twice", (long long)low,
                               (long long)high, axis, (long long)size);
        set[axis] = true;
        padding->low[axis] = low;
        padding->high[axis] = high;
    }
    return true;
}

static bool padding_of(OnnxNode *node, Padding *padding) {
    *padding = (Padding){.value = 0};
    if (!node_check_inputs(node, node->since >= 11 ? 2 : 1, node->since >= 18 ? 4 : node->since >= 11 ? 3 : 1))
        return false;
    padding->mode = node_attr_text(node, "mode", "constant");
    if (node->since < 11)
        padding->value = node_attr_real(node, "value", 0);
    else if (node_in(node, 2) != NULL && !node_scalar(node, 2, "the padding value", &padding->value))
        return false;
    return padding_lists(node, padding);
}

static Value *reverse(OnnxNode *node, Value *value, int axis) {
    int64_t axes[1] = {axis};
    return value == NULL ? NULL : node_emit(node, OP_reverse, INPUTS(value), ATTRS(ATTR_L("axes", 1, axes)));
}

/* `count` elements beside the tensor along an axis, at its low or high end. */
static Value *border(OnnxNode *node, Value *value, int axis, const char *mode, int64_t count, bool high) {
    int64_t size = value->shape.dim[axis];
    if (strcmp(mode, "edge") == 0) {
        Shape shape = value->shape;
        shape.dim[axis] = count;
        Value *edge = node_slice(node, value, axis, high ? size - 1 : 0, 1);
        return edge == NULL || count == 1 ? edge
                                          : node_emit(node, OP_broadcast, INPUTS(edge), ATTRS(ATTR_L("shape", shape.rank, shape.dim)));
    }
    if (strcmp(mode, "wrap") == 0)
        return node_slice(node, value, axis, high ? 0 : size - count, count);
    return reverse(node, node_slice(node, value, axis, high ? size - 1 - count : 1, count), axis);
}

static Value *pad_with_borders(OnnxNode *node, Value *value, const Padding *padding) {
    bool reflect = strcmp(padding->mode, "reflect") == 0, edge = strcmp(padding->mode, "edge") == 0;
    for (int axis = 0; value != NULL && axis < value->shape.rank; axis++) {
        int64_t low = padding->low[axis], high = padding->high[axis], size = value->shape.dim[axis];
        int64_t most = edge ? (size > 0 ? INT32_MAX : 0) : reflect ? size - 1 : size;
        if (low > most || high > most) {
            node_refuse(node, "mode '%s' by %lld and %lld is more than axis %d of size %lld holds", padding->mode, (long long)low,
                        (long long)high, axis, (long long)size);
            return NULL;
        }
        Value *parts[3];
        int count = 0;
        if (low > 0)
            parts[count++] = border(node, value, axis, padding->mode, low, false);
        parts[count++] = value;
        if (high > 0)
            parts[count++] = border(node, value, axis, padding->mode, high, true);
        if (count > 1)
            value = node_emit(node, OP_concat, parts, count, ATTRS(ATTR_I("axis", axis)));
    }
    return value;
}

/* The padding value around zeros of the tensor's shape; what padding with zeros lacks. */
static Value *frame(OnnxNode *node, Shape shape, const Padding *padding) {
    int64_t count = checked_elements(shape, CONSTANT_LIMIT);
    if (count < 0) {
        node_refuse(node, "its result has more than 2^28 elements");
        return NULL;
    }
    double *real = arena_alloc(node->importer->arena, (size_t)count, sizeof *real);
    for (int64_t k = 0; k < count; k++) {
        bool inside = true;
        int64_t rest = k;
        for (int i = shape.rank; i-- > 0; rest /= shape.dim[i]) {
            int64_t at = rest % shape.dim[i];
            inside = inside && at >= padding->low[i] && at < shape.dim[i] - padding->high[i];
        }
        real[k] = inside ? 0 : padding->value;
    }
    return node_const_value(node, shape, real);
}

bool lower_pad(OnnxNode *node) {
    Padding padding;
    if (!padding_of(node, &padding))
        return false;
    Value *value = node_value(node, 0);
    int rank = node->in[0]->shape.rank;
    bool constant = strcmp(padding.mode, "constant") == 0, any = false;
    if (!constant && strcmp(padding.mode, "reflect") != 0 && strcmp(padding.mode, "edge") != 0 &&
        !(strcmp(padding.mode, "wrap") == 0 && node->since >= 19))
        return node_refuse(node, "attribute 'mode' is '%s'", padding.mode);
    for (int i = 0; i < rank && value != NULL; i++) {
        int64_t cut_low = padding.low[i] < 0 ? -padding.low[i] : 0, cut_high = padding.high[i] < 0 ? -padding.high[i] : 0;
        value = node_slice(node, value, i, cut_low, value->shape.dim[i] - cut_low - cut_high);
        padding.low[i] += cut_low;
        padding.high[i] += cut_high;
        any = any || padding.low[i] > 0 || padding.high[i] > 0;
    }
    if (!any || value == NULL)
        return node_set(node, 0, value);
    if (!constant)
        return node_set(node, 0, pad_with_borders(node, value, &padding));
    int64_t interior[MAX_RANK] = {0};
    value = node_emit(node, OP_pad, INPUTS(value),
                      ATTRS(ATTR_L("low", rank, padding.low), ATTR_L("high", rank, padding.high), ATTR_L("interior", rank, interior)));
    if (value != NULL && padding.value != 0)
        value = node_emit(node, OP_add, INPUTS(value, frame(node, value->shape, &padding)), NO_ATTRS);
    return node_set(node, 0, value);
}
