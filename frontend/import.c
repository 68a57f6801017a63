/* The importer's driver: binds the inputs, walks the nodes in order, folds what is constant and lowers the rest through onnx_ops.def.
 * Before: a parsed model. After: a training and an inference graph at STAGE_LOWERED, or diagnostics for every node that stands in the way.
 */
#include "frontend/importer.h"

#include <string.h>

static Origin origin_of(const Onnx__NodeProto *proto) {
    const char *name = proto->name != NULL && proto->name[0] != '\0' ? proto->name : proto->n_output > 0 ? proto->output[0] : "";
    return (Origin){.op_type = proto->op_type != NULL ? proto->op_type : "", .name = name};
}

static Operand *operand_new(Importer *importer, const char *name) {
    Operand *operand = arena_alloc(importer->arena, 1, sizeof *operand);
    operand->name = name;
    names_set(importer->tensors, name, operand);
    return operand;
}

/* --- inputs --- */

static const Onnx__TensorShapeProto *declared_shape(const Onnx__ValueInfoProto *info, int *type) {
    if (info->type == NULL || info->type->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE || info->type->tensor_type == NULL)
        return NULL;
    *type = info->type->tensor_type->elem_type;
    return info->type->tensor_type->shape;
}

/* The exported size of a dimension, -1 if it is symbolic or unknown; *symbol is its name or NULL. */
static int64_t declared_dim(const Onnx__TensorShapeProto__Dimension *dim, const char **symbol) {
    *symbol = NULL;
    if (dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE)
        return dim->dim_value < 0 ? -1 : dim->dim_value;
    if (dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM && dim->dim_param != NULL && dim->dim_param[0] != '\0')
        *symbol = dim->dim_param;
    return -1;
}

static bool is_initializer(const Onnx__GraphProto *graph, const char *name) {
    for (size_t i = 0; i < graph->n_initializer; i++)
        if (graph->initializer[i]->name != NULL && strcmp(graph->initializer[i]->name, name) == 0)
            return true;
    return false;
}

typedef struct {
    const char *symbol; /* of the batch dimension */
    int64_t size;       /* as exported, -1: symbolic */
} Batch;

/* The first dimension of the first input that has one. */
static Batch exported_batch(const Importer *importer) {
    const Onnx__GraphProto *graph = importer->file->model->graph;
    Batch batch = {.size = -1};
    for (size_t i = 0; i < graph->n_input; i++) {
        int type;
        const Onnx__TensorShapeProto *shape = declared_shape(graph->input[i], &type);
        if (shape == NULL || shape->n_dim == 0 || graph->input[i]->name == NULL || is_initializer(graph, graph->input[i]->name))
            continue;
        batch.size = declared_dim(shape->dim[0], &batch.symbol);
        return batch;
    }
    return batch;
}

static int64_t bound_dim(Importer *importer, const Onnx__TensorShapeProto *shape, size_t i, const char *input, Batch batch) {
    const char *symbol;
    int64_t size = declared_dim(shape->dim[i], &symbol);
    for (int k = 0; k < importer->options->dim_count && symbol != NULL; k++)
        if (strcmp(importer->options->dims[k].name, symbol) == 0)
            return importer->options->dims[k].size;
    bool same = size >= 0                                ? size == batch.size && i == 0
                : symbol != NULL && batch.symbol != NULL ? strcmp(symbol, batch.symbol) == 0
                                                         : i == 0;
    if (importer->new_batch > 0 && same)
        return importer->new_batch;
    if (size >= 0)
        return size;
    if (same && importer->checking) {
        diag_note(importer->diag, NULL, "the batch is not fixed: compiling needs --batch=N");
        return 1;
    }
    if (symbol == NULL)
        diag_error(importer->diag, NULL, "input '%s': dimension %zu has neither size nor name%s", input, i,
                   same ? ": give the batch size with --batch=N" : "; export with a fixed size");
    else
        diag_error(importer->diag, NULL, "input '%s': dimension '%s' has no size: give %s--dim %s=SIZE", input, symbol,
                   same ? "--batch=N or " : "", symbol);
    return -1;
}

