/* Models made on the spot, each to show one thing that the importer must do or refuse. Prints what fails; exits 1 then. */
#include "passes/passes.h"
#include "tests/e2e/made.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    Diag *diag;
    Graph *train, *infer;
    char *text;
    bool ok;
} Result;

static int failures;

static void expect(bool condition, const char *what, const Result *result) {
    if (condition)
        return;
    failures++;
    printf("FAILED: %s\n%s", what, result->text);
}

/* Writes the model, reads and imports it. */
static Result import_made(Made *made, int64_t batch, const char *loss) {
    char path[] = "intc-import-XXXXXX"; /* in the working directory */
    int file = mkstemp(path);
    size_t size = onnx__model_proto__get_packed_size(&made->model), text_size = 0;
    uint8_t *bytes = arena_alloc(made->arena, size, 1);
    onnx__model_proto__pack(&made->model, bytes);
    if (file < 0 || write(file, bytes, size) != (ssize_t)size)
        abort();
    close(file);
    Result result = {.diag = diag_new("made")};
    ImportOptions options = {.batch = batch, .loss = loss, .training = true};
    const OnnxFile *read = onnx_read(made->arena, path, result.diag);
    result.ok = read != NULL && onnx_import(read, &options, &result.train, &result.infer, result.diag);
    unlink(path);
    FILE *out = open_memstream(&result.text, &text_size);
    diag_print(result.diag, out);
    fclose(out);
    if (result.ok && (!graph_verify(result.train, result.diag) || !graph_verify(result.infer, result.diag)))
        expect(false, "the verifier accepts every graph", &result);
    return result;
}

static void finish(Made *made, Result *result) {
    free(result->text);
    diag_free(result->diag);
    arena_free(made->arena);
}

static int count_ops(const Graph *graph, Op op) {
    int count = 0;
    for (int i = 0; graph != NULL && i < graph->node_count; i++)
        count += graph->nodes[i]->op == op;
    return count;
}

static int count_params(const Graph *graph) {
    int count = 0;
    for (int i = 0; graph != NULL && i < graph->value_count; i++)
        count += graph->values[i]->kind == VALUE_PARAM;
    return count;
}

static bool says(const Result *result, const char *text) {
    return strstr(result->text, text) != NULL;
}

/* x [batch, 4] times w [4, 3]. */
static Made *linear(int64_t opset, const char *batch, const char *output) {
    Made *made = made_new(opset);
    add_input(made, "x", 1, arena_printf(made->arena, "%s,4", batch));
    add_floats(made, "w", 2, (int64_t[]){4, 3}, 0.5f);
    add_node(made, "MatMul", "x,w", output);
    return made;
}

/* --- the tests --- */

static void test_dimensions(void) {
    Made *made = linear(13, "rows", "y");
    add_output(made, "y");
    Result result = import_made(made, 0, "auto");
    expect(!result.ok && says(&result, "'rows'") && says(&result, "--batch=N"), "an unbound batch names the dimension and the option",
           &result);
    finish(made, &result);
    made = linear(13, "rows", "y");
    add_output(made, "y");
    result = import_made(made, 5, "auto");
    expect(result.ok && result.train->outputs[0].value->shape.dim[0] == 5, "--batch binds a named batch", &result);
    finish(made, &result);
}

static void test_everything_at_once(void) {
    Made *made = linear(13, "2", "y");
    add_node(made, "ImageScaler", "y", "a");
    add_node(made, "Det", "a", "b");
    Onnx__NodeProto *relu = add_node(made, "Relu", "y", "c");
    add_int(made, relu, "surprise", 1);
    add_output(made, "b");
    add_output(made, "c");
    Result result = import_made(made, 0, "auto");
    expect(!result.ok && says(&result, "ImageScaler 'node_a'") && says(&result, "scale the images"),
           "an unsupported operator is named with a rewrite", &result);
    expect(says(&result, "Det 'node_b'") && says(&result, "attribute 'surprise'"), "one run reports every problem", &result);
    finish(made, &result);
}

