/* conv_wgrad in matrix registers. Rows of a product are columns of dy, which is staged transposed,
 * [panel][run of images][group][column][pixel][image]; its columns are channels of x, whose staged pixels are rows of a register as they
 * lie, with those of the next pixels where taps are adjacent. Sums are [slice][group][tap][panel of channels][column of dy][channel]. */
#include "codegen/contract_wgrad.h"

enum { SIDE = 16 };

/* Bytes of staged x from pixel to pixel of dy along dimension i. */
static int64_t advance(const Wgrad *wgrad, int i) {
    return wgrad->stride[i] * wgrad->padded.step[i];
}

void wgrad_matrix_describe(Wgrad *wgrad) {
    wgrad->run = wgrad->out[2];
    for (int i = 1; i >= 0; i--) {
        bool joined = wgrad->out[i] == 1 ||
                      (wgrad->run == wgrad->out[2] * (i == 0 ? wgrad->out[1] : 1) && advance(wgrad, i) == wgrad->run * advance(wgrad, 2));
        wgrad->lines[i] = joined ? 1 : wgrad->out[i];
        wgrad->run *= joined ? wgrad->out[i] : 1;
    }
    Dot row = {.kind = DOT_MATRIX};
    dot_fit(&row, 4 * wgrad->run);
    wgrad->width = row.quad / 4;
    wgrad->along = (wgrad->run + wgrad->width - 1) / wgrad->width;
    for (wgrad->row_bytes = 4; wgrad->row_bytes < row.quad;)
        wgrad->row_bytes *= 2;
    wgrad->image += round_up((wgrad->along * wgrad->width - wgrad->run) * advance(wgrad, 2), INTC_ARENA_ALIGN);
}

int64_t wgrad_matrix_groups(const Wgrad *wgrad) {
    return wgrad->lines[0] * wgrad->lines[1] * wgrad->along;
}

int64_t wgrad_matrix_group(const Wgrad *wgrad) {
    return SIDE * wgrad->row_bytes;
}

/* Whether the channels of all taps along a row of the kernel are one run. */
static bool is_joined(const Wgrad *wgrad) {
    return wgrad->groups == 1 && wgrad->dilation[2] == 1;
}

/* Panels of a run of channels. */
static int64_t run_panels(const Wgrad *wgrad) {
    return ((is_joined(wgrad) ? wgrad->kernel[2] : 1) * wgrad->channels + SIDE - 1) / SIDE;
}

/* Dimensions of the kernel whose taps are products of their own. Where a run is one panel, those of the next dimension are panels. */
static int tap_dimensions(const Wgrad *wgrad) {
    return (is_joined(wgrad) ? 2 : 3) - (run_panels(wgrad) == 1);
}

int64_t wgrad_matrix_taps(const Wgrad *wgrad) {
    int64_t taps = 1;
    for (int i = 0; i < tap_dimensions(wgrad); i++)
        taps *= wgrad->kernel[i];
    return taps;
}

static int64_t product_panels(const Wgrad *wgrad) {
    return run_panels(wgrad) > 1 ? run_panels(wgrad) : wgrad->kernel[tap_dimensions(wgrad)];
}

static int64_t panel_sums_of(const Wgrad *wgrad) {
    return wgrad->panels * SIDE * SIDE;
}

int64_t wgrad_matrix_tap_sums(const Wgrad *wgrad) {
    return product_panels(wgrad) * panel_sums_of(wgrad);
}

LLVMValueRef wgrad_matrix_tap(Codegen *cg, const Wgrad *wgrad, LLVMValueRef tap) {
    LLVMValueRef offset = const64(cg, 0);
    for (int i = tap_dimensions(wgrad) - 1; i >= 0; i--) {
        LLVMValueRef at = urem_by(cg, tap, wgrad->kernel[i]);
        offset = add(cg, offset, mul_by(cg, at, wgrad->dilation[i] * wgrad->padded.step[i]));
        tap = udiv_by(cg, tap, wgrad->kernel[i]);
    }
    return offset;
}

