/* The importer's state: the tensors of the ONNX graph by name, one node at a time. Private to frontend/.
 *
 * A tensor of the model is an Operand: its type and shape are always known once its node was lowered; it has a constant, an IR value, or
 * both. Hooks ask for what they need: node_value for an IR value (a float initializer becomes a parameter then), node_ints for a constant.
 */
#ifndef INTC_IMPORTER_H
#define INTC_IMPORTER_H

#include "frontend/onnx_file.h"

/* The parts of a tensor along an axis. */
typedef struct {
    Value *whole;
    int axis, count;
    const int64_t *sizes;
    bool squeezed; /* the parts have one element along the axis and lack it */
} Sequence;

typedef struct Operand {
    const char *name;
    bool known; /* false: made by a node that was refused, so nothing else is valid */
    int type;   /* ONNX element type */
    Shape shape;
    const Onnx__TensorProto *proto; /* an initializer; decoded at first use */
    const OnnxTensor *constant;
    const OnnxTensor *given;        /* options->known: stands in where a constant is needed */
    bool learns;                    /* a float initializer: a parameter unless it is used as a constant */
    bool fixed;                     /* depends on no input */
    bool label;                     /* class labels on their way to a loss */
    int64_t batch_inside;           /* --batch: elements of the batch dimension that belong to one row; 0 = not known */
    double random_low, random_span; /* uniform random numbers that no value holds; span 0: it is none */
    Value *scores, *shown;          /* the result of hiding scores where the mask is 0, on its way to a softmax; else NULL */
    const Sequence *sequence;       /* then type and shape are those of the whole, and there is no value */
    Value *value;
} Operand;

typedef struct NameMap NameMap;
NameMap *names_new(Arena *arena, size_t entries);
/* NULL if absent. */
void *names_get(const NameMap *map, const char *name);
void names_set(NameMap *map, const char *name, void *value);

typedef struct OnnxNode OnnxNode;

/* A loss node of the model, as far as joining the loss needs it. */
typedef struct {
    Operand *loss, *scores, *labels;
    Value *per_position; /* weighted -log p, of the shape of the labels */
    bool mean;           /* over the positions; else their sum */
    bool separable;      /* into one loss a row */
    Origin origin;
} LossNode;

typedef struct {
    Arena *arena;
    Diag *diag;
    const OnnxFile *file;
    const ImportOptions *options;
    Graph *graph;
    bool training;
    bool checking; /* an unbound batch is 1 and a note */
    int64_t opset;
    NameMap *tensors;        /* Operand by name */
    const NameMap *exported; /* the operands of an import at the exported batch, where --batch binds another; else NULL */
    int64_t old_batch, new_batch;
    NameMap *live;    /* names that the outputs depend on */
    NameMap *labels;  /* names on the way to a loss's labels */
    NameMap *indices; /* names on the way to what an operator takes as indices */
    LossNode loss;    /* the last one; loss.loss NULL: none */
    int convolutions_with_bias, frozen_dropouts;
} Importer;

struct OnnxNode {
    Importer *importer;
    const Onnx__NodeProto *proto;
    int since;    /* the since_version that the model's opset selects */
    Node from;    /* carries the origin to the IR */
    Operand **in; /* NULL where an optional input is absent */
    int in_count;
    Operand **out; /* NULL where an output is not wanted */
    int out_count;
    bool *attr_read;
};

/* Lowers or folds a node: sets its outputs, or reports and returns false. */
typedef bool (*OnnxHook)(OnnxNode *node);

enum { MOST_VERSIONS = 16 };

typedef struct {
    const char *op_type, *domain;
    int since[MOST_VERSIONS]; /* the versions whose meaning is implemented, ascending, ended by 0 */
    OnnxHook fold;            /* all inputs constant; NULL = none */
    OnnxHook lower;           /* NULL = only as part of constant arithmetic */
} OnnxOp;

const OnnxOp *onnx_op_find(const char *op_type, const char *domain);
/* The nearest rewrite for an operator that is not supported; NULL if none is known. */
const char *onnx_op_hint(const char *op_type);

/* Every hook of the table. */
#define ONNX_OP(type, domain, versions, fold, lower)                                                                                       \
    bool fold_##fold(OnnxNode *node);                                                                                                      \
    bool lower_##lower(OnnxNode *node);
#include "frontend/onnx_ops.def"
#undef ONNX_OP

/* --- node.c: what hooks use --- */

