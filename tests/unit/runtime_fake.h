/* A compiled module written by hand: least squares of 3 classes on 4 features, so that the runtime can be tested without the compiler.
 * Parameters have 12 fraction bits, everything between 20. Rows of the input are 6 apart and its features lie in reverse order, to test
 * strides. */
#ifndef TESTS_UNIT_RUNTIME_FAKE_H
#define TESTS_UNIT_RUNTIME_FAKE_H

#include "runtime/abi.h"
#include "runtime/fixed.h"

#include <stddef.h>
#include <string.h>

enum {
    FAKE_BATCH = 8,
    FAKE_FEATURES = 4,
    FAKE_CLASSES = 3,
    FAKE_WEIGHTS = FAKE_FEATURES * FAKE_CLASSES,
    FAKE_ROW = 6,
    /* state */
    AT_W = 0,
    AT_W_EXPONENT = 24,
    AT_SLOT_X = 28,
    AT_SLOT_Y = 32,
    AT_V = 40,
    FAKE_STATE = AT_V + 4 * FAKE_WEIGHTS,
    /* scratch */
    AT_X = 128,
    AT_X_EXPONENT = 192,
    AT_LABEL = 200,
    AT_HYPER = 240, /* five of mantissa and exponent */
    AT_LOSS = 288,
    AT_LOSS_EXPONENT = 296,
    AT_METRIC = 304,
    AT_ROW_LOSS = 312,
    AT_Y = 376,
    AT_Y_EXPONENT = 400,
    AT_RANDOM = 408,
    FAKE_ARENA = 448,
    FRACTION = 20
};

static int32_t fake_i32(const unsigned char *arena, int64_t offset) {
    int32_t value;
    memcpy(&value, arena + offset, sizeof value);
    return value;
}

static void fake_set_i32(unsigned char *arena, int64_t offset, int64_t value) {
    memcpy(arena + offset, &(int32_t){(int32_t)value}, 4);
}

static void fake_set_i64(unsigned char *arena, int64_t offset, int64_t value) {
    memcpy(arena + offset, &value, 8);
}

/* value * hyper-parameter number k, FRACTION bits in and out. */
static int64_t fake_scaled(const unsigned char *arena, int k, int64_t value) {
    int64_t mantissa = fake_i32(arena, AT_HYPER + 8 * k), exponent = fake_i32(arena, AT_HYPER + 8 * k + 4);
    return mantissa == 0 ? 0 : intc_round_even(value * (mantissa >> 8), (int)(-exponent - 8));
}

static int64_t fake_x(const unsigned char *arena, int row, int feature) {
    return intc_align((int8_t)arena[AT_X + row * FAKE_ROW + FAKE_FEATURES - 1 - feature], -(FRACTION + fake_i32(arena, AT_X_EXPONENT)));
}

static int64_t fake_logit(const unsigned char *arena, int row, int class) {
    int64_t sum = 0;
    for (int f = 0; f < FAKE_FEATURES; f++) {
        int16_t w;
        memcpy(&w, arena + AT_W + 2 * (class * FAKE_FEATURES + f), 2);
        sum += fake_x(arena, row, f) * w;
    }
    return intc_round_even(sum, 12);
}

/* The errors of a row; returns half the sum of their squares. */
static int64_t fake_row(const unsigned char *arena, int row, int64_t *error, int64_t *correct) {
    int32_t label = fake_i32(arena, AT_LABEL + 4 * row);
    int64_t loss = 0;
    int best = 0;
    for (int c = 0; c < FAKE_CLASSES; c++) {
        int64_t logit = fake_logit(arena, row, c);
        if (logit > fake_logit(arena, row, best))
            best = c;
        error[c] = logit - (c == label ? 1 << FRACTION : 0);
        loss += intc_round_even(error[c] * error[c], FRACTION + 1);
    }
    *correct += best == label;
    return loss;
}

static void fake_step(unsigned char *arena, struct intc_pool *pool) {
    (void)pool;
    int64_t gradient[FAKE_WEIGHTS] = {0}, loss = 0, correct = 0;
    uint64_t seed, step;
    memcpy(&seed, arena + AT_RANDOM, 8);
    memcpy(&step, arena + AT_RANDOM + 8, 8);
    for (int r = 0; r < FAKE_BATCH; r++) {
        int64_t error[FAKE_CLASSES];
        loss += fake_row(arena, r, error, &correct);
        for (int w = 0; w < FAKE_WEIGHTS; w++)
            gradient[w] += intc_round_even(error[w / FAKE_FEATURES] * fake_x(arena, r, w % FAKE_FEATURES), FRACTION);
    }
    for (int i = 0; i < FAKE_WEIGHTS; i++) {
        int16_t w;
        memcpy(&w, arena + AT_W + 2 * i, 2);
        int64_t g = gradient[i] / FAKE_BATCH, wide = intc_shift_left(w, FRACTION - 12);
        int64_t v = fake_scaled(arena, 0, fake_i32(arena, AT_V + 4 * i)) + g + fake_scaled(arena, 1, wide);
        wide += fake_scaled(arena, 2, wide) + fake_scaled(arena, 3, g) + fake_scaled(arena, 4, v);
        fake_set_i32(arena, AT_V + 4 * i, v);
        wide = intc_round_stochastic(wide, FRACTION - 12, intc_random_word(intc_random_key(seed, step, 0), (uint32_t)i));
        memcpy(arena + AT_W + 2 * i, &(int16_t){(int16_t)intc_saturate(wide, -32767, 32767)}, 2);
    }
    fake_set_i64(arena, AT_LOSS, loss / FAKE_BATCH);
    fake_set_i32(arena, AT_LOSS_EXPONENT, -FRACTION);
    fake_set_i64(arena, AT_METRIC, correct);
}

