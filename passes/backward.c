/* Reverse mode: appends the gradient of the loss with respect to every parameter that reaches it.
 * Before: STAGE_LOWERED, no rescale, one scalar output of role loss. After: STAGE_TRAINED; gradient nodes are PHASE_BACKWARD and name their
 * forward node; masks of forward values sit right behind the node they belong to, in PHASE_FORWARD. */
#include "passes/grad.h"

#include "passes/passes.h"

#include <string.h>

typedef void GradRule(Backward *b, const Node *node, Value *dy);

static GradRule *rule_of(Op op) {
    static GradRule *const rules[OP_COUNT] = {
#define OP(name, kind, least, most, results, letters, rule, bound_hook, infer_hook, grad_hook) [OP_##name] = grad_##grad_hook,
#include "ir/ops.def"
#undef OP
    };
    return rules[op];
}

void grad_none(Backward *b, const Node *node, Value *dy) {
    (void)b, (void)node, (void)dy;
}

void grad_forbidden(Backward *b, const Node *node, Value *dy) {
    (void)b, (void)dy;
    internal_error("%s before backward", op_info(node->op)->name);
}

bool grad_wanted(const Backward *b, const Node *node, int input) {
    return b->active[node->in[input]->id];
}

Value *grad_op1(Backward *b, const Node *node, Op op, Value *a, const Attr *attrs, int attr_count) {
    return build(b->graph, op, node, INPUTS(a), attrs, attr_count);
}

Value *grad_op2(Backward *b, const Node *node, Op op, Value *a, Value *c, const Attr *attrs, int attr_count) {
    return build(b->graph, op, node, INPUTS(a, c), attrs, attr_count);
}

Value *grad_reshaped(Backward *b, const Node *node, Value *a, Shape shape) {
    return shape_equal(a->shape, shape) ? a : grad_op1(b, node, OP_reshape, a, ATTRS(ATTR_L("shape", shape.rank, shape.dim)));
}

/* The transpose of numpy's broadcast from `shape`: a sum over every dimension that was added or stretched. */
static Value *sum_to(Backward *b, const Node *node, Value *g, Shape shape) {
    int64_t axes[MAX_RANK];
    int count = 0, added = g->shape.rank - shape.rank;
    for (int i = 0; i < g->shape.rank; i++)
        if (i < added || (shape.dim[i - added] == 1 && g->shape.dim[i] != 1))
            axes[count++] = i;
    if (count > 0)
        g = grad_op1(b, node, OP_reduce_sum, g, ATTRS(ATTR_L("axes", count, axes), ATTR_I("keepdims", 0)));
    return grad_reshaped(b, node, g, shape);
}

void grad_give(Backward *b, const Node *node, int input, Value *gradient) {
    if (!grad_wanted(b, node, input))
        return;
    const Value *x = node->in[input];
    Value **sum = &b->gradient[x->id];
    gradient = sum_to(b, node, gradient, x->shape);
    *sum = *sum == NULL ? gradient : grad_op2(b, node, OP_add, *sum, gradient, NO_ATTRS);
}

void grad_give1(Backward *b, const Node *node, int input, Op op, Value *a, const Attr *attrs, int attr_count) {
    if (grad_wanted(b, node, input))
        grad_give(b, node, input, grad_op1(b, node, op, a, attrs, attr_count));
}

void grad_give2(Backward *b, const Node *node, int input, Op op, Value *a, Value *c, const Attr *attrs, int attr_count) {
    if (grad_wanted(b, node, input))
        grad_give(b, node, input, grad_op2(b, node, op, a, c, attrs, attr_count));
}

Value *grad_mask(Backward *b, const Node *node, Op op, Value *x, const Attr *attrs, int attr_count) {
    Graph *graph = b->graph;
    int at = 0;
    while (graph->nodes[at] != node)
        at++;
    graph_insert_at(graph, at + 1);
    graph_set_phase(graph, PHASE_FORWARD);
    Value *mask = build(graph, op, node, INPUTS(x), attrs, attr_count);
    graph_insert_at(graph, -1);
    graph_set_phase(graph, PHASE_BACKWARD);
    return mask;
}

