/* conv_wgrad: rows are (tap, channel) of x, columns are channels of dy, K runs over pixels and images. `quad` images are interleaved, so
 * that a group of K is the same pixel of as many images and every tap is a constant offset. Images come in chunks that fit a cache; each
 * chunk is staged and then added to sums [slice][group][panel][row][column], which are brought to the order of the weights at the end.
 * Where the sums are few, each task stages and multiplies images of its own, one run after another, and has a slice of the sums for itself.
 * Where Winograd serves, images are lifted instead of interleaved, and tiles are K; the sums are the same.
 * Needs planned values of i8 or floats in any order; writes the i32, i64 or float result. 1-D and 2-D are 3-D with sizes of 1. */
#include "codegen/contract_wgrad.h"

#include <string.h>

enum { CHUNK_BYTES = 512 * 1024, NEAR_COLUMNS = 32 * 1024, OWN_SUMS = 64 * 1024, OWN_STAGED = 1024 * 1024, OWN_TASKS = 16 };

bool wgrad_contiguous(const int64_t *stride, int64_t bytes, int64_t channels, int64_t width) {
    return (channels == 1 || stride[1] == bytes) && (width == 1 || stride[4] == channels * bytes);
}

static void describe(const Codegen *cg, Wgrad *wgrad) {
    const Node *node = wgrad->node;
    int rank = wgrad->x->shape.rank - 2, count;
    wgrad->batch = wgrad->x->shape.dim[0];
    wgrad->total = wgrad->x->shape.dim[1];
    wgrad->groups = attr_int(node, "group", 1);
    wgrad->channels = wgrad->x->shape.dim[1] / wgrad->groups;
    wgrad->columns = wgrad->dy->shape.dim[1] / wgrad->groups;
    Type type = wgrad->x->type;
    wgrad->dot = dot_for(cg, wgrad->columns, wgrad->x, wgrad->dy);
    if (wgrad->groups > 1 && wgrad->channels == 1 && wgrad->columns == 1) {
        wgrad->dot = dot_lanes(cg, type, wgrad->batch > 1);
        wgrad->columns = wgrad->total;
        wgrad->groups = 1;
    }
    if (dot_is_matrix(&wgrad->dot))
        wgrad->dot.quad = 4; /* images */
    window_dims(rank, wgrad->x->shape.dim + 2, 1, wgrad->padded.size);
    window_dims(rank, wgrad->dy->shape.dim + 2, 1, wgrad->out);
    window_dims(rank, wgrad->w->shape.dim + 2, 1, wgrad->kernel);
    window_dims(rank, attr_ints(node, "strides", &count), 1, wgrad->stride);
    window_dims(rank, attr_ints(node, "pads", &count), 0, wgrad->padded.low);
    window_dims(rank, attr_ints(node, "dilations", &count), 1, wgrad->dilation);
    window_strides(wgrad->x, wgrad->xs);
    window_strides(wgrad->dy, wgrad->ys);
    window_strides(wgrad->w, wgrad->ws);
    for (int i = 0; i < 5; i++) {
        wgrad->xs[i] *= dot_source(&wgrad->dot);
        wgrad->ys[i] *= dot_source(&wgrad->dot);
    }
    for (int i = 0; i < 3; i++) {
        int64_t reach = (wgrad->out[i] - 1) * wgrad->stride[i] + (wgrad->kernel[i] - 1) * wgrad->dilation[i] + 1;
        int64_t least = wgrad->padded.size[i] + wgrad->padded.low[i];
        wgrad->padded.staged[i] = reach > least ? reach : least;
    }
    wgrad->pixel = wgrad->total * dot_group(&wgrad->dot);
    wgrad->padded.step[2] = wgrad->pixel;
    wgrad->padded.step[1] = wgrad->padded.step[2] * wgrad->padded.staged[2];
    wgrad->padded.step[0] = wgrad->padded.step[1] * wgrad->padded.staged[1];
    wgrad->image = round_up(wgrad->padded.step[0] * wgrad->padded.staged[0] + SLACK, INTC_ARENA_ALIGN);
    wgrad->flat = dot_is_lanes(&wgrad->dot) && wgrad_contiguous(wgrad->ys, dot_source(&wgrad->dot), wgrad->columns, wgrad->out[2]);
    wgrad->pixels = wgrad->out[0] * wgrad->out[1] * wgrad->out[2];
    wgrad->rows = wgrad->channels * wgrad->kernel[0] * wgrad->kernel[1] * wgrad->kernel[2];
    wgrad->panels = panel_count(&wgrad->dot, wgrad->columns);
    wgrad->type = wgrad->w->type;
    if (dot_is_matrix(&wgrad->dot))
        wgrad_matrix_describe(wgrad);
}

int64_t wgrad_sums(const Wgrad *wgrad) {
    if (dot_is_matrix(&wgrad->dot))
        return wgrad_matrix_taps(wgrad) * wgrad_matrix_tap_sums(wgrad) / wgrad->panels * type_bytes(wgrad->type);
    return wgrad->rows * wgrad->dot.panel * type_bytes(wgrad->type); /* of one panel */
}

