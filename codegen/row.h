/* Inside codegen/: walks over the rows of a tensor along one axis; a tile is a row. row.c */
#ifndef INTC_CODEGEN_ROW_H
#define INTC_CODEGEN_ROW_H

#include "codegen/space.h"

/* A walk over the rows of a tensor of `shape` along `axis`. */
typedef struct {
    const Node *node;
    Shape shape;
    int axis;
    const uint8_t *order;
    int64_t length;
    Space space;
    Nest nest;
} Rows;

/* One tensor of the walk: first element of the row, and the step along the axis (0 for one element a row). */
typedef struct {
    const Value *value;
    int stream;
    int64_t step;
} Row;

Rows rows_open(const Node *node, const Value *main);
/* A tensor of the rows' shape, or one without the axis. */
Row rows_add(Rows *rows, const Value *value);
/* A tensor that broadcasts to the rows' shape. */
Row rows_add_broadcast(Rows *rows, const Value *value);
/* Begins the kernel, after all tensors are added. */
void rows_begin(Codegen *cg, Rows *rows);
/* work: operations of an element. */
void rows_end(Codegen *cg, Rows *rows, int work);
/* Element j of the current row: i64 or float. */
LLVMValueRef row_load(Codegen *cg, const Rows *rows, const Row *row, LLVMValueRef j);
void row_store(Codegen *cg, const Rows *rows, const Row *row, LLVMValueRef j, LLVMValueRef x);
/* Over the elements of a row. */
Loop row_loop(Codegen *cg, const Rows *rows);
/* Whether the label of the row counts, and the label (0 if it does not). */
LLVMValueRef row_label(Codegen *cg, const Rows *rows, const Row *t, LLVMValueRef *label);

#endif
