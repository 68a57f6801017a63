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
/* The same for other functions: table_X covers |x| in [0, 2^d) with the d of ir/functions.c; two tables of mish, x >= 0 and x <= 0. */
extern const int32_t table_erf[TABLE_INTERVALS + 1];
extern const int32_t table_erf_grad[TABLE_INTERVALS + 1];
extern const int32_t table_normal[TABLE_INTERVALS + 1];
extern const int32_t table_gelu_grad[TABLE_INTERVALS + 1];
extern const int32_t table_gelu_tanh[TABLE_INTERVALS + 1];
extern const int32_t table_gelu_tanh_grad[TABLE_INTERVALS + 1];
extern const int32_t table_swish_grad[TABLE_INTERVALS + 1];
extern const int32_t table_mish[2 * (TABLE_INTERVALS + 1)];
extern const int32_t table_mish_grad[2 * (TABLE_INTERVALS + 1)];
extern const int32_t table_hard[TABLE_INTERVALS + 1];
extern const int32_t table_hard_grad[TABLE_INTERVALS + 1];
extern const int32_t table_hard_swish_grad[TABLE_INTERVALS + 1];
extern const int32_t table_softplus_tail[TABLE_INTERVALS + 1];
extern const int32_t table_exp_below[TABLE_INTERVALS + 1];
/* The z beyond which a normal number lies on either side with probability 2^-(k + 1) (1 + i / 32), at 33 k + i; 12 fraction bits. */
enum { QUANTILE_FRACTION = 12, QUANTILE_INTERVALS = 32, QUANTILE_OCTAVES = 31 };
extern const int32_t table_quantile[QUANTILE_OCTAVES * (QUANTILE_INTERVALS + 1)];
/* sin of a turn, 15 fraction bits. */
extern const int32_t table_sine[TABLE_INTERVALS + 1];
/* 2^(k / 256) and log2(1 + k / 256), 16 fraction bits. */
extern const int32_t table_exp2[TABLE_ROW];
extern const int32_t table_log2[TABLE_ROW];

#endif
