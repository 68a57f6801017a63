/* Softmax, its logarithm and the losses on float32: docs/operators.md, "Rows", in real mode. A tile is a row. */
#include "codegen/float.h"
#include "codegen/row.h"

#include <math.h>

/* An accumulator over the elements of the row. */
static LLVMValueRef accumulator(Codegen *cg, double start) {
    return local_new(cg, cg->f32, float_const(cg, start));
}

static LLVMValueRef get(Codegen *cg, LLVMValueRef local) {
    return local_get(cg, cg->f32, local);
}

static void add_to(Codegen *cg, LLVMValueRef local, LLVMValueRef x) {
    local_set(cg, local, add_term(cg, get(cg, local), x));
}

/* A NaN stays out of the maximum and comes back by its exponential. */
static void raise(Codegen *cg, LLVMValueRef local, LLVMValueRef x) {
    LLVMValueRef most = get(cg, local);
    local_set(cg, local, choose(cg, compare(cg, LLVMIntSGT, x, most), x, most));
}

typedef struct {
    LLVMValueRef largest, sum; /* of the row; sum of e^(x - largest) */
} Softmax;

static LLVMValueRef term(Codegen *cg, LLVMValueRef largest, LLVMValueRef x) {
    return float_exp(cg, sub(cg, x, largest));
}

static Softmax softmax_row(Codegen *cg, const Rows *rows, const Row *x) {
    LLVMValueRef most = accumulator(cg, -INFINITY), sum = accumulator(cg, 0);
    Loop loop = row_loop(cg, rows);
    raise(cg, most, row_load(cg, rows, x, loop.index));
    loop_end(cg, &loop);
    Softmax soft = {.largest = get(cg, most)};
    loop = row_loop(cg, rows);
    add_to(cg, sum, term(cg, soft.largest, row_load(cg, rows, x, loop.index)));
    loop_end(cg, &loop);
    soft.sum = get(cg, sum);
    return soft;
}

static LLVMValueRef probability(Codegen *cg, const Softmax *soft, LLVMValueRef x) {
    return float_div(cg, term(cg, soft->largest, x), soft->sum);
}

static LLVMValueRef log_probability(Codegen *cg, const Softmax *soft, LLVMValueRef log_sum, LLVMValueRef x) {
    return sub(cg, sub(cg, x, soft->largest), log_sum);
}

void float_softmax(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    Softmax soft = softmax_row(cg, &rows, &x);
    Loop loop = row_loop(cg, &rows);
    row_store(cg, &rows, &y, loop.index, probability(cg, &soft, row_load(cg, &rows, &x, loop.index)));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 30);
}

static LLVMValueRef is_shown(Codegen *cg, const Rows *rows, const Row *mask, LLVMValueRef j) {
    return compare(cg, LLVMIntNE, row_load(cg, rows, mask, j), const64(cg, 0));
}

void float_masked_softmax(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), mask = rows_add_broadcast(&rows, node->in[1]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    LLVMValueRef zero = float_const(cg, 0), most = accumulator(cg, -INFINITY), sum = accumulator(cg, 0);
    Loop loop = row_loop(cg, &rows);
    LLVMValueRef shown = is_shown(cg, &rows, &mask, loop.index);
    raise(cg, most, choose(cg, shown, row_load(cg, &rows, &x, loop.index), float_const(cg, -INFINITY)));
    loop_end(cg, &loop);
    Softmax soft = {.largest = get(cg, most)};
    loop = row_loop(cg, &rows);
    shown = is_shown(cg, &rows, &mask, loop.index);
    add_to(cg, sum, choose(cg, shown, term(cg, soft.largest, row_load(cg, &rows, &x, loop.index)), zero));
    loop_end(cg, &loop);
    soft.sum = get(cg, sum);
    loop = row_loop(cg, &rows);
    shown = is_shown(cg, &rows, &mask, loop.index);
    row_store(cg, &rows, &y, loop.index, choose(cg, shown, probability(cg, &soft, row_load(cg, &rows, &x, loop.index)), zero));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 35);
}

