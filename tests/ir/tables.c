/* The function tables and the functions that interpolate them: error over the whole input range against libm. */
#include "ir/tables.h"
#include "helper.h"
#include "ir/functions.h"

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

/* All 255 mantissas at every exponent from far too small to `last`; the largest error of an output of 15 fraction bits, or its share of
 * |x| where the function is x times a table. */
static double worst(const char *name, const char *op, bool slope, int last) {
    const Function *function = function_find(name);
    assert_non_null(function);
    bool gated = strcmp(op, "gated") == 0;
    Arena *arena = arena_new();
    Graph *graph = graph_from(arena, arena_printf(arena,
                                                  "graph @t stage=scaled {\n  %%x : i8[255] <=127 e? = input\n"
                                                  "  %%dy : i8[255] <=127 e? = input\n  %%y = %s %s%%x {function=\"%s\"}\n}\n",
                                                  op, slope ? "%dy, " : "", name));
    Eval *eval = eval_new(graph, EVAL_INTEGER);
    double most = 0;
    for (int e = -40; e <= last; e++) {
        int64_t m[255], one[255];
        for (int i = 0; i < 255; i++) {
            m[i] = i - 127;
            one[i] = 1;
        }
        fill(eval, "x", e, m);
        fill(eval, "dy", 0, one);
        eval_nodes(eval);
        const Tensor *y = tensor_named(eval, "y");
        for (int i = 0; i < 255; i++) {
            double x = ldexp((double)m[i], e), exact = slope ? function->real_slope(x) : function->real(x);
            double error = fabs(ldexp((double)y->mantissa[i], y->exponent) - exact);
            most = fmax(most, gated && x != 0 ? error / fabs(x) : error);
        }
    }
    eval_free(eval);
    arena_free(arena);
    return most;
}

/* docs/operators.md: at most 2^-14 over the whole range, of sin and cos below 2^10; the slopes of hard_sigmoid and hard_swish apart from
 * their jumps, which no mantissa here falls on. */
static void functions(void **state) {
    (void)state;
    static const char *const plain[] = {"sigmoid", "tanh", "erf", "softplus_tail", "exp_below", "hard_sigmoid", "sin", "cos"};
    static const char *const gated[] = {"hinge", "gelu", "gelu_tanh", "swish", "mish", "hard_swish"};
    double bound = ldexp(1, -14);
    for (int i = 0; i < 14; i++) {
        const char *name = i < 8 ? plain[i] : gated[i - 8];
        int last = i == 6 || i == 7 ? 3 : 20;
        double value = worst(name, i < 8 ? "curve" : "gated", false, last), slope = worst(name, "curve_grad", true, last);
        print_message("%s: largest errors %.3f and %.3f (derivative) in units of 2^-15\n", name, ldexp(value, 15), ldexp(slope, 15));
        assert_true(value <= bound);
        assert_true(slope <= bound);
    }
}

/* Errors of exp relative to the value, or absolute below 1; of log absolute; of sqrt relative. */
static double worst_power(const char *op, double (*real)(double), int first, int last) {
    Arena *arena = arena_new();
    Graph *graph =
        graph_from(arena, arena_printf(arena, "graph @t stage=scaled {\n  %%x : i16[255] <=32767 e? = input\n  %%y = %s %%x\n}\n", op));
    Eval *eval = eval_new(graph, EVAL_INTEGER);
    double most = 0;
    for (int e = first; e <= last; e++) {
        int64_t m[255];
        for (int i = 0; i < 255; i++)
            m[i] = real == exp ? 100 * (i - 127) : i == 0 ? 1 : i * 128 + i % 3;
        fill(eval, "x", e, m);
        eval_nodes(eval);
        const Tensor *y = tensor_named(eval, "y");
        for (int i = 0; i < 255; i++) {
            double x = ldexp((double)m[i], e), exact = real(x);
            if (real == exp && x > 21)
                continue;
            double error = fabs(ldexp((double)y->mantissa[i], y->exponent) - exact);
            most = fmax(most, real == log ? error : error / fmax(exact, real == exp ? ldexp(1, -15) : 0));
        }
    }
    eval_free(eval);
    arena_free(arena);
    return most;
}

