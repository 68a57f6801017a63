/* The commands on a module written by hand: training, resuming, evaluation, predictions, exports, and the sentence for every mistake. */
#include "runtime_fake.h"
#include "runtime_files.h"

#include <errno.h>
#include <stdatomic.h>

enum { ROWS = 60, TEXT = 1 << 16 };

/* Runs the trainer in a child; the exit status. Output goes to the files out and err. `limit`: largest file that it may write, 0 for any.
 */
static int run_limited(rlim_t limit, const char *command) {
    char line[1024], *argv[64];
    int argc = 0;
    snprintf(line, sizeof line, "trainer %s", command);
    for (char *word = strtok(line, " "); word && argc < 63; word = strtok(NULL, " "))
        argv[argc++] = word;
    argv[argc] = NULL;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("out", "w", stdout) || !freopen("err", "w", stderr))
            _exit(99);
        if (limit > 0) {
            struct rlimit size = {limit, limit};
            setrlimit(RLIMIT_FSIZE, &size);
        }
        int status = intc_rt_main(&fake_module, argc, argv);
        fflush(NULL);
        _exit(status);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void good(const char *command) {
    int status = run_limited(0, command);
    char text[TEXT];
    read_file("err", text, sizeof text);
    if (status != 0)
        fail_msg("%s: status %d: %s", command, status, text);
}

static void check_refusal(int status, int expected, const char *command, const char *words) {
    char text[TEXT];
    read_file("err", text, sizeof text);
    if (status != expected || !strstr(text, words) || !strchr(text, '\n') || strchr(text, '\n')[1])
        fail_msg("%s: status %d, expected %d and one line with '%s': %s", command, status, expected, words, text);
}

static void refuse(int expected, const char *command, const char *words) {
    check_refusal(run_limited(0, command), expected, command, words);
}

static void output(char text[TEXT]) {
    assert_true(read_file("out", text, TEXT) > 0);
}

static const char *hash_line(char text[TEXT]) {
    output(text);
    const char *line = strstr(text, "parameters sha256 ");
    assert_non_null(line);
    assert_int_equal(strlen(line), 18 + 64 + 1);
    return line;
}

static void same_file(const char *a, const char *b) {
    char first[TEXT], second[TEXT];
    long size = read_file(a, first, sizeof first);
    assert_true(size > 0);
    assert_int_equal(read_file(b, second, sizeof second), size);
    assert_memory_equal(first, second, (size_t)size);
}

static int make_data(void **state) {
    unsigned char x[ROWS][FAKE_FEATURES], label[ROWS], wrong[ROWS];
    float real[ROWS][FAKE_FEATURES];
    enter_folder(state);
    for (int r = 0; r < ROWS; r++) {
        label[r] = (unsigned char)(r * 7 % FAKE_CLASSES);
        wrong[r] = label[r];
        for (int f = 0; f < FAKE_FEATURES; f++) {
            x[r][f] = (unsigned char)((f == label[r] ? 200 : 20) + (r * 31 + f * 17) % 50);
            real[r][f] = (float)x[r][f] / 255;
        }
    }
    wrong[41] = 3;
    write_npy("x.npy", "|u1", "(60, 4)", x, sizeof x);
    write_npy("f.npy", "<f4", "(60, 4)", real, sizeof real);
    write_npy("y.npy", "|u1", "(60,)", label, sizeof label);
    write_npy("wrong.npy", "|u1", "(60,)", wrong, sizeof wrong);
    write_npy("few.npy", "|u1", "(7, 4)", x, 7 * FAKE_FEATURES);
    write_npy("few_y.npy", "|u1", "(7,)", label, 7);
    write_npy("wide.npy", "|u1", "(48, 5)", x, 240);
    real[5][1] = 0.0f / (real[0][0] - real[0][0]);
    write_npy("nan.npy", "<f4", "(60, 4)", real, sizeof real);
    write_file("cut.npy", x, 0);
    return 0;
}

#define DATA "--data x.npy --target y.npy "
#define TRAIN "train " DATA "--lr 0.3 --momentum 0.9 --seed 5 "

