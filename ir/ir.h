/* The integer IR: graphs of nodes and values. The one public header of ir/.
 *
 * A graph holds a topologically ordered list of nodes. A value is a tensor: logical shape (row-major meaning), mantissa type, the bound of
 * its mantissas and how its exponent is known. Until the pass `exponents` non-integer values have type T_REAL; after it none has.
 * With --arith=float32 that pass never runs: T_REAL then is what a place of the arena holds as float32.
 * docs/architecture.md tells the stages, docs/operators.md what each op computes. */
#ifndef INTC_IR_H
#define INTC_IR_H

#include "ir/arena.h"
#include "ir/diag.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { MAX_RANK = 8 };

typedef enum { T_REAL, T_I8, T_I16, T_I32, T_I64 } Type;

typedef struct {
    int rank;
    int64_t dim[MAX_RANK];
} Shape;

typedef enum {
    OP_NONE,
#define OP(name, ...) OP_##name,
#include "ir/ops.def"
#undef OP
    OP_COUNT
} Op;

typedef enum { KIND_CONTRACT, KIND_POINTWISE, KIND_REDUCE, KIND_WINDOW, KIND_MOVE, KIND_ROW, KIND_SCALE, KIND_RANDOM } OpKind;
typedef enum { RULE_SUM, RULE_SAME, RULE_ALIGN, RULE_FIRST, RULE_CONST, RULE_RESCALE, RULE_HALF, RULE_LABEL, RULE_NONE } ExponentRule;

typedef struct Graph Graph;
typedef struct Node Node;
typedef struct Value Value;

/* What is known of an op without looking at a node. */
typedef struct {
    const char *name;
    OpKind kind;
    int min_in, max_in, outs;
    const char *reads;
    ExponentRule exponent;
    int64_t (*bound)(const Node *node);
    bool (*infer)(Node *node, Diag *diag);
} OpInfo;

const OpInfo *op_info(Op op);
/* OP_NONE if there is no such op. */
Op op_find(const char *name);
/* The letter of `reads` for one input: 'n', 'h', 'w' or 'i'. */
char op_reads(Op op, int input);

/* --- attributes --- */

typedef enum { ATTR_INT, ATTR_INTS, ATTR_REAL, ATTR_TEXT } AttrKind;
typedef struct {
    const char *name;
    AttrKind kind;
    int64_t integer;
    double real;
    const char *text;
    int count;
    const int64_t *ints;
} Attr;

#define ATTR_I(key, value) ((Attr){.name = (key), .kind = ATTR_INT, .integer = (value)})
#define ATTR_R(key, value) ((Attr){.name = (key), .kind = ATTR_REAL, .real = (value)})
#define ATTR_S(key, value) ((Attr){.name = (key), .kind = ATTR_TEXT, .text = (value)})
#define ATTR_L(key, n, values) ((Attr){.name = (key), .kind = ATTR_INTS, .count = (n), .ints = (values)})
#define ATTRS(...) (Attr[]){__VA_ARGS__}, (int)(sizeof((Attr[]){__VA_ARGS__}) / sizeof(Attr))
#define NO_ATTRS NULL, 0
#define INPUTS(...) (Value *[]){__VA_ARGS__}, (int)(sizeof((Value *[]){__VA_ARGS__}) / sizeof(Value *))

const Attr *attr_find(const Node *node, const char *name);
/* The named attribute, or the default if absent; a wrong kind is an internal error. */
int64_t attr_int(const Node *node, const char *name, int64_t absent);
double attr_real(const Node *node, const char *name, double absent);
const char *attr_text(const Node *node, const char *name, const char *absent);
/* The list and its length; NULL and 0 if absent. */
const int64_t *attr_ints(const Node *node, const char *name, int *count);
/* Whether both nodes have the same list. */
bool attr_ints_equal(const Node *a, const Node *b, const char *name);
void attr_set(Node *node, Attr attr);

/* --- values, nodes, graphs --- */

