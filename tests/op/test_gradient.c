/* Every gradient rule against central finite differences, in the interpreter's real mode; every row of ops.def has a case; accumulation
 * over several uses. A case whose gradients are all zero fails. */
#include "tests/op/case_list.h"

static bool covered[OP_COUNT];
static bool dump;

static double loss_at(Eval *eval, const Value *loss, double *x, double at) {
    double kept = *x;
    *x = at;
    eval_nodes(eval);
    *x = kept;
    return eval->tensors[loss->id].real[0];
}

static void print_numbers(const char *key, const Eval *eval, const Value *value) {
    printf(", \"%s\": {\"shape\": [", key);
    for (int i = 0; i < value->shape.rank; i++)
        printf("%s%lld", i > 0 ? ", " : "", (long long)value->shape.dim[i]);
    printf("], \"data\": [");
    for (int64_t k = 0; k < shape_elements(value->shape); k++)
        if (value->integer)
            printf("%s%lld", k > 0 ? ", " : "", (long long)eval->tensors[value->id].mantissa[k]);
        else
            printf("%s%.17g", k > 0 ? ", " : "", eval->tensors[value->id].real[k]);
    printf("]}");
}

static void print_attrs(const Node *node) {
    printf(", \"attrs\": {");
    for (int i = 0; i < node->attr_count; i++) {
        const Attr *attr = &node->attrs[i];
        printf("%s\"%s\": ", i > 0 ? ", " : "", attr->name);
        if (attr->kind == ATTR_INT)
            printf("%lld", (long long)attr->integer);
        else if (attr->kind == ATTR_REAL)
            printf("%.17g", attr->real);
        else if (attr->kind == ATTR_TEXT)
            printf("\"%s\"", attr->text);
        for (int k = 0; attr->kind == ATTR_INTS && k < attr->count; k++)
            printf("%s%lld", k == 0 ? "[" : ", ", (long long)attr->ints[k]);
        if (attr->kind == ATTR_INTS)
            printf("%s]", attr->count == 0 ? "[" : "");
    }
    printf("}");
}

/* The case's operands, its loss Σ weights·output, and the gradients of its real operands. */
static void print_case(const char *name, const Eval *eval, const Value *loss) {
    const Node *product = loss->def->in[0]->def, *node = product->in[0]->def;
    printf("{\"name\": \"%s\", \"op\": \"%s\"", name, op_info(node->op)->name);
    print_attrs(node);
    for (int i = 0; i < node->in_count; i++) {
        char key[16];
        snprintf(key, sizeof key, "in%d", i);
        print_numbers(key, eval, node->in[i]);
        snprintf(key, sizeof key, "grad%d", i);
        const Value *g = node->in[i]->kind == VALUE_PARAM ? backward_gradient(eval->graph, node->in[i]) : NULL;
        if (g != NULL)
            print_numbers(key, eval, g);
    }
    print_numbers("output", eval, node->out[0]);
    print_numbers("weights", eval, product->in[1]);
    printf("}\n");
}

/* Compares the gradients that backward appended with differences of the loss. */
static void compare(const char *name, Graph *graph, const Value *loss) {
    Diag *diag = diag_new(NULL);
    int values = graph->value_count;
    bool good = pass_backward(graph, diag);
    CHECK(good, "%s: backward refuses", name);
    if (!good)
        diag_print(diag, stderr);
    Eval *eval = eval_new(graph, EVAL_REAL);
    eval_nodes(eval);
    if (dump && good)
        print_case(name, eval, loss);
    for (int i = 0; good && !dump && i < values; i++) {
        const Value *p = graph->values[i];
        if (p->kind != VALUE_PARAM)
            continue;
        const Value *g = backward_gradient(graph, p);
        CHECK(g != NULL && shape_equal(g->shape, p->shape), "%s: no gradient of the shape of %s", name, p->name);
        double largest = 0.0;
        for (int64_t k = 0; g != NULL && k < shape_elements(p->shape); k++) {
            const double h = 1e-5;
            double *x = &eval->tensors[p->id].real[k];
            double slope = (loss_at(eval, loss, x, *x + h) - loss_at(eval, loss, x, *x - h)) / (2 * h);
            eval_nodes(eval);
            double found = eval->tensors[g->id].real[k];
            largest = fmax(largest, fabs(found));
            CHECK(fabs(found - slope) <= 1e-6 * (1 + fabs(slope)), "%s: gradient of %s at %lld is %.9g, difference quotient %.9g", name,
                  p->name, (long long)k, found, slope);
        }
        CHECK(largest > 1e-3, "%s: every gradient of %s is zero", name, p->name);
    }
    eval_free(eval);
    diag_free(diag);
}