static void test_train(void **state) {
    (void)state;
    char text[TEXT], again[TEXT];
    good(TRAIN "--epochs 12 --val-data x.npy --val-target y.npy --checkpoint a.ckpt --save a.onnx --log a.csv");
    char first[TEXT];
    strcpy(first, hash_line(text));
    if (!strstr(text, "final: loss 0.") || !strstr(text, "validation: loss 0.") || !strstr(text, "accuracy 100.00 %"))
        fail_msg("%s", text);
    good(TRAIN "--epochs 12 --threads 3");
    assert_string_equal(first, hash_line(again));
    good(TRAIN "--epochs 12 --seed 6");
    assert_string_not_equal(first, hash_line(again));
    good("eval " DATA "--checkpoint a.ckpt");
    output(text);
    assert_non_null(strstr(text, "accuracy 100.00 %"));
    read_file("a.csv", text, sizeof text);
    assert_memory_equal(text, "step,epoch,loss,metric,lr,seconds\n1,1,0.", 40);
    int lines = 0;
    for (const char *c = text; *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, 1 + 12 * (ROWS / FAKE_BATCH));
    good(TRAIN "--epochs 1 --log a.jsonl --shuffle off --nesterov");
    read_file("a.jsonl", text, sizeof text);
    assert_memory_equal(text, "{\"step\":1,\"epoch\":1,\"loss\":0.", 29);
    good("info");
    good("bench --steps 3");
    good("train --help");
    good("--help");
}

/* Stopped at any step and resumed: the same bytes, and the log goes on where it ended. */
static void test_resume(void **state) {
    (void)state;
    char command[512], text[TEXT], line[TEXT];
    good(TRAIN "--epochs 3 --lr-schedule cosine --warmup 3 --checkpoint whole.ckpt --log whole.csv --weight-decay 0.01");
    strcpy(line, hash_line(text));
    for (int stop = 1; stop < 21; stop += 3) {
        snprintf(command, sizeof command,
                 TRAIN
                 "--epochs 3 --lr-schedule cosine --warmup 3 --weight-decay 0.01 --checkpoint part.ckpt --log part.csv --max-steps %d",
                 stop);
        good(command);
        good(TRAIN "--epochs 3 --lr-schedule cosine --warmup 3 --weight-decay 0.01 --checkpoint part.ckpt --log part.csv --resume "
                   "part.ckpt --threads 2");
        assert_string_equal(line, hash_line(text));
        same_file("whole.ckpt", "part.ckpt");
        char whole[TEXT], part[TEXT];
        read_file("whole.csv", whole, sizeof whole);
        read_file("part.csv", part, sizeof part);
        for (char *a = strtok(whole, "\n"), *b = part; a; a = strtok(NULL, "\n"), b = strchr(b, '\n') + 1) {
            size_t length = (size_t)(strrchr(a, ',') - a); /* all but the seconds */
            assert_memory_equal(a, b, length);
        }
    }
    refuse(1, TRAIN "--epochs 3 --lr-schedule cosine --warmup 3 --weight-decay 0.02 --resume part.ckpt",
           "weight-decay was '0.01', is '0.02'");
    refuse(1, TRAIN "--epochs 3 --lr-schedule cosine --warmup 3 --weight-decay 0.01 --max-steps 4 --resume part.ckpt",
           "at most 4 steps, found 21");
}

static void test_keep_best(void **state) {
    (void)state;
    char text[TEXT], line[TEXT];
    good(TRAIN "--epochs 4 --keep-best --val-data x.npy --val-target y.npy --checkpoint best.ckpt");
    strcpy(line, hash_line(text));
    good(TRAIN "--epochs 4 --keep-best --val-data x.npy --val-target y.npy --checkpoint b2.ckpt --max-steps 14");
    good(TRAIN "--epochs 4 --keep-best --val-data x.npy --val-target y.npy --checkpoint b2.ckpt --resume b2.ckpt");
    assert_string_equal(line, hash_line(text));
    same_file("best.ckpt", "b2.ckpt");
}

