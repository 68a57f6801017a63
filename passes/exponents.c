/* Widths and exponents: quantizes what is known at compile time, gives every value a type and inserts rescale (docs/numerics.md).
 * Before: STAGE_LOWERED, TRAINED or UPDATED; no rescale. After: STAGE_SCALED; every operand is as narrow as its reader demands (`reads` in
 * ops.def), every rescale is shared by all readers that want its width, and stochastic ones have a stream of their own.
 *
 * A value wider than its readers accept is rescaled right behind its node. It stays wide only along a single use, within one phase, into a
 * reader of any width; masks beside the node do not count as uses. So a contraction, its bias and its activation are rounded once, and no
 * 32-bit copy of an activation waits for the backward pass. Tensors of one element may stay wide anywhere. A batch normalisation in
 * training reads its input through `refine`. */
#include "passes/passes.h"
#include "runtime/fixed.h"

enum { NORMALISED_PLACES = 4, NARROW_BITS = 8, MASTER_BITS = 16, SCALAR_BITS = 31, HYPER_BITS = 32, ANY_BITS = 64 };
/* Bits that an operand of a sum must keep: a gradient is rounded to 8 at the end of a chain, an activation has 7. */
enum { LEAST_GRADIENT_BITS = 12, LEAST_FORWARD_BITS = 6 };
/* Accumulators keep one bit for a rounding and one for the sign. */
#define WIDE_BOUND ((int64_t)1 << 61)

typedef struct {
    Node *node; /* NULL: an output or the next value of an update */
    int input;  /* or the index of the output or update */
    Value **slot;
    int accepts; /* most mantissa bits */
    int target;  /* bits of the rescale where it is wider */
} Use;

typedef struct {
    Use *at;
    int count, room;
} Uses;

typedef struct {
    Graph *graph;
    int bits;
    int64_t stream;
    Uses *uses; /* by id of the values that the pass was given */
    bool *tail; /* by id: leads to the update alone, as the gradient of a parameter does */
    bool *data; /* by id: depends on an input */
    int given;  /* their number */
} Scaler;

/* The reader takes the value as it is, or so do all readers of the reshaped value. */
static bool is_exact(const Scaler *s, const Use *use) {
    if (use->node == NULL || use->node->op != OP_reshape)
        return use->node != NULL && op_reads(use->node->op, use->input) == 'x';
    const Uses *uses = &s->uses[use->node->out[0]->id];
    bool exact = uses->count > 0;
    for (int i = 0; exact && i < uses->count; i++)
        exact = is_exact(s, &uses->at[i]);
    return exact;
}

static bool is_mask(const Node *node) {
    return node != NULL && (node->op == OP_positive || node->op == OP_inside || node->op == OP_argmax);
}

/* Bits that hold |m| <= bound with a sign, at the symmetric bounds of rescale. */
static int bits_of(int64_t bound) {
    return intc_bit_length((uint64_t)bound) + 1;
}

static int64_t top_of(int bits) {
    return (int64_t)(((uint64_t)1 << (bits - 1)) - 1);
}

/* Both the mantissas and the type that holds them. */
static bool fits(const Value *value, int bits) {
    return value->bound <= top_of(bits) && type_bytes(value->type) <= type_bytes(type_for_bound(top_of(bits)));
}

static bool is_scalar(const Value *value) {
    return shape_elements(value->shape) <= 1;
}

/* --- uses --- */

static void add_use(Scaler *s, const Value *value, Use use) {
    Uses *uses = &s->uses[value->id];
    if (uses->count == uses->room) {
        uses->room = uses->room == 0 ? 4 : 2 * uses->room;
        Use *grown = arena_alloc(s->graph->arena, (size_t)uses->room, sizeof *grown);
        for (int i = 0; i < uses->count; i++)
            grown[i] = uses->at[i];
        uses->at = grown;
    }
    uses->at[uses->count++] = use;
}

static void find_uses(Scaler *s) {
    Graph *graph = s->graph;
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            add_use(s, graph->nodes[i]->in[k], (Use){.node = graph->nodes[i], .input = k, .slot = &graph->nodes[i]->in[k]});
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].role == ROLE_PREDICTION)
            add_use(s, graph->outputs[i].value, (Use){.input = i, .slot = &graph->outputs[i].value});
    for (int i = 0; i < graph->update_count; i++)
        add_use(s, graph->updates[i].next, (Use){.input = -1, .slot = &graph->updates[i].next});
}

