/* Which attributes each op takes, of which kind and range. Before: a node with its operands. After: nothing else of the compiler meets an
 * attribute of a wrong kind or one that it would ignore. */
#include "ir/functions.h"
#include "ir/text.h"

#include <math.h>
#include <string.h>

typedef enum {
    RANGE_FLAG,
    RANGE_BITS,
    RANGE_COUNT,
    RANGE_POSITIVE,
    RANGE_FRACTION,
    RANGE_PLACES,
    RANGE_DIGITS,
    RANGE_EXPONENT,
    RANGE_ANY,
    RANGE_AXES,
    RANGE_SHAPE,
    RANGE_FUNCTION
} Range;

typedef struct {
    Op op;
    const char *name;
    AttrKind kind;
    bool required;
    Range range; /* integers and lists: BITS 2 to 31, COUNT 0 to 2^31 - 1, POSITIVE from 1, FRACTION 0 to 16, PLACES 0 to 8, DIGITS 1 to 62,
                  * EXPONENT ±1100
                  */
} Rule;

#define WINDOW_RULES(op)                                                                                                                   \
    {op, "strides", ATTR_INTS, true, RANGE_COUNT}, {op, "pads", ATTR_INTS, true, RANGE_COUNT}, {                                           \
        op, "dilations", ATTR_INTS, true, RANGE_COUNT                                                                                      \
    }

