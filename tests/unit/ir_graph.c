/* Graphs, attributes, diagnostics and the arena: what the passes build on. */
#include "tests/ir/helper.h"

static Graph *chain(Arena *arena, Value **x, Value **y, Value **z) {
    Graph *graph = graph_new(arena, "t");
    graph->stage = STAGE_LOWERED;
    *x = graph_value(graph, VALUE_INPUT, "x", shape_of(2, M(2, 3)));
    *y = build(graph, OP_relu, NULL, x, 1, NO_ATTRS);
    *z = build(graph, OP_transpose, NULL, y, 1, ATTRS(ATTR_L("perm", 2, M(1, 0))));
    graph_output(graph, "z", ROLE_PREDICTION, *z);
    return graph;
}

static void insertion(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Value *x, *y, *z;
    Graph *graph = chain(arena, &x, &y, &z);
    graph_insert_at(graph, 1);
    Value *n = build(graph, OP_neg, NULL, &y, 1, NO_ATTRS), *m = build(graph, OP_neg, NULL, &n, 1, NO_ATTRS);
    graph_insert_at(graph, -1);
    Value *last = build(graph, OP_neg, NULL, &z, 1, NO_ATTRS);
    assert_int_equal(graph->node_count, 5);
    assert_ptr_equal(graph->nodes[1], n->def);
    assert_ptr_equal(graph->nodes[2], m->def);
    assert_ptr_equal(graph->nodes[4], last->def);
    graph_replace(graph, y, m, 3);
    assert_ptr_equal(graph->nodes[3]->in[0], m);
    assert_ptr_equal(n->def->in[0], y);
    assert_int_equal(value_uses(graph, y), 1);
    assert_int_equal(value_uses(graph, z), 2);
    graph_replace(graph, z, last, graph->node_count);
    assert_ptr_equal(graph->outputs[0].value, last);
    Diag *diag = diag_new(NULL);
    assert_true(graph_verify(graph, diag));
    diag_free(diag);
    arena_free(arena);
}

/* A clone shares nothing that a pass would change. */
static void cloning(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Value *x, *y, *z, **map;
    Graph *graph = chain(arena, &x, &y, &z), *copy = graph_clone(graph, "copy", &map);
    char *before = graph_as_text(graph);
    assert_ptr_equal(map[x->id], copy->values[x->id]);
    assert_ptr_not_equal(copy->nodes[0], graph->nodes[0]);
    copy->nodes[0]->in[0] = map[z->id];
    attr_set(copy->nodes[1], ATTR_L("perm", 2, M(0, 1)));
    map[y->id]->name = "other";
    copy->outputs[0].value = map[x->id];
    char *after = graph_as_text(graph);
    assert_string_equal(before, after);
    free(before);
    free(after);
    arena_free(arena);
}

static void refusals(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Value *x, *y, *z;
    Graph *graph = chain(arena, &x, &y, &z);
    Diag *diag = diag_new("model.onnx");
    Node from = {.graph = graph, .origin = {.op_type = "Gemm", .name = "fc"}};
    assert_null(graph_node(graph, diag, OP_matmul, &from, INPUTS(x, x), NO_ATTRS));
    assert_null(graph_node(graph, diag, OP_matmul, &from, INPUTS(x, x), NO_ATTRS));
    assert_null(graph_node(graph, diag, OP_add, NULL, INPUTS(x), NO_ATTRS));
    char *text = diag_as_text(diag);
    assert_string_equal(text, "intc: error: model.onnx: Gemm 'fc': matmul: operands 2x3 and 2x3 do not fit\n"
                              "intc: error: model.onnx: add takes 2 to 2 inputs, found 1\n");
    assert_int_equal(graph->node_count, 2);
    free(text);
    diag_free(diag);
    arena_free(arena);
}

static void attributes(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Value *x, *y, *z;
    Graph *graph = chain(arena, &x, &y, &z);
    Node *node = z->def;
    int count;
    assert_int_equal(attr_ints(node, "perm", &count)[0], 1);
    assert_int_equal(count, 2);
    assert_null(attr_ints(node, "axes", &count));
    assert_int_equal(count, 0);
    assert_int_equal(attr_int(node, "axis", -7), -7);
    attr_set(node, ATTR_I("axis", 3));
    attr_set(node, ATTR_I("axis", 4));
    attr_set(node, ATTR_R("alpha", 0.5));
    attr_set(node, ATTR_S("round", "nearest"));
    assert_int_equal(node->attr_count, 4);
    assert_int_equal(attr_int(node, "axis", -7), 4);
    assert_true(attr_real(node, "alpha", 0) == 0.5);
    assert_string_equal(attr_text(node, "round", ""), "nearest");
    assert_int_equal(graph->node_count, 2);
    arena_free(arena);
}

static void diagnostics(void **state) {
    (void)state;
    Diag *diag = diag_new(NULL);
    Origin origin = {.op_type = "Conv", .name = "a", .gradient = true};
    diag_error(diag, &origin, "expected %d, found %d", 1, 2);
    diag_error(diag, &origin, "expected %d, found %d", 1, 2);
    diag_note(diag, NULL, "remark");
    assert_int_equal(diag_errors(diag), 2);
    char *text = diag_as_text(diag);
    assert_string_equal(text, "intc: error: gradient of Conv 'a': expected 1, found 2\nintc: note: remark\n");
    free(text);
    diag_free(diag);
}

static void arenas(void **state) {
    (void)state;
    Arena *arena = arena_new();
    for (size_t n = 0; n < 3000; n += 37) {
        unsigned char *memory = arena_alloc(arena, n, 3);
        assert_int_equal((uintptr_t)memory % 16, 0);
        for (size_t i = 0; i < 3 * n; i++)
            assert_int_equal(memory[i], 0);
        memset(memory, 0xFF, 3 * n);
    }
    assert_non_null(arena_alloc(arena, 1, 10 << 20));
    assert_string_equal(arena_printf(arena, "%s-%d", "a", 5), "a-5");
    arena_free(arena);
}

static void shapes(void **state) {
    (void)state;
    Shape result;
    assert_true(shape_broadcast(shape_of(3, M(2, 1, 4)), shape_of(2, M(3, 1)), &result));
    assert_true(shape_equal(result, shape_of(3, M(2, 3, 4))));
    assert_false(shape_broadcast(shape_of(1, M(2)), shape_of(1, M(3)), &result));
    assert_true(shape_broadcast(shape_of(0, NULL), shape_of(1, M(3)), &result));
    assert_true(shape_equal(result, shape_of(1, M(3))));
    assert_int_equal(shape_elements(shape_of(0, NULL)), 1);
    Value value = {.shape = shape_of(4, M(2, 3, 4, 5)), .order = {0, 2, 3, 1}};
    int64_t stride[MAX_RANK];
    value_strides(&value, stride);
    assert_memory_equal(stride, M(60, 1, 15, 3), 4 * sizeof *stride);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(insertion),   cmocka_unit_test(cloning), cmocka_unit_test(refusals), cmocka_unit_test(attributes),
        cmocka_unit_test(diagnostics), cmocka_unit_test(arenas),  cmocka_unit_test(shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
