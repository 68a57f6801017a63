/* Inside codegen/: what a rescale keeps from step to step to guess the shift that its result will ask for. */
#ifndef INTC_CODEGEN_GUESS_H
#define INTC_CODEGEN_GUESS_H

#include "codegen/emit.h"

typedef struct {
    int bits; /* of the result */
    bool stochastic;
    bool narrow;    /* magnitudes fit in 32 bits; the image of the largest is then known, */
    int64_t images; /* of so many; 1: the result is not made of images */
    int patience;   /* steps in a row that must ask for more before the guess rises */
    int64_t place;  /* among the module's guesses */
    /* In the kernel being built: */
    LLVMValueRef at;      /* its address, */
    LLVMValueRef count;   /* the number of images, i64, */
    LLVMValueRef loudest; /* and the largest magnitude that this call has met: a local, i64 */
} Guess;

/* The place of a new one. */
int64_t guess_alloc(Codegen *cg);
/* At the start of every kernel that uses it. */
void guess_open(Codegen *cg, Guess *guess);
LLVMValueRef guess_shift(Codegen *cg, const Guess *guess); /* to round by; i32 */
void guess_set_shift(Codegen *cg, const Guess *guess, LLVMValueRef s);

/* In a pass. Whether no magnitude that any thread has met yet asks for more than the guess; i1. */
LLVMValueRef guess_holds(Codegen *cg, const Guess *guess);
/* The largest magnitude of this call so far, after `image`; all threads are told at once if it asks for more than the guess. */
void guess_note(Codegen *cg, const Guess *guess, LLVMValueRef most, LLVMValueRef image);
/* At the end of a call: the largest of all calls. */
void guess_join(Codegen *cg, const Guess *guess);

/* After all passes. */
LLVMValueRef guess_maximum(Codegen *cg, const Guess *guess); /* i64 */
LLVMValueRef guess_asked(Codegen *cg, const Guess *guess);   /* the shift for it; i32 */
/* For the pass that repeats this one (`right` false), or for the next step. */
void guess_next(Codegen *cg, const Guess *guess, LLVMValueRef s, LLVMValueRef right);
void guess_clear(Codegen *cg, const Guess *guess);

#endif