static void test_predict(void **state) {
    (void)state;
    char a[TEXT], b[TEXT];
    good(TRAIN "--epochs 4 --checkpoint p.ckpt");
    good("predict --data x.npy --checkpoint p.ckpt --output a.npy");
    good("predict --data f.npy --checkpoint p.ckpt --output y=b.npy");
    same_file("a.npy", "b.npy"); /* u / 255 as float32 is what the table holds */
    assert_int_equal(read_file("a.npy", a, sizeof a), 128 + ROWS * FAKE_CLASSES * 4);
    assert_non_null(strstr(a + 10, "'shape': (60, 3)"));
    /* Each is a whole number of steps of one power of two, and no more than 128 of them. */
    good("predict --data few.npy --checkpoint p.ckpt --output few-out.npy");
    read_file("few-out.npy", b, sizeof b);
    assert_memory_equal(a + 128, b + 128, 7 * FAKE_CLASSES * 4);
    refuse(1, "predict --data few.npy --checkpoint p.ckpt --output z=c.npy --output w=d.npy", "'y'");
    refuse(1, "predict --data nan.npy --checkpoint p.ckpt --output c.npy", "nan.npy: row 5");
    assert_int_equal(read_file("c.npy", b, sizeof b), -1);
}

static void test_export(void **state) {
    (void)state;
    char a[TEXT];
    good(TRAIN "--epochs 4 --checkpoint e.ckpt --save e.onnx");
    good("export --checkpoint e.ckpt -o again.onnx");
    same_file("e.onnx", "again.onnx");
    assert_int_equal(read_file("e.onnx", a, sizeof a), FAKE_MODEL);
    float scale, w[FAKE_WEIGHTS];
    memcpy(w, a + 4, sizeof w);
    memcpy(&scale, a + 4 + sizeof w, 4);
    int largest = 0;
    for (int i = 0; i < FAKE_WEIGHTS; i++) {
        int8_t narrow = (int8_t)a[8 + sizeof w + (size_t)i];
        float error = w[i] - scale * (float)narrow;
        assert_true(error <= scale / 2 && error >= -scale / 2);
        largest = abs(narrow) > largest ? abs(narrow) : largest;
    }
    assert_in_range(largest, 64, 127);
    refuse(1, "export --checkpoint e.ckpt -o no.onnx --format float", "operator 'Fake' has no float form");
    refuse(1, "export --checkpoint e.ckpt -o no.onnx --format qdq", "too close");
    refuse(1, TRAIN "--epochs 1 --save no.onnx --format float", "operator 'Fake' has no float form");
    assert_int_equal(read_file("no.onnx", a, sizeof a), -1);
}

/* Pixels are scaled at evaluation as they were in training, unless the options say otherwise. */
static void test_normalisation(void **state) {
    (void)state;
    char given[TEXT], kept[TEXT], other[TEXT];
    good(TRAIN "--epochs 3 --mean 0.4 --std 0.3 --checkpoint n.ckpt");
    good("eval " DATA "--checkpoint n.ckpt --mean 0.4 --std 0.3");
    output(given);
    good("eval " DATA "--checkpoint n.ckpt");
    output(kept);
    good("eval " DATA "--checkpoint n.ckpt --mean 0 --std 1");
    output(other);
    assert_string_equal(given, kept);
    assert_string_not_equal(given, other);
}

/* An export that its condition forbids after the training: the training is not lost. */
static void test_rescue(void **state) {
    (void)state;
    refuse(1, TRAIN "--epochs 1 --save lost.onnx --format qdq", "too close; the training is kept in lost.onnx.checkpoint");
    good("eval " DATA "--checkpoint lost.onnx.checkpoint");
}

