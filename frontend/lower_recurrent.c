/* Lowering of RNN, GRU and LSTM: unrolled over a fixed number of steps. Before: known operands; every row has all the steps. After: one
 * product of the inputs of all steps, then for each step products, curves and sums; weights are sliced once. Source: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

enum { MOST_STEPS = 512, MOST_ACTIVATIONS = 3, CONCAT_INPUTS = 64 };

typedef enum { RNN, GRU, LSTM } Kind;
static const int gate_counts[] = {1, 3, 4};

/* One direction of a node. */
typedef struct {
    Kind kind;
    int64_t steps, rows, inputs, hidden, directions;
    bool by_rows;      /* layout 1: [rows, steps, ...] */
    bool reset_behind; /* GRU: linear_before_reset */
    const char *activations[MOST_ACTIVATIONS];
    Value *recurrent, *recurrent_new; /* [gates * hidden, hidden] of all gates, or of those before a GRU's last and of that one */
    Value *bias_new;                  /* of a GRU's last gate, within the reset; else NULL */
    Value *peephole[3];               /* [hidden]; NULL: there are none */
    Value *h, *c;                     /* [rows, hidden] so far; NULL: zero */
} Recurrent;

static Value *add(OnnxNode *node, Value *a, Value *b) {
    return a == NULL ? b : b == NULL ? a : node_emit(node, OP_add, INPUTS(a, b), NO_ATTRS);
}

static Value *mul(OnnxNode *node, Value *a, Value *b) {
    return node_emit(node, OP_mul, INPUTS(a, b), NO_ATTRS);
}

static Value *times(OnnxNode *node, Value *x, Value *w) {
    return node_emit(node, OP_matmul, INPUTS(x, w), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 1)));
}

static Value *part(OnnxNode *node, Value *value, int axis, int64_t i, int64_t size) {
    return value == NULL ? NULL : value->shape.dim[axis] == size ? value : node_slice(node, value, axis, i * size, size);
}

static Value *activation(OnnxNode *node, Value *x, const char *name) {
    if (strcmp(name, "Relu") == 0)
        return node_emit(node, OP_relu, INPUTS(x), NO_ATTRS);
    return node_emit(node, OP_curve, INPUTS(x), ATTRS(ATTR_S("function", strcmp(name, "Tanh") == 0 ? "tanh" : "sigmoid")));
}

/* --- one step; x: [rows, gates * hidden], with the biases --- */

static void step_rnn(OnnxNode *node, Recurrent *r, Value *x) {
    if (r->h != NULL)
        x = add(node, x, times(node, r->h, r->recurrent));
    r->h = activation(node, x, r->activations[0]);
}

/* Gates z, r, h: h' = (1 - z)*new + z*h = new + z*(h - new). */
static void step_gru(OnnxNode *node, Recurrent *r, Value *x) {
    int64_t n = r->hidden;
    Value *both = node_slice(node, x, 1, 0, 2 * n), *new = node_slice(node, x, 1, 2 * n, n);
    if (r->h != NULL)
        both = add(node, both, times(node, r->h, r->recurrent));
    both = activation(node, both, r->activations[0]);
    Value *update = part(node, both, 1, 0, n), *reset = part(node, both, 1, 1, n), *back = NULL;
    if (r->reset_behind) {
        back = r->h != NULL ? times(node, r->h, r->recurrent_new) : NULL;
        if (back != NULL && r->bias_new != NULL)
            back = node_emit(node, OP_bias, INPUTS(back, r->bias_new), ATTRS(ATTR_I("axis", 1)));
        else if (back == NULL)
            back = r->bias_new;
        back = back != NULL ? mul(node, reset, back) : NULL;
    } else if (r->h != NULL) {
        back = times(node, mul(node, reset, r->h), r->recurrent_new);
    }
    new = activation(node, add(node, new, back), r->activations[1]);
    Value *rest = r->h != NULL ? node_emit(node, OP_sub, INPUTS(r->h, new), NO_ATTRS) : node_emit(node, OP_neg, INPUTS(new), NO_ATTRS);
    r->h = add(node, new, mul(node, update, rest));
}

static Value *with_peephole(OnnxNode *node, Recurrent *r, Value *gate, int i, Value *cell) {
    return r->peephole[i] == NULL || cell == NULL ? gate : add(node, gate, mul(node, cell, r->peephole[i]));
}

