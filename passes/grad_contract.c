/* Gradient rules of contractions. Notation: dy = the gradient of the output. */
#include "passes/grad.h"

static Value *rows(Backward *b, const Node *node, Value *x) {
    int64_t last = x->shape.dim[x->shape.rank - 1];
    int64_t count = last == 0 ? 0 : shape_elements(x->shape) / last;
    return grad_reshaped(b, node, x, shape_of(2, (int64_t[]){count, last}));
}

/* y = op(a)·op(b), op the transpose where ta, tb say so:
 *   d op(a) = dy·op(b)^T, d op(b) = op(a)^T·dy, each transposed back; grad_give sums over broadcast batches.
 * One weight for a whole batch of matrices is one long contraction over all their rows. */
void grad_matmul(Backward *b, const Node *node, Value *dy) {
    Value *x = node->in[0], *w = node->in[1];
    bool ta = attr_int(node, "ta", 0) != 0, tb = attr_int(node, "tb", 0) != 0;
    if (ta)
        grad_give2(b, node, 0, OP_matmul, w, dy, ATTRS(ATTR_I("ta", tb), ATTR_I("tb", 1)));
    else
        grad_give2(b, node, 0, OP_matmul, dy, w, ATTRS(ATTR_I("ta", 0), ATTR_I("tb", !tb)));
    if (!grad_wanted(b, node, 1))
        return;
    if (w->shape.rank == 2 && x->shape.rank > 2 && !ta) {
        x = rows(b, node, x);
        dy = rows(b, node, dy);
    }
    if (tb)
        grad_give2(b, node, 1, OP_matmul, dy, x, ATTRS(ATTR_I("ta", 1), ATTR_I("tb", ta)));
    else
        grad_give2(b, node, 1, OP_matmul, x, dy, ATTRS(ATTR_I("ta", !ta), ATTR_I("tb", 0)));
}

/* dx = conv_dgrad(dy, w), dw = conv_wgrad(x, dy). */
void grad_conv(Backward *b, const Node *node, Value *dy) {
    int count;
    const Attr *attrs = grad_attrs_with_shape(b, node, node->in[0]->shape, &count);
    grad_give2(b, node, 0, OP_conv_dgrad, dy, node->in[1], attrs, count);
    attrs = grad_attrs_with_shape(b, node, node->in[1]->shape, &count);
    grad_give2(b, node, 1, OP_conv_wgrad, node->in[0], dy, attrs, count);
}

/* y = conv_dgrad(x, w), the transpose of a convolution with w: dx = conv(dy, w), dw = conv_wgrad(dy, x). */
void grad_conv_dgrad(Backward *b, const Node *node, Value *dy) {
    int rank, spatial;
    const int64_t *strides = attr_ints(node, "strides", &rank), *dilations = attr_ints(node, "dilations", &rank);
    const int64_t *pads = attr_ints(node, "pads", &spatial);
    const Shape w = node->in[1]->shape;
    const Attr attrs[] = {ATTR_L("strides", rank, strides), ATTR_L("pads", spatial, pads), ATTR_L("dilations", rank, dilations),
                          ATTR_I("group", attr_int(node, "group", 1)), ATTR_L("shape", w.rank, w.dim)};
    grad_give2(b, node, 0, OP_conv, dy, node->in[1], attrs, 4);
    grad_give2(b, node, 1, OP_conv_wgrad, dy, node->in[0], attrs, 5);
}
