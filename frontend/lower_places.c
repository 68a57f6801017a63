/* Lowering of GatherElements, GatherND, ScatterElements, ScatterND and OneHot where the indices or the rest are data. Before: known
 * operands. After: the elements, or rows, of x as one list and a gather from it, or a sum into it, at places that are constant or computed
 * from the indices. An index that is out of range takes 0 and puts nothing. Sources: ONNX Operators.md. */
#include "frontend/importer.h"

#include <string.h>

/* Where the indices point: into x as a list of `size` rows of `inner` elements. */
typedef struct {
    Value *place; /* of each row that is taken or put */
    Shape result; /* of what is taken or put */
    int64_t size, inner;
} Places;

/* The indices as integers that are known only while the model runs; NULL after a diagnostic. */
static Value *data_indices(OnnxNode *node, int i) {
    Value *value = node->in[i]->value;
    if (value != NULL && value->integer)
        return value;
    node_refuse(node, "indices '%s' are neither constant nor an integer input", node->in[i]->name);
    return NULL;
}

static Value *constant_places(OnnxNode *node, const int64_t *place, int64_t count, int64_t size) {
    int64_t bound = size > 1 ? size - 1 : 1;
    Value *value = graph_integer(node->importer->graph, VALUE_CONST, NULL, shape_of(1, &count), T_I32, bound);
    value->mantissa = place;
    return place != NULL ? value : NULL;
}

static void row_strides(Shape shape, int64_t stride[MAX_RANK]) {
    int64_t step = 1;
    for (int i = shape.rank; i-- > 0; step *= shape.dim[i])
        stride[i] = step;
}

/* GatherElements, ScatterElements: an index stands at the place of its element but for the axis. */
static bool along_axis(OnnxNode *node, Shape x, Places *places) {
    const OnnxTensor *constant = operand_constant(node->importer, node->in[1]);
    Shape index = node->in[1]->shape;
    places->result = index;
    places->inner = 1;
    places->size = checked_elements(x, ELEMENT_LIMIT);
    if (constant != NULL) {
        const int64_t *place = constant->ints != NULL ? places_along_axis(node, x, constant) : NULL;
        places->place = constant_places(node, place, constant->count, places->size);
        return places->place != NULL || (constant->ints == NULL && node_refuse(node, "indices must be integers"));
    }
    int axis = node_axis(node, node_attr_int(node, "axis", 0), x.rank);
    bool fits = axis >= 0 && index.rank == x.rank;
    for (int d = 0; fits && d < x.rank; d++)
        fits = d == axis || index.dim[d] <= x.dim[d];
    if (!fits || index.rank == MAX_RANK)
        return node_refuse(node, "indices of shape [%s] do not fit [%s]", shape_text(node->importer->arena, index),
                           shape_text(node->importer->arena, x));
    int64_t steps[MAX_RANK], stride, size = x.dim[axis];
    row_strides(x, steps);
    stride = steps[axis];
    steps[axis] = 0;
    Shape tuples = index;
    tuples.dim[tuples.rank++] = 1;
    places->place = node_emit(node, OP_places, INPUTS(node_reshape(node, data_indices(node, 1), tuples)),
                              ATTRS(ATTR_L("sizes", 1, &size), ATTR_L("strides", 1, &stride), ATTR_L("steps", x.rank, steps)));
    return places->place != NULL;
}

/* GatherND, ScatterND: a tuple names the first dimensions of x behind `batch` common ones. */
static bool by_tuple(OnnxNode *node, Shape x, int batch, Places *places) {
    const OnnxTensor *constant = operand_constant(node->importer, node->in[1]);
    Shape index = node->in[1]->shape;
    if (constant != NULL) {
        const int64_t *place = constant->ints != NULL ? places_by_tuple(node, x, constant, batch, &places->result) : NULL;
        places->inner = 1;
        places->size = checked_elements(x, ELEMENT_LIMIT);
        places->place = constant_places(node, place, place != NULL ? checked_elements(places->result, ELEMENT_LIMIT) : 0, places->size);
        return places->place != NULL || (constant->ints == NULL && node_refuse(node, "indices must be integers"));
    }
    int rank = index.rank - 1;
    int64_t tuple = rank >= 0 ? index.dim[rank] : 0;
    bool fits = rank >= batch && batch >= 0 && tuple >= 1 && batch + tuple <= x.rank && rank + x.rank - batch - tuple <= MAX_RANK;
    for (int d = 0; fits && d < batch; d++)
        fits = x.dim[d] == index.dim[d];
    if (!fits)
        return node_refuse(node, "indices of shape [%s] do not fit [%s]", shape_text(node->importer->arena, index),
                           shape_text(node->importer->arena, x));
    int named = batch + (int)tuple;
    int64_t strides[MAX_RANK], steps[MAX_RANK] = {0};
    row_strides(shape_of(named, x.dim), strides);
    for (int d = 0; d < batch; d++)
        steps[d] = strides[d];
    places->size = checked_elements(shape_of(named, x.dim), ELEMENT_LIMIT);
    places->inner = checked_elements(shape_of(x.rank - named, x.dim + named), ELEMENT_LIMIT);
    places->result = shape_of(rank, index.dim);
    for (int d = named; d < x.rank; d++)
        places->result.dim[places->result.rank++] = x.dim[d];
    places->place = node_emit(
        node, OP_places, INPUTS(data_indices(node, 1)),
        ATTRS(ATTR_L("sizes", (int)tuple, x.dim + batch), ATTR_L("strides", (int)tuple, strides + batch), ATTR_L("steps", rank, steps)));
    return places->place != NULL;
}

