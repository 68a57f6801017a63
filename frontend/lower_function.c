/* Lowering of smooth and piecewise functions. Before: known operands. After: `curve` and `gated` of a table, exp, log, sqrt, and what can
 * be composed of them exactly; log of a sigmoid or of a softmax is one stable function. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <math.h>
#include <string.h>

static Value *gated(OnnxNode *node, Value *x, const char *name) {
    return node_emit(node, OP_gated, INPUTS(x), ATTRS(ATTR_S("function", name)));
}

static Value *curve(OnnxNode *node, Value *x, const char *name) {
    return node_emit(node, OP_curve, INPUTS(x), ATTRS(ATTR_S("function", name)));
}

static Value *relu(OnnxNode *node, Value *x) {
    return node_emit(node, OP_relu, INPUTS(x), NO_ATTRS);
}

static Value *sum(OnnxNode *node, Value *a, Value *b) {
    return node_emit(node, OP_add, INPUTS(a, b), NO_ATTRS);
}

static Value *scalar(OnnxNode *node, double value) {
    return node_const_value(node, (Shape){0}, &value);
}

static Value *reciprocal(OnnxNode *node, Value *x) {
    return node_emit(node, OP_div, INPUTS(scalar(node, 1), x), NO_ATTRS);
}

/* The only input, if the node has no other. */
static Value *argument(OnnxNode *node) {
    return node_check_inputs(node, 1, 1) ? node_value(node, 0) : NULL;
}

static bool lower_curve(OnnxNode *node, const char *name) {
    return node_set(node, 0, curve(node, argument(node), name));
}

static bool lower_gated(OnnxNode *node, const char *name) {
    return node_set(node, 0, gated(node, argument(node), name));
}

bool lower_sigmoid(OnnxNode *node) {
    return lower_curve(node, "sigmoid");
}

bool lower_tanh(OnnxNode *node) {
    return lower_curve(node, "tanh");
}

bool lower_erf(OnnxNode *node) {
    return lower_curve(node, "erf");
}

bool lower_sin(OnnxNode *node) {
    return lower_curve(node, "sin");
}

bool lower_cos(OnnxNode *node) {
    return lower_curve(node, "cos");
}

bool lower_hard_swish(OnnxNode *node) {
    return lower_gated(node, "hard_swish");
}

bool lower_mish(OnnxNode *node) {
    return lower_gated(node, "mish");
}

bool lower_gelu(OnnxNode *node) {
    const char *form = node_attr_text(node, "approximate", "none");
    if (strcmp(form, "none") != 0 && strcmp(form, "tanh") != 0)
        return node_refuse(node, "attribute 'approximate' is \"%s\", expected \"none\" or \"tanh\"", form);
    return lower_gated(node, strcmp(form, "tanh") == 0 ? "gelu_tanh" : "gelu");
}

/* x·σ(αx) = swish(αx)/α. */
bool lower_swish(OnnxNode *node) {
    double alpha = node_attr_real(node, "alpha", 1);
    Value *x = argument(node);
    if (!isfinite(alpha) || (alpha != 0 && !isfinite(1 / alpha)))
        return node_refuse(node, "attribute 'alpha' is %g", alpha);
    if (alpha == 0)
        return node_set(node, 0, node_mul_const(node, x, 0.5));
    return node_set(node, 0, alpha == 1 ? gated(node, x, "swish") : pattern_swish(node, x, alpha));
}

/* --- linear on one side --- */

bool lower_softplus(OnnxNode *node) {
    return node_set(node, 0, pattern_softplus(node, argument(node)));
}

/* scale·(max(x, 0) + α·(e^min(x/β, 0) − 1)). The hinge reads the same 8 bits as the curve: their derivatives must agree on the sign of x.
 */
static Value *exponential_unit(OnnxNode *node, double alpha, double beta, double scale) {
    Value *x = argument(node);
    Value *below = curve(node, beta == 1 ? x : node_mul_const(node, x, 1 / beta), "exp_below");
    Value *y = sum(node, gated(node, x, "hinge"), alpha == 1 ? below : node_mul_const(node, below, alpha));
    return scale == 1 ? y : node_mul_const(node, y, scale);
}