void wgrad_matrix_product(Codegen *cg, Wgrad *wgrad, int64_t panel_step) {
    Dot dot = wgrad->dot;
    dot.quad = 4 * (int)wgrad->width;
    int64_t rows = wgrad->panels == 1 ? wgrad->columns : SIDE, below = 1;
    int next = tap_dimensions(wgrad);
    Product product = {
        .row = {{.count = wgrad->panels, .a = panel_step, .c = SIDE * SIDE}, {.count = rows, .a = wgrad->row_bytes, .c = SIDE}},
        .rows = 2,
        .groups = wgrad->chunk * wgrad_matrix_groups(wgrad),
        .b_group = SIDE * 4,
        .b_four = advance(wgrad, 2),
        .b_panel = run_panels(wgrad) > 1 ? SIDE * 4 : wgrad->dilation[next] * wgrad->padded.step[next],
        .columns = product_panels(wgrad) * SIDE,
        .column_stride = 1,
        .panel_stride = panel_sums_of(wgrad),
        .type = wgrad->type};
    wgrad_plan_k(wgrad, &product);
    for (int i = product.ks - 1; i >= 0; i--) {
        product.k[i].b = product.k[i].a;
        product.k[i].a = below * wgrad_matrix_group(wgrad);
        below *= product.k[i].count;
    }
    product.accumulate = product.exclusive = wgrad->chunks > 1 || wgrad->outers > 0;
    wgrad->code = product_new(cg, &dot, &product);
}

/* --- staging --- */

/* Pixels one behind the other, their channels adjacent. */
static bool is_dense(const Wgrad *wgrad) {
    int64_t run = wgrad->dy->shape.dim[1];
    bool dense = wgrad->ys[1] == 1;
    for (int i = 2; i >= 0; run *= wgrad->out[i--])
        dense = dense && (wgrad->out[i] == 1 || wgrad->ys[2 + i] == run);
    return dense;
}

/* Where a group of one panel comes from and goes to. */
typedef struct {
    const Images *images;
    LLVMValueRef first, left; /* its first pixel, and those from there to the end of the run */
    LLVMValueRef channel, to;
} Square;

/* A pixel of four images, in the lanes of its columns. */
static LLVMValueRef pixel_words(Codegen *cg, const Wgrad *wgrad, const Square *square, int64_t pixel) {
    LLVMTypeRef bytes = LLVMVectorType(cg->i8, SIDE);
    LLVMValueRef within = smin(cg, const64(cg, pixel), add_const(cg, square->left, -1)), x[4];
    LLVMValueRef place = add(cg, mul_by(cg, add(cg, square->first, within), wgrad->dy->shape.dim[1]), square->channel);
    for (int i = 0; i < 4; i++) {
        x[i] = load_bytes(cg, bytes, byte_at(cg, square->images->at[i], place), 1);
        if (!square->images->all)
            x[i] = choose(cg, square->images->valid[i], x[i], LLVMConstNull(bytes));
    }
    LLVMValueRef words = interleave_words(cg, x);
    if (wgrad->along * wgrad->width == wgrad->run)
        return words;
    return choose(cg, compare(cg, LLVMIntSLT, const64(cg, pixel), square->left), words, LLVMConstNull(LLVMTypeOf(words)));
}

static void stage_square(Codegen *cg, const Wgrad *wgrad, const Square *square) {
    LLVMValueRef words[SIDE], lanes[SIDE];
    LLVMTypeRef type = LLVMVectorType(cg->i32, SIDE);
    int64_t kept = wgrad->row_bytes / 4;
    for (int64_t i = 0; i < SIDE; i++) {
        words[i] = i < wgrad->width ? pixel_words(cg, wgrad, square, i) : LLVMConstNull(type);
        lanes[i] = const32(cg, i);
    }
    transpose_words(cg, words, SIDE);
    for (int64_t i = 0; i < SIDE; i++) {
        LLVMValueRef row = LLVMBuildShuffleVector(cg->builder, words[i], words[i], LLVMConstVector(lanes, (unsigned)kept), "");
        store_bytes(cg, row, byte_at_const(cg, square->to, i * wgrad->row_bytes), (unsigned)wgrad->row_bytes);
    }
}

