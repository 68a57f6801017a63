/* Tiles of a product in vectors: rows times panels, one dot instruction for each row and vector of columns. */
#include "codegen/contract_micro.h"

#include <stdlib.h>

/* --- the tile --- */

/* Vectors of a row. */
static int width_of(const Micro *micro) {
    return micro->panels * micro->vectors;
}

/* Rows of a tile: as few dot instructions and loads as possible over all tiles; at least four chains hide the latency. */
void vector_choose(Micro *micro) {
    int width = width_of(micro);
    int64_t most = micro->dot->accumulators / width, best = INT64_MAX;
    int64_t counts[2] = {micro_axis(micro, 0)->count, micro_axis(micro, 1)->count};
    int64_t highest = micro->product->scatters ? 1 : counts[0];
    for (int64_t high = 1; high <= most && high <= highest; high++)
        for (int64_t wide = 1; high * wide <= most && wide <= counts[1]; wide++) {
            int64_t rows = high * wide, dots = rows * width, loads = rows + width;
            int64_t cost = 8 * (dots > loads ? dots : loads) + 2 * loads + 12;
            cost = cost < 48 ? 48 : cost;
            cost *= ((counts[0] + high - 1) / high) * ((counts[1] + wide - 1) / wide);
            if (cost <= best) {
                best = cost;
                micro->tile[0] = high;
                micro->tile[1] = wide;
            }
        }
}

/* --- groups --- */

/* Bytes from the first vector of columns of the tile to that one. */
static int64_t column_place(const Micro *micro, int vector) {
    const Dot *dot = micro->dot;
    return vector / micro->vectors * micro->product->b_panel + vector % micro->vectors * dot->lanes * dot_group(dot);
}

/* One group, not of lanes. */
static void emit_group(Codegen *cg, Micro *micro, KGroup group) {
    LLVMValueRef columns[MAX_ACCUMULATORS];
    int width = width_of(micro);
    for (int i = 0; i < width; i++)
        columns[i] = dot_load_columns(cg, micro->dot, byte_at_const(cg, micro->b, group.b + column_place(micro, i)));
    for (int64_t row = 0; row < micro_rows(micro); row++) {
        LLVMValueRef a = dot_load_rows(cg, micro->dot, byte_at_const(cg, micro->a, group.a + micro_place(micro, row)));
        for (int i = 0; i < width; i++)
            micro->acc[row * width + i] = dot_emit(cg, micro->dot, micro->acc[row * width + i], a, columns[i]);
    }
}

/* Where a row of the tile reads a group. */
typedef struct {
    int64_t place, group, row;
} Read;

static int by_place(const void *left, const void *right) {
    const Read *a = left, *b = right;
    int64_t order = a->place != b->place ? a->place - b->place : a->group - b->group;
    return (order > 0) - (order < 0);
}

/* Groups of lanes: what several rows read is loaded once. */
static void emit_lanes(Codegen *cg, Micro *micro, const KGroup *group, int64_t count) {
    const Dot *dot = micro->dot;
    int64_t rows = micro_rows(micro), reads = 0;
    Read *all = arena_alloc(cg->memory, (size_t)(count * rows), sizeof *all);
    LLVMValueRef *columns = arena_alloc(cg->memory, (size_t)count, sizeof(LLVMValueRef)), a = NULL;
    for (int64_t i = 0; i < count; i++)
        for (int64_t row = 0; row < rows; row++)
            all[reads++] = (Read){group[i].a + micro_place(micro, row), i, row};
    qsort(all, (size_t)reads, sizeof *all, by_place);
    for (int vector = 0; vector < width_of(micro); vector++) {
        for (int64_t i = 0; i < count; i++)
            columns[i] = dot_load_columns(cg, dot, byte_at_const(cg, micro->b, group[i].b + column_place(micro, vector)));
        for (int64_t i = 0; i < reads; i++) {
            if (i == 0 || all[i].place != all[i - 1].place)
                a = dot_load_rows(cg, dot, byte_at_const(cg, micro->a, all[i].place + vector * dot->lanes * dot_group(dot)));
            LLVMValueRef *acc = &micro->acc[all[i].row * width_of(micro) + vector];
            *acc = dot_emit(cg, dot, *acc, a, columns[all[i].group]);
        }
    }
}

