/* Integer mode against real mode for every op: the integer result, read as m * 2^e, differs from the function on doubles by at most the
 * stated number of units of 2^e. Every row of ops.def has a case. */
#include "helper.h"

typedef struct {
    Op op;
    double units; /* of the output's last place */
    const char *text;
} Case;

#define X8 "  %x : i8[4x6] <=127 e? = input\n"
#define Y8 "  %y : i8[4x6] <=127 e? = input\n"
#define X16 "  %x : i16[4x6] <=32767 e? = input\n"
#define Y16 "  %y : i16[4x6] <=32767 e? = input\n"
#define X32 "  %x : i32[4x6] <=1000000 e? = input\n"
#define IMAGE "  %x : i8[2x4x6x5] <=127 e? = input\n"
#define LEVEL "  %l = inv_sqrt %v {epsilon=0x1p-17, part=2}\n"
#define LABEL "  %t : i8[4] <=7 = input\n"
#define MASK "  %k : i8[4x6] <=1 = input\n"
#define POOL "kernel=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1], dilations=[1, 2]"
#define CONV "strides=[2, 1], pads=[1, 0, 0, 1], dilations=[1, 2], group=2"

/* Rounding once costs 1/2. A constant of 31 bits or a slope of 24 fraction bits is off by 1/2, times the operand's mantissa. Table
 * functions: 2^-14, two units. Softmax: 1 unit, measured; the gradients multiply it by |dy| <= 127, or a sum of six. Logarithms: see
 * log_softmax; exp: 2^-15 of the largest value here, e^(127/32), in units of 2^-30. */
