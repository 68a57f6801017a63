/* Passes that must not change results: fold, dce, layout and fuse on random graphs, in both modes. What select, exponents, calibrate and
 * fuse promise on the two nets. The verifier runs after every pass. */
#include "tests/op/random_graph.h"

static Diag *diag;

static bool verified(const char *name, const Graph *graph, bool good) {
    CHECK(good, "%s: the pass refuses", name);
    bool sound = good && graph_verify(graph, diag);
    CHECK(sound, "%s: the verifier refuses", name);
    return sound;
}

/* Loss and prediction of one step, then every parameter. */
static void results(const Graph *graph, const Eval *eval, double *out, int room) {
    int count = 0;
    for (int i = 0; i < graph->output_count + graph->value_count; i++) {
        const Value *value = i < graph->output_count ? graph->outputs[i].value : graph->values[i - graph->output_count];
        if (i >= graph->output_count && value->kind != VALUE_PARAM)
            continue;
        const Tensor *tensor = &eval->tensors[value->id];
        for (int64_t k = 0; k < shape_elements(value->shape); k++) {
            if (count < room)
                out[count] = eval->mode == EVAL_REAL ? tensor->real[k] : ldexp((double)tensor->mantissa[k], tensor->exponent);
            count++;
        }
    }
    CHECK(count <= room, "%d results", count);
    for (; count < room; count++)
        out[count] = 0.0;
}

enum { RESULTS = 8192 };

static void evaluate(Graph *graph, EvalMode mode, double *out) {
    Eval *eval = eval_new(graph, mode);
    eval->seed = 5;
    random_fill(eval, 77);
    eval_run(eval);
    results(graph, eval, out, RESULTS);
    eval_free(eval);
}

static void compare(const char *name, const double *before, const double *after, double tolerance) {
    for (int i = 0; i < RESULTS; i++)
        if (!(fabs(before[i] - after[i]) <= tolerance * (1.0 + fabs(before[i])))) {
            CHECK(false, "%s: result %d is %.17g, it was %.17g", name, i, after[i], before[i]);
            return;
        }
}

static void check_random(uint64_t seed, double *before, double *after) {
    Arena *arena = arena_new();
    Graph *graph = random_graph(arena, seed);
    const char *name = arena_printf(arena, "random %llu", (unsigned long long)seed);
    verified(name, graph, true);
    bool good = verified(name, graph, pass_backward(graph, diag)) && verified(name, graph, pass_sgd(graph, diag));
    if (good)
        evaluate(graph, EVAL_REAL, before);
    good = good && verified(name, graph, pass_lines(graph, diag)) && verified(name, graph, pass_fold(graph, diag)) &&
           verified(name, graph, pass_dce(graph, diag));
    if (good) {
        evaluate(graph, EVAL_REAL, after);
        compare(name, before, after, 1e-9);
    }
    const PassOptions options = {.bits = 4 + (int)(seed % 5)};
    good = good && verified(name, graph, pass_exponents(graph, &options, diag));
    if (good) {
        evaluate(graph, EVAL_REAL, after);
        compare(name, before, after, 1e-9);
        evaluate(graph, EVAL_INTEGER, before);
    }
    good = good && verified(name, graph, pass_fold(graph, diag)) && verified(name, graph, pass_dce(graph, diag)) &&
           verified(name, graph, pass_layout(graph, diag)) && verified(name, graph, pass_fuse(graph, INT64_MAX, diag));
    if (good) {
        evaluate(graph, EVAL_INTEGER, after);
        compare(name, before, after, 0.0);
    }
    arena_free(arena);
}

/* No 8-bit activation waits for the backward pass in 32 bits; every stochastic rescale is behind the forward pass. */
static void check_widths(const char *name, Graph *graph) {
    net_train_passes(graph, 8, diag);
    verified(name, graph, true);
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        for (int k = 0; k < node->in_count && node->phase != PHASE_FORWARD; k++) {
            const Value *in = node->in[k];
            bool forward = in->def != NULL && in->def->phase == PHASE_FORWARD;
            CHECK(!forward || in->type == T_I8 || shape_elements(in->shape) == 1, "%s: %s keeps %s of %s for the backward pass", name,
                  op_info(node->op)->name, type_name(in->type), in->name);
        }
        if (node->op != OP_rescale)
            continue;
        bool nearest = strcmp(attr_text(node, "round", ""), "nearest") == 0;
        CHECK(nearest == (node->phase == PHASE_FORWARD), "%s: a rescale of the wrong rounding", name);
        CHECK(node->phase != PHASE_UPDATE || attr_int(node, "bits", 0) == 16, "%s: an update of other than 16 bits", name);
    }
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_PREDICTION)
            CHECK(graph->outputs[i].value->type == T_I8, "%s: logits of type %s", name, type_name(graph->outputs[i].value->type));
    for (int i = 0; i < graph->update_count; i++)
        CHECK(graph->updates[i].next->def->phase == PHASE_UPDATE && graph->updates[i].next->type == T_I16, "%s: update of %s", name,
              graph->updates[i].state->name);
}

