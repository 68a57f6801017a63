/* Inside codegen/: what a conv_wgrad is made of. contract_wgrad.c plans it, stages and multiplies; contract_wgrad_matrix.c and
 * contract_wgrad_tiled.c are the ways by matrix registers and by Winograd. */
#ifndef INTC_CODEGEN_CONTRACT_WGRAD_H
#define INTC_CODEGEN_CONTRACT_WGRAD_H

#include "codegen/contract_winograd.h"

enum { WANTED_TASKS = 8, MAX_OUTER = 4 };

typedef struct {
    const Node *node;
    Dot dot;
    const Value *x, *dy, *w;
    int64_t batch, groups, total; /* total: channels of x */
    int64_t channels, columns;    /* of x and of dy in a group */
    int64_t out[3], kernel[3], stride[3], dilation[3];
    Padded padded;                /* x of `quad` images */
    int64_t xs[5], ys[5], ws[5];  /* strides N C D H W, of x and dy in bytes; of w O I D H W */
    int64_t pixel;                /* bytes of a staged pixel of `quad` images */
    int64_t image;                /* bytes of `quad` staged images */
    int64_t pixels;               /* of dy */
    int64_t quads, chunks, chunk; /* runs of `quad` images: all, and in a chunk */
    int64_t slices, slice;        /* of a chunk, and runs in each */
    bool own;                     /* a task has its own images and slice; a chunk is one run */
    bool flat;                    /* a staged pixel of dy is one run of all columns, not a group of each panel */
    int64_t rows, panels;
    Type type;                                          /* of the sums */
    int64_t x_at, dy_at, sums_at, columns_at, index_at; /* scratch */
    Axis outer[MAX_OUTER];                              /* loops over K outside of the product; a: bytes of x, c: groups */
    int outers;
    ProductCode code;
    int64_t parts;
    /* Matrix registers: `width` pixels of dy in a row of one register, in `along` of which a run of adjacent pixels falls; of such runs an
     * image has `lines`. A row takes `row_bytes`. */
    int64_t width, along, run, lines[2], row_bytes;
    WinogradGrad *winograd;      /* NULL: direct products; else a run is one image, and */
    int64_t room, slice_step[2]; /* slots, and bytes of a slice of lifted x and dy */
} Wgrad;

/* Of the images of one run: their addresses in x or dy, clamped, and whether they exist. */
typedef struct {
    LLVMValueRef at[4], valid[4];
    bool all; /* every image exists */
} Images;

/* One of `of` parts of what is staged of a run. */
typedef struct {
    LLVMValueRef index; /* i64; NULL where there is one part */
    int64_t of;
} Part;

/* The range of n items that is in a part (i64). */
LLVMValueRef wgrad_part_begin(Codegen *cg, Part part, int64_t n);
LLVMValueRef wgrad_part_end(Codegen *cg, Part part, int64_t n);
/* Whether pixels of a row, and their channels, are adjacent. */
bool wgrad_contiguous(const int64_t *stride, int64_t bytes, int64_t channels, int64_t width);
/* Panels of all groups. */
int64_t wgrad_panels(const Wgrad *wgrad);
/* Bytes of the sums of one panel. */
int64_t wgrad_sums(const Wgrad *wgrad);
/* Of the chunk that is worked on (i64). */
LLVMValueRef wgrad_chunk(Codegen *cg, const Wgrad *wgrad);
/* K of one product, rows of the other operand as `a`; what is left of a slice are outer loops. */
void wgrad_plan_k(Wgrad *wgrad, Product *product);

/* --- matrix registers: rows are columns of dy, columns are channels of x --- */

/* How dy is staged. */
void wgrad_matrix_describe(Wgrad *wgrad);
/* Groups of K in a run of images, and bytes of one. */
int64_t wgrad_matrix_groups(const Wgrad *wgrad);
int64_t wgrad_matrix_group(const Wgrad *wgrad);
/* Taps that are products of their own. */
int64_t wgrad_matrix_taps(const Wgrad *wgrad);
void wgrad_matrix_product(Codegen *cg, Wgrad *wgrad, int64_t panel_step);
/* A part of the lines of dy of a run of images, in all panels. */
void wgrad_matrix_stage(Codegen *cg, const Wgrad *wgrad, const Images *images, Part part, LLVMValueRef to, int64_t panel_step);
/* Bytes of staged x, and elements of the sums, from the first tap to tap `tap` (i64). */
LLVMValueRef wgrad_matrix_tap(Codegen *cg, const Wgrad *wgrad, LLVMValueRef tap);
int64_t wgrad_matrix_tap_sums(const Wgrad *wgrad);
/* The kernel that adds slices and brings them to the order of the weights. */
void wgrad_matrix_finish(Codegen *cg, const Wgrad *wgrad);

/* --- Winograd --- */

/* The form that can be had: both operands have their channels innermost. NULL: none. */
const WinogradForm *wgrad_form(const Wgrad *wgrad);
void wgrad_plan_tiled(Codegen *cg, Wgrad *wgrad, const WinogradForm *form);
void wgrad_allocate_tiled(Codegen *cg, Wgrad *wgrad);
void wgrad_stage_tiled(Codegen *cg, const Wgrad *wgrad);
void wgrad_multiply_tiled(Codegen *cg, const Wgrad *wgrad);

#endif
