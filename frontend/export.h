/* What the files of the exporter share: an ONNX model under construction, with the places that the runtime fills. Private to frontend/.
 * Tensors are named by strings; everything lives in the arena of the graph. A refusal is kept and building goes on, so that no caller has
 * to check: ex_finish reports it instead of a model. */
#ifndef INTC_EXPORT_H
#define INTC_EXPORT_H

#include "ir/ir.h"
#include "ir/template.h"
#include "runtime/abi.h"

#include "onnx/onnx.pb-c.h"

/* What the exporter made of a value so far. */
typedef struct {
    const char *narrow; /* int8 tensor of its mantissas */
    const char *wide;   /* float64 tensor of its mantissas */
    const char *index;  /* int64 tensor of an integer value */
    int exponent;       /* position in the template's exponents, plus one */
    int bits;           /* of its magnitude, plus one */
} Exported;

typedef struct {
    void **at;
    int count, room;
} PointerList;

/* A patch of an initializer; its offset is known once the model is packed. */
typedef struct {
    int initializer;
    TemplatePatch patch;
} ExportPatch;

typedef enum {
    FORM_EXACT,    /* contractions in int32, everything behind them in float64 */
    FORM_OPERATOR, /* quantised operators, which requantise through float32, under conditions that make them exact */
    FORM_QDQ       /* float operators between DequantizeLinear and QuantizeLinear */
} ExportForm;

typedef struct {
    Arena *arena;
    const Graph *graph;
    ExportForm form;
    bool any_rows;    /* the model takes any number of rows */
    const bool *data; /* by id: depends on an input */
    PointerList nodes, initializers, patches, exponents, conditions, inputs, outputs;
    Exported *values; /* by id */
    int names;
    const char *refusal;
} Exporter;

void list_add(Arena *arena, PointerList *list, void *item);

/* --- a model under construction: export_build.c --- */

/* "Conv 'layer1/conv'" */
const char *ex_label(const Exporter *x, const Node *node);
/* Returns a placeholder name. */
const char *ex_refuse(Exporter *x, const Node *node, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define EX_NAMES(...) (const char *const[]){__VA_ARGS__}, (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))
/* Appends a node of one output; its name is ex_output. */
Onnx__NodeProto *ex_node(Exporter *x, const char *type, const char *const *in, int in_count);
/* The same; returns the output's name. */
const char *ex_emit(Exporter *x, const char *type, const char *const *in, int in_count);
#define EMIT(x, type, ...) ex_emit(x, type, EX_NAMES(__VA_ARGS__))
const char *ex_output(const Onnx__NodeProto *node);
void ex_attr_int(Exporter *x, Onnx__NodeProto *node, const char *name, int64_t value);
void ex_attr_ints(Exporter *x, Onnx__NodeProto *node, const char *name, int count, const int64_t *values);
/* type: Onnx__TensorProto__DataType */
const char *ex_cast(Exporter *x, const char *in, int type);

/* Initializers; equal ones are shared. */
const char *ex_tensor(Exporter *x, int type, Shape shape, const void *bytes, size_t size);
const char *ex_f64(Exporter *x, double value);
const char *ex_i8(Exporter *x, int value);
const char *ex_i64s(Exporter *x, int count, const int64_t *values);
/* Initializers that the runtime fills. */
const char *ex_scale32(Exporter *x, int exponent);
/* 2^(a - b + constant) as float64; b = -1: without. */
const char *ex_power(Exporter *x, int a, int b, int constant);
/* The exponent itself as float64. */
const char *ex_number(Exporter *x, int exponent);
/* A parameter, or a state that the calibration computes from parameters. */
bool ex_is_kept(const Value *value);
const char *ex_param_i8(Exporter *x, const Value *param, int bits);
const char *ex_param_i32(Exporter *x, const Value *param, int exponent);

/* Exponents; equal ones are shared. */
int ex_exponent(Exporter *x, TemplateExponent exponent);
int ex_constant(Exporter *x, int value);
int ex_sum(Exporter *x, int a, int b, int constant);
int ex_difference(Exporter *x, int a, int b, int constant);
/* floor(a / 2) */
int ex_half(Exporter *x, int a);
int ex_larger(Exporter *x, int a, int b);
int ex_smaller(Exporter *x, int a, int b);
void ex_condition(Exporter *x, int exponent, int low, int high, const char *text);

