/* Convolutions of 3 x 3 weights and stride 1 by Winograd's algorithm (contract_winograd_form.c): tiles of staged pixels and weights are
 * lifted to 16 bits, the places of a tile are matrix products over channels, and their sums are lowered to a tile of results. */
#include "codegen/contract_winograd.h"

enum { TAPS = WINOGRAD_TAPS, REACH = WINOGRAD_REACH, CHANNELS = WINOGRAD_CHANNELS, TILES_WANTED = 24 };

struct Winograd {
    WinogradShape shape;
    Dot dot;
    ProductCode code;
    int64_t tiles[2];              /* of an image, H W */
    int64_t span, rows;            /* of a block: images, and rows of tiles in each */
    int64_t parts;                 /* of the terms, whose sums are lowered apart and added */
    int64_t values, weights, sums; /* bytes from one place to the next */
    int64_t width;                 /* columns of a block of panels */
};

/* --- plan --- */

static int place_count(const Winograd *winograd) {
    return winograd->shape.form->reach * winograd->shape.form->reach;
}

/* The least of equal parts of `count` that holds so many tiles, or all. */
static int64_t least_part(int64_t count, int64_t tiles) {
    int64_t part = 1;
    while (part < count && (count % part != 0 || part * tiles < TILES_WANTED))
        part++;
    return part;
}

int64_t winograd_together(const WinogradForm *form, const int64_t out[2]) {
    return (TILES_WANTED - 1) / (winograd_tiles(form, out[0]) * winograd_tiles(form, out[1])) + 1;
}

Winograd *winograd_new(Codegen *cg, const WinogradShape *shape) {
    Winograd *winograd = arena_alloc(cg->memory, 1, sizeof *winograd);
    *winograd = (Winograd){.shape = *shape, .dot = dot_words(), .width = CHANNELS};
    for (int i = 0; i < 2; i++)
        winograd->tiles[i] = winograd_tiles(shape->form, shape->out[i]);
    winograd->rows = least_part(winograd->tiles[0], winograd->tiles[1]);
    winograd->span = winograd->rows < winograd->tiles[0] ? 1 : least_part(shape->images, winograd->tiles[0] * winograd->tiles[1]);
    winograd->parts = shape->terms / shape->part;
    int64_t tiles = winograd->span * winograd->rows * winograd->tiles[1], groups = shape->part / winograd->dot.quad;
    int64_t tile = shape->terms * winograd->dot.bytes;
    Product product = {.row = {{.count = tiles, .a = tile, .c = winograd->width}},
                       .rows = 1,
                       .k = {{.count = groups, .a = dot_group(&winograd->dot)}},
                       .ks = 1,
                       .groups = groups,
                       .columns = shape->columns,
                       .column_stride = 1,
                       .panel_stride = winograd->dot.panel,
                       .type = T_I32};
    winograd->code = product_new(cg, &winograd->dot, &product);
    /* A cache line more than a power of two keeps the places apart in a cache. */
    winograd->values = tiles * tile + INTC_ARENA_ALIGN;
    winograd->sums = tiles * winograd->width * 4 + INTC_ARENA_ALIGN;
    winograd->weights = panel_count(&winograd->dot, shape->columns) * panel_bytes(&winograd->dot, groups);
    return winograd;
}

int64_t winograd_weight_bytes(const Winograd *winograd) {
    return winograd->parts * place_count(winograd) * winograd->weights;
}

int64_t winograd_room(const Winograd *winograd) {
    return place_count(winograd) * (winograd->values + winograd->sums);
}

int64_t winograd_panels(const Winograd *winograd) {
    return panel_count(&winograd->dot, winograd->shape.columns);
}

/* --- emission --- */

static LLVMTypeRef words(const Codegen *cg) {
    return LLVMVectorType(cg->i16, CHANNELS);
}

/* A tap of a panel's columns, a pair of terms each. */
static LLVMValueRef tap_of(Codegen *cg, const Winograd *winograd, LLVMValueRef source, int64_t at) {
    const WinogradShape *shape = &winograd->shape;
    LLVMValueRef x = LLVMGetUndef(LLVMVectorType(cg->i8, CHANNELS));
    for (int i = 0; i < CHANNELS; i++) {
        int64_t place = at + i / 2 * shape->column + i % 2 * shape->term;
        x = LLVMBuildInsertElement(cg->builder, x, load_bytes(cg, cg->i8, byte_at_const(cg, source, place), 1), const32(cg, i), "");
    }
    return LLVMBuildSExt(cg->builder, x, words(cg), "");
}

