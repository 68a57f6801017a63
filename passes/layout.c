/* Memory orders: activations and gradients around convolutions and pools are stored channels-last, and the values near them such that the
 * moves between move no byte. Before: STAGE_SCALED, all values row-major. After: `order` of inputs and of what nodes compute may differ;
 * parameters, states and constants keep row-major order. Logical shapes and results do not change.
 *
 * Values of one shape that pointwise nodes and rescales join have one order, for such a node walks all of them at once. From convolutions
 * and pools an order spreads to the neighbours: through what walks an operand on its own (concat, pad, slice, reductions, rows) unchanged,
 * through transpose and reshape as the order at which they are free; what came first stays. So the transposes that a model of another
 * layout has around its convolutions are free, and the memory plan lets their two sides share a place. Away from convolutions values stay
 * row-major: transposing the heads of attention costs less than rounding in an order other than the logical one.
 *
 * First, a matmul takes on the transposes of its operands and its result: it reads either order, and the product of the transposed operands
 * is the transposed product. Where its rows are only brought to more dimensions it has these itself, so that its reader can be its kernel.
 * What is left unused is dropped. */
#include "passes/passes.h"

#include <string.h>

typedef struct {
    Graph *graph;
    int *root, *next; /* by value id: the value that stands for those it is joined to, and a ring through them */
    bool *has;        /* by id of a root: the order is chosen */
    bool *rows;       /* a product is among them, which is written row by row */
    bool *fixed;      /* they meet a parameter, state or constant: row-major */
    Node ***readers;  /* by value id, ended by NULL */
    Value **queue;    /* chosen, their neighbours not yet looked at */
    int first, count;
} Layout;

static bool may_change(const Value *value) {
    return value->kind == VALUE_NODE || value->kind == VALUE_INPUT;
}

static int root_of(Layout *l, const Value *value) {
    int id = value->id;
    while (l->root[id] != id)
        id = l->root[id] = l->root[l->root[id]];
    return id;
}

static const uint8_t row_major[MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};

/* Gives the order to all values that are joined to this one. */
static void choose(Layout *l, const Value *value, const uint8_t *order, bool window) {
    int root = root_of(l, value), rank = value->shape.rank;
    if (l->has[root] || !may_change(value))
        return;
    if (!window && ((l->rows[root] && order[rank - 1] != rank - 1 && value->shape.dim[rank - 1] > 1) ||
                    (l->fixed[root] && memcmp(order, row_major, (size_t)rank) != 0)))
        return;
    l->has[root] = true;
    int id = root;
    do {
        memcpy(l->graph->values[id]->order, order, (size_t)rank);
        l->queue[l->count++] = l->graph->values[id];
        id = l->next[id];
    } while (id != root);
}

/* N D1 … Dk C. */
static void channels_last(int rank, uint8_t *order) {
    int count = 0;
    for (int d = 0; d < rank; d++)
        if (d != 1)
            order[count++] = (uint8_t)d;
    if (rank > 1)
        order[count] = 1;
}

static void choose_last(Layout *l, const Value *value) {
    uint8_t order[MAX_RANK];
    channels_last(value->shape.rank, order);
    choose(l, value, order, true);
}

/* Whether the order is row-major or channels-last. */
static bool is_common(int rank, const uint8_t *order) {
    uint8_t last[MAX_RANK];
    if (memcmp(order, row_major, (size_t)rank) == 0)
        return true;
    channels_last(rank, last);
    return rank > 2 && memcmp(order, last, (size_t)rank) == 0;
}

/* --- neighbours --- */

/* Whether one walk serves operand and result. */
static bool walks_as_one(const Node *node, const Value *in) {
    OpKind kind = op_info(node->op)->kind;
    bool same = in->shape.rank == node->out[0]->shape.rank;
    return (kind == KIND_ROW && shape_equal(in->shape, node->out[0]->shape)) || (node->op == OP_reduce_sum && same) ||
           (kind == KIND_MOVE && node->op != OP_gather && same);
}

/* Hands the order of `from`, an operand or result of the node, to the others. The gradient of a parameter is read by the update alone and
 * stays in the parameter's order. */
