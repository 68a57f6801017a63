/* Dead code: drops nodes that no output and no update needs. Before: any stage. After: the order of the others is unchanged. */
#include "passes/passes.h"

bool pass_dce(Graph *graph, Diag *diag) {
    (void)diag;
    bool *live = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof(bool));
    bool *keep = arena_alloc(graph->arena, (size_t)graph->node_count, sizeof(bool));
    for (int i = 0; i < graph->output_count; i++)
        live[graph->outputs[i].value->id] = true;
    for (int i = 0; i < graph->update_count; i++)
        live[graph->updates[i].next->id] = true;
    for (int i = graph->node_count - 1; i >= 0; i--) {
        const Node *node = graph->nodes[i];
        for (int k = 0; k < node->out_count; k++)
            keep[i] = keep[i] || live[node->out[k]->id];
        for (int k = 0; k < node->in_count && keep[i]; k++)
            live[node->in[k]->id] = true;
    }
    graph_keep_nodes(graph, keep);
    return true;
}
