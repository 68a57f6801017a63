/* Contraction kernels against plain loops, bit for bit: random shapes over every attribute and memory order, on every kind of CPU that this
 * machine runs in turn, in one, two or five ranges. test_contract [cases [seed]]. */
#include "contract_jit.h"

#include <stdlib.h>
#include <string.h>

static uint64_t state;
static int failures;

static int64_t below(int64_t n) {
    uint64_t x = state += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (int64_t)((x ^ (x >> 31)) % (uint64_t)n);
}

static int64_t between(int64_t low, int64_t high) {
    return low + below(high - low + 1);
}

/* --- graphs --- */

static Value *bytes_of(Value *value) {
    value->type = T_I8;
    value->bound = 128;
    return value;
}

static Value *signed_operand(Graph *graph, int rank, const int64_t *dims) {
    return bytes_of(graph_value(graph, VALUE_INPUT, NULL, shape_of(rank, dims)));
}

/* Every third is the result of a ReLU, which contractions may take as unsigned. */
static Value *operand(Graph *graph, int rank, const int64_t *dims) {
    Value *value = graph_value(graph, VALUE_INPUT, NULL, shape_of(rank, dims));
    if (below(3) == 0)
        value = graph_node(graph, NULL, OP_relu, NULL, &value, 1, NO_ATTRS)->out[0];
    return bytes_of(value);
}

static void channels_last(Value *value) {
    int rank = value->shape.rank;
    value->order[0] = 0;
    for (int i = 1; i < rank - 1; i++)
        value->order[i] = (uint8_t)(i + 1);
    value->order[rank - 1] = 1;
}

/* Any order: mostly logical or channels last, sometimes a random permutation. */
static void reorder(Value *value, bool windowed) {
    int rank = value->shape.rank;
    int64_t kind = below(8);
    for (int i = 0; i < rank; i++)
        value->order[i] = (uint8_t)i;
    if (kind < 4 && windowed) {
        channels_last(value);
    } else if (kind == 7) {
        for (int i = rank - 1; i > 0; i--) {
            int other = (int)below(i + 1);
            uint8_t kept = value->order[i];
            value->order[i] = value->order[other];
            value->order[other] = kept;
        }
    }
}

static int64_t place(Value *value, int64_t offset) {
    value->offset = offset;
    return (offset + shape_elements(value->shape) * type_bytes(value->type) + 63) / 64 * 64;
}

static int64_t place_all(Node *node, int64_t start) {
    int64_t size = place(node->in[0], start + 64);
    size = place(node->in[1], size);
    return place(node->out[0], size);
}

/* --- reference: logical row-major copies and plain loops --- */

static int64_t index_of(const Value *value, const int64_t *stride, int64_t flat) {
    int64_t at = 0;
    for (int i = value->shape.rank - 1; i >= 0; i--) {
        at += flat % value->shape.dim[i] * stride[i];
        flat /= value->shape.dim[i];
    }
    return at;
}

static int64_t read_result(const Value *value, const unsigned char *arena, int64_t at) {
    const unsigned char *from = arena + value->offset;
    if (value->type == T_I64) {
        int64_t x;
        memcpy(&x, from + at * 8, 8);
        return x;
    }
    int32_t x;
    memcpy(&x, from + at * 4, 4);
    return x;
}

static int64_t *reference_matmul(const Node *node, const int8_t *a, const int8_t *b) {
    Shape sa = node->in[0]->shape, sb = node->in[1]->shape, sc = node->out[0]->shape;
    bool ta = attr_int(node, "ta", 0) != 0, tb = attr_int(node, "tb", 0) != 0;
    int64_t m = sc.dim[sc.rank - 2], n = sc.dim[sc.rank - 1], k = sa.dim[ta ? sa.rank - 2 : sa.rank - 1];
    int64_t total = shape_elements(sc), *c = calloc((size_t)total, sizeof *c);
    for (int64_t flat = 0; flat < total; flat++) {
        int64_t row = flat / n % m, column = flat % n, rest = flat / n / m, at_a = 0, at_b = 0, step_a = 1, step_b = 1;
        for (int i = sc.rank - 3; i >= 0; i--) {
            int64_t x = rest % sc.dim[i];
            rest /= sc.dim[i];
            int ia = i - (sc.rank - sa.rank), ib = i - (sc.rank - sb.rank);
            if (ia >= 0) {
                at_a += (sa.dim[ia] == 1 ? 0 : x) * step_a;
                step_a *= sa.dim[ia];
            }
            if (ib >= 0) {
                at_b += (sb.dim[ib] == 1 ? 0 : x) * step_b;
                step_b *= sb.dim[ib];
            }
        }
        for (int64_t i = 0; i < k; i++)
            c[flat] +=
                (int64_t)a[at_a * m * k + (ta ? i * m + row : row * k + i)] * b[at_b * k * n + (tb ? column * k + i : i * n + column)];
    }
    return c;
}

