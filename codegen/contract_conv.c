/* conv and conv_dgrad: each task stages one padded image at a time and runs products over windows of it. The sums are stored, or read and
 * rounded by a rescale while they are near. Both are the same walk: dgrad splits the result by its position modulo the stride into phases,
 * each a convolution of dy with the taps that reach it. Where Winograd serves, it takes the staged image instead of products. Needs planned
 * values of i8 or floats in any order; writes the i32, i64 or float result. 1-D and 2-D are 3-D with sizes of 1. */
#include "codegen/contract_winograd.h"

#include <stdlib.h>
#include <string.h>

enum { NEAR_BYTES = 256 * 1024 };

/* A product of one phase, or of a part of its K whose sums fit in an i32. */
typedef struct {
    Columns columns;
    ProductCode code;
    int64_t a, w, b, init, c; /* bytes from the staged image, the weights, the panels, the starts, the result */
} Piece;

/* Where one element of K is: in the staged image and among the weights. */
typedef struct {
    int64_t a, w;
} Term;

struct Conv {
    const Node *node;
    Dot dot;
    const Value *source, *weight, *result;
    bool backward;
    int64_t batch, channels, groups; /* channels of the source */
    int64_t terms, columns;          /* channels of a group that are summed over, and that come out */
    int64_t size[3], out[3], kernel[3], stride[3], pad[3], dilation[3];
    int64_t xs[5], ws[5], ys[5]; /* strides N C D H W of source, weight (O I D H W), both in bytes, and result */
    int64_t low[3], staged[3];   /* padding before, and padded size */
    int64_t pixel, step[3];      /* bytes of a staged pixel and from one pixel to the next */
    int64_t image;               /* bytes of a staged image */
    int64_t tasks, together;     /* images that go through the products as rows of one */
    int64_t b_bytes, init_bytes; /* of one group */
    Piece *pieces;
    int count;
    const WinogradForm *form; /* NULL: direct products */
    bool scatters;            /* dgrad: pixels of dy are multiplied by all taps of a row of the kernel, and added where these reach */
    Winograd *winograd;       /* from so many bytes behind the start of the staged image */
    int64_t reach;
    int64_t b, init, images, near, room; /* scratch: panels, starts, staged images, sums that are not stored, that of Winograd */
};

static WinogradSum sum_of(const Conv *conv) {
    int64_t taps = WINOGRAD_TAPS * WINOGRAD_TAPS;
    return (WinogradSum){conv->terms * taps, WINOGRAD_CHANNELS * taps, conv->source->bound * conv->weight->bound,
                         conv->terms * conv->columns};
}

/* The form of Winograd that can be had and is faster than direct products. */
static const WinogradForm *form_of(const Conv *conv) {
    WinogradWindow window = {conv->kernel, conv->stride, conv->dilation};
    bool serves = conv->size[0] == 1 && conv->groups == 1 && conv->ys[1] == 1 && conv->result->type == T_I32 &&
                  winograd_serves(&conv->dot, window, conv->terms, conv->columns);
    WinogradSum sum = sum_of(conv);
    return serves ? winograd_choose(conv->out + 1, &sum) : NULL;
}

/* Along a row of the result the taps of a pixel and their channels are one run, and none lies outside. */
static bool can_scatter(const Conv *conv) {
    int64_t last = (conv->size[2] - 1) * conv->stride[2] + conv->kernel[2] - 1;
    return conv->backward && conv->groups == 1 && !dot_is_lanes(&conv->dot) && conv->result->type == T_I32 && conv->form == NULL &&
           conv->ys[1] == 1 && conv->ys[4] == conv->columns && (conv->dilation[2] == 1 || conv->kernel[2] == 1) && conv->pad[2] == 0 &&
           last < conv->out[2];
}

/* Fewer products, if there are few channels or the kernel reaches past much of the edge; but each adds to the result in memory, which takes
 * the time of about three dots. */
