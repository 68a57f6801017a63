/* Pooling and its gradients over N C D1 ... Dk. Tiles never write to one place: a pooled element gathers its window, a gradient element the
 * windows that cover it; windows that do not overlap write their own gradients. Small windows are unrolled, which leaves a straight inner
 * loop to vectorise; where that would be too short, window_lanes.c serves. */
#include "codegen/window.h"

#include <math.h>

enum { UNROLL = 64, MAX_SPATIAL = MAX_RANK - 2 };

typedef struct {
    const Node *node;
    const Value *source; /* what is gathered: x, or dy */
    bool backward;
    int rank; /* spatial */
    const int64_t *kernel, *strides, *pads, *dilations;
    Space space; /* of output 0 */
    int target, base, coordinate[MAX_SPATIAL];
    int offset; /* stream of the window offset: forward its place, backward its N and C part */
    int64_t source_stride[MAX_RANK], offset_stride[MAX_RANK];
    bool has_offset, phased;
    int64_t phase[MAX_SPATIAL]; /* position of the results modulo the stride, 0 where not phased */
    int64_t steps[MAX_SPATIAL]; /* their number */
    Nest nest;
} Window;

/* One place of the window, seen from a result. */
typedef struct {
    LLVMValueRef valid; /* NULL: always */
    LLVMValueRef index, offset_index, position;
} Place;

int64_t window_places(const Node *node) {
    int rank;
    const int64_t *kernel = attr_ints(node, "kernel", &rank);
    int64_t places = 1;
    for (int d = 0; d < rank; d++)
        places *= kernel[d];
    return places;
}

static void window_describe(Window *w, const Node *node, bool backward, bool has_offset) {
    int count;
    *w = (Window){.node = node, .source = node->in[0], .backward = backward, .has_offset = has_offset};
    w->kernel = attr_ints(node, "kernel", &w->rank);
    w->strides = attr_ints(node, "strides", &count);
    w->pads = attr_ints(node, "pads", &count);
    w->dilations = attr_ints(node, "dilations", &count);
    value_strides(w->source, w->source_stride);
    if (has_offset)
        value_strides(backward ? node->in[1] : node->out[1], w->offset_stride);
}

/* Strides of N and C alone, the spatial part is computed place by place. */
static int base_stream(Window *w, const int64_t *stride) {
    int64_t outer[MAX_RANK] = {stride[0], stride[1]};
    return space_stream(&w->space, w->node->out[0]->order, outer, 0);
}

/* The stream of a result. */
static int result_stream(Window *w, const int64_t *stride) {
    int64_t along[MAX_RANK] = {stride[0], stride[1]}, base = 0;
    for (int d = 0; d < w->rank; d++) {
        along[d + 2] = stride[d + 2] * (w->phased ? w->strides[d] : 1);
        base += stride[d + 2] * w->phase[d];
    }
    return space_stream(&w->space, w->node->out[0]->order, along, base);
}

/* The space of the results of a phase, or of all. */
static void window_open(Window *w) {
    const Value *out = w->node->out[0];
    Shape shape = out->shape;
    for (int d = 0; d < w->rank; d++) {
        if (w->phased)
            shape.dim[d + 2] = (shape.dim[d + 2] - w->phase[d] + w->strides[d] - 1) / w->strides[d];
        w->steps[d] = shape.dim[d + 2];
    }
    w->space = space_new(shape, out->order);
    int64_t stride[MAX_RANK];
    value_strides(out, stride);
    w->target = result_stream(w, stride);
    w->base = base_stream(w, w->source_stride);
    if (w->has_offset)
        w->offset = w->backward ? base_stream(w, w->offset_stride) : result_stream(w, w->offset_stride);
    for (int d = 0; d < w->rank; d++) {
        int64_t along[MAX_RANK] = {0};
        along[d + 2] = w->backward ? 1 : w->strides[d];
        w->coordinate[d] = space_stream(&w->space, out->order, along, w->phased ? 0 : w->backward ? w->pads[d] : -w->pads[d]);
    }
    space_collapse(&w->space);
}

