/* Pointwise groups: a root and the nodes fused into it, evaluated element by element inside one loop nest. A fused value is never stored;
 * leaves are loaded through streams of the space, broadcast dimensions with stride 0. */
#include "codegen/space.h"
#include "runtime/fixed.h"

#include <string.h>

bool value_is_fused(const Value *value) {
    return value->kind == VALUE_NODE && value->def->fused_into != NULL;
}

/* A fused value that is not evaluated element by element. */
static bool is_near(const Value *value) {
    return value_is_fused(value) && op_info(value->def->op)->kind == KIND_CONTRACT;
}

View view_same(const Value *value) {
    View view = {.value = value};
    for (int d = 0; d < value->shape.rank; d++)
        view.dims[d] = value->shape.dim[d] == 1 ? -1 : d; /* as view_operand has them */
    return view;
}

/* How a node's input is read where its output is read as `view`. */
static View view_operand(const Node *node, int input, View view) {
    View operand = {.value = node->in[input]};
    Shape shape = operand.value->shape;
    if ((node->op == OP_bias || node->op == OP_equalize || node->op == OP_restore) && input == 1) {
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
    return value->kind == VALUE_NODE && op_info(value->def->op)->kind == KIND_RANDOM && value_is_fused(value);
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
    int number = space_stream(group->space, group->order, stride, 0);
    group->space->logical[number] = needs_logical_index(view.value);
    group->leaves[group->leaf_count++] = (Leaf){view, number};
}

int group_logical(Group *group, Shape shape) {
    int64_t stride[MAX_RANK], step = 1;
    for (int d = shape.rank - 1; d >= 0; step *= shape.dim[d--])
        stride[d] = step;
    int stream = space_stream(group->space, group->order, stride, 0);
    group->space->logical[stream] = true;
    return stream;
}

void group_collect(Codegen *cg, Group *group, View view) {
    if (!value_is_fused(view.value) || needs_logical_index(view.value) || is_near(view.value)) {
        add_leaf(group, view);
        if (is_near(view.value))
            group->near = view.value->def;
        return;
    }
    const Node *node = view.value->def;
    bool known = group->node_count == MAX_STREAMS;
    for (int i = 0; !known && i < group->node_count; i++)
        known = group->nodes[i] == node;
    if (!known)
        group->nodes[group->node_count++] = node;
    for (int i = 0; i < node->in_count; i++)
        group_collect(cg, group, view_operand(node, i, view));
}

/* --- widening --- */

enum { WIDE_ENOUGH = 64, WIDE_MOST = 1024, VECTOR = 16 };

/* How many rows make one inner loop: a divisor of their number that gives whole vectors if one does; 1: none. */
static int64_t rows_together(int64_t rows, int64_t length) {
    int64_t best = 1;
    for (int64_t f = 2; f <= rows && f * length <= WIDE_MOST; f++) {
        if (rows % f != 0)
            continue;
        bool whole = f * length % VECTOR == 0;
        if (f * length >= WIDE_ENOUGH && whole)
            return f;
        if (best * length < WIDE_ENOUGH)
            best = f;
    }
    return best;
}

static bool is_linear(const Space *space, int stream) {
    int last = space->rank - 1;
    return space->stride[stream][last - 1] == space->stride[stream][last] * space->extent[last];
}

static bool is_leaf(const Group *group, int stream) {
    for (int i = 0; i < group->leaf_count; i++)
        if (group->leaves[i].stream == stream)
            return true;
    return false;
}

/* Whether the inner loop of every stream is linear over several rows, or can come from a table. */
static bool can_widen(const Group *group) {
    const Space *space = group->space;
    for (int i = 0; i < space->streams; i++) {
        if (is_linear(space, i) || group->space->logical[i])
            continue;
        for (int k = 0; k + 1 < space->rank; k++)
            if (!is_leaf(group, i) || space->stride[i][k] != 0)
                return false;
    }
    return true;
}

/* Short rows as one inner loop. */
static void widen(Group *group) {
    Space *space = group->space;
    int last = space->rank - 1;
    if (last < 1 || space->extent[last] >= WIDE_ENOUGH || !can_widen(group))
        return;
    int64_t parts = space_parts_from(space, last - 1);
    int64_t length = space->extent[last], repeat = rows_together(space->extent[last - 1] / parts, length);
    if (repeat == 1)
        return;
    for (int i = 0; i < space->streams; i++) {
        group->tabled[i] = !is_linear(space, i);
        group->step[i][0] = space->stride[i][last - 1];
        group->step[i][1] = space->stride[i][last];
        if (group->tabled[i])
            space->stride[i][last] = 0;
        space->stride[i][last - 1] *= repeat;
    }
    group->period = length * repeat;
    group->repeat = repeat;
    space->extent[last] = group->period;
    space->extent[last - 1] /= repeat;
}

bool group_look_ahead(const Group *group) {
    enum { LEAST_BYTES = 256 * 1024 };
    Space *space = group->space;
    bool any = false;
    for (int i = 0; i < group->leaf_count; i++) {
        const Value *value = group->leaves[i].view.value;
        int stream = group->leaves[i].stream;
        if (is_near(value) || space->logical[stream] || value_bytes(value) < LEAST_BYTES)
            continue;
        space->far[stream] = (Far){value->offset, type_bytes(value->type)};
        any = true;
    }
    return any;
}

/* A long row is cut, so that each turn asks for a little. */
static void cut_row(Group *group) {
    enum { ROW = 128 };
    Space *space = group->space;
    int last = space->rank - 1;
    bool fits = space->extent[last] % ROW == 0 && space->extent[last] / ROW % space_parts_from(space, last) == 0;
    if (group->repeat == 0 && fits && space->extent[last] > ROW)
        space_cut(space, last, ROW);
}

void group_close(Group *group) {
    space_collapse(group->space);
    widen(group);
    if (group_look_ahead(group))
        cut_row(group);
}

static const Value *leaf_value(const Group *group, int stream) {
    for (int i = 0; i < group->leaf_count; i++)
        if (group->leaves[i].stream == stream)
            return group->leaves[i].view.value;
    return NULL;
}

static LLVMTypeRef table_type(Codegen *cg, const Group *group, int stream) {
    Type type = group->space->logical[stream] ? T_I32 : leaf_value(group, stream)->type;
    return type == T_I64 || type == T_REAL ? element_type(cg, type) : cg->i32;
}

void group_prepare(Codegen *cg, Group *group) {
    for (int i = 0; i < group->node_count; i++)
        function_table(cg, group->nodes[i]);
    for (int i = 0; i < group->space->streams; i++) {
        if (!group->tabled[i])
            continue;
        LLVMTypeRef type = table_type(cg, group, i);
        group->table[i] = local_array(cg, type, group->period);
        Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, group->period));
        int64_t length = group->period / group->repeat;
        LLVMValueRef row = mul_by(cg, udiv_by(cg, loop.index, length), group->step[i][0]);
        LLVMValueRef x = add(cg, row, mul_by(cg, urem_by(cg, loop.index, length), group->step[i][1]));
        int bits = type == cg->i64 ? 64 : 32;
        x = group->space->logical[i] ? mul(cg, as_bits(cg, x, bits), const32(cg, (int64_t)INTC_RANDOM_STEP))
                                     : load_as(cg, leaf_value(group, i), x, bits);
        LLVMBuildStore(cg->builder, x, LLVMBuildInBoundsGEP2(cg->builder, type, group->table[i], &loop.index, 1, ""));
        loop_end(cg, &loop);
    }
}

