/* What the files of the runtime share. Integers only: no float or double occurs in this folder, and it is compiled without floating-point
 * registers where the compiler can. Functions that can fail through the user's data return false with one sentence in Error. */
#ifndef INTC_RUNTIME_H
#define INTC_RUNTIME_H

#include "runtime/abi.h"
#include "runtime/fixed.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

__extension__ typedef __int128 Wide;
__extension__ typedef unsigned __int128 UWide;

typedef struct {
    char text[1024];
} Error;

/* Writes the sentence; always false. */
__attribute__((format(printf, 2, 3))) bool intc_rt_fail(Error *error, const char *format, ...);

/* --- decimal.c: exact decimals --- */

/* mantissa * 2^exponent. Zero is {0, INTC_EXPONENT_ZERO}; else the mantissa has exactly the bits it was rounded to (31 where nothing else
 * is said), because the alignment of a weighted sum goes by the static bound of its coefficients. */
typedef struct {
    int64_t mantissa;
    int exponent;
} Fixed;

#define FIXED_ZERO ((Fixed){0, INTC_EXPONENT_ZERO})

/* sign * magnitude * 2^exponent rounded half to even to `bits` bits; sticky: the true magnitude is a little larger. */
Fixed intc_rt_fixed(bool negative, UWide magnitude, int exponent, bool sticky, int bits);
/* A decimal number such as -12.5e-3, at most 18 significant digits, |power of ten| <= 27; false if the text is something else. */
bool intc_rt_decimal(const char *text, size_t length, int bits, Fixed *value);
Fixed intc_rt_fixed_mul(Fixed a, Fixed b);
Fixed intc_rt_fixed_negate(Fixed a);
/* a / b for b != 0, rounded to `bits` bits. */
Fixed intc_rt_fixed_div(Fixed a, Fixed b, int bits);
/* value * 2^fraction, rounded half to even; saturates at 2^100. */
Wide intc_rt_fixed_to(Fixed value, int fraction);

/* Room for any number that these print. */
#define NUMBER_TEXT 64
/* Eight significant digits, without trailing zeros: "0.1". Below 10^-20: "0". */
const char *intc_rt_print_decimal(Fixed value, char text[NUMBER_TEXT]);
/* value / 2^fraction with so many digits after the point, rounded half up in magnitude. */
const char *intc_rt_print_fraction(Wide value, int fraction, int digits, char text[NUMBER_TEXT]);
/* numerator / denominator likewise; denominator > 0. */
const char *intc_rt_print_ratio(int64_t numerator, int64_t denominator, int digits, char text[NUMBER_TEXT]);

/* --- schedule.c --- */

typedef enum { SCHEDULE_CONSTANT, SCHEDULE_STEP, SCHEDULE_COSINE, SCHEDULE_ONECYCLE, SCHEDULE_POLY } ScheduleKind;

enum { MAX_MILESTONES = 16 };

typedef struct {
    ScheduleKind kind;
    int64_t milestone[MAX_MILESTONES]; /* epochs, ascending */
    int milestones;
    Fixed factor; /* of each milestone */
    int power;    /* of poly */
    const char *text;
} Schedule;

bool intc_rt_schedule_parse(const char *text, Schedule *schedule);
/* (1 + cos(pi * a / b)) / 2 with 60 fraction bits, exact to 2^-50; 0 <= a <= b. */
int64_t intc_rt_half_cosine(int64_t a, int64_t b);
/* The learning rate of step t (from 0) of `total`. Warm-up: the first `warmup` steps have (t + 1) / warmup of the rate; cosine and poly run
 * over the steps after it. step: as PyTorch's MultiStepLR; cosine: CosineAnnealingLR with T_max in steps; onecycle: OneCycleLR with its
 * defaults, momentum untouched; poly: PolynomialLR. */
Fixed intc_rt_schedule_rate(const Schedule *schedule, Fixed rate, int64_t warmup, int64_t t, int64_t total, int64_t steps_per_epoch);

/* --- options.c --- */

typedef enum {
    COMMAND_TRAIN = 1,
    COMMAND_EVAL = 2,
    COMMAND_PREDICT = 4,
    COMMAND_EXPORT = 8,
    COMMAND_INFO = 16,
    COMMAND_BENCH = 32
} Command;

enum { MAX_LIST = 16, MAX_CHANNELS = 64 };

typedef struct {
    const char *text[MAX_LIST];
    int count;
} List;

