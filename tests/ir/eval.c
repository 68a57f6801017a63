/* The interpreter's definitions where they are easy to get wrong: ties, boundaries, saturation, zero tensors, padding, labels, updates.
 * Expected numbers are worked out by hand from docs/operators.md. */
#include "helper.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    Arena *arena;
    Eval *eval;
} Run;

/* An integer evaluation of a graph whose body is given. */
static Run begin(const char *body) {
    Arena *arena = arena_new();
    Graph *graph = graph_from(arena, arena_printf(arena, "graph @t stage=scaled {\n%s}\n", body));
    return (Run){.arena = arena, .eval = eval_new(graph, EVAL_INTEGER)};
}

static void end(Run run) {
    eval_free(run.eval);
    arena_free(run.arena);
}

/* --- rescale --- */

static void rescale_ties(void **state) {
    (void)state;
    Run run = begin("  %x : i32[8] <=100000 e? = input\n  %y = rescale %x {bits=8, round=\"nearest\"}\n");
    fill(run.eval, "x", -3, M(254, 1, 3, 5, -1, -3, -5, 2));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", -2, M(127, 0, 2, 2, 0, -2, -2, 1));
    end(run);
}

static void expect_maximum(const char *round, int64_t maximum, int shift, int64_t result) {
    Arena *arena = arena_new();
    Run run =
        begin(arena_printf(arena, "  %%x : i32[2] <=100000 e? = input\n  %%y = rescale %%x {bits=8, round=\"%s\", stream=1}\n", round));
    fill(run.eval, "x", 0, M(0, maximum));
    eval_nodes(run.eval);
    assert_int_equal(tensor_named(run.eval, "y")->exponent, shift);
    if (result != 0)
        assert_int_equal(tensor_named(run.eval, "y")->mantissa[1], result);
    end(run);
    arena_free(arena);
}

/* 127 stays; 253 / 2 = 126.5 rounds to 126; 255 / 2 = 127.5 would round to 128, so that the shift grows. */
static void rescale_boundary(void **state) {
    (void)state;
    expect_maximum("nearest", 127, 0, 127);
    expect_maximum("nearest", -127, 0, -127);
    expect_maximum("nearest", 128, 1, 64);
    expect_maximum("nearest", 253, 1, 126);
    expect_maximum("nearest", 254, 1, 127);
    expect_maximum("nearest", 255, 2, 64);
    expect_maximum("nearest", -255, 2, -64);
    expect_maximum("nearest", 256, 2, 64);
    expect_maximum("nearest", 509, 2, 127);
    expect_maximum("nearest", 510, 3, 64);
    expect_maximum("stochastic", 127, 0, 127);
    expect_maximum("stochastic", 254, 1, 127);
    expect_maximum("stochastic", 255, 2, 0);
    expect_maximum("stochastic", 508, 2, 127);
    expect_maximum("stochastic", 509, 3, 0);
}

static void rescale_zero(void **state) {
    (void)state;
    Run run = begin("  %x : i32[3] <=100000 e? = input\n  %y = rescale %x {bits=8, round=\"stochastic\", stream=1}\n");
    fill(run.eval, "x", -3, M(0, 0, 0));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", INTC_EXPONENT_ZERO, M(0, 0, 0));
    end(run);
}

/* The mean of n roundings of x / 2^s is within 5 standard deviations of it, for both signs; a step draws other bits than the next. */
static void rescale_stochastic_mean(void **state) {
    (void)state;
    enum { N = 20000 };
    Run run = begin("  %x : i32[20001] <=100000 e? = input\n  %y = rescale %x {bits=8, round=\"stochastic\", stream=7}\n");
    Tensor *x = tensor_named(run.eval, "x"), *y = tensor_named(run.eval, "y");
    for (int64_t value = -1003; value <= 1003; value += 1003 + 1003) {
        double mean[2];
        for (uint64_t step = 0; step < 2; step++) {
            x->mantissa[N] = 127 << 8;
            for (int i = 0; i < N; i++)
                x->mantissa[i] = value;
            run.eval->seed = 42;
            run.eval->step = step;
            eval_nodes(run.eval);
            assert_int_equal(y->exponent - x->exponent, 8);
            int64_t sum = 0;
            for (int i = 0; i < N; i++) {
                assert_true(y->mantissa[i] == value >> 8 || y->mantissa[i] == (value >> 8) + 1);
                sum += y->mantissa[i];
            }
            mean[step] = (double)sum / N;
            assert_true(fabs(mean[step] - (double)value / 256) < 5 * 0.5 / sqrt(N));
        }
        assert_true(mean[0] != mean[1]);
    }
    end(run);
}