static void test_opset(void) {
    Made *made = linear(29, "2", "y");
    add_output(made, "y");
    Result result = import_made(made, 0, "auto");
    expect(!result.ok && says(&result, "opset 29"), "a newer opset is refused by number", &result);
    finish(made, &result);
    made = linear(5, "2", "y");
    add_node(made, "Relu", "y", "z");
    add_output(made, "z");
    result = import_made(made, 0, "auto");
    expect(!result.ok && says(&result, "opset 5"), "an older definition is refused by number", &result);
    finish(made, &result);
}

static void test_external(void) {
    static const char *const outside[] = {"../weights", "/weights", "a/../../b", ""};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        Made *made = made_new(13);
        add_input(made, "x", 1, "2,4");
        add_external(made, "w", outside[i], "0");
        add_node(made, "MatMul", "x,w", "y");
        add_output(made, "y");
        Result result = import_made(made, 0, "auto");
        expect(!result.ok && says(&result, "not beside the model"), "external data stay beside the model", &result);
        finish(made, &result);
    }
    Made *made = made_new(13);
    add_input(made, "x", 1, "2,4");
    add_external(made, "w", "no-such-file-of-intc", "99999999999999999999");
    add_node(made, "MatMul", "x,w", "y");
    add_output(made, "y");
    Result result = import_made(made, 0, "auto");
    expect(!result.ok && says(&result, "malformed offset"), "an offset out of range is refused", &result);
    finish(made, &result);
}

static void test_bias(void) {
    Made *made = linear(13, "2", "y");
    add_floats(made, "b", 2, (int64_t[]){1, 3}, 1);
    add_node(made, "Add", "b,y", "z");
    add_output(made, "z");
    Result result = import_made(made, 0, "auto");
    expect(result.ok && count_ops(result.train, OP_bias) == 1 && count_ops(result.train, OP_add) == 0, "MatMul and Add are a bias",
           &result);
    expect(result.ok && count_params(result.train) == 2, "both initializers are parameters", &result);
    finish(made, &result);
    made = linear(13, "2", "y");
    add_floats(made, "val_7", 1, (int64_t[]){1}, 0.25f);
    add_node(made, "Mul", "y,val_7", "z");
    add_output(made, "z");
    result = import_made(made, 0, "auto");
    expect(result.ok && count_params(result.train) == 1 && count_ops(result.train, OP_mul) == 0, "an exporter's scale is no parameter",
           &result);
    finish(made, &result);
}

/* The largest distance from `wanted` of the batch's mean at each of `elements` places of y, for x of made-up numbers, in real mode. */
static double mean_error(Graph *graph, int rows, int elements, bool rows_first, double wanted) {
    Eval *eval = eval_new(graph, EVAL_REAL);
    for (int i = 0; i < graph->value_count; i++)
        for (int k = 0; graph->values[i]->kind == VALUE_INPUT && k < rows * elements; k++)
            eval->tensors[i].real[k] = (double)(k * k % 17) + 30 * (k % elements);
    eval_nodes(eval);
    const double *y = NULL;
    double worst = 0;
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_PREDICTION)
            y = eval->tensors[graph->outputs[i].value->id].real;
    for (int e = 0; e < elements && y != NULL; e++) {
        double mean = 0;
        for (int r = 0; r < rows; r++)
            mean += y[rows_first ? r * elements + e : e * rows + r] / rows;
        worst = worst > mean - wanted && worst > wanted - mean ? worst : mean > wanted ? mean - wanted : wanted - mean;
    }
    eval_free(eval);
    return y != NULL ? worst : 1;
}

