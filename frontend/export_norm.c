/* ONNX out, int8: normalisation. Before: an operator of the inference graph whose inputs can be exported. After: nodes that compute
 * output 0 exactly as docs/operators.md, "Normalisation", says. Statistics are few, so that they are computed in int64 where float64 is too
 * short; what touches every element is float64. */
#include "frontend/export.h"
#include "runtime/fixed.h"

#include <math.h>

enum { EXACT_BITS = 53 };

/* The quotient of integers below 2^52 is further from a tie, if it is none, than float64 rounds. */
const char *ex_share(Exporter *x, const Node *node) {
    int fraction = (int)attr_int(node, "fraction", 0), bits = ex_bits(x, node->in[0]);
    if (bits == 0 || bits + fraction >= EXACT_BITS)
        return ex_refuse(x, node, "its sums may need more than %d bits", EXACT_BITS - fraction - 1);
    const char *scaled = EMIT(x, "Mul", ex_wide(x, node->in[0]), ex_power_of_two(x, fraction));
    return EMIT(x, "Round", EMIT(x, "Div", scaled, ex_f64(x, (double)attr_int(node, "count", 1))));
}

/* (n·q − s²)·2^24 / n² by long division, twelve bits at a time. */
const char *ex_variance(Exporter *x, const Node *node) {
    enum { PART = 12 };
    int64_t count = attr_int(node, "count", 1);
    const char *square = ex_i64(x, count * count), *part = ex_i64(x, 1 << PART), *quotient = NULL;
    const char *rest = EMIT(x, "Mul", ex_whole(x, ex_wide(x, node->in[1])), ex_i64(x, count));
    if (attr_int(node, "centered", 1) != 0) {
        const char *sum = ex_whole(x, ex_wide(x, node->in[0]));
        rest = EMIT(x, "Sub", rest, EMIT(x, "Mul", sum, sum));
    }
    rest = EMIT(x, "Max", rest, ex_i64(x, 0));
    for (int done = 0; done < NORM_VARIANCE_FRACTION; done += PART) {
        const char *digits = EMIT(x, "Div", rest, square);
        rest = EMIT(x, "Mul", EMIT(x, "Sub", rest, EMIT(x, "Mul", digits, square)), part);
        quotient = EMIT(x, "Mul", quotient == NULL ? digits : EMIT(x, "Add", quotient, digits), part);
    }
    /* What stands before the last digits is even. */
    return ex_to_double(x, EMIT(x, "Add", quotient, ex_divide_even(x, rest, square)));
}

/* floor(√v) for v in [2^60, 2^62): that of float64 is off by one at most. */
static const char *floor_root(Exporter *x, const char *v) {
    const char *one = ex_i64(x, 1), *root = ex_whole(x, EMIT(x, "Floor", EMIT(x, "Sqrt", ex_to_double(x, v))));
    root = EMIT(x, "Sub", root, ex_whole(x, EMIT(x, "Greater", EMIT(x, "Mul", root, root), v)));
    const char *next = EMIT(x, "Add", root, one);
    return EMIT(x, "Add", root, ex_whole(x, EMIT(x, "LessOrEqual", EMIT(x, "Mul", next, next), v)));
}

/* v + epsilon as int64, epsilon nearest at v's exponent and at most 2^60. */
static const char *with_epsilon(Exporter *x, const Node *node) {
    int64_t mantissa;
    int exponent, e = ex_exponent_of(x, node->in[0]);
    real_to_fixed(attr_real(node, "epsilon", 0), &mantissa, &exponent);
    ex_condition(x, e, INTC_EXPONENT_ZERO + 1, -INTC_EXPONENT_ZERO,
                 arena_printf(x->arena, "%s: its input was zero everywhere when it was calibrated", ex_label(x, node)));
    const char *epsilon = ex_round(x, ex_f64(x, ldexp((double)mantissa, exponent)), ex_power(x, ex_constant(x, 0), e, 0));
    epsilon = EMIT(x, "Min", epsilon, ex_power_of_two(x, 60));
    return EMIT(x, "Add", ex_whole(x, ex_wide(x, node->in[0])), ex_whole(x, epsilon));
}

