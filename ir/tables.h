/* Function tables of the pointwise and row operators: exact constants shared by the interpreter and the code generator
 * (docs/operators.md, "Tables" and "Rows"). Written by ir/make_tables.py. */
#ifndef INTC_IR_TABLES_H
#define INTC_IR_TABLES_H

#include <stdint.h>

enum { TABLE_INTERVALS = 1024, TABLE_ROW = 258 };

/* f(i * 2^d / 1024), 15 fraction bits; d = 4 for sigmoid and its derivative, 3 for tanh and its derivative. */
extern const int32_t table_sigmoid[TABLE_INTERVALS + 1];
extern const int32_t table_sigmoid_grad[TABLE_INTERVALS + 1];
extern const int32_t table_tanh[TABLE_INTERVALS + 1];
extern const int32_t table_tanh_grad[TABLE_INTERVALS + 1];
/* 2^(k / 256) and log2(1 + k / 256), 16 fraction bits. */
extern const int32_t table_exp2[TABLE_ROW];
extern const int32_t table_log2[TABLE_ROW];

#endif
