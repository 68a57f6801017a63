/* Interpreter: softmax, losses and what else works along one axis. Before: narrow logits (8 bits), labels of any value.
 * After: docs/operators.md, "Rows". */
#include "ir/eval.h"
#include "ir/functions.h"
#include "ir/tables.h"

#include <math.h>
#include <stdlib.h>

/* A tensor seen as rows along an axis: element j of row r is at start(r) + j * step. Labels and losses have one element a row. */
typedef struct {
    int64_t rows, length, step;
} Rows;

static Rows rows_of(Shape shape, int64_t axis) {
    Rows rows = {.rows = 1, .length = shape.dim[axis], .step = 1};
    for (int d = 0; d < shape.rank; d++) {
        rows.rows *= d == axis ? 1 : shape.dim[d];
        rows.step *= d > axis ? shape.dim[d] : 1;
    }
    if (rows.length == 0)
        rows.rows = 0;
    return rows;
}

static int64_t row_start(const Rows *rows, int64_t row) {
    return row / rows->step * rows->length * rows->step + row % rows->step;
}

static bool ignored(const Node *node, int64_t label) {
    return attr_find(node, "ignore_index") != NULL && label == attr_int(node, "ignore_index", 0);
}

/* Position of the label of a row among its elements, or -1 if it is ignored or no class. */
static int64_t label_of(const Node *node, const Rows *rows, int64_t label) {
    return ignored(node, label) || label < 0 || label >= rows->length ? -1 : label;
}

/* --- softmax of a row --- */

static int64_t interpolate(const int32_t table[TABLE_ROW], int64_t x) {
    int64_t i = x >> 8, r = x & 255;
    return table[i] + (((table[i + 1] - table[i]) * r + 128) >> 8);
}

/* 2^-(z · 2^e · log2 e), 31 fraction bits. */
static int64_t exponential(int64_t z, int e) {
    int64_t t = eval_align_saturated(z * LOG2E, 14 - (int64_t)e, (int64_t)40 << 16);
    int64_t v = interpolate(table_exp2, (1 << 16) - (t & 0xFFFF));
    return (v << 14) >> (t >> 16);
}

static int64_t largest(const int64_t *m, const Rows *rows) {
    int64_t top = m[0];
    for (int64_t j = 1; j < rows->length; j++)
        top = m[j * rows->step] > top ? m[j * rows->step] : top;
    return top;
}

static int64_t exponential_sum(const int64_t *m, int e, const Rows *rows) {
    int64_t top = largest(m, rows), sum = 0;
    for (int64_t j = 0; j < rows->length; j++)
        sum += exponential(top - m[j * rows->step], e);
    return sum;
}

/* Probability of element j, 15 fraction bits. */
static int64_t probability(const int64_t *m, int e, const Rows *rows, int64_t top, int64_t sum, int64_t j) {
    return (exponential(top - m[j * rows->step], e) * (1 << 15) + sum / 2) / sum;
}

/* Natural logarithm of sum / 2^31, 16 fraction bits. */
static int64_t logarithm(int64_t sum) {
    int b = intc_bit_length((uint64_t)sum);
    int64_t r = b > 17 ? sum >> (b - 17) : intc_shift_left(sum, 17 - b);
    int64_t l = interpolate(table_log2, r - (1 << 16));
    return intc_round_even(((int64_t)(b - 32) * (1 << 16) + l) * LN2, 30);
}

/* -log of the probability of element j, 16 fraction bits. */
static int64_t loss(const int64_t *m, int e, const Rows *rows, int64_t top, int64_t lambda, int64_t j) {
    return eval_align_saturated(top - m[j * rows->step], -((int64_t)e + 16), (int64_t)1 << 30) + lambda;
}

static double real_log_sum(const double *x, const Rows *rows) {
    double top = x[0], sum = 0;
    for (int64_t j = 1; j < rows->length; j++)
        top = x[j * rows->step] > top ? x[j * rows->step] : top;
    for (int64_t j = 0; j < rows->length; j++)
        sum += exp(x[j * rows->step] - top);
    return top + log(sum);
}

/* --- softmax and its logarithm --- */

