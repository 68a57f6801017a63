/* Widths and exponent rules: bounds of mantissas, types, and the constants of the exponent rules, as docs/operators.md states them.
 * Before: the inputs of the node have types and bounds. After node_infer_width the outputs have theirs. */
#include "ir/infer.h"
#include "ir/ir.h"
#include "ir/tables.h"
#include "runtime/fixed.h"

#include <string.h>

static int64_t product(int64_t a, int64_t b) {
    int64_t p;
    return __builtin_mul_overflow(a, b, &p) ? INT64_MAX : p;
}

int64_t bound_same(const Node *node) {
    return node->in[0]->bound;
}

/* Rounding may reach the next power of two; what a bound of 2^62 holds is one already. */
int64_t bound_rounded(const Node *node) {
    int64_t bound = node->in[0]->bound;
    return bound <= 0 || bound > (int64_t)1 << 62 ? bound : (int64_t)1 << intc_bit_length((uint64_t)(bound - 1));
}

int64_t bound_rescale(const Node *node) {
    int64_t top = (int64_t)1 << (attr_int(node, "bits", 8) - 1);
    return node->in_count == 2 ? top : top - 1;
}

/* What rounds to a mantissa is at most half a unit away. */
int64_t bound_refined(const Node *node) {
    int64_t places = attr_int(node, "places", 0);
    return product(node->in[1]->bound, (int64_t)1 << places) + ((int64_t)1 << places >> 1);
}

int64_t bound_constant(const Node *node) {
    int64_t mantissa;
    int exponent;
    real_to_fixed(attr_real(node, "value", 1.0), &mantissa, &exponent);
    return product(node->in[0]->bound, mantissa < 0 ? -mantissa : mantissa);
}

int64_t contract_terms(const Node *node) {
    const Value *a = node->in[0], *b = node->in[1];
    int64_t k = 1;
    switch (node->op) {
    case OP_matmul:
        return a->shape.dim[a->shape.rank - (attr_int(node, "ta", 0) ? 2 : 1)];
    case OP_conv:
        for (int i = 1; i < b->shape.rank; i++)
            k *= b->shape.dim[i];
        return k;
    case OP_conv_dgrad:
        k = b->shape.dim[0] / attr_int(node, "group", 1);
        for (int i = 2; i < b->shape.rank; i++)
            k *= b->shape.dim[i];
        return k;
    case OP_conv_wgrad:
        k = b->shape.dim[0];
        for (int i = 2; i < b->shape.rank; i++)
            k *= b->shape.dim[i];
        return k;
    default:
        internal_error("%s is no contraction", op_info(node->op)->name);
    }
}

int64_t bound_contract(const Node *node) {
    return product(product(node->in[0]->bound, node->in[1]->bound), contract_terms(node));
}

int64_t bound_product(const Node *node) {
    return product(node->in[0]->bound, node->in[1]->bound);
}

int64_t bound_quotient(const Node *node) {
    return product(node->in[0]->bound, (int64_t)1 << 30);
}

/* --- normalisation --- */

int64_t norm_count(const Node *node) {
    int64_t stats = shape_elements(node->in[1]->shape);
    return stats == 0 ? 1 : shape_elements(node->in[0]->shape) / stats;
}

int norm_fraction_of(int64_t n) {
    int half = n <= 1 ? 0 : (intc_bit_length((uint64_t)(n - 1)) + 1) / 2;
    return (int)intc_saturate(15 - half, 9, 12);
}

int norm_fraction(const Node *node) {
    return norm_fraction_of(norm_count(node));
}

enum { SHIFT_NARROW = 24, SHIFT_MOST = 31 };

int norm_most_shift(const Node *node) {
    const int64_t narrow = ((int64_t)1 << (14 + NORM_VARIANCE_FRACTION)) + 2;
    return node->in[0]->bound <= narrow ? SHIFT_NARROW : SHIFT_MOST;
}

