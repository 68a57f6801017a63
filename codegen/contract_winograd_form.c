/* Winograd's F(2x2, 3x3) and F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016), exact in integers.
 * The rows of the weights' matrix G and of the results' matrix A are multiplied by what makes them whole, so that what comes out is the
 * result times a constant, 4 or 576. Sums wrap; multiplying by the inverse of the odd part of the constant and shifting by the even part
 * gives the result back, if it fits in the bits that are left. Operands of 8 bits stay within 16 when lifted: pixels within 4 and 100
 * times 128, weights within 9 and 144 times, gradients of results within 4 and 225 times. */
#include "codegen/contract_winograd.h"

/* --- F(2x2, 3x3): points 0, 1, -1 and infinity --- */

static void lift_pixels_2(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef first = sub(cg, x[0], x[2]), last = sub(cg, x[1], x[3]), middle = x[1];
    x[1] = add(cg, middle, x[2]);
    x[2] = sub(cg, x[2], middle);
    x[0] = first;
    x[3] = last;
}

static void lift_weights_2(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef ends = add(cg, x[0], x[2]), middle = x[1];
    x[3] = add(cg, x[2], x[2]);
    x[0] = add(cg, x[0], x[0]);
    x[1] = add(cg, ends, middle);
    x[2] = sub(cg, ends, middle);
}

static void lower_results_2(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef second = sub(cg, sub(cg, x[1], x[2]), x[3]);
    x[0] = add(cg, add(cg, x[0], x[1]), x[2]);
    x[1] = second;
}

static void lift_dy_2(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef first = x[0], second = x[1];
    x[1] = add(cg, first, second);
    x[2] = sub(cg, first, second);
    x[3] = LLVMBuildNeg(cg->builder, second, "");
}

static void lower_taps_2(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef ends = add(cg, x[1], x[2]), middle = sub(cg, x[1], x[2]);
    x[0] = add(cg, add(cg, x[0], x[0]), ends);
    x[2] = add(cg, add(cg, x[3], x[3]), ends);
    x[1] = middle;
}

/* --- F(4x4, 3x3): points 0, 1, -1, 2, -2 and infinity; G times 24, of a convolution but for 8 at infinity, which leaves A a factor of 3
 * --- */

static LLVMValueRef shifted(Codegen *cg, LLVMValueRef x, int places) {
    LLVMTypeRef type = LLVMTypeOf(x);
    return LLVMBuildShl(cg->builder, x, splat(cg, LLVMConstInt(LLVMGetElementType(type), (unsigned)places, false), LLVMGetVectorSize(type)),
                        "");
}

static LLVMValueRef times_6(Codegen *cg, LLVMValueRef x) {
    return add(cg, shifted(cg, x, 2), shifted(cg, x, 1));
}

static void lift_pixels_4(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef a = sub(cg, x[4], shifted(cg, x[2], 2)), b = sub(cg, x[3], shifted(cg, x[1], 2));
    LLVMValueRef c = sub(cg, x[4], x[2]), d = shifted(cg, sub(cg, x[3], x[1]), 1);
    LLVMValueRef last = sub(cg, sub(cg, x[5], x[3]), shifted(cg, d, 1));
    x[0] = add(cg, shifted(cg, sub(cg, x[0], x[2]), 2), c);
    x[1] = add(cg, a, b);
    x[2] = sub(cg, a, b);
    x[3] = add(cg, c, d);
    x[4] = sub(cg, c, d);
    x[5] = last;
}

static void lift_weights_4(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef ends = add(cg, x[0], x[2]), far = add(cg, x[0], shifted(cg, x[2], 2)), middle = x[1], twice = shifted(cg, middle, 1);
    x[5] = shifted(cg, x[2], 3);
    x[0] = times_6(cg, x[0]);
    x[1] = LLVMBuildNeg(cg->builder, shifted(cg, add(cg, ends, middle), 2), "");
    x[2] = shifted(cg, sub(cg, middle, ends), 2);
    x[3] = add(cg, far, twice);
    x[4] = sub(cg, far, twice);
}

static void lower_results_4(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef a = add(cg, x[1], x[2]), b = sub(cg, x[1], x[2]);
    LLVMValueRef c = add(cg, x[3], x[4]), d = shifted(cg, sub(cg, x[3], x[4]), 1);
    LLVMValueRef last = add(cg, x[5], shifted(cg, x[5], 1));
    x[0] = add(cg, add(cg, x[0], a), c);
    x[1] = add(cg, b, d);
    x[2] = add(cg, a, shifted(cg, c, 2));
    x[3] = add(cg, add(cg, b, shifted(cg, d, 2)), last);
}

static void lift_dy_4(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef a = add(cg, x[0], x[2]), b = add(cg, x[1], x[3]);
    LLVMValueRef c = add(cg, x[0], shifted(cg, x[2], 2)), d = shifted(cg, add(cg, x[1], shifted(cg, x[3], 2)), 1);
    x[5] = x[3];
    x[1] = add(cg, a, b);
    x[2] = sub(cg, a, b);
    x[3] = add(cg, c, d);
    x[4] = sub(cg, c, d);
}