static bool should_scatter(const Conv *conv) {
    int64_t places = conv->out[0] * conv->out[1] * conv->out[2], pixels = conv->size[0] * conv->size[1] * conv->size[2];
    int64_t rows = conv->kernel[0] * conv->kernel[1], groups = (conv->terms + conv->dot.quad - 1) / conv->dot.quad;
    int64_t dots = places * rows * conv->kernel[2] / (conv->stride[0] * conv->stride[1] * conv->stride[2]) * groups *
                   panel_count(&conv->dot, conv->columns);
    int64_t vectors = pixels * rows * panel_count(&conv->dot, conv->kernel[2] * conv->columns);
    return vectors * (groups + 3) < dots / 10 * 9;
}

static void describe(const Codegen *cg, Conv *conv) {
    const Node *node = conv->node;
    int rank = conv->source->shape.rank - 2, count;
    conv->batch = conv->source->shape.dim[0];
    conv->channels = conv->source->shape.dim[1];
    conv->groups = attr_int(node, "group", 1);
    conv->terms = conv->source->shape.dim[1] / conv->groups;
    conv->columns = conv->result->shape.dim[1] / conv->groups;
    Type type = conv->source->type;
    conv->dot = dot_for(cg, conv->columns, conv->source, conv->weight);
    if (conv->groups > 1 && conv->terms == 1 && conv->columns == 1) {
        conv->dot = dot_lanes(cg, type);
        conv->columns = conv->channels;
        conv->groups = 1;
    }
    window_dims(rank, conv->source->shape.dim + 2, 1, conv->size);
    window_dims(rank, conv->result->shape.dim + 2, 1, conv->out);
    window_dims(rank, conv->weight->shape.dim + 2, 1, conv->kernel);
    window_dims(rank, attr_ints(node, "strides", &count), 1, conv->stride);
    window_dims(rank, attr_ints(node, "pads", &count), 0, conv->pad);
    window_dims(rank, attr_ints(node, "dilations", &count), 1, conv->dilation);
    window_strides(conv->source, conv->xs);
    window_strides(conv->weight, conv->ws);
    window_strides(conv->result, conv->ys);
    for (int i = 0; i < 5; i++) {
        conv->xs[i] *= dot_source(&conv->dot);
        conv->ws[i] *= dot_source(&conv->dot);
    }
    conv->form = form_of(conv);
    conv->scatters = can_scatter(conv) && should_scatter(conv);
}

/* --- phases --- */

/* Along one dimension: results first, first + step, ... (count of them) read source places from `origin` on, `advance` apart; tap k, where
 * it takes part, reads `tap[k]` places further. */
typedef struct {
    int64_t first, step, count, origin, advance;
    int64_t taps, *tap, *index;
} Sweep;

static int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

/* Results h with (h + pad) mod stride = phase. */
static Sweep phase_of(Codegen *cg, const Conv *conv, int i, int64_t phase) {
    int64_t s = conv->stride[i], p = conv->pad[i];
    Sweep result = {.first = 0, .step = 1, .count = conv->out[i], .origin = -p, .advance = s};
    if (conv->backward) {
        int64_t start = -floor_div(phase - p, s); /* least t with s * t + phase - p >= 0 */
        result.first = s * start + phase - p;
        result.step = s;
        result.count = result.first < conv->out[i] ? (conv->out[i] - 1 - result.first) / s + 1 : 0;
        result.origin = start;
        result.advance = 1;
    }
    result.tap = arena_alloc(cg->memory, (size_t)conv->kernel[i], sizeof *result.tap);
    result.index = arena_alloc(cg->memory, (size_t)conv->kernel[i], sizeof *result.index);
    for (int64_t k = 0; k < conv->kernel[i]; k++) {
        int64_t reach = k * conv->dilation[i];
        if (conv->backward && (reach - phase) % s != 0)
            continue;
        result.index[result.taps] = k;
        result.tap[result.taps++] = conv->backward ? (phase - reach) / s : reach;
    }
    return result;
}

static int64_t phase_count(const Conv *conv, int i) {
    return conv->backward ? conv->stride[i] : 1;
}

/* The first place that is read for result 0 of a phase. */
static int64_t first_read(const Sweep *phase) {
    int64_t least = phase->tap[0];
    for (int64_t k = 1; k < phase->taps; k++)
        least = phase->tap[k] < least ? phase->tap[k] : least;
    return phase->origin + least;
}

