/* What a run tells: the log file of every step, the progress line on a terminal, plain lines elsewhere. */
#include "runtime/runtime.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static const char csv_header[] = "step,epoch,loss,metric,lr,seconds\n";

/* Offset behind the last line of an old log that a resumed run keeps. */
static long kept_size(FILE *file, bool json, int64_t done) {
    char line[512];
    long kept = 0;
    while (fgets(line, sizeof line, file)) {
        const char *number = json ? strstr(line, "\"step\":") : line;
        bool header = !json && strcmp(line, csv_header) == 0;
        if (!number || !strchr(line, '\n'))
            break;
        if (!header && (strtoll(json ? number + 7 : number, NULL, 10) > done || strtoll(json ? number + 7 : number, NULL, 10) <= 0))
            break;
        kept = ftell(file);
    }
    return kept;
}

bool intc_rt_log_open(Log *log, const char *path, int64_t done, Error *error) {
    *log = (Log){.path = path, .terminal = isatty(STDERR_FILENO) == 1};
    if (!path)
        return true;
    size_t length = strlen(path);
    log->json = length > 6 && strcmp(path + length - 6, ".jsonl") == 0;
    if (!log->json && (length <= 4 || strcmp(path + length - 4, ".csv") != 0))
        return intc_rt_fail(error, "--log %s: expected a name that ends in .csv or .jsonl", path);
    long kept = 0;
    if (done > 0 && (log->file = fopen(path, "r+")) != NULL) {
        kept = kept_size(log->file, log->json, done);
        if (fseek(log->file, kept, SEEK_SET) != 0 || ftruncate(fileno(log->file), (off_t)kept) != 0) {
            fclose(log->file);
            log->file = NULL;
        }
    }
    if (!log->file)
        log->file = fopen(path, "w");
    if (!log->file)
        return intc_rt_fail(error, "%s: cannot write: %s", path, strerror(errno));
    if (kept == 0 && !log->json)
        fputs(csv_header, log->file);
    return true;
}

void intc_rt_log_step(Log *log, const LogStep *step) {
    char loss[NUMBER_TEXT], metric[NUMBER_TEXT], rate[NUMBER_TEXT], seconds[NUMBER_TEXT];
    if (!log->file)
        return;
    intc_rt_print_fraction(step->loss, LOSS_FRACTION, 9, loss);
    intc_rt_print_decimal(step->rate, rate);
    intc_rt_print_ratio(step->nanoseconds / 1000000, 1000, 3, seconds);
    strcpy(metric, log->json ? "null" : "");
    if (step->has_metric)
        intc_rt_print_ratio(step->correct, step->places, 6, metric);
    fprintf(log->file,
            log->json ? "{\"step\":%lld,\"epoch\":%lld,\"loss\":%s,\"metric\":%s,\"lr\":%s,\"seconds\":%s}\n" : "%lld,%lld,%s,%s,%s,%s\n",
            (long long)step->step, (long long)step->epoch, loss, metric, rate, seconds);
}

void intc_rt_log_progress(const Log *log, const LogStep *step) {
    char loss[NUMBER_TEXT], accuracy[NUMBER_TEXT] = "";
    if (!log->terminal)
        return;
    intc_rt_print_fraction(step->loss, LOSS_FRACTION, 4, loss);
    if (step->has_metric)
        intc_rt_print_ratio(step->correct * 100, step->places, 1, accuracy);
    int64_t milliseconds = step->nanoseconds / 1000000 + 1;
    int64_t left = (int64_t)((Wide)milliseconds * (step->total_steps - step->step) / step->steps_here / 1000);
    int64_t speed = (int64_t)((Wide)step->steps_here * step->batch * 1000 / milliseconds);
    fprintf(stderr, "\r\033[Kepoch %lld/%lld  step %lld/%lld  loss %s%s%s%s  %lld samples/s  %lld:%02lld left", (long long)step->epoch,
            (long long)step->epochs, (long long)step->step, (long long)step->total_steps, loss, step->has_metric ? "  accuracy " : "",
            accuracy, step->has_metric ? " %" : "", (long long)speed, (long long)(left / 60), (long long)(left % 60));
}

void intc_rt_log_line(const Log *log, const char *format, ...) {
    va_list list;
    if (log->terminal)
        fputs("\r\033[K", stderr);
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    putchar('\n');
    fflush(stdout);
}

bool intc_rt_log_flush(Log *log, Error *error) {
    if (!log->file || (fflush(log->file) == 0 && !ferror(log->file)))
        return true;
    return intc_rt_fail(error, "%s: cannot write: %s", log->path, strerror(errno));
}

bool intc_rt_log_close(Log *log, Error *error) {
    if (!log->file)
        return true;
    bool good = intc_rt_log_flush(log, error);
    if (fclose(log->file) != 0 && good)
        good = intc_rt_fail(error, "%s: cannot write: %s", log->path, strerror(errno));
    log->file = NULL;
    return good;
}
