/* conv_wgrad by Winograd: images are lifted instead of interleaved, and tiles are K; the sums are those of contract_wgrad.c. */
#include "codegen/contract_wgrad.h"

enum { TILED_BYTES = 2 * 1024 * 1024, TILES_ENOUGH = 256 };

/* The sum over the pixels of an image. */
static WinogradSum sum_of(const Wgrad *wgrad) {
    return (WinogradSum){wgrad->pixels, 0, wgrad->x->bound * wgrad->dy->bound, 0};
}

const WinogradForm *wgrad_form(const Wgrad *wgrad) {
    WinogradWindow window = {wgrad->kernel, wgrad->stride, wgrad->dilation};
    bool serves = wgrad->out[0] == 1 && wgrad->groups == 1 && winograd_serves(&wgrad->dot, window, wgrad->channels, wgrad->columns) &&
                  wgrad->type != T_REAL && wgrad_contiguous(wgrad->xs, 1, wgrad->total, wgrad->padded.size[2]) &&
                  wgrad_contiguous(wgrad->ys, 1, wgrad->columns, wgrad->out[2]);
    WinogradSum sum = sum_of(wgrad);
    return serves ? winograd_choose(wgrad->out + 1, &sum) : NULL;
}

/* A chunk is as many slices as give all threads work, of as many images as fit a cache, but enough tiles to be worth an addition to the
 * sums. */
void wgrad_plan_tiled(Codegen *cg, Wgrad *wgrad, const WinogradForm *form) {
    WinogradGradShape shape = {.form = form,
                               .channels = wgrad->channels,
                               .columns = wgrad->columns,
                               .size = {wgrad->padded.size[1], wgrad->padded.size[2]},
                               .low = {wgrad->padded.low[1], wgrad->padded.low[2]},
                               .out = {wgrad->out[1], wgrad->out[2]},
                               .x_row = wgrad->xs[3],
                               .dy_row = wgrad->ys[3],
                               .type = wgrad->type};
    /* Places of a tile are words of 2 bytes a channel. */
    int64_t tiles = winograd_grad_tiles(form, shape.out),
            image = tiles * form->reach * form->reach * 2 * (wgrad->channels + wgrad->columns);
    int64_t most = winograd_most_terms(form, wgrad->x->bound * wgrad->dy->bound) / wgrad->pixels,
            images = (TILED_BYTES + image - 1) / image;
    int64_t blocks = (wgrad->channels + 63) / 64 * ((wgrad->columns + 15) / 16);
    int64_t enough = (TILES_ENOUGH + tiles - 1) / tiles;
    images = images < enough ? enough : images;
    images = images > wgrad->batch ? wgrad->batch : images;
    wgrad->slices = (WANTED_TASKS + blocks - 1) / blocks;
    wgrad->slices = wgrad->slices > images ? images : wgrad->slices;
    wgrad->slice = images / wgrad->slices;
    wgrad->slice = wgrad->slice > most ? most > 1 ? most : 1 : wgrad->slice;
    wgrad->chunks = (wgrad->batch - 1) / (wgrad->slice * wgrad->slices) + 1;
    wgrad->slice = (wgrad->batch - 1) / (wgrad->chunks * wgrad->slices) + 1;
    WinogradSum sum = sum_of(wgrad);
    shape.images = wgrad->slice;
    shape.parts = (wgrad->pixels - 1) / winograd_part(form, shape.out, &sum) + 1;
    wgrad->chunk = wgrad->slice * wgrad->slices;
    wgrad->winograd = winograd_grad_new(cg, &shape);
    wgrad->slice_step[0] = round_up(winograd_grad_x_bytes(wgrad->winograd), INTC_ARENA_ALIGN);
    wgrad->slice_step[1] = round_up(winograd_grad_dy_bytes(wgrad->winograd), INTC_ARENA_ALIGN);
}

/* Items, each worked on in the slot. */
typedef struct {
    Loop item;
    LLVMValueRef room;
} Items;