static void rescale_fixed(void **state) {
    (void)state;
    Run run = begin("  %x : i32[8] <=100000 e? = input\n  %s : i32[] <=100000 = state\n"
                    "  %y = rescale %x, %s {bits=8, round=\"nearest\"}\n");
    const struct {
        int64_t slot;
        int64_t y[8];
    } cases[] = {
        {2, {0, 0, 2, -2, 64, -64, 127, -128}},           /* quarters, half to even: 1/4, 2/4, 6/4, -6/4, 257/4, -254/4 */
        {0, {1, 2, 6, -6, 127, -128, 127, -128}},         /* 257 and -254 saturate */
        {-6, {64, 127, 127, -128, 127, -128, 127, -128}}, /* to the left: 64 fits, 128 does not */
        {-100, {127, 127, 127, -128, 127, -128, 127, -128}},
        {20, {0, 0, 0, 0, 0, 0, 0, 0}},
        {200, {0, 0, 0, 0, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fill(run.eval, "x", 0, M(1, 2, 6, -6, 257, -254, 100000, -100000));
        fill(run.eval, "s", 0, &cases[i].slot);
        eval_nodes(run.eval);
        expect_tensor(run.eval, "y", (int)cases[i].slot, cases[i].y);
    }
    fill(run.eval, "x", INTC_EXPONENT_ZERO, M(0, 0, 0, 0, 0, 0, 0, 0));
    fill(run.eval, "s", 0, M(-7));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", -7, M(0, 0, 0, 0, 0, 0, 0, 0));
    end(run);
}

/* --- exponents --- */

static void align_zero(void **state) {
    (void)state;
    Run run = begin("  %a : i8[2] <=127 e? = input\n  %b : i8[2] <=127 e? = input\n  %y = add %a, %b\n");
    /* L = 7, one bit for two terms, 30 bits: the nonzero tensor is shifted up by 22. */
    fill(run.eval, "a", -7, M(5, -127));
    fill(run.eval, "b", INTC_EXPONENT_ZERO, M(0, 0));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", -29, M(5 << 22, -127 * (1 << 22)));
    fill(run.eval, "a", INTC_EXPONENT_ZERO, M(0, 0));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", INTC_EXPONENT_ZERO, M(0, 0));
    /* Neither loses a bit while both fit: the smaller exponent counts. */
    fill(run.eval, "a", 3, M(1, -1));
    fill(run.eval, "b", 0, M(1, 127));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", 0, M(9, 119));
    /* 40 places apart: the small one is rounded away where 30 bits end. */
    fill(run.eval, "a", 40, M(1, -1));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", 18, M(1 << 22, -(1 << 22)));
    end(run);
}

/* The accumulator keeps its exponent whatever the bias's, until the bias would not fit. */
static void bias_first(void **state) {
    (void)state;
    Run run = begin("  %x : i32[1x2] <=1000000 e? = input\n  %b : i16[2] <=32767 e? = input\n  %y = bias %x, %b {axis=1}\n");
    fill(run.eval, "x", -10, M(100, -100));
    fill(run.eval, "b", -12, M(2, 6));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", -10, M(100, -98));
    fill(run.eval, "b", INTC_EXPONENT_ZERO, M(0, 0));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", -10, M(100, -100));
    /* e_b + 15 + 1 - 30 = e_b - 14 */
    fill(run.eval, "b", 8, M(1, -1));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", -6, M((1 << 14) + 6, -(1 << 14) - 6));
    end(run);
}

static void weighted_sum_zero(void **state) {
    (void)state;
    Run run = begin("  %w : i16[2] <=32767 e? = input\n  %one : i8[] <=1 e0 = const {1}\n  %v : i16[2] <=32767 e? = input\n"
                    "  %m : i32[] <=2147483647 e? = hyper\n  %y = weighted_sum %w, %one, %v, %m update\n");
    fill(run.eval, "w", -15, M(3, -3));
    fill(run.eval, "v", INTC_EXPONENT_ZERO, M(0, 0));
    fill(run.eval, "m", 0, M(0));
    eval_nodes(run.eval);
    /* v·m: exponent clamped to -16384; w·one: -15 + 15 bits; one bit for two terms, 30 bits. */
    expect_tensor(run.eval, "y", -15 + 15 + 1 - 30, M(3 << 14, -(3 << 14)));
    end(run);
}

/* 46 bits of a product are cut to 30, half up. */
static void weighted_sum_cut(void **state) {
    (void)state;
    Run run = begin("  %w : i16[4] <=32767 e? = input\n  %m : i32[] <=2147483647 e? = hyper\n  %y = weighted_sum %w, %m update\n");
    fill(run.eval, "w", 3, M(32767, 1, -1, -3));
    fill(run.eval, "m", -40, M((1 << 30) + (1 << 15)));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", 3 - 40 + 16, M((32767 << 14) + 16384, (1 << 14) + 1, -(1 << 14), -(3 << 14) - 1));
    end(run);
}

static void concat_aligns(void **state) {
    (void)state;
    Run run = begin("  %a : i8[1x2] <=127 e? = input\n  %b : i8[1x1] <=127 e? = input\n  %y = concat %a, %b, %a {axis=1}\n");
    fill(run.eval, "a", 2, M(3, -4));
    fill(run.eval, "b", 0, M(7));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", 0, M(12, -16, 7, 12, -16));
    /* No sum: e = 40 + 7 - 30. */
    fill(run.eval, "a", 40, M(3, -4));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", 17, M(3 << 23, -(4 << 23), 0, 3 << 23, -(4 << 23)));
    end(run);
}

/* --- pointwise --- */

static void division(void **state) {
    (void)state;
    Run run = begin("  %a : i16[6] <=32767 e? = input\n  %b : i16[6] <=32767 e? = input\n  %y = div %a, %b\n");
    fill(run.eval, "a", -3, M(1, -1, 0, 5, -5, 1));
    fill(run.eval, "b", 4, M(3, 3, 0, 0, 0, -4096));
    eval_nodes(run.eval);
    int64_t bound = (int64_t)32767 << 30;
    expect_tensor(run.eval, "y", -37, M(357913941, -357913941, 0, bound, -bound, -(1 << 18)));
    end(run);
}

/* -1.3 and 2.1 at 2^-2 are -5.2 and 8.4; at 2^0 the limits -0.5 and 2.5 tie to 0 and 2. */
static void clipping(void **state) {
    (void)state;
    Run run = begin("  %x : i8[5] <=127 e? = input\n  %y = clip %x {min=-1.3, max=2.1}\n  %z = clip %x {min=-0.5, max=2.5}\n"
                    "  %k = inside %x {min=-0.5, max=2.5}\n  %u = clip %x {max=0x1p+1000}\n");
    fill(run.eval, "x", -2, M(-127, -5, 8, 9, 127));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", -2, M(-5, -5, 8, 8, 8));
    fill(run.eval, "x", 0, M(-1, 0, 1, 2, 3));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "z", 0, M(0, 0, 1, 2, 2));
    expect_tensor(run.eval, "k", 0, M(0, 0, 1, 0, 0));
    expect_tensor(run.eval, "u", 0, M(-1, 0, 1, 2, 3));
    end(run);
}

static void table_ends(void **state) {
    (void)state;
    Run run = begin("  %x : i8[5] <=127 e? = input\n  %s = curve %x {function=\"sigmoid\"}\n  %t = curve %x {function=\"tanh\"}\n");
    fill(run.eval, "x", 10000, M(0, 1, -1, 127, -127));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "s", -15, M(16384, 32768, 0, 32768, 0));
    expect_tensor(run.eval, "t", -15, M(0, 32768, -32768, 32768, -32768));
    fill(run.eval, "x", INTC_EXPONENT_ZERO, M(0, 1, -1, 127, -127));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "s", -15, M(16384, 16384, 16384, 16384, 16384));
    expect_tensor(run.eval, "t", -15, M(0, 0, 0, 0, 0));
    end(run);
}

