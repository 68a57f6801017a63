/* Memory orders. Which orders let a transpose or reshape move no byte, against a search through all of them; a net whose layers are N H W C
 * with a transpose on either side of every window, as exporters of such frameworks write it, against the same net without: equal losses
 * and gradients, and no move of either copies anything. Matmul takes on every transpose around it, and the shape that a reshape gives its
 * rows. */
#include "tests/op/nets.h"

/* --- orders, by search --- */

static void unravel(Shape shape, int64_t i, int64_t *index) {
    for (int d = shape.rank - 1; d >= 0; i /= shape.dim[d--])
        index[d] = i % shape.dim[d];
}

/* Whether every element of the result lies where it lies in the operand. */
static bool nothing_moves(const Node *node) {
    const Value *in = node->in[0], *out = node->out[0];
    int count;
    const int64_t *perm = attr_ints(node, "perm", &count);
    for (int64_t i = 0; i < shape_elements(out->shape); i++) {
        int64_t to[MAX_RANK], from[MAX_RANK];
        unravel(out->shape, i, to);
        unravel(in->shape, i, from);
        for (int d = 0; d < count; d++)
            from[perm[d]] = to[d];
        if (place_of(in, from) != place_of(out, to))
            return false;
    }
    return true;
}

/* The k-th of all orders of `rank` dimensions. */
static void nth_order(int rank, int k, uint8_t *order) {
    bool used[MAX_RANK] = {false};
    for (int i = 0; i < rank; i++) {
        int choices = rank - i, pick = k % choices, d = 0;
        for (k /= choices; used[d] || pick > 0; d++)
            pick -= !used[d];
        used[d] = true;
        order[i] = (uint8_t)d;
    }
}

static int orders_of(int rank) {
    return rank <= 1 ? 1 : rank * orders_of(rank - 1);
}

/* All orders of one side against all of the other; returns how many of the first have a free partner. */
static int search(Node *node, bool backwards) {
    Value *given = backwards ? node->out[0] : node->in[0], *asked = backwards ? node->in[0] : node->out[0];
    int found = 0;
    for (int i = 0; i < orders_of(given->shape.rank); i++) {
        nth_order(given->shape.rank, i, given->order);
        bool exists = false;
        for (int k = 0; k < orders_of(asked->shape.rank); k++) {
            nth_order(asked->shape.rank, k, asked->order);
            bool still = nothing_moves(node);
            exists = exists || still;
            CHECK(still == move_is_free(node), "%s: order %d to order %d is free", op_info(node->op)->name, i, k);
        }
        bool told = move_order(node, backwards, asked->order);
        CHECK(told == exists, "%s: an order exists for order %d", op_info(node->op)->name, i);
        CHECK(!told || nothing_moves(node), "%s: the order found for order %d moves something", op_info(node->op)->name, i);
        found += told;
    }
    return found;
}

static void check_orders(void) {
    static const char *const pairs[][2] = {{"2x3x4", "6x4"},   {"2x3x4", "2x12"},  {"6x4", "2x3x2x2"}, {"2x6x3", "2x2x3x3"},
                                           {"2x3x1", "1x2x3"}, {"4x1x1x3", "4x3"}, {"2x3x4", "4x3x2"}, {"24", "2x3x4"},
                                           {"2x5", "2x5"},     {"4x6", "6x4"},     {"1x1", "1"},       {"2x1x2x3", "2x1x6"}};
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, "orders");
    int found = 0, searched = 0;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        Value *x = graph_value(graph, VALUE_INPUT, NULL, parse_shape(pairs[i][0]));
        Shape shape = parse_shape(pairs[i][1]);
        Node *node = build(graph, OP_reshape, NULL, INPUTS(x), ATTRS(ATTR_L("shape", shape.rank, shape.dim)))->def;
        for (int backwards = 0; backwards < 2; backwards++) {
            found += search(node, backwards);
            searched += orders_of(backwards ? shape.rank : x->shape.rank);
        }
    }
    CHECK(found > 30 && found < searched, "%d of %d orders have a free partner", found, searched);
    for (int k = 0; k < 24; k++) {
        Value *x = graph_value(graph, VALUE_INPUT, NULL, parse_shape("2x3x1x4"));
        uint8_t order[MAX_RANK];
        nth_order(4, k, order);
        Node *node = build(graph, OP_transpose, NULL, INPUTS(x), ATTRS(L("perm", order[0], order[1], order[2], order[3])))->def;
        CHECK(search(node, false) == 24 && search(node, true) == 24, "every transpose has a free order");
    }
    arena_free(arena);
}

