/* Moves: copies between index spaces. Every move but a hard reshape is one linear index on either side; concat also aligns its inputs. */
#include "codegen/space.h"

/* Copies all of the space; the builder is in the entry function. */
static void emit_copy(Codegen *cg, const Node *node, const Value *from, const Value *to, Space *space, int in, int out) {
    space_collapse(space);
    bool aligned = node->op == OP_concat && to->type != T_REAL && !to->integer;
    kernel_begin(cg, node, "");
    Shift shift = {0};
    if (aligned) {
        LLVMBasicBlockRef saved = head_enter(cg);
        bool wide = to->type == T_I64 || from->bound > (int64_t)1 << 30;
        shift = shift_new(cg, sub(cg, node_exponent(cg, node), value_exponent(cg, from)), wide ? 64 : 32, true);
        head_leave(cg, saved);
    }
    Nest nest;
    nest_begin(cg, &nest, space);
    LLVMValueRef x = load_element(cg, from, nest_index(cg, &nest, in));
    if (aligned)
        x = shift_apply(cg, &shift, x);
    store_element(cg, to, nest_index(cg, &nest, out), x);
    nest_end(cg, &nest);
    kernel_end(cg, space_tiles(space), space_elements(space) * 2);
}

/* A move whose space is the output: each element of it comes from in_stride · index + base. */
static void emit_from(Codegen *cg, const Node *node, const int64_t *in_stride, int64_t base) {
    const Value *from = node->in[0], *to = node->out[0];
    Space space = space_new(to->shape, to->order);
    int64_t stride[MAX_RANK];
    value_strides(to, stride);
    int out = space_stream(&space, to->order, stride, 0), in = space_stream(&space, to->order, in_stride, base);
    emit_copy(cg, node, from, to, &space, in, out);
}

/* The memory plan lets the two sides of a move share a place where no byte moves. */
static bool is_free(const Node *node) {
    return node->in[0]->offset == node->out[0]->offset || shape_elements(node->out[0]->shape) == 0;
}

void emit_transpose(Codegen *cg, const Node *node) {
    if (is_free(node))
        return;
    int count;
    const int64_t *perm = attr_ints(node, "perm", &count);
    int64_t own[MAX_RANK], stride[MAX_RANK] = {0};
    value_strides(node->in[0], own);
    for (int d = 0; d < count; d++)
        stride[d] = own[perm[d]];
    emit_from(cg, node, stride, 0);
}

void emit_slice(Codegen *cg, const Node *node) {
    int count;
    const int64_t *starts = attr_ints(node, "starts", &count), *steps = attr_ints(node, "steps", &count);
    int64_t stride[MAX_RANK], base = 0;
    value_strides(node->in[0], stride);
    for (int d = 0; d < node->in[0]->shape.rank; d++) {
        base += starts[d] * stride[d];
        stride[d] *= steps[d];
    }
    emit_from(cg, node, stride, base);
}

void emit_reverse(Codegen *cg, const Node *node) {
    int count;
    const int64_t *axes = attr_ints(node, "axes", &count);
    int64_t stride[MAX_RANK], base = 0;
    value_strides(node->in[0], stride);
    for (int i = 0; i < count; i++) {
        int64_t d = axes[i];
        base += (node->in[0]->shape.dim[d] - 1) * stride[d];
        stride[d] = -stride[d];
    }
    emit_from(cg, node, stride, base);
}

void emit_broadcast(Codegen *cg, const Node *node) {
    Shape in = node->in[0]->shape, out = node->out[0]->shape;
    int64_t own[MAX_RANK], stride[MAX_RANK] = {0};
    value_strides(node->in[0], own);
    for (int d = 0; d < in.rank; d++)
        if (in.dim[d] != 1)
            stride[d + out.rank - in.rank] = own[d];
    emit_from(cg, node, stride, 0);
}

