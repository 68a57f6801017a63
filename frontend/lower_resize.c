/* Lowering of Resize and Upsample: along each axis a linear map, whose matrix the compiler knows; nearest neighbours are moves where a
 * matrix is not needed. Before: known operands. After: moves, products with constant matrices. Sources: ONNX Operators.md, Resize, and the
 * reference implementation's coordinate transformations. */
#include "frontend/importer.h"

#include <math.h>
#include <string.h>

enum { MOST_TAPS = 512 };

typedef struct {
    const char *mode, *coordinates, *nearest, *policy;
    bool antialias, exclude_outside;
    double cubic, extrapolation;
    int axes[MAX_RANK], axis_count;
    double scale[MAX_RANK], roi[2 * MAX_RANK]; /* by position in axes: starts, then ends */
    Shape out;
} Resize;

static bool is(const char *text, const char *wanted) {
    return strcmp(text, wanted) == 0;
}

/* --- attributes and sizes --- */

static bool attributes(OnnxNode *node, Resize *r) {
    bool upsample = is(node->from.origin.op_type, "Upsample"), old = upsample || node->since < 11;
    r->mode = node_attr_text(node, "mode", "nearest");
    r->coordinates = old ? "asymmetric" : node_attr_text(node, "coordinate_transformation_mode", "half_pixel");
    r->nearest = old ? "floor" : node_attr_text(node, "nearest_mode", "round_prefer_floor");
    r->policy = node->since >= 18 ? node_attr_text(node, "keep_aspect_ratio_policy", "stretch") : "stretch";
    r->antialias = node->since >= 18 && node_attr_int(node, "antialias", 0) != 0;
    r->exclude_outside = !old && node_attr_int(node, "exclude_outside", 0) != 0;
    r->cubic = old ? -0.75 : node_attr_real(node, "cubic_coeff_a", -0.75);
    r->extrapolation = old ? 0 : node_attr_real(node, "extrapolation_value", 0);
    static const char *const coordinates[] = {"half_pixel",    "half_pixel_symmetric", "pytorch_half_pixel",
                                              "align_corners", "asymmetric",           "tf_crop_and_resize"};
    bool known = false;
    for (size_t i = 0; i < sizeof coordinates / sizeof coordinates[0]; i++)
        known = known || is(r->coordinates, coordinates[i]);
    if (!known)
        return node_refuse(node, "attribute 'coordinate_transformation_mode' is '%s'", r->coordinates);
    if (!is(r->mode, "nearest") && !is(r->mode, "linear") && !is(r->mode, "cubic") && !(upsample && is(r->mode, "bilinear")))
        return node_refuse(node, "attribute 'mode' is '%s'", r->mode);
    if (!is(r->nearest, "round_prefer_floor") && !is(r->nearest, "round_prefer_ceil") && !is(r->nearest, "floor") &&
        !is(r->nearest, "ceil"))
        return node_refuse(node, "attribute 'nearest_mode' is '%s'", r->nearest);
    int rank = node->in[0]->shape.rank, count;
    const int64_t *axes = node->since >= 18 ? node_attr_ints(node, "axes", &count) : NULL;
    r->axis_count = axes != NULL ? count : rank;
    if (r->axis_count > rank)
        return node_refuse(node, "%d axes for a tensor of rank %d", r->axis_count, rank);
    for (int i = 0; i < r->axis_count; i++)
        if ((r->axes[i] = axes != NULL ? node_axis(node, axes[i], rank) : i) < 0)
            return false;
    return true;
}

static const double *reals(OnnxNode *node, int i, const char *what, int wanted) {
    const OnnxTensor *tensor = node_constant(node, i, what);
    if (tensor != NULL && tensor->reals != NULL && tensor->count == wanted)
        return tensor->reals;
    if (tensor != NULL)
        node_refuse(node, "%s has %lld entries, expected %d real numbers", what, (long long)tensor->count, wanted);
    return NULL;
}

static bool from_scales(OnnxNode *node, Resize *r, const double *scales) {
    for (int i = 0; i < r->axis_count; i++) {
        int64_t size = node->in[0]->shape.dim[r->axes[i]];
        float wide = (float)size * (float)scales[i];
        if (!(scales[i] > 0) || !(wide < 1e9F))
            return node_refuse(node, "scale %g is out of range", scales[i]);
        r->scale[i] = scales[i];
        r->out.dim[r->axes[i]] = (int64_t)floorf(wide);
    }
    return true;
}

