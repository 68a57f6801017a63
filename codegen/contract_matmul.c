/* matmul: the column operand is packed, then runs of rows are staged and multiplied, each by all columns. Leading dimensions that only the
 * row operand has are rows; others are batches, each with a column operand of its own. Needs planned values of i8 or floats; writes the
 * i32, i64 or float result. */
#include "codegen/contract.h"

#include <string.h>

/* Staged rows of a run, and columns of a slice of K that one block of panels reads again for every tile of rows: what near caches hold. */
enum { NEAR_ROWS = 64 * 1024, NEAR_COLUMNS = 32 * 1024, NEAR_MATRICES = 256 * 1024 };
/* Tiles of the shortest run; slices that a long K is cut into. */
enum { SHORTEST_RUN = 4, MOST_SLICES = 8 };
/* Sums of a run that are read while they are near, and what a run costs besides its rows, as rows cost 16. */
enum { NEAR_SUMS = 128 * 1024, PART_COST = 64 };
/* Tasks that the runs are dealt out to. */
enum { TASKS = 16 };

/* A part of K whose sums fit in an i32 and whose columns stay near. */
typedef struct {
    int64_t from;
    Columns columns;
    ProductCode code;
    int64_t b, init; /* bytes from the starts of the panels */
} Slice;

typedef struct {
    const Node *node;
    Dot dot;
    int64_t m, k, n;
    int64_t am, ak, bk, bn, cm, cn; /* strides: of a and b in bytes, of c in elements */
    int leads;
    int64_t lead[MAX_RANK], a_lead[MAX_RANK], b_lead[MAX_RANK], c_lead[MAX_RANK];
    int64_t batches;
    int64_t slice; /* elements of K in all slices but the last */
    int64_t run;   /* rows that are staged at a time */
    int64_t parts; /* of the columns, each a task, where there are few runs */
    int64_t tasks;
    bool columnwise; /* rows of a are adjacent, not its K: they are staged [group][row][quad] or, for matrix registers, transposed; else */
    int64_t pitch;   /* bytes of a staged row [row][k] */
    int64_t a_bytes, b_bytes, init_bytes;
    Slice *slices;
    int slice_count;
    bool near;                         /* sums are not stored, but read run by run */
    int64_t rows, columns, init, sums; /* scratch or slots: staged rows, panels, starts, sums that are not stored */
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

static int64_t run_count(const Gemm *gemm) {
    return (gemm->m + gemm->run - 1) / gemm->run;
}

/* A long K is cut into slices whose columns stay near. */
static void plan_k(Gemm *gemm) {
    Dot *dot = &gemm->dot;
    int64_t near = dot_is_matrix(dot) ? NEAR_MATRICES : NEAR_COLUMNS;
    int64_t block = near / (2 * dot->panel * dot_group(dot)) * dot->quad, least = 1, most = MAX_I32_TERMS / 64 * 64;
    if (gemm->node->out[0]->type == T_I64)
        least = (gemm->k + most - 1) / most;
    int64_t count = gemm->k / block < MOST_SLICES ? gemm->k / block : MOST_SLICES;
    count = gemm->node->out[0]->type == T_REAL || count < least ? least : count;
    int64_t equal = (gemm->k + count - 1) / count;
    dot_fit(dot, equal);
    gemm->slice = round_up(equal, dot->quad);
    gemm->slice_count = (int)((gemm->k + gemm->slice - 1) / gemm->slice);
}

/* About the time of runs of so many rows: whole tiles are computed, tasks take as many runs as the longest, and staged rows should stay
 * near, which those of few runs do not. */
static int64_t run_cost(const Gemm *gemm, int64_t run, int64_t tile) {
    int64_t staged = run * gemm->slice * gemm->dot.bytes, runs = (gemm->m + run - 1) / run;
    int64_t rows = gemm->batches == 1 && runs > TASKS ? round_up(runs, TASKS) * round_up(run, tile) : runs * round_up(run, tile);
    bool few = gemm->batches == 1 && runs < TASKS / 2;
    return rows * 16 + (staged > NEAR_ROWS || few ? gemm->m : 0) + (staged > 2 * NEAR_ROWS ? 4 * gemm->m : 0);
}

/* Where slices add to the sums no row may be computed twice: runs are of equal length. */
static void plan_runs(Gemm *gemm) {
    int64_t tile = product_tile(&gemm->dot, gemm->n), best = run_cost(gemm, gemm->m, tile);
    bool sliced = gemm->slice_count > 1;
    gemm->run = gemm->m;
    for (int64_t run = SHORTEST_RUN * tile; run < gemm->m && run * gemm->slice * gemm->dot.bytes <= 2 * NEAR_ROWS; run++) {
        int64_t cost = run_cost(gemm, run, tile);
        if (cost <= best && (!sliced || gemm->m % run == 0)) {
            best = cost;
            gemm->run = run;
        }
    }
}

/* Runs whose sums stay near, as many in each index of a dimension of the result: so that they are equal parts of it. */
static void plan_near_runs(Gemm *gemm) {
    const Shape *shape = &gemm->node->out[0]->shape;
    int64_t tile = product_tile(&gemm->dot, gemm->n), row = gemm->n * type_bytes(gemm->node->out[0]->type), best = INT64_MAX, before = 1;
    int64_t rows = gemm->m * gemm->batches;
    for (int i = 0; i < shape->rank - 1; before *= shape->dim[i++])
        for (int64_t each = 1; each <= shape->dim[i]; each++) {
            int64_t parts = before * each, run = rows / parts;
            if (shape->dim[i] % each != 0 || parts % gemm->batches != 0)
                continue;
            int64_t cost = (parts < TASKS ? parts : round_up(parts, TASKS)) * (round_up(run, tile) * 16 + PART_COST);
            cost += (run * row > NEAR_SUMS ? 8 * rows : 0) + (parts < TASKS / 2 ? 4 * rows : 0);
            if (cost < best) {
                best = cost;
                gemm->run = run;
            }
        }
}

static void plan_slices(Codegen *cg, Gemm *gemm) {
    const Dot *dot = &gemm->dot;
    gemm->columnwise = gemm->ak != dot_source(dot) && gemm->k > 1 && gemm->am == dot_source(dot);
    bool interleaved = gemm->columnwise && !dot_is_matrix(dot);
    gemm->pitch = gemm->slice * dot->bytes;
    if (dot_is_matrix(dot)) /* an odd number of lines: rows lie in different sets of a cache */
        gemm->pitch = (gemm->pitch + 63) / 64 * 64 | 64;
    gemm->a_bytes = round_up(gemm->run * gemm->pitch + SLACK, INTC_ARENA_ALIGN);
    gemm->slices = arena_alloc(cg->memory, (size_t)gemm->slice_count, sizeof *gemm->slices);
    for (int i = 0; i < gemm->slice_count; i++) {
        int64_t from = i * gemm->slice, k = gemm->k - from < gemm->slice ? gemm->k - from : gemm->slice;
        int64_t groups = (k + dot->quad - 1) / dot->quad;
        Product product = {.row = {{.count = gemm->run, .a = interleaved ? dot_group(dot) : gemm->pitch, .c = gemm->cm}},
                           .rows = 1,
                           .k = {{.count = groups, .a = interleaved ? gemm->run * dot_group(dot) : dot_group(dot)}},
                           .ks = 1,
                           .groups = groups,
                           .columns = gemm->n,
                           .column_stride = gemm->cn,
                           .panel_stride = dot->panel * gemm->cn,
                           .type = gemm->node->out[0]->type,
                           .accumulate = i > 0,
                           .exclusive = gemm->slice_count > 1,
                           .init = dot->biased};
        Slice *slice = &gemm->slices[i];
        *slice = (Slice){.from = from, .b = gemm->b_bytes, .init = gemm->init_bytes};
        slice->columns = (Columns){groups, gemm->n, gemm->bn, NULL, k, gemm->bk, 0, 0, 0};
        slice->code = product_new(cg, dot, &product);
        gemm->b_bytes += panel_count(&gemm->dot, gemm->n) * panel_bytes(dot, groups);
        gemm->init_bytes += panel_count(dot, gemm->n) * dot->panel * 4;
    }
}

/* Few runs are staged before, and shared by tasks that each take a part of the columns, unless there are slices. */
static void plan_tasks(Gemm *gemm) {
    int64_t steps = gemm->batches == 1 ? run_count(gemm) : gemm->batches, blocks = product_blocks(&gemm->slices[0].code);
    if (gemm->near)
        steps = gemm->batches * run_count(gemm);
    bool few = gemm->batches == 1 && gemm->slice_count == 1 && steps < TASKS / 2 && !gemm->near;
    gemm->parts = few ? (TASKS + steps - 1) / steps : 1;
    gemm->parts = gemm->parts < blocks ? gemm->parts : blocks;
    gemm->tasks = gemm->parts > 1 ? steps * gemm->parts : steps < TASKS || gemm->near ? steps : TASKS;
}

/* --- staging --- */

enum { SIDE = 16 };

/* Units that the staging of a slice of a run can be divided into: squares of rows, groups or rows. */
static int64_t stage_units(const Gemm *gemm, const Slice *slice) {
    if (gemm->columnwise)
        return dot_is_matrix(&gemm->dot) ? (gemm->run + SIDE - 1) / SIDE : slice->columns.groups;
    return gemm->run;
}

/* The rows from `source` on: units [begin, end) of the elements of a slice. */
static void stage_rows(Codegen *cg, const Gemm *gemm, const Slice *slice, LLVMValueRef source, LLVMValueRef staged, LLVMValueRef begin,
                       LLVMValueRef end) {
    const Dot *dot = &gemm->dot;
    int64_t k = slice->columns.k;
    source = byte_at_const(cg, source, slice->from * gemm->ak);
    if (gemm->columnwise && dot_is_matrix(dot)) {
        int64_t side = gemm->run < SIDE ? gemm->run : SIDE;
        Loop square = loop_begin(cg, begin, end);
        LLVMValueRef row = smin(cg, mul_by(cg, square.index, SIDE), const64(cg, gemm->run - side));
        stage_transposed(cg, byte_at(cg, source, mul_by(cg, row, gemm->am)), byte_at(cg, staged, mul_by(cg, row, gemm->pitch)), side, k,
                         gemm->ak, gemm->pitch);
        loop_end(cg, &square);
        return;
    }
    if (gemm->columnwise) {
        Loop group = loop_begin(cg, begin, end);
        LLVMValueRef sources[4];
        for (int i = 0; i < dot->quad; i++) {
            LLVMValueRef at = smin(cg, add_const(cg, mul_by(cg, group.index, dot->quad), i), const64(cg, k - 1));
            sources[i] = byte_at(cg, source, mul_by(cg, at, gemm->ak));
        }
        stage_interleaved(cg, dot, sources, NULL, byte_at(cg, staged, mul_by(cg, group.index, gemm->run * dot_group(dot))), gemm->run,
                          true);
        loop_end(cg, &group);
        return;
    }
    Loop row = loop_begin(cg, begin, end);
    LLVMValueRef from = byte_at(cg, source, mul_by(cg, row.index, gemm->am)), to = byte_at(cg, staged, mul_by(cg, row.index, gemm->pitch));
    if (gemm->ak == dot_source(dot) || gemm->k == 1) {
        stage_run(cg, dot, from, to, k);
    } else {
        Loop loop = loop_begin(cg, const64(cg, 0), const64(cg, k));
        stage_one(cg, dot, byte_at(cg, from, mul_by(cg, loop.index, gemm->ak)), byte_at(cg, to, mul_by(cg, loop.index, dot->bytes)));
        loop_end(cg, &loop);
    }
    loop_end(cg, &row);
}

static void pack_one(Codegen *cg, const Gemm *gemm, LLVMValueRef source, LLVMValueRef packed, LLVMValueRef init, LLVMValueRef panel) {
    for (int i = 0; i < gemm->slice_count; i++) {
        const Slice *slice = &gemm->slices[i];
        LLVMValueRef to =
            byte_at(cg, byte_at_const(cg, packed, slice->b), mul_by(cg, panel, panel_bytes(&gemm->dot, slice->columns.groups)));
        LLVMValueRef first = byte_at(cg, byte_at_const(cg, init, slice->init), mul_by(cg, panel, gemm->dot.panel * 4));
        LLVMValueRef from = byte_at_const(cg, source, slice->from * gemm->bk);
        pack_panel(cg, &gemm->dot, &slice->columns, from, panel, to, gemm->dot.biased ? first : NULL);
    }
}

/* --- emission --- */

/* Bytes of the panels of a batch. */
static int64_t columns_bytes(const Gemm *gemm) {
    return round_up(gemm->b_bytes + SLACK, INTC_ARENA_ALIGN);
}

static int64_t starts_bytes(const Gemm *gemm) {
    return round_up(gemm->init_bytes, INTC_ARENA_ALIGN);
}

/* Of the sums of a run, and of those in a slot. */
static int64_t part_bytes(const Gemm *gemm) {
    return gemm->run * gemm->n * type_bytes(gemm->node->out[0]->type);
}

static int64_t near_bytes(const Gemm *gemm) {
    return round_up(part_bytes(gemm), INTC_ARENA_ALIGN);
}

static void pack(Codegen *cg, const Gemm *gemm) {
    kernel_begin(cg, gemm->node, "pack");
    Loop panel = loop_begin(cg, cg->begin, cg->end);
    pack_one(cg, gemm, arena_at(cg, gemm->node->in[1]->offset), arena_at(cg, gemm->columns), arena_at(cg, gemm->init), panel.index);
    loop_end(cg, &panel);
    kernel_end(cg, panel_count(&gemm->dot, gemm->n), gemm->n * gemm->k / 8);
}

/* One batch, or the only one. */
typedef struct {
    LLVMValueRef a, c;                /* the row operand and the result */
    LLVMValueRef rows, columns, init; /* scratch */
} Batch;

/* The last run of a batch is moved back to end with it. */
static LLVMValueRef run_start(Codegen *cg, const Gemm *gemm, LLVMValueRef run) {
    return smin(cg, mul_by(cg, run, gemm->run), const64(cg, gemm->m - gemm->run));
}

static void stage(Codegen *cg, const Gemm *gemm, const Slice *slice, const Batch *batch, LLVMValueRef run) {
    LLVMValueRef source = byte_at(cg, batch->a, mul_by(cg, run_start(cg, gemm, run), gemm->am));
    stage_rows(cg, gemm, slice, source, batch->rows, const64(cg, 0), const64(cg, stage_units(gemm, slice)));
}

/* All runs, for the tasks that share them. */
static void stage_all(Codegen *cg, const Gemm *gemm) {
    const Slice *slice = gemm->slices;
    int64_t units = stage_units(gemm, slice), all = run_count(gemm) * units;
    kernel_begin(cg, gemm->node, "stage");
    Loop unit = loop_begin(cg, cg->begin, cg->end);
    LLVMValueRef run = udiv_by(cg, unit.index, units), within = urem_by(cg, unit.index, units);
    LLVMValueRef source = byte_at(cg, arena_at(cg, gemm->node->in[0]->offset), mul_by(cg, run_start(cg, gemm, run), gemm->am));
    LLVMValueRef rows = byte_at(cg, arena_at(cg, gemm->rows), mul_by(cg, run, gemm->a_bytes));
    stage_rows(cg, gemm, slice, source, rows, within, add_const(cg, within, 1));
    loop_end(cg, &unit);
    kernel_end(cg, all, gemm->m * gemm->k / 8);
}

/* Where the sums of a run go. */
static LLVMValueRef sums_at(Codegen *cg, const Gemm *gemm, const Batch *batch, LLVMValueRef run) {
    return byte_at(cg, batch->c, mul_by(cg, run_start(cg, gemm, run), gemm->cm * type_bytes(gemm->node->out[0]->type)));
}

/* Staged rows by part `part` of the columns. */
static void multiply(Codegen *cg, const Gemm *gemm, const Slice *slice, const Batch *batch, LLVMValueRef sums, LLVMValueRef part) {
    int64_t blocks = product_blocks(&slice->code);
    LLVMValueRef from = udiv_by(cg, mul_by(cg, part, blocks), gemm->parts);
    LLVMValueRef to = udiv_by(cg, mul_by(cg, add_const(cg, part, 1), blocks), gemm->parts);
    product_run(cg, &slice->code, batch->rows, byte_at_const(cg, batch->columns, slice->b), byte_at_const(cg, batch->init, slice->init),
                sums, from, to);
}

static void emit_runs(Codegen *cg, const Gemm *gemm, const Batch *batch, LLVMValueRef from, LLVMValueRef to) {
    for (int i = 0; i < gemm->slice_count; i++) {
        Loop run = loop_begin(cg, from, to);
        stage(cg, gemm, &gemm->slices[i], batch, run.index);
        multiply(cg, gemm, &gemm->slices[i], batch, sums_at(cg, gemm, batch, run.index), const64(cg, 0));
        loop_end(cg, &run);
    }
}

static void emit_part(Codegen *cg, const Gemm *gemm, Batch batch, LLVMValueRef task) {
    LLVMValueRef run = udiv_by(cg, task, gemm->parts), part = urem_by(cg, task, gemm->parts);
    batch.rows = byte_at(cg, arena_at(cg, gemm->rows), mul_by(cg, run, gemm->a_bytes));
    multiply(cg, gemm, gemm->slices, &batch, sums_at(cg, gemm, &batch, run), part);
}

/* The operands of a batch; returns its column operand. */
static LLVMValueRef open_batch(Codegen *cg, const Gemm *gemm, Batch *batch, LLVMValueRef index) {
    LLVMValueRef rest = index, b = arena_at(cg, gemm->node->in[1]->offset);
    int64_t bytes = type_bytes(gemm->node->out[0]->type);
    for (int i = gemm->leads - 1; i >= 0; i--) {
        LLVMValueRef at = urem_by(cg, rest, gemm->lead[i]);
        rest = udiv_by(cg, rest, gemm->lead[i]);
        batch->a = byte_at(cg, batch->a, mul_by(cg, at, gemm->a_lead[i]));
        b = byte_at(cg, b, mul_by(cg, at, gemm->b_lead[i]));
        batch->c = byte_at(cg, batch->c, mul_by(cg, at, gemm->c_lead[i] * bytes));
    }
    return b;
}

static void pack_batch(Codegen *cg, const Gemm *gemm, const Batch *batch, LLVMValueRef b) {
    Loop panel = loop_begin(cg, const64(cg, 0), const64(cg, panel_count(&gemm->dot, gemm->n)));
    pack_one(cg, gemm, b, batch->columns, batch->init, panel.index);
    loop_end(cg, &panel);
}

/* Each task packs the columns of its own batches. */
static void emit_batch(Codegen *cg, const Gemm *gemm, Batch batch, LLVMValueRef index) {
    LLVMValueRef b = open_batch(cg, gemm, &batch, index);
    pack_batch(cg, gemm, &batch, b);
    emit_runs(cg, gemm, &batch, const64(cg, 0), const64(cg, run_count(gemm)));
}

/* Where a task begins that shares `steps` with the others. */
static LLVMValueRef share_of(Codegen *cg, const Gemm *gemm, LLVMValueRef task, int64_t steps) {
    return udiv_by(cg, mul_by(cg, task, steps), gemm->tasks);
}

/* The first batch. */
static Batch batch_of(Codegen *cg, const Gemm *gemm) {
    bool own = gemm->batches > 1;
    return (Batch){.a = arena_at(cg, gemm->node->in[0]->offset),
                   .c = gemm->near ? NULL : arena_at(cg, gemm->node->out[0]->offset),
                   .rows = gemm->parts > 1 ? NULL : slot_at(cg, gemm->rows, gemm->a_bytes),
                   .columns = own ? slot_at(cg, gemm->columns, columns_bytes(gemm)) : arena_at(cg, gemm->columns),
                   .init = own ? slot_at(cg, gemm->init, starts_bytes(gemm)) : arena_at(cg, gemm->init)};
}

static void emit_task(Codegen *cg, const Gemm *gemm, LLVMValueRef task) {
    LLVMValueRef after = add_const(cg, task, 1);
    Batch batch = batch_of(cg, gemm);
    if (gemm->parts > 1) {
        emit_part(cg, gemm, batch, task);
    } else if (gemm->batches == 1) {
        int64_t runs = run_count(gemm);
        emit_runs(cg, gemm, &batch, share_of(cg, gemm, task, runs), share_of(cg, gemm, after, runs));
    } else {
        Loop index = loop_begin(cg, share_of(cg, gemm, task, gemm->batches), share_of(cg, gemm, after, gemm->batches));
        emit_batch(cg, gemm, batch, index.index);
        loop_end(cg, &index);
    }
}

/* Plans a node, takes its scratch and emits the kernels that pack and stage for all tasks. */
static Gemm *open(Codegen *cg, const Node *node, bool near) {
    const Value *c = node->out[0];
    Gemm *gemm = arena_alloc(cg->memory, 1, sizeof *gemm);
    *gemm = (Gemm){.node = node, .dot = dot_for(cg, c->shape.dim[c->shape.rank - 1], node->in[0], node->in[1]), .near = near};
    describe(gemm);
    merge_leads(gemm);
    plan_k(gemm);
    if (near)
        plan_near_runs(gemm);
    else
        plan_runs(gemm);
    plan_slices(cg, gemm);
    plan_tasks(gemm);
    int64_t copies = gemm->batches == 1 ? 1 : gemm->tasks;
    gemm->rows = gemm->parts > 1 ? scratch_alloc(cg, gemm->a_bytes * run_count(gemm)) : slots_alloc(cg, gemm->a_bytes, gemm->tasks);
    gemm->columns = slots_alloc(cg, columns_bytes(gemm), copies);
    gemm->init = slots_alloc(cg, starts_bytes(gemm), copies);
    gemm->sums = slots_alloc(cg, near ? near_bytes(gemm) : 0, gemm->tasks);
    if (gemm->batches == 1)
        pack(cg, gemm);
    if (gemm->parts > 1)
        stage_all(cg, gemm);
    return gemm;
}

static int64_t product_work(const Gemm *gemm) {
    return gemm->batches * gemm->m * gemm->n / 32 * gemm->k;
}

void emit_matmul(Codegen *cg, const Node *node) {
    Gemm *gemm = open(cg, node, false);
    kernel_begin(cg, node, "main");
    Loop task = loop_begin(cg, cg->begin, cg->end);
    emit_task(cg, gemm, task.index);
    loop_end(cg, &task);
    kernel_end(cg, gemm->tasks, product_work(gemm));
}

/* --- sums that are not stored --- */

/* Part `part`, a run of a batch, to the slot. */
static void read_part(Codegen *cg, const Gemm *gemm, const SumReader *reader, LLVMValueRef part, LLVMValueRef first) {
    int64_t runs = run_count(gemm), images = gemm->node->out[0]->shape.dim[0], all = gemm->batches * runs;
    LLVMValueRef run = urem_by(cg, part, runs), sums = slot_at(cg, gemm->sums, near_bytes(gemm));
    Batch batch = batch_of(cg, gemm);
    batch.c = sums;
    if (gemm->batches > 1) {
        LLVMValueRef b = open_batch(cg, gemm, &batch, udiv_by(cg, part, runs));
        Branch new = if_begin(cg, LLVMBuildOr(cg->builder, first, compare(cg, LLVMIntEQ, run, const64(cg, 0)), ""));
        pack_batch(cg, gemm, &batch, b);
        if_end(cg, &new);
    }
    for (int i = 0; i < gemm->slice_count; i++) {
        stage(cg, gemm, &gemm->slices[i], &batch, run);
        multiply(cg, gemm, &gemm->slices[i], &batch, sums, const64(cg, 0));
    }
    cg->near_at = byte_at(cg, sums, LLVMBuildNeg(cg->builder, mul_by(cg, part, part_bytes(gemm)), ""));
    reader->parts(cg, reader->context, udiv_by(cg, mul_by(cg, part, images), all), part, add_const(cg, part, 1));
}

static void read_sums(Codegen *cg, const void *plan, const SumReader *reader) {
    const Gemm *gemm = plan;
    kernel_begin(cg, gemm->node, reader->suffix);
    cg->near = gemm->node->out[0];
    cg->near_region = (Region){gemm->sums, slots_bytes(near_bytes(gemm), gemm->tasks)};
    reader->begin(cg, reader->context);
    Loop part = loop_begin(cg, cg->begin, cg->end);
    Branch wanted = if_begin(cg, reader->wanted(cg, reader->context));
    read_part(cg, gemm, reader, part.index, compare(cg, LLVMIntEQ, part.index, cg->begin));
    if_end(cg, &wanted);
    loop_end(cg, &part);
    reader->end(cg, reader->context);
    cg->near = NULL;
    if (reader->turned)
        kernel_turn(cg, gemm->node->out[0]->shape.dim[0]);
    kernel_end(cg, gemm->tasks, product_work(gemm));
}

Sums sums_of_matmul(Codegen *cg, const Node *node) {
    const Gemm *gemm = open(cg, node, true);
    return (Sums){gemm, gemm->batches * run_count(gemm), read_sums};
}
