/* Element functions of normalisation: docs/operators.md, "Normalisation". Statistics are few and computed in 64 bits; x-hat is computed in
 * 32 bits where x has 8, so that the loops over elements vectorise. */
#include "codegen/space.h"
#include "runtime/fixed.h"

static LLVMValueRef shift_left(Codegen *cg, LLVMValueRef x, int places) {
    return places == 0 ? x : LLVMBuildShl(cg->builder, x, const_like(x, places), "");
}

static LLVMValueRef shift_right(Codegen *cg, LLVMValueRef x, int places) {
    return places == 0 ? x : LLVMBuildAShr(cg->builder, x, const_like(x, places), "");
}

static LLVMValueRef clamp(Codegen *cg, LLVMValueRef x, int64_t limit) {
    return smax(cg, smin(cg, x, const_like(x, limit)), const_like(x, -limit));
}

/* x / 2^s half to even, s of the same type as x and at least 0. */
static LLVMValueRef round_even(Codegen *cg, LLVMValueRef x, LLVMValueRef s) {
    /* Without places to drop, both the half less one and the bit that decides a tie are 0, as the mask is. */
    LLVMValueRef one = const_like(x, 1), mask = sub(cg, LLVMBuildShl(cg->builder, one, s, ""), one);
    LLVMValueRef less = LLVMBuildLShr(cg->builder, mask, one, "");
    LLVMValueRef odd = LLVMBuildAnd(cg->builder, LLVMBuildAShr(cg->builder, x, s, ""), LLVMBuildAnd(cg->builder, mask, one, ""), "");
    return LLVMBuildAShr(cg->builder, add(cg, add(cg, x, less), odd), s, "");
}

/* The same for a shift known now, to the left if it is negative. */
static LLVMValueRef align_by(Codegen *cg, LLVMValueRef x, int s) {
    return s <= 0 ? shift_left(cg, x, -s) : round_even(cg, x, const_like(x, s));
}

/* a / b for a >= 0, b > 0, half to even. */
static LLVMValueRef divide_even(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    LLVMValueRef quotient = LLVMBuildUDiv(cg->builder, a, b, ""), rest = sub(cg, a, mul(cg, quotient, b)), left = sub(cg, b, rest);
    LLVMValueRef odd = LLVMBuildTrunc(cg->builder, quotient, cg->i1, "");
    LLVMValueRef tie = LLVMBuildAnd(cg->builder, compare(cg, LLVMIntEQ, rest, left), odd, "");
    LLVMValueRef up = LLVMBuildOr(cg->builder, compare(cg, LLVMIntUGT, rest, left), tie, "");
    return add(cg, quotient, as_unsigned(cg, up, 64));
}

static LLVMValueRef with_sign(Codegen *cg, LLVMValueRef magnitude_of, LLVMValueRef sign_of) {
    LLVMValueRef negative = compare(cg, LLVMIntSLT, sign_of, const_like(sign_of, 0));
    return choose(cg, negative, LLVMBuildNeg(cg->builder, magnitude_of, ""), magnitude_of);
}

static LLVMValueRef as_result(Codegen *cg, const Node *node, LLVMValueRef x) {
    return as_bits(cg, x, node->out[0]->type == T_I64 ? 64 : 32);
}

LLVMValueRef element_share(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef x = shift_left(cg, as_bits(cg, in[0], 64), (int)attr_int(node, "fraction", 0));
    LLVMValueRef quotient = divide_even(cg, magnitude(cg, x), const64(cg, attr_int(node, "count", 1)));
    return as_result(cg, node, with_sign(cg, quotient, x));
}

LLVMValueRef element_variance(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    int64_t n = attr_int(node, "count", 1);
    LLVMValueRef d = mul_by(cg, as_bits(cg, in[1], 64), n), square = const64(cg, n * n);
    if (attr_int(node, "centered", 1) != 0) {
        LLVMValueRef s = as_bits(cg, in[0], 64);
        d = smax(cg, sub(cg, d, mul(cg, s, s)), const64(cg, 0));
    }
    LLVMValueRef quotient = LLVMBuildUDiv(cg->builder, d, square, ""), rest = sub(cg, d, mul(cg, quotient, square));
    LLVMValueRef next = shift_left(cg, rest, 12), part = LLVMBuildUDiv(cg->builder, next, square, "");
    rest = sub(cg, next, mul(cg, part, square));
    LLVMValueRef low = divide_even(cg, shift_left(cg, rest, 12), square);
    /* The parity that decides a tie is that of the last part: what is above it is even. */
    return as_result(cg, node, add(cg, add(cg, shift_left(cg, quotient, NORM_VARIANCE_FRACTION), shift_left(cg, part, 12)), low));
}