typedef struct {
    Fixed value[MAX_CHANNELS]; /* 24 bits, as float32 */
    int count;
    const char *text;
} Channels;

typedef struct {
    Command command;
    List data, target, val_data, val_target, output;
    const char *checkpoint, *resume, *save, *log, *format, *optimizer;
    int64_t epochs, max_steps, warmup, calibrate, checkpoint_every, threads, steps, seed;
    bool no_shuffle, nesterov, keep_best, profile;
    Fixed lr, momentum, weight_decay;
    Channels mean, std;
    Schedule schedule;
} Options;

/* Status of the process if it ends here (0 after --help, 2 after a usage error, already reported); -1 to go on. */
int intc_rt_options(int argc, char **argv, Options *options);

/* --- data.c, npy.c, idx.c, cifar.c, inflate.c --- */

typedef enum { DATA_U8, DATA_I8, DATA_I16, DATA_I32, DATA_I64, DATA_F16, DATA_F32, DATA_F64 } DataType;

typedef struct {
    DataType type;
    bool swap;      /* stored in the other byte order */
    int rank;       /* of one row */
    int64_t dim[8]; /* of one row */
    int64_t rows;
    int64_t first;      /* bytes from the start of the file to the first row */
    int64_t row_stride; /* bytes */
} DataShape;

typedef struct {
    char *path;
    const unsigned char *map;
    size_t size;
    DataShape shape;
} DataFile;

/* Rows of one or several files of the same type and row shape, one after the other. */
typedef struct {
    DataFile *files;
    int count;
    int64_t rows;
} DataSet;

/* A name for messages: "float32". */
const char *intc_rt_data_type_name(DataType type);
int intc_rt_data_type_size(DataType type);
/* paths: separated by commas. labels: a CIFAR batch gives its labels instead of its pictures. */
bool intc_rt_data_open(const char *paths, bool labels, DataSet *set, Error *error);
void intc_rt_data_close(DataSet *set);
/* The bytes of a row, and the file it is in. */
const unsigned char *intc_rt_data_row(const DataSet *set, int64_t row, const DataFile **file);
/* An integer element of a row (U8 to I64). */
int64_t intc_rt_data_integer(const DataShape *shape, const unsigned char *row, int64_t index);
/* Unpacks an element: value = mantissa * 2^exponent. False for infinities, NaN and integers beyond 2^62. */
bool intc_rt_data_unpack(const DataShape *shape, const unsigned char *row, int64_t index, int64_t *mantissa, int *exponent);
/* "3x32x32" */
const char *intc_rt_shape_text(int rank, const int64_t *dim, char *text, size_t room);

/* The readers of one format each: read the header of the mapped file and check the size. */
bool intc_rt_npy_open(DataFile *file, Error *error);
bool intc_rt_idx_open(DataFile *file, Error *error);
bool intc_rt_cifar_open(DataFile *file, bool labels, Error *error);
bool intc_rt_cifar_fits(size_t size);
/* Decompresses into fd. */
bool intc_rt_gunzip(const char *path, const unsigned char *data, size_t size, int fd, Error *error);
/* What the compiler deflated: `size` bytes, as it knew. */
bool intc_rt_unpack(const unsigned char *packed, int64_t packed_size, unsigned char *to, int64_t size, Error *error);
/* rows * stride + first as the file's size must be; false on overflow. */
bool intc_rt_data_bytes(const DataShape *shape, int64_t *bytes);

/* --- mapping.c: elements [begin, end) of one row --- */

/* A largest magnitude, times 2^exponent; 0: of zeros alone. */
typedef struct {
    uint64_t magnitude;
    int exponent;
    bool finite; /* so were all numbers */
} Extreme;

/* Where the elements of a row go. */
typedef struct {
    unsigned char *first;
    const int32_t *place; /* NULL: contiguous */
    int32_t type;         /* enum intc_type, and its bytes */
    int size;
} RowPlace;

bool intc_rt_extreme_less(Extreme a, Extreme b);
Extreme intc_rt_row_extreme(const DataShape *shape, const unsigned char *row, int64_t begin, int64_t end);
/* value * 2^-shift to `bits` bits, nearest, saturated. */
int64_t intc_rt_map_value(int64_t value, int64_t shift, int bits);
void intc_rt_map_fill(const RowPlace *to, int64_t begin, int64_t end, int64_t value);
void intc_rt_map_pixels(const unsigned char *row, int64_t begin, int64_t end, const int32_t *mapped, const RowPlace *to);
void intc_rt_map_integers(const DataShape *shape, const unsigned char *row, int64_t begin, int64_t end, const RowPlace *to);
/* To mantissas at the exponent, or to floats. False if an element is no finite number. */
bool intc_rt_map_values(const DataShape *shape, const unsigned char *row, int64_t begin, int64_t end, int exponent, int bits,
                        const RowPlace *to);

