/* The profile of an entry function: how often each call of a kernel ran and how long, from intc_rt_profile_open to intc_rt_profile_close.
 */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 20 };

typedef struct {
    int64_t nanoseconds, runs;
} Spent;

typedef struct {
    const char *name, *origin; /* origin NULL: all calls of that name */
    bool gradient;
    int64_t calls;
    Spent spent;
} Line;

static const struct intc_module *profiled;
static Spent *spent; /* of each call of the module */

static void observe(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image) {
    int64_t started = intc_rt_clock();
    intc_rt_run(pool, call, arena, image);
    Spent *own = spent + (call - profiled->calls);
    own->nanoseconds += intc_rt_clock() - started;
    own->runs++;
}

bool intc_rt_profile_open(const struct intc_module *module, Error *error) {
    spent = calloc((size_t)module->call_count + 1, sizeof *spent);
    if (!spent)
        return intc_rt_fail(error, "out of memory");
    profiled = module;
    intc_rt_observer = observe;
    return true;
}

static int longer(const void *a, const void *b) {
    int64_t left = ((const Line *)a)->spent.nanoseconds, right = ((const Line *)b)->spent.nanoseconds;
    return left < right ? 1 : left > right ? -1 : 0;
}

static void add_line(Line *lines, int64_t *count, const struct intc_call *call, Spent own, bool by_origin) {
    const char *name = intc_call_text(call, call->name);
    int64_t i = by_origin ? *count : 0;
    while (i < *count && strcmp(lines[i].name, name) != 0)
        i++;
    if (i == *count)
        lines[(*count)++] =
            (Line){.name = name, .origin = by_origin ? intc_call_text(call, call->origin) : NULL, .gradient = call->gradient};
    lines[i].calls++;
    lines[i].spent.nanoseconds += own.nanoseconds;
    lines[i].spent.runs += own.runs;
}

static void print_lines(Line *lines, int64_t count, int64_t total, int64_t steps) {
    qsort(lines, (size_t)count, sizeof *lines, longer);
    for (int64_t i = 0; i < count && i < MOST_ROWS; i++) {
        char milliseconds[NUMBER_TEXT], percent[NUMBER_TEXT];
        const Line *line = lines + i;
        intc_rt_print_ratio(line->spent.nanoseconds / steps, 1000000, 3, milliseconds);
        intc_rt_print_ratio(line->spent.nanoseconds * 100, total, 1, percent);
        if (line->origin)
            printf("%10s %6s  %-24s %s%s\n", milliseconds, percent, line->name, line->origin, line->gradient ? ", gradient" : "");
        else
            printf("%10s %6s %6lld  %s\n", milliseconds, percent, (long long)line->calls, line->name);
    }
}

bool intc_rt_profile_close(int64_t steps, Error *error) {
    const struct intc_module *module = profiled;
    intc_rt_observer = NULL;
    Line *lines = calloc((size_t)module->call_count + 1, sizeof *lines);
    bool good = lines != NULL || intc_rt_fail(error, "out of memory");
    for (int table = 0; good && table < 2; table++) {
        int64_t count = 0, total = 1, roundings = 0, repeated = 0;
        for (int64_t i = 0; i < module->call_count; i++) {
            if (spent[i].runs == 0)
                continue;
            add_line(lines, &count, module->calls + i, spent[i], table == 1);
            total += spent[i].nanoseconds;
            const char *suffix = strrchr(intc_call_text(&module->calls[i], module->calls[i].name), '.');
            if (suffix && strcmp(suffix, ".round") == 0) {
                roundings += steps;
                repeated += spent[i].runs - steps;
            }
        }
        printf(table == 0 ? "\n        ms      %%  calls  kind, of a step\n" : "\n        ms      %%  kind                     origin\n");
        print_lines(lines, count, total, steps);
        if (table == 1)
            printf("\nroundings repeated because their shift had been guessed wrong: %lld of %lld\n", (long long)repeated,
                   (long long)roundings);
    }
    free(lines);
    free(spent);
    return good;
}
