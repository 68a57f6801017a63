/* The function tables and the functions that interpolate them: error over the whole input range against libm. */
#include "ir/tables.h"
#include "helper.h"

static void entries(void **state) {
    (void)state;
    for (int i = 0; i <= TABLE_INTERVALS; i++) {
        double s = 1 / (1 + exp(-i / 64.0)), t = tanh(i / 128.0);
        assert_true(fabs(table_sigmoid[i] - ldexp(s, 15)) <= 0.5 + 1e-9);
        assert_true(fabs(table_sigmoid_grad[i] - ldexp(s * (1 - s), 15)) <= 0.5 + 1e-9);
        assert_true(fabs(table_tanh[i] - ldexp(t, 15)) <= 0.5 + 1e-9);
        assert_true(fabs(table_tanh_grad[i] - ldexp(1 - t * t, 15)) <= 0.5 + 1e-9);
    }
    for (int k = 0; k <= 256; k++) {
        assert_true(fabs(table_exp2[k] - ldexp(exp2(k / 256.0), 16)) <= 0.5 + 1e-9);
        assert_true(fabs(table_log2[k] - ldexp(log2(1 + k / 256.0), 16)) <= 0.5 + 1e-9);
    }
}

typedef double Function(double x);

static double logistic(double x) {
    return 1 / (1 + exp(-x));
}

static double logistic_grad(double x) {
    return logistic(x) * (1 - logistic(x));
}

static double tangent_grad(double x) {
    return 1 - tanh(x) * tanh(x);
}

/* All 255 mantissas at every exponent from far too small to saturating; the output is 15 fraction bits. */
static double worst(const char *op, bool gradient, Function *function) {
    Arena *arena = arena_new();
    Graph *graph = graph_from(arena, arena_printf(arena,
                                                  "graph @t stage=scaled {\n  %%x : i8[255] <=127 e? = input\n"
                                                  "  %%dy : i8[255] <=127 e? = input\n  %%y = %s %s%%x\n}\n",
                                                  op, gradient ? "%dy, " : ""));
    Eval *eval = eval_new(graph, EVAL_INTEGER);
    double most = 0;
    for (int e = -40; e <= 20; e++) {
        int64_t m[255], one[255];
        for (int i = 0; i < 255; i++) {
            m[i] = i - 127;
            one[i] = 1;
        }
        fill(eval, "x", e, m);
        fill(eval, "dy", 0, one);
        eval_nodes(eval);
        const Tensor *y = tensor_named(eval, "y");
        assert_int_equal(y->exponent, -15);
        for (int i = 0; i < 255; i++)
            most = fmax(most, fabs(ldexp((double)y->mantissa[i], -15) - function(ldexp((double)m[i], e))));
    }
    eval_free(eval);
    arena_free(arena);
    return most;
}

/* docs/operators.md: at most 2^-14 over the whole range. */
static void functions(void **state) {
    (void)state;
    double bound = ldexp(1, -14);
    double sigmoid_error = worst("sigmoid", false, logistic), tanh_error = worst("tanh", false, tanh);
    double sigmoid_grad_error = worst("sigmoid_grad", true, logistic_grad), tanh_grad_error = worst("tanh_grad", true, tangent_grad);
    print_message("largest errors in units of 2^-15: sigmoid %.3f, tanh %.3f, sigmoid' %.3f, tanh' %.3f\n", ldexp(sigmoid_error, 15),
                  ldexp(tanh_error, 15), ldexp(sigmoid_grad_error, 15), ldexp(tanh_grad_error, 15));
    assert_true(sigmoid_error <= bound);
    assert_true(tanh_error <= bound);
    assert_true(sigmoid_grad_error <= bound);
    assert_true(tanh_grad_error <= bound);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(entries), cmocka_unit_test(functions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