int norm_code_shift(const Value *code) {
    return (int)(code->bound & 31);
}

/* |b| < 2^20 |g|: x-hat has 15 bits, a share of it NORM_PRODUCT_FRACTION more. */
int norm_gradient_bits(const Node *node) {
    int64_t bound = intc_saturate(node->in[3]->bound, 1, (int64_t)1 << 36);
    return (int)intc_saturate(intc_bit_length((uint64_t)((bound + (1 << 20) - 1) >> 20)), 1, 16);
}

int norm_input_bits(const Node *node) {
    return (norm_code_shift(node->in[0]) == SHIFT_NARROW ? 8 : 16) + (int)attr_int(node, "places", 0);
}

/* Unlimited where the exact computation would not fit 64 bits. */
int64_t bound_share(const Node *node) {
    int64_t count = attr_int(node, "count", 1), scaled = product(node->in[0]->bound, (int64_t)1 << attr_int(node, "fraction", 0));
    return scaled > (int64_t)1 << 61 ? INT64_MAX : scaled / count + 1;
}

int64_t bound_variance(const Node *node) {
    int64_t count = attr_int(node, "count", 1), squares = product(node->in[1]->bound, count);
    bool fits = squares <= (int64_t)1 << 62 && count <= 1 << 24;
    return fits ? product(node->in[1]->bound / count + 1, (int64_t)1 << NORM_VARIANCE_FRACTION) : INT64_MAX;
}

int64_t bound_code(const Node *node) {
    return 32767 * 32 + norm_most_shift(node);
}

/* What is brought to its level is below 2^(30 + NORM_LEVEL_TOP), or what was at the highest level already. */
int64_t bound_inv_sqrt(const Node *node) {
    return attr_int(node, "part", INV_SQRT_WHOLE) == INV_SQRT_LEVEL ? NORM_LEVELS : (int64_t)1 << 44;
}

int64_t bound_level(const Node *node) {
    return product(node->in[0]->bound, (int64_t)1 << NORM_LEVELS);
}

int64_t bound_normalize(const Node *node) {
    return product(32767, node->in_count == 4 ? node->in[3]->bound : 1);
}

/* C has half of what the shift leaves off. */
int64_t bound_norm_line(const Node *node) {
    const int64_t bounds[] = {(int64_t)1 << (NORM_SLOPE_BITS - norm_input_bits(node)),
                              ((int64_t)1 << NORM_SLOPE_BITS) + ((int64_t)1 << (NORM_LINE_SHIFT - 1)), NORM_LINE_SHIFT};
    return bounds[attr_int(node, "part", 0)];
}

int64_t bound_norm_apply(const Node *node) {
    (void)node;
    return (int64_t)2 << NORM_SLOPE_BITS;
}

int64_t bound_norm_dot(const Node *node) {
    return product(32767, node->in[1]->bound);
}

int64_t bound_norm_slope(const Node *node) {
    const int64_t bounds[] = {(int64_t)1 << (NORM_SLOPE_BITS - norm_gradient_bits(node)),
                              (int64_t)1 << (NORM_SLOPE_BITS - norm_input_bits(node)), ((int64_t)1 << NORM_SLOPE_BITS) + ((int64_t)1 << 30),
                              31};
    return bounds[attr_int(node, "part", 0)];
}

/* Three products of NORM_SLOPE_BITS each. */
int64_t bound_norm_grad(const Node *node) {
    (void)node;
    return (int64_t)3 << NORM_SLOPE_BITS;
}

int64_t bound_aligned(const Node *node) {
    return (int64_t)1 << node_align_bits(node);
}

int64_t bound_slope(const Node *node) {
    int64_t slope = (int64_t)(attr_real(node, "alpha", 0.01) * 16777216.0);
    slope = (slope < 0 ? -slope : slope) + 1;
    return product(node->in[0]->bound, slope > 16777216 ? slope : 16777216);
}