static void softmax_row(const Rows *rows, bool exact, const Tensor *x, Tensor *y, int64_t at) {
    if (exact) {
        const int64_t *m = x->mantissa + at;
        int64_t top = largest(m, rows), sum = exponential_sum(m, x->exponent, rows);
        for (int64_t j = 0; j < rows->length; j++)
            y->mantissa[at + j * rows->step] = probability(m, x->exponent, rows, top, sum, j);
    } else {
        double log_sum = real_log_sum(x->real + at, rows);
        for (int64_t j = 0; j < rows->length; j++)
            y->real[at + j * rows->step] = exp(x->real[at + j * rows->step] - log_sum);
    }
}

void eval_softmax(const Eval *eval, const Node *node) {
    Rows rows = rows_of(node->in[0]->shape, attr_int(node, "axis", 0));
    for (int64_t r = 0; r < rows.rows; r++)
        softmax_row(&rows, eval_exact(eval, node->out[0]), eval_in(eval, node, 0), eval_out(eval, node, 0), row_start(&rows, r));
}

/* The row as if the elements where mask is 0 were not there. */
static void masked_row(const Rows *rows, bool exact, const Tensor *x, Tensor *y, const int64_t *mask, int64_t at) {
    int64_t top = INT64_MIN, sum = 0;
    double real_top = -INFINITY, real_sum = 0;
    for (int64_t j = 0; j < rows->length; j++) {
        int64_t i = at + j * rows->step;
        if (mask[j] != 0 && exact)
            top = x->mantissa[i] > top ? x->mantissa[i] : top;
        else if (mask[j] != 0)
            real_top = x->real[i] > real_top ? x->real[i] : real_top;
    }
    for (int64_t j = 0; j < rows->length; j++) {
        int64_t i = at + j * rows->step;
        if (mask[j] != 0 && exact)
            sum += exponential(top - x->mantissa[i], x->exponent);
        else if (mask[j] != 0)
            real_sum += exp(x->real[i] - real_top);
    }
    for (int64_t j = 0; j < rows->length; j++) {
        int64_t i = at + j * rows->step;
        if (exact)
            y->mantissa[i] = mask[j] != 0 ? (exponential(top - x->mantissa[i], x->exponent) * (1 << 15) + sum / 2) / sum : 0;
        else
            y->real[i] = mask[j] != 0 ? exp(x->real[i] - real_top) / real_sum : 0;
    }
}

void eval_masked_softmax(const Eval *eval, const Node *node) {
    Shape shape = node->in[0]->shape;
    Rows rows = rows_of(shape, attr_int(node, "axis", 0));
    int64_t n = shape_elements(shape), *whole = calloc((size_t)n + 1, sizeof *whole), *mask = calloc((size_t)rows.length + 1, sizeof *mask);
    if (whole == NULL || mask == NULL)
        internal_error("out of memory");
    Walk walk = walk_broadcast(shape, node->in[1]->shape);
    for (int64_t i = 0; i < n; i++, walk_next(&walk))
        whole[i] = eval_in(eval, node, 1)->mantissa[walk.offset];
    for (int64_t r = 0; r < rows.rows; r++) {
        for (int64_t j = 0; j < rows.length; j++)
            mask[j] = whole[row_start(&rows, r) + j * rows.step];
        masked_row(&rows, eval_exact(eval, node->out[0]), eval_in(eval, node, 0), eval_out(eval, node, 0), mask, row_start(&rows, r));
    }
    free(whole);
    free(mask);
}

/* Position of the first of the largest elements. */
void eval_argmax(const Eval *eval, const Node *node) {
    Rows rows = rows_of(node->in[0]->shape, attr_int(node, "axis", 0));
    const Tensor *x = eval_in(eval, node, 0);
    bool exact = eval_exact(eval, node->in[0]);
    for (int64_t r = 0; r < rows.rows; r++) {
        int64_t start = row_start(&rows, r), best = 0;
        for (int64_t j = 1; j < rows.length; j++) {
            int64_t i = start + j * rows.step, k = start + best * rows.step;
            if (exact ? x->mantissa[i] > x->mantissa[k] : x->real[i] > x->real[k])
                best = j;
        }
        eval_out(eval, node, 0)->mantissa[r] = best;
    }
}

