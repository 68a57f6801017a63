/* Joins the loss: the one of the model, or the one that --loss names on an output. Before: every node lowered and the outputs are
 * predictions. After: the training graph has a scalar loss, the inference graph one a row where it separates, and both the accuracy for
 * class labels. The output of the loss has the name of what it computes. */
#include "frontend/importer.h"

#include <string.h>

Operand *loss_output(Importer *importer) {
    const Onnx__GraphProto *graph = importer->file->model->graph;
    const LossNode *loss = &importer->loss;
    if (importer->options->loss == NULL || loss->loss == NULL)
        return NULL;
    Operand *single = NULL;
    for (size_t i = 0; i < graph->n_output; i++) {
        Operand *operand = graph->output[i]->name != NULL ? names_get(importer->tensors, graph->output[i]->name) : NULL;
        if (operand == loss->loss)
            return operand;
        if (operand != NULL && operand->known && operand->value != NULL && checked_elements(operand->shape, 1) == 1)
            single = operand;
    }
    return single;
}

static Value *sum_axes(OnnxNode *node, Value *value, int first) {
    int64_t axes[MAX_RANK];
    int count = 0;
    if (value == NULL)
        return NULL;
    for (int i = first; i < value->shape.rank; i++)
        axes[count++] = i;
    if (count == 0)
        return value;
    return node_emit(node, OP_reduce_sum, INPUTS(value), ATTRS(ATTR_L("axes", count, axes), ATTR_I("keepdims", 0)));
}

/* A loss of values [N, D...]: their mean, or sum, as one scalar in training and one a row in inference. */
static bool output_loss(OnnxNode *node, const char *name, Value *values, bool mean) {
    Importer *importer = node->importer;
    bool rows = !importer->training;
    int64_t count = values == NULL ? 1 : checked_elements(values->shape, ELEMENT_LIMIT);
    if (values != NULL && rows && values->shape.rank > 0)
        count /= values->shape.dim[0] > 0 ? values->shape.dim[0] : 1;
    Value *loss = sum_axes(node, values, rows ? 1 : 0);
    if (mean && count > 0)
        loss = node_mul_const(node, loss, 1.0 / (double)count);
    if (loss == NULL)
        return false;
    graph_output(importer->graph, name, ROLE_LOSS, loss);
    return true;
}

static bool output_accuracy(OnnxNode *node, Value *scores, Value *labels) {
    Value *correct = node_emit(node, OP_count_correct, INPUTS(scores, labels), ATTRS(ATTR_I("axis", 1)));
    if (correct == NULL)
        return false;
    graph_output(node->importer->graph, "accuracy", ROLE_METRIC, correct);
    return true;
}

/* The loss that the model holds. */
static bool join_own(Importer *importer, Operand *output) {
    LossNode *loss = &importer->loss;
    OnnxNode node = {.importer = importer, .from = {.origin = loss->origin}};
    if (output == NULL)
        return node_refuse(
            &node, "its result reaches no output of one element, so what to minimise is not clear; reduction 'none' needs a mean or "
                   "sum after it");
    bool own = output == loss->loss;
    if (importer->training || !own || !loss->separable) {
        if (importer->training) {
            Value *scalar = node_reshape(&node, output->value, (Shape){0});
            if (scalar == NULL)
                return false;
            graph_output(importer->graph, loss->origin.op_type, ROLE_LOSS, scalar);
        }
    } else if (!output_loss(&node, loss->origin.op_type, loss->per_position, loss->mean)) {
        return false;
    }
    if (importer->graph->output_count ==
        (importer->training ? 1 : importer->graph->outputs != NULL && importer->graph->outputs[0].role == ROLE_LOSS))
        graph_output(importer->graph, loss->scores->name, ROLE_PREDICTION, loss->scores->value);
    return output_accuracy(&node, loss->scores->value, loss->labels->value);
}

/* The output that the loss reads; NULL after a diagnostic. */
static const Output *read_output(Importer *importer) {
    const Graph *graph = importer->graph;
    const char *wanted = importer->options->output;
    const Output *found = NULL;
    char *names = "";
    for (int i = 0; i < graph->output_count; i++) {
        const Output *output = &graph->outputs[i];
        names = arena_printf(importer->arena, "%s%s'%s'", names, i > 0 ? ", " : "", output->name);
        if (wanted == NULL || strcmp(wanted, output->name) == 0)
            found = output;
    }
    if (wanted != NULL && found == NULL)
        diag_error(importer->diag, NULL, "has no output '%s'; its outputs are %s", wanted, names);
    if (wanted == NULL && graph->output_count > 1) {
        diag_error(importer->diag, NULL, "has several outputs: choose the one that the loss reads with --output=NAME: %s", names);
        return NULL;
    }
    return found;
}

