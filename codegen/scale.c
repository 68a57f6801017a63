/* rescale: the linear fixed-point mapping of an expression. Dynamic: one pass rounds by a guessed shift (guess.c) and finds the largest
 * magnitude (a maximum over all threads by an atomic); if that asks for another shift, the pass is repeated with it, so that the result is
 * that of two passes. An update in place cannot be repeated: it goes to scratch first, or, where that is large, a first pass finds
 * the magnitude and a second rounds and stores. Fixed (with a slot): one pass. The new exponent is stored last, by a kernel of its own, so
 * that every pass reads the old ones. A convolution among the fused nodes is computed in the same kernel, image by image, and again if a
 * pass is repeated. Shift and magnitude live in the module, not in the arena: they last from step to step and are 0 at start; no result
 * depends on them. */
#include "codegen/contract.h"
#include "codegen/guess.h"
#include "codegen/space.h"
#include "runtime/fixed.h"

#include <string.h>

enum {
    MAX_BESIDE = 4,
    MOST_ASIDE = 8 * 1024 * 1024,
    COPY_BYTES = 64 * 1024,
    PIECE_ELEMENTS = 8 * 1024,
    MOST_PIECES = 128,
    VECTOR = 64,
    JAMMED = 2
};

typedef struct {
    const Node *node;
    Space space;
    Group group;
    int target, logical;            /* streams */
    const Node *beside[MAX_BESIDE]; /* masks, and the same with more places, stored by the same kernel, */
    int beside_stream[MAX_BESIDE];  /* to these places */
    int besides;
    bool stochastic;
    int bits, top_shift; /* of the result; the largest s that can occur */
    int width;           /* of the arithmetic: 32 or 64 */
    Sums sums;           /* what it rounds part by part */
    Value to;            /* the result as it is stored: node->out[0], or at a place aside */
    Guess guess;
    int64_t pieces; /* of a pass by a guess, after each of which it looks whether it is still wanted */
} Rescale;

static void add_beside(Rescale *r, const Node *node) {
    if (r->besides == MAX_BESIDE)
        internal_error("codegen: more than %d values beside a rescale", MAX_BESIDE);
    const Value *out = node->out[0];
    int64_t stride[MAX_RANK];
    value_strides(out, stride);
    r->beside_stream[r->besides] = space_stream(&r->space, out->order, stride, 0);
    r->beside[r->besides++] = node;
}

/* AVX2 packs several vectors of 32 bits into bytes in fewer instructions than one alone; short rows become straight code. */
static Vectors choose_vectors(const Codegen *cg, const Rescale *r) {
    enum { FEW = 16, MANY = 32, STRAIGHT = 128 };
    int64_t length = r->space.extent[r->space.rank - 1];
    bool packs = target_is_avx2(cg) && r->to.type == T_I8 && r->width == 32;
    if (!packs || length % FEW != 0)
        return (Vectors){0};
    if (r->space.rank == 1 || length % MANY != 0)
        return (Vectors){FEW, 1};
    return (Vectors){MANY, length <= STRAIGHT ? (int)(length / MANY) : 1};
}

/* What all rows have in common is computed once for several of them, where rows are no straight code. */
static void jam_rows(Rescale *r) {
    Space *space = &r->space;
    int last = space->rank - 1;
    bool common = false;
    for (int i = 0; i < space->streams && last > 0; i++)
        common = common || ((space->stride[i][last] != 0 || r->group.tabled[i]) && space->stride[i][last - 1] == 0);
    if (!common || space->vectors.together != 1)
        return;
    int64_t rows = space->extent[last - 1], apart = rows / space_parts_from(space, last - 1);
    if (apart % JAMMED != 0 || rows == JAMMED)
        return;
    space_cut(space, last - 1, JAMMED);
    space->jammed = JAMMED;
}