void eval_softmax_grad(const Eval *eval, const Node *node) {
    Rows rows = rows_of(node->in[0]->shape, attr_int(node, "axis", 0));
    const Tensor *dy = eval_in(eval, node, 0), *y = eval_in(eval, node, 1);
    Tensor *dx = eval_out(eval, node, 0);
    int64_t one = (int64_t)1 << intc_saturate(-(int64_t)y->exponent, 0, 15);
    for (int64_t r = 0; r < rows.rows; r++) {
        int64_t start = row_start(&rows, r), end = start + rows.length * rows.step, sum = 0;
        double real_sum = 0;
        for (int64_t i = start; i < end; i += rows.step)
            if (eval_exact(eval, node->out[0]))
                sum += dy->mantissa[i] * y->mantissa[i];
            else
                real_sum += dy->real[i] * y->real[i];
        for (int64_t i = start; i < end; i += rows.step)
            if (eval_exact(eval, node->out[0]))
                dx->mantissa[i] = y->mantissa[i] * (dy->mantissa[i] * one - sum);
            else
                dx->real[i] = y->real[i] * (dy->real[i] - real_sum);
    }
}

static void log_softmax_row(const Rows *rows, bool exact, const Tensor *x, Tensor *y, int64_t at) {
    if (exact) {
        const int64_t *m = x->mantissa + at;
        int64_t top = largest(m, rows), lambda = logarithm(exponential_sum(m, x->exponent, rows));
        for (int64_t j = 0; j < rows->length; j++)
            y->mantissa[at + j * rows->step] = -loss(m, x->exponent, rows, top, lambda, j);
    } else {
        double log_sum = real_log_sum(x->real + at, rows);
        for (int64_t j = 0; j < rows->length; j++)
            y->real[at + j * rows->step] = x->real[at + j * rows->step] - log_sum;
    }
}

void eval_log_softmax(const Eval *eval, const Node *node) {
    Rows rows = rows_of(node->in[0]->shape, attr_int(node, "axis", 0));
    for (int64_t r = 0; r < rows.rows; r++)
        log_softmax_row(&rows, eval_exact(eval, node->out[0]), eval_in(eval, node, 0), eval_out(eval, node, 0), row_start(&rows, r));
}

/* The output is the probabilities first, then is combined with dy in place. */
void eval_log_softmax_grad(const Eval *eval, const Node *node) {
    Rows rows = rows_of(node->in[0]->shape, attr_int(node, "axis", 0));
    bool exact = eval_exact(eval, node->out[0]);
    const Tensor *dy = eval_in(eval, node, 0);
    Tensor *dx = eval_out(eval, node, 0);
    for (int64_t r = 0; r < rows.rows; r++) {
        int64_t start = row_start(&rows, r), end = start + rows.length * rows.step, sum = 0;
        double real_sum = 0;
        softmax_row(&rows, exact, eval_in(eval, node, 1), dx, start);
        for (int64_t i = start; i < end; i += rows.step)
            if (exact)
                sum += dy->mantissa[i];
            else
                real_sum += dy->real[i];
        for (int64_t i = start; i < end; i += rows.step)
            if (exact)
                dx->mantissa[i] = dy->mantissa[i] * (1 << 15) - dx->mantissa[i] * sum;
            else
                dx->real[i] = dy->real[i] - dx->real[i] * real_sum;
    }
}

/* --- labels --- */

void eval_cross_entropy(const Eval *eval, const Node *node) {
    Rows rows = rows_of(node->in[0]->shape, attr_int(node, "axis", 1));
    const Tensor *x = eval_in(eval, node, 0), *t = eval_in(eval, node, 1);
    Tensor *y = eval_out(eval, node, 0);
    for (int64_t r = 0; r < rows.rows; r++) {
        int64_t at = row_start(&rows, r), label = label_of(node, &rows, t->mantissa[r]);
        if (eval_exact(eval, node->out[0])) {
            const int64_t *m = x->mantissa + at;
            int64_t lambda = logarithm(exponential_sum(m, x->exponent, &rows));
            y->mantissa[r] = label < 0 ? 0 : loss(m, x->exponent, &rows, largest(m, &rows), lambda, label);
        } else {
            y->real[r] = label < 0 ? 0 : real_log_sum(x->real + at, &rows) - x->real[at + label * rows.step];
        }
    }
}

