/* ONNX out, int8: the inference graph with calibrated exponents as integer operators. Before: STAGE_SCALED, before layout and fuse, every
 * rescale of data has a slot. After: templates whose models compute, in ONNX Runtime, the bits of docs/operators.md.
 *
 * Two forms of a tensor: int8, and float64 that holds integer mantissas. A float64 holds 53 bits, so that products and sums of mantissas
 * and of powers of two are exact in it, and Round is half to even: everything the integer IR does has an exact form there. Contractions are
 * ConvInteger and MatMulInteger (int32). The first of the two templates replaces contraction, bias and rescale by QLinearConv, QGemm and
 * QLinearMatMul, which requantise through float32: exact for accumulators up to 2^24, and beyond where the result saturates anyway, which
 * is what its conditions ask. */
#include "frontend/export.h"
#include "frontend/frontend.h"
#include "runtime/fixed.h"

#include <string.h>

enum { FLOAT_LEAST = -126, FLOAT_MOST = 127, SATURATING_SHIFT = 17, SHIFT_LIMIT = 100 };
/* Accumulators with room for a bias: FIRST leaves their exponent alone. */
#define BIASED_BOUND (((int64_t)1 << (ALIGN_BITS_32 - 1)) - 1)

/* --- exponents --- */

/* The slot of a real input: pass_calibrate numbers them in order of values, before the rescales. */
static const char *input_slot(const Exporter *x, const Value *input) {
    int number = 0;
    for (int i = 0; i < x->graph->value_count && x->graph->values[i] != input; i++)
        number += x->graph->values[i]->kind == VALUE_INPUT && !x->graph->values[i]->integer;
    return arena_printf(x->arena, "calibrated.%d", number);
}

/* The parameter that a chain of permutations starts from, or NULL. */
static const Value *permuted_param(const Value *value) {
    while (value->kind == VALUE_NODE && (value->def->op == OP_reshape || value->def->op == OP_transpose || value->def->op == OP_reverse ||
                                         value->def->op == OP_broadcast))
        value = value->def->in[0];
    return ex_is_kept(value) ? value : NULL;
}

static int node_exponent(Exporter *x, const Node *node) {
    int constant = node_exponent_constant(node), sum = -1;
    switch (op_info(node->op)->exponent) {
    case RULE_SAME:
        return ex_exponent_of(x, node->in[0]);
    case RULE_CONST:
        return ex_constant(x, constant);
    case RULE_ALIGN:
    case RULE_FIRST:
        return ex_aligned_exponent(x, node, op_info(node->op)->exponent == RULE_FIRST);
    case RULE_RESCALE: {
        if (node->in_count == 2)
            return ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_SLOT, .slot = node->in[1]->name});
        const Value *param = permuted_param(node->in[0]);
        if (param != NULL)
            return ex_exponent(
                x, (TemplateExponent){.kind = INTC_EXPONENT_MAPPED, .param = param->name, .bits = (int)attr_int(node, "bits", 8)});
        ex_refuse(x, node, "its exponent is chosen from computed values");
        return 0;
    }
    case RULE_SUM:
        for (int i = 0; i < node->in_count; i++) {
            int weight = node_exponent_weight(node, i), e = weight == 0 ? 0 : ex_exponent_of(x, node->in[i]);
            if (weight == 0)
                continue;
            if (weight * weight != 1) {
                ex_refuse(x, node, "%s has no int8 form", op_info(node->op)->name);
                return 0;
            }
            int base = sum < 0 ? ex_constant(x, constant) : sum;
            sum = weight > 0 ? ex_sum(x, base, e, 0) : ex_difference(x, base, e, 0);
        }
        return sum < 0 ? ex_constant(x, constant) : sum;
    case RULE_HALF:
        return ex_sum(x, ex_half(x, ex_exponent_of(x, node->in[0])), ex_constant(x, constant), 0);
    default:
        ex_refuse(x, node, "%s has no int8 form", op_info(node->op)->name);
        return 0;
    }
}

