/* Lowering of the optimizers of ai.onnx.preview.training, as arithmetic on their inputs: R, T, then for every tensor X its gradient G and
 * what the optimizer keeps. Before: known operands, T constant. After: IR. intc's own training does not use them. Source: ONNX
 * Operators.md. */
#include "frontend/importer.h"

#include <math.h>

enum { MOST_KEPT = 2 };

/* One tensor of the node. */
typedef struct {
    Value *rate, *x, *gradient, *kept[MOST_KEPT]; /* gradient: regularised */
    double step;                                  /* T */
    Value *next_x, *next[MOST_KEPT];
} Optimized;

static Value *sum(OnnxNode *node, Value *a, Value *b) {
    return node_emit(node, OP_add, INPUTS(a, b), NO_ATTRS);
}

static Value *product(OnnxNode *node, Value *a, Value *b) {
    return node_emit(node, OP_mul, INPUTS(a, b), NO_ATTRS);
}

/* x - rate * factor * direction / divisor; divisor may be NULL. */
static Value *moved(OnnxNode *node, const Optimized *u, double factor, Value *direction, Value *divisor) {
    Value *step = product(node, direction, node_mul_const(node, u->rate, factor));
    if (divisor != NULL)
        step = node_emit(node, OP_div, INPUTS(step, divisor), NO_ATTRS);
    return node_emit(node, OP_sub, INPUTS(u->x, step), NO_ATTRS);
}

static Value *root(OnnxNode *node, Value *square, double epsilon) {
    return sum(node, node_emit(node, OP_sqrt, INPUTS(square), NO_ATTRS), node_const_value(node, (Shape){0}, &epsilon));
}

typedef bool Rule(OnnxNode *node, Optimized *u);

static bool lower_optimizer(OnnxNode *node, int kept, Rule *rule) {
    int each = 2 + kept, tensors = (node->in_count - 2) / each;
    double step, norm = node_attr_real(node, "norm_coefficient", 0);
    if (!node_check_inputs(node, 2 + each, INT32_MAX))
        return false;
    if ((node->in_count - 2) % each != 0)
        return node_refuse(node, "takes 2 inputs and %d for each tensor, found %d", each, node->in_count);
    Value *rate = node_value(node, 0);
    if (rate == NULL || !node_scalar(node, 1, "T", &step))
        return false;
    for (int i = 0; i < tensors; i++) {
        Optimized u = {.rate = rate, .step = step, .x = node_value(node, 2 + i)};
        u.gradient = node_value(node, 2 + tensors + i);
        if (u.gradient == NULL || u.x == NULL)
            return false;
        if (norm != 0)
            u.gradient = sum(node, node_mul_const(node, u.x, norm), u.gradient);
        for (int k = 0; k < kept; k++)
            u.kept[k] = node_value(node, 2 + (2 + k) * tensors + i);
        if (!rule(node, &u) || !node_set_typed(node, i, u.next_x, node->in[2 + i]->type))
            return false;
        for (int k = 0; k < kept; k++)
            if (!node_set_typed(node, (1 + k) * tensors + i, u.next[k], node->in[2 + i]->type))
                return false;
    }
    return true;
}

/* v' = alpha*v + beta*g; x' = x - r*v', or x - r*(g + alpha*v'). */
static bool momentum(OnnxNode *node, Optimized *u) {
    double alpha = node_attr_real(node, "alpha", 0), beta = node_attr_real(node, "beta", 0);
    const char *mode = node_attr_text(node, "mode", "standard");
    Value *push = node_mul_const(node, u->gradient, u->step > 0 ? beta : 1);
    u->next[0] = sum(node, node_mul_const(node, u->kept[0], alpha), push);
    Value *ahead = u->next[0];
    if (mode[0] == 'n')
        ahead = sum(node, u->gradient, node_mul_const(node, u->next[0], alpha));
    u->next_x = moved(node, u, 1, ahead, NULL);
    return true;
}

/* h' = h + g*g; x' = x - r/(1 + T*decay) * g / (sqrt(h') + epsilon). */
static bool adagrad(OnnxNode *node, Optimized *u) {
    double decay = node_attr_real(node, "decay_factor", 0), epsilon = node_attr_real(node, "epsilon", 1e-6);
    u->next[0] = sum(node, u->kept[0], product(node, u->gradient, u->gradient));
    u->next_x = moved(node, u, 1 / (1 + u->step * decay), u->gradient, root(node, u->next[0], epsilon));
    return true;
}

/* v' = alpha*v + (1 - alpha)*g; h' = beta*h + (1 - beta)*g*g; x' = x - r' * v' / (sqrt(h') + epsilon), r' corrected for T. */
static bool adam(OnnxNode *node, Optimized *u) {
    double alpha = node_attr_real(node, "alpha", 0.9), beta = node_attr_real(node, "beta", 0.999);
    double epsilon = node_attr_real(node, "epsilon", 1e-6), post = node_attr_real(node, "norm_coefficient_post", 0);
    double factor = u->step > 0 ? sqrt(1 - pow(beta, u->step)) / (1 - pow(alpha, u->step)) : 1;
    u->next[0] = sum(node, node_mul_const(node, u->kept[0], alpha), node_mul_const(node, u->gradient, 1 - alpha));
    Value *square = product(node, u->gradient, u->gradient);
    u->next[1] = sum(node, node_mul_const(node, u->kept[1], beta), node_mul_const(node, square, 1 - beta));
    u->next_x = node_mul_const(node, moved(node, u, factor, u->next[0], root(node, u->next[1], epsilon)), 1 - post);
    return true;
}

bool lower_momentum(OnnxNode *node) {
    return lower_optimizer(node, 1, momentum);
}

bool lower_adagrad(OnnxNode *node) {
    return lower_optimizer(node, 1, adagrad);
}

bool lower_adam(OnnxNode *node) {
    return lower_optimizer(node, 2, adam);
}