bool lower_elu(OnnxNode *node) {
    return node_set(node, 0, exponential_unit(node, node_attr_real(node, "alpha", 1), 1, 1));
}

bool lower_selu(OnnxNode *node) {
    double alpha = node_attr_real(node, "alpha", 1.67326319217681884765625);
    return node_set(node, 0, exponential_unit(node, alpha, 1, node_attr_real(node, "gamma", 1.05070102214813232421875)));
}

bool lower_celu(OnnxNode *node) {
    double alpha = node_attr_real(node, "alpha", 1);
    if (alpha == 0 || !isfinite(1 / alpha))
        return node_refuse(node, "attribute 'alpha' is %g", alpha);
    return node_set(node, 0, exponential_unit(node, alpha, alpha, 1));
}

bool lower_hard_sigmoid(OnnxNode *node) {
    double alpha = node_attr_real(node, "alpha", 0.2), beta = node_attr_real(node, "beta", 0.5);
    Value *x = argument(node);
    if (beta == 0.5) /* the table's line is x/6 + 1/2 */
        return node_set(node, 0, curve(node, fabs(6 * alpha - 1) < 1e-6 ? x : node_mul_const(node, x, 6 * alpha), "hard_sigmoid"));
    Value *line = sum(node, node_mul_const(node, x, alpha), scalar(node, beta));
    return node_set(node, 0, node_clip(node, line, 0, 1));
}

bool lower_thresholded_relu(OnnxNode *node) {
    double alpha = node_attr_real(node, "alpha", 1);
    Value *x = argument(node);
    Value *mask = node_emit(node, OP_inside, INPUTS(x), ATTRS(ATTR_R("min", alpha)));
    return node_set(node, 0, mask == NULL ? NULL : node_emit(node, OP_gate, INPUTS(x, mask), NO_ATTRS));
}

/* max(x, 0) + slope·(x − max(x, 0)): at 0 the derivative is the slope. */
bool lower_prelu(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    double alpha;
    Value *x = node_value(node, 0);
    if (x != NULL && node_scalar_constant(node, 1, &alpha) && fabs(alpha) <= 64 && node->in[1]->shape.rank <= x->shape.rank)
        return node_set(node, 0, node_emit(node, OP_leaky_relu, INPUTS(x), ATTRS(ATTR_R("alpha", alpha))));
    Value *slope = node_value(node, 1);
    if (x == NULL || slope == NULL)
        return false;
    Shape shape = slope->shape;
    if (node->since < 7 && shape.rank == 1 && x->shape.rank > 2) /* one slope a channel */
        for (; shape.rank < x->shape.rank - 1; shape.rank++)
            shape.dim[shape.rank] = 1;
    if (!shape_fits_into(shape, x->shape))
        return node_refuse(node, "slope of shape [%s] does not fit [%s]", shape_text(node->importer->arena, shape),
                           shape_text(node->importer->arena, x->shape));
    if (shape.rank != slope->shape.rank)
        slope = node_reshape(node, slope, shape);
    Value *above = relu(node, x), *below = node_emit(node, OP_sub, INPUTS(x, above), NO_ATTRS);
    return node_set(node, 0, sum(node, above, node_emit(node, OP_mul, INPUTS(below, slope), NO_ATTRS)));
}

bool lower_softsign(OnnxNode *node) {
    Value *x = argument(node);
    Value *below = sum(node, node_emit(node, OP_abs, INPUTS(x), NO_ATTRS), scalar(node, 1));
    return node_set(node, 0, node_emit(node, OP_div, INPUTS(x, below), NO_ATTRS));
}

bool lower_abs(OnnxNode *node) {
    return node_set(node, 0, node_emit(node, OP_abs, INPUTS(argument(node)), NO_ATTRS));
}

/* --- exp, log, powers --- */

bool lower_exp(OnnxNode *node) {
    return node_set(node, 0, node_emit(node, OP_exp, INPUTS(argument(node)), NO_ATTRS));
}

bool lower_log(OnnxNode *node) {
    Value *x = argument(node), *known = pattern_log(node, x);
    return node_set(node, 0, known != NULL ? known : node_emit(node, OP_log, INPUTS(x), NO_ATTRS));
}

