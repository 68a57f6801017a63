/* intc: the compiler's command line. Options, the pass list, nothing else.
 * Before: a command line. After: the output file and status 0, or diagnostics on standard error, no output file and status 1. */
#include "codegen/codegen.h"
#include "frontend/frontend.h"
#include "ir/ir.h"
#include "ir/template.h"
#include "passes/passes.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define VERSION "0.1.0"

typedef enum {
#define PASS(name, text) PASS_##name,
#include "passes/passes.def"
#undef PASS
    PASS_COUNT
} Pass;

static const struct {
    const char *name, *text;
} passes[PASS_COUNT] = {
#define PASS(pass, does) [PASS_##pass] = {#pass, does},
#include "passes/passes.def"
#undef PASS
};

enum { MAX_DIMS = 32 };

typedef struct {
    const char *input, *output, *emit, *dump_after, *stop_after;
    bool time_passes, check, real; /* real: --arith=float32 */
    ImportOptions import;
    DimBinding dims[MAX_DIMS];
    PassOptions pass;
    TargetOptions target;
    char *summary; /* what the trainer's info prints */
} Options;

/* What travels from pass to pass. */
enum { TRAIN, INFER, CALIBRATE, GRAPHS };
typedef struct {
    const Options *options;
    Arena *arena;
    Diag *diag;
    const OnnxFile *file;
    Graph *graph[GRAPHS]; /* CALIBRATE is made by the pass of that name */
    CalibrationSlot *slots;
    int slot_count;
    ModelTemplate models[EXPORT_MODELS];
    int model_count;
    Plan plan;
} Compilation;

static char *read_text(Compilation *c) {
    char *text = NULL;
    FILE *in = fopen(c->options->input, "r");
    long size = in != NULL && fseek(in, 0, SEEK_END) == 0 ? ftell(in) : -1;
    if (size >= 0) {
        rewind(in);
        text = arena_alloc(c->arena, (size_t)size + 1, 1);
        if (fread(text, 1, (size_t)size, in) != (size_t)size)
            text = NULL;
    }
    if (text == NULL)
        diag_error(c->diag, NULL, "cannot be read: %s", strerror(errno));
    if (in != NULL)
        fclose(in);
    return text;
}

/* A text that --stop-after wrote: the graphs `train` and `infer`, the first one possibly with its gradient and update. */
static bool read_graphs(Compilation *c) {
    const char *text = read_text(c);
    int count = 0;
    Graph **graphs = text != NULL ? graph_parse(c->arena, text, c->diag, &count) : NULL;
    if (graphs == NULL)
        return false;
    for (int i = 0; i < count; i++)
        c->graph[strcmp(graphs[i]->name, "train") == 0 ? TRAIN : INFER] = graphs[i];
    bool fits = count == 2 && c->graph[TRAIN] != NULL && c->graph[INFER] != NULL && c->graph[TRAIN]->stage <= STAGE_UPDATED &&
                c->graph[INFER]->stage == STAGE_LOWERED;
    if (!fits)
        diag_error(c->diag, NULL, "expected the graphs train and infer of a stage up to 'updated', as --stop-after writes them");
    return fits;
}

static bool is_text(const char *path) {
    size_t length = strlen(path);
    return length > 3 && strcmp(path + length - 3, ".ir") == 0;
}

static bool run_import(Compilation *c) {
    if (is_text(c->options->input))
        return read_graphs(c);
    c->file = onnx_read(c->arena, c->options->input, c->diag);
    return c->file != NULL && onnx_import(c->file, &c->options->import, &c->graph[TRAIN], &c->graph[INFER], c->diag);
}

static bool run_select(Compilation *c) {
    if (c->graph[TRAIN]->stage > STAGE_LOWERED)
        return true;
    return pass_select(c->graph[TRAIN], &c->options->pass, c->diag) && pass_select(c->graph[INFER], &c->options->pass, c->diag);
}

static bool each(Compilation *c, bool (*pass)(Graph *, Diag *)) {
    for (int i = 0; i < GRAPHS; i++)
        if (c->graph[i] != NULL && !pass(c->graph[i], c->diag))
            return false;
    return true;
}

static bool run_fold(Compilation *c) {
    return each(c, pass_fold);
}

static bool run_dce(Compilation *c) {
    return each(c, pass_dce);
}

