/* The ABI between a compiled module and the runtime: what codegen emits and runtime/ reads. Freestanding.
 * All memory of a trainer is one arena. Its first state_size bytes persist (parameters, momentum, exponents of both, calibrated exponents):
 * they are what a checkpoint holds. */
#ifndef INTC_RUNTIME_ABI_H
#define INTC_RUNTIME_ABI_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INTC_ABI_VERSION 9
#define INTC_ARENA_ALIGN 64

enum intc_type {
    INTC_I8 = 1,
    INTC_I16,
    INTC_I32,
    INTC_I64,
    INTC_F32 /* --arith=float32: IEEE single precision, no exponent beside it; labels and counters stay integers */
};

enum intc_tensor_kind {
    INTC_INPUT,      /* data of a batch: the runtime maps it to `bits` bits and sets the exponent */
    INTC_TARGET,     /* labels (integer) or values (mapped like an input) */
    INTC_PARAM,      /* learned initializer, 16-bit master */
    INTC_STATE,      /* momentum, running statistics, what calibration folds */
    INTC_HYPER,      /* scalar i32 mantissa with exponent, or f32; name: momentum, decay, step_w, step_g, step_v */
    INTC_PREDICTION, /* output of infer */
    INTC_LOSS,  /* step: scalar, the loss that is minimised; infer: [batch], the loss of each row, or a scalar where rows cannot be told
                   apart */
    INTC_METRIC /* scalar i64 counter: correct predictions; rows with a label outside [0, classes) do not count */
};

/* Which function reads or writes the tensor. */
enum intc_tensor_scope { INTC_IN_STEP = 1, INTC_IN_INFER = 2, INTC_IN_BOTH = 3 };

struct intc_tensor {
    const char *name; /* as in the ONNX model */
    int8_t kind, scope, type, rank;
    int8_t integer;            /* labels: no exponent */
    int8_t bits;               /* width that an input is mapped to; 32 of f32 */
    const int64_t *dim;        /* rank of them */
    const int64_t *stride;     /* of each logical dimension, in elements */
    int64_t offset;            /* of the first element, in bytes from the arena */
    int64_t exponent_offset;   /* of the i32 exponent; -1 for integers and f32 */
    int64_t calibrated_offset; /* of the calibrated exponent (i32) of an input or prediction in infer; -1 otherwise */
    int64_t classes;           /* integers of a batch: labels and indices are in [0, classes); 0 otherwise */
    int64_t ignored;           /* one more label of a target: it counts for nothing; INT32_MIN: none */
};

/* The calibration chooses the slot's exponent from those that the value has after each batch. */
struct intc_calibration {
    int64_t exponent_offset, slot_offset;
    int32_t bits; /* of the value's mantissas */
};

struct intc_pool;
/* Slots of a kernel: scratch in the arena that one thread uses at a time. */
#define INTC_SLOTS 16
/* places: the call's own table of arena offsets and numbers, which only the kernel can read; slot: below the threads of its call, and no
 * other's while the kernel runs. */
typedef void intc_kernel(unsigned char *arena, const void *places, int64_t begin, int64_t end, int64_t slot);
typedef void intc_entry(unsigned char *arena, struct intc_pool *pool);

/* One call of a kernel by an entry function. What it refers to is told by its distance in bytes from the call itself: half of an address,
 * and nothing to relocate. */
struct intc_call {
    int32_t kernel, places;
    int32_t name, origin; /* the kind of work, and what of the model it belongs to; for profiles */
    int64_t tiles;
    int32_t images;  /* where not 0: tiles are these in their order, and those of the image to begin with should come first */
    int16_t threads; /* that may share the call; 1: not enough work for the pool */
    int8_t again;    /* where not 0: so many calls before this one, and this, are repeated while it asks for it */
    int8_t gradient; /* 1: it belongs to the gradient of its origin */
};
static inline const char *intc_call_text(const struct intc_call *call, int32_t distance) {
    return (const char *)call + distance;
}
static inline intc_kernel *intc_call_kernel(const struct intc_call *call) {
    return (intc_kernel *)((uintptr_t)call + (uintptr_t)(intptr_t)call->kernel);
}
static inline const void *intc_call_places(const struct intc_call *call) {
    return (const char *)call + call->places;
}
/* Does the tiles [begin, end) of a call. */
static inline void intc_call_run(const struct intc_call *call, unsigned char *arena, int64_t begin, int64_t end, int64_t slot) {
    intc_call_kernel(call)(arena, intc_call_places(call), begin, end, slot);
}

/* Calls the kernel on disjoint ranges that cover [0, tiles), on the pool's threads if it is worth them; returns when all are done. image:
 * the one to begin with, if the call has so many. Defined by the runtime. */
void intc_rt_call(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image);

/* Asks the system for the CPU's matrix registers (AMX), for this thread and those that it starts from now on; false: there are none.
 * Defined by the runtime; to be called before a module that needs them runs. */
bool intc_rt_matrix_registers(void);