/* Padding that all phases need. */
static void plan_image(Codegen *cg, Conv *conv) {
    for (int i = 0; i < 3; i++) {
        int64_t least = 0, most = conv->size[i] - 1;
        for (int64_t q = 0; q < phase_count(conv, i) && !conv->scatters; q++) {
            Sweep phase = phase_of(cg, conv, i, q);
            for (int64_t k = 0; phase.count > 0 && k < phase.taps; k++) {
                int64_t from = phase.origin + phase.tap[k], to = from + (phase.count - 1) * phase.advance;
                least = from < least ? from : least;
                most = to > most ? to : most;
            }
        }
        if (conv->form != NULL && i > 0) {
            Sweep phase = phase_of(cg, conv, i, 0);
            int64_t tiles = winograd_tiles(conv->form, conv->out[i]), pixels = (tiles - 1) * conv->form->tile + conv->form->reach;
            int64_t to = first_read(&phase) + pixels - 1;
            most = to > most ? to : most;
        }
        conv->low[i] = -least;
        conv->staged[i] = most - least + 1;
    }
    conv->pixel = conv->channels * conv->dot.bytes;
    conv->step[2] = conv->pixel;
    conv->step[1] = conv->step[2] * conv->staged[2];
    conv->step[0] = conv->step[1] * conv->staged[1];
    conv->image = round_up(conv->step[0] * conv->staged[0] + SLACK, INTC_ARENA_ALIGN);
}

/* Images are staged together where the weights do not stay in a near cache, or an image has few rows. */
static void plan_tasks(Conv *conv) {
    int64_t weights = conv->terms * conv->columns * conv->groups * conv->kernel[0] * conv->kernel[1] * conv->kernel[2] * conv->dot.bytes;
    bool heavy = weights > NEAR_BYTES, few = conv->out[0] * conv->out[1] * conv->out[2] < 64;
    int64_t tasks = heavy ? conv->batch / 4 : conv->batch;
    conv->tasks = tasks < 1 ? 1 : tasks < SLOTS ? tasks : SLOTS;
    int64_t each = conv->batch / conv->tasks, most = heavy || few ? 2 * NEAR_BYTES / conv->image : 1;
    int64_t wanted = conv->form != NULL ? winograd_together(conv->form, conv->out + 1) : 1;
    most = most < wanted ? wanted : most;
    conv->together = most > 8 ? 8 : most < 1 ? 1 : most;
    while (each % conv->together != 0)
        conv->together--;
}

/* --- K --- */

static int by_place(const void *left, const void *right) {
    const Term *a = left, *b = right;
    return (a->a > b->a) - (a->a < b->a);
}

/* All terms of a phase in order of their place in the image; *least is subtracted from the places. */
static int64_t phase_terms(Codegen *cg, const Conv *conv, const Sweep phase[3], Term **terms, int64_t *least) {
    int64_t taps = phase[0].taps * phase[1].taps * phase[2].taps, count = 0;
    *terms = arena_alloc(cg->memory, (size_t)(taps * conv->terms) + 1, sizeof **terms);
    *least = 0;
    int64_t sum = conv->backward ? conv->ws[0] : conv->ws[1];
    for (int64_t tap = 0; tap < taps; tap++) {
        int64_t at[3] = {tap / phase[2].taps / phase[1].taps, tap / phase[2].taps % phase[1].taps, tap % phase[2].taps};
        Term term = {0, 0};
        for (int i = 0; i < 3; i++) {
            term.a += phase[i].tap[at[i]] * conv->step[i];
            term.w += phase[i].index[at[i]] * conv->ws[2 + i];
        }
        for (int64_t c = 0; c < conv->terms; c++)
            (*terms)[count++] = (Term){term.a + c * conv->dot.bytes, term.w + c * sum};
    }
    qsort(*terms, (size_t)count, sizeof **terms, by_place);
    if (count > 0)
        *least = (*terms)[0].a;
    for (int64_t i = 0; i < count; i++)
        (*terms)[i].a -= *least;
    return count;
}

