/* export_graphs FOLDER: exports one-op graphs of cases.def and random networks as int8, fills the templates and writes each model with an
 * input and the outputs that the interpreter computes, for export_graphs.py to compare with ONNX Runtime. Prints one line a model: NAME
 * FORM CONDITIONS-HOLD OUTPUT…, or NAME refused SENTENCE. Filling is written anew here, apart from the trainer's. */
#include "frontend/frontend.h"
#include "runtime/abi.h"
#include "runtime/fixed.h"
#include "tests/op/case_list.h"

typedef struct {
    const char *name;
    Graph *graph; /* at STAGE_LOWERED */
    int bits;
    double stretch; /* of the data after calibration: beyond 1 some values saturate */
    const OnnxFile *file;
} Subject;

static const char *folder;

/* --- filling --- */

typedef struct {
    const Eval *eval; /* of the fixed graph: parameters, and slots in STATE */
    const ModelTemplate *model;
    int *exponents;
} Filler;

static const Value *named(const Graph *graph, const char *name) {
    for (int i = 0; i < graph->value_count; i++)
        if (strcmp(graph->values[i]->name, name) == 0)
            return graph->values[i];
    internal_error("no value %s", name);
}

static int mapping_shift(const Filler *f, const Value *param, int bits) {
    uint64_t maximum = 0;
    for (int64_t i = 0; i < shape_elements(param->shape); i++) {
        uint64_t m = intc_magnitude(f->eval->tensors[param->id].mantissa[i]);
        maximum = m > maximum ? m : maximum;
    }
    return maximum == 0 ? INTC_EXPONENT_ZERO : intc_rescale_shift(maximum, bits, false);
}

static int exponent_value(const Filler *f, const TemplateExponent *e) {
    const Value *value = e->param != NULL ? named(f->eval->graph, e->param) : e->slot != NULL ? named(f->eval->graph, e->slot) : NULL;
    const Tensor *tensor = value != NULL ? &f->eval->tensors[value->id] : NULL;
    int a = f->exponents[e->a], b = f->exponents[e->b];
    switch (e->kind) {
    case INTC_EXPONENT_CONST:
        return e->constant;
    case INTC_EXPONENT_SLOT:
        return (int)tensor->mantissa[0];
    case INTC_EXPONENT_PARAM:
        return tensor->exponent;
    case INTC_EXPONENT_MAPPED:
        return intc_exponent_clamp((int64_t)tensor->exponent + mapping_shift(f, value, e->bits));
    case INTC_EXPONENT_LEAST: {
        int64_t least = tensor->mantissa[0];
        for (int64_t i = 1; i < shape_elements(value->shape); i++)
            least = tensor->mantissa[i] < least ? tensor->mantissa[i] : least;
        return (int)least;
    }
    case INTC_EXPONENT_ADD:
        return intc_exponent_clamp((int64_t)a + b + e->constant);
    case INTC_EXPONENT_SUB:
        return intc_exponent_clamp((int64_t)a - b + e->constant);
    case INTC_EXPONENT_MAX:
        return a > b ? a : b;
    case INTC_EXPONENT_HALF:
        return (int)floor(a / 2.0);
    default:
        return a < b ? a : b;
    }
}

static bool conditions_hold(const Filler *f) {
    bool hold = true;
    for (int i = 0; i < f->model->condition_count; i++) {
        const TemplateCondition *c = &f->model->conditions[i];
        hold = hold && f->exponents[c->exponent] >= c->low && f->exponents[c->exponent] <= c->high;
    }
    return hold;
}

__extension__ typedef _Float16 Half;

static void fill_reals(const Value *param, const Tensor *tensor, int kind, unsigned char *to) {
    for (int64_t i = 0; i < shape_elements(param->shape); i++) {
        double real = ldexp((double)tensor->mantissa[i], tensor->exponent);
        float single = (float)real;
        Half half = (Half)real;
        if (kind == INTC_PATCH_F64)
            memcpy(to + 8 * i, &real, 8);
        else if (kind == INTC_PATCH_F32)
            memcpy(to + 4 * i, &single, 4);
        else
            memcpy(to + 2 * i, &half, 2);
    }
}

