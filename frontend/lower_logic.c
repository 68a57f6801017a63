/* Lowering of comparisons, logic, Where and what makes numbers of masks. A truth value computed from data is an integer mask (0 or 1) of
 * the IR. Before: known operands. After: positive, both, differ, gate. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <math.h>
#include <string.h>

#define TYPE(name) ONNX__TENSOR_PROTO__DATA_TYPE__##name

Value *node_const_mask(OnnxNode *node, Shape shape, const int64_t *mask) {
    Value *value = graph_integer(node->importer->graph, VALUE_CONST, NULL, shape, T_I8, 1);
    value->mantissa = mask;
    return value;
}

Value *node_mask(OnnxNode *node, int i) {
    Operand *operand = node_in(node, i);
    if (operand != NULL && operand->type != TYPE(BOOL)) {
        node_refuse(node, "operand %d is %s, expected truth values", i, onnx_type_name(operand->type));
        return NULL;
    }
    const OnnxTensor *tensor = operand_constant(node->importer, operand);
    if (tensor == NULL) {
        Value *value = node_value(node, i);
        return value == NULL || value->integer ? value : node_emit(node, OP_positive, INPUTS(value), NO_ATTRS);
    }
    int64_t *mask = arena_alloc(node->importer->arena, (size_t)tensor->count + 1, sizeof *mask);
    for (int64_t k = 0; k < tensor->count; k++)
        mask[k] = tensor->ints[k] != 0;
    return node_const_mask(node, tensor->shape, mask);
}

static Value *differ(OnnxNode *node, Value *a, Value *b) {
    return node_emit(node, OP_differ, INPUTS(a, b), NO_ATTRS);
}

Value *node_mask_not(OnnxNode *node, Value *mask) {
    static const int64_t one[1] = {1};
    return mask == NULL ? NULL : differ(node, mask, node_const_mask(node, (Shape){0}, one));
}

static Value *both(OnnxNode *node, Value *a, Value *b) {
    return node_emit(node, OP_both, INPUTS(a, b), NO_ATTRS);
}

Value *node_mask_number(OnnxNode *node, Value *mask) {
    static const double one[1] = {1};
    return mask == NULL ? NULL : node_emit(node, OP_gate, INPUTS(node_const_value(node, (Shape){0}, one), mask), NO_ATTRS);
}

/* --- comparisons --- */

/* a < b. */
static Value *less(OnnxNode *node, Value *a, Value *b) {
    Value *difference = node_emit(node, OP_sub, INPUTS(b, a), NO_ATTRS);
    return node_emit(node, OP_positive, INPUTS(difference), NO_ATTRS);
}

/* Random numbers from [low, high) against a constant: a random mask. Lowered where the numbers are compared, so that no uniform numbers are
 * needed. less: the first operand must be below the second. *known: one operand is random. */
static Value *compare_random(OnnxNode *node, bool less_than, bool *known) {
    int at = node->in[0]->random_span > 0 ? 0 : 1;
    const Operand *random = node->in[at];
    *known = random->random_span > 0;
    if (!*known)
        return NULL;
    const OnnxTensor *limit = node_constant(node, 1 - at, "what random numbers are compared with");
    if (limit == NULL)
        return NULL;
    if (limit->reals == NULL || limit->count != 1) {
        node_refuse(node, "random numbers are compared with something else than one constant");
        return NULL;
    }
    double below = (limit->reals[0] - random->random_low) / random->random_span;
    below = below < 0 ? 0 : below > 1 ? 1 : below;
    /* A mask of ratio r is 1 with probability 1 - r. */
    return node_random_mask(node, random->shape, (at == 0) == less_than ? 1 - below : below);
}

/* a < b, or b < a; negated for the comparisons with equality. */
static bool lower_comparison(OnnxNode *node, bool swapped, bool negated) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    if (node->since < 7 && (node_attr_int(node, "broadcast", 0) != 0 || node_attr(node, "axis") != NULL))
        return node_refuse(node, "broadcasting before opset 7 is not supported");
    bool known = false;
    Value *mask = compare_random(node, swapped == negated, &known);
    if (known)
        return node_set_typed(node, 0, mask, TYPE(BOOL));
    Value *a = node_value(node, swapped ? 1 : 0), *b = node_value(node, swapped ? 0 : 1);
    if (a == NULL || b == NULL)
        return false;
    if (a->integer || b->integer)
        return node_refuse(node, "compares class labels, indices or truth values");
    mask = less(node, a, b);
    return node_set_typed(node, 0, negated ? node_mask_not(node, mask) : mask, TYPE(BOOL));
}

