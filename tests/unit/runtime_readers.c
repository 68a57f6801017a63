/* The readers: valid files, and a sentence for every kind of damage. */
#include "runtime_files.h"

static void open_good(DataSet *set, const char *paths, bool labels) {
    Error error;
    if (!intc_rt_data_open(paths, labels, set, &error))
        fail_msg("%s: %s", paths, error.text);
}

static void open_bad(const char *paths, const char *words) {
    Error error;
    DataSet set;
    if (intc_rt_data_open(paths, false, &set, &error))
        fail_msg("%s opens", paths);
    if (!strstr(error.text, words))
        fail_msg("'%s' says nothing of '%s'", error.text, words);
    intc_rt_data_close(&set);
}

static int64_t element(const DataSet *set, int64_t row, int64_t index) {
    const DataFile *file;
    const unsigned char *bytes = intc_rt_data_row(set, row, &file);
    return intc_rt_data_integer(&file->shape, bytes, index);
}

static void test_npy(void **state) {
    (void)state;
    DataSet set;
    static const int16_t values[] = {1, -2, 300, 4, 5, -600};
    write_npy("a.npy", "<i2", "(3, 2)", values, sizeof values);
    write_npy("b.npy", "<i2", "(1, 2)", values + 4, 4);
    open_good(&set, "a.npy,b.npy", false);
    assert_int_equal(set.rows, 4);
    assert_int_equal(set.files->shape.rank, 1);
    assert_int_equal(element(&set, 1, 0), 300);
    assert_int_equal(element(&set, 2, 1), -600);
    assert_int_equal(element(&set, 3, 1), -600);
    intc_rt_data_close(&set);
    static const unsigned char big[] = {0x01, 0x02, 0xff, 0xfe};
    write_npy("big.npy", ">i2", "(2,)", big, sizeof big);
    open_good(&set, "big.npy", true);
    assert_int_equal(set.files->shape.rank, 0);
    assert_int_equal(element(&set, 0, 0), 0x102);
    assert_int_equal(element(&set, 1, 0), -2);
    intc_rt_data_close(&set);
}

static void test_npy_damage(void **state) {
    (void)state;
    static const unsigned char values[12] = {0};
    write_npy("short.npy", "|u1", "(3, 5)", values, 12);
    open_bad("short.npy", "truncated");
    write_npy("long.npy", "|u1", "(3, 3)", values, 12);
    open_bad("long.npy", "too long");
    write_npy("complex.npy", "<c8", "(3,)", values, 12);
    open_bad("complex.npy", "<c8");
    write_npy("scalar.npy", "|u1", "()", values, 1);
    open_bad("scalar.npy", "shape");
    write_npy("huge.npy", "<f8", "(4611686018427387904, 9)", values, 12);
    open_bad("huge.npy", "too large");
    write_npy("odd.npy", "|u1", "(3, -4)", values, 12);
    open_bad("odd.npy", "shape");
    write_npy("none.npy", "|u1", "(0, 4)", values, 0);
    open_bad("none.npy", "no rows");
    write_file("head.npy", "\x93NUMPY\x01\x00\x76\x00{'descr'", 18);
    open_bad("head.npy", "truncated");
    write_file("keys.npy", "\x93NUMPY\x01\x00\x04\x00{ }\n", 14);
    open_bad("keys.npy", "descr");
    write_file("empty", "", 0);
    open_bad("empty", "empty");
    open_bad("missing.npy", "missing.npy: cannot open");
    open_bad(".", "not a regular file");
    write_file("text", "hello, world", 12);
    open_bad("text", "unknown format");
    write_npy("u.npy", "|u1", "(3, 4)", values, 12);
    write_npy("i.npy", "|i1", "(3, 4)", values, 12);
    open_bad("u.npy,i.npy", "expected rows of uint8 4");
    open_bad("u.npy,", "cannot open");
}

static void test_idx(void **state) {
    (void)state;
    DataSet set;
    static const unsigned char good[] = {0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6};
    write_file("x.idx", good, sizeof good);
    open_good(&set, "x.idx", false);
    assert_int_equal(set.rows, 2);
    assert_int_equal(element(&set, 1, 2), 6);
    intc_rt_data_close(&set);
    write_file("cut.idx", good, sizeof good - 1);
    open_bad("cut.idx", "truncated");
    write_file("head.idx", good, 7);
    open_bad("head.idx", "truncated");
    static const unsigned char integers[] = {0, 0, 12, 1, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xfe, 0, 1, 0, 0};
    write_file("i.idx", integers, sizeof integers);
    open_good(&set, "i.idx", true);
    assert_int_equal(element(&set, 0, 0), -2);
    assert_int_equal(element(&set, 1, 0), 65536);
    intc_rt_data_close(&set);
    static const unsigned char odd[] = {0, 0, 10, 1, 0, 0, 0, 1, 1};
    write_file("odd.idx", odd, sizeof odd);
    open_bad("odd.idx", "type");
}