/* Covers terms with groups of adjacent places; fills the groups' offsets and the weights of their lanes. */
static int64_t cover(const Dot *dot, const Term *terms, int64_t count, int64_t *offsets, int64_t *lanes) {
    int64_t groups = 0;
    for (int64_t i = 0; i < count; groups++) {
        offsets[groups] = terms[i].a;
        for (int lane = 0; lane < dot->quad; lane++) {
            bool here = i < count && terms[i].a == offsets[groups] + lane * dot->bytes;
            lanes[groups * dot->quad + lane] = here ? terms[i++].w : -1;
        }
    }
    return groups;
}

static void add_piece(Codegen *cg, Conv *conv, const Sweep phase[3], const int64_t *offsets, const int64_t *lanes, int64_t groups,
                      int64_t a, bool more, bool sliced) {
    const Dot *dot = &conv->dot;
    Piece *piece = &conv->pieces[conv->count++];
    Product product = {.row = {{conv->together, conv->image, conv->ys[0]}},
                       .rows = 4,
                       .columns = conv->columns,
                       .column_stride = conv->ys[1],
                       .panel_stride = conv->dot.panel * conv->ys[1],
                       .type = conv->result->type,
                       .accumulate = more,
                       .exclusive = sliced,
                       .init = dot->biased};
    memset(piece, 0, sizeof *piece);
    piece->a = a;
    for (int i = 0; i < 3; i++) {
        product.row[1 + i] = (Axis){phase[i].count, phase[i].advance * conv->step[i], phase[i].step * conv->ys[2 + i]};
        piece->a += (phase[i].origin + conv->low[i]) * conv->step[i];
        piece->c += phase[i].first * conv->ys[2 + i] * type_bytes(conv->result->type);
    }
    product_groups(&product, offsets, groups);
    int64_t column_stride = conv->backward && !dot_is_lanes(&conv->dot) ? conv->ws[1] : conv->ws[0];
    piece->columns = (Columns){groups, conv->columns, column_stride, lanes, 0, 0, 0, 0};
    piece->code = product_new(cg, dot, &product);
    piece->b = conv->b_bytes;
    piece->init = conv->init_bytes;
    conv->b_bytes += panel_count(&conv->dot, conv->columns) * panel_bytes(dot, groups);
    conv->init_bytes += panel_count(&conv->dot, conv->columns) * conv->dot.panel * 4;
}

/* The pixels of dy that tap k reaches the result from, and where. */
static Sweep scatter_of(const Conv *conv, int i, int64_t k) {
    int64_t s = conv->stride[i], to = k * conv->dilation[i] - conv->pad[i];
    int64_t from = to < 0 ? -floor_div(to, s) : 0, last = floor_div(conv->out[i] - 1 - to, s);
    last = last < conv->size[i] - 1 ? last : conv->size[i] - 1;
    return (Sweep){.first = from * s + to, .step = s, .count = last - from + 1, .origin = from, .advance = 1};
}

static void plan_scatter(Codegen *cg, Conv *conv) {
    const Dot *dot = &conv->dot;
    int64_t groups = (conv->terms + dot->quad - 1) / dot->quad, columns = conv->kernel[2] * conv->columns;
    int64_t bytes = type_bytes(conv->result->type);
    conv->pieces = arena_alloc(cg->memory, (size_t)(conv->kernel[0] * conv->kernel[1]), sizeof *conv->pieces);
    for (int64_t tap = 0; tap < conv->kernel[0] * conv->kernel[1]; tap++) {
        int64_t at[3] = {tap / conv->kernel[1], tap % conv->kernel[1], 0};
        Sweep sweep[3];
        Axis row[3];
        int64_t a = 0, b = 0, c = 0;
        for (int i = 0; i < 3; i++) {
            sweep[i] = scatter_of(conv, i, at[i]);
            row[i] = (Axis){sweep[i].count, conv->step[i], sweep[i].step * conv->ys[2 + i]};
            a += sweep[i].origin * conv->step[i];
            b += at[i] * conv->ws[2 + i];
            c += sweep[i].first * conv->ys[2 + i] * bytes;
        }
        if (row[0].count <= 0 || row[1].count <= 0)
            continue;
        Product product = {.row = {row[0], row[2], {conv->together, conv->image, conv->ys[0]}, row[1]},
                           .rows = 4,
                           .k = {{groups, dot_group(dot), 0}},
                           .ks = 1,
                           .groups = groups,
                           .columns = columns,
                           .column_stride = 1,
                           .panel_stride = dot->panel,
                           .type = conv->result->type,
                           .accumulate = true,
                           .exclusive = true,
                           .scatters = true,
                           .init = dot->biased};
        Piece *piece = &conv->pieces[conv->count++];
        *piece = (Piece){.a = a, .b = conv->b_bytes, .init = conv->init_bytes, .c = c, .w = b};
        piece->columns = (Columns){groups, columns, conv->ws[1], NULL, conv->terms, conv->ws[0], conv->columns, conv->ws[4]};
        piece->code = product_new(cg, dot, &product);
        conv->b_bytes += panel_count(dot, columns) * panel_bytes(dot, groups);
        conv->init_bytes += panel_count(dot, columns) * dot->panel * 4;
    }
}

