/* Constant arithmetic, part one: operators that only move elements, and those that make shapes. Before: constant inputs. After: a constant
 * output, computed exactly. */
#include "frontend/importer.h"

#include <string.h>

/* Output element k is input element from[k]. */
static bool gather_elements(OnnxNode *node, int i, const OnnxTensor *in, Shape shape, const int64_t *from) {
    OnnxTensor *out = node_tensor(node, in->type, shape);
    if (out == NULL)
        return false;
    int64_t *ints = out->ints;
    double *reals = out->reals;
    for (int64_t k = 0; k < out->count; k++) {
        if (reals != NULL)
            reals[k] = in->reals[from[k]];
        else
            ints[k] = in->ints[from[k]];
    }
    return node_set_constant(node, i, out);
}

/* Row-major strides in elements. */
static void strides_of(Shape shape, int64_t stride[MAX_RANK]) {
    int64_t step = 1;
    for (int i = shape.rank; i-- > 0; step *= shape.dim[i])
        stride[i] = step;
}

/* Element indices of a strided view: base + sum of index[i] * stride[i]. NULL after a diagnostic. */
static int64_t *view_indices(OnnxNode *node, Shape shape, int64_t base, const int64_t stride[MAX_RANK]) {
    int64_t count = checked_elements(shape, CONSTANT_LIMIT);
    if (count < 0) {
        node_refuse(node, "a constant of more than 2^28 elements");
        return NULL;
    }
    int64_t *from = arena_alloc(node->importer->arena, (size_t)count, sizeof *from);
    int64_t index[MAX_RANK] = {0};
    int64_t at = base;
    for (int64_t k = 0; k < count; k++) {
        from[k] = at;
        for (int i = shape.rank; i-- > 0;) {
            at += stride[i];
            if (++index[i] < shape.dim[i])
                break;
            at -= shape.dim[i] * stride[i];
            index[i] = 0;
        }
    }
    return from;
}

bool fold_reshape(OnnxNode *node) {
    Shape shape;
    if (!node_reshape_target(node, &shape))
        return false;
    const OnnxTensor *in = operand_constant(node->importer, node->in[0]);
    OnnxTensor *out = arena_alloc(node->importer->arena, 1, sizeof *out);
    *out = *in;
    out->shape = shape;
    return node_set_constant(node, 0, out);
}

bool fold_transpose(OnnxNode *node) {
    int64_t perm[MAX_RANK];
    if (!node_check_inputs(node, 1, 1) || !node_permutation(node, perm))
        return false;
    const OnnxTensor *in = operand_constant(node->importer, node->in[0]);
    int64_t stride[MAX_RANK], moved[MAX_RANK] = {0};
    strides_of(in->shape, stride);
    Shape shape = in->shape;
    for (int i = 0; i < shape.rank; i++) {
        shape.dim[i] = in->shape.dim[perm[i]];
        moved[i] = stride[perm[i]];
    }
    const int64_t *from = view_indices(node, shape, 0, moved);
    return from != NULL && gather_elements(node, 0, in, shape, from);
}

bool fold_slice(OnnxNode *node) {
    SlicePlan plan;
    if (!node_slice_plan(node, &plan))
        return false;
    const OnnxTensor *in = operand_constant(node->importer, node->in[0]);
    int64_t stride[MAX_RANK], moved[MAX_RANK] = {0};
    strides_of(in->shape, stride);
    int64_t base = 0;
    for (int i = 0; i < in->shape.rank; i++) {
        base += plan.start[i] * stride[i];
        moved[i] = plan.step[i] * stride[i];
    }
    const int64_t *from = view_indices(node, plan.shape, base, moved);
    return from != NULL && gather_elements(node, 0, in, plan.shape, from);
}

bool fold_expand(OnnxNode *node) {
    Shape shape;
    if (!node_expand_target(node, &shape))
        return false;
    const OnnxTensor *in = operand_constant(node->importer, node->in[0]);
    int64_t stride[MAX_RANK], moved[MAX_RANK] = {0};
    strides_of(in->shape, stride);
    for (int i = 0; i < in->shape.rank; i++)
        moved[shape.rank - in->shape.rank + i] = in->shape.dim[i] == 1 ? 0 : stride[i];
    const int64_t *from = view_indices(node, shape, 0, moved);
    return from != NULL && gather_elements(node, 0, in, shape, from);
}