static void test_mistakes(void **state) {
    (void)state;
    refuse(1, "train --data x.npy --epochs 1", "--target is missing");
    refuse(1, "train " DATA, "--epochs is missing");
    refuse(1, "train --data wide.npy --target y.npy --epochs 1", "wide.npy: expected rows of shape 4 for 'x', found 5");
    refuse(1, "train --data few.npy --target y.npy --epochs 1", "y.npy: expected 7 rows as in few.npy, found 60");
    refuse(1, "train --data few.npy --target few_y.npy --epochs 1", "few.npy: expected at least one batch of 8 rows, found 7");
    refuse(1, "train --data x.npy --target wrong.npy --epochs 1",
           "wrong.npy: element 41: expected a label from 0 to 2 for 'label', found 3");
    refuse(1, "train --data x.npy --target f.npy --epochs 1", "f.npy: expected rows of shape");
    refuse(1, "train --data nan.npy --target y.npy --epochs 1", "nan.npy: row 5");
    refuse(1, "train --data f.npy --target y.npy --epochs 1 --mean 0.5", "apply to uint8");
    refuse(1, "train --data x.npy --target y.npy --epochs 1 --mean 0.5,0.5", "--mean");
    refuse(1, "train --data x.npy --target y.npy --epochs 1 --std 0", "--std");
    refuse(1, "train --data a=x.npy --data b=x.npy --target y.npy --epochs 1", "'x'");
    refuse(1, "train --data none.npy --target y.npy --epochs 1", "none.npy: cannot open");
    refuse(1, TRAIN "--epochs 1 --log log.txt", "log.txt");
    refuse(1, TRAIN "--epochs 1 --log none/log.csv", "none/log.csv");
    refuse(1, TRAIN "--epochs 1 --checkpoint none/c.ckpt", "none/c.ckpt");
    refuse(2, "", "command is missing");
    refuse(2, "fly", "fly");
    refuse(2, "train --speed 9", "--speed");
    refuse(2, "eval " DATA "--epochs 3", "--epochs");
    refuse(2, "train --epochs", "--epochs needs a value");
    refuse(2, TRAIN "--epochs 0", "--epochs");
    refuse(2, TRAIN "--epochs 1 --lr fast", "fast");
    refuse(2, TRAIN "--epochs 1 --lr -1", "-1");
    refuse(2, TRAIN "--epochs 1 --optimizer adam", "adam");
    refuse(2, "train " DATA "--epochs 1 --nesterov", "--nesterov needs --momentum");
    refuse(2, TRAIN "--epochs 1 --warmup 3 --lr-schedule onecycle", "onecycle");
}

static void test_bad_checkpoints(void **state) {
    (void)state;
    char data[TEXT];
    good(TRAIN "--epochs 1 --checkpoint c.ckpt");
    long size = read_file("c.ckpt", data, sizeof data);
    for (long cut = 0; cut < size; cut += 13) {
        write_file("cut.ckpt", data, (size_t)cut);
        refuse(1, "eval " DATA "--checkpoint cut.ckpt", "cut.ckpt");
        refuse(1, TRAIN "--epochs 1 --resume cut.ckpt", "cut.ckpt");
    }
    for (long at = 0; at < size; at += 5) {
        data[at] ^= 4;
        write_file("bit.ckpt", data, (size_t)size);
        data[at] ^= 4;
        refuse(1, "eval " DATA "--checkpoint bit.ckpt", "bit.ckpt");
    }
    refuse(1, "eval " DATA "--checkpoint none.ckpt", "none.ckpt: cannot open");
    refuse(1, "eval " DATA "--checkpoint x.npy", "x.npy: expected a checkpoint");
}