/* --- feed.c: which file fills which tensor --- */

typedef struct {
    const struct intc_tensor *step, *infer; /* either may be NULL; both have the same logical shape */
    DataSet set;                            /* count 0: filled with padding */
    int64_t elements;                       /* of one row */
    int32_t *step_place, *infer_place;      /* element offset of each logical element of a row; NULL where they are 0, 1, 2, … */
    int channels;                           /* uint8 inputs: tables of 256 values, 40 fraction bits */
    int64_t channel_size;
    int64_t *table;
    int32_t *mapped;   /* mantissas of the table at the exponent of the batch */
    int64_t pieces;    /* of a row, which threads share */
    Extreme *extremes; /* of the pieces of the batch */
} Feed;

typedef struct {
    Feed *items;
    int count;
    int64_t rows;
    int64_t batch;
    int64_t *chosen; /* row of each place of the batch; -1: padding */
} Feeds;

/* Where the files come from, and the names of the options for messages. */
typedef struct {
    const List *data, *target; /* target NULL: targets are padded */
    const Channels *mean, *std;
    const char *data_option, *target_option;
} FeedSource;

/* Opens the files of all inputs and targets of a scope, checks shapes, types and every label. To be closed also after a failure. */
bool intc_rt_feeds_open(const struct intc_module *module, int32_t scope, const FeedSource *source, Feeds *feeds, Error *error);
void intc_rt_feeds_close(Feeds *feeds);

/* --- batch.c --- */

#define PIXEL_FRACTION 40
/* The float32 value of (u / 255 - mean) / std, each operation rounded as IEEE float32, with PIXEL_FRACTION fraction bits; false if it is
 * beyond 2^20. */
bool intc_rt_pixel(int u, Fixed mean, Fixed std, int64_t *value);

typedef enum { FEED_STEP, FEED_CALIBRATE, FEED_INFER } FeedMode;
/* An element that is no finite number. */
typedef struct {
    const DataFile *file;
    const Feed *feed;
    int64_t row;
} FeedFailure;

/* Maps the chosen rows into the arena: dynamic exponents for FEED_STEP and FEED_CALIBRATE, the calibrated ones with saturation for
 * FEED_INFER. */
bool intc_rt_feed(const Feeds *feeds, FeedMode mode, unsigned char *arena, struct intc_pool *pool, FeedFailure *failure);
/* The same; the failure becomes a sentence. */
bool intc_rt_feed_batch(const Feeds *feeds, FeedMode mode, unsigned char *arena, struct intc_pool *pool, Error *error);
/* Labels of the chosen rows, 1 a row where the model has none. */
typedef struct {
    int64_t row, counted; /* places of one row; labels of all chosen rows but the ignored ones */
    bool ignores;         /* the loss leaves out a label */
} LabelCount;
LabelCount intc_rt_label_count(const Feeds *feeds);

/* --- tensor.c: elements of the arena --- */

int intc_rt_type_size(int32_t type);
int64_t intc_rt_tensor_elements(const struct intc_tensor *tensor);
int64_t intc_rt_load(const unsigned char *place, int32_t type);
void intc_rt_store(unsigned char *place, int32_t type, int64_t value);
int32_t intc_rt_exponent(const unsigned char *arena, int64_t offset);
void intc_rt_set_exponent(unsigned char *arena, int64_t offset, int64_t exponent);
/* Offset in bytes of the element with this row-major logical index. */
int64_t intc_rt_tensor_place(const struct intc_tensor *tensor, int64_t index);
/* All elements in the order of that index; begins with the first. */
typedef struct {
    const struct intc_tensor *tensor;
    int size;      /* of an element */
    int64_t place; /* offset in bytes of the element that it is at */
    int64_t index[8];
} Cursor;
Cursor intc_rt_cursor(const struct intc_tensor *tensor);
void intc_rt_cursor_next(Cursor *cursor);
/* The element's mantissa, integer, or bits of an f32, sign-extended. */
int64_t intc_rt_cursor_get(const Cursor *cursor, const unsigned char *arena);
/* The number at an offset in bytes, f32 or mantissa with the tensor's exponent. Infinities and NaN become +-2^1000, beyond what any width
 * here holds. */
