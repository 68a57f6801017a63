/* Loop nests over index spaces. Before: a kernel is being built. The order of the loops is that of the memory of the tensor that is
 * written, so that the innermost loop is contiguous where the layouts agree. */
#include "codegen/space.h"
#include "runtime/fixed.h"

#include <string.h>

enum { ENOUGH_TILES = 32 };

Space space_new(Shape shape, const uint8_t *order) {
    Space space = {.rank = shape.rank};
    for (int k = 0; k < shape.rank; k++)
        space.extent[k] = shape.dim[order == NULL ? k : order[k]];
    return space;
}

int space_stream(Space *space, const uint8_t *order, const int64_t *stride, int64_t base) {
    if (space->streams == MAX_STREAMS)
        internal_error("too many operands in one kernel");
    int stream = space->streams++;
    for (int k = 0; k < space->rank; k++)
        space->stride[stream][k] = stride[order == NULL ? k : order[k]];
    space->base[stream] = base;
    return stream;
}

static bool merges(const Space *space, int k) {
    for (int i = 0; i < space->streams; i++)
        if (space->stride[i][k] != space->stride[i][k + 1] * space->extent[k + 1])
            return false;
    return true;
}

static void drop(Space *space, int k) {
    for (int j = k; j + 1 < space->rank; j++) {
        space->extent[j] = space->extent[j + 1];
        for (int i = 0; i < space->streams; i++)
            space->stride[i][j] = space->stride[i][j + 1];
    }
    space->rank--;
}

void space_collapse(Space *space) {
    for (int k = space->rank - 1; k >= 0; k--)
        if (space->extent[k] == 1)
            drop(space, k);
    for (int k = space->rank - 2; k >= 0; k--)
        if (merges(space, k)) {
            space->extent[k + 1] *= space->extent[k];
            drop(space, k);
        }
    if (space->rank == 0) {
        space->rank = 1;
        space->extent[0] = 1;
        for (int i = 0; i < space->streams; i++)
            space->stride[i][0] = 0;
    }
}

void space_cut(Space *space, int dimension, int64_t length) {
    if (space->rank == MAX_DIMS)
        internal_error("codegen: too many dimensions");
    for (int k = space->rank++; k > dimension; k--) {
        space->extent[k] = space->extent[k - 1];
        for (int i = 0; i < space->streams; i++)
            space->stride[i][k] = space->stride[i][k - 1];
    }
    space->extent[dimension] /= length;
    space->extent[dimension + 1] = length;
    for (int i = 0; i < space->streams; i++)
        space->stride[i][dimension] *= length;
}

int64_t space_parts_from(const Space *space, int dimension) {
    int64_t before = 1;
    for (int k = 0; k < dimension; k++)
        before *= space->extent[k];
    return before < space->parts ? space->parts / before : 1;
}

int64_t space_elements(const Space *space) {
    int64_t n = 1;
    for (int k = 0; k < space->rank; k++)
        n *= space->extent[k];
    return n;
}

static int outer_dimensions(const Space *space) {
    int outer = 1, most = space->rank - (space->jammed > 0 ? 2 : 1);
    int64_t enough = space->parts > ENOUGH_TILES ? space->parts : ENOUGH_TILES;
    for (int64_t tiles = space->extent[0]; tiles < enough && outer < most; outer++)
        tiles *= space->extent[outer];
    return outer;
}

int64_t space_tiles(const Space *space) {
    if (space_elements(space) == 0)
        return 0;
    int64_t tiles = 1;
    for (int k = 0; k < outer_dimensions(space); k++)
        tiles *= space->extent[k];
    return tiles;
}

/* So many steps of a logical stream. */
static LLVMValueRef random_steps(Codegen *cg, int64_t count) {
    return const32(cg, (int64_t)((uint32_t)count * INTC_RANDOM_STEP));
}

void nest_start(Codegen *cg, Nest *nest, const Space *space) {
    *nest = (Nest){.space = space};
    for (int i = 0; i < space->streams; i++)
        nest->partial[i] = space->logical[i] ? random_steps(cg, space->base[i]) : const64(cg, space->base[i]);
}

void nest_advance(Codegen *cg, Nest *nest, int k, LLVMValueRef index) {
    nest->index[k] = index;
    for (int i = 0; i < nest->space->streams; i++) {
        int64_t stride = nest->space->stride[i][k];
        if (stride == 0 || nest->running[i] != NULL)
            continue;
        if (nest->space->logical[i])
            nest->partial[i] = add(cg, nest->partial[i], mul(cg, as_bits(cg, index, 32), random_steps(cg, stride)));
        else
            nest->partial[i] = LLVMBuildNSWAdd(cg->builder, nest->partial[i],
                                               stride == 1 ? index : LLVMBuildNSWMul(cg->builder, index, const64(cg, stride), ""), "");
    }
}