typedef struct {
    int64_t n, c, o, group, in[3], out[3], kernel[3], stride[3], pad[3], dilation[3];
} Geometry;

static void three(int rank, const int64_t *list, int64_t absent, int64_t *to) {
    for (int i = 0; i < 3; i++)
        to[i] = i < 3 - rank ? absent : list[i - (3 - rank)];
}

/* Calls one product after another: x, w, y indices of the forward convolution. */
static int64_t *reference_conv(const Node *node, Shape x, Shape w, Shape y, const int8_t *left, const int8_t *right) {
    int rank = x.rank - 2, count;
    Geometry g = {.n = x.dim[0], .c = x.dim[1], .o = w.dim[0], .group = attr_int(node, "group", 1)};
    three(rank, x.dim + 2, 1, g.in);
    three(rank, y.dim + 2, 1, g.out);
    three(rank, w.dim + 2, 1, g.kernel);
    three(rank, attr_ints(node, "strides", &count), 1, g.stride);
    three(rank, attr_ints(node, "pads", &count), 0, g.pad);
    three(rank, attr_ints(node, "dilations", &count), 1, g.dilation);
    int64_t *result = calloc((size_t)shape_elements(node->out[0]->shape), sizeof *result);
    int64_t per = g.c / g.group, taps = g.kernel[0] * g.kernel[1] * g.kernel[2];
    int64_t outputs = g.out[0] * g.out[1] * g.out[2], inputs = g.in[0] * g.in[1] * g.in[2];
    for (int64_t i = 0; i < g.n * g.o * outputs; i++) {
        int64_t n = i / outputs / g.o, o = i / outputs % g.o, pixel = i % outputs;
        int64_t at[3] = {pixel / g.out[2] / g.out[1], pixel / g.out[2] % g.out[1], pixel % g.out[2]};
        for (int64_t k = 0; k < per * taps; k++) {
            int64_t c = o / (g.o / g.group) * per + k / taps, tap = k % taps, from = 0;
            int64_t of[3] = {tap / g.kernel[2] / g.kernel[1], tap / g.kernel[2] % g.kernel[1], tap % g.kernel[2]};
            bool inside = true;
            for (int d = 0; d < 3; d++) {
                int64_t h = at[d] * g.stride[d] - g.pad[d] + of[d] * g.dilation[d];
                inside = inside && h >= 0 && h < g.in[d];
                from = from * g.in[d] + h;
            }
            if (!inside)
                continue;
            int64_t xi = (n * g.c + c) * inputs + from, wi = o * per * taps + k;
            if (node->op == OP_conv)
                result[i] += (int64_t)left[xi] * right[wi];
            else if (node->op == OP_conv_dgrad)
                result[xi] += (int64_t)left[i] * right[wi];
            else
                result[wi] += (int64_t)left[xi] * right[i];
        }
    }
    return result;
}

static int64_t *reference(const Node *node, const int8_t *left, const int8_t *right) {
    Shape a = node->in[0]->shape, b = node->in[1]->shape, c = node->out[0]->shape;
    switch (node->op) {
    case OP_conv:
        return reference_conv(node, a, b, c, left, right);
    case OP_conv_dgrad:
        return reference_conv(node, c, b, a, left, right);
    case OP_conv_wgrad:
        return reference_conv(node, a, c, b, left, right);
    default:
        return reference_matmul(node, left, right);
    }
}

/* --- one case --- */

