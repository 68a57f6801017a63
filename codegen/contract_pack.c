/* Staging of row operands and packing of column operands (contract.h), inside a kernel. Sources are i8 or floats. */
#include "codegen/contract.h"

#include <stdlib.h>
#include <string.h>

int64_t panel_bytes(const Dot *dot, int64_t groups) {
    return groups * dot->panel * dot_group(dot);
}

/* --- geometry --- */

void window_strides(const Value *value, int64_t to[5]) {
    int64_t stride[MAX_RANK];
    value_strides(value, stride);
    int rank = value->shape.rank;
    memset(to, 0, 5 * sizeof *to);
    to[0] = stride[0];
    to[1] = stride[1];
    for (int i = 2; i < rank; i++)
        to[5 - rank + i] = stride[i];
}

void window_dims(int rank, const int64_t *list, int64_t absent, int64_t to[3]) {
    for (int i = 0; i < 3; i++)
        to[i] = i < 3 - rank ? absent : list[i - (3 - rank)];
}

/* --- staging --- */

/* A vector (or scalar) of source elements as staged ones; rows are biased, columns are not. */
static LLVMValueRef staged(Codegen *cg, const Dot *dot, LLVMValueRef x, bool rows) {
    LLVMTypeRef type = LLVMTypeOf(x);
    bool vector = LLVMGetTypeKind(type) == LLVMVectorTypeKind;
    if (is_float(x))
        return x;
    if (dot->bytes == 2)
        return LLVMBuildSExt(cg->builder, x, vector ? LLVMVectorType(cg->i16, LLVMGetVectorSize(type)) : cg->i16, "");
    if (!rows || !dot->biased)
        return x;
    LLVMValueRef high = LLVMConstInt(cg->i8, 0x80, false), bits[SLACK];
    if (!vector)
        return LLVMBuildXor(cg->builder, x, high, "");
    for (unsigned i = 0; i < LLVMGetVectorSize(type); i++)
        bits[i] = high;
    return LLVMBuildXor(cg->builder, x, LLVMConstVector(bits, LLVMGetVectorSize(type)), "");
}

void stage_one(Codegen *cg, const Dot *dot, LLVMValueRef source, LLVMValueRef to) {
    LLVMValueRef x = load_bytes(cg, dot_element(cg, dot), source, (unsigned)dot_source(dot));
    store_bytes(cg, staged(cg, dot, x, true), to, (unsigned)dot->bytes);
}

static int64_t chunk_of(int64_t n, int64_t most) {
    int64_t chunk = 1;
    while (chunk * 2 <= n && chunk * 2 <= most)
        chunk *= 2;
    return chunk;
}

static void stage_chunk(Codegen *cg, const Dot *dot, LLVMValueRef source, LLVMValueRef to, LLVMValueRef at, int64_t chunk) {
    LLVMTypeRef type = LLVMVectorType(dot_element(cg, dot), (unsigned)chunk);
    LLVMValueRef x = load_bytes(cg, type, byte_at(cg, source, mul_by(cg, at, dot_source(dot))), (unsigned)dot_source(dot));
    store_bytes(cg, staged(cg, dot, x, true), byte_at(cg, to, mul_by(cg, at, dot->bytes)), (unsigned)dot->bytes);
}

void stage_run(Codegen *cg, const Dot *dot, LLVMValueRef source, LLVMValueRef to, int64_t n) {
    int64_t chunk = chunk_of(n, 64);
    Loop loop = loop_begin_step(cg, const64(cg, 0), const64(cg, n - chunk + 1), chunk);
    stage_chunk(cg, dot, source, to, loop.index, chunk);
    loop_end(cg, &loop);
    if (n % chunk != 0)
        stage_chunk(cg, dot, source, to, const64(cg, n - chunk), chunk);
}

/* a0 a1 .. and b0 b1 .. in units of `unit` lanes to a0 b0 a1 b1 .. */
static LLVMValueRef zip(Codegen *cg, LLVMValueRef a, LLVMValueRef b, unsigned unit) {
    unsigned lanes = LLVMGetVectorSize(LLVMTypeOf(a));
    LLVMValueRef mask[2 * SLACK];
    for (unsigned i = 0; i < 2 * lanes; i++) {
        unsigned pair = i / (2 * unit), within = i % (2 * unit);
        mask[i] = const32(cg, (within >= unit ? lanes : 0) + pair * unit + within % unit);
    }
    return LLVMBuildShuffleVector(cg->builder, a, b, LLVMConstVector(mask, 2 * lanes), "");
}

