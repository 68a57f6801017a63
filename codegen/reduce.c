/* reduce_sum over expressions: those beside a node are summed by its kernel. The space is that of the operand, in the order of its memory.
 * Where the innermost dimension is kept, a tile adds rows, or a part of the columns of each, into a private array; else into one private
 * sum. Tiles are columns and pieces of the outer dimensions; several tiles of one result are added atomically, which integers allow in any
 * order, those of one call before that where all tiles have the same result. Sums of floats are doubles until they are stored, and the
 * pieces of a result are added in their order. */
#include "codegen/space.h"

enum { MAX_SUMS = 2, MAX_PRIVATE = 4096, PIECES = 32, FEW_TERMS = 64, LONG_ROWS = 64, SHORT_PIECE = 128, MOST_JAMMED = 4 };

typedef struct {
    const Node *node;
    int64_t parts;      /* scratch: [piece][result], doubles; floats with several pieces */
    bool narrow;        /* the sum of a tile fits in 32 bits */
    LLVMTypeRef type;   /* of the sums of a tile, */
    LLVMValueRef local; /* which are here */
    LLVMValueRef call;  /* those of all tiles of a call, in the type of the result; NULL: not gathered */
} Sum;

typedef struct {
    Sum sums[MAX_SUMS];
    int count;
    Space space;
    Group group;
    int target;       /* stream into the results: stride 0 where reduced */
    int64_t pieces;   /* tiles of one result */
    int64_t together; /* rows of the kept dimension inside that have sums of their own */
    int64_t jammed;   /* rows, the extent of the dimension before, that are added up before they are added to the sums; 1: none such */
} Reduce;

static void add_sum(Codegen *cg, Reduce *r, const Node *node) {
    if (r->count == MAX_SUMS)
        internal_error("codegen: more than %d sums in one kernel", MAX_SUMS);
    r->sums[r->count++] = (Sum){.node = node};
    group_collect(cg, &r->group, view_same(node->in[0]));
}

static void reduce_open(Codegen *cg, Reduce *r, const Node *node) {
    const Value *in = node->in[0], *out = node->out[0];
    *r = (Reduce){.space = space_new(in->shape, in->order)};
    r->group = (Group){.space = &r->space, .order = in->order};
    int count;
    const int64_t *axes = attr_ints(node, "axes", &count);
    bool reduced[MAX_RANK] = {false}, keep = attr_int(node, "keepdims", 1) != 0;
    for (int i = 0; i < count; i++)
        reduced[axes[i]] = true;
    int64_t own[MAX_RANK], stride[MAX_RANK] = {0};
    value_strides(out, own);
    for (int d = 0, k = 0; d < in->shape.rank; d++) {
        if (!reduced[d])
            stride[d] = own[k];
        k += keep || !reduced[d];
    }
    r->target = space_stream(&r->space, in->order, stride, 0);
    add_sum(cg, r, node);
    for (int i = 0; i < cg->graph->node_count; i++)
        if (cg->graph->nodes[i]->beside == node)
            add_sum(cg, r, cg->graph->nodes[i]);
    space_collapse(&r->space);
    group_look_ahead(&r->group);
}

static void add_atomically(Codegen *cg, const Value *out, LLVMValueRef index, LLVMValueRef x) {
    LLVMValueRef base = arena_at(cg, out->offset);
    LLVMValueRef address = LLVMBuildInBoundsGEP2(cg->builder, element_type(cg, out->type), base, &index, 1, "");
    LLVMBuildAtomicRMW(cg->builder, LLVMAtomicRMWBinOpAdd, address, x, LLVMAtomicOrderingMonotonic, false);
}

static LLVMTypeRef sum_type(const Codegen *cg, const Sum *sum) {
    const Value *out = sum->node->out[0];
    return out->type == T_REAL ? cg->f64 : sum->narrow ? cg->i32 : element_type(cg, out->type);
}

