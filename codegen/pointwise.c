/* Pointwise operators: the element function of each, and the kernel of a node that stands alone or ends a group.
 * Operands arrive as i32, or i64 where their type is; the result is i64 exactly where the node's output is. 32-bit arithmetic is used
 * wherever the bounds allow, for the vectoriser. */
#include "codegen/space.h"
#include "runtime/fixed.h"

#include <math.h>

static int result_bits(const Node *node) {
    return node->out[0]->type == T_I64 ? 64 : 32;
}

/* Not where the sum has the exponent of operand `i` at least, nor where the operand can fill the sum's bits. */
static bool may_shift_left(const Node *node, int i, int64_t bound) {
    bool first = op_info(node->op)->exponent == RULE_FIRST && i == 0;
    bool counts = node_exponent_weight(node, i) != 0;
    return !first && !(counts && intc_bit_length((uint64_t)bound) >= node_align_bits(node));
}

/* Operand `i` of a sum, or the product of a weighted one that begins with it, brought from exponent `from` to `to`. */
static LLVMValueRef align_term(Codegen *cg, const Node *node, int i, LLVMValueRef x, int64_t bound, LLVMValueRef from, LLVMValueRef to) {
    LLVMBasicBlockRef saved = head_enter(cg);
    int bits = result_bits(node);
    bool wide = bits == 64 || bound > (int64_t)1 << 30;
    Shift shift = shift_new(cg, sub(cg, to, from), wide ? 64 : 32, may_shift_left(node, i, bound));
    head_leave(cg, saved);
    return as_bits(cg, shift_apply(cg, &shift, as_bits(cg, x, bits)), bits);
}

static LLVMValueRef output_exponent(Codegen *cg, const Node *node) {
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef e = node_exponent(cg, node);
    head_leave(cg, saved);
    return e;
}

static LLVMValueRef aligned_operand(Codegen *cg, const Node *node, int i, LLVMValueRef x, LLVMValueRef e) {
    return align_term(cg, node, i, x, node->in[i]->bound, value_exponent(cg, node->in[i]), e);
}

/* Before a left shift the mantissa is limited to what saturates. */
static LLVMValueRef element_refine(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    int64_t bound = node->out[0]->bound;
    bool wide = result_bits(node) == 64 || node->in[0]->type == T_I64 || node->in[0]->bound > (int64_t)1 << 30;
    int bits = wide ? 64 : 32;
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef s = sub(cg, output_exponent(cg, node), value_exponent(cg, node->in[0])), zero = const32(cg, 0);
    s = smax(cg, s, const32(cg, -intc_bit_length((uint64_t)bound)));
    Shift shift = shift_new(cg, s, bits, true);
    LLVMValueRef most = LLVMConstInt(wide ? cg->i64 : cg->i32, (unsigned long long)bound, false);
    LLVMValueRef limit = add_const(cg, LLVMBuildLShr(cg->builder, most, shift.left, ""), 1);
    limit = choose(cg, compare(cg, LLVMIntSLT, s, zero), limit, const_like(most, wide ? INT64_MAX : INT32_MAX));
    LLVMValueRef low = LLVMBuildNeg(cg->builder, limit, "");
    head_leave(cg, saved);
    LLVMValueRef x = shift_apply(cg, &shift, smax(cg, smin(cg, as_bits(cg, in[0], bits), limit), low));
    return as_bits(cg, smax(cg, smin(cg, x, const_like(x, bound)), const_like(x, -bound)), result_bits(node));
}

static LLVMValueRef element_bias(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef e = output_exponent(cg, node);
    return add(cg, aligned_operand(cg, node, 0, in[0], e), aligned_operand(cg, node, 1, in[1], e));
}

static LLVMValueRef element_add(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef e = output_exponent(cg, node);
    return add(cg, aligned_operand(cg, node, 0, in[0], e), aligned_operand(cg, node, 1, in[1], e));
}

static LLVMValueRef element_sub(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef e = output_exponent(cg, node);
    return sub(cg, aligned_operand(cg, node, 0, in[0], e), aligned_operand(cg, node, 1, in[1], e));
}

/* (x * c + 2^(cut-1)) >> cut, 64 bits. Where x is a master of 16, by parts of c in 32: c = high * 2^cut + low. */
static LLVMValueRef cut_product(Codegen *cg, const Node *node, int i, LLVMValueRef x, LLVMValueRef c, int cut) {
    int64_t low = ((int64_t)1 << cut) - 1, half = (int64_t)1 << (cut - 1);
    if (node->out[0]->type == T_I64 || cut > 16 || node->in[2 * i]->bound * low + half > INT32_MAX) {
        LLVMValueRef product = add_const(cg, mul(cg, as_bits(cg, x, 64), as_bits(cg, c, 64)), half);
        return LLVMBuildAShr(cg->builder, product, const64(cg, cut), "");
    }
    x = as_bits(cg, x, 32);
    c = as_bits(cg, c, 32);
    LLVMValueRef rest = add_const(cg, mul(cg, x, LLVMBuildAnd(cg->builder, c, const32(cg, low), "")), half);
    LLVMValueRef part = mul(cg, x, LLVMBuildAShr(cg->builder, c, const32(cg, cut), ""));
    return add(cg, part, LLVMBuildAShr(cg->builder, rest, const32(cg, cut), ""));
}

