/* conv and conv_dgrad: a run, one padded image (or a few), is staged at a time and goes through the products that contract_conv_plan.c
 * made, or Winograd's. The sums are stored, or read and rounded by a rescale while they are near. Writes the i32, i64 or float result. */
#include "codegen/contract_conv.h"

static void pack_tiled(Codegen *cg, const Conv *conv) {
    int64_t panels = winograd_panels(conv->winograd);
    kernel_begin(cg, conv->node, "pack");
    Loop panel = loop_begin(cg, cg->begin, cg->end);
    winograd_pack(cg, conv->winograd, arena_at(cg, conv->weight->offset), panel.index, arena_at(cg, conv->b));
    loop_end(cg, &panel);
    kernel_end(cg, panels, shape_elements(conv->weight->shape) * 4);
}

static void pack(Codegen *cg, const Conv *conv, int64_t b, int64_t init) {
    int64_t panels = panel_count(&conv->dot, conv->columns * (conv->scatters ? conv->kernel[2] : conv->beside));
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
            byte_at(cg, byte_at_const(cg, panels_at, piece->b), mul_by(cg, panel, panel_bytes(&piece->code.dot, piece->columns.groups)));
        LLVMValueRef start = byte_at(cg, byte_at_const(cg, init_at, piece->init), mul_by(cg, panel, conv->dot.panel * 4));
        pack_panel(cg, &piece->code.dot, &piece->columns, byte_at_const(cg, source, piece->w), panel, to, conv->dot.biased ? start : NULL);
    }
    loop_end(cg, &loop);
    kernel_end(cg, conv->groups * panels, shape_elements(conv->weight->shape) * 2);
}

static bool channels_last(const Conv *conv) {
    int64_t bytes = dot_source(&conv->dot);
    return (conv->channels == 1 || conv->xs[1] == bytes) && (conv->padded.size[2] == 1 || conv->xs[4] == conv->channels * bytes);
}

/* The pairs of a row: of each pixel the element here and the one `apart` pixels further, zero beyond the row, where staged memory is zero.
 */
static void stage_pairs(Codegen *cg, const Conv *conv, LLVMValueRef from, LLVMValueRef to) {
    int64_t apart = conv->apart, wide = conv->padded.size[2], both = wide > apart ? wide - apart : 0, channels = conv->channels;
    int64_t first = apart < wide ? apart : wide;
    LLVMValueRef further = byte_at_const(cg, from, both * channels), before = byte_at_const(cg, to, -apart * conv->pixel);
    stage_interleaved(cg, &conv->dot, (LLVMValueRef[]){NULL, from}, NULL, before, first * channels, true);
    if (both > 0)
        stage_interleaved(cg, &conv->dot, (LLVMValueRef[]){from, byte_at_const(cg, from, apart * channels)}, NULL, to, both * channels,
                          true);
    stage_interleaved(cg, &conv->dot, (LLVMValueRef[]){further, NULL}, NULL, byte_at_const(cg, to, both * conv->pixel), first * channels,
                      true);
}

static void stage_image(Codegen *cg, const Conv *conv, LLVMValueRef image, LLVMValueRef staged) {
    Loop depth = loop_begin(cg, const64(cg, 0), const64(cg, conv->padded.size[0]));
    Loop high = loop_begin(cg, const64(cg, 0), const64(cg, conv->padded.size[1]));
    LLVMValueRef from = byte_at(cg, image, add(cg, mul_by(cg, depth.index, conv->xs[2]), mul_by(cg, high.index, conv->xs[3])));
    LLVMValueRef place = add(cg, mul_by(cg, add_const(cg, depth.index, conv->padded.low[0]), conv->padded.step[0]),
                             mul_by(cg, add_const(cg, high.index, conv->padded.low[1]), conv->padded.step[1]));
    LLVMValueRef to = byte_at(cg, staged, add_const(cg, place, conv->padded.low[2] * conv->padded.step[2]));
    if (channels_last(conv) && conv->apart > 0) {
        stage_pairs(cg, conv, from, to);
    } else if (channels_last(conv)) {
        stage_run(cg, &conv->dot, from, to, conv->padded.size[2] * conv->channels);
    } else {
        Loop channel = loop_begin(cg, const64(cg, 0), const64(cg, conv->channels));
        Loop wide = loop_begin(cg, const64(cg, 0), const64(cg, conv->padded.size[2]));
        LLVMValueRef source = byte_at(cg, from, add(cg, mul_by(cg, channel.index, conv->xs[1]), mul_by(cg, wide.index, conv->xs[4])));
        int64_t bytes = conv->pixel / conv->channels;
        LLVMValueRef target = byte_at(cg, to, add(cg, mul_by(cg, channel.index, bytes), mul_by(cg, wide.index, conv->padded.step[2])));
        stage_one(cg, &conv->dot, source, target);
        if (conv->apart > 0)
            stage_one(cg, &conv->dot, source, byte_at_const(cg, target, conv->dot.bytes - conv->apart * conv->pixel));
        loop_end(cg, &wide);
        loop_end(cg, &channel);
    }
    loop_end(cg, &high);
    loop_end(cg, &depth);
}