/* spatial = 0 normalises every element over the batch alone; numbers that fit dimension 0 alone are those of a [C, N]. */
static void test_batch_normalization(void) {
    static const char *const what[] = {"scale", "shift", "mean", "var"};
    for (int turned = 0; turned < 2; turned++) {
        Made *made = made_new(7);
        add_input(made, "x", 1, turned ? "1,6" : "4,2,3");
        for (int i = 0; i < 4; i++)
            add_floats(made, what[i], turned ? 1 : 2, turned ? (int64_t[]){6} : (int64_t[]){2, 3}, (float)(i + 1));
        if (turned)
            add_node(made, "Transpose", "x", "z");
        Onnx__NodeProto *node = add_node(made, "BatchNormalization", turned ? "z,scale,shift,mean,var" : "x,scale,shift,mean,var", "y");
        if (!turned)
            add_int(made, node, "spatial", 0);
        add_output(made, "y");
        Result result = import_made(made, turned ? 4 : 0, "mse");
        expect(result.ok && count_params(result.train) == 2, "statistics are states", &result);
        expect(result.ok && mean_error(result.train, 4, 6, !turned, 2) < 1e-9, "each element is normalised over the batch", &result);
        finish(made, &result);
    }
}

/* Predictions for mantissas of 8 bits, zeros in channel 0 and made-up ones in channel 1 of x, of one image of two channels. */
static double *predictions(Graph *graph, EvalMode mode, int elements) {
    Eval *eval = eval_new(graph, mode);
    double *y = arena_alloc(graph->arena, (size_t)elements, sizeof *y);
    for (int i = 0; i < graph->value_count; i++)
        for (int k = 0; graph->values[i]->kind == VALUE_INPUT && k < elements; k++) {
            int64_t m = k < elements / 2 ? 0 : k * k % 199 - 99;
            eval->tensors[i].exponent = -5;
            if (mode == EVAL_INTEGER)
                eval->tensors[i].mantissa[k] = m;
            else
                eval->tensors[i].real[k] = ldexp((double)m, -5);
        }
    eval_nodes(eval);
    for (int i = 0; i < graph->output_count; i++) {
        const Tensor *found = &eval->tensors[graph->outputs[i].value->id];
        for (int k = 0; graph->outputs[i].role == ROLE_PREDICTION && k < elements; k++)
            y[k] = mode == EVAL_INTEGER ? ldexp((double)found->mantissa[k], found->exponent) : found->real[k];
    }
    eval_free(eval);
    return y;
}

/* Whether the int8 models refer to parameters and states alone. */
static bool exports(Graph *infer, Diag *diag) {
    enum { ROOM = 8 };
    Graph *fixed;
    Value **slots;
    int slot_count, count = 0;
    ModelTemplate models[ROOM] = {0};
    if (!pass_calibrate(infer, &fixed, &slots, &slot_count, diag))
        return false;
    onnx_export_int8(fixed, models, &count);
    bool good = count > 0;
    for (int m = 0; m < count; m++)
        for (int i = 0; i < models[m].exponent_count; i++) {
            const char *param = models[m].exponents[i].param;
            bool known = param == NULL;
            for (int v = 0; v < fixed->value_count; v++)
                known = known || (fixed->values[v]->kind != VALUE_CONST && strcmp(fixed->values[v]->name, param) == 0);
            good = good && known && models[m].refusal == NULL;
        }
    return good;
}

