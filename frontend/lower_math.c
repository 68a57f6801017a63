/* Lowering of pointwise operators, reductions, Softmax and Dropout. Before: known operands. After: IR; additions of one number a channel to
 * a contraction are `bias`, multiplications by a constant are `mul_const`. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* --- binary --- */

/* The only element of a constant operand. */
bool node_scalar_constant(OnnxNode *node, int i, double *value) {
    const OnnxTensor *tensor = operand_constant(node->importer, node->in[i]);
    if (tensor == NULL || tensor->count != 1)
        return false;
    *value = tensor->reals != NULL ? tensor->reals[0] : (double)tensor->ints[0];
    return true;
}

/* Both operands; before opset 7 the second one is aligned by attributes. */
bool node_operands(OnnxNode *node, Value **a, Value **b) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    Shape both;
    *a = node_value(node, 0);
    *b = node_value(node, 1);
    if (*a == NULL || *b == NULL)
        return false;
    if (node->in[0]->label || node->in[1]->label)
        return node_refuse(node, "computes with class labels");
    if (node->since < 7) {
        bool broadcast = node_attr_int(node, "broadcast", 0) != 0;
        Shape left = (*a)->shape, right = (*b)->shape;
        int64_t axis = node_attr_int(node, "axis", left.rank - right.rank);
        axis += axis < 0 ? left.rank : 0;
        if ((!broadcast && !shape_equal(left, right)) || axis < 0 || axis + right.rank > left.rank)
            return node_refuse(node, "operands of shapes [%s] and [%s] do not fit", shape_text(node->importer->arena, left),
                               shape_text(node->importer->arena, right));
        int old = right.rank;
        for (right.rank = (int)(left.rank - axis); old < right.rank; old++)
            right.dim[old] = 1;
        *b = node_reshape(node, *b, right);
    }
    if (*b == NULL)
        return false;
    if (!shape_broadcast((*a)->shape, (*b)->shape, &both))
        return node_refuse(node, "operands of shapes [%s] and [%s] do not fit", shape_text(node->importer->arena, (*a)->shape),
                           shape_text(node->importer->arena, (*b)->shape));
    return true;
}

/* The result where an operand is a scalar constant must have the broadcast shape. */
Value *node_broadcast_like(OnnxNode *node, Value *value, Value *a, Value *b) {
    Shape both;
    if (value == NULL || !shape_broadcast(a->shape, b->shape, &both) || shape_equal(both, value->shape))
        return value;
    return node_reshape(node, value, both); /* a scalar constant only adds ones in front */
}

/* x + b as `bias` where b is one number for each index of an axis of a contraction's result. NULL: it is not. */
static Value *as_bias(OnnxNode *node, Value *x, Value *b, const Operand *addend) {
    if (!addend->fixed || !value_is_accumulator(x) || !shape_fits_into(b->shape, x->shape))
        return NULL;
    int axis = -1;
    for (int i = 0; i < b->shape.rank; i++)
        if (b->shape.dim[i] != 1) {
            if (axis >= 0)
                return NULL;
            axis = i;
        }
    if (axis < 0)
        return NULL;
    int64_t size = b->shape.dim[axis];
    return node_emit(node, OP_bias, INPUTS(x, node_reshape(node, b, shape_of(1, &size))),
                     ATTRS(ATTR_I("axis", axis + x->shape.rank - b->shape.rank)));
}

static Value *add_values(OnnxNode *node, Value *a, Value *b, const Operand *left, const Operand *right) {
    Value *biased = right != NULL ? as_bias(node, a, b, right) : NULL;
    if (biased == NULL && left != NULL)
        biased = as_bias(node, b, a, left);
    return biased != NULL ? biased : node_emit(node, OP_add, INPUTS(a, b), NO_ATTRS);
}

/* Scores and a constant mask of 0 and large negative numbers or -inf; a softmax leaves out what it hides. */
static bool add_mask(OnnxNode *node, int scores, Value *shown) {
    const OnnxTensor *tensor = node_constant(node, 1 - scores, "the mask");
    node->in[1 - scores]->learns = false; /* a mask that the exporter stored is no parameter */
    double *finite = arena_alloc(node->importer->arena, (size_t)tensor->count + 1, sizeof *finite);
    for (int64_t k = 0; k < tensor->count; k++)
        finite[k] = tensor->reals[k] < -HIDDEN_SCORE ? -HIDDEN_SCORE : tensor->reals[k];
    Value *x = node_value(node, scores);
    Value *sum = node_emit(node, OP_add, INPUTS(x, node_const_value(node, tensor->shape, finite)), NO_ATTRS);
    if (!node_set(node, 0, sum))
        return false;
    if (node_wants(node, 0) && shape_equal(sum->shape, x->shape)) {
        node->out[0]->scores = x;
        node->out[0]->shown = shown;
    }
    return true;
}

