/* Channels-last memory order for the activations and gradients around convolutions and pools. Before: STAGE_SCALED, all values row-major.
 * After: `order` of values of rank 3 to 5 that such ops read or write, and of those that pointwise ops join to them, is N D1 … Dk C.
 * Parameters, their gradients and constants keep row-major order. Logical shapes and results do not change. */
#include "passes/passes.h"

static bool may_change(const Value *value) {
    return (value->kind == VALUE_NODE || value->kind == VALUE_INPUT) && value->shape.rank >= 3 && value->shape.rank <= 5;
}

static bool is_last(const Value *value) {
    return value->shape.rank >= 3 && value->order[value->shape.rank - 1] == 1;
}

/* Returns whether the value changed. */
static bool set_last(Value *value) {
    if (!may_change(value) || is_last(value))
        return false;
    int rank = value->shape.rank;
    for (int k = 1; k < rank - 1; k++)
        value->order[k] = (uint8_t)(k + 1);
    value->order[rank - 1] = 1;
    return true;
}

static void seed(const Node *node) {
    switch (node->op) {
    case OP_conv:
    case OP_conv_dgrad:
        set_last(node->in[0]);
        set_last(node->out[0]);
        break;
    case OP_conv_wgrad:
        set_last(node->in[0]);
        set_last(node->in[1]);
        break;
    default:
        if (op_info(node->op)->kind != KIND_WINDOW)
            return;
        for (int k = 0; k < node->in_count; k++)
            set_last(node->in[k]);
        for (int k = 0; k < node->out_count; k++)
            set_last(node->out[k]);
    }
}

/* Operands of a pointwise node that have its result's shape share its order. */
static bool spread(const Node *node) {
    OpKind kind = op_info(node->op)->kind;
    if (kind != KIND_POINTWISE && kind != KIND_SCALE)
        return false;
    Value *out = node->out[0];
    bool any = is_last(out), changed = false;
    for (int k = 0; k < node->in_count; k++)
        any = any || (shape_equal(node->in[k]->shape, out->shape) && is_last(node->in[k]));
    if (!any)
        return false;
    changed = set_last(out);
    for (int k = 0; k < node->in_count; k++)
        if (shape_equal(node->in[k]->shape, out->shape))
            changed = set_last(node->in[k]) || changed;
    return changed;
}

/* The gradient of a parameter is read by the update alone and stays in the parameter's order. */
static bool touches_update(const Node *node) {
    return node->phase == PHASE_UPDATE;
}

bool pass_layout(Graph *graph, Diag *diag) {
    (void)diag;
    for (int i = 0; i < graph->node_count; i++)
        seed(graph->nodes[i]);
    bool changed = true;
    while (changed) {
        changed = false;
        for (int i = 0; i < graph->node_count; i++)
            if (!touches_update(graph->nodes[i]))
                changed = spread(graph->nodes[i]) || changed;
        for (int i = graph->node_count - 1; i >= 0; i--)
            if (!touches_update(graph->nodes[i]))
                changed = spread(graph->nodes[i]) || changed;
    }
    return true;
}