static bool passes_tail(const Node *node, int input) {
    OpKind kind = op_info(node->op)->kind;
    return node->phase == PHASE_BACKWARD && op_reads(node->op, input) == 'w' &&
           (kind == KIND_MOVE || kind == KIND_POINTWISE || kind == KIND_REDUCE);
}

/* A weight gradient keeps 16 bits through the moves and sums on its way to the update. */
static void find_tails(Scaler *s) {
    for (int i = s->graph->node_count - 1; i >= 0; i--) {
        const Node *node = s->graph->nodes[i];
        for (int k = 0; k < node->out_count; k++) {
            const Uses *uses = &s->uses[node->out[k]->id];
            bool tail = node->phase != PHASE_FORWARD && uses->count > 0;
            for (int u = 0; u < uses->count; u++) {
                const Use *use = &uses->at[u];
                if (is_exact(s, use))
                    continue;
                bool update = use->node == NULL ? use->input < 0 : use->node->phase == PHASE_UPDATE;
                tail = tail && (update || (use->node != NULL && passes_tail(use->node, use->input) && s->tail[use->node->out[0]->id]));
            }
            s->tail[node->out[k]->id] = tail;
        }
    }
}

static void find_data(Scaler *s) {
    for (int i = 0; i < s->given; i++)
        s->data[i] = s->graph->values[i]->kind == VALUE_INPUT;
    for (int i = 0; i < s->graph->node_count; i++) {
        const Node *node = s->graph->nodes[i];
        bool any = node->in_count == 0;
        for (int k = 0; k < node->in_count; k++)
            any = any || s->data[node->in[k]->id];
        for (int k = 0; k < node->out_count; k++)
            s->data[node->out[k]->id] = any;
    }
}

/* --- what a use demands --- */

/* A tensor of single losses or label weights: 8 bits would show in the logged loss. */
static bool is_labelled(const Value *value) {
    return value->def != NULL && (value->def->op == OP_cross_entropy || value->def->op == OP_pick || value->def->op == OP_label_weight);
}

/* The gradient of a normalised value times a scale that varies within the row: only norm_grad and sums of it read it. */
static bool is_scaled_gradient(const Scaler *s, const Value *value) {
    bool found = false;
    for (int i = 0; i < s->uses[value->id].count && value->def != NULL && value->def->op == OP_mul; i++) {
        const Use *use = &s->uses[value->id].at[i];
        found = found || (use->node != NULL && use->node->op == OP_norm_grad && use->input == 0);
    }
    return found;
}

/* A prediction of inference: 8 bits would make the two largest of one sample in ten equal. Training reads none. */
static bool is_prediction(const Scaler *s, const Value *value) {
    bool found = false;
    for (int i = 0; i < s->uses[value->id].count && s->graph->update_count == 0; i++) {
        const Use *use = &s->uses[value->id].at[i];
        bool reshape = use->node != NULL && use->node->op == OP_reshape;
        found = found || (use->node == NULL && use->input >= 0) || (reshape && is_prediction(s, use->node->out[0]));
    }
    return found;
}

/* What is computed from parameters and states alone (a normalisation's scale) keeps their width. */
static int half_target(const Scaler *s, const Value *value) {
    bool master = is_scalar(value) || is_labelled(value) || is_prediction(s, value) || s->tail[value->id] || !s->data[value->id];
    return master || is_scaled_gradient(s, value) ? MASTER_BITS : NARROW_BITS;
}

/* Windows and moves copy elements: 8-bit ones. A reshape moves nothing, and the tail of a weight gradient stays exact. */
static bool wants_narrow_copies(const Scaler *s, const Value *value, const Node *reader) {
    OpKind kind = op_info(reader->op)->kind;
    return !is_scalar(value) && !s->tail[value->id] && (kind == KIND_WINDOW || (kind == KIND_MOVE && reader->op != OP_reshape));
}

static bool stays_wide(const Scaler *s, const Value *value);
static void demand(const Scaler *s, const Value *value, Use *use);