void winograd_pack(Codegen *cg, const Winograd *winograd, LLVMValueRef source, LLVMValueRef panel, LLVMValueRef packed) {
    const WinogradShape *shape = &winograd->shape;
    int64_t groups = shape->part / 2, group = panel_bytes(&winograd->dot, 1);
    source = byte_at(cg, byte_at_const(cg, source, shape->first), mul_by(cg, panel, winograd->dot.panel * shape->column));
    packed = byte_at(cg, packed, mul_by(cg, panel, groups * group));
    Loop pair = loop_begin(cg, const64(cg, 0), const64(cg, winograd->parts * groups));
    LLVMValueRef from = byte_at(cg, source, mul_by(cg, pair.index, 2 * shape->term)), x[REACH][REACH];
    LLVMValueRef part = udiv_by(cg, pair.index, groups), within = urem_by(cg, pair.index, groups);
    LLVMValueRef to = byte_at(cg, packed, add(cg, mul_by(cg, part, place_count(winograd) * winograd->weights), mul_by(cg, within, group)));
    for (int i = 0; i < TAPS; i++)
        for (int j = 0; j < TAPS; j++)
            x[i][j] = tap_of(cg, winograd, from, i * shape->tap[0] + j * shape->tap[1]);
    int reach = shape->form->reach;
    winograd_transform(cg, shape->form->weights, TAPS, reach, x);
    for (int i = 0; i < place_count(winograd); i++)
        store_bytes(cg, x[i / reach][i % reach], byte_at_const(cg, to, i * winograd->weights), 2 * CHANNELS);
    loop_end(cg, &pair);
}

static void lift_tile(Codegen *cg, const Winograd *winograd, LLVMValueRef from, LLVMValueRef to) {
    const WinogradShape *shape = &winograd->shape;
    LLVMTypeRef narrow = LLVMVectorType(shape->bytes == 1 ? cg->i8 : cg->i16, CHANNELS);
    Loop channel = loop_begin_step(cg, const64(cg, 0), const64(cg, shape->terms), CHANNELS);
    LLVMValueRef at = byte_at(cg, from, mul_by(cg, channel.index, shape->bytes)), x[REACH][REACH];
    int reach = shape->form->reach;
    for (int i = 0; i < reach; i++)
        for (int j = 0; j < reach; j++) {
            x[i][j] = load_bytes(cg, narrow, byte_at_const(cg, at, i * shape->step[0] + j * shape->step[1]), (unsigned)shape->bytes);
            if (shape->bytes == 1)
                x[i][j] = LLVMBuildSExt(cg->builder, x[i][j], words(cg), "");
        }
    winograd_transform(cg, shape->form->pixels, reach, reach, x);
    LLVMValueRef values = byte_at(cg, to, mul_by(cg, channel.index, 2));
    for (int i = 0; i < place_count(winograd); i++)
        store_bytes(cg, x[i / reach][i % reach], byte_at_const(cg, values, i * winograd->values), 2 * CHANNELS);
    loop_end(cg, &channel);
}

/* A vector of columns of the tile whose sums are at `from` and whose first result is at `to`, where it is stored or, if it `adds`, added;
 * whole: whether the tile has all of its rows and columns, NULL where all have. */
static void lower_tile(Codegen *cg, const Winograd *winograd, LLVMValueRef from, LLVMValueRef to, bool adds, const LLVMValueRef whole[2]) {
    const WinogradShape *shape = &winograd->shape;
    const WinogradForm *form = shape->form;
    LLVMTypeRef type = dot_accumulator(cg, &winograd->dot);
    LLVMValueRef x[REACH][REACH];
    for (int i = 0; i < place_count(winograd); i++)
        x[i / form->reach][i % form->reach] = load_bytes(cg, type, byte_at_const(cg, from, i * winograd->sums), 32);
    winograd_transform(cg, form->results, form->reach, form->tile, x);
    Branch row, column;
    for (int i = 0; i < form->tile; i++) {
        if (whole[0] != NULL && i == shape->out[0] % form->tile)
            row = if_begin(cg, whole[0]);
        for (int j = 0; j < form->tile; j++) {
            if (whole[1] != NULL && j == shape->out[1] % form->tile)
                column = if_begin(cg, whole[1]);
            LLVMValueRef at = byte_at_const(cg, to, 4 * (i * shape->result[0] + j * shape->result[1]));
            LLVMValueRef result = winograd_result(cg, form, x[i][j]);
            store_bytes(cg, adds ? add(cg, result, load_bytes(cg, type, at, 4)) : result, at, 4);
        }
        if (whole[1] != NULL)
            if_end(cg, &column);
    }
    if (whole[0] != NULL)
        if_end(cg, &row);
}

typedef struct {
    LLVMValueRef image, values, sums, result; /* of the first image of the block; values and sums of the block */
    LLVMValueRef row;                         /* of tiles, the first of the block */
    bool adds;
} Block;

/* Where a tile lies: in its image and in the block. */
typedef struct {
    LLVMValueRef image, row, column, number;
} Tile;

typedef void EachTile(Codegen *cg, const Winograd *winograd, const Block *block, const Tile *tile);

