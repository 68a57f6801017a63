/* What the files of frontend/ share about a parsed model. Private to frontend/. */
#ifndef INTC_ONNX_FILE_H
#define INTC_ONNX_FILE_H

#include "frontend/frontend.h"

#include "onnx/onnx.pb-c.h"

enum { ONNX_OPSET_NEWEST = 28 };
/* Limits that keep size arithmetic far from overflow. */
#define ELEMENT_LIMIT ((int64_t)1 << 31)
#define CONSTANT_LIMIT ((int64_t)1 << 28)

struct OnnxFile {
    Arena *arena;
    const char *path;
    const char *folder; /* of the model, with its final slash; "" = the working directory */
    const uint8_t *bytes;
    size_t size;
    const Onnx__ModelProto *model;
};

/* The whole file; false after a diagnostic. */
bool file_read(Arena *arena, const char *path, const uint8_t **bytes, size_t *size, Diag *diag, const Origin *origin);
/* `length` bytes (-1: the rest) at `offset` of a file beside the model. */
bool file_read_external(const OnnxFile *file, Arena *arena, const Onnx__TensorProto *proto, const uint8_t **bytes, size_t *size,
                        Diag *diag);

/* Element types that distributions' onnx.proto may be too old to name. */
enum {
    NEWER_FLOAT8E4M3FN = 17,
    NEWER_FLOAT8E4M3FNUZ,
    NEWER_FLOAT8E5M2,
    NEWER_FLOAT8E5M2FNUZ,
    NEWER_UINT4,
    NEWER_INT4,
    NEWER_FLOAT4E2M1,
    NEWER_FLOAT8E8M0,
    NEWER_UINT2,
    NEWER_INT2
};
/* Element types: floating point of 4 bits and more; the integers and BOOL. */
bool onnx_type_is_real(int type);
bool onnx_type_is_integer(int type);
/* A type that parameters have: FLOAT, FLOAT16, BFLOAT16, DOUBLE. */
bool onnx_type_learns(int type);
/* Bits of INT4, UINT4, INT2 and UINT2, else 0. */
int onnx_small_integer(int type);
typedef struct {
    int type, bits, digits, least; /* significant digits, exponent of the smallest unit */
    double most;
    bool unsigned_zero;
} SmallFloat;
/* NULL unless the type is a float of 4 or 8 bits with a sign. */
const SmallFloat *onnx_small_float(int type);
const char *onnx_type_name(int type);
/* A real rounded to what the type holds; integers wrapped to their width. */
double onnx_round_real(double value, int type);
int64_t onnx_wrap_integer(int64_t value, int type);
/* Dimensions of a tensor; false after a diagnostic (rank, negative, too many elements). */
bool onnx_tensor_shape(const Onnx__TensorProto *proto, const Origin *origin, Shape *shape, Diag *diag);
/* Decodes a tensor in any encoding; file may be NULL where external data are not allowed. */
OnnxTensor *onnx_decode(const OnnxFile *file, Arena *arena, const Onnx__TensorProto *proto, const Origin *origin, Diag *diag);
/* -1 if the product passes the limit or a dimension is negative. */
int64_t checked_elements(Shape shape, int64_t limit);

#endif
