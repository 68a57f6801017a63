/* The list of ir/functions.h and the same functions on doubles. Before: the tables. After: constants. */
#include "ir/functions.h"
#include "ir/tables.h"
#include "runtime/fixed.h"

#include <math.h>
#include <string.h>

#define PI 3.14159265358979323846

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static double sigmoid_slope(double x) {
    double y = sigmoid(x);
    return y * (1 - y);
}

static double tanh_slope(double x) {
    return 1 - tanh(x) * tanh(x);
}

static double erf_slope(double x) {
    return 2 / sqrt(PI) * exp(-x * x);
}

static double minus_sin(double x) {
    return -sin(x);
}

static double softplus_tail(double x) {
    return log1p(exp(-fabs(x)));
}

static double softplus_tail_slope(double x) {
    return x > 0 ? -sigmoid(-x) : sigmoid(x);
}

static double exp_below(double x) {
    return x > 0 ? 0 : expm1(x);
}

static double exp_below_slope(double x) {
    return x > 0 ? 0 : exp(x);
}

static double normal(double x) {
    return 0.5 * erfc(-x / sqrt(2));
}

static double gelu(double x) {
    return x * normal(x);
}

static double gelu_slope(double x) {
    return normal(x) + x * exp(-x * x / 2) / sqrt(2 * PI);
}

static double gelu_tanh_gate(double x) {
    return 0.5 * (1 + tanh(sqrt(2 / PI) * (x + 0.044715 * x * x * x)));
}

static double gelu_tanh(double x) {
    return x * gelu_tanh_gate(x);
}

static double gelu_tanh_slope(double x) {
    double g = gelu_tanh_gate(x);
    return g + x * g * (1 - g) * 2 * sqrt(2 / PI) * (1 + 3 * 0.044715 * x * x);
}

static double swish(double x) {
    return x * sigmoid(x);
}

static double swish_slope(double x) {
    return sigmoid(x) + x * sigmoid_slope(x);
}

static double mish_gate(double x) {
    return tanh((x > 0 ? x : 0) + softplus_tail(x));
}

static double mish(double x) {
    return x * mish_gate(x);
}

static double mish_slope(double x) {
    double g = mish_gate(x);
    return g + x * (1 - g * g) * sigmoid(x);
}

static double hard_sigmoid(double x) {
    return fmin(fmax(x / 6 + 0.5, 0), 1);
}

static double hard_sigmoid_slope(double x) {
    return fabs(x) > 3 ? 0 : 1.0 / 6;
}

static double hard_swish(double x) {
    return x * hard_sigmoid(x);
}

static double hard_swish_slope(double x) {
    return x < -3 ? 0 : x > 3 ? 1 : x / 3 + 0.5;
}

static double hinge(double x) {
    return x > 0 ? x : 0;
}

static double hinge_slope(double x) {
    return x > 0;
}

enum { ONE = 1 << 15 };

#define EVEN {0, 1}, {0, 1}
#define ODD {0, 1}, {0, -1}
#define MIRRORED {0, 1}, {ONE, -1}
/* Name, table, its domain, the two sides. */
#define CURVE(table, domain, ...) {"table." #table, table_##table, domain, __VA_ARGS__, false, 0}
#define TWO_CURVES(table, domain) {"table." #table, table_##table, domain, EVEN, true, 0}
#define WAVE(quarters) {"table.sine", table_sine, 0, EVEN, false, quarters}

static const Function functions[] = {
    {"sigmoid", FORM_PLAIN, CURVE(sigmoid, 4, MIRRORED), CURVE(sigmoid_grad, 4, EVEN), sigmoid, sigmoid_slope},
    {"tanh", FORM_PLAIN, CURVE(tanh, 3, ODD), CURVE(tanh_grad, 3, EVEN), tanh, tanh_slope},
    {"erf", FORM_PLAIN, CURVE(erf, 2, ODD), CURVE(erf_grad, 2, EVEN), erf, erf_slope},
    {"sin", FORM_PERIODIC, WAVE(0), WAVE(1), sin, cos},
    {"cos", FORM_PERIODIC, WAVE(1), WAVE(2), cos, minus_sin},
    {"softplus_tail", FORM_PLAIN, CURVE(softplus_tail, 4, EVEN), CURVE(sigmoid, 4, {-ONE, 1}, {ONE, -1}), softplus_tail,
     softplus_tail_slope},
    {"exp_below", FORM_PLAIN, CURVE(exp_below, 4, {0, 0}, {-ONE, 1}), CURVE(exp_below, 4, {0, 0}, {0, 1}), exp_below, exp_below_slope},
    {"hard_sigmoid", FORM_PLAIN, CURVE(hard, 2, MIRRORED), CURVE(hard_grad, 2, EVEN), hard_sigmoid, hard_sigmoid_slope},
    {"hinge", FORM_GATED, CURVE(hard, 2, {ONE, 0}, {0, 0}), CURVE(hard, 2, {ONE, 0}, {0, 0}), hinge, hinge_slope},
    {"gelu", FORM_GATED, CURVE(normal, 3, MIRRORED), CURVE(gelu_grad, 3, MIRRORED), gelu, gelu_slope},
    {"gelu_tanh", FORM_GATED, CURVE(gelu_tanh, 3, MIRRORED), CURVE(gelu_tanh_grad, 3, MIRRORED), gelu_tanh, gelu_tanh_slope},
    {"swish", FORM_GATED, CURVE(sigmoid, 4, MIRRORED), CURVE(swish_grad, 4, MIRRORED), swish, swish_slope},
    {"mish", FORM_GATED, TWO_CURVES(mish, 4), TWO_CURVES(mish_grad, 4), mish, mish_slope},
    {"hard_swish", FORM_GATED, CURVE(hard, 2, MIRRORED), CURVE(hard_swish_grad, 2, MIRRORED), hard_swish, hard_swish_slope},
};

const Function *function_find(const char *name) {
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (strcmp(functions[i].name, name) == 0)
            return &functions[i];
    return NULL;
}

int32_t function_normal(uint32_t bits) {
    uint32_t tail = bits & 0x7FFFFFFF;
    tail = tail == 0 ? 1 : tail;
    int length = intc_bit_length(tail);
    uint32_t aligned = tail << (32 - length);
    const int32_t *at = table_quantile + (QUANTILE_OCTAVES - length) * (QUANTILE_INTERVALS + 1) + (aligned >> 26 & 31);
    int32_t rest = (int32_t)(aligned >> 10 & 0xFFFF), z = at[0] + (((at[1] - at[0]) * rest + (1 << 15)) >> 16);
    return bits >> 31 ? -z : z;
}
