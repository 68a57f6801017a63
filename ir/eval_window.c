/* Interpreter: pooling windows over the spatial dimensions of N C D1 … Dk. Before: attributes have one entry a spatial dimension.
 * After: docs/operators.md, "Reductions and windows". */
#include "ir/eval.h"

typedef struct {
    Shape image, window, positions; /* spatial dimensions only */
    int64_t image_size, window_size, position_count, planes;
    const int64_t *strides, *pads, *dilations;
} Pool;

static int64_t size(Shape shape) {
    return shape_elements(shape);
}

/* x: the side of the image, y: the side of the pooled result. */
static Pool pool_new(const Node *node, Shape x, Shape y) {
    int n;
    Pool pool = {.image = shape_of(x.rank - 2, x.dim + 2), .positions = shape_of(y.rank - 2, y.dim + 2), .planes = x.dim[0] * x.dim[1]};
    const int64_t *kernel = attr_ints(node, "kernel", &n);
    pool.window = shape_of(n, kernel);
    pool.strides = attr_ints(node, "strides", &n);
    pool.pads = attr_ints(node, "pads", &n);
    pool.dilations = attr_ints(node, "dilations", &n);
    pool.image_size = size(pool.image);
    pool.window_size = size(pool.window);
    pool.position_count = size(pool.positions);
    return pool;
}

/* Offset in the plane of the image of one place of one window; -1 in the padding. */
static int64_t pool_place(const Pool *pool, const Walk *position, const int64_t *place) {
    int64_t offset = 0;
    for (int d = 0; d < pool->image.rank; d++) {
        int64_t at = position->index[d] * pool->strides[d] - pool->pads[d] + place[d] * pool->dilations[d];
        if (at < 0 || at >= pool->image.dim[d])
            return -1;
        offset = offset * pool->image.dim[d] + at;
    }
    return offset;
}

static bool larger(bool exact, const Tensor *x, int64_t i, int64_t j) {
    return exact ? x->mantissa[i] > x->mantissa[j] : x->real[i] > x->real[j];
}

static void maximum(const Pool *pool, bool exact, const Tensor *x, int64_t base, const Walk *position, Tensor *y, Tensor *offset,
                    int64_t at) {
    int64_t best = -1, best_place = 0;
    Walk window = {.shape = pool->window};
    for (int64_t k = 0; k < pool->window_size; k++, walk_next(&window)) {
        int64_t i = pool_place(pool, position, window.index);
        if (i >= 0 && (best < 0 || larger(exact, x, base + i, best))) {
            best = base + i;
            best_place = k;
        }
    }
    offset->mantissa[at] = best_place;
    if (best >= 0)
        eval_copy(exact, y, at, x, best);
}

void eval_maxpool(const Eval *eval, const Node *node) {
    Pool pool = pool_new(node, node->in[0]->shape, node->out[0]->shape);
    bool exact = eval_exact(eval, node->out[0]);
    Tensor *y = eval_out(eval, node, 0);
    eval_clear(exact, y, shape_elements(node->out[0]->shape));
    for (int64_t plane = 0; plane < pool.planes; plane++) {
        Walk position = {.shape = pool.positions};
        for (int64_t p = 0; p < pool.position_count; p++, walk_next(&position))
            maximum(&pool, exact, eval_in(eval, node, 0), plane * pool.image_size, &position, y, eval_out(eval, node, 1),
                    plane * pool.position_count + p);
    }
}

void eval_maxpool_grad(const Eval *eval, const Node *node) {
    Pool pool = pool_new(node, node->out[0]->shape, node->in[0]->shape);
    bool exact = eval_exact(eval, node->out[0]);
    const Tensor *dy = eval_in(eval, node, 0), *offset = eval_in(eval, node, 1);
    Tensor *dx = eval_out(eval, node, 0);
    eval_clear(exact, dx, shape_elements(node->out[0]->shape));
    for (int64_t plane = 0; plane < pool.planes; plane++) {
        Walk position = {.shape = pool.positions};
        for (int64_t p = 0; p < pool.position_count; p++, walk_next(&position)) {
            int64_t at = plane * pool.position_count + p, rest = offset->mantissa[at], place[MAX_RANK];
            for (int d = pool.window.rank - 1; d >= 0; d--) {
                place[d] = rest % pool.window.dim[d];
                rest /= pool.window.dim[d];
            }
            int64_t i = pool_place(&pool, &position, place);
            if (i >= 0)
                eval_accumulate(exact, dx, plane * pool.image_size + i, dy, at);
        }
    }
}

/* Adds every place of every window to its result, or the result's gradient to every place. */
static void sum_windows(const Pool *pool, bool exact, const Tensor *from, Tensor *to, bool gradient) {
    for (int64_t plane = 0; plane < pool->planes; plane++) {
        Walk position = {.shape = pool->positions};
        for (int64_t p = 0; p < pool->position_count; p++, walk_next(&position)) {
            Walk window = {.shape = pool->window};
            for (int64_t k = 0; k < pool->window_size; k++, walk_next(&window)) {
                int64_t i = pool_place(pool, &position, window.index);
                int64_t image = plane * pool->image_size + i, result = plane * pool->position_count + p;
                if (i >= 0)
                    eval_accumulate(exact, to, gradient ? image : result, from, gradient ? result : image);
            }
        }
    }
}

void eval_sumpool(const Eval *eval, const Node *node) {
    Pool pool = pool_new(node, node->in[0]->shape, node->out[0]->shape);
    bool exact = eval_exact(eval, node->out[0]);
    eval_clear(exact, eval_out(eval, node, 0), shape_elements(node->out[0]->shape));
    sum_windows(&pool, exact, eval_in(eval, node, 0), eval_out(eval, node, 0), false);
}

void eval_sumpool_grad(const Eval *eval, const Node *node) {
    Pool pool = pool_new(node, node->out[0]->shape, node->in[0]->shape);
    bool exact = eval_exact(eval, node->out[0]);
    eval_clear(exact, eval_out(eval, node, 0), shape_elements(node->out[0]->shape));
    sum_windows(&pool, exact, eval_in(eval, node, 0), eval_out(eval, node, 0), true);
}
