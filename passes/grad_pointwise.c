/* Gradient rules of pointwise ops; grad_give undoes broadcasting. Notation: dy = the gradient of the output. */
#include "passes/grad.h"

/* y = c·x: dx = c·dy. */
void grad_mul_const(Backward *b, const Node *node, Value *dy) {
    grad_give1(b, node, 0, OP_mul_const, dy, node->attrs, node->attr_count);
}

/* y = x + b along axis: dx = dy, db = Σ dy over every other axis. */
void grad_bias(Backward *b, const Node *node, Value *dy) {
    grad_give(b, node, 0, dy);
    int64_t axes[MAX_RANK];
    int count = 0;
    for (int i = 0; i < dy->shape.rank; i++)
        if (i != attr_int(node, "axis", 0))
            axes[count++] = i;
    grad_give1(b, node, 1, OP_reduce_sum, dy, ATTRS(ATTR_L("axes", count, axes), ATTR_I("keepdims", 0)));
}

/* y = a + b: da = dy, db = dy. */
void grad_add(Backward *b, const Node *node, Value *dy) {
    grad_give(b, node, 0, dy);
    grad_give(b, node, 1, dy);
}

/* y = a − b: da = dy, db = −dy. */
void grad_sub(Backward *b, const Node *node, Value *dy) {
    grad_give(b, node, 0, dy);
    grad_give1(b, node, 1, OP_neg, dy, NO_ATTRS);
}

/* y = a·b: da = dy·b, db = dy·a; y = a²: da = 2·(dy·a). */
void grad_mul(Backward *b, const Node *node, Value *dy) {
    if (node->in[0] == node->in[1]) {
        if (grad_wanted(b, node, 0))
            grad_give1(b, node, 0, OP_mul_const, grad_op2(b, node, OP_mul, dy, node->in[0], NO_ATTRS), ATTRS(ATTR_R("value", 2.0)));
        return;
    }
    grad_give2(b, node, 0, OP_mul, dy, node->in[1], NO_ATTRS);
    grad_give2(b, node, 1, OP_mul, dy, node->in[0], NO_ATTRS);
}

/* y = a/b: da = dy/b, db = −(dy/b)·y. */
void grad_div(Backward *b, const Node *node, Value *dy) {
    Value *quotient = grad_op2(b, node, OP_div, dy, node->in[1], NO_ATTRS);
    grad_give(b, node, 0, quotient);
    if (grad_wanted(b, node, 1))
        grad_give1(b, node, 1, OP_neg, grad_op2(b, node, OP_mul, quotient, node->out[0], NO_ATTRS), NO_ATTRS);
}

/* y = −x: dx = −dy. */
void grad_neg(Backward *b, const Node *node, Value *dy) {
    grad_give1(b, node, 0, OP_neg, dy, NO_ATTRS);
}

/* y = max(x, 0): dx = dy where x > 0. */
void grad_relu(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_gate, dy, grad_mask(b, node, OP_positive, node->in[0], NO_ATTRS), NO_ATTRS);
}

/* y = x where x >= 0, else α·x: dx = dy where x > 0, else α·dy (at the kink the left derivative, as PyTorch). */
void grad_leaky_relu(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_leak, dy, grad_mask(b, node, OP_positive, node->in[0], NO_ATTRS), node->attrs, node->attr_count);
}

/* y = min(max(x, lo), hi): dx = dy where lo < x < hi. */
void grad_clip(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_gate, dy, grad_mask(b, node, OP_inside, node->in[0], node->attrs, node->attr_count), NO_ATTRS);
}

/* y = x rounded: dx = dy, straight through, as training on quantised numbers takes it; the derivative is 0 but for jumps. */
void grad_round(Backward *b, const Node *node, Value *dy) {
    grad_give(b, node, 0, dy);
}

/* y = f(x): dx = dy·f'(x). */
void grad_curve(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_curve_grad, dy, node->in[0], node->attrs, node->attr_count);
}

/* y = |x|: dx = dy where x > 0, −dy where x < 0, else 0. */
void grad_abs(Backward *b, const Node *node, Value *dy) {
    if (!grad_wanted(b, node, 0))
        return;
    Value *above = grad_mask(b, node, OP_positive, node->in[0], NO_ATTRS);
    Value *below = grad_mask(b, node, OP_inside, node->in[0], ATTRS(ATTR_R("max", 0.0)));
    Value *up = grad_op2(b, node, OP_gate, dy, above, NO_ATTRS), *down = grad_op2(b, node, OP_gate, dy, below, NO_ATTRS);
    grad_give2(b, node, 0, OP_sub, up, down, NO_ATTRS);
}

/* y = eˣ: dx = dy·y. */
void grad_exp(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_mul, dy, node->out[0], NO_ATTRS);
}

/* y = ln x: dx = dy/x. */
void grad_log(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_div, dy, node->in[0], NO_ATTRS);
}

/* y = √x: dx = dy/(2·y). */
void grad_sqrt(Backward *b, const Node *node, Value *dy) {
    if (grad_wanted(b, node, 0))
        grad_give1(b, node, 0, OP_mul_const, grad_op2(b, node, OP_div, dy, node->out[0], NO_ATTRS), ATTRS(ATTR_R("value", 0.5)));
}

/* y = x where mask, else 0: dx = dy where mask. */
void grad_gate(Backward *b, const Node *node, Value *dy) {
    grad_give2(b, node, 0, OP_gate, dy, node->in[1], NO_ATTRS);
}
