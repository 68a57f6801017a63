/* The curves of ir/functions.h on float32: docs/operators.md, "Functions", in real mode. */
#include "codegen/float.h"

#include <math.h>
#include <string.h>

#define PI 3.14159265358979323846

/* A function or its derivative. */
typedef LLVMValueRef Curve(Codegen *cg, LLVMValueRef x);

static LLVMValueRef times(Codegen *cg, LLVMValueRef x, double factor) {
    return mul(cg, x, float_const(cg, factor));
}

static LLVMValueRef plus(Codegen *cg, LLVMValueRef x, double term) {
    return add(cg, x, float_const(cg, term));
}

static LLVMValueRef one_minus(Codegen *cg, LLVMValueRef x) {
    return sub(cg, float_const(cg, 1), x);
}

static LLVMValueRef is_above(Codegen *cg, LLVMValueRef x, double limit) {
    return compare(cg, LLVMIntSGT, x, float_const(cg, limit));
}

static LLVMValueRef sigmoid(Codegen *cg, LLVMValueRef x) {
    return float_div(cg, float_const(cg, 1), plus(cg, float_exp(cg, negate(cg, x)), 1));
}

/* e / (1 + e)^2 with e = e^-|x|: without cancellation. */
static LLVMValueRef sigmoid_slope(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef e = float_exp(cg, negate(cg, float_abs(cg, x))), sum = plus(cg, e, 1);
    return float_div(cg, e, mul(cg, sum, sum));
}

static LLVMValueRef tanh_slope(Codegen *cg, LLVMValueRef x) {
    return times(cg, sigmoid_slope(cg, times(cg, x, 2)), 4);
}

static LLVMValueRef erf_slope(Codegen *cg, LLVMValueRef x) {
    return times(cg, float_exp(cg, negate(cg, mul(cg, x, x))), 2 / sqrt(PI));
}

static LLVMValueRef sine(Codegen *cg, LLVMValueRef x) {
    return float_sine(cg, x, 0);
}

static LLVMValueRef cosine(Codegen *cg, LLVMValueRef x) {
    return float_sine(cg, x, 1);
}

static LLVMValueRef minus_sine(Codegen *cg, LLVMValueRef x) {
    return float_sine(cg, x, 2);
}

static LLVMValueRef softplus_tail(Codegen *cg, LLVMValueRef x) {
    return float_log_one_more(cg, float_exp(cg, negate(cg, float_abs(cg, x))));
}

static LLVMValueRef softplus_tail_slope(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef y = sigmoid(cg, negate(cg, float_abs(cg, x)));
    return choose(cg, is_above(cg, x, 0), negate(cg, y), y);
}

static LLVMValueRef exp_below(Codegen *cg, LLVMValueRef x) {
    return choose(cg, is_above(cg, x, 0), float_const(cg, 0), float_exp_less_one(cg, x));
}

static LLVMValueRef exp_below_slope(Codegen *cg, LLVMValueRef x) {
    return choose(cg, is_above(cg, x, 0), float_const(cg, 0), float_exp(cg, x));
}

static LLVMValueRef hard_sigmoid(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef y = plus(cg, times(cg, x, 1.0 / 6), 0.5), zero = float_const(cg, 0), one = float_const(cg, 1);
    y = choose(cg, compare(cg, LLVMIntSLT, y, zero), zero, y);
    return choose(cg, compare(cg, LLVMIntSGT, y, one), one, y);
}

static LLVMValueRef hard_sigmoid_slope(Codegen *cg, LLVMValueRef x) {
    return choose(cg, is_above(cg, float_abs(cg, x), 3), float_const(cg, 0), float_const(cg, 1.0 / 6));
}

static LLVMValueRef hinge(Codegen *cg, LLVMValueRef x) {
    return choose(cg, is_above(cg, x, 0), x, float_const(cg, 0));
}

static LLVMValueRef hinge_slope(Codegen *cg, LLVMValueRef x) {
    return choose(cg, is_above(cg, x, 0), float_const(cg, 1), float_const(cg, 0));
}

