/* Element functions of pointwise operators and normalisation on float32: docs/operators.md in real mode. The tables of what floats do
 * otherwise than integers. */
#include "codegen/float.h"
#include "codegen/space.h"
#include "ir/tables.h"

#include <math.h>

bool node_is_float(const Node *node) {
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i]->type == T_REAL)
            return true;
    for (int i = 0; i < node->out_count; i++)
        if (node->out[i]->type == T_REAL)
            return true;
    return false;
}

/* --- arithmetic --- */

static LLVMValueRef float_sum(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return add(cg, in[0], in[1]);
}

static LLVMValueRef float_difference(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return sub(cg, in[0], in[1]);
}

static LLVMValueRef float_product(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return mul(cg, in[0], in[1]);
}

static LLVMValueRef float_quotient(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return float_div(cg, in[0], in[1]);
}

static LLVMValueRef float_negative(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return negate(cg, in[0]);
}

static LLVMValueRef float_magnitude(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return float_abs(cg, in[0]);
}

static LLVMValueRef float_scaled(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return mul(cg, in[0], float_const(cg, attr_real(node, "value", 1)));
}

static LLVMValueRef float_weighted_sum(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef sum = mul(cg, in[0], in[1]);
    for (int i = 2; i < node->in_count; i += 2)
        sum = add(cg, sum, mul(cg, in[i], in[i + 1]));
    return sum;
}

static LLVMValueRef float_exponential(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return float_exp(cg, in[0]);
}

static LLVMValueRef float_logarithm(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return float_log(cg, in[0]);
}

static LLVMValueRef float_root(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return float_sqrt(cg, in[0]);
}

/* --- piecewise linear --- */

static LLVMValueRef zero_of(const Codegen *cg) {
    return float_const(cg, 0);
}

static LLVMValueRef float_relu(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return choose(cg, compare(cg, LLVMIntSGT, in[0], zero_of(cg)), in[0], zero_of(cg));
}

static LLVMValueRef sloped(Codegen *cg, const Node *node, LLVMValueRef x, LLVMValueRef straight) {
    return choose(cg, straight, x, mul(cg, x, float_const(cg, attr_real(node, "alpha", 0))));
}

static LLVMValueRef float_leaky_relu(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return sloped(cg, node, in[0], compare(cg, LLVMIntSGE, in[0], zero_of(cg)));
}

static LLVMValueRef is_set(Codegen *cg, LLVMValueRef mask) {
    return compare(cg, LLVMIntNE, mask, const_like(mask, 0));
}

static LLVMValueRef float_leak(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return sloped(cg, node, in[0], is_set(cg, in[1]));
}

static LLVMValueRef float_gate(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return choose(cg, is_set(cg, in[1]), in[0], zero_of(cg));
}

static LLVMValueRef float_clip(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef low = float_const(cg, attr_real(node, "min", -INFINITY)), high = float_const(cg, attr_real(node, "max", INFINITY));
    LLVMValueRef x = choose(cg, compare(cg, LLVMIntSGT, in[0], high), high, in[0]);
    return choose(cg, compare(cg, LLVMIntSLT, in[0], low), low, x);
}

/* To whole numbers of units of 2^(exponent of x - digits), at least of 2^least. */
static LLVMValueRef float_round(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef bits = LLVMBuildBitCast(cg->builder, in[0], cg->i32, "");
    LLVMValueRef field = LLVMBuildAnd(cg->builder, LLVMBuildLShr(cg->builder, bits, const32(cg, 23), ""), const32(cg, 255), "");
    LLVMValueRef unit = smax(cg, add_const(cg, field, -126 - attr_int(node, "digits", 0)), const32(cg, attr_int(node, "least", 0)));
    unit = smin(cg, smax(cg, unit, const32(cg, -126)), const32(cg, 126));
    LLVMValueRef up = LLVMBuildShl(cg->builder, sub(cg, const32(cg, 127), unit), const32(cg, 23), "");
    LLVMValueRef down = LLVMBuildShl(cg->builder, add_const(cg, unit, 127), const32(cg, 23), "");
    LLVMValueRef units = mul(cg, in[0], LLVMBuildBitCast(cg->builder, up, cg->f32, ""));
    units = attr_int(node, "truncate", 0) != 0 ? float_truncated(cg, units) : float_nearest(cg, units);
    return mul(cg, units, LLVMBuildBitCast(cg->builder, down, cg->f32, ""));
}