int ex_exponent_of(Exporter *x, const Value *value) {
    Exported *known = &x->values[value->id];
    if (known->exponent == 0) {
        int e;
        if (value->kind == VALUE_INPUT)
            e = ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_SLOT, .slot = input_slot(x, value)});
        else if (ex_is_kept(value))
            e = ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_PARAM, .param = value->name});
        else if (value->kind == VALUE_NODE)
            e = node_exponent(x, value->def);
        else
            e = ex_constant(x, value->exponent);
        known->exponent = e + 1;
    }
    return known->exponent - 1;
}

/* --- requantisation --- */

static int low_of(int bits) {
    return -(1 << (bits - 1));
}

static int high_of(int bits) {
    return (1 << (bits - 1)) - 1;
}

/* Float64 mantissas at one exponent brought to the slot, saturated to the bits of a rescale. */
static const char *requantised(Exporter *x, const char *wide, int from, int slot, int bits) {
    const char *rounded = ex_round(x, wide, ex_power(x, from, slot, 0));
    return EMIT(x, "Clip", rounded, ex_f64(x, low_of(bits)), ex_f64(x, high_of(bits)));
}

/* A product that float64 cannot hold, x · c with c of 31 bits: split at 16 bits, p = high · 2^16 + low with 0 <= low < 2^16. What is
 * rounded away has at least 17 bits, so that of low only whether it is 0 matters: a quarter stands for the rest. */
static const char *requantised_product(Exporter *x, const Node *node, int slot, int bits) {
    enum { SPLIT = 16, FACTOR_BITS = 15, MANTISSA_BITS = 53 };
    int64_t mantissa;
    int exponent, in_bits = ex_bits(x, node->in[0]);
    real_to_fixed(attr_real(node, "value", 1), &mantissa, &exponent);
    if (in_bits == 0 || in_bits + FACTOR_BITS + 4 > MANTISSA_BITS)
        return ex_refuse(x, node, "its values may need more than 53 bits");
    int64_t low_factor = mantissa & ((1 << SPLIT) - 1), high_factor = (mantissa - low_factor) / (1 << SPLIT);
    int from = ex_exponent_of(x, node->out[0]);
    ex_condition(x, ex_difference(x, slot, from, 0), SPLIT + 1, -INTC_EXPONENT_ZERO,
                 arena_printf(x->arena, "%s: its output is too fine for exact arithmetic in float64", ex_label(x, node)));
    const char *in = ex_wide(x, node->in[0]), *split = ex_f64(x, 1 << SPLIT);
    const char *low = EMIT(x, "Mul", in, ex_f64(x, (double)low_factor));
    const char *carry = EMIT(x, "Floor", EMIT(x, "Div", low, split));
    const char *rest = EMIT(x, "Sub", low, EMIT(x, "Mul", carry, split));
    const char *high = EMIT(x, "Add", EMIT(x, "Mul", in, ex_f64(x, (double)high_factor)), carry);
    const char *sticky = EMIT(x, "Mul", EMIT(x, "Sign", rest), ex_f64(x, 0.25));
    const char *rounded = ex_round(x, EMIT(x, "Add", high, sticky), ex_power(x, from, slot, SPLIT));
    return EMIT(x, "Clip", rounded, ex_f64(x, low_of(bits)), ex_f64(x, high_of(bits)));
}

/* Limits of int8 tensors narrower than their type. */
static const char *limited(Exporter *x, const char *narrow, int bits) {
    return bits >= 8 ? narrow : EMIT(x, "Clip", narrow, ex_i8(x, low_of(bits)), ex_i8(x, high_of(bits)));
}

static void fits_float(Exporter *x, int exponent, const Node *node, const char *what) {
    ex_condition(x, exponent, FLOAT_LEAST, FLOAT_MOST,
                 arena_printf(x->arena, "%s: the exponent of its %s does not fit a float32 scale", ex_label(x, node), what));
}

