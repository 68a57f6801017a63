/* Values that are never negative, by what computes them: their mantissas, and those of every rounding of them. For kernels that take one
 * unsigned operand. */
#include "ir/ir.h"

#include <string.h>

enum { DEPTH = 16 };

static bool never_negative(const Value *value, int depth);

static bool all_operands(const Node *node, int depth) {
    for (int i = 0; i < node->in_count; i++)
        if (!never_negative(node->in[i], depth))
            return false;
    return true;
}

static bool is_square(const Node *node) {
    return node->op == OP_mul && node->in[0] == node->in[1];
}

static bool curve_is_positive(const Node *node) {
    const char *function = attr_text(node, "function", "");
    return strcmp(function, "sigmoid") == 0 || strcmp(function, "hard_sigmoid") == 0 || strcmp(function, "softplus_tail") == 0;
}

static bool never_negative(const Value *value, int depth) {
    if (value->kind != VALUE_NODE || depth == 0)
        return false;
    const Node *node = value->def;
    switch (node->op) {
    case OP_relu:
    case OP_abs:
    case OP_exp:
    case OP_sqrt:
    case OP_softmax:
    case OP_masked_softmax:
    case OP_positive:
    case OP_inside:
    case OP_random_mask:
        return true;
    case OP_clip:
        return attr_find(node, "min") != NULL && attr_real(node, "min", 0) >= 0;
    case OP_curve:
        return curve_is_positive(node);
    case OP_mul_const:
        return attr_real(node, "value", 0) >= 0 && never_negative(node->in[0], depth - 1);
    case OP_mul:
        return is_square(node) || all_operands(node, depth / 2);
    case OP_add:
    case OP_concat:
        return all_operands(node, depth / 2);
    case OP_rescale:
    case OP_round:
    case OP_gate:
    case OP_maxpool:
    case OP_sumpool:
    case OP_reduce_sum:
    case OP_reshape:
    case OP_transpose:
    case OP_slice:
    case OP_pad:
    case OP_reverse:
    case OP_broadcast:
    case OP_gather:
        return never_negative(node->in[0], depth - 1);
    default:
        return false;
    }
}

bool value_never_negative(const Value *value) {
    return never_negative(value, DEPTH);
}
