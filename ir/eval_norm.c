/* Interpreter: normalisation. Before: statistics have the shape of x with 1 along what they were taken over. After: docs/operators.md,
 * "Normalisation". A code, the only output of rsqrt, holds 32 * mantissa + shift in integer mode and the bits of the double in real mode.
 */
#include "ir/eval.h"

#include <math.h>
#include <string.h>

/* a / b for b > 0, half to even. */
static int64_t divide_even(int64_t a, int64_t b) {
    uint64_t up = intc_magnitude(a), down = (uint64_t)b, quotient = up / down, rest = up % down;
    if (rest > down - rest || (rest == down - rest && quotient % 2 == 1))
        quotient++;
    return a < 0 ? -(int64_t)quotient : (int64_t)quotient;
}

void eval_share(const Eval *eval, const Node *node) {
    const Tensor *x = eval_in(eval, node, 0);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape), count = attr_int(node, "count", 1);
    int fraction = (int)attr_int(node, "fraction", 0);
    for (int64_t i = 0; i < n; i++)
        if (eval_exact(eval, node->out[0]))
            y->mantissa[i] = divide_even(intc_shift_left(x->mantissa[i], fraction), count);
        else
            y->real[i] = x->real[i] / (double)count;
}

/* d * 2^24 / n^2 half to even, by long division: twelve bits at a time fit 64 bits. */
static int64_t share_of_square(int64_t d, int64_t n) {
    uint64_t square = (uint64_t)n * (uint64_t)n, rest = (uint64_t)d % square, quotient = (uint64_t)d / square;
    for (int i = 0; i < NORM_VARIANCE_FRACTION / 12; i++) {
        rest <<= 12;
        quotient = (quotient << 12) + rest / square;
        rest %= square;
    }
    return (int64_t)(quotient + (rest > square - rest || (rest == square - rest && quotient % 2 == 1)));
}

void eval_variance(const Eval *eval, const Node *node) {
    const Tensor *sum = eval_in(eval, node, 0), *squares = eval_in(eval, node, 1);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape), count = attr_int(node, "count", 1);
    bool centered = attr_int(node, "centered", 1) != 0;
    for (int64_t i = 0; i < n; i++)
        if (eval_exact(eval, node->out[0])) {
            int64_t s = centered ? sum->mantissa[i] : 0, d = count * squares->mantissa[i] - s * s;
            y->mantissa[i] = share_of_square(d < 0 ? 0 : d, count);
        } else {
            double mean = centered ? sum->real[i] / (double)count : 0;
            y->real[i] = fmax(squares->real[i] / (double)count - mean * mean, 0);
        }
}

/* epsilon in units of 2^e, at most top. */
static int64_t epsilon_at(const Node *node, int64_t e, int64_t top) {
    int64_t mantissa;
    int exponent;
    real_to_fixed(attr_real(node, "epsilon", 0), &mantissa, &exponent);
    return eval_align_saturated(mantissa, e - exponent, top);
}

/* v * 2^(2k) in [2^60, 2^62) for 0 < v < 2^62: k, and the root, in [2^30, 2^31). */
static int64_t normalised_root(int64_t v, int *k) {
    *k = (62 - intc_bit_length((uint64_t)v)) / 2;
    int64_t square = v << (2 * *k), root = 0;
    for (int bit = 30; bit >= 0; bit--) {
        int64_t next = root | ((int64_t)1 << bit);
        root = next * next <= square ? next : root;
    }
    return root;
}

static int64_t code_of(int64_t v, int fraction, int most) {
    if (v == 0)
        return 32767 * 32;
    int k;
    int64_t root = normalised_root(v, &k), mantissa = divide_even((int64_t)1 << 45, root);
    int shift = NORM_MEAN_FRACTION + 33 - k - fraction;
    if (mantissa == 32768) {
        mantissa = 16384;
        shift--;
    }
    if (shift < 0)
        mantissa = intc_saturate(intc_shift_left(mantissa, -shift), 0, 32767);
    else if (shift > most)
        mantissa = intc_round_even(mantissa, shift - most);
    return mantissa * 32 + intc_saturate(shift, 0, most);
}

