/* Generated code against the interpreter, bit for bit. One graph holds every case of tests/op/cases.def and random larger ones; it is
 * compiled for several CPUs, memory orders and with or without fusion, loaded as a shared object, run on random mantissas and exponents,
 * and every output, exponent and updated state is compared. The "pool" splits each kernel's tiles at random and runs the pieces in a random
 * order. Usage: native [CPU [LAYOUT FUSED LEVEL SEED]]; without arguments all. Before: cc can link a shared object. */
#include "codegen/codegen.h"
#include "runtime/fixed.h"
#include "tests/e2e/native_graph.h"
#include "tests/op/case_list.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const order_names[ORDERS] = {"row-major", "channels-last", "random order"};

typedef struct {
    Arena *arena;
    Graph *graph;
    uint64_t random;
} Bench;

static Bench bench; /* for_each_case passes no context */
static uint64_t pool_random;

struct intc_pool;
void intc_rt_call(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image) {
    (void)pool, (void)image;
    int64_t count = call->tiles;
    if (call->threads == 1) {
        intc_call_run(call, arena, 0, count, 0);
        return;
    }
    enum { PIECES = 5 };
    int64_t cut[PIECES + 1] = {0};
    cut[PIECES] = count;
    for (int i = 1; i < PIECES; i++)
        cut[i] = cut[i - 1] + random_below(&pool_random, count - cut[i - 1] + 1);
    int first = (int)random_below(&pool_random, PIECES);
    for (int i = 0; i < PIECES; i++) {
        int k = (first + i * 3) % PIECES;
        if (cut[k] < cut[k + 1])
            intc_call_run(call, arena, cut[k], cut[k + 1],
                          random_below(&pool_random, call->threads < INTC_SLOTS ? call->threads : INTC_SLOTS));
    }
}

/* --- the graph --- */

static int64_t below(int64_t n) {
    return random_below(&bench.random, n);
}

static void set_width(Value *value, Type type, int64_t bound) {
    value->type = type;
    value->bound = bound;
    value->exponent_kind = EXPONENT_DYNAMIC;
}

static Value *input(const char *name, Shape shape, Type type, int64_t bound) {
    Value *value = graph_value(bench.graph, VALUE_INPUT, arena_printf(bench.arena, "%s.%d", name, bench.graph->value_count), shape);
    set_width(value, type, bound);
    return value;
}

static Value *integer_input(const char *name, Shape shape, Type type, int64_t bound) {
    return graph_integer(bench.graph, VALUE_INPUT, arena_printf(bench.arena, "%s.%d", name, bench.graph->value_count), shape, type, bound);
}

/* Gives a case's operand a type that the op accepts; wide ones vary. */
static void choose_width(Value *value, char reads, bool coefficient) {
    if (value->integer)
        return;
    if (coefficient)
        set_width(value, T_I32, INT32_MAX);
    else if (reads == 'n')
        set_width(value, T_I8, 127);
    else if (reads == 'h' || below(3) == 0)
        set_width(value, T_I16, 32767);
    else if (below(2) == 0)
        set_width(value, T_I32, ((int64_t)1 << 29) + 12345);
    else
        set_width(value, T_I64, ((int64_t)1 << 45) + 12345);
}

/* add_norm has these: their operands are statistics of one another. */
static bool is_norm(Op op) {
    return op == OP_variance || op == OP_rsqrt || (op >= OP_normalize && op <= OP_norm_grad);
}

static void add_case(const Case *test) {
    Value *in[CASE_INPUTS];
    if (is_norm(test->op))
        return;
    int count = case_inputs(bench.graph, test, VALUE_INPUT, in, &bench.random);
    for (int i = 0; i < count; i++) {
        in[i]->name = arena_printf(bench.arena, "%s.%d", test->name, bench.graph->value_count);
        in[i]->real = NULL;
        choose_width(in[i], op_reads(test->op, i), test->op == OP_weighted_sum && i % 2 == 1);
        /* Products of these widths must fit 64 bits. */
        bool heavy = test->op == OP_share || test->op == OP_cross_entropy_grad || test->op == OP_leaky_relu || test->op == OP_leak ||
                     test->op == OP_mul_const || test->op == OP_weighted_sum;
        if (heavy && in[i]->type == T_I64)
            set_width(in[i], T_I32, (int64_t)1 << 28);
    }
    if (test->op == OP_random_mask)
        count = 0;
    build(bench.graph, test->op, NULL, in, count, test->attrs, test->attr_count);
}

static Shape random_shape(int rank) {
    static const int64_t sizes[] = {1, 2, 3, 5, 8, 16, 17, 33};
    Shape shape = {.rank = rank};
    for (int d = 0; d < rank; d++)
        shape.dim[d] = sizes[below(8)];
    return shape;
}

static Shape broadcast_part(Shape shape) {
    Shape part = shape;
    for (int d = 0; d < part.rank; d++)
        if (below(3) == 0)
            part.dim[d] = 1;
    int drop = below(3) == 0 ? (int)below(part.rank) : 0;
    for (int d = 0; d + drop < part.rank; d++)
        part.dim[d] = part.dim[d + drop];
    part.rank -= drop;
    return part;
}