/* Bias of a quantised contraction: int32 at the accumulator's exponent, which must not be raised by it. */
static const char *quantised_bias(Exporter *x, const Node *bias, int accumulator) {
    const Value *b = bias->in[1];
    int e = ex_exponent_of(x, b);
    int raise = ex_difference(x, e, accumulator, intc_bit_length((uint64_t)b->bound) + 1 - ALIGN_BITS_32);
    ex_condition(x, raise, INTC_EXPONENT_ZERO, 0, arena_printf(x->arena, "%s: its bias does not fit the accumulator", ex_label(x, bias)));
    if (ex_is_kept(b))
        return ex_param_i32(x, b, accumulator);
    return ex_cast(x, ex_round(x, ex_wide(x, b), ex_power(x, e, accumulator, 0)), ONNX__TENSOR_PROTO__DATA_TYPE__INT32);
}

static void window_attributes(Exporter *x, Onnx__NodeProto *out, const Node *node) {
    static const char *const names[] = {"strides", "pads", "dilations"};
    for (int i = 0; i < 3; i++) {
        int count;
        const int64_t *values = attr_ints(node, names[i], &count);
        ex_attr_ints(x, out, names[i], count, values);
    }
    const Shape *w = &node->in[1]->shape;
    ex_attr_ints(x, out, "kernel_shape", w->rank - 2, w->dim + 2);
    ex_attr_int(x, out, "group", attr_int(node, "group", 1));
}

/* An operand of a matmul with its last two dimensions in order. */
static const char *matrix(Exporter *x, const Value *value, bool transposed) {
    const char *name = ex_narrow(x, value);
    if (!transposed)
        return name;
    int64_t perm[MAX_RANK];
    int rank = value->shape.rank;
    for (int i = 0; i < rank; i++)
        perm[i] = i < rank - 2 ? i : 2 * rank - 3 - i;
    Onnx__NodeProto *node = ex_node(x, "Transpose", EX_NAMES(name));
    ex_attr_ints(x, node, "perm", rank, perm);
    return ex_output(node);
}

typedef struct {
    const Node *contraction, *bias; /* bias may be NULL */
    const Value *level;             /* of the channels, where sums have one; or NULL */
} Accumulation;

/* conv or matmul, with or without a bias along the right axis and levels to restore, whose accumulator nothing else reads. */
static bool accumulation(const Exporter *x, const Value *value, Accumulation *found) {
    const Value *level = value->def->op == OP_restore ? value->def->in[1] : NULL;
    value = level != NULL ? value->def->in[0] : value;
    if (value->kind != VALUE_NODE || (level != NULL && value_uses(x->graph, value) != 1))
        return false;
    if (level != NULL && level->kind != VALUE_CONST && !ex_is_kept(level))
        return false;
    const Node *bias = value->def->op == OP_bias ? value->def : NULL;
    const Value *acc = bias != NULL ? bias->in[0] : value;
    if (acc->kind != VALUE_NODE || (acc->def->op != OP_conv && acc->def->op != OP_matmul))
        return false;
    const Node *node = acc->def;
    if (bias != NULL && (value_uses(x->graph, acc) != 1 || acc->bound > BIASED_BOUND || attr_int(bias, "axis", 1) != 1))
        return false;
    if (bias != NULL && node->op == OP_matmul && (node->in[0]->shape.rank != 2 || node->in[1]->shape.rank != 2))
        return false;
    *found = (Accumulation){.contraction = node, .bias = bias, .level = level};
    return acc->bound <= INT32_MAX;
}

static void gemm_attributes(Exporter *x, Onnx__NodeProto *out, const Node *node) {
    ex_attr_int(x, out, "transA", attr_int(node, "ta", 0));
    ex_attr_int(x, out, "transB", attr_int(node, "tb", 0));
}