int64_t bound_q15(const Node *node) {
    (void)node;
    return 32768;
}

int64_t bound_quantile(const Node *node) {
    (void)node;
    return table_quantile[(QUANTILE_OCTAVES - 1) * (QUANTILE_INTERVALS + 1)];
}

int64_t bound_q15_of_0(const Node *node) {
    return product(node->in[0]->bound, 32768);
}

/* Slopes are below 2. */
int64_t bound_q16_of_0(const Node *node) {
    return product(node->in[0]->bound, 65536);
}

int64_t bound_q61(const Node *node) {
    (void)node;
    return (int64_t)1 << 61;
}

/* The root of 16 bits with 31 more. */
int64_t bound_q24(const Node *node) {
    (void)node;
    return (int64_t)1 << 24;
}

int64_t bound_q16_log(const Node *node) {
    (void)node;
    return ((int64_t)1 << 30) + ((int64_t)1 << 22);
}

int64_t bound_mask(const Node *node) {
    (void)node;
    return 1;
}

int64_t bound_counter(const Node *node) {
    return shape_elements(node->in[1]->shape);
}

int64_t bound_count(const Node *node) {
    int64_t n = shape_elements(node->in[0]->shape), kept = shape_elements(node->out[0]->shape);
    return product(node->in[0]->bound, kept == 0 ? 1 : n / kept);
}

/* All indices may be the same. */
int64_t bound_scatter(const Node *node) {
    int64_t n = shape_elements(node->in[1]->shape);
    return product(node->in[0]->bound, n == 0 ? 1 : n);
}