/* Normalisation folded into a depthwise convolution: a channel without variance, whose 1/sigma is 316, leaves the other's weights alone. */
static void test_levels(bool constant) {
    enum { SIDE = 6, ELEMENTS = 2 * SIDE * SIDE };
    Made *made = made_new(13);
    add_input(made, "x", 1, "1,2,6,6");
    add_floats(made, "w", 4, (int64_t[]){2, 1, 1, 1}, 0.7f);
    static const char *const numbers[] = {"scale", "shift", "mean", "var"};
    static const float value[] = {1.5f, 0.25f, 0.1f, 0};
    for (int i = 0; i < 4; i++)
        add_floats(made, numbers[i], 1, (int64_t[]){2}, value[i]);
    made->initializers[made->graph.n_initializer - 1]->float_data[1] = 1; /* the variance of channel 1 */
    add_int(made, add_node(made, "Conv", "x,w", "z"), "group", 2);
    add_node(made, "BatchNormalization", "z,scale,shift,mean,var", "y");
    add_output(made, "y");
    Result result = import_made(made, 0, "mse");
    expect(result.ok && count_ops(result.infer, OP_restore) == 2, "weights of a grouped convolution have levels", &result);
    for (int i = 0; constant && result.ok && i < result.infer->value_count; i++)
        if (result.infer->values[i]->kind == VALUE_STATE)
            result.infer->values[i]->kind = VALUE_CONST;
    if (result.ok && pass_fold(result.infer, result.diag) && pass_exponents(result.infer, &(PassOptions){.bits = 8}, result.diag)) {
        const double *real = predictions(result.infer, EVAL_REAL, ELEMENTS), *integer = predictions(result.infer, EVAL_INTEGER, ELEMENTS);
        double worst = 0, largest = 0;
        for (int k = ELEMENTS / 2; k < ELEMENTS; k++) {
            worst = fmax(worst, fabs(real[k] - integer[k]));
            largest = fmax(largest, fabs(real[k]));
        }
        expect(largest > 1 && worst <= largest / 64, "a channel beside one of tiny variance keeps its bits", &result);
        expect(exports(result.infer, result.diag), "exports read levels that do not learn from the model", &result);
    }
    finish(made, &result);
}

static void test_dropout(void) {
    for (int training = 0; training < 2; training++) {
        Made *made = linear(13, "2", "y");
        add_floats(made, "ratio", 0, NULL, 0.5f);
        Onnx__TensorProto *mode = tensor_new(made, "mode", 9, 0, NULL);
        mode->n_int32_data = 1;
        mode->int32_data = arena_alloc(made->arena, 1, sizeof(int32_t));
        mode->int32_data[0] = training;
        add_node(made, "Dropout", "y,ratio,mode", "z");
        add_output(made, "z");
        Result result = import_made(made, 0, "auto");
        expect(result.ok && count_ops(result.train, OP_random_mask) == training, "dropout drops while training if its mode says so",
               &result);
        expect(count_ops(result.infer, OP_random_mask) == 0, "dropout is gone from inference", &result);
        expect(says(&result, "frozen") == (training == 0), "a frozen dropout is noted", &result);
        finish(made, &result);
    }
}

static void test_softmax_loss(void) {
    Made *made = linear(13, "2", "y");
    add_node(made, "Softmax", "y", "p");
    add_output(made, "p");
    Result result = import_made(made, 0, "auto");
    bool reads_scores = false;
    for (int i = 0; result.ok && i < result.train->node_count; i++)
        if (result.train->nodes[i]->op == OP_cross_entropy)
            reads_scores = result.train->nodes[i]->in[0]->def->op == OP_matmul;
    expect(reads_scores, "cross-entropy reads the input of a final softmax", &result);
    expect(result.ok && result.train->outputs[0].value->def->op == OP_softmax, "the prediction stays the softmax", &result);
    finish(made, &result);
}

static void test_own_loss(void) {
    Made *made = linear(13, "2", "y");
    add_input(made, "labels", 7, "2");
    add_node(made, "SoftmaxCrossEntropyLoss", "y,labels", "loss");
    add_output(made, "loss");
    Result result = import_made(made, 6, "auto");
    bool bounded = false;
    for (int i = 0; result.ok && i < result.train->value_count; i++) {
        const Value *value = result.train->values[i];
        if (value->kind == VALUE_INPUT && value->integer)
            bounded = value->bound == 2 && value->shape.dim[0] == 6 && strcmp(value->name, "labels") == 0;
    }
    expect(bounded, "labels of the model's own loss are an input bounded by its classes", &result);
    expect(result.ok && result.infer->output_count == 3 && result.infer->outputs[0].value->shape.rank == 1, "the loss separates by row",
           &result);
    finish(made, &result);
}

