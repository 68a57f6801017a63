/* ONNX out, int8: functions by table and softmax rows. Before: an operator of the inference graph whose input can be exported. After: nodes
 * that compute output 0 exactly as docs/operators.md says. Most are float64 that hold integers; where a product needs more than 53 bits it
 * is int64. */
#include "frontend/export.h"
#include "ir/functions.h"
#include "ir/tables.h"
#include "runtime/fixed.h"

#include <math.h>
#include <string.h>

/* --- function tables --- */

const char *ex_doubles(Exporter *x, const double *values, int count) {
    Shape shape = {.rank = 1, .dim = {count}};
    return ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE, shape, values, (size_t)count * sizeof *values);
}

const char *ex_gathered(Exporter *x, const char *table, const char *index) {
    return EMIT(x, "Gather", table, ex_cast(x, index, ONNX__TENSOR_PROTO__DATA_TYPE__INT64));
}

/* T[u >> bits] + ((T[(u >> bits) + 1] - T[u >> bits]) · (u mod 2^bits) + half) >> bits, for u in [0, intervals · 2^bits]. */
static const char *interpolated(Exporter *x, const int32_t *table, int intervals, int bits, const char *u) {
    double value[TABLE_INTERVALS + 1], step[TABLE_INTERVALS + 1];
    for (int i = 0; i <= intervals; i++) {
        value[i] = table[i];
        step[i] = i < intervals ? table[i + 1] - table[i] : 0;
    }
    const char *i = ex_floor(x, u, bits);
    const char *rest = EMIT(x, "Sub", u, EMIT(x, "Mul", i, ex_power_of_two(x, bits)));
    const char *rise = EMIT(x, "Mul", ex_gathered(x, ex_doubles(x, step, intervals + 1), i), rest);
    const char *part = ex_floor(x, EMIT(x, "Add", rise, ex_power_of_two(x, bits - 1)), bits);
    return EMIT(x, "Add", ex_gathered(x, ex_doubles(x, value, intervals + 1), i), part);
}

static const char *on_side(Exporter *x, CurveSide side, const char *y) {
    if (side.sign == 0)
        return ex_f64(x, side.offset);
    return side.sign < 0 ? EMIT(x, "Sub", ex_f64(x, side.offset), y) : EMIT(x, "Add", y, ex_f64(x, side.offset));
}

/* |x| with `fraction` fraction bits, nearest, at most `top`. */
static const char *argument(Exporter *x, const Node *node, int fraction, double top) {
    const char *magnitude = EMIT(x, "Abs", ex_wide(x, node->in[0]));
    return EMIT(x, "Min", ex_round(x, magnitude, ex_power(x, ex_exponent_of(x, node->in[0]), -1, fraction)), ex_f64(x, top));
}

/* Turns with 60 fraction bits, 2^8 whole ones added so that none is negative, to 20 fraction bits. */
static const char *wave(Exporter *x, const Node *node, const Curve *curve) {
    const char *u = argument(x, node, TURN_FRACTION, ldexp(1.0, TURN_RANGE) - 1);
    const char *turns = EMIT(x, "Mul", u, EMIT(x, "Sign", ex_wide(x, node->in[0])));
    turns = EMIT(x, "Mul", ex_whole(x, turns), ex_i64(x, TURN_FACTOR));
    turns = EMIT(x, "Add", turns, ex_i64(x, ((int64_t)1 << 31) + ((int64_t)curve->quarters << 50) + ((int64_t)1 << 60)));
    const char *place = EMIT(x, "Mod", EMIT(x, "Div", turns, ex_i64(x, (int64_t)1 << 32)), ex_i64(x, 1 << 20));
    return interpolated(x, curve->table, TABLE_INTERVALS, 10, ex_to_double(x, place));
}