LLVMValueRef interleave_words(Codegen *cg, const LLVMValueRef x[4]) {
    LLVMValueRef bytes = zip(cg, zip(cg, x[0], x[1], 1), zip(cg, x[2], x[3], 1), 2);
    return LLVMBuildBitCast(cg->builder, bytes, LLVMVectorType(cg->i32, LLVMGetVectorSize(LLVMTypeOf(x[0]))), "");
}

static void interleave_chunk(Codegen *cg, const Dot *dot, const LLVMValueRef *sources, const LLVMValueRef *valid, LLVMValueRef to,
                             LLVMValueRef at, int64_t chunk, bool rows) {
    LLVMTypeRef type = LLVMVectorType(dot_element(cg, dot), (unsigned)chunk);
    LLVMValueRef x[4] = {NULL};
    for (int i = 0; i < dot->quad; i++) {
        if (sources[i] == NULL) {
            x[i] = LLVMConstNull(type);
            continue;
        }
        x[i] = load_bytes(cg, type, byte_at(cg, sources[i], mul_by(cg, at, dot_source(dot))), (unsigned)dot_source(dot));
        if (valid != NULL)
            x[i] = choose(cg, valid[i], x[i], LLVMConstNull(type));
    }
    LLVMValueRef all = x[0];
    if (dot->quad == 2)
        all = zip(cg, x[0], x[1], 1);
    if (dot->quad == 4)
        all = zip(cg, zip(cg, x[0], x[1], 1), zip(cg, x[2], x[3], 1), 2);
    LLVMValueRef address = byte_at(cg, to, mul_by(cg, at, dot_group(dot)));
    store_bytes(cg, staged(cg, dot, all, rows), address, (unsigned)dot_group(dot));
}

void stage_interleaved(Codegen *cg, const Dot *dot, const LLVMValueRef *sources, const LLVMValueRef *valid, LLVMValueRef to, int64_t n,
                       bool rows) {
    int64_t chunk = chunk_of(n, 16);
    Loop loop = loop_begin_step(cg, const64(cg, 0), const64(cg, n - chunk + 1), chunk);
    interleave_chunk(cg, dot, sources, valid, to, loop.index, chunk, rows);
    loop_end(cg, &loop);
    if (n % chunk != 0)
        interleave_chunk(cg, dot, sources, valid, to, const64(cg, n - chunk), chunk, rows);
}

/* A square of groups: column i has its K in row[i]; afterwards row[k] has the groups k of all columns. */
void transpose_words(Codegen *cg, LLVMValueRef *row, unsigned size) {
    LLVMValueRef low[MAX_PANEL], high[MAX_PANEL];
    for (unsigned step = 1; step < size; step *= 2) {
        for (unsigned lane = 0; lane < size; lane++) {
            bool first = (lane & step) == 0;
            low[lane] = const32(cg, first ? lane : size + lane - step);
            high[lane] = const32(cg, first ? lane + step : size + lane);
        }
        LLVMValueRef low_mask = LLVMConstVector(low, size), high_mask = LLVMConstVector(high, size);
        for (unsigned i = 0; i < size; i++) {
            if ((i & step) != 0)
                continue;
            LLVMValueRef a = row[i], b = row[i + step];
            row[i] = LLVMBuildShuffleVector(cg->builder, a, b, low_mask, "");
            row[i + step] = LLVMBuildShuffleVector(cg->builder, a, b, high_mask, "");
        }
    }
}

/* Squares of 16 rows and 16 groups of four elements; what is beyond the rows is read again, beyond K it is left. */
void stage_transposed(Codegen *cg, LLVMValueRef source, LLVMValueRef to, int64_t rows, int64_t k, int64_t step, int64_t pitch) {
    enum { SIDE = 16 };
    int64_t wide = chunk_of(rows, SIDE);
    Loop across = loop_begin_step(cg, const64(cg, 0), const64(cg, rows), wide);
    LLVMValueRef row = smin(cg, across.index, const64(cg, rows - wide));
    LLVMValueRef from = byte_at(cg, source, row);
    Loop along = loop_begin_step(cg, const64(cg, 0), const64(cg, k), 4 * wide);
    LLVMValueRef square[SIDE];
    for (int64_t i = 0; i < wide; i++) {
        LLVMValueRef four_rows[4];
        for (int64_t lane = 0; lane < 4; lane++) {
            LLVMValueRef at = smin(cg, add_const(cg, along.index, 4 * i + lane), const64(cg, k - 1));
            four_rows[lane] = load_bytes(cg, LLVMVectorType(cg->i8, (unsigned)wide), byte_at(cg, from, mul_by(cg, at, step)), 1);
        }
        square[i] = interleave_words(cg, four_rows);
    }
    transpose_words(cg, square, (unsigned)wide);
    for (int64_t i = 0; i < wide; i++) {
        LLVMValueRef place = add(cg, mul_by(cg, add_const(cg, row, i), pitch), along.index);
        store_bytes(cg, square[i], byte_at(cg, to, place), 4);
    }
    loop_end(cg, &along);
    loop_end(cg, &across);
}

