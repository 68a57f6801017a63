/* The text form: golden files print as they are written, and every kind of mistake in a text is reported with its line. */
#include "helper.h"

static char *read_file(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/golden/%s.ir", TEST_FOLDER, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail_msg("%s cannot be read", path);
    char *text = calloc(1 << 20, 1);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    return text;
}

static void round_trips(void **state) {
    (void)state;
    static const char *const names[] = {"mlp", "scaled", "odd", "ops"};
    for (size_t f = 0; f < sizeof names / sizeof names[0]; f++) {
        char *text = read_file(names[f]);
        Arena *arena = arena_new();
        Diag *diag = diag_new(names[f]);
        int count;
        Graph **graphs = graph_parse(arena, text, diag, &count);
        if (graphs == NULL)
            diag_print(diag, stderr);
        assert_non_null(graphs);
        char *printed = NULL;
        size_t size = 0;
        FILE *out = open_memstream(&printed, &size);
        for (int i = 0; i < count; i++) {
            graph_print(graphs[i], out);
            if (!graph_verify(graphs[i], diag))
                diag_print(diag, stderr);
        }
        fclose(out);
        assert_int_equal(diag_errors(diag), 0);
        assert_string_equal(printed, text);
        free(printed);
        diag_free(diag);
        arena_free(arena);
        free(text);
    }
}

/* What a text leaves out is inferred; comments and spaces do not matter. */
static void inference(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Graph *graph = graph_from(arena, "# a comment\n; another\n\n  graph @t stage=scaled {\n%x:i8[2x1x3]<=127 e?=input \"x\"  # the data\n"
                                     "\t%y = transpose %x {perm=[2,0,1]} ; any remark\r\n\n"
                                     "%z,%o = maxpool %x {kernel=[2], strides=[1], pads=[0,0], dilations=[1]}\n}\n");
    char *text = graph_as_text(graph);
    assert_string_equal(text, "graph @t stage=scaled {\n  %x : i8[2x1x3] <=127 e? = input \"x\"\n"
                              "  %y : i8[3x2x1] <=127 e? = transpose %x {perm=[2, 0, 1]}\n"
                              "  %z : i8[2x1x2] <=127 e?, %o : i8[2x1x2] <=1 = maxpool %x {kernel=[2], strides=[1], pads=[0, 0], "
                              "dilations=[1]}\n}\n");
    free(text);
    arena_free(arena);
}

/* Values of one name are told apart by their id. */
static void repeated_names(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, "t");
    graph->stage = STAGE_LOWERED;
    Value *x = graph_value(graph, VALUE_INPUT, "x", shape_of(1, M(3)));
    Value *y = build(graph, OP_neg, NULL, &x, 1, NO_ATTRS);
    y->name = "x";
    Value *z = build(graph, OP_relu, NULL, &y, 1, NO_ATTRS);
    z->name = "a/b";
    Value *w = build(graph, OP_relu, NULL, &z, 1, NO_ATTRS);
    w->name = "a/b";
    char *text = graph_as_text(graph);
    assert_non_null(strstr(text, "%x#1 : real[3] = neg %x\n"));
    assert_non_null(strstr(text, "%\"a/b#3\" : real[3] = relu %\"a/b\"\n"));
    char *again = graph_as_text(graph_from(arena, text));
    assert_string_equal(text, again);
    free(text);
    free(again);
    arena_free(arena);
}

/* A clone, a removed node and a forward node that is gone print and parse. */
static void clones(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Graph *graph = graph_from(arena, "graph @t stage=trained {\n  %x : real[3] = input\n  %y : real[3] = relu %x\n"
                                     "  %k : i8[3] <=1 = positive %x backward of %y\n  %g : real[3] = gate %x, %k backward of %y\n}\n");
    bool keep[] = {false, true, true};
    graph_keep_nodes(graph, keep);
    char *text = graph_as_text(graph), *clone = graph_as_text(graph_clone(graph, "t", NULL));
    assert_null(strstr(text, " of "));
    assert_string_equal(text, clone);
    char *again = graph_as_text(graph_from(arena, text));
    assert_string_equal(text, again);
    free(text);
    free(clone);
    free(again);
    arena_free(arena);
}

#define HEAD "graph @t stage=scaled {\n  %x : i8[2x3] <=127 e? = input\n"

