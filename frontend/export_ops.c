/* ONNX out, int8: operators on float64 tensors that hold integer mantissas, and moves of any tensor. Before: an operator of the inference
 * graph whose inputs can be exported. After: nodes that compute output 0 exactly as docs/operators.md says; every intermediate result is an
 * integer below 2^53 or a power-of-two multiple of one. */
#include "frontend/export.h"
#include "runtime/fixed.h"

#include <math.h>
#include <string.h>

const char *ex_power_of_two(Exporter *x, int exponent) {
    return ex_f64(x, ldexp(1.0, exponent));
}

const char *ex_round(Exporter *x, const char *in, const char *factor) {
    return EMIT(x, "Round", EMIT(x, "Mul", in, factor));
}

const char *ex_floor(Exporter *x, const char *in, int shift) {
    return EMIT(x, "Floor", EMIT(x, "Mul", in, ex_power_of_two(x, -shift)));
}

const char *ex_to_double(Exporter *x, const char *in) {
    return ex_cast(x, in, ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE);
}

const char *ex_summed(Exporter *x, const char *in, int count, const int64_t *axes, bool keep) {
    Onnx__NodeProto *out = ex_node(x, "ReduceSum", EX_NAMES(in, ex_i64s(x, count, axes)));
    ex_attr_int(x, out, "keepdims", keep);
    return ex_output(out);
}

/* --- integers in int64 --- */

const char *ex_i64(Exporter *x, int64_t value) {
    return ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, (Shape){0}, &value, sizeof value);
}

const char *ex_whole(Exporter *x, const char *in) {
    return ex_cast(x, in, ONNX__TENSOR_PROTO__DATA_TYPE__INT64);
}

const char *ex_divide_even(Exporter *x, const char *a, const char *b) {
    const char *size = EMIT(x, "Abs", a), *quotient = EMIT(x, "Div", size, b), *two = ex_i64(x, 2);
    const char *rest = EMIT(x, "Sub", size, EMIT(x, "Mul", quotient, b));
    const char *twice = EMIT(x, "Add", EMIT(x, "Mul", rest, two), EMIT(x, "Mod", quotient, two));
    return EMIT(x, "Mul", EMIT(x, "Add", quotient, ex_whole(x, EMIT(x, "Greater", twice, b))), EMIT(x, "Sign", a));
}

/* How many powers of two they reach. */
const char *ex_bit_length(Exporter *x, const char *in, int rank) {
    int64_t powers[EX_LONGEST], last = rank;
    for (int k = 0; k < EX_LONGEST; k++)
        powers[k] = (int64_t)1 << k;
    const char *column = EMIT(x, "Unsqueeze", in, ex_i64s(x, 1, &last));
    const char *reached = EMIT(x, "GreaterOrEqual", column, ex_i64s(x, EX_LONGEST, powers));
    return ex_summed(x, ex_whole(x, reached), 1, &last, false);
}

/* --- exponents of sums --- */

static int ceil_log2(int64_t n) {
    return intc_bit_length((uint64_t)(n - 1));
}

int ex_aligned_exponent(Exporter *x, const Node *node, bool first) {
    int g = node->op == OP_concat ? 0 : ceil_log2(node->in_count), least = -1, most = -1;
    for (int i = 0; i < node->in_count; i++) {
        int e = ex_exponent_of(x, node->in[i]);
        int top = ex_sum(x, e, ex_constant(x, 0), intc_bit_length((uint64_t)node->in[i]->bound) + g - node_align_bits(node));
        least = i == 0 ? e : first ? least : ex_smaller(x, least, e);
        most = i == 0 ? top : ex_larger(x, most, top);
    }
    return ex_larger(x, least, most);
}

/* Input i at the exponent of the output. */
static const char *aligned(Exporter *x, const Node *node, int i) {
    int from = ex_exponent_of(x, node->in[i]), to = ex_exponent_of(x, node->out[0]);
    const char *wide = ex_wide(x, node->in[i]);
    return from == to ? wide : ex_round(x, wide, ex_power(x, from, to, 0));
}

