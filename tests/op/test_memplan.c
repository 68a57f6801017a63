/* The memory plan on random graphs and the two nets, by brute force: every byte of the arena remembers which value was stored last; no
 * kernel may find another value's bytes where it reads. Exponents are never shared. */
#include "tests/op/random_graph.h"

typedef struct {
    const Graph *graph;
    const char *name;
    const Value **owner; /* by byte */
    const Value **same;  /* by value id: the value whose bytes a move shares */
} Machine;

static int64_t bytes_of(const Value *value) {
    return shape_elements(value->shape) * type_bytes(value->type);
}

static void store(Machine *m, const Value *value) {
    CHECK(value->offset >= 0, "%s: %s has no place", m->name, value->name);
    for (int64_t b = 0; value->offset >= 0 && b < bytes_of(value); b++)
        m->owner[value->offset + b] = m->same[value->id];
}

static bool intact(const Machine *m, const Value *value) {
    if (value->offset < 0)
        return false;
    for (int64_t b = 0; b < bytes_of(value); b++)
        if (m->owner[value->offset + b] != m->same[value->id])
            return false;
    return true;
}

/* Equal constants may share a place. */
static const Value *first_equal(const Graph *graph, const Value *value) {
    for (int i = 0; i < value->id && value->kind == VALUE_CONST && value->offset >= 0; i++) {
        const Value *other = graph->values[i];
        if (other->kind == VALUE_CONST && other->offset == value->offset && bytes_of(other) == bytes_of(value) &&
            memcmp(other->mantissa, value->mantissa, (size_t)shape_elements(value->shape) * sizeof(int64_t)) == 0)
            return other;
    }
    return value;
}

/* Or made by the root itself, as what stands beside it may read. */
static bool inside_group(const Node *root, const Value *value) {
    const Node *group = value->def != NULL ? value->def->fused_into : NULL;
    return value->def == root || (group != NULL && (group == root || group->beside == root));
}

/* Every element of a move that copies nothing lies where its operand's does. */
static void check_places(const char *name, const Node *node) {
    const Value *in = node->in[0], *out = node->out[0];
    int count;
    const int64_t *perm = attr_ints(node, "perm", &count);
    for (int64_t i = 0; i < shape_elements(out->shape); i++) {
        int64_t to[MAX_RANK], from[MAX_RANK], rest = i;
        for (int d = out->shape.rank - 1; d >= 0; rest /= out->shape.dim[d--])
            to[d] = rest % out->shape.dim[d];
        rest = i;
        for (int d = in->shape.rank - 1; d >= 0; rest /= in->shape.dim[d--])
            from[d] = rest % in->shape.dim[d];
        for (int d = 0; d < count && perm != NULL; d++)
            from[perm[d]] = to[d];
        if (place_of(in, from) != place_of(out, to)) {
            CHECK(false, "%s: %s of %s copies nothing, but element %lld lies elsewhere", name, op_info(node->op)->name, in->name,
                  (long long)i);
            return;
        }
    }
}

/* Reads of all nodes of the root's group, then its writes. */
static void run_kernel(Machine *m, const Node *root) {
    bool moves = !((root->op == OP_reshape || root->op == OP_transpose) && root->in[0]->offset == root->out[0]->offset);
    if (!moves)
        check_places(m->name, root);
    for (int i = 0; i < m->graph->node_count; i++) {
        const Node *node = m->graph->nodes[i];
        const Node *group = node->fused_into != NULL ? node->fused_into : node;
        if (group != root && group->beside != root)
            continue;
        for (int k = 0; k < node->in_count; k++)
            CHECK(inside_group(root, node->in[k]) || intact(m, node->in[k]), "%s: %s finds other bytes at its operand %s", m->name,
                  op_info(node->op)->name, node->in[k]->name);
        for (int k = 0; k < node->in_count && moves; k++) {
            const Value *in = node->in[k], *out = root->out[0];
            bool updates = false;
            for (int u = 0; u < m->graph->update_count; u++)
                updates = updates || (m->graph->updates[u].state == in && m->graph->updates[u].next == out);
            bool apart = in->offset + bytes_of(in) <= out->offset || out->offset + bytes_of(out) <= in->offset;
            CHECK(inside_group(root, in) || apart || (updates && in->offset == out->offset && in->type == out->type),
                  "%s: %s writes over its own operand %s", m->name, op_info(root->op)->name, in->name);
        }
    }
    if (!moves)
        m->same[root->out[0]->id] = m->same[root->in[0]->id];
    for (int k = 0; k < root->out_count && moves; k++)
        store(m, root->out[k]);
    for (int i = 0; i < m->graph->node_count; i++)
        if (m->graph->nodes[i]->beside == root)
            store(m, m->graph->nodes[i]->out[0]);
}