static void stage_zero(Codegen *cg, const Dot *dot, LLVMValueRef to, int64_t bytes) {
    if (bytes > 0)
        LLVMBuildMemSet(cg->builder, to, LLVMConstInt(cg->i8, dot->biased ? 0x80 : 0, false), const64(cg, bytes), (unsigned)dot->bytes);
}

static LLVMValueRef is_within(Codegen *cg, const Padded *image, int i, LLVMValueRef index) {
    return compare(cg, LLVMIntULT, add_const(cg, index, -image->low[i]), const64(cg, image->size[i]));
}

void stage_border(Codegen *cg, const Dot *dot, const Padded *image, LLVMValueRef to) {
    int64_t behind = image->low[2] + image->size[2], wide = image->step[2];
    Loop depth = loop_begin(cg, const64(cg, 0), const64(cg, image->staged[0]));
    Loop high = loop_begin(cg, const64(cg, 0), const64(cg, image->staged[1]));
    LLVMValueRef row = byte_at(cg, to, add(cg, mul_by(cg, depth.index, image->step[0]), mul_by(cg, high.index, image->step[1])));
    LLVMValueRef within = LLVMBuildAnd(cg->builder, is_within(cg, image, 0, depth.index), is_within(cg, image, 1, high.index), "");
    Branch branch = if_begin(cg, within);
    stage_zero(cg, dot, row, image->low[2] * wide);
    stage_zero(cg, dot, byte_at_const(cg, row, behind * wide), (image->staged[2] - behind) * wide);
    if_else(cg, &branch);
    stage_zero(cg, dot, row, image->staged[2] * wide);
    if_end(cg, &branch);
    loop_end(cg, &high);
    loop_end(cg, &depth);
}

/* --- packing --- */

static void store_column(Codegen *cg, const Dot *dot, LLVMValueRef x, LLVMValueRef group, int lane) {
    store_bytes(cg, staged(cg, dot, x, false), byte_at_const(cg, group, lane * dot->bytes), (unsigned)dot->bytes);
}

/* Adjacent columns: rows of 16 interleaved. */
static void pack_rows(Codegen *cg, const Dot *dot, const Columns *columns, LLVMValueRef source, LLVMValueRef packed) {
    LLVMValueRef sources[4];
    int64_t full = columns->k / dot->quad, rest = columns->k % dot->quad, group = panel_bytes(dot, 1);
    Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, full));
    LLVMValueRef base = byte_at(cg, source, mul_by(cg, loop.index, dot->quad * columns->k_stride));
    for (int i = 0; i < dot->quad; i++)
        sources[i] = byte_at_const(cg, base, i * columns->k_stride);
    stage_interleaved(cg, dot, sources, NULL, byte_at(cg, packed, mul_by(cg, loop.index, group)), dot->panel, false);
    loop_end(cg, &loop);
    if (rest == 0)
        return;
    for (int i = 0; i < dot->quad; i++)
        sources[i] = i < rest ? byte_at_const(cg, source, (full * dot->quad + i) * columns->k_stride) : NULL;
    stage_interleaved(cg, dot, sources, NULL, byte_at_const(cg, packed, full * group), dot->panel, false);
}

static LLVMValueRef column_offset(Codegen *cg, const Columns *columns, LLVMValueRef column) {
    column = smin(cg, column, const64(cg, columns->columns - 1));
    if (columns->run == 0)
        return mul_by(cg, column, columns->column_stride);
    return add(cg, mul_by(cg, udiv_by(cg, column, columns->run), columns->run_stride),
               mul_by(cg, urem_by(cg, column, columns->run), columns->column_stride));
}

