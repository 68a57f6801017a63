/* Shape inference of convolutions and pools over N C D1 ... Dk. Before and after: as infer.c. */
#include "ir/infer.h"
#include "ir/ir.h"

/* The spatial geometry of a window op. */
typedef struct {
    int rank; /* k */
    const int64_t *kernel, *strides, *pads, *dilations;
} Window;

static bool geometry(const Node *node, Diag *diag, int rank, const int64_t *kernel, Window *window) {
    window->rank = rank;
    window->kernel = kernel;
    window->strides = infer_list(node, diag, "strides", rank, 1);
    window->pads = infer_list(node, diag, "pads", 2 * rank, 0);
    window->dilations = infer_list(node, diag, "dilations", rank, 1);
    return window->strides != NULL && window->pads != NULL && window->dilations != NULL;
}

/* floor((in + pads - dilation*(kernel-1) - 1) / stride) + 1 in every spatial dimension; refuses an empty result. */
static bool output_size(const Node *node, Diag *diag, const Window *window, const int64_t *in, int64_t *out) {
    for (int i = 0; i < window->rank; i++) {
        int64_t room, reach;
        if (__builtin_add_overflow(window->pads[i], window->pads[window->rank + i], &room) || __builtin_add_overflow(room, in[i], &room) ||
            __builtin_mul_overflow(window->dilations[i], window->kernel[i] - 1, &reach) || reach >= INT64_MAX / 2)
            return infer_refuse(node, diag, "window too large in spatial dimension %d", i);
        if (window->kernel[i] < 1 || room < reach + 1)
            return infer_refuse(node, diag,
                                "a window of %lld (dilation %lld) does not fit %lld places with padding in spatial dimension %d",
                                (long long)window->kernel[i], (long long)window->dilations[i], (long long)room, i);
        out[i] = (room - reach - 1) / window->strides[i] + 1;
    }
    return true;
}

static bool conv_output(const Node *node, Diag *diag, Shape x, Shape w, Shape *y) {
    Window window;
    int64_t group = attr_int(node, "group", 1);
    if (x.rank < 3 || x.rank > 5 || w.rank != x.rank)
        return infer_refuse(node, diag, "input %s and weight %s, expected N C D1 to D3", shape_text(node->graph->arena, x),
                            shape_text(node->graph->arena, w));
    if (group < 1 || w.dim[0] % group != 0 || x.dim[1] != w.dim[1] * group)
        return infer_refuse(node, diag, "%lld groups: %lld channels and weight %s", (long long)group, (long long)x.dim[1],
                            shape_text(node->graph->arena, w));
    if (!geometry(node, diag, x.rank - 2, w.dim + 2, &window))
        return false;
    *y = x;
    y->dim[1] = w.dim[0];
    return output_size(node, diag, &window, x.dim + 2, y->dim + 2);
}

bool infer_conv(Node *node, Diag *diag) {
    Shape y;
    return conv_output(node, diag, node->in[0]->shape, node->in[1]->shape, &y) && infer_out(node, 0, y);
}

/* dgrad and wgrad: `shape` must be the operand that the forward convolution had. */
static bool conv_gradient(Node *node, Diag *diag, Shape x, Shape w, Shape dy, Shape result) {
    Shape y;
    if (!conv_output(node, diag, x, w, &y))
        return false;
    if (!shape_equal(y, dy))
        return infer_refuse(node, diag, "gradient %s, expected %s", shape_text(node->graph->arena, dy), shape_text(node->graph->arena, y));
    return infer_out(node, 0, result);
}

static bool shape_list(Node *node, Diag *diag, int rank, Shape *shape) {
    const int64_t *dims = infer_list(node, diag, "shape", rank, 0);
    if (dims == NULL)
        return false;
    *shape = shape_of(rank, dims);
    return true;
}

bool infer_conv_dgrad(Node *node, Diag *diag) {
    Shape x;
    return shape_list(node, diag, node->in[0]->shape.rank, &x) && conv_gradient(node, diag, x, node->in[1]->shape, node->in[0]->shape, x);
}

bool infer_conv_wgrad(Node *node, Diag *diag) {
    Shape w;
    return shape_list(node, diag, node->in[0]->shape.rank, &w) && conv_gradient(node, diag, node->in[0]->shape, w, node->in[1]->shape, w);
}

static bool pool_output(const Node *node, Diag *diag, Shape x, Shape *y, int64_t *places) {
    Window window;
    if (x.rank < 3 || x.rank > 5)
        return infer_refuse(node, diag, "input %s, expected N C D1 to D3", shape_text(node->graph->arena, x));
    const int64_t *kernel = infer_list(node, diag, "kernel", x.rank - 2, 1);
    if (kernel == NULL || !geometry(node, diag, x.rank - 2, kernel, &window))
        return false;
    *places = 1;
    for (int i = 0; i < window.rank; i++)
        if (__builtin_mul_overflow(*places, kernel[i], places))
            return infer_refuse(node, diag, "window too large");
    *y = x;
    return output_size(node, diag, &window, x.dim + 2, y->dim + 2);
}

bool infer_pool(Node *node, Diag *diag) {
    Shape y;
    int64_t places = 0;
    if (!pool_output(node, diag, node->in[0]->shape, &y, &places))
        return false;
    infer_out(node, 0, y);
    if (node->op == OP_maxpool)
        infer_integer_out(node, 1, y, places <= 127 ? T_I8 : places <= 32767 ? T_I16 : T_I32, places - 1);
    return true;
}

bool infer_pool_grad(Node *node, Diag *diag) {
    Shape x, y;
    int64_t places = 0;
    if (!shape_list(node, diag, node->in[0]->shape.rank, &x) || !pool_output(node, diag, x, &y, &places))
        return false;
    if (!shape_equal(y, node->in[0]->shape))
        return infer_refuse(node, diag, "gradient %s, expected %s", shape_text(node->graph->arena, node->in[0]->shape),
                            shape_text(node->graph->arena, y));
    return infer_out(node, 0, x);
}
