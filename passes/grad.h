/* What backward.c offers to the gradient rules (grad_*.c) and asks of them. A rule sees one forward node and the gradient of its output 0,
 * and gives a gradient to each input that wants one. Private to passes/. */
#ifndef INTC_PASSES_GRAD_H
#define INTC_PASSES_GRAD_H

#include "ir/ir.h"

typedef struct {
    Graph *graph;
    Value **gradient;   /* by id of a forward value; NULL: none yet */
    const bool *active; /* by id: on a path from a parameter to the loss */
} Backward;

/* grad_X: dy has the shape of node's output 0. */
#define OP(op, kind, least, most, results, letters, rule, bound_hook, infer_hook, grad_hook)                                               \
    void grad_##grad_hook(Backward *b, const Node *node, Value *dy);
#include "ir/ops.def"
#undef OP

/* Whether a gradient is wanted with respect to that input. */
bool grad_wanted(const Backward *b, const Node *node, int input);
/* Adds to the input's gradient, after summing over the dimensions along which the input was broadcast. */
void grad_give(Backward *b, const Node *node, int input, Value *gradient);
/* The same for grad_give(…, node(op, a)), grad_give(…, node(op, a, c)): does nothing if no gradient is wanted. */
void grad_give1(Backward *b, const Node *node, int input, Op op, Value *a, const Attr *attrs, int attr_count);
void grad_give2(Backward *b, const Node *node, int input, Op op, Value *a, Value *c, const Attr *attrs, int attr_count);
/* Nodes behind the last one. */
Value *grad_op1(Backward *b, const Node *node, Op op, Value *a, const Attr *attrs, int attr_count);
Value *grad_op2(Backward *b, const Node *node, Op op, Value *a, Value *c, const Attr *attrs, int attr_count);
Value *grad_reshaped(Backward *b, const Node *node, Value *a, Shape shape);
/* A mask of the forward value x, computed right behind the forward node: the wide x dies there and only the mask lives on. */
Value *grad_mask(Backward *b, const Node *node, Op op, Value *x, const Attr *attrs, int attr_count);
/* dx of normalize from g, x, mean, code, mean(g), mean(g * x-hat) and the scale, NULL if there is none; count elements share one mean. The
 * origin is the normalize. */
Value *grad_norm_input(Graph *graph, const Node *origin, Value *const in[7], int64_t count);
/* The node's own attributes and `shape`. */
const Attr *grad_attrs_with_shape(Backward *b, const Node *node, Shape shape, int *count);

#endif