static Value *rescale(Value *x, int bits, bool stochastic) {
    return build(bench.graph, OP_rescale, NULL, INPUTS(x),
                 ATTRS(ATTR_I("bits", bits), ATTR_S("round", stochastic ? "stochastic" : "nearest"),
                       ATTR_I("stream", 1000 + bench.graph->value_count)));
}

/* Chains as lowering makes them, over random shapes; fusion makes one kernel of each. */
static void add_chain(void) {
    Shape shape = random_shape(2 + (int)below(3));
    int axis = (int)below(shape.rank);
    Value *x = input("x", shape, T_I32, ((int64_t)1 << (20 + below(11))) - 1), *b = input("b", shape_of(1, &shape.dim[axis]), T_I16, 32767);
    Value *y = build(bench.graph, OP_bias, NULL, INPUTS(x, b), ATTRS(ATTR_I("axis", axis)));
    y = build(bench.graph, OP_relu, NULL, INPUTS(y), NO_ATTRS);
    if (below(2) == 0)
        y = build(bench.graph, OP_clip, NULL, INPUTS(y), ATTRS(ATTR_R("min", 0.0), ATTR_R("max", 6.0)));
    y = rescale(y, 4 + (int)below(5), below(2) == 0);
    Value *other = input("r", broadcast_part(shape), T_I8, 127);
    Value *sum = build(bench.graph, below(2) == 0 ? OP_add : OP_sub, NULL, INPUTS(y, other), NO_ATTRS);
    Value *mask = build(bench.graph, OP_positive, NULL, INPUTS(sum), NO_ATTRS);
    Value *g = input("g", sum->shape, T_I8, 127);
    Value *gated = build(bench.graph, OP_gate, NULL, INPUTS(g, mask), NO_ATTRS);
    Value *product = build(bench.graph, OP_mul, NULL, INPUTS(gated, g), NO_ATTRS);
    int64_t axes[MAX_RANK];
    int count = 0;
    for (int d = 0; d < shape.rank; d++)
        if (below(2) == 0)
            axes[count++] = d;
    Value *total =
        build(bench.graph, OP_reduce_sum, NULL, INPUTS(product), ATTRS(ATTR_L("axes", count, axes), ATTR_I("keepdims", below(2))));
    rescale(total, 16, true);
}

/* Dropout as a fused mask, and the smooth functions over larger tensors. */
static void add_smooth(void) {
    Shape shape = random_shape(3);
    Value *x = input("x", shape, T_I8, 127), *dy = input("dy", shape, T_I8, 127);
    Value *mask = build(bench.graph, OP_random_mask, NULL, NULL, 0,
                        ATTRS(ATTR_L("shape", 3, shape.dim), ATTR_R("ratio", 0.25), ATTR_I("stream", 1000 + bench.graph->value_count)));
    Value *kept = build(bench.graph, OP_gate, NULL, INPUTS(x, mask), NO_ATTRS);
    rescale(build(bench.graph, OP_mul_const, NULL, INPUTS(kept), ATTRS(ATTR_R("value", 1.0 / 0.75))), 8, false);
    rescale(build(bench.graph, OP_curve, NULL, INPUTS(x), ATTRS(ATTR_S("function", "sigmoid"))), 8, false);
    rescale(build(bench.graph, OP_curve_grad, NULL, INPUTS(dy, x), ATTRS(ATTR_S("function", "gelu"))), 8, true);
    Value *half = input("h", shape, T_I16, 32767), *divisor = input("d", broadcast_part(shape), T_I16, 32767);
    rescale(build(bench.graph, OP_div, NULL, INPUTS(half, divisor), NO_ATTRS), 8, true);
    rescale(half, 5, true);
    rescale(input("w", shape, T_I64, (int64_t)1 << 60), 16, below(2) == 0);
}

static void add_window(void) {
    int64_t channels = 1 + below(20), h = 5 + below(6), w = 4 + below(6), kh = 1 + below(3), kw = 2 + below(2);
    Shape shape = shape_of(4, (int64_t[]){1 + below(3), channels, h, w});
    int64_t kernel[] = {kh, kw}, strides[] = {1 + below(2), 1 + below(3)}, dilations[] = {1 + below(2), 1};
    int64_t pads[] = {below(kh), below(kw), below(kh), below(kw)};
    const Attr attrs[] = {ATTR_L("kernel", 2, kernel), ATTR_L("strides", 2, strides), ATTR_L("pads", 4, pads),
                          ATTR_L("dilations", 2, dilations), ATTR_L("shape", 4, shape.dim)};
    Value *x = input("x", shape, T_I8, 127);
    Value *y = build(bench.graph, OP_maxpool, NULL, INPUTS(x), attrs, 4);
    Value *dy = input("dy", y->shape, T_I8, 127);
    rescale(build(bench.graph, OP_maxpool_grad, NULL, INPUTS(dy, y->def->out[1]), attrs, 5), 8, true);
    build(bench.graph, OP_sumpool, NULL, INPUTS(x), attrs, 4);
    build(bench.graph, OP_sumpool_grad, NULL, INPUTS(dy), attrs, 5);
    int64_t all[] = {h, w}, ones[] = {1, 1}, none[4] = {0};
    build(bench.graph, OP_sumpool, NULL, INPUTS(x),
          ATTRS(ATTR_L("kernel", 2, all), ATTR_L("strides", 2, ones), ATTR_L("pads", 4, none), ATTR_L("dilations", 2, ones)));
}

