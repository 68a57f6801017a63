/* Random training graphs for property tests of passes: two inputs, some parameters, a few dozen ops, a scalar loss. Header only. */
#ifndef INTC_TESTS_OP_RANDOM_GRAPH_H
#define INTC_TESTS_OP_RANDOM_GRAPH_H

#include "tests/op/nets.h"

enum { GRAPH_OPS = 24, GRAPH_VALUES = 2 * GRAPH_OPS };

typedef struct {
    Graph *graph;
    uint64_t state;
    Value *values[GRAPH_VALUES];
    int count, params;
} Maker;

static inline Value *maker_pick(Maker *m) {
    return m->values[random_below(&m->state, m->count)];
}

static inline Value *maker_param(Maker *m, Shape shape) {
    Value *value = graph_value(m->graph, VALUE_PARAM, arena_printf(m->graph->arena, "p%d", m->params++), shape);
    int64_t n = shape_elements(shape);
    double *real = arena_alloc(m->graph->arena, (size_t)n, sizeof *real);
    for (int64_t i = 0; i < n; i++)
        real[i] = (double)random_below(&m->state, 2001) / 1000.0 - 1.0;
    value->real = real;
    return value;
}

static inline Value *maker_unary(Maker *m, Value *x) {
    static const Op plain[] = {OP_relu, OP_neg, OP_abs};
    static const char *const smooth[] = {"sigmoid", "tanh", "erf"}, *const gated[] = {"gelu", "swish", "mish"};
    switch (random_below(&m->state, 9)) {
    case 0:
        return build(m->graph, OP_mul_const, NULL, INPUTS(x), ATTRS(ATTR_R("value", 0.3)));
    case 1:
        return build(m->graph, OP_clip, NULL, INPUTS(x), ATTRS(ATTR_R("min", -0.4), ATTR_R("max", 0.9)));
    case 2:
        return build(m->graph, OP_leaky_relu, NULL, INPUTS(x), ATTRS(ATTR_R("alpha", 0.1)));
    case 3:
    case 4:
        return build(m->graph, OP_curve, NULL, INPUTS(x), ATTRS(ATTR_S("function", smooth[random_below(&m->state, 3)])));
    case 5:
    case 6:
        return build(m->graph, OP_gated, NULL, INPUTS(x), ATTRS(ATTR_S("function", gated[random_below(&m->state, 3)])));
    default:
        return build(m->graph, plain[random_below(&m->state, 3)], NULL, INPUTS(x), NO_ATTRS);
    }
}

static inline Value *maker_binary(Maker *m, Value *x) {
    static const Op ops[] = {OP_add, OP_sub, OP_mul};
    Value *y = maker_pick(m);
    Shape shape;
    if (!shape_broadcast(x->shape, y->shape, &shape) || shape_elements(shape) > 512)
        y = maker_param(m, x->shape);
    return build(m->graph, ops[random_below(&m->state, 3)], NULL, INPUTS(x, y), NO_ATTRS);
}

static inline Value *maker_move(Maker *m, Value *x) {
    int rank = x->shape.rank;
    int64_t list[MAX_RANK] = {0}, ones[MAX_RANK], zeros[MAX_RANK] = {0};
    for (int i = 0; i < rank; i++) {
        list[i] = rank - 1 - i;
        ones[i] = 1;
    }
    switch (rank == 0 ? 1 : random_below(&m->state, 5)) {
    case 0:
        return build(m->graph, OP_transpose, NULL, INPUTS(x), ATTRS(ATTR_L("perm", rank, list)));
    case 1:
        return build(m->graph, OP_reshape, NULL, INPUTS(x), ATTRS(L("shape", shape_elements(x->shape))));
    case 2:
        return build(m->graph, OP_concat, NULL, INPUTS(x, x), ATTRS(ATTR_I("axis", rank - 1)));
    case 3:
        return build(m->graph, OP_slice, NULL, INPUTS(x),
                     ATTRS(ATTR_L("starts", rank, zeros), ATTR_L("steps", rank, ones), ATTR_L("shape", rank, x->shape.dim)));
    default:
        return build(m->graph, OP_pad, NULL, INPUTS(x),
                     ATTRS(ATTR_L("low", rank, zeros), ATTR_L("high", rank, ones), ATTR_L("interior", rank, zeros)));
    }
}