static void for_tiles(Codegen *cg, const Winograd *winograd, const Block *block, EachTile *each) {
    Loop image = loop_begin(cg, const64(cg, 0), const64(cg, winograd->span));
    Loop high = loop_begin(cg, const64(cg, 0), const64(cg, winograd->rows));
    Loop wide = loop_begin(cg, const64(cg, 0), const64(cg, winograd->tiles[1]));
    LLVMValueRef row = add(cg, mul_by(cg, image.index, winograd->rows), high.index);
    Tile tile = {image.index, add(cg, block->row, high.index), wide.index, add(cg, mul_by(cg, row, winograd->tiles[1]), wide.index)};
    each(cg, winograd, block, &tile);
    loop_end(cg, &wide);
    loop_end(cg, &high);
    loop_end(cg, &image);
}

/* From the first pixel of the block's first image to a tile's, in steps between images, rows and columns. */
static LLVMValueRef offset_of(Codegen *cg, const Winograd *winograd, const Tile *tile, int64_t image, const int64_t step[2]) {
    int64_t side = winograd->shape.form->tile;
    LLVMValueRef within = add(cg, mul_by(cg, tile->row, side * step[0]), mul_by(cg, tile->column, side * step[1]));
    return add(cg, mul_by(cg, tile->image, image), within);
}

static void lift(Codegen *cg, const Winograd *winograd, const Block *block, const Tile *tile) {
    const WinogradShape *shape = &winograd->shape;
    LLVMValueRef from = byte_at(cg, block->image, offset_of(cg, winograd, tile, shape->image[0], shape->step));
    lift_tile(cg, winograd, from, byte_at(cg, block->values, mul_by(cg, tile->number, 2 * shape->terms)));
}

static void lower(Codegen *cg, const Winograd *winograd, const Block *block, const Tile *tile) {
    const WinogradShape *shape = &winograd->shape;
    LLVMValueRef at = mul_by(cg, offset_of(cg, winograd, tile, shape->image[1], shape->result), 4);
    LLVMValueRef to = byte_at(cg, block->result, at), from = byte_at(cg, block->sums, mul_by(cg, tile->number, 4 * winograd->width));
    LLVMValueRef index[2] = {tile->row, tile->column}, whole[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++)
        if (shape->out[i] % shape->form->tile != 0)
            whole[i] = compare(cg, LLVMIntSLT, index[i], const64(cg, shape->out[i] / shape->form->tile));
    for (int64_t i = 0; i < winograd->width; i += winograd->dot.lanes)
        lower_tile(cg, winograd, byte_at_const(cg, from, 4 * i), byte_at_const(cg, to, 4 * i), block->adds, whole);
}

/* The products of one part of the terms, for one block of panels, and what they add to its results. */
static void multiply_part(Codegen *cg, const Winograd *winograd, const Block *block, LLVMValueRef packed, LLVMValueRef panels,
                          LLVMValueRef part) {
    LLVMValueRef values = byte_at(cg, block->values, mul_by(cg, part, 2 * winograd->shape.part));
    packed = byte_at(cg, packed, mul_by(cg, part, place_count(winograd) * winograd->weights));
    Loop place = loop_begin(cg, const64(cg, 0), const64(cg, place_count(winograd)));
    LLVMValueRef sums = byte_at(cg, block->sums, mul_by(cg, place.index, winograd->sums));
    /* Every block of panels leaves its sums at the same place. */
    sums = byte_at(cg, sums, mul_by(cg, panels, -winograd->code.block_c));
    product_call(cg, &winograd->code, byte_at(cg, values, mul_by(cg, place.index, winograd->values)),
                 byte_at(cg, packed, mul_by(cg, place.index, winograd->weights)), NULL, sums, panels, const64(cg, 0), 1);
    loop_end(cg, &place);
    for_tiles(cg, winograd, block, lower);
}

void winograd_multiply(Codegen *cg, const Winograd *winograd, LLVMValueRef images, LLVMValueRef packed, LLVMValueRef room,
                       LLVMValueRef results) {
    const WinogradShape *shape = &winograd->shape;
    Block block = {.values = room, .sums = byte_at_const(cg, room, place_count(winograd) * winograd->values)};
    Loop image = loop_begin_step(cg, const64(cg, 0), const64(cg, shape->images), winograd->span);
    Loop row = loop_begin_step(cg, const64(cg, 0), const64(cg, winograd->tiles[0]), winograd->rows);
    block.row = row.index;
    block.image = byte_at(cg, images, mul_by(cg, image.index, shape->image[0]));
    for_tiles(cg, winograd, &block, lift);
    Loop panels = loop_begin(cg, const64(cg, 0), const64(cg, product_blocks(&winograd->code)));
    LLVMValueRef result = add(cg, mul_by(cg, image.index, shape->image[1]), mul_by(cg, panels.index, winograd->width));
    block.result = byte_at(cg, results, mul_by(cg, result, 4));
    multiply_part(cg, winograd, &block, packed, panels.index, const64(cg, 0));
    if (winograd->parts > 1) {
        block.adds = true;
        Loop part = loop_begin(cg, const64(cg, 1), const64(cg, winograd->parts));
        multiply_part(cg, winograd, &block, packed, panels.index, part.index);
        loop_end(cg, &part);
    }
    loop_end(cg, &panels);
    loop_end(cg, &row);
    loop_end(cg, &image);
}