static bool is_one(const Value *c) {
    return c->kind == VALUE_CONST && shape_elements(c->shape) == 1 && c->mantissa != NULL && c->mantissa[0] == 1;
}

static LLVMValueRef element_weighted_sum(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef e = output_exponent(cg, node), sum = NULL;
    int pairs = node->in_count / 2;
    for (int i = 0; i < pairs; i += cg->plain && i == 0 ? pairs - 1 : 1) {
        int cut = weighted_cut(node, i);
        LLVMValueRef x = cut > 0                       ? cut_product(cg, node, i, in[2 * i], in[2 * i + 1], cut)
                         : is_one(node->in[2 * i + 1]) ? in[2 * i]
                                                       : mul(cg, as_bits(cg, in[2 * i], 64), as_bits(cg, in[2 * i + 1], 64));
        LLVMBasicBlockRef saved = head_enter(cg);
        LLVMValueRef from = weighted_exponent(cg, node, i);
        head_leave(cg, saved);
        LLVMValueRef term = align_term(cg, node, 2 * i, x, weighted_bound(node, i), from, e);
        sum = sum == NULL ? term : add(cg, sum, term);
    }
    return sum;
}

static LLVMValueRef element_mul(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    int bits = result_bits(node);
    return mul(cg, as_bits(cg, in[0], bits), as_bits(cg, in[1], bits));
}

static LLVMValueRef element_mul_const(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    int64_t mantissa;
    int exponent;
    real_to_fixed(attr_real(node, "value", 1.0), &mantissa, &exponent);
    return mul_by(cg, as_bits(cg, in[0], result_bits(node)), mantissa);
}

/* a * 2^30 / b to the nearest, ties to even, on magnitudes; b = 0 gives the bound. */
static LLVMValueRef element_div(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef a = as_bits(cg, in[0], 64), b = as_bits(cg, in[1], 64), zero = const64(cg, 0), one = const64(cg, 1);
    LLVMValueRef none = compare(cg, LLVMIntEQ, b, zero);
    LLVMValueRef numerator = LLVMBuildShl(cg->builder, magnitude(cg, a), const64(cg, 30), "");
    LLVMValueRef divisor = choose(cg, none, one, magnitude(cg, b));
    LLVMValueRef quotient = LLVMBuildUDiv(cg->builder, numerator, divisor, "");
    LLVMValueRef twice = mul_by(cg, sub(cg, numerator, mul(cg, quotient, divisor)), 2);
    LLVMValueRef odd = LLVMBuildAnd(cg->builder, quotient, one, "");
    LLVMValueRef up = compare(cg, LLVMIntUGT, add(cg, twice, odd), divisor);
    quotient = add(cg, quotient, as_unsigned(cg, up, 64));
    LLVMValueRef limit = choose(cg, compare(cg, LLVMIntEQ, a, zero), zero, const64(cg, node->out[0]->bound));
    quotient = choose(cg, none, limit, quotient);
    LLVMValueRef negative = compare(cg, LLVMIntSLT, LLVMBuildXor(cg->builder, a, choose(cg, none, zero, b), ""), zero);
    return as_bits(cg, choose(cg, negative, LLVMBuildNeg(cg->builder, quotient, ""), quotient), result_bits(node));
}

static LLVMValueRef element_neg(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return LLVMBuildNeg(cg->builder, in[0], "");
}

static LLVMValueRef element_relu(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return smax(cg, in[0], const_like(in[0], 0));
}

static LLVMValueRef sloped(Codegen *cg, const Node *node, LLVMValueRef x, LLVMValueRef straight) {
    int64_t slope = (int64_t)nearbyint(ldexp(attr_real(node, "alpha", 0.01), 24));
    int bits = result_bits(node);
    x = as_bits(cg, x, bits);
    LLVMValueRef factor = choose(cg, straight, const_like(x, 1 << 24), const_like(x, slope));
    return mul(cg, x, factor);
}

static LLVMValueRef element_leaky_relu(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return sloped(cg, node, in[0], compare(cg, LLVMIntSGE, in[0], const_like(in[0], 0)));
}

