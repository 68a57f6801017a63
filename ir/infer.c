/* Shape inference: one hook a row of ops.def; windows and convolutions are in infer_window.c.
 * Before: inputs have shapes, attributes are set. After: the outputs exist, with shapes; integer ones with type and bound. */
#include "ir/infer.h"
#include "ir/functions.h"
#include "ir/ir.h"

#include <stdarg.h>
#include <string.h>

bool infer_refuse(const Node *node, Diag *diag, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char text[256];
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    diag_error(diag, &node->origin, "%s: %s", op_info(node->op)->name, text);
    return false;
}

bool infer_out(Node *node, int k, Shape shape) {
    /* Moves of labels and masks give labels and masks. */
    if (op_info(node->op)->kind == KIND_MOVE && node->in[0]->integer) {
        const Value *widest = node->in[0];
        for (int i = 1; i < node->in_count; i++)
            widest = node->in[i]->bound > widest->bound ? node->in[i] : widest;
        return infer_integer_out(node, k, shape, widest->type, widest->bound);
    }
    node->out[k] = graph_value(node->graph, VALUE_NODE, NULL, shape);
    return true;
}

bool infer_integer_out(Node *node, int k, Shape shape, Type type, int64_t bound) {
    node->out[k] = graph_integer(node->graph, VALUE_NODE, NULL, shape, type, bound);
    return true;
}

const int64_t *infer_list(const Node *node, Diag *diag, const char *name, int count, int64_t least) {
    int n;
    const int64_t *list = attr_ints(node, name, &n);
    if (n != count) {
        infer_refuse(node, diag, "attribute %s has %d entries, expected %d", name, n, count);
        return NULL;
    }
    for (int i = 0; i < n; i++)
        if (list[i] < least) {
            infer_refuse(node, diag, "attribute %s holds %lld, expected at least %lld", name, (long long)list[i], (long long)least);
            return NULL;
        }
    /* An empty list is stored without a pointer. */
    static const int64_t none[1];
    return list != NULL ? list : none;
}

static const char *text(const Node *node, Shape shape) {
    return shape_text(node->graph->arena, shape);
}

static int axis_of(const Node *node, Diag *diag) {
    int64_t axis = attr_int(node, "axis", -1);
    if (axis >= 0 && axis < node->in[0]->shape.rank)
        return (int)axis;
    infer_refuse(node, diag, "axis %lld of %s", (long long)axis, text(node, node->in[0]->shape));
    return -1;
}

bool infer_same(Node *node, Diag *diag) {
    if (attr_find(node, "axis") != NULL && axis_of(node, diag) < 0)
        return false;
    if ((node->op == OP_softmax_grad || node->op == OP_log_softmax_grad) && !shape_equal(node->in[0]->shape, node->in[1]->shape))
        return infer_refuse(node, diag, "gradient %s does not fit %s", text(node, node->in[0]->shape), text(node, node->in[1]->shape));
    return infer_out(node, 0, node->in[0]->shape);
}

bool infer_function(Node *node, Diag *diag) {
    const char *name = attr_text(node, "function", "");
    const Function *function = function_find(name);
    if (function == NULL || (node->op != OP_curve_grad && (function->form == FORM_GATED) != (node->op == OP_gated)))
        return infer_refuse(node, diag, "function \"%s\" is not known", name);
    if (node->in_count == 2 && !shape_equal(node->in[0]->shape, node->in[1]->shape))
        return infer_refuse(node, diag, "gradient %s does not fit %s", text(node, node->in[0]->shape), text(node, node->in[1]->shape));
    return infer_out(node, 0, node->in[0]->shape);
}

bool infer_mask(Node *node, Diag *diag) {
    (void)diag;
    return infer_integer_out(node, 0, node->in[0]->shape, T_I8, 1);
}

bool infer_broadcast(Node *node, Diag *diag) {
    Shape shape;
    if (!shape_broadcast(node->in[0]->shape, node->in[1]->shape, &shape))
        return infer_refuse(node, diag, "shapes %s and %s do not broadcast", text(node, node->in[0]->shape),
                            text(node, node->in[1]->shape));
    return infer_out(node, 0, shape);
}

bool infer_masks(Node *node, Diag *diag) {
    Shape shape;
    if (!shape_broadcast(node->in[0]->shape, node->in[1]->shape, &shape))
        return infer_refuse(node, diag, "shapes %s and %s do not broadcast", text(node, node->in[0]->shape),
                            text(node, node->in[1]->shape));
    return infer_integer_out(node, 0, shape, T_I8, 1);
}