/* Cuts sums of 64 bits, over dimensions [first, last), so that those of a tile cannot leave 32 bits, unless that leaves few terms. */
static void narrow(Reduce *r, Sum *sum, int first, int last) {
    int64_t inner = r->together, most = INT32_MAX / (sum->node->in[0]->bound + 1), outer = r->space.extent[first];
    for (int k = first + 1; k < last; k++)
        inner *= r->space.extent[k];
    int64_t rows = most / inner, pieces = rows == 0 ? 0 : (outer + rows - 1) / rows;
    if (sum->node->out[0]->type != T_I64 || rows * inner < FEW_TERMS)
        return;
    sum->narrow = true;
    r->pieces = pieces > r->pieces ? pieces : r->pieces;
}

static int64_t parts_bytes(const Reduce *r) {
    return r->pieces * shape_elements(r->sums[0].node->out[0]->shape) * 8;
}

static LLVMValueRef call_sum(Codegen *cg, const Sum *sum, LLVMValueRef column) {
    return LLVMBuildInBoundsGEP2(cg->builder, element_type(cg, sum->node->out[0]->type), sum->call, &column, 1, "");
}

/* Brings the sum of one tile, in column `column` of them, to its place. */
static void store_sum(Codegen *cg, const Reduce *r, const Sum *sum, LLVMValueRef piece, LLVMValueRef column, LLVMValueRef index,
                      LLVMValueRef x) {
    const Value *out = sum->node->out[0];
    bool real = out->type == T_REAL;
    if (sum->narrow)
        x = as_bits(cg, x, 64);
    if (r->pieces == 1)
        store_element(cg, out, index, real ? LLVMBuildFPTrunc(cg->builder, x, cg->f32, "") : x);
    else if (sum->call != NULL)
        local_set(cg, call_sum(cg, sum, column), add(cg, local_get(cg, element_type(cg, out->type), call_sum(cg, sum, column)), x));
    else if (real)
        store_at(cg, sum->parts, parts_bytes(r), cg->f64, add(cg, mul_by(cg, piece, shape_elements(out->shape)), index), x, 8);
    else
        add_atomically(cg, out, index, x);
}

/* Adds the pieces of each result. */
static void emit_join(Codegen *cg, const Reduce *r, const Sum *all) {
    const Value *out = all->node->out[0];
    int64_t results = shape_elements(out->shape);
    kernel_begin(cg, all->node, "join");
    Loop loop = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef sum = local_new(cg, cg->f64, LLVMConstNull(cg->f64));
    Loop piece = loop_begin(cg, const64(cg, 0), const64(cg, r->pieces));
    LLVMValueRef at = add(cg, mul_by(cg, piece.index, results), loop.index);
    local_set(cg, sum, add(cg, local_get(cg, cg->f64, sum), load_at(cg, all->parts, parts_bytes(r), cg->f64, cg->f64, at, 8)));
    loop_end(cg, &piece);
    store_element(cg, out, loop.index, LLVMBuildFPTrunc(cg->builder, local_get(cg, cg->f64, sum), cg->f32, ""));
    loop_end(cg, &loop);
    kernel_end(cg, results, results * r->pieces);
}

/* The loops of dimensions [first, last) with the tile's piece of dimension 0 given; see emit_tile. */
typedef struct {
    Loop loops[MAX_DIMS];
    int count;
    Nest nest;
} Walk;

static void walk_into(Codegen *cg, Walk *walk, int k, LLVMValueRef begin, LLVMValueRef end) {
    Loop *loop = &walk->loops[walk->count++];
    *loop = loop_begin(cg, begin, end);
    nest_advance(cg, &walk->nest, k, loop->index);
}

static void walk_out(Codegen *cg, Walk *walk) {
    loop_end(cg, &walk->loops[--walk->count]);
}

/* Where there are too few rows for all pieces, cuts the kept dimension inside into parts that are long enough for vectors: tiles that add
 * to no other's sums. (More rows than that are read faster whole.) */
static void cut_columns(Space *space) {
    int last = space->rank - 1;
    int64_t columns = space->extent[last], parts = columns / LONG_ROWS;
    if (space_elements(space) / columns >= (int64_t)PIECES * SHORT_PIECE)
        return;
    while (parts > 1 && (columns % parts != 0 || parts > PIECES))
        parts--;
    if (parts > 1)
        space_cut(space, last, columns / parts);
}

/* Into how many pieces the reduced dimensions are cut, the first of them being `extent` long, where there are few results: each has terms
 * enough to be worth an atomic sum. */
