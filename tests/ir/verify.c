/* The verifier: one graph for each kind of violation, and what its complaint must say. */
#include "helper.h"

typedef struct {
    const char *stage, *body, *message;
} Case;

#define X "  %x : i8[2x3] <=127 e? = input\n"
#define A "  %x : i8[2x3] <=127 e? = input\n  %w : i8[3x2] <=127 e? = input\n"
#define LINES "strides=[1], pads=[0, 0], dilations=[1]"

static const Case cases[] = {
    /* types of the stage */
    {"lowered", "  %x : i8[2] <=127 e? = input\n", "@t: %x at stage lowered: expected type real, found i8"},
    {"scaled", "  %x : real[2] = input\n", "@t: %x at stage scaled: expected an integer type, found real"},
    {"scaled", X "  %y : real[2x3] = neg %x\n", "@t: neg %y: %y at stage scaled: expected an integer type, found real"},
    {"scaled", "  %x : i8[2] <=129 e? = input\n", "@t: %x: bound 129 does not fit i8, expected at most 128"},
    {"scaled", "  %x : i16[2] <=32769 e? = input\n", "@t: %x: bound 32769 does not fit i16, expected at most 32768"},
    {"scaled", "  %x : i32[2] <=2147483648 e? = input\n", "bound 2147483648 does not fit i32, expected at most 2147483647"},
    {"scaled", "  %x : i64[2] <=4611686018427387905 e? = input\n", "bound 4611686018427387905 does not fit i64"},
    {"scaled", "  %x : i64[2] <=3 e-16385 = const\n", "@t: %x: exponent -16385, expected at most 16384 either way"},
    /* contents */
    {"scaled", "  %x : i8[2] <=3 e0 = const {3, -4}\n", "@t: %x: element 1 is -4, expected at most the bound 3"},
    {"scaled", "  %x : i8[2] <=3 e0 = const real {1, 2}\n", "@t: %x: expected mantissas, found only reals"},
    {"lowered", "  %x : real[2] = const real {1, inf}\n", "@t: %x: element 1 is inf, expected a finite number"},
    {"scaled", "  %x : i32[2] <=3 e? = hyper\n", "@t: %x: expected a scalar hyper-parameter, found i32[2]"},
    /* operands */
    {"scaled", X "  %y : i8[2x3] <=127 e? = neg %x, %x\n", "@t: neg %y: expected 1 to 1 operands, found 2"},
    {"scaled", A "  %y : i32[2x2] <=48387 e? = matmul %x\n", "@t: matmul %y: expected 2 to 2 operands, found 1"},
    {"scaled", "  %x : i16[2x3] <=127 e? = input\n  %w : i8[3x2] <=127 e? = input\n  %y = matmul %x, %w\n",
     "@t: matmul %y: operand 0, %x: expected at most 8 bits, found i16[2x3]"},
    {"scaled", "  %x : i8[2x3] <=1 = input\n  %w : i8[3x2] <=127 e? = input\n  %y = matmul %x, %w\n",
     "@t: matmul %y: operand 0, %x: expected at most 8 bits, found i8[2x3]"},
    {"scaled", "  %x : i32[3] <=127 e? = input\n  %w : i8[3] <=127 e? = input\n  %y = mul %x, %w\n",
     "@t: mul %y: operand 0, %x: expected at most 16 bits, found i32[3]"},
    {"scaled", "  %x : i8[3] <=127 e? = input\n  %y = gate %x, %x\n",
     "@t: gate %y: operand 1, %x: expected an integer value, found i8[3] with an exponent"},
    {"lowered", "  %x : real[3x2] = input\n  %t : real[3] = input\n  %y = pick %x, %t {axis=1}\n",
     "@t: pick %y: operand 1, %t: expected an integer value, found real[3] with an exponent"},
    {"scaled", "  %x : i32[2] <=1000 e? = input\n  %s : i32[2] <=1000 = state\n  %y = rescale %x, %s {bits=8, round=\"nearest\"}\n",
     "@t: rescale %y: operand 1, %s: expected a scalar exponent, found i32[2]"},
    {"scaled",
     "  %x : i8[1x1x2] <=127 e? = input\n  %o : i8[1x1x3] <=1 = input\n"
     "  %y = maxpool_grad %x, %o {kernel=[2], " LINES ", shape=[1, 1, 3]}\n",
     "@t: maxpool_grad %y: operand 1, %o: expected the shape of operand 0, i8[1x1x2], found i8[1x1x3]"},
    {"scaled", X "  %t : i8[2] <=2 = input\n  %d : i8[3] <=127 e? = input\n  %y = cross_entropy_grad %x, %t, %d {axis=1}\n",
     "@t: cross_entropy_grad %y: operand 2, %d: expected shape 2, found i8[3]"},
    {"scaled", X "  %t : i8[2x3] <=1 = input\n  %y : i8[4x3] <=1 = concat %t, %x {axis=0}\n",
     "@t: concat %y: operand 1, %x: expected an integer value like operand 0"},
    /* shapes */
    {"scaled", X "  %y : i8[3x2] <=127 e? = neg %x\n", "@t: neg %y: result %y: expected shape 2x3, found 3x2"},
    {"lowered", "  %x : real[2x3] = input\n  %y : real[2x2] = matmul %x, %x\n", "operands 2x3 and 2x3 do not fit"},
    {"lowered", "  %x : real[2x3] = input\n  %y : real[2x2] = matmul %x, %x\n",
     "@t: matmul %y: the operator refuses its operands or attributes"},
    {"lowered",
     "  %x : real[1048576x1x1] = input\n  %z : real[1048576x1] = input\n  %w : real[1048576] = input\n"
     "  %y : real[1] = add %x, %z\n  %v : real[1] = add %y, %w\n",
     "@t: add %y: result %y: expected shape 1048576x1048576x1, found 1"},
    {"lowered",
     "  %x : real[1048576x1x1] = input\n  %z : real[1048576x4] = input\n"
     "  %y : real[1] = add %x, %z\n",
     "@t: add %y: the result is too large"},
    /* results */
    {"scaled", X "  %y : i8[2x3] <=1 = neg %x\n", "@t: neg %y: result %y: expected an exponent, found an integer value"},
    {"scaled", X "  %y : i8[2x3] <=1 e? = positive %x\n",
     "@t: positive %y: result %y: expected an integer value, found one with an exponent"},
    {"scaled", A "  %y : i32[2x2] <=48386 e? = matmul %x, %w\n",
     "@t: matmul %y: result %y: bound 48386 is not proven, expected at least 48387"},
    {"scaled", A "  %y : i32[2x2] <=48387 e-3 = matmul %x, %w\n", "@t: matmul %y: result %y: expected a dynamic exponent, found another"},
    {"scaled", X "  %y : i32[2x3] <=32768 e? = curve %x {function=\"sigmoid\"}\n",
     "@t: curve %y: result %y: expected the constant -15 as exponent, found another"},
    {"scaled", X "  %y : i32[2x3] <=32768 e-14 = curve %x {function=\"sigmoid\"}\n",
     "@t: curve %y: result %y: expected the constant -15 as exponent, found another"},
    {"scaled",
     "  %x : i64[65536x2] <=4611686018427387904 e? = input\n  %y : i64[2] <=4611686018427387904 e? = reduce_sum %x {axes=[0], "
     "keepdims=0}\n",
     "@t: reduce_sum %y: result %y: no accumulator of 64 bits holds every possible sum"},
    {"scaled", "  %x : i16[2] <=32767 e? = input\n  %c : i64[] <=281474976710656 e? = hyper\n  %y = weighted_sum %x, %c update\n",
     "@t: weighted_sum %y: operands 0 and 1, %x and %c: no 64 bits hold every possible product"},
    /* attributes */
    {"scaled", X "  %y : i8[2x3] <=127 e? = neg %x {alpha=0.5}\n", "neg: attribute alpha is not known"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = transpose %x\n", "transpose: attribute perm is missing"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = transpose %x {perm=1}\n",
     "transpose: attribute perm has another kind than the operator expects"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = reverse %x {axes=[2]}\n", "reverse: attribute axes is out of range"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = reverse %x {axes=[1, 1]}\n", "reverse: attribute axes is out of range"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = rescale %x {bits=1, round=\"nearest\"}\n", "rescale: attribute bits is out of range"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = rescale %x {bits=8, round=\"up\"}\n", "rescale: attribute round is out of range"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = rescale %x {bits=8, round=\"stochastic\"}\n", "attribute stream is missing"},
    {"scaled", X "  %s : i32[] <=9 = state\n  %y : i8[2x3] <=128 e? = rescale %x, %s {bits=8, round=\"stochastic\", stream=1}\n",
     "rescale: attribute round is stochastic, but a fixed exponent rounds to nearest"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = clip %x {min=nan}\n", "clip: attribute min is out of range"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = clip %x {min=0.5}\n", "clip: attribute min is out of range"},
    {"scaled", X "  %y : i8[2x3] <=127 e? = clip %x {max=-0.5}\n", "clip: attribute max is out of range"},
    {"scaled", X "  %y : i64[2x3] <=127 e? = mul_const %x {value=inf}\n", "mul_const: attribute value is out of range"},
    {"scaled", "  %y : i8[2] <=1 = random_mask {shape=[2], ratio=1.5, stream=1}\n", "random_mask: attribute ratio is out of range"},
    /* stages of ops */
    {"lowered", "  %x : real[2] = input\n  %y : real[2] = rescale %x {bits=8, round=\"nearest\"}\n",
     "@t: rescale %y: expected not before stage scaled, found at stage lowered"},
    {"lowered", "  %x : real[2] = input\n  %k : i8[2] <=1 = input\n  %y : real[2] = leak %x, %k {alpha=0.5}\n",
     "@t: leak %y: expected not before stage trained, found at stage lowered"},
    {"trained", "  %x : real[2] = input\n  %c : real[] = hyper\n  %y : real[2] = weighted_sum %x, %c\n",
     "@t: weighted_sum %y: expected not before stage updated, found at stage trained"},
    /* random streams */
    {"scaled", "  %a = random_mask {shape=[2], ratio=0.5, stream=3}\n  %b = random_mask {shape=[2], ratio=0.5, stream=3}\n",
     ": random stream 3 is also that of %"},
    /* updates */
    {"scaled", X "  update %x <- %x\n", "@t: update of %x: expected a param or state, found input"},
    {"scaled", X "  %w : i8[3x2] <=127 e? = param\n  update %w <- %x\n", "@t: update of %w by %x: expected i8[3x2], found i8[2x3]"},
    {"scaled", X "  %w : i16[2x3] <=127 e? = param\n  update %w <- %x\n", "@t: update of %w by %x: expected i16[2x3], found i8[2x3]"},
    {"scaled", X "  %w : i8[2x3] <=126 e? = param\n  update %w <- %x\n",
     "@t: update of %w by %x: expected a bound of at most 126, found 127"},
    {"scaled", X "  %w : i8[2x3] <=127 e-3 = param\n  update %w <- %x\n", "@t: update of %w by %x: expected the constant exponent -3"},
    {"scaled", X "  %w : i8[2x3] <=127 e? = param\n  update %w <- %x\n  update %w <- %x\n", "@t: update of %w: it has two"},
    /* places */
    {"planned arena=64", "  %x : i32[16] <=1 e? @4:-1 = input\n", "@t: %x: bytes 4 and on leave the arena of 64"},
    {"planned arena=64", "  %x : i32[16] <=1 e? @0:61 = input\n", "@t: %x: the exponent leaves the arena"},
};

static void expect_complaint(const Graph *graph, const char *message) {
    Diag *diag = diag_new(NULL);
    bool good = graph_verify(graph, diag);
    char *text = diag_as_text(diag);
    if (good || strstr(text, message) == NULL)
        fail_msg("expected '%s', found '%s'", message, text);
    assert_true(diag_errors(diag) > 0);
    free(text);
    diag_free(diag);
}

static void violations(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Arena *arena = arena_new();
        Diag *diag = diag_new(NULL);
        int count;
        Graph **graphs = graph_parse(arena, arena_printf(arena, "graph @t stage=%s {\n%s}\n", cases[i].stage, cases[i].body), diag, &count);
        if (graphs == NULL)
            diag_print(diag, stderr);
        assert_non_null(graphs);
        expect_complaint(graphs[0], cases[i].message);
        diag_free(diag);
        arena_free(arena);
    }
}

/* A small valid graph to break. */
static Graph *sound(Arena *arena) {
    return graph_from(arena,
                      "graph @t stage=scaled {\n" X "  %y = relu %x ; from Relu \"act\"\n  %z = neg %y\n  output \"z\" prediction %z\n}\n");
}

static void origin_is_named(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Graph *graph = sound(arena);
    value_named(graph, "y")->bound = 5;
    expect_complaint(graph, "intc: error: Relu 'act': @t: relu %y: result %y: bound 5 is not proven");
    arena_free(arena);
}

static void order_of_nodes(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Graph *graph = sound(arena);
    Node *first = graph->nodes[0];
    graph->nodes[0] = graph->nodes[1];
    graph->nodes[1] = first;
    expect_complaint(graph, "@t: neg %z: operand 0, %y: expected a definition before its use");
    arena_free(arena);
}

static void removed_nodes(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Graph *graph = sound(arena);
    graph->node_count = 1;
    expect_complaint(graph, "@t: output 'z': expected a value that is defined, found %z");
    graph_update(graph, value_named(graph, "x"), value_named(graph, "z"));
    expect_complaint(graph, "@t: update of %x: expected values of this graph that are defined");
    arena_free(arena);
}

static void foreign_values(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Graph *graph = sound(arena), *other = sound(arena);
    graph->nodes[1]->in[0] = other->values[1];
    expect_complaint(graph, "@t: neg %z: operand 0 is no value of this graph");
    graph->nodes[1]->in[0] = graph->values[1];
    graph->nodes[1]->out[0] = other->values[2];
    expect_complaint(graph, "@t: neg %z: result 0 is no value of this graph");
    graph->nodes[1]->out[0] = graph->values[1];
    expect_complaint(graph, "@t: neg %y: result 0, %y: expected to be defined by this node");
    graph->nodes[1] = other->nodes[1];
    expect_complaint(graph, "@t: neg %z: the node belongs to another graph");
    arena_free(arena);
}

static void broken_values(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Graph *graph = sound(arena);
    Value *x = value_named(graph, "x");
    x->order[0] = 1;
    expect_complaint(graph, "@t: %x: order is no permutation of its 2 dimensions");
    x->order[0] = 0;
    x->shape.dim[0] = -1;
    expect_complaint(graph, "@t: %x: no valid shape");
    x->shape.dim[0] = 2;
    x->exponent_kind = EXPONENT_NONE;
    expect_complaint(graph, "@t: %x: expected an exponent, found none");
    x->integer = true;
    x->exponent_kind = EXPONENT_DYNAMIC;
    expect_complaint(graph, "@t: %x is an integer value: expected no exponent");
    x->exponent_kind = EXPONENT_NONE;
    x->type = T_REAL;
    expect_complaint(graph, "@t: %x is an integer value: expected an integer type, found real");
    x->id = 5;
    expect_complaint(graph, "value 0: expected its own id and a name, found id 5");
    arena_free(arena);
}

static void results_twice(void **state) {
    (void)state;
    Arena *arena = arena_new();
    Graph *graph = sound(arena);
    graph->nodes[1] = graph->nodes[0];
    expect_complaint(graph, "@t: relu %y: result 0, %y: defined twice");
    graph->nodes[0]->out_count = 0;
    expect_complaint(graph, "@t: relu %?: expected 1 results, found 0");
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(violations),    cmocka_unit_test(origin_is_named), cmocka_unit_test(order_of_nodes),
        cmocka_unit_test(removed_nodes), cmocka_unit_test(foreign_values),  cmocka_unit_test(broken_values),
        cmocka_unit_test(results_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