int64_t wgrad_panels(const Wgrad *wgrad) {
    return wgrad->groups * wgrad->panels;
}

/* Bytes of staged dy from group to group of a panel, from run to run of images, from panel to panel, and of `runs` runs of all panels. */
static int64_t group_step(const Wgrad *wgrad) {
    if (dot_is_matrix(&wgrad->dot))
        return wgrad_matrix_group(wgrad);
    return wgrad->flat ? wgrad->columns * dot_group(&wgrad->dot) : panel_bytes(&wgrad->dot, 1);
}

static int64_t run_groups(const Wgrad *wgrad) {
    return dot_is_matrix(&wgrad->dot) ? wgrad_matrix_groups(wgrad) : wgrad->pixels;
}

static int64_t run_step(const Wgrad *wgrad) {
    return run_groups(wgrad) * group_step(wgrad);
}

static int64_t panel_step(const Wgrad *wgrad) {
    return wgrad->flat ? panel_bytes(&wgrad->dot, 1) : wgrad->chunk * run_step(wgrad);
}

static int64_t dy_bytes(const Wgrad *wgrad, int64_t runs) {
    return runs * run_step(wgrad) * (wgrad->flat ? 1 : wgrad_panels(wgrad));
}

/* Blocks of the product, which are computed for some taps each. */
static int64_t block_count(const Wgrad *wgrad) {
    return product_blocks(&wgrad->code) * (dot_is_matrix(&wgrad->dot) ? wgrad_matrix_taps(wgrad) : 1);
}

static void plan_chunks(Wgrad *wgrad) {
    const Dot *dot = &wgrad->dot;
    int64_t bytes = wgrad->image + dy_bytes(wgrad, 1);
    int64_t fit = CHUNK_BYTES / bytes < 1 ? 1 : CHUNK_BYTES / bytes;
    wgrad->quads = (wgrad->batch + dot->quad - 1) / dot->quad;
    wgrad->own = bytes <= OWN_STAGED && wgrad_panels(wgrad) * wgrad_sums(wgrad) <= OWN_SUMS && wgrad->quads >= WANTED_TASKS;
    if (wgrad->own) {
        wgrad->chunks = wgrad->quads;
        wgrad->chunk = wgrad->slice = 1;
        wgrad->slices = wgrad->quads < OWN_TASKS ? wgrad->quads : OWN_TASKS;
        return;
    }
    wgrad->chunks = (wgrad->quads + fit - 1) / fit;
    wgrad->chunk = (wgrad->quads + wgrad->chunks - 1) / wgrad->chunks;
    int64_t tiles = wgrad->groups * wgrad->panels * ((wgrad->rows + 11) / 12);
    if (dot_is_matrix(dot))
        tiles = wgrad_panels(wgrad) * wgrad_sums(wgrad) / type_bytes(wgrad->type) / 1024; /* four matrices */
    tiles = tiles < 1 ? 1 : tiles;
    int64_t slices = (WANTED_TASKS + tiles - 1) / tiles;
    slices = slices > wgrad->chunk ? wgrad->chunk : slices;
    wgrad->slice = (wgrad->chunk + slices - 1) / slices;
    wgrad->slices = (wgrad->chunk + wgrad->slice - 1) / wgrad->slice;
    wgrad->chunk = wgrad->slice * wgrad->slices;
    wgrad->chunks = (wgrad->quads + wgrad->chunk - 1) / wgrad->chunk;
}

static int64_t largest_divisor(int64_t n, int64_t most) {
    int64_t best = most < 1 ? 1 : most;
    while (n % best != 0)
        best--;
    return best;
}

/* Groups of K in one product: for i64 sums as many as fit an i32 even where rows are biased, and, where rows are several tiles, those whose
 * block of columns stays near. */
static int64_t most_groups(const Wgrad *wgrad) {
    const Dot *dot = &wgrad->dot;
    if (dot_is_matrix(dot))
        return wgrad->type == T_I64 ? MAX_I32_TERMS / (4 * wgrad->width) : INT64_MAX;
    int64_t most = wgrad->type == T_I64 ? MAX_I32_TERMS / 2 / dot->quad : INT64_MAX, near = NEAR_COLUMNS / (2 * panel_bytes(dot, 1));
    bool cut = !dot_is_lanes(dot) && wgrad->type != T_REAL && wgrad->rows > 2 * product_tile(dot, wgrad->columns);
    return cut && near < most ? near : most;
}