void vector_groups(Codegen *cg, Micro *micro, const KGroup *groups, int64_t count) {
    if (dot_is_lanes(micro->dot)) {
        emit_lanes(cg, micro, groups, count);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        emit_group(cg, micro, groups[i]);
}

/* --- sums --- */

void vector_begin(Codegen *cg, Micro *micro) {
    int width = width_of(micro);
    LLVMTypeRef type = dot_accumulator(cg, micro->dot);
    LLVMValueRef init = LLVMGetParam(micro->function, 2);
    for (int i = 0; i < width; i++) {
        unsigned align = (unsigned)micro->dot->lanes * 4;
        LLVMValueRef first =
            micro->product->init ? load_bytes(cg, type, byte_at_const(cg, init, (int64_t)i * align), align) : LLVMConstNull(type);
        for (int64_t row = 0; row < micro_rows(micro); row++)
            micro->acc[row * width + i] = first;
    }
}

/* Stores or adds `count` adjacent lanes from lane `first` on. */
static void store_lanes(Codegen *cg, const Product *product, LLVMValueRef x, int64_t first, int64_t count, LLVMValueRef address) {
    LLVMTypeRef element = element_type(cg, product->type);
    unsigned bytes = (unsigned)type_bytes(product->type);
    LLVMTypeRef type = count == 1 ? element : LLVMVectorType(element, (unsigned)count);
    LLVMValueRef part = x;
    if (count == 1) {
        part = LLVMBuildExtractElement(cg->builder, x, const32(cg, first), "");
    } else if (count < (int64_t)LLVMGetVectorSize(LLVMTypeOf(x))) {
        LLVMValueRef mask[MAX_PANEL];
        for (int64_t i = 0; i < count; i++)
            mask[i] = const32(cg, first + i);
        part = LLVMBuildShuffleVector(cg->builder, x, x, LLVMConstVector(mask, (unsigned)count), "");
    }
    if (product->accumulate)
        part = add(cg, part, load_bytes(cg, type, address, bytes));
    store_bytes(cg, part, address, bytes);
}

static LLVMValueRef lane_mask(Codegen *cg, int lanes, int64_t valid) {
    LLVMValueRef bits[MAX_PANEL];
    for (int i = 0; i < lanes; i++)
        bits[i] = LLVMConstInt(cg->i1, i < valid, false);
    return LLVMConstVector(bits, (unsigned)lanes);
}

/* Masked stores are one instruction on AVX-512, and slow or none elsewhere: there partial vectors go in pieces of a power of two. */
static void store_vector(Codegen *cg, const Micro *micro, LLVMValueRef x, LLVMValueRef address, int64_t valid) {
    const Product *product = micro->product;
    int64_t lanes = micro->dot->lanes, bytes = type_bytes(product->type);
    LLVMTypeRef type = LLVMVectorType(element_type(cg, product->type), (unsigned)lanes);
    valid = valid < lanes ? valid : lanes;
    if (product->type == T_I64)
        x = LLVMBuildSExt(cg->builder, x, type, "");
    if (product->column_stride == 1 && !product->accumulate && valid < lanes && target_has(cg, "avx512vl")) {
        LLVMTypeRef overloads[] = {type, cg->ptr};
        LLVMValueRef args[] = {x, address, const32(cg, bytes), lane_mask(cg, (int)lanes, valid)};
        intrinsic(cg, "llvm.masked.store", overloads, 2, args, 4);
        return;
    }
    for (int64_t first = 0, count; first < valid; first += count) {
        count = 1;
        while (product->column_stride == 1 && first + 2 * count <= valid)
            count *= 2;
        store_lanes(cg, product, x, first, count, byte_at_const(cg, address, first * product->column_stride * bytes));
    }
}

void vector_end(Codegen *cg, const Micro *micro, LLVMValueRef c, const LLVMValueRef skip[2]) {
    const Product *product = micro->product;
    int64_t bytes = type_bytes(product->type);
    int width = width_of(micro);
    for (int64_t row = 0; row < micro_rows(micro); row++) {
        int64_t at[2] = {row / micro->tile[1], row % micro->tile[1]};
        LLVMValueRef wanted = NULL;
        for (int i = 0; product->exclusive && i < 2; i++)
            if (micro_axis(micro, i)->count % micro->tile[i] != 0) {
                LLVMValueRef one = compare(cg, LLVMIntSLE, skip[i], const64(cg, at[i]));
                wanted = wanted == NULL ? one : LLVMBuildAnd(cg->builder, wanted, one, "");
            }
        Branch branch;
        if (wanted != NULL)
            branch = if_begin(cg, wanted);
        for (int i = 0; i < width; i++) {
            int64_t panel = i / micro->vectors, column = i % micro->vectors * micro->dot->lanes;
            int64_t offset = micro_result(micro, row) + panel * product->panel_stride + column * product->column_stride;
            int64_t valid = micro->stored - panel * micro->dot->panel - column;
            if (valid > 0)
                store_vector(cg, micro, micro->acc[row * width + i], byte_at_const(cg, c, offset * bytes), valid);
        }
        if (wanted != NULL)
            if_end(cg, &branch);
    }
}