static bool run_backward(Compilation *c) {
    return c->graph[TRAIN]->stage >= STAGE_TRAINED || pass_backward(c->graph[TRAIN], c->diag);
}

static bool run_sgd(Compilation *c) {
    return c->graph[TRAIN]->stage >= STAGE_UPDATED || pass_sgd(c->graph[TRAIN], c->diag);
}

static bool run_lines(Compilation *c) {
    return c->options->real || pass_lines(c->graph[TRAIN], c->diag);
}

static bool run_simplify(Compilation *c) {
    return each(c, pass_fold) && each(c, pass_dce);
}

static bool run_exponents(Compilation *c) {
    return c->options->real ||
           (pass_exponents(c->graph[TRAIN], &c->options->pass, c->diag) && pass_exponents(c->graph[INFER], &c->options->pass, c->diag));
}

/* What the loss computes, whether a model or a text names it. */
static const char *loss_name(const Graph *graph) {
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_LOSS)
            return graph->outputs[i].name;
    return "none";
}

/* The state of the inference graph that holds the i-th calibrated exponent. */
static const Value *slot_value(const Graph *graph, int i) {
    char name[32];
    snprintf(name, sizeof name, "calibrated.%d", i);
    for (int k = 0; k < graph->value_count; k++)
        if (graph->values[k]->kind == VALUE_STATE && strcmp(graph->values[k]->name, name) == 0)
            return graph->values[k];
    internal_error("no state %s", name);
}

static bool run_calibrate(Compilation *c) {
    if (c->options->real)
        return true;
    c->graph[CALIBRATE] = c->graph[INFER];
    Value **collected;
    if (!pass_calibrate(c->graph[CALIBRATE], &c->graph[INFER], &collected, &c->slot_count, c->diag))
        return false;
    c->slots = arena_alloc(c->arena, (size_t)c->slot_count, sizeof *c->slots);
    for (int i = 0; i < c->slot_count; i++)
        c->slots[i] = (CalibrationSlot){.value = collected[i], .slot = slot_value(c->graph[INFER], i)};
    return true;
}

static bool run_sweep(Compilation *c) {
    return each(c, pass_dce);
}

static void refuse_int8(Compilation *c) {
    static const char *const formats[] = {"int8", "qdq"};
    for (int i = 0; i < 2; i++)
        c->models[c->model_count++] = (ModelTemplate){
            .format = formats[i], .refusal = "a trainer of --arith=float32 has no integers to export; compile with --arith=int"};
}

static bool run_export(Compilation *c) {
    if (c->file == NULL) /* a text holds no model to export */
        return true;
    if (!onnx_export_float(c->file, c->graph[INFER], c->models, &c->model_count, c->diag))
        return false;
    if (c->options->real)
        refuse_int8(c);
    else
        onnx_export_int8(c->graph[INFER], c->models, &c->model_count);
    return true;
}

static bool run_layout(Compilation *c) {
    return each(c, pass_layout);
}

static bool run_fuse(Compilation *c) {
    int64_t products = codegen_near_products(&c->options->target);
    bool done = true;
    for (int i = 0; i < GRAPHS && done; i++)
        done = c->graph[i] == NULL || pass_fuse(c->graph[i], products, c->diag);
    return done;
}

static bool run_memplan(Compilation *c) {
    return pass_memplan(c->graph, c->graph[CALIBRATE] != NULL ? GRAPHS : CALIBRATE, &c->plan, c->diag);
}

static bool (*const run[PASS_COUNT])(Compilation *) = {
#define PASS(name, text) [PASS_##name] = run_##name,
#include "passes/passes.def"
#undef PASS
};

static bool verify(const Compilation *c) {
    for (int i = 0; i < GRAPHS; i++)
        if (c->graph[i] != NULL && !graph_verify(c->graph[i], c->diag))
            return false;
    return true;
}

