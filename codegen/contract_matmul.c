/* matmul: both operands staged, then one product over blocks of panels and row tiles. Leading dimensions that only the row operand has are
 * rows; others are batches, each staged and multiplied by one task. Needs planned values of i8 or floats; writes the
 * i32, i64 or float result. */
#include "codegen/contract.h"

#include <string.h>

/* A part of K whose sums fit in an i32. */
typedef struct {
    Columns columns;
    ProductCode code;
    int64_t a, b, init; /* bytes from the staged operands' starts */
} Slice;

typedef struct {
    const Node *node;
    Dot dot;
    int64_t m, k, n;
    int64_t am, ak, bk, bn, cm, cn; /* strides: of a and b in bytes, of c in elements */
    int leads;
    int64_t lead[MAX_RANK], a_lead[MAX_RANK], b_lead[MAX_RANK], c_lead[MAX_RANK];
    int64_t batches;
    bool interleaved; /* rows staged [group][row][quad], else [row][k] */
    int64_t pitch;    /* bytes of a staged row */
    int64_t a_bytes, b_bytes, init_bytes;
    Slice *slices;
    int slice_count;
} Gemm;

static int64_t lead_stride(const Value *value, const int64_t *stride, int rank, int axis) {
    int at = axis - (rank - value->shape.rank);
    return at < 0 || value->shape.dim[at] == 1 ? 0 : stride[at];
}

static void describe(Gemm *gemm) {
    const Value *a = gemm->node->in[0], *b = gemm->node->in[1], *c = gemm->node->out[0];
    int64_t sa[MAX_RANK] = {0}, sb[MAX_RANK] = {0}, sc[MAX_RANK];
    value_strides(a, sa);
    value_strides(b, sb);
    value_strides(c, sc);
    for (int i = 0; i < MAX_RANK; i++) {
        sa[i] *= dot_source(&gemm->dot);
        sb[i] *= dot_source(&gemm->dot);
    }
    int ra = a->shape.rank, rb = b->shape.rank, rc = c->shape.rank;
    int ta = attr_int(gemm->node, "ta", 0) != 0, tb = attr_int(gemm->node, "tb", 0) != 0;
    gemm->m = c->shape.dim[rc - 2];
    gemm->n = c->shape.dim[rc - 1];
    gemm->k = a->shape.dim[ta ? ra - 2 : ra - 1];
    gemm->am = sa[ta ? ra - 1 : ra - 2];
    gemm->ak = sa[ta ? ra - 2 : ra - 1];
    gemm->bk = sb[tb ? rb - 1 : rb - 2];
    gemm->bn = sb[tb ? rb - 2 : rb - 1];
    gemm->cm = sc[rc - 2];
    gemm->cn = sc[rc - 1];
    gemm->batches = 1;
    for (int i = 0; i < rc - 2; i++) {
        if (c->shape.dim[i] == 1)
            continue;
        gemm->lead[gemm->leads] = c->shape.dim[i];
        gemm->a_lead[gemm->leads] = lead_stride(a, sa, rc, i);
        gemm->b_lead[gemm->leads] = lead_stride(b, sb, rc, i);
        gemm->c_lead[gemm->leads] = sc[i];
        gemm->batches *= gemm->lead[gemm->leads++];
    }
}

/* Leading dimensions that continue the rows of a and c, with the same b, become rows. */
static void merge_leads(Gemm *gemm) {
    while (gemm->leads > 0) {
        int last = gemm->leads - 1;
        if (gemm->b_lead[last] != 0)
            return;
        if (gemm->m == 1) {
            gemm->am = gemm->a_lead[last];
            gemm->cm = gemm->c_lead[last];
        } else if (gemm->a_lead[last] != gemm->m * gemm->am || gemm->c_lead[last] != gemm->m * gemm->cm) {
            return;
        }
        gemm->m *= gemm->lead[last];
        gemm->batches /= gemm->lead[last];
        gemm->leads = last;
    }
}

