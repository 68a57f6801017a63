/* The training loop: batches in their order, hyper-parameters, steps, validation, checkpoints. Everything that decides the outcome is an
 * integer of the options, the data and the step number, so a resumed run ends in the bytes of one that was never stopped. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_ROOM = 4096 };

typedef struct {
    Session *session;
    const Options *options;
    Feeds train, validation;
    Log log;
    uint32_t *order;
    int64_t order_epoch;
    int64_t step, end, total, steps_per_epoch;
    int64_t first_step, started;
    int64_t calibrated_step; /* the slots belong to the state after this step; -1: to none */
    int64_t shown;           /* when the progress line was last written */
    Score epoch_score, validation_score, best_score;
    unsigned char *best; /* state of the best validation; NULL without --keep-best */
    bool has_best, validated;
    char text[TEXT_ROOM];
} Run;

Hyper intc_rt_hyper(Fixed rate, Fixed momentum, Fixed decay, bool nesterov) {
    Fixed down = intc_rt_fixed_negate(rate);
    Hyper hyper = {momentum, decay, FIXED_ZERO, FIXED_ZERO, down};
    if (nesterov) {
        hyper.step_g = down;
        hyper.step_w = intc_rt_fixed_mul(down, decay);
        hyper.step_v = intc_rt_fixed_mul(down, momentum);
    }
    return hyper;
}

bool intc_rt_hyper_write(const struct intc_module *module, unsigned char *arena, const Hyper *hyper, Error *error) {
    const struct {
        const char *name;
        Fixed value;
    } values[] = {{"momentum", hyper->momentum},
                  {"decay", hyper->decay},
                  {"step_w", hyper->step_w},
                  {"step_g", hyper->step_g},
                  {"step_v", hyper->step_v}};
    for (uint32_t i = 0; i < module->tensor_count; i++) {
        const struct intc_tensor *tensor = module->tensors + i;
        if (tensor->kind != INTC_HYPER)
            continue;
        size_t k = 0;
        while (k < sizeof values / sizeof *values && strcmp(values[k].name, tensor->name) != 0)
            k++;
        if (k == sizeof values / sizeof *values)
            return intc_rt_fail(error, "the compiled module asks for the hyper-parameter '%s', which this runtime does not have",
                                tensor->name);
        Fixed x = values[k].value;
        bool real = tensor->type == INTC_F32;
        intc_rt_store(arena + tensor->offset, tensor->type, real ? intc_rt_float_bits(x.mantissa, x.exponent) : x.mantissa);
        intc_rt_set_exponent(arena, tensor->exponent_offset, x.exponent);
    }
    return true;
}

/* What decides the outcome, one "key=value" a line: a resumed run must agree. */
static void describe(Run *run) {
    const Options *o = run->options;
    char lr[NUMBER_TEXT], momentum[NUMBER_TEXT], decay[NUMBER_TEXT];
    bool timed = o->keep_best || (o->schedule.kind != SCHEDULE_CONSTANT && o->schedule.kind != SCHEDULE_STEP);
    snprintf(run->text, sizeof run->text,
             "seed=%lld\nshuffle=%s\nlr=%s\nmomentum=%s\nnesterov=%s\nweight-decay=%s\nlr-schedule=%s\nwarmup=%lld\nepochs=%lld\nmean=%"
             "s\nstd=%s\n"
             "calibrate=%lld\nkeep-best=%s\nrows=%lld\n",
             (long long)o->seed, o->no_shuffle ? "off" : "on", intc_rt_print_decimal(o->lr, lr),
             intc_rt_print_decimal(o->momentum, momentum), o->nesterov ? "on" : "off", intc_rt_print_decimal(o->weight_decay, decay),
             o->schedule.text, (long long)o->warmup, timed ? (long long)o->epochs : 0LL, o->mean.text ? o->mean.text : "",
             o->std.text ? o->std.text : "", (long long)o->calibrate, o->keep_best ? "on" : "off", (long long)run->train.rows);
}