static void print_graphs(const Compilation *c, FILE *out) {
    for (int i = 0; i < GRAPHS; i++)
        if (c->graph[i] != NULL)
            graph_print(c->graph[i], out);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Runs the pass list as far as --stop-after says; the verifier runs after every pass. */
static bool run_passes(Compilation *c) {
    const Options *o = c->options;
    for (int i = 0; i < PASS_COUNT; i++) {
        double start = seconds();
        if (!run[i](c) || !verify(c))
            return false;
        if (o->time_passes)
            fprintf(stderr, "%-10s %8.3f ms\n", passes[i].name, 1e3 * (seconds() - start));
        if (o->dump_after != NULL && (strcmp(o->dump_after, "all") == 0 || strcmp(o->dump_after, passes[i].name) == 0)) {
            fprintf(stderr, "; after %s\n", passes[i].name);
            print_graphs(c, stderr);
        }
        if (o->stop_after != NULL && strcmp(o->stop_after, passes[i].name) == 0)
            break;
    }
    return true;
}

static bool write_ir(const Compilation *c) {
    char *temporary = arena_printf(c->arena, "%s.part", c->options->output);
    FILE *out = fopen(temporary, "w");
    if (out != NULL) {
        print_graphs(c, out);
        bool written = fflush(out) == 0;
        written &= fclose(out) == 0;
        if (written && rename(temporary, c->options->output) == 0)
            return true;
    }
    diag_error(c->diag, NULL, "cannot write %s: %s", c->options->output, strerror(errno));
    unlink(temporary);
    return false;
}

static bool write_module(const Compilation *c, EmitKind kind) {
    const char *name = strrchr(c->options->input, '/');
    ModuleSource source = {.step = c->graph[TRAIN],
                           .calibrate = c->graph[CALIBRATE],
                           .infer = c->graph[INFER],
                           .slots = c->slots,
                           .slot_count = c->slot_count,
                           .models = c->models,
                           .model_count = c->model_count,
                           .name = name != NULL ? name + 1 : c->options->input,
                           .options = c->options->summary,
                           .loss = loss_name(c->graph[TRAIN]),
                           .state_size = c->plan.state_size,
                           .constants_size = c->plan.constants_size,
                           .arena_size = c->plan.arena_size,
                           .random_offset = c->plan.random_offset};
    return codegen_emit(&source, &c->options->target, kind, c->options->output, c->diag);
}

static bool compile(Compilation *c) {
    const Options *o = c->options;
    if (!run_passes(c))
        return false;
    if (o->stop_after != NULL || strcmp(o->emit, "ir") == 0)
        return write_ir(c);
    double start = seconds();
    bool done = write_module(c, codegen_kind(o->emit));
    if (o->time_passes)
        fprintf(stderr, "%-10s %8.3f ms\n", "codegen", 1e3 * (seconds() - start));
    return done;
}

static bool check(const Compilation *c) {
    const OnnxFile *file = onnx_read(c->arena, c->options->input, c->diag);
    return file != NULL && onnx_check(file, &c->options->import, c->diag);
}

static void print_help(void) {
    puts("usage: intc [options] model.onnx -o trainer      (or graphs.ir, as --stop-after writes them)\n"
         "       intc check [options] model.onnx\n"
         "\n"
         "  -o FILE                 output\n"
         "  --emit=KIND             exe (default), obj, asm, llvm, ir\n"
         "  --batch=N               bind or rebind the batch dimension\n"
         "  --dim NAME=N            bind a symbolic dimension\n"
         "  --loss=LOSS             auto (default), cross-entropy, mse\n"
         "  --output=NAME           the output that the loss reads\n"
         "  --batchnorm=MODE        train (default): statistics of the batch; frozen: the running ones\n"
         "  --train=GLOB[,GLOB]     parameters that learn\n"
         "  --freeze=GLOB[,GLOB]    parameters that do not\n"
         "  --arith=ARITH           int (default); float32: the same trainer in float32, to compare with\n"
         "  --bits=4..8             mantissa bits of matrix and convolution operands\n"
         "  --target=TRIPLE --cpu=CPU --features=LIST --cc=PROGRAM\n"
         "  -O0 .. -O3              optimisation of the generated code (default -O2)\n"
         "  --dump-after=PASS|all   print the graphs after a pass\n"
         "  --stop-after=PASS       write the graphs after a pass as text\n"
         "  --time-passes --list-passes --list-ops --help --version");
}

static void list_passes(void) {
    for (int i = 0; i < PASS_COUNT; i++)
        printf("%-10s %s\n", passes[i].name, passes[i].text);
}

static int usage(const char *format, const char *argument) {
    fputs("intc: error: ", stderr);
    fprintf(stderr, format, argument);
    fputs("; intc --help lists the options\n", stderr);
    return 1;
}

static bool known_pass(const char *name) {
    for (int i = 0; i < PASS_COUNT; i++)
        if (strcmp(passes[i].name, name) == 0)
            return true;
    return false;
}

/* A whole decimal number in [least, most]. */
static bool number(const char *text, int64_t least, int64_t most, int64_t *value) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    *value = v;
    return errno == 0 && end != text && *end == '\0' && v >= least && v <= most;
}