static inline Value *maker_contract(Maker *m, Value *x) {
    int rank = x->shape.rank;
    if (rank == 4 && random_below(&m->state, 2) == 0) {
        Value *w = maker_param(m, shape_of(4, (int64_t[]){3, x->shape.dim[1], 1, 1}));
        const Attr attrs[] = {L("strides", 1, 1), L("pads", 1, 0, 0, 1), L("dilations", 1, 1), ATTR_I("group", 1)};
        return build(m->graph, OP_conv, NULL, INPUTS(x, w), attrs, 4);
    }
    if (rank == 4) {
        const Attr attrs[] = {L("kernel", 2, 2), L("strides", 1, 2), L("pads", 1, 0, 0, 1), L("dilations", 1, 1)};
        return build(m->graph, random_below(&m->state, 2) == 0 ? OP_maxpool : OP_sumpool, NULL, INPUTS(x), attrs, 4);
    }
    if (rank < 2)
        return build(m->graph, OP_reshape, NULL, INPUTS(x), ATTRS(L("shape", 1, shape_elements(x->shape))));
    Value *w = maker_param(m, shape_of(2, (int64_t[]){4, x->shape.dim[rank - 1]}));
    return build(m->graph, OP_matmul, NULL, INPUTS(x, w), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 1)));
}

static inline Value *maker_row(Maker *m, Value *x) {
    int axis = x->shape.rank - 1;
    if (axis < 0)
        return maker_unary(m, x);
    if (random_below(&m->state, 2) == 0)
        return build(m->graph, OP_reduce_sum, NULL, INPUTS(x), ATTRS(L("axes", 0), ATTR_I("keepdims", random_below(&m->state, 2))));
    return build(m->graph, random_below(&m->state, 2) == 0 ? OP_softmax : OP_log_softmax, NULL, INPUTS(x), ATTRS(ATTR_I("axis", axis)));
}

/* With one mean a channel, or one a row. */
static inline Value *maker_norm(Maker *m, Value *x) {
    int rank = x->shape.rank, axis = random_below(&m->state, 2) == 0 ? 1 : rank - 1;
    if (rank < 2 || shape_elements(x->shape) == 0)
        return maker_unary(m, x);
    bool rows = random_below(&m->state, 2) == 0;
    Shape stats = x->shape, scale = {.rank = rank};
    for (int d = 0; d < rank; d++) {
        stats.dim[d] = rows == (d == axis) ? 1 : x->shape.dim[d];
        scale.dim[d] = d == axis ? x->shape.dim[d] : 1;
    }
    Value *made[3], *bias = maker_param(m, shape_of(1, &x->shape.dim[axis]));
    statistics(m->graph, x, stats, true, made);
    Value *y = build(m->graph, OP_normalize, NULL, INPUTS(x, made[0], made[1], maker_param(m, scale)), ATTRS(ATTR_I("centered", 1)));
    return build(m->graph, OP_bias, NULL, INPUTS(y, bias), ATTRS(ATTR_I("axis", axis)));
}

static inline Graph *random_graph(Arena *arena, uint64_t seed) {
    Maker m = {.graph = graph_new(arena, "random"), .state = seed};
    m.graph->stage = STAGE_LOWERED;
    m.values[m.count++] = graph_value(m.graph, VALUE_INPUT, "x0", parse_shape("4x6"));
    m.values[m.count++] = graph_value(m.graph, VALUE_INPUT, "x1", parse_shape("2x3x4x4"));
    for (int i = 0; i < GRAPH_OPS; i++) {
        Value *x = random_below(&m.state, 2) == 0 ? m.values[m.count - 1] : maker_pick(&m), *y;
        switch (random_below(&m.state, 7)) {
        case 0:
            y = maker_binary(&m, x);
            break;
        case 1:
            y = maker_move(&m, x);
            break;
        case 2:
            y = maker_contract(&m, x);
            break;
        case 3:
            y = maker_row(&m, x);
            break;
        case 4:
            y = maker_norm(&m, x);
            break;
        default:
            y = maker_unary(&m, x);
        }
        if (shape_elements(y->shape) <= 512)
            m.values[m.count++] = y;
    }
    Value *loss = weighted_total(m.graph, maker_binary(&m, m.values[m.count - 1]), &m.state);
    for (int i = 1; i < 4; i++)
        loss = build(m.graph, OP_add, NULL, INPUTS(loss, weighted_total(m.graph, m.values[m.count - i], &m.state)), NO_ATTRS);
    Value *anchor = weighted_total(m.graph, maker_param(&m, parse_shape("3")), &m.state);
    graph_output(m.graph, "loss", ROLE_LOSS, build(m.graph, OP_add, NULL, INPUTS(loss, anchor), NO_ATTRS));
    graph_output(m.graph, "y", ROLE_PREDICTION, m.values[m.count - 1]);
    return m.graph;
}

/* Inputs by name, so that graphs before and after a pass see the same. */
static inline void random_fill(Eval *eval, uint64_t seed) {
    for (int i = 0; i < eval->graph->value_count; i++) {
        const Value *value = eval->graph->values[i];
        if (value->kind != VALUE_INPUT)
            continue;
        uint64_t state = seed + (uint64_t)value->name[1];
        double *real = random_grid(eval->graph->arena, shape_elements(value->shape), 9, false, &state);
        net_fill(eval, value, real);
    }
    if (net_value(eval->graph, "step_v") != NULL)
        net_hyper(eval, 0.01, 0.9, 1e-4, true);
}

#endif