static bool bind_shape(Importer *importer, const Onnx__ValueInfoProto *info, Batch batch, Operand *operand) {
    const Onnx__TensorShapeProto *shape = declared_shape(info, &operand->type);
    if (shape == NULL) {
        diag_error(importer->diag, NULL, "input '%s' is no tensor of known rank", operand->name);
        return false;
    }
    if (shape->n_dim > MAX_RANK) {
        diag_error(importer->diag, NULL, "input '%s' has %zu dimensions, at most %d are supported", operand->name, shape->n_dim, MAX_RANK);
        return false;
    }
    bool ok = true;
    operand->shape.rank = (int)shape->n_dim;
    for (size_t i = 0; i < shape->n_dim; i++) {
        operand->shape.dim[i] = bound_dim(importer, shape, i, operand->name, batch);
        ok = ok && operand->shape.dim[i] >= 0;
    }
    if (ok && checked_elements(operand->shape, ELEMENT_LIMIT) < 0) {
        diag_error(importer->diag, NULL, "input '%s' has more than 2^31 elements", operand->name);
        ok = false;
    }
    if (ok && !onnx_type_is_real(operand->type) && !onnx_type_is_integer(operand->type)) {
        diag_error(importer->diag, NULL, "input '%s' has elements of type %s, which is not supported", operand->name,
                   onnx_type_name(operand->type));
        ok = false;
    }
    return ok;
}

static void add_input(Importer *importer, const Onnx__ValueInfoProto *info, Batch batch) {
    if (info->name == NULL || names_get(importer->tensors, info->name) != NULL)
        return; /* an initializer may be listed as an input too */
    Operand *operand = operand_new(importer, info->name);
    operand->known = bind_shape(importer, info, batch, operand);
    if (!operand->known)
        return;
    for (int i = 0; i < importer->options->known_count; i++)
        if (strcmp(importer->options->known[i].name, info->name) == 0)
            operand->given = importer->options->known[i].tensor;
    operand->label = onnx_type_is_integer(operand->type) && names_get(importer->labels, info->name) != NULL;
    if (operand->label || (onnx_type_is_integer(operand->type) && names_get(importer->indices, info->name) != NULL))
        operand->value = graph_integer(importer->graph, VALUE_INPUT, info->name, operand->shape, T_I32, INT32_MAX);
    else
        operand->value = graph_value(importer->graph, VALUE_INPUT, info->name, operand->shape);
    operand->value->onnx_name = operand->name;
}

/* Exporters store the scalars of a formula as initializers, which are no parameters, and name them after the nodes that they make of them:
 * val_12, sqrt_1 (PyTorch), onnx::Mul_7, /gelu/Constant_output_0 (its older exporter), gelu/mul/x:0, const_fold_opt__9 (TensorFlow, whose
 * variables are called …/ReadVariableOp:0). */
static bool is_made_constant(const Onnx__TensorProto *proto, Shape shape) {
    const char *name = proto->name, *number = strrchr(name, '_');
    if (checked_elements(shape, 1) != 1)
        return false;
    bool counted = number != NULL && number[1] != '\0' && strspn(number + 1, "0123456789") == strlen(number + 1);
    if (shape.rank > 0)
        return counted && number == name + 3 && strncmp(name, "val", 3) == 0;
    if (strstr(name, "ReadVariableOp") != NULL)
        return false;
    return strpbrk(name, "/:") != NULL || (counted && strchr(name, '.') == NULL);
}

static void add_initializers(Importer *importer) {
    const Onnx__GraphProto *graph = importer->file->model->graph;
    if (graph->n_sparse_initializer > 0)
        diag_error(importer->diag, NULL, "sparse initializers are not supported; store them dense");
    for (size_t i = 0; i < graph->n_initializer; i++) {
        const Onnx__TensorProto *proto = graph->initializer[i];
        if (proto->name == NULL)
            continue;
        if (names_get(importer->tensors, proto->name) != NULL) {
            diag_error(importer->diag, NULL, "two initializers have the name '%s'", proto->name);
            continue;
        }
        Operand *operand = operand_new(importer, proto->name);
        operand->known = onnx_tensor_shape(proto, NULL, &operand->shape, importer->diag);
        operand->type = proto->data_type;
        operand->proto = proto;
        operand->learns = onnx_type_learns(proto->data_type) && !is_made_constant(proto, operand->shape);
        operand->fixed = true;
    }
}

