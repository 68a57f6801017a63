/* Inside codegen/: loop nests over an index space, with linear indices into the tensors ("streams") that are walked together. */
#ifndef INTC_CODEGEN_SPACE_H
#define INTC_CODEGEN_SPACE_H

#include "codegen/emit.h"

enum { MAX_STREAMS = 96, MAX_DIMS = 2 * MAX_RANK };

/* A tensor that near caches do not hold: its offset in the arena, and bytes of an element; 0: there is none. */
typedef struct {
    int64_t offset;
    int bytes;
} Far;

typedef struct {
    int rank; /* dimensions in loop order, outermost first */
    int64_t extent[MAX_DIMS];
    int64_t parts;   /* into so many equal ones the tiles can be cut; 0: it does not matter */
    Vectors vectors; /* of the innermost loop */
    int jammed;      /* rows, the extent of the last dimension but one, that one turn of the innermost loop takes; 0: that is a loop too */
    int streams;
    int64_t stride[MAX_STREAMS][MAX_DIMS];
    int64_t base[MAX_STREAMS];
    bool logical[MAX_STREAMS]; /* no place in memory but what random_word takes: the logical index times INTC_RANDOM_STEP, in 32 bits */
    Far far[MAX_STREAMS];      /* what the stream reads, where that is asked for ahead */
} Space;

/* The loops of a space inside a kernel. */
typedef struct {
    const Space *space;
    int outer; /* how many outer dimensions the kernel's tile index runs over */
    Loop loops[MAX_DIMS];
    int loop_count;
    LLVMValueRef index[MAX_DIMS]; /* of each dimension */
    LLVMValueRef partial[MAX_STREAMS];
    LLVMValueRef first_row[MAX_STREAMS]; /* of jammed rows: its partial */
    LLVMValueRef running[MAX_STREAMS];   /* a logical stream that the innermost loop adds up; NULL: none */
} Nest;

/* A space over a logical shape; dimension k is logical dimension order[k] (NULL: the identity). */
Space space_new(Shape shape, const uint8_t *order);
/* Adds a stream with a stride for each logical dimension; returns its number. */
int space_stream(Space *space, const uint8_t *order, const int64_t *stride, int64_t base);
/* Drops dimensions of extent 1 and merges neighbours that every stream walks as one. */
void space_collapse(Space *space);
/* Makes two dimensions of one: the inner has `length` elements, a divisor. */
void space_cut(Space *space, int dimension, int64_t length);
/* Of the parts, how many share one index of the dimensions before that one. */
int64_t space_parts_from(const Space *space, int dimension);
int64_t space_elements(const Space *space);
/* Number of tiles of the kernel: the product of the outer dimensions, the elements of a space of one dimension. */
int64_t space_tiles(const Space *space);
/* Loops over the tiles of the kernel being built and, inside, all other dimensions. */
void nest_begin(Codegen *cg, Nest *nest, const Space *space);
/* Asks for what the innermost loop will read some turns later, each of `rows` rows: what the CPU fetches by itself is late. nest_begin does
 * it. */
void nest_look_ahead(Codegen *cg, const Nest *nest, int64_t rows);
LLVMValueRef nest_index(Codegen *cg, const Nest *nest, int stream); /* i64, of logical streams i32 */
/* For loops that are not begun here: every stream at its base; then what each dimension adds. */
void nest_start(Codegen *cg, Nest *nest, const Space *space);
void nest_advance(Codegen *cg, Nest *nest, int dimension, LLVMValueRef index);
/* Of jammed rows, goes on to that one; they begin with 0. Between nest_begin and nest_end. */
void nest_row(Codegen *cg, Nest *nest, int row);
void nest_end(Codegen *cg, Nest *nest);
/* A kernel that fills output 0 with zeros. */
void emit_zeros(Codegen *cg, const Node *node);

/* --- groups: a pointwise expression over a space --- */

/* A value as read inside a group: dims[d] is the logical dimension of the space that its logical dimension d follows, -1: always index 0.
 */
typedef struct {
    const Value *value;
    int dims[MAX_RANK];
} View;

typedef struct {
    View view;
    int stream;
} Leaf;

/* Short inner loops are widened: rows of `period / repeat` elements, taken `repeat` at a time, make one loop; a stream that is not linear
 * over it is read from a table of `period` entries, made once a kernel: elements of an operand that all rows share, or parts of a logical
 * index. */
typedef struct {
    Space *space;
    const uint8_t *order;
    Leaf leaves[MAX_STREAMS];
    int leaf_count;
    bool tabled[MAX_STREAMS]; /* by stream */
    LLVMValueRef table[MAX_STREAMS];
    int64_t step[MAX_STREAMS][2]; /* of a tabled stream: from row to row, from element to element */
    int64_t period, repeat;
    const Node *near;               /* a fused convolution, a leaf that the kernel has in scratch image by image; NULL: none */
    const Node *nodes[MAX_STREAMS]; /* fused into the expression, those beyond the first MAX_STREAMS left out */
    int node_count;
} Group;

View view_same(const Value *value);
/* Adds the streams of everything that the expression loads. */
void group_collect(Codegen *cg, Group *group, View view);
/* Adds the stream of the logical (row-major) index of `shape`. */
int group_logical(Group *group, Shape shape);
/* Collapses the space and widens its inner loop where that helps; what is read of large tensors is asked for ahead. After all streams are
 * added. */
void group_close(Group *group);
/* Has large tensors asked for ahead: whether there are any. group_close does it. */
bool group_look_ahead(const Group *group);
/* Fills the tables, those of functions too; at the start of every kernel of the group. */
void group_prepare(Codegen *cg, Group *group);
/* What random_word takes, of a stream of group_logical. */
LLVMValueRef group_index(Codegen *cg, const Group *group, const Nest *nest, int stream);
/* The element of a view at the nest's position: i32, or i64 or float where the value's type is. Kernel code. */
LLVMValueRef group_eval(Codegen *cg, const Group *group, const Nest *nest, View view);
ElementEmitter *element_emitter(Op op);
bool value_is_fused(const Value *value);
/* Element functions outside pointwise.c: norm.c. */
ElementEmitter element_share, element_variance, element_rsqrt, element_inv_sqrt, element_equalize, element_restore, element_normalize,
    element_norm_line, element_norm_apply, element_norm_dot, element_norm_slope, element_norm_grad;

#endif