/* One column whose K is regular, from group `done` on: groups of adjacent bytes are moved as a word. */
static void pack_column_linear(Codegen *cg, const Dot *dot, const Columns *columns, int64_t done, LLVMValueRef source, LLVMValueRef to) {
    int64_t full = columns->k / dot->quad, group = panel_bytes(dot, 1), stride = columns->k_stride;
    int64_t bytes = dot_source(dot);
    LLVMTypeRef element = dot_element(cg, dot), word = LLVMVectorType(element, (unsigned)dot->quad);
    Loop loop = loop_begin(cg, const64(cg, done), const64(cg, full));
    LLVMValueRef from = byte_at(cg, source, mul_by(cg, loop.index, dot->quad * stride));
    LLVMValueRef at = byte_at(cg, to, mul_by(cg, loop.index, group));
    if (stride == bytes)
        store_bytes(cg, staged(cg, dot, load_bytes(cg, word, from, (unsigned)bytes), false), at, (unsigned)dot_group(dot));
    for (int i = 0; stride != bytes && i < dot->quad; i++)
        store_column(cg, dot, load_bytes(cg, element, byte_at_const(cg, from, i * stride), (unsigned)bytes), at, i);
    loop_end(cg, &loop);
    int64_t rest = columns->k % dot->quad;
    for (int i = 0; rest != 0 && i < dot->quad; i++) {
        LLVMValueRef place = byte_at_const(cg, source, (full * dot->quad + i) * stride);
        LLVMValueRef x = i < rest ? load_bytes(cg, element, place, (unsigned)bytes) : LLVMConstNull(element);
        store_column(cg, dot, x, byte_at_const(cg, to, full * group), i);
    }
}

/* Columns of adjacent K: squares of a panel's columns times as many groups; returns the groups done. The last panel's columns are clamped.
 */
static int64_t pack_squares(Codegen *cg, const Dot *dot, const Columns *columns, LLVMValueRef source, LLVMValueRef panel,
                            LLVMValueRef packed) {
    unsigned size = (unsigned)dot->panel, elements = size * (unsigned)dot->quad;
    int64_t squares = columns->k / elements;
    LLVMTypeRef row_type = LLVMVectorType(dot_element(cg, dot), elements), words = LLVMVectorType(cg->i32, size);
    Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, squares));
    LLVMValueRef at = byte_at(cg, source, mul_by(cg, loop.index, elements * dot_source(dot))), row[MAX_PANEL];
    LLVMValueRef to = byte_at(cg, packed, mul_by(cg, loop.index, panel_bytes(dot, size)));
    for (unsigned i = 0; i < size; i++) {
        LLVMValueRef from = byte_at(cg, at, column_offset(cg, columns, add_const(cg, mul_by(cg, panel, size), i)));
        LLVMValueRef x = load_bytes(cg, row_type, from, (unsigned)dot_source(dot));
        row[i] = LLVMBuildBitCast(cg->builder, staged(cg, dot, x, false), words, "");
    }
    transpose_words(cg, row, size);
    for (unsigned i = 0; i < size; i++)
        store_bytes(cg, row[i], byte_at_const(cg, to, panel_bytes(dot, i)), 4 * size);
    loop_end(cg, &loop);
    return squares * size;
}

typedef struct {
    int64_t place, group;
} Placed;

static int by_place(const void *a, const void *b) {
    const Placed *p = a, *q = b;
    return p->place != q->place ? (p->place > q->place) - (p->place < q->place) : (p->group > q->group) - (p->group < q->group);
}

/* Groups in the order of the memory that they are read from. */
static LLVMValueRef groups_by_place(Codegen *cg, const Dot *dot, const Columns *columns) {
    Placed *placed = arena_alloc(cg->memory, (size_t)columns->groups, sizeof *placed);
    int64_t *order = arena_alloc(cg->memory, (size_t)columns->groups, sizeof *order);
    for (int64_t i = 0; i < columns->groups; i++)
        placed[i] = (Placed){columns->lanes[i * dot->quad], i};
    qsort(placed, (size_t)columns->groups, sizeof *placed, by_place);
    for (int64_t i = 0; i < columns->groups; i++)
        order[i] = placed[i].group;
    return const_table(cg, cg->i32, order, (int)columns->groups);
}

/* Entries of the table of all lanes. */
static int64_t lane_count(const Dot *dot, const Columns *columns) {
    int64_t others = columns->lanes_step > 0 ? columns->columns / columns->run - 1 : 0;
    return columns->groups * dot->quad + others * columns->lanes_step;
}