/* Shape without ones at its end, at least `least` dimensions. */
static Shape trimmed(Shape shape, int least) {
    while (shape.rank > least && shape.dim[shape.rank - 1] == 1)
        shape.rank--;
    return shape;
}

/* The input of the softmax over the classes that made the value, if one did: cross-entropy takes the scores themselves. */
static Value *before_softmax(Value *value) {
    Value *at = value;
    while (at->def != NULL && at->def->op == OP_reshape && shape_equal(trimmed(at->shape, 2), trimmed(at->def->in[0]->shape, 2)))
        at = at->def->in[0];
    const Node *maker = at->def;
    bool softmax = maker != NULL && (maker->op == OP_softmax || maker->op == OP_log_softmax) && attr_int(maker, "axis", -1) == 1;
    return softmax ? maker->in[0] : value;
}

static Value *new_target(Importer *importer, Shape shape, int64_t classes) {
    const char *name = names_get(importer->tensors, "target") == NULL ? "target" : "intc.target";
    if (classes > 0)
        return graph_integer(importer->graph, VALUE_INPUT, name, shape, T_I32, classes > 1 ? classes - 1 : 1);
    return graph_value(importer->graph, VALUE_INPUT, name, shape);
}

static bool join_cross_entropy(OnnxNode *node, const Output *output) {
    Importer *importer = node->importer;
    Shape shape = trimmed(output->value->shape, 2);
    if (shape.rank < 2 || shape.dim[1] < 2) {
        diag_error(importer->diag, NULL, "cross-entropy needs scores [batch, classes] for at least 2 classes, output '%s' has shape [%s]%s",
                   output->name, shape_text(importer->arena, output->value->shape), "; give another --loss");
        return false;
    }
    Value *scores = node_reshape(node, before_softmax(output->value), shape);
    Shape labels = {.rank = shape.rank - 1, .dim = {shape.dim[0]}};
    for (int i = 2; i < shape.rank; i++)
        labels.dim[i - 1] = shape.dim[i];
    Value *target = new_target(importer, labels, shape.dim[1]);
    Value *loss =
        node_emit(node, OP_cross_entropy, INPUTS(scores, target), ATTRS(ATTR_I("axis", 1), ATTR_I("ignore_index", (int64_t)INT32_MIN)));
    return output_loss(node, "cross-entropy", loss, true) && output_accuracy(node, scores, target);
}

static bool join_mse(OnnxNode *node, const Output *output) {
    Value *value = output->value;
    if (value->integer || value->shape.rank == 0) {
        diag_error(node->importer->diag, NULL, "mse needs real numbers [batch, ...], output '%s' has shape [%s]", output->name,
                   shape_text(node->importer->arena, value->shape));
        return false;
    }
    Value *error = node_emit(node, OP_sub, INPUTS(value, new_target(node->importer, value->shape, 0)), NO_ATTRS);
    return output_loss(node, "mse", node_emit(node, OP_mul, INPUTS(error, error), NO_ATTRS), true);
}

bool loss_join(Importer *importer) {
    const char *kind = importer->options->loss;
    bool automatic = strcmp(kind, "auto") == 0;
    if (automatic && importer->loss.loss != NULL)
        return join_own(importer, loss_output(importer));
    const Output *output = read_output(importer);
    if (output == NULL)
        return false;
    OnnxNode node = {.importer = importer, .from = {.origin = {.op_type = automatic ? "loss" : kind, .name = output->name}}};
    if (automatic && trimmed(output->value->shape, 2).rank != 2) {
        diag_error(importer->diag, NULL,
                   "output '%s' has shape [%s], not [batch, classes]: name the loss with --loss=cross-entropy or --loss=mse", output->name,
                   shape_text(importer->arena, output->value->shape));
        return false;
    }
    if (automatic || strcmp(kind, "cross-entropy") == 0)
        return join_cross_entropy(&node, output);
    if (strcmp(kind, "mse") == 0)
        return join_mse(&node, output);
    diag_error(importer->diag, NULL, "loss '%s' is not supported; auto, cross-entropy and mse are", kind);
    return false;
}
