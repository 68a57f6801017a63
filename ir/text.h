/* Internal to ir/: what printer, parser and verifier share about the text form and about attributes.
 *
 *   graph @name stage=scaled {
 *     %x : i8[32x784] <=127 e-7 = input "x"
 *     %w : i16[784x10] <=32767 e?-15 = param "fc.w" {1, -2, …}
 *     %a : i32[32x10] <=12644 e? = matmul %x, %w {ta=0, tb=0} ; from Gemm "fc"
 *     update %w <- %v
 *     output "y" prediction %a
 *   }
 *
 * A type is followed by the bound and the exponent: e-7 constant, e? dynamic (the number behind it is the initial exponent of a parameter
 * or state), nothing for integers. Then, where they are not the default: order=[…] (dimensions as in memory), as "name in the model",
 * @offset:exponent_offset. A node may end in its phase, `of %x` (the forward node of a gradient), `into %x` (fused) and its origin.
 * The declaration of a node's outputs may be left out: it is inferred. `#` and, at the start of a line, `;` start a comment. */
#ifndef INTC_IR_TEXT_H
#define INTC_IR_TEXT_H

#include "ir/ir.h"

/* Elements that one tensor may have: byte offsets stay far from overflow. */
#define TEXT_MAX_ELEMENTS ((int64_t)1 << 40)

/* Every dimension is at least 0 and the product at most TEXT_MAX_ELEMENTS. */
bool shape_valid(int rank, const int64_t *dims);

/* Exactly the attributes that the op knows, each of its kind and range. False after a diagnostic that starts with `where`. */
bool node_check_attrs(const Node *node, Diag *diag, const char *where);

static inline const char *phase_name(Phase phase) {
    return phase == PHASE_FORWARD ? "forward" : phase == PHASE_BACKWARD ? "backward" : "update";
}

static inline const char *role_name(Role role) {
    static const char *const names[ROLE_COUNT] = {"prediction", "loss", "metric", "gradient"};
    return names[role];
}

static inline const char *value_kind_name(ValueKind kind) {
    static const char *const names[] = {"node", "input", "param", "state", "const", "hyper"};
    return names[kind];
}

#endif
