/* Elementary functions on float32 (float.h): range reduction and polynomials, the coefficients those of the Cephes library's single
 * precision functions; erf is a rational function on [-4, 4]. */
#include "codegen/float.h"

#include <math.h>

LLVMValueRef float_const(const Codegen *cg, double x) {
    return LLVMConstReal(cg->f32, x);
}

LLVMValueRef float_div(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildFDiv(cg->builder, a, b, "");
}

static LLVMValueRef unary(Codegen *cg, const char *name, LLVMValueRef x) {
    LLVMTypeRef type = LLVMTypeOf(x);
    return intrinsic(cg, name, &type, 1, &x, 1);
}

LLVMValueRef float_sqrt(Codegen *cg, LLVMValueRef x) {
    return unary(cg, "llvm.sqrt", x);
}

LLVMValueRef float_abs(Codegen *cg, LLVMValueRef x) {
    return unary(cg, "llvm.fabs", x);
}

/* One rounding where the CPU has such an instruction. */
static LLVMValueRef multiply_add(Codegen *cg, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c) {
    LLVMTypeRef type = LLVMTypeOf(a);
    return intrinsic(cg, "llvm.fmuladd", &type, 1, (LLVMValueRef[]){a, b, c}, 3);
}

/* Coefficients from the highest power down. */
static LLVMValueRef polynomial(Codegen *cg, LLVMValueRef x, const double *coefficient, int count) {
    LLVMValueRef y = LLVMConstReal(LLVMTypeOf(x), coefficient[0]);
    for (int i = 1; i < count; i++)
        y = multiply_add(cg, y, x, LLVMConstReal(LLVMTypeOf(x), coefficient[i]));
    return y;
}

#define POLYNOMIAL(cg, x, ...) polynomial(cg, x, (const double[]){__VA_ARGS__}, (int)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)))

static LLVMValueRef minus_times(Codegen *cg, LLVMValueRef x, LLVMValueRef n, double part) {
    return multiply_add(cg, n, LLVMConstReal(LLVMTypeOf(n), -part), x);
}

static LLVMValueRef clamp(Codegen *cg, LLVMValueRef x, double low, double high) {
    x = choose(cg, compare(cg, LLVMIntSLT, x, float_const(cg, low)), float_const(cg, low), x);
    return choose(cg, compare(cg, LLVMIntSGT, x, float_const(cg, high)), float_const(cg, high), x);
}

static LLVMValueRef with_sign(Codegen *cg, LLVMValueRef magnitude_of, LLVMValueRef sign_of) {
    return intrinsic(cg, "llvm.copysign", &cg->f32, 1, (LLVMValueRef[]){magnitude_of, sign_of}, 2);
}

/* From 2^23 on every float is whole. */
static LLVMValueRef if_small(Codegen *cg, LLVMValueRef x, LLVMValueRef whole) {
    return choose(cg, compare(cg, LLVMIntSLT, float_abs(cg, x), float_const(cg, 0x1p23)), with_sign(cg, whole, x), x);
}

LLVMValueRef float_nearest(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef large = float_const(cg, 0x1p23);
    LLVMValueRef whole = sub(cg, add(cg, float_abs(cg, x), large), large);
    return if_small(cg, x, whole);
}

LLVMValueRef float_truncated(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef limited = choose(cg, compare(cg, LLVMIntSLT, float_abs(cg, x), float_const(cg, 0x1p23)), x, float_const(cg, 0));
    return if_small(cg, x, LLVMBuildSIToFP(cg->builder, LLVMBuildFPToSI(cg->builder, limited, cg->i32, ""), cg->f32, ""));
}

/* The nearest whole number for |x| < 2^22, or 2^51 in double precision: no fraction is left beside 1.5 times the next power. */
static LLVMValueRef near_whole(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef large = LLVMConstReal(LLVMTypeOf(x), LLVMTypeOf(x) == cg->f64 ? 0x1.8p52 : 0x1.8p23);
    return sub(cg, add(cg, x, large), large);
}

static LLVMValueRef as_float(Codegen *cg, LLVMValueRef bits) {
    return LLVMBuildBitCast(cg->builder, bits, cg->f32, "");
}

/* e^r - 1 for |r| <= ln 2 / 2. */
static LLVMValueRef small_exp(Codegen *cg, LLVMValueRef r) {
    LLVMValueRef p =
        POLYNOMIAL(cg, r, 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1);
    return add(cg, mul(cg, p, mul(cg, r, r)), r);
}

/* e^x = 2^n * e^r with |r| <= ln 2 / 2; below 2^-126 it is 0. */
LLVMValueRef float_exp(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef limited = clamp(cg, x, -87.33654, 88.72283);
    LLVMValueRef n = near_whole(cg, mul(cg, limited, float_const(cg, 1.44269504088896341)));
    LLVMValueRef r = minus_times(cg, minus_times(cg, limited, n, 0.693359375), n, -2.12194440e-4);
    LLVMValueRef y = add(cg, small_exp(cg, r), float_const(cg, 1));
    /* In two factors, for n may be 128. */
    LLVMValueRef exponent = LLVMBuildFPToSI(cg->builder, n, cg->i32, ""), half = LLVMBuildAShr(cg->builder, exponent, const32(cg, 1), "");
    LLVMValueRef parts[2] = {half, sub(cg, exponent, half)};
    for (int i = 0; i < 2; i++) {
        LLVMValueRef power = LLVMBuildShl(cg->builder, add_const(cg, parts[i], 127), const32(cg, 23), "");
        y = mul(cg, y, as_float(cg, power));
    }
    y = choose(cg, compare(cg, LLVMIntSLT, x, float_const(cg, -87.33654)), float_const(cg, 0), y);
    y = choose(cg, compare(cg, LLVMIntSGT, x, float_const(cg, 88.72283)), float_const(cg, INFINITY), y);
    return choose(cg, compare(cg, LLVMIntNE, x, x), x, y);
}

