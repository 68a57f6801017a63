/* Row operators: softmax, logarithms of it, losses and what else looks at one axis. A tile is a row; formulas and constants are those of
 * docs/operators.md, "Rows". Softmax terms are computed again where they are needed: a row is short and nothing is stored. Of 8 bits there
 * are 256 different terms, which a table holds. */
#include "codegen/row.h"
#include "ir/functions.h"
#include "ir/tables.h"

#include <math.h>

Rows rows_open(const Node *node, const Value *main) {
    Rows rows = {.node = node, .shape = main->shape, .axis = (int)attr_int(node, "axis", 1), .order = main->order};
    rows.length = rows.shape.dim[rows.axis];
    Shape outer = rows.shape;
    outer.dim[rows.axis] = 1;
    rows.space = space_new(outer, rows.order);
    return rows;
}

Row rows_add(Rows *rows, const Value *value) {
    int64_t own[MAX_RANK], stride[MAX_RANK] = {0};
    value_strides(value, own);
    bool whole = value->shape.rank == rows->shape.rank;
    for (int d = 0; d < rows->shape.rank; d++)
        if (d != rows->axis)
            stride[d] = own[whole || d < rows->axis ? d : d - 1];
    int stream = space_stream(&rows->space, rows->order, stride, 0);
    return (Row){value, stream, whole ? own[rows->axis] : 0};
}

void rows_begin(Codegen *cg, Rows *rows) {
    space_collapse(&rows->space);
    kernel_begin(cg, rows->node, "");
}

void rows_end(Codegen *cg, Rows *rows, int work) {
    kernel_end(cg, space_tiles(&rows->space), space_elements(&rows->space) * rows->length * work);
}

static LLVMValueRef row_index(Codegen *cg, const Rows *rows, const Row *row, LLVMValueRef j) {
    LLVMValueRef start = nest_index(cg, &rows->nest, row->stream);
    return row->step == 0 ? start : add(cg, start, mul_by(cg, j, row->step));
}

LLVMValueRef row_load(Codegen *cg, const Rows *rows, const Row *row, LLVMValueRef j) {
    return load_as(cg, row->value, row_index(cg, rows, row, j), 64);
}

void row_store(Codegen *cg, const Rows *rows, const Row *row, LLVMValueRef j, LLVMValueRef x) {
    store_element(cg, row->value, row_index(cg, rows, row, j), x);
}

Loop row_loop(Codegen *cg, const Rows *rows) {
    return loop_begin(cg, const64(cg, 0), const64(cg, rows->length));
}

/* --- softmax --- */

typedef struct {
    LLVMValueRef exp2, log2; /* tables */
    Shift shift;             /* of z * LOG2E to 16 fraction bits */
    Shift plain;             /* of z to 16 fraction bits */
    LLVMValueRef terms;      /* table of n by z, i32; NULL: none */
    LLVMValueRef largest, sum;
    LLVMValueRef inverse, places; /* 2^(places + 15) / sum, about: a word of 31 bits */
} Softmax;

static LLVMValueRef table_of(Codegen *cg, const int32_t *table) {
    int64_t entries[TABLE_ROW];
    for (int i = 0; i < TABLE_ROW; i++)
        entries[i] = table[i];
    return const_table(cg, cg->i64, entries, TABLE_ROW);
}

/* T[x >> 8] + (((T[(x >> 8) + 1] - T[x >> 8]) * (x mod 256) + 128) >> 8) */
static LLVMValueRef interpolate(Codegen *cg, LLVMValueRef table, LLVMValueRef x) {
    LLVMValueRef i = LLVMBuildLShr(cg->builder, x, const64(cg, 8), ""), r = LLVMBuildAnd(cg->builder, x, const64(cg, 255), "");
    LLVMValueRef next = add_const(cg, i, 1);
    LLVMValueRef low = LLVMBuildLoad2(cg->builder, cg->i64, LLVMBuildInBoundsGEP2(cg->builder, cg->i64, table, &i, 1, ""), "");
    LLVMValueRef high = LLVMBuildLoad2(cg->builder, cg->i64, LLVMBuildInBoundsGEP2(cg->builder, cg->i64, table, &next, 1, ""), "");
    LLVMValueRef rise = add_const(cg, mul(cg, sub(cg, high, low), r), 128);
    return add(cg, low, LLVMBuildAShr(cg->builder, rise, const64(cg, 8), ""));
}

