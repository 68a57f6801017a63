/* Graphs: construction, cloning, replacing. Before: an arena. After each call the node list is in topological order as long as callers
 * insert a node behind its operands; the verifier checks it. */
#include "ir/ir.h"

#include <string.h>

static void *grown(Arena *arena, void *old, int count, int *room, size_t size) {
    if (count < *room)
        return old;
    *room = *room == 0 ? 16 : 2 * *room;
    void *new = arena_alloc(arena, (size_t)*room, size);
    if (count > 0)
        memcpy(new, old, (size_t)count * size);
    return new;
}

Graph *graph_new(Arena *arena, const char *name) {
    Graph *graph = arena_alloc(arena, 1, sizeof *graph);
    graph->arena = arena;
    graph->name = arena_strdup(arena, name);
    graph->insert = -1;
    return graph;
}

Value *graph_value(Graph *graph, ValueKind kind, const char *name, Shape shape) {
    Value *value = arena_alloc(graph->arena, 1, sizeof *value);
    value->id = graph->value_count;
    value->name = name != NULL ? arena_strdup(graph->arena, name) : arena_printf(graph->arena, "%d", value->id);
    value->kind = kind;
    value->shape = shape;
    value->exponent_kind = EXPONENT_DYNAMIC;
    value->offset = value->exponent_offset = -1;
    for (int i = 0; i < MAX_RANK; i++)
        value->order[i] = (uint8_t)i;
    graph->values = grown(graph->arena, graph->values, graph->value_count, &graph->value_room, sizeof(Value *));
    graph->values[graph->value_count++] = value;
    return value;
}

Value *graph_integer(Graph *graph, ValueKind kind, const char *name, Shape shape, Type type, int64_t bound) {
    Value *value = graph_value(graph, kind, name, shape);
    value->type = type;
    value->bound = bound;
    value->exponent_kind = EXPONENT_NONE;
    value->integer = true;
    return value;
}

Value *graph_const(Graph *graph, const char *name, Shape shape, const double *real) {
    Value *value = graph_value(graph, VALUE_CONST, name, shape);
    size_t n = (size_t)shape_elements(shape);
    double *copy = arena_alloc(graph->arena, n, sizeof *copy);
    if (n > 0)
        memcpy(copy, real, n * sizeof *copy);
    value->real = copy;
    return value;
}

void graph_output(Graph *graph, const char *name, Role role, Value *value) {
    graph->outputs = grown(graph->arena, graph->outputs, graph->output_count, &graph->output_room, sizeof(Output));
    graph->outputs[graph->output_count++] = (Output){.name = arena_strdup(graph->arena, name), .role = role, .value = value};
}

void graph_update(Graph *graph, Value *state, Value *next) {
    graph->updates = grown(graph->arena, graph->updates, graph->update_count, &graph->update_room, sizeof(Update));
    graph->updates[graph->update_count++] = (Update){.state = state, .next = next};
}

static Attr attr_copy(Arena *arena, Attr attr) {
    attr.name = arena_strdup(arena, attr.name);
    if (attr.kind == ATTR_TEXT)
        attr.text = arena_strdup(arena, attr.text);
    if (attr.kind == ATTR_INTS) {
        int64_t *ints = arena_alloc(arena, (size_t)attr.count, sizeof *ints);
        if (attr.count > 0)
            memcpy(ints, attr.ints, (size_t)attr.count * sizeof *ints);
        attr.ints = ints;
    }
    return attr;
}

static void place(Graph *graph, Node *node) {
    graph->nodes = grown(graph->arena, graph->nodes, graph->node_count, &graph->node_room, sizeof(Node *));
    int at = graph->insert < 0 ? graph->node_count : graph->insert++;
    memmove(graph->nodes + at + 1, graph->nodes + at, (size_t)(graph->node_count - at) * sizeof(Node *));
    graph->nodes[at] = node;
    graph->node_count++;
}

static Node *node_new(Graph *graph, Op op, const Node *from, Value *const *in, int in_count, const Attr *attrs, int attr_count) {
    const OpInfo *info = op_info(op);
    Node *node = arena_alloc(graph->arena, 1, sizeof *node);
    node->op = op;
    node->graph = graph;
    node->phase = graph->phase;
    node->in = arena_alloc(graph->arena, (size_t)in_count, sizeof(Value *));
    node->in_count = in_count;
    if (in_count > 0)
        memcpy(node->in, in, (size_t)in_count * sizeof(Value *));
    node->out = arena_alloc(graph->arena, (size_t)info->outs, sizeof(Value *));
    node->out_count = info->outs;
    node->attrs = arena_alloc(graph->arena, (size_t)attr_count, sizeof(Attr));
    node->attr_count = attr_count;
    for (int i = 0; i < attr_count; i++)
        node->attrs[i] = attr_copy(graph->arena, attrs[i]);
    if (from != NULL) {
        node->origin = from->origin;
        node->forward = graph->phase == PHASE_FORWARD ? NULL : from;
        node->origin.gradient = graph->phase == PHASE_BACKWARD;
    }
    return node;
}