Fixed intc_rt_tensor_number(const unsigned char *arena, const struct intc_tensor *tensor, int64_t place);
/* mantissa * 2^exponent as the bits of an f32, nearest even. */
int32_t intc_rt_float_bits(int64_t mantissa, int exponent);
/* Offsets in elements of the logical elements of dimensions first.. ; NULL and true if they are contiguous. False: out of memory, or they
 * do not fit 32 bits. */
bool intc_rt_tensor_places(const struct intc_tensor *tensor, int first, int32_t **places);
/* sign * m * 2^e as an IEEE number with the given mantissa and exponent bits, nearest even; overflow gives infinity. */
uint64_t intc_rt_pack_float(int64_t mantissa, int exponent, int mantissa_bits, int exponent_bits);
/* The first tensor of a kind and scope; NULL if there is none. */
const struct intc_tensor *intc_rt_tensor_find(const struct intc_module *module, int32_t kind, int32_t scope);

/* --- shuffle.c --- */

/* Fisher-Yates: for i = rows-1 … 1, j = (bits(key, i) * (i + 1)) >> 32, swap; key = intc_random_key(seed, epoch, "shuffle"). rows < 2^32.
 */
void intc_rt_shuffle(uint64_t seed, uint64_t epoch, int64_t rows, uint32_t *order);

/* --- sha256.c --- */

typedef struct {
    uint32_t state[8];
    uint64_t length;
    unsigned char block[64];
} Sha256;

void intc_rt_sha256_start(Sha256 *hash);
void intc_rt_sha256_add(Sha256 *hash, const void *data, size_t size);
void intc_rt_sha256_end(Sha256 *hash, unsigned char digest[32]);
void intc_rt_hex(const unsigned char digest[32], char text[65]);

/* --- file.c: atomic output --- */

typedef struct {
    char *path, *temporary; /* temporary NULL: written in place (not a regular file) */
    int fd;
    int cause;               /* errno of the first failure, 0 for none */
    bool nameless, replaces; /* the file has no name yet; there is an older one */
} Output;

bool intc_rt_output_open(Output *output, const char *path, Error *error);
/* Errors are kept until intc_rt_output_close. */
void intc_rt_output_write(Output *output, const void *data, size_t size);
/* keep: flush to the disk and rename; otherwise or on error remove the temporary file, so that the old file stays. */
bool intc_rt_output_close(Output *output, bool keep, Error *error);

/* --- threads.c --- */

struct intc_pool *intc_rt_pool_new(int64_t threads); /* NULL for one thread */
void intc_rt_pool_free(struct intc_pool *pool);
/* What intc_rt_call does by itself; if there is an observer, that is called instead, to call it. */
void intc_rt_run(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image);
/* Calls a kernel of the runtime's own, with `context` as its places and no arena, on ranges that cover [0, tiles). */
void intc_rt_share_out(struct intc_pool *pool, intc_kernel *kernel, const void *context, int64_t tiles);
typedef void CallObserver(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image);
extern CallObserver *intc_rt_observer;
int64_t intc_rt_cores(void);

/* --- session.c: a module with its arena --- */

typedef struct {
    const struct intc_module *module;
    unsigned char *arena;
    struct intc_pool *pool;
} Session;

bool intc_rt_session_open(Session *session, const struct intc_module *module, int64_t threads, Error *error);
void intc_rt_session_close(Session *session);
/* Over all parameters in the module's order: mantissas (little-endian, row-major), then the i32 exponent. */
void intc_rt_parameters_hash(const Session *session, unsigned char digest[32]);
/* What random numbers of the next step, or batch of inference, are made from: inference takes seed 0 and the number of the batch, so that a
 * trained model answers alike wherever it is asked. */
void intc_rt_set_random(const Session *session, int64_t seed, int64_t step);
/* Names, types and places of all tensors, sizes and options: what a checkpoint must agree with. */
void intc_rt_module_hash(const struct intc_module *module, unsigned char digest[32]);
/* Nanoseconds of the monotonic clock. */
int64_t intc_rt_clock(void);

/* --- calibrate.c --- */

/* The slots become the exponents that `batches` batches in file order speak for (fewer if the data has fewer; a short one wraps round). */
bool intc_rt_calibrate(const Session *session, const Feeds *feeds, int64_t batches, Error *error);
/* Whether calibration ever ran: some slot is not INTC_EXPONENT_ZERO, or there are none. */
bool intc_rt_calibrated(const Session *session);

