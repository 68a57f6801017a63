/* Entry functions: the nodes of a graph in order, the exponents of what they compute, then the updates. An entry function is a range of the
 * table of calls, which one function walks. Before: STAGE_PLANNED. */
#include "codegen/space.h"

#include <string.h>

static Emitter *integer_emitter(Op op) {
    static Emitter *const table[OP_COUNT] = {
#define OP(name, ...) [OP_##name] = emit_##name,
#include "ir/ops.def"
#undef OP
    };
    return table[op];
}

static Emitter *emitter(const Node *node) {
    Emitter *own = node_is_float(node) ? float_emitter(node->op) : NULL;
    return own != NULL ? own : integer_emitter(node->op);
}

static void forget_exponents(Codegen *cg) {
    memset(cg->exponents, 0, (size_t)cg->graph->value_count * sizeof *cg->exponents);
}

static bool has_exponent(const Value *value) {
    return !value->integer && value->exponent_offset >= 0;
}

static void emit_exponent(Codegen *cg, const Node *node) {
    forget_exponents(cg);
    const Value *out = node->out[0];
    if (op_info(node->op)->exponent != RULE_RESCALE && has_exponent(out)) {
        kernel_begin(cg, node, "exponent");
        store_at(cg, out->exponent_offset, 4, cg->i32, const64(cg, 0), node_exponent(cg, node), 4);
        kernel_end(cg, 1, 0);
    }
}

static void emit_node(Codegen *cg, const Node *node) {
    if (emitter(node) == NULL)
        internal_error("codegen: node without an operator");
    cg->scratch = 0;
    forget_exponents(cg);
    emitter(node)(cg, node);
    emit_exponent(cg, node);
    for (int i = 0; i < cg->graph->node_count; i++)
        if (cg->graph->nodes[i]->beside == node && cg->graph->nodes[i]->op == node->op)
            emit_exponent(cg, cg->graph->nodes[i]);
}

/* Copies `next` to its state in the state's order; the node only names the kernel. */
static void emit_update(Codegen *cg, const Node *node, const Value *next, const Value *state) {
    Space space = space_new(state->shape, state->order);
    int64_t from[MAX_RANK], to[MAX_RANK];
    value_strides(next, from);
    value_strides(state, to);
    int in = space_stream(&space, state->order, from, 0), out = space_stream(&space, state->order, to, 0);
    space_collapse(&space);
    kernel_begin(cg, node, "update");
    Nest nest;
    nest_begin(cg, &nest, &space);
    store_element(cg, state, nest_index(cg, &nest, out), load_element(cg, next, nest_index(cg, &nest, in)));
    nest_end(cg, &nest);
    kernel_end(cg, space_tiles(&space), space_elements(&space));
}

/* --- exponents of states --- */

enum { MOST_MOVES = MAX_PLACES - 2 };

/* Copies i32s between `places` and a row of them from `row` on. */
static void emit_moves(Codegen *cg, const int64_t *places, int count, int64_t row, bool to_row) {
    for (int first = 0; first < count; first += MOST_MOVES) {
        int some = count - first < MOST_MOVES ? count - first : MOST_MOVES;
        kernel_begin(cg, NULL, to_row ? "read" : "write");
        LLVMBasicBlockRef saved = head_enter(cg);
        LLVMValueRef number = node_number(cg, some), base = arena_at(cg, row + (int64_t)first * 4);
        head_leave(cg, saved);
        for (int i = 0; i < some; i++)
            place_add(cg, places[first + i]);
        Loop loop = loop_begin(cg, const64(cg, 0), number);
        LLVMValueRef near = LLVMBuildInBoundsGEP2(cg->builder, cg->i32, base, &loop.index, 1, "");
        LLVMValueRef offset = listed_place(cg, add_const(cg, loop.index, 2));
        LLVMValueRef far = LLVMBuildInBoundsGEP2(cg->builder, cg->i8, cg->arena, &offset, 1, "");
        LLVMValueRef x = LLVMBuildLoad2(cg->builder, cg->i32, to_row ? far : near, "");
        LLVMBuildStore(cg->builder, x, to_row ? near : far);
        loop_end(cg, &loop);
        kernel_end(cg, 1, 0);
    }
}

