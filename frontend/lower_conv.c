/* Lowering of contractions: Conv, Gemm, MatMul; and the windows that Conv and the pools share. Before: known operands. After: conv or
 * matmul with `bias` where the addend is one number a channel. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

/* --- windows --- */

static bool window_list(OnnxNode *node, const char *name, int count, int64_t absent, int64_t least, int64_t *out) {
    int given;
    const int64_t *list = node_attr_ints(node, name, &given);
    if (list != NULL && given != count)
        return node_refuse(node, "attribute '%s' has %d entries, expected %d", name, given, count);
    for (int i = 0; i < count; i++) {
        out[i] = list != NULL ? list[i] : absent;
        if (out[i] < least || out[i] > INT32_MAX)
            return node_refuse(node, "attribute '%s' holds %lld", name, (long long)out[i]);
    }
    return true;
}

static int64_t reach(const Window *window, int i) {
    return window->dilations[i] * (window->kernel[i] - 1) + 1;
}

/* Pads from auto_pad; SAME_UPPER puts the odd one at the end. */
static bool window_auto_pad(OnnxNode *node, Shape in, Window *window) {
    const char *mode = node_attr_text(node, "auto_pad", "NOTSET");
    if (strcmp(mode, "NOTSET") == 0)
        return true;
    bool upper = strcmp(mode, "SAME_UPPER") == 0;
    bool valid = strcmp(mode, "VALID") == 0;
    if (!upper && !valid && strcmp(mode, "SAME_LOWER") != 0)
        return node_refuse(node, "attribute 'auto_pad' is '%s'", mode);
    for (int i = 0; i < window->rank; i++) {
        int64_t size = in.dim[i + 2], out = (size + window->strides[i] - 1) / window->strides[i];
        int64_t total = valid ? 0 : (out - 1) * window->strides[i] + reach(window, i) - size;
        total = total < 0 ? 0 : total;
        window->pads[i] = upper ? total / 2 : total - total / 2;
        window->pads[window->rank + i] = total - window->pads[i];
    }
    return true;
}

bool node_window(OnnxNode *node, Shape in, const int64_t *kernel, bool ceil, bool dilations, Window *window) {
    *window = (Window){.rank = in.rank - 2};
    int n = window->rank;
    if (n < 1 || n > MAX_RANK - 2)
        return node_refuse(node, "takes [N, C, D...], found [%s]", shape_text(node->importer->arena, in));
    for (int i = 0; i < n; i++)
        window->dilations[i] = 1;
    if (!window_list(node, "kernel_shape", n, 0, 0, window->kernel) || !window_list(node, "strides", n, 1, 1, window->strides) ||
        !window_list(node, "pads", 2 * n, 0, 0, window->pads) || (dilations && !window_list(node, "dilations", n, 1, 1, window->dilations)))
        return false;
    bool up = ceil && node_attr_int(node, "ceil_mode", 0) != 0;
    for (int i = 0; i < n; i++) {
        if (kernel != NULL && window->kernel[i] != 0 && window->kernel[i] != kernel[i])
            return node_refuse(node, "attribute 'kernel_shape' does not agree with the weight");
        window->kernel[i] = kernel != NULL ? kernel[i] : window->kernel[i];
        if (window->kernel[i] < 1)
            return node_refuse(node, "the kernel has size %lld", (long long)window->kernel[i]);
    }
    if (!window_auto_pad(node, in, window))
        return false;
    for (int i = 0; i < n; i++) {
        int64_t low = window->pads[i], *high = &window->pads[n + i], size = in.dim[i + 2], stride = window->strides[i];
        int64_t span = size + low + *high - reach(window, i);
        if (span < 0)
            return node_refuse(node, "the window of %lld is larger than the padded input of %lld", (long long)reach(window, i),
                               (long long)(size + low + *high));
        window->out[i] = span / stride + 1;
        window->counted[i] = size + *high;
        /* A last window that would start in the padding at the end does not exist. */
        if (up && span % stride != 0 && window->out[i] * stride < size + low)
            *high += (window->out[i]++) * stride - span;
        else if (up && (window->out[i] - 1) * stride >= size + low && window->out[i] > 1)
            *high = (--window->out[i] - 1) * stride + reach(window, i) - size - low;
        if (*high < 0)
            return node_refuse(node, "ceil_mode with these pads is not supported");
    }
    return true;
}

/* --- bias --- */

/* A float initializer or constant that is zero everywhere; exporters give every convolution a bias. */
static bool is_zero_constant(OnnxNode *node, Operand *operand) {
    const OnnxTensor *tensor = operand_constant(node->importer, operand);
    if (tensor == NULL || tensor->reals == NULL)
        return false;
    for (int64_t i = 0; i < tensor->count; i++)
        if (tensor->reals[i] != 0)
            return false;
    return true;
}

