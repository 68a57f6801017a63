/* Constant arithmetic, part two: element by element, in 64-bit integers or in doubles rounded to the element type. Before: constant inputs.
 * After: a constant output or a diagnostic. */
#include "frontend/importer.h"

#include <math.h>
#include <string.h>

#define TYPE(name) ONNX__TENSOR_PROTO__DATA_TYPE__##name

/* Where operands of a broadcast stand for each element of the result. */
static int64_t broadcast_index(Shape whole, Shape part, int64_t k) {
    int64_t at = 0, stride = 1;
    for (int i = whole.rank; i-- > 0; k /= whole.dim[i]) {
        int j = i - (whole.rank - part.rank);
        if (j < 0)
            continue;
        if (part.dim[j] != 1)
            at += k % whole.dim[i] * stride;
        stride *= part.dim[j];
    }
    return at;
}

typedef enum { ADD, SUB, MUL, DIV, MOD, POW, MIN, MAX, EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, AND, OR, XOR, BINARY_COUNT } Binary;
static const char *const binary_names[] = {
    "Add", "Sub", "Mul", "Div", "Mod", "Pow", "Min", "Max", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual",
    "And", "Or",  "Xor"};

static Binary binary_find(const char *op_type) {
    for (int i = 0; i < BINARY_COUNT; i++)
        if (strcmp(binary_names[i], op_type) == 0)
            return (Binary)i;
    internal_error("no constant arithmetic for %s", op_type);
}

static bool is_comparison(Binary op) {
    return op >= EQUAL;
}

static int64_t compare(Binary op, int order, int64_t a, int64_t b) {
    switch (op) {
    case EQUAL:
        return order == 0;
    case LESS:
        return order < 0;
    case LESS_EQUAL:
        return order <= 0;
    case GREATER:
        return order > 0;
    case GREATER_EQUAL:
        return order >= 0;
    case AND:
        return a != 0 && b != 0;
    case XOR:
        return (a != 0) != (b != 0);
    default:
        return a != 0 || b != 0;
    }
}

static int64_t integer_power(int64_t base, int64_t exponent) {
    uint64_t result = 1, square = (uint64_t)base;
    for (uint64_t left = exponent < 0 ? 0 : (uint64_t)exponent; left > 0; left >>= 1) {
        result *= left & 1 ? square : 1;
        square *= square;
    }
    return (int64_t)result;
}

/* False: division by zero. Sums wrap as two's complement does. */
static bool binary_integer(Binary op, bool truncate, int64_t a, int64_t b, int64_t *result) {
    switch (op) {
    case ADD:
        *result = (int64_t)((uint64_t)a + (uint64_t)b);
        return true;
    case SUB:
        *result = (int64_t)((uint64_t)a - (uint64_t)b);
        return true;
    case MUL:
        *result = (int64_t)((uint64_t)a * (uint64_t)b);
        return true;
    case DIV:
        if (b == 0)
            return false;
        *result = b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
        return true;
    case MOD:
        if (b == 0)
            return false;
        *result = b == -1 ? 0 : a % b;
        if (!truncate && *result != 0 && (*result < 0) != (b < 0))
            *result += b;
        return true;
    case POW:
        *result = integer_power(a, b);
        return true;
    case MIN:
        *result = a < b ? a : b;
        return true;
    case MAX:
        *result = a > b ? a : b;
        return true;
    default:
        *result = compare(op, (a > b) - (a < b), a, b);
        return true;
    }
}

static double binary_real(Binary op, bool truncate, double a, double b) {
    switch (op) {
    case ADD:
        return a + b;
    case SUB:
        return a - b;
    case MUL:
        return a * b;
    case DIV:
        return a / b;
    case MOD:
        return truncate ? fmod(a, b) : a - floor(a / b) * b;
    case POW:
        return pow(a, b);
    case MIN:
        return fmin(a, b);
    default:
        return fmax(a, b);
    }
}

static double element_real(const OnnxTensor *tensor, int64_t k) {
    return tensor->reals != NULL ? tensor->reals[k] : (double)tensor->ints[k];
}