/* The first line in which the two texts differ. */
static bool check_text(const char *path, const char *was, const char *now, Error *error) {
    while (*was && *now) {
        size_t a = strcspn(was, "\n"), b = strcspn(now, "\n");
        if (a != b || memcmp(was, now, a) != 0) {
            const char *value_was = memchr(was, '=', a), *value_now = memchr(now, '=', b);
            if (!value_was || !value_now)
                break;
            return intc_rt_fail(error, "%s: --resume needs the options of the first run: %.*s was '%.*s', is '%.*s'", path,
                                (int)(value_now - now), now, (int)(was + a - value_was - 1), value_was + 1, (int)(now + b - value_now - 1),
                                value_now + 1);
        }
        was += a + 1;
        now += b + 1;
    }
    return *was == *now ? true : intc_rt_fail(error, "%s: the checkpoint's options are not those of this trainer", path);
}

static bool resume(Run *run, Error *error) {
    const char *path = run->options->resume;
    const struct intc_module *module = run->session->module;
    Checkpoint checkpoint;
    void *memory;
    if (!intc_rt_checkpoint_load(path, module, &checkpoint, &memory, error))
        return false;
    bool good = check_text(path, checkpoint.text, run->text, error);
    if (good && checkpoint.step > run->end)
        good = intc_rt_fail(error, "%s: expected a checkpoint of at most %lld steps, found %lld", path, (long long)run->end,
                            (long long)checkpoint.step);
    if (good) {
        run->step = checkpoint.step;
        run->epoch_score = checkpoint.epoch_score;
        run->best_score = checkpoint.best_score;
        memcpy(run->session->arena, checkpoint.state, (size_t)module->state_size);
        run->has_best = run->best && checkpoint.best;
        if (run->has_best)
            memcpy(run->best, checkpoint.best, (size_t)module->state_size);
    }
    free(memory);
    return good;
}

static bool open_run(Run *run, Error *error) {
    const Options *o = run->options;
    const struct intc_module *module = run->session->module;
    FeedSource source = {&o->data, &o->target, &o->mean, &o->std, "--data", "--target"};
    FeedSource validation = {&o->val_data, &o->val_target, &o->mean, &o->std, "--val-data", "--val-target"};
    if (o->save && !intc_rt_model_find(module, o->format, error))
        return false;
    if (!intc_rt_feeds_open(module, INTC_IN_BOTH, &source, &run->train, error))
        return false;
    if (o->val_data.count > 0 && !intc_rt_feeds_open(module, INTC_IN_INFER, &validation, &run->validation, error))
        return false;
    run->steps_per_epoch = run->train.rows / module->batch;
    const char *path = o->data.text[0];
    if (run->steps_per_epoch == 0)
        return intc_rt_fail(error, "%s: expected at least one batch of %lld rows, found %lld", path, (long long)module->batch,
                            (long long)run->train.rows);
    if (run->train.rows > UINT32_MAX)
        return intc_rt_fail(error, "%s: expected fewer than 2^32 rows, found %lld", path, (long long)run->train.rows);
    if (__builtin_mul_overflow(run->steps_per_epoch, o->epochs, &run->total) || run->total > INT64_MAX / 64)
        return intc_rt_fail(error, "--epochs %lld: too many steps", (long long)o->epochs);
    run->end = o->max_steps > 0 && o->max_steps < run->total ? o->max_steps : run->total;
    run->order = malloc((size_t)run->train.rows * sizeof *run->order);
    if (o->keep_best)
        run->best = malloc((size_t)module->state_size + 1);
    if (!run->order || (o->keep_best && !run->best))
        return intc_rt_fail(error, "out of memory");
    describe(run);
    if (o->resume && !resume(run, error))
        return false;
    run->first_step = run->step;
    return intc_rt_log_open(&run->log, o->log, run->step, error);
}