static void lower_taps_4(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]) {
    LLVMValueRef a = shifted(cg, add(cg, x[1], x[2]), 2), b = shifted(cg, sub(cg, x[2], x[1]), 2);
    LLVMValueRef c = add(cg, x[3], x[4]), d = shifted(cg, sub(cg, x[3], x[4]), 1);
    x[0] = add(cg, sub(cg, times_6(cg, x[0]), a), c);
    x[1] = add(cg, b, d);
    x[2] = add(cg, sub(cg, shifted(cg, c, 2), a), shifted(cg, times_6(cg, x[5]), 2));
}

/* --- choice --- */

static const WinogradForm small = {2, 4, 1, 2, lift_pixels_2, lift_weights_2, lower_results_2, lift_dy_2, lower_taps_2};
/* 0x38E38E39 is 1/9 modulo 2^32. */
static const WinogradForm large = {4, 6, 0x38E38E39, 6, lift_pixels_4, lift_weights_4, lower_results_4, lift_dy_4, lower_taps_4};

static bool is_plane(WinogradWindow window) {
    const int64_t *k = window.kernel, *s = window.stride, *d = window.dilation;
    return k[0] == 1 && k[1] == WINOGRAD_TAPS && k[2] == WINOGRAD_TAPS && s[1] == 1 && s[2] == 1 && d[1] == 1 && d[2] == 1;
}

bool winograd_serves(const Dot *dot, WinogradWindow window, int64_t terms, int64_t columns) {
    bool words = dot->kind == DOT_MADD256 || dot->kind == DOT_MADDUB256;
    return words && is_plane(window) && terms % WINOGRAD_CHANNELS == 0 && columns % WINOGRAD_CHANNELS == 0;
}

int64_t winograd_tiles(const WinogradForm *form, int64_t out) {
    return (out + form->tile - 1) / form->tile;
}

int64_t winograd_most_terms(const WinogradForm *form, int64_t product) {
    return ((INT64_C(1) << (31 - form->shift)) - 1) / (product > 0 ? product : 1);
}

static int64_t pairs_part(const WinogradForm *form, const int64_t out[2], int64_t most) {
    enum { MOST_PARTS = 4 };
    int64_t pairs = (winograd_tiles(form, out[0]) * winograd_tiles(form, out[1]) + 1) / 2, pixels = 2 * form->tile * form->tile;
    for (int64_t parts = 2; parts <= MOST_PARTS; parts++)
        if (pairs % parts == 0 && pairs / parts * pixels <= most)
            return pairs / parts * pixels;
    return 0;
}

int64_t winograd_part(const WinogradForm *form, const int64_t out[2], const WinogradSum *sum) {
    int64_t most = winograd_most_terms(form, sum->product);
    if (sum->unit == 0)
        return sum->terms <= most ? sum->terms : pairs_part(form, out, most);
    int64_t part = most < sum->terms ? most / sum->unit * sum->unit : sum->terms;
    while (part > 0 && sum->terms % part != 0)
        part -= sum->unit;
    return part;
}

/* About the time for an image: multiplications, and what it takes to lower the sums of a part. */
static int64_t form_cost(const WinogradForm *form, const int64_t out[2], const WinogradSum *sum) {
    enum { LOWERING = 64, MOST_LIFTED = 8 * 1024 * 1024 };
    int64_t part = winograd_part(form, out, sum), places = form->reach * form->reach;
    /* Lifted weights that no cache holds take longer to read than to multiply. */
    if (part == 0 || (form == &large && sum->weights * places * 2 > MOST_LIFTED))
        return INT64_MAX;
    return winograd_tiles(form, out[0]) * winograd_tiles(form, out[1]) * places * (sum->terms + sum->terms / part * LOWERING);
}

const WinogradForm *winograd_choose(const int64_t out[2], const WinogradSum *sum) {
    int64_t cost = form_cost(&small, out, sum);
    if (form_cost(&large, out, sum) < cost)
        return &large;
    return cost < INT64_MAX ? &small : NULL;
}

void winograd_transform(Codegen *cg, WinogradTransform *one, int from, int to, LLVMValueRef x[WINOGRAD_REACH][WINOGRAD_REACH]) {
    for (int j = 0; j < from; j++) {
        LLVMValueRef column[WINOGRAD_REACH];
        for (int i = 0; i < from; i++)
            column[i] = x[i][j];
        one(cg, column);
        for (int i = 0; i < to; i++)
            x[i][j] = column[i];
    }
    for (int i = 0; i < to; i++)
        one(cg, x[i]);
}

LLVMValueRef winograd_result(Codegen *cg, const WinogradForm *form, LLVMValueRef x) {
    unsigned lanes = LLVMGetVectorSize(LLVMTypeOf(x));
    if (form->inverse != 1)
        x = mul(cg, x, splat(cg, const32(cg, form->inverse), lanes));
    return LLVMBuildAShr(cg->builder, x, splat(cg, const32(cg, form->shift), lanes), "");
}