static int64_t common_divisor(int64_t a, int64_t b) {
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* A sum over the places of a window; for a gradient, over the windows that hold a place: of the k places of a window along a dimension,
 * every (stride / gcd(stride, dilation))-th can be the same place of x. Windows that do not overlap keep the type. */
int64_t bound_window(const Node *node) {
    int count;
    const int64_t *kernel = attr_ints(node, "kernel", &count);
    const int64_t *strides = attr_ints(node, "strides", &count), *dilations = attr_ints(node, "dilations", &count);
    bool gradient = node->op != OP_sumpool;
    int64_t bound = node->in[0]->bound;
    for (int i = 0; i < count; i++) {
        int64_t step = gradient ? strides[i] / common_divisor(strides[i], dilations[i]) : 1;
        bound = product(bound, (kernel[i] + step - 1) / step);
    }
    return bound;
}

/* p·Σ dy with p <= 2^15 and a row of n elements, plus dy·2^15. */
int64_t bound_row_grad(const Node *node) {
    int64_t n = node->in[0]->shape.dim[attr_int(node, "axis", 0)];
    int64_t scale = node->op == OP_softmax_grad ? product(node->in[1]->bound, product(n + 1, 32768)) : product(n + 1, 32768);
    return product(node->in[0]->bound, scale);
}

int64_t bound_label_grad(const Node *node) {
    return product(node->in[2]->bound, 32768);
}

int64_t bound_label(const Node *node) {
    return node->in_count == 2 ? node->in[1]->bound : 1;
}

void node_infer_width(Node *node) {
    const OpInfo *info = op_info(node->op);
    Value *out = node->out[0];
    /* The bound of an integer comes with its shape, but for a code: its own depends on the widths. */
    if (!out->integer || info->bound == bound_code)
        out->bound = info->bound(node);
    if (out->integer)
        return;
    /* What leaves the range of a type whose least mantissa is used: -(-128), and 127 rounded up. */
    bool full = (node->op == OP_neg || node->op == OP_abs || node->op == OP_round) && (out->bound == 128 || out->bound == 32768);
    bool keeps = info->exponent == RULE_SAME && out->bound == node->in[0]->bound && !full;
    if (keeps)
        out->type = node->in[0]->type;
    else if (full)
        out->type = type_for_bound(out->bound + 1);
    else if (info->exponent == RULE_RESCALE || info->exponent == RULE_LABEL || node->op == OP_refine)
        out->type = type_for_bound(out->bound);
    else if ((node->op == OP_maxpool_grad || node->op == OP_sumpool_grad) && out->bound <= INT16_MAX) /* large, and stored as a whole */
        out->type = T_I16;
    else
        out->type = out->bound <= ACCUMULATOR_BOUND ? T_I32 : T_I64;
    out->exponent_kind = info->exponent == RULE_CONST ? EXPONENT_CONST : EXPONENT_DYNAMIC;
    out->exponent = info->exponent == RULE_CONST ? node_exponent_constant(node) : 0;
}

int node_exponent_weight(const Node *node, int input) {
    if (node->in[input]->integer)
        return 0;
    switch (node->op) {
    case OP_div:
        return input == 1 ? -1 : 1;
    case OP_softmax_grad:
        return input == 1 ? 2 : 1;
    case OP_curve_grad:
    case OP_log_softmax_grad:
        return input == 0;
    case OP_cross_entropy_grad:
        return input == 2;
    case OP_variance:
    case OP_refine:
        return input;
    case OP_normalize:
        return input == 3;
    case OP_norm_line:
        return input >= 2;
    case OP_equalize:
    case OP_restore:
        return input == 0;
    case OP_norm_apply:
        return input == 2;
    case OP_norm_dot:
        return input == 1;
    case OP_norm_slope:
        return input == 4;
    case OP_norm_grad:
        return input == 1 ? -1 : input == 0 || input == 2;
    default:
        return 1;
    }
}

int node_exponent_constant(const Node *node) {
    switch (node->op) {
    case OP_mul_const: {
        int64_t mantissa;
        int exponent;
        real_to_fixed(attr_real(node, "value", 1.0), &mantissa, &exponent);
        return exponent;
    }
    case OP_refine:
        return -(int)attr_int(node, "places", 0);
    case OP_div:
    case OP_exp:
        return -30;
    case OP_inv_sqrt:
        return attr_int(node, "part", INV_SQRT_WHOLE) == INV_SQRT_LEVEL ? 0 : -30;
    case OP_restore:
        return -NORM_LEVELS;
    case OP_random_normal:
        return -QUANTILE_FRACTION;
    case OP_share:
        return -(int)attr_int(node, "fraction", 0);
    case OP_variance:
        return -NORM_VARIANCE_FRACTION;
    case OP_normalize:
        return -norm_fraction(node);
    case OP_norm_line:
        return -NORM_LINE_PLACES;
    case OP_norm_dot:
        return -norm_fraction_of(attr_int(node, "count", 1));
    case OP_norm_slope:
        return norm_gradient_bits(node) - 13 - (node->in_count == 5 ? 0 : 15);
    case OP_leaky_relu:
    case OP_leak:
        return -24;
    case OP_curve:
    case OP_gated:
    case OP_curve_grad:
    case OP_sqrt:
    case OP_softmax:
    case OP_masked_softmax:
    case OP_log_softmax_grad:
    case OP_cross_entropy_grad:
        return -15;
    case OP_log:
    case OP_log_softmax:
    case OP_cross_entropy:
        return -16;
    default:
        return 0;
    }
}

int node_align_bits(const Node *node) {
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i]->type == T_I64)
            return ALIGN_BITS_64;
    return ALIGN_BITS_32;
}

static int64_t weighted_product(const Node *node, int i) {
    return product(node->in[2 * i]->bound, node->in[2 * i + 1]->bound);
}

int weighted_cut(const Node *node, int i) {
    int length = intc_bit_length((uint64_t)weighted_product(node, i));
    return node_align_bits(node) == ALIGN_BITS_32 && length > ALIGN_BITS_32 ? length - ALIGN_BITS_32 : 0;
}

int64_t weighted_bound(const Node *node, int i) {
    return intc_round_up_half(weighted_product(node, i), weighted_cut(node, i));
}
