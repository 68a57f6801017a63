/* The dot primitive for each kind of CPU: which one serves, how its operands are loaded, the instructions. Before: operands are staged
 * (contract.h). */
#include "codegen/contract.h"

#include <string.h>

/* --- helpers --- */

LLVMValueRef byte_at(Codegen *cg, LLVMValueRef base, LLVMValueRef offset) {
    return LLVMBuildInBoundsGEP2(cg->builder, cg->i8, base, &offset, 1, "");
}

LLVMValueRef byte_at_const(Codegen *cg, LLVMValueRef base, int64_t offset) {
    return offset == 0 ? base : byte_at(cg, base, const64(cg, offset));
}

LLVMValueRef load_bytes(Codegen *cg, LLVMTypeRef type, LLVMValueRef address, unsigned align) {
    LLVMValueRef load = LLVMBuildLoad2(cg->builder, type, address, "");
    LLVMSetAlignment(load, align);
    return load;
}

void store_bytes(Codegen *cg, LLVMValueRef x, LLVMValueRef address, unsigned align) {
    LLVMSetAlignment(LLVMBuildStore(cg->builder, x, address), align);
}

int64_t round_up(int64_t x, int64_t unit) {
    return (x + unit - 1) / unit * unit;
}

int64_t panel_count(const Dot *dot, int64_t columns) {
    return (columns + dot->panel - 1) / dot->panel;
}

LLVMValueRef splat(Codegen *cg, LLVMValueRef scalar, unsigned lanes) {
    LLVMTypeRef type = LLVMVectorType(LLVMTypeOf(scalar), lanes);
    LLVMValueRef one = LLVMBuildInsertElement(cg->builder, LLVMGetUndef(type), scalar, const32(cg, 0), "");
    return LLVMBuildShuffleVector(cg->builder, one, LLVMGetUndef(type), LLVMConstNull(LLVMVectorType(cg->i32, lanes)), "");
}

/* --- dot --- */

/* Few columns waste most of a wide vector. AMD does two 256-bit operations in the time of one of 512 bits, and broadcasts faster. */
static bool prefers_256(const Codegen *cg, int64_t columns) {
    return columns <= (strncmp(cg->cpu, "znver", 5) == 0 ? 24 : 8);
}

/* Floats: 16 lanes fill a register of 512 bits. */
static Dot float_dot(const Codegen *cg, int64_t columns) {
    bool narrow = prefers_256(cg, columns);
    if (target_has(cg, "avx512f") && target_has(cg, "avx512vl"))
        return narrow ? (Dot){DOT_FLOAT, 1, 4, 8, 8, 28, false, false} : (Dot){DOT_FLOAT, 1, 4, 16, 16, 28, false, false};
    if (target_has(cg, "avx2"))
        return (Dot){DOT_FLOAT, 1, 4, 8, 8, 12, false, false};
    return (Dot){DOT_FLOAT, 1, 4, 4, columns > 8 ? 16 : columns > 4 ? 8 : 4, 12, false, false};
}

static bool is_x86(const Codegen *cg) {
    return strncmp(cg->triple, "x86_64", 6) == 0 || strncmp(cg->triple, "amd64", 5) == 0;
}

Dot dot_for(const Codegen *cg, int64_t columns, const Value *row_operand, const Value *column_operand) {
    if (row_operand->type != T_REAL && is_x86(cg) && target_has(cg, "amx-int8"))
        return (Dot){DOT_MATRIX, 64, 1, 16, 16, 64, false, false};
    return dot_of_vectors(cg, columns, row_operand, column_operand);
}

bool dot_is_matrix(const Dot *dot) {
    return dot->kind == DOT_MATRIX;
}

void dot_fit(Dot *dot, int64_t run) {
    if (!dot_is_matrix(dot) || run == 0)
        return;
    int64_t parts = (run + 63) / 64;
    dot->quad = (int)round_up((run + parts - 1) / parts, 4);
}

