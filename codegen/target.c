/* Target machine, optimisation, output files, and codegen_emit. The host's CPU is the default; another CPU or triple comes from the
 * options. */
#include "codegen/emit.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/Support.h>
#include <llvm-c/Target.h>
#include <llvm-c/Transforms/PassBuilder.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Features of CPUs by name, which the C API cannot tell; only those that emitters ask for. */
static const char *cpu_features(const char *cpu) {
    static const char v3[] = "+sse4.1,+sse4.2,+ssse3,+avx,+avx2,+fma,+bmi,+bmi2";
    static const char v4[] = "+sse4.1,+sse4.2,+ssse3,+avx,+avx2,+fma,+bmi,+bmi2,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd";
    static const char vnni[] =
        "+sse4.1,+sse4.2,+ssse3,+avx,+avx2,+fma,+bmi,+bmi2,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,+avx512vnni";
    static const char both[] =
        "+sse4.1,+sse4.2,+ssse3,+avx,+avx2,+fma,+bmi,+bmi2,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,+avx512vnni,+avxvnni";
    static const char amx[] =
        "+sse4.1,+sse4.2,+ssse3,+avx,+avx2,+fma,+bmi,+bmi2,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,+avx512vnni,"
        "+avxvnni,+amx-tile,+amx-int8";
    static const char dotprod[] = "+dotprod";
    static const char narrow[] = "+sse4.1,+sse4.2,+ssse3,+avx,+avx2,+fma,+bmi,+bmi2,+avxvnni";
    static const struct {
        const char *cpu, *features;
    } table[] = {{"x86-64-v2", "+sse4.1,+sse4.2,+ssse3"},
                 {"x86-64-v3", v3},
                 {"x86-64-v4", v4},
                 {"haswell", v3},
                 {"broadwell", v3},
                 {"skylake", v3},
                 {"znver1", v3},
                 {"znver2", v3},
                 {"znver3", v3},
                 {"skylake-avx512", v4},
                 {"cascadelake", vnni},
                 {"icelake-server", vnni},
                 {"znver4", vnni},
                 {"sapphirerapids", amx},
                 {"graniterapids", amx},
                 {"znver5", both},
                 {"alderlake", narrow},
                 {"cortex-a55", dotprod},
                 {"cortex-a76", dotprod},
                 {"neoverse-n1", dotprod},
                 {"neoverse-v1", dotprod},
                 {"neoverse-n2", dotprod},
                 {"neoverse-v2", dotprod},
                 {"apple-m1", dotprod}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].cpu, cpu) == 0)
            return table[i].features;
    return "";
}

static char *take_message(Codegen *cg, char *message) {
    char *copy = arena_strdup(cg->memory, message != NULL ? message : "unknown error");
    LLVMDisposeMessage(message);
    return copy;
}

static void choose_cpu(Codegen *cg) {
    const TargetOptions *options = cg->target;
    bool host = options->triple == NULL && (options->cpu == NULL || strcmp(options->cpu, "native") == 0);
    if (host) {
        cg->cpu = take_message(cg, LLVMGetHostCPUName());
        cg->features = take_message(cg, LLVMGetHostCPUFeatures());
        if (target_has(cg, "amx-int8") && !intc_rt_matrix_registers()) /* this CPU, but not this system */
            cg->features = arena_printf(cg->memory, "%s,-amx-int8", cg->features);
    } else {
        cg->cpu = arena_strdup(cg->memory, options->cpu != NULL ? options->cpu : "");
        cg->features = arena_strdup(cg->memory, cpu_features(cg->cpu));
    }
    if (options->features != NULL && *options->features != '\0')
        cg->features = arena_printf(cg->memory, "%s%s%s", cg->features, *cg->features != '\0' ? "," : "", options->features);
}

int64_t codegen_near_products(const TargetOptions *target) {
    enum { BY_MATRICES = 1000, BY_VNNI512 = 400 };
    Codegen cg = {.target = target, .memory = arena_new()};
    choose_cpu(&cg);
    int64_t products = target_has(&cg, "amx-int8") ? BY_MATRICES : target_has(&cg, "avx512vnni") ? BY_VNNI512 : 0;
    arena_free(cg.memory);
    return products;
}

/* The C API has no list of CPUs: LLVM tells of an unknown one on standard error alone, and goes on to abort. So a machine is made with
 * standard error led aside, and what was said is read. Without a place for it every CPU passes. */