/* kind 0: the least byte everywhere, 1: the largest of either sign, else any. */
static int8_t *fill(const Value *value, unsigned char *arena, int64_t kind) {
    int64_t stride[MAX_RANK], total = shape_elements(value->shape);
    int8_t *logical = malloc((size_t)total);
    value_strides(value, stride);
    for (int64_t i = 0; i < total; i++) {
        logical[i] = (int8_t)(kind == 0 ? -128 : kind == 1 ? 127 - below(2) * 254 : between(-128, 127));
        if (value->def != NULL && logical[i] < 0)
            logical[i] = (int8_t)-(logical[i] + 1);
        arena[value->offset + index_of(value, stride, i)] = (unsigned char)logical[i];
    }
    return logical;
}

static void describe(const Node *node, const char *cpu) {
    fprintf(stderr, "%s on %s: %s", op_info(node->op)->name, cpu, shape_text(node->graph->arena, node->in[0]->shape));
    fprintf(stderr, " and %s to %s;", shape_text(node->graph->arena, node->in[1]->shape),
            shape_text(node->graph->arena, node->out[0]->shape));
    for (int i = 0; i < node->attr_count; i++) {
        fprintf(stderr, " %s", node->attrs[i].name);
        if (node->attrs[i].kind == ATTR_INT)
            fprintf(stderr, " %lld", (long long)node->attrs[i].integer);
        for (int k = 0; node->attrs[i].kind == ATTR_INTS && k < node->attrs[i].count; k++)
            fprintf(stderr, " %lld", (long long)node->attrs[i].ints[k]);
    }
    fprintf(stderr, "; orders");
    const Value *values[] = {node->in[0], node->in[1], node->out[0]};
    for (int v = 0; v < 3; v++) {
        fprintf(stderr, " ");
        for (int i = 0; i < values[v]->shape.rank; i++)
            fprintf(stderr, "%d", values[v]->order[i]);
    }
    fputc('\n', stderr);
}

static void compare(const Node *node, const char *cpu, const unsigned char *arena, const int64_t *expected) {
    const Value *out = node->out[0];
    int64_t stride[MAX_RANK], total = shape_elements(out->shape), wrong = 0, first = 0;
    value_strides(out, stride);
    for (int64_t i = 0; i < total; i++)
        if (read_result(out, arena, index_of(out, stride, i)) != expected[i] && wrong++ == 0)
            first = i;
    if (wrong == 0)
        return;
    failures++;
    describe(node, cpu);
    fprintf(stderr, "  %lld of %lld differ, first at %lld: %lld, expected %lld\n", (long long)wrong, (long long)total, (long long)first,
            (long long)read_result(out, arena, index_of(out, stride, first)), (long long)expected[first]);
}

static const char *const CPUS[] = {"x86-64", "x86-64-v3", "x86-64-v4", "host", "vnni256", "vnni512", "portable"};
enum { CPU_COUNT = (int)(sizeof CPUS / sizeof *CPUS) };

/* cpu < 0: all. kind: of the operands' contents, see fill. start: where the operands begin in the arena; what is before is not touched. */
static void run_case(Node *node, int cpu, int64_t kind, int64_t start) {
    int64_t size = place_all(node, start);
    int8_t *left = NULL, *right = NULL;
    int64_t *expected = NULL;
    uint64_t kept = state;
    for (int i = 0; i < CPU_COUNT; i++) {
        if (!jit_runs(CPUS[i]) || (cpu >= 0 && cpu % CPU_COUNT != i))
            continue;
        Jit jit = jit_compile(node, size, CPUS[i]);
        unsigned char *arena = aligned_alloc(64, (size_t)((jit.arena_size + 63) / 64 * 64));
        if (arena == NULL)
            internal_error("no memory");
        memset(arena + start, 0x5A, (size_t)(jit.arena_size - start));
        free(left);
        free(right);
        state = kept;
        left = fill(node->in[0], arena, kind);
        right = fill(node->in[1], arena, kind);
        if (expected == NULL)
            expected = reference(node, left, right);
        static const int counts[] = {1, 2, 5};
        jit_ranges(counts[below(3)]);
        for (int repeat = 0; repeat < 2; repeat++) {
            jit.run(arena, NULL);
            compare(node, CPUS[i], arena, expected);
        }
        free(arena);
        jit_free(&jit);
    }
    free(left);
    free(right);
    free(expected);
}

static Node *finish(Graph *graph, Diag *diag, Op op, Value *a, Value *b, const Attr *attrs, int attr_count, bool wide) {
    Node *node = graph_node(graph, diag, op, NULL, (Value *[]){a, b}, 2, attrs, attr_count);
    if (node == NULL) {
        diag_print(diag, stderr);
        internal_error("a case was refused");
    }
    node->out[0]->type = wide ? T_I64 : T_I32;
    return node;
}

