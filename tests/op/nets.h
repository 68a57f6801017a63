/* Two tiny nets with their batches for tests of whole passes: an MLP and a convolutional net, cross-entropy over labels. Header only. */
#ifndef INTC_TESTS_OP_NETS_H
#define INTC_TESTS_OP_NETS_H

#include "runtime/fixed.h"
#include "tests/op/build.h"

enum { NET_BATCH = 16, NET_CLASSES = 3 };

static inline Value *net_param(Graph *graph, const char *name, const char *shape, double scale, uint64_t *state) {
    Value *value = graph_value(graph, VALUE_PARAM, name, parse_shape(shape));
    int64_t n = shape_elements(value->shape);
    double *real = arena_alloc(graph->arena, (size_t)n, sizeof *real);
    for (int64_t i = 0; i < n; i++)
        real[i] = scale * ((double)random_below(state, 2001) / 1000.0 - 1.0);
    value->real = real;
    value->onnx_name = value->name;
    return value;
}

static inline Value *net_linear(Graph *graph, Value *x, const char *name, const char *weight, const char *bias, uint64_t *state) {
    Value *w = net_param(graph, arena_printf(graph->arena, "%s.weight", name), weight, 0.5, state);
    Value *b = net_param(graph, arena_printf(graph->arena, "%s.bias", name), bias, 0.1, state);
    Value *y = build(graph, OP_matmul, NULL, INPUTS(x, w), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 1)));
    return build(graph, OP_bias, NULL, INPUTS(y, b), ATTRS(ATTR_I("axis", 1)));
}

static inline Value *net_conv(Graph *graph, Value *x, const char *name, const char *weight, const char *bias, uint64_t *state) {
    Value *w = net_param(graph, arena_printf(graph->arena, "%s.weight", name), weight, 0.4, state);
    Value *b = net_param(graph, arena_printf(graph->arena, "%s.bias", name), bias, 0.1, state);
    Value *y = build(graph, OP_conv, NULL, INPUTS(x, w),
                     ATTRS(L("strides", 1, 1), L("pads", 1, 1, 1, 1), L("dilations", 1, 1), ATTR_I("group", 1)));
    return build(graph, OP_bias, NULL, INPUTS(y, b), ATTRS(ATTR_I("axis", 1)));
}

/* Logits to the mean cross-entropy; logits are a prediction too. Inference keeps the loss of each row. */
static inline void net_outputs(Graph *graph, Value *logits, bool train) {
    Value *t = graph_integer(graph, VALUE_INPUT, "target", parse_shape("16"), T_I32, NET_CLASSES - 1);
    Value *rows = build(graph, OP_cross_entropy, NULL, INPUTS(logits, t), ATTRS(ATTR_I("axis", 1), ATTR_I("ignore_index", -100)));
    graph_output(graph, "logits", ROLE_PREDICTION, logits);
    if (train) {
        Value *sum = build(graph, OP_reduce_sum, NULL, INPUTS(rows), ATTRS(L("axes", 0), ATTR_I("keepdims", 0)));
        rows = build(graph, OP_mul_const, NULL, INPUTS(sum), ATTRS(ATTR_R("value", 1.0 / NET_BATCH)));
    }
    graph_output(graph, "loss", ROLE_LOSS, rows);
}

static inline Graph *net_mlp(Arena *arena, bool train) {
    Graph *graph = graph_new(arena, train ? "step" : "infer");
    graph->stage = STAGE_LOWERED;
    uint64_t state = 11;
    Value *x = graph_value(graph, VALUE_INPUT, "x", parse_shape("16x6"));
    Value *h = net_linear(graph, x, "fc1", "12x6", "12", &state);
    h = build(graph, OP_relu, NULL, INPUTS(h), NO_ATTRS);
    net_outputs(graph, net_linear(graph, h, "fc2", "3x12", "3", &state), train);
    return graph;
}

