/* The interpreter's driver: tensors, the exponent rules, the loop over nodes, the updates. It defines what a graph means.
 * Before: a verified graph; integer mode needs STAGE_SCALED. After eval_run: every node's outputs, and states moved on by one step.
 * The ops themselves are in eval_*.c, one file a kind. */
#include "ir/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static EvalNode *const functions[OP_COUNT] = {
#define OP(name, ...) [OP_##name] = eval_##name,
#include "ir/ops.def"
#undef OP
};

/* --- helpers of eval.h --- */

void eval_strides(Shape shape, int64_t stride[MAX_RANK]) {
    int64_t size = 1;
    for (int d = shape.rank - 1; d >= 0; d--) {
        stride[d] = size;
        size *= shape.dim[d];
    }
}

Walk walk_broadcast(Shape out, Shape in) {
    Walk walk = {.shape = out};
    int64_t stride[MAX_RANK];
    eval_strides(in, stride);
    for (int d = 0; d < in.rank; d++)
        walk.stride[out.rank - in.rank + d] = in.dim[d] == 1 ? 0 : stride[d];
    return walk;
}

void walk_next(Walk *walk) {
    for (int d = walk->shape.rank - 1; d >= 0; d--) {
        walk->offset += walk->stride[d];
        if (++walk->index[d] < walk->shape.dim[d])
            return;
        walk->offset -= walk->index[d] * walk->stride[d];
        walk->index[d] = 0;
    }
}

void eval_clear(bool exact, Tensor *tensor, int64_t n) {
    if (exact)
        memset(tensor->mantissa, 0, (size_t)n * sizeof *tensor->mantissa);
    else
        for (int64_t i = 0; i < n; i++)
            tensor->real[i] = 0;
}

/* --- tensors --- */

static void *allocate(int64_t n, size_t size) {
    void *memory = calloc(n > 0 ? (size_t)n : 1, size);
    if (memory == NULL)
        internal_error("out of memory");
    return memory;
}

/* Integer values have a real copy in real mode, so that an op may read a mask or a counter as a number. */
static void copy_integers(const Eval *eval, const Value *value) {
    Tensor *tensor = &eval->tensors[value->id];
    if (eval->mode != EVAL_REAL || !value->integer)
        return;
    int64_t n = shape_elements(value->shape);
    for (int64_t i = 0; i < n; i++)
        tensor->real[i] = (double)tensor->mantissa[i];
}

static void load_mantissas(Tensor *tensor, const Value *value, int64_t n) {
    if (value->mantissa != NULL)
        memcpy(tensor->mantissa, value->mantissa, (size_t)n * sizeof *tensor->mantissa);
    else if (value->real != NULL)
        internal_error("%%%s has no mantissas; the interpreter's integer mode needs the pass exponents", value->name);
    tensor->exponent = value->exponent;
    if (value->mantissa == NULL && value->exponent_kind == EXPONENT_DYNAMIC)
        tensor->exponent = INTC_EXPONENT_ZERO;
}

static void load_reals(Tensor *tensor, const Value *value, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (value->real != NULL)
            tensor->real[i] = value->real[i];
        else if (value->mantissa != NULL)
            tensor->real[i] = ldexp((double)value->mantissa[i], value->exponent);
}

static void load(const Eval *eval, const Value *value) {
    Tensor *tensor = &eval->tensors[value->id];
    int64_t n = shape_elements(value->shape);
    if (eval_exact(eval, value))
        load_mantissas(tensor, value, n);
    else
        load_reals(tensor, value, n);
    copy_integers(eval, value);
}

Eval *eval_new(Graph *graph, EvalMode mode) {
    if (mode == EVAL_INTEGER && graph->stage < STAGE_SCALED)
        internal_error("integer mode of @%s at stage %s", graph->name, stage_name(graph->stage));
    Eval *eval = allocate(1, sizeof *eval);
    eval->graph = graph;
    eval->mode = mode;
    eval->tensors = allocate(graph->value_count, sizeof *eval->tensors);
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        Tensor *tensor = &eval->tensors[i];
        int64_t n = shape_elements(value->shape);
        if (eval_exact(eval, value))
            tensor->mantissa = allocate(n, sizeof *tensor->mantissa);
        if (mode == EVAL_REAL)
            tensor->real = allocate(n, sizeof *tensor->real);
        if (value->exponent_kind == EXPONENT_CONST)
            tensor->exponent = value->exponent;
        if (value->kind == VALUE_PARAM || value->kind == VALUE_STATE || value->kind == VALUE_CONST)
            load(eval, value);
    }
    return eval;
}

void eval_free(Eval *eval) {
    if (eval == NULL)
        return;
    for (int i = 0; i < eval->graph->value_count; i++) {
        free(eval->tensors[i].mantissa);
        free(eval->tensors[i].real);
    }
    free(eval->tensors);
    free(eval);
}

/* --- exponents of output 0 --- */

static int exponent_sum(const Eval *eval, const Node *node) {
    int64_t e = node_exponent_constant(node);
    for (int i = 0; i < node->in_count; i++)
        if (!node->in[i]->integer)
            e += (int64_t)node_exponent_weight(node, i) * eval_in(eval, node, i)->exponent;
    return intc_exponent_clamp(e);
}

