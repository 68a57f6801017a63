/* Inside the contraction emitters: one mechanism for matmul, convolution and their gradients.
 *
 * A product is C[row][column] = sum over K of A[row][k] * B[k][column] on staged operands. K runs in groups of `quad` elements, what one
 * dot instruction takes. The row operand is staged so that a group is `quad` adjacent elements; its address is that of the row plus a
 * compile-time offset of the group (a window of a padded image is such an operand without copies). The column operand is packed in panels
 * of `panel` columns, [panel][group][column][quad]. A tile of rows times panels is kept in registers over all of K.
 *
 * Where the dot instruction takes unsigned rows (VNNI), rows are staged plus 128 and 128 times the column's sum is taken off: sums wrap, so
 * this is exact. Matrix registers (AMX) take 16 rows of up to 64 signed bytes at once: a group is what one of their rows holds, of which
 * four elements of all columns are adjacent in a panel, [panel][group][quad / 4][column][4]. AVX2 sums pairs in 16 bits that saturate, so
 * there bytes are multiplied only where one operand is never negative (after a ReLU, say): two products of at most 127 * 128 fit. Loads may
 * read up to 63 bytes past an operand: scratch lies behind all values, and what is read there meets zero weights or lands in columns that
 * are not stored.
 *
 * Floats (--arith=float32) go the same way: a group is one float, and the dot a fused multiplication and addition. All strides of operands
 * are in bytes, of results in elements. */
#ifndef INTC_CODEGEN_CONTRACT_H
#define INTC_CODEGEN_CONTRACT_H

#include "codegen/emit.h"

enum { MAX_PANEL = 16, MAX_AXES = 4, MAX_ACCUMULATORS = 64, SLACK = 64 };
/* 131071 products of at most 128 * 128 fit in an i32. */
enum { MAX_I32_TERMS = 131071 };

typedef enum {
    DOT_MATRIX,
    DOT_VNNI512,
    DOT_VNNI256,
    DOT_MADD512,
    DOT_MADD256,
    DOT_MADD128,
    DOT_MADDUB256,
    DOT_SDOT,
    DOT_GENERIC,
    DOT_LANES,
    DOT_PAIRS512,
    DOT_PAIRS256,
    DOT_FLOAT,
    DOT_FLOAT_LANES
} DotKind;

typedef struct {
    DotKind kind;
    int quad;         /* elements of K in a group */
    int bytes;        /* of a staged element */
    int lanes;        /* 32-bit lanes of a vector */
    int panel;        /* columns of a panel: one vector of 8 or 16 lanes, or several of 4 */
    int accumulators; /* vectors that fit in registers beside the operands; of matrices, their rows */
    bool biased;      /* rows are staged plus 128 */
    bool swapped;     /* the columns, not the rows, are the operand that must not be negative */
} Dot;

/* The best one for so many columns of these operands. */
Dot dot_for(const Codegen *cg, int64_t columns, const Value *row_operand, const Value *column_operand);
/* The same without matrix registers. */
Dot dot_of_vectors(const Codegen *cg, int64_t columns, const Value *row_operand, const Value *column_operand);
/* Whether tiles lie in matrix registers. */
bool dot_is_matrix(const Dot *dot);
/* Groups that cut runs of so many adjacent elements of K into as few equal parts as possible: matrix registers take any multiple of four
 * elements, others what they take. */
void dot_fit(Dot *dot, int64_t run);
/* For depthwise convolutions: C[row][column] = sum over K of A[row][k][column] * B[k][column]. The groups of a row's columns are adjacent,
 * behind the address that other kinds broadcast from. pairs: groups of two are worth it; else plain multiplications. */
Dot dot_lanes(const Codegen *cg, Type type, bool pairs);
/* For operands of 16 bits on AVX2. */
Dot dot_words(void);
/* Whether the columns of a row are adjacent, and whether they are pairs. */
bool dot_is_lanes(const Dot *dot);
bool dot_has_pairs(const Dot *dot);
/* An element of an operand before staging: i8 or float. */
LLVMTypeRef dot_element(const Codegen *cg, const Dot *dot);
int64_t dot_source(const Dot *dot); /* its bytes */
/* Bytes of one group. */
int64_t dot_group(const Dot *dot);
/* acc + dot of the groups in a (all lanes the same) and b. */
LLVMValueRef dot_emit(Codegen *cg, const Dot *dot, LLVMValueRef acc, LLVMValueRef a, LLVMValueRef b);
LLVMTypeRef dot_accumulator(Codegen *cg, const Dot *dot);
/* The group of a row at `address` in all lanes, or those of adjacent columns. */
LLVMValueRef dot_load_rows(Codegen *cg, const Dot *dot, LLVMValueRef address);
/* A vector of column groups at `address`. */
LLVMValueRef dot_load_columns(Codegen *cg, const Dot *dot, LLVMValueRef address);
/* The row operand with all elements `value` (in staged form, 0 to 255 where biased). */
LLVMValueRef dot_splat(Codegen *cg, const Dot *dot, int64_t value);

