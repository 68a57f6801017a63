/* Code generation: from planned graphs to an LLVM module, an object, an executable. The one public header of codegen/; stands on ir only.
 */
#ifndef INTC_CODEGEN_H
#define INTC_CODEGEN_H

#include "ir/ir.h"
#include "ir/template.h"
#include "runtime/abi.h"

typedef struct {
    const char *triple;   /* NULL: the host */
    const char *cpu;      /* NULL: the host's CPU, or the generic one of another triple */
    const char *features; /* added to those of the CPU: "+avx2,-avx512f"; NULL: none */
    int opt_level;        /* 0 to 3 */
    const char *cc;       /* linker driver; NULL: cc */
} TargetOptions;

/* A calibrated exponent: `value` of the calibrating graph has the dynamic exponent that `slot`, an i32 STATE of the inference graph,
 * collects. */
typedef struct {
    const Value *value, *slot;
} CalibrationSlot;

/* Everything a trainer is made of; the graphs are STAGE_PLANNED in one arena. calibrate and infer may be NULL. */
typedef struct {
    Graph *step, *calibrate, *infer;
    int64_t state_size, constants_size, arena_size, random_offset;
    const CalibrationSlot *slots;
    int slot_count;
    const char *name, *options, *loss;
    const ModelTemplate *models; /* parameters and slots are found by name in any of the graphs */
    int model_count;
} ModuleSource;

typedef enum { EMIT_LLVM, EMIT_ASM, EMIT_OBJ, EMIT_EXE, EMIT_KINDS } EmitKind;

/* The kind that --emit calls "llvm", "asm", "obj", "exe"; EMIT_KINDS if there is none. */
EmitKind codegen_kind(const char *name);

/* Of how many products an element of a matmul can be that costs less to repeat, where its rounding was guessed wrong, than to store it and
 * read it again; 0: of none. */
int64_t codegen_near_products(const TargetOptions *target);

/* Writes the module to path; on failure there are diagnostics and no file. */
bool codegen_emit(const ModuleSource *source, const TargetOptions *target, EmitKind kind, const char *path, Diag *diag);

#endif