bool lower_less(OnnxNode *node) {
    return lower_comparison(node, false, false);
}

bool lower_greater(OnnxNode *node) {
    return lower_comparison(node, true, false);
}

bool lower_less_or_equal(OnnxNode *node) {
    return lower_comparison(node, true, true);
}

bool lower_greater_or_equal(OnnxNode *node) {
    return lower_comparison(node, false, true);
}

bool lower_equal(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    if (node->in[0]->type == TYPE(BOOL))
        return node_set_typed(node, 0, node_mask_not(node, differ(node, node_mask(node, 0), node_mask(node, 1))), TYPE(BOOL));
    Value *a = node_value(node, 0), *b = node_value(node, 1);
    if (a == NULL || b == NULL)
        return false;
    if (a->integer || b->integer)
        return node_refuse(node, "compares class labels, indices or truth values");
    Value *not_less = node_mask_not(node, less(node, a, b)), *not_greater = node_mask_not(node, less(node, b, a));
    return node_set_typed(node, 0, both(node, not_less, not_greater), TYPE(BOOL));
}

/* --- logic --- */

bool lower_and(OnnxNode *node) {
    return node_check_inputs(node, 2, 2) && node_set(node, 0, both(node, node_mask(node, 0), node_mask(node, 1)));
}

bool lower_or(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    Value *a = node_mask_not(node, node_mask(node, 0)), *b = node_mask_not(node, node_mask(node, 1));
    return node_set(node, 0, node_mask_not(node, both(node, a, b)));
}

bool lower_xor(OnnxNode *node) {
    return node_check_inputs(node, 2, 2) && node_set(node, 0, differ(node, node_mask(node, 0), node_mask(node, 1)));
}

bool lower_not(OnnxNode *node) {
    return node_check_inputs(node, 1, 1) && node_set(node, 0, node_mask_not(node, node_mask(node, 0)));
}

/* --- where --- */

/* The only number of a constant; false if there is none. */
static bool only_number(OnnxNode *node, int i, double *value) {
    const OnnxTensor *tensor = operand_constant(node->importer, node->in[i]);
    if (tensor == NULL || tensor->reals == NULL || tensor->count != 1)
        return false;
    *value = tensor->reals[0];
    return true;
}

/* x where mask, else 0; x of -inf is what makes no difference to a softmax. */
static Value *part(OnnxNode *node, int i, Value *mask) {
    double number;
    if (only_number(node, i, &number) && !(fabs(number) < HIDDEN_SCORE)) {
        number = number < 0 ? -HIDDEN_SCORE : HIDDEN_SCORE;
        return node_emit(node, OP_gate, INPUTS(node_const_value(node, node->in[i]->shape, &number), mask), NO_ATTRS);
    }
    return node_emit(node, OP_gate, INPUTS(node_value(node, i), mask), NO_ATTRS);
}

