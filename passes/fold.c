/* Small rewrites that change no result: constant folding, moves that move nothing, chains of moves, broadcasts that a pointwise reader does
 * itself, sums of slices put back in their places, rescales of what is narrow already. Before: any stage from STAGE_LOWERED. After: the
 * same stage; replaced nodes are left for dce.
 */
#include "passes/passes.h"

enum { FOLD_MOST = 4096, MOST_PARTS = 64 };

/* Makes every use of the node's output read `by`; a named output hands its name on. */
static bool replace(Graph *graph, const Node *node, Value *by) {
    Value *old = node->out[0];
    graph_replace(graph, old, by, 0);
    if (old->onnx_name != NULL && by->onnx_name == NULL && by->kind == VALUE_NODE)
        by->onnx_name = old->onnx_name;
    return true;
}

/* A new node at `at`, as `node` is. */
static Value *insert(Graph *graph, const Node *node, int at, Op op, Value *const *in, int in_count, const Attr *attrs, int attr_count) {
    graph_insert_at(graph, at);
    graph_set_phase(graph, node->phase);
    Value *out = build(graph, op, node, in, in_count, attrs, attr_count);
    graph_insert_at(graph, -1);
    graph_set_phase(graph, PHASE_FORWARD);
    out->def->origin = node->origin;
    out->def->forward = node->forward;
    return out;
}

/* Puts a new node where `node` stands. */
static bool substitute(Graph *graph, const Node *node, int at, Op op, Value *const *in, int in_count, const Attr *attrs, int attr_count) {
    return replace(graph, node, insert(graph, node, at, op, in, in_count, attrs, attr_count));
}

/* --- constant folding --- */

static bool foldable(const Graph *graph, const Node *node) {
    if (graph->stage >= STAGE_SCALED || node->in_count == 0 || node->out_count != 1 || node->out[0]->integer)
        return false;
    int64_t most = FOLD_MOST;
    for (int k = 0; k < node->in_count; k++) {
        const Value *in = node->in[k];
        if (in->kind != VALUE_CONST || in->integer || in->real == NULL)
            return false;
        int64_t n = shape_elements(in->shape);
        most = n > most ? n : most;
    }
    return shape_elements(node->out[0]->shape) <= most;
}

/* Evaluates the node on its constants, by the interpreter. */
static bool fold_constant(Graph *graph, const Node *node) {
    Graph *alone = graph_new(graph->arena, "fold");
    Value **in = arena_alloc(graph->arena, (size_t)node->in_count, sizeof(Value *));
    for (int k = 0; k < node->in_count; k++)
        in[k] = graph_const(alone, NULL, node->in[k]->shape, node->in[k]->real);
    Value *out = build(alone, node->op, node, in, node->in_count, node->attrs, node->attr_count);
    Eval *eval = eval_new(alone, EVAL_REAL);
    eval_nodes(eval);
    Value *constant = graph_const(graph, NULL, out->shape, eval->tensors[out->id].real);
    eval_free(eval);
    return replace(graph, node, constant);
}

/* --- identities --- */

static bool all_equal(const Node *node, const char *name, int64_t expected) {
    int count;
    const int64_t *list = attr_ints(node, name, &count);
    for (int i = 0; i < count; i++)
        if (list[i] != expected)
            return false;
    return true;
}

/* Whether a transpose moves only dimensions of one element. */
static bool keeps_order(const Node *node) {
    int count;
    const int64_t *perm = attr_ints(node, "perm", &count);
    int64_t previous = -1;
    for (int i = 0; i < count; i++) {
        if (node->in[0]->shape.dim[perm[i]] == 1)
            continue;
        if (perm[i] < previous)
            return false;
        previous = perm[i];
    }
    return true;
}

static bool reverses_nothing(const Node *node) {
    int count;
    const int64_t *axes = attr_ints(node, "axes", &count);
    for (int i = 0; i < count; i++)
        if (node->in[0]->shape.dim[axes[i]] > 1)
            return false;
    return true;
}