/* Gates i, o, f, c: c' = f*c + i*new; h' = o*tanh(c'). Without peepholes the three sigmoids are one. */
static void step_lstm(OnnxNode *node, Recurrent *r, Value *x) {
    int64_t n = r->hidden;
    if (r->h != NULL)
        x = add(node, x, times(node, r->h, r->recurrent));
    Value *gates = node_slice(node, x, 1, 0, 3 * n), *new = activation(node, node_slice(node, x, 1, 3 * n, n), r->activations[1]);
    Value *in, *out, *forget;
    if (r->peephole[0] == NULL) {
        gates = activation(node, gates, r->activations[0]);
        in = part(node, gates, 1, 0, n), out = part(node, gates, 1, 1, n), forget = part(node, gates, 1, 2, n);
    } else {
        in = activation(node, with_peephole(node, r, part(node, gates, 1, 0, n), 0, r->c), r->activations[0]);
        forget = activation(node, with_peephole(node, r, part(node, gates, 1, 2, n), 2, r->c), r->activations[0]);
        out = part(node, gates, 1, 1, n);
    }
    Value *kept = r->c != NULL ? mul(node, forget, r->c) : NULL;
    r->c = add(node, kept, mul(node, in, new));
    if (r->peephole[0] != NULL)
        out = activation(node, with_peephole(node, r, out, 1, r->c), r->activations[0]);
    r->h = mul(node, out, activation(node, r->c, r->activations[2]));
}

/* --- operands --- */

/* What belongs to direction d of an operand [directions, ...], as `shape`; NULL if absent. */
static Value *of_direction(OnnxNode *node, int i, int axis, int64_t d, Shape shape) {
    return node_in(node, i) == NULL ? NULL : node_reshape(node, part(node, node_value(node, i), axis, d, 1), shape);
}

/* A first state of zeros is no parameter, also where an exporter writes it as an initializer. */
static bool is_zero(OnnxNode *node, int i) {
    const Operand *operand = node_in(node, i);
    bool known = operand != NULL && operand->value == NULL && (operand->constant != NULL || operand->proto != NULL);
    const OnnxTensor *tensor = known ? node_constant(node, i, "the first state") : NULL;
    for (int64_t k = 0; tensor != NULL && k < tensor->count; k++)
        if (tensor->reals == NULL || tensor->reals[k] != 0)
            return false;
    return tensor != NULL || operand == NULL;
}

/* Recurrent weights and peepholes; the bias of the products of x, added to a GRU's or kept apart as its formula needs; the first state. */
static Value *load_direction(OnnxNode *node, Recurrent *r, int64_t d) {
    int64_t n = r->hidden, gates = gate_counts[r->kind];
    Value *bias = of_direction(node, 3, 0, d, shape_of(1, (int64_t[]){2 * gates * n}));
    Value *first = part(node, bias, 0, 0, gates * n), *second = part(node, bias, 0, 1, gates * n);
    r->recurrent = of_direction(node, 2, 0, d, shape_of(2, (int64_t[]){gates * n, n}));
    if (r->kind == GRU && r->recurrent != NULL) {
        r->recurrent_new = node_slice(node, r->recurrent, 0, 2 * n, n);
        r->recurrent = node_slice(node, r->recurrent, 0, 0, 2 * n);
    }
    if (r->reset_behind && second != NULL) {
        int64_t *before = arena_alloc(node->importer->arena, (size_t)(3 * n), sizeof *before);
        for (int64_t k = 0; k < 2 * n; k++)
            before[k] = 1;
        r->bias_new = node_slice(node, second, 0, 2 * n, n);
        second = node_emit(node, OP_gate, INPUTS(second, node_const_mask(node, second->shape, before)), NO_ATTRS);
    }
    Shape state = shape_of(2, (int64_t[]){r->rows, n});
    int axis = r->by_rows ? 1 : 0;
    r->h = is_zero(node, 5) ? NULL : of_direction(node, 5, axis, d, state);
    r->c = r->kind != LSTM || is_zero(node, 6) ? NULL : of_direction(node, 6, axis, d, state);
    Value *peephole = r->kind != LSTM ? NULL : of_direction(node, 7, 0, d, shape_of(1, (int64_t[]){3 * n}));
    for (int i = 0; i < 3; i++)
        r->peephole[i] = part(node, peephole, 0, i, n);
    return add(node, first, second);
}