/* The mask broadcasts to the other operand. */
bool infer_masked(Node *node, Diag *diag) {
    Shape x = node->in[0]->shape, shape;
    if (axis_of(node, diag) < 0)
        return false;
    if (!shape_broadcast(x, node->in[1]->shape, &shape) || !shape_equal(shape, x))
        return infer_refuse(node, diag, "mask %s does not broadcast to %s", text(node, node->in[1]->shape), text(node, x));
    return infer_out(node, 0, x);
}

bool infer_variance(Node *node, Diag *diag) {
    if (!shape_equal(node->in[0]->shape, node->in[1]->shape))
        return infer_refuse(node, diag, "sums %s and %s differ", text(node, node->in[0]->shape), text(node, node->in[1]->shape));
    return infer_out(node, 0, node->in[0]->shape);
}

bool infer_code(Node *node, Diag *diag) {
    (void)diag;
    return infer_integer_out(node, 0, node->in[0]->shape, T_I32, bound_code(node));
}

/* Statistics have the shape of x with 1 along what they were taken over. */
static bool statistics_fit(const Node *node, Diag *diag, Shape x, int first, int count) {
    for (int i = first; i < first + count; i++) {
        Shape shape = node->in[i]->shape, both;
        if (shape.rank != x.rank || !shape_broadcast(x, shape, &both) || !shape_equal(both, x) ||
            !shape_equal(shape, node->in[first]->shape))
            return infer_refuse(node, diag, "statistics %s do not fit %s", text(node, shape), text(node, x));
    }
    return true;
}

static bool scale_fits(const Node *node, Diag *diag, Shape x, int i) {
    Shape both;
    if (i < node->in_count && (!shape_broadcast(x, node->in[i]->shape, &both) || !shape_equal(both, x)))
        return infer_refuse(node, diag, "scale %s does not fit %s", text(node, node->in[i]->shape), text(node, x));
    return true;
}

bool infer_normalize(Node *node, Diag *diag) {
    Shape x = node->in[0]->shape;
    return statistics_fit(node, diag, x, 1, 2) && scale_fits(node, diag, x, 3) && infer_out(node, 0, x);
}

bool infer_norm_line(Node *node, Diag *diag) {
    Shape code = node->in[0]->shape;
    if (attr_int(node, "part", 0) > 2)
        return infer_refuse(node, diag, "part %lld, expected 0 to 2", (long long)attr_int(node, "part", 0));
    return statistics_fit(node, diag, code, 0, 4) && infer_out(node, 0, code);
}

bool infer_norm_apply(Node *node, Diag *diag) {
    Shape x = node->in[0]->shape;
    return statistics_fit(node, diag, x, 1, 3) && infer_out(node, 0, x);
}

bool infer_norm_dot(Node *node, Diag *diag) {
    Shape sum = node->in[0]->shape;
    return statistics_fit(node, diag, sum, 0, 4) && infer_out(node, 0, sum);
}

bool infer_norm_slope(Node *node, Diag *diag) {
    Shape code = node->in[0]->shape;
    if (attr_int(node, "part", 0) > 3)
        return infer_refuse(node, diag, "part %lld, expected 0 to 3", (long long)attr_int(node, "part", 0));
    return statistics_fit(node, diag, code, 0, 4) && scale_fits(node, diag, code, 4) && infer_out(node, 0, code);
}

bool infer_norm_grad(Node *node, Diag *diag) {
    Shape x = node->in[1]->shape;
    if (!shape_equal(node->in[0]->shape, x))
        return infer_refuse(node, diag, "gradient %s does not fit %s", text(node, node->in[0]->shape), text(node, x));
    return statistics_fit(node, diag, x, 2, 4) && infer_out(node, 0, x);
}

bool infer_bias(Node *node, Diag *diag) {
    int axis = axis_of(node, diag);
    if (axis < 0)
        return false;
    if (node->in[1]->shape.rank != 1 || node->in[1]->shape.dim[0] != node->in[0]->shape.dim[axis])
        return infer_refuse(node, diag, "bias %s does not fit axis %d of %s", text(node, node->in[1]->shape), axis,
                            text(node, node->in[0]->shape));
    return infer_out(node, 0, node->in[0]->shape);
}

