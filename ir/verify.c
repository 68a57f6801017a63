/* The verifier. Before: any graph, right or wrong, whose arrays are as long as their counts say. After: true if it may be evaluated and
 * compiled: operands come before their users, shapes follow from operators, types and bounds are those of the stage, no accumulator can
 * overflow. It runs after every pass. */
#include "ir/text.h"
#include "runtime/fixed.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const Graph *graph;
    Diag *diag;
    Arena *arena;   /* of this run */
    Graph *scratch; /* holds the outputs that inference makes */
    bool *defined;  /* by value id */
    bool good;
} Verifier;

/* The largest mantissa that every shift and rounding of runtime/fixed.h is exact for. */
#define MANTISSA_LIMIT ((int64_t)1 << 62)

static int64_t capacity(Type type) {
    static const int64_t most[] = {0, 128, 32768, INT32_MAX, MANTISSA_LIMIT};
    return most[type];
}

/* Complaints name the graph, the operator and the value that the node defines. */
__attribute__((format(printf, 3, 4))) static bool complain(Verifier *verifier, const Node *node, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    verifier->good = false;
    if (node != NULL)
        diag_error(verifier->diag, &node->origin, "@%s: %s %%%s: %s", verifier->graph->name, op_info(node->op)->name,
                   node->out_count > 0 && node->out[0] != NULL ? node->out[0]->name : "?", text);
    else
        diag_error(verifier->diag, NULL, "@%s: %s", verifier->graph->name, text);
    return false;
}

static const char *text_of(const Verifier *verifier, const Value *value) {
    return arena_printf(verifier->arena, "%s[%s]", type_name(value->type), shape_text(verifier->arena, value->shape));
}

/* --- values --- */

static bool belongs(const Verifier *verifier, const Value *value) {
    return value != NULL && value->id >= 0 && value->id < verifier->graph->value_count && verifier->graph->values[value->id] == value;
}

static bool check_order(const Value *value) {
    unsigned seen = 0;
    for (int i = 0; i < value->shape.rank; i++) {
        if (value->order[i] >= value->shape.rank)
            return false;
        seen |= 1u << value->order[i];
    }
    return seen == (1u << value->shape.rank) - 1;
}

static bool check_type(Verifier *verifier, const Value *value) {
    bool scaled = verifier->graph->stage >= STAGE_SCALED;
    const char *name = value->name, *stage = stage_name(verifier->graph->stage);
    if (value->integer) {
        if (value->type == T_REAL)
            return complain(verifier, value->def, "%%%s is an integer value: expected an integer type, found real", name);
        if (value->exponent_kind != EXPONENT_NONE)
            return complain(verifier, value->def, "%%%s is an integer value: expected no exponent", name);
        return true;
    }
    if (!scaled && value->type != T_REAL)
        return complain(verifier, value->def, "%%%s at stage %s: expected type real, found %s", name, stage, type_name(value->type));
    if (!scaled)
        return true;
    if (value->type == T_REAL)
        return complain(verifier, value->def, "%%%s at stage %s: expected an integer type, found real", name, stage);
    if (value->exponent_kind == EXPONENT_NONE)
        return complain(verifier, value->def, "%%%s: expected an exponent, found none", name);
    if (value->exponent < INTC_EXPONENT_ZERO || value->exponent > -INTC_EXPONENT_ZERO)
        return complain(verifier, value->def, "%%%s: exponent %d, expected at most 16384 either way", name, value->exponent);
    if (value->bound < 0 || value->bound > capacity(value->type))
        return complain(verifier, value->def, "%%%s: bound %lld does not fit %s, expected at most %lld", name, (long long)value->bound,
                        type_name(value->type), (long long)capacity(value->type));
    return true;
}

/* Whether it is certain that no magnitude exceeds the bound: neither bound - m nor bound + m has a sign. A loop of vectors without an exit:
 * weights are many. */
static bool within(const int64_t *mantissa, int64_t n, int64_t bound) {
    uint64_t any = 0;
    for (int64_t i = 0; i < n; i++)
        any |= ((uint64_t)bound - (uint64_t)mantissa[i]) | ((uint64_t)bound + (uint64_t)mantissa[i]);
    return any >> 63 == 0;
}

