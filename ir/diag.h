/* Diagnostics: errors and notes are collected, named after the ONNX node they concern, and printed at the end. */
#ifndef INTC_IR_DIAG_H
#define INTC_IR_DIAG_H

#include <stdbool.h>
#include <stdio.h>

typedef struct Diag Diag;
/* Where a node came from; both strings may be NULL. "Conv" "layer1.0/conv". */
typedef struct {
    const char *op_type;
    const char *name;
    bool gradient; /* the node is part of the gradient of that ONNX node */
} Origin;

Diag *diag_new(const char *file);
void diag_free(Diag *diag);
/* One sentence without a final period or newline. origin may be NULL: the sentence concerns the whole file. */
void diag_error(Diag *diag, const Origin *origin, const char *format, ...) __attribute__((format(printf, 3, 4)));
void diag_note(Diag *diag, const Origin *origin, const char *format, ...) __attribute__((format(printf, 3, 4)));
int diag_errors(const Diag *diag);
/* "intc: error: model.onnx: Conv 'layer1.0/conv': sentence", one a line; equal lines are printed once. */
void diag_print(const Diag *diag, FILE *out);

/* The internal-error path: a broken invariant of intc itself. Prints and aborts. */
_Noreturn void internal_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
