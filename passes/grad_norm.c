/* Gradient rule of normalisation. Notation: dy = the gradient of the output, g = dy (times the scale where that varies within a row),
 * mean(·) over the elements that share one mean. */
#include "passes/grad.h"

typedef struct {
    Backward *b;
    const Node *node;
    int64_t axes[MAX_RANK];
    int axis_count;
    int64_t count;
} Norm;

static Norm norm_of(Backward *b, const Node *node) {
    Norm norm = {.b = b, .node = node, .count = norm_count(node)};
    for (int d = 0; d < node->in[1]->shape.rank; d++)
        if (node->in[1]->shape.dim[d] == 1)
            norm.axes[norm.axis_count++] = d;
    return norm;
}

/* The sum over the axes, without them; the bias behind the normalisation may have asked for the same one. */
static Value *sum(const Norm *norm, Value *x) {
    const Graph *graph = norm->b->graph;
    for (int i = graph->node_count - 1; i >= 0 && graph->nodes[i]->phase == PHASE_BACKWARD; i--) {
        const Node *node = graph->nodes[i];
        if (node->op != OP_reduce_sum || node->in[0] != x || attr_int(node, "keepdims", 1) != 0)
            continue;
        int count;
        const int64_t *axes = attr_ints(node, "axes", &count);
        bool same = count == norm->axis_count;
        for (int k = 0; same && k < count; k++)
            same = axes[k] == norm->axes[k];
        if (same)
            return node->out[0];
    }
    return grad_op1(norm->b, norm->node, OP_reduce_sum, x, ATTRS(ATTR_L("axes", norm->axis_count, norm->axes), ATTR_I("keepdims", 0)));
}

static Value *mean(const Norm *norm, Value *total, int fraction) {
    Value *share = grad_op1(norm->b, norm->node, OP_share, total, ATTRS(ATTR_I("count", norm->count), ATTR_I("fraction", fraction)));
    return grad_reshaped(norm->b, norm->node, share, norm->node->in[1]->shape);
}

/* The normalised value times g, never stored: recomputed from x and its statistics. */
static Value *product(const Norm *norm, Value *g) {
    Value *const *in = norm->node->in;
    return build(norm->b->graph, OP_normalize, norm->node, INPUTS(in[0], in[1], in[2], g), norm->node->attrs, norm->node->attr_count);
}

/* Whether the scale has one value for all that share one mean. */
static bool constant_along(const Norm *norm, const Value *scale) {
    Shape x = norm->node->in[0]->shape;
    for (int i = 0; i < norm->axis_count; i++) {
        int64_t d = norm->axes[i] - (x.rank - scale->shape.rank);
        if (d >= 0 && scale->shape.dim[d] != 1)
            return false;
    }
    return true;
}

/* y = γ·x̂, x̂ = (x − mean)/σ: dx = γ/σ·(g − mean(g) − x̂·mean(g·x̂)), dγ = Σ dy·x̂; without centring mean(g) is left out. */
void grad_normalize(Backward *b, const Node *node, Value *dy) {
    Norm norm = norm_of(b, node);
    Value *scale = node->in_count == 4 ? node->in[3] : NULL, *g = dy, *total = NULL;
    bool outside = scale != NULL && constant_along(&norm, scale), wanted = grad_wanted(b, node, 0);
    if (scale != NULL && !outside && wanted)
        g = grad_op2(b, node, OP_mul, dy, scale, NO_ATTRS);
    Value *plain = wanted && attr_int(node, "centered", 1) != 0 ? sum(&norm, g) : NULL;
    if (wanted || outside)
        total = sum(&norm, product(&norm, g));
    if (scale != NULL && grad_wanted(b, node, 3))
        grad_give(b, node, 3, outside ? grad_reshaped(b, node, total, node->in[1]->shape) : product(&norm, dy));
    if (!wanted)
        return;
    Value *second = mean(&norm, total, NORM_PRODUCT_FRACTION);
    Value *first = plain != NULL ? mean(&norm, plain, NORM_SUM_FRACTION) : second;
    Value *const in[] = {g, node->in[0], node->in[1], node->in[2], first, second, outside ? scale : NULL};
    grad_give(b, node, 0, grad_norm_input(b->graph, node, in, norm.count));
}

Value *grad_norm_input(Graph *graph, const Node *origin, Value *const in[7], int64_t count) {
    Value *all[6] = {in[0], in[1]};
    int64_t centered = attr_int(origin, "centered", 1);
    for (int part = 0; part < 4; part++) {
        const Attr attrs[] = {ATTR_I("part", part), ATTR_I("count", count), ATTR_I("centered", centered)};
        all[2 + part] =
            build(graph, OP_norm_slope, origin, (Value *[]){in[3], in[2], in[4], in[5], in[6]}, in[6] != NULL ? 5 : 4, attrs, 3);
    }
    return build(graph, OP_norm_grad, origin, all, 6, NULL, 0);
}
