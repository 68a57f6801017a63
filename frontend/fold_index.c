/* Constant arithmetic, part three: elements chosen or replaced by indices: GatherElements, GatherND, ScatterND, ScatterElements, OneHot,
 * Trilu. Before: constant inputs. After: a constant output or a
 * diagnostic. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

static void strides_of(Shape shape, int64_t stride[MAX_RANK]) {
    int64_t step = 1;
    for (int i = shape.rank; i-- > 0; step *= shape.dim[i])
        stride[i] = step;
}

static void copy_element(OnnxTensor *to, int64_t i, const OnnxTensor *from, int64_t k) {
    if (to->reals != NULL)
        to->reals[i] = from->reals[k];
    else
        to->ints[i] = from->ints[k];
}

/* An index of an axis, from the end if negative; -1 after a diagnostic. */
static int64_t checked_index(OnnxNode *node, int64_t index, int64_t size) {
    if (index >= -size && index < size)
        return index < 0 ? index + size : index;
    node_refuse(node, "index %lld is outside %lld elements", (long long)index, (long long)size);
    return -1;
}

static const OnnxTensor *indices_of(OnnxNode *node, int i) {
    const OnnxTensor *tensor = node_constant(node, i, "the indices");
    if (tensor != NULL && tensor->ints == NULL) {
        node_refuse(node, "indices must be integers");
        return NULL;
    }
    return tensor;
}

/* --- places: the element of x that each element of the result is, in row-major order --- */

/* GatherElements, ScatterElements: x at the place of the index itself, but for the axis. */
int64_t *places_along_axis(OnnxNode *node, Shape x, const OnnxTensor *index) {
    int axis = node_axis(node, node_attr_int(node, "axis", 0), x.rank);
    if (axis < 0)
        return NULL;
    bool fits = index->shape.rank == x.rank;
    for (int d = 0; fits && d < x.rank; d++)
        fits = d == axis || index->shape.dim[d] <= x.dim[d];
    if (!fits) {
        node_refuse(node, "indices of shape [%s] do not fit [%s]", shape_text(node->importer->arena, index->shape),
                    shape_text(node->importer->arena, x));
        return NULL;
    }
    int64_t stride[MAX_RANK], *place = arena_alloc(node->importer->arena, (size_t)index->count + 1, sizeof *place);
    strides_of(x, stride);
    for (int64_t k = 0; k < index->count; k++) {
        int64_t rest = k, at = checked_index(node, index->ints[k], x.dim[axis]);
        if (at < 0)
            return NULL;
        place[k] = at * stride[axis];
        for (int d = x.rank; d-- > 0; rest /= index->shape.dim[d])
            place[k] += d == axis ? 0 : rest % index->shape.dim[d] * stride[d];
    }
    return place;
}

/* GatherND, ScatterND: the last dimension of the indices names the first dimensions of x behind `batch` common ones. */
int64_t *places_by_tuple(OnnxNode *node, Shape x, const OnnxTensor *index, int batch, Shape *result) {
    int tuple_rank = index->shape.rank - 1;
    int64_t tuple = tuple_rank >= 0 ? index->shape.dim[tuple_rank] : 0, stride[MAX_RANK], inner = 1;
    bool fits =
        tuple_rank >= batch && batch >= 0 && tuple >= 1 && batch + tuple <= x.rank && tuple_rank + x.rank - batch - tuple <= MAX_RANK;
    for (int d = 0; fits && d < batch; d++)
        fits = x.dim[d] == index->shape.dim[d];
    if (!fits) {
        node_refuse(node, "indices of shape [%s] do not fit [%s]", shape_text(node->importer->arena, index->shape),
                    shape_text(node->importer->arena, x));
        return NULL;
    }
    *result = shape_of(tuple_rank, index->shape.dim);
    for (int d = batch + (int)tuple; d < x.rank; d++) {
        result->dim[result->rank++] = x.dim[d];
        inner *= x.dim[d];
    }
    int64_t count = checked_elements(*result, CONSTANT_LIMIT), per_batch = 1;
    if (count < 0) {
        node_refuse(node, "its result has more than 2^28 elements");
        return NULL;
    }
    for (int d = batch; d < tuple_rank; d++)
        per_batch *= index->shape.dim[d];
    int64_t batch_stride = 1, *place = arena_alloc(node->importer->arena, (size_t)count + 1, sizeof *place);
    strides_of(x, stride);
    for (int d = batch; d < x.rank; d++)
        batch_stride *= x.dim[d];
    for (int64_t k = 0; k < count; k++) {
        int64_t row = k / inner;
        place[k] = row / per_batch * batch_stride + k % inner;
        for (int64_t t = 0; t < tuple; t++) {
            int64_t at = checked_index(node, index->ints[row * tuple + t], x.dim[batch + t]);
            if (at < 0)
                return NULL;
            place[k] += at * stride[batch + t];
        }
    }
    return place;
}

static bool set_taken(OnnxNode *node, const OnnxTensor *x, Shape shape, const int64_t *place) {
    OnnxTensor *out = place != NULL ? node_tensor(node, x->type, shape) : NULL;
    for (int64_t k = 0; out != NULL && k < out->count; k++)
        copy_element(out, k, x, place[k]);
    return node_set_constant(node, 0, out);
}

bool fold_gather_elements(OnnxNode *node) {
    if (!node_check_inputs(node, 2, 2))
        return false;
    const OnnxTensor *x = operand_constant(node->importer, node->in[0]), *index = indices_of(node, 1);
    return index != NULL && set_taken(node, x, index->shape, places_along_axis(node, x->shape, index));
}