static bool expect_shape(OnnxNode *node, int i, const char *what, Shape shape) {
    if (node_in(node, i) == NULL || shape_equal(node->in[i]->shape, shape))
        return true;
    return node_refuse(node, "%s of shape [%s], expected [%s]", what, shape_text(node->importer->arena, node->in[i]->shape),
                       shape_text(node->importer->arena, shape));
}

static bool check_operands(OnnxNode *node, Recurrent *r) {
    int64_t gates = gate_counts[r->kind], n = r->hidden, d = r->directions;
    Shape state = shape_of(3, r->by_rows ? (int64_t[]){r->rows, d, n} : (int64_t[]){d, r->rows, n});
    if (r->steps < 1 || r->steps > MOST_STEPS)
        return node_refuse(node, "of %lld steps: 1 to %d are unrolled", (long long)r->steps, MOST_STEPS);
    if (node_in(node, 4) != NULL) {
        int count;
        const int64_t *lengths = node_ints(node, 4, "sequence_lens", &count);
        for (int i = 0; i < count; i++)
            if (lengths[i] != r->steps)
                return node_refuse(node, "row %d has %lld of %lld steps: rows must be of one length", i, (long long)lengths[i],
                                   (long long)r->steps);
        if (lengths == NULL)
            return false;
    }
    return expect_shape(node, 1, "W", shape_of(3, (int64_t[]){d, gates * n, r->inputs})) &&
           expect_shape(node, 2, "R", shape_of(3, (int64_t[]){d, gates * n, n})) &&
           expect_shape(node, 3, "B", shape_of(2, (int64_t[]){d, 2 * gates * n})) &&
           (is_zero(node, 5) || expect_shape(node, 5, "initial_h", state)) &&
           (is_zero(node, 6) || expect_shape(node, 6, "initial_c", state)) &&
           expect_shape(node, 7, "P", shape_of(2, (int64_t[]){d, 3 * n}));
}

/* The functions of all directions, the same for each, or the default ones. */
static bool read_activations(OnnxNode *node, Recurrent *r) {
    static const char *const defaults[][MOST_ACTIVATIONS] = {{"Tanh"}, {"Sigmoid", "Tanh"}, {"Sigmoid", "Tanh", "Tanh"}};
    const Onnx__AttributeProto *attr = node_attr(node, "activations");
    size_t count = r->kind == RNN ? 1 : r->kind == GRU ? 2 : 3;
    for (size_t i = 0; i < count; i++)
        r->activations[i] = defaults[r->kind][i];
    if (attr == NULL)
        return true;
    if (attr->n_strings != count * (size_t)r->directions)
        return node_refuse(node, "has %zu activations, expected %zu", attr->n_strings, count * (size_t)r->directions);
    for (size_t i = 0; i < attr->n_strings; i++) {
        size_t length = attr->strings[i].len < 64 ? attr->strings[i].len : 64;
        const char *name = arena_printf(node->importer->arena, "%.*s", (int)length, (const char *)attr->strings[i].data);
        if (strcmp(name, "Tanh") != 0 && strcmp(name, "Sigmoid") != 0 && strcmp(name, "Relu") != 0)
            return node_refuse(node, "activation '%s' is not supported, only Tanh, Sigmoid and Relu", name);
        if (i >= count && strcmp(name, r->activations[i % count]) != 0)
            return node_refuse(node, "directions with different activations are not supported");
        r->activations[i % count] = name;
    }
    return true;
}

/* --- results --- */

/* The parts one behind another; concat takes so many at a time. */
static Value *joined(OnnxNode *node, Value **parts, int64_t count, int axis) {
    while (count > 1) {
        int64_t made = 0;
        for (int64_t i = 0; i < count; i += CONCAT_INPUTS) {
            int n = (int)(count - i < CONCAT_INPUTS ? count - i : CONCAT_INPUTS);
            parts[made++] = n == 1 ? parts[i] : node_emit(node, OP_concat, parts + i, n, ATTRS(ATTR_I("axis", axis)));
        }
        count = made;
    }
    return parts[0];
}

typedef struct {
    Value **all; /* [directions * steps] of [rows, 1, hidden] (by rows) or [1, rows, hidden] */
    Value *last[2], *cell[2];
} Results;

