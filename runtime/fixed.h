/* Fixed-point arithmetic: every shift, rounding, saturation and hash of the interpreter, the compiler and the runtime.
 * Freestanding, integer only; shared by ir/ and runtime/ so that a float of a file is mapped the same way everywhere.
 * Generated code computes the same functions (codegen/fixed.c) and is tested against these. */
#ifndef INTC_RUNTIME_FIXED_H
#define INTC_RUNTIME_FIXED_H

#include <stdbool.h>
#include <stdint.h>

/* Exponent of a zero tensor; sums of exponents are clamped to [INTC_EXPONENT_ZERO, -INTC_EXPONENT_ZERO]. */
#define INTC_EXPONENT_ZERO (-16384)

/* Number of bits of x: 0 for 0, 1 for 1, 7 for 127, 8 for 128. */
static inline int intc_bit_length(uint64_t x) {
    return x == 0 ? 0 : 64 - __builtin_clzll(x);
}

static inline uint64_t intc_magnitude(int64_t x) {
    return x < 0 ? 0 - (uint64_t)x : (uint64_t)x;
}

/* x * 2^s without overflow checks; the caller proves the bound. s in [0, 63]. */
static inline int64_t intc_shift_left(int64_t x, int s) {
    return (int64_t)((uint64_t)x << s);
}

/* x / 2^s rounded half to even. s >= 0; |x| <= 2^62. */
static inline int64_t intc_round_even(int64_t x, int s) {
    if (s <= 0)
        return x;
    if (s >= 63)
        return 0;
    int64_t half_less_one = ((int64_t)1 << (s - 1)) - 1;
    return (x + half_less_one + ((x >> s) & 1)) >> s;
}

/* x / 2^s rounded to the nearest, half up. 0 <= s < 62; |x| <= 2^62. */
static inline int64_t intc_round_up_half(int64_t x, int s) {
    return s == 0 ? x : (x + ((int64_t)1 << (s - 1))) >> s;
}

/* Rounds |x| <= 2^62 to x / 2^s for s >= 0, or shifts left exactly for s < 0: the value keeps its meaning at exponent e + s. */
static inline int64_t intc_align(int64_t x, int s) {
    return s >= 0 ? intc_round_even(x, s) : intc_shift_left(x, -s > 62 ? 62 : -s);
}

/* floor((x + r) / 2^s), r the s top bits of a random word (r = random * 2^(s-32) for s > 32). Unbiased. */
static inline int64_t intc_round_stochastic(int64_t x, int s, uint32_t random) {
    if (s <= 0)
        return x;
    if (s >= 63)
        s = 63;
    return (int64_t)((uint64_t)x + (((uint64_t)random << 32) >> (64 - s))) >> s;
}

static inline int64_t intc_saturate(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
}

static inline int intc_exponent_clamp(int64_t e) {
    return (int)intc_saturate(e, INTC_EXPONENT_ZERO, -INTC_EXPONENT_ZERO);
}

/* The least s >= 0 for which round(maximum / 2^s) <= 2^(bits-1) - 1; rounding to even, or up for stochastic rounding. */
static inline int intc_rescale_shift(uint64_t maximum, int bits, bool stochastic) {
    uint64_t top = ((uint64_t)1 << (bits - 1)) - 1;
    int s = intc_bit_length(maximum) - (bits - 1);
    if (s <= 0)
        return 0;
    uint64_t rounded = stochastic ? (maximum + (((uint64_t)1 << s) - 1)) >> s : (uint64_t)intc_round_even((int64_t)maximum, s);
    return rounded > top ? s + 1 : s;
}

/* Two keys of a tensor's random stream in one step: splitmix64 of the three numbers. */
static inline uint64_t intc_random_key(uint64_t seed, uint64_t step, uint64_t stream) {
    uint64_t x = seed * 0x9E3779B97F4A7C15u ^ step * 0xBF58476D1CE4E5B9u ^ (stream + 1) * 0x94D049BB133111EBu;
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* A random word of one logical element (row-major index in the logical shape, modulo 2^32), of which a rounding takes the top bits; the
 * low ones are less random. 32-bit multiply, xor, shift only. */
#define INTC_RANDOM_STEP 0x9E3779B1u
static inline uint32_t intc_random_word(uint64_t key, uint32_t index) {
    uint32_t x = index * INTC_RANDOM_STEP + (uint32_t)key;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    return (x ^ (uint32_t)(key >> 32)) * 0x846CA68Bu;
}

/* The same with 32 good bits. */
static inline uint32_t intc_random_bits(uint64_t key, uint32_t index) {
    uint32_t x = intc_random_word(key, index);
    return x ^ (x >> 16);
}

#endif
