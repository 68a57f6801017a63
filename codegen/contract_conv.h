/* Inside codegen/: what a conv or conv_dgrad is made of, as contract_conv_plan.c plans it and contract_conv.c computes it. */
#ifndef INTC_CODEGEN_CONTRACT_CONV_H
#define INTC_CODEGEN_CONTRACT_CONV_H

#include "codegen/contract_winograd.h"

/* A product of one phase, or of a part of its K whose sums fit in an i32; or of what one row of the kernel scatters. */
typedef struct {
    Columns columns;
    ProductCode code;
    int64_t a, w, b, init, c; /* bytes from the staged image, the weights, the panels, the starts, the result */
} Piece;

typedef struct {
    const Node *node;
    Dot dot;
    const Value *source, *weight, *result;
    bool backward;
    int64_t batch, channels, groups; /* channels of the source */
    int64_t terms, columns;          /* channels of a group that are summed over, and that come out */
    int64_t beside;                  /* pixels of a row of the result that are columns of one: their channels together fill a vector */
    int64_t out[3], kernel[3], stride[3], pad[3], dilation[3];
    int64_t xs[5], ws[5], ys[5]; /* strides N C D H W of source, weight (O I D H W), both in bytes, and result */
    Padded padded;               /* the source */
    int64_t pixel;               /* bytes of a staged pixel */
    int64_t apart;               /* pixels from the first to the second element of a pair of a depthwise convolution */
    int64_t image;               /* bytes of a staged image */
    int64_t together;            /* images of a run, which go through the products as rows of one */
    int64_t bands, band;         /* of an image whose sums are many, and bytes of the staged image from one to the next */
    int64_t b_bytes, init_bytes; /* of one group */
    Piece *pieces;
    int count;
    const WinogradForm *form; /* NULL: direct products */
    bool scatters;            /* products add to the result, which begins as zeros */
    Winograd *winograd;       /* from so many bytes behind the start of the staged image */
    int64_t reach;
    int64_t b, init, images, near, room; /* scratch: panels, starts; slots: staged images, sums that are not stored, Winograd's */
} Conv;

/* Plans the node with its direction: padded image, images together, bands where its sums stay near, products or Winograd, bytes of packed
 * weights. No scratch is taken. */
Conv *conv_plan(Codegen *cg, const Node *node, bool near);

#endif