/* A list of rows: [count] or [count, inner]. */
static Shape list_of(int64_t count, int64_t inner) {
    return inner == 1 ? shape_of(1, &count) : shape_of(2, (int64_t[]){count, inner});
}

static bool set_taken(OnnxNode *node, const Places *places) {
    Value *x = node_reshape(node, node_value(node, 0), list_of(places->size, places->inner));
    if (x == NULL)
        return false;
    Value *taken = node_emit(node, OP_gather, INPUTS(x, places->place), ATTRS(ATTR_I("axis", 0)));
    return node_set(node, 0, node_reshape(node, taken, places->result));
}

bool lower_gather_elements(OnnxNode *node) {
    Places places;
    if (!node_check_inputs(node, 2, 2) || !along_axis(node, node->in[0]->shape, &places))
        return false;
    const OnnxTensor *constant = operand_constant(node->importer, node->in[1]);
    if (constant == NULL)
        return set_taken(node, &places);
    Value *x = node_reshape(node, node_value(node, 0), shape_of(1, &places.size));
    return node_set(node, 0, node_reshape(node, node_take(node, x, 0, constant->count, places.place->mantissa), places.result));
}

bool lower_gather_nd(OnnxNode *node) {
    Places places;
    int batch = node->since >= 12 ? (int)node_attr_int(node, "batch_dims", 0) : 0;
    if (!node_check_inputs(node, 2, 2) || !by_tuple(node, node->in[0]->shape, batch, &places))
        return false;
    if (operand_constant(node->importer, node->in[1]) == NULL)
        return set_taken(node, &places);
    Value *x = node_reshape(node, node_value(node, 0), shape_of(1, &places.size));
    int64_t count = checked_elements(places.result, ELEMENT_LIMIT);
    return node_set(node, 0, node_reshape(node, node_take(node, x, 0, count, places.place->mantissa), places.result));
}

/* --- scatter --- */

/* Zeros of a list with the rows of `updates` added at the places. */
static Value *scattered(OnnxNode *node, const Places *places, Value *updates, int64_t inner) {
    if (updates == NULL)
        return NULL;
    Shape list = list_of(places->size, inner), given = places->place->shape;
    if (inner != 1)
        given.dim[given.rank++] = inner;
    return node_emit(node, OP_gather_grad, INPUTS(node_reshape(node, updates, given), places->place),
                     ATTRS(ATTR_I("axis", 0), ATTR_L("shape", list.rank, list.dim)));
}

static Value *ones_of(OnnxNode *node, Shape shape) {
    int64_t count = shape_elements(shape);
    double *ones = arena_alloc(node->importer->arena, (size_t)count + 1, sizeof *ones);
    for (int64_t k = 0; k < count; k++)
        ones[k] = 1;
    return node_const_value(node, shape, ones);
}

/* x with updates added at the places, or put there: then x is kept where nothing is put. */
static bool set_scattered(OnnxNode *node, const Places *places) {
    const char *reduction = node->since >= 16 ? node_attr_text(node, "reduction", "none") : "none";
    bool adds = strcmp(reduction, "add") == 0;
    if (!adds && strcmp(reduction, "none") != 0)
        return node_refuse(node, "attribute 'reduction' is '%s', none and add are supported", reduction);
    if (!shape_equal(node->in[2]->shape, places->result))
        return node_refuse(node, "updates of shape [%s] do not fit [%s]", shape_text(node->importer->arena, node->in[2]->shape),
                           shape_text(node->importer->arena, places->result));
    Shape shape = node->in[0]->shape;
    Value *x = node_reshape(node, node_value(node, 0), list_of(places->size, places->inner));
    Value *sum = scattered(node, places, node_value(node, 2), places->inner);
    if (x == NULL || sum == NULL)
        return false;
    if (x->integer || sum->integer)
        return node_refuse(node, "scatters class labels, indices or truth values");
    if (!adds) {
        Value *hits = scattered(node, places, ones_of(node, places->place->shape), 1);
        Value *hit = node_emit(node, OP_positive, INPUTS(hits), NO_ATTRS);
        if (places->inner != 1)
            hit = node_reshape(node, hit, shape_of(2, (int64_t[]){places->size, 1}));
        x = node_emit(node, OP_gate, INPUTS(x, node_mask_not(node, hit)), NO_ATTRS);
    }
    return node_set(node, 0, node_reshape(node, node_emit(node, OP_add, INPUTS(x, sum), NO_ATTRS), shape));
}