/* epsilon in units of 2^e (i32), at most 2^60. Computed once a kernel. */
static LLVMValueRef epsilon_at(Codegen *cg, const Node *node, LLVMValueRef e) {
    int64_t mantissa;
    int exponent;
    real_to_fixed(attr_real(node, "epsilon", 0), &mantissa, &exponent);
    if (mantissa == 0)
        return const64(cg, 0);
    LLVMValueRef s = add_const(cg, e, -exponent), top = const64(cg, (int64_t)1 << 60);
    int room = 60 - intc_bit_length((uint64_t)mantissa);
    Shift shift = shift_new(cg, smax(cg, s, const32(cg, -room - 1)), 64, true);
    return smin(cg, shift_apply(cg, &shift, const64(cg, mantissa)), top);
}

/* The root of v * 2^(2k) in [2^60, 2^62), rounded down, for 0 < v < 2^62. A tangent of the root is at most 6 % above it; each of Newton's
 * steps, which stay above, halves the square of that: after three the next integer is the most. */
static LLVMValueRef normalised_root(Codegen *cg, LLVMValueRef v, LLVMValueRef *k) {
    enum { STEPS = 3, TANGENT = 23171 /* 2^16 / sqrt(8), up */ };
    LLVMValueRef room = sub(cg, const64(cg, 62), as_bits(cg, bit_length(cg, v), 64));
    *k = LLVMBuildLShr(cg->builder, room, const64(cg, 1), "");
    LLVMValueRef square = LLVMBuildShl(cg->builder, v, shift_left(cg, *k, 1), "");
    LLVMValueRef start = add_const(cg, shift_right(cg, square, 30), (int64_t)1 << 31);
    LLVMValueRef root = add_const(cg, shift_right(cg, mul_by(cg, start, TANGENT), 16), 1);
    for (int i = 0; i < STEPS; i++)
        root = shift_right(cg, add(cg, root, LLVMBuildUDiv(cg->builder, square, root, "")), 1);
    LLVMValueRef above = compare(cg, LLVMIntUGT, mul(cg, root, root), square);
    return sub(cg, root, as_unsigned(cg, above, 64));
}

LLVMValueRef element_rsqrt(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    int fraction = norm_fraction_of(attr_int(node, "count", 1)), most = norm_most_shift(node);
    LLVMValueRef e = value_exponent(cg, node->in[0]);
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef epsilon = epsilon_at(cg, node, e), empty = compare(cg, LLVMIntEQ, e, const32(cg, INTC_EXPONENT_ZERO));
    head_leave(cg, saved);
    LLVMValueRef v = add(cg, as_bits(cg, in[0], 64), epsilon), zero = const64(cg, 0), one = const64(cg, 1), k;
    LLVMValueRef none = compare(cg, LLVMIntEQ, v, zero);
    LLVMValueRef root = normalised_root(cg, choose(cg, none, one, v), &k);
    LLVMValueRef mantissa = divide_even(cg, const64(cg, (int64_t)1 << 45), root);
    LLVMValueRef shift = sub(cg, const64(cg, NORM_MEAN_FRACTION + 33 - fraction), k);
    LLVMValueRef over = compare(cg, LLVMIntEQ, mantissa, const64(cg, 1 << 15));
    mantissa = choose(cg, over, const64(cg, 1 << 14), mantissa);
    shift = choose(cg, over, add_const(cg, shift, -1), shift);
    LLVMValueRef left = smin(cg, smax(cg, sub(cg, zero, shift), zero), const64(cg, 31));
    LLVMValueRef right = smax(cg, add_const(cg, shift, -most), zero);
    mantissa = smin(cg, LLVMBuildShl(cg->builder, mantissa, left, ""), const64(cg, 32767));
    mantissa = round_even(cg, mantissa, right);
    shift = smax(cg, smin(cg, shift, const64(cg, most)), zero);
    LLVMValueRef code = add(cg, shift_left(cg, mantissa, 5), shift);
    code = choose(cg, none, const64(cg, 32767 * 32), code);
    return as_bits(cg, choose(cg, empty, zero, code), 32);
}

