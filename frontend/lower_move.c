/* Lowering of the operators that move elements: Reshape and its kin, Transpose, Concat, Split, Slice, Expand, Identity, Cast. Before: known
 * operands. After: IR moves, or another name for the same value. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

#define TYPE(name) ONNX__TENSOR_PROTO__DATA_TYPE__##name

/* --- reshape --- */

/* The batch of a fixed export in a constant target: the entry that holds it takes the new size. Row-major order settles which one, since
 * reshaping does not change the distance S between the rows of a batch: the entry whose elements lie P apart holds it if P <= S and the
 * whole batch is within the entry. A batch of 1 may lie between two entries; an entry that is 1 is meant, else the batch leads. */
static bool rebind(OnnxNode *node, Shape *target) {
    Importer *importer = node->importer;
    int64_t stride = batch_stride(importer, node->in[0]), batch = importer->old_batch, apart = 1;
    int chosen = -1;
    for (int i = target->rank; i-- > 0; apart *= target->dim[i]) {
        bool inside = stride > 0 && apart > 0 && stride % apart == 0 && target->dim[i] % batch == 0 &&
                      (apart * target->dim[i]) % (stride * batch) == 0;
        if (inside && (chosen < 0 || (batch == 1 && target->dim[i] == 1 && apart == stride)))
            chosen = i;
    }
    if (chosen < 0)
        return node_refuse(
            node, "its shape [%s] was fixed for batch %lld, and which entry holds the batch is not clear; export with a dynamic batch",
            shape_text(importer->arena, *target), (long long)batch);
    target->dim[chosen] = target->dim[chosen] / batch * importer->new_batch;
    return true;
}

/* Entries 0 (unless allowzero) copy from `in`, one -1 is what is left. */
static bool resolve(OnnxNode *node, Shape in, const int64_t *dims, int count, bool allow_zero, Shape *out) {
    if (count > MAX_RANK)
        return node_refuse(node, "makes %d dimensions, at most %d are supported", count, MAX_RANK);
    *out = shape_of(count, dims);
    int free = -1;
    for (int i = 0; i < count; i++) {
        if (dims[i] == 0 && !allow_zero) {
            if (i >= in.rank)
                return node_refuse(node, "entry %d of the shape copies a dimension that [%s] does not have", i,
                                   shape_text(node->importer->arena, in));
            out->dim[i] = in.dim[i];
        } else if (dims[i] == -1 && free < 0) {
            free = i;
            out->dim[i] = 1;
        } else if (dims[i] < 0) {
            return node_refuse(node, "entry %d of the shape is %lld", i, (long long)dims[i]);
        }
    }
    int64_t total = checked_elements(in, ELEMENT_LIMIT), rest = checked_elements(*out, ELEMENT_LIMIT);
    if (free >= 0 && rest > 0 && total % rest == 0)
        out->dim[free] = total / rest;
    return true;
}

static bool reshape_target(OnnxNode *node, Shape *shape) {
    int count;
    if (!node_check_inputs(node, 2, 2))
        return false;
    const int64_t *dims = node_ints(node, 1, "the shape", &count);
    if (dims == NULL)
        return false;
    bool allow_zero = node->since >= 14 && node_attr_int(node, "allowzero", 0) != 0;
    const Importer *importer = node->importer;
    Shape in = node->in[0]->shape;
    const Operand *old = importer->exported != NULL ? names_get(importer->exported, node->in[0]->name) : NULL;
    /* A shape that follows the batch by itself needs no help. */
    if (!resolve(node, in, dims, count, allow_zero, shape))
        return false;
    bool fits = checked_elements(*shape, ELEMENT_LIMIT) == checked_elements(in, ELEMENT_LIMIT);
    if (old == NULL || !old->known || shape_equal(old->shape, in))
        return true;
    int batch = batch_axis(importer, node->in[0]);
    if (fits && ((batch == 0 && count > 0 && dims[0] == -1) || (batch < count && dims[batch] == 0 && !allow_zero)))
        return true;
    Shape exported;
    if (!resolve(node, old->shape, dims, count, allow_zero, &exported))
        return false;
    const Operand *shape_then = names_get(importer->exported, node->in[1]->name);
    bool follows = shape_then != NULL && shape_then->constant != NULL && node->in[1]->constant != NULL &&
                   shape_then->constant->count == count &&
                   memcmp(shape_then->constant->ints, node->in[1]->constant->ints, (size_t)count * sizeof(int64_t)) != 0;
    if (follows && fits)
        return true; /* computed from Shape */
    *shape = exported;
    return checked_elements(exported, ELEMENT_LIMIT) < 0 || rebind(node, shape); /* the caller refuses the former */
}