void eval_cross_entropy_grad(const Eval *eval, const Node *node) {
    Rows rows = rows_of(node->in[0]->shape, attr_int(node, "axis", 1));
    bool exact = eval_exact(eval, node->out[0]);
    const Tensor *t = eval_in(eval, node, 1), *dy = eval_in(eval, node, 2);
    Tensor *dx = eval_out(eval, node, 0);
    for (int64_t r = 0; r < rows.rows; r++) {
        int64_t at = row_start(&rows, r), label = label_of(node, &rows, t->mantissa[r]);
        softmax_row(&rows, exact, eval_in(eval, node, 0), dx, at);
        for (int64_t j = 0; j < rows.length; j++) {
            int64_t i = at + j * rows.step;
            if (exact)
                dx->mantissa[i] = label < 0 ? 0 : (dx->mantissa[i] - (j == label ? 1 << 15 : 0)) * dy->mantissa[r];
            else
                dx->real[i] = label < 0 ? 0 : (dx->real[i] - (j == label)) * dy->real[r];
        }
    }
}

void eval_pick(const Eval *eval, const Node *node) {
    Rows rows = rows_of(node->in[0]->shape, attr_int(node, "axis", 1));
    const Tensor *x = eval_in(eval, node, 0), *t = eval_in(eval, node, 1);
    Tensor *y = eval_out(eval, node, 0);
    for (int64_t r = 0; r < rows.rows; r++) {
        int64_t at = row_start(&rows, r), label = label_of(node, &rows, t->mantissa[r]);
        if (eval_exact(eval, node->out[0]))
            y->mantissa[r] = label < 0 ? 0 : -x->mantissa[at + label * rows.step];
        else
            y->real[r] = label < 0 ? 0 : -x->real[at + label * rows.step];
    }
}

void eval_pick_grad(const Eval *eval, const Node *node) {
    Rows rows = rows_of(node->out[0]->shape, attr_int(node, "axis", 1));
    bool exact = eval_exact(eval, node->out[0]);
    const Tensor *dy = eval_in(eval, node, 0), *t = eval_in(eval, node, 1);
    Tensor *dx = eval_out(eval, node, 0);
    eval_clear(exact, dx, shape_elements(node->out[0]->shape));
    for (int64_t r = 0; r < rows.rows; r++) {
        int64_t label = label_of(node, &rows, t->mantissa[r]), i = row_start(&rows, r) + label * rows.step;
        if (label >= 0 && exact)
            dx->mantissa[i] = -dy->mantissa[r];
        else if (label >= 0)
            dx->real[i] = -dy->real[r];
    }
}

void eval_label_weight(const Eval *eval, const Node *node) {
    const Tensor *t = eval_in(eval, node, 0), *w = node->in_count > 1 ? eval_in(eval, node, 1) : NULL;
    Tensor *y = eval_out(eval, node, 0);
    /* Without weights every label counts but the ignored one. */
    Rows classes = {.length = w != NULL ? node->in[1]->shape.dim[0] : 0};
    int64_t n = shape_elements(node->out[0]->shape);
    for (int64_t i = 0; i < n; i++) {
        int64_t label = label_of(node, &classes, t->mantissa[i]);
        bool counts = w != NULL ? label >= 0 : !ignored(node, t->mantissa[i]);
        if (eval_exact(eval, node->out[0]))
            y->mantissa[i] = !counts ? 0 : w == NULL ? 1 : w->mantissa[label];
        else
            y->real[i] = !counts ? 0 : w == NULL ? 1 : w->real[label];
    }
}

void eval_count_correct(const Eval *eval, const Node *node) {
    const Value *value = node->in[0];
    Rows rows = rows_of(value->shape, attr_int(node, "axis", 1));
    const Tensor *x = eval_in(eval, node, 0), *t = eval_in(eval, node, 1);
    int64_t correct = 0;
    for (int64_t r = 0; r < rows.rows; r++) {
        int64_t at = row_start(&rows, r), best = 0;
        for (int64_t j = 1; j < rows.length; j++) {
            int64_t i = at + j * rows.step, k = at + best * rows.step;
            if (eval_exact(eval, value) ? x->mantissa[i] > x->mantissa[k] : x->real[i] > x->real[k])
                best = j;
        }
        correct += best == t->mantissa[r];
    }
    eval_out(eval, node, 0)->mantissa[0] = correct;
}
