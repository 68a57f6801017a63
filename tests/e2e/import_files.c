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
    }
    fclose(list);
    printf("import: %d files, %d not as expected\n", lines, wrong);
    return wrong == 0 && lines > 0 ? 0 : 1;
}