static void test_shape_arithmetic(void) {
    Made *made = made_new(13);
    add_input(made, "x", 1, "N,2,2");
    add_ints(made, "zero", 1, (int64_t[]){0});
    add_ints(made, "below", 1, (int64_t[]){-5});
    add_node(made, "Sign", "below", "rest");
    add_node(made, "Shape", "x", "s");
    add_node(made, "Gather", "s,zero", "n");
    add_int(made, add_node(made, "Concat", "n,rest", "t"), "axis", 0);
    add_node(made, "Reshape", "x,t", "y");
    add_output(made, "y");
    Result result = import_made(made, 7, "auto");
    Shape wanted = {.rank = 2, .dim = {7, 4}};
    expect(result.ok && shape_equal(result.train->outputs[0].value->shape, wanted), "shape arithmetic is folded", &result);
    finish(made, &result);
}

static void test_sequence(void) {
    const char *const last[][2] = {{"SequenceAt", "parts,end"}, {"Relu", "parts"}};
    for (int i = 0; i < 2; i++) {
        Made *made = made_new(13);
        add_input(made, "x", 1, "N,7");
        add_ints(made, "sizes", 2, (int64_t[]){3, 4});
        add_ints(made, "end", 1, (int64_t[]){-1});
        add_int(made, add_node(made, "SplitToSequence", "x,sizes", "parts"), "axis", 1);
        add_node(made, last[i][0], last[i][1], "y");
        add_output(made, "y");
        Result result = import_made(made, 5, "auto");
        Shape wanted = {.rank = 2, .dim = {5, 4}};
        if (i == 0)
            expect(result.ok && shape_equal(result.train->outputs[0].value->shape, wanted), "a part is taken from a sequence", &result);
        else
            expect(!result.ok && says(&result, "'parts' has no value"), "a sequence is no tensor", &result);
        finish(made, &result);
    }
}

static void test_rebind(void) {
    Made *made = made_new(13);
    add_input(made, "x", 1, "2,3,4");
    add_ints(made, "t", 2, (int64_t[]){2, 12});
    add_node(made, "Reshape", "x,t", "y");
    add_output(made, "y");
    Result result = import_made(made, 10, "auto");
    Shape wanted = {.rank = 2, .dim = {10, 12}};
    expect(result.ok && shape_equal(result.train->outputs[0].value->shape, wanted), "a constant shape follows the batch", &result);
    finish(made, &result);
    made = made_new(13);
    add_input(made, "x", 1, "2,3,4");
    add_ints(made, "t", 2, (int64_t[]){3, 8});
    add_node(made, "Reshape", "x,t", "y");
    add_output(made, "y");
    result = import_made(made, 10, "auto");
    expect(!result.ok && says(&result, "Reshape 'node_y'"), "where the batch is not clear the node is named", &result);
    finish(made, &result);
}

static void test_shapes_that_do_not_fit(void) {
    Made *made = linear(13, "2", "y");
    add_floats(made, "b", 1, (int64_t[]){5}, 1);
    add_node(made, "Add", "y,b", "z");
    add_output(made, "z");
    Result result = import_made(made, 0, "auto");
    expect(!result.ok && says(&result, "Add 'node_z'") && says(&result, "2x3") && says(&result, "[5]"), "shapes that do not fit are shown",
           &result);
    finish(made, &result);
    made = linear(13, "2", "y");
    add_node(made, "Relu", "missing", "z");
    add_output(made, "z");
    result = import_made(made, 0, "auto");
    expect(!result.ok && says(&result, "'missing'"), "an input from nowhere is named", &result);
    finish(made, &result);
}

/* 0 and a very negative number, as exporters store a mask. */
static void test_additive_mask(void) {
    enum { MASK, BIAS, RESHAPED_MASK, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        Made *made = linear(13, "2", "y");
        add_floats(made, "mask", 1, (int64_t[]){3}, 0);
        made->initializers[1]->float_data[2] = kind != BIAS ? -3.4e38f : -3.0f;
        add_node(made, "Add", "y,mask", "s");
        add_ints(made, "shape", 3, (int64_t[]){2, 1, 3});
        if (kind == RESHAPED_MASK)
            add_node(made, "Reshape", "s,shape", "r");
        add_node(made, "Softmax", kind == RESHAPED_MASK ? "r" : "s", "p");
        add_node(made, "MatMul", "p,v", "z");
        add_floats(made, "v", 2, (int64_t[]){3, 3}, 0.25f);
        add_output(made, "z");
        Result result = import_made(made, 0, "mse");
        expect(result.ok && count_ops(result.train, OP_masked_softmax) == (kind != BIAS), "a softmax leaves out what an added mask hides",
               &result);
        expect(result.ok && count_params(result.train) == 2 + (kind == BIAS), "a mask is no parameter, a bias is", &result);
        finish(made, &result);
    }
}

