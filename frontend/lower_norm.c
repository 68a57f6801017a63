/* Lowering of normalisation: Batch-, Layer-, Instance-, Group-, RMS- and LpNormalization. Before: known operands. After: sums, statistics
 * and `normalize` of docs/operators.md; in inference, and where the user freezes it, batch normalisation is one multiplication and one
 * addition a channel, and behind a convolution part of its weights. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

/* What a normalisation is taken over. */
typedef struct {
    int64_t axes[MAX_RANK];
    int axis_count;
    double epsilon;
    bool centered;
    Value *mean, *variance; /* made by `normalized`: the shape of x with 1 along the axes */
} Norm;

static int64_t elements(Shape shape) {
    return checked_elements(shape, ELEMENT_LIMIT);
}

/* scale * (x - mean) / sqrt(variance + epsilon); scale may be NULL. */
static Value *normalized(OnnxNode *node, Value *x, Norm *norm, Value *scale, bool scaled) {
    if (x == NULL || (scaled && scale == NULL))
        return NULL;
    int64_t count = 1;
    for (int i = 0; i < norm->axis_count; i++)
        count *= x->shape.dim[norm->axes[i]];
    if (count < 1) {
        node_refuse(node, "normalises over no element of [%s]", shape_text(node->importer->arena, x->shape));
        return NULL;
    }
    Attr sum[] = {ATTR_L("axes", norm->axis_count, norm->axes), ATTR_I("keepdims", 1)};
    Attr centered = ATTR_I("centered", norm->centered);
    Value *squares = node_emit(node, OP_reduce_sum, INPUTS(node_emit(node, OP_mul, INPUTS(x, x), NO_ATTRS)), sum, 2);
    Value *total = norm->centered ? node_emit(node, OP_reduce_sum, INPUTS(x), sum, 2) : squares;
    norm->variance = node_emit(node, OP_variance, INPUTS(total, squares), ATTRS(ATTR_I("count", count), centered));
    norm->mean = norm->variance;
    if (norm->centered)
        norm->mean = node_emit(node, OP_share, INPUTS(total), ATTRS(ATTR_I("count", count), ATTR_I("fraction", NORM_MEAN_FRACTION)));
    Value *code = node_emit(node, OP_rsqrt, INPUTS(norm->variance), ATTRS(ATTR_I("count", count), ATTR_R("epsilon", norm->epsilon)));
    Value *in[] = {x, norm->mean, code, scale};
    return node_emit(node, OP_normalize, in, scaled ? 4 : 3, &centered, 1);
}

/* Shape [1, ..., C, ..., 1] of a number a channel. */
static Value *along(OnnxNode *node, Value *value, int rank, int axis, int64_t size) {
    Shape shape = {.rank = rank};
    for (int d = 0; d < rank; d++)
        shape.dim[d] = d == axis ? size : 1;
    return node_reshape(node, value, shape);
}

static bool check_vector(OnnxNode *node, int i, int64_t size, const char *what) {
    const Operand *operand = node_in(node, i);
    if (operand != NULL && (operand->shape.rank != 1 || operand->shape.dim[0] != size))
        return node_refuse(node, "%s of shape [%s], expected [%lld]", what, shape_text(node->importer->arena, operand->shape),
                           (long long)size);
    return true;
}

static bool refuse_outputs(OnnxNode *node) {
    for (int i = 1; i < node->out_count; i++)
        if (node_wants(node, i))
            return node_refuse(node, "only output 0 can be read, found a reader of output %d", i);
    return true;
}

/* --- batch normalisation --- */

/* A running statistic: state of the graph, not a parameter. */
static Value *node_state(OnnxNode *node, int i) {
    Operand *operand = node_in(node, i);
    if (operand->value != NULL && operand->value->kind == VALUE_STATE)
        return operand->value;
    if (operand->value != NULL || !operand->learns) {
        if (operand->value != NULL && operand->value->kind == VALUE_PARAM) {
            node_refuse(node, "running statistic '%s' is also a parameter", operand->name);
            return NULL;
        }
        return node_value(node, i);
    }
    Value *value = node_value(node, i);
    if (value != NULL)
        value->kind = VALUE_STATE;
    return value;
}