const Attr *grad_attrs_with_shape(Backward *b, const Node *node, Shape shape, int *count) {
    Attr *attrs = arena_alloc(b->graph->arena, (size_t)node->attr_count + 1, sizeof *attrs);
    for (int i = 0; i < node->attr_count; i++)
        attrs[i] = node->attrs[i];
    int64_t *dims = arena_alloc(b->graph->arena, MAX_RANK, sizeof *dims);
    for (int i = 0; i < shape.rank; i++)
        dims[i] = shape.dim[i];
    attrs[node->attr_count] = ATTR_L("shape", shape.rank, dims);
    *count = node->attr_count + 1;
    return attrs;
}

/* By id: real values on a path from a parameter to the loss. */
static bool *active_values(const Graph *graph, const Value *loss) {
    size_t n = (size_t)graph->value_count;
    bool *from_param = arena_alloc(graph->arena, n, sizeof(bool)), *active = arena_alloc(graph->arena, n, sizeof(bool));
    for (int i = 0; i < graph->value_count; i++)
        from_param[i] = graph->values[i]->kind == VALUE_PARAM;
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        bool any = false;
        for (int k = 0; k < node->in_count; k++)
            any = any || (from_param[node->in[k]->id] && !node->in[k]->integer);
        for (int k = 0; k < node->out_count; k++)
            from_param[node->out[k]->id] = any && !node->out[k]->integer && rule_of(node->op) != grad_none;
    }
    active[loss->id] = from_param[loss->id];
    for (int i = graph->node_count - 1; i >= 0; i--) {
        const Node *node = graph->nodes[i];
        for (int k = 0; k < node->in_count && active[node->out[0]->id]; k++)
            active[node->in[k]->id] = active[node->in[k]->id] || from_param[node->in[k]->id];
    }
    return active;
}

static const Output *loss_output(const Graph *graph, Diag *diag) {
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_LOSS) {
            if (shape_elements(graph->outputs[i].value->shape) == 1)
                return &graph->outputs[i];
            diag_error(diag, NULL, "loss '%s' has shape %s, expected one element", graph->outputs[i].name,
                       shape_text(graph->arena, graph->outputs[i].value->shape));
            return NULL;
        }
    diag_error(diag, NULL, "there is no loss to differentiate");
    return NULL;
}

/* Makes the parameters' gradients outputs; a note names each parameter without one. */
static bool collect(Graph *graph, const Backward *b, int value_count, Diag *diag) {
    int found = 0;
    for (int i = 0; i < value_count; i++) {
        const Value *value = graph->values[i];
        if (value->kind != VALUE_PARAM)
            continue;
        if (b->gradient[i] == NULL)
            diag_note(diag, NULL, "parameter '%s' has no gradient and stays as it is",
                      value->onnx_name != NULL ? value->onnx_name : value->name);
        else
            graph_output(graph, value->name, ROLE_GRADIENT, b->gradient[i]);
        found += b->gradient[i] != NULL;
    }
    if (found == 0)
        diag_error(diag, NULL, "the loss depends on no parameter that learns");
    return found > 0;
}

Value *backward_gradient(const Graph *graph, const Value *param) {
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_GRADIENT && strcmp(graph->outputs[i].name, param->name) == 0)
            return graph->outputs[i].value;
    return NULL;
}

bool pass_backward(Graph *graph, Diag *diag) {
    const Output *output = loss_output(graph, diag);
    if (output == NULL)
        return false;
    Value *loss = output->value;
    int node_count = graph->node_count, value_count = graph->value_count;
    Node **nodes = arena_alloc(graph->arena, (size_t)node_count, sizeof(Node *));
    for (int i = 0; i < node_count; i++)
        nodes[i] = graph->nodes[i];
    Backward b = {.graph = graph, .active = active_values(graph, loss)};
    b.gradient = arena_alloc(graph->arena, (size_t)value_count, sizeof(Value *));
    graph_set_phase(graph, PHASE_BACKWARD);
    if (b.active[loss->id])
        b.gradient[loss->id] = graph_const(graph, NULL, loss->shape, &(const double){1.0});
    for (int i = node_count - 1; i >= 0; i--) {
        Value *dy = b.gradient[nodes[i]->out[0]->id];
        if (dy != NULL)
            rule_of(nodes[i]->op)(&b, nodes[i], dy);
    }
    graph_set_phase(graph, PHASE_FORWARD);
    graph->stage = STAGE_TRAINED;
    return collect(graph, &b, value_count, diag);
}