static void fill(const Filler *f, const TemplatePatch *patch, unsigned char *to) {
    if (patch->param == NULL) {
        int e = f->exponents[patch->exponent];
        float single = ldexpf(1.0f, (int)intc_saturate(e, -126, 127));
        double wide = patch->kind == INTC_PATCH_NUMBER_F64 ? e : ldexp(1.0, (int)intc_saturate(e, -900, 900));
        memcpy(to, patch->kind == INTC_PATCH_SCALE_F32 ? (void *)&single : (void *)&wide, (size_t)patch->size);
        return;
    }
    const Value *param = named(f->eval->graph, patch->param);
    const Tensor *tensor = &f->eval->tensors[param->id];
    if (patch->kind <= INTC_PATCH_F64) {
        fill_reals(param, tensor, patch->kind, to);
        return;
    }
    int shift = patch->kind == INTC_PATCH_I8 ? mapping_shift(f, param, patch->bits)
                : patch->exponent >= 0       ? f->exponents[patch->exponent] - tensor->exponent
                                             : 0;
    for (int64_t i = 0; i < shape_elements(param->shape); i++) {
        int64_t m = intc_align(tensor->mantissa[i], shift);
        int32_t word = (int32_t)intc_saturate(m, INT32_MIN, INT32_MAX);
        if (patch->kind == INTC_PATCH_I8)
            to[i] = (unsigned char)m;
        else
            memcpy(to + 4 * i, &word, 4);
    }
}

/* --- files --- */

static void write_file(const char *name, const char *suffix, const void *bytes, size_t size) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s.%s", folder, name, suffix);
    FILE *out = fopen(path, "wb");
    if (out == NULL || fwrite(bytes, 1, size, out) != size || fclose(out) != 0)
        internal_error("cannot write %s", path);
}

static void write_model(const Subject *subject, const Eval *eval, const ModelTemplate *model, const char *form) {
    if (model->refusal != NULL) {
        printf("%s refused %s\n", subject->name, model->refusal);
        return;
    }
    Filler f = {.eval = eval, .model = model};
    f.exponents = arena_alloc(subject->graph->arena, (size_t)model->exponent_count + 1, sizeof *f.exponents);
    for (int i = 0; i < model->exponent_count; i++)
        f.exponents[i] = exponent_value(&f, &model->exponents[i]);
    unsigned char *bytes = arena_alloc(subject->graph->arena, (size_t)model->size, 1);
    memcpy(bytes, model->bytes, (size_t)model->size);
    for (int i = 0; i < model->patch_count; i++)
        fill(&f, &model->patches[i], bytes + model->patches[i].offset);
    char suffix[32];
    snprintf(suffix, sizeof suffix, "%s.onnx", form);
    write_file(subject->name, suffix, bytes, (size_t)model->size);
    printf("%s %s %d\n", subject->name, form, conditions_hold(&f));
}

static void write_real(const Subject *subject, const char *what, const char *name, const Value *value, const float *data) {
    char suffix[128];
    snprintf(suffix, sizeof suffix, "%s.%s.f32", what, name);
    for (char *c = suffix; *c != 0; c++)
        *c = (char)(*c == '/' ? '_' : *c);
    write_file(subject->name, suffix, data, (size_t)shape_elements(value->shape) * sizeof *data);
}

/* --- running a graph --- */

static int bits_of(const Value *value) {
    return intc_bit_length((uint64_t)value->bound - 1) + 1;
}

/* Batch k of an input: any floats. */
static void make_data(const Value *value, uint64_t seed, double stretch, double *real, float *single) {
    for (int64_t i = 0; i < shape_elements(value->shape); i++) {
        single[i] = (float)(stretch * ((double)random_below(&seed, 20001) - 10000.0) / 4000.0);
        real[i] = single[i];
    }
}

/* What the calibration computes from parameters alone, as states of the fixed graph. */
static void keep_folded(const Eval *from, Eval *to) {
    for (int i = 0; i < from->graph->update_count; i++) {
        const Value *state = from->graph->updates[i].state;
        const Value *same = named(to->graph, state->name);
        const Tensor *tensor = &from->tensors[from->graph->updates[i].next->id];
        memcpy(to->tensors[same->id].mantissa, tensor->mantissa, (size_t)shape_elements(state->shape) * sizeof *tensor->mantissa);
        to->tensors[same->id].exponent = tensor->exponent;
    }
}