/* running * momentum + current * (1 - momentum), as ONNX defines it: the variance is that of the population. A state goes on to it; output
 * i of the node is it. */
static bool track(OnnxNode *node, int i, Value *running, Value *current, double momentum) {
    if (running == NULL || (running->kind != VALUE_STATE && !node_wants(node, i)))
        return running != NULL;
    Value *old = node_mul_const(node, running, momentum);
    Value *new = node_mul_const(node, node_reshape(node, current, running->shape), 1 - momentum);
    Value *next = node_emit(node, OP_add, INPUTS(old, new), NO_ATTRS);
    if (next == NULL || !node_set(node, i, next))
        return false;
    const Graph *graph = node->importer->graph;
    for (int k = 0; k < graph->update_count && running->kind == VALUE_STATE; k++)
        if (graph->updates[k].state == running)
            return node_refuse(node, "running statistic '%s' belongs to another node too", running->name);
    if (momentum != 1 && running->kind == VALUE_STATE)
        graph_update(node->importer->graph, running, next);
    return true;
}

/* What normalises by running statistics: C numbers each. */
typedef struct {
    Value *scale, *shift, *mean, *variance;
    double epsilon;
} Running;

static Value *numbers(OnnxNode *node, Value *value, int64_t channels) {
    return node_reshape(node, value, shape_of(1, &channels));
}

/* x * factor + addend a channel: scale/sigma and shift - mean*scale/sigma, or mean less `moved` if there is one. */
typedef struct {
    Value *factor, *addend, *level; /* level: NULL, or of the channels, which the factor is brought to */
} ChannelLine;

static ChannelLine line_of(OnnxNode *node, const Running *r, Value *moved, int64_t channels, bool levels) {
    ChannelLine line = {0};
    Attr epsilon = ATTR_R("epsilon", r->epsilon);
    Value *mean = numbers(node, r->mean, channels);
    Value *inverse = levels ? node_emit(node, OP_inv_sqrt, INPUTS(r->variance), ATTRS(epsilon, ATTR_I("part", INV_SQRT_EQUALIZED)))
                            : node_emit(node, OP_inv_sqrt, INPUTS(r->variance), ATTRS(epsilon));
    line.factor = numbers(node, node_emit(node, OP_mul, INPUTS(r->scale, inverse), NO_ATTRS), channels);
    if (moved != NULL)
        mean = node_emit(node, OP_sub, INPUTS(mean, moved), NO_ATTRS);
    Value *product = node_emit(node, OP_mul, INPUTS(mean, line.factor), NO_ATTRS);
    if (levels) {
        line.level =
            numbers(node, node_emit(node, OP_inv_sqrt, INPUTS(r->variance), ATTRS(epsilon, ATTR_I("part", INV_SQRT_LEVEL))), channels);
        product = node_emit(node, OP_restore, INPUTS(product, line.level), ATTRS(ATTR_I("axis", 0)));
    }
    line.addend = node_emit(node, OP_sub, INPUTS(numbers(node, r->shift, channels), product), NO_ATTRS);
    if (levels)
        line.addend = node_emit(node, OP_equalize, INPUTS(line.addend, line.level), ATTRS(ATTR_I("axis", 0)));
    return line;
}

static Value *scaled_and_moved(OnnxNode *node, Value *x, const Running *r) {
    ChannelLine line = line_of(node, r, NULL, x->shape.dim[1], false);
    Value *y = node_emit(node, OP_mul, INPUTS(x, along(node, line.factor, x->shape.rank, 1, x->shape.dim[1])), NO_ATTRS);
    return node_emit(node, OP_bias, INPUTS(y, line.addend), ATTRS(ATTR_I("axis", 1)));
}

