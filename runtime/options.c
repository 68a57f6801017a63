/* The command line of a trainer: one table of options, from which parsing and --help derive. Usage errors are reported here, with status 2.
 */
#include "runtime/runtime.h"

#include <stdarg.h>
#include <string.h>

typedef enum {
    OPTION_LIST,
    OPTION_TEXT,
    OPTION_COUNT,
    OPTION_DECIMAL,
    OPTION_CHANNELS,
    OPTION_FLAG,
    OPTION_ON_OFF,
    OPTION_SCHEDULE,
    OPTION_CHOICE
} OptionKind;

typedef struct {
    const char *name, *value, *help;
    int commands;
    OptionKind kind;
    size_t field;
    int64_t low, high;   /* COUNT */
    const char *choices; /* CHOICE: separated by | */
} OptionRow;

#define FIELD(name) offsetof(Options, name)
#define MANY INT64_C(1000000000000)

enum {
    READS = COMMAND_TRAIN | COMMAND_EVAL | COMMAND_PREDICT,
    RUNS = READS | COMMAND_BENCH,
};

static const OptionRow rows[] = {
    {"--data", "[NAME=]FILE[,FILE]", "inputs: .npy, IDX (also .gz), CIFAR binary; once for each input of the model", READS, OPTION_LIST,
     FIELD(data), 0, 0, 0},
    {"--target", "[NAME=]FILE[,FILE]", "labels or values", COMMAND_TRAIN | COMMAND_EVAL, OPTION_LIST, FIELD(target), 0, 0, 0},
    {"--val-data", "[NAME=]FILE[,FILE]", "inputs of the validation set, evaluated after each epoch", COMMAND_TRAIN, OPTION_LIST,
     FIELD(val_data), 0, 0, 0},
    {"--val-target", "[NAME=]FILE[,FILE]", "its labels or values", COMMAND_TRAIN, OPTION_LIST, FIELD(val_target), 0, 0, 0},
    {"--mean", "M[,M]", "uint8 inputs, after division by 255: subtracted, one for all channels or one each", READS, OPTION_CHANNELS,
     FIELD(mean), 0, 0, 0},
    {"--std", "S[,S]", "then divided by", READS, OPTION_CHANNELS, FIELD(std), 0, 0, 0},
    {"--epochs", "N", "passes over the data", COMMAND_TRAIN, OPTION_COUNT, FIELD(epochs), 1, MANY, 0},
    {"--max-steps", "N", "end after so many steps", COMMAND_TRAIN, OPTION_COUNT, FIELD(max_steps), 1, MANY, 0},
    {"--optimizer", "sgd", "default sgd", COMMAND_TRAIN, OPTION_CHOICE, FIELD(optimizer), 0, 0, "sgd"},
    {"--lr", "RATE", "learning rate, default 0.001", COMMAND_TRAIN, OPTION_DECIMAL, FIELD(lr), 0, 0, 0},
    {"--momentum", "M", "default 0", COMMAND_TRAIN, OPTION_DECIMAL, FIELD(momentum), 0, 0, 0},
    {"--nesterov", NULL, "Nesterov's momentum", COMMAND_TRAIN, OPTION_FLAG, FIELD(nesterov), 0, 0, 0},
    {"--weight-decay", "L", "default 0", COMMAND_TRAIN, OPTION_DECIMAL, FIELD(weight_decay), 0, 0, 0},
    {"--lr-schedule", "KIND", "constant, step:EPOCH,EPOCH:FACTOR, cosine, onecycle, poly or poly:POWER; default constant", COMMAND_TRAIN,
     OPTION_SCHEDULE, FIELD(schedule), 0, 0, 0},
    {"--warmup", "STEPS", "the rate rises linearly over the first steps", COMMAND_TRAIN, OPTION_COUNT, FIELD(warmup), 0, MANY, 0},
    {"--seed", "N", "decides order and rounding; default 0", COMMAND_TRAIN, OPTION_COUNT, FIELD(seed), 0, INT64_MAX, 0},
    {"--shuffle", "on|off", "default on; off keeps the order of the files", COMMAND_TRAIN, OPTION_ON_OFF, FIELD(no_shuffle), 0, 0, 0},
    {"--calibrate", "N", "batches that decide the exponents of inference, default 32", READS, OPTION_COUNT, FIELD(calibrate), 1, MANY, 0},
    {"--checkpoint", "FILE", "train: written after each epoch and at the end; else: read", READS | COMMAND_EXPORT, OPTION_TEXT,
     FIELD(checkpoint), 0, 0, 0},
    {"--checkpoint-every", "N", "steps between checkpoints", COMMAND_TRAIN, OPTION_COUNT, FIELD(checkpoint_every), 1, MANY, 0},
    {"--resume", "FILE", "go on from a checkpoint; ends in the same bytes as a run that was never stopped", COMMAND_TRAIN, OPTION_TEXT,
     FIELD(resume), 0, 0, 0},
    {"--keep-best", NULL, "end with the parameters of the best validation", COMMAND_TRAIN, OPTION_FLAG, FIELD(keep_best), 0, 0, 0},
    {"--save", "FILE.onnx", "export at the end", COMMAND_TRAIN, OPTION_TEXT, FIELD(save), 0, 0, 0},
    {"--output", "[NAME=]FILE", "predict: .npy of each prediction; export: the model (also -o)", COMMAND_PREDICT | COMMAND_EXPORT,
     OPTION_LIST, FIELD(output), 0, 0, 0},
    {"--format", "int8|qdq|float", "of the exported model, default int8", COMMAND_TRAIN | COMMAND_EXPORT, OPTION_CHOICE, FIELD(format), 0,
     0, "int8|qdq|float"},
    {"--log", "FILE", "step, epoch, loss, metric, lr, seconds of each step as .csv or .jsonl", COMMAND_TRAIN, OPTION_TEXT, FIELD(log), 0, 0,
     0},
    {"--steps", "N", "steps to measure, default 100", COMMAND_BENCH, OPTION_COUNT, FIELD(steps), 1, MANY, 0},
    {"--profile", NULL, "print the time of each kind of kernel and of each call in a step", COMMAND_BENCH, OPTION_FLAG, FIELD(profile), 0,
     0, 0},
    {"--threads", "N", "default: all cores; the result does not depend on it", RUNS, OPTION_COUNT, FIELD(threads), 1, 1024, 0},
};