bool fold_tile(OnnxNode *node) {
    int64_t repeats[MAX_RANK];
    Shape shape;
    if (!node_tile_target(node, &shape, repeats))
        return false;
    const OnnxTensor *in = operand_constant(node->importer, node->in[0]);
    OnnxTensor *sized = node_tensor(node, in->type, shape);
    if (sized == NULL)
        return false;
    int64_t *from = arena_alloc(node->importer->arena, (size_t)sized->count, sizeof *from);
    int64_t stride[MAX_RANK];
    strides_of(in->shape, stride);
    for (int64_t k = 0; k < sized->count; k++) {
        int64_t rest = k;
        for (int i = shape.rank; i-- > 0; rest /= shape.dim[i])
            from[k] += rest % shape.dim[i] % in->shape.dim[i] * stride[i];
    }
    return gather_elements(node, 0, in, shape, from);
}

bool fold_concat(OnnxNode *node) {
    if (!node_check_inputs(node, 1, INT32_MAX))
        return false;
    const OnnxTensor *first = operand_constant(node->importer, node->in[0]);
    if (node_attr(node, "axis") == NULL)
        return node_refuse(node, "attribute 'axis' is missing");
    int axis = node_axis(node, node_attr_int(node, "axis", 0), first->shape.rank);
    if (axis < 0)
        return false;
    Shape shape = first->shape;
    shape.dim[axis] = 0;
    for (int i = 0; i < node->in_count; i++) {
        const OnnxTensor *part = operand_constant(node->importer, node->in[i]);
        if (part == NULL)
            return node_refuse(node, "input %d is missing", i);
        bool fits = part->shape.rank == shape.rank && (part->reals != NULL) == (first->reals != NULL);
        for (int k = 0; k < shape.rank && fits; k++)
            fits = k == axis || part->shape.dim[k] == shape.dim[k];
        if (!fits)
            return node_refuse(node, "input %d of shape [%s] does not fit", i, shape_text(node->importer->arena, part->shape));
        shape.dim[axis] += part->shape.dim[axis];
    }
    OnnxTensor *out = node_tensor(node, first->type, shape);
    if (out == NULL)
        return false;
    int64_t inner = 1, outer = 1, place = 0;
    for (int k = 0; k < shape.rank; k++) {
        inner *= k > axis ? shape.dim[k] : 1;
        outer *= k < axis ? shape.dim[k] : 1;
    }
    for (int i = 0; i < node->in_count; i++) {
        const OnnxTensor *part = operand_constant(node->importer, node->in[i]);
        int64_t run = part->shape.dim[axis] * inner;
        for (int64_t row = 0; row < outer; row++)
            for (int64_t k = 0; k < run; k++) {
                int64_t at = row * shape.dim[axis] * inner + place + k;
                if (out->reals != NULL)
                    out->reals[at] = part->reals[row * run + k];
                else
                    out->ints[at] = part->ints[row * run + k];
            }
        place += run;
    }
    return node_set_constant(node, 0, out);
}

bool fold_gather(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    const OnnxTensor *in = operand_constant(node->importer, node->in[0]);
    const OnnxTensor *indices = operand_constant(node->importer, node->in[1]);
    int axis = node_axis(node, node_attr_int(node, "axis", 0), in->shape.rank);
    if (axis < 0)
        return false;
    if (indices->ints == NULL || in->shape.rank - 1 + indices->shape.rank > MAX_RANK)
        return node_refuse(node, "indices must be integers and the result of at most %d dimensions", MAX_RANK);
    Shape shape = {.rank = in->shape.rank - 1 + indices->shape.rank};
    int64_t inner = 1;
    for (int k = 0; k < shape.rank; k++)
        shape.dim[k] = k < axis                         ? in->shape.dim[k]
                       : k < axis + indices->shape.rank ? indices->shape.dim[k - axis]
                                                        : in->shape.dim[k - indices->shape.rank + 1];
    for (int k = axis + 1; k < in->shape.rank; k++)
        inner *= in->shape.dim[k];
    OnnxTensor *sized = node_tensor(node, in->type, shape);
    if (sized == NULL)
        return false;
    int64_t *from = arena_alloc(node->importer->arena, (size_t)sized->count, sizeof *from);
    int64_t width = in->shape.dim[axis];
    for (int64_t k = 0; k < sized->count; k++) {
        int64_t index = indices->ints[k / inner % indices->count];
        if (index < -width || index >= width)
            return node_refuse(node, "index %lld is outside the %lld elements of axis %d", (long long)index, (long long)width, axis);
        from[k] = (k / inner / indices->count * width + (index < 0 ? index + width : index)) * inner + k % inner;
    }
    return gather_elements(node, 0, in, shape, from);
}

/* --- makers --- */

bool lower_shape(OnnxNode *node) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    Shape in = node->in[0]->shape;
    int64_t start = node->since >= 15 ? node_attr_int(node, "start", 0) : 0;
    int64_t end = node->since >= 15 ? node_attr_int(node, "end", in.rank) : in.rank;
    start = start < 0 ? (start + in.rank < 0 ? 0 : start + in.rank) : start > in.rank ? in.rank : start;
    end = end < 0 ? (end + in.rank < 0 ? 0 : end + in.rank) : end > in.rank ? in.rank : end;
    int64_t count = end > start ? end - start : 0;
    OnnxTensor *out = node_tensor(node, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, shape_of(1, &count));
    for (int64_t i = 0; i < count; i++)
        out->ints[i] = in.dim[start + i];
    return node_set_constant(node, 0, out);
}

