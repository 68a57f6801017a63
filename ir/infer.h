/* The hooks of ir/ that ops.def names: bounds (ir/width.c) and shape inference (ir/infer.c, ir/infer_window.c). Included by those and
 * ops.c. */
#ifndef INTC_IR_INFER_H
#define INTC_IR_INFER_H

#include "ir/ir.h"

/* bound_X: the largest magnitude of output 0, from the bounds of the inputs. */
#define OP(op, kind, least, most, results, letters, rule, bound_hook, infer_hook, grad_hook) int64_t bound_##bound_hook(const Node *node);
#include "ir/ops.def"
#undef OP

/* infer_X: checks attributes and input shapes, makes the outputs. False after a diagnostic. */
#define OP(op, kind, least, most, results, letters, rule, bound_hook, infer_hook, grad_hook)                                               \
    bool infer_##infer_hook(Node *node, Diag *diag);
#include "ir/ops.def"
#undef OP

/* Makes output k of a node that infers. */
bool infer_out(Node *node, int k, Shape shape);
bool infer_integer_out(Node *node, int k, Shape shape, Type type, int64_t bound);
/* Reports a refusal of the node's inputs or attributes; returns false. */
bool infer_refuse(const Node *node, Diag *diag, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* A list attribute of exactly `count` numbers >= least; NULL after a diagnostic. */
const int64_t *infer_list(const Node *node, Diag *diag, const char *name, int count, int64_t least);

#endif