static int64_t count_pieces(int64_t results, int64_t terms, int64_t extent) {
    int64_t pieces = (PIECES + results - 1) / results, most = terms / SHORT_PIECE;
    pieces = pieces < most ? pieces : most;
    pieces = pieces < extent ? pieces : extent;
    return pieces < 1 ? 1 : pieces;
}

/* Dimensions in the order in which this kernel loops: first the kept ones outside the private part, then the reduced ones, last the kept
 * one inside. */
static void reorder(Space *space, int target, bool inside, int *kept) {
    Space old = *space;
    int at = 0;
    for (int pass = 0; pass < 3; pass++)
        for (int k = 0; k < old.rank; k++) {
            bool last = inside && k == old.rank - 1, keeps = old.stride[target][k] != 0;
            if ((last ? 2 : keeps ? 0 : 1) != pass)
                continue;
            space->extent[at] = old.extent[k];
            for (int i = 0; i < old.streams; i++)
                space->stride[i][at] = old.stride[i][k];
            at++;
            *kept += pass == 0;
        }
}

/* How many rows of the kept dimension inside one loop takes, each into sums of its own, where rows alone are short: a divisor of their
 * number; 1 where streams are not linear over them. */
static int64_t rows_together(const Reduce *r, int kept) {
    const Space *space = &r->space;
    int last = space->rank - 1;
    int64_t width = space->extent[last], rows = last - 1 >= kept ? space->extent[last - 1] / r->pieces : 1, best = 1;
    for (int i = 0; i < space->streams; i++)
        if (i != r->target && space->stride[i][last - 1] != space->stride[i][last] * width)
            return 1;
    for (int64_t f = 2; f <= rows && best * width < LONG_ROWS; f++)
        if (space->extent[last - 1] % f == 0 && f * width <= 2 * LONG_ROWS)
            best = f;
    return best;
}

/* How many rows are added up at once: a divisor of those in a piece. */
static int64_t rows_jammed(const Reduce *r, int kept) {
    int last = r->space.rank - 1;
    int64_t rows = last - 1 < kept ? 1 : r->space.extent[last - 1] / (last - 1 == kept ? r->pieces : 1), best = 1;
    for (int64_t f = 2; f <= MOST_JAMMED && f <= rows; f++)
        if (r->space.extent[last - 1] % f == 0)
            best = f;
    return best;
}

static void join_rows(Reduce *r, int64_t together) {
    Space *space = &r->space;
    int last = space->rank - 1;
    space->extent[last] *= together;
    space->extent[last - 1] /= together;
    for (int i = 0; i < space->streams; i++)
        space->stride[i][last - 1] *= together;
}

/* Adds the sums of all rows to those of the first. */
static void fold_rows(Codegen *cg, LLVMTypeRef type, LLVMValueRef sums, int64_t width, int64_t together) {
    Loop row = loop_begin(cg, const64(cg, 1), const64(cg, together));
    Loop column = loop_begin(cg, const64(cg, 0), const64(cg, width));
    LLVMValueRef from = add(cg, mul_by(cg, row.index, width), column.index);
    LLVMValueRef to = LLVMBuildInBoundsGEP2(cg->builder, type, sums, &column.index, 1, "");
    LLVMValueRef x = local_get(cg, type, LLVMBuildInBoundsGEP2(cg->builder, type, sums, &from, 1, ""));
    local_set(cg, to, add(cg, local_get(cg, type, to), x));
    loop_end(cg, &column);
    loop_end(cg, &row);
}

/* Short rows become straight code on AVX2: what all of them share is then computed once. */
static Vectors choose_vectors(const Codegen *cg, const Reduce *r, int64_t width) {
    enum { LANES = 32, STRAIGHT = 128 };
    bool few = width <= STRAIGHT && width % LANES == 0;
    for (int i = 0; i < r->count; i++)
        few = few && r->sums[i].type == cg->i32;
    return few && target_is_avx2(cg) ? (Vectors){LANES, (int)(width / LANES)} : (Vectors){0};
}

static LLVMValueRef sum_place(Codegen *cg, const Sum *sum, bool inside, LLVMValueRef index) {
    return inside ? LLVMBuildInBoundsGEP2(cg->builder, sum->type, sum->local, &index, 1, "") : sum->local;
}

