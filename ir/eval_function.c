/* Interpreter: the smooth functions. Before: operands of one shape. After: docs/operators.md, "Functions", element by element. */
#include "ir/eval.h"
#include "ir/functions.h"
#include "ir/tables.h"

#include <math.h>

static const Function *function_of(const Node *node) {
    return function_find(attr_text(node, "function", ""));
}

/* --- curves --- */

/* T[u >> bits] and its neighbour, weighted by the low bits. */
static int64_t interpolate(const int32_t *table, int64_t u, int bits) {
    int64_t i = u >> bits, r = u & (((int64_t)1 << bits) - 1);
    return table[i] + (((table[i + 1] - table[i]) * r + ((int64_t)1 << (bits - 1))) >> bits);
}

static int64_t curve_at(const Curve *curve, int64_t m, int e) {
    int64_t top = ((int64_t)1 << (curve->domain + 16)) - 1;
    int64_t u = eval_align_saturated((int64_t)intc_magnitude(m), -((int64_t)e + 16), top);
    const int32_t *table = curve->table + (curve->two && m <= 0 ? TABLE_INTERVALS + 1 : 0);
    CurveSide side = m > 0 ? curve->above : curve->below;
    return side.offset + side.sign * interpolate(table, u, curve->domain + 6);
}

static int64_t wave_at(const Curve *curve, int64_t m, int e) {
    int64_t top = ((int64_t)1 << TURN_RANGE) - 1;
    int64_t turns = eval_align_saturated((int64_t)intc_magnitude(m), -((int64_t)e + TURN_FRACTION), top) * TURN_FACTOR;
    int64_t place = ((m < 0 ? -turns : turns) + ((int64_t)1 << 31)) >> 32;
    return interpolate(curve->table, (place + ((int64_t)curve->quarters << 18)) & ((1 << 20) - 1), 10);
}

static int64_t look_up(const Function *function, bool slope, int64_t m, int e) {
    const Curve *curve = slope ? &function->slope : &function->value;
    return function->form == FORM_PERIODIC ? wave_at(curve, m, e) : curve_at(curve, m, e);
}

static void apply(const Eval *eval, const Node *node, bool gated) {
    const Function *function = function_of(node);
    const Tensor *x = eval_in(eval, node, 0);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape);
    for (int64_t i = 0; i < n; i++)
        if (eval_exact(eval, node->out[0]))
            y->mantissa[i] = look_up(function, false, x->mantissa[i], x->exponent) * (gated ? x->mantissa[i] : 1);
        else
            y->real[i] = function->real(x->real[i]);
}

void eval_curve(const Eval *eval, const Node *node) {
    apply(eval, node, false);
}

void eval_gated(const Eval *eval, const Node *node) {
    apply(eval, node, true);
}

void eval_curve_grad(const Eval *eval, const Node *node) {
    const Function *function = function_of(node);
    const Tensor *dy = eval_in(eval, node, 0), *x = eval_in(eval, node, 1);
    Tensor *dx = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape);
    for (int64_t i = 0; i < n; i++)
        if (eval_exact(eval, node->out[0]))
            dx->mantissa[i] = dy->mantissa[i] * look_up(function, true, x->mantissa[i], x->exponent);
        else
            dx->real[i] = dy->real[i] * function->real_slope(x->real[i]);
}

/* --- exp, log, sqrt --- */

static int64_t exponential(int64_t m, int e) {
    int64_t u = eval_align_saturated((int64_t)intc_magnitude(m), -((int64_t)e + 24), (int64_t)1 << 31);
    int64_t t = intc_round_even((m < 0 ? -u : u) * LOG2E, 38);
    t = intc_saturate(t, -47 * ((int64_t)1 << 16), 31 * ((int64_t)1 << 16) - 1);
    return intc_align(interpolate(table_exp2, t & 0xFFFF, 8), -(14 + (int)(t >> 16)));
}

/* m <= 0 counts as half a unit. */
static int64_t logarithm(int64_t m, int e) {
    int64_t total = ((int64_t)e - 1) * (1 << 16);
    if (m > 0) {
        int b = intc_bit_length((uint64_t)m);
        int64_t r = b > 17 ? m >> (b - 17) : intc_shift_left(m, 17 - b);
        total += (int64_t)b * (1 << 16) + interpolate(table_log2, r - (1 << 16), 8);
    }
    return intc_round_even(total * LN2, 30);
}

static int64_t square_root(int64_t m, int e) {
    if (m <= 0)
        return 0;
    int64_t v = intc_shift_left(m, 30 + (e & 1)), root = 0;
    for (int64_t bit = (int64_t)1 << 23; bit > 0; bit >>= 1)
        if ((root + bit) * (root + bit) <= v)
            root += bit;
    return v - root * root > root ? root + 1 : root;
}

typedef int64_t IntegerFunction(int64_t m, int e);
typedef double RealFunction(double x);

static void map(const Eval *eval, const Node *node, IntegerFunction *integer, RealFunction *real) {
    const Tensor *x = eval_in(eval, node, 0);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape);
    for (int64_t i = 0; i < n; i++)
        if (eval_exact(eval, node->out[0]))
            y->mantissa[i] = integer(x->mantissa[i], x->exponent);
        else
            y->real[i] = real(x->real[i]);
}

void eval_exp(const Eval *eval, const Node *node) {
    map(eval, node, exponential, exp);
}

void eval_log(const Eval *eval, const Node *node) {
    map(eval, node, logarithm, log);
}

void eval_sqrt(const Eval *eval, const Node *node) {
    map(eval, node, square_root, sqrt);
}

static int64_t absolute(int64_t m, int e) {
    (void)e;
    return (int64_t)intc_magnitude(m);
}

void eval_abs(const Eval *eval, const Node *node) {
    map(eval, node, absolute, fabs);
}
