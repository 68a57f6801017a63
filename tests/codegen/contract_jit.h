/* Compiles the kernels of one node and loads them into this process. For the contraction tests and their benchmark. */
#ifndef INTC_TESTS_CONTRACT_JIT_H
#define INTC_TESTS_CONTRACT_JIT_H

#include "ir/ir.h"
#include "runtime/abi.h"

/* How kernels are compiled: "x86-64", "x86-64-v3", "x86-64-v4", "host", "vnni256" and "vnni512" (VNNI code of 256
 * and 512 bits for the host), "portable" (no dot
 * instruction). */
typedef struct {
    intc_entry *run;
    int64_t arena_size; /* with scratch */
    void *engine;
} Jit;

/* Whether this machine runs code of that name. */
bool jit_runs(const char *name);
/* The values of node have their types and offsets in [0, arena_size). */
Jit jit_compile(const Node *node, int64_t arena_size, const char *name);
/* Not the node's kernels but the dots of its operands in registers alone: what no direct kernel can exceed where there is a dot
 * instruction. */
Jit jit_dots(const Node *node, const char *name, double *products);
void jit_free(Jit *jit);
/* Kernels run in this many ranges, the last first; 1 by default. */
void jit_ranges(int count);

#endif