/* n: 2^-(z · 2^e · log2 e), 31 fraction bits. */
static LLVMValueRef term_of(Codegen *cg, const Softmax *soft, LLVMValueRef z) {
    LLVMValueRef t = smin(cg, shift_apply(cg, &soft->shift, mul_by(cg, z, LOG2E)), const64(cg, (int64_t)40 << 16));
    LLVMValueRef f = LLVMBuildAnd(cg->builder, t, const64(cg, 0xFFFF), "");
    LLVMValueRef v = interpolate(cg, soft->exp2, sub(cg, const64(cg, 1 << 16), f));
    LLVMValueRef scaled = LLVMBuildShl(cg->builder, v, const64(cg, 14), "");
    return LLVMBuildLShr(cg->builder, scaled, LLVMBuildLShr(cg->builder, t, const64(cg, 16), ""), "");
}

static LLVMValueRef term_in_table(Codegen *cg, const void *soft, LLVMValueRef z) {
    return as_unsigned(cg, term_of(cg, soft, as_unsigned(cg, z, 64)), 32);
}

/* Left shifts are limited to what saturates every z > 0. */
static Softmax softmax_open(Codegen *cg, const Value *x) {
    Softmax soft = {.exp2 = table_of(cg, table_exp2), .log2 = table_of(cg, table_log2)};
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef e = value_exponent(cg, x);
    soft.shift = shift_new(cg, smax(cg, sub(cg, const32(cg, 14), e), const32(cg, -12)), 64, true);
    soft.plain = shift_new(cg, smax(cg, sub(cg, const32(cg, -16), e), const32(cg, -31)), 64, true);
    head_leave(cg, saved);
    if (x->type == T_I8 && shape_elements(x->shape) >= BYTE_TABLE_PAYS)
        soft.terms = byte_table(cg, cg->i32, 0, term_in_table, &soft);
    return soft;
}

/* n_j. */
static LLVMValueRef softmax_term(Codegen *cg, const Softmax *soft, LLVMValueRef x) {
    LLVMValueRef z = sub(cg, soft->largest, x);
    if (soft->terms == NULL)
        return term_of(cg, soft, z);
    LLVMValueRef place = LLVMBuildInBoundsGEP2(cg->builder, cg->i32, soft->terms, &z, 1, "");
    return as_unsigned(cg, LLVMBuildLoad2(cg->builder, cg->i32, place, ""), 64);
}

static LLVMValueRef row_largest(Codegen *cg, const Rows *rows, const Row *x) {
    LLVMValueRef most = local_new(cg, cg->i64, const64(cg, INT64_MIN));
    Loop loop = row_loop(cg, rows);
    local_set(cg, most, smax(cg, local_get(cg, cg->i64, most), row_load(cg, rows, x, loop.index)));
    loop_end(cg, &loop);
    return local_get(cg, cg->i64, most);
}

/* The sum of the terms, one of which is 2^31, or of a row without any. */
static void set_sum(Codegen *cg, Softmax *soft, LLVMValueRef sum) {
    soft->sum = smax(cg, sum, const64(cg, INT64_C(1) << 31));
    LLVMValueRef b = as_bits(cg, bit_length(cg, soft->sum), 64);
    LLVMValueRef high = LLVMBuildLShr(cg->builder, soft->sum, add_const(cg, b, -32), "");
    soft->inverse = LLVMBuildUDiv(cg->builder, const64(cg, INT64_C(1) << 62), high, "");
    soft->places = add_const(cg, b, 15);
}