static void choose_rows(Run *run) {
    int64_t epoch = run->step / run->steps_per_epoch, first = run->step % run->steps_per_epoch * run->train.batch;
    if (epoch != run->order_epoch) {
        if (run->options->no_shuffle)
            for (int64_t i = 0; i < run->train.rows; i++)
                run->order[i] = (uint32_t)i;
        else
            intc_rt_shuffle((uint64_t)run->options->seed, (uint64_t)epoch, run->train.rows, run->order);
        run->order_epoch = epoch;
    }
    for (int64_t i = 0; i < run->train.batch; i++)
        run->train.chosen[i] = run->order[first + i];
}

static void report_step(Run *run, Fixed rate) {
    const struct intc_module *module = run->session->module;
    const unsigned char *arena = run->session->arena;
    const struct intc_tensor *loss = intc_rt_tensor_find(module, INTC_LOSS, INTC_IN_STEP),
                             *metric = intc_rt_tensor_find(module, INTC_METRIC, INTC_IN_STEP);
    LogStep line = {.step = run->step + 1,
                    .epoch = run->step / run->steps_per_epoch + 1,
                    .epochs = run->options->epochs,
                    .total_steps = run->end,
                    .places = intc_rt_label_count(&run->train).counted,
                    .rate = rate,
                    .nanoseconds = intc_rt_clock() - run->started,
                    .steps_here = run->step + 1 - run->first_step,
                    .batch = module->batch};
    Score *score = &run->epoch_score;
    if (loss) {
        Fixed x = intc_rt_tensor_number(arena, loss, loss->offset);
        line.loss = intc_rt_loss_value(x.mantissa, x.exponent);
        score->has_loss = true;
        score->loss += line.loss;
        score->loss_count++;
    }
    if (metric && line.places > 0) {
        line.has_metric = true;
        line.correct = intc_rt_load(arena + metric->offset, metric->type);
        score->has_metric = true;
        score->correct += line.correct;
        score->places += line.places;
    }
    intc_rt_log_step(&run->log, &line);
    if (line.nanoseconds - run->shown > 200000000) {
        run->shown = line.nanoseconds;
        intc_rt_log_progress(&run->log, &line);
    }
}

static bool train_step(Run *run, Error *error) {
    const Options *o = run->options;
    const struct intc_module *module = run->session->module;
    unsigned char *arena = run->session->arena;
    if (run->step % run->steps_per_epoch == 0)
        run->epoch_score = (Score){0};
    choose_rows(run);
    if (!intc_rt_feed_batch(&run->train, FEED_STEP, arena, run->session->pool, error))
        return false;
    Fixed rate = intc_rt_schedule_rate(&o->schedule, o->lr, o->warmup, run->step, run->total, run->steps_per_epoch);
    Hyper hyper = intc_rt_hyper(rate, o->momentum, o->weight_decay, o->nesterov);
    if (!intc_rt_hyper_write(module, arena, &hyper, error))
        return false;
    intc_rt_set_random(run->session, o->seed, run->step);
    module->step(arena, run->session->pool);
    report_step(run, rate);
    run->step++;
    return true;
}

static bool calibrate(Run *run, Error *error) {
    if (run->calibrated_step == run->step)
        return true;
    run->calibrated_step = run->step;
    return intc_rt_calibrate(run->session, &run->train, run->options->calibrate, error);
}

static bool end_epoch(Run *run, Error *error) {
    char train[160], validation[160] = "", seconds[NUMBER_TEXT];
    if (run->validation.count > 0) {
        if (!calibrate(run, error) || !intc_rt_eval(run->session, &run->validation, &run->validation_score, error))
            return false;
        run->validated = true;
        intc_rt_score_text(&run->validation_score, validation);
        if (run->best && (!run->has_best || intc_rt_score_better(&run->validation_score, &run->best_score))) {
            run->has_best = true;
            run->best_score = run->validation_score;
            memcpy(run->best, run->session->arena, (size_t)run->session->module->state_size);
        }
    }
    intc_rt_print_ratio((intc_rt_clock() - run->started) / 100000000, 10, 1, seconds);
    intc_rt_log_line(&run->log, "epoch %lld/%lld: %s%s%s (%s s)", (long long)((run->step - 1) / run->steps_per_epoch + 1),
                     (long long)run->options->epochs, intc_rt_score_text(&run->epoch_score, train), validation[0] ? "; validation: " : "",
                     validation, seconds);
    return intc_rt_log_flush(&run->log, error);
}

