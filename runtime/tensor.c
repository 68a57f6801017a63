/* Elements of the arena by tensor description, and floats packed from mantissa and exponent. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

int intc_rt_type_size(int32_t type) {
    return type == INTC_I8 ? 1 : type == INTC_I16 ? 2 : type == INTC_I32 || type == INTC_F32 ? 4 : 8;
}

int64_t intc_rt_tensor_elements(const struct intc_tensor *tensor) {
    int64_t elements = 1;
    for (int i = 0; i < tensor->rank; i++)
        elements *= tensor->dim[i];
    return elements;
}

int64_t intc_rt_load(const unsigned char *place, int32_t type) {
    if (type == INTC_I8) {
        int8_t value;
        memcpy(&value, place, sizeof value);
        return value;
    }
    if (type == INTC_I16) {
        int16_t value;
        memcpy(&value, place, sizeof value);
        return value;
    }
    if (type == INTC_I32 || type == INTC_F32) {
        int32_t value;
        memcpy(&value, place, sizeof value);
        return value;
    }
    int64_t value;
    memcpy(&value, place, sizeof value);
    return value;
}

void intc_rt_store(unsigned char *place, int32_t type, int64_t value) {
    if (type == INTC_I8)
        *place = (unsigned char)value;
    else if (type == INTC_I16)
        memcpy(place, &(int16_t){(int16_t)value}, 2);
    else if (type == INTC_I32 || type == INTC_F32)
        memcpy(place, &(int32_t){(int32_t)value}, 4);
    else
        memcpy(place, &value, 8);
}

int32_t intc_rt_exponent(const unsigned char *arena, int64_t offset) {
    return offset < 0 ? 0 : (int32_t)intc_rt_load(arena + offset, INTC_I32);
}

void intc_rt_set_exponent(unsigned char *arena, int64_t offset, int64_t exponent) {
    if (offset >= 0)
        intc_rt_store(arena + offset, INTC_I32, exponent);
}

int64_t intc_rt_tensor_place(const struct intc_tensor *tensor, int64_t index) {
    int64_t element = 0;
    for (int i = tensor->rank - 1; i >= 0; i--) {
        element += index % tensor->dim[i] * tensor->stride[i];
        index /= tensor->dim[i];
    }
    return tensor->offset + element * intc_rt_type_size(tensor->type);
}

Cursor intc_rt_cursor(const struct intc_tensor *tensor) {
    return (Cursor){.tensor = tensor, .size = intc_rt_type_size(tensor->type), .place = tensor->offset};
}

void intc_rt_cursor_next(Cursor *cursor) {
    for (int i = cursor->tensor->rank - 1; i >= 0; i--) {
        int64_t step = cursor->tensor->stride[i] * cursor->size;
        cursor->place += step;
        if (++cursor->index[i] < cursor->tensor->dim[i])
            return;
        cursor->index[i] = 0;
        cursor->place -= cursor->tensor->dim[i] * step;
    }
}

int64_t intc_rt_cursor_get(const Cursor *cursor, const unsigned char *arena) {
    return intc_rt_load(arena + cursor->place, cursor->tensor->type);
}

Fixed intc_rt_tensor_number(const unsigned char *arena, const struct intc_tensor *tensor, int64_t place) {
    int64_t bits = intc_rt_load(arena + place, tensor->type);
    if (tensor->type != INTC_F32)
        return (Fixed){bits, intc_rt_exponent(arena, tensor->exponent_offset)};
    int field = (int)(bits >> 23 & 255);
    int64_t fraction = bits & 0x7FFFFF, magnitude = field > 0 ? fraction | 0x800000 : fraction;
    if (field == 255)
        return (Fixed){bits < 0 ? -1 : 1, 1000};
    return (Fixed){bits < 0 ? -magnitude : magnitude, (field > 0 ? field : 1) - 150};
}

int32_t intc_rt_float_bits(int64_t mantissa, int exponent) {
    return (int32_t)(uint32_t)intc_rt_pack_float(mantissa, exponent, 23, 8);
}

bool intc_rt_tensor_places(const struct intc_tensor *tensor, int first, int32_t **places) {
    int64_t elements = 1, last = 0;
    bool contiguous = true;
    *places = NULL;
    for (int i = tensor->rank - 1; i >= first; i--) {
        contiguous = contiguous && (tensor->dim[i] == 1 || tensor->stride[i] == elements);
        elements *= tensor->dim[i];
        last += (tensor->dim[i] - 1) * tensor->stride[i];
    }
    if (contiguous)
        return true;
    int32_t *list = last <= INT32_MAX ? malloc((size_t)elements * sizeof *list) : NULL;
    if (!list)
        return false;
    Cursor at = intc_rt_cursor(tensor);
    for (int64_t e = 0; e < elements; e++, intc_rt_cursor_next(&at))
        list[e] = (int32_t)((at.place - tensor->offset) / at.size);
    *places = list;
    return true;
}

uint64_t intc_rt_pack_float(int64_t mantissa, int exponent, int mantissa_bits, int exponent_bits) {
    uint64_t sign = mantissa < 0 ? (uint64_t)1 << (mantissa_bits + exponent_bits) : 0, magnitude = intc_magnitude(mantissa);
    if (magnitude == 0)
        return sign;
    int bias = (1 << (exponent_bits - 1)) - 1, least = 1 - bias - mantissa_bits; /* least: exponent of a denormal's last place */
    int length = intc_bit_length(magnitude);
    int64_t last = (int64_t)exponent + length - 1 - mantissa_bits; /* exponent of the last place kept */
    if (last < least)
        last = least;
    int64_t shift = last - exponent;
    if (shift > 63)
        return sign;
    /* 2^62 and above only when there is much to shift out: halve first, with a sticky bit. */
    if (length > 62 && shift > 2) {
        magnitude = magnitude >> 2 | ((magnitude & 3) != 0);
        shift -= 2;
    }
    uint64_t kept = shift > 0 ? (uint64_t)intc_round_even((int64_t)magnitude, (int)shift) : magnitude << -shift;
    if (kept >> (mantissa_bits + 1)) {
        kept >>= 1;
        last++;
    }
    if (!(kept >> mantissa_bits))
        return sign | kept; /* denormal */
    int64_t field = last + mantissa_bits + bias;
    if (field >= (1 << exponent_bits) - 1)
        return sign | (((uint64_t)1 << exponent_bits) - 1) << mantissa_bits;
    return sign | (uint64_t)field << mantissa_bits | (kept & (((uint64_t)1 << mantissa_bits) - 1));
}

const struct intc_tensor *intc_rt_tensor_find(const struct intc_module *module, int32_t kind, int32_t scope) {
    for (uint32_t i = 0; i < module->tensor_count; i++)
        if (module->tensors[i].kind == kind && (module->tensors[i].scope & scope))
            return module->tensors + i;
    return NULL;
}