/* The largest element of the row and the sum of its terms. */
static void softmax_row(Codegen *cg, Softmax *soft, const Rows *rows, const Row *x) {
    soft->largest = row_largest(cg, rows, x);
    LLVMValueRef sum = local_new(cg, cg->i64, const64(cg, 0));
    Loop loop = row_loop(cg, rows);
    LLVMValueRef term = softmax_term(cg, soft, row_load(cg, rows, x, loop.index));
    local_set(cg, sum, add(cg, local_get(cg, cg->i64, sum), term));
    loop_end(cg, &loop);
    set_sum(cg, soft, local_get(cg, cg->i64, sum));
}

/* floor((n * 2^15 + floor(S / 2)) / S): what the inverse gives errs by less than 2^-13, so that it is at most one away, as the remainder
 * tells. There are multiplications of vectors, but no divisions. */
static LLVMValueRef probability(Codegen *cg, const Softmax *soft, LLVMValueRef x) {
    LLVMValueRef one = const64(cg, 1), n = softmax_term(cg, soft, x);
    LLVMValueRef half = LLVMBuildShl(cg->builder, one, add_const(cg, soft->places, -1), "");
    LLVMValueRef q = LLVMBuildLShr(cg->builder, add(cg, mul(cg, n, soft->inverse), half), soft->places, "");
    LLVMValueRef whole = add(cg, LLVMBuildShl(cg->builder, n, const64(cg, 15), ""), LLVMBuildLShr(cg->builder, soft->sum, one, ""));
    LLVMValueRef left = sub(cg, whole, mul(cg, q, soft->sum));
    LLVMValueRef more = as_unsigned(cg, compare(cg, LLVMIntSGE, left, soft->sum), 64);
    LLVMValueRef less = as_unsigned(cg, compare(cg, LLVMIntSLT, left, const64(cg, 0)), 64);
    return sub(cg, add(cg, q, more), less);
}

/* The logarithm of the sum, 16 fraction bits. */
static LLVMValueRef log_sum(Codegen *cg, const Softmax *soft) {
    LLVMValueRef b = as_bits(cg, bit_length(cg, soft->sum), 64), seventeen = const64(cg, 17), zero = const64(cg, 0);
    LLVMValueRef down = LLVMBuildLShr(cg->builder, soft->sum, smax(cg, sub(cg, b, seventeen), zero), "");
    LLVMValueRef r = LLVMBuildShl(cg->builder, down, smax(cg, sub(cg, seventeen, b), zero), "");
    LLVMValueRef l = interpolate(cg, soft->log2, add_const(cg, r, -(1 << 16)));
    LLVMValueRef total = add(cg, mul_by(cg, add_const(cg, b, -32), 1 << 16), l);
    Shift shift = shift_new(cg, const32(cg, 30), 64, false);
    return shift_apply(cg, &shift, mul_by(cg, total, LN2));
}

/* min(rne(z, -(e + 16)), 2^30) + log of the sum */
static LLVMValueRef minus_log_probability(Codegen *cg, const Softmax *soft, LLVMValueRef x, LLVMValueRef lambda) {
    LLVMValueRef z = shift_apply(cg, &soft->plain, sub(cg, soft->largest, x));
    return add(cg, smin(cg, z, const64(cg, (int64_t)1 << 30)), lambda);
}

/* --- labels --- */

LLVMValueRef row_label(Codegen *cg, const Rows *rows, const Row *t, LLVMValueRef *label) {
    LLVMValueRef x = row_load(cg, rows, t, const64(cg, 0));
    LLVMValueRef valid = compare(cg, LLVMIntULT, x, const64(cg, rows->length));
    if (attr_find(rows->node, "ignore_index") != NULL) {
        LLVMValueRef other = compare(cg, LLVMIntNE, x, const64(cg, attr_int(rows->node, "ignore_index", 0)));
        valid = LLVMBuildAnd(cg->builder, valid, other, "");
    }
    *label = choose(cg, valid, x, const64(cg, 0));
    return valid;
}

/* --- emitters --- */

void emit_softmax(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    Softmax soft = softmax_open(cg, node->in[0]);
    nest_begin(cg, &rows.nest, &rows.space);
    softmax_row(cg, &soft, &rows, &x);
    Loop loop = row_loop(cg, &rows);
    row_store(cg, &rows, &y, loop.index, probability(cg, &soft, row_load(cg, &rows, &x, loop.index)));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 30);
}

