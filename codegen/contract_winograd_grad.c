/* The gradient of 3 x 3 weights by Winograd (contract_winograd_form.c): tiles of x and of dy are lifted, in 16 bits and by pairs of tiles,
 * the places are matrix products whose K runs over tiles, and their sums are lowered to the gradients of nine taps. */
#include "codegen/contract_winograd.h"

enum { TAPS = WINOGRAD_TAPS, REACH = WINOGRAD_REACH, CHANNELS = WINOGRAD_CHANNELS, MOST_ROWS = 64 };

struct WinogradGrad {
    WinogradGradShape shape;
    Dot dot;
    ProductCode code;
    int64_t across, tiles, pairs;                     /* of an image: tiles in a row, all, pairs of them */
    int64_t rows;                                     /* channels of x of one product */
    int64_t all, part;                                /* pairs of a slice, and of those whose sums are lowered at once */
    int64_t x_place, dy_place;                        /* bytes from one place to the next, of lifted values */
    int64_t sums;                                     /* the same of sums */
    int64_t x_step[2], dy_step[2], x_image, dy_image; /* of padded images: bytes of a row, a pixel, all */
};

static int place_count(const WinogradGrad *grad) {
    return grad->shape.form->reach * grad->shape.form->reach;
}

/* The largest part of the channels, in whole vectors, whose sums stay near. */
static int64_t rows_of(int64_t channels) {
    int64_t rows = MOST_ROWS;
    while (channels % rows != 0)
        rows -= CHANNELS;
    return rows;
}

WinogradGrad *winograd_grad_new(Codegen *cg, const WinogradGradShape *shape) {
    WinogradGrad *grad = arena_alloc(cg->memory, 1, sizeof *grad);
    *grad = (WinogradGrad){.shape = *shape, .dot = dot_words(), .rows = rows_of(shape->channels)};
    const WinogradForm *form = shape->form;
    grad->across = winograd_tiles(form, shape->out[1]);
    grad->tiles = grad->across * winograd_tiles(form, shape->out[0]);
    grad->pairs = (grad->tiles + 1) / 2;
    grad->all = grad->pairs * shape->images;
    grad->part = grad->all / shape->parts;
    int64_t group = dot_group(&grad->dot);
    Product product = {.row = {{.count = grad->rows, .a = group, .c = CHANNELS}},
                       .rows = 1,
                       .k = {{.count = grad->part, .a = grad->rows * group}},
                       .ks = 1,
                       .groups = grad->all,
                       .columns = shape->columns,
                       .column_stride = 1,
                       .panel_stride = grad->dot.panel,
                       .type = T_I32};
    grad->code = product_new(cg, &grad->dot, &product);
    /* A cache line more than a power of two keeps the places apart in a cache. */
    grad->x_place = grad->all * shape->channels * group + INTC_ARENA_ALIGN;
    grad->dy_place = grad->all * shape->columns * group + INTC_ARENA_ALIGN;
    grad->sums = grad->rows * CHANNELS * 4 + INTC_ARENA_ALIGN;
    int64_t x[2], dy[2];
    for (int i = 0; i < 2; i++) {
        dy[i] = winograd_tiles(form, shape->out[i]) * form->tile;
        x[i] = dy[i] + form->reach - form->tile;
        x[i] = shape->low[i] + shape->size[i] > x[i] ? shape->low[i] + shape->size[i] : x[i];
    }
    grad->x_step[1] = shape->channels;
    grad->x_step[0] = x[1] * shape->channels;
    grad->x_image = x[0] * grad->x_step[0];
    grad->dy_step[1] = shape->columns;
    grad->dy_step[0] = dy[1] * shape->columns;
    grad->dy_image = dy[0] * grad->dy_step[0];
    return grad;
}

int64_t winograd_grad_tiles(const WinogradForm *form, const int64_t out[2]) {
    return (winograd_tiles(form, out[0]) * winograd_tiles(form, out[1]) + 1) / 2 * 2;
}

int64_t winograd_grad_x_bytes(const WinogradGrad *grad) {
    return place_count(grad) * grad->x_place;
}

