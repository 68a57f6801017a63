/* Internal to the interpreter: element access, walks over logical shapes, exponents. docs/operators.md is what every eval_X implements. */
#ifndef INTC_IR_EVAL_H
#define INTC_IR_EVAL_H

#include "ir/ir.h"
#include "runtime/fixed.h"

typedef void EvalNode(const Eval *eval, const Node *node);
#define OP(name, ...) EvalNode eval_##name;
#include "ir/ops.def"
#undef OP

static inline Tensor *eval_in(const Eval *eval, const Node *node, int i) {
    return &eval->tensors[node->in[i]->id];
}

static inline Tensor *eval_out(const Eval *eval, const Node *node, int i) {
    return &eval->tensors[node->out[i]->id];
}

/* The value is computed on mantissas: always in integer mode, and labels, masks and counters in both. */
static inline bool eval_exact(const Eval *eval, const Value *value) {
    return eval->mode == EVAL_INTEGER || value->integer;
}

/* Row-major strides of a logical shape. */
void eval_strides(Shape shape, int64_t stride[MAX_RANK]);

/* Visits every index of a shape in row-major order and keeps `offset` = base + sum of index * stride. */
typedef struct {
    Shape shape;
    int64_t stride[MAX_RANK];
    int64_t index[MAX_RANK];
    int64_t offset;
} Walk;

/* From the elements of `out` to those of `in`, which broadcasts to it: stride 0 along the repeated dimensions. */
Walk walk_broadcast(Shape out, Shape in);
void walk_next(Walk *walk);

/* Copies one element, mantissa or real, whichever the output value has. */
static inline void eval_copy(bool exact, Tensor *to, int64_t i, const Tensor *from, int64_t j) {
    if (exact)
        to->mantissa[i] = from->mantissa[j];
    else
        to->real[i] = from->real[j];
}

static inline void eval_accumulate(bool exact, Tensor *to, int64_t i, const Tensor *from, int64_t j) {
    if (exact)
        to->mantissa[i] += from->mantissa[j];
    else
        to->real[i] += from->real[j];
}

void eval_clear(bool exact, Tensor *tensor, int64_t n);

/* x >= 0 brought to x / 2^s, half to even, at most top: what intc_align computes where it fits, without its limit on left shifts. */
static inline int64_t eval_align_saturated(int64_t x, int64_t s, int64_t top) {
    if (s >= 0) {
        int64_t rounded = intc_round_even(x, s > 63 ? 63 : (int)s);
        return rounded < top ? rounded : top;
    }
    if (x == 0)
        return 0;
    return -s > 62 || x > (top >> -s) ? top : intc_shift_left(x, (int)-s);
}

/* ceil(log2 n) for n >= 1. */
static inline int eval_log2_ceil(int64_t n) {
    return intc_bit_length((uint64_t)(n - 1));
}

#endif