/* The sums of a tile, all 0; `width` of each. */
static void open_sums(Codegen *cg, Reduce *r, bool inside, int64_t width) {
    for (int i = 0; i < r->count; i++) {
        Sum *sum = &r->sums[i];
        sum->type = sum_type(cg, sum);
        sum->local = inside ? local_array(cg, sum->type, width) : local_new(cg, sum->type, LLVMConstNull(sum->type));
    }
    if (!inside)
        return;
    Loop clear = loop_begin(cg, const64(cg, 0), const64(cg, width));
    for (int i = 0; i < r->count; i++)
        LLVMBuildStore(cg->builder, LLVMConstNull(r->sums[i].type), sum_place(cg, &r->sums[i], true, clear.index));
    loop_end(cg, &clear);
}

static LLVMValueRef eval_element(Codegen *cg, const Reduce *r, const Sum *sum, const Nest *nest) {
    int bits = sum->narrow ? 32 : type_bytes(sum->node->out[0]->type) * 8;
    LLVMValueRef x = as_bits(cg, group_eval(cg, &r->group, nest, view_same(sum->node->in[0])), bits);
    return sum->type == cg->f64 ? LLVMBuildFPExt(cg->builder, x, sum->type, "") : x;
}

/* The elements at the walk's position, of all jammed rows, added to the sums. */
static void add_elements(Codegen *cg, const Reduce *r, const Walk *walk, bool inside) {
    LLVMValueRef total[MAX_SUMS], column = inside ? walk->loops[walk->count - 1].index : NULL;
    int dimension = r->space.rank - 2;
    for (int64_t row = 0; row < r->jammed; row++) {
        Nest nest = walk->nest;
        if (r->jammed > 1)
            nest_advance(cg, &nest, dimension, const64(cg, row));
        for (int i = 0; i < r->count; i++) {
            LLVMValueRef x = eval_element(cg, r, &r->sums[i], &nest);
            total[i] = row == 0 ? x : add_term(cg, total[i], x);
        }
    }
    for (int i = 0; i < r->count; i++) {
        const Sum *sum = &r->sums[i];
        LLVMValueRef place = sum_place(cg, sum, inside, column);
        local_set(cg, place, add_term(cg, local_get(cg, sum->type, place), total[i]));
    }
}

/* One tile: result `tile / pieces`, piece `tile % pieces` of the outermost reduced dimension. */
static void emit_tile(Codegen *cg, Reduce *r, int kept, bool inside, LLVMValueRef tile) {
    const Space *space = &r->space;
    int64_t pieces = r->pieces, width = inside ? space->extent[space->rank - 1] : 1;
    int first = kept, last = inside ? space->rank - 1 : space->rank;
    Walk walk = {0};
    nest_start(cg, &walk.nest, space);
    LLVMValueRef rest = udiv_by(cg, tile, pieces), piece = urem_by(cg, tile, pieces), zero = const64(cg, 0);
    for (int k = kept - 1; k >= 0; k--) {
        LLVMValueRef index = k == 0 ? rest : urem_by(cg, rest, space->extent[k]);
        rest = udiv_by(cg, rest, space->extent[k]);
        nest_advance(cg, &walk.nest, k, index);
    }
    LLVMValueRef result = walk.nest.partial[r->target];
    open_sums(cg, r, inside, width);
    for (int k = first; k < (r->jammed > 1 ? last - 1 : last); k++) {
        int64_t extent = space->extent[k], part = (extent + pieces - 1) / pieces;
        LLVMValueRef from = k > first ? zero : mul_by(cg, piece, part);
        LLVMValueRef to = k > first ? const64(cg, extent) : smin(cg, add_const(cg, from, part), const64(cg, extent));
        walk_into(cg, &walk, k, from, to);
    }
    if (inside) {
        nest_look_ahead(cg, &walk.nest, r->jammed);
        walk_into(cg, &walk, last, zero, const64(cg, width));
    }
    add_elements(cg, r, &walk, inside);
    if (inside)
        walk.loops[walk.count - 1].vectors = choose_vectors(cg, r, width);
    while (walk.count > 0)
        walk_out(cg, &walk);
    for (int i = 0; i < r->count && r->together > 1; i++)
        fold_rows(cg, r->sums[i].type, r->sums[i].local, width / r->together, r->together);
    Loop store = loop_begin(cg, zero, const64(cg, width / r->together));
    LLVMValueRef at = inside ? add(cg, result, mul_by(cg, store.index, space->stride[r->target][last])) : result;
    for (int i = 0; i < r->count; i++) {
        const Sum *sum = &r->sums[i];
        store_sum(cg, r, sum, piece, store.index, at, local_get(cg, sum->type, sum_place(cg, sum, inside, store.index)));
    }
    loop_end(cg, &store);
}

