/* SGD with momentum, Nesterov and weight decay as two weighted sums a parameter (docs/numerics.md).
 * Before: STAGE_TRAINED with its gradients. After: STAGE_UPDATED; every parameter with a gradient has a momentum STATE and two
 * updates. v' = g + decay·w + momentum·v,  w' = w + step_w·w + step_g·g + step_v·v': what plain SGD with momentum lacks is in the middle,
 * where generated code leaves it out. The runtime makes the five coefficients from rate, momentum, decay and Nesterov. */
#include "passes/passes.h"

#include <string.h>

enum { MOMENTUM, DECAY, STEP_W, STEP_G, STEP_V, HYPERS };

static void update(Graph *graph, Value *w, Value *g, Value *one, Value *const *hyper) {
    Value *v = graph_value(graph, VALUE_STATE, arena_printf(graph->arena, "%s.momentum", w->name), w->shape);
    Value *next_v = build(graph, OP_weighted_sum, g->def, INPUTS(g, one, w, hyper[DECAY], v, hyper[MOMENTUM]), NO_ATTRS);
    Value *next_w =
        build(graph, OP_weighted_sum, g->def, INPUTS(w, one, w, hyper[STEP_W], g, hyper[STEP_G], next_v, hyper[STEP_V]), NO_ATTRS);
    graph_update(graph, v, next_v);
    graph_update(graph, w, next_w);
}

/* The gradients are no outputs of the step. */
static void drop_gradients(Graph *graph) {
    int kept = 0;
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role != ROLE_GRADIENT)
            graph->outputs[kept++] = graph->outputs[i];
    graph->output_count = kept;
}

bool pass_sgd(Graph *graph, Diag *diag) {
    (void)diag;
    static const char *const names[HYPERS] = {"momentum", "decay", "step_w", "step_g", "step_v"};
    Value *hyper[HYPERS];
    for (int i = 0; i < HYPERS; i++)
        hyper[i] = graph_value(graph, VALUE_HYPER, names[i], (Shape){0});
    Value *one = graph_const(graph, "one", (Shape){0}, &(const double){1.0});
    graph_set_phase(graph, PHASE_UPDATE);
    int values = graph->value_count;
    for (int i = 0; i < values; i++) {
        Value *g = graph->values[i]->kind == VALUE_PARAM ? backward_gradient(graph, graph->values[i]) : NULL;
        if (g != NULL)
            update(graph, graph->values[i], g, one, hyper);
    }
    drop_gradients(graph);
    graph_set_phase(graph, PHASE_FORWARD);
    graph->stage = STAGE_UPDATED;
    return true;
}
