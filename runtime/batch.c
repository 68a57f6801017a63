/* A batch into the arena (no library call but memory's, so that the check for floating point can walk all of it): the linear fixed-point
 * mapping of numerics.md from the values of the files to mantissas of `bits` bits, or, in a float32 trainer, to the nearest floats. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

enum { FLOAT_BITS = 24 };

/* The value rounded as float32 would be; the exponent of a pixel is far from float32's limits. */
static Fixed round_float(bool negative, UWide magnitude, int exponent, bool sticky) {
    return intc_rt_fixed(negative, magnitude, exponent, sticky, FLOAT_BITS);
}

static Fixed subtract_float(Fixed a, Fixed b) {
    if (b.mantissa == 0)
        return a;
    /* Multiples of 2^-80 hold both exactly: pixels are above 2^-9 and means are used with at most 2^-56 in their last place. */
    Wide difference = intc_rt_fixed_to(a, 80) - intc_rt_fixed_to(b, 80);
    return round_float(difference < 0, difference < 0 ? 0 - (UWide)difference : (UWide)difference, -80, false);
}

bool intc_rt_pixel(int u, Fixed mean, Fixed std, int64_t *value) {
    UWide numerator = (UWide)(unsigned)u << 64;
    Fixed pixel = round_float(false, numerator / 255, -64, numerator % 255 != 0);
    if (mean.mantissa != 0 && mean.exponent + FLOAT_BITS > 16)
        return false;
    pixel = subtract_float(pixel, mean);
    if (pixel.mantissa != 0)
        pixel = intc_rt_fixed_div(pixel, std, FLOAT_BITS);
    Wide fixed = intc_rt_fixed_to(pixel, PIXEL_FRACTION);
    Wide limit = (Wide)1 << (PIXEL_FRACTION + 20);
    *value = (int64_t)fixed;
    return fixed <= limit && fixed >= -limit;
}

/* value * 2^-shift to `bits` bits, nearest, saturated. */
static int64_t map_value(int64_t value, int64_t shift, int bits) {
    int64_t high = ((int64_t)1 << (bits - 1)) - 1, low = -high - 1;
    if (shift >= 0)
        return intc_saturate(intc_round_even(value, shift > 63 ? 63 : (int)shift), low, high);
    if (value == 0)
        return 0;
    if (intc_bit_length(intc_magnitude(value)) - shift > 62)
        return value < 0 ? low : high;
    return intc_saturate(intc_shift_left(value, (int)-shift), low, high);
}

/* --- places --- */

typedef struct {
    unsigned char *first; /* of the row */
    const int64_t *place; /* NULL: contiguous */
    int32_t type;
    int size;
} RowPlace;

static RowPlace row_place(const Feed *feed, const struct intc_tensor *tensor, unsigned char *arena, int64_t row) {
    int size = intc_rt_type_size(tensor->type);
    return (RowPlace){arena + tensor->offset + row * tensor->stride[0] * size, tensor == feed->step ? feed->step_place : feed->infer_place,
                      tensor->type, size};
}

static void put(const RowPlace *place, int64_t index, int64_t value) {
    intc_rt_store(place->first + (place->place ? place->place[index] : index) * place->size, place->type, value);
}

static void fill_row(const RowPlace *place, int64_t elements, int64_t value) {
    for (int64_t i = 0; i < elements; i++)
        put(place, i, value);
}

/* --- uint8 --- */

/* The least and largest byte of a channel over the chosen rows; stops where they cannot change any more. */
static void byte_range(const Feed *feed, const Feeds *feeds, int channel, int *low, int *high) {
    *low = 255;
    *high = 0;
    for (int64_t r = 0; r < feeds->batch && (*low > 0 || *high < 255); r++) {
        if (feeds->chosen[r] < 0)
            continue;
        const DataFile *file;
        const unsigned char *row = intc_rt_data_row(&feed->set, feeds->chosen[r], &file) + channel * feed->channel_size;
        int least = *low, most = *high;
        for (int64_t i = 0; i < feed->channel_size; i++) {
            least = row[i] < least ? row[i] : least;
            most = row[i] > most ? row[i] : most;
        }
        *low = least;
        *high = most;
    }
}

