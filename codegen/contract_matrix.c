/* Tiles of a product in matrix registers (AMX): eight of 16 rows of 64 bytes. A dot multiplies rows of one by the columns of another, which
 * lie as panels have them, and adds to a third. Up to four hold sums, matrices of rows times panels, so that what is loaded is used twice.
 */
#include "codegen/contract_micro.h"

enum { REGISTERS = 8, MOST_SUMS = 4, ROWS = 16, ROW_BYTES = 64, SHAPE_BYTES = 64 };

static int matrices(const Micro *micro) {
    return (int)(micro_rows(micro) / micro->height);
}

static int sum_register(const Micro *micro, int matrix, int panel) {
    return matrix * micro->panels + panel;
}

static int column_register(const Micro *micro, int panel) {
    return REGISTERS - micro->panels + panel;
}

/* What the sums and columns leave, in turn. */
static int row_register(const Micro *micro, int matrix) {
    int sums = matrices(micro) * micro->panels;
    return sums + matrix % (REGISTERS - micro->panels - sums);
}

static int64_t stored_columns(const Micro *micro, int panel) {
    int64_t left = micro->stored - panel * micro->dot->panel;
    return left < micro->dot->panel ? left : micro->dot->panel;
}

/* --- the tile --- */

int matrix_panels(int64_t rows) {
    return rows <= ROWS ? 3 : 2;
}

/* Cycles of a dot of matrices of so many rows, and of one group of a tile of them: few sums wait for what is loaded: a guess, above
 * the 38 cycles of one sum with both operands in the second cache. */
static int64_t dot_cycles(int64_t rows) {
    return rows < 9 ? 10 : rows + 2;
}

static int64_t group_cycles(int64_t sums, int64_t rows) {
    enum { LEAST = 52 };
    int64_t busy = sums * dot_cycles(rows);
    return busy < LEAST ? LEAST : busy;
}

void matrix_choose(Micro *micro) {
    enum { AROUND = 20, STORE = 18 };
    int64_t counts[2] = {micro_axis(micro, 0)->count, micro_axis(micro, 1)->count}, best = INT64_MAX;
    int64_t most = MOST_SUMS / micro->panels, highest = micro->product->scatters ? 1 : counts[0];
    for (int64_t high = 1; high <= most && high <= highest; high++)
        for (int64_t beside = 1; beside * high <= most; beside++)
            for (int64_t rows = 1; rows <= ROWS && rows * beside <= counts[1]; rows++) {
                int64_t sums = high * beside * micro->panels, wide = rows * beside;
                int64_t cost = micro->product->groups * group_cycles(sums, rows) + sums * STORE + AROUND;
                cost *= ((counts[0] + high - 1) / high) * ((counts[1] + wide - 1) / wide);
                if (cost <= best) {
                    best = cost;
                    micro->tile[0] = high;
                    micro->tile[1] = wide;
                    micro->height = rows;
                }
            }
}

/* --- instructions --- */

static LLVMValueRef number(Codegen *cg, int reg) {
    return LLVMConstInt(cg->i8, (unsigned)reg, false);
}

static void load(Codegen *cg, int reg, LLVMValueRef address, int64_t step) {
    intrinsic(cg, "llvm.x86.tileloadd64", NULL, 0, (LLVMValueRef[]){number(cg, reg), address, const64(cg, step)}, 3);
}

static void store(Codegen *cg, int reg, LLVMValueRef address, int64_t step) {
    intrinsic(cg, "llvm.x86.tilestored64", NULL, 0, (LLVMValueRef[]){number(cg, reg), address, const64(cg, step)}, 3);
}

/* Palette 1, bytes of a row from byte 16 on, rows from byte 48 on. */
const uint8_t *matrix_shape(Codegen *cg, const Micro *micro) {
    uint8_t *shape = arena_alloc(cg->memory, SHAPE_BYTES, 1);
    shape[0] = 1;
    for (int panel = 0; panel < micro->panels; panel++) {
        int columns = column_register(micro, panel), bytes = 4 * (int)stored_columns(micro, panel);
        shape[16 + 2 * columns] = (uint8_t)bytes;
        shape[48 + columns] = (uint8_t)(micro->dot->quad / 4);
        for (int matrix = 0; matrix < matrices(micro); matrix++) {
            int sums = sum_register(micro, matrix, panel), rows = row_register(micro, matrix);
            shape[16 + 2 * sums] = (uint8_t)bytes;
            shape[16 + 2 * rows] = (uint8_t)micro->dot->quad;
            shape[48 + sums] = shape[48 + rows] = (uint8_t)micro->height;
        }
    }
    return shape;
}