bool lower_add(OnnxNode *node) {
    Value *a, *b;
    for (int i = 0; i < 2 && node->in_count == 2 && node->since >= 7; i++) {
        const Operand *operand = node->in[0] != NULL && node->in[1] != NULL ? node->in[i] : NULL;
        bool stored = operand != NULL && operand->value == NULL && (operand->proto != NULL || operand->constant != NULL);
        Value *shown = stored ? node_shown_by(node, node_constant(node, i, "the mask")) : NULL;
        if (shown != NULL)
            return add_mask(node, 1 - i, shown);
    }
    if (!node_operands(node, &a, &b))
        return false;
    return node_set(node, 0, add_values(node, a, b, node->in[0], node->in[1]));
}

bool lower_sub(OnnxNode *node) {
    Value *a, *b;
    if (!node_operands(node, &a, &b))
        return false;
    return node_set(node, 0, node_emit(node, OP_sub, INPUTS(a, b), NO_ATTRS));
}

bool lower_mul(OnnxNode *node) {
    Value *a, *b;
    double factor;
    if (!node_operands(node, &a, &b))
        return false;
    for (int i = 0; i < 2; i++)
        if (node_scalar_constant(node, i, &factor) && isfinite(factor)) {
            Value *x = i == 0 ? b : a, *known = pattern_mul_const(node, x, factor);
            return node_set_typed(node, 0, node_broadcast_like(node, known != NULL ? known : node_mul_const(node, x, factor), a, b),
                                  node->in[1 - i]->type);
        }
    for (int i = 0; i < 2; i++) {
        bool masked;
        Value *gated = node_mul_by_mask(node, i == 0 ? a : b, i == 0 ? b : a, &masked);
        if (masked)
            return node_set(node, 0, gated);
    }
    Value *known = pattern_mul(node, a, b);
    return node_set(node, 0, known != NULL ? known : node_emit(node, OP_mul, INPUTS(a, b), NO_ATTRS));
}

bool lower_div(OnnxNode *node) {
    Value *a, *b;
    double divisor;
    if (!node_operands(node, &a, &b))
        return false;
    if (onnx_type_is_integer(node->in[0]->type))
        return node_set(node, 0, node_truncated(node, node_emit(node, OP_div, INPUTS(a, b), NO_ATTRS)));
    if (node_scalar_constant(node, 1, &divisor) && isfinite(1 / divisor)) {
        Value *known = pattern_mul_const(node, a, 1 / divisor);
        return node_set(node, 0, node_broadcast_like(node, known != NULL ? known : node_mul_const(node, a, 1 / divisor), a, b));
    }
    return node_set(node, 0, node_emit(node, OP_div, INPUTS(a, b), NO_ATTRS));
}

static bool lower_variadic(OnnxNode *node, bool mean) {
    if (!node_check_inputs(node, 1, INT32_MAX))
        return false;
    if (node->in_count == 1)
        return node_alias(node, 0, 0);
    Value *sum = node_value(node, 0);
    for (int i = 1; i < node->in_count && sum != NULL; i++) {
        Value *next = node_value(node, i);
        Shape both;
        if (next == NULL)
            return false;
        if (node->since < 8 ? !shape_equal(sum->shape, next->shape) : !shape_broadcast(sum->shape, next->shape, &both))
            return node_refuse(node, "input %d of shape [%s] does not fit [%s]", i, shape_text(node->importer->arena, next->shape),
                               shape_text(node->importer->arena, sum->shape));
        sum = add_values(node, sum, next, i == 1 ? node->in[0] : NULL, node->in[i]);
    }
    return node_set(node, 0, mean ? node_mul_const(node, sum, 1.0 / node->in_count) : sum);
}

bool lower_sum(OnnxNode *node) {
    return lower_variadic(node, false);
}

bool lower_mean(OnnxNode *node) {
    return lower_variadic(node, true);
}

/* --- unary --- */

static bool lower_unary(OnnxNode *node, Op op) {
    return node_check_inputs(node, 1, 1) && node_set(node, 0, node_emit(node, op, INPUTS(node_value(node, 0)), NO_ATTRS));
}

bool lower_neg(OnnxNode *node) {
    return lower_unary(node, OP_neg);
}

bool lower_relu(OnnxNode *node) {
    return lower_unary(node, OP_relu);
}

