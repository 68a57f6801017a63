/* Shapes, types and fixed points of constants. Before and after: pure functions. */
#include "ir/ir.h"
#include "runtime/fixed.h"

#include <math.h>
#include <string.h>

const char *stage_name(Stage stage) {
    static const char *const names[] = {"imported", "lowered", "trained", "updated", "float", "scaled", "planned"};
    return names[stage];
}

int64_t shape_elements(Shape shape) {
    int64_t n = 1;
    for (int i = 0; i < shape.rank; i++)
        if (__builtin_mul_overflow(n, shape.dim[i], &n))
            internal_error("shape too large");
    return n;
}

bool shape_equal(Shape a, Shape b) {
    if (a.rank != b.rank)
        return false;
    for (int i = 0; i < a.rank; i++)
        if (a.dim[i] != b.dim[i])
            return false;
    return true;
}

Shape shape_of(int rank, const int64_t *dims) {
    if (rank < 0 || rank > MAX_RANK)
        internal_error("rank %d", rank);
    Shape shape = {.rank = rank};
    for (int i = 0; i < rank; i++)
        shape.dim[i] = dims[i];
    return shape;
}

bool shape_broadcast(Shape a, Shape b, Shape *result) {
    Shape r = {.rank = a.rank > b.rank ? a.rank : b.rank};
    for (int i = 0; i < r.rank; i++) {
        int ia = i - (r.rank - a.rank), ib = i - (r.rank - b.rank);
        int64_t da = ia < 0 ? 1 : a.dim[ia], db = ib < 0 ? 1 : b.dim[ib];
        if (da != db && da != 1 && db != 1)
            return false;
        r.dim[i] = da == 1 ? db : da;
    }
    *result = r;
    return true;
}

const char *shape_text(Arena *arena, Shape shape) {
    char *text = arena_strdup(arena, "");
    for (int i = 0; i < shape.rank; i++)
        text = arena_printf(arena, "%s%s%lld", text, i > 0 ? "x" : "", (long long)shape.dim[i]);
    return text;
}

const char *type_name(Type type) {
    static const char *const names[] = {"real", "i8", "i16", "i32", "i64"};
    return names[type];
}

int type_bytes(Type type) {
    static const int bytes[] = {4, 1, 2, 4, 8};
    return bytes[type];
}

Type type_for_bound(int64_t bound) {
    return bound <= 128 ? T_I8 : bound <= 32768 ? T_I16 : bound <= INT32_MAX ? T_I32 : T_I64;
}

void value_strides(const Value *value, int64_t stride[MAX_RANK]) {
    int64_t step = 1;
    for (int k = value->shape.rank - 1; k >= 0; k--) {
        stride[value->order[k]] = step;
        step *= value->shape.dim[value->order[k]];
    }
}

void real_to_fixed(double value, int64_t *mantissa, int *exponent) {
    *mantissa = 0;
    *exponent = 0;
    if (value == 0.0)
        return;
    if (!isfinite(value))
        internal_error("constant %g has no fixed point", value);
    int e;
    double fraction = frexp(value, &e);
    int64_t m = (int64_t)ldexp(fraction, 53);
    e -= 53;
    /* 53 bits to 31, half to even; rounding may carry into bit 32. */
    m = intc_round_even(m, 22);
    e += 22;
    while (m % 2 == 0) {
        m /= 2;
        e++;
    }
    *mantissa = m;
    *exponent = e;
}

/* A loop of vectors, as fmax's rule for NaN does not allow; there is none. */
static double largest_magnitude(const double *real, int64_t n) {
    enum { LANES = 8 };
    double lane[LANES] = {0}, largest = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] = fabs(real[i + k]) > lane[k] ? fabs(real[i + k]) : lane[k];
    for (; i < n; i++)
        largest = fmax(largest, fabs(real[i]));
    for (int k = 0; k < LANES; k++)
        largest = fmax(largest, lane[k]);
    return largest;
}

int reals_to_mantissas(const double *real, int64_t n, int bits, int64_t *mantissa) {
    double largest = largest_magnitude(real, n);
    if (largest == 0.0) {
        if (n > 0)
            memset(mantissa, 0, (size_t)n * sizeof *mantissa);
        return INTC_EXPONENT_ZERO;
    }
    if (!isfinite(largest))
        internal_error("a tensor with infinite elements has no mantissas");
    double top = ldexp(1.0, bits - 1) - 1.0;
    int e;
    frexp(largest, &e);
    e -= bits - 1;
    /* nearbyint rounds half to even in the default mode. */
    if (nearbyint(ldexp(largest, -e)) > top)
        e++;
    /* A product with a power of two is exact but where it is subnormal, and rounds to 0 there. */
    double scale = ldexp(1.0, -e), whole = 0x1.8p+52;
    bool plain = isnormal(scale) && bits < 50;
    for (int64_t i = 0; plain && i < n; i++) { /* the nearest whole number, in a loop of vectors */
        double shifted = real[i] * scale + whole;
        int64_t from, to;
        memcpy(&to, &shifted, sizeof to);
        memcpy(&from, &whole, sizeof from);
        mantissa[i] = to - from;
    }
    for (int64_t i = 0; !plain && i < n; i++)
        mantissa[i] = (int64_t)nearbyint(ldexp(real[i], -e));
    /* Trailing zeros of all mantissas carry no information: an exact tensor gets the mantissas people wrote. */
    for (;;) {
        int64_t any = 0;
        for (int64_t i = 0; i < n; i++)
            any |= mantissa[i];
        if (any & 1)
            return e;
        for (int64_t i = 0; i < n; i++)
            mantissa[i] /= 2;
        e++;
    }
}