/* Windows that do not overlap, covering everything or not. */
static void add_tiles(void) {
    int64_t k = 2 + below(2), left = below(2);
    Shape shape = shape_of(4, (int64_t[]){1 + below(3), 1 + below(20), 3 * k + left, 4 * k + left});
    int64_t kernel[] = {k, k}, ones[] = {1, 1}, none[4] = {0};
    const Attr attrs[] = {ATTR_L("kernel", 2, kernel), ATTR_L("strides", 2, kernel), ATTR_L("pads", 4, none), ATTR_L("dilations", 2, ones),
                          ATTR_L("shape", 4, shape.dim)};
    Value *y = build(bench.graph, OP_maxpool, NULL, INPUTS(input("x", shape, T_I8, 127)), attrs, 4);
    Value *dy = input("dy", y->shape, T_I8, 127);
    build(bench.graph, OP_maxpool_grad, NULL, INPUTS(dy, y->def->out[1]), attrs, 5);
    build(bench.graph, OP_sumpool_grad, NULL, INPUTS(dy), attrs, 5);
}

static void add_moves(void) {
    Shape shape = random_shape(4);
    Value *x = input("x", shape, T_I8, 127);
    int64_t n = shape_elements(shape);
    build(bench.graph, OP_reshape, NULL, INPUTS(x), ATTRS(ATTR_L("shape", 2, ((int64_t[]){shape.dim[0], n / shape.dim[0]}))));
    build(bench.graph, OP_reshape, NULL, INPUTS(x), ATTRS(ATTR_L("shape", 2, ((int64_t[]){n / shape.dim[3], shape.dim[3]}))));
    build(bench.graph, OP_reshape, NULL, INPUTS(x),
          ATTRS(ATTR_L("shape", 4, ((int64_t[]){shape.dim[3], shape.dim[2], shape.dim[1], shape.dim[0]}))));
    build(bench.graph, OP_reshape, NULL, INPUTS(x), ATTRS(ATTR_L("shape", 1, &n)));
    int64_t perm[] = {0, 1, 2, 3};
    for (int d = 3; d > 0; d--) {
        int64_t k = below(d + 1), kept = perm[d];
        perm[d] = perm[k];
        perm[k] = kept;
    }
    Value *t = build(bench.graph, OP_transpose, NULL, INPUTS(x), ATTRS(ATTR_L("perm", 4, perm)));
    build(bench.graph, OP_reverse, NULL, INPUTS(t), ATTRS(ATTR_L("axes", 2, ((int64_t[]){1, 3}))));
    int64_t low[] = {below(2), below(3), 0, below(2)}, high[] = {0, below(2), below(3), 1}, interior[] = {0, below(2), below(3), 0};
    build(bench.graph, OP_pad, NULL, INPUTS(x), ATTRS(ATTR_L("low", 4, low), ATTR_L("high", 4, high), ATTR_L("interior", 4, interior)));
    Shape longer = shape;
    longer.dim[1] += 3;
    Value *wide = input("c", longer, T_I32, (int64_t)1 << 24);
    build(bench.graph, OP_concat, NULL, INPUTS(x, wide, x), ATTRS(ATTR_I("axis", 1)));
}

static void add_rows(void) {
    Shape shape = random_shape(3), labels = {0};
    int axis = (int)below(3);
    for (int d = 0; d < 3; d++)
        if (d != axis)
            labels.dim[labels.rank++] = shape.dim[d];
    Value *x = input("x", shape, T_I8, 127), *t = integer_input("t", labels, T_I32, shape.dim[axis]);
    Value *dy = input("dy", shape, T_I8, 127), *weight = input("dn", labels, T_I32, (int64_t)1 << 20);
    const Attr attrs[] = {ATTR_I("axis", axis), ATTR_I("ignore_index", below(2))};
    Value *p = rescale(build(bench.graph, OP_softmax, NULL, INPUTS(x), attrs, 1), 8, false);
    build(bench.graph, OP_softmax_grad, NULL, INPUTS(dy, p), attrs, 1);
    build(bench.graph, OP_log_softmax, NULL, INPUTS(x), attrs, 1);
    build(bench.graph, OP_log_softmax_grad, NULL, INPUTS(dy, x), attrs, 1);
    build(bench.graph, OP_cross_entropy, NULL, INPUTS(x, t), attrs, 2);
    rescale(build(bench.graph, OP_cross_entropy_grad, NULL, INPUTS(x, t, weight), attrs, 2), 8, true);
    build(bench.graph, OP_pick, NULL, INPUTS(x, t), attrs, 2);
    build(bench.graph, OP_count_correct, NULL, INPUTS(x, t), attrs, 1);
}