/* T(|x|) of the side on which x is; nothing of x is left where both sides are constant. */
const char *ex_function(Exporter *x, const Node *node) {
    const Function *f = function_find(attr_text(node, "function", ""));
    const Curve *curve = &f->value;
    if (f->form == FORM_PERIODIC)
        return wave(x, node, curve);
    const char *in = ex_wide(x, node->in[0]), *u = argument(x, node, 16, ldexp(1.0, curve->domain + 16) - 1);
    const char *above = interpolated(x, curve->table, TABLE_INTERVALS, curve->domain + 6, u), *below = above;
    if (curve->two)
        below = interpolated(x, curve->table + TABLE_INTERVALS + 1, TABLE_INTERVALS, curve->domain + 6, u);
    const char *side = EMIT(x, "Greater", in, ex_f64(x, 0));
    const char *y = EMIT(x, "Where", side, on_side(x, curve->above, above), on_side(x, curve->below, below));
    return node->op == OP_gated ? EMIT(x, "Mul", in, y) : y;
}

/* --- exp, log, sqrt --- */

/* The mantissa v of 17 bits times 2^(14 + i) is a float64; it is an integer unless rounded. */
const char *ex_exp(Exporter *x, const Node *node) {
    enum { LEAST = -47, MOST = 30 };
    const char *u = ex_whole(x, argument(x, node, 24, ldexp(1.0, 31)));
    const char *t = ex_divide_even(x, EMIT(x, "Mul", u, ex_i64(x, LOG2E)), ex_i64(x, (int64_t)1 << 38));
    t = EMIT(x, "Mul", ex_to_double(x, t), EMIT(x, "Sign", ex_wide(x, node->in[0])));
    t = EMIT(x, "Clip", t, ex_f64(x, LEAST * 65536.0), ex_f64(x, (MOST + 1) * 65536.0 - 1));
    const char *i = ex_floor(x, t, 16);
    const char *v = interpolated(x, table_exp2, TABLE_ROW - 2, 8, EMIT(x, "Sub", t, EMIT(x, "Mul", i, ex_power_of_two(x, 16))));
    double factor[MOST - LEAST + 1];
    for (int k = LEAST; k <= MOST; k++)
        factor[k - LEAST] = ldexp(1.0, 14 + k);
    const char *place = EMIT(x, "Sub", i, ex_f64(x, LEAST));
    return ex_round(x, v, ex_gathered(x, ex_doubles(x, factor, MOST - LEAST + 1), place));
}

/* log2 of 1 + f for integers of `length` bits, 16 fraction bits; 0 for 0. */
static const char *log_fraction(Exporter *x, const char *in, const char *length) {
    double shift[EX_LONGEST + 1];
    for (int b = 0; b <= EX_LONGEST; b++)
        shift[b] = ldexp(1.0, 17 - b);
    const char *seventeen = EMIT(x, "Floor", EMIT(x, "Mul", in, ex_gathered(x, ex_doubles(x, shift, EX_LONGEST + 1), length)));
    const char *fraction = EMIT(x, "Max", EMIT(x, "Sub", seventeen, ex_power_of_two(x, 16)), ex_f64(x, 0));
    return interpolated(x, table_log2, TABLE_ROW - 2, 8, fraction);
}

const char *ex_log(Exporter *x, const Node *node) {
    const char *in = EMIT(x, "Max", ex_wide(x, node->in[0]), ex_f64(x, 0));
    const char *length = ex_to_double(x, ex_bit_length(x, ex_whole(x, in), node->in[0]->shape.rank));
    const char *whole = EMIT(x, "Add", length, ex_number(x, ex_sum(x, ex_exponent_of(x, node->in[0]), ex_constant(x, 0), -1)));
    const char *total = EMIT(x, "Add", EMIT(x, "Mul", whole, ex_power_of_two(x, 16)), log_fraction(x, in, length));
    const char *product = EMIT(x, "Mul", ex_whole(x, total), ex_i64(x, LN2));
    return ex_to_double(x, ex_divide_even(x, product, ex_i64(x, 1 << 30)));
}

/* The root of an integer is no tie, and of 47 bits further from one than float64 rounds. */
const char *ex_sqrt(Exporter *x, const Node *node) {
    int e = ex_exponent_of(x, node->in[0]), half = ex_half(x, e);
    const char *in = EMIT(x, "Max", ex_wide(x, node->in[0]), ex_f64(x, 0));
    return EMIT(x, "Round", EMIT(x, "Sqrt", EMIT(x, "Mul", in, ex_power(x, ex_difference(x, e, half, 0), half, 30))));
}

