/* Interpreter: moves. Before: shapes agree with the attributes. After: docs/operators.md, "Moves"; every element is copied, only concat
 * aligns. */
#include "ir/eval.h"

/* out[i] = in[walk], i in row-major order of the walk's shape. */
static void gather(const Eval *eval, const Node *node, Walk walk) {
    bool exact = eval_exact(eval, node->out[0]);
    int64_t n = shape_elements(node->out[0]->shape);
    for (int64_t i = 0; i < n; i++, walk_next(&walk))
        eval_copy(exact, eval_out(eval, node, 0), i, eval_in(eval, node, 0), walk.offset);
}

void eval_reshape(const Eval *eval, const Node *node) {
    gather(eval, node, walk_broadcast(node->in[0]->shape, node->in[0]->shape));
}

void eval_transpose(const Eval *eval, const Node *node) {
    int n;
    const int64_t *perm = attr_ints(node, "perm", &n);
    int64_t stride[MAX_RANK];
    eval_strides(node->in[0]->shape, stride);
    Walk walk = {.shape = node->out[0]->shape};
    for (int d = 0; d < n; d++)
        walk.stride[d] = stride[perm[d]];
    gather(eval, node, walk);
}

void eval_slice(const Eval *eval, const Node *node) {
    int n;
    const int64_t *starts = attr_ints(node, "starts", &n), *steps = attr_ints(node, "steps", &n);
    int64_t stride[MAX_RANK];
    eval_strides(node->in[0]->shape, stride);
    Walk walk = {.shape = node->out[0]->shape};
    for (int d = 0; d < n; d++) {
        walk.stride[d] = stride[d] * steps[d];
        walk.offset += stride[d] * starts[d];
    }
    gather(eval, node, walk);
}

void eval_pad(const Eval *eval, const Node *node) {
    int n;
    const int64_t *low = attr_ints(node, "low", &n), *interior = attr_ints(node, "interior", &n);
    int64_t stride[MAX_RANK];
    eval_strides(node->out[0]->shape, stride);
    bool exact = eval_exact(eval, node->out[0]);
    eval_clear(exact, eval_out(eval, node, 0), shape_elements(node->out[0]->shape));
    Walk walk = {.shape = node->in[0]->shape};
    for (int d = 0; d < n; d++) {
        walk.stride[d] = stride[d] * (1 + interior[d]);
        walk.offset += stride[d] * low[d];
    }
    int64_t count = shape_elements(node->in[0]->shape);
    for (int64_t i = 0; i < count; i++, walk_next(&walk))
        eval_copy(exact, eval_out(eval, node, 0), walk.offset, eval_in(eval, node, 0), i);
}

void eval_reverse(const Eval *eval, const Node *node) {
    int n;
    const int64_t *axes = attr_ints(node, "axes", &n);
    Shape shape = node->out[0]->shape;
    Walk walk = {.shape = shape};
    eval_strides(shape, walk.stride);
    for (int i = 0; i < n; i++) {
        int64_t d = axes[i];
        walk.offset += (shape.dim[d] - 1) * walk.stride[d];
        walk.stride[d] = -walk.stride[d];
    }
    gather(eval, node, walk);
}

void eval_broadcast(const Eval *eval, const Node *node) {
    gather(eval, node, walk_broadcast(node->out[0]->shape, node->in[0]->shape));
}

void eval_concat(const Eval *eval, const Node *node) {
    const Value *out = node->out[0];
    bool exact = eval_exact(eval, out);
    int64_t axis = attr_int(node, "axis", 0);
    int64_t stride[MAX_RANK], start = 0;
    eval_strides(out->shape, stride);
    Tensor *y = eval_out(eval, node, 0);
    for (int k = 0; k < node->in_count; k++) {
        const Tensor *x = eval_in(eval, node, k);
        int s = exact && !out->integer ? y->exponent - x->exponent : 0;
        Walk walk = {.shape = node->in[k]->shape, .offset = start * stride[axis]};
        for (int d = 0; d < out->shape.rank; d++)
            walk.stride[d] = stride[d];
        int64_t n = shape_elements(node->in[k]->shape);
        for (int64_t i = 0; i < n; i++, walk_next(&walk))
            if (exact)
                y->mantissa[walk.offset] = intc_align(x->mantissa[i], s);
            else
                y->real[walk.offset] = x->real[i];
        start += node->in[k]->shape.dim[axis];
    }
}