static void rescale_open(Codegen *cg, Rescale *r, const Node *node) {
    const Value *out = node->out[0], *in = node->in[0];
    *r = (Rescale){.node = node, .space = space_new(out->shape, out->order), .to = *out};
    r->group = (Group){.space = &r->space, .order = out->order};
    r->stochastic = strcmp(attr_text(node, "round", "nearest"), "stochastic") == 0;
    r->bits = (int)attr_int(node, "bits", 8);
    int64_t stride[MAX_RANK];
    value_strides(out, stride);
    r->target = space_stream(&r->space, out->order, stride, 0);
    for (int i = 0; i < cg->graph->node_count; i++)
        if (cg->graph->nodes[i]->beside == node)
            add_beside(r, cg->graph->nodes[i]);
    r->logical = r->stochastic ? group_logical(&r->group, out->shape) : -1;
    group_collect(cg, &r->group, view_same(in));
    if (r->group.near != NULL) {
        const Node *near = r->group.near;
        r->sums = near->op == OP_matmul ? sums_of_matmul(cg, near) : sums_of_conv(cg, near);
        r->space.parts = r->sums.parts;
    }
    group_close(&r->group);
    int length = intc_bit_length((uint64_t)in->bound);
    r->top_shift = length - (r->bits - 1) + 1 > 0 ? length - (r->bits - 1) + 1 : 0;
    /* Room for what is added before the shift: less than 2^s at random, 2^(s-1) to the nearest. */
    bool narrow = in->type != T_I64 && in->bound + ((int64_t)1 << (r->stochastic      ? r->top_shift
                                                                   : r->top_shift > 0 ? r->top_shift - 1
                                                                                      : 0)) <=
                                           INT32_MAX;
    r->width = narrow ? 32 : 64;
    r->space.vectors = choose_vectors(cg, r);
    jam_rows(r);
}

static int64_t rescale_work(const Rescale *r) {
    return space_elements(&r->space) * (2 + r->group.leaf_count);
}

static LLVMTypeRef width_type(const Codegen *cg, const Rescale *r) {
    return r->width == 32 ? cg->i32 : cg->i64;
}

static void track_maximum(Codegen *cg, const Rescale *r, LLVMValueRef most, LLVMValueRef x) {
    local_set(cg, most, umax(cg, local_get(cg, width_type(cg, r), most), magnitude(cg, x)));
}

/* Operands of the stochastic rounding that do not change in the loop. */
typedef struct {
    LLVMValueRef s, back;
    RandomKey key;
} Stochastic;

/* floor((x + r) / 2^s), r the s top bits of the random word, which is 0 if s is. */
static LLVMValueRef round_stochastic(Codegen *cg, const Rescale *r, const Stochastic *st, LLVMValueRef x, LLVMValueRef index) {
    LLVMValueRef random = random_word(cg, &st->key, index);
    if (r->width == 64)
        random = LLVMBuildShl(cg->builder, as_unsigned(cg, random, 64), const64(cg, 32), "");
    LLVMValueRef part = LLVMBuildLShr(cg->builder, random, st->back, "");
    return LLVMBuildAShr(cg->builder, add(cg, x, part), st->s, "");
}

/* One pass over the group: finds the largest magnitude, or rounds and stores, or both; or brings to a fixed exponent. */
typedef struct {
    Rescale *rescale;
    bool track, store, fixed; /* track and store: by a guess */
    /* In the kernel: */
    LLVMValueRef most; /* a local for the largest magnitude */
    Shift shift;
    Shift finer[MAX_BESIDE]; /* of the nodes beside that are `refine` */
    Stochastic stochastic;
    LLVMValueRef limit, low_limit; /* fixed: of mantissas before the shift */
} Pass;

/* sat(rne(m, slot - e)): before a left shift the mantissa is clamped to 2^bits and the shift to `bits`, which saturates whatever is not
 * zero. */
static void open_fixed(Codegen *cg, const Rescale *r, Pass *pass) {
    const Value *in = r->node->in[0], *slot = r->node->in[1];
    LLVMValueRef s = sub(cg, load_as(cg, slot, const64(cg, 0), 32), value_exponent(cg, in)), zero = const32(cg, 0);
    LLVMValueRef left = compare(cg, LLVMIntSLT, s, zero);
    s = smax(cg, s, const32(cg, -r->bits));
    pass->shift = shift_new(cg, s, r->width, true);
    LLVMTypeRef type = width_type(cg, r);
    LLVMValueRef unlimited = LLVMConstInt(type, r->width == 32 ? INT32_MAX : INT64_MAX, false);
    pass->limit = choose(cg, left, LLVMConstInt(type, (unsigned long long)1 << r->bits, false), unlimited);
    pass->low_limit = LLVMBuildNeg(cg->builder, pass->limit, "");
}