void wgrad_plan_k(Wgrad *wgrad, Product *product) {
    int64_t most = most_groups(wgrad), groups = 1, inside = 1;
    Axis all[4] = {{.count = wgrad->slice, .a = wgrad->image}};
    for (int i = 0; i < 3; i++) {
        all[i + 1] = (Axis){.count = wgrad->out[i], .a = wgrad->stride[i] * wgrad->padded.step[i]};
        if (dot_is_matrix(&wgrad->dot))
            all[i + 1].count = i < 2 ? wgrad->lines[i] : wgrad->along;
    }
    if (dot_is_matrix(&wgrad->dot))
        all[3].a *= wgrad->width;
    for (int i = 3; i >= 0; i--) {
        int64_t count = all[i].count, kept = inside * count <= most ? count : largest_divisor(count, most / inside);
        if (kept < count) {
            wgrad->outer[wgrad->outers++] = (Axis){.count = count / kept, .a = all[i].a * kept, .c = groups * kept};
            most = 0;
        }
        all[i].count = kept;
        inside *= kept;
        groups *= count;
    }
    for (int i = 0; i < 4; i++)
        if (all[i].count > 1 || (i == 3 && product->ks == 0))
            product->k[product->ks++] = all[i];
}

static void plan_product(Codegen *cg, Wgrad *wgrad) {
    int64_t group = dot_group(&wgrad->dot);
    Product product = {.rows = 4,
                       .groups = wgrad->chunk * wgrad->pixels,
                       .b_group = group_step(wgrad),
                       .b_panel = panel_step(wgrad),
                       .columns = wgrad->panels * wgrad->dot.panel,
                       .column_stride = 1,
                       .panel_stride = wgrad->rows * wgrad->dot.panel,
                       .type = wgrad->type};
    int64_t c = wgrad->channels * wgrad->dot.panel;
    for (int i = 2; i >= 0; i--) {
        product.row[i] = (Axis){.count = wgrad->kernel[i], .a = wgrad->dilation[i] * wgrad->padded.step[i], .c = c};
        c *= wgrad->kernel[i];
    }
    product.row[3] = (Axis){.count = wgrad->channels, .a = group, .c = wgrad->dot.panel};
    wgrad_plan_k(wgrad, &product);
    product.accumulate = product.exclusive = wgrad->chunks > 1 || wgrad->outers > 0;
    wgrad->code = product_new(cg, &wgrad->dot, &product);
}

static void plan_parts(Wgrad *wgrad) {
    int64_t tasks = wgrad->groups * wgrad->slices * block_count(wgrad);
    wgrad->parts = (2 * WANTED_TASKS + tasks - 1) / tasks;
    if (wgrad->parts > product_parts(&wgrad->code))
        wgrad->parts = product_parts(&wgrad->code);
}

/* --- scratch --- */

static int64_t staged_dy(const Wgrad *wgrad) {
    return dy_bytes(wgrad, wgrad->chunk) + SLACK;
}

/* Of the sums of dy's columns. */
static int64_t column_bytes(const Wgrad *wgrad) {
    return wgrad_panels(wgrad) * wgrad->dot.panel * 8;
}

/* How many tasks have staged images and sums of columns of their own. */
static int64_t places(const Wgrad *wgrad) {
    return wgrad->own ? wgrad->slices : 1;
}

static void allocate(Codegen *cg, Wgrad *wgrad) {
    wgrad->x_at = scratch_alloc(cg, places(wgrad) * wgrad->chunk * wgrad->image);
    wgrad->dy_at = scratch_alloc(cg, places(wgrad) * staged_dy(wgrad));
    wgrad->sums_at = scratch_alloc(cg, wgrad->slices * wgrad_panels(wgrad) * wgrad_sums(wgrad));
    wgrad->columns_at = scratch_alloc(cg, places(wgrad) * column_bytes(wgrad));
    wgrad->index_at = scratch_alloc(cg, 8);
}

LLVMValueRef wgrad_chunk(Codegen *cg, const Wgrad *wgrad) {
    return load_bytes(cg, cg->i64, arena_at(cg, wgrad->index_at), 8);
}

static void clear(Codegen *cg, const Wgrad *wgrad) {
    LLVMValueRef zero = LLVMConstInt(cg->i8, 0, false);
    int64_t sums = wgrad->slices * wgrad_panels(wgrad), bytes = wgrad_sums(wgrad);
    kernel_begin(cg, wgrad->node, "clear");
    Loop loop = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef at = byte_at(cg, arena_at(cg, wgrad->sums_at), mul_by(cg, loop.index, bytes));
    unsigned align = bytes % INTC_ARENA_ALIGN == 0 ? INTC_ARENA_ALIGN : 8; /* 8 columns of an odd number of rows are no whole line */
    LLVMBuildMemSet(cg->builder, at, zero, const64(cg, bytes), align);
    loop_end(cg, &loop);
    kernel_end(cg, sums, sums * bytes / 32);
    kernel_begin(cg, wgrad->node, "first");
    store_bytes(cg, const64(cg, 0), arena_at(cg, wgrad->index_at), 8);
    LLVMBuildMemSet(cg->builder, arena_at(cg, wgrad->columns_at), zero, const64(cg, places(wgrad) * column_bytes(wgrad)), INTC_ARENA_ALIGN);
    kernel_end(cg, 1, 0);
}