static bool has_zeros(const Dot *dot, const Columns *columns) {
    for (int64_t i = 0; i < lane_count(dot, columns); i++)
        if (columns->lanes[i] < 0)
            return true;
    return false;
}

/* What packs columns by a table of places. */
typedef struct {
    const Dot *dot;
    const Columns *columns;
    LLVMValueRef order, table;
    LLVMValueRef from[MAX_PANEL]; /* of each column of the panel, where the places count from */
    LLVMValueRef own[MAX_PANEL];  /* and its own table, where runs have theirs */
    bool zeros, even;
} Places;

static LLVMValueRef group_at(Codegen *cg, const Places *places, LLVMValueRef index) {
    return as_bits(cg, load_bytes(cg, cg->i32, byte_at(cg, places->order, mul_by(cg, index, 4)), 4), 64);
}

static LLVMValueRef place_of(Codegen *cg, const Places *places, LLVMValueRef table, LLVMValueRef group, int lane) {
    LLVMValueRef entries = byte_at(cg, table, mul_by(cg, group, 4 * places->dot->quad));
    return load_bytes(cg, cg->i32, byte_at_const(cg, entries, 4 * lane), 4);
}

/* Asks for what a later group reads, where its columns are a few lines: no CPU sees that they are next. */
static void fetch_later(Codegen *cg, const Places *places, LLVMValueRef index, LLVMValueRef from) {
    enum { LATER = 18, MOST_LINES = 4 };
    int64_t bytes = places->dot->panel * places->columns->column_stride;
    if (bytes > MOST_LINES * CACHE_LINE)
        return;
    index = smin(cg, add_const(cg, index, LATER), const64(cg, places->columns->groups - 1));
    LLVMValueRef group = group_at(cg, places, index);
    for (int i = 0; i < places->dot->quad; i++)
        for (int64_t line = 0; line < bytes; line += CACHE_LINE)
            fetch_line(cg, byte_at_const(cg, byte_at(cg, from, as_bits(cg, place_of(cg, places, places->table, group, i), 64)), line));
}

static Places places_new(Codegen *cg, const Dot *dot, const Columns *columns, LLVMValueRef source, LLVMValueRef panel) {
    LLVMValueRef table = const_table(cg, cg->i32, columns->lanes, (int)lane_count(dot, columns)), first = mul_by(cg, panel, dot->panel);
    Places places = {dot, columns, groups_by_place(cg, dot, columns), table, .zeros = has_zeros(dot, columns)};
    places.even = columns->run == 0 && columns->columns % dot->panel == 0;
    for (int n = 0; n < (places.even ? 1 : dot->panel); n++) {
        LLVMValueRef column = add_const(cg, first, n), last = const64(cg, columns->columns - 1);
        places.from[n] = byte_at(cg, source, column_offset(cg, columns, column));
        if (columns->lanes_step > 0)
            places.own[n] = byte_at(cg, table, mul_by(cg, udiv_by(cg, smin(cg, column, last), columns->run), 4 * columns->lanes_step));
    }
    return places;
}

/* Lane i of a group of all columns of the panel. */
static void pack_lane(Codegen *cg, const Places *places, LLVMValueRef group, int i, LLVMValueRef to) {
    const Columns *columns = places->columns;
    unsigned bytes = (unsigned)dot_source(places->dot);
    LLVMValueRef zero = LLVMConstNull(dot_element(cg, places->dot)), offset = NULL, none = NULL, place = NULL;
    for (int n = 0; n < places->dot->panel; n++) {
        if (n == 0 || columns->lanes_step > 0) {
            offset = place_of(cg, places, columns->lanes_step > 0 ? places->own[n] : places->table, group, i);
            none = places->zeros ? compare(cg, LLVMIntSLT, offset, const32(cg, 0)) : NULL;
            place = as_bits(cg, places->zeros ? smax(cg, offset, const32(cg, 0)) : offset, 64);
        }
        LLVMValueRef at = byte_at(cg, places->from[places->even ? 0 : n], place);
        LLVMValueRef x =
            load_bytes(cg, dot_element(cg, places->dot), byte_at_const(cg, at, places->even ? n * columns->column_stride : 0), bytes);
        store_column(cg, places->dot, places->zeros ? choose(cg, none, zero, x) : x, byte_at_const(cg, to, n * dot_group(places->dot)), i);
    }
}

