/* Pointwise groups: a root and the nodes fused into it, evaluated element by element inside one loop nest. A fused value is never stored;
 * leaves are loaded through streams of the space, broadcast dimensions with stride 0. */
#include "codegen/space.h"

#include <string.h>

bool value_is_fused(const Value *value) {
    return value->kind == VALUE_NODE && value->def->fused_into != NULL;
}

View view_same(const Value *value) {
    View view = {.value = value};
    for (int d = 0; d < value->shape.rank; d++)
        view.dims[d] = d;
    return view;
}

/* How a node's input is read where its output is read as `view`. */
static View view_operand(const Node *node, int input, View view) {
    View operand = {.value = node->in[input]};
    Shape shape = operand.value->shape;
    if (node->op == OP_bias && input == 1) {
        operand.dims[0] = view.dims[attr_int(node, "axis", 1)];
        return operand;
    }
    int shift = view.value->shape.rank - shape.rank;
    for (int d = 0; d < shape.rank; d++)
        operand.dims[d] = shape.dim[d] == 1 || d + shift < 0 ? -1 : view.dims[d + shift];
    return operand;
}

static bool view_equal(View a, View b) {
    bool equal = a.value == b.value;
    for (int d = 0; equal && d < a.value->shape.rank; d++)
        equal = a.dims[d] == b.dims[d];
    return equal;
}

/* Random bits need the logical index of the value that they belong to. */
static bool needs_logical_index(const Value *value) {
    return value->kind == VALUE_NODE && value->def->op == OP_random_mask && value_is_fused(value);
}

static void add_leaf(Group *group, View view) {
    for (int i = 0; i < group->leaf_count; i++)
        if (view_equal(group->leaves[i].view, view))
            return;
    if (group->leaf_count == MAX_STREAMS)
        internal_error("too many operands in one kernel");
    int64_t own[MAX_RANK] = {0}, stride[MAX_RANK] = {0};
    value_strides(view.value, own);
    if (needs_logical_index(view.value)) {
        int64_t step = 1;
        for (int d = view.value->shape.rank - 1; d >= 0; d--) {
            own[d] = step;
            step *= view.value->shape.dim[d];
        }
    }
    for (int d = 0; d < view.value->shape.rank; d++)
        if (view.dims[d] >= 0)
            stride[view.dims[d]] += own[d];
    group->leaves[group->leaf_count++] = (Leaf){view, space_stream(group->space, group->order, stride, 0)};
}

void group_collect(Codegen *cg, Group *group, View view) {
    if (!value_is_fused(view.value) || needs_logical_index(view.value)) {
        add_leaf(group, view);
        return;
    }
    const Node *node = view.value->def;
    for (int i = 0; i < node->in_count; i++)
        group_collect(cg, group, view_operand(node, i, view));
}

static LLVMValueRef leaf_index(Codegen *cg, const Group *group, const Nest *nest, View view) {
    for (int i = 0; i < group->leaf_count; i++)
        if (view_equal(group->leaves[i].view, view))
            return nest_index(cg, nest, group->leaves[i].stream);
    internal_error("codegen: operand %s was not collected", view.value->name);
}

LLVMValueRef group_eval(Codegen *cg, const Group *group, const Nest *nest, View view) {
    const Value *value = view.value;
    if (!value_is_fused(value))
        return load_as(cg, value, leaf_index(cg, group, nest, view), value->type == T_I64 ? 64 : 32);
    const Node *node = value->def;
    LLVMValueRef *operands = arena_alloc(cg->memory, (size_t)node->in_count + 1, sizeof *operands);
    if (needs_logical_index(value))
        operands[0] = as_bits(cg, leaf_index(cg, group, nest, view), 32);
    for (int i = 0; i < node->in_count; i++) {
        View operand = view_operand(node, i, view);
        bool repeated = i > 0 && view_equal(operand, view_operand(node, i - 1, view));
        operands[i] = repeated ? operands[i - 1] : group_eval(cg, group, nest, operand);
    }
    ElementEmitter *emit = element_emitter(node->op);
    if (emit == NULL)
        internal_error("codegen: %s cannot be fused", op_info(node->op)->name);
    return emit(cg, node, operands);
}
