/* Lowering of Attention: products, softmax, products. Before: known operands. After: matmul, softmax or masked_softmax. Source: ONNX
 * Operators.md, Attention. */
#include "frontend/importer.h"

#include <math.h>
#include <string.h>

typedef struct {
    Value *q, *k, *v; /* [batch, heads, length, size] */
    bool flat;        /* the operands are [batch, length, heads · size] */
    int64_t past;     /* length of the past keys */
} Heads;

/* [B, S, H·D] to [B, H, S, D]; four dimensions as they are. */
static Value *split_heads(OnnxNode *node, int i, const char *attribute) {
    Shape in = node->in[i]->shape;
    if (in.rank == 4)
        return node_value(node, i);
    int64_t heads = node_attr_int(node, attribute, 0);
    if (in.rank != 3 || heads < 1 || in.dim[2] % heads != 0) {
        node_refuse(node, "operand %d of shape [%s] with '%s' %lld, expected [batch, length, heads x size]", i,
                    shape_text(node->importer->arena, in), attribute, (long long)heads);
        return NULL;
    }
    Value *split = node_reshape(node, node_value(node, i), shape_of(4, (int64_t[]){in.dim[0], in.dim[1], heads, in.dim[2] / heads}));
    return node_transpose(node, split, (int64_t[MAX_RANK]){0, 2, 1, 3});
}

static Value *with_past(OnnxNode *node, int i, Value *value) {
    if (node_in(node, i) == NULL || value == NULL)
        return value;
    return node_emit(node, OP_concat, INPUTS(node_value(node, i), value), ATTRS(ATTR_I("axis", 2)));
}

/* Each key head for as many query heads. */
static Value *for_queries(OnnxNode *node, Value *value, int64_t heads) {
    int64_t own = value != NULL ? value->shape.dim[1] : 1;
    if (value == NULL || own == heads)
        return value;
    if (heads % own != 0) {
        node_refuse(node, "%lld query heads are no multiple of %lld key heads", (long long)heads, (long long)own);
        return NULL;
    }
    int64_t *index = arena_alloc(node->importer->arena, (size_t)heads, sizeof *index);
    for (int64_t h = 0; h < heads; h++)
        index[h] = h / (heads / own);
    return node_take(node, value, 1, heads, index);
}

static bool read_heads(OnnxNode *node, Heads *h) {
    node_attr(node, "softmax_precision"); /* the IR's softmax has one of its own */
    if (!node_check_inputs(node, 3, node->since >= 24 ? 7 : 6))
        return false;
    if (node_in(node, 6) != NULL || (node_in(node, 4) != NULL) != (node_in(node, 5) != NULL))
        return node_refuse(node, "input nonpad_kv_seqlen, or a past key without its value, is not supported");
    h->flat = node->in[0]->shape.rank == 3;
    h->q = split_heads(node, 0, "q_num_heads");
    h->k = with_past(node, 4, split_heads(node, 1, "kv_num_heads"));
    h->v = with_past(node, 5, split_heads(node, 2, "kv_num_heads"));
    node_attr(node, "q_num_heads");
    node_attr(node, "kv_num_heads");
    if (h->q == NULL || h->k == NULL || h->v == NULL)
        return false;
    h->past = node_in(node, 4) != NULL ? node->in[4]->shape.dim[2] : 0;
    if ((node_wants(node, 1) && !node_set(node, 1, h->k)) || (node_wants(node, 2) && !node_set(node, 2, h->v)))
        return false;
    h->k = for_queries(node, h->k, h->q->shape.dim[1]);
    h->v = for_queries(node, h->v, h->q->shape.dim[1]);
    return h->k != NULL && h->v != NULL;
}

/* Queries see keys up to their own place. */
static Value *causal_mask(OnnxNode *node, const Heads *h) {
    int64_t rows = h->q->shape.dim[2], columns = h->k->shape.dim[2];
    int64_t *mask = arena_alloc(node->importer->arena, (size_t)(rows * columns) + 1, sizeof *mask);
    for (int64_t k = 0; k < rows * columns; k++)
        mask[k] = k % columns <= k / columns + h->past;
    return node_const_mask(node, shape_of(2, (int64_t[]){rows, columns}), mask);
}

/* The operand attn_mask as a mask, or added to the scores. */
static bool apply_mask(OnnxNode *node, Value **scores, Value **mask) {
    if (node_in(node, 3) == NULL)
        return true;
    Value *shown = node_shown_by(node, operand_constant(node->importer, node->in[3]));
    if (shown == NULL && node->in[3]->type == ONNX__TENSOR_PROTO__DATA_TYPE__BOOL && (shown = node_mask(node, 3)) == NULL)
        return false;
    if (shown != NULL) {
        *mask = *mask == NULL ? shown : node_emit(node, OP_both, INPUTS(*mask, shown), NO_ATTRS);
        return *mask != NULL;
    }
    *scores = node_emit(node, OP_add, INPUTS(*scores, node_value(node, 3)), NO_ATTRS);
    return *scores != NULL;
}

bool lower_attention(OnnxNode *node) {
    Heads h = {.q = NULL};
    if (!read_heads(node, &h))
        return false;
    double scale = node_attr_real(node, "scale", 1 / sqrt((double)h.q->shape.dim[3])), cap = node_attr_real(node, "softcap", 0);
    int64_t mode = node_attr_int(node, "qk_matmul_output_mode", 0);
    Value *scores = node_emit(node, OP_matmul, INPUTS(h.q, h.k), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 1))), *mask = NULL;
    scores = node_mul_const(node, scores, scale);
    if (mode == 0 && !node_set(node, 3, scores))
        return false;
    if (cap > 0) {
        scores = node_mul_const(node, scores, 1 / cap);
        scores =
            node_mul_const(node, scores == NULL ? NULL : node_emit(node, OP_curve, INPUTS(scores), ATTRS(ATTR_S("function", "tanh"))), cap);
    }
    if (node_attr_int(node, "is_causal", 0) != 0)
        mask = causal_mask(node, &h);
    if ((mode == 1 && !node_set(node, 3, scores)) || scores == NULL || !apply_mask(node, &scores, &mask))
        return false;
    if (mode == 2 && node_wants(node, 3) && (mask != NULL || !node_set(node, 3, scores)))
        return node_refuse(node, "attribute 'qk_matmul_output_mode' 2 with a mask that hides scores is not supported");
    Value *weights = mask == NULL ? node_emit(node, OP_softmax, INPUTS(scores), ATTRS(ATTR_I("axis", 3)))
                                  : node_emit(node, OP_masked_softmax, INPUTS(scores, mask), ATTRS(ATTR_I("axis", 3)));
    if (mode < 0 || mode > 3 || (mode == 3 && !node_set(node, 3, weights)))
        return node_refuse(node, "attribute 'qk_matmul_output_mode' is %lld", (long long)mode);
    Value *y = node_emit(node, OP_matmul, INPUTS(weights, h.v), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 0)));
    if (y == NULL || !h.flat)
        return node_set(node, 0, y);
    Shape four = y->shape;
    y = node_transpose(node, y, (int64_t[MAX_RANK]){0, 2, 1, 3});
    return node_set(node, 0, node_reshape(node, y, shape_of(3, (int64_t[]){four.dim[0], four.dim[2], four.dim[1] * four.dim[3]})));
}