/* --- small helpers --- */

LLVMValueRef byte_at(Codegen *cg, LLVMValueRef base, LLVMValueRef offset);
LLVMValueRef byte_at_const(Codegen *cg, LLVMValueRef base, int64_t offset);
LLVMValueRef load_bytes(Codegen *cg, LLVMTypeRef type, LLVMValueRef address, unsigned align);
void store_bytes(Codegen *cg, LLVMValueRef x, LLVMValueRef address, unsigned align);
int64_t round_up(int64_t x, int64_t unit);
/* A vector of so many equal lanes. */
LLVMValueRef splat(Codegen *cg, LLVMValueRef scalar, unsigned lanes);
int64_t panel_count(const Dot *dot, int64_t columns);

/* Strides N C D H W of a value of rank 3 to 5 (O I D H W of weights); 0 for dimensions that it lacks. */
void window_strides(const Value *value, int64_t to[5]);
/* `rank` sizes, strides or the like as those of D H W. */
void window_dims(int rank, const int64_t *list, int64_t absent, int64_t to[3]);

/* --- products --- */

/* One dimension of the rows or of K. A step is `a` bytes of the row operand, and of rows `c` elements of the result, of K `b` bytes of the
 * column operand (0 in all axes: groups follow each other). */
typedef struct {
    int64_t count, a, c, b;
} Axis;

typedef struct {
    Axis row[MAX_AXES];
    int rows;
    Axis k[MAX_AXES]; /* groups, outermost first */
    int ks;
    const int64_t *table;     /* the offsets of the groups where ks is 0 */
    int64_t groups;           /* of a whole panel; K may be a part of it */
    int64_t b_group, b_panel; /* bytes of the column operand from group to group and from panel to panel; 0: as pack_panel leaves it */
    int64_t b_four;           /* of matrix registers, from four elements of K to the next; 0: likewise */
    int64_t columns;          /* stored; the last panel is padded */
    int64_t column_stride, panel_stride;
    Type type;       /* of the result */
    bool accumulate; /* adds to the result */
    bool exclusive;  /* one tile alone stores a row; else tiles may overlap and store the same */
    bool scatters;   /* results overlap but along the last axis: a tile has rows of that alone, so that it need not wait for itself */
    bool init;       /* accumulators start from a vector of the panel */
} Product;

/* The code of a product: functions that compute one block of panels for a range of row tiles. */
typedef struct {
    Dot dot;
    int64_t blocks; /* main blocks, and one last block if last is not NULL */
    LLVMValueRef main, last;
    const uint8_t *main_shape, *last_shape;        /* of matrix registers; NULL: none */
    int64_t main_tiles, last_tiles;                /* tiles of the axis that a range splits */
    int64_t block_a, block_b, block_init, block_c; /* bytes from one main block to the next */
} ProductCode;

/* offsets[0] is 0. Describes offsets as nested equal steps where possible (ks > 0), else as a table. */
void product_groups(Product *product, const int64_t *offsets, int64_t count);
ProductCode product_new(Codegen *cg, const Dot *dot, const Product *product);
int64_t product_blocks(const ProductCode *code);
/* Into how many parts the rows of a block can be split. */
int64_t product_parts(const ProductCode *code);
/* Rows of a full tile of so many columns. */
int64_t product_tile(const Dot *dot, int64_t columns);
/* Computes all rows of blocks [from, to) (i64). init may be NULL. */
void product_run(Codegen *cg, const ProductCode *code, LLVMValueRef a, LLVMValueRef b, LLVMValueRef init, LLVMValueRef c, LLVMValueRef from,
                 LLVMValueRef to);
