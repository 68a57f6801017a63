/* Element functions of the smooth operators: tables with linear interpolation, exp, log and square root. Formulas: docs/operators.md,
 * "Functions". Operands arrive as i32, or i64 where their type is; the result is i64 exactly where the node's output is. */
#include "codegen/emit.h"
#include "ir/functions.h"
#include "ir/tables.h"
#include "runtime/fixed.h"

static int result_bits(const Node *node) {
    return node->out[0]->type == T_I64 ? 64 : 32;
}

static LLVMValueRef table_of(Codegen *cg, const int32_t *table, int count) {
    int64_t entries[2 * (TABLE_INTERVALS + 1)];
    for (int i = 0; i < count; i++)
        entries[i] = table[i];
    return const_table(cg, cg->i32, entries, count);
}

/* T[i] + (((T[i + 1] - T[i]) * r + half) >> bits) for u = i * 2^bits + r, in 32 bits; the table starts at entry `first`. */
static LLVMValueRef interpolate(Codegen *cg, LLVMValueRef table, LLVMValueRef first, LLVMValueRef u, int bits) {
    u = as_bits(cg, u, 32);
    LLVMValueRef i = as_unsigned(cg, LLVMBuildLShr(cg->builder, u, const32(cg, bits), ""), 64);
    LLVMValueRef r = LLVMBuildAnd(cg->builder, u, const32(cg, (1 << bits) - 1), "");
    if (first != NULL)
        i = add(cg, i, first);
    LLVMValueRef next = add_const(cg, i, 1);
    LLVMValueRef low = LLVMBuildLoad2(cg->builder, cg->i32, LLVMBuildInBoundsGEP2(cg->builder, cg->i32, table, &i, 1, ""), "");
    LLVMValueRef high = LLVMBuildLoad2(cg->builder, cg->i32, LLVMBuildInBoundsGEP2(cg->builder, cg->i32, table, &next, 1, ""), "");
    LLVMValueRef rise = add_const(cg, mul(cg, sub(cg, high, low), r), (int64_t)1 << (bits - 1));
    return add(cg, low, LLVMBuildAShr(cg->builder, rise, const32(cg, bits), ""));
}

/* min(rne(|m|, -(e + fraction)), top): places left that are too many saturate whatever is not zero. */
static LLVMValueRef argument(Codegen *cg, const Value *x, LLVMValueRef m, int fraction, int64_t top, int most_left, int bits) {
    LLVMValueRef e = value_exponent(cg, x), size = magnitude(cg, as_bits(cg, m, bits)), limit = NULL;
    LLVMBasicBlockRef saved = head_enter(cg);
    Shift shift = shift_new(cg, smax(cg, sub(cg, const32(cg, -fraction), e), const32(cg, -most_left)), bits, true);
    if (intc_bit_length((uint64_t)x->bound) + most_left >= bits) {
        /* Wide operands: what saturates after a shift to the left saturates before, so that none overflows. */
        LLVMValueRef enough = add_const(cg, LLVMBuildLShr(cg->builder, const_like(size, top), shift.left, ""), 1);
        LLVMValueRef unlimited = const_like(size, bits == 32 ? INT32_MAX : INT64_MAX);
        limit = choose(cg, compare(cg, LLVMIntSGT, shift.left, const_like(size, 0)), enough, unlimited);
    }
    head_leave(cg, saved);
    LLVMValueRef u = shift_apply(cg, &shift, limit != NULL ? umin(cg, size, limit) : size);
    return smin(cg, u, const_like(u, top));
}

static LLVMValueRef on_side(Codegen *cg, CurveSide side, LLVMValueRef y) {
    LLVMValueRef signed_y = side.sign == 0 ? const_like(y, 0) : side.sign < 0 ? LLVMBuildNeg(cg->builder, y, "") : y;
    return add_const(cg, signed_y, side.offset);
}

static LLVMValueRef curve_at(Codegen *cg, const Curve *curve, const Value *x, LLVMValueRef m) {
    LLVMValueRef table = table_of(cg, curve->table, (curve->two ? 2 : 1) * (TABLE_INTERVALS + 1));
    LLVMValueRef above = compare(cg, LLVMIntSGT, m, const_like(m, 0));
    LLVMValueRef first = curve->two ? choose(cg, above, const64(cg, 0), const64(cg, TABLE_INTERVALS + 1)) : NULL;
    int64_t top = ((int64_t)1 << (curve->domain + 16)) - 1;
    LLVMValueRef u = argument(cg, x, m, 16, top, 21, x->bound <= (int64_t)1 << 30 ? 32 : 64);
    LLVMValueRef y = interpolate(cg, table, first, u, curve->domain + 6);
    return choose(cg, above, on_side(cg, curve->above, y), on_side(cg, curve->below, y));
}