bool lower_conv(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 3))
        return false;
    Shape in = node->in[0]->shape, weight = node->in[1]->shape;
    int64_t group = node_attr_int(node, "group", 1);
    Window window;
    if (weight.rank != in.rank)
        return node_refuse(node, "input of shape [%s] and weight of shape [%s] differ in rank", shape_text(node->importer->arena, in),
                           shape_text(node->importer->arena, weight));
    if (!node_window(node, in, weight.dim + 2, false, true, &window))
        return false;
    if (group < 1 || weight.dim[0] % group != 0 || in.dim[1] % group != 0 || weight.dim[1] != in.dim[1] / group)
        return node_refuse(node, "input of shape [%s], weight of shape [%s] and group %lld do not fit",
                           shape_text(node->importer->arena, in), shape_text(node->importer->arena, weight), (long long)group);
    int n = window.rank;
    Value *out = node_emit(node, OP_conv, INPUTS(node_value(node, 0), node_value(node, 1)),
                           ATTRS(ATTR_L("strides", n, window.strides), ATTR_L("pads", 2 * n, window.pads),
                                 ATTR_L("dilations", n, window.dilations), ATTR_I("group", group)));
    Operand *bias = node_in(node, 2);
    if (bias != NULL && (bias->shape.rank != 1 || bias->shape.dim[0] != weight.dim[0]))
        return node_refuse(node, "bias of shape [%s] for %lld channels", shape_text(node->importer->arena, bias->shape),
                           (long long)weight.dim[0]);
    if (bias != NULL && !is_zero_constant(node, bias)) {
        node->importer->convolutions_with_bias++;
        out = node_emit(node, OP_bias, INPUTS(out, node_value(node, 2)), ATTRS(ATTR_I("axis", 1)));
    }
    return node_set(node, 0, out);
}

/* beta * C onto [M, N]. */
static Value *gemm_add(OnnxNode *node, Value *out, double beta) {
    Shape shape = node->in[2]->shape;
    if (!shape_fits_into(shape, out->shape)) {
        node_refuse(node, "C of shape [%s] does not broadcast onto [%s]", shape_text(node->importer->arena, shape),
                    shape_text(node->importer->arena, out->shape));
        return NULL;
    }
    if (beta == 0 || is_zero_constant(node, node->in[2]))
        return out;
    Value *c = node_mul_const(node, node_value(node, 2), beta);
    int64_t columns = out->shape.dim[1];
    bool row = checked_elements(shape, ELEMENT_LIMIT) == columns && (shape.rank == 1 || (shape.rank == 2 && shape.dim[0] == 1));
    if (row && node->in[2]->fixed)
        return node_emit(node, OP_bias, INPUTS(out, node_reshape(node, c, shape_of(1, &columns))), ATTRS(ATTR_I("axis", 1)));
    return node_emit(node, OP_add, INPUTS(out, c), NO_ATTRS);
}

bool lower_gemm(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 3))
        return false;
    if (node->since < 7)
        node_attr_int(node, "broadcast", 0);
    Shape a = node->in[0]->shape, b = node->in[1]->shape;
    int64_t ta = node_attr_int(node, "transA", 0) != 0, tb = node_attr_int(node, "transB", 0) != 0;
    double alpha = node_attr_real(node, "alpha", 1), beta = node_attr_real(node, "beta", 1);
    if (a.rank != 2 || b.rank != 2 || a.dim[ta ? 0 : 1] != b.dim[tb ? 1 : 0])
        return node_refuse(node, "A of shape [%s] and B of shape [%s] do not fit%s", shape_text(node->importer->arena, a),
                           shape_text(node->importer->arena, b), ta || tb ? " (with transA, transB)" : "");
    Value *out = node_emit(node, OP_matmul, INPUTS(node_value(node, 0), node_value(node, 1)), ATTRS(ATTR_I("ta", ta), ATTR_I("tb", tb)));
    out = node_mul_const(node, out, alpha);
    if (out != NULL && node_in(node, 2) != NULL)
        out = gemm_add(node, out, beta);
    return node_set(node, 0, out);
}

bool lower_matmul(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    Shape a = node->in[0]->shape, b = node->in[1]->shape, result;
    Shape wide_a = a.rank == 1 ? (Shape){.rank = 2, .dim = {1, a.dim[0]}} : a;
    Shape wide_b = b.rank == 1 ? (Shape){.rank = 2, .dim = {b.dim[0], 1}} : b;
    bool ok = a.rank > 0 && b.rank > 0 && wide_a.dim[wide_a.rank - 1] == wide_b.dim[wide_b.rank - 2];
    Shape lead_a = ok ? shape_of(wide_a.rank - 2, wide_a.dim) : a, lead_b = ok ? shape_of(wide_b.rank - 2, wide_b.dim) : b;
    if (!ok || !shape_broadcast(lead_a, lead_b, &result))
        return node_refuse(node, "operands of shapes [%s] and [%s] do not fit", shape_text(node->importer->arena, a),
                           shape_text(node->importer->arena, b));
    if (a.rank > 1)
        result.dim[result.rank++] = wide_a.dim[wide_a.rank - 2];
    if (b.rank > 1)
        result.dim[result.rank++] = wide_b.dim[wide_b.rank - 1];
    /* Rows of a batch times one matrix are one larger product. */
    if (wide_b.rank == 2 && wide_a.rank > 2) {
        int64_t columns = wide_a.dim[wide_a.rank - 1], rows = 1;
        for (int i = 0; i < wide_a.rank - 1; i++)
            rows *= wide_a.dim[i];
        wide_a = (Shape){.rank = 2, .dim = {rows, columns}};
    }
    Value *x = node_reshape(node, node_value(node, 0), wide_a), *y = node_reshape(node, node_value(node, 1), wide_b);
    Value *out = node_emit(node, OP_matmul, INPUTS(x, y), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 0)));
    return node_set(node, 0, node_reshape(node, out, result));
}