/* Tables are monotonic, so the largest magnitude is at one of the ends. */
static int dynamic_exponent(const Feed *feed, const Feeds *feeds, int bits) {
    uint64_t maximum = 0;
    for (int c = 0; c < feed->channels; c++) {
        int ends[2];
        byte_range(feed, feeds, c, &ends[0], &ends[1]);
        for (int k = 0; k < 2 && ends[0] <= ends[1]; k++) {
            uint64_t magnitude = intc_magnitude(feed->table[256 * c + ends[k]]);
            maximum = magnitude > maximum ? magnitude : maximum;
        }
    }
    return maximum == 0 ? INTC_EXPONENT_ZERO : intc_rescale_shift(maximum, bits, false) - PIXEL_FRACTION;
}

static void put_pixels(const RowPlace *place, const unsigned char *row, int64_t begin, int64_t end, const int32_t *mapped) {
    if (place->type == INTC_I8 && !place->place) {
        for (int64_t i = begin; i < end; i++)
            place->first[i] = (unsigned char)mapped[row[i]];
    } else if (place->type == INTC_I8) {
        for (int64_t i = begin; i < end; i++)
            place->first[place->place[i]] = (unsigned char)mapped[row[i]];
    } else {
        for (int64_t i = begin; i < end; i++)
            put(place, i, mapped[row[i]]);
    }
}

static void feed_pixels(const Feed *feed, const Feeds *feeds, const struct intc_tensor *tensor, int exponent, unsigned char *arena) {
    int32_t mapped[256];
    bool real = tensor->type == INTC_F32;
    for (int c = 0; c < feed->channels; c++) {
        for (int u = 0; u < 256; u++)
            mapped[u] = real ? intc_rt_float_bits(feed->table[256 * c + u], -PIXEL_FRACTION)
                             : (int32_t)map_value(feed->table[256 * c + u], (int64_t)exponent + PIXEL_FRACTION, tensor->bits);
        for (int64_t r = 0; r < feeds->batch; r++) {
            if (feeds->chosen[r] < 0)
                continue;
            const DataFile *file;
            const unsigned char *row = intc_rt_data_row(&feed->set, feeds->chosen[r], &file);
            RowPlace place = row_place(feed, tensor, arena, r);
            put_pixels(&place, row, c * feed->channel_size, (c + 1) * feed->channel_size, mapped);
        }
    }
}

/* --- other types --- */

static bool unpack_failed(const DataFile *file, const Feed *feed, int64_t row, FeedFailure *failure) {
    *failure = (FeedFailure){file, feed, row};
    return false;
}

/* The exponent at which the largest magnitude of the chosen rows fills `bits` bits. */
static bool largest_exponent(const Feed *feed, const Feeds *feeds, int bits, int *exponent, FeedFailure *failure) {
    int best_top = INT32_MIN, best_exponent = 0;
    uint64_t best = 0;
    for (int64_t r = 0; r < feeds->batch; r++) {
        if (feeds->chosen[r] < 0)
            continue;
        const DataFile *file;
        const unsigned char *row = intc_rt_data_row(&feed->set, feeds->chosen[r], &file);
        for (int64_t i = 0; i < feed->elements; i++) {
            int64_t mantissa;
            int e;
            if (!intc_rt_data_unpack(&file->shape, row, i, &mantissa, &e))
                return unpack_failed(file, feed, feeds->chosen[r], failure);
            uint64_t magnitude = intc_magnitude(mantissa);
            int length = intc_bit_length(magnitude), top = length + e;
            if (magnitude == 0 || top < best_top)
                continue;
            if (top > best_top || magnitude << (64 - length) > best << (64 - intc_bit_length(best))) {
                best = magnitude;
                best_top = top;
                best_exponent = e;
            }
        }
    }
    *exponent = best == 0 ? INTC_EXPONENT_ZERO : best_exponent + intc_rescale_shift(best, bits, false);
    return true;
}

