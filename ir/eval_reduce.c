/* Interpreter: reductions. Before: the bound proves that the 64-bit sum is exact. After: docs/operators.md, "Reductions". */
#include "ir/eval.h"

void eval_reduce_sum(const Eval *eval, const Node *node) {
    const Value *x = node->in[0];
    bool exact = eval_exact(eval, node->out[0]), keep = attr_int(node, "keepdims", 0) != 0;
    int count;
    const int64_t *axes = attr_ints(node, "axes", &count);
    bool reduced[MAX_RANK] = {false};
    for (int i = 0; i < count; i++)
        reduced[axes[i]] = true;
    int64_t stride[MAX_RANK];
    eval_strides(node->out[0]->shape, stride);
    /* From the input's elements to the sums they belong to. */
    Walk walk = {.shape = x->shape};
    for (int d = 0, o = 0; d < x->shape.rank; d++) {
        walk.stride[d] = reduced[d] ? 0 : stride[o];
        o += !reduced[d] || keep;
    }
    eval_clear(exact, eval_out(eval, node, 0), shape_elements(node->out[0]->shape));
    int64_t n = shape_elements(x->shape);
    for (int64_t i = 0; i < n; i++, walk_next(&walk))
        eval_accumulate(exact, eval_out(eval, node, 0), walk.offset, eval_in(eval, node, 0), i);
}
