/* Inference with fixed exponents. Before: STAGE_SCALED, a graph of PHASE_FORWARD alone. After: the given graph still chooses every exponent
 * at run time and serves calibration; `fixed` is a copy in which each rescale that depends on data reads its exponent from a slot, and each
 * real input has a slot that the runtime maps it with. Rescales of parameters alone stay dynamic: their exponents follow from the
 * parameters. What is computed from parameters and states alone (a folded normalisation's weights) is computed by the calibration and kept
 * in a state that `fixed` reads. */
#include "passes/passes.h"
#include "runtime/fixed.h"

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

/* By id: computed, by more than moves and a rescale, from parameters or states and from no input. */
static bool *folded_values(const Graph *graph, const bool *data) {
    bool *folded = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof(bool));
    bool *kept = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof(bool));
    for (int i = 0; i < graph->value_count; i++)
        kept[i] = graph->values[i]->kind == VALUE_PARAM || graph->values[i]->kind == VALUE_STATE;
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        bool plain = node->op == OP_rescale || op_info(node->op)->kind == KIND_MOVE, any = false, from = false;
        for (int k = 0; k < node->in_count; k++) {
            any = any || folded[node->in[k]->id];
            from = from || kept[node->in[k]->id];
        }
        for (int k = 0; k < node->out_count; k++) {
            kept[node->out[k]->id] = from;
            folded[node->out[k]->id] = !data[node->out[k]->id] && from && (any || !plain);
        }
    }
    return folded;
}

/* Whether a node that depends on data, or the user, reads the value. */
static bool is_read(const Graph *graph, const Value *value, const bool *data) {
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].value == value)
            return true;
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            if (graph->nodes[i]->in[k] == value && data[graph->nodes[i]->out[0]->id])
                return true;
    return false;
}

static Value *new_state(Graph *graph, const Value *like, int number) {
    Value *state = graph_value(graph, VALUE_STATE, arena_printf(graph->arena, "folded.%d", number), like->shape);
    state->type = like->type;
    state->bound = like->bound;
    state->exponent_kind = like->exponent_kind;
    state->exponent = like->exponent;
    return state;
}

static void keep_folded(Graph *graph, Graph *fixed, const bool *data) {
    const bool *folded = folded_values(graph, data);
    int count = graph->value_count, number = 0;
    for (int i = 0; i < count; i++) {
        Value *value = graph->values[i];
        if (!folded[i] || value->integer || !is_read(graph, value, data))
            continue;
        graph_update(graph, new_state(graph, value, number), value);
        graph_replace(fixed, fixed->values[i], new_state(fixed, value, number++), 0);
    }
}

static bool has_narrow_reader(const Graph *graph, const Value *value) {
    char letter = value->bound == 127 ? 'n' : value->bound == 32767 ? 'h' : 0;
    for (int i = 0; i < graph->node_count && letter != 0; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            if (graph->nodes[i]->in[k] == value && op_reads(graph->nodes[i]->op, k) == letter)
                return true;
    return false;
}

/* A fixed mapping may give the least mantissa of a type, whose negative does not fit it: what reads that one narrow gets a rescale of its
 * own, which changes nothing while exponents are chosen at run time. */
static void narrow_negatives(Graph *graph) {
    for (int i = 0; i < graph->node_count; i++) {
        Node *node = graph->nodes[i];
        if ((node->op != OP_neg && node->op != OP_abs) || !has_narrow_reader(graph, node->out[0]))
            continue;
        int bits = node->out[0]->bound == 127 ? 8 : 16;
        graph_insert_at(graph, i + 1);
        Value *out = build(graph, OP_rescale, node, INPUTS(node->out[0]),
                           ATTRS(ATTR_I("bits", bits), ATTR_S("round", "nearest"), ATTR_I("stream", 0)));
        graph_insert_at(graph, -1);
        node_infer_width(out->def);
        out->onnx_name = node->out[0]->onnx_name;
        graph_replace(graph, node->out[0], out, i + 2);
    }
}

bool pass_calibrate(Graph *graph, Graph **fixed, Value ***slots, int *slot_count, Diag *diag) {
    narrow_negatives(graph);
    const bool *data = graph_depending(graph, VALUE_INPUT);
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
    keep_folded(graph, copy, data);
    *fixed = copy;
    *slots = collected;
    *slot_count = count;
    return true;
}