/* The weights of the convolution in front take the factor: w' = w * factor, one output channel a row. In a grouped convolution a channel
 * depends on few others: where these are nearly constant its 1/sigma is hundreds of times that of another, whose weights would vanish
 * beside its own. So there weights and bias are computed with every 1/sigma brought to one level, which is restored behind the sum. */
static Value *folded(OnnxNode *node, const Node *conv, Value *conv_bias, const Running *r) {
    int64_t channels = conv->in[1]->shape.dim[0];
    ChannelLine line = line_of(node, r, conv_bias, channels, attr_int(conv, "group", 1) > 1);
    Value *factor = along(node, line.factor, conv->in[1]->shape.rank, 0, channels);
    Value *weight = node_emit(node, OP_mul, INPUTS(conv->in[1], factor), NO_ATTRS);
    Value *y = node_emit(node, OP_conv, INPUTS(conv->in[0], weight), conv->attrs, conv->attr_count);
    y = node_emit(node, OP_bias, INPUTS(y, line.addend), ATTRS(ATTR_I("axis", 1)));
    return line.level == NULL ? y : node_emit(node, OP_restore, INPUTS(y, line.level), ATTRS(ATTR_I("axis", 1)));
}

/* x is [N, C, D...]; scale, shift and statistics are C numbers of any shape. */
static Value *with_running(OnnxNode *node, Value *x, double epsilon) {
    Running r = {node_value(node, 1), node_value(node, 2), node_state(node, 3), node_state(node, 4), epsilon};
    if (x == NULL || r.scale == NULL || r.shift == NULL || r.mean == NULL || r.variance == NULL ||
        (node_wants(node, 1) && !node_alias(node, 1, 3)) || (node_wants(node, 2) && !node_alias(node, 2, 4)))
        return NULL;
    const Node *bias = x->def != NULL && x->def->op == OP_bias && attr_int(x->def, "axis", 0) == 1 ? x->def : NULL;
    const Node *conv = bias != NULL ? bias->in[0]->def : x->def;
    if (node->importer->training || conv == NULL || conv->op != OP_conv)
        return scaled_and_moved(node, x, &r);
    return folded(node, conv, bias != NULL ? bias->in[1] : NULL, &r);
}

static Value *with_batch(OnnxNode *node, Value *x, double epsilon, double momentum) {
    Value *scale = node_value(node, 1), *shift = node_value(node, 2);
    Value *mean = node_state(node, 3), *variance = node_state(node, 4);
    if (x == NULL || scale == NULL || shift == NULL)
        return NULL;
    Norm norm = {.epsilon = epsilon, .centered = true};
    for (int d = 0; d < x->shape.rank; d++)
        if (d != 1)
            norm.axes[norm.axis_count++] = d;
    Value *y = normalized(node, x, &norm, along(node, scale, x->shape.rank, 1, x->shape.dim[1]), true);
    if (y == NULL || !track(node, 1, mean, norm.mean, momentum) || !track(node, 2, variance, norm.variance, momentum))
        return NULL;
    return node_emit(node, OP_bias, INPUTS(y, node_reshape(node, shift, shape_of(1, &x->shape.dim[1]))), ATTRS(ATTR_I("axis", 1)));
}

/* Keras converters of old normalise [C, N] with C numbers, where ONNX means dimension 1. */
static bool is_turned(const OnnxNode *node) {
    Shape shape = batch_exported_shape(node->importer, node->in[0]), numbers = node->in[1]->shape;
    return shape.rank == 2 && numbers.rank == 1 && numbers.dim[0] != shape.dim[1] && numbers.dim[0] == shape.dim[0];
}

static bool check_statistics(OnnxNode *node, Shape shape) {
    static const char *const what[] = {"scale", "B", "mean", "var"};
    for (int i = 1; i < 5; i++)
        if (!shape_equal(node->in[i]->shape, shape))
            return node_refuse(node, "%s of shape [%s], expected [%s]", what[i - 1], shape_text(node->importer->arena, node->in[i]->shape),
                               shape_text(node->importer->arena, shape));
    return true;
}