static Node *random_matmul(Graph *graph, Diag *diag) {
    int64_t m = between(1, 40), k = between(1, 70), n = between(1, 70), a[4], b[4];
    if (below(6) == 0)
        n = between(1, 8) * 16;
    if (below(6) == 0)
        k = between(100, 300);
    bool many = below(5) == 0; /* several runs of rows, and slices of K */
    if (many) {
        m = between(100, 500);
        k = below(2) ? between(1000, 6000) : k;
    }
    int lead = many ? 0 : (int)below(3), ra = 0, rb = 0;
    bool ta = below(2), tb = below(2);
    int skip_a = (int)below(lead + 1), skip_b = skip_a > 0 ? 0 : (int)below(lead + 1);
    for (int i = 0; i < lead; i++) {
        int64_t dim = between(1, 4), one = below(4);
        if (i >= skip_a)
            a[ra++] = one == 0 ? 1 : dim;
        if (i >= skip_b)
            b[rb++] = one == 1 ? 1 : dim;
    }
    a[ra++] = ta ? k : m;
    a[ra++] = ta ? m : k;
    b[rb++] = tb ? n : k;
    b[rb++] = tb ? k : n;
    Value *left = operand(graph, ra, a), *right = operand(graph, rb, b);
    reorder(left, false);
    reorder(right, false);
    Node *node = finish(graph, diag, OP_matmul, left, right, ATTRS(ATTR_I("ta", ta), ATTR_I("tb", tb)), below(8) == 0);
    reorder(node->out[0], false);
    return node;
}

static Node *random_conv(Graph *graph, Diag *diag, Op op) {
    int rank = below(4) == 0 ? 1 : below(5) == 0 ? 3 : 2;
    int64_t group = below(3) == 0 ? between(2, 5) : 1, most = rank == 3 ? 6 : 20;
    int64_t x[5] = {between(1, 6), group * between(1, below(3) == 0 ? 20 : 6)}, w[5] = {group * between(1, below(3) == 0 ? 40 : 7)}, y[5];
    int64_t strides[3], pads[6], dilations[3];
    if (below(4) == 0)
        group = x[1] = w[0] = between(2, 40);
    bool tiled = rank == 2 && below(3) == 0; /* what Winograd takes */
    if (tiled) {
        group = 1;
        x[1] = 16 * between(1, 3);
        w[0] = 16 * between(1, 3);
    } else if (below(3) == 0) {
        x[0] = between(16, 70); /* enough for each task of wgrad to have images of its own */
    }
    w[1] = x[1] / group;
    for (int i = 0; i < rank; i++) {
        w[2 + i] = tiled ? 3 : between(1, 5);
        strides[i] = !tiled && below(3) == 0 ? between(2, 4) : 1;
        dilations[i] = !tiled && below(4) == 0 ? between(2, 3) : 1;
        pads[i] = below(2) ? between(0, 4) : 0;
        pads[rank + i] = below(2) ? pads[i] : between(0, 3);
        int64_t reach = dilations[i] * (w[2 + i] - 1) + 1, least = reach - pads[i] - pads[rank + i];
        x[2 + i] = between(least < 1 ? 1 : least, (least < 1 ? 1 : least) + below(most));
        y[2 + i] = (x[2 + i] + pads[i] + pads[rank + i] - reach) / strides[i] + 1;
    }
    y[0] = x[0];
    y[1] = w[0];
    Attr attrs[] = {ATTR_L("strides", rank, strides), ATTR_L("pads", 2 * rank, pads), ATTR_L("dilations", rank, dilations),
                    ATTR_I("group", group), ATTR_L("shape", rank + 2, op == OP_conv_dgrad ? x : w)};
    Value *left = operand(graph, rank + 2, op == OP_conv_dgrad ? y : x), *right = operand(graph, rank + 2, op == OP_conv_wgrad ? y : w);
    reorder(left, true);
    reorder(right, op == OP_conv_wgrad);
    Node *node = finish(graph, diag, op, left, right, attrs, op == OP_conv ? 4 : 5, below(6) == 0);
    reorder(node->out[0], op != OP_conv_wgrad);
    return node;
}