/* A normalisation and its gradient, over every other dimension, with random statistics shapes and widths. */
static void add_norm(void) {
    Shape shape = random_shape(2 + (int)below(3)), stats = shape;
    for (int d = 0; d < shape.rank; d++)
        if (below(2) == 0)
            stats.dim[d] = 1;
    bool wide = below(3) == 0, centered = below(3) > 0;
    Value *x = input("x", shape, wide ? T_I16 : T_I8, wide ? 32767 : 127), *made[3];
    Value *g = input("g", shape, below(3) == 0 ? T_I16 : T_I8, 127), *scale = input("s", broadcast_part(shape), T_I16, 32767);
    if (g->type == T_I16)
        g->bound = 32767;
    statistics(bench.graph, x, stats, centered, made);
    const Attr attrs[] = {ATTR_I("centered", centered)};
    Value *y = build(bench.graph, OP_normalize, NULL, INPUTS(x, made[0], made[1], scale), attrs, 1);
    build(bench.graph, OP_normalize, NULL, INPUTS(x, made[0], made[1]), attrs, 1);
    y = build(bench.graph, OP_bias, NULL, INPUTS(y, input("b", shape_of(1, shape.dim), T_I16, 32767)), ATTRS(ATTR_I("axis", 0)));
    rescale(build(bench.graph, OP_relu, NULL, INPUTS(y), NO_ATTRS), 8, false);
    Value *factor = below(2) == 0 ? NULL : input("s", broadcast_part(stats), T_I16, 32767);
    rescale(norm_gradient(bench.graph, g, x, made, factor, attrs), 8, true);
    if (centered) {
        rescale(norm_line(bench.graph, x, made, input("s", stats, T_I16, 32767), input("b", stats, T_I16, 32767)), 8, false);
        norm_dot(bench.graph, g, x, made);
    }
    Value *variance = input("v", shape_of(1, shape.dim), T_I16, 32767);
    build(bench.graph, OP_inv_sqrt, NULL, INPUTS(variance), ATTRS(ATTR_R("epsilon", 1e-5)));
}

/* A parameter with momentum: both are updated in place or copied, both are read by other nodes. */
static void add_update(void) {
    Shape shape = random_shape(2);
    int id = bench.graph->value_count;
    Value *w = graph_value(bench.graph, VALUE_PARAM, arena_printf(bench.arena, "w.%d", id), shape);
    Value *v = graph_value(bench.graph, VALUE_STATE, arena_printf(bench.arena, "v.%d", id), shape);
    set_width(w, T_I16, 32767);
    set_width(v, T_I16, 32767);
    int64_t n = shape_elements(shape), *mantissa = arena_alloc(bench.arena, (size_t)n, sizeof *mantissa);
    for (int64_t i = 0; i < n; i++)
        mantissa[i] = below(65535) - 32767;
    w->mantissa = mantissa;
    w->exponent = -17;
    Value *hyper[4];
    for (int i = 0; i < 4; i++) {
        hyper[i] = graph_value(bench.graph, VALUE_HYPER, arena_printf(bench.arena, "h%d.%d", i, id), (Shape){0});
        set_width(hyper[i], T_I32, INT32_MAX);
    }
    Value *g = rescale(input("g", shape, T_I32, (int64_t)1 << 30), 16, true);
    rescale(w, 8, false);
    Value *next_v = rescale(build(bench.graph, OP_weighted_sum, NULL, INPUTS(g, hyper[1], w, hyper[0], v, hyper[2]), NO_ATTRS), 16, true);
    Value *sum = build(bench.graph, OP_weighted_sum, NULL, INPUTS(w, hyper[1], w, hyper[0], g, hyper[3], next_v, hyper[2]), NO_ATTRS);
    Value *next_w = rescale(sum, 16, true);
    graph_update(bench.graph, v, next_v);
    graph_update(bench.graph, w, next_w);
    /* With a coefficient of 64 bits terms are aligned in as many. */
    Value *wide = graph_value(bench.graph, VALUE_HYPER, arena_printf(bench.arena, "wide.%d", id), (Shape){0});
    set_width(wide, T_I64, (int64_t)1 << 40);
    build(bench.graph, OP_weighted_sum, NULL, INPUTS(g, hyper[0], input("x", shape, T_I16, 32767), wide), NO_ATTRS);
}

