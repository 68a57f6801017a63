/* Entry functions: the nodes of a graph in order, the exponents of what they compute, then the updates. Before: STAGE_PLANNED. */
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

static void emit_node(Codegen *cg, const Node *node) {
    if (emitter(node) == NULL)
        internal_error("codegen: node without an operator");
    cg->scratch = 0;
    forget_exponents(cg);
    emitter(node)(cg, node);
    forget_exponents(cg);
    const Value *out = node->out[0];
    if (op_info(node->op)->exponent != RULE_RESCALE && has_exponent(out)) {
        kernel_begin(cg, node, "exponent");
        store_at(cg, out->exponent_offset, 4, cg->i32, const64(cg, 0), node_exponent(cg, node), 4);
        kernel_end(cg, 1, 0);
    }
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

/* All new exponents are read before one is written. */
static void emit_updates(Codegen *cg, const Graph *graph) {
    if (graph->update_count == 0 || graph->node_count == 0)
        return;
    LLVMValueRef *exponents = arena_alloc(cg->memory, (size_t)graph->update_count, sizeof *exponents);
    forget_exponents(cg);
    for (int i = 0; i < graph->update_count; i++)
        if (has_exponent(graph->updates[i].state))
            exponents[i] = value_exponent(cg, graph->updates[i].next);
    for (int i = 0; i < graph->update_count; i++) {
        const Update *update = &graph->updates[i];
        if (update->next->offset != update->state->offset)
            emit_update(cg, update->next->def != NULL ? update->next->def : graph->nodes[graph->node_count - 1], update->next,
                        update->state);
    }
    for (int i = 0; i < graph->update_count; i++)
        if (exponents[i] != NULL)
            store_at(cg, graph->updates[i].state->exponent_offset, 4, cg->i32, const64(cg, 0), exponents[i], 4);
}

/* The runtime reads the exponent of every output from the arena. */
static void emit_output_exponents(Codegen *cg, const Graph *graph) {
    for (int i = 0; i < graph->output_count; i++) {
        const Value *value = graph->outputs[i].value;
        if (!value->integer && value->exponent_kind == EXPONENT_CONST)
            store_at(cg, output_exponent_place(cg, &graph->outputs[i]), 4, cg->i32, const64(cg, 0), const32(cg, value->exponent), 4);
    }
}

LLVMValueRef emit_entry(Codegen *cg, const Graph *graph, const char *name) {
    cg->graph = graph;
    cg->exponents = arena_alloc(cg->memory, (size_t)graph->value_count + 1, sizeof *cg->exponents);
    LLVMTypeRef type = LLVMFunctionType(cg->none, (LLVMTypeRef[]){cg->ptr, cg->ptr}, 2, false);
    cg->entry = LLVMAddFunction(cg->module, arena_printf(cg->memory, "intc_entry_%s", name), type);
    LLVMSetLinkage(cg->entry, LLVMInternalLinkage);
    cg->arena = cg->entry_arena = LLVMGetParam(cg->entry, 0);
    cg->entry_pool = LLVMGetParam(cg->entry, 1);
    function_start(cg, cg->entry);
    for (int i = 0; i < graph->node_count; i++)
        if (graph->nodes[i]->fused_into == NULL && graph->nodes[i]->beside == NULL)
            emit_node(cg, graph->nodes[i]);
    emit_updates(cg, graph);
    emit_output_exponents(cg, graph);
    LLVMBuildRetVoid(cg->builder);
    return cg->entry;
}
