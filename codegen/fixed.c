/* runtime/fixed.h in LLVM IR: shifts, roundings, bit lengths, random bits. Operands are scalars of 32 or 64 bits; every function equals its
 * namesake bit for bit within the bounds stated in emit.h. */
#include "runtime/fixed.h"
#include "codegen/emit.h"

Shift shift_new(Codegen *cg, LLVMValueRef s, int bits, bool may_left) {
    Shift shift = {.bits = bits};
    LLVMValueRef zero = const32(cg, 0);
    if (may_left) {
        LLVMValueRef left = smin(cg, smax(cg, sub(cg, zero, s), zero), const32(cg, bits == 32 ? 31 : 62));
        shift.left = as_bits(cg, left, bits);
    }
    LLVMValueRef right = as_bits(cg, smin(cg, smax(cg, s, zero), const32(cg, bits - 1)), bits);
    LLVMValueRef positive = compare(cg, LLVMIntSGT, s, zero);
    LLVMValueRef one = const_like(right, 1), none = const_like(right, 0);
    LLVMValueRef half = LLVMBuildShl(cg->builder, one, smax(cg, add_const(cg, right, -1), none), "");
    shift.right = right;
    shift.half_less_one = choose(cg, positive, add_const(cg, half, -1), none);
    shift.one = choose(cg, positive, one, none);
    return shift;
}

LLVMValueRef shift_apply(Codegen *cg, const Shift *shift, LLVMValueRef x) {
    x = as_bits(cg, x, shift->bits);
    if (shift->left != NULL)
        x = LLVMBuildShl(cg->builder, x, shift->left, "");
    LLVMValueRef odd = LLVMBuildAnd(cg->builder, LLVMBuildAShr(cg->builder, x, shift->right, ""), shift->one, "");
    LLVMValueRef rounded = add(cg, add(cg, x, shift->half_less_one), odd);
    return LLVMBuildAShr(cg->builder, rounded, shift->right, "");
}

LLVMValueRef bit_length(Codegen *cg, LLVMValueRef x) {
    LLVMTypeRef type = LLVMTypeOf(x);
    LLVMValueRef zeros = intrinsic(cg, "llvm.ctlz", &type, 1, (LLVMValueRef[]){x, LLVMConstInt(cg->i1, 0, false)}, 2);
    return as_bits(cg, sub(cg, const_like(x, bits_of(x)), zeros), 32);
}

LLVMValueRef rescale_shift(Codegen *cg, LLVMValueRef maximum, int bits, bool stochastic) {
    LLVMValueRef s = smax(cg, add_const(cg, bit_length(cg, maximum), 1 - bits), const32(cg, 0)), rounded;
    if (stochastic) {
        LLVMValueRef wide = as_bits(cg, s, 64);
        LLVMValueRef low = add_const(cg, LLVMBuildShl(cg->builder, const64(cg, 1), wide, ""), -1);
        rounded = LLVMBuildLShr(cg->builder, add(cg, maximum, low), wide, "");
    } else {
        Shift shift = shift_new(cg, s, 64, false);
        rounded = shift_apply(cg, &shift, maximum);
    }
    LLVMValueRef over = compare(cg, LLVMIntUGT, rounded, const64(cg, ((int64_t)1 << (bits - 1)) - 1));
    return add(cg, s, as_unsigned(cg, over, 32));
}

LLVMValueRef exponent_clamp(Codegen *cg, LLVMValueRef e) {
    return smin(cg, smax(cg, e, const32(cg, INTC_EXPONENT_ZERO)), const32(cg, -INTC_EXPONENT_ZERO));
}

static LLVMValueRef xor_shift(Codegen *cg, LLVMValueRef x, int places) {
    return LLVMBuildXor(cg->builder, x, LLVMBuildLShr(cg->builder, x, const_like(x, places), ""), "");
}

RandomKey random_key(Codegen *cg, int64_t stream) {
    LLVMBasicBlockRef saved = head_enter(cg);
    int64_t at = cg->source->random_offset;
    LLVMValueRef seed = load_at(cg, at, 16, cg->i64, cg->i64, const64(cg, 0), 8);
    LLVMValueRef step = load_at(cg, at, 16, cg->i64, cg->i64, const64(cg, 1), 8);
    LLVMValueRef x = mul(cg, seed, const64(cg, (int64_t)0x9E3779B97F4A7C15u));
    x = LLVMBuildXor(cg->builder, x, mul(cg, step, const64(cg, (int64_t)0xBF58476D1CE4E5B9u)), "");
    x = LLVMBuildXor(cg->builder, x, mul_by(cg, node_number(cg, stream + 1), (int64_t)0x94D049BB133111EBu), "");
    x = add(cg, x, const64(cg, (int64_t)0x9E3779B97F4A7C15u));
    x = mul(cg, xor_shift(cg, x, 30), const64(cg, (int64_t)0xBF58476D1CE4E5B9u));
    x = mul(cg, xor_shift(cg, x, 27), const64(cg, (int64_t)0x94D049BB133111EBu));
    x = xor_shift(cg, x, 31);
    RandomKey key = {.low = as_bits(cg, x, 32),
                     .high = as_bits(cg, LLVMBuildLShr(cg->builder, x, const64(cg, 32), ""), 32),
                     .factor = const32(cg, (int64_t)0x846CA68Bu)};
    head_leave(cg, saved);
    return key;
}

LLVMValueRef random_word(Codegen *cg, const RandomKey *key, LLVMValueRef steps) {
    LLVMValueRef x = add(cg, steps, key->low);
    x = mul(cg, xor_shift(cg, x, 16), const32(cg, (int64_t)0x7FEB352Du));
    x = xor_shift(cg, x, 15);
    return mul(cg, LLVMBuildXor(cg->builder, x, key->high, ""), key->factor);
}

LLVMValueRef random_bits(Codegen *cg, const RandomKey *key, LLVMValueRef steps) {
    return xor_shift(cg, random_word(cg, key, steps), 16);
}