/* --- bounds --- */

enum { EXACT_BITS = 53, SLOPE_BITS = 24, EXP_BITS = 42 };

/* The terms of a sum stay within the bits, or the model's conditions fail. Static bounds of sums allow for terms of very different
 * exponents. */
static int sum_bits(Exporter *x, const Node *sum, int bits) {
    int e = ex_exponent_of(x, sum->out[0]), term = bits - (sum->op == OP_concat ? 0 : ceil_log2(sum->in_count));
    for (int i = 0; i < sum->in_count; i++) {
        int own = ex_bits(x, sum->in[i]);
        if (own == 0)
            return 0;
        ex_condition(x, ex_difference(x, ex_exponent_of(x, sum->in[i]), e, 0), INTC_EXPONENT_ZERO, term - own,
                     arena_printf(x->arena, "%s: its terms differ too much for exact arithmetic in float64", ex_label(x, sum)));
    }
    return bits;
}

static bool is_sum(const Value *value) {
    ExponentRule rule = value->kind == VALUE_NODE ? op_info(value->def->op)->exponent : RULE_NONE;
    return (rule == RULE_ALIGN || rule == RULE_FIRST) && value->def->op != OP_weighted_sum;
}

static int node_bits(Exporter *x, const Node *node) {
    const Value *in = node->in[0];
    if (node->op == OP_relu || node->op == OP_clip || node->op == OP_neg || node->op == OP_abs || node->op == OP_gate ||
        node->op == OP_pick || ex_is_move(node->op))
        return ex_bits(x, in);
    if (is_sum(node->out[0]))
        return sum_bits(x, node, EXACT_BITS);
    if (node->op == OP_exp) { /* e^8 and 30 fraction bits */
        int reach = ex_sum(x, ex_exponent_of(x, in), ex_constant(x, 0), intc_bit_length((uint64_t)in->bound - 1));
        ex_condition(x, reach, INTC_EXPONENT_ZERO, 3,
                     arena_printf(x->arena, "%s: its values are too large for exact arithmetic in float64", ex_label(x, node)));
        return EXP_BITS;
    }
    if (node->op != OP_leaky_relu || fabs(attr_real(node, "alpha", 0)) > 1)
        return 0;
    int own = ex_bits(x, in);
    if (own > 0 && own + SLOPE_BITS <= EXACT_BITS)
        return own + SLOPE_BITS;
    return is_sum(in) && sum_bits(x, in->def, EXACT_BITS - 1 - SLOPE_BITS) > 0 ? EXACT_BITS - 1 : 0;
}

int ex_bits(Exporter *x, const Value *value) {
    Exported *known = &x->values[value->id];
    if (known->bits == 0) {
        int bits = intc_bit_length((uint64_t)value->bound);
        known->bits = 1 + (bits <= EXACT_BITS ? bits : value->kind == VALUE_NODE ? node_bits(x, value->def) : 0);
    }
    return known->bits - 1;
}

/* --- moves --- */

bool ex_is_move(Op op) {
    return op == OP_reshape || op == OP_transpose || op == OP_slice || op == OP_pad || op == OP_reverse || op == OP_broadcast ||
           op == OP_gather || op == OP_maxpool;
}

static const char *reshaped(Exporter *x, const char *in, Shape shape) {
    return EMIT(x, "Reshape", in, ex_i64s(x, shape.rank, shape.dim));
}

