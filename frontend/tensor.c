/* Decodes TensorProto in every encoding: raw bytes, typed fields, 8-bit and packed elements, external data. Before: a parsed message.
 * After: elements as int64 or double, exactly; or a diagnostic. */
#include "frontend/onnx_file.h"

#include <math.h>
#include <string.h>

#define DATA(type) ONNX__TENSOR_PROTO__DATA_TYPE__##type

/* The floating-point types of 4 and 8 bits. digits: with the hidden one; least: exponent of the smallest unit.
 * FLOAT8E8M0 is a power of two without sign: no digits are stored. */
static const SmallFloat small_floats[] = {
    {NEWER_FLOAT8E4M3FN, 8, 4, -9, 448, false},  {NEWER_FLOAT8E4M3FNUZ, 8, 4, -10, 240, true},
    {NEWER_FLOAT8E5M2, 8, 3, -16, 57344, false}, {NEWER_FLOAT8E5M2FNUZ, 8, 3, -17, 57344, true},
    {NEWER_FLOAT4E2M1, 4, 2, -1, 6, false},
};

const SmallFloat *onnx_small_float(int type) {
    for (size_t i = 0; i < sizeof small_floats / sizeof small_floats[0]; i++)
        if (small_floats[i].type == type)
            return &small_floats[i];
    return NULL;
}

bool onnx_type_learns(int type) {
    return type == DATA(FLOAT) || type == DATA(FLOAT16) || type == DATA(BFLOAT16) || type == DATA(DOUBLE);
}

bool onnx_type_is_real(int type) {
    return onnx_type_learns(type) || onnx_small_float(type) != NULL || type == NEWER_FLOAT8E8M0;
}

bool onnx_type_is_integer(int type) {
    return (type >= DATA(UINT8) && type <= DATA(INT64)) || type == DATA(BOOL) || type == DATA(UINT32) || type == DATA(UINT64) ||
           onnx_small_integer(type) > 0;
}

int onnx_small_integer(int type) {
    return type == NEWER_INT4 || type == NEWER_UINT4 ? 4 : type == NEWER_INT2 || type == NEWER_UINT2 ? 2 : 0;
}