/* x scaled by (random < 0.8) / 0.8, as exporters spell dropout. */
static void test_random_comparison(void) {
    Made *made = linear(13, "2", "y");
    add_floats(made, "share_1", 0, NULL, 0.8f);
    add_node(made, "RandomUniformLike", "y", "u");
    add_node(made, "Less", "u,share_1", "l");
    add_int(made, add_node(made, "Cast", "l", "f"), "to", 1);
    add_node(made, "Div", "f,share_1", "d");
    add_node(made, "Mul", "y,d", "z");
    add_output(made, "z");
    Result result = import_made(made, 0, "auto");
    expect(result.ok && count_ops(result.train, OP_random_mask) == 1 && count_ops(result.train, OP_mul) == 0,
           "it is a gate by a random mask", &result);
    bool reads_y = false, kept = false;
    for (int i = 0; result.ok && i < result.train->node_count; i++) {
        const Node *node = result.train->nodes[i];
        reads_y = reads_y || (node->op == OP_gate && node->in[0]->def != NULL && node->in[0]->def->op == OP_matmul);
        kept = kept || (node->op == OP_random_mask && attr_real(node, "ratio", 0) > 0.199 && attr_real(node, "ratio", 0) < 0.201);
    }
    expect(reads_y && kept, "the gate reads the data, and one in five is dropped", &result);
    const Node *last = result.ok ? result.infer->outputs[0].value->def : NULL;
    expect(last != NULL && last->op == OP_matmul, "nothing is dropped from a prediction", &result);
    finish(made, &result);
}

static void test_gather(void) {
    Made *made;
    for (int kind = 0; kind < 2; kind++) {
        made = linear(13, "2", "y");
        add_ints(made, "places", 3, kind == 0 ? (int64_t[]){-1, 1, 0} : (int64_t[]){2, 0, 0});
        add_int(made, add_node(made, "Gather", "y,places", "z"), "axis", 1);
        add_output(made, "z");
        Result result = import_made(made, 0, "auto");
        expect(result.ok && count_ops(result.train, OP_gather) == kind, "evenly spaced indices are moves", &result);
        finish(made, &result);
    }
    made = made_new(13);
    add_input(made, "words", 7, "2,5");
    add_floats(made, "table", 2, (int64_t[]){9, 4}, 0.5f);
    add_node(made, "Gather", "table,words", "e");
    add_int(made, add_node(made, "Flatten", "e", "y"), "axis", 1);
    add_output(made, "y");
    Result result = import_made(made, 0, "auto");
    bool bounded = false;
    for (int i = 0; result.ok && i < result.train->value_count; i++) {
        const Value *value = result.train->values[i];
        bounded = bounded || (value->kind == VALUE_INPUT && strcmp(value->name, "words") == 0 && value->integer && value->bound == 8);
    }
    expect(bounded && count_ops(result.train, OP_gather) == 1, "an integer input is indices within the table", &result);
    finish(made, &result);
}

static void test_diagonal(void) {
    Made *made = linear(13, "2", "y");
    Onnx__NodeProto *node = add_node(made, "Einsum", "w,y", "z");
    Onnx__AttributeProto *attr = arena_alloc(made->arena, 1, sizeof *attr);
    onnx__attribute_proto__init(attr);
    attr->name = arena_strdup(made->arena, "equation");
    attr->has_type = attr->has_s = 1;
    attr->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
    attr->s.data = (uint8_t *)arena_strdup(made->arena, "ii,ij->j");
    attr->s.len = 8;
    node->attribute[node->n_attribute++] = attr;
    add_output(made, "z");
    Result result = import_made(made, 0, "auto");
    expect(!result.ok && says(&result, "Einsum 'node_z'") && says(&result, "diagonal"), "a diagonal in Einsum is refused by name", &result);
    finish(made, &result);
}