/* The sums of all tiles of a call, all 0, where every tile has the same `width` results. */
static void open_call(Codegen *cg, Reduce *r, int64_t width) {
    for (int i = 0; i < r->count; i++)
        r->sums[i].call = local_array(cg, element_type(cg, r->sums[i].node->out[0]->type), width);
    Loop clear = loop_begin(cg, const64(cg, 0), const64(cg, width));
    for (int i = 0; i < r->count; i++)
        LLVMBuildStore(cg->builder, LLVMConstNull(element_type(cg, r->sums[i].node->out[0]->type)), call_sum(cg, &r->sums[i], clear.index));
    loop_end(cg, &clear);
}

static void close_call(Codegen *cg, const Reduce *r, int64_t width, int64_t stride) {
    Loop store = loop_begin(cg, const64(cg, 0), const64(cg, width));
    for (int i = 0; i < r->count; i++) {
        const Value *out = r->sums[i].node->out[0];
        LLVMValueRef x = local_get(cg, element_type(cg, out->type), call_sum(cg, &r->sums[i], store.index));
        add_atomically(cg, out, mul_by(cg, store.index, stride), x);
    }
    loop_end(cg, &store);
}

void emit_reduce_sum(Codegen *cg, const Node *node) {
    Reduce *r = arena_alloc(cg->memory, 1, sizeof *r);
    reduce_open(cg, r, node);
    Space *space = &r->space;
    int64_t results = 1, elements = space_elements(space);
    if (elements == 0) {
        for (int i = 0; i < r->count; i++)
            emit_zeros(cg, r->sums[i].node);
        return;
    }
    int innermost = space->rank - 1, kept = 0;
    bool inside = space->rank > 1 && space->stride[r->target][innermost] != 0 && space->extent[innermost] <= MAX_PRIVATE;
    if (inside)
        cut_columns(space);
    reorder(space, r->target, inside, &kept);
    int last = inside ? space->rank - 1 : space->rank;
    bool reduces = kept < last;
    bool real = node->out[0]->type == T_REAL;
    r->pieces = 1;
    for (int k = 0; k < kept; k++)
        results *= space->extent[k];
    if (reduces && elements > 1 << 14)
        r->pieces = count_pieces(results, elements / results / (inside ? space->extent[last] : 1), space->extent[kept]);
    r->together = reduces && inside && !real ? rows_together(r, kept) : 1;
    if (r->together > 1)
        join_rows(r, r->together);
    r->jammed = reduces && inside && !real ? rows_jammed(r, kept) : 1;
    if (r->jammed > 1) {
        space_cut(space, last - 1, r->jammed);
        last++;
    }
    for (int i = 0; i < r->count && reduces; i++)
        narrow(r, &r->sums[i], kept, last);
    for (int i = 0; i < r->count && r->pieces > 1; i++)
        if (real)
            r->sums[i].parts = scratch_alloc(cg, parts_bytes(r));
        else
            emit_zeros(cg, r->sums[i].node);
    kernel_begin(cg, node, "");
    int64_t width = inside ? space->extent[last] / r->together : 1, stride = inside ? space->stride[r->target][last] : 0;
    bool gathers = results == 1 && r->pieces > 1 && !real;
    if (gathers)
        open_call(cg, r, width);
    Loop tile = loop_begin(cg, cg->begin, cg->end);
    emit_tile(cg, r, kept, inside, tile.index);
    loop_end(cg, &tile);
    if (gathers)
        close_call(cg, r, width, stride);
    kernel_end(cg, results * r->pieces, elements * (1 + r->group.leaf_count));
    for (int i = 0; i < r->count && r->pieces > 1 && real; i++)
        emit_join(cg, r, &r->sums[i]);
}
