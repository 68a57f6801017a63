/* A batch into the arena: the exponent of each input, and the mapping of its rows (mapping.c), which threads share piece by piece. No
 * library call but memory's and the pool's, so that the check for floating point can walk all of it. */
#include "runtime/runtime.h"

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

/* The mantissas of all bytes of each channel. */
static void map_table(const Feed *feed, const struct intc_tensor *tensor, int exponent) {
    for (int64_t i = 0; i < (int64_t)256 * feed->channels; i++)
        feed->mapped[i] = tensor->type == INTC_F32
                              ? intc_rt_float_bits(feed->table[i], -PIXEL_FRACTION)
                              : (int32_t)intc_rt_map_value(feed->table[i], (int64_t)exponent + PIXEL_FRACTION, tensor->bits);
}

/* --- pieces of rows --- */

/* What the threads do to the rows of a tensor; tile i is piece i % pieces of row i / pieces of the batch. */
typedef struct {
    const Feed *feed;
    const Feeds *feeds;
    const struct intc_tensor *tensor;
    unsigned char *arena;
    int exponent;
} FeedJob;

/* FEW elements are not worth a second thread. */
enum { FEW = 8192 };

static void share_out(const FeedJob *job, intc_kernel *kernel, struct intc_pool *pool) {
    int64_t tiles = job->feeds->batch * job->feed->pieces;
    intc_rt_share_out(job->feeds->batch * job->feed->elements < FEW ? NULL : pool, kernel, job, tiles);
}

typedef struct {
    int64_t row, begin, end; /* row of the batch, and its elements */
} Piece;

static Piece piece_at(const FeedJob *job, int64_t tile) {
    int64_t pieces = job->feed->pieces, within = tile % pieces, elements = job->feed->elements;
    return (Piece){tile / pieces, elements * within / pieces, elements * (within + 1) / pieces};
}

static void extremes_of_tiles(unsigned char *arena, const void *places, int64_t begin, int64_t end, int64_t slot) {
    (void)arena, (void)slot;
    const FeedJob *job = places;
    for (int64_t tile = begin; tile < end; tile++) {
        Piece piece = piece_at(job, tile);
        const DataFile *file;
        int64_t chosen = job->feeds->chosen[piece.row];
        job->feed->extremes[tile] = (Extreme){.finite = true};
        if (chosen < 0)
            continue;
        const unsigned char *row = intc_rt_data_row(&job->feed->set, chosen, &file);
        job->feed->extremes[tile] = intc_rt_row_extreme(&file->shape, row, piece.begin, piece.end);
    }
}

static RowPlace row_place(const FeedJob *job, int64_t row) {
    const struct intc_tensor *tensor = job->tensor;
    int size = intc_rt_type_size(tensor->type);
    return (RowPlace){job->arena + tensor->offset + row * tensor->stride[0] * size,
                      tensor == job->feed->step ? job->feed->step_place : job->feed->infer_place, tensor->type, size};
}

/* Pixels channel by channel. */
static void map_pixels(const Feed *feed, const unsigned char *row, Piece piece, const RowPlace *to) {
    for (int c = 0; c < feed->channels; c++) {
        int64_t begin = c * feed->channel_size, end = begin + feed->channel_size;
        begin = begin > piece.begin ? begin : piece.begin;
        end = end < piece.end ? end : piece.end;
        intc_rt_map_pixels(row, begin, end, feed->mapped + 256 * c, to);
    }
}

static void map_tiles(unsigned char *arena, const void *places, int64_t begin, int64_t end, int64_t slot) {
    (void)arena, (void)slot;
    const FeedJob *job = places;
    const Feed *feed = job->feed;
    for (int64_t tile = begin; tile < end; tile++) {
        Piece piece = piece_at(job, tile);
        const DataFile *file;
        RowPlace to = row_place(job, piece.row);
        int64_t chosen = job->feeds->chosen[piece.row];
        feed->extremes[tile].finite = true;
        if (chosen < 0 || feed->set.count == 0) {
            intc_rt_map_fill(&to, piece.begin, piece.end, job->tensor->integer && job->tensor->kind == INTC_TARGET ? -1 : 0);
            continue;
        }
        const unsigned char *row = intc_rt_data_row(&feed->set, chosen, &file);
        if (job->tensor->integer)
            intc_rt_map_integers(&file->shape, row, piece.begin, piece.end, &to);
        else if (feed->table)
            map_pixels(feed, row, piece, &to);
        else
            feed->extremes[tile].finite =
                intc_rt_map_values(&file->shape, row, piece.begin, piece.end, job->exponent, job->tensor->bits, &to);
    }
}

/* Whether all numbers were; else the first row with another. */
static bool all_finite(const FeedJob *job, FeedFailure *failure) {
    for (int64_t tile = 0; tile < job->feeds->batch * job->feed->pieces; tile++)
        if (!job->feed->extremes[tile].finite) {
            int64_t row = job->feeds->chosen[tile / job->feed->pieces];
            const DataFile *file;
            intc_rt_data_row(&job->feed->set, row, &file);
            *failure = (FeedFailure){file, job->feed, row};
            return false;
        }
    return true;
}

/* The exponent at which the largest magnitude of the chosen rows fills the bits. */
static bool largest_exponent(const FeedJob *job, struct intc_pool *pool, int *exponent, FeedFailure *failure) {
    share_out(job, extremes_of_tiles, pool);
    Extreme most = {0};
    for (int64_t tile = 0; tile < job->feeds->batch * job->feed->pieces; tile++)
        if (intc_rt_extreme_less(most, job->feed->extremes[tile]))
            most = job->feed->extremes[tile];
    *exponent = INTC_EXPONENT_ZERO;
    if (most.magnitude > 0)
        *exponent = most.exponent + intc_rescale_shift(most.magnitude, job->tensor->bits, false);
    return all_finite(job, failure);
}

static bool feed_tensor(const Feed *feed, const Feeds *feeds, const struct intc_tensor *tensor, FeedMode mode, unsigned char *arena,
                        struct intc_pool *pool, FeedFailure *failure) {
    FeedJob job = {feed, feeds, tensor, arena, INTC_EXPONENT_ZERO};
    if (!tensor->integer) {
        if (tensor->type == INTC_F32)
            job.exponent = 0;
        else if (mode == FEED_INFER && tensor->calibrated_offset >= 0)
            job.exponent = intc_rt_exponent(arena, tensor->calibrated_offset);
        else if (feed->table)
            job.exponent = dynamic_exponent(feed, feeds, tensor->bits);
        else if (feed->set.count > 0 && !largest_exponent(&job, pool, &job.exponent, failure))
            return false;
        intc_rt_set_exponent(arena, tensor->exponent_offset, job.exponent);
        if (feed->table)
            map_table(feed, tensor, job.exponent);
    }
    share_out(&job, map_tiles, pool);
    return all_finite(&job, failure);
}

bool intc_rt_feed(const Feeds *feeds, FeedMode mode, unsigned char *arena, struct intc_pool *pool, FeedFailure *failure) {
    for (int i = 0; i < feeds->count; i++) {
        const struct intc_tensor *tensor = mode == FEED_STEP ? feeds->items[i].step : feeds->items[i].infer;
        if (tensor && !feed_tensor(feeds->items + i, feeds, tensor, mode, arena, pool, failure))
            return false;
    }
    return true;
}
