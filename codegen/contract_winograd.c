/* Convolutions of 3 x 3 weights and stride 1 by Winograd's algorithm (contract_winograd_form.c): tiles of staged pixels and weights are
 * lifted to 16 bits, the places of a tile are matrix products over channels, and their sums are lowered to a tile of results. */
#include "codegen/contract.h"

enum { TAPS = WINOGRAD_TAPS, REACH = WINOGRAD_REACH, CHANNELS = WINOGRAD_CHANNELS, TILES_WANTED = 24 };

struct Winograd {
    WinogradShape shape;
    Dot dot;
    ProductCode code;
    int64_t tiles[2], rows;        /* H W; rows of tiles in a block */
    int64_t values, weights, sums; /* bytes from one place to the next */
    int64_t width;                 /* columns of a block of panels */
};

/* --- plan --- */

static int place_count(const Winograd *winograd) {
    return winograd->shape.form->reach * winograd->shape.form->reach;
}

/* The least number of whole rows of tiles that fill register tiles well. */
static int64_t rows_of_block(const int64_t tiles[2]) {
    int64_t rows = 1;
    while (rows < tiles[0] && (tiles[0] % rows != 0 || rows * tiles[1] < TILES_WANTED))
        rows++;
    return rows;
}

Winograd *winograd_new(Codegen *cg, const WinogradShape *shape) {
    Winograd *winograd = arena_alloc(cg->memory, 1, sizeof *winograd);
    *winograd = (Winograd){.shape = *shape, .dot = dot_words(), .width = CHANNELS};
    for (int i = 0; i < 2; i++)
        winograd->tiles[i] = winograd_tiles(shape->form, shape->out[i]);
    winograd->rows = rows_of_block(winograd->tiles);
    int64_t tiles = winograd->rows * winograd->tiles[1], groups = shape->terms / winograd->dot.quad;
    int64_t tile = shape->terms * winograd->dot.bytes;
    Product product = {.row = {{tiles, tile, winograd->width}},
                       .rows = 1,
                       .k = {{groups, dot_group(&winograd->dot), 0}},
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
    return place_count(winograd) * winograd->weights;
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
    int64_t groups = shape->terms / 2, group = panel_bytes(&winograd->dot, 1);
    source = byte_at(cg, byte_at_const(cg, source, shape->first), mul_by(cg, panel, winograd->dot.panel * shape->column));
    packed = byte_at(cg, packed, mul_by(cg, panel, groups * group));
    Loop pair = loop_begin(cg, const64(cg, 0), const64(cg, groups));
    LLVMValueRef from = byte_at(cg, source, mul_by(cg, pair.index, 2 * shape->term)), x[REACH][REACH];
    LLVMValueRef to = byte_at(cg, packed, mul_by(cg, pair.index, group));
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

/* A vector of columns of the tile whose sums are at `from` and whose first result is at `to`; whole: whether the tile has all of its rows
 * and columns, NULL where all have. */
static void lower_tile(Codegen *cg, const Winograd *winograd, LLVMValueRef from, LLVMValueRef to, const LLVMValueRef whole[2]) {
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
            store_bytes(cg, winograd_result(cg, form, x[i][j]), at, 4);
        }
        if (whole[1] != NULL)
            if_end(cg, &column);
    }
    if (whole[0] != NULL)
        if_end(cg, &row);
}

/* Calls `each` on the tiles of the block that begins with the row of tiles `first`. */
typedef void EachTile(Codegen *cg, const Winograd *winograd, LLVMValueRef row, LLVMValueRef column, LLVMValueRef tile, void *context);

static void for_tiles(Codegen *cg, const Winograd *winograd, LLVMValueRef first, EachTile *each, void *context) {
    Loop high = loop_begin(cg, const64(cg, 0), const64(cg, winograd->rows));
    Loop wide = loop_begin(cg, const64(cg, 0), const64(cg, winograd->tiles[1]));
    LLVMValueRef tile = add(cg, mul_by(cg, high.index, winograd->tiles[1]), wide.index);
    each(cg, winograd, add(cg, first, high.index), wide.index, tile, context);
    loop_end(cg, &wide);
    loop_end(cg, &high);
}

typedef struct {
    LLVMValueRef image, values, sums, result;
} Places;

static void lift(Codegen *cg, const Winograd *winograd, LLVMValueRef row, LLVMValueRef column, LLVMValueRef tile, void *context) {
    const Places *places = context;
    const WinogradShape *shape = &winograd->shape;
    int64_t side = shape->form->tile;
    LLVMValueRef at = add(cg, mul_by(cg, row, side * shape->step[0]), mul_by(cg, column, side * shape->step[1]));
    lift_tile(cg, winograd, byte_at(cg, places->image, at), byte_at(cg, places->values, mul_by(cg, tile, 2 * shape->terms)));
}

static void lower(Codegen *cg, const Winograd *winograd, LLVMValueRef row, LLVMValueRef column, LLVMValueRef tile, void *context) {
    const Places *places = context;
    const WinogradShape *shape = &winograd->shape;
    int64_t side = shape->form->tile;
    LLVMValueRef at = add(cg, mul_by(cg, row, 4 * side * shape->result[0]), mul_by(cg, column, 4 * side * shape->result[1]));
    LLVMValueRef to = byte_at(cg, places->result, at), from = byte_at(cg, places->sums, mul_by(cg, tile, 4 * winograd->width));
    LLVMValueRef index[2] = {row, column}, whole[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++)
        if (shape->out[i] % side != 0)
            whole[i] = compare(cg, LLVMIntSLT, index[i], const64(cg, shape->out[i] / side));
    for (int64_t i = 0; i < winograd->width; i += winograd->dot.lanes)
        lower_tile(cg, winograd, byte_at_const(cg, from, 4 * i), byte_at_const(cg, to, 4 * i), whole);
}

void winograd_multiply(Codegen *cg, const Winograd *winograd, LLVMValueRef image, LLVMValueRef packed, LLVMValueRef room,
                       LLVMValueRef result) {
    Places places = {.image = image, .values = room, .sums = byte_at_const(cg, room, place_count(winograd) * winograd->values)};
    Loop row = loop_begin_step(cg, const64(cg, 0), const64(cg, winograd->tiles[0]), winograd->rows);
    for_tiles(cg, winograd, row.index, lift, &places);
    Loop block = loop_begin(cg, const64(cg, 0), const64(cg, product_blocks(&winograd->code)));
    Loop place = loop_begin(cg, const64(cg, 0), const64(cg, place_count(winograd)));
    LLVMValueRef sums = byte_at(cg, places.sums, mul_by(cg, place.index, winograd->sums));
    /* Every block of panels leaves its sums at the same place. */
    sums = byte_at(cg, sums, mul_by(cg, block.index, -winograd->code.block_c));
    product_call(cg, &winograd->code, byte_at(cg, places.values, mul_by(cg, place.index, winograd->values)),
                 byte_at(cg, packed, mul_by(cg, place.index, winograd->weights)), NULL, sums, block.index, const64(cg, 0), 1);
    loop_end(cg, &place);
    places.result = byte_at(cg, result, mul_by(cg, block.index, 4 * winograd->width));
    for_tiles(cg, winograd, row.index, lower, &places);
    loop_end(cg, &block);
    loop_end(cg, &row);
}
