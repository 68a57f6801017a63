/* runtime/fixed.h and the fixed points of constants, against exact arithmetic. */
#include "tests/ir/helper.h"

__extension__ typedef __int128 Wide;

/* x / 2^s half to even, by division. */
static int64_t reference(int64_t x, int s) {
    if (s > 100)
        return 0;
    Wide unit = (Wide)1 << s, floor = x >= 0 ? x / unit : -((-(Wide)x + unit - 1) / unit), rest = x - floor * unit;
    bool up = 2 * rest > unit || (2 * rest == unit && floor % 2 != 0);
    return (int64_t)(floor + up);
}

static void round_even(void **state) {
    (void)state;
    uint64_t random = 1;
    for (int s = 0; s <= 70; s++)
        for (int i = 0; i < 4000; i++) {
            int64_t x = i < 2000 ? i - 1000 : (int64_t)(next_random(&random) >> (1 + next_random(&random) % 60));
            x = x > (int64_t)1 << 62 ? (int64_t)1 << 62 : i % 2 == 0 ? -x : x;
            assert_int_equal(intc_round_even(x, s), reference(x, s));
        }
    for (int s = 1; s <= 62; s++) { /* ties next to powers of two, and the largest magnitude */
        int64_t half = (int64_t)1 << (s - 1);
        assert_int_equal(intc_round_even(half, s), 0);
        assert_int_equal(intc_round_even(-half, s), 0);
        assert_int_equal(intc_round_even((int64_t)1 << 62, s), (int64_t)1 << (62 - s));
        assert_int_equal(intc_round_even(-((int64_t)1 << 62), s), -((int64_t)1 << (62 - s)));
    }
    assert_int_equal(intc_align(-5, -3), -40);
    assert_int_equal(intc_align(1, -100), (int64_t)1 << 62);
    assert_int_equal(intc_align(3, 1), 2);
}

/* Over all values of the random bits that count, the mean of a stochastic rounding is exactly x / 2^s. */
static void round_stochastic(void **state) {
    (void)state;
    for (int s = 1; s <= 10; s++)
        for (int64_t x = -1500; x <= 1500; x += 7) {
            int64_t sum = 0;
            for (uint32_t r = 0; r < 1u << s; r++)
                sum += intc_round_stochastic(x, s, r << (32 - s));
            assert_int_equal(sum, x);
        }
    /* More than 32 places: the random bits are the top ones, so that a tiny x rarely counts and a large one nearly always. */
    assert_int_equal(intc_round_stochastic((int64_t)1 << 39, 40, 0x7FFFFFFF), 0);
    assert_int_equal(intc_round_stochastic((int64_t)1 << 39, 40, 0x80000000), 1);
    assert_int_equal(intc_round_stochastic(-1, 40, 0), -1);
    assert_int_equal(intc_round_stochastic(-1, 40, 1), 0);
    assert_int_equal(intc_round_stochastic(-7, 0, 0xFFFFFFFF), -7);
}

/* The least shift that keeps the maximum within the width, found by trying all. */
static void rescale_shift(void **state) {
    (void)state;
    for (int bits = 2; bits <= 16; bits++) {
        int64_t top = ((int64_t)1 << (bits - 1)) - 1;
        for (uint64_t m = 0; m < 70000; m += 1 + m / 5000) {
            int nearest = 0, stochastic = 0;
            while (reference((int64_t)m, nearest) > top)
                nearest++;
            while ((int64_t)((m + ((uint64_t)1 << stochastic) - 1) >> stochastic) > top)
                stochastic++;
            assert_int_equal(intc_rescale_shift(m, bits, false), nearest);
            assert_int_equal(intc_rescale_shift(m, bits, true), stochastic);
        }
    }
    assert_int_equal(intc_rescale_shift((uint64_t)1 << 62, 8, false), 56);
    assert_int_equal(intc_rescale_shift((uint64_t)1 << 62, 8, true), 56);
}

static void lengths_and_clamps(void **state) {
    (void)state;
    assert_int_equal(intc_bit_length(0), 0);
    assert_int_equal(intc_bit_length(1), 1);
    assert_int_equal(intc_bit_length(127), 7);
    assert_int_equal(intc_bit_length(128), 8);
    assert_int_equal(intc_bit_length(UINT64_MAX), 64);
    assert_true(intc_magnitude(INT64_MIN) == (uint64_t)1 << 63);
    assert_int_equal(intc_exponent_clamp(-20000), -16384);
    assert_int_equal(intc_exponent_clamp(20000), 16384);
    assert_int_equal(intc_exponent_clamp(-7), -7);
}