static void powers(void **state) {
    (void)state;
    double e = worst_power("exp", exp, -40, 10), l = worst_power("log", log, -60, 60), s = worst_power("sqrt", sqrt, -61, 60);
    print_message("largest errors in units of 2^-15: exp %.3f of the value, log %.3f, sqrt %.3f of the value\n", ldexp(e, 15), ldexp(l, 15),
                  ldexp(s, 15));
    assert_true(e <= ldexp(1, -14));
    assert_true(l <= ldexp(1, -14));
    assert_true(s <= ldexp(1, -15));
}

/* The z >= 0 with erfc(z / sqrt(2)) = p. */
static double quantile(double p) {
    double low = 0, high = 10;
    for (int i = 0; i < 80; i++) {
        double middle = (low + high) / 2;
        *(erfc(middle / sqrt(2)) > p ? &low : &high) = middle;
    }
    return low;
}

/* docs/operators.md: at most 2^-11.8 over all tails, the signs mirrored. */
static void normal_numbers(void **state) {
    (void)state;
    double most = 0;
    for (uint64_t t = 0; t < (uint64_t)1 << 31; t += t < 4096 ? 1 : 500009) {
        int32_t z = function_normal((uint32_t)t);
        assert_int_equal(function_normal((uint32_t)t | (uint32_t)1 << 31), -z);
        most = fmax(most, fabs(ldexp(z, -QUANTILE_FRACTION) - quantile(ldexp((double)(t == 0 ? 1 : t), -31))));
    }
    if (most > exp2(-11.8))
        fail_msg("error %g, 2^%g", most, log2(most));
    assert_true(most > exp2(-14));
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* 2^18 draws of two streams and two steps: the first four moments, the distribution by Kolmogorov and Smirnov, and no correlation with the
 * neighbour, the other stream or the next step; each within what one in ten thousand sets of true normal numbers exceeds. */
static void normal_statistics(void **state) {
    (void)state;
    enum { DRAWS = 1 << 18 };
    Arena *arena = arena_new();
    Graph *graph = graph_from(arena, "graph @t stage=scaled {\n  %a = random_normal {shape=[512, 512], stream=1}\n"
                                     "  %b = random_normal {shape=[512, 512], stream=2}\n}\n");
    Eval *eval = eval_new(graph, EVAL_REAL);
    double *draws[3];
    for (int k = 0; k < 3; k++) {
        eval->seed = 7;
        eval->step = k == 2;
        eval_nodes(eval);
        draws[k] = arena_alloc(arena, DRAWS, sizeof(double));
        memcpy(draws[k], tensor_named(eval, k == 1 ? "b" : "a")->real, DRAWS * sizeof(double));
    }
    double mean = 0, power[5] = {0}, neighbour = 0, stream = 0, step = 0, root = sqrt(DRAWS), farthest = 0;
    for (int i = 0; i < DRAWS; i++) {
        double x = draws[0][i];
        mean += x / DRAWS;
        for (int k = 2; k <= 4; k++)
            power[k] += pow(x, k) / DRAWS;
        neighbour += x * draws[0][(i + 1) % DRAWS] / DRAWS;
        stream += x * draws[1][i] / DRAWS;
        step += x * draws[2][i] / DRAWS;
    }
    assert_true(fabs(mean) < 3.9 / root && fabs(power[2] - 1) < 3.9 * sqrt(2) / root);
    assert_true(fabs(power[3]) < 3.9 * sqrt(15) / root && fabs(power[4] - 3) < 3.9 * sqrt(96) / root);
    assert_true(fabs(neighbour) < 3.9 / root && fabs(stream) < 3.9 / root && fabs(step) < 3.9 / root);
    qsort(draws[0], DRAWS, sizeof(double), ascending);
    for (int i = 0; i < DRAWS; i++)
        farthest = fmax(farthest, fabs(erfc(-draws[0][i] / sqrt(2)) / 2 - (i + 0.5) / DRAWS));
    if (farthest > 2.23 / root)
        fail_msg("the distribution is %g from normal, at most %g", farthest, 2.23 / root);
    assert_true(draws[0][DRAWS - 1] > 4 && draws[0][0] < -4);
    eval_free(eval);
    arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(entries), cmocka_unit_test(functions), cmocka_unit_test(powers),
                                       cmocka_unit_test(normal_numbers), cmocka_unit_test(normal_statistics)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