static void open_rounding(Codegen *cg, const Rescale *r, Pass *pass) {
    LLVMValueRef s = guess_shift(cg, &r->guess);
    if (r->stochastic) {
        pass->stochastic.s = as_bits(cg, s, r->width);
        LLVMValueRef whole = const_like(pass->stochastic.s, r->width);
        pass->stochastic.back = smin(cg, sub(cg, whole, pass->stochastic.s), const_like(whole, r->width - 1));
        RandomKey *key = &pass->stochastic.key;
        *key = random_key(cg, attr_int(r->node, "stream", 0));
        key->factor = choose(cg, compare(cg, LLVMIntEQ, s, const32(cg, 0)), const32(cg, 0), key->factor);
    } else {
        pass->shift = shift_new(cg, s, r->width, false);
    }
    for (int i = 0; i < r->besides; i++)
        if (r->beside[i]->op == OP_refine)
            pass->finer[i] = shift_new(cg, add_const(cg, s, -attr_int(r->beside[i], "places", 0)), r->width, true);
}

static void pass_begin(Codegen *cg, void *context) {
    Pass *pass = context;
    Rescale *r = pass->rescale;
    if (!pass->fixed)
        guess_open(cg, &r->guess);
    LLVMBasicBlockRef saved = head_enter(cg);
    if (pass->fixed)
        open_fixed(cg, r, pass);
    else if (pass->store)
        open_rounding(cg, r, pass);
    head_leave(cg, saved);
    if (pass->track)
        pass->most = local_new(cg, width_type(cg, r), LLVMConstInt(width_type(cg, r), 0, false));
    group_prepare(cg, &r->group);
}

static LLVMValueRef rounded(Codegen *cg, const Pass *pass, const Nest *nest, LLVMValueRef x) {
    const Rescale *r = pass->rescale;
    if (pass->fixed) {
        int64_t top = (int64_t)1 << (r->bits - 1);
        x = shift_apply(cg, &pass->shift, smax(cg, smin(cg, x, pass->limit), pass->low_limit));
        return smax(cg, smin(cg, x, const_like(x, top - 1)), const_like(x, -top));
    }
    if (r->stochastic)
        return round_stochastic(cg, r, &pass->stochastic, x, group_index(cg, &r->group, nest, r->logical));
    return shift_apply(cg, &pass->shift, x);
}

static LLVMValueRef mask_of(Codegen *cg, const Rescale *r, const Nest *nest, const Node *mask) {
    LLVMValueRef operand = group_eval(cg, &r->group, nest, view_same(mask->in[0]));
    return element_emitter(mask->op)(cg, mask, &operand);
}

/* What a pass stores of one element. */
typedef struct {
    LLVMValueRef rounded, beside[MAX_BESIDE];
} Element;

static Element eval_element(Codegen *cg, const Pass *pass, const Nest *nest) {
    const Rescale *r = pass->rescale;
    Element element = {0};
    LLVMValueRef x = as_bits(cg, group_eval(cg, &r->group, nest, view_same(r->node->in[0])), r->width);
    if (pass->track)
        track_maximum(cg, r, pass->most, x);
    for (int i = 0; pass->store && i < r->besides; i++)
        element.beside[i] = r->beside[i]->op == OP_refine ? shift_apply(cg, &pass->finer[i], x) : mask_of(cg, r, nest, r->beside[i]);
    if (pass->store)
        element.rounded = rounded(cg, pass, nest, x);
    return element;
}