/* Likewise; x - x is 0 but for infinities and NaN. */
static bool all_finite(const double *real, int64_t n) {
    uint64_t any = 0;
    for (int64_t i = 0; i < n; i++) {
        double rest = real[i] - real[i];
        uint64_t bits;
        memcpy(&bits, &rest, sizeof bits);
        any |= bits;
    }
    return any == 0;
}

static bool check_contents(Verifier *verifier, Value *value) {
    int64_t n = shape_elements(value->shape);
    bool exact = value->integer || verifier->graph->stage >= STAGE_SCALED;
    if (exact && value->mantissa == NULL && value->real != NULL)
        return complain(verifier, NULL, "%%%s: expected mantissas, found only reals", value->name);
    const void *contents = value->mantissa != NULL ? (const void *)value->mantissa : value->real;
    if (contents == value->verified && value->bound == value->verified_bound)
        return true;
    bool good = value->mantissa == NULL || within(value->mantissa, n, value->bound);
    for (int64_t i = 0; exact && !good && i < n; i++)
        if (intc_magnitude(value->mantissa[i]) > (uint64_t)value->bound)
            return complain(verifier, NULL, "%%%s: element %lld is %lld, expected at most the bound %lld", value->name, (long long)i,
                            (long long)value->mantissa[i], (long long)value->bound);
    bool finite = exact || value->real == NULL || all_finite(value->real, n);
    for (int64_t i = 0; !finite && i < n; i++)
        if (!isfinite(value->real[i]))
            return complain(verifier, NULL, "%%%s: element %lld is %g, expected a finite number", value->name, (long long)i,
                            value->real[i]);
    value->verified = contents;
    value->verified_bound = value->bound;
    return true;
}

static bool check_value(Verifier *verifier, int id) {
    Value *value = verifier->graph->values[id];
    if (value->id != id || value->name == NULL)
        return complain(verifier, NULL, "value %d: expected its own id and a name, found id %d", id, value->id);
    if (value->shape.rank < 0 || !shape_valid(value->shape.rank, value->shape.dim))
        return complain(verifier, value->def, "%%%s: no valid shape", value->name);
    if (!check_order(value))
        return complain(verifier, value->def, "%%%s: order is no permutation of its %d dimensions", value->name, value->shape.rank);
    if (!check_type(verifier, value))
        return false;
    if (value->kind == VALUE_HYPER && shape_elements(value->shape) != 1)
        return complain(verifier, NULL, "%%%s: expected a scalar hyper-parameter, found %s", value->name, text_of(verifier, value));
    if (value->kind == VALUE_PARAM || value->kind == VALUE_STATE || value->kind == VALUE_CONST)
        return check_contents(verifier, value);
    return true;
}

/* --- nodes --- */

static const char *const gradients[OP_COUNT] = {
#define OP(name, kind, min_in, max_in, outs, reads, exponent, bound, infer, grad) [OP_##name] = #grad,
#include "ir/ops.def"
#undef OP
};

static bool check_structure(Verifier *verifier, const Node *node) {
    const OpInfo *info = op_info(node->op);
    if (node->graph != verifier->graph)
        return complain(verifier, node, "the node belongs to another graph");
    if (node->in_count < info->min_in || node->in_count > info->max_in)
        return complain(verifier, node, "expected %d to %d operands, found %d", info->min_in, info->max_in, node->in_count);
    if (node->out_count != info->outs)
        return complain(verifier, node, "expected %d results, found %d", info->outs, node->out_count);
    for (int i = 0; i < node->in_count; i++) {
        if (!belongs(verifier, node->in[i]))
            return complain(verifier, node, "operand %d is no value of this graph", i);
        if (!verifier->defined[node->in[i]->id])
            return complain(verifier, node, "operand %d, %%%s: expected a definition before its use", i, node->in[i]->name);
    }
    for (int i = 0; i < node->out_count; i++) {
        if (!belongs(verifier, node->out[i]))
            return complain(verifier, node, "result %d is no value of this graph", i);
        if (node->out[i]->kind != VALUE_NODE || node->out[i]->def != node || node->out[i]->out != i)
            return complain(verifier, node, "result %d, %%%s: expected to be defined by this node", i, node->out[i]->name);
        if (verifier->defined[node->out[i]->id])
            return complain(verifier, node, "result %d, %%%s: defined twice", i, node->out[i]->name);
    }
    return true;
}

