/* Whether an exported model may take any number of rows. Before: the inference graph, whose sizes are those of one batch. After: true if
 * every row of every prediction depends on the same row of the inputs alone and no operator needs to know how many there are. */
#include "frontend/export.h"

static bool lists(const Node *node, const char *name, int64_t wanted) {
    int count;
    const int64_t *values = attr_ints(node, name, &count);
    for (int i = 0; i < count; i++)
        if (values[i] == wanted)
            return true;
    return false;
}

static int64_t first(const Node *node, const char *name) {
    int count;
    const int64_t *values = attr_ints(node, name, &count);
    return count > 0 ? values[0] : -1;
}

/* Operands that are no data must be the same for every row. */
static bool pointwise_rows(const Node *node, const bool *data) {
    const Shape *out = &node->out[0]->shape;
    for (int i = 0; i < node->in_count; i++) {
        const Shape *in = &node->in[i]->shape;
        if (data[node->in[i]->id] ? in->rank != out->rank : in->rank == out->rank && in->dim[0] != 1)
            return false;
    }
    return true;
}

static bool matmul_rows(const Node *node, const bool *data) {
    const Shape *a = &node->in[0]->shape, *b = &node->in[1]->shape;
    if (!data[node->in[0]->id])
        return b->rank >= 3 && (a->rank < b->rank || a->dim[0] == 1);
    if (!data[node->in[1]->id])
        return a->rank == 2 ? b->rank == 2 && attr_int(node, "ta", 0) == 0 : b->rank < a->rank || b->dim[0] == 1;
    return a->rank >= 3 && a->rank == b->rank;
}

/* Inputs that are data have the rows in dimension 0; so does the output. */
static bool node_keeps_rows(const Node *node, const bool *data) {
    switch (node->op) {
    case OP_matmul:
        return matmul_rows(node, data);
    case OP_conv:
    case OP_conv_dgrad:
        return !data[node->in[1]->id];
    case OP_bias:
    case OP_restore:
        return !data[node->in[1]->id] && attr_int(node, "axis", 1) != 0;
    case OP_add:
    case OP_sub:
    case OP_mul:
    case OP_div:
    case OP_gate:
    case OP_both:
    case OP_differ:
    case OP_variance:
    case OP_normalize:
        return pointwise_rows(node, data);
    case OP_masked_softmax:
        return attr_int(node, "axis", 0) != 0 && pointwise_rows(node, data);
    case OP_concat:
        for (int i = 0; i < node->in_count; i++)
            if (!data[node->in[i]->id])
                return false;
        return attr_int(node, "axis", 0) != 0;
    case OP_gather: /* data from fixed places, or fixed rows at places that are data */
        return data[node->in[1]->id] ? !data[node->in[0]->id] && attr_int(node, "axis", 0) == 0 : attr_int(node, "axis", 0) != 0;
    case OP_transpose:
        return first(node, "perm") == 0;
    case OP_slice:
        return first(node, "starts") == 0 && first(node, "steps") == 1;
    case OP_pad:
        return first(node, "low") == 0 && first(node, "high") == 0;
    case OP_broadcast:
        return node->in[0]->shape.rank == node->out[0]->shape.rank;
    case OP_reverse:
    case OP_reduce_sum:
        return !lists(node, "axes", 0);
    case OP_softmax:
    case OP_log_softmax:
    case OP_argmax:
    case OP_pick:
        return attr_int(node, "axis", 0) != 0;
    case OP_reshape:
    case OP_rescale:
    case OP_mul_const:
    case OP_neg:
    case OP_relu:
    case OP_leaky_relu:
    case OP_clip:
    case OP_positive:
    case OP_curve:
    case OP_gated:
    case OP_abs:
    case OP_exp:
    case OP_log:
    case OP_sqrt:
    case OP_share:
    case OP_rsqrt:
    case OP_maxpool:
    case OP_sumpool:
        return true;
    default:
        return false;
    }
}

bool ex_find_rows(Exporter *x) {
    const Graph *graph = x->graph;
    const bool *needed = graph_reaching(graph, ROLE_PREDICTION);
    int64_t rows = -1;
    x->data = graph_depending(graph, VALUE_INPUT);
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        if (!needed[i] || !x->data[i])
            continue;
        rows = rows < 0 && value->shape.rank > 0 ? value->shape.dim[0] : rows;
        if (value->shape.rank == 0 || value->shape.dim[0] != rows || shape_elements(value->shape) == 0)
            return false;
        if (value->kind == VALUE_NODE && !node_keeps_rows(value->def, x->data))
            return false;
    }
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_PREDICTION && !x->data[graph->outputs[i].value->id])
            return false;
    return rows > 0;
}