static bool is_identity(const Node *node) {
    bool same = node->in_count > 0 && shape_equal(node->in[0]->shape, node->out[0]->shape);
    switch (node->op) {
    case OP_reshape:
    case OP_broadcast:
        return same;
    case OP_concat:
        return node->in_count == 1;
    case OP_reduce_sum:
        return same && shape_elements(node->in[0]->shape) == shape_elements(node->out[0]->shape);
    case OP_transpose:
        return same && keeps_order(node);
    case OP_slice:
        return same && all_equal(node, "starts", 0);
    case OP_pad:
        return same;
    case OP_reverse:
        return reverses_nothing(node);
    case OP_mul_const:
        return attr_real(node, "value", 1.0) == 1.0;
    default:
        return false;
    }
}

/* An identity at STAGE_SCALED must also keep the type: readers were chosen by it. */
static bool same_width(const Graph *graph, const Value *a, const Value *b) {
    return graph->stage < STAGE_SCALED || (a->type == b->type && a->bound == b->bound && a->exponent_kind == b->exponent_kind);
}

/* Moves and sums that only drop or add dimensions of one element. */
static bool is_reshape(const Node *node) {
    if (node->op == OP_transpose)
        return keeps_order(node);
    return (node->op == OP_reduce_sum || node->op == OP_broadcast) &&
           shape_elements(node->in[0]->shape) == shape_elements(node->out[0]->shape);
}

/* --- pairs --- */

static bool is_op(const Value *value, Op op) {
    return value->def != NULL && value->def->op == op;
}

static bool fold_pair(Graph *graph, const Node *node, int at) {
    if (node->in_count == 0 || node->in[0]->def == NULL)
        return false;
    const Node *first = node->in[0]->def;
    if (node->op == OP_reshape && first->op == OP_reshape)
        return substitute(graph, node, at, OP_reshape, first->in, 1, node->attrs, node->attr_count);
    if (node->op == OP_neg && first->op == OP_neg && same_width(graph, first->in[0], node->out[0]))
        return replace(graph, node, first->in[0]);
    if (node->op == OP_transpose && first->op == OP_transpose) {
        int count;
        const int64_t *outer = attr_ints(node, "perm", &count), *inner = attr_ints(first, "perm", &count);
        int64_t perm[MAX_RANK] = {0};
        for (int i = 0; i < count; i++)
            perm[i] = inner[outer[i]];
        return substitute(graph, node, at, OP_transpose, first->in, 1, ATTRS(ATTR_L("perm", count, perm)));
    }
    if (node->op == OP_mul_const && first->op == OP_mul_const && graph->stage < STAGE_SCALED && value_uses(graph, node->in[0]) == 1) {
        double value = attr_real(node, "value", 1.0) * attr_real(first, "value", 1.0);
        return substitute(graph, node, at, OP_mul_const, first->in, 1, ATTRS(ATTR_R("value", value)));
    }
    return false;
}

/* The axis along which alone a pad, which has one reader, puts zeros; -1: no such pad. */
static int padded_axis(const Graph *graph, const Value *value) {
    int count, axis = -1;
    if (!is_op(value, OP_pad) || !all_equal(value->def, "interior", 0) || value_uses(graph, value) != 1)
        return -1;
    const int64_t *low = attr_ints(value->def, "low", &count), *high = attr_ints(value->def, "high", &count);
    for (int d = 0; d < count; d++) {
        if (low[d] == 0 && high[d] == 0)
            continue;
        if (axis >= 0)
            return -1;
        axis = d;
    }
    return axis;
}

/* Appends what a pad places: of a concat along the axis, which has no other reader, its parts. */
static int add_parts(const Graph *graph, const Value *pad, int axis, Value **parts, int count) {
    Value *in = pad->def->in[0];
    bool joined = is_op(in, OP_concat) && attr_int(in->def, "axis", 0) == axis && value_uses(graph, in) == 1;
    for (int k = 0; k < (joined ? in->def->in_count : 1) && count < MOST_PARTS; k++)
        parts[count++] = joined ? in->def->in[k] : in;
    return count;
}