/* Ops that exist only from some pass on. */
static bool check_stage(Verifier *verifier, const Node *node) {
    Stage stage = verifier->graph->stage, first = STAGE_IMPORTED;
    if (node->op == OP_rescale)
        first = STAGE_SCALED;
    else if (node->op == OP_weighted_sum)
        first = STAGE_UPDATED;
    else if (strcmp(gradients[node->op], "forbidden") == 0)
        first = STAGE_TRAINED;
    if (stage < first)
        return complain(verifier, node, "expected not before stage %s, found at stage %s", stage_name(first), stage_name(stage));
    return true;
}

/* What inference does not look at. */
static bool check_operands(Verifier *verifier, const Node *node) {
    const Value *const *in = (const Value *const *)node->in;
    if (node->op == OP_rescale && node->in_count == 2 && shape_elements(in[1]->shape) != 1)
        return complain(verifier, node, "operand 1, %%%s: expected a scalar exponent, found %s", in[1]->name, text_of(verifier, in[1]));
    if (node->op == OP_maxpool_grad && !shape_equal(in[0]->shape, in[1]->shape))
        return complain(verifier, node, "operand 1, %%%s: expected the shape of operand 0, %s, found %s", in[1]->name,
                        text_of(verifier, in[0]), text_of(verifier, in[1]));
    for (int i = 1; node->op == OP_concat && i < node->in_count; i++)
        if (in[i]->integer != in[0]->integer)
            return complain(verifier, node, "operand %d, %%%s: expected %s like operand 0", i, in[i]->name,
                            in[0]->integer ? "an integer value" : "an exponent");
    if (node->op != OP_cross_entropy_grad)
        return true;
    int64_t axis = attr_int(node, "axis", 0);
    Shape labels = {0};
    for (int i = 0; i < in[0]->shape.rank; i++)
        if (i != axis)
            labels.dim[labels.rank++] = in[0]->shape.dim[i];
    for (int i = 1; i < 3; i++)
        if (!shape_equal(in[i]->shape, labels))
            return complain(verifier, node, "operand %d, %%%s: expected shape %s, found %s", i, in[i]->name,
                            shape_text(verifier->arena, labels), text_of(verifier, in[i]));
    return true;
}

static bool check_operand(Verifier *verifier, const Node *node, int i) {
    const Value *value = node->in[i];
    char reads = op_reads(node->op, i);
    if (reads == 'i') {
        if (!value->integer)
            return complain(verifier, node, "operand %d, %%%s: expected an integer value, found %s with an exponent", i, value->name,
                            text_of(verifier, value));
        return true;
    }
    if (verifier->graph->stage < STAGE_SCALED)
        return true;
    if (reads == 'n' && (value->integer || value->type != T_I8))
        return complain(verifier, node, "operand %d, %%%s: expected at most 8 bits, found %s", i, value->name, text_of(verifier, value));
    if (reads == 'h' && value->type != T_I8 && value->type != T_I16)
        return complain(verifier, node, "operand %d, %%%s: expected at most 16 bits, found %s", i, value->name, text_of(verifier, value));
    return true;
}

/* The products of a weighted sum, which are aligned only afterwards. */
static bool check_products(Verifier *verifier, const Node *node) {
    for (int i = 0; node->op == OP_weighted_sum && i < node->in_count; i += 2) {
        int64_t bound;
        if (__builtin_mul_overflow(node->in[i]->bound, node->in[i + 1]->bound, &bound) || bound > MANTISSA_LIMIT)
            return complain(verifier, node, "operands %d and %d, %%%s and %%%s: no 64 bits hold every possible product", i, i + 1,
                            node->in[i]->name, node->in[i + 1]->name);
    }
    return true;
}