/* A disk that is full: the old file stays whole, nothing is left beside it. */
static void test_full_disk(void **state) {
    (void)state;
    char before[TEXT], after[TEXT];
    good(TRAIN "--epochs 1 --checkpoint d.ckpt");
    long size = read_file("d.ckpt", before, sizeof before);
    const char *command = TRAIN "--epochs 2 --seed 9 --checkpoint d.ckpt";
    check_refusal(run_limited(200, command), 1, command, "d.ckpt: cannot write");
    assert_int_equal(read_file("d.ckpt", after, sizeof after), size);
    assert_memory_equal(before, after, (size_t)size);
    assert_int_equal(access("d.ckpt.tmp", F_OK), -1);
    command = "predict --data x.npy --checkpoint d.ckpt --output new.npy";
    check_refusal(run_limited(200, command), 1, command, "new.npy: cannot write");
    assert_int_equal(access("new.npy", F_OK), -1);
    assert_int_equal(access("new.npy.tmp", F_OK), -1);
    if (access("/dev/full", W_OK) == 0) {
        refuse(1, "predict --data x.npy --checkpoint d.ckpt --output /dev/full", "/dev/full: cannot write");
        refuse(1, TRAIN "--epochs 1 --log /dev/full.csv/x.csv", "/dev/full.csv/x.csv");
    }
}

/* Values far beyond those of the calibration saturate at -128 and 127 steps. */
static void test_saturation(void **state) {
    (void)state;
    static const int32_t far[2][FAKE_FEATURES] = {{1 << 30, 0, 0, 0}, {-(1 << 30), 0, 0, 0}};
    char a[TEXT];
    good(TRAIN "--epochs 2 --checkpoint s.ckpt");
    write_npy("far.npy", "<i4", "(2, 4)", far, sizeof far);
    good("predict --data far.npy --checkpoint s.ckpt --output far-out.npy");
    Session session;
    Error error;
    Checkpoint checkpoint;
    void *memory;
    assert_true(intc_rt_session_open(&session, &fake_module, 1, &error));
    assert_true(intc_rt_checkpoint_load("s.ckpt", &fake_module, &checkpoint, &memory, &error));
    memcpy(session.arena, checkpoint.state, FAKE_STATE);
    free(memory);
    List data = {{"far.npy"}, 1};
    Channels none = {.count = 0};
    FeedSource source = {&data, NULL, &none, &none, "--data", "--target"};
    Feeds feeds;
    assert_true(intc_rt_feeds_open(&fake_module, INTC_IN_INFER, &source, &feeds, &error));
    for (int i = 0; i < FAKE_BATCH; i++)
        feeds.chosen[i] = i < 2 ? i : -1;
    assert_true(intc_rt_feed_batch(&feeds, FEED_INFER, session.arena, session.pool, &error));
    assert_int_equal((int8_t)session.arena[AT_X + FAKE_FEATURES - 1], 127);
    assert_int_equal((int8_t)session.arena[AT_X + FAKE_ROW + FAKE_FEATURES - 1], -128);
    assert_int_equal(fake_i32(session.arena, AT_X_EXPONENT), fake_i32(session.arena, AT_SLOT_X));
    assert_int_equal(fake_i32(session.arena, AT_LABEL), -1);
    assert_true(intc_rt_feed_batch(&feeds, FEED_CALIBRATE, session.arena, session.pool, &error));
    assert_int_equal((int8_t)session.arena[AT_X + FAKE_FEATURES - 1], 64);
    assert_int_equal(fake_i32(session.arena, AT_X_EXPONENT), 24);
    assert_int_equal(session.arena[AT_X + 2 * FAKE_ROW], 0);
    intc_rt_feeds_close(&feeds);
    intc_rt_session_close(&session);
    assert_true(read_file("far-out.npy", a, sizeof a) > 128);
}