/* A chain of nodes "Op:inputs:outputs;…" behind y, with scalars at hand, and what its output z is lowered to. */
static void check_pattern(const char *chain, Op op, const char *function) {
    static const struct {
        const char *name;
        float value;
    } scalars[] = {{"zero_1", 0},    {"half_1", 0.5f},        {"one_1", 1},          {"three_1", 3},           {"six_1", 6},
                   {"twenty_1", 20}, {"root_1", 1.41421354f}, {"cube_1", 0.044715f}, {"slope_1", 0.797884583f}};
    Made *made = linear(20, "2", "y");
    for (size_t i = 0; i < sizeof scalars / sizeof scalars[0]; i++)
        add_floats(made, scalars[i].name, 0, NULL, scalars[i].value);
    char *rest = NULL, *copy = arena_strdup(made->arena, chain);
    for (char *part = strtok_r(copy, ";", &rest); part != NULL; part = strtok_r(NULL, ";", &rest)) {
        char *in = strchr(part, ':'), *out = strrchr(part, ':');
        *in = *out = '\0';
        add_node(made, part, in + 1, out + 1);
    }
    add_output(made, "z");
    Result result = import_made(made, 0, "auto");
    const Node *found = NULL;
    for (int i = 0; result.ok && i < result.train->output_count; i++)
        if (result.train->outputs[i].role == ROLE_PREDICTION)
            found = result.train->outputs[i].value->def;
    expect(found != NULL && found->op == op && strcmp(attr_text(found, "function", ""), function) == 0, chain, &result);
    finish(made, &result);
}

static void test_patterns(void) {
    check_pattern("Sigmoid:y:a;Mul:y,a:z", OP_gated, "swish");
    check_pattern("Softplus:y:a;Tanh:a:b;Mul:b,y:z", OP_gated, "mish");
    check_pattern("Div:y,root_1:a;Erf:a:b;Add:b,one_1:c;Mul:y,c:d;Mul:d,half_1:z", OP_gated, "gelu");
    check_pattern("Mul:y,half_1:h;Div:y,root_1:a;Erf:a:b;Add:one_1,b:c;Mul:h,c:z", OP_gated, "gelu");
    check_pattern("Pow:y,three_1:a;Mul:a,cube_1:b;Add:y,b:c;Mul:c,slope_1:d;Tanh:d:e;Add:e,one_1:f;Mul:y,f:g;Mul:half_1,g:z", OP_gated,
                  "gelu_tanh");
    check_pattern("Add:y,three_1:a;Clip:a,zero_1,six_1:b;Mul:y,b:c;Div:c,six_1:z", OP_gated, "hard_swish");
    check_pattern("Sigmoid:y:a;Log:a:z", OP_sub, "");
    check_pattern("Softmax:y:a;Log:a:z", OP_log_softmax, "");
    check_pattern("Exp:y:a;Add:a,one_1:b;Log:b:z", OP_add, "");
    check_pattern("Softplus:y:a;Greater:y,twenty_1:b;Where:b,y,a:z", OP_add, "");
    /* What only looks like one stays as it is. */
    check_pattern("Tanh:y:a;Mul:y,a:z", OP_mul, "");
    check_pattern("Div:y,root_1:a;Erf:a:b;Add:b,half_1:c;Mul:y,c:z", OP_mul, "");
    check_pattern("Exp:y:a;Add:a,half_1:b;Log:b:z", OP_log, "");
}

/* Which single numbers learn is told by their names: those that exporters give to numbers of a formula do not, nor does a whole exponent.
 */