/* Attributes; each marks the attribute as read, and an attribute that no hook read is refused by name. */
const Onnx__AttributeProto *node_attr(OnnxNode *node, const char *name);
int64_t node_attr_int(OnnxNode *node, const char *name, int64_t absent);
double node_attr_real(OnnxNode *node, const char *name, double absent);
/* The text as a string of the arena. */
const char *node_attr_text(OnnxNode *node, const char *name, const char *absent);
/* NULL and 0 if absent or empty. */
const int64_t *node_attr_ints(OnnxNode *node, const char *name, int *count);
/* Reports on the node; returns false. */
bool node_refuse(OnnxNode *node, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The i-th input, NULL if absent. */
Operand *node_in(const OnnxNode *node, int i);
bool node_wants(const OnnxNode *node, int out);
/* Inputs between least and most, the first `needed` of them present; otherwise refuses. */
bool node_check_inputs(OnnxNode *node, int least, int most);
/* An IR value of the input; NULL after a diagnostic. */
Value *node_value(OnnxNode *node, int i);
/* The constant of the input; NULL after a diagnostic that calls it `what`. */
const OnnxTensor *node_constant(OnnxNode *node, int i, const char *what);
/* The same, integers of rank 0 or 1. */
const int64_t *node_ints(OnnxNode *node, int i, const char *what, int *count);
/* One element; reports. */
bool node_scalar(OnnxNode *node, int i, const char *what, double *value);
/* The constant if the input is one and no parameter, without complaint; NULL else. */
const OnnxTensor *operand_constant(Importer *importer, Operand *operand);
/* Axis in [0, rank) from an axis that may be negative; -1 after a diagnostic. */
int node_axis(OnnxNode *node, int64_t axis, int rank);
/* Axes from attribute `axes` or, from since_version `input_since` on, input i. count -1: absent. Sorted, no doubles; false after a
 * diagnostic. */
bool node_axes(OnnxNode *node, int input_since, int i, int rank, int axes[MAX_RANK], int *count);
/* Emits an IR node; NULL inputs give NULL. Reports what the op refuses. */
Value *node_emit(OnnxNode *node, Op op, Value *const *in, int in_count, const Attr *attrs, int attr_count);
Value *node_reshape(OnnxNode *node, Value *value, Shape shape);
Value *node_mul_const(OnnxNode *node, Value *value, double factor);
Value *node_const_value(OnnxNode *node, Shape shape, const double *real);
/* lower_math.c: the only element of a constant operand; both operands of a binary operator, aligned (false after a diagnostic); a value
 * with ones in front, where the broadcast shape of a and b has them; x limited to [low, high]. */
bool node_scalar_constant(OnnxNode *node, int i, double *value);
bool node_operands(OnnxNode *node, Value **a, Value **b);
Value *node_broadcast_like(OnnxNode *node, Value *value, Value *a, Value *b);
Value *node_clip(OnnxNode *node, Value *x, double low, double high);
/* x^p for a constant p. lower_function.c */
Value *node_power(OnnxNode *node, Value *x, double p);
/* patterns.c: x·σ(αx); ln(1 + eˣ); and what a·b, factor·x and ln x are as one function, NULL if they are none. */
Value *pattern_swish(OnnxNode *node, Value *x, double alpha);
Value *pattern_softplus(OnnxNode *node, Value *x);
Value *pattern_mul(OnnxNode *node, Value *a, Value *b);
Value *pattern_mul_const(OnnxNode *node, Value *x, double factor);
Value *pattern_log(OnnxNode *node, Value *x);
/* y where it is softplus(x) and the mask chooses x above a large threshold, as PyTorch writes it; else NULL. */
Value *pattern_where(const Value *mask, const Value *x, Value *y);
/* Sets output i to the value (false if NULL); the type is that of input 0 unless said. */
bool node_set(OnnxNode *node, int i, Value *value);
bool node_set_typed(OnnxNode *node, int i, Value *value, int type);
bool node_set_constant(OnnxNode *node, int i, OnnxTensor *tensor);
/* Output i is another name of input k. */
bool node_alias(OnnxNode *node, int i, int k);
/* A constant with room for its elements; NULL after a diagnostic if it is too large. */
OnnxTensor *node_tensor(OnnxNode *node, int type, Shape shape);
/* Shapes that reading the node gives, shared by folding and lowering; false after a diagnostic. lower_move.c */
typedef struct {
    int64_t start[MAX_RANK], step[MAX_RANK]; /* step may be negative, then start is the last element of the axis that is taken first */
    Shape shape;
} SlicePlan;
typedef struct {
    int64_t axes[MAX_RANK];
    int count;
    Shape kept, result; /* with ones for the reduced axes; as keepdims says */
    int64_t elements;   /* that each result sums up */
} ReducePlan;
bool node_reduce_plan(OnnxNode *node, ReducePlan *plan);
bool node_reshape_target(OnnxNode *node, Shape *shape); /* Reshape, Flatten, Squeeze, Unsqueeze */
bool node_permutation(OnnxNode *node, int64_t perm[MAX_RANK]);
bool node_slice_plan(OnnxNode *node, SlicePlan *plan);
bool node_expand_target(OnnxNode *node, Shape *shape);
bool node_tile_target(OnnxNode *node, Shape *shape, int64_t repeats[MAX_RANK]);
Value *node_transpose(OnnxNode *node, Value *value, const int64_t perm[MAX_RANK]);
/* y = matrix^T x along an axis: matrix is [size of the axis][out], row-major; the axis has size `out` afterwards. lower_space.c */
Value *node_map_axis(OnnxNode *node, Value *value, int axis, int64_t out, const double *matrix);
/* fold_index.c: the element of x that each index of GatherElements or ScatterElements names, and that each element behind a tuple of
 * GatherND or ScatterND is, *result their shape. NULL after a diagnostic. */
int64_t *places_along_axis(OnnxNode *node, Shape x, const OnnxTensor *index);
int64_t *places_by_tuple(OnnxNode *node, Shape x, const OnnxTensor *index, int batch, Shape *result);
/* Elements index[0], ..., index[count - 1] of an axis; all in range. lower_gather.c */
Value *node_take(OnnxNode *node, Value *value, int axis, int64_t count, const int64_t *index);
/* The part [start, start + count) of an axis. */
Value *node_slice(OnnxNode *node, Value *value, int axis, int64_t start, int64_t count);
/* --- masks: lower_logic.c --- */
/* Additive masks hide a score by at most LEAST_SCORE; HIDDEN_SCORE stands for minus infinity where no softmax follows. */
#define LEAST_SCORE (-100.0)
#define HIDDEN_SCORE 1e4
Value *node_const_mask(OnnxNode *node, Shape shape, const int64_t *mask);
/* The input, of type BOOL, as an integer mask; NULL after a diagnostic. */
Value *node_mask(OnnxNode *node, int i);
Value *node_mask_not(OnnxNode *node, Value *mask);
/* 1 where mask, else 0, as real numbers. */
Value *node_mask_number(OnnxNode *node, Value *mask);
/* The mask of a constant that is added to scores, 1 where it is 0; NULL: it is no mask, without complaint. */
Value *node_shown_by(OnnxNode *node, const OnnxTensor *bias);
/* 1 with probability 1 - ratio; a stream of its own. Refuses where there is no loss to train. */
Value *node_random_mask(OnnxNode *node, Shape shape, double ratio);
/* a·b where b is a mask as numbers, possibly scaled: a gate. *known: it was. */
Value *node_mul_by_mask(OnnxNode *node, Value *a, Value *b, bool *known);
/* Towards zero to a whole number. lower_quantize.c */
Value *node_truncated(OnnxNode *node, Value *x);
/* x of one element type as another that does not hold all its numbers; NULL after a diagnostic. */
Value *node_cast_value(OnnxNode *node, Value *x, int from, int to, bool saturate);
OnnxTensor *onnx_cast_tensor(OnnxNode *node, const OnnxTensor *in, int type);
/* Strides, pads, dilations and kernel of a window; lower_conv.c. */
typedef struct {
    int rank; /* spatial dimensions */
    int64_t kernel[MAX_RANK], strides[MAX_RANK], dilations[MAX_RANK], pads[2 * MAX_RANK], out[MAX_RANK];
    int64_t counted[MAX_RANK]; /* end of what count_include_pad counts, in input coordinates */
} Window;
/* kernel: the sizes from the weight, or NULL for attribute kernel_shape. ceil: the operator has ceil_mode. */
bool node_window(OnnxNode *node, Shape in, const int64_t *kernel, bool ceil, bool dilations, Window *window);
/* Whether the value is the result of a contraction, possibly moved and scaled. */
bool value_is_accumulator(const Value *value);
/* True if b broadcasts onto a without changing a's shape. */
bool shape_fits_into(Shape b, Shape a);

/* --- rebinding of the batch: batch.c --- */

/* The first dimension that the new batch changes; the rank if none does. */
int batch_axis(const Importer *importer, const Operand *operand);
/* Elements between two rows of the batch at the exported shape; 0 = not known. */
int64_t batch_stride(const Importer *importer, const Operand *operand);
/* The shape at the exported batch where it is known, else the present one. */
Shape batch_exported_shape(const Importer *importer, const Operand *operand);
/* Notes it for the outputs of a lowered node. */
void batch_track(OnnxNode *node);

/* --- joining of the loss: loss.c --- */
/* Needs every node lowered; before: outputs that are not the loss are predictions. */
bool loss_join(Importer *importer);
/* The model's own loss among its outputs: the loss node's, else the one of a single element; NULL if there is none. */
Operand *loss_output(Importer *importer);
/* Bounds a chain of label values by the number of classes and the magnitude of an ignored label. lower_loss.c */
void label_set_bound(Value *label, int64_t classes, int64_t ignore);

#endif