static int count_ops(const Graph *graph, Op op) {
    int count = 0;
    for (int i = 0; i < graph->node_count; i++)
        count += graph->nodes[i]->op == op;
    return count;
}

/* The gradients of three slices of one tensor are joined, not padded and added; of slices that leave a gap two are. */
static void check_parts(int64_t gap, int pads) {
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, "parts");
    graph->stage = STAGE_LOWERED;
    uint64_t state = 11;
    double before[RESULTS], after[RESULTS];
    Value *p = real_value(graph, VALUE_PARAM, "p", parse_shape("9x3"), 9, false, &state), *total = NULL;
    for (int64_t k = 0; k < 3; k++) {
        int64_t starts[] = {k == 0 ? 0 : 2 * k + gap, 0}, steps[] = {1, 1}, shape[] = {2, 3};
        Value *part = build(graph, OP_slice, NULL, INPUTS(p),
                            ATTRS(ATTR_L("starts", 2, starts), ATTR_L("steps", 2, steps), ATTR_L("shape", 2, shape)));
        Value *term = weighted_total(graph, build(graph, OP_mul, NULL, INPUTS(part, part), NO_ATTRS), &state);
        total = total == NULL ? term : build(graph, OP_add, NULL, INPUTS(total, term), NO_ATTRS);
    }
    graph_output(graph, "loss", ROLE_LOSS, total);
    bool good = verified("parts", graph, pass_backward(graph, diag)) && verified("parts", graph, pass_sgd(graph, diag));
    if (good)
        evaluate(graph, EVAL_REAL, before);
    good = good && verified("parts", graph, pass_fold(graph, diag)) && verified("parts", graph, pass_dce(graph, diag));
    if (good) {
        evaluate(graph, EVAL_REAL, after);
        compare("parts", before, after, 0);
        CHECK(count_ops(graph, OP_concat) == 1 && count_ops(graph, OP_pad) == pads, "%d concats and %d pads of slices with a gap of %lld",
              count_ops(graph, OP_concat), count_ops(graph, OP_pad), (long long)gap);
    }
    arena_free(arena);
}

static void check_select(void) {
    Arena *arena = arena_new();
    Graph *graph = net_mlp(arena, true);
    CHECK(pass_select(graph, &(PassOptions){.train = "fc1.*,*.bias", .freeze = "fc1.bias"}, diag), "select refuses");
    CHECK(net_value(graph, "fc1.weight")->kind == VALUE_PARAM, "fc1.weight learns");
    CHECK(net_value(graph, "fc1.bias")->kind == VALUE_CONST, "fc1.bias is frozen");
    CHECK(net_value(graph, "fc2.weight")->kind == VALUE_CONST, "fc2.weight is not chosen");
    CHECK(net_value(graph, "fc2.bias")->kind == VALUE_PARAM, "fc2.bias learns");
    net_train_passes(graph, 8, diag);
    verified("select", graph, true);
    CHECK(graph->update_count == 4, "%d updates, expected two for each of two parameters", graph->update_count);
    CHECK(net_value(graph, "fc2.weight")->type == T_I8, "frozen weights have 8 bits");
    Diag *errors = diag_new(NULL);
    CHECK(!pass_select(net_mlp(arena, true), &(PassOptions){.freeze = "fc1.*,nothing*"}, errors), "a glob without a match");
    CHECK(diag_errors(errors) == 1, "%d errors, expected one", diag_errors(errors));
    CHECK(pass_select(graph, &(PassOptions){.freeze = "*"}, errors), "freezing all");
    Graph *frozen = net_mlp(arena, true);
    CHECK(pass_select(frozen, &(PassOptions){.freeze = "*"}, errors) && !pass_backward(frozen, errors), "nothing learns");
    diag_free(errors);
    arena_free(arena);
}

static void fill_slots(Eval *fixed, const Eval *dynamic, Value *const *slots, int count) {
    for (int i = 0; i < count; i++) {
        const Value *slot = net_value(fixed->graph, arena_printf(fixed->graph->arena, "calibrated.%d", i));
        fixed->tensors[slot->id].mantissa[0] = dynamic->tensors[slots[i]->id].exponent;
    }
}