/* Any order of dy: byte by byte, zero where a pixel or an image is none. */
static void stage_bytes(Codegen *cg, const Wgrad *wgrad, const Square *square) {
    Loop column = loop_begin(cg, const64(cg, 0), const64(cg, SIDE)), pixel = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->width));
    LLVMValueRef last = const64(cg, wgrad->dy->shape.dim[1] - 1), channel = smin(cg, add(cg, square->channel, column.index), last);
    LLVMValueRef rest = add(cg, square->first, smin(cg, pixel.index, add_const(cg, square->left, -1)));
    LLVMValueRef exists = compare(cg, LLVMIntSLT, pixel.index, square->left), place = mul_by(cg, channel, wgrad->ys[1]);
    for (int i = 2; i >= 0; i--) {
        place = add(cg, place, mul_by(cg, urem_by(cg, rest, wgrad->out[i]), wgrad->ys[2 + i]));
        rest = udiv_by(cg, rest, wgrad->out[i]);
    }
    LLVMValueRef to = byte_at(cg, square->to, add(cg, mul_by(cg, column.index, wgrad->row_bytes), mul_by(cg, pixel.index, 4)));
    for (int i = 0; i < 4; i++) {
        LLVMValueRef x = load_bytes(cg, cg->i8, byte_at(cg, square->images->at[i], place), 1);
        LLVMValueRef kept = LLVMBuildAnd(cg->builder, exists, square->images->valid[i], "");
        store_bytes(cg, choose(cg, kept, x, LLVMConstInt(cg->i8, 0, false)), byte_at_const(cg, to, i), 1);
    }
    loop_end(cg, &pixel);
    loop_end(cg, &column);
}

void wgrad_matrix_stage(Codegen *cg, const Wgrad *wgrad, const Images *images, Part part, LLVMValueRef to, int64_t panel_step) {
    int64_t lines = wgrad->lines[0] * wgrad->lines[1];
    Loop panel = loop_begin(cg, const64(cg, 0), const64(cg, wgrad_panels(wgrad)));
    Loop line = loop_begin(cg, wgrad_part_begin(cg, part, lines), wgrad_part_end(cg, part, lines));
    Loop row = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->along));
    LLVMValueRef before = mul_by(cg, row.index, wgrad->width), group = add(cg, mul_by(cg, line.index, wgrad->along), row.index);
    LLVMValueRef channel = add(cg, mul_by(cg, udiv_by(cg, panel.index, wgrad->panels), wgrad->columns),
                               mul_by(cg, urem_by(cg, panel.index, wgrad->panels), SIDE));
    Square square = {.images = images,
                     .first = add(cg, mul_by(cg, line.index, wgrad->run), before),
                     .left = sub(cg, const64(cg, wgrad->run), before),
                     .channel = channel,
                     .to = byte_at(cg, to, add(cg, mul_by(cg, panel.index, panel_step), mul_by(cg, group, wgrad_matrix_group(wgrad))))};
    if (is_dense(wgrad))
        stage_square(cg, wgrad, &square);
    else
        stage_bytes(cg, wgrad, &square);
    loop_end(cg, &row);
    loop_end(cg, &line);
    loop_end(cg, &panel);
}

/* --- the result --- */