bool lower_sqrt(OnnxNode *node) {
    return node_set(node, 0, node_emit(node, OP_sqrt, INPUTS(argument(node)), NO_ATTRS));
}

bool lower_reciprocal(OnnxNode *node) {
    return node_set(node, 0, reciprocal(node, argument(node)));
}

/* By squaring, n >= 1. */
static Value *integer_power(OnnxNode *node, Value *x, int n) {
    Value *power = NULL;
    for (; n > 0; n >>= 1) {
        if (n % 2 == 1)
            power = power == NULL ? x : node_emit(node, OP_mul, INPUTS(power, x), NO_ATTRS);
        if (n > 1)
            x = node_emit(node, OP_mul, INPUTS(x, x), NO_ATTRS);
    }
    return power;
}

Value *node_power(OnnxNode *node, Value *x, double p) {
    enum { MOST = 16 };
    if (p == 0)
        return sum(node, node_mul_const(node, x, 0), scalar(node, 1));
    if (p < 0)
        return reciprocal(node, node_power(node, x, -p));
    if (p == 0.5)
        return node_emit(node, OP_sqrt, INPUTS(x), NO_ATTRS);
    if (p == floor(p) && p <= MOST)
        return integer_power(node, x, (int)p);
    return node_emit(node, OP_exp, INPUTS(node_mul_const(node, node_emit(node, OP_log, INPUTS(x), NO_ATTRS), p)), NO_ATTRS);
}

/* Other than whole and half exponents: e^(p·ln x), for positive x. */
bool lower_pow(OnnxNode *node) {
    Value *x, *p;
    double power;
    /* A whole exponent of rank 0 belongs to the formula: x may be negative, and then nothing can be learned of it. */
    Operand *exponent = node_in(node, 1);
    if (exponent != NULL && exponent->learns && exponent->shape.rank == 0 && exponent->value == NULL) {
        const OnnxTensor *number = node_constant(node, 1, "the exponent");
        if (number == NULL)
            return false;
        exponent->learns = number->reals[0] != floor(number->reals[0]);
    }
    if (!node_operands(node, &x, &p))
        return false;
    if (node_scalar_constant(node, 1, &power) && isfinite(power))
        return node_set(node, 0, node_broadcast_like(node, node_power(node, x, power), x, p));
    Value *product = node_emit(node, OP_mul, INPUTS(node_emit(node, OP_log, INPUTS(x), NO_ATTRS), p), NO_ATTRS);
    return node_set(node, 0, node_emit(node, OP_exp, INPUTS(product), NO_ATTRS));
}

/* --- max, min --- */

/* max(a, b) = a + max(b − a, 0), min(a, b) = a − max(a − b, 0). */
static bool lower_extreme(OnnxNode *node, bool most) {
    if (!node_check_inputs(node, 1, INT32_MAX))
        return false;
    Value *result = node_value(node, 0);
    double limit;
    for (int i = 1; i < node->in_count && result != NULL; i++) {
        Value *next = node_value(node, i), *rest;
        Shape both;
        if (next == NULL)
            return false;
        if (node->since < 8 ? !shape_equal(result->shape, next->shape) : !shape_broadcast(result->shape, next->shape, &both))
            return node_refuse(node, "input %d of shape [%s] does not fit [%s]", i, shape_text(node->importer->arena, next->shape),
                               shape_text(node->importer->arena, result->shape));
        if (node_scalar_constant(node, i, &limit) && next->shape.rank <= result->shape.rank) {
            result = node_clip(node, result, most ? limit : -INFINITY, most ? INFINITY : limit);
            continue;
        }
        rest = most ? node_emit(node, OP_sub, INPUTS(next, result), NO_ATTRS) : node_emit(node, OP_sub, INPUTS(result, next), NO_ATTRS);
        result = node_emit(node, most ? OP_add : OP_sub, INPUTS(result, relu(node, rest)), NO_ATTRS);
    }
    return node_set(node, 0, result);
}

bool lower_max(OnnxNode *node) {
    return lower_extreme(node, true);
}

bool lower_min(OnnxNode *node) {
    return lower_extreme(node, false);
}