static void calibrate(Graph *graph, Value *const *slots, int count, int *exponents, Eval *fixed) {
    Arena *arena = graph->arena;
    for (int i = 0; i < count; i++)
        exponents[i] = INTC_EXPONENT_ZERO;
    Eval *eval = eval_new(graph, EVAL_INTEGER);
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        if (value->kind != VALUE_INPUT || value->integer)
            continue;
        int64_t n = shape_elements(value->shape);
        double *real = arena_alloc(arena, (size_t)n, sizeof *real);
        float *single = arena_alloc(arena, (size_t)n, sizeof *single);
        make_data(value, (uint64_t)i, 1.0, real, single);
        eval->tensors[i].exponent = reals_to_mantissas(real, n, bits_of(value), eval->tensors[i].mantissa);
    }
    eval_nodes(eval);
    for (int i = 0; i < count; i++)
        exponents[i] = eval->tensors[slots[i]->id].exponent;
    keep_folded(eval, fixed);
    eval_free(eval);
}

static int64_t mapped(double real, int e, int bits) {
    double scaled = ldexp(real, -e), low = -ldexp(1.0, bits - 1), high = ldexp(1.0, bits - 1) - 1;
    scaled = nearbyint(scaled);
    return (int64_t)(scaled < low ? low : scaled > high ? high : scaled);
}

/* Indices, as floats like all data. */
static void infer_indices(const Subject *subject, const Value *value, int64_t *mantissa) {
    uint64_t state = 3;
    int64_t n = shape_elements(value->shape);
    float *single = arena_alloc(subject->graph->arena, (size_t)n, sizeof *single);
    for (int64_t j = 0; j < n; j++) {
        mantissa[j] = random_below(&state, value->bound + 1);
        single[j] = (float)mantissa[j];
    }
    write_real(subject, "input", value->name, value, single);
}

static void infer(const Subject *subject, Graph *fixed, Value *const *slots, int count, const int *exponents, Eval *eval) {
    for (int k = 0; k < count; k++)
        eval->tensors[named(fixed, arena_printf(fixed->arena, "calibrated.%d", k))->id].mantissa[0] = exponents[k];
    for (int i = 0; i < fixed->value_count; i++) {
        const Value *value = fixed->values[i];
        if (value->kind == VALUE_INPUT && value->integer)
            infer_indices(subject, value, eval->tensors[i].mantissa);
        if (value->kind != VALUE_INPUT || value->integer)
            continue;
        int64_t n = shape_elements(value->shape);
        double *real = arena_alloc(fixed->arena, (size_t)n, sizeof *real);
        float *single = arena_alloc(fixed->arena, (size_t)n, sizeof *single);
        make_data(value, (uint64_t)i + 1000, subject->stretch, real, single);
        int e = 0;
        for (int k = 0; k < count; k++)
            if (strcmp(slots[k]->name, value->name) == 0)
                e = exponents[k];
        for (int64_t j = 0; j < n; j++)
            eval->tensors[i].mantissa[j] = mapped(real[j], e, bits_of(value));
        eval->tensors[i].exponent = e;
        write_real(subject, "input", value->name, value, single);
    }
    eval_nodes(eval);
    for (int i = 0; i < fixed->output_count; i++) {
        const Value *value = fixed->outputs[i].value;
        int64_t n = shape_elements(value->shape);
        float *single = arena_alloc(fixed->arena, (size_t)n, sizeof *single);
        for (int64_t j = 0; j < n; j++)
            single[j] = ldexpf((float)eval->tensors[value->id].mantissa[j], eval->tensors[value->id].exponent);
        write_real(subject, "output", fixed->outputs[i].name, value, single);
    }
}

/* A second export has the same bytes. */
static void check_repeatable(const Graph *fixed, const ModelTemplate *models, int count) {
    ModelTemplate again[EXPORT_MODELS];
    int again_count = 0;
    onnx_export_int8(fixed, again, &again_count);
    bool same = again_count == count;
    for (int i = 0; same && i < count; i++)
        same = models[i].size == again[i].size &&
               (models[i].size == 0 || memcmp(models[i].bytes, again[i].bytes, (size_t)models[i].size) == 0);
    if (!same)
        internal_error("a second export differs");
}

