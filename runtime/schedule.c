/* Learning-rate schedules by integer arithmetic, as PyTorch defines them. Factors have 60 fraction bits. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

#define ONE ((int64_t)1 << 60)
#define PI INT64_C(3622009729038561421)     /* pi * 2^60 */
#define ONE_25TH INT64_C(46116860184273879) /* OneCycleLR's div_factor */
#define ONE_250000TH INT64_C(4611686018427) /* div_factor * final_div_factor */

static int64_t mul60(int64_t a, int64_t b) {
    return (int64_t)(((Wide)a * b + (ONE >> 1)) >> 60);
}

/* sin of x in [0, pi/2] by its series; 24 terms of a quotient below 2.5 / 6 leave less than 2^-58. */
static int64_t sine(int64_t x) {
    Wide square = ((Wide)x * x) >> 60, term = x, sum = x;
    for (int k = 1; k <= 14; k++) {
        term = -((term * square) >> 60) / (2 * k * (2 * k + 1));
        sum += term;
    }
    return (int64_t)sum;
}

int64_t intc_rt_half_cosine(int64_t a, int64_t b) {
    /* (1 + cos x) / 2 = 1 - sin^2(x / 2) */
    int64_t half_angle = (int64_t)(((Wide)PI * a / b) >> 1);
    int64_t s = sine(half_angle);
    return (int64_t)intc_saturate(ONE - mul60(s, s), 0, ONE);
}

static bool parse_milestones(const char *text, Schedule *schedule) {
    for (;;) {
        char *end;
        if (*text < '0' || *text > '9' || schedule->milestones == MAX_MILESTONES)
            return false;
        long long epoch = strtoll(text, &end, 10);
        if (schedule->milestones > 0 && epoch <= schedule->milestone[schedule->milestones - 1])
            return false;
        schedule->milestone[schedule->milestones++] = epoch;
        text = end + 1;
        if (*end == ':')
            return intc_rt_decimal(text, strlen(text), 31, &schedule->factor);
        if (*end != ',')
            return false;
    }
}

bool intc_rt_schedule_parse(const char *text, Schedule *schedule) {
    *schedule = (Schedule){.kind = SCHEDULE_CONSTANT, .power = 1, .text = text};
    if (strncmp(text, "step:", 5) == 0) {
        schedule->kind = SCHEDULE_STEP;
        return parse_milestones(text + 5, schedule);
    }
    if (strncmp(text, "poly:", 5) == 0 && text[5] >= '1' && text[5] <= '9' && text[6] == 0) {
        schedule->kind = SCHEDULE_POLY;
        schedule->power = text[5] - '0';
        return true;
    }
    static const struct {
        const char *name;
        ScheduleKind kind;
    } plain[] = {{"constant", SCHEDULE_CONSTANT}, {"cosine", SCHEDULE_COSINE}, {"onecycle", SCHEDULE_ONECYCLE}, {"poly", SCHEDULE_POLY}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (strcmp(text, plain[i].name) == 0) {
            schedule->kind = plain[i].kind;
            return true;
        }
    return false;
}

/* OneCycleLR: rises over the first 30 % of the steps, less one, then falls to the last step; both along a cosine. */
static int64_t onecycle(int64_t t, int64_t total) {
    int64_t rise = 3 * total - 10; /* tenths of a step */
    if (10 * t <= rise)
        return ONE + mul60(ONE_25TH - ONE, intc_rt_half_cosine(10 * t, rise));
    return ONE_250000TH + mul60(ONE - ONE_250000TH, intc_rt_half_cosine(10 * t - rise, 7 * total));
}

static int64_t schedule_factor(const Schedule *schedule, int64_t t, int64_t total) {
    if (schedule->kind == SCHEDULE_ONECYCLE)
        return onecycle(t, total);
    if (schedule->kind == SCHEDULE_COSINE)
        return intc_rt_half_cosine(t < total ? t : total, total);
    int64_t left = t < total ? (int64_t)((Wide)ONE * (total - t) / total) : 0, factor = ONE;
    for (int i = 0; i < schedule->power; i++)
        factor = mul60(factor, left);
    return factor;
}

Fixed intc_rt_schedule_rate(const Schedule *schedule, Fixed rate, int64_t warmup, int64_t t, int64_t total, int64_t steps_per_epoch) {
    if (schedule->kind == SCHEDULE_CONSTANT || schedule->kind == SCHEDULE_STEP) {
        for (int i = 0; i < schedule->milestones; i++)
            if (t / steps_per_epoch >= schedule->milestone[i])
                rate = intc_rt_fixed_mul(rate, schedule->factor);
    } else if (t >= warmup) {
        int64_t factor = schedule_factor(schedule, t - warmup, total > warmup ? total - warmup : 1);
        return intc_rt_fixed_mul(rate, intc_rt_fixed(false, (UWide)factor, -60, false, 31));
    }
    if (t >= warmup)
        return rate;
    Fixed part =
        intc_rt_fixed_div(intc_rt_fixed(false, (UWide)(t + 1), 0, false, 31), intc_rt_fixed(false, (UWide)warmup, 0, false, 31), 31);
    return intc_rt_fixed_mul(rate, part);
}