/* ALIGN and FIRST. A term is an input of weight 1, or a pair (x, c) of a weighted sum. */
static int exponent_align(const Eval *eval, const Node *node, bool first) {
    int width = node->op == OP_weighted_sum ? 2 : 1, terms = 0;
    int64_t least = INT64_MAX, most = INT64_MIN;
    for (int i = 0; i < node->in_count / width; i++) {
        if (node_exponent_weight(node, i * width) == 0)
            continue;
        int64_t e = eval_in(eval, node, i * width)->exponent;
        int64_t bound = node->in[i * width]->bound;
        if (width == 2) {
            e = intc_exponent_clamp(e + eval_in(eval, node, i * width + 1)->exponent + weighted_cut(node, i));
            bound = weighted_bound(node, i);
        }
        if (!first || terms == 0)
            least = e + node_exponent_constant(node) < least ? e + node_exponent_constant(node) : least;
        int64_t top = e + intc_bit_length((uint64_t)bound);
        most = top > most ? top : most;
        terms++;
    }
    int g = node->op == OP_concat ? 0 : eval_log2_ceil(terms);
    most += g - node_align_bits(node);
    return intc_exponent_clamp(least > most ? least : most);
}

static void set_exponent(const Eval *eval, const Node *node) {
    Tensor *out = eval_out(eval, node, 0);
    if (node->out[0]->integer)
        return;
    switch (op_info(node->op)->exponent) {
    case RULE_SUM:
        out->exponent = exponent_sum(eval, node);
        break;
    case RULE_SAME:
        out->exponent = eval_in(eval, node, 0)->exponent;
        break;
    case RULE_ALIGN:
        out->exponent = exponent_align(eval, node, false);
        break;
    case RULE_FIRST:
        out->exponent = exponent_align(eval, node, true);
        break;
    case RULE_CONST:
        out->exponent = node_exponent_constant(node);
        break;
    case RULE_HALF:
        out->exponent = intc_exponent_clamp((eval_in(eval, node, 0)->exponent >> 1) + node_exponent_constant(node));
        break;
    case RULE_LABEL:
        out->exponent = node->in_count > 1 ? eval_in(eval, node, 1)->exponent : 0;
        break;
    case RULE_RESCALE:
    case RULE_NONE:
        break;
    }
}

/* --- running --- */

static void check(const Eval *eval, const Node *node, int k) {
    const Value *value = node->out[k];
    const Tensor *tensor = &eval->tensors[value->id];
    int64_t n = shape_elements(value->shape);
    for (int64_t i = 0; i < n; i++)
        if (intc_magnitude(tensor->mantissa[i]) > (uint64_t)value->bound)
            internal_error("%s %%%s: element %lld is %lld, beyond its bound %lld", op_info(node->op)->name, value->name, (long long)i,
                           (long long)tensor->mantissa[i], (long long)value->bound);
    if (value->exponent_kind == EXPONENT_CONST && tensor->exponent != value->exponent)
        internal_error("%s %%%s: exponent %d, declared constant %d", op_info(node->op)->name, value->name, tensor->exponent,
                       value->exponent);
}

void eval_nodes(Eval *eval) {
    const Graph *graph = eval->graph;
    for (int i = 0; i < graph->value_count; i++)
        if (graph->values[i]->kind != VALUE_NODE)
            copy_integers(eval, graph->values[i]);
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        if (eval->mode == EVAL_INTEGER)
            set_exponent(eval, node);
        functions[node->op](eval, node);
        for (int k = 0; k < node->out_count; k++) {
            copy_integers(eval, node->out[k]);
            if (eval->mode == EVAL_INTEGER)
                check(eval, node, k);
        }
    }
}

static void copy_contents(bool exact, Tensor *to, const Tensor *from, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        eval_copy(exact, to, i, from, i);
    to->exponent = from->exponent;
}

/* All next values are read before any state changes: a state may be the next value of another. */
static void update(Eval *eval) {
    const Graph *graph = eval->graph;
    Tensor *next = allocate(graph->update_count, sizeof *next);
    for (int i = 0; i < graph->update_count; i++) {
        const Value *value = graph->updates[i].next;
        int64_t n = shape_elements(value->shape);
        bool exact = eval_exact(eval, value);
        if (exact)
            next[i].mantissa = allocate(n, sizeof *next[i].mantissa);
        else
            next[i].real = allocate(n, sizeof *next[i].real);
        copy_contents(exact, &next[i], &eval->tensors[value->id], n);
    }
    for (int i = 0; i < graph->update_count; i++) {
        const Value *state = graph->updates[i].state;
        copy_contents(eval_exact(eval, state), &eval->tensors[state->id], &next[i], shape_elements(state->shape));
        copy_integers(eval, state);
        free(next[i].mantissa);
        free(next[i].real);
    }
    free(next);
}

void eval_run(Eval *eval) {
    eval_nodes(eval);
    update(eval);
}