/* --- nets --- */

typedef struct {
    Graph *graph;
    bool last; /* N H W C, transposed around windows */
    uint64_t state;
} Net;

static Value *transposed(Net *net, Value *x, int64_t a, int64_t b, int64_t c) {
    return net->last ? build(net->graph, OP_transpose, NULL, INPUTS(x), ATTRS(L("perm", 0, a, b, c))) : x;
}

static Value *first(Net *net, Value *x) {
    return transposed(net, x, 3, 1, 2);
}

static Value *back(Net *net, Value *x) {
    return transposed(net, x, 2, 3, 1);
}

static int64_t channel_axis(const Net *net) {
    return net->last ? 3 : 1;
}

static Shape shape4(const Net *net, int64_t n, int64_t c, int64_t h, int64_t w) {
    return net->last ? shape_of(4, (int64_t[]){n, h, w, c}) : shape_of(4, (int64_t[]){n, c, h, w});
}

static Value *conv(Net *net, Value *x, const char *name, const char *weight, int64_t group) {
    Value *w = net_param(net->graph, name, weight, 0.4, &net->state);
    return back(net, build(net->graph, OP_conv, NULL, INPUTS(first(net, x), w),
                           ATTRS(L("strides", 1, 1), L("pads", 1, 1, 1, 1), L("dilations", 1, 1), ATTR_I("group", group))));
}

static Value *bias(Net *net, Value *x, const char *name) {
    Value *b = net_param(net->graph, name, "4", 0.1, &net->state);
    return build(net->graph, OP_bias, NULL, INPUTS(x, b), ATTRS(ATTR_I("axis", channel_axis(net))));
}

static Value *normalised(Net *net, Value *x, const char *name) {
    Value *stats[3], *gamma = net_param(net->graph, name, "4", 1.0, &net->state);
    Shape shape = shape4(net, 1, 4, 1, 1);
    statistics(net->graph, x, shape, true, stats);
    gamma = build(net->graph, OP_reshape, NULL, INPUTS(gamma), ATTRS(ATTR_L("shape", 4, shape.dim)));
    return build(net->graph, OP_normalize, NULL, INPUTS(x, stats[0], stats[1], gamma), ATTRS(ATTR_I("centered", 1)));
}

static Value *relu(Net *net, Value *x) {
    return build(net->graph, OP_relu, NULL, INPUTS(x), NO_ATTRS);
}

static Value *pool(Net *net, Op op, Value *x) {
    const Attr halves[] = {L("kernel", 2, 2), L("strides", 2, 2), L("pads", 0, 0, 0, 0), L("dilations", 1, 1)};
    return back(net, build(net->graph, op, NULL, INPUTS(first(net, x)), halves, 4));
}

/* A plain convolution, a residual block, a grouped convolution, a gate over the channels, pad, concat, slice, both pools, a mean over space
 * and a dense layer. */
