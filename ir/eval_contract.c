/* Interpreter: contractions. Before: narrow operands, so that 64-bit sums are exact. After: every sum of products of docs/operators.md,
 * in the order of the loops (only real mode can tell). */
#include "ir/eval.h"

#include <stdlib.h>

static inline void multiply_add(bool exact, Tensor *to, int64_t i, const Tensor *a, int64_t j, const Tensor *b, int64_t k) {
    if (exact)
        to->mantissa[i] += a->mantissa[j] * b->mantissa[k];
    else
        to->real[i] += a->real[j] * b->real[k];
}

/* The leading dimensions of a matmul operand, for broadcasting over those of the result. */
static Walk matrices(Shape out, Shape in) {
    Walk walk = {.shape = out};
    walk.shape.rank = out.rank - 2;
    int64_t stride[MAX_RANK];
    eval_strides(in, stride);
    for (int d = 0; d < in.rank - 2; d++)
        walk.stride[out.rank - in.rank + d] = in.dim[d] == 1 ? 0 : stride[d];
    return walk;
}

void eval_matmul(const Eval *eval, const Node *node) {
    bool exact = eval_exact(eval, node->out[0]);
    Shape as = node->in[0]->shape, bs = node->in[1]->shape, cs = node->out[0]->shape;
    int64_t ta = attr_int(node, "ta", 0), tb = attr_int(node, "tb", 0);
    int64_t rows = cs.dim[cs.rank - 2], columns = cs.dim[cs.rank - 1], depth = as.dim[as.rank - (ta ? 2 : 1)];
    int64_t ai = ta ? 1 : depth, ak = ta ? rows : 1, bk = tb ? 1 : columns, bj = tb ? depth : 1;
    const Tensor *a = eval_in(eval, node, 0), *b = eval_in(eval, node, 1);
    Tensor *c = eval_out(eval, node, 0);
    int64_t total = shape_elements(cs);
    eval_clear(exact, c, total);
    Walk wa = matrices(cs, as), wb = matrices(cs, bs);
    for (int64_t base = 0; base < total; base += rows * columns) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < depth; k++)
                for (int64_t j = 0; j < columns; j++)
                    multiply_add(exact, c, base + i * columns + j, a, wa.offset + i * ai + k * ak, b, wb.offset + k * bk + j * bj);
        walk_next(&wa);
        walk_next(&wb);
    }
}

/* One convolution y = x * w, whichever two of the three are known. */
typedef struct {
    int64_t batch, groups, in_channels, out_channels; /* channels of one group */
    int64_t image, kernel, positions;                 /* elements of one channel of x, of one filter plane, of one channel of y */
    int64_t *place;                                   /* [positions * kernel]: offset in the channel of x, -1 in the padding */
} Conv;

static int64_t product(Shape shape) {
    int64_t n = 1;
    for (int d = 2; d < shape.rank; d++)
        n *= shape.dim[d];
    return n;
}

static int64_t place(const Node *node, Shape x, const Walk *y, const Walk *w) {
    int n;
    const int64_t *strides = attr_ints(node, "strides", &n), *pads = attr_ints(node, "pads", &n);
    const int64_t *dilations = attr_ints(node, "dilations", &n);
    int64_t offset = 0;
    for (int d = 0; d < x.rank - 2; d++) {
        int64_t at = y->index[d] * strides[d] - pads[d] + w->index[d] * dilations[d];
        if (at < 0 || at >= x.dim[d + 2])
            return -1;
        offset = offset * x.dim[d + 2] + at;
    }
    return offset;
}

static Shape spatial(Shape shape) {
    return shape_of(shape.rank - 2, shape.dim + 2);
}

static Conv conv_new(const Node *node, Shape x, Shape w, Shape y) {
    int64_t groups = attr_int(node, "group", 1);
    Conv conv = {.batch = x.dim[0],
                 .groups = groups,
                 .in_channels = x.dim[1] / groups,
                 .out_channels = y.dim[1] / groups,
                 .image = product(x),
                 .kernel = product(w),
                 .positions = product(y)};
    int64_t count = conv.positions * conv.kernel;
    conv.place = calloc(count > 0 ? (size_t)count : 1, sizeof *conv.place);
    if (conv.place == NULL)
        internal_error("out of memory");
    Walk wy = {.shape = spatial(y)};
    for (int64_t p = 0; p < conv.positions; p++) {
        Walk ww = {.shape = spatial(w)};
        for (int64_t k = 0; k < conv.kernel; k++) {
            conv.place[p * conv.kernel + k] = place(node, x, &wy, &ww);
            walk_next(&ww);
        }
        walk_next(&wy);
    }
    return conv;
}

typedef enum { FIND_Y, FIND_X, FIND_W } Find;

/* All products x·w of one input channel plane, one filter plane and one output channel plane. */
static void conv_plane(const Conv *conv, Find find, bool exact, Tensor *x, int64_t xi, Tensor *w, int64_t wi, Tensor *y, int64_t yi) {
    const int64_t *at = conv->place;
    for (int64_t p = 0; p < conv->positions; p++)
        for (int64_t k = 0; k < conv->kernel; k++, at++) {
            if (*at < 0)
                continue;
            if (find == FIND_Y)
                multiply_add(exact, y, yi + p, x, xi + *at, w, wi + k);
            else if (find == FIND_X)
                multiply_add(exact, x, xi + *at, y, yi + p, w, wi + k);
            else
                multiply_add(exact, w, wi + k, x, xi + *at, y, yi + p);
        }
}

static void conv_run(const Conv *conv, Find find, bool exact, Tensor *x, Tensor *w, Tensor *y) {
    for (int64_t n = 0; n < conv->batch; n++)
        for (int64_t g = 0; g < conv->groups; g++)
            for (int64_t o = g * conv->out_channels; o < (g + 1) * conv->out_channels; o++)
                for (int64_t c = 0; c < conv->in_channels; c++) {
                    int64_t xi = ((n * conv->groups + g) * conv->in_channels + c) * conv->image;
                    int64_t wi = (o * conv->in_channels + c) * conv->kernel;
                    int64_t yi = (n * conv->groups * conv->out_channels + o) * conv->positions;
                    conv_plane(conv, find, exact, x, xi, w, wi, y, yi);
                }
}

static void conv_node(const Eval *eval, const Node *node, Find find, const Value *x, const Value *w, const Value *y) {
    bool exact = eval_exact(eval, node->out[0]);
    Conv conv = conv_new(node, x->shape, w->shape, y->shape);
    eval_clear(exact, eval_out(eval, node, 0), shape_elements(node->out[0]->shape));
    conv_run(&conv, find, exact, &eval->tensors[x->id], &eval->tensors[w->id], &eval->tensors[y->id]);
    free(conv.place);
}

void eval_conv(const Eval *eval, const Node *node) {
    conv_node(eval, node, FIND_Y, node->in[0], node->in[1], node->out[0]);
}

void eval_conv_dgrad(const Eval *eval, const Node *node) {
    conv_node(eval, node, FIND_X, node->out[0], node->in[1], node->in[0]);
}

void eval_conv_wgrad(const Eval *eval, const Node *node) {
    conv_node(eval, node, FIND_W, node->in[0], node->out[0], node->in[1]);
}
