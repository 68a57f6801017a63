/* See contract_jit.h: a Codegen without a compiler around it, and LLVM's JIT. */
#include "contract_jit.h"

#include "codegen/contract.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/LLJIT.h>
#include <llvm-c/Target.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <stdlib.h>
#include <string.h>

enum { JIT_DOTS = 1 << 16 };

static int ranges = 1;

void jit_ranges(int count) {
    ranges = count;
}

static void run_ranges(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image) {
    (void)pool, (void)image;
    int64_t parts = call->threads > 1 ? ranges : 1;
    for (int64_t i = parts - 1; i >= 0; i--)
        intc_call_run(call, arena, call->tiles * i / parts, call->tiles * (i + 1) / parts, i % call->threads);
}

static void check(LLVMErrorRef error) {
    if (error != NULL)
        internal_error("JIT: %s", LLVMGetErrorMessage(error));
}

bool jit_runs(const char *name) {
    char *features = LLVMGetHostCPUFeatures();
    const char *needed = strcmp(name, "x86-64-v3") == 0   ? "+avx2"
                         : strcmp(name, "x86-64-v4") == 0 ? "+avx512bw"
                         : strncmp(name, "vnni", 4) == 0  ? "+avx512vnni"
                                                          : "";
    bool runs = strstr(features, needed) != NULL;
    LLVMDisposeMessage(features);
    return runs;
}

/* The machine that generates code, and the features that the emitters see. */
/* Takes LLVM's text into the arena. */
static char *taken(Codegen *cg, char *message) {
    char *text = arena_strdup(cg->memory, message);
    LLVMDisposeMessage(message);
    return text;
}

static LLVMTargetMachineRef machine_for(const char *name, Codegen *cg) {
    LLVMInitializeNativeTarget();
    LLVMInitializeNativeAsmPrinter();
    char *message = NULL, *host_features = taken(cg, LLVMGetHostCPUFeatures());
    if (strstr(host_features, "+amx-int8") != NULL && !intc_rt_matrix_registers())
        host_features = arena_printf(cg->memory, "%s,-amx-int8", host_features);
    LLVMTargetRef target;
    cg->triple = taken(cg, LLVMGetDefaultTargetTriple());
    if (LLVMGetTargetFromTriple(cg->triple, &target, &message))
        internal_error("%s", message);
    bool named = strncmp(name, "x86-64", 6) == 0;
    cg->cpu = named ? arena_strdup(cg->memory, name) : taken(cg, LLVMGetHostCPUName());
    cg->features = strcmp(name, "x86-64") == 0      ? ""
                   : strcmp(name, "x86-64-v3") == 0 ? "+avx2"
                   : strcmp(name, "x86-64-v4") == 0 ? "+avx2,+avx512bw,+avx512vl"
                   : strcmp(name, "vnni256") == 0   ? "+avx2,+avxvnni"
                   : strcmp(name, "vnni512") == 0   ? "+avx2,+avx512bw,+avx512vl,+avx512vnni"
                                                    : host_features;
    LLVMTargetMachineRef machine = LLVMCreateTargetMachine(target, cg->triple, cg->cpu, named ? "" : host_features, LLVMCodeGenLevelDefault,
                                                           LLVMRelocPIC, LLVMCodeModelDefault);
    if (strcmp(name, "portable") == 0)
        cg->triple = "portable";
    return machine;
}

static void types(Codegen *cg) {
    cg->i1 = LLVMInt1TypeInContext(cg->context);
    cg->i8 = LLVMInt8TypeInContext(cg->context);
    cg->i16 = LLVMInt16TypeInContext(cg->context);
    cg->i32 = LLVMInt32TypeInContext(cg->context);
    cg->i64 = LLVMInt64TypeInContext(cg->context);
    cg->i128 = LLVMIntTypeInContext(cg->context, 128);
    cg->ptr = LLVMPointerTypeInContext(cg->context, 0);
    cg->none = LLVMVoidTypeInContext(cg->context);
}