int64_t winograd_grad_dy_bytes(const WinogradGrad *grad) {
    return place_count(grad) * grad->dy_place;
}

int64_t winograd_grad_room(const WinogradGrad *grad) {
    int64_t images = grad->x_image > grad->dy_image ? grad->x_image : grad->dy_image, sums = place_count(grad) * grad->sums;
    return round_up(images > sums ? images : sums, INTC_ARENA_ALIGN);
}

int64_t winograd_grad_blocks(const WinogradGrad *grad) {
    return grad->shape.channels / grad->rows * product_blocks(&grad->code);
}

/* --- lifting --- */

/* The corner of a tile: bytes from the image's first pixel. */
static LLVMValueRef corner(Codegen *cg, const WinogradGrad *grad, LLVMValueRef tile, const int64_t step[2]) {
    LLVMValueRef row = udiv_by(cg, tile, grad->across), column = urem_by(cg, tile, grad->across);
    return add(cg, mul_by(cg, row, grad->shape.form->tile * step[0]), mul_by(cg, column, grad->shape.form->tile * step[1]));
}

static void load_tile(Codegen *cg, LLVMValueRef from, const int64_t step[2], int size, LLVMValueRef x[REACH][REACH]) {
    LLVMTypeRef bytes = LLVMVectorType(cg->i8, CHANNELS), words = LLVMVectorType(cg->i16, CHANNELS);
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++)
            x[i][j] = LLVMBuildSExt(cg->builder, load_bytes(cg, bytes, byte_at_const(cg, from, i * step[0] + j * step[1]), 1), words, "");
}

/* Lifts a vector of channels of both tiles of a pair: those at `from`, to the first place at `to`; second: whether there is a second tile,
 * NULL where there always is. */
static void lift_pair(Codegen *cg, const LLVMValueRef from[2], const int64_t step[2], int size, int reach, WinogradTransform *lift,
                      LLVMValueRef to, int64_t place, int64_t half, LLVMValueRef second) {
    LLVMValueRef x[2][REACH][REACH];
    for (int i = 0; i < 2; i++) {
        load_tile(cg, from[i], step, size, x[i]);
        winograd_transform(cg, lift, size, reach, x[i]);
    }
    for (int i = 0; i < reach * reach; i++) {
        LLVMValueRef a = x[0][i / reach][i % reach], b = x[1][i / reach][i % reach], mask[2][CHANNELS];
        if (second != NULL)
            b = choose(cg, second, b, LLVMConstNull(LLVMTypeOf(b)));
        for (int k = 0; k < 2; k++) {
            for (int lane = 0; lane < CHANNELS; lane++)
                mask[k][lane] = const32(cg, lane / 2 + k * CHANNELS / 2 + lane % 2 * CHANNELS);
            LLVMValueRef pair = LLVMBuildShuffleVector(cg->builder, a, b, LLVMConstVector(mask[k], CHANNELS), "");
            store_bytes(cg, pair, byte_at_const(cg, to, i * place + k * half), 2 * CHANNELS);
        }
    }
}

/* Copies an image into the middle of zeros. */
static void pad(Codegen *cg, LLVMValueRef from, LLVMValueRef to, int64_t bytes, int64_t rows, int64_t row, int64_t first, int64_t step,
                int64_t used) {
    LLVMBuildMemSet(cg->builder, to, LLVMConstInt(cg->i8, 0, false), const64(cg, bytes), INTC_ARENA_ALIGN);
    Loop high = loop_begin(cg, const64(cg, 0), const64(cg, rows));
    LLVMValueRef at = byte_at(cg, byte_at_const(cg, to, first), mul_by(cg, high.index, step));
    LLVMBuildMemCpy(cg->builder, at, 1, byte_at(cg, from, mul_by(cg, high.index, row)), 1, const64(cg, used));
    loop_end(cg, &high);
}