bool lower_size(OnnxNode *node) {
    if (!node_check_inputs(node, 1, 1))
        return false;
    OnnxTensor *out = node_tensor(node, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, shape_of(0, NULL));
    out->ints[0] = checked_elements(node->in[0]->shape, ELEMENT_LIMIT);
    return node_set_constant(node, 0, out);
}

static OnnxTensor *list_tensor(OnnxNode *node, int type, int rank, int64_t count) {
    return node_tensor(node, type, shape_of(rank, &count));
}

bool lower_constant(OnnxNode *node) {
    const Onnx__AttributeProto *attr;
    OnnxTensor *out = NULL;
    if (node->proto->n_attribute != 1)
        return node_refuse(node, "needs exactly one value attribute, found %zu", node->proto->n_attribute);
    if ((attr = node_attr(node, "value")) != NULL && attr->t != NULL) {
        out = onnx_decode(node->importer->file, node->importer->arena, attr->t, &node->from.origin, node->importer->diag);
    } else if ((attr = node_attr(node, "value_float")) != NULL || (attr = node_attr(node, "value_floats")) != NULL) {
        bool list = strcmp(attr->name, "value_floats") == 0;
        out = list_tensor(node, ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, list, list ? (int64_t)attr->n_floats : 1);
        for (int64_t i = 0; out != NULL && i < out->count; i++)
            out->reals[i] = (double)(list ? attr->floats[i] : attr->f);
    } else if ((attr = node_attr(node, "value_int")) != NULL || (attr = node_attr(node, "value_ints")) != NULL) {
        bool list = strcmp(attr->name, "value_ints") == 0;
        out = list_tensor(node, ONNX__TENSOR_PROTO__DATA_TYPE__INT64, list, list ? (int64_t)attr->n_ints : 1);
        for (int64_t i = 0; out != NULL && i < out->count; i++)
            out->ints[i] = list ? attr->ints[i] : attr->i;
    } else {
        return node_refuse(node, "attribute '%s' is not supported; a dense tensor of numbers is",
                           node->proto->attribute[0]->name != NULL ? node->proto->attribute[0]->name : "");
    }
    return node_set_constant(node, 0, out);
}

bool lower_constant_of_shape(OnnxNode *node) {
    int count;
    if (!node_check_inputs(node, 1, 1))
        return false;
    const int64_t *dims = node_ints(node, 0, "the shape", &count);
    if (dims == NULL)
        return false;
    if (count > MAX_RANK)
        return node_refuse(node, "makes %d dimensions, at most %d are supported", count, MAX_RANK);
    const Onnx__AttributeProto *attr = node_attr(node, "value");
    const OnnxTensor *value = NULL;
    if (attr != NULL && attr->t != NULL) {
        value = onnx_decode(node->importer->file, node->importer->arena, attr->t, &node->from.origin, node->importer->diag);
        if (value == NULL)
            return false;
        if (value->count != 1)
            return node_refuse(node, "attribute 'value' must hold one element");
    }
    OnnxTensor *out = node_tensor(node, value != NULL ? value->type : ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, shape_of(count, dims));
    for (int64_t i = 0; out != NULL && value != NULL && i < out->count; i++) {
        if (out->reals != NULL)
            out->reals[i] = value->reals[0];
        else
            out->ints[i] = value->ints[0];
    }
    return node_set_constant(node, 0, out);
}

bool fold_range(OnnxNode *node) {
    double start, limit, delta;
    if (!node_check_inputs(node, 3, 3) || !node_scalar(node, 0, "start", &start) || !node_scalar(node, 1, "limit", &limit) ||
        !node_scalar(node, 2, "delta", &delta))
        return false;
    double steps = delta == 0 ? -1 : (limit - start) / delta;
    if (delta == 0 || !(steps < (double)CONSTANT_LIMIT))
        return node_refuse(node, "has delta 0 or too many elements");
    int64_t count = steps <= 0 ? 0 : (int64_t)steps + ((double)(int64_t)steps < steps);
    OnnxTensor *out = list_tensor(node, node->in[0]->type, 1, count);
    for (int64_t i = 0; out != NULL && i < count; i++) {
        if (out->reals != NULL)
            out->reals[i] = onnx_round_real(start + (double)i * delta, out->type);
        else
            out->ints[i] = (int64_t)start + i * (int64_t)delta;
    }
    return node_set_constant(node, 0, out);
}