static void emit_nest(Codegen *cg, const Pass *pass) {
    Rescale *r = pass->rescale;
    Nest nest;
    Element elements[JAMMED];
    int rows = r->space.jammed > 0 ? r->space.jammed : 1;
    nest_begin(cg, &nest, &r->space);
    for (int row = 0; row < rows; row++) {
        nest_row(cg, &nest, row);
        elements[row] = eval_element(cg, pass, &nest);
    }
    for (int row = 0; row < rows && pass->store; row++) {
        nest_row(cg, &nest, row);
        for (int i = 0; i < r->besides; i++)
            store_element(cg, r->beside[i]->out[0], nest_index(cg, &nest, r->beside_stream[i]), elements[row].beside[i]);
        store_element(cg, &r->to, nest_index(cg, &nest, r->target), elements[row].rounded);
    }
    nest_end(cg, &nest);
}

/* Whether all coefficients between the first and the last of a weighted sum are 0, as those of Nesterov and decay are without them. NULL:
 * there are none. */
static LLVMValueRef is_plain(Codegen *cg, const Rescale *r) {
    const Value *sum = r->node->in[0];
    if (!value_is_fused(sum) || sum->def->op != OP_weighted_sum || sum->type == T_REAL)
        return NULL;
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef plain = NULL;
    for (int i = 3; i < sum->def->in_count - 2; i += 2) {
        LLVMValueRef none = compare(cg, LLVMIntEQ, load_as(cg, sum->def->in[i], const64(cg, 0), 64), const64(cg, 0));
        plain = plain == NULL ? none : LLVMBuildAnd(cg->builder, plain, none, "");
    }
    head_leave(cg, saved);
    return plain;
}

static bool is_guess(const Pass *pass) {
    return pass->track && pass->store;
}

/* The tiles [cg->begin, cg->end). */
static void walk_tiles(Codegen *cg, const Pass *pass) {
    LLVMValueRef plain = is_plain(cg, pass->rescale);
    if (plain == NULL) {
        emit_nest(cg, pass);
        return;
    }
    Branch branch = if_begin(cg, plain);
    cg->plain = true;
    emit_nest(cg, pass);
    cg->plain = false;
    if_else(cg, &branch);
    emit_nest(cg, pass);
    if_end(cg, &branch);
}

/* The tiles [cg->begin, cg->end), which belong to `image`. */
static void pass_walk(Codegen *cg, const Pass *pass, LLVMValueRef image) {
    walk_tiles(cg, pass);
    if (pass->track)
        guess_note(cg, &pass->rescale->guess, local_get(cg, width_type(cg, pass->rescale), pass->most), image);
}

static LLVMValueRef pass_wanted(Codegen *cg, void *context) {
    const Pass *pass = context;
    return is_guess(pass) ? guess_holds(cg, &pass->rescale->guess) : LLVMConstInt(cg->i1, 1, false);
}

/* The pieces of a pass by a guess: a divisor of the images or a multiple, so that each is made of whole ones or a part of one. */
static int64_t count_pieces(const Rescale *r) {
    int64_t pieces = space_elements(&r->space) / PIECE_ELEMENTS, images = r->guess.images;
    pieces = pieces < MOST_PIECES ? pieces : MOST_PIECES;
    pieces = pieces < space_tiles(&r->space) ? pieces : space_tiles(&r->space);
    pieces = pieces < 1 ? 1 : pieces;
    while (images > 1 && images % pieces != 0 && pieces % images != 0)
        pieces--;
    return pieces;
}

/* The first tile of piece `piece` of `pieces`, in whole vectors where tiles are elements. */
static LLVMValueRef piece_start(Codegen *cg, const Rescale *r, LLVMValueRef piece, LLVMValueRef pieces, LLVMValueRef tiles) {
    int64_t unit = r->space.rank > 1 ? 1 : VECTOR;
    LLVMValueRef start = mul_by(cg, LLVMBuildUDiv(cg->builder, mul(cg, piece, udiv_by(cg, tiles, unit)), pieces, ""), unit);
    return choose(cg, compare(cg, LLVMIntEQ, piece, pieces), tiles, start);
}