typedef enum {
    VALUE_NODE,  /* output of a node */
    VALUE_INPUT, /* data or target of a batch; the runtime fills it */
    VALUE_PARAM, /* an initializer that learns */
    VALUE_STATE, /* kept between steps: momentum, calibrated exponents */
    VALUE_CONST, /* known at compile time */
    VALUE_HYPER  /* scalar that the runtime computes from the hyper-parameters: 31-bit mantissa and exponent */
} ValueKind;

typedef enum { EXPONENT_NONE, EXPONENT_CONST, EXPONENT_DYNAMIC } ExponentKind;

struct Value {
    int id;           /* position in graph->values; stable names in text and in random streams come from here */
    const char *name; /* never NULL; "%5" style names are made by graph_value */
    ValueKind kind;
    Shape shape;
    Type type;
    int64_t bound; /* |mantissa| <= bound; 0 while T_REAL */
    ExponentKind exponent_kind;
    int exponent; /* EXPONENT_CONST */
    bool integer; /* labels, masks, counters: no exponent, the same in real mode */
    Node *def;    /* VALUE_NODE */
    int out;      /* which output of def */
    /* PARAM, STATE, CONST: initial contents, logical row-major order; NULL = zeros. Mantissas exist once exponents ran. */
    const double *real;
    const int64_t *mantissa;
    /* The contents that graph_verify has found good, and within which bound; contents never change once they are there. */
    const void *verified;
    int64_t verified_bound;
    /* order[k] is the logical dimension that is k-th in memory, outermost first; identity unless the layout pass changed it. */
    uint8_t order[MAX_RANK];
    /* Set by the memory plan: byte offsets into the arena; the exponent is one i32. -1: not stored. */
    int64_t offset, exponent_offset;
    const char *onnx_name; /* the name in the model, for INPUT, PARAM, outputs; else NULL */
};

typedef enum { PHASE_FORWARD, PHASE_BACKWARD, PHASE_UPDATE } Phase;

struct Node {
    int id;
    Op op;
    Phase phase;
    Graph *graph;
    Value **in;
    int in_count;
    Value **out;
    int out_count;
    Attr *attrs;
    int attr_count;
    Origin origin;
    const Node *forward; /* for a gradient node, the forward node it derives from */
    Node *fused_into;    /* set by fuse: evaluated inside that node's kernel, never stored */
    Node *beside;        /* set by fuse: the node whose kernel computes this one too */
};

/* STAGE_FLOAT: planned without exponents, for --arith=float32. Values are T_REAL at every stage before STAGE_SCALED. */
typedef enum { STAGE_IMPORTED, STAGE_LOWERED, STAGE_TRAINED, STAGE_UPDATED, STAGE_FLOAT, STAGE_SCALED, STAGE_PLANNED } Stage;
const char *stage_name(Stage stage);

typedef struct {
    Value *state; /* PARAM or STATE */
    Value *next;  /* its value after the step */
} Update;

/* What the runtime needs an output for. */
typedef enum {
    ROLE_PREDICTION,
    ROLE_LOSS,
    ROLE_METRIC,
    ROLE_GRADIENT, /* between backward and sgd: the gradient of the parameter that the output is named after */
    ROLE_COUNT
} Role;
typedef struct {
    const char *name;
    Role role;
    Value *value;
} Output;

struct Graph {
    Arena *arena;
    const char *name;
    Stage stage;
    Node **nodes;
    int node_count, node_room;
    Value **values;
    int value_count, value_room;
    Output *outputs;
    int output_count, output_room;
    Update *updates;
    int update_count, update_room;
    int64_t arena_size; /* STAGE_PLANNED */
    /* Given to the next node: position, phase, id. */
    int insert;
    Phase phase;
    int next_node;
};

Graph *graph_new(Arena *arena, const char *name);
/* A deep copy into the same arena; map (may be NULL) receives the copy of each value, indexed by id. */
Graph *graph_clone(const Graph *graph, const char *name, Value ***map);
/* name NULL: numbered. The new value is T_REAL. */
Value *graph_value(Graph *graph, ValueKind kind, const char *name, Shape shape);
/* An integer value (labels, indices): type and bound fixed, no exponent. */
Value *graph_integer(Graph *graph, ValueKind kind, const char *name, Shape shape, Type type, int64_t bound);
Value *graph_const(Graph *graph, const char *name, Shape shape, const double *real);
void graph_output(Graph *graph, const char *name, Role role, Value *value);
void graph_update(Graph *graph, Value *state, Value *next);