static void errors(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "line 1: expected graph, found the end of the text"},
        {"garbage", "line 1: expected graph, found 'garbage'"},
        {"graph t", "line 1: expected @, found 't'"},
        {"graph @t {", "line 1: expected stage=, found '{'"},
        {"graph @t stage=later {\n}", "line 1: expected imported, lowered, trained, updated, scaled or planned, found ' {'"},
        {HEAD, "line 3: expected %, found the end of the text"},
        {HEAD "  %y = frobnicate %x\n}", "line 3: no operator 'frobnicate'"},
        {HEAD "  %y, %z = relu %x\n}", "line 3: wrong number of results of 'relu'"},
        {HEAD "  %y = maxpool %x\n}", "line 3: wrong number of results of 'maxpool'"},
        {HEAD "  %y = relu %q\n}", "line 3: %q is not defined"},
        {HEAD "  %x = relu %x\n}", "line 3: %x is defined twice"},
        {HEAD "  %y = relu %x extra\n}", "line 3: expected the end of the line, found 'extra'"},
        {HEAD "  %y : i9[2] = relu %x\n}", "line 3: expected real, i8, i16, i32 or i64, found '[2] = relu %x'"},
        {HEAD "  %y : i8[2x] <=1 e? = relu %x\n}", "line 3: expected a dimension, found '] <=1 e? = relu %x'"},
        {HEAD "  %y : i8[2x-3] <=1 e? = relu %x\n}", "line 3: expected a dimension, found '-3] <=1 e? = relu %x'"},
        {HEAD "  %y : i8[1x1x1x1x1x1x1x1x1] = relu %x\n}", "line 3: expected at most 8 dimensions"},
        {HEAD "  %y : i8[1099511627776x2] <=1 e? = input\n}", "line 3: expected a shape of at most 2^40 elements"},
        {HEAD "  %y : i8[2] <=99999999999999999999 e? = input\n}", "line 3: expected a bound"},
        {HEAD "  %y : i8[2] <=1 e? order=[1] = input\n}", "line 3: expected an order of all dimensions"},
        {HEAD "  %y = const {1}\n}", "line 3: expected one value with its type"},
        {HEAD "  %y : i8[2] <=1 e0 = const {1}\n}", "line 3: expected more numbers"},
        {HEAD "  %y : i8[2] <=1 e0 = const {1, 2,\n 3}\n}", "line 4: expected no more numbers, found '3}'"},
        {HEAD "  %y : i8[2] <=1 e0 = const {1, a}\n}", "line 3: expected an integer, found 'a}'"},
        {HEAD "  %y : i8[1] <=1 e0 = const real {1, a}\n}", "line 3: expected no more numbers, found 'a}'"},
        {HEAD "  %y : real[1] = const real {a}\n}", "line 3: expected a number, found 'a}'"},
        {HEAD "  %y = reshape %x {shape=[6}\n}", "line 3: expected ,, found '}'"},
        {HEAD "  %y = reshape %x {shape=[6], shape=[6]}\n}", "line 3: expected an attribute that is not there yet"},
        {HEAD "  %y = reshape %x {shape=\"6\"}\n}", "line 3: reshape: attribute shape has another kind than the operator expects"},
        {HEAD "  %y = reshape %x {shape=[7]}\n}", "line 3: the shape of reshape cannot be inferred"},
        {HEAD "  %y = reshape %x {shape=[6], mode=1}\n}", "line 3: reshape: attribute mode is not known"},
        {HEAD "  %y = reshape %x\n}", "line 3: reshape: attribute shape is missing"},
        {HEAD "  %y = add %x\n}", "line 3: add takes 2 to 2 operands, found 1"},
        {HEAD "  %y = relu %\"x\n}", "line 3: expected a closing quote, found the end of the line"},
        {HEAD "  %y = relu %\"\\x00\"\n}", "line 3: expected \\\", \\\\ or \\x and two digits other than 00"},
        {HEAD "  %y = relu %x of %x\n}", "line 3: expected an output of a node before this place"},
        {HEAD "  %y = relu %x into %q\n}", "line 3: %q is not defined"},
        {HEAD "  %y = relu %x into %x\n}", "line 3: expected an output of a node behind 'into'"},
        {HEAD "  update %x <- %q\n}", "line 3: %q is not defined"},
        {HEAD "  update %x %x\n}", "line 3: expected <-, found '%x'"},
        {HEAD "  output \"y\" result %x\n}", "line 3: expected prediction, loss, metric or gradient, found 'result %x'"},
        {HEAD "}\ngraph @u stage=scaled {\n  %y = relu %x\n}", "line 5: %x is not defined"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Arena *arena = arena_new();
        Diag *diag = diag_new("t.ir");
        int count;
        assert_null(graph_parse(arena, cases[i].text, diag, &count));
        assert_true(diag_errors(diag) > 0);
        char *text = diag_as_text(diag);
        char expected[256];
        snprintf(expected, sizeof expected, "intc: error: t.ir: %s", cases[i].message);
        if (strstr(text, expected) == NULL)
            fail_msg("expected '%s', found '%s' for\n%s", expected, text, cases[i].text);
        free(text);
        diag_free(diag);
        arena_free(arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips), cmocka_unit_test(inference), cmocka_unit_test(repeated_names),
        cmocka_unit_test(clones),      cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