Row rows_add_broadcast(Rows *rows, const Value *value) {
    int64_t own[MAX_RANK], stride[MAX_RANK] = {0};
    value_strides(value, own);
    int shift = rows->shape.rank - value->shape.rank;
    for (int d = 0; d < value->shape.rank; d++)
        stride[d + shift] = value->shape.dim[d] == 1 ? 0 : own[d];
    int64_t step = stride[rows->axis];
    stride[rows->axis] = 0;
    return (Row){value, space_stream(&rows->space, rows->order, stride, 0), step};
}

/* Element j, or the largest where it is masked, so that its term stays in the table; *shown: it is not masked. */
static LLVMValueRef shown_load(Codegen *cg, const Rows *rows, const Row *x, const Row *mask, LLVMValueRef j, LLVMValueRef instead,
                               LLVMValueRef *shown) {
    *shown = compare(cg, LLVMIntNE, row_load(cg, rows, mask, j), const64(cg, 0));
    return choose(cg, *shown, row_load(cg, rows, x, j), instead);
}

void emit_masked_softmax(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), mask = rows_add_broadcast(&rows, node->in[1]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    Softmax soft = softmax_open(cg, node->in[0]);
    nest_begin(cg, &rows.nest, &rows.space);
    LLVMValueRef shown, zero = const64(cg, 0), least = const64(cg, INT32_MIN);
    LLVMValueRef most = local_new(cg, cg->i64, least), sum = local_new(cg, cg->i64, zero);
    Loop loop = row_loop(cg, &rows);
    LLVMValueRef m = shown_load(cg, &rows, &x, &mask, loop.index, least, &shown);
    local_set(cg, most, smax(cg, local_get(cg, cg->i64, most), m));
    loop_end(cg, &loop);
    soft.largest = local_get(cg, cg->i64, most);
    loop = row_loop(cg, &rows);
    LLVMValueRef term = softmax_term(cg, &soft, shown_load(cg, &rows, &x, &mask, loop.index, soft.largest, &shown));
    local_set(cg, sum, add(cg, local_get(cg, cg->i64, sum), choose(cg, shown, term, zero)));
    loop_end(cg, &loop);
    set_sum(cg, &soft, local_get(cg, cg->i64, sum));
    loop = row_loop(cg, &rows);
    LLVMValueRef p = probability(cg, &soft, shown_load(cg, &rows, &x, &mask, loop.index, soft.largest, &shown));
    row_store(cg, &rows, &y, loop.index, choose(cg, shown, p, zero));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 35);
}

void emit_log_softmax(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    Softmax soft = softmax_open(cg, node->in[0]);
    nest_begin(cg, &rows.nest, &rows.space);
    softmax_row(cg, &soft, &rows, &x);
    LLVMValueRef lambda = log_sum(cg, &soft);
    Loop loop = row_loop(cg, &rows);
    LLVMValueRef loss = minus_log_probability(cg, &soft, row_load(cg, &rows, &x, loop.index), lambda);
    row_store(cg, &rows, &y, loop.index, LLVMBuildNeg(cg->builder, loss, ""));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 20);
}

/* y · (dy · 2^k - sum of dy · y), k = sat(-e_y, 0, 15) */
void emit_softmax_grad(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row dy = rows_add(&rows, node->in[0]), y = rows_add(&rows, node->in[1]), dx = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef e = value_exponent(cg, node->in[1]);
    LLVMValueRef k = as_bits(cg, smin(cg, smax(cg, sub(cg, const32(cg, 0), e), const32(cg, 0)), const32(cg, 15)), 64);
    head_leave(cg, saved);
    nest_begin(cg, &rows.nest, &rows.space);
    LLVMValueRef sum = local_new(cg, cg->i64, const64(cg, 0));
    Loop loop = row_loop(cg, &rows);
    LLVMValueRef product = mul(cg, row_load(cg, &rows, &dy, loop.index), row_load(cg, &rows, &y, loop.index));
    local_set(cg, sum, add(cg, local_get(cg, cg->i64, sum), product));
    loop_end(cg, &loop);
    LLVMValueRef total = local_get(cg, cg->i64, sum);
    loop = row_loop(cg, &rows);
    LLVMValueRef scaled = LLVMBuildShl(cg->builder, row_load(cg, &rows, &dy, loop.index), k, "");
    row_store(cg, &rows, &dx, loop.index, mul(cg, row_load(cg, &rows, &y, loop.index), sub(cg, scaled, total)));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 4);
}