static void emit(Codegen *cg, const Node *node) {
    entry_begin(cg, "entry");
    switch (node->op) {
    case OP_matmul:
        emit_matmul(cg, node);
        break;
    case OP_conv:
        emit_conv(cg, node);
        break;
    case OP_conv_dgrad:
        emit_conv_dgrad(cg, node);
        break;
    case OP_conv_wgrad:
        emit_conv_wgrad(cg, node);
        break;
    default:
        internal_error("no contraction");
    }
    entry_end(cg);
    share_close(cg);
    entry_close(cg);
    char *message = NULL;
    if (LLVMVerifyModule(cg->module, LLVMReturnStatusAction, &message))
        internal_error("module: %s", message);
    LLVMDisposeMessage(message);
}

/* The same value, of which LLVM knows nothing any more. */
static LLVMValueRef opaque(Codegen *cg, LLVMValueRef x) {
    LLVMTypeRef vector = LLVMTypeOf(x), type = LLVMFunctionType(vector, &vector, 1, false);
#ifdef __aarch64__
    static const char same[] = "=w,0";
#else
    static const char same[] = "=v,0";
#endif
    LLVMValueRef code = LLVMGetInlineAsm(type, "", 0, same, sizeof same - 1, true, false, LLVMInlineAsmDialectATT, false);
    return LLVMBuildCall2(cg->builder, type, code, &x, 1, "");
}

/* The same of matrix registers: four of sums, two of rows and two of columns, all full. */
static double emit_matrix_dots(Codegen *cg) {
    enum { SUMS = 4, REGISTERS = 8, ROWS = 16, PRODUCTS = 16 * 16 * 64 };
    uint8_t shape[64] = {1};
    for (int i = 0; i < REGISTERS; i++) {
        shape[16 + 2 * i] = 64;
        shape[48 + i] = ROWS;
    }
    LLVMValueRef number[REGISTERS], table = const_bytes(cg, shape, sizeof shape);
    for (int i = 0; i < REGISTERS; i++)
        number[i] = LLVMConstInt(cg->i8, (unsigned)i, false);
    intrinsic(cg, "llvm.x86.ldtilecfg", NULL, 0, &table, 1);
    for (int i = 0; i < REGISTERS; i++)
        intrinsic(cg, "llvm.x86.tilezero", NULL, 0, &number[i], 1);
    Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, JIT_DOTS));
    for (int i = 0; i < SUMS; i++)
        intrinsic(cg, "llvm.x86.tdpbssd", NULL, 0, (LLVMValueRef[]){number[i], number[SUMS + i / 2], number[SUMS + 2 + i % 2]}, 3);
    loop_end(cg, &loop);
    intrinsic(cg, "llvm.x86.tilerelease", NULL, 0, NULL, 0);
    LLVMBuildRetVoid(cg->builder);
    cg->matrix_registers = true;
    return (double)JIT_DOTS * SUMS * PRODUCTS;
}

/* Dots of operands that stay in registers, as many sums at a time as the kernels keep. Returns the number of products. */
static double emit_dots(Codegen *cg, const Node *node) {
    Dot dot = dot_for(cg, 64, node->in[0], node->in[1]);
    LLVMValueRef entry = LLVMAddFunction(cg->module, "entry", LLVMFunctionType(cg->none, (LLVMTypeRef[]){cg->ptr, cg->ptr}, 2, false));
    function_start(cg, entry);
    if (dot_is_matrix(&dot))
        return emit_matrix_dots(cg);
    LLVMTypeRef type = dot_accumulator(cg, &dot);
    LLVMValueRef b = load_bytes(cg, type, LLVMGetParam(entry, 0), 4), sums[32], total = LLVMConstNull(type);
    for (int i = 0; i < dot.accumulators; i++)
        sums[i] = local_new(cg, type, LLVMConstNull(type));
    LLVMValueRef a = local_new(cg, type, b);
    Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, JIT_DOTS));
    for (int i = 0; i < dot.accumulators; i++) {
        local_set(cg, a, opaque(cg, local_get(cg, type, a)));
        local_set(cg, sums[i], dot_emit(cg, &dot, local_get(cg, type, sums[i]), local_get(cg, type, a), b));
    }
    loop_end(cg, &loop);
    for (int i = 0; i < dot.accumulators; i++)
        total = add(cg, total, local_get(cg, type, sums[i]));
    store_bytes(cg, total, LLVMGetParam(entry, 0), 4);
    LLVMBuildRetVoid(cg->builder);
    return (double)JIT_DOTS * dot.accumulators * dot.lanes * dot.quad;
}

