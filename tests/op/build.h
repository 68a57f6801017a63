/* Graphs for tests: values of made-up numbers, one-op graphs from cases.def, checks that count failures. Header only; a test is one C file.
 */
#ifndef INTC_TESTS_OP_BUILD_H
#define INTC_TESTS_OP_BUILD_H

#include "ir/ir.h"
#include "passes/grad.h"
#include "passes/passes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A list attribute: L("perm", 1, 0). */
#define L(key, ...) ATTR_L(key, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), ((int64_t[]){__VA_ARGS__}))

/* One row of cases.def. inputs: a word an input, "r2x3" a real tensor, "d4" one away from zero, "i3:2x4" integers in [0, 3). */
typedef struct {
    const char *name;
    Op op;
    const char *inputs;
    const Attr *attrs;
    int attr_count;
} Case;

enum { CASE_INPUTS = 8 };

static int failures;

#define CHECK(condition, ...)                                                                                                              \
    do {                                                                                                                                   \
        if (!(condition)) {                                                                                                                \
            failures++;                                                                                                                    \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                                                \
            fprintf(stderr, __VA_ARGS__);                                                                                                  \
            fputc('\n', stderr);                                                                                                           \
        }                                                                                                                                  \
    } while (0)

static inline uint64_t random_next(uint64_t *state) {
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static inline int64_t random_below(uint64_t *state, int64_t n) {
    return (int64_t)(random_next(state) % (uint64_t)n);
}

/* n different numbers k/64 with |k| in [low, 127]: exact in 8 bits; no two tie and none is near zero. */
static inline double *random_grid(Arena *arena, int64_t n, int low, bool positive, uint64_t *state) {
    double *real = arena_alloc(arena, (size_t)n, sizeof *real);
    int span = positive ? 128 - low : 2 * (128 - low);
    int *left = arena_alloc(arena, (size_t)span, sizeof *left);
    int remaining = 0;
    for (int64_t i = 0; i < n; i++) {
        if (remaining == 0)
            for (remaining = 0; remaining < span; remaining++)
                left[remaining] = remaining < 128 - low ? low + remaining : -(low + remaining - (128 - low));
        int pick = (int)random_below(state, remaining);
        real[i] = left[pick] / 64.0;
        left[pick] = left[--remaining];
    }
    return real;
}

static inline Shape parse_shape(const char *text) {
    Shape shape = {0};
    while (*text >= '0' && *text <= '9') {
        char *end;
        shape.dim[shape.rank++] = strtoll(text, &end, 10);
        text = *end == 'x' ? end + 1 : end;
    }
    return shape;
}

static inline Value *integer_const(Graph *graph, const char *name, Shape shape, int64_t classes, uint64_t *state) {
    int64_t n = shape_elements(shape);
    int64_t *mantissa = arena_alloc(graph->arena, (size_t)n, sizeof *mantissa);
    for (int64_t i = 0; i < n; i++)
        mantissa[i] = random_below(state, classes);
    Value *value = graph_integer(graph, VALUE_CONST, name, shape, type_for_bound(classes - 1), classes - 1);
    value->mantissa = mantissa;
    return value;
}

static inline Value *real_value(Graph *graph, ValueKind kind, const char *name, Shape shape, int low, bool positive, uint64_t *state) {
    Value *value = graph_value(graph, kind, name, shape);
    value->real = random_grid(graph->arena, shape_elements(shape), low, positive, state);
    return value;
}

/* The inputs of a case as values of that kind (integers are constants); returns their number. */
static inline int case_inputs(Graph *graph, const Case *test, ValueKind kind, Value **in, uint64_t *state) {
    char *text = arena_strdup(graph->arena, test->inputs), *rest = NULL;
    int count = 0;
    for (char *word = strtok_r(text, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
        const char *name = arena_printf(graph->arena, "in%d", count);
        if (word[0] == 'i') {
            char *shape;
            int64_t classes = strtoll(word + 1, &shape, 10);
            in[count++] = integer_const(graph, name, parse_shape(shape + 1), classes, state);
        } else {
            bool denominator = word[0] == 'd';
            in[count++] = real_value(graph, kind, name, parse_shape(word + 1), denominator ? 64 : 9, denominator, state);
        }
    }
    return count;
}

/* The axes that statistics of a shape are taken over; returns their number. */
static inline int axes_of(Shape stats, int64_t axes[MAX_RANK]) {
    int count = 0;
    for (int i = 0; i < stats.rank; i++)
        if (stats.dim[i] == 1)
            axes[count++] = i;
    return count;
}

/* Statistics of x over the dimensions where `stats` is 1: 3 values, mean, code and variance. */
static inline void statistics(Graph *graph, Value *x, Shape stats, bool centered, Value *made[3]) {
    int64_t axes[MAX_RANK], count = shape_elements(x->shape) / shape_elements(stats);
    int axis_count = axes_of(stats, axes);
    const Attr sum[] = {ATTR_L("axes", axis_count, axes), ATTR_I("keepdims", 1)};
    Value *squares = build(graph, OP_mul, NULL, INPUTS(x, x), NO_ATTRS);
    Value *s = build(graph, OP_reduce_sum, NULL, INPUTS(x), sum, 2), *q = build(graph, OP_reduce_sum, NULL, INPUTS(squares), sum, 2);
    made[0] = build(graph, OP_share, NULL, INPUTS(s), ATTRS(ATTR_I("count", count), ATTR_I("fraction", NORM_MEAN_FRACTION)));
    made[2] = build(graph, OP_variance, NULL, INPUTS(s, q), ATTRS(ATTR_I("count", count), ATTR_I("centered", centered)));
    made[1] = build(graph, OP_rsqrt, NULL, INPUTS(made[2]), ATTRS(ATTR_I("count", count), ATTR_R("epsilon", 0x1p-10)));
}

/* The line of x with one scale and one shift for each mean made[0] with the code made[1]. */
static inline Value *norm_line(Graph *graph, Value *x, Value *const made[2], Value *scale, Value *shift) {
    Value *all[4] = {x};
    for (int part = 0; part < 3; part++)
        all[1 + part] = build(graph, OP_norm_line, NULL, INPUTS(made[1], made[0], scale, shift),
                              ATTRS(ATTR_I("part", part), ATTR_I("count", shape_elements(x->shape) / shape_elements(made[0]->shape))));
    return build(graph, OP_norm_apply, NULL, all, 4, NULL, 0);
}

/* The sum of g times normalised x over what shares a mean, from the sums of g * x and of g. */
static inline Value *norm_dot(Graph *graph, Value *g, Value *x, Value *const made[2]) {
    Shape shape = made[0]->shape;
    int64_t axes[MAX_RANK], count = shape_elements(x->shape) / shape_elements(shape);
    int axis_count = axes_of(shape, axes);
    const Attr attrs[] = {ATTR_L("axes", axis_count, axes), ATTR_I("keepdims", 1)};
    Value *product = build(graph, OP_mul, NULL, INPUTS(g, x), NO_ATTRS), *sums[2];
    for (int i = 0; i < 2; i++)
        sums[i] = build(graph, OP_reduce_sum, NULL, INPUTS(i == 0 ? product : g), attrs, 2);
    return build(graph, OP_norm_dot, NULL, INPUTS(sums[0], sums[1], made[0], made[1]), ATTRS(ATTR_I("count", count)));
}

/* The gradient of a normalisation from made[0], the mean, and made[1], the code; attrs: `centered` alone. */
static inline Value *norm_gradient(Graph *graph, Value *g, Value *x, Value *const made[2], Value *scale, const Attr *attrs) {
    Value *product = build(graph, OP_normalize, NULL, INPUTS(x, made[0], made[1], g), attrs, 1), *means[2];
    Shape shape = made[0]->shape;
    int64_t axes[MAX_RANK], each = shape_elements(x->shape) / shape_elements(shape);
    int axis_count = axes_of(shape, axes);
    for (int i = 0; i < 2; i++) {
        Value *sum =
            build(graph, OP_reduce_sum, NULL, INPUTS(i == 0 ? g : product), ATTRS(ATTR_L("axes", axis_count, axes), ATTR_I("keepdims", 1)));
        means[i] = build(graph, OP_share, NULL, INPUTS(sum),
                         ATTRS(ATTR_I("count", each), ATTR_I("fraction", i == 0 ? NORM_SUM_FRACTION : NORM_PRODUCT_FRACTION)));
    }
    return grad_norm_input(graph, product->def, (Value *[]){g, x, made[0], made[1], means[0], means[1], scale}, each);
}

/* Levels of variances between 1 and 16. */
static inline Value *levels(Graph *graph, Value *x) {
    for (int i = 0; i < 2; i++)
        x = build(graph, OP_mul, NULL, INPUTS(x, x), NO_ATTRS);
    return build(graph, OP_inv_sqrt, NULL, INPUTS(x), ATTRS(ATTR_R("epsilon", 0x1p-10), ATTR_I("part", INV_SQRT_LEVEL)));
}

/* Do operands of this op only make sense as statistics of another? */
static inline bool takes_statistics(Op op) {
    return op == OP_normalize || op == OP_norm_apply || op == OP_norm_grad || op == OP_norm_dot;
}

/* The node of a case. Statistics of x are made from it: the case gives an integer tensor of their shape. */
static inline Value *case_node(Graph *graph, const Case *test, Value **in, int count) {
    Value *stats[3];
    if (test->op == OP_equalize || test->op == OP_restore)
        in[1] = levels(graph, in[1]);
    bool grad = test->op == OP_norm_grad || test->op == OP_norm_dot;
    if (!takes_statistics(test->op))
        return build(graph, test->op, NULL, in, count, test->attrs, test->attr_count);
    Value *x = in[grad], *scale = count > 2 + grad ? in[2 + grad] : NULL;
    Shape shape = in[grad + 1]->shape;
    statistics(graph, x, shape, test->attr_count == 0 || test->attrs[0].integer != 0, stats);
    if (test->op == OP_norm_apply)
        return norm_line(graph, x, stats, scale, in[3]);
    if (test->op == OP_norm_dot)
        return norm_dot(graph, in[0], x, stats);
    if (!grad)
        return build(graph, OP_normalize, NULL, (Value *[]){x, stats[0], stats[1], scale}, scale != NULL ? 4 : 3, test->attrs,
                     test->attr_count);
    return norm_gradient(graph, in[0], x, stats, scale, test->attrs);
}

/* Where the element at a logical index lies, in elements. */
static inline int64_t place_of(const Value *value, const int64_t *index) {
    int64_t stride[MAX_RANK], at = 0;
    value_strides(value, stride);
    for (int d = 0; d < value->shape.rank; d++)
        at += index[d] * stride[d];
    return at;
}

/* A scalar: the sum of x times fixed random numbers, so that no gradient is the same everywhere. */
static inline Value *weighted_total(Graph *graph, Value *x, uint64_t *state) {
    Value *weights = real_value(graph, VALUE_CONST, "weights", x->shape, 9, false, state);
    Value *product = build(graph, OP_mul, NULL, INPUTS(x, weights), NO_ATTRS);
    int64_t axes[MAX_RANK];
    for (int i = 0; i < x->shape.rank; i++)
        axes[i] = i;
    return build(graph, OP_reduce_sum, NULL, INPUTS(product), ATTRS(ATTR_L("axes", x->shape.rank, axes), ATTR_I("keepdims", 0)));
}

static inline bool differentiable(Op op) {
    static const char *const grads[OP_COUNT] = {
#define OP(op_name, kind, least, most, results, letters, rule, bound_hook, infer_hook, grad_hook) [OP_##op_name] = #grad_hook,
#include "ir/ops.def"
#undef OP
    };
    return strcmp(grads[op], "none") != 0 && strcmp(grads[op], "forbidden") != 0;
}

static inline int report(const char *test, int checks) {
    if (failures > 0)
        fprintf(stderr, "%s: %d of the checks failed\n", test, failures);
    else
        printf("%s: %d cases hold\n", test, checks);
    return failures > 0;
}

#endif