static LLVMValueRef from_table(Codegen *cg, const Group *group, const Nest *nest, int stream) {
    LLVMTypeRef type = table_type(cg, group, stream);
    LLVMValueRef at = nest->index[nest->space->rank - 1];
    return LLVMBuildLoad2(cg->builder, type, LLVMBuildInBoundsGEP2(cg->builder, type, group->table[stream], &at, 1, ""), "");
}

LLVMValueRef group_index(Codegen *cg, const Group *group, const Nest *nest, int stream) {
    LLVMValueRef index = nest_index(cg, nest, stream);
    return group->tabled[stream] ? add(cg, index, from_table(cg, group, nest, stream)) : index;
}

/* --- evaluation --- */

static int leaf_stream(const Group *group, View view) {
    for (int i = 0; i < group->leaf_count; i++)
        if (view_equal(group->leaves[i].view, view))
            return group->leaves[i].stream;
    internal_error("codegen: operand %s was not collected", view.value->name);
}

static LLVMValueRef load_leaf(Codegen *cg, const Group *group, const Nest *nest, View view) {
    int stream = leaf_stream(group, view);
    if (group->tabled[stream])
        return from_table(cg, group, nest, stream);
    return load_as(cg, view.value, nest_index(cg, nest, stream), view.value->type == T_I64 ? 64 : 32);
}

LLVMValueRef group_eval(Codegen *cg, const Group *group, const Nest *nest, View view) {
    const Value *value = view.value;
    if (!value_is_fused(value) || is_near(value))
        return load_leaf(cg, group, nest, view);
    const Node *node = value->def;
    LLVMValueRef *operands = arena_alloc(cg->memory, (size_t)node->in_count + 1, sizeof *operands);
    if (needs_logical_index(value))
        operands[0] = group_index(cg, group, nest, leaf_stream(group, view));
    for (int i = 0; i < node->in_count; i++) {
        View operand = view_operand(node, i, view);
        bool repeated = i > 0 && view_equal(operand, view_operand(node, i - 1, view));
        operands[i] = repeated ? operands[i - 1] : group_eval(cg, group, nest, operand);
    }
    ElementEmitter *emit = node_is_float(node) ? float_element(node->op) : element_emitter(node->op);
    if (emit == NULL)
        internal_error("codegen: %s cannot be fused", op_info(node->op)->name);
    return emit(cg, node, operands);
}