static void random_masks(void **state) {
    (void)state;
    Run run = begin("  %a = random_mask {shape=[100, 100], ratio=0.25, stream=1}\n"
                    "  %b = random_mask {shape=[100, 100], ratio=0.25, stream=2}\n"
                    "  %all = random_mask {shape=[100], ratio=0.0, stream=3}\n  %none = random_mask {shape=[100], ratio=1.0, stream=4}\n");
    eval_nodes(run.eval);
    const int64_t *a = tensor_named(run.eval, "a")->mantissa, *b = tensor_named(run.eval, "b")->mantissa;
    int ones = 0, equal = 0;
    for (int i = 0; i < 10000; i++) {
        ones += a[i] == 1;
        equal += a[i] == b[i];
    }
    assert_in_range(ones, 7500 - 220, 7500 + 220);
    /* Independent masks agree where both keep or both drop: 0.75² + 0.25² = 0.625. */
    assert_in_range(equal, 6250 - 250, 6250 + 250);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(tensor_named(run.eval, "all")->mantissa[i], 1);
        assert_int_equal(tensor_named(run.eval, "none")->mantissa[i], 0);
    }
    end(run);
}

/* --- windows and moves --- */

static void maxpool_ties(void **state) {
    (void)state;
    Run run =
        begin("  %x : i8[1x1x3x3] <=127 e? = input\n"
              "  %y, %o = maxpool %x {kernel=[2, 2], strides=[1, 1], pads=[1, 0, 0, 0], dilations=[1, 1]}\n"
              "  %g = maxpool_grad %y, %o {kernel=[2, 2], strides=[1, 1], pads=[1, 0, 0, 0], dilations=[1, 1], shape=[1, 1, 3, 3]}\n");
    fill(run.eval, "x", -4, M(-1, -1, -3, 5, 5, 5, 5, 6, 6));
    eval_nodes(run.eval);
    /* The first row of windows lies half in the padding, which would win if it were 0. */
    expect_tensor(run.eval, "y", -4, M(-1, -1, 5, 5, 6, 6));
    expect_tensor(run.eval, "o", 0, M(2, 2, 2, 2, 3, 2));
    expect_tensor(run.eval, "g", -4, M(-1, -1, 0, 5, 5, 0, 0, 12, 0));
    end(run);
}