static void plan_phase(Codegen *cg, Conv *conv, const Sweep phase[3]) {
    Term *terms;
    int64_t least, count = phase_terms(cg, conv, phase, &terms, &least);
    int quad = conv->dot.quad;
    int64_t *offsets = arena_alloc(cg->memory, (size_t)count + 1, sizeof *offsets);
    int64_t *lanes = arena_alloc(cg->memory, (size_t)(count * quad) + 1, sizeof *lanes);
    int64_t groups = cover(&conv->dot, terms, count, offsets, lanes);
    int64_t most = conv->result->type == T_I64 ? MAX_I32_TERMS / quad : groups;
    int64_t from = 0;
    do {
        int64_t some = groups - from < most ? groups - from : most, base = groups > 0 ? offsets[from] : 0;
        for (int64_t i = from; i < from + some; i++)
            offsets[i] -= base;
        add_piece(cg, conv, phase, offsets + from, lanes + from * quad, some, least + base, from > 0, groups > most);
        from += some;
    } while (from < groups);
}

static void plan_pieces(Codegen *cg, Conv *conv) {
    int64_t phases = phase_count(conv, 0) * phase_count(conv, 1) * phase_count(conv, 2), most = 1;
    if (conv->result->type == T_I64)
        most += conv->terms * conv->kernel[0] * conv->kernel[1] * conv->kernel[2] / (MAX_I32_TERMS / 8);
    conv->pieces = arena_alloc(cg->memory, (size_t)(phases * most), sizeof *conv->pieces);
    for (int64_t i = 0; i < phases; i++) {
        int64_t at[3] = {i / conv->stride[2] / conv->stride[1], i / conv->stride[2] % conv->stride[1], i % conv->stride[2]};
        Sweep phase[3];
        bool any = true;
        for (int k = 0; k < 3; k++) {
            phase[k] = phase_of(cg, conv, k, conv->backward ? at[k] : 0);
            any = any && phase[k].count > 0;
        }
        if (any)
            plan_phase(cg, conv, phase);
    }
}

static void plan_winograd(Codegen *cg, Conv *conv) {
    bool back = conv->backward;
    Sweep high = phase_of(cg, conv, 1, 0), wide = phase_of(cg, conv, 2, 0);
    conv->reach = conv->low[0] * conv->step[0] + (first_read(&high) + conv->low[1]) * conv->step[1] +
                  (first_read(&wide) + conv->low[2]) * conv->step[2];
    WinogradSum sum = sum_of(conv);
    WinogradShape shape = {.form = conv->form,
                           .terms = conv->terms,
                           .columns = conv->columns,
                           .part = winograd_part(conv->form, &sum) / WINOGRAD_TAPS / WINOGRAD_TAPS,
                           .images = conv->together,
                           .image = {conv->image, conv->ys[0]},
                           .out = {conv->out[1], conv->out[2]},
                           .result = {conv->ys[3], conv->ys[4]},
                           .bytes = conv->dot.bytes,
                           .step = {conv->step[1], conv->step[2]},
                           .column = conv->ws[back ? 1 : 0],
                           .term = conv->ws[back ? 0 : 1],
                           .first = back ? 2 * (conv->ws[3] + conv->ws[4]) : 0,
                           .tap = {back ? -conv->ws[3] : conv->ws[3], back ? -conv->ws[4] : conv->ws[4]}};
    conv->winograd = winograd_new(cg, &shape);
    conv->b_bytes = winograd_weight_bytes(conv->winograd);
}