/* Rounding to few digits has a gradient only as a convention, which fine rounding shows. */
static bool is_coarse(const Case *test) {
    for (int i = 0; i < test->attr_count; i++)
        if (strcmp(test->attrs[i].name, "digits") == 0 && test->attrs[i].integer < 30)
            return true;
        else if (strcmp(test->attrs[i].name, "least") == 0 && test->attrs[i].integer > -30)
            return true;
    return false;
}

static void check_case(const Case *test) {
    covered[test->op] = true;
    if (!differentiable(test->op) || is_coarse(test))
        return;
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, test->name);
    graph->stage = STAGE_LOWERED;
    uint64_t state = 1;
    Value *in[CASE_INPUTS];
    int count = case_inputs(graph, test, VALUE_PARAM, in, &state);
    Value *y = case_node(graph, test, in, count);
    if (!y->integer) { /* a move of integers has no gradient */
        Value *loss = weighted_total(graph, y, &state);
        graph_output(graph, "loss", ROLE_LOSS, loss);
        compare(test->name, graph, loss);
    }
    arena_free(arena);
}

/* y = x·x + relu(x)·W, x used three times, once twice by the same node. */
static void check_accumulation(void) {
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, "accumulation");
    graph->stage = STAGE_LOWERED;
    uint64_t state = 5;
    Value *x = real_value(graph, VALUE_PARAM, "x", parse_shape("3x3"), 9, false, &state);
    Value *w = real_value(graph, VALUE_PARAM, "w", parse_shape("3x3"), 9, false, &state);
    Value *square = build(graph, OP_mul, NULL, INPUTS(x, x), NO_ATTRS);
    Value *relu = build(graph, OP_relu, NULL, INPUTS(x), NO_ATTRS);
    Value *product = build(graph, OP_matmul, NULL, INPUTS(relu, w), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 0)));
    Value *sum = build(graph, OP_add, NULL, INPUTS(square, product), NO_ATTRS);
    Value *loss = weighted_total(graph, sum, &state);
    graph_output(graph, "loss", ROLE_LOSS, loss);
    compare("accumulation", graph, loss);
    arena_free(arena);
}

/* A constant operand gets no gradient node; a parameter that the loss does not see gets a note and no gradient. */
static void check_unneeded(void) {
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, "unneeded");
    graph->stage = STAGE_LOWERED;
    uint64_t state = 6;
    Value *x = real_value(graph, VALUE_CONST, "x", parse_shape("2x3"), 9, false, &state);
    Value *w = real_value(graph, VALUE_PARAM, "w", parse_shape("3x4"), 9, false, &state);
    real_value(graph, VALUE_PARAM, "unused", parse_shape("3"), 9, false, &state);
    Value *y = build(graph, OP_matmul, NULL, INPUTS(x, w), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 0)));
    Value *loss = weighted_total(graph, y, &state);
    graph_output(graph, "loss", ROLE_LOSS, loss);
    Diag *diag = diag_new(NULL);
    CHECK(pass_backward(graph, diag), "backward refuses");
    int contractions = 0;
    for (int i = 0; i < graph->node_count; i++)
        contractions += graph->nodes[i]->op == OP_matmul;
    CHECK(contractions == 2, "%d contractions, expected the forward one and one gradient", contractions);
    const Value *unused = graph->values[w->id + 1];
    CHECK(backward_gradient(graph, w) != NULL && backward_gradient(graph, unused) == NULL, "gradients of w and not of unused");
    CHECK(diag_errors(diag) == 0, "a parameter without gradient is no error");
    diag_free(diag);
    arena_free(arena);
}

int main(int argc, char **argv) {
    dump = argc > 1 && strcmp(argv[1], "--dump") == 0;
    int count = for_each_case(check_case);
    if (dump)
        return failures > 0;
    check_accumulation();
    check_unneeded();
    /* norm_slope is built with norm_grad alone, norm_line with norm_apply. */
    for (int op = OP_NONE + 1; op < OP_COUNT; op++)
        CHECK(covered[op] || op == OP_norm_slope || op == OP_norm_line, "cases.def has no case of %s", op_info((Op)op)->name);
    return report("gradient", count);
}
