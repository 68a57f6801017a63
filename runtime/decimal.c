/* Exact decimals: texts of options to mantissa and exponent, and back, by integer arithmetic. */
#include "runtime/runtime.h"

#include <stdarg.h>
#include <string.h>

enum { FIXED_BITS = 31, MAX_DIGITS = 18, MAX_POWER = 27 };

bool intc_rt_fail(Error *error, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(error->text, sizeof error->text, format, list);
    va_end(list);
    return false;
}

static int wide_length(UWide x) {
    uint64_t high = (uint64_t)(x >> 64);
    return high ? 64 + intc_bit_length(high) : intc_bit_length((uint64_t)x);
}

Fixed intc_rt_fixed(bool negative, UWide magnitude, int exponent, bool sticky, int bits) {
    if (magnitude == 0)
        return FIXED_ZERO;
    int shift = wide_length(magnitude) - bits;
    uint64_t kept;
    if (shift > 0) {
        UWide rest = magnitude & (((UWide)1 << shift) - 1), half = (UWide)1 << (shift - 1);
        kept = (uint64_t)(magnitude >> shift);
        if (rest > half || (rest == half && (sticky || (kept & 1))))
            kept++;
        if (kept >> bits) {
            kept >>= 1;
            shift++;
        }
    } else {
        kept = (uint64_t)magnitude << -shift;
    }
    return (Fixed){negative ? -(int64_t)kept : (int64_t)kept, intc_exponent_clamp((int64_t)exponent + shift)};
}

static UWide power_of_ten(int n) {
    UWide result = 1;
    for (int i = 0; i < n; i++)
        result *= 10;
    return result;
}

/* Reads the digits around the point; *power is the power of ten of the last kept one. */
static bool read_digits(const char **at, const char *end, uint64_t *digits, int *power) {
    bool point = false, any = false;
    int zeros = 0, significant = 0, places = 0;
    *digits = 0;
    for (; *at < end; (*at)++) {
        char c = **at;
        if (c == '.' && !point) {
            point = true;
            continue;
        }
        if (c < '0' || c > '9')
            break;
        any = true;
        places += point;
        if (c == '0') {
            zeros++; /* kept only if another digit follows */
            continue;
        }
        significant = *digits == 0 ? 1 : significant + zeros + 1;
        if (significant > MAX_DIGITS)
            return false;
        for (int i = 0; i < zeros && *digits != 0; i++)
            *digits *= 10;
        *digits = *digits * 10 + (uint64_t)(c - '0');
        zeros = 0;
    }
    *power = zeros - places;
    return any;
}

bool intc_rt_decimal(const char *text, size_t length, int bits, Fixed *value) {
    const char *at = text, *end = text + length;
    bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+'))
        at++;
    uint64_t digits;
    int power;
    if (!read_digits(&at, end, &digits, &power))
        return false;
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        bool minus = at < end && *at == '-';
        if (at < end && (*at == '-' || *at == '+'))
            at++;
        int explicit_power = 0;
        if (at == end)
            return false;
        for (; at < end && *at >= '0' && *at <= '9' && explicit_power < 1000; at++)
            explicit_power = explicit_power * 10 + (*at - '0');
        power += minus ? -explicit_power : explicit_power;
    }
    if (at != end)
        return false;
    if (digits == 0) {
        *value = FIXED_ZERO;
        return true;
    }
    if (power > 19 || power < -MAX_POWER)
        return false;
    if (power >= 0) {
        *value = intc_rt_fixed(negative, (UWide)digits * power_of_ten(power), 0, false, bits);
        return true;
    }
    UWide divisor = power_of_ten(-power);
    int shift = 127 - intc_bit_length(digits);
    UWide numerator = (UWide)digits << shift;
    *value = intc_rt_fixed(negative, numerator / divisor, -shift, numerator % divisor != 0, bits);
    return true;
}