static bool feed_values(const Feed *feed, const Feeds *feeds, const struct intc_tensor *tensor, int exponent, unsigned char *arena,
                        FeedFailure *failure) {
    for (int64_t r = 0; r < feeds->batch; r++) {
        if (feeds->chosen[r] < 0)
            continue;
        const DataFile *file;
        const unsigned char *row = intc_rt_data_row(&feed->set, feeds->chosen[r], &file);
        RowPlace place = row_place(feed, tensor, arena, r);
        for (int64_t i = 0; i < feed->elements; i++) {
            int64_t mantissa;
            int e;
            if (!intc_rt_data_unpack(&file->shape, row, i, &mantissa, &e))
                return unpack_failed(file, feed, feeds->chosen[r], failure);
            bool real = tensor->type == INTC_F32;
            put(&place, i, real ? intc_rt_float_bits(mantissa, e) : map_value(mantissa, (int64_t)exponent - e, tensor->bits));
        }
    }
    return true;
}

static void feed_integers(const Feed *feed, const Feeds *feeds, const struct intc_tensor *tensor, unsigned char *arena) {
    for (int64_t r = 0; r < feeds->batch; r++) {
        if (feeds->chosen[r] < 0)
            continue;
        const DataFile *file;
        const unsigned char *row = intc_rt_data_row(&feed->set, feeds->chosen[r], &file);
        RowPlace place = row_place(feed, tensor, arena, r);
        for (int64_t i = 0; i < feed->elements; i++)
            put(&place, i, intc_rt_data_integer(&file->shape, row, i));
    }
}

static bool feed_tensor(const Feed *feed, const Feeds *feeds, const struct intc_tensor *tensor, FeedMode mode, unsigned char *arena,
                        FeedFailure *failure) {
    int64_t padding = tensor->integer && tensor->kind == INTC_TARGET ? -1 : 0;
    bool empty = feed->set.count == 0;
    for (int64_t r = 0; r < feeds->batch; r++)
        if (empty || feeds->chosen[r] < 0) {
            RowPlace place = row_place(feed, tensor, arena, r);
            fill_row(&place, feed->elements, padding);
        }
    if (tensor->integer) {
        if (!empty)
            feed_integers(feed, feeds, tensor, arena);
        return true;
    }
    int exponent = INTC_EXPONENT_ZERO;
    bool real = tensor->type == INTC_F32, fixed = mode == FEED_INFER && tensor->calibrated_offset >= 0;
    if (real)
        exponent = 0;
    else if (fixed)
        exponent = intc_rt_exponent(arena, tensor->calibrated_offset);
    else if (feed->table)
        exponent = dynamic_exponent(feed, feeds, tensor->bits);
    else if (!empty && !largest_exponent(feed, feeds, tensor->bits, &exponent, failure))
        return false;
    intc_rt_set_exponent(arena, tensor->exponent_offset, exponent);
    if (empty)
        return true;
    if (!feed->table)
        return feed_values(feed, feeds, tensor, exponent, arena, failure);
    feed_pixels(feed, feeds, tensor, exponent, arena);
    return true;
}

bool intc_rt_feed(const Feeds *feeds, FeedMode mode, unsigned char *arena, FeedFailure *failure) {
    for (int i = 0; i < feeds->count; i++) {
        const struct intc_tensor *tensor = mode == FEED_STEP ? feeds->items[i].step : feeds->items[i].infer;
        if (tensor && !feed_tensor(feeds->items + i, feeds, tensor, mode, arena, failure))
            return false;
    }
    return true;
}