/* What Winograd takes: images of side x side, x of the channels of `terms` and dy of those of `columns`. */
static Node *window(Graph *graph, Diag *diag, Op op, int64_t batch, int64_t terms, int64_t columns, int64_t side, bool wide) {
    static const int64_t ones[4] = {1, 1, 1, 1};
    int64_t x[4] = {batch, terms, side, side}, y[4] = {batch, columns, side, side}, w[4] = {columns, terms, 3, 3};
    Value *left = signed_operand(graph, 4, op == OP_conv_dgrad ? y : x), *right = signed_operand(graph, 4, op == OP_conv_wgrad ? y : w);
    channels_last(left);
    if (op == OP_conv_wgrad)
        channels_last(right);
    Attr attrs[] = {ATTR_L("strides", 2, ones), ATTR_L("pads", 4, ones), ATTR_L("dilations", 2, ones), ATTR_I("group", 1),
                    ATTR_L("shape", 4, op == OP_conv_dgrad ? x : w)};
    Node *node = finish(graph, diag, op, left, right, attrs, op == OP_conv ? 4 : 5, wide);
    if (op != OP_conv_wgrad)
        channels_last(node->out[0]);
    return node;
}

/* A gradient to the input that is scattered: few channels, a kernel that reaches far, no padding along W. */
static Node *scattered(Graph *graph, Diag *diag, int which) {
    static const int64_t sizes[][6] = {
        {16, 6, 14, 14, 5, 5}, {7, 3, 9, 13, 4, 3}, {3, 5, 8, 17, 3, 6}, {33, 1, 7, 7, 5, 4}, {16, 6, 14, 14, 5, 5}};
    static const int64_t steps[][4] = {
        {1, 1, 0, 1}, {2, 1, 1, 1}, {1, 3, 2, 2}, {1, 2, 0, 1}, {1, 1, 0, 1}}; /* strides, padding and dilation of H */
    const int64_t *size = sizes[which], *step = steps[which];
    int64_t strides[2] = {step[0], step[1]}, pads[4] = {step[2], 0, step[2], 0}, dilations[2] = {step[3], 1};
    int64_t x[4] = {9, size[1], size[2], size[3]}, w[4] = {size[0], size[1], size[4], size[5]}, y[4] = {9, size[0]};
    for (int i = 0; i < 2; i++)
        y[2 + i] = (x[2 + i] + 2 * pads[i] - dilations[i] * (w[2 + i] - 1) - 1) / strides[i] + 1;
    Value *dy = signed_operand(graph, 4, y), *weight = signed_operand(graph, 4, w);
    channels_last(dy);
    if (size == sizes[1] || size == sizes[3])
        channels_last(weight);
    Attr attrs[] = {ATTR_L("strides", 2, strides), ATTR_L("pads", 4, pads), ATTR_L("dilations", 2, dilations), ATTR_I("group", 1),
                    ATTR_L("shape", 4, x)};
    Node *node = finish(graph, diag, OP_conv_dgrad, dy, weight, attrs, 5, false);
    channels_last(node->out[0]);
    if (which == 4) { /* rows of all images together: images are no runs, and nothing may be scattered */
        const uint8_t rows_first[4] = {2, 0, 3, 1};
        memcpy(node->out[0]->order, rows_first, sizeof rows_first);
    }
    return node;
}

/* So few channels that pixels beside each other are columns of one: to 1, 3, 6, 8 of them. */
static Node *few(Graph *graph, Diag *diag, int which) {
    static const struct {
        Op op;
        int64_t source, result, wide, kernel, stride;
    } cases[] = {{OP_conv, 1, 6, 28, 5, 1},        {OP_conv, 3, 8, 33, 3, 2}, {OP_conv, 64, 1, 12, 3, 1},
                 {OP_conv_dgrad, 16, 6, 14, 5, 1}, {OP_conv, 5, 3, 29, 4, 3}, {OP_conv_dgrad, 7, 3, 15, 3, 1}};
    int64_t kernel = cases[which].kernel, stride = cases[which].stride, pad = kernel / 2, wide = cases[which].wide;
    int64_t strides[2] = {1, stride}, pads[4] = {pad, pad, pad, pad}, ones[2] = {1, 1};
    bool back = cases[which].op == OP_conv_dgrad;
    int64_t x[4] = {3, back ? cases[which].result : cases[which].source, 6, wide};
    int64_t y[4] = {3, back ? cases[which].source : cases[which].result, 6 + 2 * pad - kernel + 1, (wide + 2 * pad - kernel) / stride + 1};
    int64_t w[4] = {y[1], x[1], kernel, kernel};
    Value *source = signed_operand(graph, 4, back ? y : x), *weight = signed_operand(graph, 4, w);
    channels_last(source);
    Attr attrs[] = {ATTR_L("strides", 2, strides), ATTR_L("pads", 4, pads), ATTR_L("dilations", 2, ones), ATTR_I("group", 1),
                    ATTR_L("shape", 4, x)};
    Node *node = finish(graph, diag, cases[which].op, source, weight, attrs, back ? 5 : 4, false);
    channels_last(node->out[0]);
    return node;
}

