/* ONNX in: reading, checking and importing models. The one public header of frontend/ besides the exporter's. */
#ifndef INTC_FRONTEND_H
#define INTC_FRONTEND_H

#include "ir/ir.h"
#include "ir/template.h"

typedef struct OnnxFile OnnxFile;

typedef struct {
    const char *name;
    int64_t size;
} DimBinding;

/* A tensor read from a file: dimensions and the elements, integers (booleans too) or reals. */
typedef struct {
    int type; /* ONNX TensorProto.DataType */
    Shape shape;
    int64_t count;
    int64_t *ints; /* integer types, else NULL */
    double *reals; /* float types, else NULL */
} OnnxTensor;

/* A value for a graph input where an operator needs to know it while compiling (shapes, bounds). */
typedef struct {
    const char *name;
    const OnnxTensor *tensor;
} KnownInput;

typedef struct {
    int64_t batch; /* --batch; 0 = as exported, an error if that is symbolic */
    const DimBinding *dims;
    int dim_count;
    const char *loss;      /* "auto", "cross-entropy", "mse"; NULL = no loss, targets or metric */
    const char *output;    /* the output that the loss reads; NULL = the only one */
    bool training;         /* false: the inference graph only */
    bool frozen_batchnorm; /* BatchNormalization uses its running statistics while training too */
    const KnownInput *known;
    int known_count;
} ImportOptions;

/* Parses the model; external data are read from beside it when a tensor is used. NULL after diagnostics. Any bytes are safe. */
OnnxFile *onnx_read(Arena *arena, const char *path, Diag *diag);
/* Two graphs at STAGE_LOWERED. `train`: dropout active, a scalar ROLE_LOSS, the predictions and, with class labels, the counter "accuracy".
 * `infer`: dropout gone, the loss per row where it separates. train stays NULL unless options->training. */
bool onnx_import(const OnnxFile *file, const ImportOptions *options, Graph **train, Graph **infer, Diag *diag);
/* Everything that stands in the way of compiling, and notes; a batch that is not bound counts as 1. True if the model would compile. */
bool onnx_check(const OnnxFile *file, const ImportOptions *options, Diag *diag);
/* The message of a TensorProto file (as the ONNX test data hold). */
bool onnx_read_tensor(Arena *arena, const char *path, OnnxTensor *tensor, Diag *diag);

/* The ONNX operators and their versions, one a line. */
void onnx_list_ops(FILE *out);

/* Names of the graph's inputs that are no initializers, and of its outputs. */
int onnx_input_count(const OnnxFile *file);
const char *onnx_input_name(const OnnxFile *file, int index);
int onnx_output_count(const OnnxFile *file);
const char *onnx_output_name(const OnnxFile *file, int index);

/* --- ONNX out --- */

enum { EXPORT_MODELS = 4 }; /* most templates of one model */

/* The model itself with places for the trained weights; what cannot be written becomes a refusal. Appends to models; false only after a
 * diagnostic (external data that cannot be read). */
bool onnx_export_float(const OnnxFile *file, const Graph *infer, ModelTemplate *models, int *count, Diag *diag);
/* Formats int8 (integer operators) and qdq, from the graph with calibrated exponents (pass_calibrate, before layout and fuse). Appends two
 * or three templates. */
void onnx_export_int8(const Graph *fixed, ModelTemplate *models, int *count);

#endif