static bool flatten_target(OnnxNode *node, Shape *shape) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    Shape in = node->in[0]->shape;
    int64_t axis = node_attr_int(node, "axis", 1);
    if (axis < -in.rank || axis > in.rank)
        return node_refuse(node, "axis %lld is outside [%d, %d]", (long long)axis, -in.rank, in.rank);
    axis += axis < 0 ? in.rank : 0;
    *shape = (Shape){.rank = 2, .dim = {1, 1}};
    const Importer *importer = node->importer;
    const Operand *old = importer->exported != NULL ? names_get(importer->exported, node->in[0]->name) : NULL;
    bool rebound = axis == 0 && old != NULL && old->known && !shape_equal(old->shape, in);
    for (int i = 0; i < in.rank; i++)
        shape->dim[i >= axis] *= rebound ? old->shape.dim[i] : in.dim[i];
    /* Exported for batch 1, axis 0 keeps the row as axis 1 does; for more rows only the latter makes sense. */
    return !rebound || rebind(node, shape);
}

static bool squeeze_target(OnnxNode *node, Shape *shape) {
    int axes[MAX_RANK], count;
    Shape in = node->in[0]->shape;
    if (!node_check_inputs(node, 1, node->since >= 13 ? 2 : 1) || !node_axes(node, 13, 1, in.rank, axes, &count))
        return false;
    bool gone[MAX_RANK] = {false};
    for (int i = 0; i < in.rank && count < 0; i++)
        gone[i] = in.dim[i] == 1;
    for (int i = 0; i < count; i++) {
        if (in.dim[axes[i]] != 1)
            return node_refuse(node, "axis %d of [%s] is not 1", axes[i], shape_text(node->importer->arena, in));
        gone[axes[i]] = true;
    }
    *shape = (Shape){0};
    for (int i = 0; i < in.rank; i++)
        if (!gone[i])
            shape->dim[shape->rank++] = in.dim[i];
    return true;
}

static bool unsqueeze_target(OnnxNode *node, Shape *shape) {
    int axes[MAX_RANK], count = 0;
    Shape in = node->in[0]->shape;
    if (!node_check_inputs(node, node->since >= 13 ? 2 : 1, node->since >= 13 ? 2 : 1))
        return false;
    if (node->since < 13)
        node_attr_ints(node, "axes", &count);
    else if (node_ints(node, 1, "axes", &count) == NULL)
        return false;
    if (in.rank + count > MAX_RANK)
        return node_refuse(node, "makes %d dimensions, at most %d are supported", in.rank + count, MAX_RANK);
    if (!node_axes(node, 13, 1, in.rank + count, axes, &count))
        return false;
    if (count < 0)
        return node_refuse(node, "attribute 'axes' is missing");
    *shape = (Shape){.rank = in.rank + count};
    for (int i = 0, k = 0, from = 0; i < shape->rank; i++) {
        bool new = k < count &&axes[k] == i;
        k += new;
        shape->dim[i] = new ? 1 : in.dim[from++];
    }
    return true;
}

bool node_reshape_target(OnnxNode *node, Shape *shape) {
    const char *op = node->from.origin.op_type;
    bool ok = strcmp(op, "Reshape") == 0   ? reshape_target(node, shape)
              : strcmp(op, "Flatten") == 0 ? flatten_target(node, shape)
              : strcmp(op, "Squeeze") == 0 ? node->in_count > 0 && node->in[0] != NULL && squeeze_target(node, shape)
                                           : node->in_count > 0 && node->in[0] != NULL && unsqueeze_target(node, shape);
    if (ok && checked_elements(*shape, ELEMENT_LIMIT) != checked_elements(node->in[0]->shape, ELEMENT_LIMIT))
        return node_refuse(node, "cannot turn shape [%s] into [%s]", shape_text(node->importer->arena, node->in[0]->shape),
                           shape_text(node->importer->arena, *shape));
    return ok;
}