static void run(const Subject *subject) {
    Diag *diag = diag_new(subject->name);
    Graph *fixed;
    Value **slots;
    int slot_count, count = 0;
    PassOptions options = {.bits = subject->bits};
    if (!pass_exponents(subject->graph, &options, diag) || !pass_calibrate(subject->graph, &fixed, &slots, &slot_count, diag) ||
        !pass_dce(fixed, diag) || !graph_verify(fixed, diag)) {
        diag_print(diag, stderr);
        exit(1);
    }
    int *exponents = arena_alloc(fixed->arena, (size_t)slot_count, sizeof *exponents);
    Eval *eval = eval_new(fixed, EVAL_INTEGER);
    calibrate(subject->graph, slots, slot_count, exponents, eval);
    infer(subject, fixed, slots, slot_count, exponents, eval);
    ModelTemplate models[EXPORT_MODELS];
    if (subject->file != NULL && !onnx_export_float(subject->file, fixed, models, &count, diag)) {
        diag_print(diag, stderr);
        exit(1);
    }
    int floats = count;
    onnx_export_int8(fixed, models, &count);
    check_repeatable(fixed, models + floats, count - floats);
    for (int i = 0; i < count; i++)
        write_model(subject, eval, &models[i], strcmp(models[i].format, "int8") != 0 ? models[i].format : i == floats ? "int8" : "exact");
    eval_free(eval);
    diag_free(diag);
}

/* --- subjects --- */

/* moved: what is predicted is a copy of the result, which is in 8 bits, while a result that is predicted itself has 16. */
static void run_case(const Case *test, bool params, bool moved) {
    Arena *arena = arena_new();
    Graph *graph = graph_new(arena, "graph");
    graph->stage = STAGE_LOWERED;
    Diag *diag = diag_new(test->name);
    uint64_t state = 5;
    Value *in[CASE_INPUTS];
    int count = case_inputs(graph, test, VALUE_INPUT, in, &state);
    bool real = count > 0 && !in[0]->integer;
    for (int i = 1; i < count && params; i++)
        in[i]->kind = in[i]->integer ? VALUE_CONST : VALUE_PARAM;
    Node *node = real && takes_statistics(test->op) ? case_node(graph, test, in, count)->def
                 : real                             ? graph_node(graph, diag, test->op, NULL, in, count, test->attrs, test->attr_count)
                                                    : NULL;
    if (node != NULL && !node->out[0]->integer && test->op != OP_rescale) {
        Value *out = node->out[0];
        if (moved) {
            const int64_t perm[MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};
            out = build(graph, OP_transpose, NULL, INPUTS(out), ATTRS(ATTR_L("perm", out->shape.rank, perm)));
        }
        graph_output(graph, "out", ROLE_PREDICTION, out);
        const char *name = arena_printf(arena, "%s_%s%s", test->name, params ? "params" : "inputs", moved ? "_moved" : "");
        run(&(Subject){.name = name, .graph = graph, .bits = 8, .stretch = 1.3});
    }
    diag_free(diag);
    arena_free(arena);
}

static void run_case_forms(const Case *test) {
    for (int i = 0; i < 4; i++)
        run_case(test, i % 2 != 0, i / 2 != 0);
}

typedef struct {
    Graph *graph;
    uint64_t state;
    int params;
} Net;

static Value *param(Net *net, Shape shape, double scale) {
    int64_t n = shape_elements(shape);
    Value *value = graph_value(net->graph, VALUE_PARAM, arena_printf(net->graph->arena, "w%d", net->params++), shape);
    double *real = arena_alloc(net->graph->arena, (size_t)n, sizeof *real);
    for (int64_t i = 0; i < n; i++)
        real[i] = scale * ((double)random_below(&net->state, 20001) - 10000.0) / 10000.0;
    value->real = real;
    return value;
}

static Value *activated(Net *net, Value *x) {
    switch (random_below(&net->state, 6)) {
    case 0:
        return build(net->graph, OP_clip, NULL, INPUTS(x), ATTRS(ATTR_R("min", 0), ATTR_R("max", 0.6)));
    case 1:
        return build(net->graph, OP_leaky_relu, NULL, INPUTS(x), ATTRS(ATTR_R("alpha", 0.1)));
    case 2:
        return x;
    case 3:
        return build(net->graph, OP_curve, NULL, INPUTS(x), ATTRS(ATTR_S("function", "tanh")));
    default:
        return build(net->graph, OP_relu, NULL, INPUTS(x), NO_ATTRS);
    }
}