/* dy · 2^15 - p · sum of dy */
void emit_log_softmax_grad(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row dy = rows_add(&rows, node->in[0]), x = rows_add(&rows, node->in[1]), dx = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    Softmax soft = softmax_open(cg, node->in[1]);
    nest_begin(cg, &rows.nest, &rows.space);
    softmax_row(cg, &soft, &rows, &x);
    LLVMValueRef sum = local_new(cg, cg->i64, const64(cg, 0));
    Loop loop = row_loop(cg, &rows);
    local_set(cg, sum, add(cg, local_get(cg, cg->i64, sum), row_load(cg, &rows, &dy, loop.index)));
    loop_end(cg, &loop);
    LLVMValueRef total = local_get(cg, cg->i64, sum);
    loop = row_loop(cg, &rows);
    LLVMValueRef p = probability(cg, &soft, row_load(cg, &rows, &x, loop.index));
    LLVMValueRef scaled = mul_by(cg, row_load(cg, &rows, &dy, loop.index), 1 << 15);
    row_store(cg, &rows, &dx, loop.index, sub(cg, scaled, mul(cg, p, total)));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 30);
}

void emit_cross_entropy(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), t = rows_add(&rows, node->in[1]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    Softmax soft = softmax_open(cg, node->in[0]);
    nest_begin(cg, &rows.nest, &rows.space);
    softmax_row(cg, &soft, &rows, &x);
    LLVMValueRef label, valid = row_label(cg, &rows, &t, &label);
    LLVMValueRef loss = minus_log_probability(cg, &soft, row_load(cg, &rows, &x, label), log_sum(cg, &soft));
    row_store(cg, &rows, &y, const64(cg, 0), choose(cg, valid, loss, const64(cg, 0)));
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 15);
}

/* (p - 2^15 · [j = t]) · dy, 0 where ignored */
void emit_cross_entropy_grad(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), t = rows_add(&rows, node->in[1]), dy = rows_add(&rows, node->in[2]);
    Row dx = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    Softmax soft = softmax_open(cg, node->in[0]);
    nest_begin(cg, &rows.nest, &rows.space);
    softmax_row(cg, &soft, &rows, &x);
    LLVMValueRef label, valid = row_label(cg, &rows, &t, &label), zero = const64(cg, 0);
    LLVMValueRef factor = choose(cg, valid, row_load(cg, &rows, &dy, zero), zero);
    Loop loop = row_loop(cg, &rows);
    LLVMValueRef p = probability(cg, &soft, row_load(cg, &rows, &x, loop.index));
    LLVMValueRef hit = choose(cg, compare(cg, LLVMIntEQ, loop.index, label), const64(cg, 1 << 15), zero);
    row_store(cg, &rows, &dx, loop.index, mul(cg, sub(cg, p, hit), factor));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 30);
}

void emit_pick(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), t = rows_add(&rows, node->in[1]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    LLVMValueRef label, valid = row_label(cg, &rows, &t, &label);
    LLVMValueRef picked = negate(cg, row_load(cg, &rows, &x, label));
    row_store(cg, &rows, &y, const64(cg, 0), choose(cg, valid, picked, const_like(picked, 0)));
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 1);
}

void emit_pick_grad(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->out[0]);
    Row dy = rows_add(&rows, node->in[0]), t = rows_add(&rows, node->in[1]), dx = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    LLVMValueRef label, valid = row_label(cg, &rows, &t, &label);
    LLVMValueRef given = negate(cg, row_load(cg, &rows, &dy, const64(cg, 0)));
    Loop loop = row_loop(cg, &rows);
    LLVMValueRef here = LLVMBuildAnd(cg->builder, valid, compare(cg, LLVMIntEQ, loop.index, label), "");
    row_store(cg, &rows, &dx, loop.index, choose(cg, here, given, const_like(given, 0)));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 2);
}