bool fold_gather_nd(OnnxNode *node) {
    Shape shape = {0};
    if (!node_check_inputs(node, 2, 2))
        return false;
    const OnnxTensor *x = operand_constant(node->importer, node->in[0]), *index = indices_of(node, 1);
    int batch = node->since >= 12 ? (int)node_attr_int(node, "batch_dims", 0) : 0;
    int64_t *place = index != NULL ? places_by_tuple(node, x->shape, index, batch, &shape) : NULL;
    return place != NULL && set_taken(node, x, shape, place);
}

/* --- scatter --- */

static bool set_scattered(OnnxNode *node, const OnnxTensor *x, const OnnxTensor *updates, int64_t count, const int64_t *place) {
    const char *reduction = node->since >= 16 ? node_attr_text(node, "reduction", "none") : "none";
    bool adds = strcmp(reduction, "add") == 0;
    if (!adds && strcmp(reduction, "none") != 0)
        return node_refuse(node, "attribute 'reduction' is '%s'", reduction);
    if (place == NULL || updates->count != count || (updates->reals != NULL) != (x->reals != NULL))
        return place == NULL ? false
                             : node_refuse(node, "updates of shape [%s] do not fit", shape_text(node->importer->arena, updates->shape));
    OnnxTensor *out = node_tensor(node, x->type, x->shape);
    for (int64_t k = 0; out != NULL && k < x->count; k++)
        copy_element(out, k, x, k);
    for (int64_t k = 0; out != NULL && k < count; k++) {
        if (!adds)
            copy_element(out, place[k], updates, k);
        else if (out->reals != NULL)
            out->reals[place[k]] = onnx_round_real(out->reals[place[k]] + updates->reals[k], out->type);
        else
            out->ints[place[k]] = onnx_wrap_integer((int64_t)((uint64_t)out->ints[place[k]] + (uint64_t)updates->ints[k]), out->type);
    }
    return node_set_constant(node, 0, out);
}

bool fold_scatter_nd(OnnxNode *node) {
    Shape shape = {0};
    if (!node_check_inputs(node, 3, 3))
        return false;
    const OnnxTensor *x = operand_constant(node->importer, node->in[0]), *index = indices_of(node, 1);
    const OnnxTensor *updates = operand_constant(node->importer, node->in[2]);
    int64_t *place = index != NULL ? places_by_tuple(node, x->shape, index, 0, &shape) : NULL;
    return place != NULL && set_scattered(node, x, updates, checked_elements(shape, CONSTANT_LIMIT), place);
}

bool fold_scatter_elements(OnnxNode *node) {
    if (!node_check_inputs(node, 3, 3))
        return false;
    const OnnxTensor *x = operand_constant(node->importer, node->in[0]), *index = indices_of(node, 1);
    const OnnxTensor *updates = operand_constant(node->importer, node->in[2]);
    return index != NULL && set_scattered(node, x, updates, index->count, places_along_axis(node, x->shape, index));
}

/* --- makers --- */

bool fold_one_hot(OnnxNode *node) {
    double depth;
    if (!node_check_inputs(node, 3, 3) || !node_scalar(node, 1, "the depth", &depth))
        return false;
    const OnnxTensor *index = indices_of(node, 0), *values = operand_constant(node->importer, node->in[2]);
    if (index == NULL || index->shape.rank == MAX_RANK || values->count != 2 || !(depth >= 1 && depth < 1e9))
        return node_refuse(node, "takes integer indices, a positive depth and two values");
    int64_t size = (int64_t)depth, inner = 1;
    int axis = node_axis(node, node_attr_int(node, "axis", -1), index->shape.rank + 1);
    if (axis < 0)
        return false;
    Shape shape = {.rank = index->shape.rank + 1};
    for (int d = 0; d < shape.rank; d++)
        shape.dim[d] = d < axis ? index->shape.dim[d] : d == axis ? size : index->shape.dim[d - 1];
    for (int d = axis + 1; d < shape.rank; d++)
        inner *= shape.dim[d];
    OnnxTensor *out = node_tensor(node, values->type, shape);
    for (int64_t k = 0; out != NULL && k < out->count; k++) {
        int64_t at = index->ints[k / (size * inner) * inner + k % inner];
        copy_element(out, k, values, (at < 0 ? at + size : at) == k / inner % size);
    }
    return node_set_constant(node, 0, out);
}

bool fold_trilu(OnnxNode *node) {
    double shift = 0;
    if (!node_check_inputs(node, 1, 2) || (node_in(node, 1) != NULL && !node_scalar(node, 1, "k", &shift)))
        return false;
    const OnnxTensor *x = operand_constant(node->importer, node->in[0]);
    bool upper = node_attr_int(node, "upper", 1) != 0;
    if (x->shape.rank < 2)
        return node_refuse(node, "takes at least two dimensions, found [%s]", shape_text(node->importer->arena, x->shape));
    int64_t rows = x->shape.dim[x->shape.rank - 2], columns = x->shape.dim[x->shape.rank - 1];
    OnnxTensor *out = node_tensor(node, x->type, x->shape);
    for (int64_t k = 0; out != NULL && k < out->count; k++) {
        double distance = (double)(k % columns - k / columns % rows);
        if (upper ? distance >= shift : distance <= shift)
            copy_element(out, k, x, k);
    }
    return node_set_constant(node, 0, out);
}