/* --- emission --- */

static void pack_tiled(Codegen *cg, const Conv *conv) {
    int64_t panels = winograd_panels(conv->winograd);
    kernel_begin(cg, conv->node, "pack");
    Loop panel = loop_begin(cg, cg->begin, cg->end);
    winograd_pack(cg, conv->winograd, arena_at(cg, conv->weight->offset), panel.index, arena_at(cg, conv->b));
    loop_end(cg, &panel);
    kernel_end(cg, panels, shape_elements(conv->weight->shape) * 4);
}

static void pack(Codegen *cg, const Conv *conv, int64_t b, int64_t init) {
    int64_t panels = panel_count(&conv->dot, conv->scatters ? conv->kernel[2] * conv->columns : conv->columns);
    kernel_begin(cg, conv->node, "pack");
    Loop loop = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef group = udiv_by(cg, loop.index, panels), panel = urem_by(cg, loop.index, panels);
    /* Weights are O I/group: the first dimension counts through the groups. */
    int64_t first = conv->backward ? conv->terms : conv->columns;
    LLVMValueRef source = byte_at(cg, arena_at(cg, conv->weight->offset), mul_by(cg, group, first * conv->ws[0]));
    LLVMValueRef panels_at = byte_at(cg, arena_at(cg, b), mul_by(cg, group, conv->b_bytes));
    LLVMValueRef init_at = byte_at(cg, arena_at(cg, init), mul_by(cg, group, conv->init_bytes));
    for (int i = 0; i < conv->count; i++) {
        const Piece *piece = &conv->pieces[i];
        LLVMValueRef to =
            byte_at(cg, byte_at_const(cg, panels_at, piece->b), mul_by(cg, panel, panel_bytes(&conv->dot, piece->columns.groups)));
        LLVMValueRef start = byte_at(cg, byte_at_const(cg, init_at, piece->init), mul_by(cg, panel, conv->dot.panel * 4));
        pack_panel(cg, &conv->dot, &piece->columns, byte_at_const(cg, source, piece->w), panel, to, conv->dot.biased ? start : NULL);
    }
    loop_end(cg, &loop);
    kernel_end(cg, conv->groups * panels, shape_elements(conv->weight->shape) * 2);
}

static bool channels_last(const Conv *conv) {
    int64_t bytes = dot_source(&conv->dot);
    return (conv->channels == 1 || conv->xs[1] == bytes) && (conv->size[2] == 1 || conv->xs[4] == conv->channels * bytes);
}

static void stage_image(Codegen *cg, const Conv *conv, LLVMValueRef image, LLVMValueRef staged) {
    Loop depth = loop_begin(cg, const64(cg, 0), const64(cg, conv->size[0]));
    Loop high = loop_begin(cg, const64(cg, 0), const64(cg, conv->size[1]));
    LLVMValueRef from = byte_at(cg, image, add(cg, mul_by(cg, depth.index, conv->xs[2]), mul_by(cg, high.index, conv->xs[3])));
    LLVMValueRef place = add(cg, mul_by(cg, add_const(cg, depth.index, conv->low[0]), conv->step[0]),
                             mul_by(cg, add_const(cg, high.index, conv->low[1]), conv->step[1]));
    LLVMValueRef to = byte_at(cg, staged, add_const(cg, place, conv->low[2] * conv->step[2]));
    if (channels_last(conv)) {
        stage_run(cg, &conv->dot, from, to, conv->size[2] * conv->channels);
    } else {
        Loop channel = loop_begin(cg, const64(cg, 0), const64(cg, conv->channels));
        Loop wide = loop_begin(cg, const64(cg, 0), const64(cg, conv->size[2]));
        LLVMValueRef source = byte_at(cg, from, add(cg, mul_by(cg, channel.index, conv->xs[1]), mul_by(cg, wide.index, conv->xs[4])));
        LLVMValueRef target = add(cg, mul_by(cg, channel.index, conv->dot.bytes), mul_by(cg, wide.index, conv->step[2]));
        stage_one(cg, &conv->dot, source, byte_at(cg, to, target));
        loop_end(cg, &wide);
        loop_end(cg, &channel);
    }
    loop_end(cg, &high);
    loop_end(cg, &depth);
}