void eval_rsqrt(const Eval *eval, const Node *node) {
    const Tensor *v = eval_in(eval, node, 0);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape), count = attr_int(node, "count", 1);
    int fraction = norm_fraction_of(count);
    for (int64_t i = 0; i < n; i++) {
        if (eval->mode == EVAL_REAL) {
            double r = 1 / sqrt(v->real[i] + attr_real(node, "epsilon", 0));
            r = isfinite(r) ? r : 0;
            memcpy(&y->mantissa[i], &r, sizeof r);
        } else if (v->exponent == INTC_EXPONENT_ZERO) {
            y->mantissa[i] = 0;
        } else {
            int64_t total = v->mantissa[i] + epsilon_at(node, v->exponent, (int64_t)1 << 60);
            y->mantissa[i] = code_of(total, fraction, norm_most_shift(node));
        }
    }
}

/* --- levels --- */

/* m * 2^(NORM_LEVELS - level), or the level, of 1/sigma = m * 2^-30. */
static int64_t part_of(int64_t m, int64_t part) {
    int64_t level = intc_saturate(intc_bit_length((uint64_t)m) - 30 - NORM_LEVEL_TOP + NORM_LEVELS, 0, NORM_LEVELS);
    return part == INV_SQRT_WHOLE ? m : part == INV_SQRT_LEVEL ? level : intc_shift_left(m, (int)(NORM_LEVELS - level));
}

static double part_of_real(double r, int64_t part) {
    int power;
    frexp(r, &power);
    int level = (int)intc_saturate(power - NORM_LEVEL_TOP + NORM_LEVELS, 0, NORM_LEVELS);
    return part == INV_SQRT_WHOLE ? r : part == INV_SQRT_LEVEL ? level : ldexp(r, NORM_LEVELS - level);
}

/* x of every channel times 2^(NORM_LEVELS - level), or 2^(level - NORM_LEVELS). */
static void by_level(const Eval *eval, const Node *node, bool up) {
    Shape shape = node->out[0]->shape;
    Walk walk = {.shape = shape};
    walk.stride[attr_int(node, "axis", 1)] = 1;
    const Tensor *x = eval_in(eval, node, 0), *level = eval_in(eval, node, 1);
    Tensor *y = eval_out(eval, node, 0);
    int64_t count = shape_elements(shape);
    for (int64_t i = 0; i < count; i++, walk_next(&walk))
        if (eval_exact(eval, node->out[0])) {
            int64_t m = level->mantissa[walk.offset];
            int l = (int)eval_align_saturated(m < 0 ? 0 : m, -level->exponent, NORM_LEVELS);
            y->mantissa[i] = intc_shift_left(x->mantissa[i], up ? NORM_LEVELS - l : l);
        } else {
            int l = (int)fmin(fmax(level->real[walk.offset], 0), NORM_LEVELS);
            y->real[i] = ldexp(x->real[i], up ? NORM_LEVELS - l : l - NORM_LEVELS);
        }
}

void eval_equalize(const Eval *eval, const Node *node) {
    by_level(eval, node, true);
}

void eval_restore(const Eval *eval, const Node *node) {
    by_level(eval, node, false);
}

void eval_inv_sqrt(const Eval *eval, const Node *node) {
    const Tensor *v = eval_in(eval, node, 0);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape), top = (int64_t)1 << 44, part = attr_int(node, "part", INV_SQRT_WHOLE);
    int e = v->exponent < -60 ? -60 : v->exponent, even = e & ~1;
    for (int64_t i = 0; i < n; i++) {
        if (!eval_exact(eval, node->out[0])) {
            y->real[i] = part_of_real(1 / sqrt(fmax(v->real[i], 0) + attr_real(node, "epsilon", 0)), part);
            continue;
        }
        int64_t m = intc_round_even(v->mantissa[i] < 0 ? 0 : v->mantissa[i], e - v->exponent > 63 ? 63 : e - v->exponent);
        int64_t total = intc_shift_left(m, 26 + (e - even)) + epsilon_at(node, (int64_t)even - 26, (int64_t)1 << 60);
        int k;
        int64_t inverse = top;
        if (total > 0) {
            int64_t quotient = divide_even((int64_t)1 << 60, normalised_root(total, &k));
            inverse = eval_align_saturated(quotient, 17 + even / 2 - k, top);
        }
        y->mantissa[i] = part_of(inverse, part);
    }
}

