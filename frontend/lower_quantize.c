/* Lowering of number formats: casts to small types, QuantizeLinear, DequantizeLinear, division of integers. Before: known operands. After:
 * `round`, clip and arithmetic on real numbers: a value of an integer or 8-bit type is a value like any other. Sources: ONNX Cast.md. */
#include "frontend/importer.h"

#include <math.h>
#include <string.h>

#define TYPE(name) ONNX__TENSOR_PROTO__DATA_TYPE__##name

enum { WHOLE_DIGITS = 62 };

static Value *rounded(OnnxNode *node, Value *x, int digits, int least, bool truncate) {
    return node_emit(node, OP_round, INPUTS(x), ATTRS(ATTR_I("digits", digits), ATTR_I("least", least), ATTR_I("truncate", truncate)));
}

Value *node_truncated(OnnxNode *node, Value *x) {
    return rounded(node, x, WHOLE_DIGITS, 0, true);
}

/* Bits and sign of an integer type of at most 16 bits. */
static bool narrow_integer(int type, int *bits, bool *has_sign) {
    switch (type) {
    case TYPE(UINT8):
    case TYPE(INT8):
        *bits = 8;
        break;
    case TYPE(UINT16):
    case TYPE(INT16):
        *bits = 16;
        break;
    default:
        *bits = onnx_small_integer(type);
    }
    *has_sign = type == TYPE(INT8) || type == TYPE(INT16) || type == NEWER_INT4 || type == NEWER_INT2;
    return *bits > 0;
}

/* t modulo 2^bits for whole t: t - 2^bits * floor((t - low) / 2^bits), the floor by rounding to nearest what stands off the middle. */
static Value *wrapped(OnnxNode *node, Value *t, int bits, bool has_sign) {
    double span = ldexp(1, bits), low = has_sign ? -span / 2 : 0, off = -low - span / 2 + 0.5;
    Value *moved = node_emit(node, OP_add, INPUTS(t, node_const_value(node, (Shape){0}, &off)), NO_ATTRS);
    Value *turns = rounded(node, node_mul_const(node, moved, 1 / span), WHOLE_DIGITS, 0, false);
    return node_emit(node, OP_sub, INPUTS(t, node_mul_const(node, turns, span)), NO_ATTRS);
}

/* Rounded to a floating-point type of at most 16 bits; FLOAT4E2M1 has no NaN, which becomes 0. */
static Value *to_small_float(OnnxNode *node, Value *x, int type) {
    const SmallFloat *small = onnx_small_float(type);
    if (type == TYPE(BFLOAT16))
        return rounded(node, x, 8, -133, false);
    Value *y = node_clip(node, rounded(node, x, small->digits, small->least, false), -small->most, small->most);
    if (type != NEWER_FLOAT4E2M1)
        return y;
    Value *number = node_emit(node, OP_inside, INPUTS(y), ATTRS(ATTR_R("min", -small->most - 1), ATTR_R("max", small->most + 1)));
    return node_emit(node, OP_gate, INPUTS(y, number), NO_ATTRS);
}

/* To a power of two, at least the smallest of the type: 2^floor(log2 x), and twice that for the rest of the way up. */
static Value *to_scale(OnnxNode *node, Value *x) {
    const char *mode = node_attr_text(node, "round_mode", "up");
    bool up = strcmp(mode, "up") == 0;
    if (!up && strcmp(mode, "down") != 0) {
        node_refuse(node, "attribute 'round_mode' is \"%s\", expected \"up\" or \"down\"", mode);
        return NULL;
    }
    Value *y = rounded(node, x, 1, -127, true);
    if (up) {
        Value *above = node_emit(node, OP_positive, INPUTS(node_emit(node, OP_sub, INPUTS(x, y), NO_ATTRS)), NO_ATTRS);
        y = node_emit(node, OP_add, INPUTS(y, node_emit(node, OP_gate, INPUTS(y, above), NO_ATTRS)), NO_ATTRS);
    }
    return y == NULL ? NULL : node_clip(node, y, ldexp(1, -127), INFINITY);
}

Value *node_cast_value(OnnxNode *node, Value *x, int from, int to, bool saturate) {
    int bits;
    bool has_sign;
    if (onnx_small_float(to) != NULL && !saturate && to != NEWER_FLOAT4E2M1) {
        node_refuse(node, "to %s with saturate=0 makes NaN or infinity, which integers do not have", onnx_type_name(to));
        return NULL;
    }
    if (to == NEWER_FLOAT8E8M0)
        return to_scale(node, x);
    if (onnx_small_float(to) != NULL || to == TYPE(BFLOAT16))
        return to_small_float(node, x, to);
    if (!narrow_integer(to, &bits, &has_sign)) {
        node_refuse(node, "from %s to %s is supported only on constants", onnx_type_name(from), onnx_type_name(to));
        return NULL;
    }
    int own;
    bool own_sign;
    if (narrow_integer(from, &own, &own_sign) && (has_sign || !own_sign) && bits >= own + (has_sign && !own_sign))
        return x;
    return wrapped(node, onnx_type_is_integer(from) ? x : node_truncated(node, x), bits, has_sign);
}

/* --- QuantizeLinear, DequantizeLinear --- */