LLVMValueRef float_exp_less_one(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef far = sub(cg, float_exp(cg, x), float_const(cg, 1));
    return choose(cg, compare(cg, LLVMIntSLT, float_abs(cg, x), float_const(cg, 0.3465)), small_exp(cg, x), far);
}

/* log x = e * ln 2 + log m with m in [sqrt(1/2), sqrt(2)). */
LLVMValueRef float_log(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef least = float_const(cg, 1.17549435e-38), small = compare(cg, LLVMIntSLT, x, least);
    LLVMValueRef scaled = choose(cg, small, mul(cg, x, float_const(cg, 33554432.0)), x);
    LLVMValueRef bits = LLVMBuildBitCast(cg->builder, scaled, cg->i32, "");
    LLVMValueRef shifted = add_const(cg, bits, -0x3F3504F3); /* sqrt(1/2) */
    LLVMValueRef e = LLVMBuildAShr(cg->builder, shifted, const32(cg, 23), "");
    LLVMValueRef m = as_float(cg, sub(cg, bits, LLVMBuildShl(cg->builder, e, const32(cg, 23), "")));
    LLVMValueRef exponent = LLVMBuildSIToFP(cg->builder, e, cg->f32, "");
    exponent = sub(cg, exponent, choose(cg, small, float_const(cg, 25), float_const(cg, 0)));
    LLVMValueRef f = sub(cg, m, float_const(cg, 1)), square = mul(cg, f, f);
    LLVMValueRef p = POLYNOMIAL(cg, f, 7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
                                -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1);
    LLVMValueRef y = sub(cg, mul(cg, mul(cg, p, f), square), mul(cg, square, float_const(cg, 0.5)));
    y = minus_times(cg, y, exponent, 2.12194440e-4);
    y = add(cg, add(cg, y, f), mul(cg, exponent, float_const(cg, 0.693359375)));
    LLVMValueRef infinite = float_const(cg, INFINITY), zero = float_const(cg, 0);
    y = choose(cg, compare(cg, LLVMIntEQ, x, infinite), infinite, y);
    y = choose(cg, compare(cg, LLVMIntEQ, x, zero), float_const(cg, -INFINITY), y);
    return choose(cg, compare(cg, LLVMIntSGE, x, zero), y, float_const(cg, NAN));
}

/* What rounding 1 + x took away comes back by the slope of the logarithm. */
LLVMValueRef float_log_one_more(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef sum = add(cg, x, float_const(cg, 1));
    LLVMValueRef lost = sub(cg, x, sub(cg, sum, float_const(cg, 1)));
    return add(cg, float_log(cg, sum), float_div(cg, lost, sum));
}

LLVMValueRef float_tanh(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef size = float_abs(cg, x), z = mul(cg, x, x), one = float_const(cg, 1), two = float_const(cg, 2);
    LLVMValueRef near = POLYNOMIAL(cg, z, -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1);
    near = add(cg, mul(cg, mul(cg, near, z), x), x);
    LLVMValueRef far = sub(cg, one, float_div(cg, two, add(cg, float_exp(cg, mul(cg, size, two)), one)));
    return choose(cg, compare(cg, LLVMIntSLT, size, float_const(cg, 0.625)), near, with_sign(cg, far, x));
}

LLVMValueRef float_erf(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef limited = clamp(cg, x, -4, 4), z = mul(cg, limited, limited);
    LLVMValueRef p = POLYNOMIAL(cg, z, -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
                                -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02);
    LLVMValueRef q = POLYNOMIAL(cg, z, -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
                                -1.42647390514189e-02);
    return float_div(cg, mul(cg, limited, p), q);
}

/* The quarter turn is taken off in double precision. */
LLVMValueRef float_sine(Codegen *cg, LLVMValueRef x, int quarters) {
    LLVMValueRef wide = LLVMBuildFPExt(cg->builder, x, cg->f64, "");
    LLVMValueRef n = near_whole(cg, mul(cg, wide, LLVMConstReal(cg->f64, 0.63661977236758134308)));
    LLVMValueRef r = minus_times(cg, minus_times(cg, wide, n, 1.5707963267948965580), n, 6.123233995736766e-17);
    r = LLVMBuildFPTrunc(cg->builder, r, cg->f32, "");
    LLVMValueRef whole = clamp(cg, LLVMBuildFPTrunc(cg->builder, n, cg->f32, ""), -2147480000.0, 2147480000.0);
    LLVMValueRef quarter = add_const(cg, LLVMBuildFPToSI(cg->builder, whole, cg->i32, ""), quarters), z = mul(cg, r, r);
    LLVMValueRef sine = POLYNOMIAL(cg, z, -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1);
    sine = add(cg, mul(cg, mul(cg, sine, z), r), r);
    LLVMValueRef cosine = POLYNOMIAL(cg, z, 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2, -0.5);
    cosine = add(cg, mul(cg, cosine, z), float_const(cg, 1));
    LLVMValueRef one = const32(cg, 1), two = const32(cg, 2), zero = const32(cg, 0);
    LLVMValueRef odd = compare(cg, LLVMIntNE, LLVMBuildAnd(cg->builder, quarter, one, ""), zero);
    LLVMValueRef down = compare(cg, LLVMIntNE, LLVMBuildAnd(cg->builder, quarter, two, ""), zero);
    LLVMValueRef y = choose(cg, odd, cosine, sine);
    y = choose(cg, down, negate(cg, y), y);
    return choose(cg, compare(cg, LLVMIntSLT, float_abs(cg, x), float_const(cg, INFINITY)), y, float_const(cg, NAN));
}