/* Appends a node (or inserts it where graph_insert_at said), infers the shapes of its outputs and makes them. Takes copies of the arrays.
 * Returns NULL after a diagnostic if the op refuses its inputs or attributes. */
Node *graph_node(Graph *graph, Diag *diag, Op op, const Node *from, Value *const *in, int in_count, const Attr *attrs, int attr_count);
/* The same for code that knows that the op accepts: returns output 0; a refusal is an internal error. */
Value *build(Graph *graph, Op op, const Node *from, Value *const *in, int in_count, const Attr *attrs, int attr_count);
/* New nodes go before position index of graph->nodes; -1: to the end. Advances with each inserted node. */
void graph_insert_at(Graph *graph, int index);
/* Phase given to new nodes; outside PHASE_FORWARD `from` is also their forward node. */
void graph_set_phase(Graph *graph, Phase phase);
/* Replaces every use of `old` (inputs, outputs, updates' next) by `new` in nodes at position >= first. */
void graph_replace(Graph *graph, const Value *old, Value *new, int first);
/* Number of uses by nodes, outputs and updates. */
int value_uses(const Graph *graph, const Value *value);
/* By id, in the graph's arena: whether the value is or depends on one of the kind. */
bool *graph_depending(const Graph *graph, ValueKind kind);
/* By id, in the graph's arena: whether the value is an output of the role or one depends on it. */
bool *graph_reaching(const Graph *graph, Role role);
/* Keeps the nodes i with keep[i], in order. */
void graph_keep_nodes(Graph *graph, const bool *keep);

/* --- shapes and types --- */

int64_t shape_elements(Shape shape); /* checked against overflow: internal error */
bool shape_equal(Shape a, Shape b);
Shape shape_of(int rank, const int64_t *dims);
/* Numpy broadcasting; false if the shapes do not fit. */
bool shape_broadcast(Shape a, Shape b, Shape *result);
const char *shape_text(Arena *arena, Shape shape); /* "32x784" */
const char *type_name(Type type);
int type_bytes(Type type); /* T_REAL: 4, a float32 */
/* Products that an element of a contraction's result is the sum of. */
int64_t contract_terms(const Node *node);
Type type_for_bound(int64_t bound); /* smallest of i8 (127, 128 in inference), i16, i32, i64 */
/* Physical stride in elements of each logical dimension under value->order. */
void value_strides(const Value *value, int64_t stride[MAX_RANK]);

/* --- memory order: order.c --- */

/* Whether two values of one shape lie in memory alike. */
bool order_equal(const Value *a, const Value *b);
bool order_is_row_major(const Value *value);
/* The order of the result of a transpose or reshape, or backwards that of its operand, at which no byte moves; false if there is none. */
bool move_order(const Node *node, bool backwards, uint8_t order[MAX_RANK]);
/* Whether the node is a transpose or reshape that moves no byte. */
bool move_is_free(const Node *node);

/* --- fixed points of constants --- */

/* value = mantissa * 2^exponent, |mantissa| < 2^31, rounded half to even, as few bits as are exact. 0 gives 0, 0. */
void real_to_fixed(double value, int64_t *mantissa, int *exponent);
/* The linear fixed-point mapping of n reals to |m| <= 2^(bits-1)-1, nearest; returns the exponent (INTC_EXPONENT_ZERO for all zeros). */
int reals_to_mantissas(const double *real, int64_t n, int bits, int64_t *mantissa);

/* --- widths and exponents: what a node does, shared by the passes, the interpreter and the emitters --- */

/* The largest accumulator that still has room for one stochastic rounding. */
#define ACCUMULATOR_BOUND (((int64_t)1 << 31) - ((int64_t)1 << 25))
/* Bound of ALIGN results in 32 and 64 bits. */
#define ALIGN_BITS_32 30
#define ALIGN_BITS_64 61
/* Sets type, bound and exponent kind of every output from the inputs' (which have theirs). Used by exponents and by the parser's check. */
void node_infer_width(Node *node);
/* RULE_SUM: e = sum over inputs of weight * e_i, plus the constant; RULE_HALF: floor(e_0 / 2) plus the constant; RULE_CONST: the constant;
 * RULE_ALIGN, RULE_FIRST: terms are the inputs of weight 1. Weight 0 for integers. */