/* --- rows --- */

typedef struct {
    const char *below; /* largest element minus each */
    const char *terms; /* 2^-(below · log2 e), 31 fraction bits */
    const char *sum;   /* of a row */
} Row;

static const char *largest(Exporter *x, const char *in, int64_t axis) {
    Onnx__NodeProto *out = ex_node(x, "ReduceMax", EX_NAMES(in));
    ex_attr_ints(x, out, "axes", 1, &axis);
    ex_attr_int(x, out, "keepdims", 1);
    return ex_output(out);
}

/* mask: NULL, or which elements count. */
static Row row(Exporter *x, const Node *node, const char *mask) {
    enum { MOST = 40 };
    int64_t axis = attr_int(node, "axis", 0);
    const char *in = ex_wide(x, node->in[0]);
    if (mask != NULL) {
        const char *shown = ex_cast(x, mask, ONNX__TENSOR_PROTO__DATA_TYPE__BOOL);
        in = EMIT(x, "Where", shown, in, largest(x, EMIT(x, "Where", shown, in, ex_f64(x, INT32_MIN)), axis));
    }
    Row r = {.below = EMIT(x, "Sub", largest(x, in, axis), in)};
    const char *scaled = EMIT(x, "Mul", r.below, ex_f64(x, LOG2E));
    const char *t = ex_round(x, scaled, ex_power(x, ex_exponent_of(x, node->in[0]), -1, -14));
    t = EMIT(x, "Min", t, ex_f64(x, MOST * 65536.0));
    const char *i = ex_floor(x, t, 16);
    const char *fraction = EMIT(x, "Sub", t, EMIT(x, "Mul", i, ex_power_of_two(x, 16)));
    const char *v = interpolated(x, table_exp2, TABLE_ROW - 2, 8, EMIT(x, "Sub", ex_power_of_two(x, 16), fraction));
    double shift[MOST + 1];
    for (int k = 0; k <= MOST; k++)
        shift[k] = ldexp(1.0, 14 - k);
    r.terms = EMIT(x, "Floor", EMIT(x, "Mul", v, ex_gathered(x, ex_doubles(x, shift, MOST + 1), i)));
    if (mask != NULL)
        r.terms = EMIT(x, "Mul", r.terms, mask);
    r.sum = ex_summed(x, r.terms, 1, &axis, true);
    if (mask != NULL)
        r.sum = EMIT(x, "Max", r.sum, ex_f64(x, 1));
    return r;
}

/* floor((n · 2^15 + floor(S / 2)) / S): below 2^46, so that no quotient rounds up to an integer. */
const char *ex_softmax(Exporter *x, const Node *node) {
    Row r = row(x, node, node->op == OP_masked_softmax ? ex_wide(x, node->in[1]) : NULL);
    const char *up = EMIT(x, "Add", EMIT(x, "Mul", r.terms, ex_power_of_two(x, 15)), ex_floor(x, r.sum, 1));
    return EMIT(x, "Floor", EMIT(x, "Div", up, r.sum));
}

const char *ex_log_softmax(Exporter *x, const Node *node) {
    Row r = row(x, node, NULL);
    const char *length = ex_to_double(x, ex_bit_length(x, ex_whole(x, r.sum), node->in[0]->shape.rank));
    const char *l = log_fraction(x, r.sum, length);
    const char *whole = EMIT(x, "Mul", EMIT(x, "Sub", length, ex_f64(x, 32)), ex_power_of_two(x, 16));
    const char *lambda = ex_round(x, EMIT(x, "Mul", EMIT(x, "Add", whole, l), ex_f64(x, LN2)), ex_power_of_two(x, -30));
    const char *z = ex_round(x, r.below, ex_power(x, ex_exponent_of(x, node->in[0]), -1, 16));
    z = EMIT(x, "Min", z, ex_power_of_two(x, 30));
    return EMIT(x, "Neg", EMIT(x, "Add", z, lambda));
}