static void spread(Layout *l, const Node *node, const Value *from) {
    if (node->phase == PHASE_UPDATE || node->out_count != 1)
        return;
    const Value *out = node->out[0];
    uint8_t order[MAX_RANK];
    if (node->op == OP_transpose || node->op == OP_reshape) {
        const Value *other = from == out ? node->in[0] : out;
        if (move_order(node, from == out, order) && (!order_is_row_major(from) || is_common(other->shape.rank, order)))
            choose(l, other, order, false);
        return;
    }
    if (from != out && !walks_as_one(node, from))
        return;
    choose(l, out, from->order, false);
    for (int k = 0; k < node->in_count; k++)
        if (walks_as_one(node, node->in[k]))
            choose(l, node->in[k], from->order, false);
}

static void spread_all(Layout *l) {
    while (l->first < l->count) {
        const Value *value = l->queue[l->first++];
        if (value->def != NULL)
            spread(l, value->def, value);
        for (Node **reader = l->readers[value->id]; *reader != NULL; reader++)
            spread(l, *reader, value);
    }
}

/* --- seeds --- */

static void seed_windows(Layout *l, const Node *node) {
    bool convolution = node->op == OP_conv || node->op == OP_conv_dgrad, wgrad = node->op == OP_conv_wgrad;
    if (!convolution && !wgrad && op_info(node->op)->kind != KIND_WINDOW)
        return;
    for (int k = 0; k < node->in_count && !(convolution && k == 1); k++)
        choose_last(l, node->in[k]);
    for (int k = 0; k < node->out_count && !wgrad; k++)
        choose_last(l, node->out[k]);
}

/* Values of one shape that a pointwise node or rescale reads and writes. The update walks its operands in the parameter's order. */
static void join(Layout *l, const Node *node) {
    OpKind kind = op_info(node->op)->kind;
    if (kind != KIND_POINTWISE && kind != KIND_SCALE)
        return;
    const Value *out = node->out[0];
    for (int k = 0; k < node->in_count; k++) {
        int a = root_of(l, out), b = root_of(l, node->in[k]);
        if (a == b || !shape_equal(node->in[k]->shape, out->shape))
            continue;
        if (node->phase == PHASE_UPDATE || !may_change(node->in[k])) {
            l->fixed[a] = l->fixed[b] = true;
            continue;
        }
        int next = l->next[a];
        l->next[a] = l->next[b];
        l->next[b] = next;
        l->root[b] = a;
        l->rows[a] = l->rows[a] || l->rows[b];
        l->fixed[a] = l->fixed[a] || l->fixed[b];
    }
}

static Layout layout_new(Graph *graph) {
    Arena *arena = graph->arena;
    size_t values = (size_t)graph->value_count;
    Layout l = {.graph = graph};
    l.has = arena_alloc(arena, values, sizeof *l.has);
    l.rows = arena_alloc(arena, values, sizeof *l.rows);
    l.fixed = arena_alloc(arena, values, sizeof *l.fixed);
    l.root = arena_alloc(arena, values, sizeof *l.root);
    l.next = arena_alloc(arena, values, sizeof *l.next);
    l.readers = arena_alloc(arena, values, sizeof *l.readers);
    l.queue = arena_alloc(arena, values, sizeof *l.queue);
    int *uses = arena_alloc(arena, values, sizeof *uses);
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            uses[graph->nodes[i]->in[k]->id]++;
    for (int i = 0; i < graph->value_count; i++) {
        l.readers[i] = arena_alloc(arena, (size_t)uses[i] + 1, sizeof **l.readers);
        uses[i] = 0;
        l.root[i] = l.next[i] = i;
        l.rows[i] = graph->values[i]->def != NULL && graph->values[i]->def->op == OP_matmul;
    }
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++) {
            int id = graph->nodes[i]->in[k]->id;
            l.readers[id][uses[id]++] = graph->nodes[i];
        }
    for (int i = 0; i < graph->node_count; i++)
        join(&l, graph->nodes[i]);
    return l;
}

/* --- matmul --- */

/* Whether a node does nothing but swap the last two dimensions. */
static bool swaps_last(const Node *node) {
    if (node == NULL || node->op != OP_transpose)
        return false;
    int count;
    const int64_t *perm = attr_ints(node, "perm", &count);
    for (int i = 0; i < count; i++)
        if (perm[i] != (i < count - 2 ? i : 2 * count - 3 - i))
            return false;
    return count >= 2;
}