/* Bits to which the readers of a reshape bring its result: narrowing before it gives the same mantissas and moves fewer bytes. */
static int behind_reshape(const Scaler *s, const Value *value, const Value *out) {
    int bits = 0;
    bool wide = stays_wide(s, out);
    for (int i = 0; i < s->uses[out->id].count; i++) {
        Use use = s->uses[out->id].at[i];
        if (is_mask(use.node))
            return ANY_BITS;
        demand(s, value, &use);
        int wanted = !wide && use.target > NARROW_BITS ? half_target(s, value) : use.target;
        bits = wanted > bits ? wanted : bits;
    }
    return bits > 0 ? bits : ANY_BITS;
}

static void demand(const Scaler *s, const Value *value, Use *use) {
    use->accepts = use->target = ANY_BITS;
    if (use->node == NULL) { /* updates: 16-bit masters; predictions whose exponent is known (softmax, sigmoid) are as they are */
        if (use->input < 0 || value->exponent_kind != EXPONENT_CONST)
            use->accepts = use->target = use->input < 0 ? MASTER_BITS : half_target(s, value);
        return;
    }
    char letter = op_reads(use->node->op, use->input);
    if (letter == 'n')
        use->accepts = use->target = op_info(use->node->op)->kind == KIND_CONTRACT ? s->bits : NARROW_BITS;
    else if (letter == 'h') {
        use->accepts = MASTER_BITS;
        use->target = use->node->phase == PHASE_UPDATE ? MASTER_BITS : half_target(s, value);
    } else if (wants_narrow_copies(s, value, use->node))
        use->accepts = use->target = NARROW_BITS;
    else if (use->node->op == OP_reshape && !is_scalar(value))
        use->accepts = use->target = behind_reshape(s, value, use->node->out[0]);
}

static bool stays_wide(const Scaler *s, const Value *value) {
    const Uses *uses = &s->uses[value->id];
    int count = 0;
    bool crosses = false;
    for (int i = 0; i < uses->count; i++) {
        const Node *reader = uses->at[i].node;
        if (is_mask(reader) || is_exact(s, &uses->at[i]))
            continue;
        count++;
        crosses = crosses || (reader != NULL && reader->phase != value->def->phase);
    }
    return is_scalar(value) || (count <= 1 && !crosses);
}

/* --- rescale --- */

static int position(const Graph *graph, const Node *node) {
    int at = 0;
    while (graph->nodes[at] != node)
        at++;
    return at;
}

/* Inserts behind the node at `at`, its masks and the rescales that are already there. */
static int behind(const Graph *graph, int at) {
    int next = at + 1;
    while (next < graph->node_count && (is_mask(graph->nodes[next]) || graph->nodes[next]->op == OP_rescale))
        next++;
    return next;
}

/* nearest holds in the forward phase alone; what moves a state on is rounded at random there too. */
static Value *rescale(Scaler *s, Value *value, int bits, bool nearest, int at) {
    Graph *graph = s->graph;
    Phase phase = value->def != NULL ? value->def->phase : PHASE_FORWARD;
    nearest = nearest && phase == PHASE_FORWARD;
    Attr attrs[] = {ATTR_I("bits", bits), ATTR_S("round", nearest ? "nearest" : "stochastic"), ATTR_I("stream", nearest ? 0 : s->stream++)};
    const Node *from = value->def;
    graph_insert_at(graph, at);
    graph_set_phase(graph, phase);
    Value *out = build(graph, OP_rescale, from, &value, 1, attrs, 3);
    graph_insert_at(graph, -1);
    graph_set_phase(graph, PHASE_FORWARD);
    if (from != NULL) {
        out->def->origin = from->origin;
        out->def->forward = from->forward;
    }
    if (value->kind == VALUE_NODE)
        out->onnx_name = value->onnx_name;
    node_infer_width(out->def);
    return out;
}

/* Gives every use of the value a version that it accepts; at: where rescales go. */
static void serve(Scaler *s, Value *value, int at) {
    const Uses *uses = &s->uses[value->id];
    Value *made[ANY_BITS + 1] = {NULL};
    for (int i = 0; i < uses->count; i++) {
        const Use *use = &uses->at[i];
        if (is_mask(use->node) || fits(value, use->accepts))
            continue;
        Value **version = &made[use->target];
        if (*version == NULL) {
            *version = rescale(s, value, use->target, use->node != NULL || use->input >= 0, at);
            at++;
        }
        *use->slot = *version;
    }
}