static LLVMValueRef float_inside(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef low = float_const(cg, attr_real(node, "min", -INFINITY)), high = float_const(cg, attr_real(node, "max", INFINITY));
    LLVMValueRef above = compare(cg, LLVMIntSGT, in[0], low), below = compare(cg, LLVMIntSLT, in[0], high);
    return as_unsigned(cg, LLVMBuildAnd(cg->builder, above, below, ""), 32);
}

static LLVMValueRef float_positive(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return as_unsigned(cg, compare(cg, LLVMIntSGT, in[0], zero_of(cg)), 32);
}

/* --- normalisation; a code is the bits of 1 / sqrt(v + epsilon) --- */

static LLVMValueRef float_share(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return float_div(cg, in[0], float_const(cg, (double)attr_int(node, "count", 1)));
}

/* In double precision: the difference of two large numbers. */
static LLVMValueRef float_variance(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef count = LLVMConstReal(cg->f64, (double)attr_int(node, "count", 1)), zero = LLVMConstReal(cg->f64, 0);
    LLVMValueRef v = float_div(cg, LLVMBuildFPExt(cg->builder, in[1], cg->f64, ""), count);
    if (attr_int(node, "centered", 1) != 0) {
        LLVMValueRef mean = float_div(cg, LLVMBuildFPExt(cg->builder, in[0], cg->f64, ""), count);
        v = sub(cg, v, mul(cg, mean, mean));
    }
    v = choose(cg, compare(cg, LLVMIntSLT, v, zero), zero, v);
    return LLVMBuildFPTrunc(cg->builder, v, cg->f32, "");
}

static LLVMValueRef inverse_root(Codegen *cg, const Node *node, LLVMValueRef v) {
    LLVMValueRef total = add(cg, v, float_const(cg, attr_real(node, "epsilon", 0)));
    return float_div(cg, float_const(cg, 1), float_sqrt(cg, total));
}

static LLVMValueRef float_rsqrt(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef r = inverse_root(cg, node, in[0]);
    LLVMValueRef finite = compare(cg, LLVMIntSLT, float_abs(cg, r), float_const(cg, INFINITY));
    return LLVMBuildBitCast(cg->builder, choose(cg, finite, r, zero_of(cg)), cg->i32, "");
}

/* 2^k for -126 <= k <= 127. */
static LLVMValueRef power_of(Codegen *cg, LLVMValueRef k) {
    LLVMValueRef bits = LLVMBuildShl(cg->builder, add_const(cg, k, 127), const32(cg, 23), "");
    return LLVMBuildBitCast(cg->builder, bits, cg->f32, "");
}

static LLVMValueRef float_inv_sqrt(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef r = inverse_root(cg, node, choose(cg, compare(cg, LLVMIntSLT, in[0], zero_of(cg)), zero_of(cg), in[0]));
    int64_t part = attr_int(node, "part", INV_SQRT_WHOLE);
    if (part == INV_SQRT_WHOLE)
        return r;
    LLVMValueRef biased = LLVMBuildLShr(cg->builder, LLVMBuildBitCast(cg->builder, r, cg->i32, ""), const32(cg, 23), "");
    LLVMValueRef most = const32(cg, NORM_LEVELS), level = add_const(cg, biased, NORM_LEVELS - NORM_LEVEL_TOP - 126);
    level = smax(cg, smin(cg, level, most), const32(cg, 0));
    return part == INV_SQRT_LEVEL ? LLVMBuildSIToFP(cg->builder, level, cg->f32, "") : mul(cg, r, power_of(cg, sub(cg, most, level)));
}

static LLVMValueRef by_level(Codegen *cg, const LLVMValueRef *in, bool up) {
    LLVMValueRef level = LLVMBuildFPToSI(cg->builder, in[1], cg->i32, ""), most = const32(cg, NORM_LEVELS);
    level = smax(cg, smin(cg, level, most), const32(cg, 0));
    return mul(cg, in[0], power_of(cg, up ? sub(cg, most, level) : sub(cg, level, most)));
}