/* Marks the names through which class labels travel to a loss, and indices to what takes them. */
static void find_labels(Importer *importer) {
    static const char *const carriers[] = {"Identity", "Reshape",   "Squeeze", "Unsqueeze", "Flatten",
                                           "Cast",     "Transpose", "Slice",   "Expand",    "Gather"};
    static const struct {
        const char *op_type;
        size_t input;
    } takers[] = {{"Gather", 1},          {"GatherElements", 1}, {"GatherND", 1}, {"Scatter", 1},
                  {"ScatterElements", 1}, {"ScatterND", 1},      {"OneHot", 0}};
    const Onnx__GraphProto *graph = importer->file->model->graph;
    for (size_t i = graph->n_node; i-- > 0;) {
        const Onnx__NodeProto *node = graph->node[i];
        if (node->op_type == NULL || node->n_input == 0 || node->n_output == 0)
            continue;
        bool loss = strcmp(node->op_type, "SoftmaxCrossEntropyLoss") == 0 || strcmp(node->op_type, "NegativeLogLikelihoodLoss") == 0;
        if (loss && node->n_input > 1)
            names_set(importer->labels, node->input[1], node->input[1]);
        for (size_t k = 0; k < sizeof takers / sizeof takers[0]; k++)
            if (strcmp(node->op_type, takers[k].op_type) == 0 && node->n_input > takers[k].input)
                names_set(importer->indices, node->input[takers[k].input], node->input[takers[k].input]);
        bool concat = strcmp(node->op_type, "Concat") == 0 && names_get(importer->indices, node->output[0]) != NULL;
        for (size_t k = 0; k < node->n_input && concat; k++)
            names_set(importer->indices, node->input[k], node->input[k]);
        for (size_t k = 0; k < sizeof carriers / sizeof carriers[0]; k++) {
            if (strcmp(node->op_type, carriers[k]) != 0)
                continue;
            if (names_get(importer->labels, node->output[0]) != NULL)
                names_set(importer->labels, node->input[0], node->input[0]);
            if (names_get(importer->indices, node->output[0]) != NULL)
                names_set(importer->indices, node->input[0], node->input[0]);
        }
    }
}

/* Marks the names that the outputs depend on; a node that makes none of them is not looked at. */
static void find_live(Importer *importer) {
    const Onnx__GraphProto *graph = importer->file->model->graph;
    for (size_t i = 0; i < graph->n_output; i++)
        if (graph->output[i]->name != NULL)
            names_set(importer->live, graph->output[i]->name, graph->output[i]->name);
    for (size_t i = graph->n_node; i-- > 0;) {
        const Onnx__NodeProto *node = graph->node[i];
        bool live = false;
        for (size_t k = 0; k < node->n_output && !live; k++)
            live = names_get(importer->live, node->output[k]) != NULL;
        for (size_t k = 0; k < node->n_input && live; k++)
            names_set(importer->live, node->input[k], node->input[k]);
    }
}

/* --- nodes --- */

static bool all_constant(OnnxNode *node) {
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i] != NULL && operand_constant(node->importer, node->in[i]) == NULL)
            return false;
    return true;
}

static bool check_attributes(OnnxNode *node) {
    bool ok = true;
    for (size_t i = 0; i < node->proto->n_attribute; i++) {
        const Onnx__AttributeProto *attr = node->proto->attribute[i];
        if (attr->ref_attr_name != NULL && attr->ref_attr_name[0] != '\0')
            ok = node_refuse(node, "attribute '%s' refers to a function's attribute", attr->name != NULL ? attr->name : "");
        else if (!node->attr_read[i])
            ok = node_refuse(node, "attribute '%s' is not supported at this opset", attr->name != NULL ? attr->name : "");
    }
    return ok;
}