void emit_label_weight(Codegen *cg, const Node *node) {
    const Value *t = node->in[0], *w = node->in_count == 2 ? node->in[1] : NULL, *y = node->out[0];
    Space space = space_new(y->shape, y->order);
    int64_t from[MAX_RANK], to[MAX_RANK];
    value_strides(t, from);
    value_strides(y, to);
    int in = space_stream(&space, y->order, from, 0), out = space_stream(&space, y->order, to, 0);
    space_collapse(&space);
    kernel_begin(cg, node, "");
    Nest nest;
    nest_begin(cg, &nest, &space);
    LLVMValueRef label = load_as(cg, t, nest_index(cg, &nest, in), 64), zero = const64(cg, 0), counts = LLVMConstInt(cg->i1, 1, false);
    if (attr_find(node, "ignore_index") != NULL)
        counts = compare(cg, LLVMIntNE, label, const64(cg, attr_int(node, "ignore_index", 0)));
    LLVMValueRef weight = y->type == T_REAL ? LLVMConstReal(cg->f32, 1) : const64(cg, 1);
    if (w != NULL) {
        counts = LLVMBuildAnd(cg->builder, counts, compare(cg, LLVMIntULT, label, const64(cg, w->shape.dim[0])), "");
        weight = load_as(cg, w, choose(cg, counts, label, zero), 64);
    }
    store_element(cg, y, nest_index(cg, &nest, out), choose(cg, counts, weight, const_like(weight, 0)));
    nest_end(cg, &nest);
    kernel_end(cg, space_tiles(&space), space_elements(&space) * 2);
}

/* Position of the first of the largest elements. */
static LLVMValueRef row_best(Codegen *cg, const Rows *rows, const Row *x) {
    bool real = x->value->type == T_REAL;
    LLVMTypeRef type = real ? cg->f32 : cg->i64;
    LLVMValueRef least = real ? LLVMConstReal(type, -INFINITY) : const64(cg, INT64_MIN);
    LLVMValueRef most = local_new(cg, type, least), best = local_new(cg, cg->i64, const64(cg, 0));
    Loop loop = row_loop(cg, rows);
    LLVMValueRef m = row_load(cg, rows, x, loop.index), before = local_get(cg, type, most);
    LLVMValueRef larger = compare(cg, LLVMIntSGT, m, before);
    local_set(cg, most, choose(cg, larger, m, before));
    local_set(cg, best, choose(cg, larger, loop.index, local_get(cg, cg->i64, best)));
    loop_end(cg, &loop);
    return local_get(cg, cg->i64, best);
}

void emit_count_correct(Codegen *cg, const Node *node) {
    const Value *out = node->out[0];
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), t = rows_add(&rows, node->in[1]);
    emit_zeros(cg, node);
    rows_begin(cg, &rows);
    LLVMValueRef zero = const64(cg, 0), correct = local_new(cg, cg->i64, zero);
    nest_begin(cg, &rows.nest, &rows.space);
    LLVMValueRef best = row_best(cg, &rows, &x);
    LLVMValueRef hit = compare(cg, LLVMIntEQ, best, row_load(cg, &rows, &t, zero));
    local_set(cg, correct, add(cg, local_get(cg, cg->i64, correct), as_unsigned(cg, hit, 64)));
    nest_end(cg, &rows.nest);
    LLVMBuildAtomicRMW(cg->builder, LLVMAtomicRMWBinOpAdd, arena_at(cg, out->offset), local_get(cg, cg->i64, correct),
                       LLVMAtomicOrderingMonotonic, false);
    rows_end(cg, &rows, 3);
}

void emit_argmax(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    LLVMValueRef zero = const64(cg, 0), best = row_best(cg, &rows, &x);
    row_store(cg, &rows, &y, zero, best);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 3);
}