/* A contraction in one form or the other. */
typedef struct {
    const Node *node;
    bool conv, gemm;        /* gemm: a matmul of matrices with bias */
    const char *a, *b;      /* int8 operands */
    const char *bias;       /* int32, or NULL */
    int ea, eb, ec, output; /* exponents of operands, accumulator and output */
    const Value *level;     /* of the channels of weights and accumulator, or NULL */
} Contraction;

/* The scale of weights or accumulator: 2^e, or one for each channel. */
static const char *scale_of(Exporter *x, const Contraction *c, int e) {
    if (c->level == NULL)
        return ex_scale32(x, e);
    const char *powers = ex_cast(x, ex_powers_of_levels(x, c->level), ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT);
    return EMIT(x, "Mul", ex_scale32(x, ex_sum(x, e, ex_constant(x, 0), -NORM_LEVELS)), powers);
}

/* The least exponent of the accumulator of a channel. */
static int least_accumulator(Exporter *x, const Contraction *c) {
    const Value *level = c->level;
    if (level == NULL)
        return c->ec;
    if (level->kind != VALUE_CONST) {
        int least = ex_exponent(x, (TemplateExponent){.kind = INTC_EXPONENT_LEAST, .param = level->name});
        return ex_sum(x, c->ec, least, -NORM_LEVELS);
    }
    int64_t least = NORM_LEVELS; /* of a normalisation that does not learn */
    for (int64_t i = 0; i < shape_elements(level->shape); i++) {
        int64_t l = intc_saturate(intc_align(level->mantissa[i], -level->exponent), 0, NORM_LEVELS);
        least = l < least ? l : least;
    }
    return ex_sum(x, c->ec, ex_constant(x, 0), (int)least - NORM_LEVELS);
}

static const char *operator_form(Exporter *x, const Contraction *c) {
    const char *zero = ex_i8(x, 0), *sa = ex_scale32(x, c->ea), *sb = scale_of(x, c, c->eb), *sy = ex_scale32(x, c->output);
    if (c->gemm) {
        Onnx__NodeProto *out = ex_node(x, "QGemm", EX_NAMES(c->a, sa, zero, c->b, sb, zero, c->bias, sy, zero));
        gemm_attributes(x, out, c->node);
        return ex_output(out);
    }
    const char *in[] = {c->a, sa, zero, c->b, sb, zero, sy, zero, c->bias};
    Onnx__NodeProto *out = ex_node(x, c->conv ? "QLinearConv" : "QLinearMatMul", in, c->bias != NULL ? 9 : 8);
    if (c->conv)
        window_attributes(x, out, c->node);
    return ex_output(out);
}

static const char *dequantised(Exporter *x, const char *in, int exponent) {
    return EMIT(x, "DequantizeLinear", in, ex_scale32(x, exponent));
}

/* Weights or bias, whose channels are in dimension 0. */
static const char *dequantised_channels(Exporter *x, const Contraction *c, const char *in, int exponent) {
    Onnx__NodeProto *out = ex_node(x, "DequantizeLinear", EX_NAMES(in, scale_of(x, c, exponent)));
    if (c->level != NULL)
        ex_attr_int(x, out, "axis", 0);
    return ex_output(out);
}

static const char *quantised_real(Exporter *x, const char *in, int exponent) {
    const char *scale = ex_scale32(x, exponent), *zero = ex_i8(x, 0);
    return EMIT(x, "QuantizeLinear", in, scale, zero);
}

/* The real value of bias and contraction, float32. */
static const char *qdq_form(Exporter *x, const Contraction *c) {
    const char *in[] = {dequantised(x, c->a, c->ea), dequantised_channels(x, c, c->b, c->eb), NULL};
    if (c->bias != NULL)
        in[2] = dequantised_channels(x, c, c->bias, c->ec);
    Onnx__NodeProto *out = ex_node(x, c->conv ? "Conv" : c->gemm ? "Gemm" : "MatMul", in, c->bias != NULL ? 3 : 2);
    if (c->conv)
        window_attributes(x, out, c->node);
    if (c->gemm)
        gemm_attributes(x, out, c->node);
    return ex_output(out);
}

