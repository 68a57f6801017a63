/* The text of two tiny nets after each pass, against files in golden/. `op_golden --update` writes the files anew: read the difference. */
#include "tests/op/nets.h"

static Diag *diag;
static bool update;
static int files;

static char *read_all(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    for (int c = fgetc(file); c != EOF; c = fgetc(file))
        fputc(c, memory);
    fclose(memory);
    fclose(file);
    return text;
}

/* Names the first line that differs. */
static void compare(const char *path, const char *expected, const char *found) {
    int line = 1;
    const char *start = found;
    size_t i = 0;
    for (; expected[i] == found[i] && found[i] != '\0'; i++)
        if (found[i] == '\n') {
            line++;
            start = found + i + 1;
        }
    CHECK(expected[i] == found[i], "%s:%d: found %.*s", path, line, (int)strcspn(start, "\n"), start);
}

static void golden(const char *name, const Graph *graph) {
    char *text = NULL, path[512];
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    graph_print(graph, memory);
    fclose(memory);
    CHECK(graph_verify(graph, diag), "%s: the verifier refuses", name);
    snprintf(path, sizeof path, "%s/%s.ir", GOLDEN, name);
    files++;
    if (update) {
        FILE *file = fopen(path, "wb");
        CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0, "cannot write %s", path);
    } else {
        char *expected = read_all(path);
        CHECK(expected != NULL, "cannot read %s", path);
        if (expected != NULL)
            compare(path, expected, text);
        free(expected);
    }
    free(text);
}

static void must(const char *pass, bool good) {
    CHECK(good, "%s refuses", pass);
}

static void training(const char *name, Graph *graph, bool every) {
    const PassOptions options = {.bits = 8};
    char text[64];
    must("backward", pass_backward(graph, diag));
    snprintf(text, sizeof text, "%s.backward", name);
    golden(text, graph);
    must("sgd", pass_sgd(graph, diag));
    must("fold", pass_fold(graph, diag));
    must("dce", pass_dce(graph, diag));
    snprintf(text, sizeof text, "%s.simplify", name);
    if (every)
        golden(text, graph);
    must("exponents", pass_exponents(graph, &options, diag));
    snprintf(text, sizeof text, "%s.exponents", name);
    golden(text, graph);
    must("layout", pass_layout(graph, diag));
    must("fuse", pass_fuse(graph, diag));
    Plan plan;
    must("memplan", pass_memplan(&graph, 1, &plan, diag));
    snprintf(text, sizeof text, "%s.memplan", name);
    golden(text, graph);
}

static void inference(const char *name, Graph *graph) {
    const PassOptions options = {.bits = 8};
    Graph *fixed;
    Value **slots;
    int count;
    must("exponents", pass_exponents(graph, &options, diag));
    must("calibrate", pass_calibrate(graph, &fixed, &slots, &count, diag));
    golden(name, fixed);
}

int main(int argc, char **argv) {
    update = argc > 1 && strcmp(argv[1], "--update") == 0;
    diag = diag_new(NULL);
    Arena *arena = arena_new();
    training("mlp", net_mlp(arena, true), true);
    training("cnn", net_cnn(arena, true), false);
    inference("cnn.calibrate", net_cnn(arena, false));
    arena_free(arena);
    if (failures > 0)
        diag_print(diag, stderr);
    diag_free(diag);
    return report("golden", files);
}