bool lower_where(OnnxNode *node) {
    if (!node_check_inputs(node, 3, 3))
        return false;
    Shape shape = node->in[0]->shape;
    if (!shape_broadcast(shape, node->in[1]->shape, &shape) || !shape_broadcast(shape, node->in[2]->shape, &shape))
        return node_refuse(node, "operands do not fit");
    if (node->in[1]->label || node->in[2]->label || node->in[1]->type == TYPE(BOOL))
        return node_refuse(node, "chooses between class labels or truth values");
    Value *mask = node_mask(node, 0), *other = node_mask_not(node, mask), *result;
    double a = 1, b = 1;
    bool number_a = only_number(node, 1, &a), number_b = only_number(node, 2, &b);
    Value *known =
        node->in[1]->value != NULL && node->in[2]->value != NULL ? pattern_where(mask, node->in[1]->value, node->in[2]->value) : NULL;
    if (known != NULL)
        result = known;
    else if (number_a && a == 0)
        result = part(node, 2, other);
    else if (number_b && b == 0)
        result = part(node, 1, mask);
    else
        result = node_emit(node, OP_add, INPUTS(part(node, 1, mask), part(node, 2, other)), NO_ATTRS);
    if (result != NULL && !shape_equal(result->shape, shape))
        result = node_emit(node, OP_broadcast, INPUTS(result), ATTRS(ATTR_L("shape", shape.rank, shape.dim)));
    if (!node_set_typed(node, 0, result, node->in[1]->type))
        return false;
    /* What a softmax of the result must leave out. */
    int hidden = number_a && a <= LEAST_SCORE ? 1 : number_b && b <= LEAST_SCORE ? 2 : 0;
    if (hidden != 0 && node_wants(node, 0) && shape_equal(node->in[3 - hidden]->shape, shape)) {
        node->out[0]->scores = node_value(node, 3 - hidden);
        node->out[0]->shown = hidden == 1 ? other : mask;
    }
    return true;
}

/* The additive form: 0 where shown, at most LEAST_SCORE where hidden. NULL: it is none. */
Value *node_shown_by(OnnxNode *node, const OnnxTensor *bias) {
    if (bias == NULL || bias->reals == NULL)
        return NULL;
    int64_t *mask = arena_alloc(node->importer->arena, (size_t)bias->count + 1, sizeof *mask), hidden = 0;
    for (int64_t k = 0; k < bias->count; k++) {
        if (bias->reals[k] != 0 && !(bias->reals[k] <= LEAST_SCORE))
            return NULL;
        mask[k] = bias->reals[k] == 0;
        hidden += mask[k] == 0;
    }
    return hidden > 0 ? node_const_mask(node, bias->shape, mask) : NULL;
}

bool lower_trilu(OnnxNode *node) {
    double shift = 0;
    if (!node_check_inputs(node, 1, 2) || (node_in(node, 1) != NULL && !node_scalar(node, 1, "k", &shift)))
        return false;
    bool upper = node_attr_int(node, "upper", 1) != 0;
    Shape in = node->in[0]->shape;
    if (in.rank < 2)
        return node_refuse(node, "takes at least two dimensions, found [%s]", shape_text(node->importer->arena, in));
    int64_t rows = in.dim[in.rank - 2], columns = in.dim[in.rank - 1];
    Shape shape = shape_of(2, (int64_t[]){rows, columns});
    int64_t *mask = arena_alloc(node->importer->arena, (size_t)(rows * columns) + 1, sizeof *mask);
    for (int64_t k = 0; k < rows * columns; k++) {
        double distance = (double)(k % columns - k / columns);
        mask[k] = upper ? distance >= shift : distance <= shift;
    }
    return node_set(node, 0, node_emit(node, OP_gate, INPUTS(node_value(node, 0), node_const_mask(node, shape, mask)), NO_ATTRS));
}

/* --- random numbers --- */

Value *node_random_mask(OnnxNode *node, Shape shape, double ratio) {
    Importer *importer = node->importer;
    if (importer->options->loss == NULL) {
        node_refuse(node, "draws random numbers");
        return NULL;
    }
    return node_emit(node, OP_random_mask, NULL, 0,
                     ATTRS(ATTR_L("shape", shape.rank, shape.dim), ATTR_R("ratio", ratio), ATTR_I("stream", importer->graph->value_count)));
}

static bool random_attributes(OnnxNode *node, int *type) {
    *type = (int)node_attr_int(node, "dtype", node->in_count > 0 && node->in[0] != NULL ? node->in[0]->type : TYPE(FLOAT));
    node_attr(node, "seed"); /* intc's own random bits */
    return onnx_type_is_real(*type) || node_refuse(node, "attribute 'dtype' is %s", onnx_type_name(*type));
}

/* No values yet: the comparison that reads them makes a mask. */
bool lower_random_uniform_like(OnnxNode *node) {
    int type;
    if (!node_check_inputs(node, 1, 1) || !random_attributes(node, &type))
        return false;
    double low = node_attr_real(node, "low", 0), high = node_attr_real(node, "high", 1);
    if (!(high > low))
        return node_refuse(node, "draws from [%g, %g)", low, high);
    if (!node_wants(node, 0))
        return true;
    Operand *out = node->out[0];
    out->known = true;
    out->type = type;
    out->shape = node->in[0]->shape;
    out->random_low = low;
    out->random_span = high - low;
    return true;
}