static LLVMValueRef float_equalize(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return by_level(cg, in, true);
}

static LLVMValueRef float_restore(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return by_level(cg, in, false);
}

static LLVMValueRef code_of(Codegen *cg, LLVMValueRef bits) {
    return LLVMBuildBitCast(cg->builder, as_bits(cg, bits, 32), cg->f32, "");
}

/* x-hat of x, mean, code. */
static LLVMValueRef normal_of(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef x = attr_int(node, "centered", 1) != 0 ? sub(cg, in[0], in[1]) : in[0];
    return mul(cg, x, code_of(cg, in[2]));
}

static LLVMValueRef float_normalize(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef y = normal_of(cg, node, in);
    return node->in_count == 4 ? mul(cg, y, in[3]) : y;
}

/* One coefficient of the line A * g + B * x + C; part 3, a shift, is nothing to floats. */
static LLVMValueRef float_norm_slope(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    bool centered = attr_int(node, "centered", 1) != 0;
    LLVMValueRef density = code_of(cg, in[0]), spread = mul(cg, density, in[3]), first = density;
    if (node->in_count == 5)
        first = mul(cg, first, in[4]);
    switch (attr_int(node, "part", 0)) {
    case 0:
        return first;
    case 1:
        return negate(cg, mul(cg, first, spread));
    case 2:
        return centered ? mul(cg, first, sub(cg, mul(cg, in[1], spread), in[2])) : zero_of(cg);
    default:
        return zero_of(cg);
    }
}

static LLVMValueRef float_norm_grad(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return add(cg, add(cg, mul(cg, in[2], in[0]), mul(cg, in[3], in[1])), in[4]);
}

static LLVMValueRef float_random_normal(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef z = LLVMBuildSIToFP(cg->builder, element_random_normal(cg, node, in), cg->f32, "");
    return mul(cg, z, LLVMConstReal(cg->f32, ldexp(1, -QUANTILE_FRACTION)));
}

ElementEmitter *float_element(Op op) {
    static ElementEmitter *const table[OP_COUNT] = {[OP_mul_const] = float_scaled,
                                                    [OP_bias] = float_sum,
                                                    [OP_add] = float_sum,
                                                    [OP_sub] = float_difference,
                                                    [OP_mul] = float_product,
                                                    [OP_div] = float_quotient,
                                                    [OP_neg] = float_negative,
                                                    [OP_relu] = float_relu,
                                                    [OP_leaky_relu] = float_leaky_relu,
                                                    [OP_clip] = float_clip,
                                                    [OP_abs] = float_magnitude,
                                                    [OP_round] = float_round,
                                                    [OP_curve] = float_curve,
                                                    [OP_gated] = float_curve,
                                                    [OP_curve_grad] = float_curve_grad,
                                                    [OP_exp] = float_exponential,
                                                    [OP_log] = float_logarithm,
                                                    [OP_sqrt] = float_root,
                                                    [OP_positive] = float_positive,
                                                    [OP_inside] = float_inside,
                                                    [OP_gate] = float_gate,
                                                    [OP_leak] = float_leak,
                                                    [OP_weighted_sum] = float_weighted_sum,
                                                    [OP_share] = float_share,
                                                    [OP_variance] = float_variance,
                                                    [OP_rsqrt] = float_rsqrt,
                                                    [OP_inv_sqrt] = float_inv_sqrt,
                                                    [OP_equalize] = float_equalize,
                                                    [OP_restore] = float_restore,
                                                    [OP_normalize] = float_normalize,
                                                    [OP_norm_slope] = float_norm_slope,
                                                    [OP_norm_grad] = float_norm_grad,
                                                    [OP_random_normal] = float_random_normal};
    return table[op];
}

Emitter *float_emitter(Op op) {
    static Emitter *const table[OP_COUNT] = {[OP_softmax] = float_softmax,
                                             [OP_masked_softmax] = float_masked_softmax,
                                             [OP_softmax_grad] = float_softmax_grad,
                                             [OP_log_softmax] = float_log_softmax,
                                             [OP_log_softmax_grad] = float_log_softmax_grad,
                                             [OP_cross_entropy] = float_cross_entropy,
                                             [OP_cross_entropy_grad] = float_cross_entropy_grad};
    return table[op];
}