static void maxpool_all_padding(void **state) {
    (void)state;
    Run run = begin("  %x : i8[1x1x2] <=127 e? = input\n  %y, %o = maxpool %x {kernel=[1], strides=[1], pads=[1, 1], dilations=[1]}\n"
                    "  %g = maxpool_grad %y, %o {kernel=[1], strides=[1], pads=[1, 1], dilations=[1], shape=[1, 1, 2]}\n");
    fill(run.eval, "x", 0, M(-3, 4));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "y", 0, M(0, -3, 4, 0));
    expect_tensor(run.eval, "o", 0, M(0, 0, 0, 0));
    expect_tensor(run.eval, "g", 0, M(-3, 4));
    end(run);
}

static void convolution(void **state) {
    (void)state;
    Run run = begin("  %x : i8[1x2x4] <=127 e? = input\n  %w : i8[2x1x2] <=127 e? = input\n"
                    "  %y = conv %x, %w {strides=[2], pads=[1, 0], dilations=[1], group=2}\n");
    fill(run.eval, "x", -3, M(1, 2, 3, 4, 5, 6, 7, 8));
    fill(run.eval, "w", -4, M(10, 1, -1, 2));
    eval_nodes(run.eval);
    /* Windows at -1 and 1: {0, 1}, {2, 3} and {0, 5}, {6, 7}; cross-correlation does not turn the filter round. */
    expect_tensor(run.eval, "y", -7, M(1, 23, 10, 8));
    end(run);
}