/* A value computed by a node: decides the demands of its uses once its width is known, then serves them. */
static void scale_value(Scaler *s, Value *value, int at) {
    Uses *uses = &s->uses[value->id];
    bool wide = stays_wide(s, value);
    for (int i = 0; i < uses->count; i++) {
        Use *use = &uses->at[i];
        demand(s, value, use);
        bool update = use->node != NULL && use->node->phase == PHASE_UPDATE;
        int most = update ? MASTER_BITS : half_target(s, value);
        if (!wide && use->accepts > most && !is_exact(s, use))
            use->accepts = use->target = most;
    }
    serve(s, value, behind(s->graph, at));
}

/* --- what is known at compile time, and what the runtime fills --- */

static void set_width(Value *value, int bits) {
    value->bound = top_of(bits);
    value->type = type_for_bound(value->bound);
    value->exponent_kind = EXPONENT_DYNAMIC;
}

/* Mantissas of at most so many bits, fewer where they are exact unless they are to fill them; none of zeros, such as momentum begins with.
 */
static void quantize(Graph *graph, Value *value, int bits, bool fill) {
    int64_t n = value->real != NULL ? shape_elements(value->shape) : 0;
    int64_t *mantissa = value->real != NULL ? arena_alloc(graph->arena, (size_t)n, sizeof *mantissa) : NULL;
    value->exponent = value->real != NULL ? reals_to_mantissas(value->real, n, bits, mantissa) : INTC_EXPONENT_ZERO;
    value->mantissa = mantissa;
    int64_t bound = 0;
    for (int64_t i = 0; i < n; i++)
        bound = bound > (int64_t)intc_magnitude(mantissa[i]) ? bound : (int64_t)intc_magnitude(mantissa[i]);
    int room = fill && bound > 0 ? bits - 1 - intc_bit_length((uint64_t)bound) : 0;
    for (int64_t i = 0; room > 0 && i < n; i++)
        mantissa[i] *= (int64_t)1 << room;
    if (room > 0) {
        value->exponent -= room;
        bound <<= room;
    }
    value->bound = bound;
    value->type = type_for_bound(bound);
    value->exponent_kind = EXPONENT_CONST;
}

/* One set of mantissas for each width that readers ask for; the first is the value itself. */
static void scale_const(Scaler *s, Value *value) {
    Uses *uses = &s->uses[value->id];
    Value *made[ANY_BITS + 1] = {NULL};
    int most = is_scalar(value) ? SCALAR_BITS : MASTER_BITS;
    bool first = true;
    for (int i = 0; i < uses->count; i++) {
        demand(s, value, &uses->at[i]);
        int bits = uses->at[i].accepts > most ? most : uses->at[i].accepts;
        Value **version = &made[bits];
        if (*version == NULL) {
            *version = first ? value : graph_const(s->graph, NULL, value->shape, value->real);
            quantize(s->graph, *version, bits, false);
            first = false;
        }
        *uses->at[i].slot = *version;
    }
    if (first)
        quantize(s->graph, value, most, false);
}

/* PARAM and STATE: 16-bit masters, the exponent is kept beside them; exponent is the initial one. They fill their bits from the start, as
 * they will after the first update: a scale of ones is 2^14, not 1. */
static void scale_master(Scaler *s, Value *value) {
    quantize(s->graph, value, MASTER_BITS, true);
    set_width(value, MASTER_BITS);
}

/* Data has the width of its first reader; targets, on which the loss depends and no prediction, are only compared with: 16 bits. */
static void scale_input(Scaler *s, Value *value, const bool *loss, const bool *prediction, bool predicts) {
    if (predicts && loss[value->id] && !prediction[value->id]) {
        set_width(value, MASTER_BITS);
        return;
    }
    int bits = NARROW_BITS;
    const Uses *uses = &s->uses[value->id];
    for (int i = 0; i < uses->count; i++)
        if (uses->at[i].node != NULL && op_info(uses->at[i].node->op)->kind == KIND_CONTRACT)
            bits = s->bits;
    set_width(value, bits);
}