/* Largest listed version that the opset includes; 0 if it is older than all. */
static int since_version(const OnnxOp *op, int64_t opset) {
    int since = 0;
    for (const int *version = op->since; *version != 0 && *version <= opset; version++)
        since = *version;
    return since;
}

static bool refuse_operator(OnnxNode *node, const char *reason) {
    const char *hint = onnx_op_hint(node->from.origin.op_type);
    const char *domain = node->proto->domain != NULL ? node->proto->domain : "";
    bool other = domain[0] != '\0' && strcmp(domain, "ai.onnx") != 0;
    if (other)
        return node_refuse(node, "operators of domain '%s' are not supported", domain);
    return node_refuse(node, "%s (opset %lld)%s%s", reason, (long long)node->importer->opset, hint != NULL ? "; " : "",
                       hint != NULL ? hint : "");
}

static bool lower(OnnxNode *node, const OnnxOp *op) {
    Importer *importer = node->importer;
    if (op == NULL)
        return refuse_operator(node, "the operator is not supported");
    node->since = since_version(op, importer->opset);
    if (node->since == 0)
        return node_refuse(node, "the operator as defined at opset %lld is not supported, only from version %d on",
                           (long long)importer->opset, op->since[0]);
    bool known = true;
    for (int i = 0; i < node->in_count; i++)
        known = known && (node->in[i] == NULL || node->in[i]->known);
    if (!known)
        return false; /* what made the input has been reported */
    int errors = diag_errors(importer->diag);
    bool ok;
    if (op->fold != NULL && all_constant(node))
        ok = op->fold(node);
    else if (op->lower != NULL)
        ok = op->lower(node);
    else
        return refuse_operator(node, "is supported only on constants and shapes");
    ok = ok && check_attributes(node);
    if (!ok && diag_errors(importer->diag) == errors)
        node_refuse(node, "cannot be lowered");
    return ok;
}

static const Onnx__ValueInfoProto *value_info(const Onnx__GraphProto *graph, const char *name) {
    for (size_t i = 0; i < graph->n_value_info; i++)
        if (graph->value_info[i]->name != NULL && strcmp(graph->value_info[i]->name, name) == 0)
            return graph->value_info[i];
    return NULL;
}

/* After a refusal: continues with the shape that the model declares, so that later nodes are looked at too. The graph is not used. */
static void assume_declared(OnnxNode *node) {
    Importer *importer = node->importer;
    for (int i = 0; i < node->out_count; i++) {
        Operand *out = node->out[i];
        if (out == NULL || out->known || importer->exported != NULL)
            continue;
        const Onnx__ValueInfoProto *info = value_info(importer->file->model->graph, out->name);
        const char *symbol;
        const Onnx__TensorShapeProto *shape = info != NULL ? declared_shape(info, &out->type) : NULL;
        bool fixed = shape != NULL && shape->n_dim <= MAX_RANK && onnx_type_is_real(out->type);
        for (size_t k = 0; fixed && k < shape->n_dim; k++)
            fixed = (out->shape.dim[k] = declared_dim(shape->dim[k], &symbol)) >= 0;
        out->shape.rank = fixed ? (int)shape->n_dim : 0;
        if (!fixed || checked_elements(out->shape, ELEMENT_LIMIT) < 0)
            continue;
        out->known = true;
        out->value = graph_value(importer->graph, VALUE_INPUT, NULL, out->shape);
    }
}