/* Dimensions that keep all elements are left out, so that rows need no number. */
static const char *slice(Exporter *x, const Node *node, const char *in) {
    int n, used = 0;
    const int64_t *starts = attr_ints(node, "starts", &n), *steps = attr_ints(node, "steps", &n);
    const Shape *from = &node->in[0]->shape, *out = &node->out[0]->shape;
    int64_t start[MAX_RANK], end[MAX_RANK], axis[MAX_RANK], step[MAX_RANK];
    for (int i = 0; i < n; i++) {
        if (out->dim[i] == from->dim[i])
            continue;
        start[used] = starts[i];
        end[used] = out->dim[i] == 0 ? starts[i] : starts[i] + (out->dim[i] - 1) * steps[i] + 1;
        axis[used] = i;
        step[used++] = steps[i];
    }
    if (used == 0)
        return in;
    return EMIT(x, "Slice", in, ex_i64s(x, used, start), ex_i64s(x, used, end), ex_i64s(x, used, axis), ex_i64s(x, used, step));
}

static const char *pad(Exporter *x, const Node *node, const char *in) {
    int n;
    const int64_t *low = attr_ints(node, "low", &n), *high = attr_ints(node, "high", &n), *interior = attr_ints(node, "interior", &n);
    int64_t pads[2 * MAX_RANK];
    for (int i = 0; i < n; i++) {
        if (interior[i] != 0)
            return ex_refuse(x, node, "padding between elements has no int8 form");
        pads[i] = low[i];
        pads[n + i] = high[i];
    }
    return EMIT(x, "Pad", in, ex_i64s(x, 2 * n, pads));
}

static const char *reverse(Exporter *x, const Node *node, const char *in) {
    int n;
    const int64_t *axes = attr_ints(node, "axes", &n);
    int64_t starts[MAX_RANK], ends[MAX_RANK], steps[MAX_RANK];
    for (int i = 0; i < n; i++) {
        starts[i] = INT32_MAX;
        ends[i] = INT64_MIN + 1;
        steps[i] = -1;
    }
    return EMIT(x, "Slice", in, ex_i64s(x, n, starts), ex_i64s(x, n, ends), ex_i64s(x, n, axes), ex_i64s(x, n, steps));
}

/* True if some window of the pool lies wholly in the padding along a dimension. */
static bool empty_window(const Node *node) {
    int n;
    const int64_t *kernel = attr_ints(node, "kernel", &n), *strides = attr_ints(node, "strides", &n), *pads = attr_ints(node, "pads", &n);
    const int64_t *dilations = attr_ints(node, "dilations", &n);
    for (int d = 0; d < node->in[0]->shape.rank - 2; d++)
        for (int64_t p = 0; p < node->out[0]->shape.dim[d + 2]; p++) {
            bool any = false;
            for (int64_t k = 0; k < kernel[d]; k++) {
                int64_t at = p * strides[d] - pads[d] + k * dilations[d];
                any = any || (at >= 0 && at < node->in[0]->shape.dim[d + 2]);
            }
            if (!any)
                return true;
        }
    return false;
}

static void window_attributes(Exporter *x, Onnx__NodeProto *out, const Node *node) {
    static const char *const names[][2] = {
        {"kernel", "kernel_shape"}, {"strides", "strides"}, {"pads", "pads"}, {"dilations", "dilations"}};
    for (int i = 0; i < 4; i++) {
        int count;
        const int64_t *values = attr_ints(node, names[i][0], &count);
        ex_attr_ints(x, out, names[i][1], count, values);
    }
}

static const char *maxpool(Exporter *x, const Node *node, const char *in) {
    if (empty_window(node))
        return ex_refuse(x, node, "a window lies wholly in the padding");
    Onnx__NodeProto *out = ex_node(x, "MaxPool", EX_NAMES(in));
    window_attributes(x, out, node);
    return ex_output(out);
}

/* A zero behind the last element along the axis, at the place -1. */
static const char *with_zero(Exporter *x, const char *in, int axis, int rank) {
    int64_t pads[2 * MAX_RANK] = {0};
    pads[rank + axis] = 1;
    return EMIT(x, "Pad", in, ex_i64s(x, 2 * rank, pads));
}