/* Of what Winograd has in a slot. */
static int64_t room_bytes(const Conv *conv) {
    return conv->form != NULL ? winograd_room(conv->winograd) : 0;
}

static void multiply_tiled(Codegen *cg, const Conv *conv, LLVMValueRef staged, LLVMValueRef result) {
    LLVMValueRef room = slot_at(cg, conv->room, room_bytes(conv));
    winograd_multiply(cg, conv->winograd, byte_at_const(cg, staged, conv->reach), arena_at(cg, conv->b), room, result);
}

static void multiply(Codegen *cg, const Conv *conv, LLVMValueRef staged, LLVMValueRef packed, LLVMValueRef init, LLVMValueRef result) {
    int64_t bytes = type_bytes(conv->result->type);
    if (conv->scatters)
        LLVMBuildMemSet(cg->builder, result, LLVMConstInt(cg->i8, 0, false), const64(cg, conv->together * conv->ys[0] * bytes),
                        (unsigned)bytes);
    Loop group = loop_begin(cg, const64(cg, 0), const64(cg, conv->groups));
    LLVMValueRef a = byte_at(cg, staged, mul_by(cg, group.index, conv->terms * conv->dot.bytes));
    LLVMValueRef b = byte_at(cg, packed, mul_by(cg, group.index, conv->b_bytes));
    LLVMValueRef start = byte_at(cg, init, mul_by(cg, group.index, conv->init_bytes));
    LLVMValueRef c = byte_at(cg, result, mul_by(cg, group.index, conv->columns * conv->ys[1] * bytes));
    for (int i = 0; i < conv->count; i++) {
        const Piece *piece = &conv->pieces[i];
        product_run(cg, &piece->code, byte_at_const(cg, a, piece->a), byte_at_const(cg, b, piece->b), byte_at_const(cg, start, piece->init),
                    byte_at_const(cg, c, piece->c), const64(cg, 0), const64(cg, product_blocks(&piece->code)));
    }
    loop_end(cg, &group);
}

static int64_t run_count(const Conv *conv) {
    return (conv->batch + conv->together - 1) / conv->together;
}

/* The runs of a tile: one, but the last tile has the last two where the last is cut short. That is moved back to end with the batch, and so
 * computes again what the one before it did. */
static int64_t tile_count(const Conv *conv) {
    return conv->batch / conv->together;
}

/* Plans a node, takes its scratch and emits the kernel that packs its weights. */
static Conv *open_windows(Codegen *cg, const Node *node, bool near) {
    Conv *conv = conv_plan(cg, node, near);
    conv->b = scratch_alloc(cg, conv->b_bytes * conv->groups + SLACK);
    conv->init = scratch_alloc(cg, conv->init_bytes * conv->groups);
    conv->images = slots_alloc(cg, conv->image * conv->together, tile_count(conv));
    conv->room = slots_alloc(cg, room_bytes(conv), tile_count(conv));
    if (conv->form != NULL)
        pack_tiled(cg, conv);
    else
        pack(cg, conv, conv->b, conv->init);
    return conv;
}

/* Bytes of a part of the sums, and of those in a slot. */
static int64_t part_bytes(const Conv *conv) {
    return conv->ys[0] / conv->bands * type_bytes(conv->result->type);
}

static int64_t near_bytes(const Conv *conv) {
    return conv->together * part_bytes(conv);
}

/* Where the sums of the run of parts from `part` on go: to the result, or to the slot, which stays near. */
static LLVMValueRef sums_of(Codegen *cg, const Conv *conv, const SumReader *reader, LLVMValueRef part) {
    LLVMValueRef before = mul_by(cg, part, part_bytes(conv));
    if (reader == NULL)
        return byte_at(cg, arena_at(cg, conv->result->offset), before);
    LLVMValueRef at = slot_at(cg, conv->near, near_bytes(conv));
    cg->near_at = byte_at(cg, at, LLVMBuildNeg(cg->builder, before, ""));
    return at;
}