static bool binary_pair(OnnxNode *node, Binary op, bool truncate, const OnnxTensor *a, const OnnxTensor *b, OnnxTensor **result) {
    Shape shape;
    if ((op != POW && (a->reals != NULL) != (b->reals != NULL)) || !shape_broadcast(a->shape, b->shape, &shape))
        return node_refuse(node, "operands of shapes [%s] and [%s] do not fit", shape_text(node->importer->arena, a->shape),
                           shape_text(node->importer->arena, b->shape));
    OnnxTensor *out = node_tensor(node, is_comparison(op) ? TYPE(BOOL) : a->type, shape);
    if (out == NULL)
        return false;
    for (int64_t k = 0; k < out->count; k++) {
        int64_t i = broadcast_index(shape, a->shape, k), j = broadcast_index(shape, b->shape, k);
        if (a->reals != NULL || b->reals != NULL) {
            double x = element_real(a, i), y = element_real(b, j);
            if (is_comparison(op))
                out->ints[k] = isnan(x) || isnan(y) ? 0 : compare(op, (x > y) - (x < y), x != 0, y != 0);
            else if (out->reals != NULL)
                out->reals[k] = onnx_round_real(binary_real(op, truncate, x, y), out->type);
            else
                return node_refuse(node, "of an integer by a real number is not supported on constants");
        } else {
            if (!binary_integer(op, truncate, a->ints[i], b->ints[j], &out->ints[k]))
                return node_refuse(node, "divides by the constant zero");
            out->ints[k] = onnx_wrap_integer(out->ints[k], out->type);
        }
    }
    *result = out;
    return true;
}

bool fold_binary(OnnxNode *node) {
    Binary op = binary_find(node->from.origin.op_type);
    bool many = op == MIN || op == MAX;
    if (!node_check_inputs(node, many ? 1 : 2, many ? 1 << 16 : 2))
        return false;
    bool truncate = op == MOD && node_attr_int(node, "fmod", 0) != 0;
    OnnxTensor *result = NULL;
    const OnnxTensor *left = operand_constant(node->importer, node->in[0]);
    if (node->in_count == 1)
        return node_alias(node, 0, 0);
    for (int i = 1; i < node->in_count; i++) {
        const OnnxTensor *right = operand_constant(node->importer, node->in[i]);
        if (right == NULL || !binary_pair(node, op, truncate, left, right, &result))
            return false;
        left = result;
    }
    return node_set_constant(node, 0, result);
}

/* --- one operand --- */

static bool unary_real(const char *op, double x, double *y) {
    if (strcmp(op, "Neg") == 0)
        *y = -x;
    else if (strcmp(op, "Sqrt") == 0)
        *y = sqrt(x);
    else if (strcmp(op, "Exp") == 0)
        *y = exp(x);
    else if (strcmp(op, "Log") == 0)
        *y = log(x);
    else if (strcmp(op, "Abs") == 0)
        *y = fabs(x);
    else if (strcmp(op, "Floor") == 0)
        *y = floor(x);
    else if (strcmp(op, "Ceil") == 0)
        *y = ceil(x);
    else if (strcmp(op, "Reciprocal") == 0)
        *y = 1 / x;
    else if (strcmp(op, "Sign") == 0)
        *y = x > 0 ? 1 : x < 0 ? -1 : x;
    else
        return false;
    return true;
}

static bool unary_integer(const char *op, int64_t x, int64_t *y) {
    if (strcmp(op, "Neg") == 0)
        *y = (int64_t)(0 - (uint64_t)x);
    else if (strcmp(op, "Abs") == 0)
        *y = x < 0 ? (int64_t)(0 - (uint64_t)x) : x;
    else if (strcmp(op, "Sign") == 0)
        *y = (x > 0) - (x < 0);
    else if (strcmp(op, "Not") == 0)
        *y = x == 0;
    else
        return false;
    return true;
}

bool fold_unary(OnnxNode *node) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    const OnnxTensor *in = operand_constant(node->importer, node->in[0]);
    OnnxTensor *out = node_tensor(node, in->type, in->shape);
    if (out == NULL)
        return false;
    bool ok = true;
    for (int64_t k = 0; k < out->count && ok; k++) {
        if (in->reals != NULL) {
            ok = unary_real(node->from.origin.op_type, in->reals[k], &out->reals[k]);
            out->reals[k] = onnx_round_real(out->reals[k], out->type);
        } else {
            ok = unary_integer(node->from.origin.op_type, in->ints[k], &out->ints[k]);
            out->ints[k] = onnx_wrap_integer(out->ints[k], out->type);
        }
    }
    return ok ? node_set_constant(node, 0, out) : node_refuse(node, "is not supported on constants of type %s", onnx_type_name(in->type));
}

