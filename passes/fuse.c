/* Groups of pointwise nodes that run as one kernel. Before: STAGE_SCALED, layout done, dead code dropped. After: fused_into of a grouped
 * node is the root whose kernel evaluates it; its value is never stored and has that root's group as its only reader.
 *
 * A pointwise node joins the group of its reader if that is its one use and the reader walks the same index space: a pointwise node or
 * rescale of the same shape and phase, or a reduce_sum over it. (Across phases the wide operands of a mask would live on until the backward
 * pass.) Rescale and reduce_sum are roots; a rescale reads its operands element by element at the index that it writes, so that an update
 * in place stays valid. A convolution (or the gradient to its input) joins the rescale that rounds it if nothing else reads it and images
 * are outermost in memory: its wide sums are then rounded image by image while they are near, and never stored as a whole; so is a large
 * matmul, run by run of its rows, for targets that multiply fast (`matmul_products`). A mask of
 * what the group of a rescale computes is stored by that kernel (`beside`), and what has more places than the rescale gives. Of two sums
 * over the same elements the first one's kernel computes both. Elsewhere a
 * cheap node that a mask reads besides one other reader is copied for the mask: the wide value is then computed twice and stored never. */
#include "passes/passes.h"

enum { GROUP_MOST = 16, COPY_MOST = 4, PRODUCTS_MOST = 1000, MATMUL_LEAST = 64 * 1024, ROWS_LEAST = 64 };

typedef struct {
    Graph *graph;
    int64_t matmul_products; /* matmuls of as many an element are rounded near, too */
    int values;              /* counted ones: copies come behind them */
    int *uses;               /* by value id */
    Node **reader;           /* by value id: one of the readers */
} Fuse;

static bool is_mask(const Node *node) {
    return node->op == OP_positive || node->op == OP_inside;
}

static bool is_pointwise(const Node *node) {
    return node->out_count == 1 && op_info(node->op)->kind == KIND_POINTWISE;
}

static void count_uses(Fuse *f) {
    Graph *graph = f->graph;
    f->values = graph->value_count;
    f->uses = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof(int));
    f->reader = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof(Node *));
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++) {
            f->uses[graph->nodes[i]->in[k]->id]++;
            f->reader[graph->nodes[i]->in[k]->id] = graph->nodes[i];
        }
    for (int i = 0; i < graph->output_count; i++)
        f->uses[graph->outputs[i].value->id]++;
    for (int i = 0; i < graph->update_count; i++)
        f->uses[graph->updates[i].next->id]++;
}

static bool is_next(const Graph *graph, const Value *value) {
    for (int i = 0; i < graph->update_count; i++)
        if (graph->updates[i].next == value)
            return true;
    return false;
}

/* Whether the reader can evaluate `value` at each index of its own walk. */
static bool same_space(const Node *reader, const Value *value) {
    OpKind kind = op_info(reader->op)->kind;
    if (reader->op == OP_reduce_sum)
        return true;
    return (kind == KIND_POINTWISE || reader->op == OP_rescale) && shape_equal(reader->out[0]->shape, value->shape) &&
           order_equal(reader->out[0], value);
}

/* Copies the pointwise chain that computes value, as long as each link has this one reader; *room counts the nodes left. */
static Value *copy_chain(Fuse *f, Value *value, int at, int *room) {
    const Node *node = value->def;
    Graph *graph = f->graph;
    (*room)--;
    Value **in = arena_alloc(graph->arena, (size_t)node->in_count, sizeof(Value *));
    int before = graph->node_count;
    for (int k = 0; k < node->in_count; k++) {
        Value *x = node->in[k];
        bool link = *room > 0 && x->id < f->values && x->def != NULL && is_pointwise(x->def) && x->def->beside == NULL &&
                    f->uses[x->id] == 1 && same_space(node, x);
        in[k] = link ? copy_chain(f, x, at + graph->node_count - before, room) : x;
    }
    graph_insert_at(graph, at + graph->node_count - before);
    graph_set_phase(graph, node->phase);
    Value *copy = build(graph, node->op, node, in, node->in_count, node->attrs, node->attr_count);
    graph_insert_at(graph, -1);
    graph_set_phase(graph, PHASE_FORWARD);
    copy->def->origin = node->origin;
    copy->def->forward = node->forward;
    for (int i = 0; i < MAX_RANK; i++)
        copy->order[i] = value->order[i];
    return copy;
}

/* The reader of x besides the mask that can evaluate x itself; NULL: x is stored for it anyway. */
static Node *other_reader(const Graph *graph, const Value *x, const Node *mask) {
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++) {
            Node *reader = graph->nodes[i];
            if (reader->in[k] == x && reader != mask)
                return same_space(reader, x) && reader->phase == x->def->phase ? reader : NULL;
        }
    return NULL;
}