/* Contraction and bias that end in the value, their operands exported; false where that does not fit. */
static bool open_contraction(Exporter *x, const Value *value, Contraction *c) {
    Accumulation found;
    if (x->form == FORM_EXACT || value->kind != VALUE_NODE || !accumulation(x, value, &found))
        return false;
    const Node *node = found.contraction;
    *c = (Contraction){.node = node, .conv = node->op == OP_conv, .level = found.level};
    c->gemm = !c->conv && found.bias != NULL;
    c->ea = ex_exponent_of(x, node->in[0]);
    c->eb = ex_exponent_of(x, node->in[1]);
    c->ec = ex_exponent_of(x, node->out[0]);
    fits_float(x, c->ea, node, "input");
    fits_float(x, c->eb, node, "weight");
    fits_float(x, c->ec, node, "accumulator");
    fits_float(x, least_accumulator(x, c), node, "accumulator");
    c->a = c->conv || c->gemm ? ex_narrow(x, node->in[0]) : matrix(x, node->in[0], attr_int(node, "ta", 0));
    c->b = c->conv || c->gemm ? ex_narrow(x, node->in[1]) : matrix(x, node->in[1], attr_int(node, "tb", 0));
    c->bias = found.bias != NULL ? quantised_bias(x, found.bias, c->ec) : NULL;
    return true;
}

/* Contraction, bias, perhaps relu and rescale of what ends in the value, in one; NULL where that does not fit. */
static const char *quantised(Exporter *x, const Value *value, int slot, int bits, bool relu) {
    Contraction c;
    if (!open_contraction(x, value, &c))
        return NULL;
    c.output = slot;
    fits_float(x, slot, c.node, "output");
    if (x->form == FORM_QDQ) {
        const char *real = qdq_form(x, &c);
        return limited(x, quantised_real(x, relu ? EMIT(x, "Relu", real) : real, slot), bits);
    }
    ex_condition(x, ex_difference(x, slot, least_accumulator(x, &c), 0), -SHIFT_LIMIT, SATURATING_SHIFT,
                 arena_printf(x->arena, "%s: its accumulator is too large for the requantisation of ONNX Runtime", ex_label(x, c.node)));
    const char *out = limited(x, operator_form(x, &c), bits);
    return relu ? EMIT(x, "Max", out, ex_i8(x, 0)) : out;
}

/* Float64 mantissas of a value rescaled to the slot. */
static const char *requantised_value(Exporter *x, const Value *value, int slot, int bits) {
    Contraction c;
    if (value->kind == VALUE_NODE && value->def->op == OP_mul_const && ex_bits(x, value) == 0)
        return requantised_product(x, value->def, slot, bits);
    if (value->kind == VALUE_NODE && value->def->op == OP_exp) /* a float64 of any size, exactly */
        return requantised(x, ex_exp(x, value->def), ex_exponent_of(x, value), slot, bits);
    if (x->form == FORM_QDQ && open_contraction(x, value, &c)) /* a prediction */
        return requantised(x, ex_to_double(x, qdq_form(x, &c)), ex_constant(x, 0), slot, bits);
    return requantised(x, ex_wide(x, value), ex_exponent_of(x, value), slot, bits);
}

/* A move or relu of an int8 tensor. */
static const char *int8_relu(Exporter *x, const char *in, int exponent) {
    if (x->form == FORM_QDQ)
        return quantised_real(x, EMIT(x, "Relu", dequantised(x, in, exponent)), exponent);
    return EMIT(x, "Max", in, ex_i8(x, 0));
}

static const char *int8_move(Exporter *x, const Node *node, const char *in, int exponent) {
    if (x->form == FORM_QDQ)
        return quantised_real(x, ex_move(x, node, dequantised(x, in, exponent)), exponent);
    return ex_move(x, node, in);
}

/* The value rescaled to the slot as an int8 tensor. Rounding and saturation are monotonic and keep 0, so that they may go before relu, clip
 * and moves: there they meet the contraction. */