static const Case cases[] = {
    {OP_rescale, 0.5, X32 "  %r = rescale %x {bits=8, round=\"nearest\"}\n"},
    {OP_rescale, 1, X32 "  %r = rescale %x {bits=8, round=\"stochastic\", stream=3}\n"},
    {OP_refine, 0.5, X32 "  %q = rescale %x {bits=8, round=\"nearest\"}\n  %r = refine %x, %q {places=4}\n"},
    {OP_mul_const, 64, X8 "  %r = mul_const %x {value=0x1.999999999999ap-4}\n"},
    {OP_mul_const, 0, X8 "  %r = mul_const %x {value=0.375}\n"},
    {OP_matmul, 0, X8 "  %w : i8[5x6] <=127 e? = input\n  %r = matmul %x, %w {ta=0, tb=1}\n"},
    {OP_matmul, 0, "  %x : i8[3x1x6x4] <=127 e? = input\n  %w : i8[2x6x5] <=127 e? = input\n  %r = matmul %x, %w {ta=1, tb=0}\n"},
    {OP_conv, 0, IMAGE "  %w : i8[6x2x3x2] <=127 e? = input\n  %r = conv %x, %w {" CONV "}\n"},
    {OP_conv_dgrad, 0,
     "  %x : i8[2x6x3x4] <=127 e? = input\n  %w : i8[6x2x3x2] <=127 e? = input\n  %r = conv_dgrad %x, %w {" CONV ", shape=[2, 4, 6, 5]}\n"},
    {OP_conv_wgrad, 0, IMAGE "  %w : i8[2x6x3x4] <=127 e? = input\n  %r = conv_wgrad %x, %w {" CONV ", shape=[6, 2, 3, 2]}\n"},
    {OP_bias, 1, X32 "  %b : i16[6] <=32767 e? = input\n  %r = bias %x, %b {axis=1}\n"},
    {OP_add, 1, X32 Y8 "  %r = add %x, %y\n"},
    {OP_add, 1, X8 "  %y : i8[4x1] <=127 e? = input\n  %r = add %y, %x\n"},
    {OP_sub, 1, X32 Y8 "  %r = sub %x, %y\n"},
    {OP_mul, 0, X16 Y16 "  %r = mul %x, %y\n"},
    {OP_div, 0.5, X16 Y16 "  %r = div %x, %y\n"},
    {OP_neg, 0, X8 "  %r = neg %x\n"},
    {OP_relu, 0, X8 "  %r = relu %x\n"},
    {OP_leaky_relu, 64, X8 "  %r = leaky_relu %x {alpha=0.01}\n"},
    {OP_leak, 64, X8 MASK "  %r = leak %x, %k {alpha=0.01}\n"},
    {OP_clip, 0.5, X8 "  %r = clip %x {min=-1.3, max=2.1}\n"},
    {OP_round, 0, X8 "  %r = round %x {digits=3, least=-1000, truncate=0}\n"},
    {OP_round, 0, X32 "  %r = round %x {digits=8, least=3, truncate=0}\n"},
    {OP_round, 0, X32 "  %r = round %x {digits=62, least=2, truncate=1}\n"},
    {OP_inside, 0, X8 "  %r = inside %x {min=-1.0, max=2.0}\n"},
    {OP_positive, 0, X8 "  %r = positive %x\n"},
    {OP_gate, 0, X8 MASK "  %r = gate %x, %k\n"},
    {OP_curve, 2, X8 "  %r = curve %x {function=\"sigmoid\"}\n"},
    {OP_curve, 2, X8 "  %r = curve %x {function=\"tanh\"}\n"},
    {OP_curve, 2, X8 "  %r = curve %x {function=\"erf\"}\n"},
    {OP_curve, 2, X8 "  %r = curve %x {function=\"sin\"}\n"},
    {OP_curve, 2, X8 "  %r = curve %x {function=\"cos\"}\n"},
    {OP_curve, 2, X8 "  %r = curve %x {function=\"softplus_tail\"}\n"},
    {OP_curve, 2, X8 "  %r = curve %x {function=\"exp_below\"}\n"},
    {OP_curve, 2, X8 "  %r = curve %x {function=\"hard_sigmoid\"}\n"},
    {OP_gated, 2 * 127, X8 "  %r = gated %x {function=\"hinge\"}\n"},
    {OP_gated, 2 * 127, X8 "  %r = gated %x {function=\"gelu\"}\n"},
    {OP_gated, 2 * 127, X8 "  %r = gated %x {function=\"gelu_tanh\"}\n"},
    {OP_gated, 2 * 127, X8 "  %r = gated %x {function=\"swish\"}\n"},
    {OP_gated, 2 * 127, X8 "  %r = gated %x {function=\"mish\"}\n"},
    {OP_gated, 2 * 127, X8 "  %r = gated %x {function=\"hard_swish\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"sigmoid\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"tanh\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"erf\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"sin\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"cos\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"softplus_tail\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"exp_below\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"gelu\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"gelu_tanh\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"swish\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"mish\"}\n"},
    {OP_curve_grad, 2 * 127, X8 Y8 "  %r = curve_grad %x, %y {function=\"hard_swish\"}\n"},
    {OP_abs, 0, X32 "  %r = abs %x\n"},
    {OP_exp, 53 * 32768.0, X8 "  %r = exp %x\n"},
    {OP_log, 2, X32 "  %r = log %x\n"},
    {OP_sqrt, 0.5, X16 "  %r = sqrt %x\n"},
    {OP_both, 0, MASK "  %l : i8[4x1] <=1 = input\n  %r = both %k, %l\n"},
    {OP_differ, 0, MASK "  %l : i8[4x1] <=1 = input\n  %r = differ %k, %l\n"},
    /* Two terms, each rounded twice where it loses places. */
    {OP_weighted_sum, 1.5,
     X16 Y16 "  %c : i32[] <=2147483647 e? = hyper\n  %d : i32[] <=2147483647 e? = hyper\n  %r = weighted_sum %x, %c, %y, %d\n"},
    {OP_random_mask, 0, "  %r = random_mask {shape=[4, 6], ratio=0.25, stream=1}\n"},
    {OP_random_normal, 0, "  %r = random_normal {shape=[4, 6], stream=1}\n"},
    {OP_share, 0.5, X32 "  %r = share %x {count=7, fraction=8}\n"},
    {OP_variance, 0.5,
     "  %s : i32[4] <=1000 e? = input\n  %q : i32[4] <=100000000 e? = input\n  %r = variance %s, %q {count=3, centered=0}\n"},
    {OP_equalize, 0, "  %v : i16[6] <=32767 e? = input\n  %b : i16[6] <=32767 e? = input\n" LEVEL "  %r = equalize %b, %l {axis=0}\n"},
    {OP_restore, 0, X32 "  %v : i16[6] <=32767 e? = input\n" LEVEL "  %r = restore %x, %l {axis=1}\n"},
    {OP_reduce_sum, 0, IMAGE "  %r = reduce_sum %x {axes=[0, 2], keepdims=0}\n"},
    {OP_maxpool, 0, IMAGE "  %r, %o = maxpool %x {" POOL "}\n"},
    {OP_maxpool_grad, 0,
     "  %x : i8[2x4x3x4] <=127 e? = input\n  %o : i8[2x4x3x4] <=5 = input\n  %r = maxpool_grad %x, %o {" POOL ", shape=[2, 4, 6, 5]}\n"},
    {OP_sumpool, 0, IMAGE "  %r = sumpool %x {" POOL "}\n"},
    {OP_sumpool_grad, 0, "  %x : i8[2x4x3x4] <=127 e? = input\n  %r = sumpool_grad %x {" POOL ", shape=[2, 4, 6, 5]}\n"},
    {OP_reshape, 0, X8 "  %r = reshape %x {shape=[2, 12]}\n"},
    {OP_transpose, 0, IMAGE "  %r = transpose %x {perm=[2, 0, 3, 1]}\n"},
    {OP_slice, 0, IMAGE "  %r = slice %x {starts=[1, 0, 1, 0], steps=[1, 3, 2, 1], shape=[1, 2, 3, 5]}\n"},
    {OP_pad, 0, X8 "  %r = pad %x {low=[1, 0], high=[0, 2], interior=[2, 1]}\n"},
    {OP_reverse, 0, IMAGE "  %r = reverse %x {axes=[1, 3]}\n"},
    {OP_broadcast, 0, "  %x : i8[4x1x3] <=127 e? = input\n  %r = broadcast %x {shape=[2, 4, 5, 3]}\n"},
    {OP_concat, 0.5, X8 "  %y : i16[4x3] <=32767 e? = input\n  %r = concat %y, %x, %y {axis=1}\n"},
    {OP_gather, 0, IMAGE "  %t : i8[2x3] <=7 = input\n  %r = gather %x, %t {axis=1}\n"},
    {OP_gather_grad, 0,
     "  %x : i8[3x5x2] <=127 e? = input\n  %t : i8[5] <=7 = input\n  %r = gather_grad %x, %t {axis=1, shape=[3, 4, 2]}\n"},
    {OP_places, 0, "  %t : i8[3x5x2] <=7 = input\n  %r = places %t {sizes=[4, 3], strides=[3, 1], steps=[12, 0]}\n"},
    {OP_softmax, 1, X8 "  %r = softmax %x {axis=1}\n"},
    {OP_softmax, 1, "  %x : i8[3x7x2] <=127 e? = input\n  %r = softmax %x {axis=1}\n"},
    {OP_masked_softmax, 1, X8 MASK "  %r = masked_softmax %x, %k {axis=1}\n"},
    {OP_masked_softmax, 1, X8 "  %k : i8[6] <=1 = input\n  %r = masked_softmax %x, %k {axis=1}\n"},
    {OP_softmax_grad, 0, X8 Y8 "  %r = softmax_grad %x, %y {axis=1}\n"},
    {OP_log_softmax, 4, X8 "  %r = log_softmax %x {axis=1}\n"},
    {OP_log_softmax_grad, 6 * 127, X8 Y8 "  %r = log_softmax_grad %x, %y {axis=1}\n"},
    {OP_cross_entropy, 4, X8 LABEL "  %r = cross_entropy %x, %t {axis=1, ignore_index=2}\n"},
    {OP_cross_entropy_grad, 127, X8 LABEL "  %d : i8[4] <=127 e? = input\n  %r = cross_entropy_grad %x, %t, %d {axis=1, ignore_index=2}\n"},
    {OP_argmax, 0, X8 "  %r = argmax %x {axis=1}\n"},
    {OP_pick, 0, X8 LABEL "  %r = pick %x, %t {axis=1, ignore_index=2}\n"},
    {OP_pick_grad, 0, "  %x : i8[4] <=127 e? = input\n" LABEL "  %r = pick_grad %x, %t {axis=1, ignore_index=2, shape=[4, 6]}\n"},
    {OP_label_weight, 0, LABEL "  %w : i16[6] <=32767 e? = input\n  %r = label_weight %t, %w {ignore_index=2}\n"},
    {OP_label_weight, 0, LABEL "  %r = label_weight %t {ignore_index=2}\n"},
    {OP_count_correct, 0, X8 LABEL "  %r = count_correct %x, %t {axis=1}\n"},
};