/* All places at once: exponents overlap nothing. */
static void check_exponents(const Graph *graph, const char *name, int64_t size) {
    char *taken = calloc((size_t)size, 1);
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->out_count; k++) {
            const Value *value = graph->nodes[i]->out[k];
            for (int64_t b = 0; value->offset >= 0 && b < bytes_of(value); b++)
                taken[value->offset + b] = 1;
        }
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        if (value->kind != VALUE_NODE && value->offset >= 0)
            for (int64_t b = 0; b < bytes_of(value); b++)
                taken[value->offset + b] = 1;
    }
    for (int i = 0; i < graph->value_count; i++) {
        int64_t at = graph->values[i]->exponent_offset;
        for (int64_t b = 0; at >= 0 && b < 4; b++) {
            CHECK(at % 4 == 0 && taken[at + b] == 0, "%s: the exponent of %s is not alone", name, graph->values[i]->name);
            taken[at + b] = 1;
        }
    }
    free(taken);
}

static void check_plan(const char *name, Graph *graph) {
    Plan plan;
    Diag *diag = diag_new(NULL);
    CHECK(pass_memplan(&graph, 1, &plan, diag) && graph_verify(graph, diag), "%s: memplan or verify refuses", name);
    diag_print(diag, stderr);
    diag_free(diag);
    Machine m = {.graph = graph, .name = name};
    m.owner = calloc((size_t)plan.arena_size, sizeof *m.owner);
    m.same = calloc((size_t)graph->value_count, sizeof *m.same);
    int64_t total = 0;
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        m.same[i] = first_equal(graph, value);
        bool persistent = value->kind == VALUE_PARAM || value->kind == VALUE_STATE;
        CHECK(value->offset < 0 || value->offset % 64 == 0, "%s: %s is not aligned", name, value->name);
        CHECK(!persistent || (value->offset >= 0 && value->offset + bytes_of(value) <= plan.state_size), "%s: %s is outside the state",
              name, value->name);
        if (value->kind != VALUE_NODE && value->offset >= 0)
            store(&m, value);
        total += value->kind == VALUE_NODE && value->offset >= 0 ? bytes_of(value) : 0;
    }
    for (int i = 0; i < graph->node_count; i++)
        if (graph->nodes[i]->fused_into == NULL && graph->nodes[i]->beside == NULL)
            run_kernel(&m, graph->nodes[i]);
    for (int i = 0; i < graph->output_count; i++)
        CHECK(intact(&m, graph->outputs[i].value), "%s: output %s is overwritten", name, graph->outputs[i].name);
    for (int i = 0; i < graph->update_count; i++)
        CHECK(intact(&m, graph->updates[i].next), "%s: the next %s is overwritten", name, graph->updates[i].state->name);
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        bool updated = false;
        for (int u = 0; u < graph->update_count; u++)
            updated = updated || graph->updates[u].state == value;
        CHECK(value->kind == VALUE_NODE || value->offset < 0 || updated || intact(&m, value), "%s: %s is overwritten", name, value->name);
    }
    CHECK(plan.arena_size <= plan.random_offset + total + 64 * (int64_t)graph->value_count * 2, "%s: arena of %lld", name,
          (long long)plan.arena_size);
    check_exponents(graph, name, plan.arena_size);
    free(m.owner);
    free(m.same);
}

/* Step and inference graphs: parameters and inputs have one place, activations overlap, constants are shared. */
static void check_graphs(void) {
    Arena *arena = arena_new();
    Diag *diag = diag_new(NULL);
    Graph *step = net_cnn(arena, true), *infer = net_cnn(arena, false), *fixed;
    net_train_passes(step, 8, diag);
    const PassOptions options = {.bits = 8};
    Value **slots;
    int slot_count;
    CHECK(pass_exponents(infer, &options, diag) && pass_calibrate(infer, &fixed, &slots, &slot_count, diag), "the passes refuse");
    Graph *graphs[] = {step, infer, fixed};
    for (int i = 1; i < 3; i++)
        CHECK(pass_layout(graphs[i], diag) && pass_fuse(graphs[i], INT64_MAX, diag), "layout and fuse refuse");
    Plan plan;
    CHECK(pass_memplan(graphs, 3, &plan, diag), "memplan refuses");
    for (int i = 0; i < 3; i++) {
        CHECK(graph_verify(graphs[i], diag), "the verifier refuses graph %d", i);
        CHECK(net_value(graphs[i], "conv1.weight")->offset == net_value(step, "conv1.weight")->offset, "conv1.weight moves");
        CHECK(net_value(graphs[i], "conv1.weight")->exponent_offset == net_value(step, "conv1.weight")->exponent_offset,
              "the exponent of conv1.weight moves");
        CHECK(net_value(graphs[i], "x")->offset == net_value(step, "x")->offset, "x moves");
        CHECK(graphs[i]->arena_size == plan.arena_size, "one arena");
    }
    const Value *slot = net_value(fixed, "calibrated.0");
    CHECK(slot != NULL && slot->offset >= 0 && slot->offset < plan.state_size, "slots persist");
    diag_print(diag, stderr);
    diag_free(diag);
    arena_free(arena);
}

int main(void) {
    int count = 0;
    for (uint64_t seed = 1; seed <= 150; seed++, count++) {
        Arena *arena = arena_new();
        Diag *diag = diag_new(NULL);
        Graph *graph = random_graph(arena, seed);
        net_train_passes(graph, 4 + (int)(seed % 5), diag);
        check_plan(arena_printf(arena, "random %llu", (unsigned long long)seed), graph);
        diag_free(diag);
        arena_free(arena);
    }
    check_graphs();
    return report("memplan", count);
}