bool lower_batch_normalization(OnnxNode *node) {
    if (!node_check_inputs(node, 5, 5) || (node->since < 14 && !refuse_outputs(node)))
        return false;
    double epsilon = node_attr_real(node, "epsilon", 1e-5), momentum = node_attr_real(node, "momentum", 0.9);
    bool each = node->since < 9 && node_attr_int(node, "spatial", 1) == 0; /* every element of [C, D...] by itself */
    bool asked = node->since >= 14 && node_attr_int(node, "training_mode", 0) != 0;
    if (node->since < 7)
        node_attr_int(node, "is_test", 0);
    Shape in = node->in[0]->shape;
    if (in.rank < 2)
        return node_refuse(node, "takes [N, C, ...], found [%s]", shape_text(node->importer->arena, in));
    bool turned = is_turned(node);
    if (!check_statistics(node, shape_of(each ? in.rank - 1 : 1, &in.dim[turned ? 0 : 1])))
        return false;
    if (epsilon < 0 || momentum < 0 || momentum > 1)
        return node_refuse(node, "epsilon %g, momentum %g", epsilon, momentum);
    const ImportOptions *options = node->importer->options;
    /* Without a loss the graph is the model as it stands. */
    bool batch = options->loss == NULL ? asked : node->importer->training && !options->frozen_batchnorm;
    static const int64_t turn[MAX_RANK] = {1, 0};
    Value *x = node_value(node, 0), *y;
    if (turned)
        x = node_transpose(node, x, turn);
    if (each)
        x = node_reshape(node, x, shape_of(2, (int64_t[]){in.dim[0], elements(in) / (in.dim[0] > 0 ? in.dim[0] : 1)}));
    y = batch ? with_batch(node, x, epsilon, momentum) : with_running(node, x, epsilon);
    return node_set(node, 0, turned ? node_transpose(node, y, turn) : each ? node_reshape(node, y, in) : y);
}

/* --- over the last dimensions --- */

/* Attributes and axes of Layer- and RMSNormalization. */
static bool trailing(OnnxNode *node, Norm *norm, bool centered) {
    int rank = node->in[0]->shape.rank, axis = node_axis(node, node_attr_int(node, "axis", -1), rank);
    *norm = (Norm){.epsilon = node_attr_real(node, "epsilon", 1e-5), .centered = centered};
    node_attr_int(node, "stash_type", 1);
    for (int d = axis; axis >= 0 && d < rank; d++)
        norm->axes[norm->axis_count++] = d;
    return axis >= 0;
}

static Value *with_addend(OnnxNode *node, Value *y, int i) {
    if (y == NULL || node_in(node, i) == NULL)
        return y;
    Value *addend = node_value(node, i);
    if (addend == NULL)
        return NULL;
    if (!shape_fits_into(addend->shape, y->shape)) {
        node_refuse(node, "B of shape [%s] does not fit [%s]", shape_text(node->importer->arena, addend->shape),
                    shape_text(node->importer->arena, y->shape));
        return NULL;
    }
    if (addend->shape.rank == 1 && addend->shape.dim[0] == y->shape.dim[y->shape.rank - 1])
        return node_emit(node, OP_bias, INPUTS(y, addend), ATTRS(ATTR_I("axis", y->shape.rank - 1)));
    return node_emit(node, OP_add, INPUTS(y, addend), NO_ATTRS);
}

bool lower_layer_normalization(OnnxNode *node) {
    Norm norm;
    if (!node_check_inputs(node, 2, 3) || !trailing(node, &norm, true))
        return false;
    Value *y = with_addend(node, normalized(node, node_value(node, 0), &norm, node_value(node, 1), true), 2);
    if (y == NULL || !node_set(node, 0, y))
        return false;
    if (!node_wants(node, 1) && !node_wants(node, 2))
        return true;
    /* No gradient flows through the statistics alone. */
    if (node->importer->training)
        return refuse_outputs(node);
    Value *deviation = node_emit(node, OP_inv_sqrt, INPUTS(norm.variance), ATTRS(ATTR_R("epsilon", norm.epsilon)));
    return node_set(node, 1, norm.mean) && node_set(node, 2, deviation);
}