static int64_t fake_logits(unsigned char *arena, int64_t *logit) {
    int64_t maximum = 0, correct = 0;
    for (int r = 0; r < FAKE_BATCH; r++) {
        int64_t error[FAKE_CLASSES];
        fake_set_i64(arena, AT_ROW_LOSS + 8 * r, fake_row(arena, r, error, &correct));
        for (int c = 0; c < FAKE_CLASSES; c++) {
            logit[r * FAKE_CLASSES + c] = fake_logit(arena, r, c);
            int64_t magnitude = (int64_t)intc_magnitude(logit[r * FAKE_CLASSES + c]);
            maximum = magnitude > maximum ? magnitude : maximum;
        }
    }
    fake_set_i32(arena, AT_LOSS_EXPONENT, -FRACTION);
    fake_set_i64(arena, AT_METRIC, correct);
    return maximum;
}

static void fake_calibrate(unsigned char *arena, struct intc_pool *pool) {
    (void)pool;
    int64_t logit[FAKE_BATCH * FAKE_CLASSES];
    int64_t maximum = fake_logits(arena, logit);
    fake_set_i32(arena, AT_Y_EXPONENT, maximum == 0 ? INTC_EXPONENT_ZERO : intc_rescale_shift((uint64_t)maximum, 8, false) - FRACTION);
}

static void fake_infer(unsigned char *arena, struct intc_pool *pool) {
    (void)pool;
    int64_t logit[FAKE_BATCH * FAKE_CLASSES];
    (void)fake_logits(arena, logit);
    int slot = fake_i32(arena, AT_SLOT_Y);
    fake_set_i32(arena, AT_Y_EXPONENT, slot);
    for (int i = 0; i < FAKE_BATCH * FAKE_CLASSES; i++)
        arena[AT_Y + i] = (unsigned char)intc_saturate(intc_align(logit[i], slot + FRACTION), -128, 127);
}

#define FAKE_HYPER(text, k)                                                                                                                \
    {.name = (text),                                                                                                                       \
     .kind = INTC_HYPER,                                                                                                                   \
     .scope = INTC_IN_STEP,                                                                                                                \
     .type = INTC_I32,                                                                                                                     \
     .offset = AT_HYPER + 8 * (k),                                                                                                         \
     .exponent_offset = AT_HYPER + 8 * (k) + 4,                                                                                            \
     .calibrated_offset = -1}

static const struct intc_tensor fake_tensors[] = {
    {.name = "x",
     .kind = INTC_INPUT,
     .scope = INTC_IN_BOTH,
     .type = INTC_I8,
     .rank = 2,
     .bits = 8,
     .dim = (const int64_t[]){FAKE_BATCH, FAKE_FEATURES},
     .stride = (const int64_t[]){FAKE_ROW, -1},
     .offset = AT_X + FAKE_FEATURES - 1,
     .exponent_offset = AT_X_EXPONENT,
     .calibrated_offset = AT_SLOT_X},
    {.name = "label",
     .kind = INTC_TARGET,
     .scope = INTC_IN_BOTH,
     .type = INTC_I32,
     .rank = 1,
     .integer = 1,
     .dim = (const int64_t[]){FAKE_BATCH},
     .stride = (const int64_t[]){1},
     .offset = AT_LABEL,
     .exponent_offset = -1,
     .calibrated_offset = -1,
     .classes = FAKE_CLASSES,
     .ignored = -100},
    {.name = "w",
     .kind = INTC_PARAM,
     .scope = INTC_IN_BOTH,
     .type = INTC_I16,
     .rank = 2,
     .dim = (const int64_t[]){FAKE_CLASSES, FAKE_FEATURES},
     .stride = (const int64_t[]){FAKE_FEATURES, 1},
     .offset = AT_W,
     .exponent_offset = AT_W_EXPONENT,
     .calibrated_offset = -1},
    FAKE_HYPER("momentum", 0),
    FAKE_HYPER("decay", 1),
    FAKE_HYPER("step_w", 2),
    FAKE_HYPER("step_g", 3),
    FAKE_HYPER("step_v", 4),
    {.name = "y",
     .kind = INTC_PREDICTION,
     .scope = INTC_IN_INFER,
     .type = INTC_I8,
     .rank = 2,
     .dim = (const int64_t[]){FAKE_BATCH, FAKE_CLASSES},
     .stride = (const int64_t[]){FAKE_CLASSES, 1},
     .offset = AT_Y,
     .exponent_offset = AT_Y_EXPONENT,
     .calibrated_offset = AT_SLOT_Y},
    {.name = "loss",
     .kind = INTC_LOSS,
     .scope = INTC_IN_STEP,
     .type = INTC_I64,
     .offset = AT_LOSS,
     .exponent_offset = AT_LOSS_EXPONENT,
     .calibrated_offset = -1},
    {.name = "loss",
     .kind = INTC_LOSS,
     .scope = INTC_IN_INFER,
     .type = INTC_I64,
     .rank = 1,
     .dim = (const int64_t[]){FAKE_BATCH},
     .stride = (const int64_t[]){1},
     .offset = AT_ROW_LOSS,
     .exponent_offset = AT_LOSS_EXPONENT,
     .calibrated_offset = -1},
    {.name = "correct",
     .kind = INTC_METRIC,
     .scope = INTC_IN_BOTH,
     .type = INTC_I64,
     .integer = 1,
     .offset = AT_METRIC,
     .exponent_offset = -1,
     .calibrated_offset = -1},
};