/* --- levels --- */

/* What part of 1/sigma = y * 2^-30 the node asks for. */
static LLVMValueRef part_of(Codegen *cg, const Node *node, LLVMValueRef y) {
    int64_t part = attr_int(node, "part", INV_SQRT_WHOLE);
    if (part == INV_SQRT_WHOLE)
        return y;
    LLVMValueRef length = as_bits(cg, bit_length(cg, y), 64), most = const64(cg, NORM_LEVELS);
    LLVMValueRef level = add_const(cg, length, NORM_LEVELS - NORM_LEVEL_TOP - 30);
    level = smax(cg, smin(cg, level, most), const64(cg, 0));
    return part == INV_SQRT_LEVEL ? as_bits(cg, level, 32) : LLVMBuildShl(cg->builder, y, sub(cg, most, level), "");
}

/* In the width of the result. Shifts of 64 bits: those of vectors of 32 become float conversions where the CPU has none (target.c). */
static LLVMValueRef by_level(Codegen *cg, const Node *node, const LLVMValueRef *in, bool up) {
    LLVMValueRef zero = const64(cg, 0), most = const64(cg, NORM_LEVELS), e = value_exponent(cg, node->in[1]);
    LLVMBasicBlockRef saved = head_enter(cg);
    Shift shift = shift_new(cg, smax(cg, sub(cg, const32(cg, 0), e), const32(cg, -NORM_LEVELS)), 64, true);
    head_leave(cg, saved);
    LLVMValueRef level = smin(cg, shift_apply(cg, &shift, smax(cg, as_bits(cg, in[1], 64), zero)), most);
    LLVMValueRef y = LLVMBuildShl(cg->builder, as_bits(cg, in[0], 64), up ? sub(cg, most, level) : level, "");
    return as_result(cg, node, y);
}

LLVMValueRef element_equalize(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return by_level(cg, node, in, true);
}

LLVMValueRef element_restore(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return by_level(cg, node, in, false);
}

LLVMValueRef element_inv_sqrt(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    int64_t top = (int64_t)1 << 44;
    int room = 62 - intc_bit_length((uint64_t)1 << 30);
    LLVMValueRef from = value_exponent(cg, node->in[0]);
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef e = smax(cg, from, const32(cg, -60)), even = LLVMBuildAnd(cg->builder, e, const32(cg, ~1), "");
    LLVMValueRef epsilon = epsilon_at(cg, node, add_const(cg, even, -26));
    Shift down = shift_new(cg, sub(cg, e, from), 64, false);
    LLVMValueRef up = as_bits(cg, add_const(cg, sub(cg, e, even), 26), 64), half = shift_right(cg, even, 1);
    head_leave(cg, saved);
    LLVMValueRef zero = const64(cg, 0), k, m = smax(cg, as_bits(cg, in[0], 64), zero);
    LLVMValueRef v = add(cg, LLVMBuildShl(cg->builder, shift_apply(cg, &down, m), up, ""), epsilon);
    LLVMValueRef none = compare(cg, LLVMIntEQ, v, zero);
    LLVMValueRef root = normalised_root(cg, choose(cg, none, const64(cg, 1), v), &k);
    LLVMValueRef quotient = divide_even(cg, const64(cg, (int64_t)1 << 60), root);
    /* A quotient of 30 bits: `room` places to the left go beyond the limit. */
    LLVMValueRef s = sub(cg, add_const(cg, half, 17), as_bits(cg, k, 32));
    Shift shift = shift_new(cg, smax(cg, s, const32(cg, -room)), 64, true);
    LLVMValueRef y = smin(cg, shift_apply(cg, &shift, quotient), const64(cg, top));
    return part_of(cg, node, choose(cg, none, const64(cg, top), y));
}

/* --- x-hat --- */

static LLVMValueRef normal_of(Codegen *cg, const Node *node, const LLVMValueRef *in, const Value *x) {
    int places = (int)attr_int(node, "places", 0), bits = x->bound >> places <= 128 ? 32 : 64;
    LLVMValueRef d = shift_left(cg, as_bits(cg, in[0], bits), NORM_MEAN_FRACTION - places), code = as_bits(cg, in[2], bits);
    if (attr_int(node, "centered", 1) != 0)
        d = sub(cg, d, as_bits(cg, in[1], bits));
    LLVMValueRef shift = LLVMBuildAnd(cg->builder, code, const_like(code, 31), "");
    return clamp(cg, round_even(cg, mul(cg, d, shift_right(cg, code, 5)), shift), 32767);
}

