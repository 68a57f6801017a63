/* Lowering of operators that combine a window of powers: LRN, LpPool, GlobalLpPool. Before: known operands. After: powers, `sumpool` or a
 * sum, and what is made of it. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

/* |x|^p; p = 2 needs no magnitude. */
static Value *magnitude_power(OnnxNode *node, Value *x, double p) {
    if (p == 2)
        return node_emit(node, OP_mul, INPUTS(x, x), NO_ATTRS);
    Value *magnitude = node_emit(node, OP_abs, INPUTS(x), NO_ATTRS);
    return p == 1 ? magnitude : node_power(node, magnitude, p);
}

/* The attribute is a real number in version 1, later an integer. */
static bool exponent_of(OnnxNode *node, double *p) {
    const Onnx__AttributeProto *attr = node_attr(node, "p");
    *p = attr == NULL ? 2 : attr->type == ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT ? (double)attr->f : (double)attr->i;
    return (*p >= 1 && *p <= 16) || node_refuse(node, "attribute 'p' is %g, expected 1 to 16", *p);
}

bool lower_lp_pool(OnnxNode *node) {
    Window window;
    double p;
    if (!node_check_inputs(node, 1, 1) || !exponent_of(node, &p) ||
        !node_window(node, node->in[0]->shape, NULL, node->since >= 18, node->since >= 18, &window))
        return false;
    int n = window.rank;
    Value *powers = magnitude_power(node, node_value(node, 0), p);
    Value *sum = node_emit(node, OP_sumpool, INPUTS(powers),
                           ATTRS(ATTR_L("kernel", n, window.kernel), ATTR_L("strides", n, window.strides),
                                 ATTR_L("pads", 2 * n, window.pads), ATTR_L("dilations", n, window.dilations)));
    return node_set(node, 0, p == 1 ? sum : node_power(node, sum, 1 / p));
}

bool lower_global_lp_pool(OnnxNode *node) {
    double p;
    if (!node_check_inputs(node, 1, 1) || !exponent_of(node, &p))
        return false;
    Shape in = node->in[0]->shape;
    int64_t axes[MAX_RANK];
    for (int i = 2; i < in.rank; i++)
        axes[i - 2] = i;
    if (in.rank < 3)
        return node_refuse(node, "takes [N, C, D...], found [%s]", shape_text(node->importer->arena, in));
    Value *powers = magnitude_power(node, node_value(node, 0), p);
    Value *sum = node_emit(node, OP_reduce_sum, INPUTS(powers), ATTRS(ATTR_L("axes", in.rank - 2, axes), ATTR_I("keepdims", 1)));
    return node_set(node, 0, p == 1 ? sum : node_power(node, sum, 1 / p));
}

/* x / (bias + alpha / size * the sum of x^2 over `size` channels)^beta. */
bool lower_lrn(OnnxNode *node) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    double alpha = node_attr_real(node, "alpha", 1e-4), beta = node_attr_real(node, "beta", 0.75), bias = node_attr_real(node, "bias", 1);
    int64_t size = node_attr_int(node, "size", 0);
    Shape in = node->in[0]->shape;
    if (in.rank < 2 || size < 1 || size > INT16_MAX || !(bias > 0) || !(alpha >= 0))
        return node_refuse(node, "takes [N, C, ...], a positive 'size' and 'bias', found [%s], %lld and %g",
                           shape_text(node->importer->arena, in), (long long)size, bias);
    int64_t inner = 1;
    for (int i = 2; i < in.rank; i++)
        inner *= in.dim[i];
    /* Channels are the first spatial dimension of the window. */
    Shape planes = shape_of(4, (int64_t[]){in.dim[0], 1, in.dim[1], inner});
    int64_t kernel[] = {size, 1}, ones[] = {1, 1}, pads[] = {(size - 1) / 2, 0, size - 1 - (size - 1) / 2, 0};
    Value *x = node_value(node, 0), *squares = x == NULL ? NULL : node_emit(node, OP_mul, INPUTS(x, x), NO_ATTRS);
    Value *sum =
        node_emit(node, OP_sumpool, INPUTS(node_reshape(node, squares, planes)),
                  ATTRS(ATTR_L("kernel", 2, kernel), ATTR_L("strides", 2, ones), ATTR_L("pads", 4, pads), ATTR_L("dilations", 2, ones)));
    sum = node_mul_const(node, node_reshape(node, sum, in), alpha / (double)size);
    Value *base = node_emit(node, OP_add, INPUTS(sum, node_const_value(node, (Shape){0}, &bias)), NO_ATTRS);
    return node_set(node, 0, base == NULL ? NULL : node_emit(node, OP_mul, INPUTS(x, node_power(node, base, -beta)), NO_ATTRS));
}