static void test_cifar(void **state) {
    (void)state;
    DataSet set;
    enum { RECORDS = 3 };
    static unsigned char records[RECORDS * 3074];
    for (size_t i = 0; i < sizeof records; i++)
        records[i] = (unsigned char)(i * 7 + i / 256);
    write_file("ten.bin", records, RECORDS * 3073);
    open_good(&set, "ten.bin", false);
    assert_int_equal(set.rows, RECORDS);
    assert_int_equal(set.files->shape.rank, 3);
    assert_int_equal(element(&set, 2, 3071), records[2 * 3073 + 3072]);
    intc_rt_data_close(&set);
    open_good(&set, "ten.bin", true);
    assert_int_equal(element(&set, 2, 0), records[2 * 3073]);
    intc_rt_data_close(&set);
    write_file("hundred.bin", records, RECORDS * 3074);
    open_good(&set, "hundred.bin", true);
    assert_int_equal(element(&set, 1, 0), records[3074 + 1]); /* the fine label */
    intc_rt_data_close(&set);
    open_good(&set, "hundred.bin", false);
    assert_int_equal(element(&set, 1, 0), records[3074 + 2]);
    intc_rt_data_close(&set);
}

/* Compressed by gzip: stored, fixed and dynamic blocks, and distances up to the window's size. */
static void test_gzip(void **state) {
    (void)state;
    DataSet set;
    enum { ROWS = 300, WIDTH = 700 };
    static unsigned char values[ROWS * WIDTH];
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof values; i++) {
        random = random * 1664525 + 1013904223;
        values[i] = i < 60000 ? (unsigned char)(random >> 24) : i < 150000 ? values[i - 32768] : (unsigned char)((random >> 30) * (i & 1));
    }
    write_npy("x.npy", "|u1", "(300, 700)", values, sizeof values);
    assert_int_equal(system("gzip -k x.npy && gzip -c -1 x.npy >fast.gz"), 0);
    for (int i = 0; i < 2; i++) {
        open_good(&set, i ? "fast.gz" : "x.npy.gz", false);
        assert_int_equal(set.rows, ROWS);
        const DataFile *file;
        for (int64_t r = 0; r < ROWS; r++)
            assert_memory_equal(intc_rt_data_row(&set, r, &file), values + r * WIDTH, WIDTH);
        intc_rt_data_close(&set);
    }
    static char packed[1 << 19];
    long size = read_file("x.npy.gz", packed, sizeof packed);
    for (long cut = 3; cut < size; cut += size / 9) {
        write_file("cut.gz", packed, (size_t)cut);
        open_bad("cut.gz", "truncated");
    }
    packed[size / 2] ^= 0x10;
    write_file("damaged.gz", packed, (size_t)size);
    open_bad("damaged.gz", "damaged.gz: the gzip data is");
    packed[size / 2] ^= 0x10;
    packed[size - 6] ^= 1; /* the checksum */
    write_file("checksum.gz", packed, (size_t)size);
    open_bad("checksum.gz", "checksum.gz: the gzip data is");
}

/* Any bytes are refused or read, never a crash. */
static void test_noise(void **state) {
    (void)state;
    static const char *const heads[] = {"\x93NUMPY\x01\x00\x20\x00{'descr': '|u1', 'shape': (", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
                                        "\x00\x00\x08\x03"};
    static const size_t head_sizes[] = {37, 10, 4};
    uint32_t random = 99;
    Error error;
    DataSet set;
    for (int k = 0; k < 600; k++) {
        unsigned char bytes[300];
        for (size_t i = 0; i < sizeof bytes; i++) {
            random = random * 1664525 + 1013904223;
            bytes[i] = (unsigned char)(random >> 24);
        }
        memcpy(bytes, heads[k % 3], head_sizes[k % 3]);
        write_file("noise", bytes, sizeof bytes - (random >> 8) % 280);
        (void)intc_rt_data_open("noise", false, &set, &error);
        intc_rt_data_close(&set);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_npy),   cmocka_unit_test(test_npy_damage), cmocka_unit_test(test_idx),
        cmocka_unit_test(test_cifar), cmocka_unit_test(test_gzip),       cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