/* Scale or zero point brought to a shape that broadcasts to that of x: one number, one an index of the axis, or one a block of it. */
static Value *spread(OnnxNode *node, int i, const char *what, Shape shape, int axis, int64_t block) {
    const OnnxTensor *tensor = node_constant(node, i, what);
    if (tensor == NULL)
        return NULL;
    double *real = arena_alloc(node->importer->arena, (size_t)tensor->count, sizeof *real);
    for (int64_t k = 0; k < tensor->count; k++)
        real[k] = tensor->reals != NULL ? tensor->reals[k] : (double)tensor->ints[k];
    Shape own = {0};
    if (tensor->count == 1)
        return node_const_value(node, own, real);
    own.rank = shape.rank;
    for (int d = 0; d < shape.rank; d++)
        own.dim[d] = d == axis || block > 0 ? shape.dim[d] : 1;
    if (block > 0)
        own.dim[axis] = (shape.dim[axis] + block - 1) / block;
    if (block > 0 ? !shape_equal(own, tensor->shape) : tensor->shape.rank != 1 || tensor->count != shape.dim[axis]) {
        node_refuse(node, "%s of shape [%s] does not fit [%s]", what, shape_text(node->importer->arena, tensor->shape),
                    shape_text(node->importer->arena, shape));
        return NULL;
    }
    if (block <= 1)
        return node_const_value(node, own, real);
    int64_t inner = 1, outer = 1, size = shape.dim[axis];
    for (int d = 0; d < shape.rank; d++)
        *(d < axis ? &outer : &inner) *= d == axis ? 1 : shape.dim[d];
    double *each = arena_alloc(node->importer->arena, (size_t)(outer * size * inner), sizeof *each);
    for (int64_t k = 0; k < outer * size * inner; k++)
        each[k] = real[(k / (inner * size) * own.dim[axis] + k / inner % size / block) * inner + k % inner];
    return node_const_value(node, shape, each);
}

/* Scale and zero point (NULL if it is 0), checked. */
static bool quantization(OnnxNode *node, Value **scale, Value **zero) {
    Shape shape = node->in[0]->shape;
    int64_t block = node_attr_int(node, "block_size", 0), axis = node_attr_int(node, "axis", 1);
    if (axis == 1 && shape.rank == 1)
        axis = 0;
    if (shape.rank > 0 && (axis = node_axis(node, axis, shape.rank)) < 0)
        return false;
    if (block < 0)
        return node_refuse(node, "attribute 'block_size' is %lld", (long long)block);
    *scale = spread(node, 1, "scale", shape, (int)axis, block);
    *zero = node_in(node, 2) != NULL ? spread(node, 2, "zero point", shape, (int)axis, block) : NULL;
    if (*scale == NULL || (node_in(node, 2) != NULL && *zero == NULL))
        return false;
    int64_t scales = shape_elements((*scale)->shape), zeros = *zero != NULL ? shape_elements((*zero)->shape) : 0;
    for (int64_t k = 0; k < scales; k++)
        if (!((*scale)->real[k] > 0) || !isfinite((*scale)->real[k]))
            return node_refuse(node, "scale %g is not positive", (*scale)->real[k]);
    bool some = false;
    for (int64_t k = 0; k < zeros; k++)
        some = some || (*zero)->real[k] != 0;
    *zero = some ? *zero : NULL;
    return true;
}

bool lower_dequantize_linear(OnnxNode *node) {
    Value *scale, *zero;
    if (!node_check_inputs(node, 2, 3) || !quantization(node, &scale, &zero))
        return false;
    int type = (int)node_attr_int(node, "output_dtype", 0);
    Value *x = node_value(node, 0);
    if (zero != NULL)
        x = node_emit(node, OP_sub, INPUTS(x, zero), NO_ATTRS);
    Value *y = scale->shape.rank == 0 ? node_mul_const(node, x, scale->real[0]) : node_emit(node, OP_mul, INPUTS(x, scale), NO_ATTRS);
    return node_set_typed(node, 0, y, type != 0 ? type : node->in[1]->type);
}

/* round(x / scale) + zero, saturated. The gradient goes straight through the rounding where nothing saturates. */
bool lower_quantize_linear(OnnxNode *node) {
    Value *scale, *zero;
    if (!node_check_inputs(node, 2, 3) || !quantization(node, &scale, &zero))
        return false;
    int type = (int)node_attr_int(node, "output_dtype", 0), bits;
    bool saturate = node_attr_int(node, "saturate", 1) != 0, has_sign;
    node_attr_int(node, "precision", 0); /* of the division */
    if (node_in(node, 2) != NULL)
        type = node->in[2]->type;
    else if (type == 0)
        type = TYPE(UINT8);
    Value *y = node_emit(node, OP_div, INPUTS(node_value(node, 0), scale), NO_ATTRS);
    if (onnx_small_float(type) != NULL)
        return node_set_typed(node, 0, y == NULL ? NULL : node_cast_value(node, y, TYPE(FLOAT), type, saturate), type);
    if (!narrow_integer(type, &bits, &has_sign))
        return node_refuse(node, "to %s is not supported", onnx_type_name(type));
    y = rounded(node, y, WHOLE_DIGITS, 0, false);
    if (zero != NULL)
        y = node_emit(node, OP_add, INPUTS(y, zero), NO_ATTRS);
    double span = ldexp(1, bits), low = has_sign ? -span / 2 : 0;
    return node_set_typed(node, 0, y == NULL ? NULL : node_clip(node, y, low, low + span - 1), type);
}