bool lower_rms_normalization(OnnxNode *node) {
    Norm norm;
    if (!node_check_inputs(node, 2, 2) || !trailing(node, &norm, false))
        return false;
    return node_set(node, 0, normalized(node, node_value(node, 0), &norm, node_value(node, 1), true));
}

bool lower_lp_normalization(OnnxNode *node) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    int axis = node_axis(node, node_attr_int(node, "axis", -1), node->in[0]->shape.rank);
    int64_t p = node_attr_int(node, "p", 2);
    if (p != 2)
        return node_refuse(node, "attribute 'p' is %lld, only 2 is supported", (long long)p);
    if (axis < 0)
        return false;
    Norm norm = {.axes = {axis}, .axis_count = 1};
    Value *x = node_value(node, 0), *y = normalized(node, x, &norm, NULL, false);
    return y != NULL && node_set(node, 0, node_mul_const(node, y, 1 / __builtin_sqrt((double)x->shape.dim[axis])));
}

/* --- over the spatial dimensions --- */

bool lower_instance_normalization(OnnxNode *node) {
    if (!node_check_inputs(node, 3, 3))
        return false;
    Shape shape = node->in[0]->shape;
    if (shape.rank < 3)
        return node_refuse(node, "takes [N, C, D...], found [%s]", shape_text(node->importer->arena, shape));
    int64_t channels = shape.dim[1];
    if (!check_vector(node, 1, channels, "scale") || !check_vector(node, 2, channels, "B"))
        return false;
    Norm norm = {.epsilon = node_attr_real(node, "epsilon", 1e-5), .centered = true};
    for (int d = 2; d < shape.rank; d++)
        norm.axes[norm.axis_count++] = d;
    Value *scale = along(node, node_value(node, 1), shape.rank, 1, channels);
    Value *y = normalized(node, node_value(node, 0), &norm, scale, true);
    return node_set(node, 0, node_emit(node, OP_bias, INPUTS(y, node_value(node, 2)), ATTRS(ATTR_I("axis", 1))));
}

/* As [N, G, C / G, positions]; scale and bias are one number a channel, one a group in version 18. */
bool lower_group_normalization(OnnxNode *node) {
    if (!node_check_inputs(node, 3, 3))
        return false;
    Shape shape = node->in[0]->shape;
    int64_t groups = node_attr_int(node, "num_groups", 0);
    Norm norm = {.axes = {2, 3}, .axis_count = 2, .epsilon = node_attr_real(node, "epsilon", 1e-5), .centered = true};
    if (node->since >= 21)
        node_attr_int(node, "stash_type", 1);
    if (shape.rank < 2 || groups < 1 || shape.dim[1] % groups != 0 || elements(shape) <= 0)
        return node_refuse(node, "%lld groups of [%s]", (long long)groups, shape_text(node->importer->arena, shape));
    int64_t channels = shape.dim[1], each = channels / groups, numbers = node->since < 21 ? groups : channels;
    if (!check_vector(node, 1, numbers, "scale") || !check_vector(node, 2, numbers, "bias"))
        return false;
    Shape grouped = {.rank = 4, .dim = {shape.dim[0], groups, each, elements(shape) / (shape.dim[0] * channels)}};
    Shape factor = {.rank = 4, .dim = {1, groups, numbers / groups, 1}};
    Value *scale = node_reshape(node, node_value(node, 1), factor), *bias = node_value(node, 2);
    Value *y = normalized(node, node_reshape(node, node_value(node, 0), grouped), &norm, scale, true);
    if (node->since < 21)
        y = node_emit(node, OP_bias, INPUTS(y, bias), ATTRS(ATTR_I("axis", 1)));
    y = node_reshape(node, y, shape);
    if (node->since >= 21)
        y = node_emit(node, OP_bias, INPUTS(y, bias), ATTRS(ATTR_I("axis", 1)));
    return node_set(node, 0, y);
}