/* --- staging --- */

static Images images_of(Codegen *cg, const Wgrad *wgrad, const Value *value, int64_t stride, LLVMValueRef run) {
    Images images = {.all = wgrad->batch == wgrad->chunks * wgrad->chunk * wgrad->dot.quad};
    LLVMValueRef base = arena_at(cg, value->offset);
    for (int i = 0; i < wgrad->dot.quad; i++) {
        LLVMValueRef index = add_const(cg, mul_by(cg, run, wgrad->dot.quad), i);
        images.valid[i] = compare(cg, LLVMIntSLT, index, const64(cg, wgrad->batch));
        images.at[i] = byte_at(cg, base, mul_by(cg, smin(cg, index, const64(cg, wgrad->batch - 1)), stride));
    }
    return images;
}

static void offset_images(Codegen *cg, const Wgrad *wgrad, const Images *images, LLVMValueRef offset, LLVMValueRef *to) {
    for (int i = 0; i < wgrad->dot.quad; i++)
        to[i] = byte_at(cg, images->at[i], offset);
}

LLVMValueRef wgrad_part_begin(Codegen *cg, Part part, int64_t n) {
    return part.of == 1 ? const64(cg, 0) : udiv_by(cg, mul_by(cg, part.index, n), part.of);
}

LLVMValueRef wgrad_part_end(Codegen *cg, Part part, int64_t n) {
    return part.of == 1 ? const64(cg, n) : udiv_by(cg, mul_by(cg, add_const(cg, part.index, 1), n), part.of);
}

/* A part of the rows of an image, whose padding is zero. */
static void stage_x(Codegen *cg, const Wgrad *wgrad, LLVMValueRef run, Part part, LLVMValueRef to) {
    const Dot *dot = &wgrad->dot;
    Images images = images_of(cg, wgrad, wgrad->x, wgrad->xs[0], run);
    Loop depth = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->padded.size[0]));
    Loop high = loop_begin(cg, wgrad_part_begin(cg, part, wgrad->padded.size[1]), wgrad_part_end(cg, part, wgrad->padded.size[1]));
    LLVMValueRef offset = add(cg, mul_by(cg, depth.index, wgrad->xs[2]), mul_by(cg, high.index, wgrad->xs[3])), sources[4];
    LLVMValueRef place = add(cg, mul_by(cg, add_const(cg, depth.index, wgrad->padded.low[0]), wgrad->padded.step[0]),
                             mul_by(cg, add_const(cg, high.index, wgrad->padded.low[1]), wgrad->padded.step[1]));
    LLVMValueRef row = byte_at(cg, to, add_const(cg, place, wgrad->padded.low[2] * wgrad->padded.step[2]));
    offset_images(cg, wgrad, &images, offset, sources);
    if (wgrad_contiguous(wgrad->xs, dot_source(dot), wgrad->total, wgrad->padded.size[2])) {
        stage_interleaved(cg, dot, sources, NULL, row, wgrad->padded.size[2] * wgrad->total, true);
    } else {
        Loop channel = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->total));
        Loop wide = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->padded.size[2]));
        LLVMValueRef from = add(cg, mul_by(cg, channel.index, wgrad->xs[1]), mul_by(cg, wide.index, wgrad->xs[4]));
        LLVMValueRef at =
            byte_at(cg, row, add(cg, mul_by(cg, channel.index, dot_group(dot)), mul_by(cg, wide.index, wgrad->padded.step[2])));
        for (int i = 0; i < dot->quad; i++)
            stage_one(cg, dot, byte_at(cg, sources[i], from), byte_at_const(cg, at, i * dot->bytes));
        loop_end(cg, &wide);
        loop_end(cg, &channel);
    }
    loop_end(cg, &high);
    loop_end(cg, &depth);
}

/* One pixel of dy into every panel; images that do not exist are zero. */
static void stage_pixel(Codegen *cg, const Wgrad *wgrad, const Images *images, LLVMValueRef offset, LLVMValueRef to) {
    const Dot *dot = &wgrad->dot;
    Loop group = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->groups));
    Loop panel = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->panels));
    LLVMValueRef at = add(cg, mul_by(cg, group.index, wgrad->panels), panel.index), sources[4];
    at = byte_at(cg, to, mul_by(cg, at, panel_step(wgrad)));
    LLVMValueRef first = mul_by(cg, panel.index, wgrad->dot.panel), base = mul_by(cg, group.index, wgrad->columns);
    if (wgrad->ys[1] == dot_source(dot)) {
        offset_images(cg, wgrad, images, add(cg, offset, mul_by(cg, add(cg, base, first), dot_source(dot))), sources);
        stage_interleaved(cg, dot, sources, images->all ? NULL : images->valid, at, wgrad->dot.panel, false);
    } else {
        Loop column = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->dot.panel));
        LLVMValueRef channel = smin(cg, add(cg, first, column.index), const64(cg, wgrad->columns - 1));
        offset_images(cg, wgrad, images, add(cg, offset, mul_by(cg, add(cg, base, channel), wgrad->ys[1])), sources);
        stage_interleaved(cg, dot, sources, images->all ? NULL : images->valid, byte_at(cg, at, mul_by(cg, column.index, dot_group(dot))),
                          1, false);
        loop_end(cg, &column);
    }
    loop_end(cg, &panel);
    loop_end(cg, &group);
}