/* y * (dy - sum of dy * y) */
void float_softmax_grad(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row dy = rows_add(&rows, node->in[0]), y = rows_add(&rows, node->in[1]), dx = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    LLVMValueRef sum = accumulator(cg, 0);
    Loop loop = row_loop(cg, &rows);
    add_to(cg, sum, mul(cg, row_load(cg, &rows, &dy, loop.index), row_load(cg, &rows, &y, loop.index)));
    loop_end(cg, &loop);
    LLVMValueRef total = get(cg, sum);
    loop = row_loop(cg, &rows);
    LLVMValueRef rest = sub(cg, row_load(cg, &rows, &dy, loop.index), total);
    row_store(cg, &rows, &dx, loop.index, mul(cg, row_load(cg, &rows, &y, loop.index), rest));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 4);
}

void float_log_softmax(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    Softmax soft = softmax_row(cg, &rows, &x);
    LLVMValueRef log_sum = float_log(cg, soft.sum);
    Loop loop = row_loop(cg, &rows);
    row_store(cg, &rows, &y, loop.index, log_probability(cg, &soft, log_sum, row_load(cg, &rows, &x, loop.index)));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 20);
}

/* dy - p * sum of dy */
void float_log_softmax_grad(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row dy = rows_add(&rows, node->in[0]), x = rows_add(&rows, node->in[1]), dx = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    Softmax soft = softmax_row(cg, &rows, &x);
    LLVMValueRef sum = accumulator(cg, 0);
    Loop loop = row_loop(cg, &rows);
    add_to(cg, sum, row_load(cg, &rows, &dy, loop.index));
    loop_end(cg, &loop);
    LLVMValueRef total = get(cg, sum);
    loop = row_loop(cg, &rows);
    LLVMValueRef p = probability(cg, &soft, row_load(cg, &rows, &x, loop.index));
    row_store(cg, &rows, &dx, loop.index, sub(cg, row_load(cg, &rows, &dy, loop.index), mul(cg, p, total)));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 30);
}

void float_cross_entropy(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), t = rows_add(&rows, node->in[1]), y = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    Softmax soft = softmax_row(cg, &rows, &x);
    LLVMValueRef label, valid = row_label(cg, &rows, &t, &label);
    LLVMValueRef loss = negate(cg, log_probability(cg, &soft, float_log(cg, soft.sum), row_load(cg, &rows, &x, label)));
    row_store(cg, &rows, &y, const64(cg, 0), choose(cg, valid, loss, float_const(cg, 0)));
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 15);
}

/* (p - [j = t]) * dy, 0 where ignored */
void float_cross_entropy_grad(Codegen *cg, const Node *node) {
    Rows rows = rows_open(node, node->in[0]);
    Row x = rows_add(&rows, node->in[0]), t = rows_add(&rows, node->in[1]), dy = rows_add(&rows, node->in[2]);
    Row dx = rows_add(&rows, node->out[0]);
    rows_begin(cg, &rows);
    nest_begin(cg, &rows.nest, &rows.space);
    Softmax soft = softmax_row(cg, &rows, &x);
    LLVMValueRef label, valid = row_label(cg, &rows, &t, &label), zero = float_const(cg, 0);
    LLVMValueRef factor = row_load(cg, &rows, &dy, const64(cg, 0));
    Loop loop = row_loop(cg, &rows);
    LLVMValueRef p = probability(cg, &soft, row_load(cg, &rows, &x, loop.index));
    LLVMValueRef hit = choose(cg, compare(cg, LLVMIntEQ, loop.index, label), float_const(cg, 1), zero);
    row_store(cg, &rows, &dx, loop.index, choose(cg, valid, mul(cg, sub(cg, p, hit), factor), zero));
    loop_end(cg, &loop);
    nest_end(cg, &rows.nest);
    rows_end(cg, &rows, 30);
}