/* The sum over all slices of lane `lane` of unit `unit`, a panel of a tap, to element `place` of the weights. */
static void finish_one(Codegen *cg, const Wgrad *wgrad, LLVMValueRef sums, LLVMValueRef unit, LLVMValueRef row, LLVMValueRef lane,
                       LLVMValueRef place) {
    int64_t bytes = type_bytes(wgrad->type), all = wgrad_panels(wgrad) * wgrad_sums(wgrad);
    LLVMTypeRef type = element_type(cg, wgrad->type);
    LLVMValueRef from = add(cg, add(cg, mul_by(cg, unit, panel_sums_of(wgrad)), mul_by(cg, row, SIDE)), lane);
    LLVMValueRef at = byte_at(cg, sums, mul_by(cg, from, bytes)), total = LLVMConstNull(type);
    for (int64_t i = 0; i < wgrad->slices; i++)
        total = add(cg, total, load_bytes(cg, type, byte_at_const(cg, at, i * all), (unsigned)bytes));
    store_element(cg, wgrad->w, place, total);
}

/* Whether taps of a panel of channels are a square at most, and adjacent in the weights. */
static bool has_squares(const Wgrad *wgrad) {
    int64_t taps = wgrad->rows / wgrad->channels;
    return type_bytes(wgrad->type) == 4 && order_is_row_major(wgrad->w) && wgrad->channels % SIDE == 0 && taps > 1 && taps <= SIDE;
}

/* The sums of a panel of channels from `channel` on, of all taps and slices, as rows of a square. */
static void load_taps(Codegen *cg, const Wgrad *wgrad, LLVMValueRef sums, LLVMValueRef channel, LLVMValueRef row, LLVMValueRef *square) {
    int64_t all = wgrad_panels(wgrad) * wgrad_sums(wgrad), taps = wgrad->rows / wgrad->channels, wide = wgrad->kernel[2];
    LLVMTypeRef type = LLVMVectorType(element_type(cg, wgrad->type), SIDE);
    LLVMValueRef panel = udiv_by(cg, channel, SIDE);
    for (int64_t tap = 0; tap < SIDE; tap++) {
        square[tap] = LLVMConstNull(type);
        if (tap >= taps)
            continue;
        int64_t unit = is_joined(wgrad) ? tap / wide * run_panels(wgrad) + tap % wide * wgrad->channels / SIDE : tap * run_panels(wgrad);
        LLVMValueRef from = add(cg, mul_by(cg, add_const(cg, panel, unit), panel_sums_of(wgrad)), mul_by(cg, row, SIDE));
        LLVMValueRef at = byte_at(cg, sums, mul_by(cg, from, 4));
        for (int64_t i = 0; i < wgrad->slices; i++)
            square[tap] = add(cg, square[tap], load_bytes(cg, type, byte_at_const(cg, at, i * all), 4));
    }
}

/* A panel of channels of one column of dy to the weights from `place` on. What is stored behind the taps of a channel, the next one's
 * overwrite. */
static void finish_taps(Codegen *cg, const Wgrad *wgrad, LLVMValueRef sums, LLVMValueRef channel, LLVMValueRef row, LLVMValueRef place) {
    int64_t taps = wgrad->rows / wgrad->channels;
    LLVMValueRef square[SIDE], lanes[SIDE];
    load_taps(cg, wgrad, sums, channel, row, square);
    transpose_words(cg, square, SIDE);
    for (int64_t i = 0; i < taps; i++)
        lanes[i] = const32(cg, i);
    LLVMValueRef to = byte_at(cg, arena_at(cg, wgrad->w->offset), mul_by(cg, place, 4)), first = LLVMConstVector(lanes, (unsigned)taps);
    for (int64_t i = 0; i < SIDE; i++) {
        bool fits = i * taps + SIDE <= SIDE * taps;
        LLVMValueRef x = fits ? square[i] : LLVMBuildShuffleVector(cg->builder, square[i], square[i], first, "");
        store_bytes(cg, x, byte_at_const(cg, to, i * taps * 4), 4);
    }
}

