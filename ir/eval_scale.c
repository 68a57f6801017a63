/* Interpreter: rescale, refine, mul_const and random numbers. Before: |mantissa| <= 2^62. After: docs/operators.md, "Scaling"; rescale sets
 * its exponent. */
#include "ir/eval.h"
#include "ir/functions.h"
#include "ir/tables.h"

#include <math.h>
#include <string.h>

static void rescale_dynamic(const Eval *eval, const Node *node, int64_t n) {
    const Tensor *x = eval_in(eval, node, 0);
    Tensor *y = eval_out(eval, node, 0);
    bool stochastic = strcmp(attr_text(node, "round", "nearest"), "stochastic") == 0;
    uint64_t maximum = 0;
    for (int64_t i = 0; i < n; i++)
        maximum = intc_magnitude(x->mantissa[i]) > maximum ? intc_magnitude(x->mantissa[i]) : maximum;
    int s = intc_rescale_shift(maximum, (int)attr_int(node, "bits", 8), stochastic);
    uint64_t key = intc_random_key(eval->seed, eval->step, (uint64_t)attr_int(node, "stream", 0));
    for (int64_t i = 0; i < n; i++)
        y->mantissa[i] =
            stochastic ? intc_round_stochastic(x->mantissa[i], s, intc_random_word(key, (uint32_t)i)) : intc_round_even(x->mantissa[i], s);
    y->exponent = maximum == 0 ? INTC_EXPONENT_ZERO : intc_exponent_clamp((int64_t)x->exponent + s);
}

static void rescale_fixed(const Eval *eval, const Node *node, int64_t n) {
    const Tensor *x = eval_in(eval, node, 0);
    Tensor *y = eval_out(eval, node, 0);
    int64_t slot = eval_in(eval, node, 1)->mantissa[0], s = slot - x->exponent;
    int64_t top = (int64_t)1 << (attr_int(node, "bits", 8) - 1);
    for (int64_t i = 0; i < n; i++) {
        /* Magnitudes beyond top saturate either way, so that top is a safe limit before the sign. */
        int64_t m = eval_align_saturated((int64_t)intc_magnitude(x->mantissa[i]), s, top);
        y->mantissa[i] = intc_saturate(x->mantissa[i] < 0 ? -m : m, -top, top - 1);
    }
    y->exponent = (int)slot;
}

void eval_rescale(const Eval *eval, const Node *node) {
    int64_t n = shape_elements(node->out[0]->shape);
    if (eval->mode == EVAL_REAL)
        for (int64_t i = 0; i < n; i++)
            eval_copy(false, eval_out(eval, node, 0), i, eval_in(eval, node, 0), i);
    else if (node->in_count == 2)
        rescale_fixed(eval, node, n);
    else
        rescale_dynamic(eval, node, n);
}

void eval_refine(const Eval *eval, const Node *node) {
    const Tensor *w = eval_in(eval, node, 0), *x = eval_in(eval, node, 1);
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape), s = x->exponent - attr_int(node, "places", 0) - w->exponent;
    for (int64_t i = 0; i < n; i++)
        if (eval->mode == EVAL_REAL)
            eval_copy(false, y, i, w, i);
        else
            y->mantissa[i] =
                (w->mantissa[i] < 0 ? -1 : 1) * eval_align_saturated((int64_t)intc_magnitude(w->mantissa[i]), s, node->out[0]->bound);
}

void eval_mul_const(const Eval *eval, const Node *node) {
    const Tensor *x = eval_in(eval, node, 0);
    Tensor *y = eval_out(eval, node, 0);
    double value = attr_real(node, "value", 1);
    int64_t mantissa, n = shape_elements(node->out[0]->shape);
    int exponent;
    real_to_fixed(value, &mantissa, &exponent);
    for (int64_t i = 0; i < n; i++)
        if (eval_exact(eval, node->out[0]))
            y->mantissa[i] = x->mantissa[i] * mantissa;
        else
            y->real[i] = x->real[i] * value;
}

void eval_random_mask(const Eval *eval, const Node *node) {
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape);
    uint64_t threshold = (uint64_t)nearbyint(ldexp(attr_real(node, "ratio", 0), 32));
    uint64_t key = intc_random_key(eval->seed, eval->step, (uint64_t)attr_int(node, "stream", 0));
    for (int64_t i = 0; i < n; i++)
        y->mantissa[i] = intc_random_bits(key, (uint32_t)i) >= threshold;
}

void eval_random_normal(const Eval *eval, const Node *node) {
    Tensor *y = eval_out(eval, node, 0);
    int64_t n = shape_elements(node->out[0]->shape);
    uint64_t key = intc_random_key(eval->seed, eval->step, (uint64_t)attr_int(node, "stream", 0));
    for (int64_t i = 0; i < n; i++) {
        int32_t z = function_normal(intc_random_bits(key, (uint32_t)i));
        if (eval->mode == EVAL_REAL)
            y->real[i] = ldexp(z, -QUANTILE_FRACTION);
        else
            y->mantissa[i] = z;
    }
}