/* 0 where an index is out of range. The runtime refuses those of an input; computed ones are -1 there. */
static const char *gather(Exporter *x, const Node *node, const char *in) {
    const Value *index = node->in[1];
    int axis = (int)attr_int(node, "axis", 0);
    int64_t size = node->in[0]->shape.dim[axis];
    const char *places = NULL;
    if (index->kind == VALUE_CONST) {
        size_t count = (size_t)shape_elements(index->shape);
        int64_t *known = arena_alloc(x->arena, count, sizeof *known);
        bool outside = false;
        for (size_t i = 0; i < count; i++) {
            known[i] = index->mantissa[i] < 0 || index->mantissa[i] >= size ? -1 : index->mantissa[i];
            outside = outside || known[i] < 0;
        }
        in = outside ? with_zero(x, in, axis, node->in[0]->shape.rank) : in;
        places = ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, index->shape, known, count * sizeof *known);
    } else if (index->bound >= size) {
        return ex_refuse(x, node, "indices '%s' may be out of range", index->name);
    } else {
        in = index->kind == VALUE_NODE ? with_zero(x, in, axis, node->in[0]->shape.rank) : in;
        places = ex_index(x, index);
    }
    Onnx__NodeProto *out = ex_node(x, "Gather", EX_NAMES(in, places));
    ex_attr_int(x, out, "axis", axis);
    return ex_output(out);
}

/* int64, -1 where an index is out of range. */
const char *ex_places(Exporter *x, const Node *node) {
    int count, rank;
    const int64_t *sizes = attr_ints(node, "sizes", &count), *strides = attr_ints(node, "strides", &count);
    const int64_t *steps = attr_ints(node, "steps", &rank);
    Shape shape = node->out[0]->shape;
    int64_t n = shape_elements(shape), last = rank;
    int64_t *offset = arena_alloc(x->arena, (size_t)n, sizeof *offset);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i;
        for (int d = rank - 1; d >= 0; d--) {
            offset[i] += rest % shape.dim[d] * steps[d];
            rest /= shape.dim[d];
        }
    }
    const char *t = ex_index(x, node->in[0]), *size = ex_i64s(x, count, sizes), *zero = ex_i64(x, 0);
    t = EMIT(x, "Where", EMIT(x, "Less", t, zero), EMIT(x, "Add", t, size), t);
    const char *outside = EMIT(x, "Or", EMIT(x, "Less", t, zero), EMIT(x, "GreaterOrEqual", t, size));
    outside = EMIT(x, "Greater", ex_summed(x, ex_whole(x, outside), 1, &last, false), zero);
    const char *place = ex_summed(x, EMIT(x, "Mul", t, ex_i64s(x, count, strides)), 1, &last, false);
    place = EMIT(x, "Add", place, ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, shape, offset, (size_t)n * sizeof *offset));
    return EMIT(x, "Where", outside, ex_i64(x, -1), place);
}

const char *ex_move(Exporter *x, const Node *node, const char *in) {
    Shape shape = node->out[0]->shape;
    bool rows = x->any_rows && x->data[node->in[0]->id];
    int n;
    switch (node->op) {
    case OP_reshape: /* 0: as in the input */
        shape.dim[0] = rows ? 0 : shape.dim[0];
        return reshaped(x, in, shape);
    case OP_transpose: {
        const int64_t *perm = attr_ints(node, "perm", &n);
        Onnx__NodeProto *out = ex_node(x, "Transpose", EX_NAMES(in));
        ex_attr_ints(x, out, "perm", n, perm);
        return ex_output(out);
    }
    case OP_slice:
        return slice(x, node, in);
    case OP_pad:
        return pad(x, node, in);
    case OP_reverse:
        return reverse(x, node, in);
    case OP_broadcast: /* 1: as in the input, if that is larger */
        shape.dim[0] = rows ? 1 : shape.dim[0];
        return EMIT(x, "Expand", in, ex_i64s(x, shape.rank, shape.dim));
    case OP_gather:
        return gather(x, node, in);
    case OP_maxpool:
        return maxpool(x, node, in);
    default:
        internal_error("%s is no move", op_info(node->op)->name);
    }
}

