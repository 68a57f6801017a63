/* The commands of a trainer, and its exit status: 0, 1 for a mistake of the user told in one sentence, 2 for usage. */
#include "runtime/runtime.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Loads --checkpoint, the best state where --keep-best left one; --mean and --std that were not given are those of the training. */
static bool load_checkpoint(const Session *session, Options *options, void **memory, Error *error) {
    Checkpoint checkpoint;
    *memory = NULL;
    if (!options->checkpoint)
        return true;
    if (!intc_rt_checkpoint_load(options->checkpoint, session->module, &checkpoint, memory, error))
        return false;
    memcpy(session->arena, checkpoint.best ? checkpoint.best : checkpoint.state, (size_t)session->module->state_size);
    if (options->command == COMMAND_EXPORT)
        return true;
    const struct {
        const char *key;
        Channels *channels;
    } lists[] = {{"mean", &options->mean}, {"std", &options->std}};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        char text[2048];
        Channels *channels = lists[i].channels;
        if (channels->count > 0 || !intc_rt_checkpoint_option(&checkpoint, lists[i].key, text, sizeof text) || !text[0])
            continue;
        for (const char *at = text; channels->count < MAX_CHANNELS;) {
            size_t length = strcspn(at, ",");
            intc_rt_decimal(at, length, 24, &channels->value[channels->count++]);
            if (!at[length])
                break;
            at += length + 1;
        }
    }
    return true;
}

/* Weights that never went through calibration get it from the data at hand. */
static bool ensure_calibrated(const Session *session, const Feeds *feeds, int64_t batches, Error *error) {
    if (intc_rt_calibrated(session))
        return true;
    fprintf(stderr, "note: these weights were never calibrated; the exponents of inference come from this data\n");
    return intc_rt_calibrate(session, feeds, batches, error);
}

static bool run_inference(const Session *session, const Options *options, Error *error) {
    bool eval = options->command == COMMAND_EVAL;
    FeedSource source = {&options->data, eval ? &options->target : NULL, &options->mean, &options->std, "--data", "--target"};
    Feeds feeds;
    bool good = intc_rt_feeds_open(session->module, INTC_IN_INFER, &source, &feeds, error) &&
                ensure_calibrated(session, &feeds, options->calibrate, error);
    if (good && eval) {
        Score score;
        char text[160];
        good = intc_rt_eval(session, &feeds, &score, error);
        if (good)
            printf("%s\n", intc_rt_score_text(&score, text));
    } else if (good) {
        good = intc_rt_predict(session, &feeds, &options->output, error);
    }
    intc_rt_feeds_close(&feeds);
    return good;
}

static bool run(const struct intc_module *module, Options *options, Error *error) {
    Session session;
    void *memory = NULL;
    if (options->command == COMMAND_INFO) {
        intc_rt_info(module);
        return true;
    }
    bool good = intc_rt_session_open(&session, module, options->command == COMMAND_EXPORT ? 1 : options->threads, error);
    if (good && options->command == COMMAND_TRAIN)
        good = intc_rt_train(&session, options, error);
    else if (good && options->command == COMMAND_BENCH)
        good = intc_rt_bench(&session, options->steps, options->profile, error);
    else if (good && load_checkpoint(&session, options, &memory, error))
        good = options->command == COMMAND_EXPORT ? intc_rt_export(&session, options->format, options->output.text[0], error)
                                                  : run_inference(&session, options, error);
    else
        good = false;
    free(memory);
    intc_rt_session_close(&session);
    return good;
}

int intc_rt_main(const struct intc_module *module, int argc, char **argv) {
    Options options;
    Error error = {""};
    int status = intc_rt_options(argc, argv, &options);
    if (status < 0) {
        /* A full disk or a closed pipe is an error that write returns. */
        signal(SIGXFSZ, SIG_IGN);
        signal(SIGPIPE, SIG_IGN);
        status = run(module, &options, &error) ? 0 : 1;
    }
    if (status != 2 && (fflush(stdout) != 0 || ferror(stdout)) && status == 0) {
        intc_rt_fail(&error, "standard output: cannot write: %s", strerror(errno));
        status = 1;
    }
    if (error.text[0])
        fprintf(stderr, "error: %s\n", error.text);
    return status;
}