/* A copy of the node whose results inference made: what the real results must agree with. NULL after a complaint. */
static Node *infer_again(Verifier *verifier, const Node *node) {
    Node *copy = arena_alloc(verifier->arena, 1, sizeof *copy);
    *copy = *node;
    copy->graph = verifier->scratch;
    copy->out = arena_alloc(verifier->arena, (size_t)node->out_count, sizeof(Value *));
    if (!op_info(node->op)->infer(copy, verifier->diag)) {
        complain(verifier, node, "the operator refuses its operands or attributes");
        return NULL;
    }
    for (int i = 0; i < copy->out_count; i++)
        if (!shape_valid(copy->out[i]->shape.rank, copy->out[i]->shape.dim)) {
            complain(verifier, node, "the result is too large");
            return NULL;
        }
    if (verifier->graph->stage >= STAGE_SCALED)
        node_infer_width(copy);
    return copy;
}

static bool check_result(Verifier *verifier, const Node *node, const Value *expected, const Value *found) {
    const char *name = found->name;
    if (!shape_equal(expected->shape, found->shape))
        return complain(verifier, node, "result %%%s: expected shape %s, found %s", name, shape_text(verifier->arena, expected->shape),
                        shape_text(verifier->arena, found->shape));
    if (expected->integer != found->integer)
        return complain(verifier, node, "result %%%s: expected %s", name,
                        expected->integer ? "an integer value, found one with an exponent" : "an exponent, found an integer value");
    if (!found->integer && verifier->graph->stage < STAGE_SCALED)
        return true;
    if (expected->bound > MANTISSA_LIMIT && !found->integer)
        return complain(verifier, node, "result %%%s: no accumulator of 64 bits holds every possible sum", name);
    if (found->bound < expected->bound)
        return complain(verifier, node, "result %%%s: bound %lld is not proven, expected at least %lld", name, (long long)found->bound,
                        (long long)expected->bound);
    if (found->integer && type_bytes(found->type) < type_bytes(expected->type))
        return complain(verifier, node, "result %%%s: expected type %s, found %s", name, type_name(expected->type), type_name(found->type));
    if (found->exponent_kind != expected->exponent_kind ||
        (found->exponent_kind == EXPONENT_CONST && found->exponent != expected->exponent))
        return complain(verifier, node, "result %%%s: expected %s exponent, found another", name,
                        expected->exponent_kind == EXPONENT_CONST ? arena_printf(verifier->arena, "the constant %d as", expected->exponent)
                                                                  : "a dynamic");
    return true;
}

static bool check_node(Verifier *verifier, const Node *node) {
    if (!check_structure(verifier, node) || !check_stage(verifier, node))
        return false;
    if (!node_check_attrs(node, verifier->diag, "")) {
        verifier->good = false;
        return false;
    }
    const Node *expected = infer_again(verifier, node);
    if (expected == NULL || !check_operands(verifier, node))
        return false;
    for (int i = 0; i < node->in_count; i++)
        if (!check_operand(verifier, node, i))
            return false;
    if (verifier->graph->stage >= STAGE_SCALED && !check_products(verifier, node))
        return false;
    for (int i = 0; i < node->out_count; i++)
        if (!check_result(verifier, node, expected->out[i], node->out[i]))
            return false;
    return true;
}

/* --- graph --- */

static int64_t stream_of(const Node *node) {
    if (op_info(node->op)->kind == KIND_RANDOM || (node->op == OP_rescale && strcmp(attr_text(node, "round", ""), "stochastic") == 0))
        return attr_int(node, "stream", -1);
    return -1;
}

static int by_stream(const void *a, const void *b) {
    int64_t x = stream_of(*(const Node *const *)a), y = stream_of(*(const Node *const *)b);
    return (x > y) - (x < y);
}

/* Two tensors never share random bits. */
static void check_streams(Verifier *verifier) {
    const Graph *graph = verifier->graph;
    const Node **sorted = arena_alloc(verifier->arena, (size_t)graph->node_count + 1, sizeof *sorted);
    int count = 0;
    for (int i = 0; i < graph->node_count; i++)
        if (stream_of(graph->nodes[i]) >= 0)
            sorted[count++] = graph->nodes[i];
    qsort(sorted, (size_t)count, sizeof *sorted, by_stream);
    for (int i = 1; i < count; i++)
        if (stream_of(sorted[i]) == stream_of(sorted[i - 1]))
            complain(verifier, sorted[i], "random stream %lld is also that of %%%s", (long long)stream_of(sorted[i]),
                     sorted[i - 1]->out[0]->name);
}