bool lower_leaky_relu(OnnxNode *node) {
    double alpha = node_attr_real(node, "alpha", 0.01);
    if (!isfinite(alpha) || fabs(alpha) > 64)
        return node_refuse(node, "attribute 'alpha' is %g, at most 64 is supported", alpha);
    return node_check_inputs(node, 1, 1) &&
           node_set(node, 0, node_emit(node, OP_leaky_relu, INPUTS(node_value(node, 0)), ATTRS(ATTR_R("alpha", alpha))));
}

Value *node_clip(OnnxNode *node, Value *x, double low, double high) {
    low = low > high ? high : low; /* ONNX: then every element is max */
    /* OP_clip keeps the bound of its operand, so that its range holds 0: another range is moved there and back. */
    double shift = low > 0 ? low : high < 0 ? high : 0;
    if (shift != 0)
        x = node_emit(node, OP_sub, INPUTS(x, node_const_value(node, (Shape){0}, &shift)), NO_ATTRS);
    /* The largest float as a bound is how exporters write none. */
    Attr attrs[2];
    int count = 0;
    if (low > -(double)FLT_MAX)
        attrs[count++] = ATTR_R("min", low - shift);
    if (high < (double)FLT_MAX)
        attrs[count++] = ATTR_R("max", high - shift);
    if (count > 0)
        x = node_emit(node, OP_clip, INPUTS(x), attrs, count);
    if (shift != 0)
        x = node_emit(node, OP_add, INPUTS(x, node_const_value(node, (Shape){0}, &shift)), NO_ATTRS);
    return x;
}

bool lower_clip(OnnxNode *node) {
    double low = -INFINITY, high = INFINITY;
    if (!node_check_inputs(node, 1, node->since >= 11 ? 3 : 1))
        return false;
    if (node->since < 11) {
        low = node_attr_real(node, "min", low);
        high = node_attr_real(node, "max", high);
    } else if ((node_in(node, 1) != NULL && !node_scalar(node, 1, "min", &low)) ||
               (node_in(node, 2) != NULL && !node_scalar(node, 2, "max", &high))) {
        return false;
    }
    if (!(low < (double)FLT_MAX) || !(high > -(double)FLT_MAX))
        return node_refuse(node, "bounds %g and %g leave nothing", low, high);
    return node_set(node, 0, node_clip(node, node_value(node, 0), low, high));
}

/* --- reductions --- */

bool node_reduce_plan(OnnxNode *node, ReducePlan *plan) {
    const char *op = node->from.origin.op_type;
    int input_since = strcmp(op, "ReduceSum") == 0 ? 13 : 18;
    int axes[MAX_RANK], count;
    if (!node_check_inputs(node, 1, node->since >= input_since ? 2 : 1) ||
        !node_axes(node, input_since, 1, node->in[0]->shape.rank, axes, &count))
        return false;
    bool keep = node_attr_int(node, "keepdims", 1) != 0;
    bool noop = node->since >= input_since && node_attr_int(node, "noop_with_empty_axes", 0) != 0;
    Shape in = node->in[0]->shape;
    *plan = (ReducePlan){.kept = in, .elements = 1};
    if (count < 0 && !noop)
        for (count = 0; count < in.rank; count++)
            axes[count] = count;
    bool gone[MAX_RANK] = {false};
    for (int i = 0; i < count; i++) {
        plan->axes[plan->count++] = axes[i];
        plan->elements *= in.dim[axes[i]];
        plan->kept.dim[axes[i]] = 1;
        gone[axes[i]] = true;
    }
    for (int i = 0; i < in.rank; i++)
        if (keep || !gone[i])
            plan->result.dim[plan->result.rank++] = plan->kept.dim[i];
    return true;
}

static bool lower_reduce(OnnxNode *node, bool mean) {
    ReducePlan plan;
    if (!node_reduce_plan(node, &plan))
        return false;
    if (plan.count == 0)
        return node_alias(node, 0, 0);
    if (mean && plan.elements == 0)
        return node_refuse(node, "averages nothing: shape [%s]", shape_text(node->importer->arena, node->in[0]->shape));
    bool keep = plan.result.rank == plan.kept.rank;
    Value *sum =
        node_emit(node, OP_reduce_sum, INPUTS(node_value(node, 0)), ATTRS(ATTR_L("axes", plan.count, plan.axes), ATTR_I("keepdims", keep)));
    return node_set(node, 0, mean ? node_mul_const(node, sum, 1.0 / (double)plan.elements) : sum);
}

bool lower_reduce_sum(OnnxNode *node) {
    return lower_reduce(node, false);
}

