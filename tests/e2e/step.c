/* step PLANNED.ir TRAINER.so STEPS THREADS: runs the compiled step and the interpreter side by side on the same made-up batches and
 * compares every parameter, momentum, loss and exponent after each step, bit for bit. The .ir is what `intc --stop-after=memplan` writes
 * for the same options; the .so is linked from --emit=obj. Exit status 0 only if all are equal and the parameters moved. */
#include "ir/ir.h"
#include "runtime/abi.h"
#include "runtime/fixed.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const struct intc_module *module;
    unsigned char *arena;
    Eval *eval;
    uint64_t draws;
} Pair;

/* The pool of the test: one range after another, in an order of its own, so that a result that depends on the split shows. */
struct intc_pool {
    int parts;
};

void intc_rt_call(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image) {
    (void)image;
    int parts = call->threads > 1 ? pool->parts : 1;
    int64_t count = call->tiles;
    for (int i = parts - 1; i >= 0; i--)
        if (count * i / parts < count * (i + 1) / parts)
            intc_call_run(call, arena, count * i / parts, count * (i + 1) / parts, i % call->threads);
}

static Graph *read_graph(Arena *arena, const char *path, const char *name) {
    FILE *in = fopen(path, "r");
    if (in == NULL)
        return NULL;
    fseek(in, 0, SEEK_END);
    size_t size = (size_t)ftell(in);
    rewind(in);
    char *text = arena_alloc(arena, size + 1, 1);
    size_t got = fread(text, 1, size, in);
    fclose(in);
    Diag *diag = diag_new(path);
    int count = 0;
    Graph **graphs = got == size ? graph_parse(arena, text, diag, &count) : NULL;
    diag_print(diag, stderr);
    diag_free(diag);
    for (int i = 0; i < count; i++)
        if (strcmp(graphs[i]->name, name) == 0)
            return graphs[i];
    return NULL;
}

static const Value *find_value(const Graph *graph, ValueKind kind, const char *name) {
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        const char *known = value->onnx_name != NULL ? value->onnx_name : value->name;
        if (value->kind == kind && (strcmp(known, name) == 0 || strcmp(value->name, name) == 0))
            return value;
    }
    return NULL;
}

static int64_t load(const unsigned char *at, int type) {
    int8_t x8;
    int16_t x16;
    int32_t x32;
    int64_t x64;
    switch (type) {
    case INTC_I8:
        return memcpy(&x8, at, 1), x8;
    case INTC_I16:
        return memcpy(&x16, at, 2), x16;
    case INTC_I32:
        return memcpy(&x32, at, 4), x32;
    default:
        return memcpy(&x64, at, 8), x64;
    }
}

static void store(unsigned char *at, int type, int64_t x) {
    memcpy(at, &x, (size_t)1 << (type - INTC_I8)); /* little-endian, as the descriptor's layout is */
}

/* Byte address of the logical element i. */
static unsigned char *element(const Pair *p, const struct intc_tensor *t, int64_t i) {
    int64_t at = 0;
    for (int d = t->rank - 1; d >= 0; d--) {
        at += i % t->dim[d] * t->stride[d];
        i /= t->dim[d];
    }
    return p->arena + t->offset + (at << (t->type - INTC_I8));
}

static int64_t elements(const struct intc_tensor *t) {
    int64_t n = 1;
    for (int d = 0; d < t->rank; d++)
        n *= t->dim[d];
    return n;
}

static int64_t draw(Pair *p, int64_t low, int64_t high) {
    uint64_t x = intc_random_key(7, 11, p->draws++);
    return low + (int64_t)(x % (uint64_t)(high - low + 1));
}

static void set_exponent(Pair *p, const struct intc_tensor *t, const Value *value, int exponent) {
    int32_t e = exponent;
    p->eval->tensors[value->id].exponent = exponent;
    if (t->exponent_offset >= 0)
        memcpy(p->arena + t->exponent_offset, &e, sizeof e);
}

/* Fills inputs, targets and hyper-parameters of both sides alike. */
static void fill(Pair *p, int step) {
    static const struct {
        const char *name;
        int64_t mantissa;
        int exponent;
    } hypers[] = {{"momentum", 1932735283, -31},
                  {"decay", 1374389535, -41},
                  {"step_w", 0, INTC_EXPONENT_ZERO},
                  {"step_g", -5, -9},
                  {"step_v", -1717986918, -36}};
    for (uint32_t i = 0; i < p->module->tensor_count; i++) {
        const struct intc_tensor *t = &p->module->tensors[i];
        if (!(t->scope & INTC_IN_STEP) || (t->kind != INTC_INPUT && t->kind != INTC_TARGET && t->kind != INTC_HYPER))
            continue;
        const Value *value = find_value(p->eval->graph, t->kind == INTC_HYPER ? VALUE_HYPER : VALUE_INPUT, t->name);
        if (value == NULL)
            internal_error("no value '%s'", t->name);
        int64_t top = t->integer ? (t->classes > 0 ? t->classes : 2) - 1 : ((int64_t)1 << (t->bits - 1)) - 1;
        for (int64_t k = 0; k < elements(t); k++) {
            int64_t x = t->integer ? draw(p, 0, top) : draw(p, -top, top);
            if (t->kind == INTC_HYPER)
                for (size_t h = 0; h < sizeof hypers / sizeof hypers[0]; h++)
                    if (strcmp(hypers[h].name, t->name) == 0) {
                        x = hypers[h].mantissa;
                        set_exponent(p, t, value, hypers[h].exponent);
                    }
            p->eval->tensors[value->id].mantissa[k] = x;
            store(element(p, t, k), t->type, x);
        }
        if (t->kind != INTC_HYPER && !t->integer)
            set_exponent(p, t, value, -5 - step % 3);
    }
}

