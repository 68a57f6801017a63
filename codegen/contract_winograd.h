/* Inside codegen/: convolutions of 3 x 3 weights and stride 1 by Winograd's algorithm, on words of 16 bits. */
#ifndef INTC_CODEGEN_CONTRACT_WINOGRAD_H
#define INTC_CODEGEN_CONTRACT_WINOGRAD_H

#include "codegen/contract.h"

/* --- forms --- */

enum { WINOGRAD_TAPS = 3, WINOGRAD_REACH = 6, WINOGRAD_CHANNELS = 16 };

/* A transform of one dimension, in place. */
typedef void WinogradTransform(Codegen *cg, LLVMValueRef x[WINOGRAD_REACH]);

typedef struct {
    int tile, reach;                               /* results, and pixels that they read, along a side */
    int64_t inverse;                               /* of the odd part of what results are multiplied by, modulo 2^32, */
    int shift;                                     /* and the two-power */
    WinogradTransform *pixels, *weights, *results; /* of a convolution; pixels also of */
    WinogradTransform *dy, *taps;                  /* the gradient of the weights */
} WinogradForm;

/* D H W: kernel, strides and dilations of a convolution. */
typedef struct {
    const int64_t *kernel, *stride, *dilation;
} WinogradWindow;

/* Whether it can be had for one group of channels where direct products would use `dot`. */
bool winograd_serves(const Dot *dot, WinogradWindow window, int64_t terms, int64_t columns);
/* The sum that is a result: `terms` products of at most `product`, which may be cut into equal parts of multiples of `unit`, or, without,
 * of a few equal runs of pairs of tiles of an image (of whose pixels a gradient of weights is the sum); weights: pairs of channels whose
 * nine weights are lifted. */
typedef struct {
    int64_t terms, unit, product, weights;
} WinogradSum;

/* The form with the least work for images of H W results; NULL: none serves. */
const WinogradForm *winograd_choose(const int64_t out[2], const WinogradSum *sum);
/* Products that a result may be the sum of, and the largest part that is allowed; 0: none. */
int64_t winograd_most_terms(const WinogradForm *form, int64_t product);
int64_t winograd_part(const WinogradForm *form, const int64_t out[2], const WinogradSum *sum);
/* Tiles along a side. */
int64_t winograd_tiles(const WinogradForm *form, int64_t out);
/* Applies a transform to both dimensions: the first `from` become `to` in each. */
void winograd_transform(Codegen *cg, WinogradTransform *one, int from, int to, LLVMValueRef x[WINOGRAD_REACH][WINOGRAD_REACH]);
/* The results, of vectors of what was lowered. */
LLVMValueRef winograd_result(Codegen *cg, const WinogradForm *form, LLVMValueRef x);

/* --- a convolution, or the gradient to its input --- */

typedef struct Winograd Winograd;

/* H W throughout; the steps are in bytes, those of the result in elements. */
typedef struct {
    const WinogradForm *form;
    int64_t terms, columns;   /* channels that are summed over, and that come out, adjacent */
    int64_t part;             /* of terms whose sums are lowered at once */
    int64_t images, image[2]; /* that are multiplied together; steps of staged ones and of results */
    int64_t out[2], result[2];
    int bytes;             /* of a staged element */
    int64_t step[2];       /* of the staged image */
    int64_t column, term;  /* steps of the weights */
    int64_t first, tap[2]; /* the weight that meets the first pixel of a window, and the steps to the others */
} WinogradShape;

/* Images that it pays to multiply together, if they are small. */
int64_t winograd_together(const WinogradForm *form, const int64_t out[2]);
Winograd *winograd_new(Codegen *cg, const WinogradShape *shape);
int64_t winograd_weight_bytes(const Winograd *winograd);
/* Bytes of scratch that one call of winograd_multiply needs. */
int64_t winograd_room(const Winograd *winograd);
int64_t winograd_panels(const Winograd *winograd);
void winograd_pack(Codegen *cg, const Winograd *winograd, LLVMValueRef source, LLVMValueRef panel, LLVMValueRef packed);
/* Images, from the pixel that the first result reads first. */
void winograd_multiply(Codegen *cg, const Winograd *winograd, LLVMValueRef images, LLVMValueRef packed, LLVMValueRef room,
                       LLVMValueRef results);

/* --- the gradient of the weights --- */

typedef struct WinogradGrad WinogradGrad;

typedef struct {
    const WinogradForm *form;
    int64_t channels, columns; /* of x and of dy, adjacent */
    int64_t size[2], low[2];   /* H W of x and the padding before it */
    int64_t out[2];            /* of dy */
    int64_t x_row, dy_row;     /* bytes of a row, whose pixels are adjacent */
    int64_t images;            /* whose tiles are one K: a slice */
    int64_t parts;             /* of that K, whose sums are lowered one after another */
    Type type;                 /* of the sums */
} WinogradGradShape;

/* Tiles of an image of dy, brought to an even number. */
int64_t winograd_grad_tiles(const WinogradForm *form, const int64_t out[2]);
WinogradGrad *winograd_grad_new(Codegen *cg, const WinogradGradShape *shape);
/* Bytes of a slice of lifted x and dy, and of the scratch of one call of the functions that lift and multiply. */
int64_t winograd_grad_x_bytes(const WinogradGrad *grad);
int64_t winograd_grad_dy_bytes(const WinogradGrad *grad);
int64_t winograd_grad_room(const WinogradGrad *grad);
/* Lifts the image at `from` as image `image` of the slice at `to`. */
void winograd_grad_lift_x(Codegen *cg, const WinogradGrad *grad, LLVMValueRef image, LLVMValueRef from, LLVMValueRef room, LLVMValueRef to);
void winograd_grad_lift_dy(Codegen *cg, const WinogradGrad *grad, LLVMValueRef image, LLVMValueRef from, LLVMValueRef room,
                           LLVMValueRef to);
/* For an image that does not exist. */
void winograd_grad_skip_dy(Codegen *cg, const WinogradGrad *grad, LLVMValueRef image, LLVMValueRef to);
int64_t winograd_grad_blocks(const WinogradGrad *grad);
/* Adds block `block` of the gradients of a slice to sums [panel][tap][channel][column]. */
void winograd_grad_multiply(Codegen *cg, const WinogradGrad *grad, LLVMValueRef block, LLVMValueRef x, LLVMValueRef dy, LLVMValueRef room,
                            LLVMValueRef sums);

#endif