static void test_scalars(void) {
    static const struct {
        const char *name;
        bool learns;
    } scalars[] = {{"scale", true},
                   {"block.shift_1", true},
                   {"gamma/ReadVariableOp:0", true},
                   {"val_3", false},
                   {"sqrt_1", false},
                   {"onnx::Mul_7", false},
                   {"/gelu/Constant_output_0", false},
                   {"gelu/mul/x:0", false},
                   {"const_fold_opt__9", false}};
    enum { SCALARS = sizeof scalars / sizeof scalars[0] };
    Made *made = linear(20, "2", "y");
    const char *last = "y";
    for (size_t i = 0; i < SCALARS; i++) {
        const char *next = arena_printf(made->arena, "product%zu", i);
        add_floats(made, scalars[i].name, 0, NULL, 1.5f);
        add_node(made, "Mul", arena_printf(made->arena, "%s,%s", last, scalars[i].name), next);
        last = next;
    }
    add_floats(made, "square", 0, NULL, 2);
    add_node(made, "Pow", arena_printf(made->arena, "%s,square", last), "z");
    add_output(made, "z");
    Result result = import_made(made, 0, "auto");
    int found = 0;
    bool right = true;
    for (int i = 0; result.ok && i < result.train->value_count; i++) {
        const Value *value = result.train->values[i];
        if (value->kind != VALUE_PARAM || value->shape.rank > 0)
            continue;
        found++;
        bool known = false;
        for (size_t k = 0; k < SCALARS; k++)
            known = known || (scalars[k].learns && strcmp(scalars[k].name, value->onnx_name) == 0);
        right = right && known;
    }
    expect(right && found == 3, "three single numbers learn", &result);
    expect(says(&result, "'scale', 'block.shift_1', 'gamma/ReadVariableOp:0': single numbers that learn"), "a note names them", &result);
    finish(made, &result);
}

/* RandomNormalLike is z·scale + mean with a stream of its own; without a loss to train it is refused. */
static void test_random_normal(void) {
    for (int loss = 1; loss >= 0; loss--) {
        Made *made = linear(20, "2", "y");
        for (int k = 0; k < 2; k++) {
            Onnx__NodeProto *node = add_node(made, "RandomNormalLike", "y", k == 0 ? "n" : "m");
            add_float(made, node, "mean", 0.5f);
            add_float(made, node, "scale", 0.25f);
            add_float(made, node, "seed", 3);
        }
        add_node(made, "Add", "y,n", "s");
        add_node(made, "Add", "s,m", "z");
        add_output(made, "z");
        Result result = import_made(made, 0, loss ? "auto" : NULL);
        int64_t stream[2] = {-1, -1};
        int drawn = 0, scaled = 0;
        for (int i = 0; loss && result.ok && i < result.train->node_count; i++) {
            const Node *node = result.train->nodes[i];
            if (node->op == OP_random_normal && drawn < 2)
                stream[drawn++] = attr_int(node, "stream", -1);
            scaled += node->op == OP_mul_const && node->in[0]->def != NULL && node->in[0]->def->op == OP_random_normal &&
                      attr_real(node, "value", 0) == 0.25;
        }
        expect(loss ? drawn == 2 && scaled == 2 && stream[0] != stream[1] : says(&result, "RandomNormalLike 'node_n': draws random"),
               loss ? "two tensors of normal numbers, scaled" : "without a loss nothing is drawn", &result);
        finish(made, &result);
    }
}

int main(void) {
    test_dimensions();
    test_everything_at_once();
    test_opset();
    test_external();
    test_bias();
    test_batch_normalization();
    test_levels(false);
    test_levels(true);
    test_dropout();
    test_softmax_loss();
    test_own_loss();
    test_shape_arithmetic();
    test_sequence();
    test_rebind();
    test_shapes_that_do_not_fit();
    test_additive_mask();
    test_random_comparison();
    test_gather();
    test_diagonal();
    test_patterns();
    test_scalars();
    test_random_normal();
    printf("import_made: %d failed\n", failures);
    return failures == 0 ? 0 : 1;
}