enum {
    O_EMIT = 256,
    O_BATCH,
    O_DIM,
    O_LOSS,
    O_OUTPUT,
    O_TRAIN,
    O_BATCHNORM,
    O_FREEZE,
    O_ARITH,
    O_BITS,
    O_TARGET,
    O_CPU,
    O_FEATURES,
    O_CC,
    O_DUMP,
    O_STOP,
    O_TIME,
    O_LIST_PASSES,
    O_LIST_OPS,
    O_HELP,
    O_VERSION
};

static const struct option long_options[] = {
    {"emit", required_argument, NULL, O_EMIT},         {"batch", required_argument, NULL, O_BATCH},
    {"dim", required_argument, NULL, O_DIM},           {"loss", required_argument, NULL, O_LOSS},
    {"output", required_argument, NULL, O_OUTPUT},     {"batchnorm", required_argument, NULL, O_BATCHNORM},
    {"train", required_argument, NULL, O_TRAIN},       {"freeze", required_argument, NULL, O_FREEZE},
    {"arith", required_argument, NULL, O_ARITH},       {"bits", required_argument, NULL, O_BITS},
    {"target", required_argument, NULL, O_TARGET},     {"cpu", required_argument, NULL, O_CPU},
    {"features", required_argument, NULL, O_FEATURES}, {"cc", required_argument, NULL, O_CC},
    {"dump-after", required_argument, NULL, O_DUMP},   {"stop-after", required_argument, NULL, O_STOP},
    {"time-passes", no_argument, NULL, O_TIME},        {"list-passes", no_argument, NULL, O_LIST_PASSES},
    {"list-ops", no_argument, NULL, O_LIST_OPS},       {"help", no_argument, NULL, O_HELP},
    {"version", no_argument, NULL, O_VERSION},         {0},
};

/* Takes one option; -1: go on, else the exit status. */
static int take_option(Options *o, Arena *arena, int option) {
    int64_t n;
    switch (option) {
    case 'o':
        o->output = optarg;
        return -1;
    case 'O':
        if (!number(optarg, 0, 3, &n))
            return usage("-O%s: expected -O0 to -O3", optarg);
        o->target.opt_level = (int)n;
        return -1;
    case O_EMIT:
        if (strcmp(optarg, "ir") != 0 && codegen_kind(optarg) == EMIT_KINDS)
            return usage("--emit=%s: expected exe, obj, asm, llvm or ir", optarg);
        o->emit = optarg;
        return -1;
    case O_BATCH:
        if (!number(optarg, 1, 1 << 24, &o->import.batch))
            return usage("--batch=%s: expected a positive number", optarg);
        return -1;
    case O_DIM: {
        char *equals = strchr(optarg, '=');
        if (equals == NULL || equals == optarg || !number(equals + 1, 1, (int64_t)1 << 31, &n))
            return usage("--dim %s: expected NAME=N", optarg);
        if (o->import.dim_count == MAX_DIMS)
            return usage("--dim %s: too many dimensions", optarg);
        *equals = '\0';
        o->dims[o->import.dim_count++] = (DimBinding){.name = arena_strdup(arena, optarg), .size = n};
        *equals = '=';
        return -1;
    }
    case O_LOSS:
        if (strcmp(optarg, "auto") != 0 && strcmp(optarg, "cross-entropy") != 0 && strcmp(optarg, "mse") != 0)
            return usage("--loss=%s: expected auto, cross-entropy or mse", optarg);
        o->import.loss = optarg;
        return -1;
    case O_OUTPUT:
        o->import.output = optarg;
        return -1;
    case O_BATCHNORM:
        if (strcmp(optarg, "train") != 0 && strcmp(optarg, "frozen") != 0)
            return usage("--batchnorm=%s: expected train or frozen", optarg);
        o->import.frozen_batchnorm = strcmp(optarg, "frozen") == 0;
        return -1;
    case O_TRAIN:
        o->pass.train = optarg;
        return -1;
    case O_FREEZE:
        o->pass.freeze = optarg;
        return -1;
    case O_ARITH:
        if (strcmp(optarg, "int") != 0 && strcmp(optarg, "float32") != 0)
            return usage("--arith=%s: expected int or float32", optarg);
        o->real = strcmp(optarg, "float32") == 0;
        return -1;
    case O_BITS:
        if (!number(optarg, 4, 8, &n))
            return usage("--bits=%s: expected 4 to 8", optarg);
        o->pass.bits = (int)n;
        return -1;
    case O_TARGET:
        o->target.triple = optarg;
        return -1;
    case O_CPU:
        o->target.cpu = optarg;
        return -1;
    case O_FEATURES:
        o->target.features = optarg;
        return -1;
    case O_CC:
        o->target.cc = optarg;
        return -1;
    case O_DUMP:
    case O_STOP:
        if (!known_pass(optarg) && !(option == O_DUMP && strcmp(optarg, "all") == 0))
            return usage("no pass is called '%s' (intc --list-passes)", optarg);
        *(option == O_DUMP ? &o->dump_after : &o->stop_after) = optarg;
        return -1;
    case O_TIME:
        o->time_passes = true;
        return -1;
    case O_LIST_PASSES:
        list_passes();
        return 0;
    case O_LIST_OPS:
        onnx_list_ops(stdout);
        return 0;
    case O_HELP:
        print_help();
        return 0;
    case O_VERSION:
        puts("intc " VERSION);
        return 0;
    case ':':
        return usage("%s needs an argument", optarg != NULL ? optarg : "the last option");
    default:
        return usage("unknown option %s", optarg != NULL ? optarg : "on the command line");
    }
}