/* Computes block `block` (i64), part `part` of `parts` of its rows. */
void product_call(Codegen *cg, const ProductCode *code, LLVMValueRef a, LLVMValueRef b, LLVMValueRef init, LLVMValueRef c,
                  LLVMValueRef block, LLVMValueRef part, int64_t parts);

/* --- staging and packing --- */

/* The column operand before packing: lane l of group g of column n is the byte at lanes[g * quad + l] + n * column_stride (-1: zero), or,
 * without lanes, at (g * quad + l) * k_stride + n * column_stride, zero from k on. Of columns in runs of `run` (0: all are one), n counts
 * in the run, and one run begins run_stride behind the other, or has lanes of its own, lanes_step entries behind those before (0: none). */
typedef struct {
    int64_t groups, columns, column_stride;
    const int64_t *lanes;
    int64_t k, k_stride;
    int64_t run, run_stride, lanes_step;
} Columns;

int64_t panel_bytes(const Dot *dot, int64_t groups);
/* Packs one panel; init (may be NULL) receives -128 * sum of each column where rows are biased. */
void pack_panel(Codegen *cg, const Dot *dot, const Columns *columns, LLVMValueRef source, LLVMValueRef panel, LLVMValueRef packed,
                LLVMValueRef init);
/* Sums of the columns of a panel times factor, as panel / lanes vectors. */
void panel_sums(Codegen *cg, const Dot *dot, LLVMValueRef packed, int64_t groups, int64_t factor, LLVMValueRef *sums);

/* `rows` rows of `k` bytes, adjacent along the rows and `step` bytes apart along K, to staged rows `pitch` bytes apart, which is at least k
 * in whole lines of 64: for matrix registers. */
void stage_transposed(Codegen *cg, LLVMValueRef source, LLVMValueRef to, int64_t rows, int64_t k, int64_t step, int64_t pitch);
/* Four vectors of bytes, interleaved, as words; and a square of words, in place. */
LLVMValueRef interleave_words(Codegen *cg, const LLVMValueRef x[4]);
void transpose_words(Codegen *cg, LLVMValueRef *row, unsigned size);
/* n elements to staged row elements. */
void stage_run(Codegen *cg, const Dot *dot, LLVMValueRef source, LLVMValueRef to, int64_t n);
/* One staged row element. */
void stage_one(Codegen *cg, const Dot *dot, LLVMValueRef source, LLVMValueRef to);
/* quad runs of n elements, interleaved; valid (may be NULL): i1 each, false gives zero. rows: staged as rows, else as columns. Touches
 * exactly n elements of each. */
void stage_interleaved(Codegen *cg, const Dot *dot, const LLVMValueRef *sources, const LLVMValueRef *valid, LLVMValueRef to, int64_t n,
                       bool rows);
/* A staged image D H W: of its sizes, `size` places from `low` on are written for each image. */
typedef struct {
    int64_t size[3], low[3], staged[3];
    int64_t step[3]; /* bytes from place to place */
} Padded;

/* Fills what is around the places of staged rows with the staged zero. */
void stage_border(Codegen *cg, const Dot *dot, const Padded *image, LLVMValueRef to);

/* --- contractions whose sums are read while they are near --- */

/* What a kernel does with the sums, a part at a time, which lie in scratch: cg->near is the node's value. */
typedef struct {
    const char *suffix; /* of the kernel's name */
    bool turned;        /* the image with the largest magnitude should come first */
    void *context;
    void (*begin)(Codegen *cg, void *context);          /* at the start of the kernel */
    LLVMValueRef (*wanted)(Codegen *cg, void *context); /* i1: whether there is need of more images */
    /* i64: parts [first, after), of image `image` or from it on, are there */
    void (*parts)(Codegen *cg, void *context, LLVMValueRef image, LLVMValueRef first, LLVMValueRef after);
    void (*end)(Codegen *cg, void *context);
} SumReader;

/* A contraction whose value is not stored. */
typedef struct {
    const void *plan; /* NULL: none */
    int64_t parts;    /* that the reader is given one after another, or several at once: equal runs of the value in memory */
    /* Emits the kernel that computes it and calls the reader; may be called more than once. */
    void (*read)(Codegen *cg, const void *plan, const SumReader *reader);
} Sums;

/* Plans a contraction with `out` outermost in memory and emits the kernel that packs its weights. */
Sums sums_of_conv(Codegen *cg, const Node *node);
Sums sums_of_matmul(Codegen *cg, const Node *node);

#endif