/* x with two readers, a mask and another: the mask gets a copy of its own. */
static void split_masks(Fuse *f) {
    Graph *graph = f->graph;
    for (int i = 0; i < graph->node_count; i++) {
        Node *mask = graph->nodes[i];
        if (!is_mask(mask) || mask->in[0]->id >= f->values)
            continue;
        Value *x = mask->in[0];
        if (x->def == NULL || !is_pointwise(x->def) || f->uses[x->id] != 2 || !same_space(mask, x) || other_reader(graph, x, mask) == NULL)
            continue;
        int room = COPY_MOST, before = graph->node_count;
        mask->in[0] = copy_chain(f, x, i, &room);
        i += graph->node_count - before;
    }
}

/* Whether a matmul has sums that do not stay near as a whole, row by row, and enough rows for runs of them. */
static bool has_runs(const Node *node) {
    const Value *out = node->out[0];
    if (node->op != OP_matmul || !order_is_row_major(out) || shape_elements(out->shape) < MATMUL_LEAST)
        return false;
    return shape_elements(out->shape) / out->shape.dim[out->shape.rank - 1] >= ROWS_LEAST;
}

/* Whether a node's value can be a contraction that its root rounds part by part: one a root, not into the place of a state, and of few
 * products, since where the shift is not as expected they are repeated. */
static bool rounds_parts(const Fuse *f, const Node *node, const Node *root, const bool *taken) {
    const Value *out = root->out[0];
    bool parts = node->op == OP_conv || node->op == OP_conv_dgrad || (has_runs(node) && contract_terms(node) <= f->matmul_products);
    return parts && root->op == OP_rescale && !taken[root->id] && out->order[0] == 0 && shape_equal(out->shape, node->out[0]->shape) &&
           !is_next(f->graph, out) && contract_terms(node) <= PRODUCTS_MOST;
}

/* Position of the first reader of a value. */
static int first_read(const Graph *graph, const Value *value) {
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            if (graph->nodes[i]->in[k] == value)
                return i;
    return graph->node_count;
}

static int position(const Graph *graph, const Node *node) {
    int i = 0;
    while (graph->nodes[i] != node)
        i++;
    return i;
}

/* The rescale whose group a node belongs to if every link has one reader; NULL: none. */
static Node *rounding_of(const Fuse *f, Node *node) {
    while (is_pointwise(node) && f->uses[node->out[0]->id] == 1 && f->reader[node->out[0]->id] != NULL) {
        Node *reader = f->reader[node->out[0]->id];
        if (!same_space(reader, node->out[0]) || reader->phase != node->phase)
            return NULL;
        node = reader;
    }
    return node->op == OP_rescale ? node : NULL;
}

/* The mask is no reader of its own. */
static void hide(Fuse *f, const Node *mask) {
    f->uses[mask->in[0]->id] = 1;
    f->reader[mask->in[0]->id] = other_reader(f->graph, mask->in[0], mask);
}

/* Nor is what has more places. */
static void hide_finer(Fuse *f, const Node *node) {
    f->uses[node->in[0]->id]--;
    f->reader[node->in[0]->id] = node->beside;
    f->uses[node->in[1]->id]--;
}

static void hide_besides(Fuse *f) {
    for (int i = 0; i < f->graph->node_count; i++) {
        const Node *node = f->graph->nodes[i];
        if (node->beside != NULL && node->op == OP_refine)
            hide_finer(f, node);
        else if (node->beside != NULL)
            hide(f, node);
    }
}

/* Masks of values that the kernel of a rescale computes anyway. */
static void attach_masks(Fuse *f) {
    Graph *graph = f->graph;
    for (int i = 0; i < graph->node_count; i++) {
        Node *mask = graph->nodes[i];
        const Value *x = is_mask(mask) ? mask->in[0] : NULL;
        if (x == NULL || x->def == NULL || !is_pointwise(x->def) || f->uses[x->id] != 2 || !same_space(mask, x))
            continue;
        Node *reader = other_reader(graph, x, mask), *root = reader != NULL ? rounding_of(f, reader) : NULL;
        if (root == NULL || root->phase != mask->phase || is_next(graph, root->out[0]) || !same_space(root, mask->out[0]) ||
            first_read(graph, mask->out[0]) <= position(graph, root))
            continue;
        mask->beside = root;
        hide(f, mask);
    }
}