static Graph *net_new(Arena *arena, bool last) {
    Net net = {.graph = graph_new(arena, "step"), .last = last, .state = 12};
    Graph *graph = net.graph;
    graph->stage = STAGE_LOWERED;
    Value *x = graph_value(graph, VALUE_INPUT, "x", shape4(&net, NET_BATCH, 2, 8, 8));
    Value *h = relu(&net, normalised(&net, conv(&net, x, "conv1", "4x2x3x3", 1), "gamma1"));
    Value *y = relu(&net, bias(&net, conv(&net, h, "conv2", "4x4x3x3", 1), "bias2"));
    h = build(graph, OP_add, NULL, INPUTS(h, normalised(&net, conv(&net, y, "conv3", "4x2x3x3", 2), "gamma3")), NO_ATTRS);
    h = pool(&net, OP_maxpool, relu(&net, h));
    y = build(graph, OP_softmax, NULL, INPUTS(h), ATTRS(ATTR_I("axis", channel_axis(&net))));
    y = build(graph, OP_mul, NULL, INPUTS(y, h), NO_ATTRS);
    Shape low = shape4(&net, 0, 0, 1, 2), high = shape4(&net, 0, 0, 1, 0), none = shape4(&net, 0, 0, 0, 0);
    Shape one = shape4(&net, 1, 1, 1, 1), part = shape4(&net, NET_BATCH, 4, 4, 4), start = shape4(&net, 0, 3, 1, 0);
    y = build(graph, OP_pad, NULL, INPUTS(y),
              ATTRS(ATTR_L("low", 4, low.dim), ATTR_L("high", 4, high.dim), ATTR_L("interior", 4, none.dim)));
    h = build(graph, OP_pad, NULL, INPUTS(h),
              ATTRS(ATTR_L("low", 4, high.dim), ATTR_L("high", 4, low.dim), ATTR_L("interior", 4, none.dim)));
    h = build(graph, OP_concat, NULL, INPUTS(h, y), ATTRS(ATTR_I("axis", channel_axis(&net))));
    h = build(graph, OP_slice, NULL, INPUTS(h),
              ATTRS(ATTR_L("starts", 4, start.dim), ATTR_L("steps", 4, one.dim), ATTR_L("shape", 4, part.dim)));
    h = pool(&net, OP_sumpool, bias(&net, h, "bias4"));
    const Attr space[] = {last ? L("axes", 1, 2) : L("axes", 2, 3), ATTR_I("keepdims", 0)};
    h = build(graph, OP_reduce_sum, NULL, INPUTS(h), space, 2);
    net_outputs(graph, net_linear(graph, h, "fc", "3x4", "3", &net.state), true);
    return graph;
}

/* Moves of the planned graph: all transposes, and all moves that copy. */
static void check_free(const char *name, Graph *graph, int least, Diag *diag) {
    Plan plan;
    net_train_passes(graph, 8, diag);
    CHECK(pass_memplan(&graph, 1, &plan, diag) && graph_verify(graph, diag), "%s: memplan or verify refuses", name);
    int transposes = 0;
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        if ((node->op != OP_transpose && node->op != OP_reshape) || node->in[0]->kind == VALUE_PARAM)
            continue;
        transposes += node->op == OP_transpose;
        CHECK(node->in[0]->offset == node->out[0]->offset && nothing_moves(node), "%s: %s of %s copies", name, op_info(node->op)->name,
              node->in[0]->name);
    }
    CHECK(transposes >= least, "%s: %d transposes, expected at least %d to be absorbed", name, transposes, least);
}

static Eval *evaluated(Graph *graph, const double *x, Diag *diag) {
    CHECK(pass_backward(graph, diag), "backward refuses");
    Eval *eval = eval_new(graph, EVAL_REAL);
    uint64_t state = 4;
    net_batch(eval, &state);
    memcpy(eval->tensors[net_value(graph, "x")->id].real, x, (size_t)shape_elements(net_value(graph, "x")->shape) * sizeof *x);
    eval_nodes(eval);
    return eval;
}