static void stage_dy(Codegen *cg, const Wgrad *wgrad, LLVMValueRef run, Part part, LLVMValueRef to) {
    Images images = images_of(cg, wgrad, wgrad->dy, wgrad->ys[0], run);
    if (dot_is_matrix(&wgrad->dot)) {
        wgrad_matrix_stage(cg, wgrad, &images, part, to, panel_step(wgrad));
        return;
    }
    int dimensions = wgrad->flat ? 2 : 3; /* a flat row is staged at once */
    Loop loops[3];
    LLVMValueRef offset = const64(cg, 0), pixel = const64(cg, 0), sources[4];
    for (int i = 0; i < dimensions; i++) {
        Part rows = i == 1 ? part : (Part){.of = 1};
        loops[i] = loop_begin(cg, wgrad_part_begin(cg, rows, wgrad->out[i]), wgrad_part_end(cg, rows, wgrad->out[i]));
        offset = add(cg, offset, mul_by(cg, loops[i].index, wgrad->ys[2 + i]));
        pixel = add(cg, mul_by(cg, pixel, wgrad->out[i]), loops[i].index);
    }
    LLVMValueRef at = byte_at(cg, to, mul_by(cg, pixel, (wgrad->flat ? wgrad->out[2] : 1) * group_step(wgrad)));
    offset_images(cg, wgrad, &images, offset, sources);
    if (wgrad->flat)
        stage_interleaved(cg, &wgrad->dot, sources, images.all ? NULL : images.valid, at, wgrad->out[2] * wgrad->columns, false);
    else
        stage_pixel(cg, wgrad, &images, offset, at);
    for (int i = dimensions - 1; i >= 0; i--)
        loop_end(cg, &loops[i]);
}

/* The few runs of a chunk are staged in parts, so that all threads have some. */
static void stage(Codegen *cg, const Wgrad *wgrad) {
    int64_t parts = (WANTED_TASKS + wgrad->chunk - 1) / wgrad->chunk;
    kernel_begin(cg, wgrad->node, "stage");
    LLVMValueRef first = mul_by(cg, wgrad_chunk(cg, wgrad), wgrad->chunk);
    Loop loop = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef place = udiv_by(cg, loop.index, parts), run = add(cg, first, place);
    LLVMValueRef x = byte_at(cg, arena_at(cg, wgrad->x_at), mul_by(cg, place, wgrad->image));
    Part part = {urem_by(cg, loop.index, parts), parts};
    Branch border = if_begin(cg, compare(cg, LLVMIntEQ, part.index, const64(cg, 0)));
    stage_border(cg, &wgrad->dot, &wgrad->padded, x);
    if_end(cg, &border);
    stage_x(cg, wgrad, run, part, x);
    stage_dy(cg, wgrad, run, part, byte_at(cg, arena_at(cg, wgrad->dy_at), mul_by(cg, place, run_step(wgrad))));
    loop_end(cg, &loop);
    kernel_end(cg, wgrad->chunk * parts, wgrad->chunk * (wgrad->image + wgrad->pixels * wgrad_panels(wgrad) * wgrad->dot.panel) / 2);
}

/* --- products --- */

/* Adds the product of staged images, from a and b on, to a slice of the sums: one block of one group, or a part of it. */
static void multiply_block(Codegen *cg, const Wgrad *wgrad, LLVMValueRef a, LLVMValueRef b, LLVMValueRef slice, LLVMValueRef group,
                           LLVMValueRef block, LLVMValueRef part, int64_t parts) {
    a = byte_at(cg, a, mul_by(cg, group, wgrad->channels * dot_group(&wgrad->dot)));
    b = byte_at(cg, b, mul_by(cg, group, wgrad->panels * panel_step(wgrad)));
    LLVMValueRef sums = add(cg, mul_by(cg, slice, wgrad->groups), group);
    LLVMValueRef c = byte_at(cg, arena_at(cg, wgrad->sums_at), mul_by(cg, sums, wgrad->panels * wgrad_sums(wgrad)));
    Loop loops[MAX_OUTER];
    for (int i = 0; i < wgrad->outers; i++) {
        loops[i] = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->outer[i].count));
        a = byte_at(cg, a, mul_by(cg, loops[i].index, wgrad->outer[i].a));
        b = byte_at(cg, b, mul_by(cg, loops[i].index, wgrad->outer[i].c * group_step(wgrad)));
    }
    if (dot_is_matrix(&wgrad->dot)) {
        LLVMValueRef tap = udiv_by(cg, block, product_blocks(&wgrad->code));
        block = urem_by(cg, block, product_blocks(&wgrad->code));
        c = byte_at(cg, c, mul_by(cg, tap, wgrad_matrix_tap_sums(wgrad) * type_bytes(wgrad->type)));
        product_call(cg, &wgrad->code, b, byte_at(cg, a, wgrad_matrix_tap(cg, wgrad, tap)), NULL, c, block, part, parts);
    } else {
        product_call(cg, &wgrad->code, a, b, NULL, c, block, part, parts);
    }
    for (int i = wgrad->outers - 1; i >= 0; i--)
        loop_end(cg, &loops[i]);
}