static LLVMValueRef element_leak(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return sloped(cg, node, in[0], compare(cg, LLVMIntNE, in[1], const_like(in[1], 0)));
}

/* A real attribute at the exponent of x, half to even, saturated to 2^62 and to `bits`; NULL if absent. */
static LLVMValueRef limit_at(Codegen *cg, const Node *node, const char *name, int bits) {
    if (attr_find(node, name) == NULL || isinf(attr_real(node, name, 0)))
        return NULL;
    int k;
    int64_t mantissa = (int64_t)ldexp(frexp(attr_real(node, name, 0), &k), 53);
    LLVMValueRef e = value_exponent(cg, node->in[0]);
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef s = add_const(cg, e, 53 - k);
    Shift shift = shift_new(cg, smax(cg, s, const32(cg, -9)), 64, true);
    LLVMValueRef top = const64(cg, mantissa < 0 ? -((int64_t)1 << 62) : (int64_t)1 << 62);
    LLVMValueRef large = mantissa == 0 ? LLVMConstInt(cg->i1, 0, false) : compare(cg, LLVMIntSLT, s, const32(cg, -9));
    LLVMValueRef limit = choose(cg, large, top, shift_apply(cg, &shift, const64(cg, mantissa)));
    if (bits == 32)
        limit = smin(cg, smax(cg, limit, const64(cg, INT32_MIN)), const64(cg, INT32_MAX));
    limit = as_bits(cg, limit, bits);
    head_leave(cg, saved);
    return limit;
}

static LLVMValueRef element_clip(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef low = limit_at(cg, node, "min", bits_of(in[0])), high = limit_at(cg, node, "max", bits_of(in[0]));
    LLVMValueRef x = high == NULL ? in[0] : choose(cg, compare(cg, LLVMIntSGT, in[0], high), high, in[0]);
    return low == NULL ? x : choose(cg, compare(cg, LLVMIntSLT, in[0], low), low, x);
}

/* The shift of docs/operators.md, "round", of each element, in 64 bits. */
static LLVMValueRef element_round(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef x = as_bits(cg, in[0], 64), zero = const32(cg, 0), one = const64(cg, 1);
    LLVMValueRef e = value_exponent(cg, node->in[0]);
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef unit = smax(cg, sub(cg, const32(cg, attr_int(node, "least", 0)), e), zero);
    head_leave(cg, saved);
    LLVMValueRef own = add_const(cg, bit_length(cg, magnitude(cg, x)), -attr_int(node, "digits", 0));
    LLVMValueRef s = as_bits(cg, smin(cg, smax(cg, own, unit), const32(cg, 62)), 64), y;
    if (attr_int(node, "truncate", 0) != 0) {
        y = LLVMBuildShl(cg->builder, LLVMBuildLShr(cg->builder, magnitude(cg, x), s, ""), s, "");
        y = choose(cg, compare(cg, LLVMIntSLT, x, const64(cg, 0)), LLVMBuildNeg(cg->builder, y, ""), y);
    } else {
        LLVMValueRef some = compare(cg, LLVMIntNE, s, const64(cg, 0));
        LLVMValueRef half = LLVMBuildLShr(cg->builder, LLVMBuildShl(cg->builder, one, s, ""), one, "");
        LLVMValueRef odd = LLVMBuildAnd(cg->builder, LLVMBuildAShr(cg->builder, x, s, ""), one, "");
        LLVMValueRef up = choose(cg, some, add(cg, add_const(cg, half, -1), odd), const64(cg, 0));
        y = LLVMBuildShl(cg->builder, LLVMBuildAShr(cg->builder, add(cg, x, up), s, ""), s, "");
    }
    return as_bits(cg, y, result_bits(node));
}

static LLVMValueRef element_inside(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    LLVMValueRef low = limit_at(cg, node, "min", bits_of(in[0])), high = limit_at(cg, node, "max", bits_of(in[0]));
    LLVMValueRef inside = LLVMConstInt(cg->i1, 1, false);
    if (low != NULL)
        inside = LLVMBuildAnd(cg->builder, inside, compare(cg, LLVMIntSGT, in[0], low), "");
    if (high != NULL)
        inside = LLVMBuildAnd(cg->builder, inside, compare(cg, LLVMIntSLT, in[0], high), "");
    return as_unsigned(cg, inside, 32);
}

static LLVMValueRef element_positive(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return as_unsigned(cg, compare(cg, LLVMIntSGT, in[0], const_like(in[0], 0)), 32);
}

static LLVMValueRef element_gate(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return choose(cg, compare(cg, LLVMIntNE, in[1], const_like(in[1], 0)), in[0], const_like(in[0], 0));
}