/* Scores stay hidden from a softmax through a reshape, as windows of images have it. */
static bool keep_hidden(OnnxNode *node, Shape shape) {
    const Operand *in = node->in[0];
    if (in->shown == NULL || !node_wants(node, 0))
        return true;
    Value *mask = in->shown;
    if (!shape_equal(mask->shape, in->shape))
        mask = node_emit(node, OP_broadcast, INPUTS(mask), ATTRS(ATTR_L("shape", in->shape.rank, in->shape.dim)));
    node->out[0]->scores = node_reshape(node, in->scores, shape);
    node->out[0]->shown = node_reshape(node, mask, shape);
    return node->out[0]->scores != NULL && node->out[0]->shown != NULL;
}

static bool lower_to_shape(OnnxNode *node) {
    Shape shape;
    if (!node_reshape_target(node, &shape))
        return false;
    if (shape_equal(shape, node->in[0]->shape))
        return node_alias(node, 0, 0);
    Operand *in = node->in[0];
    if (!in->label)
        return node_set(node, 0, node_reshape(node, node_value(node, 0), shape)) && keep_hidden(node, shape);
    /* Labels take their last shape from the start: the same numbers in the same order, and nothing to compute. */
    if (value_uses(node->importer->graph, in->value) > 0)
        return node_refuse(node, "class labels are used in two shapes");
    in->value->shape = in->shape = shape;
    return node_alias(node, 0, 0);
}

bool lower_reshape(OnnxNode *node) {
    return lower_to_shape(node);
}

bool lower_flatten(OnnxNode *node) {
    return lower_to_shape(node);
}

bool lower_squeeze(OnnxNode *node) {
    return lower_to_shape(node);
}

bool lower_unsqueeze(OnnxNode *node) {
    return lower_to_shape(node);
}

/* --- other names --- */

bool lower_identity(OnnxNode *node) {
    return node_check_inputs(node, 1, 1) && node_alias(node, 0, 0);
}

/* To a type that holds every value of the first: another name. */
static bool cast_to(OnnxNode *node, int type) {
    const Operand *in = node->in[0];
    bool saturate = node_attr_int(node, "saturate", 1) != 0;
    node_attr_text(node, "round_mode", "up"); /* only concerns FLOAT8E8M0 */
    if (in->type == TYPE(BOOL) && in->value != NULL && in->value->integer && onnx_type_is_real(type))
        return node_set_typed(node, 0, node_mask_number(node, in->value), type);
    if ((in->label || (in->value != NULL && in->value->integer)) && onnx_type_is_integer(type) && type != TYPE(BOOL))
        return node_alias(node, 0, 0);
    if (in->label)
        return node_refuse(node, "turns class labels into real numbers");
    if (type != TYPE(FLOAT) && type != TYPE(DOUBLE) && type != TYPE(FLOAT16)) {
        Value *x = node_value(node, 0);
        return x != NULL && node_set_typed(node, 0, node_cast_value(node, x, in->type, type, saturate), type);
    }
    if (onnx_type_is_real(in->type) || in->learns)
        return node_alias(node, 0, 0);
    return node_set_typed(node, 0, node_value(node, 0), type);
}

bool lower_cast(OnnxNode *node) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    return cast_to(node, (int)node_attr_int(node, "to", 0));
}

bool lower_cast_like(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    const OnnxTensor *in = operand_constant(node->importer, node->in[0]);
    if (in == NULL)
        return cast_to(node, node->in[1]->type);
    node_attr_int(node, "saturate", 1);
    node_attr_text(node, "round_mode", "up");
    return node_set_constant(node, 0, onnx_cast_tensor(node, in, node->in[1]->type));
}

/* --- transpose, concat, split, slice, expand --- */

bool node_permutation(OnnxNode *node, int64_t perm[MAX_RANK]) {
    int count, rank = node->in[0]->shape.rank;
    const int64_t *list = node_attr_ints(node, "perm", &count);
    bool seen[MAX_RANK] = {false};
    for (int i = 0; i < rank; i++)
        perm[i] = list != NULL ? 0 : rank - 1 - i;
    if (list == NULL)
        return true;
    bool ok = count == rank;
    for (int i = 0; i < count && ok; i++) {
        ok = list[i] >= 0 && list[i] < rank && !seen[list[i]];
        if (ok)
            seen[list[i]] = true;
        perm[i] = list[i];
    }
    return ok || node_refuse(node, "attribute 'perm' is no permutation of %d dimensions", rank);
}