static void multiply_task(Codegen *cg, const Wgrad *wgrad, LLVMValueRef task) {
    int64_t blocks = block_count(wgrad);
    LLVMValueRef part = urem_by(cg, task, wgrad->parts), rest = udiv_by(cg, task, wgrad->parts);
    LLVMValueRef block = urem_by(cg, rest, blocks);
    rest = udiv_by(cg, rest, blocks);
    LLVMValueRef group = urem_by(cg, rest, wgrad->groups), slice = udiv_by(cg, rest, wgrad->groups);
    LLVMValueRef a = byte_at(cg, arena_at(cg, wgrad->x_at), mul_by(cg, slice, wgrad->slice * wgrad->image));
    LLVMValueRef b = byte_at(cg, arena_at(cg, wgrad->dy_at), mul_by(cg, slice, wgrad->slice * run_step(wgrad)));
    multiply_block(cg, wgrad, a, b, slice, group, block, part, wgrad->parts);
}

/* Adds the sums of the columns of one panel of staged images to those at `columns`. */
static void sum_task(Codegen *cg, const Wgrad *wgrad, LLVMValueRef staged, LLVMValueRef columns, LLVMValueRef panel) {
    int64_t groups = wgrad->chunk * wgrad->pixels;
    LLVMValueRef sums[MAX_PANEL];
    panel_sums(cg, &wgrad->dot, byte_at(cg, staged, mul_by(cg, panel, panel_bytes(&wgrad->dot, groups))), groups, 1, sums);
    LLVMValueRef to = byte_at(cg, columns, mul_by(cg, panel, wgrad->dot.panel * 8));
    LLVMTypeRef type = LLVMVectorType(cg->i64, (unsigned)wgrad->dot.lanes);
    for (int i = 0; i < wgrad->dot.panel / wgrad->dot.lanes; i++) {
        LLVMValueRef at = byte_at_const(cg, to, (int64_t)i * wgrad->dot.lanes * 8);
        store_bytes(cg, add(cg, load_bytes(cg, type, at, 8), LLVMBuildSExt(cg->builder, sums[i], type, "")), at, 8);
    }
}

static void multiply(Codegen *cg, const Wgrad *wgrad) {
    int64_t tasks = wgrad->slices * wgrad->groups * block_count(wgrad) * wgrad->parts;
    int64_t sums = wgrad->dot.biased ? wgrad_panels(wgrad) : 0;
    kernel_begin(cg, wgrad->node, "main");
    Loop loop = loop_begin(cg, cg->begin, cg->end);
    Branch branch = if_begin(cg, compare(cg, LLVMIntSLT, loop.index, const64(cg, tasks)));
    multiply_task(cg, wgrad, loop.index);
    if_else(cg, &branch);
    if (sums > 0)
        sum_task(cg, wgrad, arena_at(cg, wgrad->dy_at), arena_at(cg, wgrad->columns_at), add_const(cg, loop.index, -tasks));
    if_end(cg, &branch);
    loop_end(cg, &loop);
    kernel_end(cg, tasks + sums, wgrad->rows * wgrad_panels(wgrad) * wgrad->chunk * wgrad->pixels);
}

/* Each task with images, scratch and a slice of the sums of its own. */
static void multiply_own(Codegen *cg, const Wgrad *wgrad) {
    kernel_begin(cg, wgrad->node, "main");
    Loop task = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef x = byte_at(cg, arena_at(cg, wgrad->x_at), mul_by(cg, task.index, wgrad->image));
    LLVMValueRef dy = byte_at(cg, arena_at(cg, wgrad->dy_at), mul_by(cg, task.index, staged_dy(wgrad)));
    LLVMValueRef columns = byte_at(cg, arena_at(cg, wgrad->columns_at), mul_by(cg, task.index, column_bytes(wgrad)));
    LLVMValueRef first = udiv_by(cg, mul_by(cg, task.index, wgrad->quads), wgrad->slices);
    LLVMValueRef end = udiv_by(cg, mul_by(cg, add_const(cg, task.index, 1), wgrad->quads), wgrad->slices);
    stage_border(cg, &wgrad->dot, &wgrad->padded, x);
    Loop run = loop_begin(cg, first, end);
    stage_x(cg, wgrad, run.index, (Part){.of = 1}, x);
    stage_dy(cg, wgrad, run.index, (Part){.of = 1}, dy);
    Loop group = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->groups));
    Loop block = loop_begin(cg, const64(cg, 0), const64(cg, block_count(wgrad)));
    multiply_block(cg, wgrad, x, dy, task.index, group.index, block.index, const64(cg, 0), 1);
    loop_end(cg, &block);
    loop_end(cg, &group);
    if (wgrad->dot.biased) {
        Loop panel = loop_begin(cg, const64(cg, 0), const64(cg, wgrad_panels(wgrad)));
        sum_task(cg, wgrad, dy, columns, panel.index);
        loop_end(cg, &panel);
    }
    loop_end(cg, &run);
    loop_end(cg, &task);
    kernel_end(cg, wgrad->slices, wgrad->rows * wgrad_panels(wgrad) * wgrad->quads * wgrad->pixels);
}