Node *graph_node(Graph *graph, Diag *diag, Op op, const Node *from, Value *const *in, int in_count, const Attr *attrs, int attr_count) {
    const OpInfo *info = op_info(op);
    Node *node = node_new(graph, op, from, in, in_count, attrs, attr_count);
    if (in_count < info->min_in || in_count > info->max_in) {
        diag_error(diag, &node->origin, "%s takes %d to %d inputs, found %d", info->name, info->min_in, info->max_in, in_count);
        return NULL;
    }
    if (!info->infer(node, diag))
        return NULL;
    node->id = graph->next_node++;
    for (int i = 0; i < node->out_count; i++) {
        node->out[i]->def = node;
        node->out[i]->out = i;
    }
    if (graph->stage >= STAGE_SCALED)
        node_infer_width(node);
    place(graph, node);
    return node;
}

Value *build(Graph *graph, Op op, const Node *from, Value *const *in, int in_count, const Attr *attrs, int attr_count) {
    Diag *diag = diag_new(NULL);
    Node *node = graph_node(graph, diag, op, from, in, in_count, attrs, attr_count);
    if (node == NULL) {
        diag_print(diag, stderr);
        internal_error("build of %s refused", op_info(op)->name);
    }
    diag_free(diag);
    return node->out[0];
}

void graph_insert_at(Graph *graph, int index) {
    graph->insert = index;
}

void graph_set_phase(Graph *graph, Phase phase) {
    graph->phase = phase;
}

void graph_replace(Graph *graph, const Value *old, Value *new, int first) {
    for (int i = first; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            if (graph->nodes[i]->in[k] == old)
                graph->nodes[i]->in[k] = new;
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].value == old)
            graph->outputs[i].value = new;
    for (int i = 0; i < graph->update_count; i++)
        if (graph->updates[i].next == old)
            graph->updates[i].next = new;
}

int value_uses(const Graph *graph, const Value *value) {
    int uses = 0;
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            uses += graph->nodes[i]->in[k] == value;
    for (int i = 0; i < graph->output_count; i++)
        uses += graph->outputs[i].value == value;
    for (int i = 0; i < graph->update_count; i++)
        uses += graph->updates[i].next == value;
    return uses;
}

bool *graph_depending(const Graph *graph, ValueKind kind) {
    bool *depends = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof *depends);
    for (int i = 0; i < graph->value_count; i++)
        depends[i] = graph->values[i]->kind == kind;
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        bool any = false;
        for (int k = 0; k < node->in_count; k++)
            any = any || depends[node->in[k]->id];
        for (int k = 0; k < node->out_count; k++)
            depends[node->out[k]->id] = any;
    }
    return depends;
}

bool *graph_reaching(const Graph *graph, Role role) {
    bool *reaches = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof *reaches);
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == role)
            reaches[graph->outputs[i].value->id] = true;
    for (int i = graph->node_count - 1; i >= 0; i--) {
        const Node *node = graph->nodes[i];
        bool any = false;
        for (int k = 0; k < node->out_count; k++)
            any = any || reaches[node->out[k]->id];
        for (int k = 0; k < node->in_count && any; k++)
            reaches[node->in[k]->id] = true;
    }
    return reaches;
}

void graph_keep_nodes(Graph *graph, const bool *keep) {
    int kept = 0;
    for (int i = 0; i < graph->node_count; i++)
        if (keep[i])
            graph->nodes[kept++] = graph->nodes[i];
    graph->node_count = kept;
}

Graph *graph_clone(const Graph *graph, const char *name, Value ***map) {
    Graph *copy = graph_new(graph->arena, name);
    copy->stage = graph->stage;
    copy->next_node = graph->next_node;
    for (int i = 0; i < graph->value_count; i++) {
        Value *value = graph_value(copy, graph->values[i]->kind, NULL, graph->values[i]->shape);
        *value = *graph->values[i];
    }
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        Node *new = node_new(copy, node->op, NULL, node->in, node->in_count, node->attrs, node->attr_count);
        new->id = node->id;
        new->phase = node->phase;
        new->origin = node->origin;
        new->forward = node->forward;
        for (int k = 0; k < new->in_count; k++)
            new->in[k] = copy->values[node->in[k]->id];
        for (int k = 0; k < new->out_count; k++) {
            new->out[k] = copy->values[node->out[k]->id];
            new->out[k]->def = new;
        }
        place(copy, new);
    }
    for (int i = 0; i < graph->output_count; i++)
        graph_output(copy, graph->outputs[i].name, graph->outputs[i].role, copy->values[graph->outputs[i].value->id]);
    for (int i = 0; i < graph->update_count; i++)
        graph_update(copy, copy->values[graph->updates[i].state->id], copy->values[graph->updates[i].next->id]);
    if (map != NULL)
        *map = copy->values;
    return copy;
}