bool lower_transpose(OnnxNode *node) {
    int64_t perm[MAX_RANK];
    if (!node_check_inputs(node, 1, 1) || !node_permutation(node, perm))
        return false;
    return node_set(node, 0,
                    node_emit(node, OP_transpose, INPUTS(node_value(node, 0)), ATTRS(ATTR_L("perm", node->in[0]->shape.rank, perm))));
}

/* The input beside others that are integers of the IR: a constant is one too. */
static Value *integer_part(OnnxNode *node, int i) {
    const OnnxTensor *constant = operand_constant(node->importer, node_in(node, i));
    if (constant == NULL || constant->ints == NULL)
        return node_value(node, i);
    int64_t bound = 1;
    for (int64_t k = 0; k < constant->count; k++) {
        int64_t magnitude = constant->ints[k] < 0 ? -constant->ints[k] : constant->ints[k];
        bound = magnitude > bound ? magnitude : bound;
    }
    if (bound > INT32_MAX) {
        node_refuse(node, "'%s' holds integers beyond 32 bits", node->in[i]->name);
        return NULL;
    }
    Value *value = graph_integer(node->importer->graph, VALUE_CONST, NULL, constant->shape, T_I32, bound);
    value->mantissa = constant->ints;
    return value;
}

bool lower_concat(OnnxNode *node) {
    if (!node_check_inputs(node, 1, INT32_MAX))
        return false;
    if (node_attr(node, "axis") == NULL)
        return node_refuse(node, "attribute 'axis' is missing");
    int axis = node_axis(node, node_attr_int(node, "axis", 0), node->in[0]->shape.rank);
    if (axis < 0)
        return false;
    if (node->in_count == 1)
        return node_alias(node, 0, 0);
    Value **parts = arena_alloc(node->importer->arena, (size_t)node->in_count, sizeof(Value *));
    int count = 0;
    bool integers = false;
    for (int i = 0; i < node->in_count; i++)
        integers = integers || (node->in[i] != NULL && node->in[i]->value != NULL && node->in[i]->value->integer);
    for (int i = 0; i < node->in_count; i++) {
        if (node->in[i] != NULL && node->in[i]->shape.rank > axis && node->in[i]->shape.dim[axis] == 0)
            continue;
        if ((parts[count++] = integers ? integer_part(node, i) : node_value(node, i)) == NULL)
            return false;
    }
    /* The IR joins at most 64 at a time. */
    enum { MOST = 64 };
    while (count > MOST) {
        Value *first = node_emit(node, OP_concat, parts, MOST, ATTRS(ATTR_I("axis", axis)));
        if (first == NULL)
            return false;
        parts[0] = first;
        memmove(parts + 1, parts + MOST, (size_t)(count - MOST) * sizeof(Value *));
        count -= MOST - 1;
    }
    return node_set(node, 0, node_emit(node, OP_concat, parts, count, ATTRS(ATTR_I("axis", axis))));
}

Value *node_slice(OnnxNode *node, Value *value, int axis, int64_t start, int64_t count) {
    if (value == NULL || (start == 0 && count == value->shape.dim[axis]))
        return value;
    int64_t starts[MAX_RANK] = {0}, steps[MAX_RANK];
    Shape shape = value->shape;
    for (int i = 0; i < shape.rank; i++)
        steps[i] = 1;
    starts[axis] = start;
    shape.dim[axis] = count;
    return node_emit(
        node, OP_slice, INPUTS(value),
        ATTRS(ATTR_L("starts", shape.rank, starts), ATTR_L("steps", shape.rank, steps), ATTR_L("shape", shape.rank, shape.dim)));
}