static LLVMValueRef element_both(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    LLVMValueRef zero = const_like(in[0], 0), other = const_like(in[1], 0);
    LLVMValueRef a = compare(cg, LLVMIntNE, in[0], zero), b = compare(cg, LLVMIntNE, in[1], other);
    return as_unsigned(cg, LLVMBuildAnd(cg->builder, a, b, ""), 32);
}

static LLVMValueRef element_differ(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    LLVMValueRef zero = const_like(in[0], 0), other = const_like(in[1], 0);
    LLVMValueRef a = compare(cg, LLVMIntNE, in[0], zero), b = compare(cg, LLVMIntNE, in[1], other);
    return as_unsigned(cg, LLVMBuildXor(cg->builder, a, b, ""), 32);
}

/* The one "operand" is the logical index. */
static LLVMValueRef element_random_mask(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    uint64_t threshold = (uint64_t)nearbyint(ldexp(attr_real(node, "ratio", 0), 32));
    if (threshold > UINT32_MAX)
        return const32(cg, 0);
    RandomKey key = random_key(cg, attr_int(node, "stream", 0));
    LLVMValueRef random = random_bits(cg, &key, in[0]);
    return as_unsigned(cg, compare(cg, LLVMIntUGE, random, const32(cg, (int64_t)threshold)), 32);
}

#define ELEMENT_POINTWISE(name) element_##name
#define ELEMENT_RANDOM(name) element_##name
#define ELEMENT_SCALE(name) NULL
#define ELEMENT_CONTRACT(name) NULL
#define ELEMENT_REDUCE(name) NULL
#define ELEMENT_WINDOW(name) NULL
#define ELEMENT_MOVE(name) NULL
#define ELEMENT_ROW(name) NULL
ElementEmitter *element_emitter(Op op) {
    static ElementEmitter *const table[OP_COUNT] = {
#define OP(name, kind, ...) [OP_##name] = ELEMENT_##kind(name),
#include "ir/ops.def"
#undef OP
    };
    return table[op];
}

/* The work of an element of a statistic, in those of others. */
enum { STATISTIC_WORK = 16 };

/* What a normalisation computes once for each mean, much of it in 128 bits. */
static bool is_statistic(Op op) {
    switch (op) {
    case OP_share:
    case OP_variance:
    case OP_rsqrt:
    case OP_inv_sqrt:
    case OP_equalize:
    case OP_norm_line:
    case OP_norm_dot:
    case OP_norm_slope:
        return true;
    default:
        return false;
    }
}

/* The kernel of a pointwise node that is stored: its own element function on what its operands evaluate to. */
static void emit_group(Codegen *cg, const Node *node) {
    const Value *out = node->out[0];
    Space space = space_new(out->shape, out->order);
    Group *group = arena_alloc(cg->memory, 1, sizeof *group);
    group->space = &space;
    group->order = out->order;
    int64_t stride[MAX_RANK];
    value_strides(out, stride);
    int target = space_stream(&space, out->order, stride, 0), index = -1;
    /* The root is evaluated as if it were fused: a copy of its output whose definition says so. */
    Node root = *node;
    root.fused_into = &root;
    Value value = *out;
    value.def = &root;
    View view = view_same(&value);
    if (op_info(node->op)->kind == KIND_RANDOM)
        index = group_logical(group, out->shape);
    else
        group_collect(cg, group, view);
    group_close(group);
    kernel_begin(cg, node, "");
    if (is_statistic(node->op)) {
        kernel_for_few(cg);
        space.vectors = (Vectors){1, 1};
    }
    group_prepare(cg, group);
    Nest nest;
    nest_begin(cg, &nest, &space);
    LLVMValueRef x;
    if (index >= 0) {
        LLVMValueRef at = group_index(cg, group, &nest, index);
        x = (out->type == T_REAL ? float_element(node->op) : element_emitter(node->op))(cg, node, &at);
    } else {
        x = group_eval(cg, group, &nest, view);
    }
    store_element(cg, out, nest_index(cg, &nest, target), x);
    nest_end(cg, &nest);
    int64_t work = is_statistic(node->op) ? STATISTIC_WORK : 1;
    kernel_end(cg, space_tiles(&space), space_elements(&space) * (1 + group->leaf_count) * work);
}

#define EMIT_POINTWISE(name)                                                                                                               \
    void emit_##name(Codegen *cg, const Node *node) {                                                                                      \
        emit_group(cg, node);                                                                                                              \
    }
#define EMIT_RANDOM(name) EMIT_POINTWISE(name)
#define EMIT_SCALE(name)
#define EMIT_CONTRACT(name)
#define EMIT_REDUCE(name)
#define EMIT_WINDOW(name)
#define EMIT_MOVE(name)
#define EMIT_ROW(name)
#define OP(name, kind, ...) EMIT_##kind(name)
#include "ir/ops.def"
#undef OP
