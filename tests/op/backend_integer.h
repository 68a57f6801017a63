/* Integer mode of one backend case against real mode: what backend.c counts. */
#ifndef INTC_TESTS_OP_BACKEND_INTEGER_H
#define INTC_TESTS_OP_BACKEND_INTEGER_H

#include "ir/ir.h"

/* An input of the graph as the case gives it. */
typedef struct {
    const Value *value;
    const double *reals; /* or */
    const int64_t *ints;
} Given;

typedef struct {
    const char *beyond; /* NULL: every operator is within its bound; else the first one that is not, or why there is no integer mode */
    double error;       /* of the outputs against real mode on the same 8-bit inputs, as a share of the largest element */
} IntegerResult;

/* Scales the graph (STAGE_LOWERED, which it leaves) and runs it. Texts live in the graph's arena. */
IntegerResult integer_check(Graph *graph, const Given *given, int count, Diag *diag);

#endif
