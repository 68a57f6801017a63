/* The op table of ir/: names, kinds and hooks, expanded from ops.def. Before and after: constant. */
#include "ir/infer.h"
#include "ir/ir.h"

#include <string.h>

static const OpInfo infos[OP_COUNT] = {
#define OP(op, op_kind, least, most, results, letters, rule, bound_hook, infer_hook, grad_hook)                                            \
    [OP_##op] = {.name = #op,                                                                                                              \
                 .kind = KIND_##op_kind,                                                                                                   \
                 .min_in = least,                                                                                                          \
                 .max_in = most,                                                                                                           \
                 .outs = results,                                                                                                          \
                 .reads = letters,                                                                                                         \
                 .exponent = RULE_##rule,                                                                                                  \
                 .bound = bound_##bound_hook,                                                                                              \
                 .infer = infer_##infer_hook},
#include "ir/ops.def"
#undef OP
};

const OpInfo *op_info(Op op) {
    if (op <= OP_NONE || op >= OP_COUNT)
        internal_error("op %d", (int)op);
    return &infos[op];
}

Op op_find(const char *name) {
    for (int op = OP_NONE + 1; op < OP_COUNT; op++)
        if (strcmp(infos[op].name, name) == 0)
            return (Op)op;
    return OP_NONE;
}

char op_reads(Op op, int input) {
    const char *reads = op_info(op)->reads;
    int length = (int)strlen(reads);
    if (op == OP_weighted_sum)
        return reads[input % 2];
    return reads[input < length ? input : length - 1];
}