/* A sum of two parts that lie side by side among zeros, as the gradients of slices of one tensor are, joins them. */
static bool fold_parts(Graph *graph, const Node *node, int at) {
    if (node->op != OP_add || graph->stage >= STAGE_SCALED || node->in[0] == node->in[1])
        return false;
    int axis = padded_axis(graph, node->in[0]), rank = node->out[0]->shape.rank, count = 0, dims;
    if (axis < 0 || padded_axis(graph, node->in[1]) != axis)
        return false;
    bool swapped = attr_ints(node->in[0]->def, "low", &dims)[axis] > attr_ints(node->in[1]->def, "low", &dims)[axis];
    const Value *first = node->in[swapped], *second = node->in[!swapped];
    const int64_t *low = attr_ints(first->def, "low", &dims), *high = attr_ints(second->def, "high", &dims);
    if (low[axis] + first->def->in[0]->shape.dim[axis] != attr_ints(second->def, "low", &dims)[axis])
        return false;
    Value *parts[MOST_PARTS];
    count = add_parts(graph, second, axis, parts, add_parts(graph, first, axis, parts, 0));
    if (count == MOST_PARTS)
        return false;
    Value *whole = insert(graph, node, at, OP_concat, parts, count, ATTRS(ATTR_I("axis", axis)));
    if (low[axis] == 0 && high[axis] == 0)
        return replace(graph, node, whole);
    int64_t none[MAX_RANK] = {0};
    return substitute(graph, node, at + 1, OP_pad, &whole, 1,
                      ATTRS(ATTR_L("low", rank, low), ATTR_L("high", rank, high), ATTR_L("interior", rank, none)));
}

/* A pointwise node broadcasts its operands itself, as long as another operand has the full shape. */
static bool fold_broadcast(const Graph *graph, Node *node) {
    bool takes = node->op == OP_add || node->op == OP_sub || node->op == OP_mul || node->op == OP_div;
    if (graph->stage >= STAGE_SCALED || (!takes && node->op != OP_gate))
        return false;
    for (int k = 0; k < node->in_count; k++) {
        const Value *other = node->in[1 - k];
        if (is_op(node->in[k], OP_broadcast) && shape_equal(other->shape, node->out[0]->shape)) {
            node->in[k] = node->in[k]->def->in[0];
            return true;
        }
    }
    return false;
}

/* A rescale of what is narrow enough changes no value. (A zero tensor keeps its exponent instead of the least one.) */
static bool fold_rescale(Graph *graph, const Node *node) {
    if (node->op != OP_rescale || node->in_count != 1 || node->in[0]->integer)
        return false;
    int64_t top = ((int64_t)1 << (attr_int(node, "bits", 8) - 1)) - 1;
    return node->in[0]->bound <= top && type_bytes(node->in[0]->type) <= type_bytes(node->out[0]->type) &&
           replace(graph, node, node->in[0]);
}

bool pass_fold(Graph *graph, Diag *diag) {
    (void)diag;
    for (int i = 0; i < graph->node_count; i++) {
        Node *node = graph->nodes[i];
        if (value_uses(graph, node->out[0]) == 0)
            continue;
        int before = graph->node_count;
        if (foldable(graph, node))
            fold_constant(graph, node);
        else if (is_identity(node) && same_width(graph, node->in[0], node->out[0]))
            replace(graph, node, node->in[0]);
        else if (is_reshape(node) && same_width(graph, node->in[0], node->out[0])) {
            const Shape shape = node->out[0]->shape;
            substitute(graph, node, i, OP_reshape, node->in, 1, ATTRS(ATTR_L("shape", shape.rank, shape.dim)));
        } else if (!fold_pair(graph, node, i) && !fold_parts(graph, node, i) && !fold_broadcast(graph, node))
            fold_rescale(graph, node);
        /* Look again at what took this node's place. */
        if (graph->node_count > before)
            i--;
    }
    return true;
}
