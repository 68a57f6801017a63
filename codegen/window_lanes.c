/* Pools of few channels that are innermost in memory: a vector is the channels of one pixel, where loops over channels would be too short
 * to vectorise. Windows without padding; gradients of windows that do not overlap. Needs planned values of i8. Loads read past a pixel, as
 * those of contractions do (contract.h); stores are exact. */
#include "codegen/window.h"

enum { FEWEST = 2, MOST = 15, MOST_PLACES = 64 };

static bool channels_innermost(const Value *value) {
    int64_t stride[MAX_RANK];
    value_strides(value, stride);
    return value->type == T_I8 && stride[1] == 1;
}

bool lanes_serve(const Node *node, const Value *const *values, int count) {
    int64_t channels = node->out[0]->shape.dim[1];
    bool serve = channels >= FEWEST && channels <= MOST && window_places(node) <= MOST_PLACES;
    for (int i = 0; serve && i < count; i++)
        serve = channels_innermost(values[i]);
    return serve;
}

/* --- vectors of i8 --- */

typedef struct {
    Codegen *cg;
    unsigned channels, lanes; /* the next power of two */
    LLVMTypeRef type;
} Lanes;

static Lanes lanes_of(Codegen *cg, const Value *value) {
    Lanes lanes = {.cg = cg, .channels = (unsigned)value->shape.dim[1], .lanes = 2};
    while (lanes.lanes < lanes.channels)
        lanes.lanes *= 2;
    lanes.type = LLVMVectorType(cg->i8, lanes.lanes);
    return lanes;
}

static LLVMValueRef lanes_const(const Lanes *lanes, int64_t x) {
    LLVMValueRef all[MOST + 1];
    for (unsigned i = 0; i < lanes->lanes; i++)
        all[i] = LLVMConstInt(lanes->cg->i8, (unsigned long long)x, true);
    return LLVMConstVector(all, lanes->lanes);
}

static LLVMValueRef lanes_load(const Lanes *lanes, const Value *value, LLVMValueRef index) {
    return load_at(lanes->cg, value->offset, value_bytes(value), lanes->type, lanes->cg->i8, index, 1);
}

static void lanes_store(const Lanes *lanes, const Value *value, LLVMValueRef index, LLVMValueRef x) {
    LLVMValueRef mask[MOST];
    for (unsigned i = 0; i < lanes->channels; i++)
        mask[i] = const32(lanes->cg, i);
    x = LLVMBuildShuffleVector(lanes->cg->builder, x, LLVMGetUndef(lanes->type), LLVMConstVector(mask, lanes->channels), "");
    store_at(lanes->cg, value->offset, value_bytes(value), lanes->cg->i8, index, x, 1);
}

/* --- walks --- */

/* The space of the pixels of a value: its channels are one place. */
static Space pixels_of(const Value *value) {
    Shape shape = value->shape;
    shape.dim[1] = 1;
    return space_new(shape, value->order);
}

/* A stream that goes from window to window (steps: their strides) or, without, from pixel to pixel. */
static int pixel_stream(Space *space, const Value *walked, const Value *value, const int64_t *steps) {
    int64_t stride[MAX_RANK];
    value_strides(value, stride);
    for (int d = 2; steps != NULL && d < value->shape.rank; d++)
        stride[d] *= steps[d - 2];
    return space_stream(space, walked->order, stride, 0);
}

/* Elements from the first place of a window to place `place`. */
static int64_t reach_of(const Node *node, const Value *value, int64_t place) {
    int rank, count;
    const int64_t *kernel = attr_ints(node, "kernel", &rank), *dilations = attr_ints(node, "dilations", &count);
    int64_t stride[MAX_RANK], reach = 0;
    value_strides(value, stride);
    for (int d = rank - 1; d >= 0; place /= kernel[d--])
        reach += place % kernel[d] * dilations[d] * stride[d + 2];
    return reach;
}

void lanes_maxpool(Codegen *cg, const Node *node) {
    const Value *x = node->in[0], *y = node->out[0], *offset = node->out[1];
    int count;
    Lanes lanes = lanes_of(cg, y);
    Space space = pixels_of(y);
    int source = pixel_stream(&space, y, x, attr_ints(node, "strides", &count)), target = pixel_stream(&space, y, y, NULL);
    int where = pixel_stream(&space, y, offset, NULL);
    space_collapse(&space);
    kernel_begin(cg, node, "");
    Nest nest;
    nest_begin(cg, &nest, &space);
    LLVMValueRef from = nest_index(cg, &nest, source), best = lanes_load(&lanes, x, from), position = lanes_const(&lanes, 0);
    for (int64_t place = 1; place < window_places(node); place++) {
        LLVMValueRef next = lanes_load(&lanes, x, add_const(cg, from, reach_of(node, x, place)));
        LLVMValueRef take = compare(cg, LLVMIntSGT, next, best);
        best = choose(cg, take, next, best);
        position = choose(cg, take, lanes_const(&lanes, place), position);
    }
    lanes_store(&lanes, y, nest_index(cg, &nest, target), best);
    if (offset->offset >= 0)
        lanes_store(&lanes, offset, nest_index(cg, &nest, where), position);
    nest_end(cg, &nest);
    kernel_end(cg, space_tiles(&space), space_elements(&space) * window_places(node) * 4);
}

void lanes_scatter(Codegen *cg, const Node *node) {
    const Value *dy = node->in[0], *offset = node->op == OP_maxpool_grad ? node->in[1] : NULL, *dx = node->out[0];
    int count;
    Lanes lanes = lanes_of(cg, dx);
    Space space = pixels_of(dy);
    int source = pixel_stream(&space, dy, dy, NULL), target = pixel_stream(&space, dy, dx, attr_ints(node, "strides", &count));
    int where = offset != NULL ? pixel_stream(&space, dy, offset, NULL) : -1;
    space_collapse(&space);
    kernel_begin(cg, node, "");
    Nest nest;
    nest_begin(cg, &nest, &space);
    LLVMValueRef to = nest_index(cg, &nest, target), g = lanes_load(&lanes, dy, nest_index(cg, &nest, source));
    LLVMValueRef position = offset != NULL ? lanes_load(&lanes, offset, nest_index(cg, &nest, where)) : NULL;
    for (int64_t place = 0; place < window_places(node); place++) {
        LLVMValueRef part = g;
        if (position != NULL)
            part = choose(cg, compare(cg, LLVMIntEQ, position, lanes_const(&lanes, place)), g, lanes_const(&lanes, 0));
        lanes_store(&lanes, dx, add_const(cg, to, reach_of(node, dx, place)), part);
    }
    nest_end(cg, &nest);
    kernel_end(cg, space_tiles(&space), space_elements(&space) * window_places(node) * 4);
}