static Value *conv(Net *net, Value *x, int64_t channels, int64_t group, bool bias) {
    int64_t inner = x->shape.dim[1] / group;
    Value *w = param(net, shape_of(4, (int64_t[]){channels, inner, 3, 3}), 1.0 / (double)(inner * 3));
    Value *y = build(net->graph, OP_conv, NULL, INPUTS(x, w),
                     ATTRS(L("strides", 1, 1), L("pads", 1, 1, 1, 1), L("dilations", 1, 1), ATTR_I("group", group)));
    return bias ? build(net->graph, OP_bias, NULL, INPUTS(y, param(net, shape_of(1, &channels), 0.3)), ATTRS(ATTR_I("axis", 1))) : y;
}

static Value *dense(Net *net, Value *x, int64_t outputs, bool transposed, double bias) {
    int64_t inputs = x->shape.dim[1];
    Value *w = param(net, shape_of(2, transposed ? (int64_t[]){outputs, inputs} : (int64_t[]){inputs, outputs}), 0.2);
    Value *y = build(net->graph, OP_matmul, NULL, INPUTS(x, w), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", transposed)));
    return bias != 0 ? build(net->graph, OP_bias, NULL, INPUTS(y, param(net, shape_of(1, &outputs), bias)), ATTRS(ATTR_I("axis", 1))) : y;
}

/* Normalised input, (x - mean) / deviation: 31-bit constants and products of more than 53 bits. */
static void run_normalised(double scale) {
    Arena *arena = arena_new();
    Net net = {.graph = graph_new(arena, "net"), .state = 9};
    net.graph->stage = STAGE_LOWERED;
    Value *x = graph_value(net.graph, VALUE_INPUT, "image", shape_of(2, (int64_t[]){40, 50}));
    double *mean = arena_alloc(arena, 1, sizeof *mean);
    *mean = 0.1307;
    Value *y = build(net.graph, OP_sub, NULL, INPUTS(x, graph_const(net.graph, "mean", shape_of(0, NULL), mean)), NO_ATTRS);
    y = build(net.graph, OP_mul_const, NULL, INPUTS(y), ATTRS(ATTR_R("value", scale)));
    graph_output(net.graph, "out", ROLE_PREDICTION, dense(&net, y, 20, true, 0.5));
    run(&(Subject){.name = scale > 0 ? "normalised" : "normalised_negative", .graph = net.graph, .bits = 8, .stretch = 1.1});
    arena_free(arena);
}

/* Words by number, embedded, normalised and mapped, as a language model has them. */
static void run_embedding(bool centered) {
    Arena *arena = arena_new();
    Net net = {.graph = graph_new(arena, "net"), .state = 11};
    net.graph->stage = STAGE_LOWERED;
    Value *words = graph_integer(net.graph, VALUE_INPUT, "words", shape_of(2, (int64_t[]){3, 5}), T_I32, 19);
    Value *table = param(&net, shape_of(2, (int64_t[]){20, 16}), 1.0), *stats[3];
    Value *y = build(net.graph, OP_gather, NULL, INPUTS(table, words), ATTRS(ATTR_I("axis", 0)));
    statistics(net.graph, y, shape_of(3, (int64_t[]){3, 5, 1}), centered, stats);
    y = build(net.graph, OP_normalize, NULL, INPUTS(y, stats[0], stats[1], param(&net, shape_of(1, (int64_t[]){16}), 0.9)),
              ATTRS(ATTR_I("centered", centered)));
    y = build(net.graph, OP_bias, NULL, INPUTS(y, param(&net, shape_of(1, (int64_t[]){16}), 0.3)), ATTRS(ATTR_I("axis", 2)));
    y = build(net.graph, OP_matmul, NULL, INPUTS(y, param(&net, shape_of(2, (int64_t[]){16, 10}), 0.5)),
              ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 0)));
    graph_output(net.graph, "out", ROLE_PREDICTION, y);
    run(&(Subject){.name = centered ? "embedding" : "embedding_rms", .graph = net.graph, .bits = 8, .stretch = 1});
    arena_free(arena);
}

