/* Interpreter: pointwise ops. Before: operands broadcast to the output. After: docs/operators.md, "Pointwise", element by element.
 * Every op is a pair of functions of one element, integer and real, and the numbers of its node. */
#include "ir/eval.h"

#include <math.h>

/* What the functions of one element may need to know of their node. */
typedef struct {
    int shift[2];      /* aligned ops: bits that each operand loses */
    int64_t low, high; /* clip, inside */
    double real_low, real_high;
    int64_t slope; /* 24 fraction bits */
    double real_slope;
    int64_t bound;           /* of the output */
    int digits, least, unit; /* round: significant digits; least exponent of a unit, and what it is in mantissas */
    bool truncate;
} Numbers;

typedef int64_t IntegerFunction(const Numbers *n, int64_t a, int64_t b);
typedef double RealFunction(const Numbers *n, double a, double b);

/* A missing second operand is 0. in[0] decides on mantissas or reals; a mask is written as mantissa in both cases. */
static void pointwise(const Eval *eval, const Node *node, const Numbers *n, IntegerFunction *integer, RealFunction *real) {
    Shape shape = node->out[0]->shape;
    bool binary = node->in_count > 1, mask = node->out[0]->integer;
    Walk wa = walk_broadcast(shape, node->in[0]->shape);
    Walk wb = walk_broadcast(shape, binary ? node->in[1]->shape : node->in[0]->shape);
    const Tensor *a = eval_in(eval, node, 0), *b = eval_in(eval, node, binary ? 1 : 0);
    Tensor *out = eval_out(eval, node, 0);
    bool exact = eval_exact(eval, node->in[0]) && eval_exact(eval, node->out[0]);
    int64_t count = shape_elements(shape);
    for (int64_t i = 0; i < count; i++) {
        if (exact) {
            out->mantissa[i] = integer(n, a->mantissa[wa.offset], binary ? b->mantissa[wb.offset] : 0);
        } else {
            double y = real(n, a->real[wa.offset], binary ? b->real[wb.offset] : 0);
            if (mask)
                out->mantissa[i] = (int64_t)y;
            else
                out->real[i] = y;
        }
        walk_next(&wa);
        walk_next(&wb);
    }
}

/* --- arithmetic --- */

static Numbers alignment(const Eval *eval, const Node *node) {
    Numbers n = {0};
    for (int i = 0; i < 2 && !node->out[0]->integer; i++)
        n.shift[i] = eval_out(eval, node, 0)->exponent - eval_in(eval, node, i)->exponent;
    return n;
}

static int64_t add(const Numbers *n, int64_t a, int64_t b) {
    return intc_align(a, n->shift[0]) + intc_align(b, n->shift[1]);
}

static double add_real(const Numbers *n, double a, double b) {
    (void)n;
    return a + b;
}

void eval_add(const Eval *eval, const Node *node) {
    Numbers n = alignment(eval, node);
    pointwise(eval, node, &n, add, add_real);
}

static int64_t sub(const Numbers *n, int64_t a, int64_t b) {
    return intc_align(a, n->shift[0]) - intc_align(b, n->shift[1]);
}

static double sub_real(const Numbers *n, double a, double b) {
    (void)n;
    return a - b;
}

void eval_sub(const Eval *eval, const Node *node) {
    Numbers n = alignment(eval, node);
    pointwise(eval, node, &n, sub, sub_real);
}

static int64_t mul(const Numbers *n, int64_t a, int64_t b) {
    (void)n;
    return a * b;
}

static double mul_real(const Numbers *n, double a, double b) {
    (void)n;
    return a * b;
}

void eval_mul(const Eval *eval, const Node *node) {
    pointwise(eval, node, &(Numbers){0}, mul, mul_real);
}

static int64_t divide(const Numbers *n, int64_t a, int64_t b) {
    if (b == 0)
        return a == 0 ? 0 : a > 0 ? n->bound : -n->bound;
    uint64_t up = intc_magnitude(a) << 30, down = intc_magnitude(b);
    uint64_t quotient = up / down, rest = up % down;
    if (2 * rest > down || (2 * rest == down && quotient % 2 == 1))
        quotient++;
    return (a < 0) != (b < 0) ? -(int64_t)quotient : (int64_t)quotient;
}

static double divide_real(const Numbers *n, double a, double b) {
    (void)n;
    return a / b;
}