static void moves(void **state) {
    (void)state;
    Run run = begin("  %x : i8[2x3] <=127 e? = input\n  %t = transpose %x {perm=[1, 0]}\n"
                    "  %s = slice %x {starts=[1, 0], steps=[1, 2], shape=[1, 2]}\n"
                    "  %p = pad %s {low=[1, 0], high=[0, 1], interior=[0, 1]}\n  %r = reverse %x {axes=[1]}\n"
                    "  %b = broadcast %s {shape=[2, 2]}\n  %u = reduce_sum %x {axes=[0], keepdims=1}\n");
    fill(run.eval, "x", -1, M(1, 2, 3, 4, 5, 6));
    eval_nodes(run.eval);
    expect_tensor(run.eval, "t", -1, M(1, 4, 2, 5, 3, 6));
    expect_tensor(run.eval, "s", -1, M(4, 6));
    expect_tensor(run.eval, "p", -1, M(0, 0, 0, 0, 4, 0, 6, 0));
    expect_tensor(run.eval, "r", -1, M(3, 2, 1, 6, 5, 4));
    expect_tensor(run.eval, "b", -1, M(4, 6, 4, 6));
    expect_tensor(run.eval, "u", -1, M(5, 7, 9));
    end(run);
}

/* Moves of labels are labels: no exponent, and the same in real mode. */
static void integer_moves(void **state) {
    (void)state;
    Run run = begin("  %t : i32[2x1] <=100000 = input\n  %u = reshape %t {shape=[2]}\n  %c = concat %u, %u {axis=0}\n");
    Eval *real = eval_new(run.eval->graph, EVAL_REAL);
    fill(run.eval, "t", 0, M(7, 99999));
    fill(real, "t", 0, M(7, 99999));
    eval_nodes(run.eval);
    eval_nodes(real);
    assert_true(value_named(run.eval->graph, "c")->integer);
    expect_tensor(run.eval, "c", 0, M(7, 99999, 7, 99999));
    expect_tensor(real, "c", 0, M(7, 99999, 7, 99999));
    eval_free(real);
    end(run);
}

static int64_t dot(const Eval *eval, const char *a, const char *b) {
    int64_t sum = 0, n = shape_elements(value_named(eval->graph, a)->shape);
    for (int64_t i = 0; i < n; i++)
        sum += tensor_named(eval, a)->mantissa[i] * tensor_named(eval, b)->mantissa[i];
    return sum;
}

/* A linear map and its gradient are adjoint: <f(x), dy> = <x, f'(dy)>, exactly, in integers. */
static void adjoints(void **state) {
    (void)state;
    static const char *const bodies[] = {
        "  %x : i8[2x4x6x5] <=127 e? = input\n  %w : i8[6x2x3x2] <=127 e? = input\n  %dy : i8[2x6x3x4] <=127 e? = input\n"
        "  %y = conv %x, %w {strides=[2, 1], pads=[1, 0, 0, 1], dilations=[1, 2], group=2}\n"
        "  %dx = conv_dgrad %dy, %w {strides=[2, 1], pads=[1, 0, 0, 1], dilations=[1, 2], group=2, shape=[2, 4, 6, 5]}\n"
        "  %dw = conv_wgrad %x, %dy {strides=[2, 1], pads=[1, 0, 0, 1], dilations=[1, 2], group=2, shape=[6, 2, 3, 2]}\n",
        "  %x : i8[2x3x5x4] <=127 e? = input\n  %dy : i8[2x3x3x4] <=127 e? = input\n"
        "  %y = sumpool %x {kernel=[3, 2], strides=[2, 1], pads=[1, 1, 1, 0], dilations=[1, 1]}\n"
        "  %dx = sumpool_grad %dy {kernel=[3, 2], strides=[2, 1], pads=[1, 1, 1, 0], dilations=[1, 1], shape=[2, 3, 5, 4]}\n",
        "  %x : i8[5x4] <=127 e? = input\n  %dy : i8[2x2] <=127 e? = input\n  %y = slice %x {starts=[1, 0], steps=[3, 2], shape=[2, 2]}\n"
        "  %dx = pad %dy {low=[1, 0], high=[0, 1], interior=[2, 1]}\n",
        "  %x : i8[4x1] <=127 e? = input\n  %dy : i8[2x4x3] <=127 e? = input\n  %y = broadcast %x {shape=[2, 4, 3]}\n"
        "  %s = reduce_sum %dy {axes=[0, 2], keepdims=0}\n  %dx = reshape %s {shape=[4, 1]}\n",
    };
    for (size_t b = 0; b < sizeof bodies / sizeof bodies[0]; b++) {
        Run run = begin(bodies[b]);
        uint64_t random = b;
        for (int i = 0; i < run.eval->graph->value_count; i++) {
            const Value *value = run.eval->graph->values[i];
            int64_t n = value->kind == VALUE_INPUT ? shape_elements(value->shape) : 0;
            for (int64_t k = 0; k < n; k++)
                run.eval->tensors[i].mantissa[k] = (int64_t)(next_random(&random) % 255) - 127;
        }
        eval_nodes(run.eval);
        int64_t expected = dot(run.eval, "y", "dy");
        assert_true(expected != 0);
        assert_int_equal(dot(run.eval, "x", "dx"), expected);
        if (b == 0)
            assert_int_equal(dot(run.eval, "w", "dw"), expected);
        end(run);
    }
}