static bool run_direction(OnnxNode *node, Recurrent *r, int64_t d, bool backwards, Results *results) {
    static void (*const steps[])(OnnxNode *, Recurrent *, Value *) = {step_rnn, step_gru, step_lstm};
    int64_t gates = gate_counts[r->kind] * r->hidden;
    Value *bias = load_direction(node, r, d), *x = node_value(node, 0);
    if (r->by_rows) {
        static const int64_t turn[MAX_RANK] = {1, 0, 2};
        x = x == NULL ? NULL : node_transpose(node, x, turn);
    }
    Value *w = of_direction(node, 1, 0, d, shape_of(2, (int64_t[]){gates, r->inputs}));
    Value *rows = node_reshape(node, x, shape_of(2, (int64_t[]){r->steps * r->rows, r->inputs}));
    Value *all = rows == NULL || w == NULL ? NULL : times(node, rows, w);
    if (bias != NULL)
        all = node_emit(node, OP_bias, INPUTS(all, bias), ATTRS(ATTR_I("axis", 1)));
    Shape shape = shape_of(3, r->by_rows ? (int64_t[]){r->rows, 1, r->hidden} : (int64_t[]){1, r->rows, r->hidden});
    for (int64_t i = 0; i < r->steps && all != NULL; i++) {
        int64_t t = backwards ? r->steps - 1 - i : i;
        steps[r->kind](node, r, part(node, all, 0, t, r->rows));
        if (r->h == NULL)
            return false;
        results->all[d * r->steps + t] = node_reshape(node, r->h, shape);
    }
    results->last[d] = node_reshape(node, r->h, shape);
    results->cell[d] = node_reshape(node, r->c, shape);
    return all != NULL;
}

/* Y is [steps, directions, rows, hidden] or [rows, steps, directions, hidden]. */
static bool set_results(OnnxNode *node, const Recurrent *r, Results *results) {
    int64_t d = r->directions;
    int axis = r->by_rows ? 1 : 0;
    if (node_wants(node, 0)) {
        Shape each = shape_of(4, r->by_rows ? (int64_t[]){r->rows, r->steps, 1, r->hidden} : (int64_t[]){r->steps, 1, r->rows, r->hidden});
        Value *parts[2] = {NULL};
        for (int64_t k = 0; k < d; k++)
            parts[k] = node_reshape(node, joined(node, results->all + k * r->steps, r->steps, axis), each);
        if (!node_set(node, 0, joined(node, parts, d, axis + 1)))
            return false;
    }
    return (!node_wants(node, 1) || node_set(node, 1, joined(node, results->last, d, axis))) &&
           (!node_wants(node, 2) || node_set(node, 2, joined(node, results->cell, d, axis)));
}

static bool lower_recurrent(OnnxNode *node, Kind kind) {
    if (!node_check_inputs(node, 3, kind == LSTM ? 8 : 6))
        return false;
    const char *direction = node_attr_text(node, "direction", "forward");
    bool both = strcmp(direction, "bidirectional") == 0, reverse = strcmp(direction, "reverse") == 0;
    Shape in = node->in[0]->shape;
    if (in.rank != 3 || node->in[2]->shape.rank != 3)
        return node_refuse(node, "takes X and R of three dimensions, found [%s] and [%s]", shape_text(node->importer->arena, in),
                           shape_text(node->importer->arena, node->in[2]->shape));
    Recurrent r = {.kind = kind, .inputs = in.dim[2], .directions = both ? 2 : 1};
    r.by_rows = node->since >= 14 && node_attr_int(node, "layout", 0) != 0;
    r.hidden = node_attr_int(node, "hidden_size", node->in[2]->shape.dim[2]);
    r.steps = in.dim[r.by_rows ? 1 : 0];
    r.rows = in.dim[r.by_rows ? 0 : 1];
    r.reset_behind = kind == GRU && node_attr_int(node, "linear_before_reset", 0) != 0;
    if (kind == LSTM && node_attr_int(node, "input_forget", 0) != 0)
        return node_refuse(node, "attribute 'input_forget' is not supported");
    if (r.hidden < 1 || r.hidden > INT16_MAX || !check_operands(node, &r) || !read_activations(node, &r))
        return false;
    Results results = {.all = arena_alloc(node->importer->arena, (size_t)(r.directions * r.steps), sizeof(Value *))};
    for (int64_t d = 0; d < r.directions; d++)
        if (!run_direction(node, &r, d, reverse || d == 1, &results))
            return false;
    return set_results(node, &r, &results);
}

bool lower_rnn(OnnxNode *node) {
    return lower_recurrent(node, RNN);
}

bool lower_gru(OnnxNode *node) {
    return lower_recurrent(node, GRU);
}

bool lower_lstm(OnnxNode *node) {
    return lower_recurrent(node, LSTM);
}
