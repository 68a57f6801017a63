/* Integer mode of one backend case. Each node is computed in real mode too, on the very operands that it has in integer mode, and must
 * agree within the bound of docs/operators.md, "Integer against real". The whole graph is computed in real mode on the same inputs as well:
 * that error is only measured, as it depends on how often the graph rounds to 8 bits. */
#include "tests/op/backend_integer.h"
#include "ir/eval.h"
#include "passes/passes.h"

#include <math.h>

enum { INPUT_BITS = 8 };
/* Doubles do not hold every sum of products exactly. */
static const double DOUBLES = 0x1p-40;

static EvalNode *const functions[OP_COUNT] = {
#define OP(name, ...) [OP_##name] = eval_##name,
#include "ir/ops.def"
#undef OP
};

static double number(const Eval *eval, const Value *value, int64_t k) {
    const Tensor *tensor = &eval->tensors[value->id];
    if (value->integer)
        return (double)tensor->mantissa[k];
    return eval->mode == EVAL_REAL ? tensor->real[k] : ldexp((double)tensor->mantissa[k], tensor->exponent);
}

static double largest_of(const Eval *eval, const Value *value) {
    double largest = 0;
    for (int64_t k = 0, n = shape_elements(value->shape); k < n; k++)
        largest = fmax(largest, fabs(number(eval, value, k)));
    return largest;
}

/* NULL, or what keeps the input from being integers. */
static const char *load(Eval *integer, const Given *given) {
    Tensor *tensor = &integer->tensors[given->value->id];
    int64_t n = shape_elements(given->value->shape);
    if (given->value->integer) {
        for (int64_t k = 0; k < n; k++)
            tensor->mantissa[k] = given->ints != NULL ? given->ints[k] : (int64_t)given->reals[k];
        return NULL;
    }
    double *reals = arena_alloc(integer->graph->arena, (size_t)n + 1, sizeof *reals);
    for (int64_t k = 0; k < n; k++) {
        reals[k] = given->reals != NULL ? given->reals[k] : (double)given->ints[k];
        if (!isfinite(reals[k]))
            return "an input holds NaN or infinity";
    }
    int bits = intc_bit_length((uint64_t)given->value->bound) + 1;
    bits = bits < INPUT_BITS ? bits : INPUT_BITS;
    tensor->exponent = reals_to_mantissas(reals, n, bits, tensor->mantissa);
    /* As the runtime maps data: the largest element fills the width, also where fewer bits are exact. */
    uint64_t largest = 0;
    for (int64_t k = 0; k < n; k++)
        largest |= intc_magnitude(tensor->mantissa[k]);
    int room = largest == 0 ? 0 : bits - 1 - intc_bit_length(largest);
    for (int64_t k = 0; k < n && room > 0; k++)
        tensor->mantissa[k] = intc_shift_left(tensor->mantissa[k], room);
    tensor->exponent -= room > 0 ? room : 0;
    return NULL;
}

/* The largest difference that docs/operators.md allows the integer result from the real one; unit: of the
 * integer output; scale: the largest of a normalisation's. */
static double bound_of(const Eval *integer, const Eval *real, const Node *node, int64_t k, double unit, double scale) {
    double y = fabs(number(real, node->out[0], k)), exact = DOUBLES * y;
    switch (node->op) {
    case OP_rescale:
    case OP_refine:
    case OP_div:
    case OP_clip:
    case OP_share:
    case OP_variance:
    case OP_concat:
        return 0.5 * unit + exact;
    case OP_bias:
    case OP_add:
    case OP_sub:
        return unit + exact;
    case OP_mul_const:
        return 0x1p-30 * y;
    case OP_leaky_relu:
        return 0x1p-24 * fabs(number(integer, node->in[0], k));
    case OP_curve:
        return 0x1p-14;
    case OP_gated:
        return 0x1p-14 * fabs(number(integer, node->in[0], k));
    case OP_exp:
        return fmax(0x1p-14 * y, 0x1p-29);
    case OP_log:
    case OP_log_softmax:
    case OP_cross_entropy:
        return 0x1p-14;
    case OP_sqrt:
        return 0x1p-15 * y;
    case OP_softmax:
    case OP_masked_softmax:
        return 0x1p-15;
    case OP_inv_sqrt:
        if (attr_int(node, "part", INV_SQRT_WHOLE) == INV_SQRT_LEVEL) /* just below a power of two or just above */
            return 1;
        return ldexp(1, attr_int(node, "part", INV_SQRT_WHOLE) == INV_SQRT_WHOLE ? -31 : NORM_LEVELS - 31) + 0x1p-20 * y;
    case OP_normalize:
        return 0x1p-14 * y + ldexp(scale, -norm_fraction(node));
    default:
        return exact;
    }
}