/* --- rows --- */

static void softmax_rows(void **state) {
    (void)state;
    Run run = begin("  %x : i8[3x4] <=127 e? = input\n  %y = softmax %x {axis=1}\n  %l = log_softmax %x {axis=1}\n");
    fill(run.eval, "x", 2, M(7, 7, 7, 7, 127, -127, -127, -127, 10, 9, 8, -127));
    eval_nodes(run.eval);
    const Tensor *y = tensor_named(run.eval, "y"), *l = tensor_named(run.eval, "l");
    for (int j = 0; j < 4; j++) {
        assert_int_equal(y->mantissa[j], 8192);
        /* ln 4 with 16 fraction bits */
        assert_int_equal(l->mantissa[j], -90852);
    }
    expect_tensor(run.eval, "y", -15, M(8192, 8192, 8192, 8192, 32768, 0, 0, 0, y->mantissa[8], y->mantissa[9], y->mantissa[10], 0));
    assert_int_equal(l->mantissa[4], 0);
    assert_int_equal(l->mantissa[5], -(254 * 4 << 16));
    end(run);
}

/* Every row's probabilities sum to 1 within half a unit for each element. */
static void softmax_sums(void **state) {
    (void)state;
    enum { ROWS = 200, LENGTH = 37 };
    Run run = begin("  %x : i8[200x37] <=127 e? = input\n  %y = softmax %x {axis=1}\n");
    uint64_t random = 3;
    for (int e = -8; e <= 1; e++) {
        for (int i = 0; i < ROWS * LENGTH; i++)
            tensor_named(run.eval, "x")->mantissa[i] = (int64_t)(next_random(&random) % 255) - 127;
        tensor_named(run.eval, "x")->exponent = e;
        eval_nodes(run.eval);
        for (int r = 0; r < ROWS; r++) {
            int64_t sum = 0;
            for (int j = 0; j < LENGTH; j++)
                sum += tensor_named(run.eval, "y")->mantissa[r * LENGTH + j];
            assert_in_range(sum, 32768 - LENGTH / 2 - 1, 32768 + LENGTH / 2 + 1);
        }
    }
    end(run);
}