/* What has more places than a rescale gives is rounded by its kernel. */
static void attach_finer(Fuse *f) {
    Graph *graph = f->graph;
    for (int i = 0; i < graph->node_count; i++) {
        Node *node = graph->nodes[i], *root = node->op == OP_refine ? node->in[1]->def : NULL;
        node->beside = NULL;
        if (root == NULL || root->op != OP_rescale || root->in_count != 1 || root->in[0] != node->in[0] || root->phase != node->phase ||
            is_next(graph, root->out[0]) || !same_space(root, node->out[0]) || first_read(graph, node->out[0]) <= position(graph, root))
            continue;
        node->beside = root;
        hide_finer(f, node);
    }
}

/* A group that became too large does not compute the value of its mask: whether there was one. */
static bool detach_masks(Fuse *f) {
    bool any = false;
    for (int i = 0; i < f->graph->node_count; i++) {
        Node *mask = f->graph->nodes[i];
        if (mask->beside == NULL || mask->op == OP_refine || mask->in[0]->def->fused_into == mask->beside)
            continue;
        mask->beside = NULL;
        f->uses[mask->in[0]->id] = 2;
        any = true;
    }
    return any;
}

static void group(Fuse *f) {
    Graph *graph = f->graph;
    int *size = arena_alloc(graph->arena, (size_t)graph->next_node + 1, sizeof(int));
    bool *taken = arena_alloc(graph->arena, (size_t)graph->next_node + 1, sizeof(bool));
    for (int i = graph->node_count - 1; i >= 0; i--) {
        Node *node = graph->nodes[i];
        node->fused_into = NULL;
        size[node->id] = 1;
        const Value *out = node->out[0];
        if (node->beside != NULL || f->uses[out->id] != 1 || f->reader[out->id] == NULL)
            continue;
        Node *reader = f->reader[out->id];
        Node *root = reader->fused_into != NULL ? reader->fused_into : reader;
        bool parts = rounds_parts(f, node, root, taken);
        if (!(is_pointwise(node) || parts) || !same_space(reader, out) || node->phase != reader->phase || size[root->id] >= GROUP_MOST)
            continue;
        node->fused_into = root;
        size[root->id]++;
        taken[root->id] = taken[root->id] || parts;
    }
}

/* --- two sums at once --- */

static bool same_sums(const Node *a, const Node *b) {
    return a->op == OP_reduce_sum && b->op == OP_reduce_sum && a->phase == b->phase && attr_ints_equal(a, b, "axes") &&
           attr_int(a, "keepdims", 1) == attr_int(b, "keepdims", 1) && shape_equal(a->in[0]->shape, b->in[0]->shape) &&
           order_equal(a->in[0], b->in[0]) && order_equal(a->out[0], b->out[0]);
}

static bool group_reads(const Graph *graph, const Node *root, const Value *value) {
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            if (graph->nodes[i]->in[k] == value && (graph->nodes[i] == root || graph->nodes[i]->fused_into == root))
                return true;
    return false;
}

/* Whether the group of `later` loads a value of all elements that the group of `root` loads too, and nothing that is not there before it.
 */
static bool can_join(const Graph *graph, const Node *later, const Node *root, int at) {
    bool shares = false;
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        for (int k = 0; k < node->in_count && (node == later || node->fused_into == later); k++) {
            const Value *in = node->in[k];
            if (in->def != NULL && in->def->fused_into == later)
                continue;
            const Node *from = in->def != NULL && in->def->beside != NULL ? in->def->beside : in->def;
            if (from != NULL && position(graph, from) >= at)
                return false;
            shares = shares || (shape_equal(in->shape, root->in[0]->shape) && group_reads(graph, root, in));
        }
    }
    return shares;
}

static void pair_sums(const Graph *graph) {
    for (int i = 0; i < graph->node_count; i++) {
        Node *root = graph->nodes[i], *found = NULL;
        for (int k = i + 1; k < graph->node_count && root->beside == NULL && root->op == OP_reduce_sum && found == NULL; k++)
            if (graph->nodes[k]->beside == NULL && same_sums(graph->nodes[k], root) && can_join(graph, graph->nodes[k], root, i))
                found = graph->nodes[k];
        if (found != NULL)
            found->beside = root;
    }
}

bool pass_fuse(Graph *graph, int64_t matmul_products, Diag *diag) {
    (void)diag;
    Fuse f = {.graph = graph, .matmul_products = matmul_products};
    count_uses(&f);
    attach_finer(&f);
    attach_masks(&f);
    do
        group(&f);
    while (detach_masks(&f));
    split_masks(&f);
    count_uses(&f);
    hide_besides(&f);
    group(&f);
    pair_sums(graph);
    return true;
}
