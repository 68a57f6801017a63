/* Code of --arith=float32 against the interpreter's real mode. One graph holds every case of tests/op/cases.def and larger ones; it is
 * compiled for several CPUs, memory orders and with or without fusion, loaded as a shared object and run; integers (masks, offsets,
 * counters) must be equal, floats within TOLERANCE of the largest number of their tensor: the rounding of sums of up to some thousand
 * float32 terms is below it, a wrong term is far above. Usage: native_float [CPU]. Before: cc can link a shared object. */
#include "codegen/codegen.h"
#include "tests/e2e/native_graph.h"
#include "tests/op/case_list.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#define TOLERANCE 2e-6

static struct {
    Arena *arena;
    Graph *graph;
    uint64_t random;
} bench; /* for_each_case passes no context */

struct intc_pool;
void intc_rt_call(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image) {
    (void)pool, (void)image;
    int64_t half = call->threads > 1 ? call->tiles / 2 : 0;
    intc_call_run(call, arena, half, call->tiles, call->threads < INTC_SLOTS ? call->threads - 1 : INTC_SLOTS - 1);
    if (half > 0)
        intc_call_run(call, arena, 0, half, 0);
}

/* --- the graph --- */

static Value *input(Shape shape) {
    return real_value(bench.graph, VALUE_INPUT, arena_printf(bench.arena, "x.%d", bench.graph->value_count), shape, 9, false,
                      &bench.random);
}

#define SHAPE(...) shape_of((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})
#define BUILD(op, inputs, ...) build(bench.graph, op, NULL, inputs, ATTRS(__VA_ARGS__))

/* Numbers beyond what exponents let through. Neither rescale nor refine meets floats, nor what the pass `lines` makes. */
static void add_case(const Case *test) {
    Value *in[CASE_INPUTS];
    if (test->op == OP_rescale || test->op == OP_refine || test->op == OP_norm_apply || test->op == OP_norm_dot)
        return;
    int count = case_inputs(bench.graph, test, VALUE_INPUT, in, &bench.random);
    for (int i = 0; i < count; i++)
        in[i]->name = arena_printf(bench.arena, "%s.%d", test->name, bench.graph->value_count - count + i);
    Value *out = case_node(bench.graph, test, in, test->op == OP_random_mask ? 0 : count);
    out->name = arena_printf(bench.arena, "%s.out", test->name);
}

static void add_products(int64_t m, int64_t k, int64_t n) {
    BUILD(OP_matmul, INPUTS(input(SHAPE(m, k)), input(SHAPE(k, n))), ATTR_I("ta", 0), ATTR_I("tb", 0));
    BUILD(OP_matmul, INPUTS(input(SHAPE(k, m)), input(SHAPE(k, n))), ATTR_I("ta", 1), ATTR_I("tb", 0));
    BUILD(OP_matmul, INPUTS(input(SHAPE(m, k)), input(SHAPE(n, k))), ATTR_I("ta", 0), ATTR_I("tb", 1));
    BUILD(OP_matmul, INPUTS(input(SHAPE(3, 1, m, k)), input(SHAPE(2, k, n))), ATTR_I("ta", 0), ATTR_I("tb", 0));
}

/* A convolution and both gradients. */
static void add_conv(int64_t batch, int64_t channels, int64_t filters, int64_t group, int64_t stride) {
    int64_t strides[] = {stride, stride}, pads[] = {1, 1, 1, 1}, ones[] = {1, 1};
    Shape x = SHAPE(batch, channels, 9, 8), w = SHAPE(filters, channels / group, 3, 3);
    const Attr attrs[] = {ATTR_L("strides", 2, strides), ATTR_L("pads", 4, pads), ATTR_L("dilations", 2, ones), ATTR_I("group", group),
                          ATTR_L("shape", 4, x.dim)};
    Attr of_w[5];
    memcpy(of_w, attrs, sizeof of_w);
    of_w[4] = ATTR_L("shape", 4, w.dim);
    Value *in = input(x), *weight = input(w), *y = build(bench.graph, OP_conv, NULL, INPUTS(in, weight), attrs, 4);
    Value *dy = input(y->shape);
    build(bench.graph, OP_conv_dgrad, NULL, INPUTS(dy, weight), attrs, 5);
    build(bench.graph, OP_conv_wgrad, NULL, INPUTS(in, dy), of_w, 5);
}