static LLVMValueRef wave_at(Codegen *cg, const Curve *curve, const Value *x, LLVMValueRef m) {
    LLVMValueRef table = table_of(cg, curve->table, TABLE_INTERVALS + 1);
    LLVMValueRef turns = mul_by(cg, argument(cg, x, m, TURN_FRACTION, ((int64_t)1 << TURN_RANGE) - 1, TURN_RANGE + 1, 64), TURN_FACTOR);
    LLVMValueRef negative = compare(cg, LLVMIntSLT, m, const_like(m, 0));
    turns = choose(cg, negative, LLVMBuildNeg(cg->builder, turns, ""), turns);
    LLVMValueRef place = LLVMBuildAShr(cg->builder, add_const(cg, turns, (int64_t)1 << 31), const64(cg, 32), "");
    place = LLVMBuildAnd(cg->builder, add_const(cg, place, (int64_t)curve->quarters << 18), const64(cg, (1 << 20) - 1), "");
    return interpolate(cg, table, NULL, place, 10);
}

static LLVMValueRef look_up(Codegen *cg, const Node *node, bool slope, int input, LLVMValueRef m) {
    const Function *function = function_find(attr_text(node, "function", ""));
    const Curve *curve = slope ? &function->slope : &function->value;
    LLVMValueRef y = function->form == FORM_PERIODIC ? wave_at(cg, curve, node->in[input], m) : curve_at(cg, curve, node->in[input], m);
    return as_bits(cg, y, result_bits(node));
}

LLVMValueRef element_abs(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    (void)node;
    return magnitude(cg, in[0]);
}

static LLVMValueRef exp_of(Codegen *cg, const Node *node, LLVMValueRef x) {
    LLVMValueRef m = as_bits(cg, x, 64), u = argument(cg, node->in[0], m, 24, (int64_t)1 << 31, 32, 64);
    u = choose(cg, compare(cg, LLVMIntSLT, m, const64(cg, 0)), LLVMBuildNeg(cg->builder, u, ""), u);
    Shift to_sixteen = shift_new(cg, const32(cg, 38), 64, false);
    LLVMValueRef t = shift_apply(cg, &to_sixteen, mul_by(cg, u, LOG2E));
    t = smin(cg, smax(cg, t, const64(cg, -47 * ((int64_t)1 << 16))), const64(cg, 31 * ((int64_t)1 << 16) - 1));
    LLVMValueRef table = table_of(cg, table_exp2, TABLE_ROW);
    LLVMValueRef v = interpolate(cg, table, NULL, LLVMBuildAnd(cg->builder, t, const64(cg, 0xFFFF), ""), 8);
    LLVMValueRef whole = as_bits(cg, LLVMBuildAShr(cg->builder, t, const64(cg, 16), ""), 32);
    Shift scale = shift_new(cg, sub(cg, const32(cg, -14), whole), 64, true);
    return shift_apply(cg, &scale, as_bits(cg, v, 64));
}

static LLVMValueRef log_of(Codegen *cg, const Node *node, LLVMValueRef x) {
    LLVMValueRef m = as_bits(cg, x, 64), zero = const64(cg, 0), seventeen = const64(cg, 17);
    LLVMValueRef positive = compare(cg, LLVMIntSGT, m, zero), safe = choose(cg, positive, m, const64(cg, 1));
    LLVMValueRef b = as_bits(cg, bit_length(cg, safe), 64);
    LLVMValueRef down = LLVMBuildLShr(cg->builder, safe, smax(cg, sub(cg, b, seventeen), zero), "");
    LLVMValueRef r = LLVMBuildShl(cg->builder, down, smax(cg, sub(cg, seventeen, b), zero), "");
    LLVMValueRef table = table_of(cg, table_log2, TABLE_ROW);
    LLVMValueRef l = as_bits(cg, interpolate(cg, table, NULL, add_const(cg, r, -(1 << 16)), 8), 64);
    LLVMValueRef part = choose(cg, positive, add(cg, mul_by(cg, b, 1 << 16), l), zero);
    LLVMValueRef e = value_exponent(cg, node->in[0]);
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef whole = mul_by(cg, add_const(cg, as_bits(cg, e, 64), -1), 1 << 16);
    Shift shift = shift_new(cg, const32(cg, 30), 64, false);
    head_leave(cg, saved);
    return as_bits(cg, shift_apply(cg, &shift, mul_by(cg, add(cg, whole, part), LN2)), result_bits(node));
}

/* The root bit by bit, the last one rounded. */
static LLVMValueRef sqrt_of(Codegen *cg, const Node *node, LLVMValueRef x) {
    LLVMValueRef m = smax(cg, as_bits(cg, x, 64), const64(cg, 0)), e = value_exponent(cg, node->in[0]);
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef left = as_unsigned(cg, add_const(cg, LLVMBuildAnd(cg->builder, e, const32(cg, 1), ""), 30), 64);
    head_leave(cg, saved);
    LLVMValueRef v = LLVMBuildShl(cg->builder, m, left, ""), root = const64(cg, 0);
    for (int64_t bit = (int64_t)1 << 23; bit > 0; bit >>= 1) {
        LLVMValueRef more = add_const(cg, root, bit);
        root = choose(cg, compare(cg, LLVMIntSLE, mul(cg, more, more), v), more, root);
    }
    LLVMValueRef up = compare(cg, LLVMIntSGT, sub(cg, v, mul(cg, root, root)), root);
    return as_bits(cg, add(cg, root, as_unsigned(cg, up, 64)), result_bits(node));
}