static intc_entry *load(Codegen *cg, void **engine) {
    LLVMMemoryBufferRef object;
    char *message = NULL;
    if (LLVMTargetMachineEmitToMemoryBuffer(cg->machine, cg->module, LLVMObjectFile, &message, &object))
        internal_error("object: %s", message);
    const char *dump = getenv("CONTRACT_OBJECT");
    if (dump != NULL) {
        FILE *file = fopen(dump, "wb");
        if (file != NULL) {
            fwrite(LLVMGetBufferStart(object), 1, LLVMGetBufferSize(object), file);
            fclose(file);
        }
    }
    LLVMOrcLLJITRef jit;
    check(LLVMOrcCreateLLJIT(&jit, NULL));
    LLVMOrcJITDylibRef library = LLVMOrcLLJITGetMainJITDylib(jit);
    LLVMOrcCSymbolMapPair symbols[] = {
        {LLVMOrcLLJITMangleAndIntern(jit, "intc_rt_call"), {(LLVMOrcExecutorAddress)(uintptr_t)run_ranges, {1, 0}}}};
    check(LLVMOrcJITDylibDefine(library, LLVMOrcAbsoluteSymbols(symbols, 1)));
    LLVMOrcDefinitionGeneratorRef process;
    check(LLVMOrcCreateDynamicLibrarySearchGeneratorForProcess(&process, LLVMOrcLLJITGetGlobalPrefix(jit), NULL, NULL));
    LLVMOrcJITDylibAddGenerator(library, process);
    check(LLVMOrcLLJITAddObjectFile(jit, library, object));
    LLVMOrcExecutorAddress address;
    check(LLVMOrcLLJITLookup(jit, &address, "entry"));
    *engine = jit;
    return (intc_entry *)(uintptr_t)address;
}

static Jit compile(const Node *node, int64_t arena_size, const char *name, double *products) {
    ModuleSource source = {.arena_size = arena_size};
    Codegen *cg = calloc(1, sizeof *cg);
    if (cg == NULL)
        internal_error("no memory");
    cg->source = &source;
    cg->memory = node->graph->arena;
    cg->context = LLVMContextCreate();
    cg->module = LLVMModuleCreateWithNameInContext("contract", cg->context);
    cg->builder = LLVMCreateBuilderInContext(cg->context);
    cg->graph = node->graph;
    cg->exponents = arena_alloc(cg->memory, (size_t)node->graph->value_count, sizeof(LLVMValueRef));
    cg->accesses = arena_alloc(cg->memory, MAX_ACCESSES, sizeof *cg->accesses);
    types(cg);
    cg->machine = machine_for(name, cg);
    char *triple = LLVMGetDefaultTargetTriple();
    LLVMSetTarget(cg->module, triple);
    LLVMDisposeMessage(triple);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(cg->machine);
    LLVMSetModuleDataLayout(cg->module, layout);
    LLVMDisposeTargetData(layout);
    if (products != NULL)
        *products = emit_dots(cg, node);
    else
        emit(cg, node);
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    check(LLVMRunPasses(cg->module, "default<O2>", cg->machine, options));
    LLVMDisposePassBuilderOptions(options);
    Jit jit = {.arena_size = (arena_size + 63) / 64 * 64 + cg->scratch_size + 64};
    jit.run = load(cg, &jit.engine);
    LLVMDisposeBuilder(cg->builder);
    LLVMDisposeModule(cg->module);
    LLVMContextDispose(cg->context);
    LLVMDisposeTargetMachine(cg->machine);
    free(cg);
    return jit;
}

Jit jit_compile(const Node *node, int64_t arena_size, const char *name) {
    return compile(node, arena_size, name, NULL);
}

Jit jit_dots(const Node *node, const char *name, double *products) {
    return compile(node, 64, name, products);
}

void jit_free(Jit *jit) {
    check(LLVMOrcDisposeLLJIT(jit->engine));
}
