/* What tells a function from others, as words: two functions of one module have the same exactly if their bodies do the same by the same
 * instructions. Constants, types and attributes count by their addresses, which are one for equal content in an LLVM context; instructions,
 * blocks and parameters by their order. Needs a finished body without metadata. */
#include "codegen/emit.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    LLVMValueRef key;
    int64_t number;
} Numbered;

typedef struct {
    int64_t *words;
    size_t count, room;
    Numbered *numbered; /* a hash table with a power of two of places, half of them free at least */
    size_t places;
} Fingerprint;

static void put(Fingerprint *f, int64_t word) {
    if (f->count == f->room) {
        f->room = 2 * f->room + 1024;
        f->words = realloc(f->words, f->room * sizeof *f->words);
        if (f->words == NULL)
            internal_error("out of memory");
    }
    f->words[f->count++] = word;
}

static void put_address(Fingerprint *f, const void *address) {
    put(f, (int64_t)(intptr_t)address);
}

static Numbered *find(const Fingerprint *f, LLVMValueRef key) {
    size_t at = (size_t)(((uint64_t)(uintptr_t)key >> 4) * 0x9E3779B97F4A7C15u >> 32) & (f->places - 1);
    while (f->numbered[at].key != NULL && f->numbered[at].key != key)
        at = (at + 1) & (f->places - 1);
    return &f->numbered[at];
}

static void number_all(Fingerprint *f, LLVMValueRef function) {
    size_t count = LLVMCountParams(function) + LLVMCountBasicBlocks(function);
    for (LLVMBasicBlockRef block = LLVMGetFirstBasicBlock(function); block != NULL; block = LLVMGetNextBasicBlock(block))
        for (LLVMValueRef x = LLVMGetFirstInstruction(block); x != NULL; x = LLVMGetNextInstruction(x))
            count++;
    for (f->places = 64; f->places < 2 * count;)
        f->places *= 2;
    f->numbered = calloc(f->places, sizeof *f->numbered);
    if (f->numbered == NULL)
        internal_error("out of memory");
    int64_t number = 0;
    for (unsigned i = 0; i < LLVMCountParams(function); i++)
        *find(f, LLVMGetParam(function, i)) = (Numbered){LLVMGetParam(function, i), number++};
    for (LLVMBasicBlockRef block = LLVMGetFirstBasicBlock(function); block != NULL; block = LLVMGetNextBasicBlock(block)) {
        *find(f, LLVMBasicBlockAsValue(block)) = (Numbered){LLVMBasicBlockAsValue(block), number++};
        for (LLVMValueRef x = LLVMGetFirstInstruction(block); x != NULL; x = LLVMGetNextInstruction(x))
            *find(f, x) = (Numbered){x, number++};
    }
}

static void put_value(Fingerprint *f, LLVMValueRef x) {
    const Numbered *place = find(f, x);
    if (place->key != NULL) {
        put(f, 0);
        put(f, place->number);
    } else {
        put(f, 1);
        put_address(f, x);
    }
}

static void put_memory(Fingerprint *f, LLVMValueRef x) {
    put(f, LLVMGetAlignment(x));
    put(f, LLVMGetVolatile(x));
    put(f, LLVMGetOrdering(x));
}

/* Alignments of memset and memcpy are attributes of the call. */
static void put_call(Fingerprint *f, LLVMValueRef call) {
    enum { MOST = 16 };
    put_address(f, LLVMGetCalledFunctionType(call));
    for (unsigned i = 1; i <= LLVMGetNumArgOperands(call); i++) {
        LLVMAttributeRef attributes[MOST];
        unsigned count = LLVMGetCallSiteAttributeCount(call, i);
        if (count > MOST)
            internal_error("codegen: a call with %u attributes of a parameter", count);
        LLVMGetCallSiteAttributes(call, i, attributes);
        put(f, count);
        for (unsigned k = 0; k < count; k++)
            put_address(f, attributes[k]);
    }
}

/* What an instruction is beside its opcode, type and operands. */
static void put_details(Fingerprint *f, LLVMValueRef x) {
    LLVMOpcode opcode = LLVMGetInstructionOpcode(x);
    if (LLVMCanValueUseFastMathFlags(x))
        put(f, LLVMGetFastMathFlags(x));
    switch (opcode) {
    case LLVMAdd:
    case LLVMSub:
    case LLVMMul:
    case LLVMShl:
    case LLVMTrunc:
        put(f, LLVMGetNSW(x) + 2 * LLVMGetNUW(x));
        break;
    case LLVMUDiv:
    case LLVMSDiv:
    case LLVMLShr:
    case LLVMAShr:
        put(f, LLVMGetExact(x));
        break;
    case LLVMZExt:
        put(f, LLVMGetNNeg(x));
        break;
    case LLVMOr:
        put(f, LLVMGetIsDisjoint(x));
        break;
    case LLVMICmp:
        put(f, LLVMGetICmpPredicate(x));
        break;
    case LLVMFCmp:
        put(f, LLVMGetFCmpPredicate(x));
        break;
    case LLVMAlloca:
        put_address(f, LLVMGetAllocatedType(x));
        put(f, LLVMGetAlignment(x));
        break;
    case LLVMGetElementPtr:
        put_address(f, LLVMGetGEPSourceElementType(x));
        put(f, LLVMIsInBounds(x));
        break;
    case LLVMLoad:
    case LLVMStore:
        put_memory(f, x);
        break;
    case LLVMAtomicRMW:
        put_memory(f, x);
        put(f, LLVMGetAtomicRMWBinOp(x));
        break;
    case LLVMCall:
        put_call(f, x);
        break;
    case LLVMShuffleVector:
        for (unsigned i = 0; i < LLVMGetNumMaskElements(x); i++)
            put(f, LLVMGetMaskValue(x, i));
        break;
    case LLVMPHI:
        for (unsigned i = 0; i < LLVMCountIncoming(x); i++)
            put_value(f, LLVMBasicBlockAsValue(LLVMGetIncomingBlock(x, i)));
        break;
    case LLVMRet:
    case LLVMBr:
    case LLVMSRem:
    case LLVMURem:
    case LLVMAnd:
    case LLVMXor:
    case LLVMSExt:
    case LLVMBitCast:
    case LLVMSelect:
    case LLVMFreeze:
    case LLVMExtractElement:
    case LLVMInsertElement:
    case LLVMFAdd:
    case LLVMFSub:
    case LLVMFMul:
    case LLVMFDiv:
    case LLVMFNeg:
    case LLVMFPExt:
    case LLVMFPTrunc:
    case LLVMFPToSI:
    case LLVMSIToFP:
        break;
    default:
        internal_error("codegen: sharing does not know opcode %d", (int)opcode);
    }
}

int64_t *function_fingerprint(LLVMValueRef function, const char *extra, size_t *count) {
    Fingerprint f = {0};
    number_all(&f, function);
    for (LLVMBasicBlockRef block = LLVMGetFirstBasicBlock(function); block != NULL; block = LLVMGetNextBasicBlock(block))
        for (LLVMValueRef x = LLVMGetFirstInstruction(block); x != NULL; x = LLVMGetNextInstruction(x)) {
            int operands = LLVMGetNumOperands(x);
            put(&f, LLVMGetInstructionOpcode(x));
            put_address(&f, LLVMTypeOf(x));
            put(&f, operands);
            for (int i = 0; i < operands; i++)
                put_value(&f, LLVMGetOperand(x, (unsigned)i));
            put_details(&f, x);
        }
    for (; *extra != '\0'; extra++)
        put(&f, *extra);
    free(f.numbered);
    *count = f.count;
    return f.words;
}