static LLVMValueRef normal(Codegen *cg, LLVMValueRef x) {
    return times(cg, plus(cg, float_erf(cg, times(cg, x, sqrt(0.5))), 1), 0.5);
}

static LLVMValueRef gelu(Codegen *cg, LLVMValueRef x) {
    return mul(cg, x, normal(cg, x));
}

static LLVMValueRef gelu_slope(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef density = times(cg, float_exp(cg, times(cg, mul(cg, x, x), -0.5)), 1 / sqrt(2 * PI));
    return add(cg, normal(cg, x), mul(cg, x, density));
}

static LLVMValueRef gelu_tanh_gate(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef square = plus(cg, times(cg, mul(cg, x, x), 0.044715), 1);
    return times(cg, plus(cg, float_tanh(cg, times(cg, mul(cg, x, square), sqrt(2 / PI))), 1), 0.5);
}

static LLVMValueRef gelu_tanh(Codegen *cg, LLVMValueRef x) {
    return mul(cg, x, gelu_tanh_gate(cg, x));
}

static LLVMValueRef gelu_tanh_slope(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef g = gelu_tanh_gate(cg, x), inner = plus(cg, times(cg, mul(cg, x, x), 3 * 0.044715), 1);
    LLVMValueRef slope = times(cg, mul(cg, mul(cg, g, one_minus(cg, g)), inner), 2 * sqrt(2 / PI));
    return add(cg, g, mul(cg, x, slope));
}

static LLVMValueRef swish(Codegen *cg, LLVMValueRef x) {
    return mul(cg, x, sigmoid(cg, x));
}

static LLVMValueRef swish_slope(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef y = sigmoid(cg, x);
    return mul(cg, y, plus(cg, mul(cg, x, one_minus(cg, y)), 1));
}

static LLVMValueRef mish_gate(Codegen *cg, LLVMValueRef x) {
    return float_tanh(cg, add(cg, hinge(cg, x), softplus_tail(cg, x)));
}

static LLVMValueRef mish(Codegen *cg, LLVMValueRef x) {
    return mul(cg, x, mish_gate(cg, x));
}

static LLVMValueRef mish_slope(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef g = mish_gate(cg, x);
    return add(cg, g, mul(cg, mul(cg, x, one_minus(cg, mul(cg, g, g))), sigmoid(cg, x)));
}

static LLVMValueRef hard_swish(Codegen *cg, LLVMValueRef x) {
    return mul(cg, x, hard_sigmoid(cg, x));
}

static LLVMValueRef hard_swish_slope(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef inside = plus(cg, times(cg, x, 1.0 / 3), 0.5);
    LLVMValueRef y = choose(cg, is_above(cg, x, 3), float_const(cg, 1), inside);
    return choose(cg, compare(cg, LLVMIntSLT, x, float_const(cg, -3)), float_const(cg, 0), y);
}

typedef struct {
    const char *name;
    Curve *value, *slope;
} Function;

static const Function *function_of(const Node *node) {
    static const Function functions[] = {{"sigmoid", sigmoid, sigmoid_slope},
                                         {"tanh", float_tanh, tanh_slope},
                                         {"erf", float_erf, erf_slope},
                                         {"sin", sine, cosine},
                                         {"cos", cosine, minus_sine},
                                         {"softplus_tail", softplus_tail, softplus_tail_slope},
                                         {"exp_below", exp_below, exp_below_slope},
                                         {"hard_sigmoid", hard_sigmoid, hard_sigmoid_slope},
                                         {"hinge", hinge, hinge_slope},
                                         {"gelu", gelu, gelu_slope},
                                         {"gelu_tanh", gelu_tanh, gelu_tanh_slope},
                                         {"swish", swish, swish_slope},
                                         {"mish", mish, mish_slope},
                                         {"hard_swish", hard_swish, hard_swish_slope}};
    const char *name = attr_text(node, "function", "");
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (strcmp(functions[i].name, name) == 0)
            return &functions[i];
    internal_error("codegen: no float function %s", name);
}

LLVMValueRef float_curve(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return function_of(node)->value(cg, in[0]);
}

LLVMValueRef float_curve_grad(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return mul(cg, in[0], function_of(node)->slope(cg, in[1]));
}