/* --- the result --- */

/* What the bias of rows adds to each column of a panel, in a local array. */
static LLVMValueRef column_bias(Codegen *cg, const Wgrad *wgrad, LLVMValueRef task) {
    LLVMTypeRef type = element_type(cg, wgrad->type);
    LLVMValueRef all = local_array(cg, type, wgrad->dot.panel);
    LLVMValueRef columns = byte_at(cg, arena_at(cg, wgrad->columns_at), mul_by(cg, task, wgrad->dot.panel * 8));
    Loop column = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->dot.panel));
    LLVMValueRef off = const64(cg, 0), at = byte_at(cg, columns, mul_by(cg, column.index, 8));
    for (int64_t i = 0; i < places(wgrad); i++)
        off = add(cg, off, load_bytes(cg, cg->i64, byte_at_const(cg, at, i * column_bytes(wgrad)), 8));
    off = LLVMBuildNeg(cg->builder, as_bits(cg, mul_by(cg, off, 128), type_bytes(wgrad->type) * 8), "");
    local_set(cg, LLVMBuildInBoundsGEP2(cg->builder, type, all, &column.index, 1, ""), off);
    loop_end(cg, &column);
    return all;
}

/* Whether squares can be cut from the sums of a panel and the weights of its columns, of which each has its own in the order of channels
 * and taps. */
static bool has_squares(const Wgrad *wgrad) {
    bool words = type_bytes(wgrad->type) == 4 && wgrad->dot.panel == wgrad->dot.lanes;
    return words && order_is_row_major(wgrad->w) && wgrad->rows % wgrad->dot.panel == 0 && wgrad->columns % wgrad->dot.panel == 0;
}

/* The sums of a panel to the weights of its columns from `place` on, by squares: a row of one is an element of all columns, afterwards
 * adjacent elements of one. */
static void finish_squares(Codegen *cg, const Wgrad *wgrad, LLVMValueRef sums, LLVMValueRef bias, LLVMValueRef place) {
    int64_t panel = wgrad->dot.panel, taps = wgrad->rows / wgrad->channels, all = wgrad_panels(wgrad) * wgrad_sums(wgrad);
    LLVMTypeRef type = LLVMVectorType(element_type(cg, wgrad->type), (unsigned)panel);
    LLVMValueRef row[MAX_PANEL], off = bias != NULL ? load_bytes(cg, type, bias, 4) : LLVMConstNull(type);
    Loop square = loop_begin(cg, const64(cg, 0), const64(cg, wgrad->rows / panel));
    LLVMValueRef first = mul_by(cg, square.index, panel);
    for (int64_t i = 0; i < panel; i++) {
        LLVMValueRef element = add_const(cg, first, i);
        LLVMValueRef at = add(cg, mul_by(cg, urem_by(cg, element, taps), wgrad->channels), udiv_by(cg, element, taps));
        at = byte_at(cg, sums, mul_by(cg, at, panel * 4));
        row[i] = off;
        for (int64_t k = 0; k < wgrad->slices; k++)
            row[i] = add(cg, row[i], load_bytes(cg, type, byte_at_const(cg, at, k * all), 4));
    }
    transpose_words(cg, row, (unsigned)panel);
    LLVMValueRef to = byte_at(cg, arena_at(cg, wgrad->w->offset), mul_by(cg, add(cg, place, first), 4));
    for (int64_t i = 0; i < panel; i++)
        store_bytes(cg, row[i], byte_at_const(cg, to, i * wgrad->ws[0] * 4), 4);
    loop_end(cg, &square);
}

