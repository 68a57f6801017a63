/* Elements of one row: their largest magnitude, and the linear fixed-point mapping of numerics.md to mantissas of `bits` bits, or, in a
 * float32 trainer, to the nearest floats. No library call but memory's. */
#include "runtime/runtime.h"

#include <string.h>

int64_t intc_rt_map_value(int64_t value, int64_t shift, int bits) {
    int64_t high = ((int64_t)1 << (bits - 1)) - 1, low = -high - 1;
    if (shift >= 0)
        return intc_saturate(intc_round_even(value, shift > 63 ? 63 : (int)shift), low, high);
    if (value == 0)
        return 0;
    if (intc_bit_length(intc_magnitude(value)) - shift > 62)
        return value < 0 ? low : high;
    return intc_saturate(intc_shift_left(value, (int)-shift), low, high);
}

static int64_t place_of(const RowPlace *to, int64_t index) {
    return to->place ? to->place[index] : index;
}

static void put(const RowPlace *to, int64_t index, int64_t value) {
    intc_rt_store(to->first + place_of(to, index) * to->size, to->type, value);
}

void intc_rt_map_fill(const RowPlace *to, int64_t begin, int64_t end, int64_t value) {
    for (int64_t i = begin; i < end; i++)
        put(to, i, value);
}

void intc_rt_map_pixels(const unsigned char *row, int64_t begin, int64_t end, const int32_t *mapped, const RowPlace *to) {
    if (to->type == INTC_I8 && !to->place) {
        for (int64_t i = begin; i < end; i++)
            to->first[i] = (unsigned char)mapped[row[i]];
    } else if (to->type == INTC_I8) {
        for (int64_t i = begin; i < end; i++)
            to->first[to->place[i]] = (unsigned char)mapped[row[i]];
    } else {
        for (int64_t i = begin; i < end; i++)
            put(to, i, mapped[row[i]]);
    }
}

void intc_rt_map_integers(const DataShape *shape, const unsigned char *row, int64_t begin, int64_t end, const RowPlace *to) {
    for (int64_t i = begin; i < end; i++)
        put(to, i, intc_rt_data_integer(shape, row, i));
}

/* --- floats in the byte order of the machine --- */

/* A format of IEEE 754: bytes, bits of the fraction, bits of the exponent. */
typedef struct {
    int bytes, places, width;
} FloatFormat;
#define HALF ((FloatFormat){2, 10, 5})
#define SINGLE ((FloatFormat){4, 23, 8})
#define DOUBLE ((FloatFormat){8, 52, 11})

static inline __attribute__((always_inline)) uint64_t float_word(FloatFormat format, const unsigned char *row, int64_t index) {
    uint64_t word = 0;
    memcpy(&word, row + index * format.bytes, (size_t)format.bytes);
    return word;
}

static inline __attribute__((always_inline)) uint64_t infinity(FloatFormat format) {
    return (((uint64_t)1 << format.width) - 1) << format.places;
}

/* The largest word without its sign: of finite numbers that is the order of the magnitudes, and none is beyond infinity. */
static inline __attribute__((always_inline)) uint64_t largest_word(FloatFormat format, const unsigned char *row, int64_t begin,
                                                                   int64_t end) {
    uint64_t most = 0, magnitude = ((uint64_t)1 << (format.places + format.width)) - 1;
    for (int64_t i = begin; i < end; i++) {
        uint64_t word = float_word(format, row, i) & magnitude;
        most = word > most ? word : most;
    }
    return most;
}

/* As intc_rt_map_value of what intc_rt_data_unpack gives, without its branches where a place is to be dropped. False if an element is not
 * finite. */
static inline __attribute__((always_inline)) bool map_floats(FloatFormat format, const unsigned char *row, int64_t begin, int64_t end,
                                                             int exponent, int bits, const RowPlace *to, bool bytes) {
    int64_t unit = (int64_t)exponent + (1 << (format.width - 1)) - 1 + format.places, high = ((int64_t)1 << (bits - 1)) - 1;
    uint64_t hidden = (uint64_t)1 << format.places, most = 0;
    for (int64_t i = begin; i < end; i++) {
        uint64_t word = float_word(format, row, i), magnitude = word & ((hidden << format.width) - 1);
        most = magnitude > most ? magnitude : most;
        int64_t field = (int64_t)(magnitude >> format.places), normal = field > 0, shift = unit - (normal ? field : 1);
        uint64_t value = (magnitude & (hidden - 1)) | (normal ? hidden : 0);
        int64_t sign = -(int64_t)(word >> (format.places + format.width)), mapped;
        if (shift > 0) {
            int drop = shift > format.places + 2 ? format.places + 2 : (int)shift; /* all of it, and rounded to 0 */
            mapped = (int64_t)((value + (((uint64_t)1 << (drop - 1)) - 1) + (value >> drop & 1)) >> drop);
            mapped = (mapped ^ sign) - sign;
            mapped = mapped > high ? high : mapped < -high - 1 ? -high - 1 : mapped;
        } else {
            mapped = intc_rt_map_value(((int64_t)value ^ sign) - sign, shift, bits);
        }
        if (bytes)
            to->first[place_of(to, i)] = (unsigned char)mapped;
        else
            put(to, i, mapped);
    }
    return most < infinity(format);
}

