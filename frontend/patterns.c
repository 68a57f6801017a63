/* Functions that exporters spell with primitives, found while a node is lowered by looking at what made its operands. What was lowered
 * before stays in the graph without readers and is removed by dce. */
#include "frontend/importer.h"

#include <math.h>
#include <string.h>

/* value = factor · base, with the constant factors in front of it taken off. */
typedef struct {
    const Value *base;
    double factor;
} Scaled;

static bool made_by(const Value *value, Op op) {
    return value->kind == VALUE_NODE && value->def->op == op;
}

static Scaled scaled(const Value *value) {
    Scaled s = {value, 1};
    while (made_by(s.base, OP_mul_const)) {
        s.factor *= attr_real(s.base->def, "value", 1);
        s.base = s.base->def->in[0];
    }
    return s;
}

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-4 * fabs(b);
}

/* The argument of a curve of that name, else NULL. */
static Value *curve_argument(const Value *value, const char *name) {
    return made_by(value, OP_curve) && strcmp(attr_text(value->def, "function", ""), name) == 0 ? value->def->in[0] : NULL;
}

/* Whether the value is a constant of one element, and that element. */
static bool is_constant(const Value *value, double expected) {
    return value->kind == VALUE_CONST && value->real != NULL && shape_elements(value->shape) == 1 && near(value->real[0], expected);
}

/* x of x + c, else NULL. */
static Value *without_addend(const Value *value, double c) {
    if (!made_by(value, OP_add))
        return NULL;
    Value *const *in = value->def->in;
    return is_constant(in[1], c) ? in[0] : is_constant(in[0], c) ? in[1] : NULL;
}

static Value *gated(OnnxNode *node, Value *x, const char *name, double factor) {
    Value *y = node_emit(node, OP_gated, INPUTS(x), ATTRS(ATTR_S("function", name)));
    return near(factor, 1) ? y : node_mul_const(node, y, factor);
}

Value *pattern_swish(OnnxNode *node, Value *x, double alpha) {
    return alpha == 1 ? gated(node, x, "swish", 1) : gated(node, node_mul_const(node, x, alpha), "swish", 1 / alpha);
}

Value *pattern_softplus(OnnxNode *node, Value *x) {
    Value *tail = node_emit(node, OP_curve, INPUTS(x), ATTRS(ATTR_S("function", "softplus_tail")));
    Value *hinge = node_emit(node, OP_gated, INPUTS(x), ATTRS(ATTR_S("function", "hinge")));
    return node_emit(node, OP_add, INPUTS(hinge, tail), NO_ATTRS);
}

/* The argument of pattern_softplus's result. */
static Value *softplus_argument(const Value *value) {
    if (!made_by(value, OP_add) || !made_by(value->def->in[0], OP_gated))
        return NULL;
    Value *x = curve_argument(value->def->in[1], "softplus_tail");
    return x == value->def->in[0]->def->in[0] ? x : NULL;
}

/* y = √(2/π)·(x + 0.044715·x³) */
static bool is_gelu_polynomial(const Value *y, const Value *x) {
    Scaled outer = scaled(y);
    if (!near(outer.factor, sqrt(2 / M_PI)) || !made_by(outer.base, OP_add))
        return false;
    Value *const *in = outer.base->def->in;
    Scaled cube = scaled(in[0] == x ? in[1] : in[0]);
    if ((in[0] != x && in[1] != x) || !near(cube.factor, 0.044715) || !made_by(cube.base, OP_mul))
        return false;
    Value *const *parts = cube.base->def->in;
    const Value *square = parts[0] == x ? parts[1] : parts[0];
    return (parts[0] == x || parts[1] == x) && made_by(square, OP_mul) && square->def->in[0] == x && square->def->in[1] == x;
}

/* a·b where b is a function of a alone. */
static Value *product(OnnxNode *node, Value *a, const Value *b) {
    Scaled left = scaled(a), right = scaled(b);
    double factor = left.factor * right.factor;
    Value *x = made_by(a, OP_mul_const) ? NULL : a;
    for (Value *at = a; x == NULL; at = at->def->in[0])
        x = made_by(at->def->in[0], OP_mul_const) ? NULL : at->def->in[0];
    const Value *argument = curve_argument(right.base, "sigmoid");
    if (argument != NULL && scaled(argument).base == x && isfinite(1 / scaled(argument).factor)) {
        double alpha = scaled(argument).factor;
        Value *y = pattern_swish(node, x, alpha);
        return factor == 1 ? y : node_mul_const(node, y, factor);
    }
    if (curve_argument(right.base, "hard_sigmoid") == x)
        return gated(node, x, "hard_swish", factor);
    if (made_by(right.base, OP_clip) && attr_real(right.base->def, "min", -1) == 0 && attr_real(right.base->def, "max", 0) == 6 &&
        without_addend(right.base->def->in[0], 3) == x)
        return gated(node, x, "hard_swish", 6 * factor);
    argument = curve_argument(right.base, "tanh");
    if (argument != NULL && softplus_argument(argument) == x)
        return gated(node, x, "mish", factor);
    const Value *shifted = without_addend(right.base, 1);
    if (shifted == NULL)
        return NULL;
    argument = curve_argument(shifted, "erf");
    if (argument != NULL && scaled(argument).base == x && near(scaled(argument).factor, sqrt(0.5)))
        return gated(node, x, "gelu", 2 * factor);
    argument = curve_argument(shifted, "tanh");
    if (argument != NULL && is_gelu_polynomial(argument, x))
        return gated(node, x, "gelu_tanh", 2 * factor);
    return NULL;
}

Value *pattern_mul(OnnxNode *node, Value *a, Value *b) {
    Value *y = product(node, a, b);
    return y != NULL ? y : product(node, b, a);
}

Value *pattern_mul_const(OnnxNode *node, Value *x, double factor) {
    if (x == NULL || !made_by(x, OP_mul_const) || !made_by(x->def->in[0], OP_gated))
        return NULL;
    double both = attr_real(x->def, "value", 1) * factor;
    return near(both, 1) ? x->def->in[0] : node_mul_const(node, x->def->in[0], both);
}

Value *pattern_where(const Value *mask, const Value *x, Value *y) {
    enum { LINEAR = 15 }; /* from here on softplus(x) is x, to 2^-21 */
    if (softplus_argument(y) != x || mask == NULL || !made_by(mask, OP_positive) || !made_by(mask->def->in[0], OP_sub))
        return NULL;
    Value *const *in = mask->def->in[0]->def->in;
    bool constant = in[1]->kind == VALUE_CONST && in[1]->real != NULL && shape_elements(in[1]->shape) == 1;
    return in[0] == x && constant && in[1]->real[0] >= LINEAR ? y : NULL;
}

Value *pattern_log(OnnxNode *node, Value *x) {
    if (x == NULL)
        return NULL;
    Value *argument = curve_argument(x, "sigmoid");
    if (argument != NULL) /* x − softplus(x): exact in integers */
        return node_emit(node, OP_sub, INPUTS(argument, pattern_softplus(node, argument)), NO_ATTRS);
    if (made_by(x, OP_softmax))
        return node_emit(node, OP_log_softmax, INPUTS(x->def->in[0]), x->def->attrs, x->def->attr_count);
    Value *grown = without_addend(x, 1);
    return grown != NULL && made_by(grown, OP_exp) ? pattern_softplus(node, grown->def->in[0]) : NULL;
}
