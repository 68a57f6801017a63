/* Training by the interpreter: the scaled graph in integers follows the same graph in reals, from the same weights on the same batches; and
 * the update in reals is SGD as PyTorch defines it. */
#include "tests/op/nets.h"

enum { STEPS = 120, TAIL = 30 };

static double loss_of(const Eval *eval) {
    const Graph *graph = eval->graph;
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_LOSS) {
            const Tensor *tensor = &eval->tensors[graph->outputs[i].value->id];
            return eval->mode == EVAL_REAL ? tensor->real[0] : ldexp((double)tensor->mantissa[0], tensor->exponent);
        }
    return -1.0;
}

static void check_follows(const char *name, Graph *(*net)(Arena *, bool), int bits, double rate, bool nesterov, double most_gap) {
    Arena *arena = arena_new();
    Graph *graph = net(arena, true);
    Diag *diag = diag_new(NULL);
    net_train_passes(graph, bits, diag);
    Eval *exact = eval_new(graph, EVAL_INTEGER), *real = eval_new(graph, EVAL_REAL);
    double first = 0.0, last = 0.0, gap = 0.0;
    uint64_t state_exact = 21, state_real = 21;
    exact->seed = 9;
    for (int step = 0; step < STEPS; step++) {
        exact->step = (uint64_t)step;
        net_batch(exact, &state_exact);
        net_batch(real, &state_real);
        net_hyper(exact, rate, 0.9, 1e-3, nesterov);
        net_hyper(real, rate, 0.9, 1e-3, nesterov);
        eval_run(exact);
        eval_run(real);
        first += step < TAIL ? loss_of(exact) / TAIL : 0.0;
        last += step >= STEPS - TAIL ? loss_of(exact) / TAIL : 0.0;
        gap += fabs(loss_of(exact) - loss_of(real)) / STEPS;
    }
    printf("%s: loss %.4f to %.4f, mean gap to reals %.4f\n", name, first, last, gap);
    CHECK(last < 0.5 * first, "%s: the loss goes from %g to %g", name, first, last);
    CHECK(gap > 0.0 && gap < most_gap, "%s: mean gap between integer and real losses is %g, expected under %g", name, gap, most_gap);
    eval_free(exact);
    eval_free(real);
    diag_free(diag);
    arena_free(arena);
}

/* One step in reals: v' = µv + g + λw, w' = w − η(g + λw + µv') with Nesterov. The gradient is read from the graph. */
static void check_update(void) {
    Arena *arena = arena_new();
    Graph *graph = net_mlp(arena, true);
    Diag *diag = diag_new(NULL);
    CHECK(pass_backward(graph, diag), "backward refuses");
    const Value *w = net_value(graph, "fc1.weight"), *g = backward_gradient(graph, w);
    CHECK(pass_sgd(graph, diag), "sgd refuses");
    Eval *eval = eval_new(graph, EVAL_REAL);
    const double rate = 0.1, momentum = 0.9, decay = 0.01;
    const Value *v = net_value(graph, "fc1.weight.momentum");
    uint64_t state = 3;
    for (int step = 0; step < 3; step++) {
        double old_w = eval->tensors[w->id].real[5], old_v = eval->tensors[v->id].real[5];
        net_batch(eval, &state);
        net_hyper(eval, rate, momentum, decay, true);
        eval_run(eval);
        double grad = eval->tensors[g->id].real[5] + decay * old_w;
        double new_v = momentum * old_v + grad, new_w = old_w - rate * (grad + momentum * new_v);
        CHECK(fabs(eval->tensors[v->id].real[5] - new_v) < 1e-12, "momentum %g, expected %g", eval->tensors[v->id].real[5], new_v);
        CHECK(fabs(eval->tensors[w->id].real[5] - new_w) < 1e-12, "weight %g, expected %g", eval->tensors[w->id].real[5], new_w);
        CHECK(new_w != old_w, "the weight stays");
    }
    eval_free(eval);
    diag_free(diag);
    arena_free(arena);
}

int main(void) {
    check_follows("mlp", net_mlp, 8, 0.1, false, 0.03);
    check_follows("mlp, nesterov", net_mlp, 8, 0.1, true, 0.03);
    check_follows("mlp, 6 bits", net_mlp, 6, 0.1, false, 0.08);
    check_follows("cnn", net_cnn, 8, 0.01, false, 0.05);
    check_update();
    return report("training", 5);
}