bool infer_weighted_sum(Node *node, Diag *diag) {
    if (node->in_count % 2 != 0)
        return infer_refuse(node, diag, "%d inputs, expected pairs of tensor and scalar", node->in_count);
    for (int i = 0; i < node->in_count; i += 2) {
        if (!shape_equal(node->in[i]->shape, node->in[0]->shape))
            return infer_refuse(node, diag, "term %d is %s, expected %s", i / 2, text(node, node->in[i]->shape),
                                text(node, node->in[0]->shape));
        if (shape_elements(node->in[i + 1]->shape) != 1)
            return infer_refuse(node, diag, "coefficient %d is no scalar", i / 2);
    }
    return infer_out(node, 0, node->in[0]->shape);
}

static bool shape_attr(Node *node, Diag *diag, Shape *shape) {
    int rank;
    const int64_t *dims = attr_ints(node, "shape", &rank);
    if (rank > MAX_RANK)
        return infer_refuse(node, diag, "rank %d, at most %d", rank, MAX_RANK);
    for (int i = 0; i < rank; i++)
        if (dims[i] < 0)
            return infer_refuse(node, diag, "dimension %lld in shape", (long long)dims[i]);
    *shape = shape_of(rank, dims);
    return true;
}

bool infer_random_mask(Node *node, Diag *diag) {
    Shape shape;
    return shape_attr(node, diag, &shape) && infer_integer_out(node, 0, shape, T_I8, 1);
}

bool infer_random_normal(Node *node, Diag *diag) {
    Shape shape;
    if (!shape_attr(node, diag, &shape))
        return false;
    node->out[0] = graph_value(node->graph, VALUE_NODE, NULL, shape);
    return true;
}

bool infer_matmul(Node *node, Diag *diag) {
    Shape a = node->in[0]->shape, b = node->in[1]->shape, lead;
    if (a.rank < 2 || b.rank < 2)
        return infer_refuse(node, diag, "operands %s and %s, expected at least two dimensions each", text(node, a), text(node, b));
    bool ta = attr_int(node, "ta", 0) != 0, tb = attr_int(node, "tb", 0) != 0;
    int64_t m = a.dim[a.rank - (ta ? 1 : 2)], ka = a.dim[a.rank - (ta ? 2 : 1)];
    int64_t kb = b.dim[b.rank - (tb ? 1 : 2)], n = b.dim[b.rank - (tb ? 2 : 1)];
    if (!shape_broadcast(shape_of(a.rank - 2, a.dim), shape_of(b.rank - 2, b.dim), &lead) || ka != kb)
        return infer_refuse(node, diag, "operands %s and %s do not fit", text(node, a), text(node, b));
    lead.dim[lead.rank++] = m;
    lead.dim[lead.rank++] = n;
    return infer_out(node, 0, lead);
}

bool infer_reduce(Node *node, Diag *diag) {
    int count;
    const int64_t *axes = attr_ints(node, "axes", &count);
    Shape in = node->in[0]->shape, out = {0};
    bool reduced[MAX_RANK] = {false};
    for (int i = 0; i < count; i++) {
        if (axes[i] < 0 || axes[i] >= in.rank || reduced[axes[i]])
            return infer_refuse(node, diag, "axis %lld of %s", (long long)axes[i], text(node, in));
        reduced[axes[i]] = true;
    }
    bool keep = attr_int(node, "keepdims", 1) != 0;
    for (int i = 0; i < in.rank; i++)
        if (!reduced[i])
            out.dim[out.rank++] = in.dim[i];
        else if (keep)
            out.dim[out.rank++] = 1;
    return infer_out(node, 0, out);
}

bool infer_reshape(Node *node, Diag *diag) {
    Shape shape;
    if (!shape_attr(node, diag, &shape))
        return false;
    if (shape_elements(shape) != shape_elements(node->in[0]->shape))
        return infer_refuse(node, diag, "%s has other elements than %s", text(node, node->in[0]->shape), text(node, shape));
    return infer_out(node, 0, shape);
}

bool infer_transpose(Node *node, Diag *diag) {
    Shape in = node->in[0]->shape, out = in;
    const int64_t *perm = infer_list(node, diag, "perm", in.rank, 0);
    if (perm == NULL)
        return false;
    bool seen[MAX_RANK] = {false};
    for (int i = 0; i < in.rank; i++) {
        if (perm[i] >= in.rank || seen[perm[i]])
            return infer_refuse(node, diag, "perm is no permutation");
        seen[perm[i]] = true;
        out.dim[i] = in.dim[perm[i]];
    }
    return infer_out(node, 0, out);
}