static bool from_sizes(OnnxNode *node, Resize *r, const int64_t *sizes) {
    double common = 0;
    bool stretch = is(r->policy, "stretch"), smaller = is(r->policy, "not_larger");
    if (!stretch && !smaller && !is(r->policy, "not_smaller"))
        return node_refuse(node, "attribute 'keep_aspect_ratio_policy' is '%s'", r->policy);
    for (int i = 0; i < r->axis_count; i++) {
        int64_t size = node->in[0]->shape.dim[r->axes[i]];
        if (sizes[i] < 1 || size < 1 || sizes[i] > INT32_MAX)
            return node_refuse(node, "resizes %lld to %lld", (long long)size, (long long)sizes[i]);
        r->scale[i] = (double)sizes[i] / (double)size;
        common = i == 0 || (smaller ? r->scale[i] < common : r->scale[i] > common) ? r->scale[i] : common;
        r->out.dim[r->axes[i]] = sizes[i];
    }
    for (int i = 0; i < r->axis_count && !stretch; i++) {
        r->scale[i] = common;
        r->out.dim[r->axes[i]] = (int64_t)floor(common * (double)node->in[0]->shape.dim[r->axes[i]] + 0.5);
    }
    return true;
}

static bool operands(OnnxNode *node, Resize *r) {
    bool upsample = is(node->from.origin.op_type, "Upsample");
    if (!node_check_inputs(node, 1, upsample ? node->since >= 9 ? 2 : 1 : node->since < 11 ? 2 : 4) || !attributes(node, r))
        return false;
    int count = 0, scales_at = upsample || node->since < 11 ? 1 : 2, n = r->axis_count;
    r->out = node->in[0]->shape;
    if (upsample && node->since < 9) {
        const Onnx__AttributeProto *scales = node_attr(node, "scales");
        if (scales == NULL || scales->n_floats != (size_t)n)
            return node_refuse(node, "attribute 'scales' must have %d entries", n);
        double list[MAX_RANK];
        for (int i = 0; i < n; i++)
            list[i] = (double)scales->floats[i];
        return from_scales(node, r, list);
    }
    if (is(r->coordinates, "tf_crop_and_resize")) {
        const double *roi = reals(node, 1, "the region of interest", 2 * n);
        if (roi == NULL)
            return false;
        memcpy(r->roi, roi, (size_t)(2 * n) * sizeof *roi);
    }
    const Operand *scales = node_in(node, scales_at);
    if (scales != NULL && checked_elements(scales->shape, ELEMENT_LIMIT) > 0) {
        const double *list = reals(node, scales_at, "the scales", n);
        return list != NULL && from_scales(node, r, list);
    }
    const int64_t *sizes = node_ints(node, 3, "the sizes", &count);
    if (sizes != NULL && count != n)
        return node_refuse(node, "%d sizes for %d axes", count, n);
    return sizes != NULL && from_sizes(node, r, sizes);
}

/* --- one axis --- */

/* Where output element `at` lies between the elements of the input. */
static double source_of(const Resize *r, int i, int64_t at, int64_t in, int64_t out) {
    double x = (double)at, scale = r->scale[i], size = (double)in, wide = scale * size;
    if (is(r->coordinates, "asymmetric"))
        return x / scale;
    if (is(r->coordinates, "align_corners"))
        return wide == 1 ? 0 : x * (size - 1) / (wide - 1);
    if (is(r->coordinates, "pytorch_half_pixel"))
        return out == 1 ? 0 : (x + 0.5) / scale - 0.5;
    if (is(r->coordinates, "tf_crop_and_resize")) {
        double start = r->roi[i], end = r->roi[r->axis_count + i];
        return out == 1 ? 0.5 * (start + end) * (size - 1) : start * (size - 1) + x * (end - start) * (size - 1) / (wide - 1);
    }
    double middle = is(r->coordinates, "half_pixel_symmetric") ? size / 2 * (1 - (double)out / wide) : 0;
    return middle + (x + 0.5) / scale - 0.5;
}

static int64_t nearest_of(const Resize *r, double x, int64_t size) {
    double low = floor(x), rest = x - low;
    bool up = is(r->nearest, "ceil")                ? rest > 0
              : is(r->nearest, "round_prefer_ceil") ? rest >= 0.5
                                                    : is(r->nearest, "round_prefer_floor") && rest > 0.5;
    double at = low + (up ? 1 : 0);
    return at<0 ? 0 : at>(double)(size - 1) ? size - 1 : (int64_t)at;
}