bool lower_split(OnnxNode *node) {
    if (!node_check_inputs(node, 1, node->since >= 13 ? 2 : 1))
        return false;
    Shape in = node->in[0]->shape;
    int axis = node_axis(node, node_attr_int(node, "axis", 0), in.rank), count = 0;
    const int64_t *sizes = NULL;
    if (axis < 0)
        return false;
    if (node->since < 13)
        sizes = node_attr_ints(node, "split", &count);
    else if (node_in(node, 1) != NULL && (sizes = node_ints(node, 1, "split", &count)) == NULL)
        return false;
    int64_t outputs = node->since >= 18 ? node_attr_int(node, "num_outputs", node->out_count) : node->out_count;
    if (sizes == NULL && (outputs != node->out_count || (node->since < 18 && in.dim[axis] % outputs != 0)))
        return node_refuse(node, "axis %d of size %lld does not split into %lld equal parts for %d outputs", axis, (long long)in.dim[axis],
                           (long long)outputs, node->out_count);
    int64_t part = (in.dim[axis] + outputs - 1) / outputs, start = 0;
    if (sizes != NULL && count != node->out_count)
        return node_refuse(node, "%d sizes for %d outputs", count, node->out_count);
    Value *value = node_value(node, 0);
    for (int i = 0; i < node->out_count; i++) {
        int64_t left = in.dim[axis] - start, size = sizes != NULL ? sizes[i] : part < left ? part : left;
        if (size < 0 || size > left)
            return node_refuse(node, "parts do not add up to the size %lld of axis %d", (long long)in.dim[axis], axis);
        if (node_wants(node, i) && !node_set(node, i, node_slice(node, value, axis, start, size)))
            return false;
        start += size;
    }
    return start == in.dim[axis] ||
           node_refuse(node, "parts add up to %lld, axis %d has %lld", (long long)start, axis, (long long)in.dim[axis]);
}

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

static bool slice_lists(OnnxNode *node, const int64_t *lists[4], int counts[4]) {
    static const char *const names[] = {"starts", "ends", "axes", "steps"};
    bool attributes = node->since < 10;
    if (!node_check_inputs(node, attributes ? 1 : 3, attributes ? 1 : 5))
        return false;
    for (int i = 0; i < (attributes ? 3 : 4); i++) {
        lists[i] = NULL;
        counts[i] = 0;
        if (attributes)
            lists[i] = node_attr_ints(node, names[i], &counts[i]);
        else if (node_in(node, i + 1) != NULL && (lists[i] = node_ints(node, i + 1, names[i], &counts[i])) == NULL)
            return false;
    }
    if (counts[0] != counts[1] || (lists[2] != NULL && counts[2] != counts[0]) || (lists[3] != NULL && counts[3] != counts[0]) ||
        counts[0] > node->in[0]->shape.rank)
        return node_refuse(node, "starts, ends, axes and steps have different lengths");
    return true;
}

bool node_slice_plan(OnnxNode *node, SlicePlan *plan) {
    const int64_t *lists[4] = {NULL};
    int counts[4] = {0};
    if (!slice_lists(node, lists, counts))
        return false;
    plan->shape = node->in[0]->shape;
    bool set[MAX_RANK] = {false};
    for (int i = 0; i < plan->shape.rank; i++) {
        plan->start[i] = 0;
        plan->step[i] = 1;
    }
    for (int i = 0; i < counts[0]; i++) {
        int axis = node_axis(node, lists[2] != NULL ? lists[2][i] : i, plan->shape.rank);
        if (axis < 0)
            return false;
        int64_t size = plan->shape.dim[axis], step = lists[3] != NULL ? lists[3][i] : 1;
        if (set[axis] || step == 0 || step == INT64_MIN)
            return node_refuse(node, set[axis] ? "axis %d is listed twice" : "step of axis %d is 0 or out of range", axis);
        set[axis] = true;
        int64_t start = lists[0][i], end = lists[1][i];
        start += start < 0 ? size : 0;
        end += end < 0 ? size : 0;
        start = step > 0 ? clamp(start, 0, size) : clamp(start, 0, size - 1);
        end = step > 0 ? clamp(end, 0, size) : clamp(end, -1, size - 1);
        int64_t span = step > 0 ? end - start : start - end, stride = step > 0 ? step : -step;
        plan->start[axis] = start;
        plan->step[axis] = step;
        plan->shape.dim[axis] = span <= 0 ? 0 : (span - 1) / stride + 1;
    }
    return true;
}

bool lower_slice(OnnxNode *node) {
    SlicePlan plan;
    if (!node_slice_plan(node, &plan))
        return false;
    Shape in = node->in[0]->shape;
    Value *value = node_value(node, 0);
    int64_t reversed[MAX_RANK];
    int count = 0;
    for (int i = 0; i < in.rank; i++)
        if (plan.step[i] < 0) {
            reversed[count++] = i;
            plan.start[i] = in.dim[i] - 1 - plan.start[i];
            plan.step[i] = -plan.step[i];
        }
    if (count > 0 && value != NULL)
        value = node_emit(node, OP_reverse, INPUTS(value), ATTRS(ATTR_L("axes", count, reversed)));
    if (count == 0 && shape_equal(plan.shape, in))
        return node_alias(node, 0, 0);
    return node_set(node, 0,
                    node_emit(node, OP_slice, INPUTS(value),
                              ATTRS(ATTR_L("starts", in.rank, plan.start), ATTR_L("steps", in.rank, plan.step),
                                    ATTR_L("shape", in.rank, plan.shape.dim))));
}