static const char *rescaled(Exporter *x, const Value *value, int slot, int bits) {
    const Node *node = value->kind == VALUE_NODE && value_uses(x->graph, value) == 1 ? value->def : NULL;
    Op op = node != NULL ? node->op : OP_NONE;
    if (op == OP_relu) {
        const Value *in = node->in[0];
        const char *whole = value_uses(x->graph, in) == 1 ? quantised(x, in, slot, bits, true) : NULL;
        return whole != NULL ? whole : int8_relu(x, rescaled(x, in, slot, bits), slot);
    }
    if (op == OP_clip) {
        int from = ex_exponent_of(x, node->in[0]);
        const char *in = rescaled(x, node->in[0], slot, bits), *limits[2] = {NULL, NULL};
        for (int i = 0; i < 2; i++) {
            const char *limit = ex_limit(x, node, i == 0 ? "min" : "max");
            if (limit != NULL)
                limits[i] = ex_cast(x, requantised(x, limit, from, slot, bits), ONNX__TENSOR_PROTO__DATA_TYPE__INT8);
        }
        return EMIT(x, "Clip", in, limits[0] != NULL ? limits[0] : "", limits[1] != NULL ? limits[1] : "");
    }
    if (node != NULL && ex_is_move(op))
        return int8_move(x, node, rescaled(x, node->in[0], slot, bits), slot);
    const char *direct = node != NULL ? quantised(x, value, slot, bits, false) : NULL;
    if (direct != NULL)
        return direct;
    return ex_cast(x, requantised_value(x, value, slot, bits), ONNX__TENSOR_PROTO__DATA_TYPE__INT8);
}

/* --- int8 tensors --- */

static int bits_of(const Value *value) {
    return intc_bit_length((uint64_t)(value->bound > 0 ? value->bound - 1 : 0)) + 1;
}

static const char *narrow_input(Exporter *x, const Value *value) {
    int slot = ex_exponent_of(x, value);
    const char *scale = ex_scale32(x, slot), *zero = ex_i8(x, 0);
    const char *name = EMIT(x, "QuantizeLinear", value->onnx_name != NULL ? value->onnx_name : value->name, scale, zero);
    return limited(x, name, bits_of(value));
}

static const char *narrow_const(Exporter *x, const Value *value) {
    int64_t n = shape_elements(value->shape);
    int8_t *bytes = arena_alloc(x->arena, (size_t)n, 1);
    for (int64_t i = 0; i < n; i++)
        bytes[i] = (int8_t)value->mantissa[i];
    return ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__INT8, value->shape, bytes, (size_t)n);
}

/* Moves of a parameter commute with mapping it to 8 bits. */
static const char *moved_param(Exporter *x, const Value *value, int bits) {
    if (ex_is_kept(value))
        return ex_param_i8(x, value, bits);
    return ex_move(x, value->def, moved_param(x, value->def->in[0], bits));
}

static const char *narrow_rescale(Exporter *x, const Node *node) {
    int bits = (int)attr_int(node, "bits", 8);
    if (node->in_count == 2)
        return rescaled(x, node->in[0], ex_exponent_of(x, node->out[0]), bits);
    if (permuted_param(node->in[0]) != NULL)
        return moved_param(x, node->in[0], bits);
    return ex_refuse(x, node, "its exponent is chosen from computed values");
}

static const char *narrow_node(Exporter *x, const Node *node) {
    if (node->op == OP_rescale)
        return narrow_rescale(x, node);
    if (ex_is_move(node->op))
        return int8_move(x, node, ex_narrow(x, node->in[0]), ex_exponent_of(x, node->in[0]));
    if (node->op == OP_relu)
        return int8_relu(x, ex_narrow(x, node->in[0]), ex_exponent_of(x, node->in[0]));
    return ex_cast(x, ex_operator(x, node), ONNX__TENSOR_PROTO__DATA_TYPE__INT8);
}

