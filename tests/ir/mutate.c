/* Parser, verifier, printer and interpreter on damaged texts: golden files with bytes changed, removed and repeated. Nothing crashes (the
 * sanitizer build looks closer), a refusal has a diagnostic, and what parses prints and parses again. */
#include "helper.h"

enum { MUTATIONS = 400, LONGEST = 1 << 16, MOST_WORK = 100000, MOST_EXPONENT = 64 };

/* Small, and no attribute asks for long loops. */
static bool worth_running(const Graph *graph) {
    int64_t work = 0;
    for (int i = 0; i < graph->value_count; i++)
        work += shape_elements(graph->values[i]->shape);
    for (int i = 0; i < graph->node_count; i++) {
        int count;
        const int64_t *kernel = attr_ints(graph->nodes[i], "kernel", &count);
        for (int k = 0; k < count; k++)
            work += kernel[k] * kernel[k];
    }
    return work <= MOST_WORK;
}

/* Far exponents meet the clamp at 16384, where bounds are no longer proven. */
static bool near_exponents(const Graph *graph) {
    for (int i = 0; i < graph->value_count; i++)
        if (abs(graph->values[i]->exponent) > MOST_EXPONENT && graph->values[i]->exponent != INTC_EXPONENT_ZERO)
            return false;
    return true;
}

static void run(Graph *graph) {
    if (!worth_running(graph))
        return;
    for (EvalMode mode = EVAL_INTEGER; mode <= EVAL_REAL; mode++)
        if (mode == EVAL_REAL || (graph->stage >= STAGE_SCALED && near_exponents(graph))) {
            Eval *eval = eval_new(graph, mode);
            eval_run(eval);
            eval_free(eval);
        }
}

static bool try_text(const char *text) {
    Arena *arena = arena_new();
    Diag *diag = diag_new(NULL);
    int count;
    Graph **graphs = graph_parse(arena, text, diag, &count);
    assert_int_equal(graphs == NULL, diag_errors(diag) > 0);
    for (int i = 0; graphs != NULL && i < count; i++) {
        char *printed = graph_as_text(graphs[i]);
        int again_count;
        Graph **again = graph_parse(arena, printed, diag, &again_count);
        if (again == NULL)
            fail_msg("printed text does not parse:\n%s", printed);
        char *twice = graph_as_text(again[0]);
        assert_string_equal(printed, twice);
        free(printed);
        free(twice);
        int before = diag_errors(diag);
        bool good = graph_verify(graphs[i], diag);
        assert_int_equal(good, diag_errors(diag) == before);
        if (good)
            run(graphs[i]);
    }
    diag_free(diag);
    arena_free(arena);
    return graphs != NULL;
}

/* One to three edits in the style of a hurried hand and of a broken disk. */
static void edit(char *text, size_t *length, uint64_t *random) {
    for (int edits = 1 + (int)(next_random(random) % 3); edits > 0; edits--) {
        size_t at = (size_t)(next_random(random) % *length), n = 1 + (size_t)(next_random(random) % 12);
        n = n > *length - at ? *length - at : n;
        static const char likely[] = "0123456789-x[]{}%,=\"e? \n;#.:";
        switch (next_random(random) % 5) {
        case 0:
            text[at] = (char)(1 + next_random(random) % 255);
            break;
        case 1:
            text[at] = likely[next_random(random) % (sizeof likely - 1)];
            break;
        case 2: /* remove */
            memmove(text + at, text + at + n, *length - at - n + 1);
            *length -= n;
            break;
        case 3: /* repeat */
            memmove(text + at + n, text + at, *length - at + 1);
            *length += n;
            break;
        default: /* another digit where one is */
            while (at < *length && (text[at] < '0' || text[at] > '9'))
                at++;
            if (at < *length)
                text[at] = (char)('0' + next_random(random) % 10);
        }
        if (*length == 0) {
            strcpy(text, "x");
            *length = 1;
        }
    }
}

/* One graph of a file at a time, so that edits are not lost behind the first error. */
static int mutate_graph(const char *graph, size_t length, uint64_t seed) {
    int parsed = 0;
    char *text = calloc(LONGEST, 1);
    assert_non_null(text);
    assert_true(length + 64 < LONGEST);
    for (uint64_t i = 0; i < MUTATIONS; i++) {
        uint64_t random = seed * 1000003 + i;
        memcpy(text, graph, length);
        text[length] = '\0';
        size_t now = length;
        edit(text, &now, &random);
        parsed += try_text(text);
    }
    free(text);
    return parsed;
}

static void mutations(void **state) {
    (void)state;
    static const char *const names[] = {"mlp", "scaled", "odd", "ops"};
    int parsed = 0;
    for (uint64_t f = 0; f < sizeof names / sizeof names[0]; f++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/golden/%s.ir", TEST_FOLDER, names[f]);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        char *text = calloc(LONGEST, 1);
        assert_non_null(text);
        size_t length = fread(text, 1, LONGEST - 1, file);
        fclose(file);
        assert_true(try_text(text));
        for (const char *graph = text; graph < text + length;) {
            const char *end = strstr(graph, "\n}\n");
            assert_non_null(end);
            parsed += mutate_graph(graph, (size_t)(end + 3 - graph), f * 100 + (uint64_t)(graph - text));
            graph = end + 3;
        }
        free(text);
    }
    print_message("%d damaged texts still parsed\n", parsed);
    assert_true(parsed > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(mutations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
