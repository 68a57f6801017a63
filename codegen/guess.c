/* The shift of a rescale as it is guessed. A guess that is too small shows as soon as one larger magnitude is met, and the rest of the pass
 * is left out; one that is too large costs a whole pass. So the guess is the least shift of the last steps, and a pass begins with the
 * image that had the largest magnitude in the rescale before: in the forward phase it is the same one more often than not, in the backward
 * phase the image with the largest loss. No result depends on any of this. Fields: the largest magnitude so far, i64 (narrow: above 32 bits
 * of the image it was in); i32: the shift to round by, the guess of a step, the least shift above it, and for how many steps. */
#include "codegen/guess.h"

#include "codegen/contract.h"

enum { SHIFT = 8, LEAST = 12, ABOVE = 16, COUNT = 20 };

static LLVMValueRef field(Codegen *cg, const Guess *guess, int64_t offset) {
    return load_bytes(cg, cg->i32, byte_at_const(cg, guess->at, offset), 4);
}

static void set_field(Codegen *cg, const Guess *guess, int64_t offset, LLVMValueRef x) {
    store_bytes(cg, x, byte_at_const(cg, guess->at, offset), 4);
}

static LLVMValueRef met(Codegen *cg, const Guess *guess) {
    LLVMValueRef load = load_bytes(cg, cg->i64, guess->at, 8);
    LLVMSetOrdering(load, LLVMAtomicOrderingMonotonic);
    return load;
}

static LLVMValueRef magnitude_of(Codegen *cg, const Guess *guess, LLVMValueRef met) {
    return guess->narrow ? LLVMBuildLShr(cg->builder, met, const64(cg, 32), "") : met;
}

static LLVMValueRef shift_for(Codegen *cg, const Guess *guess, LLVMValueRef maximum) {
    return rescale_shift(cg, maximum, guess->bits, guess->stochastic);
}

static LLVMValueRef loudest_image(Codegen *cg) {
    return share_variable(cg, &cg->loudest, "loudest");
}

int64_t guess_alloc(Codegen *cg) {
    if (cg->guesses == NULL)
        cg->guesses = LLVMAddGlobal(cg->module, cg->i8, "guesses");
    return (int64_t)GUESS_BYTES * cg->guess_count++;
}

void guess_open(Codegen *cg, Guess *guess) {
    LLVMBasicBlockRef saved = head_enter(cg);
    guess->at = byte_at(cg, cg->guesses, node_number(cg, guess->place));
    guess->count = node_number(cg, guess->images);
    head_leave(cg, saved);
    guess->loudest = local_new(cg, cg->i64, const64(cg, 0));
}

LLVMValueRef guess_shift(Codegen *cg, const Guess *guess) {
    return field(cg, guess, SHIFT);
}

void guess_set_shift(Codegen *cg, const Guess *guess, LLVMValueRef s) {
    set_field(cg, guess, SHIFT, s);
}

LLVMValueRef guess_holds(Codegen *cg, const Guess *guess) {
    return compare(cg, LLVMIntSLE, shift_for(cg, guess, guess_maximum(cg, guess)), guess_shift(cg, guess));
}

void guess_note(Codegen *cg, const Guess *guess, LLVMValueRef most, LLVMValueRef image) {
    LLVMValueRef before = local_get(cg, cg->i64, guess->loudest), now = as_unsigned(cg, most, 64);
    LLVMValueRef more = compare(cg, LLVMIntUGT, now, magnitude_of(cg, guess, before));
    LLVMValueRef kept = guess->narrow ? LLVMBuildOr(cg->builder, LLVMBuildShl(cg->builder, now, const64(cg, 32), ""), image, "") : now;
    local_set(cg, guess->loudest, choose(cg, more, kept, before));
    Branch beyond = if_begin(cg, compare(cg, LLVMIntSGT, shift_for(cg, guess, now), guess_shift(cg, guess)));
    guess_join(cg, guess);
    if_end(cg, &beyond);
}

void guess_join(Codegen *cg, const Guess *guess) {
    LLVMValueRef loudest = local_get(cg, cg->i64, guess->loudest);
    LLVMBuildAtomicRMW(cg->builder, LLVMAtomicRMWBinOpUMax, guess->at, loudest, LLVMAtomicOrderingMonotonic, false);
}

LLVMValueRef guess_maximum(Codegen *cg, const Guess *guess) {
    return magnitude_of(cg, guess, met(cg, guess));
}

LLVMValueRef guess_asked(Codegen *cg, const Guess *guess) {
    return shift_for(cg, guess, guess_maximum(cg, guess));
}

void guess_next(Codegen *cg, const Guess *guess, LLVMValueRef s, LLVMValueRef right) {
    LLVMValueRef least = field(cg, guess, LEAST), above = field(cg, guess, ABOVE), count = field(cg, guess, COUNT), zero = const32(cg, 0);
    LLVMValueRef rises = compare(cg, LLVMIntSGT, s, least);
    above = choose(cg, compare(cg, LLVMIntEQ, count, zero), s, smin(cg, above, s));
    count = choose(cg, rises, add_const(cg, count, 1), zero);
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef patience = as_bits(cg, node_number(cg, guess->patience), 32);
    head_leave(cg, saved);
    LLVMValueRef enough = compare(cg, LLVMIntSGE, count, patience);
    LLVMValueRef next = choose(cg, rises, choose(cg, enough, above, least), s);
    count = choose(cg, enough, zero, count);
    set_field(cg, guess, LEAST, choose(cg, right, next, least));
    set_field(cg, guess, ABOVE, choose(cg, right, above, field(cg, guess, ABOVE)));
    set_field(cg, guess, COUNT, choose(cg, right, count, field(cg, guess, COUNT)));
    guess_set_shift(cg, guess, choose(cg, right, next, s));
    if (guess->narrow) {
        LLVMValueRef images = compare(cg, LLVMIntSGT, guess->count, const64(cg, 1)), place = loudest_image(cg);
        store_bytes(cg, choose(cg, images, as_bits(cg, met(cg, guess), 32), load_bytes(cg, cg->i32, place, 4)), place, 4);
    }
}

void guess_clear(Codegen *cg, const Guess *guess) {
    store_bytes(cg, const64(cg, 0), guess->at, 8);
}
