/* Speed of the contraction kernels, one thread, in GMAC/s of useful products and as a share of what the CPU does of their dot instructions
 * when all operands are in registers: bench_contract [--positive] [cpu [part of a name [op]]]. Winograd's products count as direct ones. */
#include "../codegen/contract_jit.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    const char *name;
    int64_t m, k, n; /* matmul: M, K, N and ta, tb; else batch, channels, columns and the rest */
    int64_t size, kernel, stride, pad, group;
} Case;

static const Case MATMULS[] = {
    {.name = "mlp1.forward", .m = 128, .k = 784, .n = 512, .size = 1},
    {.name = "mlp1.wgrad", .m = 784, .k = 128, .n = 512, .size = 2},
    {.name = "mlp1.wgrad_t", .m = 512, .k = 128, .n = 784, .size = 2},
    {.name = "mlp2.forward", .m = 128, .k = 512, .n = 512, .size = 1},
    {.name = "mlp2.dgrad", .m = 128, .k = 512, .n = 512, .size = 0},
    {.name = "mlp2.wgrad", .m = 512, .k = 128, .n = 512, .size = 2},
    {.name = "mlp3.forward", .m = 128, .k = 512, .n = 10, .size = 1},
    {.name = "mlp3.dgrad", .m = 128, .k = 10, .n = 512, .size = 0},
    {.name = "mlp3.wgrad", .m = 10, .k = 128, .n = 512, .size = 2},
    {.name = "lenet.fc1", .m = 128, .k = 256, .n = 120, .size = 1},
    {.name = "lenet.fc1.wgrad", .m = 120, .k = 128, .n = 256, .size = 2},
    {.name = "square", .m = 512, .k = 512, .n = 512, .size = 1},
    {.name = "vit.qkv", .m = 2048, .k = 192, .n = 576, .size = 0},
    {.name = "vit.qkv.dgrad", .m = 2048, .k = 576, .n = 192, .size = 1},
    {.name = "vit.qkv.wgrad", .m = 192, .k = 2048, .n = 576, .size = 2},
    {.name = "vit.proj", .m = 2048, .k = 192, .n = 192, .size = 0},
    {.name = "vit.up", .m = 2048, .k = 192, .n = 768, .size = 0},
    {.name = "vit.up.dgrad", .m = 2048, .k = 768, .n = 192, .size = 1},
    {.name = "vit.up.wgrad", .m = 192, .k = 2048, .n = 768, .size = 2},
    {.name = "vit.down", .m = 2048, .k = 768, .n = 192, .size = 0},
    {.name = "vit.down.dgrad", .m = 2048, .k = 192, .n = 768, .size = 1},
    {.name = "vit.down.wgrad", .m = 768, .k = 2048, .n = 192, .size = 2},
};