/* The pieces [cg->begin, cg->end). Sizes are numbers of the node, so that the kernel serves all. */
static void pass_pieces(Codegen *cg, Pass *pass) {
    const Rescale *r = pass->rescale;
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef pieces = node_number(cg, r->pieces), tiles = node_number(cg, space_tiles(&r->space));
    head_leave(cg, saved);
    LLVMValueRef begin = cg->begin, end = cg->end, images = r->guess.count;
    Loop loop = loop_begin(cg, begin, end);
    Branch wanted = if_begin(cg, pass_wanted(cg, pass));
    cg->begin = piece_start(cg, r, loop.index, pieces, tiles);
    cg->end = piece_start(cg, r, add_const(cg, loop.index, 1), pieces, tiles);
    pass_walk(cg, pass, LLVMBuildUDiv(cg->builder, mul(cg, loop.index, images), pieces, ""));
    if_end(cg, &wanted);
    loop_end(cg, &loop);
    cg->begin = begin;
    cg->end = end;
}

/* The parts [first, after), which belong to `image` and whose sums are near. */
static void pass_parts(Codegen *cg, void *context, LLVMValueRef image, LLVMValueRef first, LLVMValueRef after) {
    const Pass *pass = context;
    LLVMValueRef begin = cg->begin, end = cg->end;
    int64_t tiles = space_tiles(&pass->rescale->space) / pass->rescale->space.parts;
    cg->begin = mul_by(cg, first, tiles);
    cg->end = mul_by(cg, after, tiles);
    pass_walk(cg, pass, image);
    cg->begin = begin;
    cg->end = end;
}

static void pass_end(Codegen *cg, void *context) {
    const Pass *pass = context;
    if (pass->track)
        guess_join(cg, &pass->rescale->guess);
}

static void emit_pass(Codegen *cg, Pass *pass, const char *suffix) {
    Rescale *r = pass->rescale;
    if (r->sums.plan != NULL) {
        r->sums.read(cg, r->sums.plan, &(SumReader){suffix, is_guess(pass), pass, pass_begin, pass_wanted, pass_parts, pass_end});
        return;
    }
    kernel_begin(cg, r->node, suffix);
    bool pieces = is_guess(pass) && r->pieces > 1;
    pass_begin(cg, pass);
    if (pieces)
        pass_pieces(cg, pass);
    else
        pass_walk(cg, pass, const64(cg, 0));
    pass_end(cg, pass);
    if (pieces)
        kernel_turn(cg, r->guess.images);
    kernel_end(cg, pieces ? r->pieces : space_tiles(&r->space), rescale_work(r));
}

/* Stores the new exponent, or what there is again unless `now` (NULL: always): it moves by s; a zero tensor has the least. */
static void store_exponent(Codegen *cg, const Rescale *r, LLVMValueRef s, LLVMValueRef now) {
    const Value *out = r->node->out[0];
    if (out->exponent_offset < 0)
        return;
    LLVMValueRef e = exponent_clamp(cg, add(cg, value_exponent(cg, r->node->in[0]), s));
    e = choose(cg, compare(cg, LLVMIntEQ, guess_maximum(cg, &r->guess), const64(cg, 0)), const32(cg, INTC_EXPONENT_ZERO), e);
    if (now != NULL)
        e = choose(cg, now, e, load_at(cg, out->exponent_offset, 4, cg->i32, cg->i32, const64(cg, 0), 4));
    store_at(cg, out->exponent_offset, 4, cg->i32, const64(cg, 0), e, 4);
}

static void emit_two_passes(Codegen *cg, Rescale *r) {
    emit_pass(cg, &(Pass){.rescale = r, .track = true}, "max");
    kernel_begin(cg, r->node, "shift");
    guess_open(cg, &r->guess);
    guess_set_shift(cg, &r->guess, guess_asked(cg, &r->guess));
    kernel_end(cg, 1, 0);
    emit_pass(cg, &(Pass){.rescale = r, .store = true}, "round");
    kernel_begin(cg, r->node, "exponent");
    guess_open(cg, &r->guess);
    store_exponent(cg, r, guess_shift(cg, &r->guess), NULL);
    guess_clear(cg, &r->guess);
    kernel_end(cg, 1, 0);
}