static const struct {
    const char *name, *help;
    Command command;
} commands[] = {
    {"train", "train on data and targets", COMMAND_TRAIN},
    {"eval", "loss and metric of a data set", COMMAND_EVAL},
    {"predict", "write the predictions of a data set as .npy", COMMAND_PREDICT},
    {"export", "write a checkpoint as an ONNX model", COMMAND_EXPORT},
    {"info", "what this trainer was compiled from", COMMAND_INFO},
    {"bench", "steps per second and memory on made-up data", COMMAND_BENCH},
};
enum { COMMANDS = sizeof commands / sizeof *commands, ROWS = sizeof rows / sizeof *rows };

static void print_help(const char *program, int mask) {
    if (mask == 0) {
        printf("usage: %s COMMAND [options]\n\n", program);
        for (size_t i = 0; i < COMMANDS; i++)
            printf("  %-9s %s\n", commands[i].name, commands[i].help);
        printf("\n%s COMMAND --help lists the options of one.\n", program);
        return;
    }
    for (size_t i = 0; i < COMMANDS; i++)
        if ((int)commands[i].command == mask)
            printf("usage: %s %s [options]\n\n", program, commands[i].name);
    for (size_t i = 0; i < ROWS; i++)
        if (rows[i].commands & mask) {
            char left[64];
            snprintf(left, sizeof left, "%s %s", rows[i].name, rows[i].value ? rows[i].value : "");
            printf("  %-32s %s\n", left, rows[i].help);
        }
}

static bool parse_count(const char *text, int64_t low, int64_t high, int64_t *value) {
    int64_t result = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || result > (INT64_MAX - (*text - '0')) / 10)
            return false;
        result = result * 10 + (*text - '0');
    }
    *value = result;
    return result >= low && result <= high;
}

static bool parse_channels(const char *text, Channels *channels) {
    *channels = (Channels){.text = text};
    for (;;) {
        size_t length = strcspn(text, ",");
        if (channels->count == MAX_CHANNELS || !intc_rt_decimal(text, length, 24, &channels->value[channels->count++]))
            return false;
        if (!text[length])
            return true;
        text += length + 1;
    }
}

static bool parse_choice(const char *text, const char *choices) {
    size_t length = strlen(text);
    for (const char *at = choices;; at++) {
        size_t choice = strcspn(at, "|");
        if (choice == length && memcmp(at, text, length) == 0)
            return true;
        at += choice;
        if (!*at)
            return false;
    }
}

/* Stores a value in the field of its option; false if the text does not fit. */
static bool store_value(const OptionRow *row, const char *text, Options *options) {
    void *field = (char *)options + row->field;
    switch (row->kind) {
    case OPTION_LIST: {
        List *list = field;
        if (list->count == MAX_LIST || !*text)
            return false;
        list->text[list->count++] = text;
        return true;
    }
    case OPTION_CHOICE:
        if (!parse_choice(text, row->choices))
            return false;
        *(const char **)field = text;
        return true;
    case OPTION_TEXT:
        *(const char **)field = text;
        return *text != 0;
    case OPTION_COUNT:
        return parse_count(text, row->low, row->high, field);
    case OPTION_DECIMAL:
        return intc_rt_decimal(text, strlen(text), 31, field) && ((Fixed *)field)->mantissa >= 0;
    case OPTION_CHANNELS:
        return parse_channels(text, field);
    case OPTION_ON_OFF:
        *(bool *)field = strcmp(text, "off") == 0;
        return *(bool *)field || strcmp(text, "on") == 0;
    case OPTION_SCHEDULE:
        return intc_rt_schedule_parse(text, field);
    case OPTION_FLAG:
        break;
    }
    *(bool *)field = true;
    return true;
}

