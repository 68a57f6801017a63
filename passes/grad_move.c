/* Gradient rules of reductions, windows and moves: each is the transpose of a linear map. Notation: dy = the gradient of the output. */
#include "passes/grad.h"

/* y = Σ x over axes: dx = dy repeated along them. */
void grad_reduce_sum(Backward *b, const Node *node, Value *dy) {
    if (!grad_wanted(b, node, 0))
        return;
    Shape x = node->in[0]->shape, kept = x;
    int count;
    const int64_t *axes = attr_ints(node, "axes", &count);
    for (int i = 0; i < count; i++)
        kept.dim[axes[i]] = 1;
    dy = grad_reshaped(b, node, dy, kept);
    grad_give(b, node, 0, shape_equal(kept, x) ? dy : grad_op1(b, node, OP_broadcast, dy, ATTRS(ATTR_L("shape", x.rank, x.dim))));
}

/* y = the largest of each window: dx = dy at the place that won. */
void grad_maxpool(Backward *b, const Node *node, Value *dy) {
    int count;
    const Attr *attrs = grad_attrs_with_shape(b, node, node->in[0]->shape, &count);
    grad_give2(b, node, 0, OP_maxpool_grad, dy, node->out[1], attrs, count);
}

/* y = Σ of each window: dx = Σ dy of the windows that hold the place. */
void grad_sumpool(Backward *b, const Node *node, Value *dy) {
    int count;
    const Attr *attrs = grad_attrs_with_shape(b, node, node->in[0]->shape, &count);
    grad_give1(b, node, 0, OP_sumpool_grad, dy, attrs, count);
}

/* dx = dy in the shape of x. */
void grad_reshape(Backward *b, const Node *node, Value *dy) {
    grad_give(b, node, 0, grad_reshaped(b, node, dy, node->in[0]->shape));
}

/* y[i] = x[perm]: dx is dy under the inverse permutation. */
void grad_transpose(Backward *b, const Node *node, Value *dy) {
    int count;
    const int64_t *perm = attr_ints(node, "perm", &count);
    int64_t inverse[MAX_RANK] = {0};
    for (int i = 0; i < count; i++)
        inverse[perm[i]] = i;
    grad_give1(b, node, 0, OP_transpose, dy, ATTRS(ATTR_L("perm", count, inverse)));
}

/* y[i] = x[start + i·step]: dx = dy with step − 1 zeros between, start before, the rest behind. */
void grad_slice(Backward *b, const Node *node, Value *dy) {
    int rank;
    const int64_t *starts = attr_ints(node, "starts", &rank), *steps = attr_ints(node, "steps", &rank);
    int64_t high[MAX_RANK], interior[MAX_RANK];
    for (int i = 0; i < rank; i++) {
        int64_t n = dy->shape.dim[i];
        interior[i] = steps[i] - 1;
        high[i] = node->in[0]->shape.dim[i] - starts[i] - (n > 0 ? (n - 1) * steps[i] + 1 : 0);
    }
    grad_give1(b, node, 0, OP_pad, dy, ATTRS(ATTR_L("low", rank, starts), ATTR_L("high", rank, high), ATTR_L("interior", rank, interior)));
}

/* y = x among zeros: dx = dy at the places of x. */
void grad_pad(Backward *b, const Node *node, Value *dy) {
    int rank;
    const int64_t *low = attr_ints(node, "low", &rank), *interior = attr_ints(node, "interior", &rank);
    int64_t steps[MAX_RANK];
    for (int i = 0; i < rank; i++)
        steps[i] = interior[i] + 1;
    const Shape x = node->in[0]->shape;
    grad_give1(b, node, 0, OP_slice, dy, ATTRS(ATTR_L("starts", rank, low), ATTR_L("steps", rank, steps), ATTR_L("shape", rank, x.dim)));
}

/* y = x backwards along axes: dx = dy backwards along them. */
void grad_reverse(Backward *b, const Node *node, Value *dy) {
    grad_give1(b, node, 0, OP_reverse, dy, node->attrs, node->attr_count);
}

/* y = x repeated: dx = Σ dy over the repetitions, which grad_give does. */
void grad_broadcast(Backward *b, const Node *node, Value *dy) {
    grad_give(b, node, 0, dy);
}

/* y = x0, x1, … along axis: dx_k = its piece of dy. */
void grad_concat(Backward *b, const Node *node, Value *dy) {
    int axis = (int)attr_int(node, "axis", 0), rank = dy->shape.rank;
    int64_t starts[MAX_RANK] = {0}, steps[MAX_RANK];
    for (int i = 0; i < rank; i++)
        steps[i] = 1;
    for (int k = 0; k < node->in_count; k++) {
        const Shape x = node->in[k]->shape;
        grad_give1(b, node, k, OP_slice, dy,
                   ATTRS(ATTR_L("starts", rank, starts), ATTR_L("steps", rank, steps), ATTR_L("shape", rank, x.dim)));
        starts[axis] += x.dim[axis];
    }
}

/* y = x at t: dx = the sum of dy over the places that took it. */
void grad_gather(Backward *b, const Node *node, Value *dy) {
    int count;
    const Attr *attrs = grad_attrs_with_shape(b, node, node->in[0]->shape, &count);
    grad_give2(b, node, 0, OP_gather_grad, dy, node->in[1], attrs, count);
}

/* y = the sum of x over the places t: dx = dy at t. */
void grad_gather_grad(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_gather, dy, node->in[1], ATTRS(ATTR_I("axis", attr_int(node, "axis", 0))));
}