static LLVMValueRef scaled(Codegen *cg, const Node *node, LLVMValueRef x, const LLVMValueRef *in, int scale) {
    x = as_result(cg, node, x);
    return scale < node->in_count ? mul(cg, x, as_result(cg, node, in[scale])) : x;
}

LLVMValueRef element_normalize(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return scaled(cg, node, normal_of(cg, node, in, node->in[0]), in, 3);
}

/* --- exact sums of few statistics --- */

static LLVMValueRef wide(Codegen *cg, LLVMValueRef x) {
    return as_bits(cg, x, 128);
}

static LLVMValueRef wide_length(Codegen *cg, LLVMValueRef x) {
    LLVMValueRef args[] = {magnitude(cg, x), LLVMConstInt(cg->i1, 0, false)};
    return sub(cg, const64(cg, 128), as_bits(cg, intrinsic(cg, "llvm.ctlz", &cg->i128, 1, args, 2), 64));
}

/* What a sum of parts loses so that each keeps NORM_SLOPE_BITS; need: the most bits of one. */
static LLVMValueRef places_over(Codegen *cg, LLVMValueRef need) {
    return smax(cg, add_const(cg, need, -NORM_SLOPE_BITS), const64(cg, 0));
}

/* x and half of what the shift s leaves off. */
static LLVMValueRef with_half(Codegen *cg, LLVMValueRef x, LLVMValueRef s) {
    LLVMValueRef half =
        LLVMBuildLShr(cg->builder, LLVMBuildShl(cg->builder, const_like(x, 1), as_bits(cg, s, bits_of(x)), ""), const_like(x, 1), "");
    return add(cg, x, half);
}

/* --- x-hat * scale + shift: A*x + C --- */

LLVMValueRef element_norm_line(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    int f = norm_fraction_of(attr_int(node, "count", 1)), places = (int)attr_int(node, "places", 0), x_bits = norm_input_bits(node);
    LLVMValueRef zero = const64(cg, 0), scale_e = value_exponent(cg, node->in[2]), shift_e = value_exponent(cg, node->in[3]);
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef e = node_exponent(cg, node), below = as_bits(cg, add_const(cg, sub(cg, e, scale_e), NORM_LINE_PLACES), 64);
    LLVMValueRef rise = as_bits(cg, sub(cg, shift_e, e), 64), fall = smin(cg, smax(cg, below, zero), const64(cg, NORM_LINE_FALL));
    LLVMValueRef vanishes = compare(cg, LLVMIntSGT, below, fall);
    head_leave(cg, saved);
    LLVMValueRef code = as_bits(cg, in[0], 64), p = mul(cg, shift_right(cg, code, 5), as_bits(cg, in[2], 64));
    p = choose(cg, vanishes, zero, p);
    LLVMValueRef down = add(cg, LLVMBuildAnd(cg->builder, code, const64(cg, 31), ""), add_const(cg, fall, f - NORM_LINE_PLACES));
    LLVMValueRef mean = clamp(cg, as_bits(cg, in[1], 64), (int64_t)1 << (x_bits - places + NORM_MEAN_FRACTION));
    rise = smin(cg, smax(cg, add(cg, rise, down), const64(cg, -NORM_LINE_RISE)), const64(cg, NORM_LINE_RISE));
    LLVMValueRef lower = wide(cg, smax(cg, sub(cg, zero, rise), zero)), higher = wide(cg, smax(cg, rise, zero));
    LLVMValueRef shift = LLVMBuildShl(cg->builder, round_even(cg, wide(cg, as_bits(cg, in[3], 64)), lower), higher, "");
    LLVMValueRef line[] = {shift_left(cg, wide(cg, p), NORM_MEAN_FRACTION - places), sub(cg, shift, mul(cg, wide(cg, p), wide(cg, mean)))};
    LLVMValueRef r = places_over(cg, smax(cg, add_const(cg, wide_length(cg, line[0]), x_bits), wide_length(cg, line[1])));
    r = smax(cg, r, add_const(cg, down, -NORM_LINE_SHIFT));
    LLVMValueRef s = smax(cg, sub(cg, down, r), zero);
    int part = (int)attr_int(node, "part", 0);
    if (part == 2)
        return as_bits(cg, s, 32);
    LLVMValueRef x = as_bits(cg, round_even(cg, line[part], wide(cg, r)), 32);
    return part == 1 ? with_half(cg, x, s) : x;
}