bool infer_slice(Node *node, Diag *diag) {
    Shape in = node->in[0]->shape, out;
    const int64_t *starts = infer_list(node, diag, "starts", in.rank, 0), *steps = infer_list(node, diag, "steps", in.rank, 1);
    if (starts == NULL || steps == NULL || !shape_attr(node, diag, &out))
        return false;
    if (out.rank != in.rank)
        return infer_refuse(node, diag, "shape %s of a slice of %s", text(node, out), text(node, in));
    for (int i = 0; i < in.rank; i++) {
        int64_t last;
        if (out.dim[i] > 0 && (__builtin_mul_overflow(out.dim[i] - 1, steps[i], &last) || __builtin_add_overflow(last, starts[i], &last) ||
                               last >= in.dim[i]))
            return infer_refuse(node, diag, "dimension %d leaves %s", i, text(node, in));
    }
    return infer_out(node, 0, out);
}

bool infer_pad(Node *node, Diag *diag) {
    Shape in = node->in[0]->shape, out = in;
    const int64_t *low = infer_list(node, diag, "low", in.rank, 0), *high = infer_list(node, diag, "high", in.rank, 0);
    const int64_t *interior = infer_list(node, diag, "interior", in.rank, 0);
    if (low == NULL || high == NULL || interior == NULL)
        return false;
    for (int i = 0; i < in.rank; i++) {
        int64_t gaps = in.dim[i] > 0 ? in.dim[i] - 1 : 0, size;
        if (__builtin_mul_overflow(gaps, interior[i], &size) || __builtin_add_overflow(size, in.dim[i], &size) ||
            __builtin_add_overflow(size, low[i], &size) || __builtin_add_overflow(size, high[i], &size))
            return infer_refuse(node, diag, "padding of dimension %d is too large", i);
        out.dim[i] = size;
    }
    return infer_out(node, 0, out);
}

bool infer_expand(Node *node, Diag *diag) {
    Shape shape, result;
    if (!shape_attr(node, diag, &shape))
        return false;
    if (!shape_broadcast(node->in[0]->shape, shape, &result) || !shape_equal(result, shape))
        return infer_refuse(node, diag, "%s does not broadcast to %s", text(node, node->in[0]->shape), text(node, shape));
    return infer_out(node, 0, shape);
}

bool infer_concat(Node *node, Diag *diag) {
    int axis = axis_of(node, diag);
    if (axis < 0)
        return false;
    Shape out = node->in[0]->shape;
    for (int i = 1; i < node->in_count; i++) {
        Shape in = node->in[i]->shape;
        bool fits = in.rank == out.rank;
        for (int k = 0; fits && k < in.rank; k++)
            fits = k == axis || in.dim[k] == out.dim[k];
        if (!fits)
            return infer_refuse(node, diag, "%s does not fit %s along axis %d", text(node, in), text(node, out), axis);
        out.dim[axis] += in.dim[axis];
    }
    return infer_out(node, 0, out);
}

/* The shape of x with the dimensions of the indices in place of axis. */
static bool gathered(Node *node, Diag *diag, Shape x, Shape index, Shape *out) {
    int64_t axis = attr_int(node, "axis", -1);
    if (axis < 0 || axis >= x.rank || x.rank - 1 + index.rank > MAX_RANK)
        return infer_refuse(node, diag, "axis %lld of %s with indices %s", (long long)axis, text(node, x), text(node, index));
    out->rank = x.rank - 1 + index.rank;
    for (int k = 0; k < out->rank; k++)
        out->dim[k] = k < axis ? x.dim[k] : k < axis + index.rank ? index.dim[k - axis] : x.dim[k - index.rank + 1];
    return true;
}

bool infer_gather(Node *node, Diag *diag) {
    Shape out;
    const Value *x = node->in[0];
    if (!gathered(node, diag, x->shape, node->in[1]->shape, &out))
        return false;
    if (x->integer)
        return infer_integer_out(node, 0, out, x->type, x->bound);
    node->out[0] = graph_value(node->graph, VALUE_NODE, NULL, out);
    return true;
}

