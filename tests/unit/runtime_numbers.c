/* Decimals, schedules, SHA-256, floats from bits, the order of an epoch, pixels. Expected values are PyTorch's (2.13) or exact. */
#include "runtime/runtime.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static double real(Fixed value) {
    return ldexp((double)value.mantissa, value.exponent);
}

static Fixed decimal(const char *text) {
    Fixed value;
    assert_true(intc_rt_decimal(text, strlen(text), 31, &value));
    return value;
}

static void test_decimal_parse(void **state) {
    (void)state;
    static const char *const texts[] = {
        "0.1", "1", "-12.5e-3", "5e-4", "0.9", "100", "1e10", "123456789.125", "0.000001", ".5", "3.", "1E+3", "0.30000000000000004"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Fixed value = decimal(texts[i]);
        double expected = strtod(texts[i], NULL);
        assert_true(fabs(real(value) - expected) <= fabs(expected) * 0x1p-31);
        assert_true(llabs(value.mantissa) >= 1 << 30 && llabs(value.mantissa) < INT64_C(1) << 31);
    }
    assert_int_equal(decimal("0").mantissa, 0);
    assert_int_equal(decimal("0.000").exponent, INTC_EXPONENT_ZERO);
    assert_int_equal(decimal("0.5").mantissa, 1 << 30);
    assert_int_equal(decimal("0.5").exponent, -31);
    /* 1 + 2^-31 lies half-way between two mantissas: to even; a little more goes up. */
    Fixed value;
    assert_int_equal(intc_rt_fixed(false, ((UWide)1 << 31) + 1, 0, false, 31).mantissa, 1 << 30);
    assert_int_equal(intc_rt_fixed(false, ((UWide)1 << 31) + 1, 0, true, 31).mantissa, (1 << 30) + 1);
    assert_int_equal(intc_rt_fixed(false, ((UWide)1 << 32) - 1, 0, false, 31).mantissa, 1 << 30);
    static const char *const wrong[] = {
        "", "-", ".", "1x", "1e", "e5", "1..2", "0x10", "nan", "1e-40", "1e30", "1 ", "1234567890123456789"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(intc_rt_decimal(wrong[i], strlen(wrong[i]), 31, &value));
}

static void test_decimal_print(void **state) {
    (void)state;
    static const char *const texts[] = {"0.1",      "1",    "-0.0125",   "0.0005", "0.9",          "100",
                                        "0.000001", "0.25", "12345.678", "0",      "0.00000000012"};
    char text[NUMBER_TEXT];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_string_equal(intc_rt_print_decimal(decimal(texts[i]), text), texts[i]);
    assert_string_equal(intc_rt_print_fraction(-3, 1, 3, text), "-1.500");
    assert_string_equal(intc_rt_print_fraction(1, 32, 9, text), "0.000000000");
    assert_string_equal(intc_rt_print_fraction(((Wide)7 << 32) - 1, 32, 6, text), "7.000000");
    assert_string_equal(intc_rt_print_ratio(2, 3, 4, text), "0.6667");
    assert_string_equal(intc_rt_print_ratio(-1, 3, 0, text), "0");
}

static void test_fixed_product(void **state) {
    (void)state;
    Fixed product = intc_rt_fixed_mul(decimal("-0.1"), decimal("5e-4"));
    assert_true(fabs(real(product) + 5e-5) < 5e-5 * 0x1p-29);
    assert_int_equal(intc_rt_fixed_mul(FIXED_ZERO, decimal("5")).exponent, INTC_EXPONENT_ZERO);
    assert_true(fabs(real(intc_rt_fixed_div(decimal("1"), decimal("3"), 31)) - 1.0 / 3) < 0x1p-32);
    assert_true(intc_rt_fixed_to((Fixed){-3, 2}, 1) == -24);
    assert_true(intc_rt_fixed_to((Fixed){3, -1}, 0) == 2);
    assert_true(intc_rt_fixed_to((Fixed){1, 200}, 0) == (Wide)1 << 100);
}

static void check_schedule(const char *text, int64_t total, int64_t steps_per_epoch, const double *expected, int count) {
    Schedule schedule;
    assert_true(intc_rt_schedule_parse(text, &schedule));
    for (int t = 0; t < count; t++) {
        double rate = real(intc_rt_schedule_rate(&schedule, decimal("0.1"), 0, t, total, steps_per_epoch));
        if (fabs(rate - expected[t]) > 1e-9 * fabs(expected[t]) + 1e-11)
            fail_msg("%s, step %d: %.12g, expected %.12g", text, t, rate, expected[t]);
    }
}

/* torch.optim.lr_scheduler with lr 0.1: CosineAnnealingLR(T_max=10), OneCycleLR(max_lr=0.1, total_steps=20 and 3, cycle_momentum=False),
 * MultiStepLR([2, 4], gamma=0.3), PolynomialLR(total_iters=8, power=2); printed with ten digits. */
static void test_schedules(void **state) {
    (void)state;
    static const double cosine[] = {0.1,  0.09755282581, 0.09045084972, 0.07938926261,  0.06545084972,
                                    0.05, 0.03454915028, 0.02061073739, 0.009549150281, 0.002447174185};
    static const double onecycle[] = {0.004,         0.01316718427, 0.03716718427, 0.06683281573,  0.09083281573,  0.1,       0.09874640062,
                                      0.0950484632,  0.08909161776, 0.08117456539, 0.07169430018,  0.06112620219,  0.0500002, 0.03887419781,
                                      0.02830609982, 0.01882583461, 0.01090878224, 0.004951936799, 0.001253999376, 4e-07};
    static const double short_cycle[] = {0.09944154355, 0.04626371027, 4e-07};
    static const double steps[] = {0.1, 0.1, 0.03, 0.03, 0.009, 0.009};
    static const double poly[] = {0.1, 0.0765625, 0.05625, 0.0390625, 0.025, 0.0140625, 0.00625, 0.0015625};
    check_schedule("cosine", 10, 2, cosine, 10);
    check_schedule("onecycle", 20, 5, onecycle, 20);
    check_schedule("onecycle", 3, 1, short_cycle, 3);
    check_schedule("step:2,4:0.3", 6, 1, steps, 6);
    check_schedule("poly:2", 8, 4, poly, 8);
    Schedule schedule;
    static const char *const wrong[] = {"step", "step:3", "step:3,2:0.1", "poly:0", "linear", "", "step:1:x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(intc_rt_schedule_parse(wrong[i], &schedule));
}

static void test_warmup(void **state) {
    (void)state;
    Schedule schedule;
    assert_true(intc_rt_schedule_parse("cosine", &schedule));
    for (int t = 0; t < 14; t++) {
        double rate = real(intc_rt_schedule_rate(&schedule, decimal("0.1"), 4, t, 14, 3));
        double expected = t < 4 ? 0.1 * (t + 1) / 4 : 0.05 * (1 + cos(M_PI * (t - 4) / 10));
        assert_true(fabs(rate - expected) < 1e-10);
    }
}

static void test_half_cosine(void **state) {
    (void)state;
    for (int64_t a = 0; a <= 1000; a++)
        assert_true(fabs(ldexp((double)intc_rt_half_cosine(a, 1000), -60) - (1 + cos(M_PI * (double)a / 1000)) / 2) < 1e-15);
    assert_true(intc_rt_half_cosine(0, 7) == INT64_C(1) << 60);
}

static void check_digest(const char *text, size_t repeat, const char *expected) {
    Sha256 hash;
    unsigned char digest[32];
    char hex[65];
    intc_rt_sha256_start(&hash);
    for (size_t i = 0; i < repeat; i++)
        intc_rt_sha256_add(&hash, text, strlen(text));
    intc_rt_sha256_end(&hash, digest);
    intc_rt_hex(digest, hex);
    assert_string_equal(hex, expected);
}

/* The examples of FIPS 180-4. */
static void test_sha256(void **state) {
    (void)state;
    check_digest("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_digest("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
                 "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    check_digest("a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void check_float(int64_t mantissa, int exponent) {
    float expected = (float)ldexp((double)mantissa, exponent);
    uint32_t bits;
    memcpy(&bits, &expected, 4);
    if (intc_rt_pack_float(mantissa, exponent, 23, 8) != bits)
        fail_msg("%lld * 2^%d: %llx, expected %x", (long long)mantissa, exponent,
                 (unsigned long long)intc_rt_pack_float(mantissa, exponent, 23, 8), bits);
}

static void test_pack_float(void **state) {
    (void)state;
    static const int64_t mantissas[] = {
        0, 1, -1, 127, -128, 32767, (1 << 24) - 1, (1 << 24) + 1, (1 << 24) + 3, (1 << 25) - 1, -(INT64_C(1) << 40) + 5, INT64_C(1) << 52};
    for (size_t i = 0; i < sizeof mantissas / sizeof *mantissas; i++)
        for (int e = -200; e < 130; e++)
            check_float(mantissas[i], e);
    double expected = -1234567.0 / 4096;
    uint64_t bits;
    memcpy(&bits, &expected, 8);
    assert_true(intc_rt_pack_float(-1234567, -12, 52, 11) == bits);
    assert_true(intc_rt_pack_float(1, 0, 10, 5) == 0x3c00);
    assert_true(intc_rt_pack_float(2049, 0, 10, 5) == 0x6800); /* to even */
    assert_true(intc_rt_pack_float(65520, 0, 10, 5) == 0x7c00);
    assert_true(intc_rt_pack_float(1, -24, 10, 5) == 1);
}

static void test_float_tensor(void **state) {
    (void)state;
    static const float values[] = {0.0f, 1.5f, -3.25e-20f, 1e-44f, -3.4e38f, 0x1.fffffep-3f};
    const struct intc_tensor tensor = {
        .type = INTC_F32, .rank = 1, .dim = (const int64_t[]){6}, .stride = (const int64_t[]){1}, .exponent_offset = -1};
    for (int i = 0; i < 6; i++) {
        Fixed x = intc_rt_tensor_number((const unsigned char *)values, &tensor, 4 * i);
        assert_true(ldexp((double)x.mantissa, x.exponent) == (double)values[i]);
        int32_t bits, back = intc_rt_float_bits(x.mantissa, x.exponent);
        memcpy(&bits, values + i, sizeof bits);
        assert_true(bits == back);
    }
    static const float wild[] = {INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 3; i++)
        assert_true(intc_rt_tensor_number((const unsigned char *)wild, &tensor, 4 * i).exponent > 900);
}

static void test_unpack(void **state) {
    (void)state;
    static const float values[] = {0.0f, -0.0f, 1.5f, -3.25e-20f, 1e-44f, 3.4e38f};
    DataShape shape = {.type = DATA_F32};
    int64_t mantissa;
    int exponent;
    for (int i = 0; i < 6; i++) {
        assert_true(intc_rt_data_unpack(&shape, (const unsigned char *)values, i, &mantissa, &exponent));
        assert_true(ldexp((double)mantissa, exponent) == (double)values[i]);
    }
    static const float strange[] = {INFINITY, NAN};
    assert_false(intc_rt_data_unpack(&shape, (const unsigned char *)strange, 0, &mantissa, &exponent));
    assert_false(intc_rt_data_unpack(&shape, (const unsigned char *)strange, 1, &mantissa, &exponent));
    static const uint16_t halves[] = {0x3c00, 0x0001, 0xc248};
    shape.type = DATA_F16;
    static const double expected[] = {1.0, 0x1p-24, -3.140625};
    for (int i = 0; i < 3; i++) {
        assert_true(intc_rt_data_unpack(&shape, (const unsigned char *)halves, i, &mantissa, &exponent));
        assert_true(ldexp((double)mantissa, exponent) == expected[i]);
    }
    static const unsigned char big[] = {0x3f, 0xc0, 0, 0};
    shape = (DataShape){.type = DATA_F32, .swap = true};
    assert_true(intc_rt_data_unpack(&shape, big, 0, &mantissa, &exponent) && ldexp((double)mantissa, exponent) == 1.5);
}

enum { MAPPED = 512 };

/* Words of all kinds: any, a few fraction bits (ties), denormals, zeros. Not finite ones have their exponent's last bit cleared. */
static void make_floats(unsigned char *bytes, int size, int places, int width) {
    uint64_t top = (uint64_t)1 << (places + width), last = (uint64_t)1 << places;
    for (int i = 0; i < MAPPED; i++) {
        uint64_t word = intc_random_key(3, (uint64_t)size, (uint64_t)i) >> (64 - 8 * size);
        word = i % 4 == 1 ? word & ~(last - 1) >> 4 : i % 16 == 2 ? word & (top | (last - 1)) : i % 16 == 6 ? word & top : word;
        word = (word >> places & ((1u << width) - 1)) == (1u << width) - 1 ? word ^ last : word;
        memcpy(bytes + i * size, &word, (size_t)size);
    }
}

/* Every element as the unpacked one is mapped. */
static void check_mapping(const DataShape *shape, const unsigned char *bytes, int exponent, int bits, const int32_t *place) {
    int8_t narrow[MAPPED];
    int16_t wide[MAPPED];
    RowPlace to_narrow = {(unsigned char *)narrow, place, INTC_I8, 1}, to_wide = {(unsigned char *)wide, place, INTC_I16, 2};
    assert_true(intc_rt_map_values(shape, bytes, 0, MAPPED, exponent, bits, bits <= 8 ? &to_narrow : &to_wide));
    for (int i = 0; i < MAPPED; i++) {
        int64_t mantissa;
        int e;
        assert_true(intc_rt_data_unpack(shape, bytes, i, &mantissa, &e));
        int64_t at = place ? place[i] : i;
        assert_int_equal(bits <= 8 ? narrow[at] : wide[at], intc_rt_map_value(mantissa, (int64_t)exponent - e, bits));
    }
}

/* Floats in the machine's order go another way than one element after the other; the result is the same. */
static void test_mapping(void **state) {
    (void)state;
    static const struct {
        DataType type;
        int size, places, width;
    } formats[] = {{DATA_F16, 2, 10, 5}, {DATA_F32, 4, 23, 8}, {DATA_F64, 8, 52, 11}};
    static unsigned char bytes[8 * MAPPED], swapped[8 * MAPPED];
    static int32_t place[MAPPED];
    for (int i = 0; i < MAPPED; i++)
        place[i] = (i * 5 + 3) % MAPPED;
    for (int f = 0; f < 3; f++) {
        int size = formats[f].size, bias = (1 << (formats[f].width - 1)) - 1 + formats[f].places;
        make_floats(bytes, size, formats[f].places, formats[f].width);
        for (int i = 0; i < size * MAPPED; i++)
            swapped[i] = bytes[i / size * size + size - 1 - i % size];
        DataShape shape = {.type = formats[f].type}, other = {.type = formats[f].type, .swap = true};
        for (int exponent = -bias - 70; exponent <= bias + 70; exponent += f == 2 ? 7 : 1) {
            check_mapping(&shape, bytes, exponent, 8, NULL);
            check_mapping(&shape, bytes, exponent, 5, place);
            check_mapping(&shape, bytes, exponent, 16, place);
        }
        for (int begin = 0; begin < MAPPED; begin += 3) {
            Extreme a = intc_rt_row_extreme(&shape, bytes, begin, begin + 3 < MAPPED ? begin + 3 : MAPPED);
            Extreme b = intc_rt_row_extreme(&other, swapped, begin, begin + 3 < MAPPED ? begin + 3 : MAPPED);
            assert_true(a.finite && b.finite && a.magnitude == b.magnitude && (a.magnitude == 0 || a.exponent == b.exponent));
        }
        uint32_t own[MAPPED], unpacked[MAPPED];
        RowPlace real = {(unsigned char *)own, place, INTC_F32, 4}, others = {(unsigned char *)unpacked, place, INTC_F32, 4};
        assert_true(intc_rt_map_values(&shape, bytes, 0, MAPPED, 0, 32, &real));
        assert_true(intc_rt_map_values(&other, swapped, 0, MAPPED, 0, 32, &others));
        assert_memory_equal(own, unpacked, sizeof own);
        memset(bytes + size * 7, 0xff, (size_t)size);
        int8_t unused[MAPPED];
        RowPlace to = {(unsigned char *)unused, NULL, INTC_I8, 1};
        assert_false(intc_rt_row_extreme(&shape, bytes, 0, MAPPED).finite);
        assert_true(intc_rt_row_extreme(&shape, bytes, 8, MAPPED).finite);
        assert_false(intc_rt_map_values(&shape, bytes, 0, 8, 0, 8, &to));
        assert_true(intc_rt_map_values(&shape, bytes, 0, 7, 0, 8, &to));
    }
}

static void test_shuffle(void **state) {
    (void)state;
    enum { ROWS = 1000 };
    uint32_t first[ROWS], again[ROWS], other[ROWS];
    bool seen[ROWS] = {false};
    intc_rt_shuffle(7, 3, ROWS, first);
    intc_rt_shuffle(7, 3, ROWS, again);
    intc_rt_shuffle(7, 4, ROWS, other);
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
    int moved = 0;
    for (int i = 0; i < ROWS; i++) {
        assert_true(first[i] < ROWS && !seen[first[i]]);
        seen[first[i]] = true;
        moved += first[i] != (uint32_t)i;
    }
    assert_true(moved > ROWS * 9 / 10);
    /* The definition, so that a float run elsewhere can repeat the order. */
    uint32_t order[4] = {0, 1, 2, 3}, given[4];
    uint64_t key = intc_random_key(5, 0, UINT64_C(0x73687566666C65));
    for (uint32_t i = 3; i > 0; i--) {
        uint32_t j = (uint32_t)(((uint64_t)intc_random_bits(key, i) * (i + 1)) >> 32), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    intc_rt_shuffle(5, 0, 4, given);
    assert_memory_equal(order, given, sizeof order);
}

/* Equal to float32 arithmetic, whose results the compiler here rounds as IEEE asks. */
static void test_pixel(void **state) {
    (void)state;
    static const char *const means[] = {"0", "0.5", "0.1307", "0.4914", "0.001"}, *const stds[] = {"1", "0.5", "0.3081", "0.2470", "0.003"};
    for (int k = 0; k < 5; k++)
        for (int u = 0; u < 256; u++) {
            Fixed mean, std;
            assert_true(intc_rt_decimal(means[k], strlen(means[k]), 24, &mean) && intc_rt_decimal(stds[k], strlen(stds[k]), 24, &std));
            volatile float pixel = (float)u / 255.0f;
            pixel = pixel - strtof(means[k], NULL);
            pixel = pixel / strtof(stds[k], NULL);
            int64_t value;
            assert_true(intc_rt_pixel(u, mean, std, &value));
            assert_true(value == (int64_t)rint(ldexp((double)pixel, PIXEL_FRACTION)));
        }
    int64_t value;
    assert_false(intc_rt_pixel(255, FIXED_ZERO, decimal("1e-9"), &value));
}

static void test_hyper(void **state) {
    (void)state;
    Hyper plain = intc_rt_hyper(decimal("0.1"), decimal("0.9"), decimal("5e-4"), false);
    assert_true(real(plain.step_v) == -real(decimal("0.1")) && plain.step_w.mantissa == 0 && plain.step_g.exponent == INTC_EXPONENT_ZERO);
    Hyper nesterov = intc_rt_hyper(decimal("0.1"), decimal("0.9"), decimal("5e-4"), true);
    assert_true(fabs(real(nesterov.step_v) + 0.09) < 1e-10 && fabs(real(nesterov.step_w) + 5e-5) < 1e-13 &&
                real(nesterov.step_g) == real(plain.step_v));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decimal_parse), cmocka_unit_test(test_decimal_print), cmocka_unit_test(test_fixed_product),
        cmocka_unit_test(test_schedules),     cmocka_unit_test(test_warmup),        cmocka_unit_test(test_half_cosine),
        cmocka_unit_test(test_sha256),        cmocka_unit_test(test_pack_float),    cmocka_unit_test(test_unpack),
        cmocka_unit_test(test_shuffle),       cmocka_unit_test(test_pixel),         cmocka_unit_test(test_hyper),
        cmocka_unit_test(test_float_tensor),  cmocka_unit_test(test_mapping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
