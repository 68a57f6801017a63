/* real_step MODEL.onnx INPUT LABELS GRADIENTS [OUTPUT]: the loss of one batch and the gradient of every parameter, by the interpreter's
 * real mode. Before: a model with one input; INPUT holds its elements as doubles, LABELS the classes as 64-bit integers, both bare and
 * little-endian. OUTPUT names the output that the loss reads. After: standard output has "loss VALUE", and for each parameter "gradient
 * ELEMENTS NAME" in the order in which GRADIENTS holds them as doubles, or "none ELEMENTS NAME" where no gradient flows. The graph is the
 * one that the compiler differentiates. */
#include "frontend/frontend.h"
#include "passes/passes.h"

#include <stdlib.h>
#include <string.h>

/* Exactly `count` elements of 8 bytes. */
static bool read_elements(const char *path, void *to, int64_t count) {
    FILE *in = fopen(path, "rb");
    bool done = in != NULL && fread(to, 8, (size_t)count, in) == (size_t)count && fgetc(in) == EOF;
    if (in != NULL)
        fclose(in);
    if (!done)
        fprintf(stderr, "real_step: %s does not hold %lld elements\n", path, (long long)count);
    return done;
}

static Graph *differentiated(Arena *arena, const char *path, const char *output, Diag *diag) {
    ImportOptions import = {.loss = "auto", .output = output, .training = true};
    PassOptions options = {.bits = 8};
    Graph *train = NULL, *infer = NULL;
    const OnnxFile *file = onnx_read(arena, path, diag);
    bool done = file != NULL && onnx_import(file, &import, &train, &infer, diag) && pass_select(train, &options, diag) &&
                pass_fold(train, diag) && pass_dce(train, diag) && pass_backward(train, diag) && pass_fold(train, diag) &&
                pass_dce(train, diag) && graph_verify(train, diag);
    return done ? train : NULL;
}

static bool fill(Eval *eval, const char *input, const char *labels) {
    for (int i = 0; i < eval->graph->value_count; i++) {
        const Value *value = eval->graph->values[i];
        if (value->kind != VALUE_INPUT)
            continue;
        Tensor *tensor = &eval->tensors[i];
        void *to = value->integer ? (void *)tensor->mantissa : (void *)tensor->real;
        if (!read_elements(value->integer ? labels : input, to, shape_elements(value->shape)))
            return false;
    }
    return true;
}

static bool write_results(const Eval *eval, const char *path) {
    const Graph *graph = eval->graph;
    FILE *out = fopen(path, "wb");
    bool done = out != NULL;
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_LOSS)
            printf("loss %.17g\n", eval->tensors[graph->outputs[i].value->id].real[0]);
    for (int i = 0; i < graph->value_count && done; i++) {
        const Value *param = graph->values[i];
        if (param->kind != VALUE_PARAM)
            continue;
        const Value *gradient = backward_gradient(graph, param);
        int64_t count = shape_elements(param->shape);
        printf("%s %lld %s\n", gradient != NULL ? "gradient" : "none", (long long)count,
               param->onnx_name != NULL ? param->onnx_name : param->name);
        if (gradient != NULL)
            done = fwrite(eval->tensors[gradient->id].real, 8, (size_t)count, out) == (size_t)count;
    }
    if (out != NULL && fclose(out) != 0)
        done = false;
    return done;
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: real_step MODEL.onnx INPUT LABELS GRADIENTS [OUTPUT]\n");
        return 2;
    }
    Arena *arena = arena_new();
    Diag *diag = diag_new(argv[1]);
    Graph *graph = differentiated(arena, argv[1], argc == 6 ? argv[5] : NULL, diag);
    diag_print(diag, stderr);
    bool done = false;
    if (graph != NULL) {
        Eval *eval = eval_new(graph, EVAL_REAL);
        done = fill(eval, argv[2], argv[3]);
        if (done) {
            eval_nodes(eval);
            done = write_results(eval, argv[4]);
        }
        eval_free(eval);
    }
    diag_free(diag);
    arena_free(arena);
    return done ? 0 : 1;
}