/* On the batch that set its slots, the fixed graph computes what the dynamic one does. */
static void check_calibrate(const char *name, Graph *graph) {
    Graph *fixed;
    Value **slots;
    int count;
    bool good = verified(name, graph, pass_fold(graph, diag)) && verified(name, graph, pass_dce(graph, diag)) &&
                verified(name, graph, pass_exponents(graph, &(PassOptions){.bits = 8}, diag)) &&
                verified(name, graph, pass_calibrate(graph, &fixed, &slots, &count, diag)) && verified(name, fixed, true);
    if (!good)
        return;
    int weights = 0;
    for (int i = 0; i < fixed->node_count; i++)
        weights += fixed->nodes[i]->op == OP_rescale && fixed->nodes[i]->in_count == 1;
    CHECK(count == count_ops(graph, OP_rescale) - weights + 1, "%s: %d slots", name, count);
    CHECK(weights > 0 && slots[0]->kind == VALUE_INPUT, "%s: weights keep dynamic exponents, the input has a slot", name);
    Eval *dynamic = eval_new(graph, EVAL_INTEGER), *still = eval_new(fixed, EVAL_INTEGER);
    uint64_t one = 4, two = 4;
    net_batch(dynamic, &one);
    net_batch(still, &two);
    eval_run(dynamic);
    fill_slots(still, dynamic, slots, count);
    eval_run(still);
    for (int o = 0; o < graph->output_count; o++) {
        const Value *a = graph->outputs[o].value, *b = fixed->outputs[o].value;
        const Tensor *x = &dynamic->tensors[a->id], *y = &still->tensors[b->id];
        CHECK(x->exponent == y->exponent, "%s: exponent %d of %s, expected %d", name, y->exponent, graph->outputs[o].name, x->exponent);
        for (int64_t k = 0; k < shape_elements(a->shape); k++)
            CHECK(x->mantissa[k] == y->mantissa[k], "%s: %s differs at %lld", name, graph->outputs[o].name, (long long)k);
    }
    eval_free(dynamic);
    eval_free(still);
}

/* Negatives and magnitudes of values that a fixed mapping may put at the least mantissa of their type, before narrow readers. */
static Graph *net_negated(Arena *arena, Op op) {
    Graph *graph = graph_new(arena, "negated");
    graph->stage = STAGE_LOWERED;
    uint64_t state = 5;
    Value *x = graph_value(graph, VALUE_INPUT, "x", parse_shape("16x6"));
    Value *h = net_linear(graph, x, "fc1", "12x6", "12", &state);
    Value *turned = build(graph, op, NULL, INPUTS(h), NO_ATTRS);
    Value *product = build(graph, OP_mul, NULL, INPUTS(turned, h), NO_ATTRS);
    Value *logits = net_linear(graph, turned, "fc2", "3x12", "3", &state);
    Value *more = net_linear(graph, product, "fc3", "3x12", "3", &state);
    net_outputs(graph, build(graph, OP_add, NULL, INPUTS(logits, more), NO_ATTRS), false);
    return graph;
}

static int masks_beside(const Graph *graph, const Value *value, const Node *root) {
    int count = 0;
    for (int i = 0; i < graph->node_count; i++)
        count += graph->nodes[i]->beside == root && graph->nodes[i]->in[0] == value;
    return count;
}

/* Bias, activation and rounding are one kernel, which also stores the mask; nothing is fused across phases. */
static void check_fuse(Graph *graph) {
    net_train_passes(graph, 8, diag);
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        const Node *root = node->fused_into;
        if ((node->op == OP_bias || node->op == OP_relu || node->op == OP_weighted_sum) && node->phase != PHASE_BACKWARD)
            CHECK(root != NULL, "%s is stored", op_info(node->op)->name);
        CHECK(root == NULL || (root->fused_into == NULL && root->phase == node->phase), "a group within a group");
        CHECK(root == NULL || value_uses(graph, node->out[0]) - masks_beside(graph, node->out[0], root) == 1,
              "a fused value with two readers");
        CHECK(node->beside == NULL || node->in[0]->def->fused_into == node->beside, "a mask beside a kernel that does not compute it");
    }
}

int main(void) {
    diag = diag_new(NULL);
    double *before = calloc(RESULTS, sizeof *before), *after = calloc(RESULTS, sizeof *after);
    int count = 0;
    for (uint64_t seed = 1; seed <= 120; seed++, count++)
        check_random(seed, before, after);
    free(before);
    free(after);
    Arena *arena = arena_new();
    check_widths("mlp", net_mlp(arena, true));
    check_widths("cnn", net_cnn(arena, true));
    check_select();
    check_parts(0, 1); /* and zeros behind the last */
    check_parts(1, 2);
    check_calibrate("mlp", net_mlp(arena, false));
    check_calibrate("cnn", net_cnn(arena, false));
    check_calibrate("negated", net_negated(arena, OP_neg));
    check_calibrate("magnitudes", net_negated(arena, OP_abs));
    check_fuse(net_mlp(arena, true));
    arena_free(arena);
    if (failures > 0)
        diag_print(diag, stderr);
    diag_free(diag);
    return report("passes", count + 6);
}