bool infer_gather_grad(Node *node, Diag *diag) {
    Shape shape, dy;
    if (!shape_attr(node, diag, &shape) || !gathered(node, diag, shape, node->in[1]->shape, &dy))
        return false;
    if (!shape_equal(dy, node->in[0]->shape))
        return infer_refuse(node, diag, "gradient %s, expected %s", text(node, node->in[0]->shape), text(node, dy));
    return infer_out(node, 0, shape);
}

bool infer_places(Node *node, Diag *diag) {
    const Value *t = node->in[0];
    Shape out = t->shape;
    if (!t->integer || out.rank == 0 || out.dim[out.rank - 1] > MAX_RANK)
        return infer_refuse(node, diag, "indices %s, expected integers with their tuples in the last dimension", text(node, out));
    int count = (int)out.dim[--out.rank];
    const int64_t *sizes = infer_list(node, diag, "sizes", count, 0), *strides = infer_list(node, diag, "strides", count, 0);
    const int64_t *steps = infer_list(node, diag, "steps", out.rank, 0);
    if (sizes == NULL || strides == NULL || steps == NULL)
        return false;
    /* A product of two attributes is below 2^62. */
    int64_t bound = 0;
    for (int k = 0; k < count && bound <= INT32_MAX; k++)
        bound += sizes[k] > 0 ? (sizes[k] - 1) * strides[k] : 0;
    for (int d = 0; d < out.rank && bound <= INT32_MAX; d++)
        bound += out.dim[d] > 0 ? (out.dim[d] - 1) * steps[d] : 0;
    if (bound > INT32_MAX)
        return infer_refuse(node, diag, "places reach %lld, beyond 32 bits", (long long)bound);
    bound = bound > 0 ? bound : 1; /* -1 is a value too */
    return infer_integer_out(node, 0, out, type_for_bound(bound), bound);
}

/* The shape of labels for scores of shape x: x without its axis. */
static Shape without_axis(Shape x, int axis) {
    Shape shape = {0};
    for (int i = 0; i < x.rank; i++)
        if (i != axis)
            shape.dim[shape.rank++] = x.dim[i];
    return shape;
}

bool infer_labelled(Node *node, Diag *diag) {
    int axis = axis_of(node, diag);
    if (axis < 0)
        return false;
    Shape labels = without_axis(node->in[0]->shape, axis);
    if (!shape_equal(labels, node->in[1]->shape))
        return infer_refuse(node, diag, "labels %s, expected %s", text(node, node->in[1]->shape), text(node, labels));
    return infer_out(node, 0, labels);
}

bool infer_argmax(Node *node, Diag *diag) {
    int axis = axis_of(node, diag);
    if (axis < 0)
        return false;
    int64_t last = node->in[0]->shape.dim[axis] - 1;
    if (last < 0)
        return infer_refuse(node, diag, "axis %d of %s is empty", axis, text(node, node->in[0]->shape));
    return infer_integer_out(node, 0, without_axis(node->in[0]->shape, axis), last <= 127 ? T_I8 : last <= 32767 ? T_I16 : T_I32, last);
}

bool infer_pick_grad(Node *node, Diag *diag) {
    Shape shape;
    if (!shape_attr(node, diag, &shape))
        return false;
    int64_t axis = attr_int(node, "axis", -1);
    if (axis < 0 || axis >= shape.rank || !shape_equal(without_axis(shape, (int)axis), node->in[1]->shape) ||
        !shape_equal(node->in[0]->shape, node->in[1]->shape))
        return infer_refuse(node, diag, "labels %s do not fit axis %lld of %s", text(node, node->in[1]->shape), (long long)axis,
                            text(node, shape));
    return infer_out(node, 0, shape);
}

bool infer_label_weight(Node *node, Diag *diag) {
    if (node->in_count == 2 && node->in[1]->shape.rank != 1)
        return infer_refuse(node, diag, "weights %s, expected one dimension", text(node, node->in[1]->shape));
    return infer_out(node, 0, node->in[0]->shape);
}

bool infer_count_correct(Node *node, Diag *diag) {
    int axis = axis_of(node, diag);
    if (axis < 0)
        return false;
    if (!shape_equal(without_axis(node->in[0]->shape, axis), node->in[1]->shape))
        return infer_refuse(node, diag, "labels %s for scores %s", text(node, node->in[1]->shape), text(node, node->in[0]->shape));
    return infer_integer_out(node, 0, (Shape){0}, T_I64, INT64_MAX);
}