static void check_update(Verifier *verifier, const Update *update, bool *updated) {
    const Value *state = update->state, *next = update->next;
    if (!belongs(verifier, state) || !belongs(verifier, next) || !verifier->defined[next->id])
        complain(verifier, NULL, "update of %%%s: expected values of this graph that are defined", state != NULL ? state->name : "?");
    else if (state->kind != VALUE_PARAM && state->kind != VALUE_STATE)
        complain(verifier, NULL, "update of %%%s: expected a param or state, found %s", state->name, value_kind_name(state->kind));
    else if (updated[state->id])
        complain(verifier, NULL, "update of %%%s: it has two", state->name);
    else if (state->type != next->type || !shape_equal(state->shape, next->shape) || state->integer != next->integer)
        complain(verifier, NULL, "update of %%%s by %%%s: expected %s, found %s", state->name, next->name, text_of(verifier, state),
                 text_of(verifier, next));
    else if (next->bound > state->bound)
        complain(verifier, NULL, "update of %%%s by %%%s: expected a bound of at most %lld, found %lld", state->name, next->name,
                 (long long)state->bound, (long long)next->bound);
    else if (state->exponent_kind == EXPONENT_CONST && (next->exponent_kind != EXPONENT_CONST || next->exponent != state->exponent))
        complain(verifier, NULL, "update of %%%s by %%%s: expected the constant exponent %d", state->name, next->name, state->exponent);
    if (belongs(verifier, state))
        updated[state->id] = true;
}

static void check_places(Verifier *verifier) {
    const Graph *graph = verifier->graph;
    for (int i = 0; i < graph->value_count && graph->arena_size > 0; i++) {
        const Value *value = graph->values[i];
        int64_t size = shape_elements(value->shape) * type_bytes(value->type);
        if (value->offset >= 0 && (value->offset > graph->arena_size || size > graph->arena_size - value->offset))
            complain(verifier, value->def, "%%%s: bytes %lld and on leave the arena of %lld", value->name, (long long)value->offset,
                     (long long)graph->arena_size);
        if (value->exponent_offset >= 0 && value->exponent_offset > graph->arena_size - 4)
            complain(verifier, value->def, "%%%s: the exponent leaves the arena", value->name);
    }
}

static void check_graph(Verifier *verifier) {
    const Graph *graph = verifier->graph;
    /* A result is checked with its node: results of dropped nodes are left behind as they were. */
    for (int i = 0; i < graph->value_count; i++)
        if (graph->values[i]->kind != VALUE_NODE && !check_value(verifier, i))
            return;
    for (int i = 0; i < graph->value_count; i++)
        verifier->defined[i] = graph->values[i]->kind != VALUE_NODE;
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        check_node(verifier, node);
        for (int k = 0; k < node->out_count; k++)
            if (belongs(verifier, node->out[k]) && check_value(verifier, node->out[k]->id))
                verifier->defined[node->out[k]->id] = true;
    }
    bool *updated = arena_alloc(verifier->arena, (size_t)graph->value_count + 1, sizeof *updated);
    for (int i = 0; i < graph->update_count; i++)
        check_update(verifier, &graph->updates[i], updated);
    for (int i = 0; i < graph->output_count; i++) {
        const Value *value = graph->outputs[i].value;
        if (!belongs(verifier, value) || !verifier->defined[value->id])
            complain(verifier, NULL, "output '%s': expected a value that is defined, found %%%s", graph->outputs[i].name,
                     value != NULL ? value->name : "?");
    }
    if (verifier->good)
        check_streams(verifier);
    if (graph->stage == STAGE_PLANNED || graph->stage == STAGE_FLOAT)
        check_places(verifier);
}

bool graph_verify(const Graph *graph, Diag *diag) {
    Verifier verifier = {.graph = graph, .diag = diag, .arena = arena_new(), .good = true};
    verifier.scratch = graph_new(verifier.arena, graph->name);
    verifier.scratch->stage = graph->stage;
    verifier.defined = arena_alloc(verifier.arena, (size_t)graph->value_count + 1, sizeof *verifier.defined);
    check_graph(&verifier);
    arena_free(verifier.arena);
    return verifier.good;
}