static void labels(void **state) {
    (void)state;
    Run run = begin("  %x : i8[5x3] <=127 e? = input\n  %t : i64[5] <=1000 = input\n  %d : i8[5] <=127 e? = input\n"
                    "  %w : i16[3] <=32767 e? = input\n"
                    "  %loss = cross_entropy %x, %t {axis=1, ignore_index=1}\n"
                    "  %g = cross_entropy_grad %x, %t, %d {axis=1, ignore_index=1}\n"
                    "  %p = pick %x, %t {axis=1, ignore_index=1}\n  %q = pick_grad %d, %t {axis=1, ignore_index=1, shape=[5, 3]}\n"
                    "  %u = label_weight %t, %w {ignore_index=1}\n  %v = label_weight %t {ignore_index=1}\n"
                    "  %c = count_correct %x, %t {axis=1}\n");
    fill(run.eval, "x", 3, M(127, -127, -127, 127, -127, -127, 5, 5, 5, 9, 9, 9, 1, 2, 3));
    fill(run.eval, "t", 0, M(0, 1, -1, 3, 2));
    fill(run.eval, "d", -2, M(3, 3, 3, 3, 3));
    fill(run.eval, "w", -5, M(11, 22, 33));
    eval_nodes(run.eval);
    const Tensor *loss = tensor_named(run.eval, "loss"), *g = tensor_named(run.eval, "g");
    expect_tensor(run.eval, "loss", -16, M(0, 0, 0, 0, loss->mantissa[4]));
    expect_tensor(run.eval, "g", -17, M(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, g->mantissa[12], g->mantissa[13], g->mantissa[14]));
    assert_true(loss->mantissa[4] > 0 && g->mantissa[13] > 0 && g->mantissa[14] < 0);
    expect_tensor(run.eval, "p", 3, M(-127, 0, 0, 0, -3));
    expect_tensor(run.eval, "q", -2, M(-3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -3));
    expect_tensor(run.eval, "u", -5, M(11, 0, 0, 0, 33));
    expect_tensor(run.eval, "v", 0, M(1, 0, 1, 1, 1));
    /* Rows 0 and 4; row 1's largest is not at 1, the ties of rows 2 and 3 are at 0. */
    expect_tensor(run.eval, "c", 0, M(2));
    end(run);
}

/* --- the driver --- */

/* Next values are read before states change, and exponents travel with mantissas. */
static void updates(void **state) {
    (void)state;
    Run run = begin("  %a : i16[1] <=32767 e?-3 = param {5}\n  %b : i16[1] <=32767 e?4 = state {7}\n  %z : i16[2] <=32767 e? = state\n"
                    "  update %a <- %b\n  update %b <- %a\n");
    expect_tensor(run.eval, "z", INTC_EXPONENT_ZERO, M(0, 0));
    eval_run(run.eval);
    expect_tensor(run.eval, "a", 4, M(7));
    expect_tensor(run.eval, "b", -3, M(5));
    eval_run(run.eval);
    expect_tensor(run.eval, "a", -3, M(5));
    end(run);
}

/* A mantissa beyond its bound ends in the internal-error path. */
static void bound_is_checked(void **state) {
    (void)state;
    Run run = begin("  %x : i8[1] <=3 e? = input\n  %y = neg %x\n");
    fill(run.eval, "x", 0, M(3));
    eval_nodes(run.eval);
    fill(run.eval, "x", 0, M(4));
    fflush(stdout);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(1);
        eval_nodes(run.eval);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    end(run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rescale_ties),     cmocka_unit_test(rescale_boundary),
        cmocka_unit_test(rescale_zero),     cmocka_unit_test(rescale_stochastic_mean),
        cmocka_unit_test(rescale_fixed),    cmocka_unit_test(align_zero),
        cmocka_unit_test(bias_first),       cmocka_unit_test(weighted_sum_zero),
        cmocka_unit_test(weighted_sum_cut), cmocka_unit_test(concat_aligns),
        cmocka_unit_test(division),         cmocka_unit_test(clipping),
        cmocka_unit_test(table_ends),       cmocka_unit_test(random_masks),
        cmocka_unit_test(maxpool_ties),     cmocka_unit_test(maxpool_all_padding),
        cmocka_unit_test(convolution),      cmocka_unit_test(moves),
        cmocka_unit_test(adjoints),         cmocka_unit_test(integer_moves),
        cmocka_unit_test(softmax_rows),     cmocka_unit_test(softmax_sums),
        cmocka_unit_test(labels),           cmocka_unit_test(updates),
        cmocka_unit_test(bound_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