Fixed intc_rt_fixed_mul(Fixed a, Fixed b) {
    UWide magnitude = (UWide)intc_magnitude(a.mantissa) * intc_magnitude(b.mantissa);
    return intc_rt_fixed((a.mantissa < 0) != (b.mantissa < 0), magnitude, a.exponent + b.exponent, false, FIXED_BITS);
}

Fixed intc_rt_fixed_negate(Fixed a) {
    return (Fixed){-a.mantissa, a.exponent};
}

Fixed intc_rt_fixed_div(Fixed a, Fixed b, int bits) {
    UWide numerator = (UWide)intc_magnitude(a.mantissa) << 64, divisor = intc_magnitude(b.mantissa);
    return intc_rt_fixed((a.mantissa < 0) != (b.mantissa < 0), numerator / divisor, a.exponent - b.exponent - 64, numerator % divisor != 0,
                         bits);
}

Wide intc_rt_fixed_to(Fixed value, int fraction) {
    int64_t shift = (int64_t)value.exponent + fraction;
    if (value.mantissa == 0)
        return 0;
    if (shift <= 0)
        return intc_round_even(value.mantissa, shift < -63 ? 63 : (int)-shift);
    if (intc_bit_length(intc_magnitude(value.mantissa)) + shift > 100)
        return value.mantissa < 0 ? -((Wide)1 << 100) : (Wide)1 << 100;
    return (Wide)value.mantissa * ((Wide)1 << shift);
}

/* Digits of value / 10^point at the end of text; returns the first character. */
static char *write_digits(UWide value, int point, char *end) {
    *--end = 0;
    for (int i = 0; value != 0 || i <= point; i++) {
        if (i == point && point > 0)
            *--end = '.';
        *--end = (char)('0' + (int)(value % 10));
        value /= 10;
    }
    return end;
}

const char *intc_rt_print_decimal(Fixed value, char text[NUMBER_TEXT]) {
    UWide magnitude = intc_magnitude(value.mantissa);
    int point = 0;
    int64_t exponent = value.exponent;
    if (exponent >= 0) {
        magnitude = exponent > 60 ? UINT64_MAX : magnitude << exponent;
    } else {
        /* The least power of ten that leaves eight digits before the rounding. */
        UWide scale = 1;
        int shift = exponent < -126 ? 126 : (int)-exponent;
        while (point < 28 && ((magnitude * scale) >> shift) < 10000000u) {
            scale *= 10;
            point++;
        }
        magnitude = exponent < -126 ? 0 : ((magnitude * scale) + ((UWide)1 << (shift - 1))) >> shift;
        for (; point > 0 && magnitude % 10 == 0; point--)
            magnitude /= 10;
    }
    char *first = write_digits(magnitude, point, text + NUMBER_TEXT);
    if (value.mantissa < 0 && magnitude != 0)
        *--first = '-';
    return memmove(text, first, strlen(first) + 1);
}

static const char *print_scaled(bool negative, UWide magnitude, int digits, char text[NUMBER_TEXT]) {
    char *first = write_digits(magnitude, digits, text + NUMBER_TEXT);
    if (negative && magnitude != 0)
        *--first = '-';
    return memmove(text, first, strlen(first) + 1);
}

const char *intc_rt_print_fraction(Wide value, int fraction, int digits, char text[NUMBER_TEXT]) {
    UWide magnitude = value < 0 ? 0 - (UWide)value : (UWide)value;
    UWide whole = magnitude >> fraction, part = magnitude & (((UWide)1 << fraction) - 1);
    UWide scale = power_of_ten(digits);
    UWide half = fraction > 0 ? (UWide)1 << (fraction - 1) : 0;
    return print_scaled(value < 0, whole * scale + ((part * scale + half) >> fraction), digits, text);
}

const char *intc_rt_print_ratio(int64_t numerator, int64_t denominator, int digits, char text[NUMBER_TEXT]) {
    UWide divisor = (UWide)denominator;
    UWide value = ((UWide)intc_magnitude(numerator) * power_of_ten(digits) + divisor / 2) / divisor;
    return print_scaled(numerator < 0, value, digits, text);
}