bool lower_reduce_mean(OnnxNode *node) {
    return lower_reduce(node, true);
}

/* --- rows --- */

static bool lower_row(OnnxNode *node, Op op) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    Shape in = node->in[0]->shape;
    int axis = node_axis(node, node_attr_int(node, "axis", node->since < 13 ? 1 : -1), in.rank);
    if (axis < 0)
        return false;
    Value *value = node_value(node, 0);
    const Operand *operand = node->in[0];
    if (op == OP_softmax && operand->shown != NULL && (node->since >= 13 || axis == in.rank - 1))
        return node_set(node, 0, node_emit(node, OP_masked_softmax, INPUTS(operand->scores, operand->shown), ATTRS(ATTR_I("axis", axis))));
    if (node->since >= 13)
        return node_set(node, 0, node_emit(node, op, INPUTS(value), ATTRS(ATTR_I("axis", axis))));
    /* Before opset 13: over everything from the axis on. */
    Shape rows = {.rank = 2, .dim = {1, 1}};
    for (int i = 0; i < in.rank; i++)
        rows.dim[i >= axis] *= in.dim[i];
    if (rows.dim[1] == in.dim[axis])
        return node_set(node, 0, node_emit(node, op, INPUTS(value), ATTRS(ATTR_I("axis", axis))));
    Value *row = node_emit(node, op, INPUTS(node_reshape(node, value, rows)), ATTRS(ATTR_I("axis", 1)));
    return node_set(node, 0, row == NULL ? NULL : node_reshape(node, row, in));
}

bool lower_softmax(OnnxNode *node) {
    return lower_row(node, OP_softmax);
}

bool lower_log_softmax(OnnxNode *node) {
    return lower_row(node, OP_log_softmax);
}

/* --- dropout --- */

/* The mask of an inactive dropout: everything stays. */
static bool set_full_mask(OnnxNode *node) {
    if (!node_wants(node, 1))
        return true;
    int type = node->since >= 10 ? ONNX__TENSOR_PROTO__DATA_TYPE__BOOL : node->in[0]->type;
    OnnxTensor *mask = node_tensor(node, type, node->in[0]->shape);
    for (int64_t i = 0; mask != NULL && i < mask->count; i++) {
        if (mask->reals != NULL)
            mask->reals[i] = 1;
        else
            mask->ints[i] = 1;
    }
    return node_set_constant(node, 1, mask);
}

bool lower_dropout(OnnxNode *node) {
    double ratio = 0.5, training = node->since < 12;
    if (!node_check_inputs(node, 1, node->since >= 12 ? 3 : 1))
        return false;
    if (node->since < 12)
        ratio = node_attr_real(node, "ratio", ratio);
    else if ((node_in(node, 1) != NULL && !node_scalar(node, 1, "the ratio", &ratio)) ||
             (node_in(node, 2) != NULL && !node_scalar(node, 2, "training_mode", &training)))
        return false;
    node_attr_int(node, "seed", 0); /* intc's own random bits */
    if (!(ratio >= 0 && ratio <= 1))
        return node_refuse(node, "ratio %g is outside [0, 1]", ratio);
    if (training == 0 && ratio > 0)
        node->importer->frozen_dropouts++;
    /* Without a loss the graph is the model as it stands, and its random numbers cannot be those of another program. */
    if (node->importer->options->loss == NULL && node->since >= 12 && training != 0 && ratio > 0)
        return node_refuse(node, "in training mode draws random numbers");
    if (!node->importer->training || training == 0 || ratio == 0)
        return node_alias(node, 0, 0) && set_full_mask(node);
    if (node_wants(node, 1) && node->since < 10)
        return node_refuse(node, "output 1 (mask) of this opset is not supported while training");
    Value *value = node_value(node, 0);
    if (value == NULL)
        return false;
    Shape shape = value->shape;
    /* The stream is the number of the mask's value, which no other value has. */
    Value *mask = node_emit(
        node, OP_random_mask, NULL, 0,
        ATTRS(ATTR_L("shape", shape.rank, shape.dim), ATTR_R("ratio", ratio), ATTR_I("stream", node->importer->graph->value_count)));
    if (mask == NULL || !node_set_typed(node, 1, mask, ONNX__TENSOR_PROTO__DATA_TYPE__BOOL))
        return false;
    Value *kept = node_emit(node, OP_gate, INPUTS(value, mask), NO_ATTRS);
    return node_set(node, 0, node_mul_const(node, kept, ratio == 1 ? 0 : 1 / (1 - ratio)));
}