/* clang-format off */
static const Rule rules[] = {
    {OP_rescale, "bits", ATTR_INT, true, RANGE_BITS},
    {OP_rescale, "round", ATTR_TEXT, true, RANGE_ANY},
    {OP_rescale, "stream", ATTR_INT, false, RANGE_COUNT},
    {OP_mul_const, "value", ATTR_REAL, true, RANGE_ANY},
    {OP_refine, "places", ATTR_INT, true, RANGE_PLACES},
    {OP_matmul, "ta", ATTR_INT, false, RANGE_FLAG},
    {OP_matmul, "tb", ATTR_INT, false, RANGE_FLAG},
    WINDOW_RULES(OP_conv),
    {OP_conv, "group", ATTR_INT, false, RANGE_COUNT},
    WINDOW_RULES(OP_conv_dgrad),
    {OP_conv_dgrad, "group", ATTR_INT, false, RANGE_COUNT},
    {OP_conv_dgrad, "shape", ATTR_INTS, true, RANGE_SHAPE},
    WINDOW_RULES(OP_conv_wgrad),
    {OP_conv_wgrad, "group", ATTR_INT, false, RANGE_COUNT},
    {OP_conv_wgrad, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_share, "count", ATTR_INT, true, RANGE_POSITIVE},
    {OP_share, "fraction", ATTR_INT, true, RANGE_FRACTION},
    {OP_variance, "count", ATTR_INT, true, RANGE_POSITIVE},
    {OP_variance, "centered", ATTR_INT, true, RANGE_FLAG},
    {OP_rsqrt, "count", ATTR_INT, true, RANGE_POSITIVE},
    {OP_rsqrt, "epsilon", ATTR_REAL, true, RANGE_ANY},
    {OP_inv_sqrt, "epsilon", ATTR_REAL, true, RANGE_ANY},
    {OP_inv_sqrt, "part", ATTR_INT, false, RANGE_COUNT},
    {OP_equalize, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_restore, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_normalize, "centered", ATTR_INT, true, RANGE_FLAG},
    {OP_normalize, "places", ATTR_INT, false, RANGE_PLACES},
    {OP_norm_line, "part", ATTR_INT, true, RANGE_COUNT},
    {OP_norm_line, "count", ATTR_INT, true, RANGE_POSITIVE},
    {OP_norm_line, "places", ATTR_INT, false, RANGE_PLACES},
    {OP_norm_dot, "count", ATTR_INT, true, RANGE_POSITIVE},
    {OP_norm_slope, "part", ATTR_INT, true, RANGE_COUNT},
    {OP_norm_slope, "count", ATTR_INT, true, RANGE_POSITIVE},
    {OP_norm_slope, "centered", ATTR_INT, true, RANGE_FLAG},
    {OP_bias, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_leaky_relu, "alpha", ATTR_REAL, true, RANGE_ANY},
    {OP_leak, "alpha", ATTR_REAL, true, RANGE_ANY},
    {OP_curve, "function", ATTR_TEXT, true, RANGE_FUNCTION},
    {OP_gated, "function", ATTR_TEXT, true, RANGE_FUNCTION},
    {OP_curve_grad, "function", ATTR_TEXT, true, RANGE_FUNCTION},
    {OP_clip, "min", ATTR_REAL, false, RANGE_ANY},
    {OP_clip, "max", ATTR_REAL, false, RANGE_ANY},
    {OP_round, "digits", ATTR_INT, true, RANGE_DIGITS},
    {OP_round, "least", ATTR_INT, true, RANGE_EXPONENT},
    {OP_round, "truncate", ATTR_INT, true, RANGE_FLAG},
    {OP_inside, "min", ATTR_REAL, false, RANGE_ANY},
    {OP_inside, "max", ATTR_REAL, false, RANGE_ANY},
    {OP_random_mask, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_random_mask, "ratio", ATTR_REAL, true, RANGE_ANY},
    {OP_random_mask, "stream", ATTR_INT, true, RANGE_COUNT},
    {OP_random_normal, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_random_normal, "stream", ATTR_INT, true, RANGE_COUNT},
    {OP_reduce_sum, "axes", ATTR_INTS, true, RANGE_AXES},
    {OP_reduce_sum, "keepdims", ATTR_INT, true, RANGE_FLAG},
    {OP_maxpool, "kernel", ATTR_INTS, true, RANGE_COUNT},
    WINDOW_RULES(OP_maxpool),
    {OP_maxpool_grad, "kernel", ATTR_INTS, true, RANGE_COUNT},
    WINDOW_RULES(OP_maxpool_grad),
    {OP_maxpool_grad, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_sumpool, "kernel", ATTR_INTS, true, RANGE_COUNT},
    WINDOW_RULES(OP_sumpool),
    {OP_sumpool_grad, "kernel", ATTR_INTS, true, RANGE_COUNT},
    WINDOW_RULES(OP_sumpool_grad),
    {OP_sumpool_grad, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_reshape, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_transpose, "perm", ATTR_INTS, true, RANGE_COUNT},
    {OP_slice, "starts", ATTR_INTS, true, RANGE_ANY},
    {OP_slice, "steps", ATTR_INTS, true, RANGE_ANY},
    {OP_slice, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_pad, "low", ATTR_INTS, true, RANGE_ANY},
    {OP_pad, "high", ATTR_INTS, true, RANGE_ANY},
    {OP_pad, "interior", ATTR_INTS, true, RANGE_ANY},
    {OP_reverse, "axes", ATTR_INTS, true, RANGE_AXES},
    {OP_broadcast, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_concat, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_gather, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_gather_grad, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_gather_grad, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_places, "sizes", ATTR_INTS, true, RANGE_COUNT},
    {OP_places, "strides", ATTR_INTS, true, RANGE_COUNT},
    {OP_places, "steps", ATTR_INTS, true, RANGE_COUNT},
    {OP_softmax, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_masked_softmax, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_argmax, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_softmax_grad, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_log_softmax, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_log_softmax_grad, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_cross_entropy, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_cross_entropy, "ignore_index", ATTR_INT, false, RANGE_ANY},
    {OP_cross_entropy_grad, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_cross_entropy_grad, "ignore_index", ATTR_INT, false, RANGE_ANY},
    {OP_pick, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_pick, "ignore_index", ATTR_INT, false, RANGE_ANY},
    {OP_pick_grad, "axis", ATTR_INT, true, RANGE_COUNT},
    {OP_pick_grad, "ignore_index", ATTR_INT, false, RANGE_ANY},
    {OP_pick_grad, "shape", ATTR_INTS, true, RANGE_SHAPE},
    {OP_label_weight, "ignore_index", ATTR_INT, false, RANGE_ANY},
    {OP_count_correct, "axis", ATTR_INT, true, RANGE_COUNT},
};
/* clang-format on */

enum { RULES = (int)(sizeof rules / sizeof rules[0]) };

bool shape_valid(int rank, const int64_t *dims) {
    int64_t n = 1;
    if (rank > MAX_RANK)
        return false;
    for (int i = 0; i < rank; i++)
        if (dims[i] < 0 || __builtin_mul_overflow(n, dims[i] == 0 ? 1 : dims[i], &n) || n > TEXT_MAX_ELEMENTS)
            return false;
    return true;
}