__attribute__((format(printf, 2, 3))) static int usage(const char *program, const char *format, ...) {
    va_list list;
    fprintf(stderr, "%s: ", program);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, "; see %s --help\n", program);
    return 2;
}

/* Something that the command cannot do without: the user's mistake, not one of spelling. */
static int missing(const char *name) {
    fprintf(stderr, "error: %s is missing\n", name);
    return 1;
}

static int check_options(const char *program, const Options *options) {
    static const struct {
        int commands;
        size_t field;
        const char *name;
    } needed[] = {{READS, FIELD(data.count), "--data"},
                  {COMMAND_TRAIN | COMMAND_EVAL, FIELD(target.count), "--target"},
                  {COMMAND_PREDICT | COMMAND_EXPORT, FIELD(output.count), "--output"}};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if ((needed[i].commands & (int)options->command) && *(const int *)((const char *)options + needed[i].field) == 0)
            return missing(needed[i].name);
    if (options->command == COMMAND_EXPORT && !options->checkpoint)
        return missing("--checkpoint");
    if (options->command == COMMAND_EXPORT && options->output.count > 1)
        return usage(program, "--output is given twice");
    if (options->command != COMMAND_TRAIN)
        return -1;
    if (options->epochs == 0)
        return missing("--epochs");
    if ((options->val_data.count == 0) != (options->val_target.count == 0))
        return usage(program, "--val-data and --val-target go together");
    if (options->nesterov && options->momentum.mantissa == 0)
        return usage(program, "--nesterov needs --momentum above 0");
    if (options->warmup > 0 && options->schedule.kind == SCHEDULE_ONECYCLE)
        return usage(program, "--warmup does not go with --lr-schedule onecycle, which has its own");
    if (options->checkpoint_every > 0 && !options->checkpoint)
        return usage(program, "--checkpoint-every needs --checkpoint");
    if (options->keep_best && options->val_data.count == 0)
        return usage(program, "--keep-best needs --val-data and --val-target");
    return -1;
}

static const OptionRow *find_row(const char *argument, size_t length, int command) {
    if (length == 2 && memcmp(argument, "-o", 2) == 0) {
        argument = "--output";
        length = 8;
    }
    for (size_t i = 0; i < ROWS; i++)
        if ((rows[i].commands & command) && strlen(rows[i].name) == length && memcmp(rows[i].name, argument, length) == 0)
            return rows + i;
    return NULL;
}

static int parse_arguments(const char *program, int argc, char **argv, Options *options) {
    for (int i = 2; i < argc; i++) {
        const char *argument = argv[i];
        if (strcmp(argument, "--help") == 0) {
            print_help(program, (int)options->command);
            return 0;
        }
        size_t length = argument[0] == '-' ? strcspn(argument, "=") : strlen(argument);
        const OptionRow *row = find_row(argument, length, (int)options->command);
        if (!row)
            return usage(program, "%s: unknown option '%s'", argv[1], argument);
        const char *value = argument[length] == '=' ? argument + length + 1 : NULL;
        if (row->kind == OPTION_FLAG && value)
            return usage(program, "%s takes no value", row->name);
        if (row->kind != OPTION_FLAG && !value) {
            if (++i == argc)
                return usage(program, "%s needs a value: %s", row->name, row->value);
            value = argv[i];
        }
        if (!store_value(row, value, options))
            return usage(program, "%s: '%s' is not %s", row->name, value,
                         row->kind == OPTION_DECIMAL ? "a decimal number of 0 or more" : row->value);
    }
    return check_options(program, options);
}

int intc_rt_options(int argc, char **argv, Options *options) {
    const char *program = argc > 0 && strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argc > 0 ? argv[0] : "trainer";
    *options =
        (Options){.calibrate = 32, .steps = 100, .format = "int8", .optimizer = "sgd", .momentum = FIXED_ZERO, .weight_decay = FIXED_ZERO};
    intc_rt_decimal("0.001", 5, 31, &options->lr);
    intc_rt_schedule_parse("constant", &options->schedule);
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)) {
        print_help(program, 0);
        return 0;
    }
    for (size_t i = 0; i < COMMANDS && argc >= 2; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            options->command = commands[i].command;
    if (options->command == 0)
        return argc < 2 ? usage(program, "a command is missing: train, eval, predict, export, info or bench")
                        : usage(program, "unknown command '%s'", argv[1]);
    return parse_arguments(program, argc, argv, options);
}