static LLVMValueRef both(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    return a == NULL ? b : LLVMBuildAnd(cg->builder, a, b, "");
}

/* Whether no place of `windows` windows along a dimension of `extent` is padding; reach: from the first place of one to its last. */
static bool dimension_inside(int64_t pad, int64_t windows, int64_t stride, int64_t reach, int64_t extent) {
    return pad == 0 && (windows - 1) * stride + reach < extent;
}

static bool never_padding(const Window *w, int d) {
    return dimension_inside(w->pads[d], w->node->out[0]->shape.dim[d + 2], w->strides[d], (w->kernel[d] - 1) * w->dilations[d],
                            w->source->shape.dim[d + 2]);
}

/* --- places --- */

/* The coordinate in the source along spatial dimension d for tap k, and whether there is one. */
static LLVMValueRef looped_coordinate(Codegen *cg, const Window *w, int d, LLVMValueRef k, LLVMValueRef *valid) {
    LLVMValueRef origin = nest_index(cg, &w->nest, w->coordinate[d]), reach = mul_by(cg, k, w->dilations[d]);
    LLVMValueRef extent = const64(cg, w->source->shape.dim[d + 2]);
    if (!w->backward) {
        LLVMValueRef at = add(cg, origin, reach);
        if (!never_padding(w, d))
            *valid = both(cg, *valid, compare(cg, LLVMIntULT, at, extent));
        return at;
    }
    /* Window o covers this element with tap k if o * stride = i + pad - k * dilation. */
    LLVMValueRef t = sub(cg, origin, reach), zero = const64(cg, 0);
    *valid = both(cg, *valid, compare(cg, LLVMIntSGE, t, zero));
    LLVMValueRef at = udiv_by(cg, smax(cg, t, zero), w->strides[d]);
    if (w->strides[d] > 1)
        *valid = both(cg, *valid, compare(cg, LLVMIntEQ, mul_by(cg, at, w->strides[d]), t));
    *valid = both(cg, *valid, compare(cg, LLVMIntULT, at, extent));
    return at;
}

/* Whether tap k of dimension d reaches the elements of a phase: i = phase + stride * q is covered by window q + *shift. */
static bool reaches(const Window *w, int d, int64_t k, int64_t *shift) {
    int64_t t = w->phase[d] + w->pads[d] - k * w->dilations[d];
    *shift = t / w->strides[d];
    return t % w->strides[d] == 0;
}

/* The same for a known tap, which reaches all results of the space or none (NULL). */
static LLVMValueRef known_coordinate(Codegen *cg, const Window *w, int d, int64_t k, LLVMValueRef *valid) {
    int64_t shift = k * w->dilations[d], extent = w->source->shape.dim[d + 2], last;
    if (w->backward && !reaches(w, d, k, &shift))
        return NULL;
    last = w->backward ? shift + w->steps[d] - 1 : 0;
    LLVMValueRef at = add_const(cg, nest_index(cg, &w->nest, w->coordinate[d]), shift);
    if (w->backward ? shift < 0 || last >= extent : !never_padding(w, d))
        *valid = both(cg, *valid, compare(cg, LLVMIntULT, at, const64(cg, extent)));
    return at;
}

/* at: coordinates in the source. */
static Place window_place(Codegen *cg, const Window *w, const LLVMValueRef *at, LLVMValueRef position, LLVMValueRef valid) {
    LLVMValueRef zero = const64(cg, 0), within = zero, offset_within = zero;
    bool offsets = w->backward && w->has_offset;
    for (int d = 0; d < w->rank; d++) {
        within = add(cg, within, mul_by(cg, at[d], w->source_stride[d + 2]));
        if (offsets)
            offset_within = add(cg, offset_within, mul_by(cg, at[d], w->offset_stride[d + 2]));
    }
    /* Chosen before the base is added: where the channels are innermost, loads stay adjacent. */
    if (valid != NULL) {
        within = choose(cg, valid, within, zero);
        offset_within = choose(cg, valid, offset_within, zero);
    }
    Place place = {.valid = valid, .index = add(cg, nest_index(cg, &w->nest, w->base), within), .position = position};
    if (offsets)
        place.offset_index = add(cg, nest_index(cg, &w->nest, w->offset), offset_within);
    return place;
}