/* Rounds by a guess until the maximum agrees with it: mostly once or twice. */
static void emit_guessed(Codegen *cg, Rescale *r) {
    int first = cg->calls.count;
    emit_pass(cg, &(Pass){.rescale = r, .track = true, .store = true}, "round");
    kernel_begin(cg, r->node, "exponent");
    guess_open(cg, &r->guess);
    LLVMValueRef s = guess_asked(cg, &r->guess), right = compare(cg, LLVMIntEQ, s, guess_shift(cg, &r->guess));
    store_exponent(cg, r, s, right);
    guess_next(cg, &r->guess, s, right);
    store_bytes(cg, choose(cg, right, const32(cg, 0), const32(cg, 1)), share_variable(cg, &cg->changed, "changed"), 4);
    guess_clear(cg, &r->guess);
    kernel_end(cg, 1, 0);
    calls_repeat(cg, first);
}

/* Brings what was stored aside to the result's place. */
static void copy_back(Codegen *cg, const Rescale *r) {
    const Value *out = r->node->out[0];
    int64_t bytes = value_bytes(out), pieces = (bytes + COPY_BYTES - 1) / COPY_BYTES;
    kernel_begin(cg, r->node, "copy");
    Loop piece = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef at = mul_by(cg, piece.index, COPY_BYTES), count = smin(cg, const64(cg, COPY_BYTES), sub(cg, const64(cg, bytes), at));
    LLVMBuildMemCpy(cg->builder, byte_at(cg, arena_at(cg, out->offset), at), 1, byte_at(cg, arena_at(cg, r->to.offset), at), 1, count);
    loop_end(cg, &piece);
    kernel_end(cg, pieces, bytes / 16);
}

/* Whether the result lies, in part, where an operand lies. */
static bool in_place(const Rescale *r) {
    const Value *out = r->node->out[0];
    for (int i = 0; i < r->group.leaf_count; i++) {
        const Value *leaf = r->group.leaves[i].view.value;
        if (leaf->offset >= 0 && leaf->offset < out->offset + value_bytes(out) && out->offset < leaf->offset + value_bytes(leaf))
            return true;
    }
    return false;
}

static void emit_fixed(Codegen *cg, Rescale *r) {
    const Value *in = r->node->in[0], *slot = r->node->in[1], *out = r->node->out[0];
    r->width = in->type == T_I64 || in->bound > (int64_t)1 << 30 || r->bits > 15 ? 64 : 32;
    emit_pass(cg, &(Pass){.rescale = r, .store = true, .fixed = true}, "fixed");
    if (out->exponent_offset >= 0) {
        kernel_begin(cg, r->node, "exponent");
        LLVMValueRef e = load_as(cg, slot, const64(cg, 0), 32);
        store_at(cg, out->exponent_offset, 4, cg->i32, const64(cg, 0), e, 4);
        kernel_end(cg, 1, 0);
    }
}

/* Patience pays where a wrong guess shows early. */
static void open_guess(Codegen *cg, Rescale *r) {
    enum { KNOWN_IMAGE = 8, PIECES = 2, WHOLE = 1 };
    const Value *out = r->node->out[0];
    bool images = r->width == 32 && out->shape.rank > 1 && out->order[0] == 0 && out->shape.dim[0] == cg->images;
    r->guess = (Guess){.bits = r->bits, .stochastic = r->stochastic, .narrow = r->width == 32, .place = guess_alloc(cg)};
    r->guess.images = images ? cg->images : 1;
    r->pieces = count_pieces(r);
    bool early = r->sums.plan != NULL || r->pieces > 1;
    r->guess.patience = early && images ? KNOWN_IMAGE : early ? PIECES : WHOLE;
}

void emit_rescale(Codegen *cg, const Node *node) {
    Rescale *r = arena_alloc(cg->memory, 1, sizeof *r);
    rescale_open(cg, r, node);
    if (node->in_count == 2) {
        emit_fixed(cg, r);
        return;
    }
    open_guess(cg, r);
    bool aside = in_place(r) && value_bytes(node->out[0]) <= MOST_ASIDE;
    if (aside)
        r->to.offset = scratch_alloc(cg, value_bytes(node->out[0]));
    if (in_place(r) && !aside)
        emit_two_passes(cg, r);
    else
        emit_guessed(cg, r);
    if (aside)
        copy_back(cg, r);
}
