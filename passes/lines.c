/* Normalisation as lines, in trainers of integers. Before: STAGE_UPDATED, `normalize` as the frontend and its gradient rule made it. After:
 * where scale and bias have one value for each mean, x-hat * scale + bias is A*x + C, whose coefficients are computed once for each mean;
 * and the sum of g * x-hat over what shares a mean is computed from the sums of g * x and of g, exactly, so that no loop normalises an
 * element. In float the differences of large sums would lose what they are about. */
#include "passes/passes.h"

static bool is_centered(const Node *node) {
    return node->op == OP_normalize && attr_int(node, "centered", 1) != 0;
}

/* The one bias behind a normalisation; NULL: there is none, or something else reads the normalised value too. */
static Node *bias_of(const Graph *graph, const Node *normalize) {
    const Value *y = normalize->out[0];
    Node *bias = NULL;
    for (int i = 0; i < graph->node_count; i++)
        if (graph->nodes[i]->op == OP_bias && graph->nodes[i]->in[0] == y)
            bias = graph->nodes[i];
    return bias != NULL && value_uses(graph, y) == 1 ? bias : NULL;
}

/* Whether the statistics differ along one axis alone, and the bias along the same. */
static bool along_one_axis(const Node *normalize, const Node *bias) {
    Shape stats = normalize->in[1]->shape;
    int64_t axis = attr_int(bias, "axis", 1);
    return shape_equal(normalize->in[3]->shape, stats) && shape_elements(stats) == stats.dim[axis] &&
           shape_elements(bias->in[1]->shape) == stats.dim[axis];
}

static Value *reshaped(Graph *graph, const Node *from, Value *x, Shape shape) {
    return build(graph, OP_reshape, from, INPUTS(x), ATTRS(ATTR_L("shape", shape.rank, shape.dim)));
}

/* The line in the place of a forward normalisation and its bias; at: the position behind the former. */
static void draw_line(Graph *graph, const Node *normalize, const Node *bias, int at) {
    Shape stats = normalize->in[1]->shape;
    Value *const *in = normalize->in, *all[4] = {in[0]};
    graph_insert_at(graph, at);
    graph_set_phase(graph, bias->phase);
    Value *shift = reshaped(graph, bias, bias->in[1], stats);
    for (int part = 0; part < 3; part++)
        all[1 + part] = build(graph, OP_norm_line, normalize, INPUTS(in[2], in[1], in[3], shift),
                              ATTRS(ATTR_I("part", part), ATTR_I("count", norm_count(normalize))));
    Value *y = build(graph, OP_norm_apply, normalize, all, 4, NULL, 0);
    graph_insert_at(graph, -1);
    graph_set_phase(graph, PHASE_FORWARD);
    y->onnx_name = bias->out[0]->onnx_name;
    graph_replace(graph, bias->out[0], y, 0);
}

/* The sum of x over the axes of `like`, at position `at` or before it. */
static Value *sum_like(Graph *graph, const Node *like, Value *x, int at) {
    for (int i = 0; i < at; i++) {
        const Node *node = graph->nodes[i];
        if (node->op == OP_reduce_sum && node->in[0] == x && node->phase == like->phase && attr_ints_equal(node, like, "axes") &&
            attr_int(node, "keepdims", 1) == attr_int(like, "keepdims", 1))
            return node->out[0];
    }
    return build(graph, OP_reduce_sum, like->forward, INPUTS(x), like->attrs, like->attr_count);
}

/* Whether a sum is that of a gradient times normalised values over what shares a mean. */
static bool sums_normalised(const Node *sum) {
    const Node *normalize = sum->op == OP_reduce_sum ? sum->in[0]->def : NULL;
    if (normalize == NULL || !is_centered(normalize) || normalize->in_count < 4 || normalize->phase != sum->phase)
        return false;
    Shape x = normalize->in[0]->shape, stats = normalize->in[1]->shape;
    int count;
    const int64_t *axes = attr_ints(sum, "axes", &count);
    int64_t summed = 1;
    for (int i = 0; i < count; i++)
        summed *= stats.dim[axes[i]] == 1 ? x.dim[axes[i]] : 0;
    return summed == norm_count(normalize) && shape_equal(normalize->in[3]->shape, x);
}

/* The sum at position `at` from those of g * x and of g. */
static void sum_apart(Graph *graph, const Node *sum, int at) {
    const Node *normalize = sum->in[0]->def, *from = sum->forward;
    Value *const *in = normalize->in;
    Shape stats = in[1]->shape;
    graph_insert_at(graph, at);
    graph_set_phase(graph, sum->phase);
    Value *plain = sum_like(graph, sum, in[3], at), *product = build(graph, OP_mul, from, INPUTS(in[3], in[0]), NO_ATTRS);
    Value *products = build(graph, OP_reduce_sum, from, INPUTS(product), sum->attrs, sum->attr_count);
    plain = reshaped(graph, from, plain, stats);
    products = reshaped(graph, from, products, stats);
    Value *y = build(graph, OP_norm_dot, from, INPUTS(products, plain, in[1], in[2]), ATTRS(ATTR_I("count", norm_count(normalize))));
    y = reshaped(graph, from, y, sum->out[0]->shape);
    graph_insert_at(graph, -1);
    graph_set_phase(graph, PHASE_FORWARD);
    graph_replace(graph, sum->out[0], y, 0);
}

bool pass_lines(Graph *graph, Diag *diag) {
    (void)diag;
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i], *bias = NULL;
        int before = graph->node_count;
        if (is_centered(node) && node->phase == PHASE_FORWARD && node->in_count == 4)
            bias = bias_of(graph, node);
        if (bias != NULL && along_one_axis(node, bias))
            draw_line(graph, node, bias, i + 1);
        else if (sums_normalised(node))
            sum_apart(graph, node, i);
        i += graph->node_count - before;
    }
    return true;
}