/* Of four groups of rows, one of zeros: 8 bits get the median of the others, 16 bits the largest. */
static void test_calibration(void **state) {
    (void)state;
    enum { GROUPS = 4, EACH = 128, BATCHES = EACH / FAKE_BATCH };
    static const int32_t largest[GROUPS] = {1 << 20, 0, 1 << 10, 1 << 14};
    static int32_t rows[GROUPS * EACH][FAKE_FEATURES];
    for (int g = 0; g < GROUPS; g++)
        rows[g * EACH + EACH / 2][2] = -largest[g];
    char shape[32];
    snprintf(shape, sizeof shape, "(%d, %d)", GROUPS * EACH, FAKE_FEATURES);
    write_npy("batches.npy", "<i4", shape, rows, sizeof rows);
    static const struct intc_calibration wide = {AT_X_EXPONENT, AT_SLOT_Y, 16};
    struct intc_module module = fake_module;
    module.tensor_count = 1;
    module.calibrations = &wide;
    module.calibration_count = 1;
    Session session;
    Error error;
    assert_true(intc_rt_session_open(&session, &module, 1, &error));
    List data = {{"batches.npy"}, 1};
    Channels none = {.count = 0};
    FeedSource source = {&data, NULL, &none, &none, "--data", "--target"};
    Feeds feeds;
    assert_true(intc_rt_feeds_open(&module, INTC_IN_INFER, &source, &feeds, &error));
    assert_false(intc_rt_calibrated(&session));
    assert_true(intc_rt_calibrate(&session, &feeds, 100, &error));
    assert_true(intc_rt_calibrated(&session));
    assert_int_equal(fake_i32(session.arena, AT_SLOT_X), 14 - 6);
    assert_int_equal(fake_i32(session.arena, AT_SLOT_Y), 20 - 6);
    assert_true(intc_rt_calibrate(&session, &feeds, BATCHES + 1, &error));
    assert_int_equal(fake_i32(session.arena, AT_SLOT_X), 20 - 6);
    assert_true(intc_rt_calibrate(&session, &feeds, 1, &error));
    assert_int_equal(fake_i32(session.arena, AT_SLOT_X), INTC_EXPONENT_ZERO);
    intc_rt_feeds_close(&feeds);
    intc_rt_session_close(&session);
}

enum { SHARED_BY = 3 };
static atomic_int slot_users[SHARED_BY];
static atomic_int slot_clashes;

/* places: whether slots are used. */
static void add_range(unsigned char *arena, const void *places, int64_t begin, int64_t end, int64_t slot) {
    int32_t slotted;
    memcpy(&slotted, places, sizeof slotted);
    if (slotted && (slot >= SHARED_BY || atomic_fetch_add(&slot_users[slot], 1) != 0))
        atomic_fetch_add(&slot_clashes, 1);
    for (int64_t i = begin; i < end; i++)
        arena[i]++;
    if (slotted && slot < SHARED_BY)
        atomic_fetch_sub(&slot_users[slot], 1);
}

/* Every index exactly once, whatever the number of threads and the image to begin with; a slot by one thread at a time. */
static void test_threads(void **state) {
    (void)state;
    enum { COUNT = 1000 };
    for (int64_t threads = 1; threads <= 5; threads++) {
        struct intc_pool *pool = intc_rt_pool_new(threads);
        unsigned char counters[COUNT] = {0};
        int64_t expected = 0;
        for (int round = 0; round < 200; round++) {
            static struct intc_call call;
            static int32_t slotted;
            int32_t count = round * 37 % COUNT;
            slotted = round % 2 == 0;
            call = (struct intc_call){.kernel = (int32_t)((intptr_t)add_range - (intptr_t)&call),
                                      .places = (int32_t)((intptr_t)&slotted - (intptr_t)&call),
                                      .tiles = count,
                                      .threads = slotted ? SHARED_BY : INT16_MAX,
                                      .images = round % 3 == 0 ? count : 8};
            intc_rt_call(pool, &call, counters, round % 13);
            expected += count;
        }
        int64_t sum = 0;
        for (int i = 0; i < COUNT; i++) {
            sum += counters[i];
            assert_true(i == 0 || counters[i] <= counters[i - 1]);
        }
        assert_int_equal(sum, expected);
        assert_int_equal(atomic_load(&slot_clashes), 0);
        intc_rt_pool_free(pool);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train),         cmocka_unit_test(test_resume),     cmocka_unit_test(test_keep_best),
        cmocka_unit_test(test_predict),       cmocka_unit_test(test_export),     cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_normalisation), cmocka_unit_test(test_rescue),     cmocka_unit_test(test_bad_checkpoints),
        cmocka_unit_test(test_full_disk),     cmocka_unit_test(test_saturation), cmocka_unit_test(test_calibration),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, make_data, leave_folder);
}