void matrix_configure(Codegen *cg, const uint8_t *shape) {
    int64_t bytes[SHAPE_BYTES];
    for (int i = 0; i < SHAPE_BYTES; i++)
        bytes[i] = shape[i];
    LLVMValueRef table = const_table(cg, cg->i8, bytes, SHAPE_BYTES);
    intrinsic(cg, "llvm.x86.ldtilecfg", NULL, 0, &table, 1);
    cg->matrix_registers = true;
}

void matrix_release(Codegen *cg) {
    intrinsic(cg, "llvm.x86.tilerelease", NULL, 0, NULL, 0);
}

static void emit_group(Codegen *cg, const Micro *micro, KGroup group) {
    int64_t step = micro->product->b_four != 0 ? micro->product->b_four : ROW_BYTES;
    for (int panel = 0; panel < micro->panels; panel++)
        load(cg, column_register(micro, panel), byte_at_const(cg, micro->b, group.b + panel * micro->product->b_panel), step);
    for (int matrix = 0; matrix < matrices(micro); matrix++) {
        int rows = row_register(micro, matrix);
        load(cg, rows, byte_at_const(cg, micro->a, group.a + micro_place(micro, matrix * micro->height)), micro_axis(micro, 1)->a);
        for (int panel = 0; panel < micro->panels; panel++) {
            LLVMValueRef args[] = {number(cg, sum_register(micro, matrix, panel)), number(cg, rows),
                                   number(cg, column_register(micro, panel))};
            intrinsic(cg, "llvm.x86.tdpbssd", NULL, 0, args, 3);
        }
    }
}

void matrix_groups(Codegen *cg, const Micro *micro, const KGroup *groups, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        emit_group(cg, micro, groups[i]);
}

/* --- sums --- */

/* Whether sums go from registers to the results: as many bytes, columns adjacent, and no row of a tile done by another already. */
static bool is_direct(const Micro *micro) {
    const Product *product = micro->product;
    bool apart = micro_axis(micro, 0)->count % micro->tile[0] == 0 && micro_axis(micro, 1)->count % micro->tile[1] == 0;
    return product->type == T_I32 && product->column_stride == 1 && (apart || !product->exclusive);
}

static LLVMValueRef result_at(Codegen *cg, const Micro *micro, LLVMValueRef c, int matrix, int panel) {
    return byte_at_const(cg, c, 4 * (micro_result(micro, matrix * micro->height) + panel * micro->product->panel_stride));
}

void matrix_begin(Codegen *cg, const Micro *micro, LLVMValueRef c) {
    for (int matrix = 0; matrix < matrices(micro); matrix++)
        for (int panel = 0; panel < micro->panels; panel++) {
            int sums = sum_register(micro, matrix, panel);
            if (micro->product->accumulate && is_direct(micro))
                load(cg, sums, result_at(cg, micro, c, matrix, panel), 4 * micro_axis(micro, 1)->c);
            else
                intrinsic(cg, "llvm.x86.tilezero", NULL, 0, (LLVMValueRef[]){number(cg, sums)}, 1);
        }
}

/* By way of memory to vectors. */
static void end_by_vectors(Codegen *cg, Micro *micro, LLVMValueRef c, const LLVMValueRef skip[2]) {
    LLVMTypeRef row = dot_accumulator(cg, micro->dot);
    LLVMValueRef room = local_array(cg, row, MOST_SUMS * ROWS);
    for (int i = 0; i < matrices(micro) * micro->panels; i++)
        store(cg, i, byte_at_const(cg, room, i * ROWS * ROW_BYTES), ROW_BYTES);
    for (int64_t i = 0; i < micro_rows(micro); i++)
        for (int panel = 0; panel < micro->panels; panel++) {
            int64_t at = sum_register(micro, (int)(i / micro->height), panel) * ROWS + i % micro->height;
            micro->acc[i * micro->panels + panel] = load_bytes(cg, row, byte_at_const(cg, room, at * ROW_BYTES), ROW_BYTES);
        }
    vector_end(cg, micro, c, skip);
}

void matrix_end(Codegen *cg, Micro *micro, LLVMValueRef c, const LLVMValueRef skip[2]) {
    if (!is_direct(micro)) {
        end_by_vectors(cg, micro, c, skip);
        return;
    }
    for (int matrix = 0; matrix < matrices(micro); matrix++)
        for (int panel = 0; panel < micro->panels; panel++)
            store(cg, sum_register(micro, matrix, panel), result_at(cg, micro, c, matrix, panel), 4 * micro_axis(micro, 1)->c);
}