/* Columns whose K is anywhere: of each group the places are looked up once for all columns, or for each run. */
static void pack_table(Codegen *cg, const Dot *dot, const Columns *columns, LLVMValueRef source, LLVMValueRef panel, LLVMValueRef packed) {
    Places places = places_new(cg, dot, columns, source, panel);
    Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, columns->groups));
    LLVMValueRef group = group_at(cg, &places, loop.index);
    if (places.even)
        fetch_later(cg, &places, loop.index, places.from[0]);
    LLVMValueRef to = byte_at(cg, packed, mul_by(cg, group, panel_bytes(dot, 1)));
    for (int i = 0; i < dot->quad; i++)
        pack_lane(cg, &places, group, i, to);
    loop_end(cg, &loop);
}

void panel_sums(Codegen *cg, const Dot *dot, LLVMValueRef packed, int64_t groups, int64_t factor, LLVMValueRef *sums) {
    LLVMTypeRef type = dot_accumulator(cg, dot);
    LLVMValueRef locals[MAX_PANEL], ones = dot_splat(cg, dot, factor);
    int vectors = dot->panel / dot->lanes;
    for (int i = 0; i < vectors; i++)
        locals[i] = local_new(cg, type, LLVMConstNull(type));
    Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, groups));
    LLVMValueRef at = byte_at(cg, packed, mul_by(cg, loop.index, panel_bytes(dot, 1)));
    for (int i = 0; i < vectors; i++) {
        LLVMValueRef columns = dot_load_columns(cg, dot, byte_at_const(cg, at, i * dot->lanes * dot_group(dot)));
        local_set(cg, locals[i], dot_emit(cg, dot, local_get(cg, type, locals[i]), ones, columns));
    }
    loop_end(cg, &loop);
    for (int i = 0; i < vectors; i++)
        sums[i] = local_get(cg, type, locals[i]);
}

static void pack_columns(Codegen *cg, const Dot *dot, const Columns *columns, LLVMValueRef source, LLVMValueRef panel,
                         LLVMValueRef packed) {
    if (columns->lanes == NULL && columns->column_stride == dot_source(dot) && columns->run == 0) {
        pack_rows(cg, dot, columns, byte_at(cg, source, mul_by(cg, panel, dot->panel * dot_source(dot))), packed);
    } else if (columns->lanes != NULL) {
        pack_table(cg, dot, columns, source, panel, packed);
    } else {
        int64_t done = 0;
        if (columns->k_stride == dot_source(dot) && dot_group(dot) == 4)
            done = pack_squares(cg, dot, columns, source, panel, packed);
        Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, dot->panel));
        LLVMValueRef column = add(cg, mul_by(cg, panel, dot->panel), loop.index);
        LLVMValueRef from = byte_at(cg, source, column_offset(cg, columns, column));
        LLVMValueRef to = byte_at(cg, packed, mul_by(cg, loop.index, dot_group(dot)));
        pack_column_linear(cg, dot, columns, done, from, to);
        loop_end(cg, &loop);
    }
}

/* A group of a matrix register is as many groups of four elements; behind K they are zero. */
static void pack_matrix(Codegen *cg, const Dot *dot, const Columns *columns, LLVMValueRef source, LLVMValueRef panel, LLVMValueRef packed) {
    Dot four = *dot;
    Columns fours = *columns;
    four.quad = 4;
    fours.groups = columns->groups * dot->quad / 4;
    int64_t done = columns->lanes == NULL ? (columns->k + 3) / 4 : fours.groups;
    if (done < fours.groups)
        stage_zero(cg, dot, byte_at_const(cg, packed, panel_bytes(&four, done)), panel_bytes(&four, fours.groups - done));
    pack_columns(cg, &four, &fours, source, panel, packed);
}

void pack_panel(Codegen *cg, const Dot *dot, const Columns *columns, LLVMValueRef source, LLVMValueRef panel, LLVMValueRef packed,
                LLVMValueRef init) {
    if (dot_is_matrix(dot))
        pack_matrix(cg, dot, columns, source, panel, packed);
    else
        pack_columns(cg, dot, columns, source, panel, packed);
    if (init == NULL)
        return;
    LLVMValueRef sums[MAX_PANEL];
    panel_sums(cg, dot, packed, columns->groups, 128, sums);
    for (int i = 0; i < dot->panel / dot->lanes; i++) {
        LLVMValueRef negative = LLVMBuildNeg(cg->builder, sums[i], "");
        store_bytes(cg, negative, byte_at_const(cg, init, (int64_t)i * dot->lanes * 4), (unsigned)dot->lanes * 4);
    }
}