/* batch, in channels, out channels, size, kernel, stride, pad, group */
static const Case CONVS[] = {
    {"lenet1", 128, 1, 6, 28, 5, 1, 0, 1},      {"lenet1.pad", 128, 1, 6, 28, 5, 1, 2, 1},   {"lenet2", 128, 6, 16, 12, 5, 1, 0, 1},
    {"lenet2.14", 128, 6, 16, 14, 5, 1, 0, 1},  {"resnet16", 32, 16, 16, 32, 3, 1, 1, 1},    {"resnet32", 32, 32, 32, 16, 3, 1, 1, 1},
    {"resnet64", 32, 64, 64, 8, 3, 1, 1, 1},    {"resnet.down", 32, 32, 64, 16, 3, 2, 1, 1}, {"conv64", 16, 64, 64, 32, 3, 1, 1, 1},
    {"pointwise", 16, 96, 96, 16, 1, 1, 0, 1},  {"stem", 4, 3, 64, 112, 7, 2, 3, 1},         {"late", 32, 512, 512, 7, 3, 1, 1, 1},
    {"first", 16, 64, 64, 56, 3, 1, 1, 1},      {"second", 16, 128, 128, 28, 3, 1, 1, 1},    {"third", 16, 256, 256, 14, 3, 1, 1, 1},
    {"depthwise", 16, 96, 96, 16, 3, 1, 1, 96},
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool positive; /* the left operand is what a ReLU leaves, but for dgrad */

static Value *operand(Graph *graph, int rank, const int64_t *dims, bool channels_last, bool left) {
    Value *value = graph_value(graph, VALUE_INPUT, NULL, shape_of(rank, dims));
    if (positive && left)
        value = graph_node(graph, NULL, OP_relu, NULL, &value, 1, NO_ATTRS)->out[0];
    value->type = T_I8;
    value->bound = 127;
    static const uint8_t order[] = {0, 2, 3, 1};
    if (channels_last)
        memcpy(value->order, order, sizeof order);
    return value;
}

static int64_t place(Value *value, int64_t offset) {
    value->offset = offset;
    return (offset + shape_elements(value->shape) * type_bytes(value->type) + 63) / 64 * 64;
}

/* Seconds of the fastest of many runs. */
static double fastest(const Jit *jit) {
    double best = 1e9;
    unsigned char *arena = aligned_alloc(64, (size_t)((jit->arena_size + 63) / 64 * 64));
    for (int64_t i = 0; i < jit->arena_size; i++)
        arena[i] = (unsigned char)(i * 7 + i / 251) & (positive ? 127 : 255);
    double until = now() + 0.15;
    for (int i = 0; i < 5 || now() < until; i++) {
        double start = now();
        jit->run(arena, NULL);
        double took = now() - start;
        best = took < best ? took : best;
    }
    free(arena);
    return best;
}

/* Products a second of the dots alone; they are the same for all nodes with these signs, and are measured once. */
static double limit(const Node *node, const char *cpu) {
    static double found[2];
    double *rate = &found[positive && node->op != OP_conv_dgrad], products;
    if (*rate == 0) {
        Jit jit = jit_dots(node, cpu, &products);
        *rate = products / fastest(&jit);
        jit_free(&jit);
    }
    return *rate;
}

static void measure(const char *name, Node *node, double products, const char *cpu) {
    node->out[0]->type = T_I32;
    int64_t size = place(node->out[0], place(node->in[1], place(node->in[0], 0)));
    double start = now();
    Jit jit = jit_compile(node, size, cpu);
    double compiled = now() - start, rate = products / fastest(&jit), most = limit(node, cpu);
    printf("%-18s %-10s %9.3f ms %7.1f GMAC/s, %3.0f %% of %.0f   compiled in %.0f ms\n", name, op_info(node->op)->name,
           products / rate * 1e3, rate * 1e-9, 100 * rate / most, most * 1e-9, compiled * 1e3);
    fflush(stdout);
    jit_free(&jit);
}

static void bench_matmul(Graph *graph, Diag *diag, const Case *c, const char *cpu) {
    bool ta = c->size == 2, tb = c->size == 1;
    Value *a = operand(graph, 2, (int64_t[]){ta ? c->k : c->m, ta ? c->m : c->k}, false, true);
    Value *b = operand(graph, 2, (int64_t[]){tb ? c->n : c->k, tb ? c->k : c->n}, false, false);
    Node *node = graph_node(graph, diag, OP_matmul, NULL, (Value *[]){a, b}, 2, ATTRS(ATTR_I("ta", ta), ATTR_I("tb", tb)));
    if (node != NULL)
        measure(c->name, node, (double)c->m * (double)c->k * (double)c->n, cpu);
}

static void bench_conv(Graph *graph, Diag *diag, const Case *c, const char *cpu, const char *op) {
    int64_t out = (c->size + 2 * c->pad - c->kernel) / c->stride + 1;
    int64_t x[] = {c->m, c->k, c->size, c->size}, w[] = {c->n, c->k / c->group, c->kernel, c->kernel}, y[] = {c->m, c->n, out, out};
    int64_t strides[] = {c->stride, c->stride}, pads[] = {c->pad, c->pad, c->pad, c->pad}, dilations[] = {1, 1};
    double products = (double)(c->m * out * out * c->n) * (double)(c->k / c->group * c->kernel * c->kernel);
    static const Op ops[] = {OP_conv, OP_conv_dgrad, OP_conv_wgrad};
    for (int i = 0; i < 3; i++) {
        if (op != NULL && strcmp(op, op_info(ops[i])->name) != 0)
            continue;
        Attr attrs[] = {ATTR_L("strides", 2, strides), ATTR_L("pads", 4, pads), ATTR_L("dilations", 2, dilations),
                        ATTR_I("group", c->group), ATTR_L("shape", 4, ops[i] == OP_conv_dgrad ? x : w)};
        Value *left = operand(graph, 4, ops[i] == OP_conv_dgrad ? y : x, true, ops[i] != OP_conv_dgrad);
        Value *right = operand(graph, 4, ops[i] == OP_conv_wgrad ? y : w, ops[i] == OP_conv_wgrad, false);
        Node *node = graph_node(graph, diag, ops[i], NULL, (Value *[]){left, right}, 2, attrs, i == 0 ? 4 : 5);
        if (node == NULL)
            continue;
        if (ops[i] != OP_conv_wgrad)
            memcpy(node->out[0]->order, (uint8_t[]){0, 2, 3, 1}, 4);
        measure(c->name, node, products, cpu);
    }
}

int main(int argc, char **argv) {
    positive = argc > 1 && strcmp(argv[1], "--positive") == 0;
    argc -= positive;
    argv += positive;
    const char *cpu = argc > 1 ? argv[1] : "host", *part = argc > 2 ? argv[2] : "";
    Arena *arena = arena_new();
    Diag *diag = diag_new("bench");
    Graph *graph = graph_new(arena, "bench");
    for (size_t i = 0; i < sizeof MATMULS / sizeof *MATMULS; i++)
        if (strstr(MATMULS[i].name, part) != NULL)
            bench_matmul(graph, diag, &MATMULS[i], cpu);
    for (size_t i = 0; i < sizeof CONVS / sizeof *CONVS; i++)
        if (strstr(CONVS[i].name, part) != NULL)
            bench_conv(graph, diag, &CONVS[i], cpu, argc > 3 ? argv[3] : NULL);
    diag_print(diag, stderr);
    int failed = diag_errors(diag);
    diag_free(diag);
    arena_free(arena);
    return failed > 0;
}
