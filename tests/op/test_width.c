/* Every op in integer mode against real mode, on operands that are exact in 8 bits: what the widths that pass_exponents chose, the exponent
 * rules and the tables of an op cost. Operands are constants once and parameters once. */
#include "tests/op/case_list.h"

static double integer_at(const Eval *eval, const Value *value, int64_t k) {
    const Tensor *tensor = &eval->tensors[value->id];
    return value->integer ? (double)tensor->mantissa[k] : ldexp((double)tensor->mantissa[k], tensor->exponent);
}

static double real_at(const Eval *eval, const Value *value, int64_t k) {
    const Tensor *tensor = &eval->tensors[value->id];
    return value->integer ? (double)tensor->mantissa[k] : tensor->real[k];
}

/* Share of the largest element: a rescale of b bits may be half a step off (a whole one if stochastic), tables 2^-12, all else exact but
 * for the alignment of sums. */
static double tolerance(const Case *test) {
    if (test->op == OP_rescale)
        return strcmp(test->name, "rescale_stochastic") == 0 ? 1.0 / 16 : 1.0 / 127;
    /* A gradient with the bound of 16 bits has slopes of 12 bits. */
    if (test->op == OP_norm_grad)
        return 0x1p-10;
    /* The limits are rounded to the operand's mantissas. */
    return test->op == OP_clip ? 1.0 / 127 : 0x1p-12;
}

static void check_width(const Case *test, ValueKind kind) {
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, test->name);
    graph->stage = STAGE_LOWERED;
    uint64_t state = 3;
    Value *in[CASE_INPUTS];
    int count = case_inputs(graph, test, kind, in, &state);
    Value *y = case_node(graph, test, in, count);
    graph_output(graph, "y", ROLE_LOSS, y);
    Diag *diag = diag_new(NULL);
    bool good = pass_exponents(graph, &(PassOptions){.bits = 8}, diag);
    CHECK(good && graph->stage == STAGE_SCALED, "%s: exponents refuses", test->name);
    Eval *exact = eval_new(graph, EVAL_INTEGER), *real = eval_new(graph, EVAL_REAL);
    eval_run(exact);
    eval_run(real);
    const Node *node = y->def;
    for (int out = 0; out < node->out_count; out++) {
        const Value *value = node->out[out];
        double largest = 0.0;
        int64_t n = shape_elements(value->shape);
        for (int64_t k = 0; k < n; k++)
            largest = fmax(largest, fabs(real_at(real, value, k)));
        CHECK(largest > 0.0, "%s: output %d is all zero", test->name, out);
        for (int64_t k = 0; k < n; k++) {
            double a = integer_at(exact, value, k), b = real_at(real, value, k);
            CHECK(fabs(a - b) <= tolerance(test) * largest, "%s: output %d at %lld is %.9g in integers, %.9g in reals", test->name, out,
                  (long long)k, a, b);
        }
    }
    eval_free(exact);
    eval_free(real);
    diag_free(diag);
    arena_free(arena);
}

/* The code of rsqrt means another thing in either mode and is seen through normalize. */
static void check_case(const Case *test) {
    if (test->op == OP_rsqrt)
        return;
    check_width(test, VALUE_CONST);
    check_width(test, VALUE_PARAM);
}

/* Sums of sums keep their bits: ten operands of 8 bits one after another, as gradients of a value that is used often are added. */
static void check_chain(void) {
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, "chain");
    graph->stage = STAGE_LOWERED;
    uint64_t state = 7;
    Value *sum = real_value(graph, VALUE_CONST, "x0", parse_shape("3x4"), 9, false, &state);
    for (int i = 1; i < 10; i++)
        sum = build(graph, OP_add, NULL,
                    INPUTS(sum, real_value(graph, VALUE_CONST, arena_printf(arena, "x%d", i), parse_shape("3x4"), 9, false, &state)),
                    NO_ATTRS);
    graph_output(graph, "y", ROLE_LOSS, sum);
    Diag *diag = diag_new(NULL);
    CHECK(pass_exponents(graph, &(PassOptions){.bits = 8}, diag), "chain: exponents refuses");
    Eval *exact = eval_new(graph, EVAL_INTEGER), *real = eval_new(graph, EVAL_REAL);
    eval_run(exact);
    eval_run(real);
    for (int64_t k = 0; k < shape_elements(sum->shape); k++)
        CHECK(fabs(integer_at(exact, sum, k) - real_at(real, sum, k)) <= 1.0 / 64, "chain: element %lld is %.9g in integers, %.9g in reals",
              (long long)k, integer_at(exact, sum, k), real_at(real, sum, k));
    eval_free(exact);
    eval_free(real);
    diag_free(diag);
    arena_free(arena);
}

int main(void) {
    check_chain();
    return report("width", for_each_case(check_case));
}