/* --- pointwise --- */

const char *ex_limit(Exporter *x, const Node *node, const char *name) {
    if (attr_find(node, name) == NULL || isinf(attr_real(node, name, 0)))
        return NULL;
    const char *factor = ex_power(x, ex_constant(x, 0), ex_exponent_of(x, node->in[0]), 0);
    return ex_round(x, ex_f64(x, attr_real(node, name, 0)), factor);
}

static const char *clip(Exporter *x, const Node *node) {
    const char *in = ex_wide(x, node->in[0]), *low = ex_limit(x, node, "min"), *high = ex_limit(x, node, "max");
    return EMIT(x, "Clip", in, low != NULL ? low : "", high != NULL ? high : "");
}

/* Numbers of channels that broadcast along the axis of a tensor of so many dimensions. */
static const char *along(Exporter *x, const char *numbers, int64_t channels, int64_t axis, int rank) {
    Shape shape = {.rank = rank};
    for (int i = 0; i < rank; i++)
        shape.dim[i] = i == axis ? channels : 1;
    return reshaped(x, numbers, shape);
}

static const char *bias(Exporter *x, const Node *node) {
    const char *in = aligned(x, node, 0), *b = aligned(x, node, 1);
    return EMIT(x, "Add", in, along(x, b, node->in[1]->shape.dim[0], attr_int(node, "axis", 1), node->out[0]->shape.rank));
}

const char *ex_powers_of_levels(Exporter *x, const Value *level) {
    const char *whole = ex_round(x, ex_wide(x, level), ex_power(x, ex_exponent_of(x, level), -1, 0));
    return EMIT(x, "Pow", ex_f64(x, 2), EMIT(x, "Clip", whole, ex_f64(x, 0), ex_f64(x, NORM_LEVELS)));
}

static const char *restore(Exporter *x, const Node *node) {
    const char *powers = ex_powers_of_levels(x, node->in[1]);
    powers = along(x, powers, node->in[1]->shape.dim[0], attr_int(node, "axis", 1), node->out[0]->shape.rank);
    return EMIT(x, "Mul", ex_wide(x, node->in[0]), powers);
}

/* a · 2^30 / b is a float64 quotient of integers below 2^46 and 2^16: its distance from a tie, if it is none, is beyond its rounding. */
static const char *divide(Exporter *x, const Node *node) {
    const char *a = ex_wide(x, node->in[0]), *b = ex_wide(x, node->in[1]), *zero = ex_f64(x, 0);
    const char *none = EMIT(x, "Equal", b, zero);
    const char *safe = EMIT(x, "Where", none, ex_f64(x, 1), b);
    const char *quotient = EMIT(x, "Round", EMIT(x, "Div", EMIT(x, "Mul", a, ex_power_of_two(x, 30)), safe));
    const char *most = EMIT(x, "Mul", EMIT(x, "Sign", a), ex_f64(x, (double)node->out[0]->bound));
    return EMIT(x, "Where", none, most, quotient);
}

static const char *leaky(Exporter *x, const Node *node) {
    double slope = nearbyint(ldexp(attr_real(node, "alpha", 0), 24));
    const char *in = ex_wide(x, node->in[0]);
    const char *negative = EMIT(x, "Less", in, ex_f64(x, 0));
    return EMIT(x, "Mul", in, EMIT(x, "Where", negative, ex_f64(x, slope), ex_power_of_two(x, 24)));
}

/* Masks are 0 and 1 in float64. */
static const char *positive(Exporter *x, const Node *node) {
    return ex_to_double(x, EMIT(x, "Greater", ex_wide(x, node->in[0]), ex_f64(x, 0)));
}

static const char *differ(Exporter *x, const Node *node) {
    return EMIT(x, "Abs", EMIT(x, "Sub", ex_wide(x, node->in[0]), ex_wide(x, node->in[1])));
}