static void store_exponent(Codegen *cg, int64_t place, const Value *value) {
    kernel_begin(cg, NULL, "exponent");
    store_at(cg, place, 4, cg->i32, const64(cg, 0), value_exponent(cg, value), 4);
    kernel_end(cg, 1, 0);
}

/* An exponent that lies in the arena, not computed where it is used. */
static bool is_stored(const Value *value) {
    return value->exponent_kind != EXPONENT_CONST && has_exponent(value) && !value_is_fused(value);
}

/* All new exponents are read before one is written. */
static void emit_updates(Codegen *cg, const Graph *graph) {
    if (graph->update_count == 0 || graph->node_count == 0)
        return;
    int64_t *from = arena_alloc(cg->memory, (size_t)graph->update_count, sizeof *from);
    int64_t *to = arena_alloc(cg->memory, (size_t)graph->update_count, sizeof *to);
    int stored = 0, count = 0;
    cg->scratch = 0;
    int64_t row = scratch_alloc(cg, 4 * (int64_t)graph->update_count);
    forget_exponents(cg);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < graph->update_count; i++) {
            const Update *update = &graph->updates[i];
            if (!has_exponent(update->state) || is_stored(update->next) != (pass == 0))
                continue;
            if (pass == 0)
                from[stored++] = update->next->exponent_offset;
            else
                store_exponent(cg, row + 4 * (int64_t)count, update->next);
            to[count++] = update->state->exponent_offset;
        }
    emit_moves(cg, from, stored, row, true);
    for (int i = 0; i < graph->update_count; i++) {
        const Update *update = &graph->updates[i];
        if (update->next->offset != update->state->offset)
            emit_update(cg, update->next->def != NULL ? update->next->def : graph->nodes[graph->node_count - 1], update->next,
                        update->state);
    }
    emit_moves(cg, to, count, row, false);
}

/* The runtime reads the exponent of every output from the arena. */
static void emit_output_exponents(Codegen *cg, const Graph *graph) {
    for (int i = 0; i < graph->output_count; i++) {
        const Value *value = graph->outputs[i].value;
        if (!value->integer && value->exponent_kind == EXPONENT_CONST)
            store_exponent(cg, output_exponent_place(cg, &graph->outputs[i]), value);
    }
}

/* --- entries --- */

/* void walk(arena, pool, first, after): the calls [first, after), repeated where they ask for it. */
static LLVMTypeRef walk_type(const Codegen *cg) {
    LLVMTypeRef params[] = {cg->ptr, cg->ptr, cg->i64, cg->i64};
    return LLVMFunctionType(cg->none, params, 4, false);
}

void entry_begin(Codegen *cg, const char *name) {
    if (cg->walk == NULL)
        cg->walk = LLVMAddFunction(cg->module, "intc_walk", walk_type(cg));
    cg->entry = LLVMAddFunction(cg->module, name, LLVMFunctionType(cg->none, (LLVMTypeRef[]){cg->ptr, cg->ptr}, 2, false));
    cg->entry_first = cg->calls.count;
    function_start(cg, cg->entry);
}

void entry_end(Codegen *cg) {
    LLVMValueRef args[] = {LLVMGetParam(cg->entry, 0), LLVMGetParam(cg->entry, 1), const64(cg, cg->entry_first),
                           const64(cg, cg->calls.count)};
    LLVMBuildCall2(cg->builder, walk_type(cg), cg->walk, args, 4, "");
    LLVMBuildRetVoid(cg->builder);
}