/* --- eval.c --- */

typedef struct {
    bool has_loss, has_metric;
    Wide loss;          /* sum, LOSS_FRACTION fraction bits */
    int64_t loss_count; /* divisor */
    int64_t correct, places;
} Score;

#define LOSS_FRACTION 32
/* mantissa * 2^exponent with LOSS_FRACTION fraction bits, saturated at 2^90. */
Wide intc_rt_loss_value(int64_t mantissa, int exponent);
bool intc_rt_eval(const Session *session, const Feeds *feeds, Score *score, Error *error);
/* "loss 0.1234, accuracy 97.12 %" */
const char *intc_rt_score_text(const Score *score, char text[160]);
/* Whether a is better than b: more correct, or the smaller loss without a metric. */
bool intc_rt_score_better(const Score *a, const Score *b);

/* --- predict.c, export.c, info.c, bench.c --- */

bool intc_rt_predict(const Session *session, const Feeds *feeds, const List *output, Error *error);
/* NULL and the sentence if the format does not exist or is refused. */
const struct intc_model *intc_rt_model_find(const struct intc_module *module, const char *format, Error *error);
/* Writes the first model of the format whose conditions hold. */
bool intc_rt_export(const Session *session, const char *format, const char *path, Error *error);
void intc_rt_info(const struct intc_module *module);
bool intc_rt_bench(const Session *session, int64_t steps, bool profile, Error *error);

/* --- profile.c: one at a time --- */

bool intc_rt_profile_open(const struct intc_module *module, Error *error);
/* Prints the time that each kind of kernel and each call took on average in one of `steps` runs of an entry function. */
bool intc_rt_profile_close(int64_t steps, Error *error);

/* --- checkpoint.c --- */

typedef struct {
    int64_t step;                      /* steps done */
    char *text;                        /* options that decide the outcome: "key=value" lines */
    const unsigned char *state, *best; /* best: of --keep-best, or NULL */
    Score epoch_score, best_score;
} Checkpoint;

bool intc_rt_checkpoint_save(const char *path, const struct intc_module *module, const Checkpoint *checkpoint, Error *error);
/* On success the caller frees *memory, which holds text, state and best. */
bool intc_rt_checkpoint_load(const char *path, const struct intc_module *module, Checkpoint *checkpoint, void **memory, Error *error);
/* The value of a key in the text, copied; NULL if absent or too long. */
const char *intc_rt_checkpoint_option(const Checkpoint *checkpoint, const char *key, char *value, size_t room);

/* --- log.c --- */

typedef struct {
    FILE *file;
    const char *path;
    bool json;
    bool terminal; /* standard error is one */
} Log;

typedef struct {
    int64_t step, epoch, epochs, total_steps;
    Wide loss;
    bool has_metric;
    int64_t correct, places;
    Fixed rate;
    int64_t nanoseconds;       /* since the start */
    int64_t steps_here, batch; /* of this process, for samples/s and the time left */
} LogStep;

/* done: steps that a resumed run already has; later lines of an old file go. */
bool intc_rt_log_open(Log *log, const char *path, int64_t done, Error *error);
void intc_rt_log_step(Log *log, const LogStep *step);
/* The progress line on a terminal. */
void intc_rt_log_progress(const Log *log, const LogStep *step);
/* A line of its own on standard output; clears the progress line first. */
__attribute__((format(printf, 2, 3))) void intc_rt_log_line(const Log *log, const char *format, ...);
bool intc_rt_log_flush(Log *log, Error *error);
bool intc_rt_log_close(Log *log, Error *error);

/* --- train.c --- */

typedef struct {
    Fixed momentum, decay, step_w, step_g, step_v;
} Hyper;
/* SGD as PyTorch: v' = momentum*v + g + decay*w; w' = w + step_w*w + step_g*g + step_v*v'. */
Hyper intc_rt_hyper(Fixed rate, Fixed momentum, Fixed decay, bool nesterov);
bool intc_rt_hyper_write(const struct intc_module *module, unsigned char *arena, const Hyper *hyper, Error *error);
bool intc_rt_train(Session *session, const Options *options, Error *error);

/* --- commands.c --- */

/* The whole trainer; returns the exit status. */
int intc_rt_main(const struct intc_module *module, int argc, char **argv);

#endif