/* Of what Winograd has in scratch for a task. */
static int64_t room_bytes(const Conv *conv) {
    return conv->form != NULL ? round_up(winograd_room(conv->winograd), INTC_ARENA_ALIGN) : 0;
}

/* The scratch is that of the first task of this call, as for the sums. */
static void multiply_tiled(Codegen *cg, const Conv *conv, LLVMValueRef staged, LLVMValueRef result) {
    LLVMValueRef room = byte_at(cg, arena_at(cg, conv->room), mul_by(cg, cg->begin, room_bytes(conv)));
    winograd_multiply(cg, conv->winograd, byte_at_const(cg, staged, conv->reach), arena_at(cg, conv->b), room, result);
}

static void multiply(Codegen *cg, const Conv *conv, LLVMValueRef staged, LLVMValueRef packed, LLVMValueRef init, LLVMValueRef result) {
    Loop group = loop_begin(cg, const64(cg, 0), const64(cg, conv->groups));
    LLVMValueRef a = byte_at(cg, staged, mul_by(cg, group.index, conv->terms * conv->dot.bytes));
    LLVMValueRef b = byte_at(cg, packed, mul_by(cg, group.index, conv->b_bytes));
    LLVMValueRef start = byte_at(cg, init, mul_by(cg, group.index, conv->init_bytes));
    LLVMValueRef c = byte_at(cg, result, mul_by(cg, group.index, conv->columns * conv->ys[1] * type_bytes(conv->result->type)));
    for (int i = 0; i < conv->count; i++) {
        const Piece *piece = &conv->pieces[i];
        Loop block = loop_begin(cg, const64(cg, 0), const64(cg, product_blocks(&piece->code)));
        product_call(cg, &piece->code, byte_at_const(cg, a, piece->a), byte_at_const(cg, b, piece->b),
                     byte_at_const(cg, start, piece->init), byte_at_const(cg, c, piece->c), block.index, const64(cg, 0), 1);
        loop_end(cg, &block);
    }
    loop_end(cg, &group);
}

static void open_windows(Codegen *cg, Conv *conv) {
    describe(cg, conv);
    plan_image(cg, conv);
    plan_tasks(conv);
    if (conv->form != NULL)
        plan_winograd(cg, conv);
    else if (conv->scatters)
        plan_scatter(cg, conv);
    else
        plan_pieces(cg, conv);
    conv->b = scratch_alloc(cg, conv->b_bytes * conv->groups + SLACK);
    conv->init = scratch_alloc(cg, conv->init_bytes * conv->groups);
    conv->images = scratch_alloc(cg, conv->image * conv->together * conv->tasks);
    conv->room = scratch_alloc(cg, room_bytes(conv) * conv->tasks);
    if (conv->form != NULL)
        pack_tiled(cg, conv);
    else
        pack(cg, conv, conv->b, conv->init);
}

/* Bytes of the sums that a task has in scratch. */
static int64_t near_bytes(const Conv *conv) {
    return round_up(conv->together * conv->ys[0] * type_bytes(conv->result->type), INTC_ARENA_ALIGN);
}

/* Where the sums of the run of images from `start` on go: to the result, or to the scratch of the first task of this call, which the others
 * of the call use after it, so that it stays near. */
static LLVMValueRef sums_of(Codegen *cg, const Conv *conv, const ImageReader *reader, LLVMValueRef start) {
    LLVMValueRef before = mul_by(cg, start, conv->ys[0] * type_bytes(conv->result->type));
    if (reader == NULL)
        return byte_at(cg, arena_at(cg, conv->result->offset), before);
    LLVMValueRef at = byte_at(cg, arena_at(cg, conv->near), mul_by(cg, cg->begin, near_bytes(conv)));
    cg->near_at = byte_at(cg, at, LLVMBuildNeg(cg->builder, before, ""));
    return at;
}

/* Whether runs are whole ones wherever the images are counted from. */
static bool can_turn(const Conv *conv) {
    return conv->together == 1 || (conv->batch % conv->tasks == 0 && conv->batch / conv->tasks % conv->together == 0);
}

