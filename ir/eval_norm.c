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

void eval_inv_sqrt(const Eval *eval, const Node *node) {
    const Tensor *v = eval_in(eval, node, 0);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape), top = node->out[0]->bound;
    int e = v->exponent < -60 ? -60 : v->exponent, even = e & ~1;
    for (int64_t i = 0; i < n; i++) {
        if (!eval_exact(eval, node->out[0])) {
            y->real[i] = 1 / sqrt(fmax(v->real[i], 0) + attr_real(node, "epsilon", 0));
            continue;
        }
        int64_t m = intc_round_even(v->mantissa[i] < 0 ? 0 : v->mantissa[i], e - v->exponent > 63 ? 63 : e - v->exponent);
        int64_t total = intc_shift_left(m, 26 + (e - even)) + epsilon_at(node, (int64_t)even - 26, (int64_t)1 << 60);
        int k;
        y->mantissa[i] = top;
        if (total > 0) {
            int64_t quotient = divide_even((int64_t)1 << 60, normalised_root(total, &k));
            y->mantissa[i] = eval_align_saturated(quotient, 17 + even / 2 - k, top);
        }
    }
}

/* --- x-hat --- */

typedef struct {
    const Tensor *x, *mean, *code;
    Walk stats; /* from the elements of x to the statistics */
    bool centered;
} Normal;

static Normal normal_open(const Eval *eval, const Node *node, int x) {
    return (Normal){.x = eval_in(eval, node, x),
                    .mean = eval_in(eval, node, x + 1),
                    .code = eval_in(eval, node, x + 2),
                    .stats = walk_broadcast(node->in[x]->shape, node->in[x + 1]->shape),
                    .centered = attr_int(node, "centered", 1) != 0};
}

static int64_t normal_mantissa(const Normal *normal, int64_t i) {
    int64_t at = normal->stats.offset, code = normal->code->mantissa[at];
    int64_t d = normal->x->mantissa[i] * (1 << NORM_MEAN_FRACTION) - (normal->centered ? normal->mean->mantissa[at] : 0);
    return intc_saturate(intc_round_even(d * (code >> 5), (int)(code & 31)), -32767, 32767);
}

static double real_code(const Normal *normal) {
    double r;
    memcpy(&r, &normal->code->mantissa[normal->stats.offset], sizeof r);
    return r;
}

static double normal_real(const Normal *normal, int64_t i) {
    return (normal->x->real[i] - (normal->centered ? normal->mean->real[normal->stats.offset] : 0)) * real_code(normal);
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

typedef struct {
    int guard, fraction;
    int64_t limit; /* of the mean of g * x-hat */
} GradNumbers;

static int64_t grad_mantissa(const Normal *normal, const GradNumbers *n, int64_t i, int64_t g, int64_t mean, int64_t product) {
    const int64_t top = (int64_t)1 << NORM_GRADIENT_BITS;
    int64_t code = normal->code->mantissa[normal->stats.offset];
    int64_t first = normal->centered ? intc_saturate(intc_align(mean, NORM_SUM_FRACTION - n->guard), -top, top) : 0;
    int64_t second = normal_mantissa(normal, i) * intc_saturate(product, -n->limit, n->limit);
    second = intc_round_even(second, 2 * n->fraction + NORM_PRODUCT_FRACTION - n->guard);
    int64_t u = intc_shift_left(g, n->guard) - first - second;
    return intc_round_even(u * (code >> 5), (int)(code & 31));
}

void eval_norm_grad(const Eval *eval, const Node *node) {
    Shape shape = node->out[0]->shape;
    Normal normal = normal_open(eval, node, 1);
    bool scaled = node->in_count == 7;
    Walk scale = walk_broadcast(shape, scaled ? node->in[6]->shape : shape);
    const Tensor *g = eval_in(eval, node, 0), *mean = eval_in(eval, node, 4), *product = eval_in(eval, node, 5);
    const Tensor *factor = scaled ? eval_in(eval, node, 6) : NULL;
    GradNumbers numbers = {.guard = norm_guard(node->in[0]->bound), .fraction = norm_fraction(node)};
    numbers.limit = node->in[0]->bound << (numbers.fraction + NORM_PRODUCT_FRACTION + 1);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(shape);
    for (int64_t i = 0; i < n; i++, walk_next(&normal.stats), walk_next(&scale)) {
        int64_t at = normal.stats.offset;
        if (eval_exact(eval, node->out[0])) {
            int64_t dx = grad_mantissa(&normal, &numbers, i, g->mantissa[i], mean->mantissa[at], product->mantissa[at]);
            y->mantissa[i] = dx * (scaled ? factor->mantissa[scale.offset] : 1);
        } else {
            double u = g->real[i] - (normal.centered ? mean->real[at] : 0) - normal_real(&normal, i) * product->real[at];
            y->real[i] = u * real_code(&normal) * (scaled ? factor->real[scale.offset] : 1);
        }
    }
}