enum { CASES = (int)(sizeof cases / sizeof cases[0]) };

/* The same inputs for both modes: reals are mantissas times a power of two near 2^-5, one for each input. */
static void fill_inputs(Eval *integer, Eval *real, uint64_t seed) {
    uint64_t random = seed;
    const Graph *graph = integer->graph;
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        if (value->kind != VALUE_INPUT && value->kind != VALUE_HYPER)
            continue;
        int64_t n = shape_elements(value->shape);
        integer->tensors[i].exponent = -5 - (int)(next_random(&random) % 4);
        for (int64_t k = 0; k < n; k++) {
            uint64_t bound = (uint64_t)value->bound;
            int64_t m = (int64_t)(next_random(&random) % (2 * bound + 1)) - value->bound;
            if (value->integer) /* labels may be wrong, places in windows and masks not */
                m = value->bound == 7 ? (m < -1 ? -1 : m) : m < 0 ? -m : m;
            integer->tensors[i].mantissa[k] = m;
            if (value->integer)
                real->tensors[i].mantissa[k] = m;
            else
                real->tensors[i].real[k] = ldexp((double)m, integer->tensors[i].exponent);
        }
    }
}

static double worst_difference(const Eval *integer, const Eval *real, const Value *value) {
    const Tensor *a = &integer->tensors[value->id], *b = &real->tensors[value->id];
    int64_t n = shape_elements(value->shape);
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        if (value->integer) {
            assert_int_equal(a->mantissa[i], b->mantissa[i]);
            continue;
        }
        double exact = ldexp(b->real[i], -a->exponent);
        double slack = fabs(exact) * ldexp(1, -48); /* of the double computation */
        most = fmax(most, fabs((double)a->mantissa[i] - exact) - slack);
    }
    return most;
}