/* The walk over the places of a gathered tensor that gives offsets into x at index 0 of the axis, and the walk that gives the place of the
 * index. */
static void gather_walks(const Node *node, Shape x, Shape out, Walk *from, Walk *index) {
    int axis = (int)attr_int(node, "axis", 0), n = node->in[1]->shape.rank;
    int64_t stride[MAX_RANK], own[MAX_RANK];
    eval_strides(x, stride);
    eval_strides(node->in[1]->shape, own);
    *from = *index = (Walk){.shape = out};
    for (int d = 0; d < out.rank; d++) {
        bool inside = d >= axis && d < axis + n;
        from->stride[d] = inside ? 0 : stride[d < axis ? d : d - n + 1];
        index->stride[d] = inside ? own[d - axis] : 0;
    }
}

void eval_gather(const Eval *eval, const Node *node) {
    Shape x = node->in[0]->shape, out = node->out[0]->shape;
    int64_t axis = attr_int(node, "axis", 0), stride[MAX_RANK], n = shape_elements(out);
    bool exact = eval_exact(eval, node->out[0]);
    eval_strides(x, stride);
    Walk from, index;
    gather_walks(node, x, out, &from, &index);
    eval_clear(exact, eval_out(eval, node, 0), n);
    for (int64_t i = 0; i < n; i++, walk_next(&from), walk_next(&index)) {
        int64_t t = eval_in(eval, node, 1)->mantissa[index.offset];
        if (t >= 0 && t < x.dim[axis])
            eval_copy(exact, eval_out(eval, node, 0), i, eval_in(eval, node, 0), from.offset + t * stride[axis]);
    }
}

void eval_gather_grad(const Eval *eval, const Node *node) {
    Shape x = node->out[0]->shape, dy = node->in[0]->shape;
    int64_t axis = attr_int(node, "axis", 0), stride[MAX_RANK], n = shape_elements(dy);
    bool exact = eval_exact(eval, node->out[0]);
    eval_strides(x, stride);
    Walk to, index;
    gather_walks(node, x, dy, &to, &index);
    eval_clear(exact, eval_out(eval, node, 0), shape_elements(x));
    for (int64_t i = 0; i < n; i++, walk_next(&to), walk_next(&index)) {
        int64_t t = eval_in(eval, node, 1)->mantissa[index.offset];
        if (t >= 0 && t < x.dim[axis])
            eval_accumulate(exact, eval_out(eval, node, 0), to.offset + t * stride[axis], eval_in(eval, node, 0), i);
    }
}

void eval_places(const Eval *eval, const Node *node) {
    int count, rank;
    const int64_t *sizes = attr_ints(node, "sizes", &count), *strides = attr_ints(node, "strides", &count);
    const int64_t *steps = attr_ints(node, "steps", &rank);
    Walk walk = {.shape = node->out[0]->shape};
    for (int d = 0; d < rank; d++)
        walk.stride[d] = steps[d];
    const int64_t *t = eval_in(eval, node, 0)->mantissa;
    int64_t *place = eval_out(eval, node, 0)->mantissa, n = shape_elements(node->out[0]->shape);
    for (int64_t i = 0; i < n; i++, walk_next(&walk)) {
        bool inside = true;
        place[i] = walk.offset;
        for (int k = 0; k < count; k++) {
            int64_t index = t[i * count + k] < 0 ? t[i * count + k] + sizes[k] : t[i * count + k];
            inside = inside && index >= 0 && index < sizes[k];
            place[i] += inside ? index * strides[k] : 0;
        }
        place[i] = inside ? place[i] : -1;
    }
}