/* --- functions of one operand, by a table where it has 8 bits --- */

/* The operand that the table goes by; the gradient of a curve is dy times a function of x. */
static int argument_of(const Node *node) {
    return node->op == OP_curve_grad ? 1 : 0;
}

static LLVMValueRef value_of(Codegen *cg, const Node *node, LLVMValueRef x) {
    switch (node->op) {
    case OP_exp:
        return exp_of(cg, node, x);
    case OP_log:
        return log_of(cg, node, x);
    case OP_sqrt:
        return sqrt_of(cg, node, x);
    default:
        return look_up(cg, node, node->op == OP_curve_grad, argument_of(node), x);
    }
}

static LLVMTypeRef result_type(const Codegen *cg, const Node *node) {
    return result_bits(node) == 64 ? cg->i64 : cg->i32;
}

LLVMValueRef byte_table(Codegen *cg, LLVMTypeRef type, int first, LLVMValueRef (*f)(Codegen *cg, const void *context, LLVMValueRef m),
                        const void *context) {
    LLVMValueRef table = local_array(cg, type, 256);
    Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, 256));
    LLVMValueRef y = f(cg, context, add_const(cg, as_bits(cg, loop.index, 32), first));
    LLVMBuildStore(cg->builder, y, LLVMBuildInBoundsGEP2(cg->builder, type, table, &loop.index, 1, ""));
    loop_end(cg, &loop);
    return table;
}

static LLVMValueRef value_in_table(Codegen *cg, const void *node, LLVMValueRef m) {
    return value_of(cg, node, m);
}

void function_table(Codegen *cg, const Node *node) {
    bool known = node->op == OP_curve || node->op == OP_gated || node->op == OP_curve_grad || node->op == OP_exp || node->op == OP_log ||
                 node->op == OP_sqrt;
    if (!known || node_is_float(node) || node->in[argument_of(node)]->type != T_I8 || cg->byte_table_count == MAX_BYTE_TABLES ||
        shape_elements(node->out[0]->shape) < BYTE_TABLE_PAYS)
        return;
    LLVMValueRef entries = byte_table(cg, result_type(cg, node), -128, value_in_table, node);
    cg->byte_tables[cg->byte_table_count++] = (ByteTable){node, entries};
}

/* value_of, by the node's table if it has one. */
static LLVMValueRef function_of(Codegen *cg, const Node *node, LLVMValueRef x) {
    for (int i = 0; i < cg->byte_table_count; i++)
        if (cg->byte_tables[i].node == node) {
            LLVMTypeRef type = result_type(cg, node);
            LLVMValueRef at = add_const(cg, as_bits(cg, x, 64), 128);
            return LLVMBuildLoad2(cg->builder, type, LLVMBuildInBoundsGEP2(cg->builder, type, cg->byte_tables[i].entries, &at, 1, ""), "");
        }
    return value_of(cg, node, x);
}

LLVMValueRef element_curve(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return function_of(cg, node, in[0]);
}

LLVMValueRef element_gated(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return mul(cg, as_bits(cg, in[0], result_bits(node)), function_of(cg, node, in[0]));
}

LLVMValueRef element_curve_grad(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return mul(cg, as_bits(cg, in[0], result_bits(node)), function_of(cg, node, in[1]));
}

LLVMValueRef element_exp(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return function_of(cg, node, in[0]);
}

LLVMValueRef element_log(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return function_of(cg, node, in[0]);
}

LLVMValueRef element_sqrt(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    return function_of(cg, node, in[0]);
}

/* function_normal of the random bits at the logical index, the one "operand". */
LLVMValueRef element_random_normal(Codegen *cg, const Node *node, const LLVMValueRef *in) {
    RandomKey key = random_key(cg, attr_int(node, "stream", 0));
    LLVMValueRef bits = random_bits(cg, &key, in[0]), table = table_of(cg, table_quantile, QUANTILE_OCTAVES * (QUANTILE_INTERVALS + 1));
    LLVMValueRef tail = umax(cg, LLVMBuildAnd(cg->builder, bits, const32(cg, 0x7FFFFFFF), ""), const32(cg, 1));
    LLVMValueRef length = bit_length(cg, tail), aligned = LLVMBuildShl(cg->builder, tail, sub(cg, const32(cg, 32), length), "");
    LLVMValueRef octave = as_unsigned(cg, sub(cg, const32(cg, QUANTILE_OCTAVES), length), 64);
    LLVMValueRef below = LLVMBuildAnd(cg->builder, aligned, const32(cg, INT32_MAX), "");
    LLVMValueRef u = LLVMBuildLShr(cg->builder, below, const32(cg, 10), "");
    LLVMValueRef z = interpolate(cg, table, mul_by(cg, octave, QUANTILE_INTERVALS + 1), u, 16);
    return choose(cg, compare(cg, LLVMIntSLT, bits, const32(cg, 0)), negate(cg, z), z);
}