const char *ex_narrow(Exporter *x, const Value *value) {
    Exported *known = &x->values[value->id];
    if (known->narrow != NULL)
        return known->narrow;
    if (value->type != T_I8 || value->integer)
        known->narrow = ex_refuse(x, value->def, "a tensor of %s where int8 is needed", type_name(value->type));
    else if (value->kind == VALUE_INPUT)
        known->narrow = narrow_input(x, value);
    else if (value->kind == VALUE_CONST)
        known->narrow = narrow_const(x, value);
    else if (value->kind == VALUE_NODE)
        known->narrow = narrow_node(x, value->def);
    else if (ex_is_kept(value))
        known->narrow = ex_param_i8(x, value, 8);
    else
        known->narrow = ex_refuse(x, NULL, "'%s' is not mapped to 8 bits", value->name);
    return known->narrow;
}

/* --- float64 tensors of mantissas --- */

static const char *wide_const(Exporter *x, const Value *value) {
    int64_t n = shape_elements(value->shape);
    double *reals = arena_alloc(x->arena, (size_t)n, sizeof *reals);
    for (int64_t i = 0; i < n; i++)
        reals[i] = (double)value->mantissa[i];
    return ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE, value->shape, reals, (size_t)n * sizeof *reals);
}

static const char *wide_input(Exporter *x, const Value *value) {
    int slot = ex_exponent_of(x, value);
    const char *real = ex_cast(x, value->onnx_name != NULL ? value->onnx_name : value->name, ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE);
    return requantised(x, real, ex_constant(x, 0), slot, bits_of(value));
}

/* int32 accumulators. */
static const char *contraction(Exporter *x, const Node *node) {
    if (node->out[0]->bound > INT32_MAX)
        return ex_refuse(x, node, "its accumulator needs more than 32 bits");
    if (node->op == OP_matmul)
        return EMIT(x, "MatMulInteger", matrix(x, node->in[0], attr_int(node, "ta", 0)), matrix(x, node->in[1], attr_int(node, "tb", 0)));
    Onnx__NodeProto *out = ex_node(x, "ConvInteger", EX_NAMES(ex_narrow(x, node->in[0]), ex_narrow(x, node->in[1])));
    window_attributes(x, out, node);
    return ex_output(out);
}

static const char *wide_node(Exporter *x, const Node *node) {
    if (node->op == OP_conv || node->op == OP_matmul)
        return ex_cast(x, contraction(x, node), ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE);
    if (node->op == OP_rescale && node->in_count == 2)
        return requantised_value(x, node->in[0], ex_exponent_of(x, node->out[0]), (int)attr_int(node, "bits", 8));
    if (node->op == OP_rescale)
        return ex_refuse(x, node, "its exponent is chosen from computed values");
    return ex_operator(x, node);
}

const char *ex_wide(Exporter *x, const Value *value) {
    Exported *known = &x->values[value->id];
    if (known->wide != NULL)
        return known->wide;
    if (value->integer && value->kind == VALUE_INPUT)
        known->wide = ex_to_double(x, ex_index(x, value));
    else if (value->type == T_I8 && !value->integer)
        known->wide = ex_cast(x, ex_narrow(x, value), ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE);
    else if (value->kind == VALUE_INPUT)
        known->wide = wide_input(x, value);
    else if (value->kind == VALUE_CONST)
        known->wide = wide_const(x, value);
    else if (ex_is_kept(value))
        known->wide = ex_cast(x, ex_param_i32(x, value, -1), ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE);
    else if (value->kind == VALUE_NODE)
        known->wide = wide_node(x, value->def);
    else
        known->wide = ex_refuse(x, NULL, "'%s' has no int8 form", value->name);
    if (value->kind == VALUE_NODE && ex_bits(x, value) == 0)
        known->wide = ex_refuse(x, value->def, "its values may need more than 53 bits");
    return known->wide;
}

/* --- int64 tensors of integers --- */