/* One padded image of x (rows of products) or of dy (columns) as image `image` of a slice. */
static void lift_image(Codegen *cg, const WinogradGrad *grad, LLVMValueRef image, LLVMValueRef from, LLVMValueRef to, bool rows) {
    const WinogradGradShape *shape = &grad->shape;
    const int64_t *step = rows ? grad->x_step : grad->dy_step;
    int64_t channels = rows ? shape->channels : shape->columns, group = dot_group(&grad->dot);
    int64_t wide = rows ? grad->rows : grad->dot.panel; /* adjacent channels of a pair of tiles */
    Loop pair = loop_begin(cg, const64(cg, 0), const64(cg, grad->pairs));
    LLVMValueRef tile = mul_by(cg, pair.index, 2), next = add_const(cg, tile, 1), second = NULL;
    if (grad->tiles % 2 != 0) {
        second = compare(cg, LLVMIntSLT, next, const64(cg, grad->tiles));
        next = smin(cg, next, const64(cg, grad->tiles - 1));
    }
    LLVMValueRef at[2] = {byte_at(cg, from, corner(cg, grad, tile, step)), byte_at(cg, from, corner(cg, grad, next, step))};
    LLVMValueRef index = add(cg, mul_by(cg, image, grad->pairs), pair.index);
    LLVMValueRef place = byte_at(cg, to, mul_by(cg, index, wide * group));
    Loop channel = loop_begin_step(cg, const64(cg, 0), const64(cg, channels), CHANNELS);
    LLVMValueRef tiles[2] = {byte_at(cg, at[0], channel.index), byte_at(cg, at[1], channel.index)};
    LLVMValueRef block = udiv_by(cg, channel.index, wide), within = urem_by(cg, channel.index, wide);
    LLVMValueRef target = add(cg, mul_by(cg, block, grad->all * wide * group), mul_by(cg, within, group));
    int64_t half = wide > grad->dot.panel ? 2 * CHANNELS : grad->all * wide * group;
    const WinogradForm *form = shape->form;
    lift_pair(cg, tiles, step, rows ? form->reach : form->tile, form->reach, rows ? form->pixels : form->dy, byte_at(cg, place, target),
              rows ? grad->x_place : grad->dy_place, half, rows ? NULL : second);
    loop_end(cg, &channel);
    loop_end(cg, &pair);
}

void winograd_grad_lift_x(Codegen *cg, const WinogradGrad *grad, LLVMValueRef image, LLVMValueRef from, LLVMValueRef room,
                          LLVMValueRef to) {
    const WinogradGradShape *shape = &grad->shape;
    int64_t first = shape->low[0] * grad->x_step[0] + shape->low[1] * grad->x_step[1];
    pad(cg, from, room, grad->x_image, shape->size[0], shape->x_row, first, grad->x_step[0], shape->size[1] * shape->channels);
    lift_image(cg, grad, image, room, to, true);
}

void winograd_grad_lift_dy(Codegen *cg, const WinogradGrad *grad, LLVMValueRef image, LLVMValueRef from, LLVMValueRef room,
                           LLVMValueRef to) {
    const WinogradGradShape *shape = &grad->shape;
    pad(cg, from, room, grad->dy_image, shape->out[0], shape->dy_row, 0, grad->dy_step[0], shape->out[1] * shape->columns);
    lift_image(cg, grad, image, room, to, false);
}

void winograd_grad_skip_dy(Codegen *cg, const WinogradGrad *grad, LLVMValueRef image, LLVMValueRef to) {
    int64_t panel = panel_bytes(&grad->dot, 1), panels = panel_count(&grad->dot, grad->shape.columns);
    Loop place = loop_begin(cg, const64(cg, 0), const64(cg, place_count(grad)));
    Loop block = loop_begin(cg, const64(cg, 0), const64(cg, panels));
    LLVMValueRef at = add(cg, mul_by(cg, place.index, grad->dy_place), mul_by(cg, block.index, grad->all * panel));
    at = byte_at(cg, byte_at(cg, to, at), mul_by(cg, image, grad->pairs * panel));
    LLVMBuildMemSet(cg->builder, at, LLVMConstInt(cg->i8, 0, false), const64(cg, grad->pairs * panel), 32);
    loop_end(cg, &block);
    loop_end(cg, &place);
}