/* Gives the node in real mode the operands of integer mode. What rsqrt makes is a code of its own in either mode. */
static void share_operands(const Eval *integer, const Eval *real, const Node *node) {
    for (int i = 0; i < node->in_count; i++) {
        const Value *value = node->in[i];
        if (value->def != NULL && value->def->op == OP_rsqrt)
            continue;
        Tensor *to = &real->tensors[value->id];
        for (int64_t k = 0, n = shape_elements(value->shape); k < n; k++) {
            to->real[k] = number(integer, value, k);
            if (value->integer)
                to->mantissa[k] = integer->tensors[value->id].mantissa[k];
        }
    }
}

static const char *check_node(const Eval *integer, const Eval *real, const Node *node) {
    share_operands(integer, real, node);
    functions[node->op](real, node);
    double scale = node->op == OP_normalize && node->in_count == 4 ? largest_of(integer, node->in[3]) : 1;
    for (int i = 0; i < node->out_count && node->op != OP_rsqrt; i++) {
        const Value *out = node->out[i];
        double unit = out->integer ? 0 : ldexp(1, integer->tensors[out->id].exponent);
        for (int64_t k = 0, n = shape_elements(out->shape); k < n; k++) {
            double found = number(integer, out, k), wanted = number(real, out, k);
            double bound = i > 0 || out->integer ? 0 : bound_of(integer, real, node, k, unit, scale);
            if (!(fabs(found - wanted) <= bound))
                return arena_printf(integer->graph->arena, "%s of %s '%s': element %lld is %g, in real mode %g, bound %g",
                                    op_info(node->op)->name, node->origin.op_type, node->origin.name, (long long)k, found, wanted, bound);
        }
    }
    return NULL;
}

static double output_error(const Eval *integer, const Eval *real) {
    double error = 0;
    const Graph *graph = integer->graph;
    for (int i = 0; i < graph->output_count; i++) {
        const Value *value = graph->outputs[i].value;
        double largest = largest_of(real, value);
        for (int64_t k = 0, n = shape_elements(value->shape); k < n; k++) {
            double off = fabs(number(integer, value, k) - number(real, value, k));
            error = fmax(error, off == 0 ? 0 : off / largest);
        }
    }
    return error;
}

static void share_inputs(const Eval *integer, const Eval *real) {
    const Graph *graph = integer->graph;
    for (int i = 0; i < graph->value_count; i++) {
        const Value *value = graph->values[i];
        for (int64_t k = 0, n = shape_elements(value->shape); k < n && value->kind == VALUE_INPUT; k++) {
            real->tensors[i].real[k] = number(integer, value, k);
            if (value->integer)
                real->tensors[i].mantissa[k] = integer->tensors[i].mantissa[k];
        }
    }
}

IntegerResult integer_check(Graph *graph, const Given *given, int count, Diag *diag) {
    IntegerResult result = {0};
    if (!pass_exponents(graph, &(PassOptions){.bits = 8}, diag) || !graph_verify(graph, diag)) {
        result.beyond = "the pass exponents refuses";
        return result;
    }
    Eval *integer = eval_new(graph, EVAL_INTEGER), *real = eval_new(graph, EVAL_REAL), *whole = eval_new(graph, EVAL_REAL);
    for (int i = 0; i < count && result.beyond == NULL; i++)
        result.beyond = load(integer, &given[i]);
    if (result.beyond == NULL) {
        eval_nodes(integer);
        share_inputs(integer, whole);
        eval_nodes(whole);
        for (int i = 0; i < graph->node_count && result.beyond == NULL; i++)
            result.beyond = check_node(integer, real, graph->nodes[i]);
        result.error = output_error(integer, whole);
    }
    eval_free(integer);
    eval_free(real);
    eval_free(whole);
    return result;
}