const char *ex_rsqrt(Exporter *x, const Node *node) {
    enum { MOST = 32767, LEAST = 1 << 14, SPARE = 8 };
    int most = norm_most_shift(node);
    int64_t scale[EX_LONGEST + 1];
    double shift[EX_LONGEST + 1], power[2 * SPARE + 1];
    for (int length = 0; length <= EX_LONGEST; length++) {
        int k = (62 - length) / 2;
        scale[length] = (int64_t)1 << (2 * k < 62 ? 2 * k : 0);
        shift[length] = NORM_MEAN_FRACTION + 33 - k - norm_fraction_of(attr_int(node, "count", 1));
    }
    for (int i = 0; i <= 2 * SPARE; i++)
        power[i] = ldexp(1.0, SPARE - i);
    const char *v = with_epsilon(x, node), *length = ex_bit_length(x, v, node->in[0]->shape.rank);
    const char *scales = ex_i64s(x, EX_LONGEST + 1, scale);
    const char *root = floor_root(x, EMIT(x, "Mul", v, EMIT(x, "Gather", scales, length)));
    const char *density = ex_to_double(x, ex_divide_even(x, ex_i64(x, (int64_t)1 << 45), EMIT(x, "Max", root, ex_i64(x, 1))));
    const char *full = EMIT(x, "Greater", density, ex_f64(x, MOST));
    density = EMIT(x, "Where", full, ex_f64(x, LEAST), density);
    const char *places = EMIT(x, "Sub", EMIT(x, "Gather", ex_doubles(x, shift, EX_LONGEST + 1), length), ex_to_double(x, full));
    /* What a shift outside [0, most] cannot say the mantissa takes. */
    const char *kept = EMIT(x, "Clip", places, ex_f64(x, 0), ex_f64(x, most));
    const char *beyond = EMIT(x, "Clip", EMIT(x, "Sub", places, kept), ex_f64(x, -SPARE), ex_f64(x, SPARE));
    const char *powers = ex_doubles(x, power, 2 * SPARE + 1);
    density = ex_round(x, density, ex_gathered(x, powers, EMIT(x, "Add", beyond, ex_f64(x, SPARE))));
    density = EMIT(x, "Min", density, ex_f64(x, MOST));
    const char *code = EMIT(x, "Add", EMIT(x, "Mul", density, ex_f64(x, 32)), kept);
    const char *none = EMIT(x, "Equal", v, ex_i64(x, 0));
    return EMIT(x, "Where", none, ex_f64(x, MOST * 32.0), code);
}

const char *ex_normalize(Exporter *x, const Node *node) {
    enum { MOST = 32767, SHIFTS = 32 };
    double power[SHIFTS];
    for (int s = 0; s < SHIFTS; s++)
        power[s] = ldexp(1.0, -s);
    const char *code = ex_wide(x, node->in[2]), *density = ex_floor(x, code, 5);
    const char *shift = EMIT(x, "Sub", code, EMIT(x, "Mul", density, ex_f64(x, SHIFTS)));
    const char *distance = EMIT(x, "Mul", ex_wide(x, node->in[0]), ex_power_of_two(x, NORM_MEAN_FRACTION));
    if (attr_int(node, "centered", 1) != 0)
        distance = EMIT(x, "Sub", distance, ex_wide(x, node->in[1]));
    const char *factor = EMIT(x, "Mul", density, ex_gathered(x, ex_doubles(x, power, SHIFTS), shift));
    const char *normal = EMIT(x, "Clip", ex_round(x, distance, factor), ex_f64(x, -MOST), ex_f64(x, MOST));
    return node->in_count == 4 ? EMIT(x, "Mul", normal, ex_wide(x, node->in[3])) : normal;
}