/* Rows that are long, or that fit in a few vectors, with operands that all rows share; sums over few rows. */
static void add_long_rows(void) {
    static const struct {
        int64_t dims[4];
        int rank, axis;
    } cases[] = {{{3, 160, 4, 5}, 4, 1}, {{2, 64, 6, 7}, 4, 1}, {{8, 3, 144}, 3, 2}, {{300, 192}, 2, 1}, {{30, 272}, 2, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Shape shape = shape_of(cases[i].rank, cases[i].dims);
        Value *x = input("x", shape, T_I16, 32767), *b = input("b", shape_of(1, &shape.dim[cases[i].axis]), T_I16, 32767);
        Value *y = build(bench.graph, OP_bias, NULL, INPUTS(x, b), ATTRS(ATTR_I("axis", cases[i].axis)));
        build(bench.graph, OP_positive, NULL, INPUTS(y), NO_ATTRS);
        y = rescale(build(bench.graph, OP_relu, NULL, INPUTS(y), NO_ATTRS), 8, i % 2 == 0);
        int64_t axes[MAX_RANK];
        int count = 0;
        for (int d = 0; d < shape.rank; d++)
            if (d != cases[i].axis)
                axes[count++] = d;
        build(bench.graph, OP_reduce_sum, NULL, INPUTS(y), ATTRS(ATTR_L("axes", count, axes), ATTR_I("keepdims", 0)));
    }
}

/* Convolutions whose images are rounded band by band. */
static void add_bands(void) {
    static const struct {
        int64_t channels, filters, group, stride, high;
    } cases[] = {{8, 24, 1, 1, 64}, {24, 24, 24, 1, 48}, {17, 17, 17, 2, 96}, {6, 20, 2, 2, 90}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t c = cases[i].channels, o = cases[i].filters, s = cases[i].stride, high = cases[i].high, wide = 40;
        Shape x = shape_of(4, (int64_t[]){3, c, high, wide}), w = shape_of(4, (int64_t[]){o, c / cases[i].group, 3, 3});
        Shape y = shape_of(4, (int64_t[]){3, o, (high - 1) / s + 1, (wide - 1) / s + 1});
        const Attr attrs[] = {L("strides", s, s), L("pads", 1, 1, 1, 1), L("dilations", 1, 1), ATTR_I("group", cases[i].group),
                              ATTR_L("shape", 4, x.dim)};
        Value *weight = input("w", w, T_I8, 127), *b = input("b", shape_of(1, &o), T_I16, 32767);
        Value *sums = build(bench.graph, OP_conv, NULL, INPUTS(input("x", x, T_I8, 127), weight), attrs, 4);
        sums = build(bench.graph, OP_bias, NULL, INPUTS(sums, b), ATTRS(ATTR_I("axis", 1)));
        rescale(build(bench.graph, OP_relu, NULL, INPUTS(sums), NO_ATTRS), 8, false);
        rescale(build(bench.graph, OP_conv_dgrad, NULL, INPUTS(input("dy", y, T_I8, 127), weight), attrs, 5), 8, true);
    }
}

/* Products that are rounded run by run: of one or several batches, with rows and columns in either order. */
static void add_runs(void) {
    static const struct {
        int rank;
        int64_t lead[2], m, k, n;
        bool batched, ta, tb, stochastic;
    } cases[] = {{2, {0}, 130, 21, 520, false, false, true, false}, {2, {0}, 96, 70, 700, false, true, false, true},
                 {3, {4}, 35, 19, 500, false, false, false, true},  {4, {6, 3}, 70, 20, 66, true, false, true, false},
                 {3, {2}, 408, 65, 170, true, false, false, true},  {3, {9}, 64, 130, 140, true, true, true, false},
                 {2, {0}, 67, 5, 1000, false, false, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rank = cases[i].rank, leads = rank - 2;
        int64_t a[4], b[4], rb = cases[i].batched ? rank : 2;
        for (int d = 0; d < leads; d++)
            a[d] = b[d] = cases[i].lead[d];
        a[rank - 2] = cases[i].ta ? cases[i].k : cases[i].m;
        a[rank - 1] = cases[i].ta ? cases[i].m : cases[i].k;
        b[rb - 2] = cases[i].tb ? cases[i].n : cases[i].k;
        b[rb - 1] = cases[i].tb ? cases[i].k : cases[i].n;
        Value *rows = input("a", shape_of(rank, a), T_I8, 127), *columns = input("b", shape_of((int)rb, b), T_I8, 127);
        Value *sums =
            build(bench.graph, OP_matmul, NULL, INPUTS(rows, columns), ATTRS(ATTR_I("ta", cases[i].ta), ATTR_I("tb", cases[i].tb)));
        if (!cases[i].stochastic) {
            Value *bias = input("bias", shape_of(1, &cases[i].n), T_I16, 32767);
            sums = build(bench.graph, OP_bias, NULL, INPUTS(sums, bias), ATTRS(ATTR_I("axis", rank - 1)));
        }
        rescale(sums, 8, cases[i].stochastic);
    }
}

/* Enough work for the pool, and for results that several tiles add to. */
static void add_large(void) {
    Shape shape = shape_of(4, (int64_t[]){40, 12, 9, 10});
    Value *x = input("x", shape, T_I8, 127), *t = integer_input("t", shape_of(3, (int64_t[]){40, 9, 10}), T_I8, 11);
    static const int64_t axes[][4] = {{0, 1, 2, 3}, {0, 2, 3}, {0, 1, 2}, {1, 2, 3}};
    static const int counts[] = {4, 3, 3, 3};
    for (int i = 0; i < 4; i++)
        build(bench.graph, OP_reduce_sum, NULL, INPUTS(x), ATTRS(ATTR_L("axes", counts[i], axes[i]), ATTR_I("keepdims", i & 1)));
    build(bench.graph, OP_count_correct, NULL, INPUTS(x, t), ATTRS(ATTR_I("axis", 1)));
    build(bench.graph, OP_softmax, NULL, INPUTS(x), ATTRS(ATTR_I("axis", 1)));
    Value *wide = build(bench.graph, OP_mul, NULL, INPUTS(x, x), NO_ATTRS);
    rescale(wide, 7, true);
    /* Masks of what a rescale computes, which its kernel stores. */
    Value *before = build(bench.graph, OP_sub, NULL, INPUTS(x, input("b", shape_of(3, (int64_t[]){12, 1, 1}), T_I16, 32767)), NO_ATTRS);
    build(bench.graph, OP_positive, NULL, INPUTS(before), NO_ATTRS);
    rescale(build(bench.graph, OP_relu, NULL, INPUTS(before), NO_ATTRS), 8, false);
    before = build(bench.graph, OP_add, NULL, INPUTS(x, input("c", shape, T_I8, 127)), NO_ATTRS);
    build(bench.graph, OP_inside, NULL, INPUTS(before), ATTRS(ATTR_R("min", 0), ATTR_R("max", 6)));
    rescale(build(bench.graph, OP_clip, NULL, INPUTS(before), ATTRS(ATTR_R("min", 0), ATTR_R("max", 6))), 8, true);
    Value *thin = input("x", shape_of(4, (int64_t[]){40, 12, 1, 10}), T_I8, 127);
    before =
        build(bench.graph, OP_bias, NULL, INPUTS(thin, input("b", shape_of(1, (int64_t[]){12}), T_I16, 32767)), ATTRS(ATTR_I("axis", 1)));
    build(bench.graph, OP_positive, NULL, INPUTS(before), NO_ATTRS);
    rescale(build(bench.graph, OP_relu, NULL, INPUTS(before), NO_ATTRS), 8, false);
    static const char *const functions[] = {"tanh", "gelu", "mish", "sin"};
    for (int i = 0; i < 4; i++) {
        Op op = i == 1 || i == 2 ? OP_gated : OP_curve;
        Value *y = rescale(build(bench.graph, op, NULL, INPUTS(x), ATTRS(ATTR_S("function", functions[i]))), 8, false);
        rescale(build(bench.graph, OP_curve_grad, NULL, INPUTS(y, x), ATTRS(ATTR_S("function", functions[i]))), 8, true);
    }
    rescale(build(bench.graph, OP_exp, NULL, INPUTS(x), NO_ATTRS), 8, true);
    build(bench.graph, OP_log, NULL, INPUTS(x), NO_ATTRS);
    build(bench.graph, OP_sqrt, NULL, INPUTS(x), NO_ATTRS);
    int64_t two[] = {2, 2}, ones[] = {1, 1}, none[4] = {0};
    build(bench.graph, OP_maxpool, NULL, INPUTS(x),
          ATTRS(ATTR_L("kernel", 2, two), ATTR_L("strides", 2, ones), ATTR_L("pads", 4, none), ATTR_L("dilations", 2, ones)));
    build(bench.graph, OP_transpose, NULL, INPUTS(x), ATTRS(ATTR_L("perm", 4, ((int64_t[]){3, 1, 0, 2}))));
}

/* Inference: exponents from slots. */
static void add_slot(void) {
    Shape shape = random_shape(3);
    Value *slot = integer_input("slot", (Shape){0}, T_I32, 40);
    Value *x = input("x", shape, below(2) == 0 ? T_I32 : T_I64, (int64_t)1 << 30), *b = input("b", shape, T_I8, 127);
    Value *sum = build(bench.graph, OP_add, NULL, INPUTS(x, b), NO_ATTRS);
    build(bench.graph, OP_rescale, NULL, INPUTS(sum, slot),
          ATTRS(ATTR_I("bits", below(2) == 0 ? 8 : 5), ATTR_S("round", "nearest"), ATTR_I("stream", 0)));
    build(bench.graph, OP_rescale, NULL, INPUTS(b, slot), ATTRS(ATTR_I("bits", 8), ATTR_S("round", "nearest"), ATTR_I("stream", 0)));
}

static bool make_graph(OrderMode mode, bool fused, Plan *plan, Diag *diag) {
    bench.arena = arena_new();
    bench.graph = graph_new(bench.arena, "native");
    for_each_case(add_case);
    add_large();
    add_long_rows();
    add_bands();
    add_runs();
    for (int i = 0; i < 3; i++) {
        add_chain();
        add_smooth();
        add_window();
        add_tiles();
        add_moves();
        add_rows();
        add_norm();
        add_norm();
        add_update();
        add_slot();
    }
    for (int i = 0; i < bench.graph->node_count; i++)
        node_infer_width(bench.graph->nodes[i]);
    bench.graph->stage = STAGE_SCALED;
    add_outputs(bench.graph, !fused);
    set_orders(bench.graph, mode, &bench.random, diag);
    if (fused && !pass_fuse(bench.graph, INT64_MAX, diag))
        return false;
    return graph_verify(bench.graph, diag) && pass_memplan(&bench.graph, 1, plan, diag);
}

/* --- running and comparing --- */

static int64_t read_element(const unsigned char *arena, const Value *value, int64_t logical) {
    const unsigned char *at = arena + value->offset + physical_index(value, logical) * type_bytes(value->type);
    int64_t x = 0;
    memcpy(&x, at, (size_t)type_bytes(value->type));
    int unused = 64 - 8 * type_bytes(value->type);
    return (int64_t)((uint64_t)x << unused) >> unused;
}

static void write_element(unsigned char *arena, const Value *value, int64_t logical, int64_t x) {
    memcpy(arena + value->offset + physical_index(value, logical) * type_bytes(value->type), &x, (size_t)type_bytes(value->type));
}

/* Random contents of everything that the runtime fills; some tensors are zero or far away. */
static void fill(const Eval *eval, unsigned char *arena) {
    for (int i = 0; i < eval->graph->value_count; i++) {
        const Value *value = eval->graph->values[i];
        if ((value->kind != VALUE_INPUT && value->kind != VALUE_HYPER) || value->offset < 0)
            continue;
        Tensor *tensor = &eval->tensors[i];
        int64_t n = shape_elements(value->shape), way = below(12);
        bool zero = (value->kind == VALUE_HYPER ? way < 7 : way == 0) && !value->integer,
             slot = value->integer && n == 1 && value->shape.rank == 0;
        tensor->exponent = zero ? INTC_EXPONENT_ZERO : way == 1 ? -60 + (int)below(120) : -14 + (int)below(12);
        if (value->kind == VALUE_HYPER && !zero)
            tensor->exponent = -31;
        int64_t bound = way == 2 && value->bound > 127 ? value->bound >> below(20) : value->bound;
        int64_t peak = below(n > 0 ? n : 1); /* one large element among small ones: a maximum that one tile alone sees */
        for (int64_t k = 0; k < n; k++) {
            int64_t m = (int64_t)(random_next(&bench.random) >> 1) % (2 * bound + 1) - bound;
            if (way >= 8 && !value->integer)
                m = k == peak ? bound : m / 4;
            if (value->integer && !slot)
                m = m < -1 ? -m : m;
            tensor->mantissa[k] = zero ? 0 : way == 3 && k > 0 ? tensor->mantissa[0] : m;
            write_element(arena, value, k, tensor->mantissa[k]);
        }
        int32_t exponent = tensor->exponent;
        if (value->exponent_offset >= 0)
            memcpy(arena + value->exponent_offset, &exponent, sizeof exponent);
    }
}

static void compare(const char *variant, const Eval *eval, const unsigned char *arena, const Value *value, const char *what) {
    const Tensor *tensor = &eval->tensors[value->id];
    int64_t n = shape_elements(value->shape), wrong = 0, first = -1;
    for (int64_t i = 0; i < n; i++)
        if (read_element(arena, value, i) != tensor->mantissa[i]) {
            first = wrong++ == 0 ? i : first;
        }
    const char *in = value->def != NULL && value->def->in_count > 0 ? value->def->in[0]->name : "";
    CHECK(wrong == 0, "%s: %s %s = %s(%s): %lld of %lld differ, [%lld] is %lld, expected %lld", variant, what, value->name,
          value->def != NULL ? op_info(value->def->op)->name : "", in, (long long)wrong, (long long)n, (long long)first,
          (long long)read_element(arena, value, first < 0 ? 0 : first), (long long)tensor->mantissa[first < 0 ? 0 : first]);
    if (value->integer || value->exponent_offset < 0)
        return;
    int32_t exponent;
    memcpy(&exponent, arena + value->exponent_offset, sizeof exponent);
    CHECK(exponent == tensor->exponent, "%s: %s %s = %s(%s): exponent %d, expected %d", variant, what, value->name,
          value->def != NULL ? op_info(value->def->op)->name : "", in, exponent, tensor->exponent);
}

static void run_module(const char *variant, const struct intc_module *module) {
    const Graph *graph = bench.graph;
    CHECK(module->abi == INTC_ABI_VERSION, "%s: ABI %u", variant, module->abi);
    /* The arena ends where memory that nobody may touch begins. */
    size_t size = (size_t)module->arena_size, page = (size_t)sysconf(_SC_PAGESIZE), room = (size + page - 1) / page * page;
    CHECK(size % INTC_ARENA_ALIGN == 0, "%s: arena of %zu bytes", variant, size);
    unsigned char *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
        internal_error("out of memory");
    unsigned char *arena = memory + room - size;
    memset(arena, 0x5A, size);
    memset(arena, 0, (size_t)(module->state_size + module->constants_size));
    intc_image_copy(&module->initial, arena);
    Eval *eval = eval_new(bench.graph, EVAL_INTEGER);
    eval->seed = random_next(&bench.random);
    for (eval->step = 0; eval->step < 2;) {
        uint64_t random[2] = {eval->seed, eval->step};
        memcpy(arena + module->random_offset, random, sizeof random);
        fill(eval, arena);
        uint64_t step = eval->step;
        eval_run(eval);
        eval->step = step + 1;
        module->step(arena, NULL);
        for (int i = 0; i < graph->output_count; i++)
            compare(variant, eval, arena, graph->outputs[i].value, "output");
        for (int i = 0; i < graph->update_count; i++)
            compare(variant, eval, arena, graph->updates[i].state, "state");
    }
    eval_free(eval);
    munmap(memory, room + page);
}

static void check_tensors(const char *variant, const struct intc_module *module) {
    for (int i = 0; i < bench.graph->value_count; i++) {
        const Value *value = bench.graph->values[i];
        if (value->kind != VALUE_PARAM || value->offset < 0)
            continue;
        bool found = false;
        for (uint32_t k = 0; k < module->tensor_count; k++)
            found = found || (module->tensors[k].kind == INTC_PARAM && strcmp(module->tensors[k].name, value->name) == 0 &&
                              module->tensors[k].offset == value->offset && module->tensors[k].exponent_offset == value->exponent_offset);
        CHECK(found, "%s: the tensor table lacks %s", variant, value->name);
    }
}

/* Links the object as a shared one and loads it. */
static void *load_object(const char *object, const char *library) {
    char command[512];
    snprintf(command, sizeof command, "cc -shared -o %s %s", library, object);
    return system(command) == 0 ? dlopen(library, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static void run_variant(const char *cpu, OrderMode mode, bool fused, int level, uint64_t seed) {
    char variant[128], object[64], library[64];
    snprintf(variant, sizeof variant, "%s -O%d, %s, %s, seed %llu", cpu, level, order_names[mode], fused ? "fused" : "not fused",
             (unsigned long long)seed);
    snprintf(object, sizeof object, "native.%d.o", (int)getpid());
    snprintf(library, sizeof library, "./native.%d.so", (int)getpid());
    bench.random = pool_random = seed;
    Diag *diag = diag_new(NULL);
    Plan plan;
    bool made = make_graph(mode, fused, &plan, diag);
    ModuleSource source = {.step = bench.graph,
                           .state_size = plan.state_size,
                           .constants_size = plan.constants_size,
                           .arena_size = plan.arena_size,
                           .random_offset = plan.random_offset,
                           .name = "native"};
    TargetOptions target = {.cpu = strcmp(cpu, "host") == 0 ? NULL : cpu, .opt_level = level};
    made = made && codegen_emit(&source, &target, EMIT_OBJ, object, diag);
    diag_print(diag, stderr);
    void *handle = made ? load_object(object, library) : NULL;
    const struct intc_module *module = handle != NULL ? dlsym(handle, "intc_module") : NULL;
    CHECK(module != NULL, "%s: no module", variant);
    bool allowed = module != NULL && (!module->matrix_registers || intc_rt_matrix_registers());
    CHECK(module == NULL || allowed, "%s: the system refuses matrix registers", variant);
    if (allowed) {
        check_tensors(variant, module);
        run_module(variant, module);
    }
    if (handle != NULL)
        dlclose(handle);
    unlink(object);
    unlink(library);
    diag_free(diag);
    for (int op = OP_NONE + 1; op < OP_COUNT; op++) {
        bool found = false;
        for (int i = 0; i < bench.graph->node_count; i++)
            found = found || bench.graph->nodes[i]->op == (Op)op;
        CHECK(found, "no case for %s", op_info((Op)op)->name);
    }
    arena_free(bench.arena);
}

int main(int argc, char **argv) {
    static const char *const cpus[] = {"x86-64", "x86-64-v3", "host"};
    int runs = 0;
    if (argc == 6) {
        run_variant(argv[1], (OrderMode)atoi(argv[2]), atoi(argv[3]) != 0, atoi(argv[4]), (uint64_t)atoll(argv[5]));
        return report("native", 1);
    }
    for (size_t c = 0; c < sizeof cpus / sizeof cpus[0]; c++) {
        bool first_v3 = strcmp(cpus[c], "x86-64-v3") == 0 && !__builtin_cpu_supports("avx2");
        if ((argc > 1 && strcmp(argv[1], cpus[c]) != 0) || first_v3)
            continue;
        for (int mode = 0; mode < ORDERS; mode++, runs++)
            run_variant(cpus[c], (OrderMode)mode, (runs & 1) != 0, 2, 1000 + (uint64_t)runs);
        /* The other levels of optimisation, one on each CPU: 0, 3, 1. */
        run_variant(cpus[c], ORDER_LAST, true, c == 0 ? 0 : c == 1 ? 3 : 1, 2000 + (uint64_t)runs++);
    }
    return report("native", runs);
}