const char *onnx_type_name(int type) {
    static const char *const names[] = {
        "undefined",      "float",      "uint8",          "int8",   "uint16", "int16",      "int32",      "int64",    "string",
        "bool",           "float16",    "double",         "uint32", "uint64", "complex64",  "complex128", "bfloat16", "float8e4m3fn",
        "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "uint4",  "int4",   "float4e2m1", "float8e8m0", "uint2",    "int2"};
    return type >= 0 && type < (int)(sizeof names / sizeof names[0]) ? names[type] : "an unknown element type";
}

static int type_bits_of(int type) {
    const SmallFloat *small = onnx_small_float(type);
    if (small != NULL || onnx_small_integer(type) > 0)
        return small != NULL ? small->bits : onnx_small_integer(type);
    switch (type) {
    case DATA(UINT8):
    case DATA(INT8):
    case DATA(BOOL):
    case NEWER_FLOAT8E8M0:
        return 8;
    case DATA(UINT16):
    case DATA(INT16):
    case DATA(FLOAT16):
    case DATA(BFLOAT16):
        return 16;
    case DATA(INT64):
    case DATA(UINT64):
    case DATA(DOUBLE):
        return 64;
    default:
        return 32;
    }
}

/* Fields of sign, exponent and fraction; ones everywhere is NaN but in FLOAT4E2M1, E5M2 has infinities, the UZ types NaN as minus zero. */
static double small_to_real(const SmallFloat *small, int bits) {
    int fraction_bits = small->digits - 1, magnitude = bits & ((1 << (small->bits - 1)) - 1);
    int exponent = magnitude >> fraction_bits, fraction = magnitude & ((1 << fraction_bits) - 1);
    bool negative = bits >> (small->bits - 1) & 1;
    if (small->unsigned_zero ? bits == 0x80 : small->type == NEWER_FLOAT8E4M3FN && magnitude == 0x7f)
        return (double)NAN;
    if (small->type == NEWER_FLOAT8E5M2 && exponent == 31)
        return fraction != 0 ? (double)NAN : negative ? -(double)INFINITY : (double)INFINITY;
    double value = exponent == 0 ? ldexp(fraction, small->least) : ldexp(fraction + (1 << fraction_bits), exponent - 1 + small->least);
    return negative ? -value : value;
}

static double half_to_real(uint16_t bits) {
    int exponent = bits >> 10 & 31;
    double fraction = bits & 1023;
    double value = exponent == 31  ? (fraction == 0 ? (double)INFINITY : (double)NAN)
                   : exponent == 0 ? ldexp(fraction, -24)
                                   : ldexp(fraction + 1024, exponent - 25);
    return bits & 0x8000 ? -value : value;
}

static double bfloat_to_real(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

double onnx_round_real(double value, int type) {
    if (type == DATA(DOUBLE) || !isfinite(value) || value == 0)
        return value;
    if (type == DATA(FLOAT))
        return (double)(float)value;
    const SmallFloat *small = onnx_small_float(type);
    int digits = small != NULL ? small->digits : type == DATA(FLOAT16) ? 11 : 8;
    int least = small != NULL ? small->least : type == DATA(FLOAT16) ? -24 : -133;
    int exponent;
    frexp(value, &exponent);
    int unit = exponent - digits > least ? exponent - digits : least;
    double rounded = ldexp(nearbyint(ldexp(value, -unit)), unit);
    if (small != NULL)
        return fmax(fmin(rounded, small->most), -small->most);
    return type == DATA(FLOAT16) && fabs(rounded) > 65504 ? copysign((double)INFINITY, value) : rounded;
}

int64_t onnx_wrap_integer(int64_t value, int type) {
    switch (type) {
    case DATA(UINT8):
        return (uint8_t)value;
    case DATA(INT8):
        return (int8_t)value;
    case DATA(UINT16):
        return (uint16_t)value;
    case DATA(INT16):
        return (int16_t)value;
    case DATA(INT32):
        return (int32_t)value;
    case DATA(UINT32):
        return (uint32_t)value;
    case DATA(BOOL):
        return value != 0;
    case NEWER_UINT4:
        return value & 15;
    case NEWER_INT4:
        return ((value & 15) ^ 8) - 8;
    case NEWER_UINT2:
        return value & 3;
    case NEWER_INT2:
        return ((value & 3) ^ 2) - 2;
    default:
        return value;
    }
}

int64_t checked_elements(Shape shape, int64_t limit) {
    int64_t count = 1; /* without dimensions of 0, so that the product of some dimensions is safe too */
    bool empty = false;
    for (int i = 0; i < shape.rank; i++) {
        empty = empty || shape.dim[i] == 0;
        if (shape.dim[i] < 0 || (shape.dim[i] > 0 && __builtin_mul_overflow(count, shape.dim[i], &count)) || count > limit)
            return -1;
    }
    return empty ? 0 : count;
}

bool onnx_tensor_shape(const Onnx__TensorProto *proto, const Origin *origin, Shape *shape, Diag *diag) {
    const char *name = proto->name != NULL ? proto->name : "";
    if (proto->n_dims > MAX_RANK) {
        diag_error(diag, origin, "tensor '%s' has %zu dimensions, at most %d are supported", name, proto->n_dims, MAX_RANK);
        return false;
    }
    *shape = shape_of((int)proto->n_dims, proto->dims);
    if (checked_elements(*shape, CONSTANT_LIMIT) < 0) {
        diag_error(diag, origin, "tensor '%s' has a negative dimension or more than 2^28 elements", name);
        return false;
    }
    return true;
}

static uint64_t little_endian(const uint8_t *bytes, int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static double float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static double real_from_bits(uint64_t bits, int type) {
    if (onnx_small_float(type) != NULL)
        return small_to_real(onnx_small_float(type), (int)bits);
    if (type == NEWER_FLOAT8E8M0)
        return bits == 255 ? (double)NAN : ldexp(1, (int)bits - 127);
    if (type == DATA(FLOAT16))
        return half_to_real((uint16_t)bits);
    if (type == DATA(BFLOAT16))
        return bfloat_to_real((uint16_t)bits);
    if (type == DATA(DOUBLE)) {
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    return float_from_bits((uint32_t)bits);
}

static bool decode_raw(const uint8_t *bytes, size_t size, int type, int64_t count, int64_t *ints, double *reals) {
    int width = type_bits_of(type);
    if (size != ((size_t)count * (size_t)width + 7) / 8)
        return false;
    if (type == DATA(FLOAT)) { /* most weights */
        for (int64_t i = 0; i < count; i++)
            reals[i] = float_from_bits((uint32_t)little_endian(bytes + 4 * i, 4));
        return true;
    }
    for (int64_t i = 0; i < count; i++) {
        uint64_t bits = width >= 8 ? little_endian(bytes + i * (width / 8), width / 8)
                                   : (uint64_t)(bytes[i * width / 8] >> (i * width % 8) & ((1 << width) - 1));
        if (reals != NULL)
            reals[i] = real_from_bits(bits, type);
        else
            ints[i] = onnx_wrap_integer((int64_t)bits, type);
    }
    return true;
}

static bool decode_typed(const Onnx__TensorProto *proto, int type, int64_t count, int64_t *ints, double *reals) {
    size_t n = (size_t)count;
    int width = type_bits_of(type);
    if (width < 8 || onnx_small_float(type) != NULL || type == NEWER_FLOAT8E8M0) {
        /* Each int32 is a byte of raw data. */
        for (int64_t i = 0; i < count; i++) {
            uint32_t byte = (uint32_t)proto->int32_data[i * width / 8];
            uint64_t bits = byte >> (i * width % 8) & ((1u << width) - 1);
            if (reals != NULL)
                reals[i] = real_from_bits(bits, type);
            else
                ints[i] = onnx_wrap_integer((int64_t)bits, type);
        }
    } else if (type == DATA(FLOAT) && proto->n_float_data == n) {
        for (size_t i = 0; i < n; i++)
            reals[i] = (double)proto->float_data[i];
    } else if (type == DATA(DOUBLE) && proto->n_double_data == n) {
        for (size_t i = 0; i < n; i++)
            reals[i] = proto->double_data[i];
    } else if (type == DATA(INT64) && proto->n_int64_data == n) {
        for (size_t i = 0; i < n; i++)
            ints[i] = proto->int64_data[i];
    } else if ((type == DATA(UINT64) || type == DATA(UINT32)) && proto->n_uint64_data == n) {
        for (size_t i = 0; i < n; i++)
            ints[i] = onnx_wrap_integer((int64_t)proto->uint64_data[i], type);
    } else if ((type == DATA(FLOAT16) || type == DATA(BFLOAT16)) && proto->n_int32_data == n) {
        for (size_t i = 0; i < n; i++)
            reals[i] = real_from_bits((uint64_t)(uint32_t)proto->int32_data[i] & 0xffff, type);
    } else if (ints != NULL && type != DATA(INT64) && type != DATA(UINT64) && type != DATA(UINT32) && proto->n_int32_data == n) {
        for (size_t i = 0; i < n; i++)
            ints[i] = onnx_wrap_integer(proto->int32_data[i], type);
    } else {
        return false;
    }
    return true;
}

OnnxTensor *onnx_decode(const OnnxFile *file, Arena *arena, const Onnx__TensorProto *proto, const Origin *origin, Diag *diag) {
    const char *name = proto->name != NULL ? proto->name : "";
    OnnxTensor *tensor = arena_alloc(arena, 1, sizeof *tensor);
    tensor->type = proto->data_type;
    if (!onnx_tensor_shape(proto, origin, &tensor->shape, diag))
        return NULL;
    bool real = onnx_type_is_real(tensor->type);
    if (!real && !onnx_type_is_integer(tensor->type)) {
        diag_error(diag, origin, "tensor '%s' holds elements of an unsupported type (%s)", name, onnx_type_name(tensor->type));
        return NULL;
    }
    tensor->count = checked_elements(tensor->shape, CONSTANT_LIMIT);
    bool external = proto->has_data_location && proto->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    const uint8_t *bytes = proto->raw_data.data;
    size_t size = proto->raw_data.len;
    if (external && (file == NULL || !file_read_external(file, arena, proto, &bytes, &size, diag))) {
        if (file == NULL)
            diag_error(diag, origin, "tensor '%s' may not use external data here", name);
        return NULL;
    }
    /* What the data cannot fill is not allocated. */
    bool raw = external || proto->has_raw_data;
    size_t packed = (size_t)tensor->count;
    if (type_bits_of(tensor->type) < 8)
        packed = (packed * (size_t)type_bits_of(tensor->type) + 7) / 8;
    int64_t *ints = NULL;
    double *reals = NULL;
    bool fits =
        raw ? packed <= size
            : packed == proto->n_float_data + proto->n_double_data + proto->n_int32_data + proto->n_int64_data + proto->n_uint64_data;
    if (fits && !raw && packed < (size_t)tensor->count)
        fits = packed == proto->n_int32_data;
    if (fits && real)
        reals = arena_alloc(arena, (size_t)tensor->count, sizeof *reals);
    else if (fits)
        ints = arena_alloc(arena, (size_t)tensor->count, sizeof *ints);
    if (!fits || !(raw ? decode_raw(bytes, size, tensor->type, tensor->count, ints, reals)
                       : decode_typed(proto, tensor->type, tensor->count, ints, reals))) {
        diag_error(diag, origin, "tensor '%s' of shape %s and type %s holds another number of elements", name,
                   shape_text(arena, tensor->shape), onnx_type_name(tensor->type));
        return NULL;
    }
    tensor->ints = ints;
    tensor->reals = reals;
    return tensor;
}