enum { SCATTERED = 9, FEW = 14, LONG = 20 };

/* Sums beyond 32 bits, and the largest that Winograd takes; scattered gradients; few channels. */
static Node *long_sum(Graph *graph, Diag *diag, int which) {
    static const int64_t one[1] = {1}, pads[2] = {1, 0}, w[3] = {3, 2, 5}, x[3] = {2, 2, 160000}, y[3] = {2, 3, 159997};
    if (which == 0)
        return finish(graph, diag, OP_matmul, signed_operand(graph, 2, (int64_t[]){3, 300001}),
                      signed_operand(graph, 2, (int64_t[]){300001, 5}), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 0)), true);
    switch (which) {
    case 3: /* as many pixels of an image as fit the small form, */
        return window(graph, diag, OP_conv_wgrad, 2, 16, 16, 181, true);
    case 4: /* and the large form; */
        return window(graph, diag, OP_conv_wgrad, 5, 16, 16, 45, true);
    case 5: /* as many channels as it takes at once, */
        return window(graph, diag, OP_conv, 2, 224, 16, 8, false);
    case 6: /* in parts; */
        return window(graph, diag, OP_conv, 9, 256, 32, 7, false);
    case 7:
        return window(graph, diag, OP_conv_dgrad, 3, 16, 480, 11, false);
    case 8: /* as many pixels as it takes of an image in parts. */
        return window(graph, diag, OP_conv_wgrad, 3, 16, 16, 64, true);
    }
    if (which >= FEW)
        return few(graph, diag, which - FEW);
    if (which >= SCATTERED)
        return scattered(graph, diag, which - SCATTERED);
    Attr attrs[] = {ATTR_L("strides", 1, one), ATTR_L("pads", 2, pads), ATTR_L("dilations", 1, one), ATTR_I("group", 1),
                    ATTR_L("shape", 3, w)};
    if (which == 1)
        return finish(graph, diag, OP_conv_wgrad, signed_operand(graph, 3, x), signed_operand(graph, 3, y), attrs, 5, true);
    static const int64_t wide[3] = {2, 40000, 5}, small[3] = {1, 40000, 7};
    return finish(graph, diag, OP_conv, signed_operand(graph, 3, small), signed_operand(graph, 3, wide), attrs, 4, true);
}

int main(int argc, char **argv) {
    int cases = argc > 1 ? atoi(argv[1]) : 240;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    for (int i = 0; i < CPU_COUNT; i++)
        if (!jit_runs(CPUS[i]))
            printf("not run here: %s\n", CPUS[i]);
    static const Op ops[] = {OP_matmul, OP_conv, OP_conv_dgrad, OP_conv_wgrad};
    for (int i = 0; i < cases + LONG; i++) {
        state = seed * 1000003 + (uint64_t)i;
        Arena *arena = arena_new();
        Diag *diag = diag_new("contract");
        Graph *graph = graph_new(arena, "contract");
        Node *node = i < LONG                  ? long_sum(graph, diag, i)
                     : ops[i % 4] == OP_matmul ? random_matmul(graph, diag)
                                               : random_conv(graph, diag, ops[i % 4]);
        int before = failures;
        /* One arena is so large that places need 64 bits. */
        run_case(node, i < LONG ? -1 : i / 4, i < LONG ? 0 : below(6), i == FEW ? (int64_t)1 << 31 : 0);
        if (failures > before)
            fprintf(stderr, "  case %d of seed %llu\n", i, (unsigned long long)seed);
        diag_free(diag);
        arena_free(arena);
    }
    printf("%d contractions, %d failures\n", cases + LONG, failures);
    return failures > 0;
}
