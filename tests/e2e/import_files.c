/* Imports model files and prints what becomes of each: one line "NAME BATCH LOSS: imported" with counts, or "refused" and the diagnostics.
 * Arguments: FOLDER LIST. LIST holds lines "file batch loss outcome", outcome imported or refused. Fails where the outcome is another. */
#include "frontend/frontend.h"

#include <stdlib.h>
#include <string.h>

static int count_kind(const Graph *graph, ValueKind kind) {
    int count = 0;
    for (int i = 0; i < graph->value_count; i++)
        count += graph->values[i]->kind == kind;
    return count;
}

static int count_role(const Graph *graph, Role role) {
    int count = 0;
    for (int i = 0; i < graph->output_count; i++)
        count += graph->outputs[i].role == role;
    return count;
}

static bool import_file(const char *path, const char *name, long batch, const char *loss, bool text) {
    Arena *arena = arena_new();
    Diag *diag = diag_new(name);
    ImportOptions options = {.batch = batch, .loss = loss, .training = true};
    OnnxFile *file = onnx_read(arena, path, diag);
    Graph *train = NULL, *infer = NULL;
    bool ok = file != NULL && onnx_import(file, &options, &train, &infer, diag);
    ok = ok && graph_verify(train, diag) && graph_verify(infer, diag);
    printf("%s %ld %s: %s", name, batch, loss, ok ? "imported" : "refused");
    if (ok)
        printf(", %d nodes, %d parameters, %d predictions, %d losses, %d metrics", train->node_count, count_kind(train, VALUE_PARAM),
               count_role(infer, ROLE_PREDICTION), count_role(train, ROLE_LOSS), count_role(train, ROLE_METRIC));
    putchar('\n');
    if (ok && text) {
        graph_print(train, stdout);
        graph_print(infer, stdout);
    }
    diag_print(diag, stdout);
    /* A refusal says why. */
    bool sound = ok ? count_role(train, ROLE_LOSS) == 1 : diag_errors(diag) > 0;
    if (!sound)
        puts("  FAILED: no loss, or a refusal without a reason");
    diag_free(diag);
    arena_free(arena);
    return ok && sound;
}

/* --- a batch bound anew --- */

enum { ROW_LIMIT = 20000, TIMES = 3 };

static const Value *model_input(const Graph *graph) {
    for (int i = 0; i < graph->value_count; i++)
        if (graph->values[i]->kind == VALUE_INPUT && graph->values[i]->onnx_name != NULL && !graph->values[i]->integer)
            return graph->values[i];
    return NULL;
}

/* The first prediction for made-up rows, the same `rows` of them again and again. */
static const double *predict(Graph *graph, int64_t rows, Eval **eval, int64_t *count) {
    const Value *input = model_input(graph);
    *eval = eval_new(graph, EVAL_REAL);
    int64_t n = shape_elements(input->shape), period = rows * (n / input->shape.dim[0]);
    for (int64_t i = 0; i < n; i++)
        (*eval)->tensors[input->id].real[i] = (double)((i % period * 2654435761 >> 7) % 2001) / 1000.0 - 1.0;
    eval_nodes(*eval);
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_PREDICTION) {
            *count = shape_elements(graph->outputs[i].value->shape);
            return (*eval)->tensors[graph->outputs[i].value->id].real;
        }
    *count = 0;
    return NULL;
}

/* A model exported for a fixed batch must say the same of each row at another batch. True also where there is nothing to compare. */
static bool same_rows(const char *path, const char *name, const char *loss) {
    Arena *arena = arena_new();
    Diag *diag = diag_new(name);
    ImportOptions options = {.loss = loss};
    OnnxFile *file = onnx_read(arena, path, diag);
    Graph *train = NULL, *fixed = NULL, *wide = NULL;
    bool same = true;
    if (file != NULL && onnx_import(file, &options, &train, &fixed, diag) && model_input(fixed) != NULL &&
        model_input(fixed)->shape.rank > 0 && shape_elements(model_input(fixed)->shape) <= ROW_LIMIT) {
        int64_t rows = model_input(fixed)->shape.dim[0], few = 0, many = 0;
        Eval *a, *b;
        options.batch = TIMES * rows;
        if (!onnx_import(file, &options, &train, &wide, diag)) {
            arena_free(arena);
            diag_free(diag);
            return true;
        }
        const double *left = predict(fixed, rows, &a, &few), *right = predict(wide, rows, &b, &many);
        same = many == TIMES * few && few > 0;
        for (int64_t i = 0; i < many && same; i++)
            same = right[i] == left[i % few];
        printf("  %lld rows at once: %s\n", (long long)options.batch, same ? "the same predictions" : "FAILED: other predictions");
        eval_free(a);
        eval_free(b);
    }
    diag_free(diag);
    arena_free(arena);
    return same;
}

int main(int argc, char **argv) {
    if (argc == 5)
        return import_file(argv[1], argv[1], atol(argv[2]), argv[3], strcmp(argv[4], "text") == 0) ? 0 : 1;
    FILE *list = argc == 3 ? fopen(argv[2], "r") : NULL;
    if (list == NULL) {
        fprintf(stderr, "usage: import_files FOLDER LIST | MODEL BATCH LOSS text|summary\n");
        return 2;
    }
    char line[512], name[256], loss[32], outcome[32], path[1024];
    long batch;
    int wrong = 0, lines = 0;
    while (fgets(line, sizeof line, list) != NULL) {
        if (line[0] == '#' || sscanf(line, "%255s %ld %31s %31s", name, &batch, loss, outcome) != 4)
            continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], name);
        lines++;
        if (import_file(path, name, batch, loss, false) != (strcmp(outcome, "imported") == 0)) {
            printf("  FAILED: expected %s\n", outcome);
            wrong++;
        }
        if (batch > 0 && strcmp(outcome, "imported") == 0 && !same_rows(path, name, loss))
            wrong++;
    }
    fclose(list);
    printf("import: %d files, %d not as expected\n", lines, wrong);
    return wrong == 0 && lines > 0 ? 0 : 1;
}