/* The innermost loop, over dimension k from `begin` on: adds up its logical streams, where a multiplication for each element costs more. */
static Loop innermost_begin(Codegen *cg, Nest *nest, int k, LLVMValueRef begin, LLVMValueRef end) {
    const Space *space = nest->space;
    LLVMValueRef start[MAX_STREAMS] = {NULL};
    for (int i = 0; i < space->streams; i++)
        if (space->logical[i] && space->stride[i][k] != 0)
            start[i] = add(cg, nest->partial[i], mul(cg, as_bits(cg, begin, 32), random_steps(cg, space->stride[i][k])));
    LLVMBasicBlockRef before = LLVMGetInsertBlock(cg->builder);
    Loop loop = loop_begin(cg, begin, end);
    loop.vectors = space->vectors;
    for (int i = 0; i < space->streams; i++)
        if (start[i] != NULL) {
            nest->running[i] = nest->partial[i] = LLVMBuildPhi(cg->builder, cg->i32, "");
            LLVMAddIncoming(nest->running[i], &start[i], &before, 1);
        }
    return loop;
}

static void innermost_end(Codegen *cg, Nest *nest, Loop *loop) {
    const Space *space = nest->space;
    LLVMBasicBlockRef last = LLVMGetInsertBlock(cg->builder);
    for (int i = 0; i < space->streams; i++)
        if (nest->running[i] != NULL) {
            LLVMValueRef next = add(cg, nest->running[i], random_steps(cg, space->stride[i][space->rank - 1]));
            LLVMAddIncoming(nest->running[i], &next, &last, 1);
        }
    loop_end(cg, loop);
}

void nest_look_ahead(Codegen *cg, const Nest *nest, int64_t rows) {
    enum { ELEMENTS = 1024, MOST_LINES = 16 };
    const Space *space = nest->space;
    int last = space->rank - 1;
    int64_t turn = rows * space->extent[last], distance = (ELEMENTS + turn - 1) / turn * turn;
    for (int i = 0; i < space->streams; i++) {
        const Far *far = &space->far[i];
        int64_t lines = (turn * far->bytes + CACHE_LINE - 1) / CACHE_LINE;
        bool adjacent = space->stride[i][last] == 1 && (rows == 1 || space->stride[i][last - 1] == space->extent[last]);
        if (lines == 0 || lines > MOST_LINES || !adjacent)
            continue;
        LLVMValueRef at = mul_by(cg, add_const(cg, nest->partial[i], distance), far->bytes), base = arena_at(cg, far->offset);
        for (int64_t k = 0; k < lines; k++) {
            LLVMValueRef offset = add_const(cg, at, k * CACHE_LINE);
            fetch_line(cg, LLVMBuildGEP2(cg->builder, cg->i8, base, &offset, 1, "")); /* it may lie behind the arena */
        }
    }
}

void nest_begin(Codegen *cg, Nest *nest, const Space *space) {
    nest_start(cg, nest, space);
    nest->outer = outer_dimensions(space);
    Loop *tile = &nest->loops[nest->loop_count++];
    *tile = space->rank == 1 ? innermost_begin(cg, nest, 0, cg->begin, cg->end) : loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef rest = tile->index, index[MAX_DIMS];
    for (int k = nest->outer - 1; k > 0; k--) {
        index[k] = urem_by(cg, rest, space->extent[k]);
        rest = udiv_by(cg, rest, space->extent[k]);
    }
    index[0] = rest;
    for (int k = 0; k < nest->outer; k++)
        nest_advance(cg, nest, k, index[k]);
    for (int k = nest->outer; k < space->rank; k++) {
        if (space->jammed > 0 && k == space->rank - 2)
            continue;
        Loop *loop = &nest->loops[nest->loop_count++];
        LLVMValueRef zero = const64(cg, 0), end = const64(cg, space->extent[k]);
        if (k == space->rank - 1)
            nest_look_ahead(cg, nest, space->jammed > 0 ? space->jammed : 1);
        *loop = k == space->rank - 1 ? innermost_begin(cg, nest, k, zero, end) : loop_begin(cg, zero, end);
        nest_advance(cg, nest, k, loop->index);
    }
    memcpy(nest->first_row, nest->partial, sizeof nest->partial);
}

void nest_row(Codegen *cg, Nest *nest, int row) {
    const Space *space = nest->space;
    memcpy(nest->partial, nest->first_row, sizeof nest->partial);
    for (int i = 0; row > 0 && i < space->streams; i++) {
        int64_t step = row * space->stride[i][space->rank - 2];
        if (step != 0 && space->logical[i])
            nest->partial[i] = add(cg, nest->first_row[i], random_steps(cg, step));
        else if (step != 0)
            nest->partial[i] = LLVMBuildNSWAdd(cg->builder, nest->first_row[i], const64(cg, step), "");
    }
}

LLVMValueRef nest_index(Codegen *cg, const Nest *nest, int stream) {
    (void)cg;
    return nest->partial[stream];
}

void nest_end(Codegen *cg, Nest *nest) {
    innermost_end(cg, nest, &nest->loops[--nest->loop_count]);
    while (nest->loop_count > 0)
        loop_end(cg, &nest->loops[--nest->loop_count]);
}

void emit_zeros(Codegen *cg, const Node *node) {
    const Value *to = node->out[0];
    kernel_begin(cg, node, "clear");
    Loop loop = loop_begin(cg, cg->begin, cg->end);
    store_element(cg, to, loop.index, const64(cg, 0));
    loop_end(cg, &loop);
    int64_t n = shape_elements(to->shape);
    kernel_end(cg, n, n);
}