/* --- products --- */

/* Adds a vector of columns of the gradients of one channel of x. */
static void lower(Codegen *cg, const WinogradGrad *grad, LLVMValueRef from, LLVMValueRef to) {
    const WinogradGradShape *shape = &grad->shape;
    LLVMTypeRef type = dot_accumulator(cg, &grad->dot), wide = LLVMVectorType(element_type(cg, shape->type), (unsigned)grad->dot.lanes);
    LLVMValueRef x[REACH][REACH];
    int reach = shape->form->reach;
    int64_t tap = shape->channels * grad->dot.panel * type_bytes(shape->type);
    for (int i = 0; i < place_count(grad); i++)
        x[i / reach][i % reach] = load_bytes(cg, type, byte_at_const(cg, from, i * grad->sums), 32);
    winograd_transform(cg, shape->form->taps, reach, TAPS, x);
    for (int i = 0; i < TAPS * TAPS; i++) {
        LLVMValueRef at = byte_at_const(cg, to, i * tap), sum = winograd_result(cg, shape->form, x[i / TAPS][i % TAPS]);
        if (shape->type == T_I64)
            sum = LLVMBuildSExt(cg->builder, sum, wide, "");
        store_bytes(cg, add(cg, load_bytes(cg, wide, at, 8), sum), at, 8);
    }
}

/* Adds what the pairs of one part give. */
static void multiply_part(Codegen *cg, const WinogradGrad *grad, LLVMValueRef block, LLVMValueRef x, LLVMValueRef dy, LLVMValueRef room,
                          LLVMValueRef sums) {
    const WinogradGradShape *shape = &grad->shape;
    int64_t blocks = product_blocks(&grad->code), group = dot_group(&grad->dot), bytes = type_bytes(shape->type), panel = grad->dot.panel;
    LLVMValueRef part = udiv_by(cg, block, blocks), columns = urem_by(cg, block, blocks);
    Loop place = loop_begin(cg, const64(cg, 0), const64(cg, place_count(grad)));
    LLVMValueRef a = byte_at(cg, x, add(cg, mul_by(cg, place.index, grad->x_place), mul_by(cg, part, grad->all * grad->rows * group)));
    LLVMValueRef to = byte_at(cg, room, mul_by(cg, place.index, grad->sums));
    /* Every block of panels leaves its sums at the same place. */
    to = byte_at(cg, to, mul_by(cg, columns, -grad->code.block_c));
    product_call(cg, &grad->code, a, byte_at(cg, dy, mul_by(cg, place.index, grad->dy_place)), NULL, to, columns, const64(cg, 0), 1);
    loop_end(cg, &place);
    Loop row = loop_begin(cg, const64(cg, 0), const64(cg, grad->rows));
    LLVMValueRef from = byte_at(cg, room, mul_by(cg, row.index, CHANNELS * 4));
    LLVMValueRef channel = add(cg, mul_by(cg, part, grad->rows), row.index);
    int64_t all = TAPS * TAPS * shape->channels * panel * bytes; /* of a panel */
    LLVMValueRef at = byte_at(cg, byte_at(cg, sums, mul_by(cg, columns, CHANNELS / panel * all)), mul_by(cg, channel, panel * bytes));
    for (int64_t i = 0; i < CHANNELS / panel; i++)
        lower(cg, grad, byte_at_const(cg, from, i * panel * 4), byte_at_const(cg, at, i * all));
    loop_end(cg, &row);
}

void winograd_grad_multiply(Codegen *cg, const WinogradGrad *grad, LLVMValueRef block, LLVMValueRef x, LLVMValueRef dy, LLVMValueRef room,
                            LLVMValueRef sums) {
    Loop part = loop_begin_step(cg, const64(cg, 0), const64(cg, grad->all), grad->part);
    multiply_part(cg, grad, block, byte_at(cg, x, mul_by(cg, part.index, grad->rows * dot_group(&grad->dot))),
                  byte_at(cg, dy, mul_by(cg, part.index, panel_bytes(&grad->dot, 1))), room, sums);
    loop_end(cg, &part);
}
