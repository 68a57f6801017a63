/* Lowering of ConvTranspose: the gradient of a convolution as an operator of its own. Before: known operands. After: conv_dgrad, zeros
 * where the output is longer than any window reaches, bias. Source: ONNX Operators.md, ConvTranspose. */
#include "frontend/importer.h"

#include <string.h>

typedef struct {
    int rank;
    int64_t strides[MAX_RANK], dilations[MAX_RANK], pads[2 * MAX_RANK], extra[MAX_RANK], reach[MAX_RANK], out[MAX_RANK];
} Transposed;

static bool list(OnnxNode *node, const char *name, int count, int64_t absent, int64_t least, int64_t *out) {
    int given;
    const int64_t *values = node_attr_ints(node, name, &given);
    if (values != NULL && given != count)
        return node_refuse(node, "attribute '%s' has %d entries, expected %d", name, given, count);
    for (int i = 0; i < count; i++) {
        out[i] = values != NULL ? values[i] : absent;
        if (out[i] < least || out[i] > INT32_MAX)
            return node_refuse(node, "attribute '%s' holds %lld", name, (long long)out[i]);
    }
    return true;
}

/* Pads that give the wanted output; SAME_UPPER puts the odd one at the end. Without a window that reaches so far they are negative: zeros.
 */
static void pads_for_output(Transposed *t, int i, int64_t full, bool upper) {
    int64_t total = full - t->out[i];
    if (total < 0) {
        t->pads[i] = 0;
        t->pads[t->rank + i] = total;
        return;
    }
    t->pads[i] = upper ? total / 2 : total - total / 2;
    t->pads[t->rank + i] = total - t->pads[i];
}

static bool geometry(OnnxNode *node, Shape in, Shape weight, Transposed *t) {
    int n = t->rank = in.rank - 2;
    int64_t kernel[MAX_RANK], wanted[MAX_RANK];
    if (!list(node, "strides", n, 1, 1, t->strides) || !list(node, "dilations", n, 1, 1, t->dilations) ||
        !list(node, "pads", 2 * n, 0, 0, t->pads) || !list(node, "output_padding", n, 0, 0, t->extra) ||
        !list(node, "kernel_shape", n, 0, 0, kernel) || !list(node, "output_shape", n, 0, 0, wanted))
        return false;
    const char *mode = node_attr_text(node, "auto_pad", "NOTSET");
    bool set = strcmp(mode, "NOTSET") == 0, upper = strcmp(mode, "SAME_UPPER") == 0, lower = strcmp(mode, "SAME_LOWER") == 0;
    if (!set && !upper && !lower && strcmp(mode, "VALID") != 0)
        return node_refuse(node, "attribute 'auto_pad' is '%s'", mode);
    for (int i = 0; i < n; i++) {
        int64_t size = weight.dim[i + 2];
        if (size < 1 || in.dim[i + 2] < 1 || (kernel[i] != 0 && kernel[i] != size))
            return node_refuse(node, "attribute 'kernel_shape' does not agree with the weight, or a dimension is empty");
        t->reach[i] = t->dilations[i] * (size - 1) + 1;
        int64_t full = t->strides[i] * (in.dim[i + 2] - 1) + t->extra[i] + t->reach[i];
        if (!set)
            t->pads[i] = t->pads[n + i] = 0;
        t->out[i] = upper || lower ? in.dim[i + 2] * t->strides[i] : full - t->pads[i] - t->pads[n + i];
        if (wanted[i] != 0 || upper || lower) {
            t->out[i] = wanted[i] != 0 ? wanted[i] : t->out[i];
            pads_for_output(t, i, full, upper);
        }
        if (t->out[i] < 1)
            return node_refuse(node, "its pads leave nothing of spatial dimension %d", i);
    }
    return true;
}

/* The part of the output that conv_dgrad makes: the convolution of `covered` places must have as many windows as the input has elements, no
 * more. What is missing behind it is zero. */
static Value *transposed(OnnxNode *node, Shape in, Shape weight, const Transposed *t, int64_t group) {
    int n = t->rank;
    Shape covered = {.rank = n + 2, .dim = {in.dim[0], weight.dim[1] * group}};
    int64_t pads[2 * MAX_RANK], low[MAX_RANK] = {0}, high[MAX_RANK] = {0}, interior[MAX_RANK] = {0};
    bool longer = false;
    for (int i = 0; i < n; i++) {
        int64_t reached = t->strides[i] * (in.dim[i + 2] - 1) + t->reach[i] - t->pads[i];
        int64_t size = t->out[i] < reached ? t->out[i] : reached;
        covered.dim[i + 2] = size < 1 ? 1 : size;
        high[i + 2] = t->out[i] - covered.dim[i + 2];
        pads[i] = t->pads[i];
        pads[n + i] = reached - covered.dim[i + 2];
        longer = longer || high[i + 2] > 0;
        if (pads[n + i] < 0) {
            node_refuse(node, "its pads are larger than what spatial dimension %d reaches", i);
            return NULL;
        }
    }
    Value *out = node_emit(node, OP_conv_dgrad, INPUTS(node_value(node, 0), node_value(node, 1)),
                           ATTRS(ATTR_L("strides", n, t->strides), ATTR_L("pads", 2 * n, pads), ATTR_L("dilations", n, t->dilations),
                                 ATTR_I("group", group), ATTR_L("shape", n + 2, covered.dim)));
    if (!longer)
        return out;
    return node_emit(node, OP_pad, INPUTS(out),
                     ATTRS(ATTR_L("low", n + 2, low), ATTR_L("high", n + 2, high), ATTR_L("interior", n + 2, interior)));
}

bool lower_conv_transpose(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 3))
        return false;
    Shape in = node->in[0]->shape, weight = node->in[1]->shape;
    int64_t group = node_attr_int(node, "group", 1);
    Transposed t;
    if (in.rank < 3 || weight.rank != in.rank || group < 1 || in.dim[1] % group != 0 || weight.dim[0] != in.dim[1])
        return node_refuse(node, "input of shape [%s], weight of shape [%s] and group %lld do not fit",
                           shape_text(node->importer->arena, in), shape_text(node->importer->arena, weight), (long long)group);
    if (!geometry(node, in, weight, &t))
        return false;
    Value *out = transposed(node, in, weight, &t, group);
    const Operand *bias = node_in(node, 2);
    if (bias == NULL)
        return node_set(node, 0, out);
    if (bias->shape.rank != 1 || bias->shape.dim[0] != weight.dim[1] * group)
        return node_refuse(node, "bias of shape [%s] for %lld channels", shape_text(node->importer->arena, bias->shape),
                           (long long)(weight.dim[1] * group));
    return node_set(node, 0, node_emit(node, OP_bias, INPUTS(out, node_value(node, 2)), ATTRS(ATTR_I("axis", 1))));
}