void emit_pad(Codegen *cg, const Node *node) {
    const Value *from = node->in[0], *to = node->out[0];
    int count;
    const int64_t *low = attr_ints(node, "low", &count), *interior = attr_ints(node, "interior", &count);
    Space space = space_new(from->shape, to->order);
    int64_t stride[MAX_RANK], target[MAX_RANK], base = 0;
    value_strides(from, stride);
    value_strides(to, target);
    for (int d = 0; d < from->shape.rank; d++) {
        base += low[d] * target[d];
        target[d] *= interior[d] + 1;
    }
    if (shape_elements(to->shape) != shape_elements(from->shape))
        emit_zeros(cg, node);
    int out = space_stream(&space, to->order, target, base), in = space_stream(&space, to->order, stride, 0);
    emit_copy(cg, node, from, to, &space, in, out);
}

void emit_concat(Codegen *cg, const Node *node) {
    const Value *to = node->out[0];
    int64_t axis = attr_int(node, "axis", 0), at = 0, target[MAX_RANK];
    value_strides(to, target);
    for (int i = 0; i < node->in_count; i++) {
        const Value *from = node->in[i];
        Space space = space_new(from->shape, to->order);
        int64_t stride[MAX_RANK];
        value_strides(from, stride);
        int out = space_stream(&space, to->order, target, at * target[axis]), in = space_stream(&space, to->order, stride, 0);
        emit_copy(cg, node, from, to, &space, in, out);
        at += from->shape.dim[axis];
    }
}

/* --- reshape --- */

/* Logical dimensions with strides, neighbours merged where the memory is contiguous. */
typedef struct {
    int rank;
    int64_t extent[MAX_RANK], stride[MAX_RANK];
} Dims;

static Dims dims_of(const Value *value) {
    Dims dims = {0};
    int64_t stride[MAX_RANK];
    value_strides(value, stride);
    for (int d = 0; d < value->shape.rank; d++) {
        int64_t extent = value->shape.dim[d];
        if (extent == 1)
            continue;
        int last = dims.rank - 1;
        if (last >= 0 && dims.stride[last] == stride[d] * extent) {
            dims.extent[last] *= extent;
            dims.stride[last] = stride[d];
        } else {
            dims.extent[dims.rank] = extent;
            dims.stride[dims.rank++] = stride[d];
        }
    }
    return dims;
}

/* Splits both shapes into common dimensions, innermost first; false if their factors do not nest. */
static bool refine(Dims a, Dims b, Space *space, int64_t *stride_a, int64_t *stride_b) {
    int i = a.rank - 1, j = b.rank - 1;
    space->rank = 0;
    while (i >= 0 && j >= 0) {
        int64_t part = a.extent[i] < b.extent[j] ? a.extent[i] : b.extent[j];
        if (part == 0 || a.extent[i] % part != 0 || b.extent[j] % part != 0 || space->rank == MAX_DIMS)
            return false;
        space->extent[space->rank] = part;
        stride_a[space->rank] = a.stride[i];
        stride_b[space->rank++] = b.stride[j];
        a.extent[i] /= part;
        a.stride[i] *= part;
        b.extent[j] /= part;
        b.stride[j] *= part;
        i -= a.extent[i] == 1;
        j -= b.extent[j] == 1;
    }
    return i < 0 && j < 0;
}

/* Puts the dimensions into the order of the output's memory, outermost first, and adds the two streams. */
static void order_by_output(Space *space, const int64_t *in_stride, const int64_t *out_stride, int *in, int *out) {
    Space sorted = {.rank = space->rank, .streams = 2};
    bool used[MAX_DIMS] = {false};
    for (int k = 0; k < space->rank; k++) {
        int best = -1;
        for (int d = 0; d < space->rank; d++)
            if (!used[d] && (best < 0 || out_stride[d] > out_stride[best]))
                best = d;
        used[best] = true;
        sorted.extent[k] = space->extent[best];
        sorted.stride[0][k] = in_stride[best];
        sorted.stride[1][k] = out_stride[best];
    }
    *space = sorted;
    *in = 0;
    *out = 1;
}