/* The options that shape the trainer, as its `info` prints them. */
static char *summary(Arena *arena, const Options *o) {
    char *text = arena_printf(arena, "--loss=%s", o->import.loss);
    text = o->real ? arena_printf(arena, "%s --arith=float32", text) : arena_printf(arena, "%s --bits=%d", text, o->pass.bits);
    if (o->import.batch > 0)
        text = arena_printf(arena, "%s --batch=%lld", text, (long long)o->import.batch);
    for (int i = 0; i < o->import.dim_count; i++)
        text = arena_printf(arena, "%s --dim %s=%lld", text, o->dims[i].name, (long long)o->dims[i].size);
    if (o->import.frozen_batchnorm)
        text = arena_printf(arena, "%s --batchnorm=frozen", text);
    if (o->pass.train != NULL)
        text = arena_printf(arena, "%s --train=%s", text, o->pass.train);
    if (o->pass.freeze != NULL)
        text = arena_printf(arena, "%s --freeze=%s", text, o->pass.freeze);
    return text;
}

/* -1: go on, else the exit status. */
static int parse_options(int argc, char **argv, Options *o, Arena *arena) {
    opterr = 0;
    for (;;) {
        int before = optind, option = getopt_long(argc, argv, ":o:O:", long_options, NULL);
        if (option == -1)
            break;
        if (option == '?' || option == ':')
            optarg = argv[before < argc ? before : argc - 1];
        int status = take_option(o, arena, option);
        if (status >= 0)
            return status;
    }
    if (optind < argc && strcmp(argv[optind], "check") == 0) {
        o->check = true;
        optind++;
    }
    if (optind == argc)
        return usage("%s", "no model given");
    if (optind + 1 < argc)
        return usage("one model at a time, found also '%s'", argv[optind + 1]);
    o->input = argv[optind];
    if (!o->check && o->output == NULL)
        return usage("%s", "-o FILE is required");
    if (o->real && o->pass.bits != 0)
        return usage("%s", "--bits belongs to --arith=int: float32 has no mantissas to shorten");
    if (o->pass.bits == 0)
        o->pass.bits = 8;
    o->import.dims = o->dims;
    o->import.training = true;
    o->summary = summary(arena, o);
    return -1;
}

int main(int argc, char **argv) {
    Arena *arena = arena_new();
    Options options = {.emit = "exe", .import.loss = "auto", .target.opt_level = 2};
    int status = parse_options(argc, argv, &options, arena);
    if (status < 0) {
        Diag *diag = diag_new(options.input);
        Compilation c = {.options = &options, .arena = arena, .diag = diag};
        bool done = options.check ? check(&c) : compile(&c);
        diag_print(diag, stderr);
        status = done && diag_errors(diag) == 0 ? 0 : 1;
        diag_free(diag);
    }
    arena_free(arena);
    return status;
}
