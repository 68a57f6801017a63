/* Inside codegen/: arithmetic on float32 elements. float_math.c; its functions are made of operations that vectorise, and call no library.
 * The error of each is a few units in the last place, of sine and cosine for |x| < 2^20. */
#ifndef INTC_CODEGEN_FLOAT_H
#define INTC_CODEGEN_FLOAT_H

#include "codegen/emit.h"

LLVMValueRef float_const(const Codegen *cg, double x);
LLVMValueRef float_div(Codegen *cg, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef float_sqrt(Codegen *cg, LLVMValueRef x);
LLVMValueRef float_abs(Codegen *cg, LLVMValueRef x);
LLVMValueRef float_exp(Codegen *cg, LLVMValueRef x);
/* e^x - 1 and log(1 + x), exact near 0. */
LLVMValueRef float_exp_less_one(Codegen *cg, LLVMValueRef x);
LLVMValueRef float_log_one_more(Codegen *cg, LLVMValueRef x);
/* -infinity at 0, NaN below. */
LLVMValueRef float_log(Codegen *cg, LLVMValueRef x);
LLVMValueRef float_tanh(Codegen *cg, LLVMValueRef x);
LLVMValueRef float_erf(Codegen *cg, LLVMValueRef x);
/* sin(x + quarters * pi / 2) */
LLVMValueRef float_sine(Codegen *cg, LLVMValueRef x, int quarters);

/* To whole numbers, half to even or towards zero, without an instruction that x86 got late. */
LLVMValueRef float_nearest(Codegen *cg, LLVMValueRef x);
LLVMValueRef float_truncated(Codegen *cg, LLVMValueRef x);

/* float_row.c */
Emitter float_softmax, float_masked_softmax, float_softmax_grad, float_log_softmax, float_log_softmax_grad, float_cross_entropy,
    float_cross_entropy_grad;
/* float_function.c: curve and gated, curve_grad. */
ElementEmitter float_curve, float_curve_grad;

#endif