/* Loss, logits and gradients of both nets on one batch. */
static void check_equal(Arena *arena, Diag *diag) {
    enum { ROW = 2 * 8 * 8 };
    static double x[2][NET_BATCH * ROW];
    uint64_t state = 9;
    for (int i = 0; i < NET_BATCH * ROW; i++) {
        int n = i / ROW, c = i / 64 % 2, at = i % 64;
        x[0][i] = x[1][n * ROW + at * 2 + c] = (double)random_below(&state, 2001) / 1000.0 - 1.0;
    }
    Eval *plain = evaluated(net_new(arena, false), x[0], diag), *last = evaluated(net_new(arena, true), x[1], diag);
    int compared = 0;
    CHECK(plain->graph->output_count == last->graph->output_count, "both nets have the same outputs");
    for (int o = 0; o < plain->graph->output_count; o++) {
        const Output *a = &plain->graph->outputs[o], *b = &last->graph->outputs[o];
        double largest = 0, farthest = 0;
        CHECK(strcmp(a->name, b->name) == 0 && shape_equal(a->value->shape, b->value->shape), "output %s", a->name);
        for (int64_t k = 0; k < shape_elements(a->value->shape); k++) {
            double left = plain->tensors[a->value->id].real[k], right = last->tensors[b->value->id].real[k];
            largest = fmax(largest, fabs(left));
            farthest = fmax(farthest, fabs(left - right));
        }
        CHECK(largest > 0 && farthest <= 1e-12 * (1 + largest), "%s: %g apart at a magnitude of %g", a->name, farthest, largest);
        compared++;
    }
    CHECK(compared == 11, "%d outputs and gradients", compared);
    eval_free(plain);
    eval_free(last);
}

/* --- transposes around matmul --- */

static Value *turned(Graph *graph, Value *x, bool wanted) {
    static const int64_t plane[] = {1, 0}, stack[] = {0, 2, 1};
    int rank = x->shape.rank;
    return wanted ? build(graph, OP_transpose, NULL, INPUTS(x), ATTRS(ATTR_L("perm", rank, rank == 2 ? plane : stack))) : x;
}

/* Products of 3x4 by 4x5, either stored in either order, behind a transpose or not, with the result transposed or not. */
static Graph *products_new(Arena *arena, int rank) {
    Graph *graph = graph_new(arena, "products");
    graph->stage = STAGE_LOWERED;
    const char *const left[2][2] = {{"3x4", "4x3"}, {"2x3x4", "2x4x3"}}, *const right[2][2] = {{"4x5", "5x4"}, {"2x4x5", "2x5x4"}};
    for (int i = 0; i < 32; i++) {
        bool ta = i & 1, tb = i & 2, before_a = i & 4, before_b = i & 8, after = i & 16;
        Value *a = graph_value(graph, VALUE_INPUT, arena_printf(arena, "a%d", i), parse_shape(left[rank - 2][ta != before_a]));
        Value *b = graph_value(graph, VALUE_INPUT, arena_printf(arena, "b%d", i), parse_shape(right[rank - 2][tb != before_b]));
        a = turned(graph, a, before_a);
        b = turned(graph, b, before_b);
        Value *y = build(graph, OP_matmul, NULL, INPUTS(a, b), ATTRS(ATTR_I("ta", ta), ATTR_I("tb", tb)));
        graph_output(graph, arena_printf(arena, "y%d", i), ROLE_PREDICTION, turned(graph, y, after));
    }
    return graph;
}

static Eval *products_of(Graph *graph) {
    Eval *eval = eval_new(graph, EVAL_REAL);
    uint64_t state = 5;
    for (int i = 0; i < graph->value_count; i++)
        if (graph->values[i]->kind == VALUE_INPUT)
            for (int64_t k = 0; k < shape_elements(graph->values[i]->shape); k++)
                eval->tensors[i].real[k] = (double)random_below(&state, 201) - 100.0;
    eval_nodes(eval);
    return eval;
}

static void check_same(const char *name, Graph *as_written, Graph *laid_out) {
    Eval *a = products_of(as_written), *b = products_of(laid_out);
    for (int o = 0; o < as_written->output_count; o++) {
        const Value *x = as_written->outputs[o].value, *y = laid_out->outputs[o].value;
        CHECK(shape_equal(x->shape, y->shape), "%s: %d changes its shape", name, o);
        for (int64_t k = 0; k < shape_elements(x->shape); k++)
            CHECK(a->tensors[x->id].real[k] == b->tensors[y->id].real[k], "%s: %d, element %d", name, o, (int)k);
    }
    eval_free(a);
    eval_free(b);
}

