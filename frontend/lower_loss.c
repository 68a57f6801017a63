/* Lowering of the loss operators SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss. Before: scores [N, C, D...] and labels [N, D...].
 * After: the loss as the reduction says, and a record of it for the joining of the loss. Source: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

/* No label: the IR's attribute is always written. */
#define NOTHING_IGNORED ((int64_t)INT32_MIN)

typedef struct {
    Value *scores, *labels, *weight; /* weight: label_weight, NULL when every label counts 1 */
    int64_t ignore;
    const char *reduction;
} Loss;

void label_set_bound(Value *label, int64_t classes, int64_t ignore) {
    int64_t bound = classes > 1 ? classes - 1 : 1;
    ignore = ignore < 0 ? -ignore : ignore;
    bound = ignore > bound ? ignore : bound;
    for (; label != NULL; label = label->def != NULL ? label->def->in[0] : NULL)
        if (label->integer && (label->bound > bound || label->bound == 0))
            label->bound = bound;
}

static bool loss_inputs(OnnxNode *node, Loss *loss) {
    if (!node_check_inputs(node, 2, 3))
        return false;
    Shape scores = node->in[0]->shape, labels = node->in[1]->shape;
    bool fits = scores.rank >= 2 && labels.rank == scores.rank - 1;
    for (int i = 0; i < labels.rank && fits; i++)
        fits = labels.dim[i] == scores.dim[i == 0 ? 0 : i + 1];
    if (!fits)
        return node_refuse(node, "scores of shape [%s] and labels of shape [%s] do not fit [N, C, D...] and [N, D...]",
                           shape_text(node->importer->arena, scores), shape_text(node->importer->arena, labels));
    if (!node->in[1]->label)
        return node_refuse(node, "labels '%s' must be an integer input of the model", node->in[1]->name);
    loss->ignore = NOTHING_IGNORED;
    if (node_attr(node, "ignore_index") != NULL)
        loss->ignore = node_attr_int(node, "ignore_index", 0);
    if (loss->ignore < INT32_MIN || loss->ignore > INT32_MAX)
        return node_refuse(node, "attribute 'ignore_index' is %lld", (long long)loss->ignore);
    loss->reduction = node_attr_text(node, "reduction", "mean");
    if (strcmp(loss->reduction, "mean") != 0 && strcmp(loss->reduction, "sum") != 0 && strcmp(loss->reduction, "none") != 0)
        return node_refuse(node, "attribute 'reduction' is '%s'", loss->reduction);
    loss->scores = node_value(node, 0);
    loss->labels = node_value(node, 1);
    if (loss->scores == NULL || loss->labels == NULL)
        return false;
    label_set_bound(loss->labels, scores.dim[1], loss->ignore == NOTHING_IGNORED ? 0 : loss->ignore);
    Operand *weights = node_in(node, 2);
    if (weights == NULL)
        return true;
    if (weights->shape.rank != 1 || weights->shape.dim[0] != scores.dim[1])
        return node_refuse(node, "weights of shape [%s] for %lld classes", shape_text(node->importer->arena, weights->shape),
                           (long long)scores.dim[1]);
    if (weights->proto != NULL && weights->value == NULL)
        weights->learns = false; /* class weights are data of the loss, not parameters */
    Value *value = node_value(node, 2);
    loss->weight = node_emit(node, OP_label_weight, INPUTS(loss->labels, value), ATTRS(ATTR_I("ignore_index", loss->ignore)));
    return loss->weight != NULL;
}

static Value *sum_all(OnnxNode *node, Value *value) {
    int64_t axes[MAX_RANK];
    if (value == NULL)
        return NULL;
    for (int i = 0; i < value->shape.rank; i++)
        axes[i] = i;
    if (value->shape.rank == 0)
        return value;
    return node_emit(node, OP_reduce_sum, INPUTS(value), ATTRS(ATTR_L("axes", value->shape.rank, axes), ATTR_I("keepdims", 0)));
}

/* The loss of `negative`, -log p at every position, 0 where ignored. */
static bool set_loss(OnnxNode *node, Loss *loss, Value *negative) {
    Value *weighted = loss->weight != NULL ? node_emit(node, OP_mul, INPUTS(negative, loss->weight), NO_ATTRS) : negative;
    if (weighted == NULL)
        return false;
    bool mean = strcmp(loss->reduction, "mean") == 0, none = strcmp(loss->reduction, "none") == 0;
    int64_t positions = checked_elements(weighted->shape, ELEMENT_LIMIT);
    bool even = loss->weight == NULL && loss->ignore == NOTHING_IGNORED;
    Value *result = none ? weighted : sum_all(node, weighted);
    if (mean && even)
        result = positions > 0 ? node_mul_const(node, result, 1.0 / (double)positions) : result;
    if (mean && !even) {
        if (loss->weight == NULL)
            loss->weight = node_emit(node, OP_label_weight, INPUTS(loss->labels), ATTRS(ATTR_I("ignore_index", loss->ignore)));
        result = node_emit(node, OP_div, INPUTS(result, sum_all(node, loss->weight)), NO_ATTRS);
    }
    if (!node_set_typed(node, 0, result, node->in[0]->type))
        return false;
    /* Labels that are no class are taken to be absent from evaluation, so that a mean over them separates by row. */
    int64_t classes = loss->scores->shape.dim[1];
    bool apart = loss->ignore < 0 || loss->ignore >= classes;
    node->importer->loss = (LossNode){.loss = node->out[0],
                                      .scores = node->in[0],
                                      .labels = node->in[1],
                                      .per_position = weighted,
                                      .separable = !mean || (apart && node_in(node, 2) == NULL),
                                      .mean = mean,
                                      .origin = node->from.origin};
    return true;
}

bool lower_cross_entropy(OnnxNode *node) {
    Loss loss = {0};
    if (!loss_inputs(node, &loss))
        return false;
    Value *negative =
        node_emit(node, OP_cross_entropy, INPUTS(loss.scores, loss.labels), ATTRS(ATTR_I("axis", 1), ATTR_I("ignore_index", loss.ignore)));
    if (!set_loss(node, &loss, negative))
        return false;
    return !node_wants(node, 1) || node_set(node, 1, node_emit(node, OP_log_softmax, INPUTS(loss.scores), ATTRS(ATTR_I("axis", 1))));
}

bool lower_nll(OnnxNode *node) {
    Loss loss = {0};
    if (!loss_inputs(node, &loss))
        return false;
    /* After a LogSoftmax over the classes it is cross-entropy, in one step and more exact. */
    const Node *maker = loss.scores->def;
    bool fused = maker != NULL && maker->op == OP_log_softmax && attr_int(maker, "axis", -1) == 1;
    Value *negative = node_emit(node, fused ? OP_cross_entropy : OP_pick, INPUTS(fused ? maker->in[0] : loss.scores, loss.labels),
                                ATTRS(ATTR_I("axis", 1), ATTR_I("ignore_index", loss.ignore)));
    return set_loss(node, &loss, negative);
}