static void scale_sources(Scaler *s) {
    Graph *graph = s->graph;
    bool *loss = graph_reaching(graph, ROLE_LOSS), *prediction = graph_reaching(graph, ROLE_PREDICTION);
    bool predicts = false;
    for (int i = 0; i < graph->output_count; i++)
        predicts = predicts || graph->outputs[i].role == ROLE_PREDICTION;
    for (int i = 0; i < s->given; i++) {
        Value *value = graph->values[i];
        if (value->integer || value->kind == VALUE_NODE)
            continue;
        if (value->kind == VALUE_CONST)
            scale_const(s, value);
        else if (value->kind == VALUE_INPUT)
            scale_input(s, value, loss, prediction, predicts);
        else if (value->kind == VALUE_HYPER)
            set_width(value, HYPER_BITS);
        else
            scale_master(s, value);
    }
}

/* Rescales of values that no node computes go right before the first reader that wants one. */
static void serve_source(Scaler *s, Value *value) {
    Uses *uses = &s->uses[value->id];
    int first = s->graph->node_count;
    for (int i = 0; i < uses->count; i++) {
        const Use *use = &uses->at[i];
        demand(s, value, &uses->at[i]);
        if (use->node != NULL && !is_mask(use->node) && !fits(value, use->accepts)) {
            int at = position(s->graph, use->node);
            first = at < first ? at : first;
        }
    }
    serve(s, value, first);
}

/* --- the walk --- */

/* The widest operand that a rescale can narrow; -1 if there is none. */
static int widest(const Node *node) {
    int best = -1;
    for (int k = 0; k < node->in_count; k++) {
        const Value *in = node->in[k];
        if (in->integer || bits_of(in->bound) <= MASTER_BITS || (in->def == NULL && in->kind != VALUE_HYPER))
            continue;
        if (best < 0 || in->bound > node->in[best]->bound)
            best = k;
    }
    return best;
}

static bool is_sum(const Node *node) {
    ExponentRule rule = op_info(node->op)->exponent;
    return (rule == RULE_ALIGN || rule == RULE_FIRST) && node->op != OP_weighted_sum;
}

/* Places that the exponent rule of a sum takes from an operand, however small its mantissas are: its bound must not overflow. */
static int lost_places(const Node *sum, int k) {
    int terms = sum->op == OP_concat ? 0 : intc_bit_length((uint64_t)(sum->in_count - 1));
    int lost = intc_bit_length((uint64_t)sum->in[k]->bound) + terms - node_align_bits(sum);
    return lost > 0 ? lost : 0;
}

/* Significant bits that the largest mantissa may be counted on to have; a sum's bound says nothing about them. */
static int significant(const Value *value) {
    int own = intc_bit_length((uint64_t)value->bound), best = 0;
    const Node *node = value->def;
    if (node == NULL)
        return own;
    if (node->op == OP_rescale) { /* which only narrows */
        best = significant(node->in[0]);
        return best < own ? best : own;
    }
    if (op_info(node->op)->kind == KIND_CONTRACT)
        return own - 4;
    if (node->op == OP_mul_const || node->op == OP_leaky_relu)
        return significant(node->in[0]) + own - intc_bit_length((uint64_t)node->in[0]->bound);
    if (!is_sum(node))
        return op_info(node->op)->exponent == RULE_SAME ? significant(node->in[0]) : own;
    for (int k = 0; k < node->in_count; k++) {
        int bits = significant(node->in[k]) - lost_places(node, k);
        best = bits > best ? bits : best;
    }
    return best;
}

/* Sums of sums lose two places each: a wide operand that would be left with too few is brought to 16 bits first. */
static void keep_significant(Scaler *s, Node *node) {
    int least = node->phase == PHASE_FORWARD ? LEAST_FORWARD_BITS : LEAST_GRADIENT_BITS;
    for (int k = 0; k < node->in_count && is_sum(node); k++) {
        Value *in = node->in[k];
        if (in->def == NULL || lost_places(node, k) == 0 || significant(in) - lost_places(node, k) >= least)
            continue;
        Value *narrow = rescale(s, in, MASTER_BITS, true, position(s->graph, node));
        for (int i = k; i < node->in_count; i++)
            if (node->in[i] == in)
                node->in[i] = narrow;
    }
}