/* The general case: the row-major index of every output element is taken apart into the input's. */
static void emit_hard_reshape(Codegen *cg, const Node *node) {
    const Value *from = node->in[0], *to = node->out[0];
    Space space = space_new(to->shape, NULL);
    int64_t stride[MAX_RANK], logical[MAX_RANK], step = 1;
    value_strides(to, stride);
    for (int d = to->shape.rank - 1; d >= 0; step *= to->shape.dim[d--])
        logical[d] = step;
    int out = space_stream(&space, NULL, stride, 0), row_major = space_stream(&space, NULL, logical, 0);
    space_collapse(&space);
    kernel_begin(cg, node, "");
    Nest nest;
    nest_begin(cg, &nest, &space);
    LLVMValueRef rest = nest_index(cg, &nest, row_major), index = const64(cg, 0);
    value_strides(from, stride);
    for (int d = from->shape.rank - 1; d >= 0; d--) {
        index = add(cg, index, mul_by(cg, urem_by(cg, rest, from->shape.dim[d]), stride[d]));
        rest = udiv_by(cg, rest, from->shape.dim[d]);
    }
    store_element(cg, to, nest_index(cg, &nest, out), load_element(cg, from, index));
    nest_end(cg, &nest);
    kernel_end(cg, space_tiles(&space), space_elements(&space) * 8);
}

void emit_reshape(Codegen *cg, const Node *node) {
    const Value *from = node->in[0], *to = node->out[0];
    if (is_free(node))
        return;
    Space space = {0};
    int64_t in_stride[MAX_DIMS], out_stride[MAX_DIMS];
    if (!refine(dims_of(from), dims_of(to), &space, in_stride, out_stride)) {
        emit_hard_reshape(cg, node);
        return;
    }
    int in, out;
    order_by_output(&space, in_stride, out_stride, &in, &out);
    emit_copy(cg, node, from, to, &space, in, out);
}

/* A space over a gathered tensor, with a stream into it, one into x at index 0 of the axis, and one into the indices. */
static Space gather_space(const Node *node, const Value *x, const Value *taken, int streams[3]) {
    int axis = (int)attr_int(node, "axis", 0), n = node->in[1]->shape.rank;
    int64_t of_x[MAX_RANK], of_index[MAX_RANK], own[MAX_RANK], from[MAX_RANK], index[MAX_RANK];
    value_strides(x, of_x);
    value_strides(node->in[1], of_index);
    value_strides(taken, own);
    for (int d = 0; d < taken->shape.rank; d++) {
        bool inside = d >= axis && d < axis + n;
        from[d] = inside ? 0 : of_x[d < axis ? d : d - n + 1];
        index[d] = inside ? of_index[d - axis] : 0;
    }
    Space space = space_new(taken->shape, taken->order);
    streams[0] = space_stream(&space, taken->order, own, 0);
    streams[1] = space_stream(&space, taken->order, from, 0);
    streams[2] = space_stream(&space, taken->order, index, 0);
    space_collapse(&space);
    return space;
}

/* The index at the nest's position, 0 where it is out of range; *valid: it is in range. */
static LLVMValueRef index_of(Codegen *cg, const Node *node, const Value *x, const Nest *nest, int stream, LLVMValueRef *valid) {
    LLVMValueRef t = load_as(cg, node->in[1], nest_index(cg, nest, stream), 64);
    *valid = compare(cg, LLVMIntULT, t, const64(cg, x->shape.dim[attr_int(node, "axis", 0)]));
    return choose(cg, *valid, t, const64(cg, 0));
}

void emit_gather(Codegen *cg, const Node *node) {
    const Value *x = node->in[0], *y = node->out[0];
    int streams[3];
    int64_t stride[MAX_RANK];
    value_strides(x, stride);
    if (shape_elements(x->shape) == 0) {
        emit_zeros(cg, node);
        return;
    }
    Space space = gather_space(node, x, y, streams);
    kernel_begin(cg, node, "");
    Nest nest;
    nest_begin(cg, &nest, &space);
    LLVMValueRef valid, t = index_of(cg, node, x, &nest, streams[2], &valid);
    LLVMValueRef from = add(cg, nest_index(cg, &nest, streams[1]), mul_by(cg, t, stride[attr_int(node, "axis", 0)]));
    LLVMValueRef taken = load_element(cg, x, from);
    store_element(cg, y, nest_index(cg, &nest, streams[0]), choose(cg, valid, taken, const_like(taken, 0)));
    nest_end(cg, &nest);
    kernel_end(cg, space_tiles(&space), space_elements(&space) * 3);
}