bool node_expand_target(OnnxNode *node, Shape *shape) {
    int count;
    if (!node_check_inputs(node, 2, 2))
        return false;
    const int64_t *dims = node_ints(node, 1, "the shape", &count);
    if (dims == NULL)
        return false;
    if (count > MAX_RANK)
        return node_refuse(node, "makes %d dimensions, at most %d are supported", count, MAX_RANK);
    Shape asked = shape_of(count, dims);
    for (int i = 0; i < count; i++)
        asked.dim[i] = dims[i] == -1 ? 1 : dims[i];
    const Importer *importer = node->importer;
    if (importer->exported != NULL && importer->old_batch > 1 && count > 0 && dims[0] == importer->old_batch &&
        (node->in[0]->shape.rank < count || node->in[0]->shape.dim[0] != importer->old_batch))
        asked.dim[0] = importer->new_batch;
    if (checked_elements(asked, CONSTANT_LIMIT) < 0 || !shape_broadcast(node->in[0]->shape, asked, shape))
        return node_refuse(node, "cannot expand [%s] to [%s]", shape_text(importer->arena, node->in[0]->shape),
                           shape_text(importer->arena, asked));
    return true;
}

bool lower_expand(OnnxNode *node) {
    Shape shape;
    if (!node_expand_target(node, &shape))
        return false;
    if (shape_equal(shape, node->in[0]->shape))
        return node_alias(node, 0, 0);
    return node_set(node, 0, node_emit(node, OP_broadcast, INPUTS(node_value(node, 0)), ATTRS(ATTR_L("shape", shape.rank, shape.dim))));
}

bool node_tile_target(OnnxNode *node, Shape *shape, int64_t repeats[MAX_RANK]) {
    int count;
    if (!node_check_inputs(node, 2, 2))
        return false;
    const int64_t *list = node_ints(node, 1, "repeats", &count);
    if (list == NULL)
        return false;
    const Importer *importer = node->importer;
    *shape = node->in[0]->shape;
    if (count != shape->rank)
        return node_refuse(node, "%d repeats for a tensor of rank %d", count, shape->rank);
    for (int i = 0; i < count; i++) {
        repeats[i] = list[i];
        if (importer->exported != NULL && importer->old_batch > 1 && i == 0 && list[i] == importer->old_batch && shape->dim[0] == 1)
            repeats[i] = importer->new_batch;
        if (repeats[i] < 0 || __builtin_mul_overflow(shape->dim[i], repeats[i], &shape->dim[i]))
            return node_refuse(node, "repeat %lld is out of range", (long long)list[i]);
    }
    if (checked_elements(*shape, ELEMENT_LIMIT) < 0)
        return node_refuse(node, "its result has more than 2^31 elements");
    return true;
}

/* Copies along an axis are a new dimension before it. */
bool lower_tile(OnnxNode *node) {
    int64_t repeats[MAX_RANK];
    Shape shape;
    if (!node_tile_target(node, &shape, repeats))
        return false;
    Value *value = node_value(node, 0);
    for (int axis = 0; axis < shape.rank && value != NULL; axis++) {
        Shape in = value->shape, wide = {.rank = in.rank + 1};
        if (repeats[axis] == 1)
            continue;
        if (in.rank == MAX_RANK)
            return node_refuse(node, "repeats a tensor of rank %d", MAX_RANK);
        for (int i = 0; i < wide.rank; i++)
            wide.dim[i] = i < axis ? in.dim[i] : i == axis ? 1 : in.dim[i - 1];
        value = node_reshape(node, value, wide);
        wide.dim[axis] = repeats[axis];
        in.dim[axis] *= repeats[axis];
        if (value != NULL)
            value = node_emit(node, OP_broadcast, INPUTS(value), ATTRS(ATTR_L("shape", wide.rank, wide.dim)));
        value = node_reshape(node, value, in);
    }
    return node_set(node, 0, value);
}