bool lower_scatter_elements(OnnxNode *node) {
    Places places;
    return node_check_inputs(node, 3, 3) && along_axis(node, node->in[0]->shape, &places) && set_scattered(node, &places);
}

bool lower_scatter_nd(OnnxNode *node) {
    Places places;
    return node_check_inputs(node, 3, 3) && by_tuple(node, node->in[0]->shape, 0, &places) && set_scattered(node, &places);
}

/* --- one-hot --- */

/* 1 where an index, a real number, is the place on the axis or that place less `depth`. */
static Value *hot_of_reals(OnnxNode *node, Value *index, int axis, Shape shape) {
    Shape column = shape, places = {.rank = shape.rank};
    column.dim[axis] = 1;
    for (int d = 0; d < shape.rank; d++)
        places.dim[d] = d == axis ? shape.dim[axis] : 1;
    Value *mask[2];
    for (int k = 0; k < 2; k++) {
        double *place = arena_alloc(node->importer->arena, (size_t)shape.dim[axis], sizeof *place);
        for (int64_t i = 0; i < shape.dim[axis]; i++)
            place[i] = (double)(k == 0 ? i : i - shape.dim[axis]);
        Value *away = node_emit(node, OP_sub, INPUTS(node_reshape(node, index, column), node_const_value(node, places, place)), NO_ATTRS);
        mask[k] = node_emit(node, OP_inside, INPUTS(away), ATTRS(ATTR_R("min", -0.5), ATTR_R("max", 0.5)));
    }
    return node_mask_number(node, node_emit(node, OP_differ, INPUTS(mask[0], mask[1]), NO_ATTRS));
}

/* 1 at the indices: ones put into zeros, where an element of the axis lies `strides[axis]` behind the one before. */
static Value *hot_of_integers(OnnxNode *node, Value *index, int axis, Shape shape) {
    int64_t steps[MAX_RANK], strides[MAX_RANK], all = checked_elements(shape, ELEMENT_LIMIT);
    row_strides(shape, strides);
    for (int d = 0; d < index->shape.rank; d++)
        steps[d] = strides[d < axis ? d : d + 1];
    Shape tuples = index->shape;
    tuples.dim[tuples.rank++] = 1;
    Value *place = node_emit(
        node, OP_places, INPUTS(node_reshape(node, index, tuples)),
        ATTRS(ATTR_L("sizes", 1, shape.dim + axis), ATTR_L("strides", 1, strides + axis), ATTR_L("steps", index->shape.rank, steps)));
    return place == NULL ? NULL
                         : node_emit(node, OP_gather_grad, INPUTS(ones_of(node, index->shape), place),
                                     ATTRS(ATTR_I("axis", 0), ATTR_L("shape", 1, &all)));
}

/* An index outside [-depth, depth) is off everywhere. */
bool lower_one_hot(OnnxNode *node) {
    double depth;
    if (!node_check_inputs(node, 3, 3) || !node_scalar(node, 1, "the depth", &depth))
        return false;
    const OnnxTensor *values = node_constant(node, 2, "the values");
    Shape index = node->in[0]->shape, shape = {.rank = index.rank + 1};
    int axis = index.rank < MAX_RANK ? node_axis(node, node_attr_int(node, "axis", -1), shape.rank) : -1;
    Value *at = node_value(node, 0);
    if (values == NULL || axis < 0 || at == NULL)
        return false;
    if (values->count != 2 || !(depth >= 1 && depth < 1e9))
        return node_refuse(node, "takes a positive depth and two values");
    for (int d = 0; d < shape.rank; d++)
        shape.dim[d] = d < axis ? index.dim[d] : d == axis ? (int64_t)depth : index.dim[d - 1];
    if (checked_elements(shape, ELEMENT_LIMIT) < 0)
        return node_refuse(node, "its result has more than 2^31 elements");
    if (!at->integer && depth > 127)
        return node_refuse(node, "indices '%s' are real numbers, which have 8 bits: at most 127 places can be told apart",
                           node->in[0]->name);
    double off = values->reals != NULL ? values->reals[0] : (double)values->ints[0];
    double on = values->reals != NULL ? values->reals[1] : (double)values->ints[1];
    Value *hot = at->integer ? hot_of_integers(node, at, axis, shape) : hot_of_reals(node, at, axis, shape);
    hot = node_mul_const(node, node_reshape(node, hot, shape), on - off);
    if (off != 0)
        hot = node_emit(node, OP_add, INPUTS(hot, node_const_value(node, (Shape){0}, &off)), NO_ATTRS);
    return node_set_typed(node, 0, hot, node->in[2]->type);
}