static const Value *output_value(const Graph *graph, int kind) {
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == (kind == INTC_LOSS ? ROLE_LOSS : ROLE_METRIC))
            return graph->outputs[i].value;
    return NULL;
}

/* Number of tensors that differ; tells the first element of each. */
static int compare(const Pair *p, int step) {
    int wrong = 0;
    for (uint32_t i = 0; i < p->module->tensor_count; i++) {
        const struct intc_tensor *t = &p->module->tensors[i];
        if (!(t->scope & INTC_IN_STEP) || t->kind == INTC_INPUT || t->kind == INTC_TARGET || t->kind == INTC_HYPER)
            continue;
        bool stored = t->kind == INTC_PARAM || t->kind == INTC_STATE;
        const Value *value = stored ? find_value(p->eval->graph, t->kind == INTC_PARAM ? VALUE_PARAM : VALUE_STATE, t->name)
                                    : output_value(p->eval->graph, t->kind);
        if (value == NULL)
            internal_error("no value '%s'", t->name);
        const Tensor *tensor = &p->eval->tensors[value->id];
        int32_t e = tensor->exponent;
        if (t->exponent_offset >= 0)
            memcpy(&e, p->arena + t->exponent_offset, sizeof e);
        int64_t n = elements(t), k = 0;
        while (k < n && load(element(p, t, k), t->type) == tensor->mantissa[k])
            k++;
        if (k == n && e == tensor->exponent)
            continue;
        wrong++;
        if (k < n)
            printf("step %d: %s[%lld] is %lld, interpreter %lld\n", step, t->name, (long long)k, (long long)load(element(p, t, k), t->type),
                   (long long)tensor->mantissa[k]);
        if (e != tensor->exponent)
            printf("step %d: exponent of %s is %d, interpreter %d\n", step, t->name, e, tensor->exponent);
    }
    return wrong;
}

static unsigned char *new_arena(const struct intc_module *module) {
    size_t size = ((size_t)module->arena_size + INTC_ARENA_ALIGN) & ~(size_t)(INTC_ARENA_ALIGN - 1);
    unsigned char *arena = aligned_alloc(INTC_ARENA_ALIGN, size);
    if (arena == NULL)
        internal_error("out of memory");
    memset(arena, 0x5A, size); /* nothing may rely on zeroed memory */
    memset(arena, 0, (size_t)(module->state_size + module->constants_size));
    intc_image_copy(&module->initial, arena);
    return arena;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: step PLANNED.ir TRAINER.so STEPS PARTS\n");
        return 2;
    }
    Arena *memory = arena_new();
    Graph *graph = read_graph(memory, argv[1], "train");
    void *library = dlopen(argv[2], RTLD_NOW);
    const struct intc_module *module = library != NULL ? dlsym(library, "intc_module") : NULL;
    if (graph == NULL || module == NULL) {
        fprintf(stderr, "step: cannot read %s\n", graph == NULL ? argv[1] : argv[2]);
        return 1;
    }
    if (module->matrix_registers && !intc_rt_matrix_registers())
        internal_error("the system refuses matrix registers");
    Pair p = {.module = module, .arena = new_arena(module), .eval = eval_new(graph, EVAL_INTEGER)};
    struct intc_pool pool = {.parts = atoi(argv[4])};
    unsigned char *before = malloc((size_t)module->state_size);
    if (before == NULL)
        internal_error("out of memory");
    memcpy(before, p.arena, (size_t)module->state_size);
    int steps = atoi(argv[3]), wrong = 0;
    for (int step = 0; step < steps && wrong == 0; step++) {
        uint64_t random[2] = {42, (uint64_t)step};
        memcpy(p.arena + module->random_offset, random, sizeof random);
        p.eval->seed = random[0];
        p.eval->step = random[1];
        fill(&p, step);
        module->step(p.arena, &pool);
        eval_run(p.eval);
        wrong = compare(&p, step);
    }
    bool moved = memcmp(before, p.arena, (size_t)module->state_size) != 0;
    printf("%d steps, %d tensors differ%s\n", steps, wrong, moved ? "" : ", the parameters did not move");
    free(before);
    free(p.arena);
    eval_free(p.eval);
    arena_free(memory);
    dlclose(library);
    return wrong == 0 && moved ? 0 : 1;
}