void eval_div(const Eval *eval, const Node *node) {
    pointwise(eval, node, &(Numbers){.bound = node->out[0]->bound}, divide, divide_real);
}

static int64_t negate(const Numbers *n, int64_t a, int64_t b) {
    (void)n, (void)b;
    return -a;
}

static double negate_real(const Numbers *n, double a, double b) {
    (void)n, (void)b;
    return -a;
}

void eval_neg(const Eval *eval, const Node *node) {
    pointwise(eval, node, &(Numbers){0}, negate, negate_real);
}

void eval_bias(const Eval *eval, const Node *node) {
    Shape shape = node->out[0]->shape;
    Walk walk = {.shape = shape};
    walk.stride[attr_int(node, "axis", 1)] = 1;
    const Tensor *x = eval_in(eval, node, 0), *b = eval_in(eval, node, 1);
    Tensor *y = eval_out(eval, node, 0);
    Numbers n = alignment(eval, node);
    int64_t count = shape_elements(shape);
    for (int64_t i = 0; i < count; i++, walk_next(&walk))
        if (eval_exact(eval, node->out[0]))
            y->mantissa[i] = add(&n, x->mantissa[i], b->mantissa[walk.offset]);
        else
            y->real[i] = x->real[i] + b->real[walk.offset];
}

void eval_weighted_sum(const Eval *eval, const Node *node) {
    Tensor *y = eval_out(eval, node, 0);
    int64_t count = shape_elements(node->out[0]->shape);
    bool exact = eval_exact(eval, node->out[0]);
    eval_clear(exact, y, count);
    for (int k = 0; k < node->in_count; k += 2) {
        const Tensor *x = eval_in(eval, node, k), *c = eval_in(eval, node, k + 1);
        Walk walk = walk_broadcast(node->out[0]->shape, node->in[k]->shape);
        int cut = weighted_cut(node, k / 2), s = y->exponent - intc_exponent_clamp((int64_t)x->exponent + c->exponent + cut);
        for (int64_t i = 0; i < count; i++, walk_next(&walk))
            if (exact)
                y->mantissa[i] += intc_align(intc_round_up_half(x->mantissa[walk.offset] * c->mantissa[0], cut), s);
            else
                y->real[i] += x->real[walk.offset] * c->real[0];
    }
}

/* --- piecewise linear --- */

static int64_t relu(const Numbers *n, int64_t a, int64_t b) {
    (void)n, (void)b;
    return a > 0 ? a : 0;
}

static double relu_real(const Numbers *n, double a, double b) {
    (void)n, (void)b;
    return a > 0 ? a : 0;
}

void eval_relu(const Eval *eval, const Node *node) {
    pointwise(eval, node, &(Numbers){0}, relu, relu_real);
}

static Numbers slope(const Node *node) {
    double alpha = attr_real(node, "alpha", 0);
    return (Numbers){.slope = (int64_t)nearbyint(ldexp(alpha, 24)), .real_slope = alpha};
}

static int64_t leaky_relu(const Numbers *n, int64_t a, int64_t b) {
    (void)b;
    return a >= 0 ? a * ((int64_t)1 << 24) : a * n->slope;
}

static double leaky_relu_real(const Numbers *n, double a, double b) {
    (void)b;
    return a >= 0 ? a : a * n->real_slope;
}

void eval_leaky_relu(const Eval *eval, const Node *node) {
    Numbers n = slope(node);
    pointwise(eval, node, &n, leaky_relu, leaky_relu_real);
}

static int64_t leak(const Numbers *n, int64_t a, int64_t b) {
    return b != 0 ? a * ((int64_t)1 << 24) : a * n->slope;
}

static double leak_real(const Numbers *n, double a, double b) {
    return b != 0 ? a : a * n->real_slope;
}

void eval_leak(const Eval *eval, const Node *node) {
    Numbers n = slope(node);
    pointwise(eval, node, &n, leak, leak_real);
}

/* value / 2^e rounded half to even, saturated to 2^62; exact: the 53 bits of a double fit an int64. */
static int64_t at_exponent(double value, int e) {
    const int64_t top = (int64_t)1 << 62;
    if (isinf(value))
        return value > 0 ? top : -top;
    int k;
    int64_t mantissa = (int64_t)ldexp(frexp(fabs(value), &k), 53);
    int64_t rounded = eval_align_saturated(mantissa, (int64_t)e - (k - 53), top);
    return value < 0 ? -rounded : rounded;
}