/* Enough elements for the pool and for several tiles of one sum; a group of pointwise nodes. */
static void add_large(void) {
    static const int64_t axes[][4] = {{0, 1, 2, 3}, {0, 2, 3}, {0, 1, 2}, {1, 2, 3}};
    static const int counts[] = {4, 3, 3, 3};
    Value *x = input(SHAPE(40, 12, 9, 10)), *b = input(SHAPE(12));
    for (int i = 0; i < 4; i++)
        BUILD(OP_reduce_sum, INPUTS(x), ATTR_L("axes", counts[i], axes[i]), ATTR_I("keepdims", i & 1));
    Value *y = BUILD(OP_bias, INPUTS(x, b), ATTR_I("axis", 1));
    y = build(bench.graph, OP_relu, NULL, INPUTS(y), NO_ATTRS);
    Value *mask = build(bench.graph, OP_positive, NULL, INPUTS(y), NO_ATTRS);
    y = build(bench.graph, OP_gate, NULL, INPUTS(x, mask), NO_ATTRS);
    y = build(bench.graph, OP_mul, NULL, INPUTS(y, y), NO_ATTRS);
    BUILD(OP_reduce_sum, INPUTS(y), ATTR_L("axes", 3, axes[1]), ATTR_I("keepdims", 0));
    BUILD(OP_softmax, INPUTS(x), ATTR_I("axis", 1));
}

/* The functions far from zero and near it. */
static void add_functions(void) {
    static const char *const names[] = {"sigmoid", "tanh", "erf", "sin", "cos", "softplus_tail", "exp_below", "hard_sigmoid"};
    static const char *const gates[] = {"hinge", "gelu", "gelu_tanh", "swish", "mish", "hard_swish"};
    for (int scale = 0; scale < 3; scale++) {
        Value *x = input(SHAPE(200)), *dy = input(SHAPE(200));
        x = BUILD(OP_mul_const, INPUTS(x), ATTR_R("value", scale == 0 ? 0.01 : scale == 1 ? 3.0 : 30.0));
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            BUILD(OP_curve, INPUTS(x), ATTR_S("function", names[i]));
            BUILD(OP_curve_grad, INPUTS(dy, x), ATTR_S("function", names[i]));
        }
        for (size_t i = 0; i < sizeof gates / sizeof gates[0]; i++) {
            BUILD(OP_gated, INPUTS(x), ATTR_S("function", gates[i]));
            BUILD(OP_curve_grad, INPUTS(dy, x), ATTR_S("function", gates[i]));
        }
        Value *size = build(bench.graph, OP_abs, NULL, INPUTS(x), NO_ATTRS);
        build(bench.graph, OP_exp, NULL, INPUTS(x), NO_ATTRS);
        build(bench.graph, OP_log, NULL, INPUTS(size), NO_ATTRS);
        build(bench.graph, OP_sqrt, NULL, INPUTS(size), NO_ATTRS);
    }
}

/* A parameter with momentum. */
static void add_update(void) {
    Value *w = real_value(bench.graph, VALUE_PARAM, "w", SHAPE(7, 11), 9, false, &bench.random);
    Value *v = real_value(bench.graph, VALUE_STATE, "v", SHAPE(7, 11), 9, false, &bench.random), *hyper[3], *g = input(SHAPE(7, 11));
    for (int i = 0; i < 3; i++)
        hyper[i] = real_value(bench.graph, VALUE_HYPER, arena_printf(bench.arena, "h%d", i), (Shape){0}, 9, false, &bench.random);
    Value *next_v = build(bench.graph, OP_weighted_sum, NULL, INPUTS(v, hyper[0], g, hyper[1]), NO_ATTRS);
    Value *next_w = build(bench.graph, OP_weighted_sum, NULL, INPUTS(w, hyper[1], next_v, hyper[2]), NO_ATTRS);
    build(bench.graph, OP_relu, NULL, INPUTS(w), NO_ATTRS);
    graph_update(bench.graph, v, next_v);
    graph_update(bench.graph, w, next_w);
}