/* --- x-hat --- */

typedef struct {
    const Tensor *x, *mean, *code;
    Walk stats; /* from the elements of x to the statistics */
    bool centered;
    int fraction; /* of the mean, below the mantissas of x */
} Normal;

static Normal normal_open(const Eval *eval, const Node *node, int x) {
    return (Normal){.x = eval_in(eval, node, x),
                    .mean = eval_in(eval, node, x + 1),
                    .code = eval_in(eval, node, x + 2),
                    .stats = walk_broadcast(node->in[x]->shape, node->in[x + 1]->shape),
                    .centered = attr_int(node, "centered", 1) != 0,
                    .fraction = NORM_MEAN_FRACTION - (int)attr_int(node, "places", 0)};
}

static int64_t normal_mantissa(const Normal *normal, int64_t i) {
    int64_t at = normal->stats.offset, code = normal->code->mantissa[at];
    int64_t d = normal->x->mantissa[i] * (1 << normal->fraction) - (normal->centered ? normal->mean->mantissa[at] : 0);
    return intc_saturate(intc_round_even(d * (code >> 5), (int)(code & 31)), -32767, 32767);
}

static double real_code(const Tensor *code, int64_t i) {
    double r;
    memcpy(&r, &code->mantissa[i], sizeof r);
    return r;
}

static double normal_real(const Normal *normal, int64_t i) {
    return (normal->x->real[i] - (normal->centered ? normal->mean->real[normal->stats.offset] : 0)) *
           real_code(normal->code, normal->stats.offset);
}

void eval_normalize(const Eval *eval, const Node *node) {
    Shape shape = node->out[0]->shape;
    Normal normal = normal_open(eval, node, 0);
    bool scaled = node->in_count == 4;
    Walk scale = walk_broadcast(shape, scaled ? node->in[3]->shape : shape);
    const Tensor *factor = scaled ? eval_in(eval, node, 3) : NULL;
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(shape);
    for (int64_t i = 0; i < n; i++, walk_next(&normal.stats), walk_next(&scale))
        if (eval_exact(eval, node->out[0]))
            y->mantissa[i] = normal_mantissa(&normal, i) * (scaled ? factor->mantissa[scale.offset] : 1);
        else
            y->real[i] = normal_real(&normal, i) * (scaled ? factor->real[scale.offset] : 1);
}

/* --- exact sums of few statistics --- */

__extension__ typedef __int128 Wide;
__extension__ typedef unsigned __int128 UWide;

static int wide_length(Wide x) {
    UWide size = x < 0 ? -(UWide)x : (UWide)x;
    uint64_t high = (uint64_t)(size >> 64);
    return high > 0 ? 64 + intc_bit_length(high) : intc_bit_length((uint64_t)size);
}

static Wide wide_round(Wide x, int s) {
    if (s <= 0)
        return x;
    Wide floor = x >> s, rest = x - floor * ((Wide)1 << s), half = (Wide)1 << (s - 1);
    return floor + (rest > half || (rest == half && (floor & 1) != 0));
}

static Wide wide_align(Wide x, int s) {
    return s < 0 ? x * ((Wide)1 << -s) : wide_round(x, s);
}

static int64_t limited(int64_t x, int bits) {
    return intc_saturate(x, -((int64_t)1 << bits), (int64_t)1 << bits);
}

/* Half of what a shift leaves off. */
static int64_t half_of(int64_t shift) {
    return shift > 0 ? (int64_t)1 << (shift - 1) : 0;
}

/* --- x-hat * scale + shift: A*x + C --- */

/* The exponents of scale and shift against that of the line. */
typedef struct {
    int64_t fall, rise; /* of the scale's, less its places, to the line's; from the line's to the shift's */
} LineExponents;