static Numbers limits(const Eval *eval, const Node *node) {
    Numbers n = {.low = INT64_MIN, .high = INT64_MAX, .real_low = -INFINITY, .real_high = INFINITY};
    int e = eval_in(eval, node, 0)->exponent;
    if (attr_find(node, "min") != NULL) {
        n.real_low = attr_real(node, "min", 0);
        n.low = at_exponent(n.real_low, e);
    }
    if (attr_find(node, "max") != NULL) {
        n.real_high = attr_real(node, "max", 0);
        n.high = at_exponent(n.real_high, e);
    }
    return n;
}

static int64_t clip(const Numbers *n, int64_t a, int64_t b) {
    (void)b;
    return intc_saturate(a, n->low, n->high);
}

static double clip_real(const Numbers *n, double a, double b) {
    (void)b;
    return a < n->real_low ? n->real_low : a > n->real_high ? n->real_high : a;
}

void eval_clip(const Eval *eval, const Node *node) {
    Numbers n = limits(eval, node);
    pointwise(eval, node, &n, clip, clip_real);
}

static int64_t round_digits(const Numbers *n, int64_t a, int64_t b) {
    (void)b;
    int own = intc_bit_length(intc_magnitude(a)) - n->digits;
    int s = (int)intc_saturate(own > n->unit ? own : n->unit, 0, 62);
    if (n->truncate) {
        int64_t kept = (int64_t)(intc_magnitude(a) >> s << s);
        return a < 0 ? -kept : kept;
    }
    return intc_shift_left(intc_round_even(a, s), s);
}

static double round_digits_real(const Numbers *n, double a, double b) {
    (void)b;
    if (!isfinite(a) || a == 0)
        return a;
    int exponent;
    frexp(a, &exponent);
    int unit = exponent - n->digits > n->least ? exponent - n->digits : n->least;
    double units = ldexp(a, -unit);
    return ldexp(n->truncate ? trunc(units) : nearbyint(units), unit);
}

void eval_round(const Eval *eval, const Node *node) {
    Numbers n = {.digits = (int)attr_int(node, "digits", 0), .least = (int)attr_int(node, "least", 0)};
    n.truncate = attr_int(node, "truncate", 0) != 0;
    n.unit = n.least - eval_in(eval, node, 0)->exponent;
    pointwise(eval, node, &n, round_digits, round_digits_real);
}

static int64_t inside(const Numbers *n, int64_t a, int64_t b) {
    (void)b;
    return n->low < a && a < n->high;
}

static double inside_real(const Numbers *n, double a, double b) {
    (void)b;
    return n->real_low < a && a < n->real_high;
}

void eval_inside(const Eval *eval, const Node *node) {
    Numbers n = limits(eval, node);
    pointwise(eval, node, &n, inside, inside_real);
}

static int64_t positive(const Numbers *n, int64_t a, int64_t b) {
    (void)n, (void)b;
    return a > 0;
}

static double positive_real(const Numbers *n, double a, double b) {
    (void)n, (void)b;
    return a > 0;
}

void eval_positive(const Eval *eval, const Node *node) {
    pointwise(eval, node, &(Numbers){0}, positive, positive_real);
}

static int64_t gate(const Numbers *n, int64_t a, int64_t b) {
    (void)n;
    return b != 0 ? a : 0;
}

static double gate_real(const Numbers *n, double a, double b) {
    (void)n;
    return b != 0 ? a : 0;
}

void eval_gate(const Eval *eval, const Node *node) {
    pointwise(eval, node, &(Numbers){0}, gate, gate_real);
}

static int64_t both(const Numbers *n, int64_t a, int64_t b) {
    (void)n;
    return a != 0 && b != 0;
}

static int64_t differ(const Numbers *n, int64_t a, int64_t b) {
    (void)n;
    return (a != 0) != (b != 0);
}

/* Masks are exact in both modes. */
void eval_both(const Eval *eval, const Node *node) {
    pointwise(eval, node, &(Numbers){0}, both, NULL);
}

void eval_differ(const Eval *eval, const Node *node) {
    pointwise(eval, node, &(Numbers){0}, differ, NULL);
}