static Items items_begin(Codegen *cg, const Wgrad *wgrad) {
    LLVMValueRef room = slot_at(cg, wgrad->room, winograd_grad_room(wgrad->winograd));
    return (Items){loop_begin(cg, cg->begin, cg->end), room};
}

void wgrad_allocate_tiled(Codegen *cg, Wgrad *wgrad) {
    wgrad->x_at = scratch_alloc(cg, wgrad->slices * wgrad->slice_step[0]);
    wgrad->dy_at = scratch_alloc(cg, wgrad->slices * wgrad->slice_step[1]);
    wgrad->sums_at = scratch_alloc(cg, wgrad->slices * wgrad_panels(wgrad) * wgrad_sums(wgrad));
    wgrad->columns_at = scratch_alloc(cg, wgrad_panels(wgrad) * wgrad->dot.panel * 8);
    wgrad->index_at = scratch_alloc(cg, 8);
    wgrad->room = slots_alloc(cg, winograd_grad_room(wgrad->winograd), INTC_SLOTS);
}

static LLVMValueRef slice_at(Codegen *cg, const Wgrad *wgrad, int64_t offset, LLVMValueRef slice, int operand) {
    return byte_at(cg, arena_at(cg, offset), mul_by(cg, slice, wgrad->slice_step[operand]));
}

void wgrad_stage_tiled(Codegen *cg, const Wgrad *wgrad) {
    kernel_begin(cg, wgrad->node, "stage");
    LLVMValueRef first = mul_by(cg, wgrad_chunk(cg, wgrad), wgrad->chunk);
    Items images = items_begin(cg, wgrad);
    LLVMValueRef index = images.item.index, slice = udiv_by(cg, index, wgrad->slice), within = urem_by(cg, index, wgrad->slice);
    LLVMValueRef image = add(cg, first, index), dy = slice_at(cg, wgrad, wgrad->dy_at, slice, 1);
    Branch exists = if_begin(cg, compare(cg, LLVMIntSLT, image, const64(cg, wgrad->batch)));
    winograd_grad_lift_x(cg, wgrad->winograd, within, byte_at(cg, arena_at(cg, wgrad->x->offset), mul_by(cg, image, wgrad->xs[0])),
                         images.room, slice_at(cg, wgrad, wgrad->x_at, slice, 0));
    winograd_grad_lift_dy(cg, wgrad->winograd, within, byte_at(cg, arena_at(cg, wgrad->dy->offset), mul_by(cg, image, wgrad->ys[0])),
                          images.room, dy);
    if_else(cg, &exists);
    winograd_grad_skip_dy(cg, wgrad->winograd, within, dy);
    if_end(cg, &exists);
    loop_end(cg, &images.item);
    kernel_end(cg, wgrad->chunk, wgrad->chunk * wgrad->pixels * (wgrad->channels + wgrad->columns));
}

void wgrad_multiply_tiled(Codegen *cg, const Wgrad *wgrad) {
    int64_t blocks = winograd_grad_blocks(wgrad->winograd), all = wgrad->slices * blocks;
    kernel_begin(cg, wgrad->node, "main");
    Items items = items_begin(cg, wgrad);
    LLVMValueRef slice = udiv_by(cg, items.item.index, blocks), block = urem_by(cg, items.item.index, blocks);
    LLVMValueRef sums = byte_at(cg, arena_at(cg, wgrad->sums_at), mul_by(cg, slice, wgrad_panels(wgrad) * wgrad_sums(wgrad)));
    winograd_grad_multiply(cg, wgrad->winograd, block, slice_at(cg, wgrad, wgrad->x_at, slice, 0),
                           slice_at(cg, wgrad, wgrad->dy_at, slice, 1), items.room, sums);
    loop_end(cg, &items.item);
    kernel_end(cg, all, wgrad->rows * wgrad_panels(wgrad) * wgrad->chunk * wgrad->pixels / 4);
}