/* type: Onnx__TensorProto__DataType */
void ex_input(Exporter *x, const char *name, int type, Shape shape);
void ex_model_output(Exporter *x, const char *name, Shape shape);
/* Packs the model; a refusal leaves only its sentence. */
void ex_finish(Exporter *x, const char *format, ModelTemplate *model);

/* --- values: export_int8.c --- */

const char *ex_narrow(Exporter *x, const Value *value);
const char *ex_wide(Exporter *x, const Value *value);
const char *ex_index(Exporter *x, const Value *value);
int ex_exponent_of(Exporter *x, const Value *value);

/* --- rows: export_rows.c --- */

/* Fills x->data; whether the model may take any number of rows, in dimension 0 of its inputs and outputs. */
bool ex_find_rows(Exporter *x);

/* --- operators: export_ops.c --- */

/* ALIGN and FIRST: the common exponent. */
int ex_aligned_exponent(Exporter *x, const Node *node, bool first);
/* Bits that hold every magnitude of the value, with conditions where that depends on exponents; 0 if a float64 may be too small. */
int ex_bits(Exporter *x, const Value *value);
/* Float64 mantissas of output 0. */
const char *ex_operator(Exporter *x, const Node *node);
/* Ops that copy or select elements, on a tensor of any type. */
bool ex_is_move(Op op);
const char *ex_move(Exporter *x, const Node *node, const char *in);
/* The places of tuples of indices. */
const char *ex_places(Exporter *x, const Node *node);
/* clip's limit named min or max as float64 mantissa; NULL: unbounded. */
const char *ex_limit(Exporter *x, const Node *node, const char *name);
/* in * factor, rounded half to even. */
const char *ex_round(Exporter *x, const char *in, const char *factor);
const char *ex_power_of_two(Exporter *x, int exponent);
/* 2^level of every channel as float64. */
const char *ex_powers_of_levels(Exporter *x, const Value *level);
/* floor(in / 2^shift) */
const char *ex_floor(Exporter *x, const char *in, int shift);
const char *ex_to_double(Exporter *x, const char *in);
const char *ex_summed(Exporter *x, const char *in, int count, const int64_t *axes, bool keep);
/* Integers in int64, for what 53 bits do not hold. */
enum { EX_LONGEST = 62 };
const char *ex_i64(Exporter *x, int64_t value);
const char *ex_whole(Exporter *x, const char *in);
/* a / b half to even, b > 0, |a| < 2^62 */
const char *ex_divide_even(Exporter *x, const char *a, const char *b);
/* Bit length of integers in [0, 2^62), in a tensor of that rank. */
const char *ex_bit_length(Exporter *x, const char *in, int rank);

/* --- functions and rows: export_function.c --- */

const char *ex_doubles(Exporter *x, const double *values, int count);
/* The table's elements at an index in float64 */
const char *ex_gathered(Exporter *x, const char *table, const char *index);
const char *ex_function(Exporter *x, const Node *node);
const char *ex_exp(Exporter *x, const Node *node);
const char *ex_log(Exporter *x, const Node *node);
const char *ex_sqrt(Exporter *x, const Node *node);
const char *ex_softmax(Exporter *x, const Node *node);
const char *ex_log_softmax(Exporter *x, const Node *node);

/* --- normalisation: export_norm.c --- */

const char *ex_share(Exporter *x, const Node *node);
const char *ex_variance(Exporter *x, const Node *node);
/* The code 32 * mantissa + shift. */
const char *ex_rsqrt(Exporter *x, const Node *node);
const char *ex_normalize(Exporter *x, const Node *node);

/* --- packed bytes: export_wire.c --- */

/* Packs a model into the arena and finds the raw_data of its i-th initializer in the bytes: offset[i], 0 where there is none. False if it
 * is larger than a protobuf may be. */
bool export_pack(Arena *arena, const Onnx__ModelProto *model, const uint8_t **bytes, int64_t *size, int64_t *offset);

#endif