/* In the order of the weights but for their outermost dimension, the columns, which are adjacent in the sums. */
static void finish_elements(Codegen *cg, const Wgrad *wgrad, LLVMValueRef sums, LLVMValueRef bias, LLVMValueRef place,
                            LLVMValueRef columns) {
    int64_t bytes = type_bytes(wgrad->type), all = wgrad_panels(wgrad) * wgrad_sums(wgrad);
    LLVMTypeRef type = element_type(cg, wgrad->type);
    LLVMValueRef row = const64(cg, 0);
    int64_t counts[4] = {wgrad->channels, wgrad->kernel[0], wgrad->kernel[1], wgrad->kernel[2]}, steps[4] = {1};
    for (int i = 3; i > 0; i--)
        steps[i] = i == 3 ? wgrad->channels : steps[i + 1] * counts[i + 1];
    Loop loops[4];
    for (int i = 0; i < 4; i++) {
        loops[i] = loop_begin(cg, const64(cg, 0), const64(cg, counts[i]));
        place = add(cg, place, mul_by(cg, loops[i].index, wgrad->ws[1 + i]));
        row = add(cg, row, mul_by(cg, loops[i].index, steps[i]));
    }
    Loop column = loop_begin(cg, const64(cg, 0), columns);
    LLVMValueRef from = byte_at(cg, sums, mul_by(cg, add(cg, mul_by(cg, row, wgrad->dot.panel), column.index), bytes));
    LLVMValueRef total = LLVMConstNull(type);
    if (bias != NULL)
        total = local_get(cg, type, LLVMBuildInBoundsGEP2(cg->builder, type, bias, &column.index, 1, ""));
    for (int64_t i = 0; i < wgrad->slices; i++)
        total = add(cg, total, load_bytes(cg, type, byte_at_const(cg, from, i * all), (unsigned)bytes));
    store_element(cg, wgrad->w, add(cg, place, mul_by(cg, column.index, wgrad->ws[0])), total);
    loop_end(cg, &column);
    for (int i = 3; i >= 0; i--)
        loop_end(cg, &loops[i]);
}

static void finish(Codegen *cg, const Wgrad *wgrad) {
    kernel_begin(cg, wgrad->node, "finish");
    Loop task = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef group = udiv_by(cg, task.index, wgrad->panels), panel = urem_by(cg, task.index, wgrad->panels);
    LLVMValueRef first = mul_by(cg, panel, wgrad->dot.panel),
                 sums = byte_at(cg, arena_at(cg, wgrad->sums_at), mul_by(cg, task.index, wgrad_sums(wgrad)));
    LLVMValueRef bias = wgrad->dot.biased ? column_bias(cg, wgrad, task.index) : NULL;
    LLVMValueRef place = mul_by(cg, add(cg, mul_by(cg, group, wgrad->columns), first), wgrad->ws[0]);
    LLVMValueRef columns = smin(cg, const64(cg, wgrad->dot.panel), sub(cg, const64(cg, wgrad->columns), first));
    if (has_squares(wgrad))
        finish_squares(cg, wgrad, sums, bias, place);
    else
        finish_elements(cg, wgrad, sums, bias, place, columns);
    loop_end(cg, &task);
    kernel_end(cg, wgrad_panels(wgrad), wgrad->slices * wgrad_panels(wgrad) * wgrad->rows * wgrad->dot.panel / 4);
}

/* The calls from `first` on are those of one chunk. */
static void next_chunk(Codegen *cg, const Wgrad *wgrad, int first) {
    kernel_begin(cg, wgrad->node, "next");
    LLVMValueRef at = arena_at(cg, wgrad->index_at), next = add_const(cg, load_bytes(cg, cg->i64, at, 8), 1);
    store_bytes(cg, next, at, 8);
    LLVMValueRef more = compare(cg, LLVMIntSLT, next, const64(cg, wgrad->chunks));
    store_bytes(cg, as_unsigned(cg, more, 32), share_variable(cg, &cg->changed, "changed"), 4);
    kernel_end(cg, 1, 0);
    calls_repeat(cg, first);
}

void emit_conv_wgrad(Codegen *cg, const Node *node) {
    Wgrad wgrad = {.node = node, .x = node->in[0], .dy = node->in[1], .w = node->out[0]};
    describe(cg, &wgrad);
    const WinogradForm *form = wgrad_form(&wgrad);
    if (form != NULL) {
        wgrad_plan_tiled(cg, &wgrad, form);
        wgrad_allocate_tiled(cg, &wgrad);
    } else {
        plan_chunks(&wgrad);
        if (dot_is_matrix(&wgrad.dot))
            wgrad_matrix_product(cg, &wgrad, panel_step(&wgrad));
        else
            plan_product(cg, &wgrad);
        plan_parts(&wgrad);
        allocate(cg, &wgrad);
    }
    clear(cg, &wgrad);
    int first = cg->calls.count;
    if (form != NULL) {
        wgrad_stage_tiled(cg, &wgrad);
        wgrad_multiply_tiled(cg, &wgrad);
    } else if (wgrad.own) {
        multiply_own(cg, &wgrad);
    } else {
        stage(cg, &wgrad);
        multiply(cg, &wgrad);
    }
    if (wgrad.chunks > 1 && !wgrad.own)
        next_chunk(cg, &wgrad, first);
    if (dot_is_matrix(&wgrad.dot))
        wgrad_matrix_finish(cg, &wgrad);
    else
        finish(cg, &wgrad);
}