static int64_t line_mantissa(const Node *node, LineExponents e, int64_t code, int64_t mean, int64_t scale, int64_t shift) {
    int f = norm_fraction_of(attr_int(node, "count", 1)), places = (int)attr_int(node, "places", 0), x_bits = norm_input_bits(node);
    int fall = (int)intc_saturate(e.fall, 0, NORM_LINE_FALL), down = (int)(code & 31) + f - NORM_LINE_PLACES + fall;
    int64_t p = e.fall > NORM_LINE_FALL ? 0 : (code >> 5) * scale;
    mean = limited(mean, x_bits - places + NORM_MEAN_FRACTION);
    int rise = (int)intc_saturate(e.rise + down, -NORM_LINE_RISE, NORM_LINE_RISE);
    Wide line[] = {(Wide)p * (1 << (NORM_MEAN_FRACTION - places)), wide_align(shift, -rise) - (Wide)p * mean};
    const int needs[] = {wide_length(line[0]) + x_bits, wide_length(line[1])};
    int need = needs[0] > needs[1] ? needs[0] : needs[1], part = (int)attr_int(node, "part", 0);
    int r = need > NORM_SLOPE_BITS ? need - NORM_SLOPE_BITS : 0;
    r = down - r > NORM_LINE_SHIFT ? down - NORM_LINE_SHIFT : r;
    int64_t s = down > r ? down - r : 0;
    return part == 2 ? s : (int64_t)wide_round(line[part], r) + (part == 1 ? half_of(s) : 0);
}

void eval_norm_line(const Eval *eval, const Node *node) {
    const Tensor *code = eval_in(eval, node, 0), *mean = eval_in(eval, node, 1), *scale = eval_in(eval, node, 2),
                 *shift = eval_in(eval, node, 3);
    Tensor *y = eval_out(eval, node, 0);
    LineExponents e = {(int64_t)y->exponent - (scale->exponent - NORM_LINE_PLACES), (int64_t)shift->exponent - y->exponent};
    int64_t n = shape_elements(node->out[0]->shape), part = attr_int(node, "part", 0);
    for (int64_t i = 0; i < n; i++) {
        if (eval_exact(eval, node->out[0])) {
            y->mantissa[i] = line_mantissa(node, e, code->mantissa[i], mean->mantissa[i], scale->mantissa[i], shift->mantissa[i]);
        } else {
            double slope = scale->real[i] * real_code(code, i);
            y->real[i] = part == 0 ? slope : part == 1 ? shift->real[i] - slope * mean->real[i] : 0;
        }
    }
}

void eval_norm_apply(const Eval *eval, const Node *node) {
    Walk stats = walk_broadcast(node->out[0]->shape, node->in[1]->shape);
    const Tensor *x = eval_in(eval, node, 0), *a = eval_in(eval, node, 1), *c = eval_in(eval, node, 2), *s = eval_in(eval, node, 3);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape);
    for (int64_t i = 0; i < n; i++, walk_next(&stats)) {
        int64_t at = stats.offset;
        if (eval_exact(eval, node->out[0]))
            y->mantissa[i] = (a->mantissa[at] * x->mantissa[i] + c->mantissa[at]) >> s->mantissa[at];
        else
            y->real[i] = a->real[at] * x->real[i] + c->real[at];
    }
}

/* --- the sum of g * x-hat from those of g * x and g --- */

void eval_norm_dot(const Eval *eval, const Node *node) {
    const Tensor *products = eval_in(eval, node, 0), *sum = eval_in(eval, node, 1), *mean = eval_in(eval, node, 2),
                 *code = eval_in(eval, node, 3);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape), top = node->out[0]->bound;
    for (int64_t i = 0; i < n; i++) {
        if (eval_exact(eval, node->out[0])) {
            Wide d = (Wide)products->mantissa[i] * (1 << NORM_MEAN_FRACTION) - (Wide)mean->mantissa[i] * sum->mantissa[i];
            d = wide_round(d * (code->mantissa[i] >> 5), (int)(code->mantissa[i] & 31));
            y->mantissa[i] = d > top ? top : d < -top ? -top : (int64_t)d;
        } else {
            y->real[i] = (products->real[i] - mean->real[i] * sum->real[i]) * real_code(code, i);
        }
    }
}