static bool flag(const Node *node, int input) {
    return attr_int(node, input == 0 ? "ta" : "tb", 0) != 0;
}

/* All attributes of a matmul, in a list of its own. */
static void set_flags(Node *node, bool ta, bool tb) {
    node->attr_count = 0;
    attr_set(node, ATTR_I("ta", ta));
    attr_set(node, ATTR_I("tb", tb));
}

static void absorb_operands(Node *node) {
    for (int k = 0; k < 2; k++)
        while (swaps_last(node->in[k]->def)) {
            node->in[k] = node->in[k]->def->in[0];
            set_flags(node, flag(node, 0) != (k == 0), flag(node, 1) != (k == 1));
        }
}

/* The transpose becomes the product; what it read is left unused. */
static void absorb_result(const Graph *graph, Node *transpose) {
    const Node *product = transpose->in[0]->def;
    if (!swaps_last(transpose) || product == NULL || product->op != OP_matmul || value_uses(graph, product->out[0]) != 1)
        return;
    transpose->op = OP_matmul;
    transpose->in = arena_alloc(graph->arena, 2, sizeof(Value *));
    transpose->in_count = 2;
    transpose->in[0] = product->in[1];
    transpose->in[1] = product->in[0];
    set_flags(transpose, !flag(product, 1), !flag(product, 0));
}

/* The row operand with `k` elements in place of the last dimension of `shape`. */
static Value *unfolded_rows(Graph *graph, const Node *product, Shape shape, int at) {
    Value *rows = product->in[0];
    shape.dim[shape.rank - 1] = rows->shape.dim[rows->shape.rank - 1];
    while (rows->def != NULL && rows->def->op == OP_reshape)
        rows = rows->def->in[0];
    if (shape_equal(rows->shape, shape))
        return rows;
    graph_insert_at(graph, at);
    graph_set_phase(graph, product->phase);
    Value *unfolded = build(graph, OP_reshape, product, &rows, 1, ATTRS(ATTR_L("shape", shape.rank, shape.dim)));
    graph_insert_at(graph, -1);
    graph_set_phase(graph, PHASE_FORWARD);
    unfolded->def->origin = product->origin;
    unfolded->def->forward = product->forward;
    return unfolded;
}

/* The reshape becomes the product. */
static void absorb_shape(Graph *graph, Node *reshape, int at) {
    const Node *product = reshape->in[0]->def;
    const Value *out = reshape->out[0];
    if (product == NULL || product->op != OP_matmul || value_uses(graph, product->out[0]) != 1 || product->out[0]->shape.rank != 2 ||
        out->shape.rank < 3 || out->shape.dim[out->shape.rank - 1] != product->out[0]->shape.dim[1] || flag(product, 0))
        return;
    bool tb = flag(product, 1);
    Value *rows = unfolded_rows(graph, product, out->shape, at);
    reshape->op = OP_matmul;
    reshape->in = arena_alloc(graph->arena, 2, sizeof(Value *));
    reshape->in_count = 2;
    reshape->in[0] = rows;
    reshape->in[1] = product->in[1];
    reshape->origin = product->origin;
    reshape->forward = product->forward;
    set_flags(reshape, false, tb);
}

static void absorb_shapes(Graph *graph) {
    for (int i = 0; i < graph->node_count; i++) {
        Node *node = graph->nodes[i];
        if (node->op == OP_reshape)
            absorb_shape(graph, node, i);
        while (graph->nodes[i] != node)
            i++;
    }
}

static void absorb_transposes(Graph *graph) {
    for (int i = 0; i < graph->node_count; i++)
        if (graph->nodes[i]->op == OP_transpose)
            absorb_result(graph, graph->nodes[i]);
    for (int i = 0; i < graph->node_count; i++)
        if (graph->nodes[i]->op == OP_matmul)
            absorb_operands(graph->nodes[i]);
}

bool pass_layout(Graph *graph, Diag *diag) {
    absorb_transposes(graph);
    absorb_shapes(graph);
    if (!pass_dce(graph, diag))
        return false;
    Layout l = layout_new(graph);
    for (int i = 0; i < graph->node_count; i++)
        seed_windows(&l, graph->nodes[i]);
    spread_all(&l);
    return true;
}