/* Elements at places that are data, joined with known ones; some lie outside. */
static void run_places(void) {
    Arena *arena = arena_new();
    Net net = {.graph = graph_new(arena, "net"), .state = 13};
    net.graph->stage = STAGE_LOWERED;
    Value *x = graph_value(net.graph, VALUE_INPUT, "image", shape_of(3, (int64_t[]){3, 4, 5}));
    Value *known = integer_const(net.graph, "known", shape_of(3, (int64_t[]){3, 2, 2}), 4, &net.state);
    Value *index = graph_integer(net.graph, VALUE_INPUT, "index", shape_of(3, (int64_t[]){3, 6, 2}), T_I32, 5);
    index = build(net.graph, OP_concat, NULL, INPUTS(index, known), ATTRS(ATTR_I("axis", 1)));
    index = build(net.graph, OP_places, NULL, INPUTS(index), ATTRS(L("sizes", 4, 5), L("strides", 5, 1), L("steps", 20, 0)));
    x = build(net.graph, OP_reshape, NULL, INPUTS(x), ATTRS(L("shape", 60)));
    x = build(net.graph, OP_gather, NULL, INPUTS(x, index), ATTRS(ATTR_I("axis", 0)));
    graph_output(net.graph, "out", ROLE_PREDICTION, dense(&net, x, 10, true, 0.5));
    run(&(Subject){.name = "places", .graph = net.graph, .bits = 8, .stretch = 1.1});
    arena_free(arena);
}

/* A small network: convolutions, a residual sum, pools, dense layers, and one of four ends. */
static void run_net(int number) {
    Arena *arena = arena_new();
    Net net = {.graph = graph_new(arena, "net"), .state = (uint64_t)number * 77 + 1};
    net.graph->stage = STAGE_LOWERED;
    Value *x = graph_value(net.graph, VALUE_INPUT, "image", shape_of(4, (int64_t[]){3, 4, 9, 9}));
    Value *y = activated(&net, conv(&net, x, 8, 1 + number % 2, number % 3 != 0));
    Value *z = activated(&net, conv(&net, y, 8, 1, true));
    y = build(net.graph, number % 2 ? OP_add : OP_sub, NULL, INPUTS(y, z), NO_ATTRS);
    y = activated(&net, y);
    const Attr window[] = {L("kernel", 3, 3), L("strides", 2, 2), L("pads", 1, 1, 1, 1), L("dilations", 1, 1)};
    if (number % 2 == 0)
        y = build(net.graph, OP_maxpool, NULL, INPUTS(y), window, 4);
    else
        y = build(net.graph, OP_mul_const, NULL, INPUTS(build(net.graph, OP_sumpool, NULL, INPUTS(y), window, 4)),
                  ATTRS(ATTR_R("value", 1.0 / 9)));
    y = build(net.graph, OP_reshape, NULL, INPUTS(y), ATTRS(L("shape", 3, 200)));
    y = activated(&net, dense(&net, y, 30, number % 2, number % 7 == 3 ? 1e6 : 0.5));
    y = dense(&net, y, 10, !(number % 2), number % 5 == 0 ? 0 : 0.5);
    const Op ends[] = {OP_NONE, OP_softmax, OP_log_softmax, OP_curve};
    Op end = ends[number % 4];
    if (end != OP_NONE)
        y = build(net.graph, end, NULL, INPUTS(y), end == OP_curve ? &ATTR_S("function", "sigmoid") : &ATTR_I("axis", 1), 1);
    graph_output(net.graph, "out", ROLE_PREDICTION, y);
    run(&(Subject){.name = arena_printf(arena, "net%d", number), .graph = net.graph, .bits = number % 3 == 1 ? 6 : 8, .stretch = 1.2});
    arena_free(arena);
}

static void run_file(const char *path) {
    Arena *arena = arena_new();
    Diag *diag = diag_new(path);
    Graph *train = NULL, *infer;
    ImportOptions options = {.batch = 2};
    const char *base = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    const OnnxFile *file = onnx_read(arena, path, diag);
    if (file == NULL || !onnx_import(file, &options, &train, &infer, diag))
        printf("%s refused by the importer\n", base);
    else
        run(&(Subject){.name = base, .graph = infer, .bits = 8, .stretch = 1.2, .file = file});
    diag_free(diag);
    arena_free(arena);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    folder = argv[1];
    for (int i = 2; i < argc; i++)
        run_file(argv[i]);
    if (argc == 2) {
        for_each_case(run_case_forms);
        for (int i = 0; i < 24; i++)
            run_net(i);
        run_normalised(1 / 0.3081);
        run_normalised(-0.9713);
        run_embedding(true);
        run_embedding(false);
        run_places();
    }
    return 0;
}