typedef struct {
    LLVMTypeRef type;
    LLVMValueRef best, position; /* locals */
} State;

static LLVMValueRef least_of(LLVMTypeRef type) {
    if (LLVMGetTypeKind(type) == LLVMFloatTypeKind)
        return LLVMConstReal(type, -INFINITY);
    unsigned bits = LLVMGetIntTypeWidth(type);
    return LLVMConstInt(type, 1ull << (bits - 1), false);
}

/* Takes one place into account. */
static void window_step(Codegen *cg, const Window *w, const State *state, const Place *place) {
    LLVMValueRef x = load_as(cg, w->source, place->index, state->type == cg->i64 ? 64 : 32);
    LLVMValueRef best = local_get(cg, state->type, state->best);
    if (w->node->op == OP_maxpool) {
        LLVMValueRef take = both(cg, place->valid, compare(cg, LLVMIntSGT, x, best));
        local_set(cg, state->best, choose(cg, take, x, best));
        LLVMValueRef before = local_get(cg, cg->i32, state->position);
        local_set(cg, state->position, choose(cg, take, as_bits(cg, place->position, 32), before));
        return;
    }
    LLVMValueRef take = place->valid;
    if (w->node->op == OP_maxpool_grad) {
        LLVMValueRef offset = load_as(cg, w->node->in[1], place->offset_index, 32);
        take = both(cg, take, compare(cg, LLVMIntEQ, offset, as_bits(cg, place->position, 32)));
    }
    LLVMValueRef term = take == NULL ? x : choose(cg, take, x, const_like(x, 0));
    local_set(cg, state->best, add(cg, best, term));
}

static void window_unrolled(Codegen *cg, const Window *w, const State *state, int64_t places) {
    for (int64_t i = 0; i < places; i++) {
        LLVMValueRef at[MAX_SPATIAL], valid = NULL;
        int64_t rest = i;
        bool any = true;
        for (int d = w->rank - 1; d >= 0; d--) {
            at[d] = known_coordinate(cg, w, d, rest % w->kernel[d], &valid);
            any = any && at[d] != NULL;
            rest /= w->kernel[d];
        }
        if (!any)
            continue;
        Place place = window_place(cg, w, at, const64(cg, i), valid);
        window_step(cg, w, state, &place);
    }
}

static void window_looped(Codegen *cg, const Window *w, const State *state) {
    Loop loops[MAX_SPATIAL];
    LLVMValueRef at[MAX_SPATIAL], valid = NULL, position = const64(cg, 0);
    for (int d = 0; d < w->rank; d++) {
        loops[d] = loop_begin(cg, const64(cg, 0), const64(cg, w->kernel[d]));
        at[d] = looped_coordinate(cg, w, d, loops[d].index, &valid);
        position = add(cg, mul_by(cg, position, w->kernel[d]), loops[d].index);
    }
    Place place = window_place(cg, w, at, position, valid);
    window_step(cg, w, state, &place);
    for (int d = w->rank - 1; d >= 0; d--)
        loop_end(cg, &loops[d]);
}

/* The kernel of the results that `w` walks. */
static void emit_walk(Codegen *cg, Window *w) {
    const Node *node = w->node;
    const Value *out = node->out[0];
    int64_t places = window_places(w->node);
    bool maximum = node->op == OP_maxpool;
    kernel_begin(cg, node, "");
    State state = {.type = out->type == T_I64 || out->type == T_REAL ? element_type(cg, out->type) : cg->i32};
    nest_begin(cg, &w->nest, &w->space);
    LLVMValueRef zero = LLVMConstNull(state.type), least = least_of(state.type);
    state.best = local_new(cg, state.type, maximum ? least : zero);
    state.position = local_new(cg, cg->i32, const32(cg, 0));
    if (places <= UNROLL)
        window_unrolled(cg, w, &state, places);
    else
        window_looped(cg, w, &state);
    LLVMValueRef best = local_get(cg, state.type, state.best);
    if (maximum)
        best = choose(cg, compare(cg, LLVMIntEQ, best, least), zero, best);
    store_element(cg, out, nest_index(cg, &w->nest, w->target), best);
    if (maximum && node->out[1]->offset >= 0)
        store_element(cg, node->out[1], nest_index(cg, &w->nest, w->offset), local_get(cg, cg->i32, state.position));
    nest_end(cg, &w->nest);
    kernel_end(cg, space_tiles(&w->space), space_elements(&w->space) * places * 2);
}