void entry_close(Codegen *cg) {
    enum { AGAIN = 7 };
    LLVMTypeRef row = call_type(cg);
    LLVMTypeRef params[] = {cg->ptr, cg->ptr, cg->ptr, cg->i64}, type = LLVMFunctionType(cg->none, params, 4, false);
    LLVMValueRef caller = LLVMAddFunction(cg->module, "intc_rt_call", type), changed = share_variable(cg, &cg->changed, "changed");
    LLVMValueRef loudest = share_variable(cg, &cg->loudest, "loudest");
    LLVMSetLinkage(cg->walk, LLVMInternalLinkage);
    function_start(cg, cg->walk);
    LLVMValueRef at = local_new(cg, cg->i64, LLVMGetParam(cg->walk, 2)), after = LLVMGetParam(cg->walk, 3);
    LLVMBasicBlockRef test = LLVMAppendBasicBlockInContext(cg->context, cg->walk, "test");
    LLVMBasicBlockRef one = LLVMAppendBasicBlockInContext(cg->context, cg->walk, "one");
    LLVMBasicBlockRef done = LLVMAppendBasicBlockInContext(cg->context, cg->walk, "done");
    LLVMBuildBr(cg->builder, test);
    LLVMPositionBuilderAtEnd(cg->builder, test);
    LLVMValueRef i = local_get(cg, cg->i64, at);
    LLVMBuildCondBr(cg->builder, compare(cg, LLVMIntSLT, i, after), one, done);
    LLVMPositionBuilderAtEnd(cg->builder, one);
    LLVMValueRef call = LLVMBuildInBoundsGEP2(cg->builder, row, cg->calls.address, &i, 1, "");
    LLVMValueRef image = as_unsigned(cg, LLVMBuildLoad2(cg->builder, cg->i32, loudest, ""), 64);
    LLVMValueRef args[] = {LLVMGetParam(cg->walk, 1), call, LLVMGetParam(cg->walk, 0), image};
    LLVMBuildCall2(cg->builder, type, caller, args, 4, "");
    LLVMValueRef place = LLVMBuildStructGEP2(cg->builder, row, call, AGAIN, ""), zero = const32(cg, 0);
    LLVMValueRef again = as_unsigned(cg, LLVMBuildLoad2(cg->builder, cg->i8, place, ""), 32);
    LLVMValueRef asked = compare(cg, LLVMIntNE, LLVMBuildLoad2(cg->builder, cg->i32, changed, ""), zero);
    LLVMValueRef back = LLVMBuildAnd(cg->builder, asked, compare(cg, LLVMIntNE, again, zero), "");
    local_set(cg, at, choose(cg, back, sub(cg, i, as_bits(cg, again, 64)), add_const(cg, i, 1)));
    LLVMBuildBr(cg->builder, test);
    LLVMPositionBuilderAtEnd(cg->builder, done);
    LLVMBuildRetVoid(cg->builder);
}

static int64_t images_of(const Graph *graph) {
    for (int i = 0; i < graph->value_count; i++)
        if (graph->values[i]->kind == VALUE_INPUT && graph->values[i]->shape.rank > 0)
            return graph->values[i]->shape.dim[0];
    return 1;
}

LLVMValueRef emit_entry(Codegen *cg, const Graph *graph, const char *name) {
    cg->graph = graph;
    cg->images = images_of(graph);
    cg->exponents = arena_alloc(cg->memory, (size_t)graph->value_count + 1, sizeof *cg->exponents);
    entry_begin(cg, arena_printf(cg->memory, "intc_entry_%s", name));
    LLVMSetLinkage(cg->entry, LLVMInternalLinkage);
    for (int i = 0; i < graph->node_count; i++)
        if (graph->nodes[i]->fused_into == NULL && graph->nodes[i]->beside == NULL)
            emit_node(cg, graph->nodes[i]);
    emit_updates(cg, graph);
    emit_output_exponents(cg, graph);
    entry_end(cg);
    return cg->entry;
}