/* ConvTranspose on float32: exact where no sum leaves 24 bits. */
static const char *conv_dgrad(Exporter *x, const Node *node) {
    enum { FLOAT_BITS = 24 };
    const Shape *in = &node->in[0]->shape, *w = &node->in[1]->shape, *shape = &node->out[0]->shape;
    int n;
    const int64_t *strides = attr_ints(node, "strides", &n), *dilations = attr_ints(node, "dilations", &n);
    const int64_t *pads = attr_ints(node, "pads", &n);
    int64_t extra[MAX_RANK];
    n = in->rank - 2;
    for (int i = 0; i < n; i++) {
        int64_t reached = strides[i] * (in->dim[i + 2] - 1) + dilations[i] * (w->dim[i + 2] - 1) + 1;
        extra[i] = shape->dim[i + 2] - (reached - pads[i] - pads[n + i]);
        if (extra[i] >= strides[i])
            return ex_refuse(x, node, "its output is longer than its windows");
    }
    if (node->out[0]->bound > (int64_t)1 << FLOAT_BITS)
        return ex_refuse(x, node, "its sums may need more than the 24 bits of float32");
    const char *a = ex_cast(x, ex_narrow(x, node->in[0]), ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT);
    Onnx__NodeProto *out =
        ex_node(x, "ConvTranspose", EX_NAMES(a, ex_cast(x, ex_narrow(x, node->in[1]), ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT)));
    ex_attr_ints(x, out, "strides", n, strides);
    ex_attr_ints(x, out, "dilations", n, dilations);
    ex_attr_ints(x, out, "pads", 2 * n, pads);
    ex_attr_ints(x, out, "output_padding", n, extra);
    ex_attr_int(x, out, "group", attr_int(node, "group", 1));
    return ex_to_double(x, ex_output(out));
}

/* --- reductions --- */

static const char *reduce_sum(Exporter *x, const Node *node) {
    int n;
    const int64_t *axes = attr_ints(node, "axes", &n);
    const char *in = ex_wide(x, node->in[0]);
    return n == 0 ? in : ex_summed(x, in, n, axes, attr_int(node, "keepdims", 1));
}

/* A convolution of each channel with ones. */
static const char *sumpool(Exporter *x, const Node *node) {
    const Value *in = node->in[0];
    int n;
    const int64_t *kernel = attr_ints(node, "kernel", &n);
    int64_t channels = in->shape.dim[1];
    Shape shape = {.rank = n + 2, .dim = {channels, 1}};
    memcpy(shape.dim + 2, kernel, (size_t)n * sizeof *kernel);
    size_t count = (size_t)shape_elements(shape);
    int8_t *ones = arena_alloc(x->arena, count, 1);
    memset(ones, 1, count);
    const char *weight = ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__INT8, shape, ones, count);
    if (node->out[0]->bound > INT32_MAX)
        return ex_refuse(x, node, "its sums need more than 32 bits");
    Onnx__NodeProto *out = ex_node(x, "ConvInteger", EX_NAMES(ex_narrow(x, in), weight));
    window_attributes(x, out, node);
    ex_attr_int(x, out, "group", channels);
    return ex_to_double(x, ex_output(out));
}

/* ArgMax, or the largest element itself; keepdims 0. */
static const char *over_axis(Exporter *x, const Node *node, const char *type) {
    int64_t axis = attr_int(node, "axis", 0);
    Onnx__NodeProto *out = ex_node(x, type, EX_NAMES(ex_wide(x, node->in[0])));
    if (strcmp(type, "ArgMax") == 0)
        ex_attr_int(x, out, "axis", axis);
    else
        ex_attr_ints(x, out, "axes", 1, &axis);
    ex_attr_int(x, out, "keepdims", 0);
    return ex_output(out);
}