Dot dot_of_vectors(const Codegen *cg, int64_t columns, const Value *row_operand, const Value *column_operand) {
    if (row_operand->type == T_REAL)
        return float_dot(cg, columns);
    bool x86 = is_x86(cg);
    bool wide = x86 && target_has(cg, "avx512bw") && target_has(cg, "avx512vl");
    bool narrow = prefers_256(cg, columns);
    int panel = columns > 8 ? 16 : columns > 4 ? 8 : 4;
    if (wide && target_has(cg, "avx512vnni"))
        return narrow ? (Dot){DOT_VNNI256, 4, 1, 8, 8, 28, true, false} : (Dot){DOT_VNNI512, 4, 1, 16, 16, 28, true, false};
    if (x86 && target_has(cg, "avxvnni"))
        return (Dot){DOT_VNNI256, 4, 1, 8, 8, 12, true, false};
    if (wide)
        return narrow ? (Dot){DOT_MADD256, 2, 2, 8, 8, 26, false, false} : (Dot){DOT_MADD512, 2, 2, 16, 16, 26, false, false};
    bool rows = value_never_negative(row_operand), bytes = rows || value_never_negative(column_operand);
    if (x86 && target_has(cg, "avx2") && bytes)
        return (Dot){DOT_MADDUB256, 4, 1, 8, 8, 10, false, !rows};
    if (x86 && target_has(cg, "avx2"))
        return dot_words();
    if (x86)
        return (Dot){DOT_MADD128, 2, 2, 4, panel, 12, false, false};
    if (strncmp(cg->triple, "aarch64", 7) == 0 && target_has(cg, "dotprod"))
        return (Dot){DOT_SDOT, 4, 1, 4, panel, 24, false, false};
    return (Dot){DOT_GENERIC, 1, 2, 4, panel, 16, false, false};
}

Dot dot_words(void) {
    return (Dot){DOT_MADD256, 2, 2, 8, 8, 12, false, false};
}

Dot dot_lanes(const Codegen *cg, Type type, bool pairs) {
    bool avx512 = target_has(cg, "avx512bw") && target_has(cg, "avx512vl"), avx2 = target_has(cg, "avx2");
    if (type == T_REAL && avx512)
        return (Dot){DOT_FLOAT_LANES, 1, 4, 16, 16, 24, false, false};
    if (type == T_REAL)
        return (Dot){DOT_FLOAT_LANES, 1, 4, avx2 ? 8 : 4, 8, 8, false, false};
    if (avx512)
        return (Dot){pairs ? DOT_PAIRS512 : DOT_LANES, pairs ? 2 : 1, 1, 16, 16, 24, false, false};
    if (avx2 && pairs)
        return (Dot){DOT_PAIRS256, 2, 1, 8, 8, 9, false, false};
    return (Dot){DOT_LANES, 1, 1, avx2 ? 8 : 4, 8, 8, false, false};
}

bool dot_has_pairs(const Dot *dot) {
    return dot->kind == DOT_PAIRS512 || dot->kind == DOT_PAIRS256;
}

bool dot_is_lanes(const Dot *dot) {
    return dot->kind == DOT_LANES || dot->kind == DOT_FLOAT_LANES || dot_has_pairs(dot);
}

static bool is_real(const Dot *dot) {
    return dot->kind == DOT_FLOAT || dot->kind == DOT_FLOAT_LANES;
}

LLVMTypeRef dot_element(const Codegen *cg, const Dot *dot) {
    return is_real(dot) ? cg->f32 : cg->i8;
}

int64_t dot_source(const Dot *dot) {
    return is_real(dot) ? 4 : 1;
}

/* No dot instruction: elements are extended to 32 bits and multiplied. */
static bool multiplies(const Dot *dot) {
    return dot->kind == DOT_GENERIC || dot->kind == DOT_LANES;
}

int64_t dot_group(const Dot *dot) {
    return dot->quad * dot->bytes;
}

LLVMTypeRef dot_accumulator(Codegen *cg, const Dot *dot) {
    return LLVMVectorType(is_real(dot) ? cg->f32 : cg->i32, (unsigned)dot->lanes);
}

/* Pairs of bytes as pairs of words, one in each lane. */
static LLVMValueRef load_pairs(Codegen *cg, const Dot *dot, LLVMValueRef address) {
    unsigned count = 2 * (unsigned)dot->lanes;
    LLVMValueRef words =
        LLVMBuildSExt(cg->builder, load_bytes(cg, LLVMVectorType(cg->i8, count), address, 1), LLVMVectorType(cg->i16, count), "");
    return LLVMBuildBitCast(cg->builder, words, dot_accumulator(cg, dot), "");
}

/* Column groups in a register: i32 lanes that hold a group each, or sign-extended elements without a dot instruction. */
LLVMValueRef dot_load_columns(Codegen *cg, const Dot *dot, LLVMValueRef address) {
    unsigned align = (unsigned)(dot_is_lanes(dot) ? dot->bytes : dot->lanes * dot_group(dot));
    if (dot_has_pairs(dot))
        return load_pairs(cg, dot, address);
    if (!multiplies(dot))
        return load_bytes(cg, dot_accumulator(cg, dot), address, align);
    LLVMTypeRef element = dot->bytes == 2 ? cg->i16 : cg->i8;
    LLVMValueRef narrow = load_bytes(cg, LLVMVectorType(element, (unsigned)dot->lanes), address, align);
    return LLVMBuildSExt(cg->builder, narrow, dot_accumulator(cg, dot), "");
}