static void finish_squares(Codegen *cg, const Wgrad *wgrad, LLVMValueRef sums, LLVMValueRef first, LLVMValueRef place) {
    Loop channels = loop_begin_step(cg, const64(cg, 0), const64(cg, wgrad->channels), SIDE);
    Loop column = loop_begin(cg, const64(cg, 0), smin(cg, const64(cg, SIDE), sub(cg, const64(cg, wgrad->columns), first)));
    LLVMValueRef to = add(cg, mul_by(cg, channels.index, wgrad->ws[1]), mul_by(cg, column.index, wgrad->ws[0]));
    finish_taps(cg, wgrad, sums, channels.index, add(cg, first, column.index), add(cg, place, to));
    loop_end(cg, &column);
    loop_end(cg, &channels);
}

/* Channels of x from panel to panel or, where those of a tap may begin within one, one by one; then all taps, and the columns of dy: so
 * that what lies together in the weights, taps of a channel, is stored together. */
static void finish_channels(Codegen *cg, const Wgrad *wgrad, LLVMValueRef sums, LLVMValueRef first, LLVMValueRef place) {
    bool joined = is_joined(wgrad), single = joined && wgrad->channels % SIDE != 0;
    Loop channels = loop_begin_step(cg, const64(cg, 0), const64(cg, wgrad->channels), single ? 1 : SIDE), taps[3];
    place = add(cg, place, mul_by(cg, channels.index, wgrad->ws[1]));
    for (int i = 0; i < 3; i++) {
        taps[i] = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->kernel[i]));
        place = add(cg, place, mul_by(cg, taps[i].index, wgrad->ws[2 + i]));
    }
    LLVMValueRef word = channels.index, unit = add(cg, mul_by(cg, taps[0].index, wgrad->kernel[1]), taps[1].index);
    if (joined)
        word = add(cg, word, mul_by(cg, taps[2].index, wgrad->channels));
    else
        unit = add(cg, mul_by(cg, unit, wgrad->kernel[2]), taps[2].index);
    unit = add(cg, mul_by(cg, unit, run_panels(wgrad)), udiv_by(cg, word, SIDE));
    Loop column = loop_begin(cg, const64(cg, 0), smin(cg, const64(cg, SIDE), sub(cg, const64(cg, wgrad->columns), first)));
    LLVMValueRef row = add(cg, first, column.index);
    place = add(cg, place, mul_by(cg, column.index, wgrad->ws[0]));
    if (single) {
        finish_one(cg, wgrad, sums, unit, row, urem_by(cg, word, SIDE), place);
    } else {
        LLVMValueRef left = sub(cg, const64(cg, wgrad->channels), channels.index);
        Loop lane = loop_begin(cg, const64(cg, 0), wgrad->channels % SIDE == 0 ? const64(cg, SIDE) : smin(cg, left, const64(cg, SIDE)));
        finish_one(cg, wgrad, sums, unit, row, lane.index, add(cg, place, mul_by(cg, lane.index, wgrad->ws[1])));
        loop_end(cg, &lane);
    }
    loop_end(cg, &column);
    for (int i = 2; i >= 0; i--)
        loop_end(cg, &taps[i]);
    loop_end(cg, &channels);
}

void wgrad_matrix_finish(Codegen *cg, const Wgrad *wgrad) {
    kernel_begin(cg, wgrad->node, "finish");
    Loop task = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef group = udiv_by(cg, task.index, wgrad->panels), first = mul_by(cg, urem_by(cg, task.index, wgrad->panels), SIDE);
    LLVMValueRef sums = byte_at(cg, arena_at(cg, wgrad->sums_at), mul_by(cg, group, wgrad->panels * wgrad_sums(wgrad)));
    LLVMValueRef place = mul_by(cg, add(cg, mul_by(cg, group, wgrad->columns), first), wgrad->ws[0]);
    if (has_squares(wgrad))
        finish_squares(cg, wgrad, sums, first, place);
    else
        finish_channels(cg, wgrad, sums, first, place);
    loop_end(cg, &task);
    kernel_end(cg, wgrad_panels(wgrad), wgrad->slices * wgrad_panels(wgrad) * wgrad_sums(wgrad) / 16);
}