static bool cpu_known(Codegen *cg, LLVMTargetRef target) {
    char said[4096];
    ssize_t size = 0;
    int aside = memfd_create("intc", MFD_CLOEXEC), kept = dup(STDERR_FILENO);
    if (aside >= 0 && kept >= 0 && dup2(aside, STDERR_FILENO) >= 0) {
        LLVMTargetMachineRef machine =
            LLVMCreateTargetMachine(target, cg->triple, cg->cpu, cg->features, LLVMCodeGenLevelNone, LLVMRelocPIC, LLVMCodeModelDefault);
        if (machine != NULL)
            LLVMDisposeTargetMachine(machine);
        dup2(kept, STDERR_FILENO);
        size = pread(aside, said, sizeof said - 1, 0);
    }
    if (aside >= 0)
        close(aside);
    if (kept >= 0)
        close(kept);
    said[size > 0 ? size : 0] = '\0';
    if (strstr(said, "not a recognized") == NULL)
        return true;
    said[strcspn(said, "\n")] = '\0';
    diag_error(cg->diag, NULL, "--cpu=%s --features=%s: %s", cg->cpu, cg->features, said);
    return false;
}

/* Two passes of LLVM's that take a third of its time and make no trainer faster on x86: addresses there take a scaled index, and the CPU
 * orders instructions itself. LLVM has its options once a process. */
static void leave_out_passes(void) {
    static const char *const options[] = {"intc", "-disable-lsr", "-disable-post-ra"};
    LLVMParseCommandLineOptions(sizeof options / sizeof *options, options, NULL);
}

bool target_open(Codegen *cg) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    LLVMInitializeAllTargetInfos();
    LLVMInitializeAllTargets();
    LLVMInitializeAllTargetMCs();
    LLVMInitializeAllAsmPrinters();
    LLVMInitializeAllAsmParsers();
    const char *wanted = cg->target->triple;
    char *triple = wanted != NULL ? LLVMNormalizeTargetTriple(wanted) : LLVMGetDefaultTargetTriple();
    cg->triple = take_message(cg, triple);
    if (strncmp(cg->triple, "x86_64", 6) == 0)
        pthread_once(&once, leave_out_passes);
    choose_cpu(cg);
    LLVMTargetRef target;
    char *message = NULL;
    if (LLVMGetTargetFromTriple(cg->triple, &target, &message)) {
        diag_error(cg->diag, NULL, "target %s: %s", cg->triple, take_message(cg, message));
        return false;
    }
    if (!cpu_known(cg, target))
        return false;
    LLVMCodeGenOptLevel level = cg->target->opt_level == 0   ? LLVMCodeGenLevelNone
                                : cg->target->opt_level == 1 ? LLVMCodeGenLevelLess
                                                             : LLVMCodeGenLevelDefault;
    cg->machine = LLVMCreateTargetMachine(target, cg->triple, cg->cpu, cg->features, level, LLVMRelocPIC, LLVMCodeModelDefault);
    if (cg->machine == NULL) {
        diag_error(cg->diag, NULL, "target %s: no code generator", cg->triple);
        return false;
    }
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(cg->machine);
    LLVMSetModuleDataLayout(cg->module, layout);
    LLVMDisposeTargetData(layout);
    LLVMSetTarget(cg->module, cg->triple);
    return true;
}

/* What kernels profit from, in a fraction of the time of default<O2>: their loops are simple, what is constant is constant already, and
 * products are left functions, which kernels share. */
static const char usual_passes[] =
    "elim-avail-extern,function<eager-inv>(sroa,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,"
    "loop-mssa(licm),loop-vectorize,instcombine<no-verify-fixpoint>,simplifycfg,"
    "loop-unroll<O2;no-runtime;no-partial>,sroa,early-cse<memssa>,loop-mssa(licm)),globaldce";

static void verify(Codegen *cg) {
    char *message = NULL;
    if (LLVMVerifyModule(cg->module, LLVMReturnStatusAction, &message))
        internal_error("generated code does not verify: %s", message);
    LLVMDisposeMessage(message);
}

static bool optimize(Codegen *cg) {
    static const char *const pipelines[] = {"elim-avail-extern,default<O0>", "elim-avail-extern,default<O1>", usual_passes,
                                            "elim-avail-extern,default<O3>"};
    int level = cg->target->opt_level;
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    LLVMPassBuilderOptionsSetLoopVectorization(options, level >= 2);
    LLVMPassBuilderOptionsSetLoopInterleaving(options, level >= 2);
    /* Never: vectors of shift amounts become float conversions where the CPU has no such shift. */
    LLVMPassBuilderOptionsSetSLPVectorization(options, false);
    LLVMErrorRef error = LLVMRunPasses(cg->module, pipelines[level < 0 ? 0 : level > 3 ? 3 : level], cg->machine, options);
    LLVMDisposePassBuilderOptions(options);
    if (error == NULL)
        return true;
    char *text = LLVMGetErrorMessage(error);
    diag_error(cg->diag, NULL, "LLVM: %s", text);
    LLVMDisposeErrorMessage(text);
    return false;
}

