/* Exponents at run time: i32 scalars, constant, stored in the arena or computed from the operands of a fused node. They are
 * emitted in the head of a kernel. */
#include "codegen/emit.h"
#include "runtime/fixed.h"

LLVMBasicBlockRef head_enter(Codegen *cg) {
    LLVMBasicBlockRef saved = LLVMGetInsertBlock(cg->builder);
    if (saved == cg->head)
        return NULL;
    LLVMPositionBuilderBefore(cg->builder, LLVMGetBasicBlockTerminator(cg->head));
    return saved;
}

void head_leave(Codegen *cg, LLVMBasicBlockRef saved) {
    if (saved != NULL)
        LLVMPositionBuilderAtEnd(cg->builder, saved);
}

LLVMValueRef value_exponent(Codegen *cg, const Value *value) {
    if (value->integer)
        return const32(cg, 0);
    if (value->exponent_kind == EXPONENT_CONST)
        return const32(cg, value->exponent);
    if (cg->exponents[value->id] != NULL)
        return cg->exponents[value->id];
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef e;
    /* A fused value is never stored, nor is its exponent. */
    bool fused = value->kind == VALUE_NODE && value->def->fused_into != NULL;
    if (value->exponent_offset >= 0 && !fused)
        e = load_at(cg, value->exponent_offset, 4, cg->i32, cg->i32, const64(cg, 0), 4);
    else if (value->kind == VALUE_NODE)
        e = node_exponent(cg, value->def);
    else
        internal_error("codegen: value %s has no exponent", value->name);
    head_leave(cg, saved);
    cg->exponents[value->id] = e;
    return e;
}

/* ceil(log2(n)) */
static int log2_ceil(int n) {
    int g = 0;
    while ((1 << g) < n)
        g++;
    return g;
}

LLVMValueRef weighted_exponent(Codegen *cg, const Node *node, int i) {
    LLVMValueRef e = add(cg, value_exponent(cg, node->in[2 * i]), value_exponent(cg, node->in[2 * i + 1]));
    return exponent_clamp(cg, add_const(cg, e, weighted_cut(node, i)));
}

static LLVMValueRef aligned_exponent(Codegen *cg, const Node *node, bool first) {
    bool weighted = node->op == OP_weighted_sum;
    int terms = 0;
    LLVMValueRef least = NULL, top = NULL;
    for (int i = 0; i < (weighted ? node->in_count / 2 : node->in_count); i++) {
        const Value *x = node->in[weighted ? 2 * i : i];
        if (node_exponent_weight(node, weighted ? 2 * i : i) == 0)
            continue;
        terms++;
        LLVMValueRef e = weighted ? NULL : value_exponent(cg, x);
        int64_t bound = x->bound;
        if (weighted) {
            e = weighted_exponent(cg, node, i);
            bound = weighted_bound(node, i);
        }
        LLVMValueRef reach = add_const(cg, e, intc_bit_length((uint64_t)bound));
        top = top == NULL ? reach : smax(cg, top, reach);
        if (least == NULL || !first)
            least = least == NULL ? add_const(cg, e, node_exponent_constant(node)) : smin(cg, least, e);
    }
    int g = node->op == OP_concat ? 0 : log2_ceil(terms);
    return exponent_clamp(cg, smax(cg, least, add_const(cg, top, g - node_align_bits(node))));
}

static LLVMValueRef summed_exponent(Codegen *cg, const Node *node) {
    LLVMValueRef e = const32(cg, node_exponent_constant(node));
    for (int i = 0; i < node->in_count; i++) {
        int weight = node_exponent_weight(node, i);
        if (weight != 0)
            e = add(cg, e, mul_by(cg, value_exponent(cg, node->in[i]), weight));
    }
    return exponent_clamp(cg, e);
}

LLVMValueRef node_exponent(Codegen *cg, const Node *node) {
    switch (op_info(node->op)->exponent) {
    case RULE_SUM:
        return summed_exponent(cg, node);
    case RULE_SAME:
        return value_exponent(cg, node->in[0]);
    case RULE_ALIGN:
        return aligned_exponent(cg, node, false);
    case RULE_FIRST:
        return aligned_exponent(cg, node, true);
    case RULE_CONST:
        return const32(cg, node_exponent_constant(node));
    case RULE_HALF: {
        LLVMValueRef half = LLVMBuildAShr(cg->builder, value_exponent(cg, node->in[0]), const32(cg, 1), "");
        return exponent_clamp(cg, add_const(cg, half, node_exponent_constant(node)));
    }
    case RULE_LABEL:
        return node->in_count == 2 ? value_exponent(cg, node->in[1]) : const32(cg, 0);
    case RULE_RESCALE:
    case RULE_NONE:
        break;
    }
    internal_error("codegen: %s has no exponent rule", op_info(node->op)->name);
}