static bool write_checkpoint(Run *run, const char *path, Error *error) {
    Checkpoint checkpoint = {.step = run->step,
                             .text = run->text,
                             .state = run->session->arena,
                             .best = run->has_best ? run->best : NULL,
                             .epoch_score = run->epoch_score,
                             .best_score = run->best_score};
    return calibrate(run, error) && intc_rt_log_flush(&run->log, error) &&
           intc_rt_checkpoint_save(path, run->session->module, &checkpoint, error);
}

static bool run_steps(Run *run, Error *error) {
    const Options *o = run->options;
    while (run->step < run->end) {
        if (!train_step(run, error))
            return false;
        bool epoch_ends = run->step % run->steps_per_epoch == 0, last = run->step == run->end;
        if ((epoch_ends || last) && !end_epoch(run, error))
            return false;
        bool due = o->checkpoint_every > 0 ? run->step % o->checkpoint_every == 0 : epoch_ends;
        if (o->checkpoint && due && !last && !write_checkpoint(run, o->checkpoint, error))
            return false;
    }
    return true;
}

/* An export failed and there is no checkpoint: keeps the training beside it. Always false. */
static bool rescue(Run *run, Error *error) {
    char path[512];
    Error second;
    size_t length = strlen(error->text);
    snprintf(path, sizeof path, "%s.checkpoint", run->options->save);
    if (write_checkpoint(run, path, &second))
        snprintf(error->text + length, sizeof error->text - length, "; the training is kept in %s", path);
    return false;
}

/* Calibrates, writes the checkpoint (of the last step; the best is kept beside it), chooses the best, exports, prints the last lines. */
static bool finish(Run *run, Error *error) {
    const Options *o = run->options;
    const struct intc_module *module = run->session->module;
    char train[160], validation[160] = "", hex[65];
    unsigned char digest[32];
    if (!calibrate(run, error) || (o->checkpoint && !write_checkpoint(run, o->checkpoint, error)))
        return false;
    if (run->has_best) {
        memcpy(run->session->arena, run->best, (size_t)module->state_size);
        run->validation_score = run->best_score;
        run->validated = true;
    } else if (run->validation.count > 0 && !run->validated &&
               !intc_rt_eval(run->session, &run->validation, &run->validation_score, error)) {
        return false;
    }
    if (run->validation.count > 0)
        intc_rt_score_text(&run->validation_score, validation);
    if (o->save && !intc_rt_export(run->session, o->format, o->save, error))
        return o->checkpoint ? false : rescue(run, error);
    intc_rt_log_line(&run->log, "final: %s%s%s", intc_rt_score_text(&run->epoch_score, train), validation[0] ? "; validation: " : "",
                     validation);
    intc_rt_parameters_hash(run->session, digest);
    intc_rt_hex(digest, hex);
    intc_rt_log_line(&run->log, "parameters sha256 %s", hex);
    return true;
}

bool intc_rt_train(Session *session, const Options *options, Error *error) {
    Run *run = calloc(1, sizeof *run);
    if (!run)
        return intc_rt_fail(error, "out of memory");
    run->session = session;
    run->options = options;
    run->order_epoch = -1;
    run->calibrated_step = -1;
    run->started = intc_rt_clock();
    bool good = open_run(run, error) && run_steps(run, error) && finish(run, error);
    Error late;
    bool closed = intc_rt_log_close(&run->log, &late);
    if (good && !closed)
        good = intc_rt_fail(error, "%s", late.text);
    intc_rt_feeds_close(&run->train);
    intc_rt_feeds_close(&run->validation);
    free(run->order);
    free(run->best);
    free(run);
    return good;
}