static bool make_graph(OrderMode mode, bool fused, Plan *plan, Diag *diag) {
    bench.arena = arena_new();
    bench.graph = graph_new(bench.arena, "native");
    for_each_case(add_case);
    add_large();
    add_products(37, 70, 33);
    add_products(5, 16, 3);
    add_products(64, 300, 10);
    add_conv(3, 16, 16, 1, 1);
    add_conv(5, 3, 20, 1, 2);
    add_conv(2, 33, 40, 1, 2);
    add_conv(2, 24, 24, 24, 1);
    add_conv(3, 8, 12, 4, 1);
    add_functions();
    add_update();
    bench.graph->stage = STAGE_UPDATED;
    add_outputs(bench.graph, !fused);
    set_orders(bench.graph, mode, &bench.random, diag);
    if (fused && !pass_fuse(bench.graph, INT64_MAX, diag))
        return false;
    return graph_verify(bench.graph, diag) && pass_memplan(&bench.graph, 1, plan, diag) && graph_verify(bench.graph, diag);
}

/* --- running and comparing --- */

static unsigned char *element(unsigned char *arena, const Value *value, int64_t logical) {
    return arena + value->offset + physical_index(value, logical) * type_bytes(value->type);
}

static void fill(const Eval *eval, unsigned char *arena) {
    for (int i = 0; i < eval->graph->value_count; i++) {
        const Value *value = eval->graph->values[i];
        if ((value->kind != VALUE_INPUT && value->kind != VALUE_HYPER) || value->offset < 0)
            continue;
        for (int64_t k = 0; k < shape_elements(value->shape); k++) {
            float x = (float)value->real[k];
            eval->tensors[i].real[k] = x;
            memcpy(element(arena, value, k), &x, sizeof x);
        }
    }
}

static int64_t integer_at(const unsigned char *at, Type type) {
    int64_t x = 0;
    memcpy(&x, at, (size_t)type_bytes(type));
    int unused = 64 - 8 * type_bytes(type);
    return (int64_t)((uint64_t)x << unused) >> unused;
}

static double worst; /* of all tensors, as a share of the largest number in each */

static void compare(const char *variant, const Eval *eval, unsigned char *arena, const Value *value) {
    const Tensor *tensor = &eval->tensors[value->id];
    int64_t n = shape_elements(value->shape), wrong = 0, first = -1;
    double largest = 0, found = 0, most = 0;
    if (value->def != NULL && value->def->op == OP_rsqrt) /* a code means something to its readers alone */
        return;
    for (int64_t i = 0; i < n && !value->integer; i++)
        largest = fmax(largest, fabs(tensor->real[i]));
    for (int64_t i = 0; i < n; i++) {
        float x = 0;
        const unsigned char *at = element(arena, value, i);
        if (!value->integer)
            memcpy(&x, at, sizeof x);
        double difference =
            value->integer ? (double)(integer_at(at, value->type) - tensor->mantissa[i]) : fabs((double)x - tensor->real[i]) / largest;
        if (largest == 0 && !value->integer)
            difference = x;
        if (difference <= TOLERANCE && difference >= 0) {
            most = fmax(most, difference);
            continue;
        }
        found = value->integer ? (double)integer_at(at, value->type) : (double)x;
        first = wrong++ == 0 ? i : first;
    }
    worst = fmax(worst, most);
    CHECK(wrong == 0, "%s: %s = %s %s: %lld of %lld differ, [%lld]; the last one is %.9g, expected %.9g", variant, value->name,
          value->def != NULL ? op_info(value->def->op)->name : "state", value->def != NULL ? attr_text(value->def, "function", "") : "",
          (long long)wrong, (long long)n, (long long)first, found,
          value->integer ? (double)tensor->mantissa[first < 0 ? 0 : first] : tensor->real[first < 0 ? 0 : first]);
}