static void plan_slices(Codegen *cg, Gemm *gemm) {
    const Dot *dot = &gemm->dot;
    Type type = gemm->node->out[0]->type;
    int64_t most = type == T_I64 ? MAX_I32_TERMS / dot->quad * dot->quad : gemm->k;
    gemm->interleaved = gemm->ak != dot_source(dot) && gemm->k > 1 && gemm->am == dot_source(dot);
    gemm->pitch = round_up(gemm->k, dot->quad) * dot->bytes;
    gemm->a_bytes = round_up(gemm->m * gemm->pitch + SLACK, INTC_ARENA_ALIGN);
    gemm->slice_count = (int)((gemm->k + most - 1) / most);
    gemm->slices = arena_alloc(cg->memory, (size_t)gemm->slice_count, sizeof *gemm->slices);
    for (int i = 0; i < gemm->slice_count; i++) {
        Slice *slice = &gemm->slices[i];
        memset(slice, 0, sizeof *slice);
        int64_t from = i * most, k = gemm->k - from < most ? gemm->k - from : most, groups = (k + dot->quad - 1) / dot->quad;
        int64_t group_step = gemm->interleaved ? gemm->m * dot_group(dot) : dot_group(dot);
        slice->columns = (Columns){groups, gemm->n, gemm->bn, NULL, k, gemm->bk};
        slice->a = from / dot->quad * group_step;
        slice->b = gemm->b_bytes;
        slice->init = gemm->init_bytes;
        gemm->b_bytes += panel_count(&gemm->dot, gemm->n) * panel_bytes(dot, groups);
        gemm->init_bytes += panel_count(dot, gemm->n) * dot->panel * 4;
        Product product = {.row = {{gemm->m, gemm->interleaved ? dot_group(dot) : gemm->pitch, gemm->cm}},
                           .rows = 1,
                           .k = {{groups, group_step, 0}},
                           .ks = 1,
                           .groups = groups,
                           .columns = gemm->n,
                           .column_stride = gemm->cn,
                           .panel_stride = dot->panel * gemm->cn,
                           .type = type,
                           .accumulate = i > 0,
                           .exclusive = gemm->slice_count > 1,
                           .init = dot->biased};
        slice->code = product_new(cg, dot, &product);
    }
}

/* --- staging --- */

/* Staging comes in units: rows, or groups of interleaved rows. */
static int64_t stage_units(const Gemm *gemm) {
    return gemm->interleaved ? (gemm->k + gemm->dot.quad - 1) / gemm->dot.quad : gemm->m;
}

static void stage_unit(Codegen *cg, const Gemm *gemm, LLVMValueRef source, LLVMValueRef staged, LLVMValueRef unit) {
    const Dot *dot = &gemm->dot;
    if (gemm->interleaved) {
        LLVMValueRef sources[4];
        for (int i = 0; i < dot->quad; i++) {
            LLVMValueRef k = smin(cg, add_const(cg, mul_by(cg, unit, dot->quad), i), const64(cg, gemm->k - 1));
            sources[i] = byte_at(cg, source, mul_by(cg, k, gemm->ak));
        }
        stage_interleaved(cg, dot, sources, NULL, byte_at(cg, staged, mul_by(cg, unit, gemm->m * dot_group(dot))), gemm->m, true);
        return;
    }
    LLVMValueRef from = byte_at(cg, source, mul_by(cg, unit, gemm->am)), to = byte_at(cg, staged, mul_by(cg, unit, gemm->pitch));
    if (gemm->ak == dot_source(dot) || gemm->k == 1) {
        stage_run(cg, dot, from, to, gemm->k);
        return;
    }
    Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, gemm->k));
    stage_one(cg, dot, byte_at(cg, from, mul_by(cg, loop.index, gemm->ak)), byte_at(cg, to, mul_by(cg, loop.index, dot->bytes)));
    loop_end(cg, &loop);
}

static void pack_one(Codegen *cg, const Gemm *gemm, LLVMValueRef source, LLVMValueRef packed, LLVMValueRef init, LLVMValueRef panel) {
    int64_t from = 0;
    for (int i = 0; i < gemm->slice_count; i++) {
        const Slice *slice = &gemm->slices[i];
        LLVMValueRef to =
            byte_at(cg, byte_at_const(cg, packed, slice->b), mul_by(cg, panel, panel_bytes(&gemm->dot, slice->columns.groups)));
        LLVMValueRef first = byte_at(cg, byte_at_const(cg, init, slice->init), mul_by(cg, panel, gemm->dot.panel * 4));
        pack_panel(cg, &gemm->dot, &slice->columns, byte_at_const(cg, source, from * gemm->bk), panel, to, gemm->dot.biased ? first : NULL);
        from += slice->columns.k;
    }
}

static void call_slices(Codegen *cg, const Gemm *gemm, LLVMValueRef staged, LLVMValueRef packed, LLVMValueRef init, LLVMValueRef c,
                        LLVMValueRef block, LLVMValueRef part, int64_t parts) {
    for (int i = 0; i < gemm->slice_count; i++) {
        const Slice *slice = &gemm->slices[i];
        product_call(cg, &slice->code, byte_at_const(cg, staged, slice->a), byte_at_const(cg, packed, slice->b),
                     byte_at_const(cg, init, slice->init), c, block, part, parts);
    }
}

/* --- one product: parallel over blocks and row tiles --- */