static bool set_normal(OnnxNode *node, Shape shape, int type) {
    Importer *importer = node->importer;
    double mean = node_attr_real(node, "mean", 0), scale = node_attr_real(node, "scale", 1);
    if (!isfinite(mean) || !isfinite(scale))
        return node_refuse(node, "draws with mean %g and deviation %g", mean, scale);
    if (importer->options->loss == NULL)
        return node_refuse(node, "draws random numbers");
    Value *z = node_emit(node, OP_random_normal, NULL, 0,
                         ATTRS(ATTR_L("shape", shape.rank, shape.dim), ATTR_I("stream", importer->graph->value_count)));
    z = node_mul_const(node, z, scale);
    if (mean != 0)
        z = node_emit(node, OP_add, INPUTS(z, node_const_value(node, (Shape){0}, &mean)), NO_ATTRS);
    return node_set_typed(node, 0, z, type);
}

bool lower_random_normal_like(OnnxNode *node) {
    int type;
    return node_check_inputs(node, 1, 1) && random_attributes(node, &type) && set_normal(node, node->in[0]->shape, type);
}

bool lower_random_normal(OnnxNode *node) {
    int type, rank;
    const int64_t *dims = node_attr_ints(node, "shape", &rank);
    if (!random_attributes(node, &type))
        return false;
    if (node_attr(node, "shape") == NULL || rank > MAX_RANK || checked_elements(shape_of(rank, dims), ELEMENT_LIMIT) < 0)
        return node_refuse(node, "attribute 'shape' is missing or too large");
    return set_normal(node, shape_of(rank, dims), type);
}

bool lower_bernoulli(OnnxNode *node) {
    int type = 0;
    if (!node_check_inputs(node, 1, 1))
        return false;
    type = (int)node_attr_int(node, "dtype", node->in[0]->type);
    node_attr(node, "seed");
    const OnnxTensor *odds = operand_constant(node->importer, node->in[0]);
    bool same = odds != NULL && odds->reals != NULL && odds->count > 0;
    for (int64_t k = 1; same && k < odds->count; k++)
        same = odds->reals[k] == odds->reals[0];
    if (!same || !(odds->reals[0] >= 0 && odds->reals[0] <= 1))
        return node_refuse(node, "is supported for one constant probability");
    Value *mask = node_random_mask(node, node->in[0]->shape, 1 - odds->reals[0]);
    return node_set_typed(node, 0, onnx_type_is_real(type) ? node_mask_number(node, mask) : mask,
                          onnx_type_is_real(type) ? type : TYPE(BOOL));
}

/* number · (1 where mask, else 0), as exporters spell dropout; NULL: it is something else. */
static const Node *gate_of_one(const Value *value, double *factor) {
    *factor = 1;
    while (value->def != NULL && value->def->op == OP_mul_const) {
        *factor *= attr_real(value->def, "value", 1);
        value = value->def->in[0];
    }
    const Node *gate = value->def;
    if (gate == NULL || gate->op != OP_gate || gate->in[0]->kind != VALUE_CONST || gate->in[0]->shape.rank != 0 ||
        gate->in[0]->real == NULL)
        return NULL;
    *factor *= gate->in[0]->real[0];
    return gate;
}

Value *node_mul_by_mask(OnnxNode *node, Value *a, Value *b, bool *known) {
    double factor;
    const Node *gate = gate_of_one(b, &factor);
    *known = gate != NULL;
    if (gate == NULL)
        return NULL;
    Shape both_shapes;
    bool dropped = gate->in[1]->def != NULL && gate->in[1]->def->op == OP_random_mask;
    /* Nothing is dropped from a prediction. */
    if (dropped && !node->importer->training && shape_broadcast(a->shape, b->shape, &both_shapes) && shape_equal(both_shapes, a->shape))
        return a;
    return node_mul_const(node, node_emit(node, OP_gate, INPUTS(a, gate->in[1]), NO_ATTRS), factor);
}