/* Bytes with long stretches of zeros, which are left out: the rest, run by run. */
struct intc_run {
    int64_t offset, size; /* in the whole */
};
struct intc_image {
    const struct intc_run *runs; /* in ascending order */
    int64_t run_count;
    const unsigned char *bytes; /* of all runs, one after the other */
};
/* Writes the runs to their places; what lies between is to be zero already. */
static inline void intc_image_copy(const struct intc_image *image, unsigned char *to) {
    const unsigned char *from = image->bytes;
    for (int64_t i = 0; i < image->run_count; i++) {
        memcpy(to + image->runs[i].offset, from, (size_t)image->runs[i].size);
        from += image->runs[i].size;
    }
}

/* An exponent that an exported model needs, computed from the trained state and from exponents before it. */
enum intc_exponent_kind {
    INTC_EXPONENT_CONST,  /* constant */
    INTC_EXPONENT_SLOT,   /* the calibrated exponent (i32) at arena offset `offset` */
    INTC_EXPONENT_PARAM,  /* of the parameter `tensor` as it is stored */
    INTC_EXPONENT_MAPPED, /* of the parameter `tensor` mapped to `bits` bits, nearest */
    INTC_EXPONENT_LEAST,  /* the least mantissa of the parameter `tensor` */
    INTC_EXPONENT_ADD,    /* a + b + constant, clamped to [INTC_EXPONENT_ZERO, -INTC_EXPONENT_ZERO] */
    INTC_EXPONENT_SUB,    /* a - b + constant, clamped */
    INTC_EXPONENT_MAX,    /* the larger of a and b */
    INTC_EXPONENT_MIN,    /* the smaller */
    INTC_EXPONENT_HALF    /* floor(a / 2) */
};
struct intc_exponent {
    int32_t kind, a, b; /* a, b: positions of earlier exponents */
    int32_t constant, tensor, bits;
    int64_t offset;
};

/* One place of an exported model whose bytes come from the arena. */
enum intc_patch_kind {
    INTC_PATCH_F32,       /* elements of tensor as float32, in logical row-major order as all below */
    INTC_PATCH_F16,       /* as float16, nearest even */
    INTC_PATCH_F64,       /* as float64 */
    INTC_PATCH_I8,        /* elements of tensor mapped to `bits` bits, nearest, as int8 */
    INTC_PATCH_I32,       /* elements of tensor as int32 mantissas at `exponent`, nearest even, saturated; exponent -1: as stored */
    INTC_PATCH_SCALE_F32, /* float32 2^exponent, the exponent clamped to [-126, 127] */
    INTC_PATCH_SCALE_F64, /* float64 2^exponent, the exponent clamped to [-900, 900] */
    INTC_PATCH_NUMBER_F64 /* float64, the exponent itself */
};
struct intc_patch {
    int64_t offset, size; /* in the model's bytes */
    int32_t kind;
    int32_t tensor; /* index into tensors; -1 for a scale */
    int32_t bits;
    int32_t exponent; /* position in the model's exponents, or -1 */
};
/* The model is exact only while low <= exponent <= high. */
struct intc_condition {
    int32_t exponent, low, high;
    int32_t text; /* where in the record one sentence begins that tells what is wrong otherwise */
};
/* Several models may have one format, best first: the first whose conditions all hold is written; if none, the last one's broken condition
 * is the error.
 * The record holds, one after the other: exponents; patches in the order of their offsets, none over another; conditions; the model's bytes
 * without those that the patches write; sentences. It is deflated (RFC 1950), but in trainers that are linked without zlib, and where it is
 * large. */
struct intc_model {
    const char *format;  /* "float", "int8", "qdq" */
    const char *refusal; /* NULL, or why this format cannot be written; then there is no record */
    int64_t size;        /* of the model, in bytes */
    int64_t exponent_count, patch_count, condition_count;
    const unsigned char *record; /* aligned to 8 */
    int64_t record_size;         /* as it lies there */
    int64_t unpacked_size;       /* the same if it is not deflated */
};

struct intc_module {
    uint32_t abi;
    uint32_t tensor_count, calibration_count, model_count;
    uint32_t matrix_registers; /* 1: kernels use those of the CPU, which the system is to be asked for (AMX) */
    const char *name;          /* file name of the model */
    const char *options;       /* "--batch=128 --bits=8 ..." */
    const char *loss;          /* cross-entropy, mse, ... */
    const struct intc_tensor *tensors;
    const struct intc_calibration *calibrations;
    const struct intc_model *models;
    int64_t batch;
    int64_t arena_size, state_size;
    int64_t random_offset;         /* two u64: seed, step */
    int64_t constants_size;        /* behind the state */
    struct intc_image initial;     /* of [0, state_size + constants_size) at start */
    const struct intc_call *calls; /* of all entries, in the order of their code */
    int64_t call_count;
    intc_entry *step, *calibrate, *infer;
};

/* The module a trainer is linked with. */
extern const struct intc_module intc_module;

#endif