static bool refuse(const Node *node, Diag *diag, const char *where, const char *name, const char *problem) {
    diag_error(diag, &node->origin, "%s%s: attribute %s %s", where, op_info(node->op)->name, name, problem);
    return false;
}

static bool check_integer(int64_t x, Range range) {
    switch (range) {
    case RANGE_FLAG:
        return x == 0 || x == 1;
    case RANGE_BITS:
        return x >= 2 && x <= 31;
    case RANGE_COUNT:
        return x >= 0 && x <= INT32_MAX;
    case RANGE_POSITIVE:
        return x >= 1 && x <= INT32_MAX;
    case RANGE_PLACES:
        return x >= 0 && x <= 8;
    case RANGE_FRACTION:
        return x >= 0 && x <= 16;
    case RANGE_DIGITS:
        return x >= 1 && x <= 62;
    case RANGE_EXPONENT:
        return x >= -1100 && x <= 1100;
    default:
        return true;
    }
}

static bool check_list(const Node *node, const Attr *attr, Range range) {
    if (range == RANGE_SHAPE)
        return shape_valid(attr->count, attr->ints);
    bool seen[MAX_RANK] = {false};
    for (int i = 0; i < attr->count; i++) {
        int64_t x = attr->ints[i];
        if (range == RANGE_AXES) {
            if (x < 0 || x >= node->in[0]->shape.rank || seen[x])
                return false;
            seen[x] = true;
        } else if (!check_integer(x, range)) {
            return false;
        }
    }
    return true;
}

static bool check_value(const Node *node, Diag *diag, const char *where, const Rule *rule, const Attr *attr) {
    if (attr->kind != rule->kind)
        return refuse(node, diag, where, rule->name, "has another kind than the operator expects");
    bool good = true;
    if (attr->kind == ATTR_INT)
        good = check_integer(attr->integer, rule->range);
    else if (attr->kind == ATTR_INTS)
        good = check_list(node, attr, rule->range);
    else if (rule->range == RANGE_FUNCTION)
        good = function_find(attr->text) != NULL;
    else if (attr->kind == ATTR_TEXT)
        good = strcmp(attr->text, "nearest") == 0 || strcmp(attr->text, "stochastic") == 0;
    else if (strcmp(attr->name, "ratio") == 0)
        good = attr->real >= 0 && attr->real <= 1;
    else if (strcmp(attr->name, "alpha") == 0)
        good = fabs(attr->real) <= 65536;
    else if (strcmp(attr->name, "epsilon") == 0)
        good = attr->real >= 0 && attr->real <= 1024;
    else if (strcmp(attr->name, "value") == 0)
        good = isfinite(attr->real);
    else if (node->op == OP_clip) /* the range holds 0: no magnitude grows, so that the bound stays the operand's */
        good = strcmp(attr->name, "min") == 0 ? attr->real <= 0 : attr->real >= 0;
    else
        good = !isnan(attr->real);
    return good || refuse(node, diag, where, rule->name, "is out of range");
}

bool node_check_attrs(const Node *node, Diag *diag, const char *where) {
    bool good = true;
    for (int i = 0; i < node->attr_count; i++) {
        const Attr *attr = &node->attrs[i];
        const Rule *rule = NULL;
        for (int k = 0; k < RULES && rule == NULL; k++)
            if (rules[k].op == node->op && strcmp(rules[k].name, attr->name) == 0)
                rule = &rules[k];
        if (rule == NULL)
            good = refuse(node, diag, where, attr->name, "is not known");
        else
            good = check_value(node, diag, where, rule, attr) && good;
    }
    for (int k = 0; k < RULES; k++)
        if (rules[k].op == node->op && rules[k].required && attr_find(node, rules[k].name) == NULL)
            good = refuse(node, diag, where, rules[k].name, "is missing");
    if (good && node->op == OP_rescale && strcmp(attr_text(node, "round", "nearest"), "stochastic") == 0) {
        if (attr_find(node, "stream") == NULL)
            good = refuse(node, diag, where, "stream", "is missing: stochastic rounding needs it");
        else if (node->in_count == 2)
            good = refuse(node, diag, where, "round", "is stochastic, but a fixed exponent rounds to nearest");
    }
    return good;
}