EmitKind codegen_kind(const char *name) {
    static const char *const names[EMIT_KINDS] = {[EMIT_LLVM] = "llvm", [EMIT_ASM] = "asm", [EMIT_OBJ] = "obj", [EMIT_EXE] = "exe"};
    int kind = 0;
    while (kind < EMIT_KINDS && strcmp(names[kind], name) != 0)
        kind++;
    return (EmitKind)kind;
}

static bool write_bytes(Codegen *cg, const char *path, const char *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    bool written = file != NULL && fwrite(bytes, 1, size, file) == size;
    if (file != NULL)
        written = fclose(file) == 0 && written;
    if (!written)
        diag_error(cg->diag, NULL, "cannot write %s: %s", path, strerror(errno));
    return written;
}

/* Through memory: LLVM's own file output aborts the process on a full disk. */
static bool write_to(Codegen *cg, EmitKind kind, const char *path) {
    char *message = NULL;
    if (kind == EMIT_LLVM) {
        char *text = LLVMPrintModuleToString(cg->module);
        bool written = write_bytes(cg, path, text, strlen(text));
        LLVMDisposeMessage(text);
        return written;
    }
    LLVMMemoryBufferRef buffer = NULL;
    LLVMCodeGenFileType type = kind == EMIT_ASM ? LLVMAssemblyFile : LLVMObjectFile;
    if (LLVMTargetMachineEmitToMemoryBuffer(cg->machine, cg->module, type, &message, &buffer)) {
        diag_error(cg->diag, NULL, "cannot emit %s: %s", path, take_message(cg, message));
        return false;
    }
    bool written = write_bytes(cg, path, LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer));
    LLVMDisposeMemoryBuffer(buffer);
    return written;
}

bool target_make(Codegen *cg, EmitKind kind, const char *path) {
    return optimize(cg) && write_to(cg, kind, path);
}

/* Everything is written beside the output and renamed at the end. */
bool target_write(Codegen *cg, EmitKind kind, const char *path) {
    char *part = arena_printf(cg->memory, "%s.part", path);
    bool written = kind == EMIT_EXE ? parts_write(cg, part) : target_make(cg, kind, part);
    if (written && rename(part, path) != 0) {
        diag_error(cg->diag, NULL, "cannot write %s: %s", path, strerror(errno));
        written = false;
    }
    if (!written)
        unlink(part);
    return written;
}

static void open_types(Codegen *cg) {
    cg->i1 = LLVMInt1TypeInContext(cg->context);
    cg->i8 = LLVMInt8TypeInContext(cg->context);
    cg->i16 = LLVMInt16TypeInContext(cg->context);
    cg->i32 = LLVMInt32TypeInContext(cg->context);
    cg->i64 = LLVMInt64TypeInContext(cg->context);
    cg->i128 = LLVMIntTypeInContext(cg->context, 128);
    cg->f32 = LLVMFloatTypeInContext(cg->context);
    cg->f64 = LLVMDoubleTypeInContext(cg->context);
    cg->ptr = LLVMPointerTypeInContext(cg->context, 0);
    cg->none = LLVMVoidTypeInContext(cg->context);
}

bool codegen_emit(const ModuleSource *source, const TargetOptions *target, EmitKind kind, const char *path, Diag *diag) {
    Codegen cg = {.source = source, .target = target, .diag = diag, .memory = arena_new()};
    cg.context = LLVMContextCreate();
    cg.module = LLVMModuleCreateWithNameInContext("intc", cg.context);
    cg.builder = LLVMCreateBuilderInContext(cg.context);
    cg.accesses = arena_alloc(cg.memory, MAX_ACCESSES, sizeof *cg.accesses);
    open_types(&cg);
    bool done = target_open(&cg);
    if (done) {
        LLVMValueRef step = emit_entry(&cg, source->step, "step");
        LLVMValueRef calibrate = source->calibrate != NULL ? emit_entry(&cg, source->calibrate, "calibrate") : NULL;
        LLVMValueRef infer = source->infer != NULL ? emit_entry(&cg, source->infer, "infer") : NULL;
        share_close(&cg);
        entry_close(&cg);
        emit_descriptor(&cg, step, calibrate, infer);
        verify(&cg);
        done = target_write(&cg, kind, path);
    }
    LLVMDisposeBuilder(cg.builder);
    LLVMDisposeModule(cg.module);
    if (cg.machine != NULL)
        LLVMDisposeTargetMachine(cg.machine);
    LLVMContextDispose(cg.context);
    arena_free(cg.memory);
    return done;
}