int node_exponent_weight(const Node *node, int input);
int node_exponent_constant(const Node *node);
/* ALIGN and FIRST: bits of the result (ALIGN_BITS_*), and g = ceil(log2(number of terms)). */
int node_align_bits(const Node *node);
/* Whether no mantissa of the value can be below 0 (sign.c); false where that is not known. */
bool value_never_negative(const Value *value);
/* Places that the product of pair i of a weighted sum loses to keep a sum of 32 bits, and the bound of what is left. */
int weighted_cut(const Node *node, int i);
int64_t weighted_bound(const Node *node, int i);

/* --- normalisation: fixed numbers of docs/operators.md --- */

enum { NORM_MEAN_FRACTION = 8, NORM_VARIANCE_FRACTION = 24, NORM_SUM_FRACTION = 14, NORM_PRODUCT_FRACTION = 5, NORM_SLOPE_BITS = 28 };
/* Of norm_line: places of the line below the mantissas of the scale, the largest shift, and how far the exponents of line and scale, and of
 * line and shift, are told apart. */
enum { NORM_LINE_PLACES = 6, NORM_LINE_SHIFT = 30, NORM_LINE_FALL = 32, NORM_LINE_RISE = 96 };
/* The level of 1/sigma: the power of two above it, from 2^(NORM_LEVEL_TOP - NORM_LEVELS) to 2^NORM_LEVEL_TOP. Parts of inv_sqrt. */
enum { NORM_LEVELS = 14, NORM_LEVEL_TOP = 9, INV_SQRT_WHOLE = 0, INV_SQRT_EQUALIZED, INV_SQRT_LEVEL };
/* Of normalize: elements that one mean stands for, and f, the fraction bits of x-hat. */
int64_t norm_count(const Node *node);
int norm_fraction(const Node *node);
int norm_fraction_of(int64_t count);
/* The largest shift of a code: that of an rsqrt, and as the bound of its value tells it. */
int norm_most_shift(const Node *node);
int norm_code_shift(const Value *code);
/* Of norm_slope and norm_line: bits of g and of x, whose bounds those of b and of the code tell. */
int norm_gradient_bits(const Node *node);
int norm_input_bits(const Node *node);

/* --- text --- */

void graph_print(const Graph *graph, FILE *out);
/* All graphs of a text, in order; NULL after diagnostics with line numbers. parse(print(g)) prints the same text. */
Graph **graph_parse(Arena *arena, const char *text, Diag *diag, int *count);

/* --- verifier --- */

/* Checks structure, shapes, stage-dependent types and bounds; every violation is a diagnostic that names node, operand, expected, found.
 * Notes which contents it has seen, so that those are not read again after every pass. */
bool graph_verify(const Graph *graph, Diag *diag);

/* --- interpreter --- */

typedef enum { EVAL_INTEGER, EVAL_REAL } EvalMode;

/* A tensor of the interpreter: logical row-major order. Integer mode uses mantissa and exponent, real mode real; integer values use
 * mantissa in both. */
typedef struct {
    int64_t *mantissa;
    double *real;
    int exponent;
} Tensor;

typedef struct {
    Graph *graph;
    EvalMode mode;
    Tensor *tensors;     /* by value id */
    uint64_t seed, step; /* of the random streams; the caller's: eval_run does not count steps */
} Eval;

/* Allocates every tensor and loads PARAM, STATE and CONST with their initial contents. Integer mode needs STAGE_SCALED or later. */
Eval *eval_new(Graph *graph, EvalMode mode);
void eval_free(Eval *eval);
/* Runs all nodes, then the updates. INPUT and HYPER tensors must be filled. Integer mode checks every mantissa against its value's bound.
 */
void eval_run(Eval *eval);
/* Runs the nodes only. */
void eval_nodes(Eval *eval);

#endif