/* A gradient of a small window is cut into phases, its elements by their position modulo the stride: each tap reaches all of a phase or
 * none. */
static void emit_window(Codegen *cg, const Node *node, bool backward, bool has_offset) {
    Window *w = arena_alloc(cg->memory, 1, sizeof *w);
    int64_t phases = 1;
    window_describe(w, node, backward, has_offset);
    w->phased = backward && window_places(node) <= UNROLL;
    for (int d = 0; d < w->rank; d++)
        phases *= w->phased ? w->strides[d] : 1;
    for (int64_t phase = 0; phase < phases; phase++) {
        int64_t rest = phase;
        for (int d = w->rank - 1; d >= 0 && w->phased; rest /= w->strides[d--])
            w->phase[d] = rest % w->strides[d];
        window_open(w);
        if (space_elements(&w->space) > 0)
            emit_walk(cg, w);
    }
}

/* --- gradients of windows that do not overlap --- */

/* Whether every element of dx belongs to at most one window and no window has padding: then each window writes its own places. */
static bool is_disjoint(const Node *node, bool *covers) {
    const Shape dx = node->out[0]->shape, dy = node->in[0]->shape;
    int rank, count;
    const int64_t *kernel = attr_ints(node, "kernel", &rank), *strides = attr_ints(node, "strides", &count);
    const int64_t *pads = attr_ints(node, "pads", &count), *dilations = attr_ints(node, "dilations", &count);
    *covers = true;
    for (int d = 0; d < rank; d++) {
        int64_t reach = (kernel[d] - 1) * dilations[d] + 1;
        if (pads[d] != 0 || strides[d] < reach || (dy.dim[d + 2] - 1) * strides[d] + reach > dx.dim[d + 2])
            return false;
        *covers = *covers && dilations[d] == 1 && kernel[d] == strides[d] && dy.dim[d + 2] * strides[d] == dx.dim[d + 2];
    }
    return true;
}

typedef struct {
    const Node *node;
    const int64_t *kernel, *dilations;
    int rank, target;
    int64_t stride[MAX_RANK]; /* of dx */
    LLVMValueRef dy, offset;
    Nest nest;
} Scatter;

static void scatter_place(Codegen *cg, const Scatter *s, LLVMValueRef *taps) {
    LLVMValueRef index = nest_index(cg, &s->nest, s->target), position = const64(cg, 0), x = s->dy;
    for (int d = 0; d < s->rank; d++) {
        index = add(cg, index, mul_by(cg, taps[d], s->dilations[d] * s->stride[d + 2]));
        position = add(cg, mul_by(cg, position, s->kernel[d]), taps[d]);
    }
    if (s->offset != NULL) {
        LLVMValueRef here = compare(cg, LLVMIntEQ, s->offset, as_bits(cg, position, bits_of(s->offset)));
        x = choose(cg, here, x, const_like(x, 0));
    }
    store_element(cg, s->node->out[0], index, x);
}

static void scatter_unrolled(Codegen *cg, const Scatter *s, int64_t places) {
    for (int64_t place = 0; place < places; place++) {
        LLVMValueRef taps[MAX_SPATIAL];
        int64_t rest = place;
        for (int d = s->rank - 1; d >= 0; d--) {
            taps[d] = const64(cg, rest % s->kernel[d]);
            rest /= s->kernel[d];
        }
        scatter_place(cg, s, taps);
    }
}

