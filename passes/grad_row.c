/* Gradient rules of ops over rows and labels. Notation: dy = the gradient of the output, t = labels. */
#include "passes/grad.h"

/* y = softmax(x): dx = y·(dy − Σ dy·y). */
void grad_softmax(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_softmax_grad, dy, node->out[0], node->attrs, node->attr_count);
}

/* y = log softmax(x): dx = dy − softmax(x)·Σ dy. */
void grad_log_softmax(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_log_softmax_grad, dy, node->in[0], node->attrs, node->attr_count);
}

/* y = −log softmax(x) at t: dx = (softmax(x) − [j = t])·dy. */
void grad_cross_entropy(Backward *b, const Node *node, Value *dy) {
    if (grad_wanted(b, node, 0))
        grad_give(b, node, 0,
                  build(b->graph, OP_cross_entropy_grad, node, INPUTS(node->in[0], node->in[1], dy), node->attrs, node->attr_count));
}

/* y = −x at t: dx = −dy at t, else 0. */
void grad_pick(Backward *b, const Node *node, Value *dy) {
    int count;
    const Attr *attrs = grad_attrs_with_shape(b, node, node->in[0]->shape, &count);
    grad_give2(b, node, 0, OP_pick_grad, dy, node->in[1], attrs, count);
}