static inline __attribute__((always_inline)) bool map_format(FloatFormat format, const unsigned char *row, int64_t begin, int64_t end,
                                                             int exponent, int bits, const RowPlace *to) {
    if (to->type == INTC_I8 && !to->place)
        return map_floats(format, row, begin, end, exponent, bits, &(RowPlace){.first = to->first}, true);
    if (to->type == INTC_I8)
        return map_floats(format, row, begin, end, exponent, bits, to, true);
    return map_floats(format, row, begin, end, exponent, bits, to, false);
}

/* Floats of a float32 trainer are taken as they are, but for the sign of zero. */
static bool copy_singles(const unsigned char *row, int64_t begin, int64_t end, const RowPlace *to) {
    uint64_t most = 0, sign = (uint64_t)1 << 31;
    for (int64_t i = begin; i < end; i++) {
        uint64_t word = float_word(SINGLE, row, i), magnitude = word & (sign - 1);
        most = magnitude > most ? magnitude : most;
        uint32_t kept = magnitude == 0 ? 0 : (uint32_t)word;
        memcpy(to->first + place_of(to, i) * (int64_t)sizeof kept, &kept, sizeof kept);
    }
    return most < infinity(SINGLE);
}

static bool is_plain_float(const DataShape *shape) {
    return shape->type >= DATA_F16 && !shape->swap;
}

/* --- values of any type --- */

bool intc_rt_extreme_less(Extreme a, Extreme b) {
    if (a.magnitude == 0 || b.magnitude == 0)
        return b.magnitude > 0 && a.magnitude == 0;
    int a_length = intc_bit_length(a.magnitude), b_length = intc_bit_length(b.magnitude);
    if (a_length + a.exponent != b_length + b.exponent)
        return a_length + a.exponent < b_length + b.exponent;
    return a.magnitude << (64 - a_length) < b.magnitude << (64 - b_length);
}

Extreme intc_rt_row_extreme(const DataShape *shape, const unsigned char *row, int64_t begin, int64_t end) {
    Extreme most = {.finite = true}, other = most;
    int64_t mantissa;
    if (is_plain_float(shape)) {
        uint64_t word = shape->type == DATA_F16   ? largest_word(HALF, row, begin, end)
                        : shape->type == DATA_F32 ? largest_word(SINGLE, row, begin, end)
                                                  : largest_word(DOUBLE, row, begin, end);
        most.finite = intc_rt_data_unpack(shape, (const unsigned char *)&word, 0, &mantissa, &most.exponent);
        most.magnitude = most.finite ? intc_magnitude(mantissa) : 0;
        return most;
    }
    for (int64_t i = begin; i < end && most.finite; i++) {
        most.finite = intc_rt_data_unpack(shape, row, i, &mantissa, &other.exponent);
        other.magnitude = most.finite ? intc_magnitude(mantissa) : 0;
        if (intc_rt_extreme_less(most, other))
            most = other;
    }
    return most;
}

bool intc_rt_map_values(const DataShape *shape, const unsigned char *row, int64_t begin, int64_t end, int exponent, int bits,
                        const RowPlace *to) {
    bool real = to->type == INTC_F32;
    if (shape->type == DATA_F32 && !shape->swap && real)
        return copy_singles(row, begin, end, to);
    if (is_plain_float(shape) && !real)
        return shape->type == DATA_F16   ? map_format(HALF, row, begin, end, exponent, bits, to)
               : shape->type == DATA_F32 ? map_format(SINGLE, row, begin, end, exponent, bits, to)
                                         : map_format(DOUBLE, row, begin, end, exponent, bits, to);
    for (int64_t i = begin; i < end; i++) {
        int64_t mantissa;
        int e;
        if (!intc_rt_data_unpack(shape, row, i, &mantissa, &e))
            return false;
        put(to, i, real ? intc_rt_float_bits(mantissa, e) : intc_rt_map_value(mantissa, (int64_t)exponent - e, bits));
    }
    return true;
}