static void scatter_looped(Codegen *cg, const Scatter *s) {
    Loop loops[MAX_SPATIAL];
    LLVMValueRef taps[MAX_SPATIAL];
    for (int d = 0; d < s->rank; d++) {
        loops[d] = loop_begin(cg, const64(cg, 0), const64(cg, s->kernel[d]));
        taps[d] = loops[d].index;
    }
    scatter_place(cg, s, taps);
    for (int d = s->rank - 1; d >= 0; d--)
        loop_end(cg, &loops[d]);
}

static void emit_scatter(Codegen *cg, const Node *node) {
    const Value *dy = node->in[0], *offset = node->op == OP_maxpool_grad ? node->in[1] : NULL, *dx = node->out[0];
    Scatter *s = arena_alloc(cg->memory, 1, sizeof *s);
    int count;
    s->node = node;
    s->kernel = attr_ints(node, "kernel", &s->rank);
    s->dilations = attr_ints(node, "dilations", &count);
    const int64_t *strides = attr_ints(node, "strides", &count);
    int64_t from[MAX_RANK], origin[MAX_RANK], places = window_places(node);
    Space space = space_new(dy->shape, dx->order);
    value_strides(dx, s->stride);
    for (int d = 0; d < dx->shape.rank; d++)
        origin[d] = d < 2 ? s->stride[d] : s->stride[d] * strides[d - 2];
    s->target = space_stream(&space, dx->order, origin, 0);
    value_strides(dy, from);
    int source = space_stream(&space, dx->order, from, 0), which = -1;
    if (offset != NULL) {
        value_strides(offset, from);
        which = space_stream(&space, dx->order, from, 0);
    }
    space_collapse(&space);
    kernel_begin(cg, node, "");
    nest_begin(cg, &s->nest, &space);
    s->dy = load_element(cg, dy, nest_index(cg, &s->nest, source));
    s->offset = offset == NULL ? NULL : load_element(cg, offset, nest_index(cg, &s->nest, which));
    if (places <= UNROLL / 4)
        scatter_unrolled(cg, s, places);
    else
        scatter_looped(cg, s);
    nest_end(cg, &s->nest);
    kernel_end(cg, space_tiles(&space), space_elements(&space) * places * 2);
}

static void emit_gradient(Codegen *cg, const Node *node) {
    bool covers;
    if (!is_disjoint(node, &covers)) {
        emit_window(cg, node, true, node->op == OP_maxpool_grad);
        return;
    }
    if (!covers)
        emit_zeros(cg, node);
    const Value *const values[] = {node->in[0], node->out[0], node->op == OP_maxpool_grad ? node->in[1] : node->in[0]};
    if (lanes_serve(node, values, 3))
        lanes_scatter(cg, node);
    else
        emit_scatter(cg, node);
}

/* Whether no window of a forward pool has padding. */
static bool is_inside(const Node *node) {
    int rank, count;
    const int64_t *kernel = attr_ints(node, "kernel", &rank), *strides = attr_ints(node, "strides", &count);
    const int64_t *pads = attr_ints(node, "pads", &count), *dilations = attr_ints(node, "dilations", &count);
    bool inside = true;
    for (int d = 0; d < rank; d++)
        inside = inside && dimension_inside(pads[d], node->out[0]->shape.dim[d + 2], strides[d], (kernel[d] - 1) * dilations[d],
                                            node->in[0]->shape.dim[d + 2]);
    return inside;
}

void emit_maxpool(Codegen *cg, const Node *node) {
    const Value *const values[] = {node->in[0], node->out[0], node->out[1]};
    if (is_inside(node) && lanes_serve(node, values, 3))
        lanes_maxpool(cg, node);
    else
        emit_window(cg, node, false, true);
}

void emit_maxpool_grad(Codegen *cg, const Node *node) {
    emit_gradient(cg, node);
}

void emit_sumpool(Codegen *cg, const Node *node) {
    emit_window(cg, node, false, false);
}

void emit_sumpool_grad(Codegen *cg, const Node *node) {
    emit_gradient(cg, node);
}