static void add_node(Importer *importer, const Onnx__NodeProto *proto) {
    OnnxNode node = {.importer = importer, .proto = proto, .from = {.origin = origin_of(proto)}};
    node.in = arena_alloc(importer->arena, proto->n_input + 1, sizeof *node.in);
    node.out = arena_alloc(importer->arena, proto->n_output + 1, sizeof *node.out);
    node.attr_read = arena_alloc(importer->arena, proto->n_attribute + 1, sizeof *node.attr_read);
    bool ok = true, live = false;
    for (size_t i = 0; i < proto->n_output && !live; i++)
        live = names_get(importer->live, proto->output[i]) != NULL;
    if (!live)
        return;
    for (size_t i = 0; i < proto->n_input; i++) {
        if (proto->input[i] == NULL || proto->input[i][0] == '\0')
            continue;
        node.in[i] = names_get(importer->tensors, proto->input[i]);
        if (node.in[i] == NULL)
            ok = node_refuse(&node, "input '%s' is made by no earlier node, input or initializer", proto->input[i]);
    }
    node.in_count = (int)proto->n_input;
    while (node.in_count > 0 && (proto->input[node.in_count - 1] == NULL || proto->input[node.in_count - 1][0] == '\0'))
        node.in_count--;
    for (size_t i = 0; i < proto->n_output; i++) {
        if (proto->output[i] == NULL || proto->output[i][0] == '\0')
            continue;
        if (names_get(importer->tensors, proto->output[i]) != NULL)
            ok = node_refuse(&node, "output '%s' exists already", proto->output[i]);
        else if (names_get(importer->live, proto->output[i]) != NULL)
            node.out[i] = operand_new(importer, proto->output[i]);
    }
    node.out_count = (int)proto->n_output;
    const char *domain = proto->domain != NULL && strcmp(proto->domain, "ai.onnx") != 0 ? proto->domain : "";
    ok = lower(&node, onnx_op_find(node.from.origin.op_type, domain)) && ok;
    if (!ok)
        assume_declared(&node);
    else if (importer->exported != NULL)
        batch_track(&node);
}

static void add_outputs(Importer *importer) {
    const Onnx__GraphProto *graph = importer->file->model->graph;
    if (graph->n_output == 0)
        diag_error(importer->diag, NULL, "the model has no output");
    const Operand *loss = loss_output(importer);
    for (size_t i = 0; i < graph->n_output; i++) {
        const char *name = graph->output[i]->name;
        Operand *operand = name != NULL ? names_get(importer->tensors, name) : NULL;
        if (operand == NULL) {
            diag_error(importer->diag, NULL, "output '%s' is made by no node", name != NULL ? name : "");
            continue;
        }
        if (!operand->known || operand == loss)
            continue;
        OnnxNode reader = {.importer = importer, .in = &operand, .in_count = 1};
        Value *value = node_value(&reader, 0);
        if (value != NULL)
            graph_output(importer->graph, name, ROLE_PREDICTION, value);
    }
}

/* --- whole graphs --- */

static int64_t model_opset(const Onnx__ModelProto *model, Diag *diag) {
    int64_t opset = 1;
    for (size_t i = 0; i < model->n_opset_import; i++) {
        const char *domain = model->opset_import[i]->domain;
        if (domain == NULL || domain[0] == '\0' || strcmp(domain, "ai.onnx") == 0)
            opset = model->opset_import[i]->version;
    }
    if (opset > ONNX_OPSET_NEWEST)
        diag_error(diag, NULL, "opset %lld is newer than %d, the newest whose operators intc knows; export with an older one",
                   (long long)opset, ONNX_OPSET_NEWEST);
    return opset;
}

static void run(Importer *importer) {
    const Onnx__GraphProto *graph = importer->file->model->graph;
    size_t entries = graph->n_initializer + graph->n_input;
    size_t carried = 0;
    for (size_t i = 0; i < graph->n_node; i++) {
        entries += graph->node[i]->n_output;
        carried += 1 + graph->node[i]->n_input;
    }
    importer->tensors = names_new(importer->arena, entries);
    importer->labels = names_new(importer->arena, carried);
    importer->indices = names_new(importer->arena, carried);
    importer->live = names_new(importer->arena, carried + graph->n_output);
    find_live(importer);
    importer->graph->stage = STAGE_LOWERED;
    importer->opset = model_opset(importer->file->model, importer->diag);
    find_labels(importer);
    add_initializers(importer);
    Batch batch = exported_batch(importer);
    for (size_t i = 0; i < graph->n_input; i++)
        add_input(importer, graph->input[i], batch);
    for (size_t i = 0; i < graph->n_node; i++)
        add_node(importer, graph->node[i]);
    add_outputs(importer);
}