static double cubic_weight(double a, double x) {
    x = fabs(x);
    if (x <= 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

static double tap_weight(const Resize *r, double distance) {
    if (is(r->mode, "cubic"))
        return cubic_weight(r->cubic, distance);
    return fabs(distance) < 1 ? 1 - fabs(distance) : 0;
}

/* Adds the taps of one output element to its column of the matrix: beyond the edge the last element is repeated, or left out. */
static bool add_taps(OnnxNode *node, const Resize *r, double x, double scale, int64_t size, double *column, int64_t stride) {
    double squeeze = r->antialias && scale < 1 ? scale : 1, support = (is(r->mode, "cubic") ? 2 : 1) / squeeze, total = 0;
    if (2 * support + 1 > MOST_TAPS)
        return node_refuse(node, "makes an element from more than %d", MOST_TAPS);
    for (int pass = 0; pass < 2; pass++) {
        double sum = total;
        total = 0;
        for (double k = ceil(x - support); k <= x + support; k++) {
            double weight = tap_weight(r, (k - x) * squeeze);
            bool outside = k < 0 || k > (double)(size - 1);
            if (outside && r->exclude_outside)
                continue;
            int64_t at = k < 0 ? 0 : outside ? size - 1 : (int64_t)k;
            total += weight;
            if (pass == 1 && sum != 0)
                column[at * stride] += weight / sum;
        }
    }
    return true;
}

/* The axis by moves, if the indices of its elements are evenly spaced or each is repeated as often. NULL and *done false: not so. */
static Value *resize_nearest(OnnxNode *node, const Resize *r, Value *value, int i) {
    int axis = r->axes[i];
    int64_t in = value->shape.dim[axis], out = r->out.dim[axis];
    int64_t *from = arena_alloc(node->importer->arena, (size_t)out + 1, sizeof *from);
    for (int64_t k = 0; k < out; k++)
        from[k] = nearest_of(r, source_of(r, i, k, in, out), in);
    return node_take(node, value, axis, out, from);
}

static Value *resize_axis(OnnxNode *node, const Resize *r, Value *value, int i) {
    int axis = r->axes[i];
    int64_t in = value->shape.dim[axis], out = r->out.dim[axis];
    if (is(r->mode, "nearest") && !r->antialias)
        return resize_nearest(node, r, value, i);
    if (checked_elements(shape_of(2, (int64_t[]){in, out}), CONSTANT_LIMIT) < 0) {
        node_refuse(node, "its matrix for axis %d is too large", axis);
        return NULL;
    }
    double *matrix = arena_alloc(node->importer->arena, (size_t)(in * out) + 1, sizeof *matrix);
    for (int64_t k = 0; k < out; k++)
        if (!add_taps(node, r, source_of(r, i, k, in, out), r->scale[i], in, matrix + k, out))
            return NULL;
    return node_map_axis(node, value, axis, out, matrix);
}

/* tf_crop_and_resize: what lies outside the input is the extrapolation value. */
static Value *extrapolate(OnnxNode *node, const Resize *r, Value *value) {
    int64_t count = checked_elements(value->shape, CONSTANT_LIMIT), outside = 0;
    if (count < 0) {
        node_refuse(node, "its result has more than 2^28 elements");
        return NULL;
    }
    double *inside = arena_alloc(node->importer->arena, (size_t)count + 1, sizeof *inside);
    double *filled = arena_alloc(node->importer->arena, (size_t)count + 1, sizeof *filled);
    for (int64_t k = 0; k < count; k++) {
        int64_t rest = k;
        inside[k] = 1;
        for (int d = value->shape.rank; d-- > 0; rest /= value->shape.dim[d])
            for (int i = 0; i < r->axis_count; i++) {
                int64_t in = node->in[0]->shape.dim[d];
                double x = r->axes[i] == d ? source_of(r, i, rest % value->shape.dim[d], in, value->shape.dim[d]) : 0;
                if (x < 0 || x > (double)(in - 1))
                    inside[k] = 0;
            }
        filled[k] = inside[k] == 0 ? r->extrapolation : 0;
        outside += inside[k] == 0;
    }
    if (outside == 0)
        return value;
    value = node_emit(node, OP_mul, INPUTS(value, node_const_value(node, value->shape, inside)), NO_ATTRS);
    if (value == NULL || r->extrapolation == 0)
        return value;
    return node_emit(node, OP_add, INPUTS(value, node_const_value(node, value->shape, filled)), NO_ATTRS);
}

static bool lower(OnnxNode *node) {
    Resize r = {.mode = NULL};
    if (!operands(node, &r))
        return false;
    Value *value = node_value(node, 0);
    bool crop = is(r.coordinates, "tf_crop_and_resize");
    for (int i = 0; i < r.axis_count && value != NULL; i++)
        if (r.scale[i] != 1 || crop || r.out.dim[r.axes[i]] != node->in[0]->shape.dim[r.axes[i]])
            value = resize_axis(node, &r, value, i);
    if (value != NULL && crop)
        value = extrapolate(node, &r, value);
    return value == node->in[0]->value ? node_alias(node, 0, 0) : node_set(node, 0, value);
}

bool lower_resize(OnnxNode *node) {
    return lower(node);
}

bool lower_upsample(OnnxNode *node) {
    return lower(node);
}
