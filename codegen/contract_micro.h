/* Inside the products of contract_kernel.c: the tile of rows and panels that is kept in registers over all of K. */
#ifndef INTC_CODEGEN_CONTRACT_MICRO_H
#define INTC_CODEGEN_CONTRACT_MICRO_H

#include "codegen/contract.h"

typedef struct {
    const Dot *dot;
    const Product *product;
    int panels, vectors; /* of a tile; vectors of a panel */
    int64_t stored;      /* columns of the block that are stored */
    int64_t tile[2];     /* rows along the last two axes */
    int64_t height;      /* rows of one matrix, of which the last axis of a tile has one or two */
    int split;           /* the axis that a range splits */
    LLVMValueRef function;
    LLVMValueRef acc[MAX_ACCUMULATORS];
    LLVMValueRef a, b; /* of the current position in K */
} Micro;

int64_t micro_rows(const Micro *micro);
/* The axis of the product that the tile's axis i runs along. */
const Axis *micro_axis(const Micro *micro, int i);
/* Bytes from the first row of the tile to that one, and elements from its result to that one's. */
int64_t micro_place(const Micro *micro, int64_t row);
int64_t micro_result(const Micro *micro, int64_t row);

/* Where a group lies from micro->a and micro->b on. */
typedef struct {
    int64_t a, b;
} KGroup;

/* --- tiles in vectors, or in matrix registers --- */

/* Chooses the tile. */
void vector_choose(Micro *micro);
void matrix_choose(Micro *micro);
/* The sums of a tile before its first group; groups one after another; then the sums to the results at c. skip: rows along the two tile
 * axes that another tile already did. */
void vector_begin(Codegen *cg, Micro *micro);
void matrix_begin(Codegen *cg, const Micro *micro, LLVMValueRef c);
void vector_groups(Codegen *cg, Micro *micro, const KGroup *groups, int64_t count);
void matrix_groups(Codegen *cg, const Micro *micro, const KGroup *groups, int64_t count);
void vector_end(Codegen *cg, const Micro *micro, LLVMValueRef c, const LLVMValueRef skip[2]);
void matrix_end(Codegen *cg, Micro *micro, LLVMValueRef c, const LLVMValueRef skip[2]);

/* Panels of a block of so many rows. */
int matrix_panels(int64_t rows);
/* The shapes of the registers, 64 bytes as ldtilecfg reads them; what sets them, before a tile, and releases the registers. */
const uint8_t *matrix_shape(Codegen *cg, const Micro *micro);
void matrix_configure(Codegen *cg, const uint8_t *shape);
void matrix_release(Codegen *cg);

#endif