/* Every bit of the hash is set half of the time, whichever of seed, step, stream and index runs. */
static void random_bits(void **state) {
    (void)state;
    enum { N = 20000 };
    for (int which = 0; which < 4; which++) {
        int ones[32] = {0};
        for (uint64_t i = 0; i < N; i++) {
            uint64_t key = intc_random_key(which == 0 ? i : 1, which == 1 ? i : 2, which == 2 ? i : 3);
            uint32_t x = intc_random_bits(key, which == 3 ? (uint32_t)i : 0);
            for (int b = 0; b < 32; b++)
                ones[b] += (int)((x >> b) & 1);
        }
        for (int b = 0; b < 32; b++)
            assert_in_range(ones[b], N / 2 - 400, N / 2 + 400);
    }
}

/* The mean of what a rounding takes, of s bits, and of its product with that of the next element, is that of independent even numbers. */
static void random_words(void **state) {
    (void)state;
    enum { N = 100000 };
    for (int s = 4; s <= 24; s += 5) {
        double sum = 0, product = 0, before = 0, unit = ldexp(1, s), middle = 0.5 - 0.5 / unit;
        for (uint32_t i = 0; i < N; i++) {
            double part = (double)(intc_random_word(intc_random_key(1, 2, 3), i) >> (32 - s)) / unit - middle;
            sum += part;
            product += part * before;
            before = part;
        }
        /* Five standard deviations. */
        assert_true(fabs(sum) < 5 * sqrt(N / 12.0));
        assert_true(fabs(product) < 5 * sqrt(N) / 12);
    }
}

/* At most 31 bits, half to even, odd or 0; within 2^-31 of the value. */
static void constants(void **state) {
    (void)state;
    const struct {
        double value;
        int64_t mantissa;
        int exponent;
    } cases[] = {
        {0, 0, 0}, {1, 1, 0}, {-0.375, -3, -3}, {6, 3, 1}, {0.1, 1717986918 / 2, -33}, {0x1.fffffffep-1, 1, 0}, {2147483647, 2147483647, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t mantissa;
        int exponent;
        real_to_fixed(cases[i].value, &mantissa, &exponent);
        assert_int_equal(mantissa, cases[i].mantissa);
        assert_int_equal(exponent, cases[i].exponent);
    }
    uint64_t random = 9;
    for (int i = 0; i < 10000; i++) {
        double value = ldexp((double)(int64_t)next_random(&random), (int)(next_random(&random) % 200) - 100);
        int64_t mantissa;
        int exponent;
        real_to_fixed(value, &mantissa, &exponent);
        assert_true(mantissa == 0 || mantissa % 2 != 0);
        assert_true(intc_magnitude(mantissa) < (uint64_t)1 << 31);
        assert_true(fabs(ldexp((double)mantissa, exponent) - value) <= fabs(value) * ldexp(1, -31));
    }
}

static void tensors(void **state) {
    (void)state;
    int64_t m[3];
    assert_int_equal(reals_to_mantissas((const double[]){0, 0, 0}, 3, 8, m), INTC_EXPONENT_ZERO);
    assert_int_equal(m[0] | m[1] | m[2], 0);
    /* 127.5 would round to 128: the exponent grows to 1; 64, 0 and -2 then share a factor of two. */
    assert_int_equal(reals_to_mantissas((const double[]){127.5, 1, -3}, 3, 8, m), 2);
    assert_memory_equal(m, M(32, 0, -1), sizeof m);
    assert_int_equal(reals_to_mantissas((const double[]){1, -0.5, 0.25}, 3, 8, m), -2);
    assert_memory_equal(m, M(4, -2, 1), sizeof m);
    assert_int_equal(reals_to_mantissas((const double[]){1.0 / 3, 0.1, -1}, 3, 8, m), -6);
    assert_memory_equal(m, M(21, 6, -64), sizeof m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_even),         cmocka_unit_test(round_stochastic), cmocka_unit_test(rescale_shift),
        cmocka_unit_test(lengths_and_clamps), cmocka_unit_test(random_bits),      cmocka_unit_test(random_words),
        cmocka_unit_test(constants),          cmocka_unit_test(tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