static void multiply_images(Codegen *cg, const Conv *conv, const ImageReader *reader) {
    int64_t slot = conv->image * conv->together;
    if (reader != NULL)
        reader->begin(cg, reader->context);
    LLVMValueRef origin = reader != NULL && can_turn(conv) ? reader->first(cg, reader->context) : NULL;
    Loop task = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef staged = byte_at(cg, arena_at(cg, conv->images), mul_by(cg, task.index, slot));
    stage_zero(cg, &conv->dot, staged, slot);
    LLVMValueRef first = udiv_by(cg, mul_by(cg, task.index, conv->batch), conv->tasks);
    LLVMValueRef end = udiv_by(cg, mul_by(cg, add_const(cg, task.index, 1), conv->batch), conv->tasks);
    Loop run = loop_begin_step(cg, first, end, conv->together);
    Branch wanted = if_begin(cg, reader != NULL ? reader->wanted(cg, reader->context) : LLVMConstInt(cg->i1, 1, false));
    /* The last run of a task is moved back to end with it. */
    LLVMValueRef start = conv->together == 1 ? run.index : smin(cg, run.index, add_const(cg, end, -conv->together));
    if (origin != NULL)
        start = urem_by(cg, add(cg, start, mul_by(cg, udiv_by(cg, origin, conv->together), conv->together)), conv->batch);
    Loop image = loop_begin(cg, const64(cg, 0), const64(cg, conv->together));
    LLVMValueRef source = mul_by(cg, add(cg, start, image.index), conv->xs[0]);
    stage_image(cg, conv, byte_at(cg, arena_at(cg, conv->source->offset), source),
                byte_at(cg, staged, mul_by(cg, image.index, conv->image)));
    loop_end(cg, &image);
    LLVMValueRef sums = sums_of(cg, conv, reader, start);
    if (conv->form != NULL)
        multiply_tiled(cg, conv, staged, sums);
    else if (conv->scatters)
        LLVMBuildMemSet(cg->builder, sums, LLVMConstInt(cg->i8, 0, false), const64(cg, conv->together * conv->ys[0] * type_bytes(conv->result->type)), 4);
    if (conv->form == NULL)
        multiply(cg, conv, staged, arena_at(cg, conv->b), arena_at(cg, conv->init), sums);
    if (reader != NULL)
        reader->images(cg, reader->context, start, add_const(cg, start, conv->together));
    if_end(cg, &wanted);
    loop_end(cg, &run);
    loop_end(cg, &task);
    if (reader != NULL)
        reader->end(cg, reader->context);
}

static int64_t product_work(const Conv *conv) {
    return shape_elements(conv->result->shape) * conv->terms * conv->kernel[0] * conv->kernel[1] * conv->kernel[2] / 32;
}

Conv *conv_open(Codegen *cg, const Node *node) {
    Conv *conv = arena_alloc(cg->memory, 1, sizeof *conv);
    *conv = (Conv){.node = node, .source = node->in[0], .weight = node->in[1], .result = node->out[0]};
    conv->backward = node->op == OP_conv_dgrad;
    open_windows(cg, conv);
    conv->near = scratch_alloc(cg, near_bytes(conv) * conv->tasks);
    return conv;
}

void conv_read(Codegen *cg, const Conv *conv, const ImageReader *reader) {
    kernel_begin(cg, conv->node, reader->suffix);
    cg->near = conv->result;
    cg->near_region = (Region){conv->near, near_bytes(conv) * conv->tasks};
    multiply_images(cg, conv, reader);
    cg->near = NULL;
    kernel_end(cg, conv->tasks, product_work(conv));
}

static void emit_windows(Codegen *cg, Conv *conv) {
    open_windows(cg, conv);
    kernel_begin(cg, conv->node, "main");
    multiply_images(cg, conv, NULL);
    kernel_end(cg, conv->tasks, product_work(conv));
}

void emit_conv(Codegen *cg, const Node *node) {
    Conv conv = {.node = node, .source = node->in[0], .weight = node->in[1], .result = node->out[0]};
    emit_windows(cg, &conv);
}

void emit_conv_dgrad(Codegen *cg, const Node *node) {
    Conv conv = {.node = node, .source = node->in[0], .weight = node->in[1], .result = node->out[0], .backward = true};
    emit_windows(cg, &conv);
}
