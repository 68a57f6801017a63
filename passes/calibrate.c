/* Inference with fixed exponents. Before: STAGE_SCALED, a graph of PHASE_FORWARD alone. After: the given graph still chooses every exponent
 * at run time and serves calibration; `fixed` is a copy in which each rescale that depends on data reads its exponent from a slot, and each
 * real input has a slot that the runtime maps it with. Rescales of parameters alone stay dynamic: their exponents follow from the
 * parameters. */
#include "passes/passes.h"
#include "runtime/fixed.h"

/* By id: whether the value depends on an input. */
static bool *data_values(const Graph *graph) {
    bool *data = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof(bool));
    for (int i = 0; i < graph->value_count; i++)
        data[i] = graph->values[i]->kind == VALUE_INPUT;
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        bool any = false;
        for (int k = 0; k < node->in_count; k++)
            any = any || data[node->in[k]->id];
        for (int k = 0; k < node->out_count; k++)
            data[node->out[k]->id] = any;
    }
    return data;
}

static Value *new_slot(Graph *fixed, int number) {
    Value *slot = graph_integer(fixed, VALUE_STATE, arena_printf(fixed->arena, "calibrated.%d", number), (Shape){0}, T_I32, INT32_MAX);
    int64_t *initial = arena_alloc(fixed->arena, 1, sizeof *initial);
    *initial = INTC_EXPONENT_ZERO;
    slot->mantissa = initial;
    return slot;
}

static void add_input(Node *node, Value *value) {
    Value **in = arena_alloc(node->graph->arena, (size_t)node->in_count + 1, sizeof(Value *));
    for (int k = 0; k < node->in_count; k++)
        in[k] = node->in[k];
    in[node->in_count++] = value;
    node->in = in;
}

bool pass_calibrate(Graph *graph, Graph **fixed, Value ***slots, int *slot_count, Diag *diag) {
    const bool *data = data_values(graph);
    Graph *copy = graph_clone(graph, arena_printf(graph->arena, "%s.fixed", graph->name), NULL);
    Value **collected = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof(Value *));
    int count = 0;
    for (int i = 0; i < graph->value_count; i++) {
        Value *value = graph->values[i];
        if (value->kind != VALUE_INPUT || value->integer)
            continue;
        /* The fixed mapping saturates at both ends of the type, as ONNX does. */
        copy->values[i]->bound = value->bound + 1;
        new_slot(copy, count);
        collected[count++] = value;
    }
    for (int i = 0; i < copy->node_count; i++) {
        Node *node = copy->nodes[i];
        if (node->op == OP_rescale && data[node->in[0]->id]) {
            add_input(node, new_slot(copy, count));
            collected[count++] = graph->nodes[i]->out[0];
        }
        node_infer_width(node);
        if (!node->out[0]->integer && node->out[0]->bound > (int64_t)1 << 62) {
            diag_error(diag, &node->origin, "%s of these sizes does not fit 64-bit integers", op_info(node->op)->name);
            return false;
        }
    }
    *fixed = copy;
    *slots = collected;
    *slot_count = count;
    return true;
}