/* Infers the node's widths; narrows operands to 16 bits where the result would not fit 64, or where sums would wear them out. */
static bool infer(Scaler *s, Node *node, Diag *diag) {
    keep_significant(s, node);
    node_infer_width(node);
    while (!node->out[0]->integer && node->out[0]->bound > WIDE_BOUND) {
        int k = widest(node);
        if (k < 0) {
            diag_error(diag, &node->origin, "%s of these sizes does not fit 64-bit integers", op_info(node->op)->name);
            return false;
        }
        node->in[k] = rescale(s, node->in[k], MASTER_BITS, true, position(s->graph, node));
        node_infer_width(node);
    }
    return true;
}

/* One mean for all samples. */
static bool is_batch_norm(const Node *node) {
    return node->op == OP_norm_apply && node->in[1]->shape.dim[0] == 1 && node->in[0]->shape.dim[0] > 1;
}

static void set_places(Node *node, int64_t places) {
    for (int part = 0; part < 3; part++) {
        attr_set(node->in[1 + part]->def, ATTR_I("places", places));
        node_infer_width(node->in[1 + part]->def);
    }
    node_infer_width(node);
}

/* The result of a batch normalisation is computed from its input with more places than what is stored of it for the backward pass and what
 * the statistics are taken from: its channels are not equally loud, and 8 bits for all would move the quiet ones across the corners of the
 * activation. */
static void refine_normalised(Graph *graph) {
    for (int i = 0; i < graph->node_count; i++) {
        Node *node = graph->nodes[i], *from = is_batch_norm(node) && node->phase == PHASE_FORWARD ? node->in[0]->def : NULL;
        if (from == NULL || from->op != OP_rescale || from->phase != PHASE_FORWARD || attr_int(from, "bits", 0) != NARROW_BITS)
            continue;
        int at = position(graph, from) + 1;
        Node *next = graph->nodes[at];
        if (next->op != OP_refine || next->in[1] != from->out[0]) {
            Attr places = ATTR_I("places", NORMALISED_PLACES);
            graph_insert_at(graph, at);
            next = build(graph, OP_refine, from, INPUTS(from->in[0], from->out[0]), &places, 1)->def;
            graph_insert_at(graph, -1);
            next->origin = from->origin;
            next->forward = from->forward;
            node_infer_width(next);
            i++;
        }
        node->in[0] = next->out[0];
        set_places(node, NORMALISED_PLACES);
    }
}

static int64_t first_free_stream(const Graph *graph) {
    int64_t stream = 0;
    for (int i = 0; i < graph->node_count; i++) {
        int64_t used = attr_int(graph->nodes[i], "stream", 0);
        stream = used > stream ? used : stream;
    }
    return stream + 1;
}

bool pass_exponents(Graph *graph, const PassOptions *options, Diag *diag) {
    size_t n = (size_t)graph->value_count;
    Scaler s = {.graph = graph, .bits = options->bits, .stream = first_free_stream(graph), .given = graph->value_count};
    s.uses = arena_alloc(graph->arena, n, sizeof *s.uses);
    s.tail = arena_alloc(graph->arena, n, sizeof *s.tail);
    find_uses(&s);
    s.data = arena_alloc(graph->arena, n, sizeof *s.data);
    find_tails(&s);
    find_data(&s);
    int node_count = graph->node_count;
    Node **nodes = arena_alloc(graph->arena, (size_t)node_count, sizeof *nodes);
    for (int i = 0; i < node_count; i++)
        nodes[i] = graph->nodes[i];
    scale_sources(&s);
    for (int i = 0; i < s.given; i++) {
        Value *value = graph->values[i];
        if (!value->integer && value->kind != VALUE_NODE && value->kind != VALUE_CONST)
            serve_source(&s, value);
    }
    for (int i = 0; i < node_count; i++) {
        if (!infer(&s, nodes[i], diag))
            return false;
        for (int k = 0; k < nodes[i]->out_count; k++)
            if (!nodes[i]->out[k]->integer)
                scale_value(&s, nodes[i]->out[k], position(graph, nodes[i]));
    }
    if (graph->update_count > 0)
        refine_normalised(graph);
    graph->stage = STAGE_SCALED;
    return true;
}
