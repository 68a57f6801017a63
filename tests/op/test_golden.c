/* The text of two tiny nets after each pass, and of every case of cases.def before and after exponents, against files in golden/.
 * `op_golden --update` writes the files anew: read the difference. */
#include "tests/op/case_list.h"
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

/* Compares the text with golden/NAME.ir, or writes it there. */
static void golden_text(const char *name, const char *text) {
    char path[512];
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
}

static void golden(const char *name, const Graph *graph) {
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    graph_print(graph, memory);
    fclose(memory);
    CHECK(graph_verify(graph, diag), "%s: the verifier refuses", name);
    golden_text(name, text);
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
    must("lines", pass_lines(graph, diag));
    must("fold", pass_fold(graph, diag));
    must("dce", pass_dce(graph, diag));
    snprintf(text, sizeof text, "%s.simplify", name);
    if (every)
        golden(text, graph);
    must("exponents", pass_exponents(graph, &options, diag));
    snprintf(text, sizeof text, "%s.exponents", name);
    golden(text, graph);
    must("layout", pass_layout(graph, diag));
    must("fuse", pass_fuse(graph, INT64_MAX, diag));
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

/* --- one operator after another --- */

static FILE *op_file;
static Op op_wanted;

/* The case as a graph of its own, before and after widths and exponents. */
static void print_case(const Case *test) {
    if (test->op != op_wanted)
        return;
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, test->name);
    graph->stage = STAGE_UPDATED;
    uint64_t state = 1;
    Value *in[CASE_INPUTS];
    int count = case_inputs(graph, test, VALUE_INPUT, in, &state);
    const Node *node = case_node(graph, test, in, count)->def;
    for (int k = 0; k < node->out_count; k++)
        graph_output(graph, k == 0 ? "y" : "z", ROLE_PREDICTION, node->out[k]);
    for (int i = 0; i < count; i++)
        in[i]->real = NULL;
    graph_print(graph, op_file);
    const PassOptions options = {.bits = 8};
    must("exponents", pass_exponents(graph, &options, diag));
    CHECK(graph_verify(graph, diag), "%s: the verifier refuses", test->name);
    graph_print(graph, op_file);
    arena_free(arena);
}

/* golden/op.NAME.ir for every op but rescale, which the nets show and no graph before exponents has. */
static void operators(void) {
    for (int op = OP_NONE + 1; op < OP_COUNT; op++) {
        char *text = NULL, name[64];
        size_t size = 0;
        if (op == OP_rescale)
            continue;
        op_wanted = (Op)op;
        op_file = open_memstream(&text, &size);
        for_each_case(print_case);
        fclose(op_file);
        snprintf(name, sizeof name, "op.%s", op_info(op_wanted)->name);
        /* norm_slope stands in the file of norm_grad, with which it is built, norm_line in that of norm_apply. */
        CHECK(size > 0 || op == OP_norm_slope || op == OP_norm_line, "cases.def has no case of %s", op_info(op_wanted)->name);
        if (size > 0)
            golden_text(name, text);
        free(text);
    }
}

int main(int argc, char **argv) {
    update = argc > 1 && strcmp(argv[1], "--update") == 0;
    diag = diag_new(NULL);
    Arena *arena = arena_new();
    training("mlp", net_mlp(arena, true), true);
    training("cnn", net_cnn(arena, true), false);
    inference("cnn.calibrate", net_cnn(arena, false));
    operators();
    arena_free(arena);
    if (failures > 0)
        diag_print(diag, stderr);
    diag_free(diag);
    return report("golden", files);
}
