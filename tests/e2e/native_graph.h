/* What the two comparisons of generated code with the interpreter (native.c, native_float.c) share: memory orders, which results are
 * outputs, and where an element lies. Header only. */
#ifndef INTC_TESTS_E2E_NATIVE_GRAPH_H
#define INTC_TESTS_E2E_NATIVE_GRAPH_H

#include "tests/op/build.h"

typedef enum { ORDER_ROWS, ORDER_LAST, ORDER_RANDOM, ORDERS } OrderMode;

static inline void shuffle_order(Value *value, uint64_t *random) {
    for (int d = value->shape.rank - 1; d > 0; d--) {
        int64_t k = random_below(random, d + 1);
        uint8_t kept = value->order[d];
        value->order[d] = value->order[k];
        value->order[k] = kept;
    }
}

static inline void set_orders(Graph *graph, OrderMode mode, uint64_t *random, Diag *diag) {
    if (mode == ORDER_LAST)
        pass_layout(graph, diag);
    for (int i = 0; mode == ORDER_RANDOM && i < graph->value_count; i++)
        if (graph->values[i]->kind == VALUE_NODE || graph->values[i]->kind == VALUE_INPUT)
            shuffle_order(graph->values[i], random);
}

/* Every node's results are outputs, or, for fusion, only those that no node reads. */
static inline void add_outputs(Graph *graph, bool all) {
    bool *read = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof *read);
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            read[graph->nodes[i]->in[k]->id] = true;
    for (int i = 0; i < graph->update_count; i++)
        read[graph->updates[i].next->id] = true;
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->out_count; k++)
            if (all || !read[graph->nodes[i]->out[k]->id])
                graph_output(graph, graph->nodes[i]->out[k]->name, ROLE_METRIC, graph->nodes[i]->out[k]);
}

static inline int64_t physical_index(const Value *value, int64_t logical) {
    int64_t stride[MAX_RANK], at = 0;
    value_strides(value, stride);
    for (int d = value->shape.rank - 1; d >= 0; d--) {
        at += logical % value->shape.dim[d] * stride[d];
        logical /= value->shape.dim[d];
    }
    return at;
}

#endif