LLVMValueRef element_norm_apply(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    LLVMValueRef sum = add(cg, mul(cg, as_bits(cg, in[1], 32), as_bits(cg, in[0], 32)), as_bits(cg, in[2], 32));
    return LLVMBuildAShr(cg->builder, sum, as_bits(cg, in[3], 32), "");
}

/* --- the sum of g * x-hat from those of g * x and g --- */

LLVMValueRef element_norm_dot(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef products = shift_left(cg, wide(cg, in[0]), NORM_MEAN_FRACTION);
    LLVMValueRef d = sub(cg, products, mul(cg, wide(cg, in[2]), wide(cg, in[1]))), code = as_bits(cg, in[3], 64);
    d = mul(cg, d, wide(cg, shift_right(cg, code, 5)));
    d = round_even(cg, d, wide(cg, LLVMBuildAnd(cg->builder, code, const64(cg, 31), "")));
    return as_result(cg, node, clamp(cg, d, node->out[0]->bound));
}

/* --- the gradient: A*g + B*x + C --- */

LLVMValueRef element_norm_slope(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    int f = norm_fraction_of(attr_int(node, "count", 1)), g_bits = norm_gradient_bits(node), x_bits = norm_input_bits(node);
    LLVMValueRef code = as_bits(cg, in[0], 64), s = LLVMBuildAnd(cg->builder, code, const64(cg, 31), ""),
                 density = shift_right(cg, code, 5);
    LLVMValueRef p = node->in_count == 5 ? mul(cg, density, as_bits(cg, in[4], 64)) : shift_left(cg, density, 15);
    LLVMValueRef mean = clamp(cg, as_bits(cg, in[1], 64), (int64_t)1 << (x_bits + NORM_MEAN_FRACTION));
    LLVMValueRef a = clamp(cg, as_bits(cg, in[2], 64), (int64_t)1 << (g_bits + NORM_SUM_FRACTION));
    LLVMValueRef b = clamp(cg, as_bits(cg, in[3], 64), (int64_t)1 << (g_bits + f + NORM_PRODUCT_FRACTION));
    LLVMValueRef product = shift_left(cg, mul(cg, wide(cg, mul(cg, p, density)), wide(cg, b)), 1), slope[4];
    slope[0] = shift_left(cg, wide(cg, p), 16);
    slope[1] = LLVMBuildNeg(cg->builder, round_even(cg, product, wide(cg, add_const(cg, s, 2 * f - 18))), "");
    slope[2] = const_like(slope[0], 0);
    if (attr_int(node, "centered", 1) != 0) {
        LLVMValueRef moved = align_by(cg, mul(cg, slope[1], wide(cg, mean)), NORM_MEAN_FRACTION);
        slope[2] = sub(cg, LLVMBuildNeg(cg->builder, shift_left(cg, mul(cg, wide(cg, p), wide(cg, a)), 2), ""), moved);
    }
    LLVMValueRef need = smax(cg, add_const(cg, wide_length(cg, slope[0]), g_bits), add_const(cg, wide_length(cg, slope[1]), x_bits));
    need = smax(cg, need, wide_length(cg, slope[2]));
    LLVMValueRef r = places_over(cg, need), shift = add_const(cg, sub(cg, s, r), g_bits + f - 5);
    shift = smax(cg, smin(cg, shift, const64(cg, 31)), const64(cg, 0));
    int part = (int)attr_int(node, "part", 0);
    if (part == 3)
        return as_bits(cg, shift, 32);
    LLVMValueRef x = as_bits(cg, round_even(cg, slope[part], wide(cg, r)), 32);
    return part == 2 ? with_half(cg, x, shift) : x;
}

LLVMValueRef element_norm_grad(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    LLVMValueRef sum =
        add(cg, mul(cg, as_bits(cg, in[2], 32), as_bits(cg, in[0], 32)), mul(cg, as_bits(cg, in[3], 32), as_bits(cg, in[1], 32)));
    return LLVMBuildAShr(cg->builder, add(cg, sum, as_bits(cg, in[4], 32)), as_bits(cg, in[5], 32), "");
}