static void agreement(void **state) {
    (void)state;
    for (int c = 0; c < CASES; c++) {
        Arena *arena = arena_new();
        Graph *graph = graph_from(arena, arena_printf(arena, "graph @t stage=scaled {\n%s}\n", cases[c].text));
        Eval *integer = eval_new(graph, EVAL_INTEGER), *real = eval_new(graph, EVAL_REAL);
        const Node *node = graph->nodes[graph->node_count - 1];
        assert_int_equal(node->op, cases[c].op);
        bool nonzero = false;
        for (uint64_t seed = 1; seed <= 50; seed++) {
            integer->seed = real->seed = seed;
            fill_inputs(integer, real, seed);
            eval_nodes(integer);
            eval_nodes(real);
            for (int k = 0; k < node->out_count; k++) {
                double difference = worst_difference(integer, real, node->out[k]);
                if (difference > cases[c].units)
                    fail_msg("%s: %g units apart, at most %g\n%s", op_info(cases[c].op)->name, difference, cases[c].units, cases[c].text);
            }
            int64_t n = shape_elements(node->out[0]->shape);
            for (int64_t i = 0; i < n; i++)
                nonzero = nonzero || integer->tensors[node->out[0]->id].mantissa[i] != 0;
        }
        assert_true(nonzero);
        eval_free(integer);
        eval_free(real);
        arena_free(arena);
    }
}

static void every_op(void **state) {
    (void)state;
    for (int op = OP_NONE + 1; op < OP_COUNT; op++) {
        bool found = false;
        for (int c = 0; c < CASES; c++)
            found = found || cases[c].op == (Op)op;
        /* Statistics agree only with the x that they are of: tests/op/test_width.c. */
        bool statistics = op == OP_rsqrt || op == OP_inv_sqrt || (op >= OP_normalize && op <= OP_norm_grad);
        if (!found && !statistics)
            fail_msg("no case for %s", op_info((Op)op)->name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_op), cmocka_unit_test(agreement)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