/* Several places may have taken one element: integers are added atomically, which they allow in any order, floats by one thread. */
void emit_gather_grad(Codegen *cg, const Node *node) {
    const Value *dy = node->in[0], *dx = node->out[0];
    int streams[3];
    int64_t stride[MAX_RANK];
    emit_zeros(cg, node);
    if (shape_elements(dx->shape) == 0)
        return;
    value_strides(dx, stride);
    Space space = gather_space(node, dx, dy, streams);
    kernel_begin(cg, node, "scatter");
    Nest nest;
    nest_begin(cg, &nest, &space);
    LLVMValueRef valid, t = index_of(cg, node, dx, &nest, streams[2], &valid);
    LLVMValueRef to = add(cg, nest_index(cg, &nest, streams[1]), mul_by(cg, t, stride[attr_int(node, "axis", 0)]));
    int bits = type_bytes(dx->type) * 8;
    LLVMValueRef given = load_as(cg, dy, nest_index(cg, &nest, streams[0]), bits);
    LLVMTypeRef type = element_type(cg, dx->type);
    LLVMValueRef address = LLVMBuildInBoundsGEP2(cg->builder, type, arena_at(cg, dx->offset), &to, 1, "");
    LLVMValueRef term = choose(cg, valid, given, const_like(given, 0));
    bool real = dx->type == T_REAL;
    if (real)
        store_element(cg, dx, to, add(cg, load_element(cg, dx, to), term));
    else
        LLVMBuildAtomicRMW(cg->builder, LLVMAtomicRMWBinOpAdd, address, term, LLVMAtomicOrderingMonotonic, false);
    nest_end(cg, &nest);
    kernel_end(cg, space_tiles(&space), real ? 0 : space_elements(&space) * 8); /* no work: not for the pool */
}

void emit_places(Codegen *cg, const Node *node) {
    const Value *t = node->in[0], *out = node->out[0];
    int count, rank;
    const int64_t *sizes = attr_ints(node, "sizes", &count), *strides = attr_ints(node, "strides", &count);
    const int64_t *steps = attr_ints(node, "steps", &rank);
    int64_t own[MAX_RANK], from[MAX_RANK];
    value_strides(out, own);
    value_strides(t, from);
    Space space = space_new(out->shape, out->order);
    int target = space_stream(&space, out->order, own, 0), tuple = space_stream(&space, out->order, from, 0);
    int start = space_stream(&space, out->order, steps, 0);
    space_collapse(&space);
    kernel_begin(cg, node, "");
    Nest nest;
    nest_begin(cg, &nest, &space);
    LLVMValueRef place = nest_index(cg, &nest, start), inside = LLVMConstInt(cg->i1, 1, false);
    for (int k = 0; k < count; k++) {
        LLVMValueRef index = load_as(cg, t, add_const(cg, nest_index(cg, &nest, tuple), k * from[rank]), 64);
        LLVMValueRef negative = compare(cg, LLVMIntSLT, index, const64(cg, 0));
        index = choose(cg, negative, add_const(cg, index, sizes[k]), index);
        inside = LLVMBuildAnd(cg->builder, inside, compare(cg, LLVMIntULT, index, const64(cg, sizes[k])), "");
        place = add(cg, place, mul_by(cg, index, strides[k]));
    }
    store_element(cg, out, nest_index(cg, &nest, target), choose(cg, inside, place, const64(cg, -1)));
    nest_end(cg, &nest);
    kernel_end(cg, space_tiles(&space), space_elements(&space) * (2 + 4 * count));
}