LLVMValueRef dot_load_rows(Codegen *cg, const Dot *dot, LLVMValueRef address) {
    if (dot->kind == DOT_FLOAT_LANES)
        return load_bytes(cg, dot_accumulator(cg, dot), address, 4);
    if (dot->kind == DOT_FLOAT)
        return splat(cg, load_bytes(cg, cg->f32, address, 4), (unsigned)dot->lanes);
    if (dot->kind == DOT_LANES) {
        LLVMValueRef narrow = load_bytes(cg, LLVMVectorType(cg->i8, (unsigned)dot->lanes), address, 1);
        return LLVMBuildSExt(cg->builder, narrow, dot_accumulator(cg, dot), "");
    }
    if (dot_has_pairs(dot))
        return load_pairs(cg, dot, address);
    if (dot->kind != DOT_GENERIC)
        return splat(cg, load_bytes(cg, cg->i32, address, (unsigned)dot->bytes), (unsigned)dot->lanes);
    return splat(cg, as_bits(cg, load_bytes(cg, cg->i16, address, 2), 32), (unsigned)dot->lanes);
}

LLVMValueRef dot_splat(Codegen *cg, const Dot *dot, int64_t value) {
    int64_t word = dot->quad == 4 ? value * 0x01010101 : dot->quad == 2 ? value * 0x00010001 : value;
    return splat(cg, const32(cg, word), (unsigned)dot->lanes);
}

/* Intrinsics, not IR multiplications: optimisers pull pair sums apart. */
LLVMValueRef dot_emit(Codegen *cg, const Dot *dot, LLVMValueRef acc, LLVMValueRef a, LLVMValueRef b) {
    static const char *const name[] = {[DOT_VNNI512] = "llvm.x86.avx512.vpdpbusd.512",  [DOT_VNNI256] = "llvm.x86.avx512.vpdpbusd.256",
                                       [DOT_MADD512] = "llvm.x86.avx512.pmaddw.d.512",  [DOT_MADD256] = "llvm.x86.avx2.pmadd.wd",
                                       [DOT_MADD128] = "llvm.x86.sse2.pmadd.wd",        [DOT_MADDUB256] = "llvm.x86.avx2.pmadd.ub.sw",
                                       [DOT_PAIRS512] = "llvm.x86.avx512.pmaddw.d.512", [DOT_PAIRS256] = "llvm.x86.avx2.pmadd.wd"};
    LLVMTypeRef type = dot_accumulator(cg, dot);
    if (is_real(dot))
        return intrinsic(cg, "llvm.fmuladd", &type, 1, (LLVMValueRef[]){a, b, acc}, 3);
    if (multiplies(dot))
        return add(cg, acc, mul(cg, a, b));
    if (dot->biased)
        return intrinsic(cg, name[dot->kind], NULL, 0, (LLVMValueRef[]){acc, a, b}, 3);
    LLVMTypeRef words = LLVMVectorType(cg->i16, (unsigned)dot->lanes * 2), bytes = LLVMVectorType(cg->i8, (unsigned)dot->lanes * 4);
    if (dot->kind == DOT_MADDUB256) {
        LLVMValueRef first = LLVMBuildBitCast(cg->builder, dot->swapped ? b : a, bytes, "");
        LLVMValueRef second = LLVMBuildBitCast(cg->builder, dot->swapped ? a : b, bytes, "");
        LLVMValueRef pairs = intrinsic(cg, name[dot->kind], NULL, 0, (LLVMValueRef[]){first, second}, 2);
        LLVMValueRef ones = splat(cg, LLVMConstInt(cg->i16, 1, false), (unsigned)dot->lanes * 2);
        return add(cg, acc, intrinsic(cg, name[DOT_MADD256], NULL, 0, (LLVMValueRef[]){pairs, ones}, 2));
    }
    if (dot->kind == DOT_SDOT) {
        LLVMTypeRef types[] = {type, bytes};
        LLVMValueRef args[] = {acc, LLVMBuildBitCast(cg->builder, a, bytes, ""), LLVMBuildBitCast(cg->builder, b, bytes, "")};
        return intrinsic(cg, "llvm.aarch64.neon.sdot", types, 2, args, 3);
    }
    LLVMValueRef args[] = {LLVMBuildBitCast(cg->builder, a, words, ""), LLVMBuildBitCast(cg->builder, b, words, "")};
    return add(cg, acc, intrinsic(cg, name[dot->kind], NULL, 0, args, 2));
}