static inline Graph *net_cnn(Arena *arena, bool train) {
    Graph *graph = graph_new(arena, train ? "step" : "infer");
    graph->stage = STAGE_LOWERED;
    uint64_t state = 12;
    Value *x = graph_value(graph, VALUE_INPUT, "x", parse_shape("16x2x6x6"));
    Value *h = net_conv(graph, x, "conv1", "4x2x3x3", "4", &state);
    h = build(graph, OP_relu, NULL, INPUTS(h), NO_ATTRS);
    const Attr halves[] = {L("kernel", 2, 2), L("strides", 2, 2), L("pads", 0, 0, 0, 0), L("dilations", 1, 1)};
    h = build(graph, OP_maxpool, NULL, INPUTS(h), halves, 4);
    Value *y = net_conv(graph, h, "conv2", "4x4x3x3", "4", &state);
    h = build(graph, OP_add, NULL, INPUTS(y, h), NO_ATTRS);
    h = build(graph, OP_relu, NULL, INPUTS(h), NO_ATTRS);
    h = build(graph, OP_reshape, NULL, INPUTS(h), ATTRS(L("shape", 16, 36)));
    net_outputs(graph, net_linear(graph, h, "fc", "3x36", "3", &state), train);
    return graph;
}

static inline Value *net_value(const Graph *graph, const char *name) {
    for (int i = 0; i < graph->value_count; i++)
        if (strcmp(graph->values[i]->name, name) == 0)
            return graph->values[i];
    return NULL;
}

/* The compiler's passes on a training graph, up to STAGE_SCALED. */
static inline void net_train_passes(Graph *graph, int bits, Diag *diag) {
    const PassOptions options = {.bits = bits};
    bool good = pass_backward(graph, diag) && pass_sgd(graph, diag) && pass_lines(graph, diag) && pass_fold(graph, diag) &&
                pass_dce(graph, diag) && pass_exponents(graph, &options, diag) && pass_fold(graph, diag) && pass_dce(graph, diag) &&
                pass_layout(graph, diag) && pass_fuse(graph, INT64_MAX, diag);
    CHECK(good, "the passes refuse");
    if (!good)
        diag_print(diag, stderr);
}

/* As the runtime does: 31 bits, or 0 at the least exponent. */
static inline void hyper_mantissa(double real, Tensor *tensor) {
    tensor->exponent = INTC_EXPONENT_ZERO;
    tensor->mantissa[0] = 0;
    if (real == 0)
        return;
    tensor->mantissa[0] = (int64_t)nearbyint(ldexp(frexp(real, &tensor->exponent), 31));
    tensor->exponent -= 31;
}

/* Writes reals into an input or hyper-parameter, in the evaluation's mode. */
static inline void net_fill(Eval *eval, const Value *value, const double *real) {
    Tensor *tensor = &eval->tensors[value->id];
    int64_t n = shape_elements(value->shape);
    if (eval->mode == EVAL_REAL)
        memcpy(tensor->real, real, (size_t)n * sizeof *real);
    else if (value->kind == VALUE_HYPER)
        hyper_mantissa(*real, tensor);
    else
        tensor->exponent = reals_to_mantissas(real, n, intc_bit_length((uint64_t)value->bound - 1) + 1, tensor->mantissa);
}

/* A batch in which the class decides which third of the inputs is large. */
static inline void net_batch(Eval *eval, uint64_t *state) {
    const Value *x = net_value(eval->graph, "x"), *t = net_value(eval->graph, "target");
    int64_t n = shape_elements(x->shape), row = n / NET_BATCH;
    double *real = arena_alloc(eval->graph->arena, (size_t)n, sizeof *real);
    for (int64_t b = 0; b < NET_BATCH; b++) {
        int64_t label = random_below(state, NET_CLASSES);
        eval->tensors[t->id].mantissa[b] = label;
        for (int64_t k = 0; k < row; k++)
            real[b * row + k] = (double)random_below(state, 1000) / 1000.0 + (k * NET_CLASSES / row == label ? 0.6 : 0.0);
    }
    net_fill(eval, x, real);
}

static inline void net_hyper(Eval *eval, double rate, double momentum, double decay, bool nesterov) {
    const double v[] = {momentum, decay, nesterov ? -rate * decay : 0.0, nesterov ? -rate : 0.0, nesterov ? -rate * momentum : -rate};
    static const char *const names[] = {"momentum", "decay", "step_w", "step_g", "step_v"};
    for (int i = 0; i < 5; i++)
        net_fill(eval, net_value(eval->graph, names[i]), &v[i]);
}

#endif