/* The images from `start` on as one run. */
static void multiply_run(Codegen *cg, const Conv *conv, const SumReader *reader, LLVMValueRef start) {
    LLVMValueRef staged = slot_at(cg, conv->images, conv->image * conv->together);
    Loop image = loop_begin(cg, const64(cg, 0), const64(cg, conv->together));
    LLVMValueRef source = mul_by(cg, add(cg, start, image.index), conv->xs[0]);
    stage_image(cg, conv, byte_at(cg, arena_at(cg, conv->source->offset), source),
                byte_at(cg, staged, mul_by(cg, image.index, conv->image)));
    loop_end(cg, &image);
    Loop band = loop_begin(cg, const64(cg, 0), const64(cg, conv->bands));
    LLVMValueRef part = add(cg, mul_by(cg, start, conv->bands), band.index), sums = sums_of(cg, conv, reader, part);
    LLVMValueRef rows = byte_at(cg, staged, mul_by(cg, band.index, conv->band));
    if (conv->form != NULL)
        multiply_tiled(cg, conv, rows, sums);
    else
        multiply(cg, conv, rows, arena_at(cg, conv->b), arena_at(cg, conv->init), sums);
    if (reader != NULL)
        reader->parts(cg, reader->context, start, part, add_const(cg, part, conv->together));
    loop_end(cg, &band);
}

static void multiply_images(Codegen *cg, const Conv *conv, const SumReader *reader) {
    int64_t tiles = tile_count(conv);
    if (reader != NULL)
        reader->begin(cg, reader->context);
    LLVMValueRef staged = slot_at(cg, conv->images, conv->image * conv->together);
    Padded border = conv->padded; /* the last pixels of a row have no pair */
    border.size[2] = border.size[2] > conv->apart ? border.size[2] - conv->apart : 0;
    Loop padded = loop_begin(cg, const64(cg, 0), const64(cg, conv->together));
    stage_border(cg, &conv->dot, &border, byte_at(cg, staged, mul_by(cg, padded.index, conv->image)));
    loop_end(cg, &padded);
    LLVMValueRef end = cg->end;
    if (run_count(conv) > tiles)
        end = choose(cg, compare(cg, LLVMIntEQ, end, const64(cg, tiles)), const64(cg, run_count(conv)), end);
    Loop run = loop_begin(cg, cg->begin, end);
    Branch wanted = if_begin(cg, reader != NULL ? reader->wanted(cg, reader->context) : LLVMConstInt(cg->i1, 1, false));
    LLVMValueRef start = mul_by(cg, run.index, conv->together);
    if (run_count(conv) > tiles)
        start = smin(cg, start, const64(cg, conv->batch - conv->together));
    multiply_run(cg, conv, reader, start);
    if_end(cg, &wanted);
    loop_end(cg, &run);
    if (reader != NULL)
        reader->end(cg, reader->context);
}

static int64_t product_work(const Conv *conv) {
    return shape_elements(conv->result->shape) * conv->terms * conv->kernel[0] * conv->kernel[1] * conv->kernel[2] / 32;
}

static void read_sums(Codegen *cg, const void *plan, const SumReader *reader) {
    const Conv *conv = plan;
    kernel_begin(cg, conv->node, reader->suffix);
    cg->near = conv->result;
    cg->near_region = (Region){conv->near, slots_bytes(near_bytes(conv), tile_count(conv))};
    multiply_images(cg, conv, reader);
    cg->near = NULL;
    if (reader->turned)
        kernel_turn(cg, conv->batch);
    kernel_end(cg, tile_count(conv), product_work(conv));
}

Sums sums_of_conv(Codegen *cg, const Node *node) {
    Conv *conv = open_windows(cg, node, true);
    conv->near = slots_alloc(cg, near_bytes(conv), tile_count(conv));
    return (Sums){conv, conv->batch * conv->bands, read_sums};
}

static void emit_windows(Codegen *cg, const Node *node) {
    const Conv *conv = open_windows(cg, node, false);
    kernel_begin(cg, conv->node, "main");
    multiply_images(cg, conv, NULL);
    kernel_end(cg, tile_count(conv), product_work(conv));
}

void emit_conv(Codegen *cg, const Node *node) {
    emit_windows(cg, node);
}

void emit_conv_dgrad(Codegen *cg, const Node *node) {
    emit_windows(cg, node);
}