/* -x at the place of the largest: rounding x before or after the comparison keeps the order. */
static const char *pick(Exporter *x, const Node *node) {
    const Node *place = node->in[1]->kind == VALUE_NODE ? node->in[1]->def : NULL;
    const Value *in = node->in[0];
    if (in->kind == VALUE_NODE && in->def->op == OP_rescale && (place == NULL || place->in[0] != in))
        in = in->def->in[0];
    if (place == NULL || place->op != OP_argmax || place->in[0] != in || attr_int(place, "axis", 0) != attr_int(node, "axis", 0))
        return ex_refuse(x, node, "pick has no int8 form");
    return EMIT(x, "Neg", over_axis(x, node, "ReduceMax"));
}

/* --- all --- */

static const char *concat(Exporter *x, const Node *node) {
    const char **in = arena_alloc(x->arena, (size_t)node->in_count, sizeof *in);
    for (int i = 0; i < node->in_count; i++)
        in[i] = aligned(x, node, i);
    Onnx__NodeProto *out = ex_node(x, "Concat", in, node->in_count);
    ex_attr_int(x, out, "axis", attr_int(node, "axis", 0));
    return ex_output(out);
}

static const char *mul_const(Exporter *x, const Node *node) {
    int64_t mantissa;
    int exponent;
    real_to_fixed(attr_real(node, "value", 1), &mantissa, &exponent);
    return EMIT(x, "Mul", ex_wide(x, node->in[0]), ex_f64(x, (double)mantissa));
}

static const char *binary(Exporter *x, const Node *node, const char *type, bool align) {
    const char *a = align ? aligned(x, node, 0) : ex_wide(x, node->in[0]);
    return EMIT(x, type, a, align ? aligned(x, node, 1) : ex_wide(x, node->in[1]));
}

const char *ex_operator(Exporter *x, const Node *node) {
    if (ex_is_move(node->op))
        return ex_move(x, node, ex_wide(x, node->in[0]));
    switch (node->op) {
    case OP_bias:
        return bias(x, node);
    case OP_restore:
        return restore(x, node);
    case OP_add:
        return binary(x, node, "Add", true);
    case OP_sub:
        return binary(x, node, "Sub", true);
    case OP_mul:
        return binary(x, node, "Mul", false);
    case OP_div:
        return divide(x, node);
    case OP_mul_const:
        return mul_const(x, node);
    case OP_neg:
        return EMIT(x, "Neg", ex_wide(x, node->in[0]));
    case OP_relu:
        return EMIT(x, "Relu", ex_wide(x, node->in[0]));
    case OP_leaky_relu:
        return leaky(x, node);
    case OP_clip:
        return clip(x, node);
    case OP_abs:
        return EMIT(x, "Abs", ex_wide(x, node->in[0]));
    case OP_curve:
    case OP_gated:
        return ex_function(x, node);
    case OP_exp:
        return ex_exp(x, node);
    case OP_log:
        return ex_log(x, node);
    case OP_sqrt:
        return ex_sqrt(x, node);
    case OP_share:
        return ex_share(x, node);
    case OP_variance:
        return ex_variance(x, node);
    case OP_rsqrt:
        return ex_rsqrt(x, node);
    case OP_normalize:
        return ex_normalize(x, node);
    case OP_reduce_sum:
        return reduce_sum(x, node);
    case OP_sumpool:
        return sumpool(x, node);
    case OP_conv_dgrad:
        return conv_dgrad(x, node);
    case OP_positive:
        return positive(x, node);
    case OP_both:
    case OP_gate:
        return binary(x, node, "Mul", false);
    case OP_differ:
        return differ(x, node);
    case OP_argmax:
        return ex_to_double(x, over_axis(x, node, "ArgMax"));
    case OP_pick:
        return pick(x, node);
    case OP_softmax:
    case OP_masked_softmax:
        return ex_softmax(x, node);
    case OP_log_softmax:
        return ex_log_softmax(x, node);
    case OP_concat:
        return concat(x, node);
    default:
        return ex_refuse(x, node, "%s has no int8 form", op_info(node->op)->name);
    }
}