/* --- the gradient: A*g + B*x + C --- */

static int64_t slope_mantissa(const Node *node, int64_t code, int64_t mean, int64_t a, int64_t b, int64_t scale) {
    int f = norm_fraction_of(attr_int(node, "count", 1)), s = (int)(code & 31);
    int g_bits = norm_gradient_bits(node), x_bits = norm_input_bits(node);
    int64_t density = code >> 5, p = density * scale;
    a = limited(a, g_bits + NORM_SUM_FRACTION);
    b = limited(b, g_bits + f + NORM_PRODUCT_FRACTION);
    mean = limited(mean, x_bits + NORM_MEAN_FRACTION);
    Wide slope[] = {(Wide)p * 65536, -wide_round((Wide)p * density * b * 2, s + 2 * f - 18), 0};
    if (attr_int(node, "centered", 1) != 0)
        slope[2] = -(Wide)p * a * 4 - wide_round(slope[1] * mean, NORM_MEAN_FRACTION);
    const int needs[] = {wide_length(slope[0]) + g_bits, wide_length(slope[1]) + x_bits, wide_length(slope[2])};
    int need = needs[0] > needs[1] ? needs[0] : needs[1];
    need = need > needs[2] ? need : needs[2];
    int r = need > NORM_SLOPE_BITS ? need - NORM_SLOPE_BITS : 0, part = (int)attr_int(node, "part", 0);
    int64_t shift = intc_saturate(s - r + g_bits + f - 5, 0, 31);
    return part == 3 ? shift : (int64_t)wide_round(slope[part], r) + (part == 2 ? half_of(shift) : 0);
}

static double slope_real(const Node *node, double density, double mean, double a, double b, double scale) {
    if (attr_int(node, "centered", 1) == 0)
        a = mean = 0;
    const double slope[] = {scale * density, -scale * density * density * b, -scale * density * (a - mean * density * b), 0};
    return slope[attr_int(node, "part", 0)];
}

void eval_norm_slope(const Eval *eval, const Node *node) {
    const Tensor *code = eval_in(eval, node, 0), *mean = eval_in(eval, node, 1), *a = eval_in(eval, node, 2), *b = eval_in(eval, node, 3);
    bool scaled = node->in_count == 5;
    const Tensor *factor = scaled ? eval_in(eval, node, 4) : NULL;
    Walk scale = walk_broadcast(node->out[0]->shape, node->in[scaled ? 4 : 0]->shape);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape);
    for (int64_t i = 0; i < n; i++, walk_next(&scale)) {
        if (eval_exact(eval, node->out[0])) {
            int64_t m = scaled ? factor->mantissa[scale.offset] : 1 << 15;
            y->mantissa[i] = slope_mantissa(node, code->mantissa[i], mean->mantissa[i], a->mantissa[i], b->mantissa[i], m);
        } else {
            double density = real_code(code, i), m = scaled ? factor->real[scale.offset] : 1;
            y->real[i] = slope_real(node, density, mean->real[i], a->real[i], b->real[i], m);
        }
    }
}

void eval_norm_grad(const Eval *eval, const Node *node) {
    Walk stats = walk_broadcast(node->out[0]->shape, node->in[2]->shape);
    const Tensor *g = eval_in(eval, node, 0), *x = eval_in(eval, node, 1), *slope[4];
    for (int k = 0; k < 4; k++)
        slope[k] = eval_in(eval, node, 2 + k);
    Tensor *dx = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape);
    for (int64_t i = 0; i < n; i++, walk_next(&stats)) {
        int64_t at = stats.offset;
        if (eval_exact(eval, node->out[0])) {
            int64_t sum = slope[0]->mantissa[at] * g->mantissa[i] + slope[1]->mantissa[at] * x->mantissa[i] + slope[2]->mantissa[at];
            dx->mantissa[i] = sum >> slope[3]->mantissa[at];
        } else {
            dx->real[i] = slope[0]->real[at] * g->real[i] + slope[1]->real[at] * x->real[i] + slope[2]->real[at];
        }
    }
}