/* A model does not say whether a single number is a parameter or belongs to a formula. */
static void report_scalars(const Importer *importer) {
    const char *names = "";
    int count = 0;
    for (int i = 0; i < importer->graph->value_count; i++) {
        const Value *value = importer->graph->values[i];
        if (value->kind == VALUE_PARAM && value->shape.rank == 0)
            names = arena_printf(importer->arena, "%s%s'%s'", names, count++ > 0 ? ", " : "", value->onnx_name);
    }
    if (count > 0)
        diag_note(importer->diag, NULL, "%s: single numbers that learn; --freeze=NAME keeps one that is a constant of the model", names);
}

/* What the user may not know about the model. */
static void report_notes(const Importer *importer) {
    const Onnx__GraphProto *graph = importer->file->model->graph;
    int convolutions = importer->convolutions_with_bias, dropouts = importer->frozen_dropouts;
    report_scalars(importer);
    bool normalised = false;
    for (size_t i = 0; i < graph->n_node && !normalised; i++)
        normalised = graph->node[i]->op_type != NULL && strcmp(graph->node[i]->op_type, "BatchNormalization") == 0;
    if (convolutions > 0 && !normalised)
        diag_note(importer->diag, NULL,
                  "%d convolution%s with bias, no BatchNormalization; if the model had one, the exporter folded it: to keep it export with "
                  "dynamo=True, optimize=False or training=TRAINING",
                  convolutions, convolutions == 1 ? "" : "s");
    if (dropouts > 0)
        diag_note(importer->diag, NULL,
                  "%d Dropout %s frozen (training_mode is false): exported in evaluation mode, nothing is dropped while training", dropouts,
                  dropouts == 1 ? "node is" : "nodes are");
}

static Graph *import(const OnnxFile *file, const ImportOptions *options, const char *name, bool training, bool checking, Diag *diag) {
    Importer *importer = arena_alloc(file->arena, 1, sizeof *importer);
    *importer =
        (Importer){.arena = file->arena, .diag = diag, .file = file, .options = options, .training = training, .checking = checking};
    importer->graph = graph_new(file->arena, name);
    importer->new_batch = options->batch;
    Batch batch = exported_batch(importer);
    if (options->batch > 0 && batch.size > 0 && batch.size != options->batch) {
        Importer *old = arena_alloc(file->arena, 1, sizeof *old);
        *old = *importer;
        old->graph = graph_new(file->arena, name);
        old->new_batch = 0;
        old->diag = diag_new(file->path);
        run(old);
        diag_free(old->diag);
        importer->exported = old->tensors;
        importer->old_batch = batch.size;
    }
    int errors = diag_errors(diag);
    run(importer);
    if (options->loss != NULL && diag_errors(diag) == errors)
        loss_join(importer);
    if (options->loss != NULL && !training)
        report_notes(importer);
    return importer->graph;
}

static bool import_both(const OnnxFile *file, const ImportOptions *options, bool checking, Graph **train, Graph **infer, Diag *diag) {
    int errors = diag_errors(diag);
    *train = *infer = NULL;
    if (options->batch < 0) {
        diag_error(diag, NULL, "the batch size must be positive");
        return false;
    }
    Graph *graph = import(file, options, "infer", false, checking, diag);
    Graph *training = options->training ? import(file, options, "train", true, checking, diag) : NULL;
    if (diag_errors(diag) != errors)
        return false;
    *infer = graph;
    *train = training;
    return true;
}

bool onnx_import(const OnnxFile *file, const ImportOptions *options, Graph **train, Graph **infer, Diag *diag) {
    return import_both(file, options, false, train, infer, diag);
}

bool onnx_check(const OnnxFile *file, const ImportOptions *options, Diag *diag) {
    Graph *train, *infer;
    return import_both(file, options, true, &train, &infer, diag);
}