static void check_products(Arena *arena, int rank, Diag *diag) {
    Graph *as_written = products_new(arena, rank), *laid_out = products_new(arena, rank);
    CHECK(pass_layout(laid_out, diag) && graph_verify(laid_out, diag), "layout or verify refuses products");
    for (int i = 0; i < laid_out->node_count; i++)
        CHECK(laid_out->nodes[i]->op == OP_matmul, "%s is left of products of rank %d", op_info(laid_out->nodes[i]->op)->name, rank);
    CHECK(laid_out->node_count == 32, "%d products of rank %d, expected 32", laid_out->node_count, rank);
    check_same(arena_printf(arena, "products of rank %d", rank), as_written, laid_out);
}

/* Rows folded to two dimensions and unfolded behind the product, from what is folded, from another shape and from two dimensions; and
 * products whose reshape is none of their rows, or has another reader beside it. */
static Graph *unfolded_new(Arena *arena) {
    Graph *graph = graph_new(arena, "unfolded");
    graph->stage = STAGE_LOWERED;
    static const char *const from[] = {"2x3x4", "2x3x2x2", "6x4", "2x3x4", "2x3x4", "4x6"}, *const to[] = {"2x3x5", "2x3x5", "2x3x5",
                                                                                                           "6x5x1", "2x3x5", "2x3x5"};
    for (int i = 0; i < 6; i++) {
        bool ta = i == 5, read = i == 4;
        Shape shape = parse_shape(to[i]);
        Value *a = graph_value(graph, VALUE_INPUT, arena_printf(arena, "a%d", i), parse_shape(from[i]));
        Value *b = graph_value(graph, VALUE_INPUT, arena_printf(arena, "b%d", i), parse_shape("4x5"));
        if (a->shape.rank > 2)
            a = build(graph, OP_reshape, NULL, INPUTS(a), ATTRS(L("shape", 6, 4)));
        Value *y = build(graph, OP_matmul, NULL, INPUTS(a, b), ATTRS(ATTR_I("ta", ta), ATTR_I("tb", 0)));
        Value *z = build(graph, OP_reshape, NULL, INPUTS(y), ATTRS(ATTR_L("shape", shape.rank, shape.dim)));
        graph_output(graph, arena_printf(arena, "z%d", i), ROLE_PREDICTION, z);
        if (read)
            graph_output(graph, "y", ROLE_PREDICTION, y);
    }
    return graph;
}

static void check_unfolded(Arena *arena, Diag *diag) {
    Graph *as_written = unfolded_new(arena), *laid_out = unfolded_new(arena);
    CHECK(pass_layout(laid_out, diag) && graph_verify(laid_out, diag), "layout or verify refuses unfolded products");
    for (int i = 0; i < laid_out->output_count; i++) {
        const Output *output = &laid_out->outputs[i];
        bool product = output->value->def->op == OP_matmul, wanted = output->name[0] == 'y' || output->name[1] < '3';
        CHECK(product == wanted, "%s is %s product", output->name, product ? "a" : "no");
    }
    CHECK(laid_out->outputs[0].value->def->in[0]->kind == VALUE_INPUT, "rows that had the shape are folded");
    check_same("unfolded products", as_written, laid_out);
}

int main(void) {
    Arena *arena = arena_new();
    Diag *diag = diag_new(NULL);
    check_orders();
    check_equal(arena, diag);
    check_free("channels last", net_new(arena, true), 14, diag);
    check_free("channels first", net_new(arena, false), 0, diag);
    check_products(arena, 2, diag);
    check_products(arena, 3, diag);
    check_unfolded(arena, diag);
    if (failures > 0)
        diag_print(diag, stderr);
    diag_free(diag);
    arena_free(arena);
    return report("layout", 7);
}