/* The exported "model": weights as float32, a scale, weights as int8. */
enum { FAKE_MODEL = 4 + 4 * FAKE_WEIGHTS + 4 + FAKE_WEIGHTS };
#define FAKE_EXPONENTS                                                                                                                     \
    {{.kind = INTC_EXPONENT_MAPPED, .tensor = 2, .bits = 8},                                                                               \
     {.kind = INTC_EXPONENT_SLOT, .offset = AT_SLOT_Y},                                                                                    \
     {.kind = INTC_EXPONENT_SUB, .a = 1, .b = 0, .constant = 3}}
/* Records as they lie in a trainer without zlib. */
static const struct {
    struct intc_exponent exponents[3];
    struct intc_patch patches[3];
    char head[4];
} fake_record = {FAKE_EXPONENTS,
                 {{4, 4 * FAKE_WEIGHTS, INTC_PATCH_F32, 2, 0, -1},
                  {4 + 4 * FAKE_WEIGHTS, 4, INTC_PATCH_SCALE_F32, -1, 0, 0},
                  {8 + 4 * FAKE_WEIGHTS, FAKE_WEIGHTS, INTC_PATCH_I8, 2, 8, -1}},
                 {'O', 'N', 'N', 'X'}};
struct fake_impossible {
    struct intc_exponent exponents[3];
    struct intc_condition condition;
    char head[4], text[44];
};
static const struct fake_impossible fake_impossible = {FAKE_EXPONENTS,
                                                       {2, 100, 200, offsetof(struct fake_impossible, text)},
                                                       {'O', 'N', 'N', 'X'},
                                                       "the exponents of 'y' and 'w' are too close"};
#define FAKE_RECORD(of) .exponent_count = 3, .record = (const unsigned char *)&(of), .record_size = sizeof(of), .unpacked_size = sizeof(of)
static const struct intc_model fake_models[] = {
    {.format = "int8", .size = 4, .condition_count = 1, FAKE_RECORD(fake_impossible)},
    {.format = "int8", .size = FAKE_MODEL, .patch_count = 3, FAKE_RECORD(fake_record)},
    {.format = "qdq", .size = 4, .condition_count = 1, FAKE_RECORD(fake_impossible)},
    {.format = "float", .refusal = "operator 'Fake' has no float form"},
};

static const unsigned char fake_state[FAKE_STATE] = {
    [AT_W_EXPONENT] = 0xf4, [AT_W_EXPONENT + 1] = 0xff, [AT_W_EXPONENT + 2] = 0xff, [AT_W_EXPONENT + 3] = 0xff, /* -12 */
    [AT_SLOT_X + 1] = 0xc0, [AT_SLOT_X + 2] = 0xff,     [AT_SLOT_X + 3] = 0xff,                                 /* INTC_EXPONENT_ZERO */
    [AT_SLOT_Y + 1] = 0xc0, [AT_SLOT_Y + 2] = 0xff,     [AT_SLOT_Y + 3] = 0xff,
};
static const struct intc_run fake_whole = {0, FAKE_STATE};

static const struct intc_module fake_module = {
    .abi = INTC_ABI_VERSION,
    .tensor_count = sizeof fake_tensors / sizeof *fake_tensors,
    .model_count = 4,
    .name = "fake.onnx",
    .options = "--batch=8",
    .loss = "mse",
    .tensors = fake_tensors,
    .models = fake_models,
    .batch = FAKE_BATCH,
    .arena_size = FAKE_ARENA,
    .state_size = FAKE_STATE,
    .random_offset = AT_RANDOM,
    .initial = {&fake_whole, 1, fake_state},
    .step = fake_step,
    .calibrate = fake_calibrate,
    .infer = fake_infer,
};

#endif