static void emit_single(Codegen *cg, const Gemm *gemm) {
    const Node *node = gemm->node;
    int64_t a = scratch_alloc(cg, gemm->a_bytes), b = scratch_alloc(cg, gemm->b_bytes + SLACK), init = scratch_alloc(cg, gemm->init_bytes);
    int64_t panels = panel_count(&gemm->dot, gemm->n), units = panels + stage_units(gemm);
    kernel_begin(cg, node, "stage");
    Loop loop = loop_begin(cg, cg->begin, cg->end);
    Branch branch = if_begin(cg, compare(cg, LLVMIntSLT, loop.index, const64(cg, panels)));
    pack_one(cg, gemm, arena_at(cg, node->in[1]->offset), arena_at(cg, b), arena_at(cg, init), loop.index);
    if_else(cg, &branch);
    stage_unit(cg, gemm, arena_at(cg, node->in[0]->offset), arena_at(cg, a), add_const(cg, loop.index, -panels));
    if_end(cg, &branch);
    loop_end(cg, &loop);
    kernel_end(cg, units, (gemm->m + gemm->n) * gemm->k / 8);

    const ProductCode *code = &gemm->slices[0].code;
    int64_t blocks = product_blocks(code), parts = (SLOTS + blocks - 1) / blocks;
    parts = parts > product_parts(code) ? product_parts(code) : parts;
    kernel_begin(cg, node, "main");
    loop = loop_begin(cg, cg->begin, cg->end);
    call_slices(cg, gemm, arena_at(cg, a), arena_at(cg, b), arena_at(cg, init), arena_at(cg, node->out[0]->offset),
                udiv_by(cg, loop.index, parts), urem_by(cg, loop.index, parts), parts);
    loop_end(cg, &loop);
    kernel_end(cg, blocks * parts, gemm->m * gemm->n / 32 * gemm->k);
}

/* --- batches: each task stages and multiplies its own --- */

static void emit_batches(Codegen *cg, const Gemm *gemm) {
    const Node *node = gemm->node;
    int64_t tasks = gemm->batches < SLOTS ? gemm->batches : SLOTS;
    int64_t b_at = gemm->a_bytes, init_at = round_up(b_at + gemm->b_bytes + SLACK, INTC_ARENA_ALIGN);
    int64_t slot = round_up(init_at + gemm->init_bytes, INTC_ARENA_ALIGN), scratch = scratch_alloc(cg, slot * tasks);
    kernel_begin(cg, node, "main");
    Loop task = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef own = byte_at(cg, arena_at(cg, scratch), mul_by(cg, task.index, slot));
    LLVMValueRef packed = byte_at_const(cg, own, b_at), init = byte_at_const(cg, own, init_at);
    LLVMValueRef first = udiv_by(cg, mul_by(cg, task.index, gemm->batches), tasks);
    LLVMValueRef end = udiv_by(cg, mul_by(cg, add_const(cg, task.index, 1), gemm->batches), tasks);
    Loop batch = loop_begin(cg, first, end);
    LLVMValueRef rest = batch.index, a = arena_at(cg, node->in[0]->offset), b = arena_at(cg, node->in[1]->offset);
    LLVMValueRef c = arena_at(cg, node->out[0]->offset);
    for (int i = gemm->leads - 1; i >= 0; i--) {
        LLVMValueRef at = urem_by(cg, rest, gemm->lead[i]);
        rest = udiv_by(cg, rest, gemm->lead[i]);
        a = byte_at(cg, a, mul_by(cg, at, gemm->a_lead[i]));
        b = byte_at(cg, b, mul_by(cg, at, gemm->b_lead[i]));
        c = byte_at(cg, c, mul_by(cg, at, gemm->c_lead[i] * type_bytes(node->out[0]->type)));
    }
    Loop panel = loop_begin(cg, const64(cg, 0), const64(cg, panel_count(&gemm->dot, gemm->n)));
    pack_one(cg, gemm, b, packed, init, panel.index);
    loop_end(cg, &panel);
    Loop unit = loop_begin(cg, const64(cg, 0), const64(cg, stage_units(gemm)));
    stage_unit(cg, gemm, a, own, unit.index);
    loop_end(cg, &unit);
    Loop block = loop_begin(cg, const64(cg, 0), const64(cg, product_blocks(&gemm->slices[0].code)));
    call_slices(cg, gemm, own, packed, init, c, block.index, const64(cg, 0), 1);
    loop_end(cg, &block);
    loop_end(cg, &batch);
    loop_end(cg, &task);
    kernel_end(cg, tasks, gemm->batches * gemm->m * gemm->n / 32 * gemm->k);
}

void emit_matmul(Codegen *cg, const Node *node) {
    Gemm gemm = {
        .node = node,
    };
    const Value *c = node->out[0];
    gemm.dot = dot_for(cg, c->shape.dim[c->shape.rank - 1], node->in[0], node->in[1]);
    describe(&gemm);
    merge_leads(&gemm);
    plan_slices(cg, &gemm);
    if (gemm.batches == 1)
        emit_single(cg, &gemm);
    else
        emit_batches(cg, &gemm);
}