static const char *joined(Exporter *x, const Node *node) {
    const char **in = arena_alloc(x->arena, (size_t)node->in_count, sizeof *in);
    for (int i = 0; i < node->in_count; i++)
        in[i] = ex_index(x, node->in[i]);
    Onnx__NodeProto *out = ex_node(x, "Concat", in, node->in_count);
    ex_attr_int(x, out, "axis", attr_int(node, "axis", 0));
    return ex_output(out);
}

const char *ex_index(Exporter *x, const Value *value) {
    Exported *known = &x->values[value->id];
    if (known->index != NULL)
        return known->index;
    size_t size = (size_t)shape_elements(value->shape) * sizeof *value->mantissa;
    if (value->kind == VALUE_CONST)
        known->index = ex_tensor(x, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, value->shape, value->mantissa, size);
    else if (value->kind == VALUE_INPUT)
        known->index = value->onnx_name != NULL ? value->onnx_name : value->name;
    else if (value->kind == VALUE_NODE && ex_is_move(value->def->op))
        known->index = ex_move(x, value->def, ex_index(x, value->def->in[0]));
    else if (value->kind == VALUE_NODE && value->def->op == OP_concat)
        known->index = joined(x, value->def);
    else if (value->kind == VALUE_NODE && value->def->op == OP_places)
        known->index = ex_places(x, value->def);
    else
        known->index = ex_whole(x, ex_wide(x, value));
    return known->index;
}

/* --- the model --- */

static void declare_inputs(Exporter *x) {
    for (int i = 0; i < x->graph->value_count; i++) {
        const Value *value = x->graph->values[i];
        const Exported *known = &x->values[i];
        int type = value->integer ? ONNX__TENSOR_PROTO__DATA_TYPE__INT64 : ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT;
        if (value->kind == VALUE_INPUT && (known->narrow != NULL || known->wide != NULL || known->index != NULL))
            ex_input(x, value->onnx_name != NULL ? value->onnx_name : value->name, type, value->shape);
    }
}

static void declare_output(Exporter *x, const Output *output) {
    const Value *value = output->value;
    int e = ex_exponent_of(x, value);
    Onnx__NodeProto *node;
    if (value->type == T_I8) {
        const char *in = ex_narrow(x, value), *scale = ex_scale32(x, e), *zero = ex_i8(x, 0);
        node = ex_node(x, "DequantizeLinear", EX_NAMES(in, scale, zero));
    } else {
        const char *whole = ex_cast(x, ex_wide(x, value), ONNX__TENSOR_PROTO__DATA_TYPE__INT64);
        node = ex_node(x, "Mul", EX_NAMES(ex_cast(x, whole, ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT), ex_scale32(x, e)));
    }
    node->output[0] = arena_strdup(x->arena, output->name);
    ex_model_output(x, output->name, value->shape);
}

static void export_form(const Graph *fixed, ExportForm form, const char *format, ModelTemplate *model) {
    Exporter x = {.arena = fixed->arena, .graph = fixed, .form = form};
    x.values = arena_alloc(x.arena, (size_t)fixed->value_count, sizeof *x.values);
    x.any_rows = ex_find_rows(&x);
    for (int i = 0; i < fixed->output_count; i++)
        if (fixed->outputs[i].role == ROLE_PREDICTION)
            declare_output(&x, &fixed->outputs[i]);
    declare_inputs(&x);
    if (x.outputs.count == 0)
        ex_refuse(&x, NULL, "the model has no output besides its loss");
    ex_finish(&x, format, model);
}

void onnx_export_int8(const Graph *fixed, ModelTemplate *models, int *count) {
    ModelTemplate *operators = &models[(*count)++];
    export_form(fixed, FORM_OPERATOR, "int8", operators);
    if (operators->refusal == NULL && operators->condition_count > 0) {
        export_form(fixed, FORM_EXACT, "int8", &models[*count]);
        *count += models[*count].refusal == NULL;
    }
    export_form(fixed, FORM_QDQ, "qdq", &models[(*count)++]);
}