OnnxTensor *onnx_cast_tensor(OnnxNode *node, const OnnxTensor *in, int type) {
    if (!onnx_type_is_real(type) && !onnx_type_is_integer(type)) {
        node_refuse(node, "to type %s is not supported", onnx_type_name(type));
        return NULL;
    }
    OnnxTensor *out = node_tensor(node, type, in->shape);
    for (int64_t k = 0; out != NULL && k < out->count; k++) {
        if (out->reals != NULL) {
            out->reals[k] = onnx_round_real(element_real(in, k), type);
        } else if (in->ints != NULL) {
            out->ints[k] = onnx_wrap_integer(in->ints[k], type);
        } else {
            double x = in->reals[k];
            bool inside = x > -9.2e18 && x < 9.2e18;
            out->ints[k] = type == TYPE(BOOL) ? x != 0 : inside ? onnx_wrap_integer((int64_t)x, type) : 0;
        }
    }
    return out;
}

bool fold_cast(OnnxNode *node) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    node_attr_int(node, "saturate", 1);
    node_attr_text(node, "round_mode", "up"); /* both only concern 8-bit floats */
    return node_set_constant(node, 0,
                             onnx_cast_tensor(node, operand_constant(node->importer, node->in[0]), (int)node_attr_int(node, "to", 0)));
}

bool fold_where(OnnxNode *node) {
    if (!node_check_inputs(node, 3, 3))
        return false;
    const OnnxTensor *condition = operand_constant(node->importer, node->in[0]);
    const OnnxTensor *a = operand_constant(node->importer, node->in[1]), *b = operand_constant(node->importer, node->in[2]);
    Shape shape;
    if (condition->ints == NULL || (a->reals != NULL) != (b->reals != NULL) || !shape_broadcast(a->shape, b->shape, &shape) ||
        !shape_broadcast(condition->shape, shape, &shape))
        return node_refuse(node, "operands do not fit");
    OnnxTensor *out = node_tensor(node, a->type, shape);
    for (int64_t k = 0; out != NULL && k < out->count; k++) {
        const OnnxTensor *from = condition->ints[broadcast_index(shape, condition->shape, k)] != 0 ? a : b;
        int64_t at = broadcast_index(shape, from->shape, k);
        if (out->reals != NULL)
            out->reals[k] = from->reals[at];
        else
            out->ints[k] = from->ints[at];
    }
    return node_set_constant(node, 0, out);
}

/* --- reductions --- */

bool fold_reduce(OnnxNode *node) {
    const char *op = node->from.origin.op_type;
    ReducePlan plan;
    if (!node_reduce_plan(node, &plan))
        return false;
    const OnnxTensor *in = operand_constant(node->importer, node->in[0]);
    bool product = strcmp(op, "ReduceProd") == 0;
    OnnxTensor *out = node_tensor(node, in->type, plan.kept);
    if (out == NULL)
        return false;
    for (int64_t k = 0; k < out->count && product; k++) {
        if (out->reals != NULL)
            out->reals[k] = 1;
        else
            out->ints[k] = 1;
    }
    for (int64_t k = 0; k < in->count; k++) {
        /* The kept shape has ones where the input was reduced, so it broadcasts onto the input. */
        int64_t at = broadcast_index(in->shape, plan.kept, k);
        if (out->reals != NULL)
            out->reals[at] = product ? out->reals[at] * in->reals[k] : out->reals[at] + in->reals[k];
        else
            binary_integer(product ? MUL : ADD, false, out->ints[at], in->ints[k], &out->ints[at]);
    }
    bool mean = strcmp(op, "ReduceMean") == 0;
    for (int64_t k = 0; k < out->count; k++) {
        if (out->reals != NULL)
            out->reals[k] = onnx_round_real(mean ? out->reals[k] / (double)plan.elements : out->reals[k], out->type);
        else if (mean && plan.elements > 0)
            out->ints[k] /= plan.elements;
    }
    out->shape = plan.result;
    return node_set_constant(node, 0, out);
}