static void run_module(const char *variant, const struct intc_module *module) {
    const Graph *graph = bench.graph;
    size_t size = (size_t)module->arena_size, page = (size_t)sysconf(_SC_PAGESIZE), room = (size + page - 1) / page * page;
    /* The arena ends where memory that nobody may touch begins; what is not written is NaN. */
    unsigned char *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
        internal_error("out of memory");
    unsigned char *arena = memory + room - size;
    memset(arena, 0xFF, size);
    memset(arena, 0, (size_t)(module->state_size + module->constants_size));
    intc_image_copy(&module->initial, arena);
    Eval *eval = eval_new(bench.graph, EVAL_REAL);
    uint64_t random[2] = {eval->seed = 5, 0};
    memcpy(arena + module->random_offset, random, sizeof random);
    fill(eval, arena);
    eval_run(eval);
    module->step(arena, NULL);
    for (int i = 0; i < graph->output_count; i++)
        compare(variant, eval, arena, graph->outputs[i].value);
    for (int i = 0; i < graph->update_count; i++)
        compare(variant, eval, arena, graph->updates[i].state);
    eval_free(eval);
    munmap(memory, room + page);
}

/* Links the object as a shared one and loads it. */
static void *load_object(const char *object, const char *library) {
    char command[512];
    snprintf(command, sizeof command, "cc -shared -o %s %s", library, object);
    return system(command) == 0 ? dlopen(library, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static void run_variant(const char *cpu, OrderMode mode, bool fused, int level) {
    static const char *const orders[ORDERS] = {"row-major", "channels-last", "random order"};
    char variant[128], object[64], library[64];
    snprintf(variant, sizeof variant, "%s -O%d, %s, %s", cpu, level, orders[mode], fused ? "fused" : "not fused");
    snprintf(object, sizeof object, "native_float.%d.o", (int)getpid());
    snprintf(library, sizeof library, "./native_float.%d.so", (int)getpid());
    bench.random = 1000 + (uint64_t)mode;
    Diag *diag = diag_new(NULL);
    Plan plan;
    bool made = make_graph(mode, fused, &plan, diag);
    ModuleSource source = {.step = bench.graph,
                           .state_size = plan.state_size,
                           .constants_size = plan.constants_size,
                           .arena_size = plan.arena_size,
                           .random_offset = plan.random_offset,
                           .name = "native"};
    TargetOptions target = {.cpu = strcmp(cpu, "host") == 0 ? NULL : cpu, .opt_level = level};
    made = made && codegen_emit(&source, &target, EMIT_OBJ, object, diag);
    diag_print(diag, stderr);
    void *handle = made ? load_object(object, library) : NULL;
    const struct intc_module *module = handle != NULL ? dlsym(handle, "intc_module") : NULL;
    CHECK(module != NULL, "%s: no module", variant);
    if (module != NULL)
        run_module(variant, module);
    if (handle != NULL)
        dlclose(handle);
    unlink(object);
    unlink(library);
    diag_free(diag);
    arena_free(bench.arena);
}

int main(int argc, char **argv) {
    static const char *const cpus[] = {"x86-64", "x86-64-v3", "host"};
    int runs = 0;
    for (size_t c = 0; c < sizeof cpus / sizeof cpus[0]; c++) {
        bool lacks = strcmp(cpus[c], "x86-64-v3") == 0 && !__builtin_cpu_supports("avx2");
        if ((argc > 1 && strcmp(argv[1], cpus[c]) != 0) || lacks)
            continue;
        for (int mode = 0; mode < ORDERS; mode++, runs++)
            run_variant(cpus[c], (OrderMode)mode, (runs & 1) != 0, 2);
        run_variant(cpus[c], ORDER_LAST, true, c == 0 ? 0 : c == 1 ? 3 : 1);
        runs++;
    }
    printf("worst difference %.2g of the largest number of a tensor\n", worst);
    return report("native_float", runs);
}
