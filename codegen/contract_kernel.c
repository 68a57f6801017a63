/* Products of staged operands (contract.h): loops over K, loops over tiles, blocks of panels; the tiles in registers are those of
 * contract_vector.c and contract_matrix.c. The functions made hold no state of the node. */
#include "codegen/contract_micro.h"

#include <string.h>

/* --- offsets of groups --- */

/* Whether offsets are `count` repetitions of the first `block` ones, each a constant further than the one before. */
static bool repeats(const int64_t *offsets, int64_t count, int64_t block) {
    if (count % block != 0)
        return false;
    int64_t step = count > block ? offsets[block] - offsets[0] : 0;
    for (int64_t i = block; i < count; i++)
        if (offsets[i] - offsets[i - block] != step)
            return false;
    return true;
}

void product_groups(Product *product, const int64_t *offsets, int64_t count) {
    Axis inner[MAX_AXES];
    int levels = 0;
    int64_t block = 1;
    while (block < count && levels < MAX_AXES) {
        int64_t next = block, step = offsets[block] - offsets[0];
        while (next < count && offsets[next] - offsets[next - block] == step)
            next++;
        next = next / block * block;
        while (next > block && !(count % next == 0 && repeats(offsets, count, next)) && next != count)
            next -= block;
        if (next == block)
            break;
        inner[levels++] = (Axis){.count = next / block, .a = step};
        block = next;
    }
    product->groups = count;
    product->ks = 0;
    product->table = offsets;
    if (block < count || count == 0)
        return;
    product->table = NULL;
    for (int i = levels - 1; i >= 0; i--)
        product->k[product->ks++] = inner[i];
    if (levels == 0)
        product->k[product->ks++] = (Axis){.count = 1};
}

/* --- the tile in registers --- */

int64_t micro_rows(const Micro *micro) {
    return micro->tile[0] * micro->tile[1];
}

/* Vectors that a loop over K carries. */
static int accumulators(const Micro *micro) {
    return dot_is_matrix(micro->dot) ? 0 : (int)micro_rows(micro) * micro->panels * micro->vectors;
}

/* Dot instructions of a group. */
static int64_t dots(const Micro *micro) {
    return micro_rows(micro) * micro->panels * micro->vectors / (dot_is_matrix(micro->dot) ? micro->height : 1);
}

const Axis *micro_axis(const Micro *micro, int i) {
    return &micro->product->row[micro->product->rows - 2 + i];
}

int64_t micro_place(const Micro *micro, int64_t row) {
    return row / micro->tile[1] * micro_axis(micro, 0)->a + row % micro->tile[1] * micro_axis(micro, 1)->a;
}

int64_t micro_result(const Micro *micro, int64_t row) {
    return row / micro->tile[1] * micro_axis(micro, 0)->c + row % micro->tile[1] * micro_axis(micro, 1)->c;
}

/* Groups one after another. */
static void emit_groups(Codegen *cg, Micro *micro, const KGroup *groups, int64_t count) {
    if (dot_is_matrix(micro->dot))
        matrix_groups(cg, micro, groups, count);
    else
        vector_groups(cg, micro, groups, count);
}

/* A loop over K whose accumulators and addresses are phis. */
typedef struct {
    LLVMBasicBlockRef body;
    LLVMValueRef index, a, b, acc[MAX_ACCUMULATORS];
} KLoop;

static LLVMValueRef phi_of(Codegen *cg, LLVMValueRef init, LLVMBasicBlockRef from) {
    LLVMValueRef phi = LLVMBuildPhi(cg->builder, LLVMTypeOf(init), "");
    LLVMAddIncoming(phi, &init, &from, 1);
    return phi;
}

static KLoop k_loop_begin(Codegen *cg, Micro *micro) {
    LLVMBasicBlockRef from = LLVMGetInsertBlock(cg->builder);
    KLoop loop = {.body = LLVMAppendBasicBlockInContext(cg->context, cg->function, "k")};
    LLVMBuildBr(cg->builder, loop.body);
    LLVMPositionBuilderAtEnd(cg->builder, loop.body);
    loop.index = phi_of(cg, const64(cg, 0), from);
    micro->a = loop.a = phi_of(cg, micro->a, from);
    micro->b = loop.b = phi_of(cg, micro->b, from);
    for (int i = 0; i < accumulators(micro); i++)
        micro->acc[i] = loop.acc[i] = phi_of(cg, micro->acc[i], from);
    return loop;
}

static void k_loop_end(Codegen *cg, Micro *micro, KLoop *loop, int64_t count) {
    LLVMBasicBlockRef last = LLVMGetInsertBlock(cg->builder);
    LLVMBasicBlockRef exit = LLVMAppendBasicBlockInContext(cg->context, cg->function, "k.done");
    LLVMValueRef next = add_const(cg, loop->index, 1);
    LLVMBuildCondBr(cg->builder, compare(cg, LLVMIntULT, next, const64(cg, count)), loop->body, exit);
    LLVMAddIncoming(loop->index, &next, &last, 1);
    LLVMAddIncoming(loop->a, &micro->a, &last, 1);
    LLVMAddIncoming(loop->b, &micro->b, &last, 1);
    for (int i = 0; i < accumulators(micro); i++)
        LLVMAddIncoming(loop->acc[i], &micro->acc[i], &last, 1);
    LLVMPositionBuilderAtEnd(cg->builder, exit);
}

/* Code of at most this many dot instructions is laid out straight: little of it for AVX2 and AVX-512 without VNNI, where LLVM's machine
 * combiner pairs the additions of one accumulator and runs out of registers. */
static bool one_by_one(const Dot *dot) {
    return dot->kind == DOT_MADD256 || dot->kind == DOT_MADD512 || dot->kind == DOT_MADDUB256;
}

static int straight_limit(const Dot *dot) {
    return dot_is_matrix(dot) ? 36 : one_by_one(dot) ? 16 : 160;
}

static int64_t groups_below(const Product *product, int level) {
    int64_t count = 1;
    for (int i = level; i < product->ks; i++)
        count *= product->k[i].count;
    return count;
}

/* Place of group i of the axes from `level` on. */
static KGroup group_place(const Product *product, int level, int64_t i) {
    KGroup place = {0, 0};
    for (int k = product->ks - 1; k >= level; k--) {
        place.a += i % product->k[k].count * product->k[k].a;
        place.b += i % product->k[k].count * product->k[k].b;
        i /= product->k[k].count;
    }
    return place;
}

/* `count` groups of the axes from `level` on. */
static void emit_straight(Codegen *cg, Micro *micro, int level, int64_t count) {
    KGroup *groups = arena_alloc(cg->memory, (size_t)count + 1, sizeof *groups);
    for (int64_t i = 0; i < count; i++)
        groups[i] = group_place(micro->product, level, i);
    emit_groups(cg, micro, groups, count);
}

static void step_by(Codegen *cg, Micro *micro, int64_t a, int64_t b) {
    micro->a = byte_at_const(cg, micro->a, a);
    micro->b = byte_at_const(cg, micro->b, b);
}

/* The innermost axis: a loop of `unroll` groups, the rest straight. */
static void emit_inner(Codegen *cg, Micro *micro) {
    int level = micro->product->ks - 1;
    Axis axis = micro->product->k[level];
    int64_t unroll = one_by_one(micro->dot) ? 1 : accumulators(micro) >= 16 ? 2 : 4;
    if (axis.count >= unroll) {
        KLoop loop = k_loop_begin(cg, micro);
        emit_straight(cg, micro, level, unroll);
        step_by(cg, micro, unroll * axis.a, unroll * axis.b);
        k_loop_end(cg, micro, &loop, axis.count / unroll);
    }
    emit_straight(cg, micro, level, axis.count % unroll);
}

/* Leaves micro->a and micro->b as they were. */
static void emit_level(Codegen *cg, Micro *micro, int level) {
    const Product *product = micro->product;
    LLVMValueRef a = micro->a, b = micro->b;
    int64_t below = groups_below(product, level);
    if (below * dots(micro) <= straight_limit(micro->dot)) {
        emit_straight(cg, micro, level, below);
    } else if (level == product->ks - 1) {
        emit_inner(cg, micro);
    } else {
        KLoop loop = k_loop_begin(cg, micro);
        emit_level(cg, micro, level + 1);
        step_by(cg, micro, product->k[level].a, product->k[level].b);
        k_loop_end(cg, micro, &loop, product->k[level].count);
    }
    micro->a = a;
    micro->b = b;
}

static void emit_table(Codegen *cg, Micro *micro) {
    const Product *product = micro->product;
    int64_t group = micro->product->b_group;
    if (product->groups * dots(micro) <= straight_limit(micro->dot)) {
        KGroup *groups = arena_alloc(cg->memory, (size_t)product->groups + 1, sizeof *groups);
        for (int64_t i = 0; i < product->groups; i++)
            groups[i] = (KGroup){product->table[i], i * group};
        emit_groups(cg, micro, groups, product->groups);
        return;
    }
    LLVMValueRef table = const_table(cg, cg->i32, product->table, (int)product->groups), a = micro->a;
    KLoop loop = k_loop_begin(cg, micro);
    LLVMValueRef entry = LLVMBuildInBoundsGEP2(cg->builder, cg->i32, table, &loop.index, 1, "");
    micro->a = byte_at(cg, a, as_bits(cg, load_bytes(cg, cg->i32, entry, 4), 64));
    emit_groups(cg, micro, &(KGroup){0, 0}, 1);
    micro->a = loop.a;
    micro->b = byte_at_const(cg, micro->b, group);
    k_loop_end(cg, micro, &loop, product->groups);
}

static void emit_tile(Codegen *cg, Micro *micro, LLVMValueRef a, LLVMValueRef c, const LLVMValueRef skip[2]) {
    bool matrix = dot_is_matrix(micro->dot);
    if (matrix)
        matrix_begin(cg, micro, c);
    else
        vector_begin(cg, micro);
    micro->a = a;
    micro->b = LLVMGetParam(micro->function, 1);
    if (micro->product->ks > 0)
        emit_level(cg, micro, 0);
    else if (micro->product->groups > 0)
        emit_table(cg, micro);
    if (matrix)
        matrix_end(cg, micro, c, skip);
    else
        vector_end(cg, micro, c, skip);
}

/* --- tiles --- */

static int64_t axis_tiles(const Micro *micro, int axis) {
    int tiled = axis - (micro->product->rows - 2);
    int64_t count = micro->product->row[axis].count;
    return tiled < 0 ? count : (count + micro->tile[tiled] - 1) / micro->tile[tiled];
}

/* The last tile of an axis is moved back to end with it. */
static void emit_rows(Codegen *cg, Micro *micro, int axis, LLVMValueRef a, LLVMValueRef c, LLVMValueRef skip[2]) {
    const Product *product = micro->product;
    if (axis == product->rows) {
        emit_tile(cg, micro, a, c, skip);
        return;
    }
    bool split = axis == micro->split;
    LLVMValueRef from = split ? LLVMGetParam(micro->function, 4) : const64(cg, 0);
    LLVMValueRef to = split ? LLVMGetParam(micro->function, 5) : const64(cg, axis_tiles(micro, axis));
    Loop loop = loop_begin(cg, from, to);
    LLVMValueRef start = loop.index;
    int tiled = axis - (product->rows - 2);
    if (tiled >= 0) {
        LLVMValueRef wanted = mul_by(cg, loop.index, micro->tile[tiled]);
        start = wanted;
        if (product->row[axis].count % micro->tile[tiled] != 0)
            start = smin(cg, wanted, const64(cg, product->row[axis].count - micro->tile[tiled]));
        skip[tiled] = sub(cg, wanted, start);
    }
    emit_rows(cg, micro, axis + 1, byte_at(cg, a, mul_by(cg, start, product->row[axis].a)),
              byte_at(cg, c, mul_by(cg, start, product->row[axis].c * type_bytes(product->type))), skip);
    loop_end(cg, &loop);
}

static void choose_split(Micro *micro) {
    micro->split = 0;
    for (int i = 1; i < micro->product->rows; i++)
        if (axis_tiles(micro, i) > axis_tiles(micro, micro->split))
            micro->split = i;
}

static void add_attribute(Codegen *cg, LLVMValueRef function, unsigned index, const char *name) {
    unsigned kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
    LLVMAddAttributeAtIndex(function, index, LLVMCreateEnumAttribute(cg->context, kind, 0));
}

/* void block(a, b, init, c, begin, end): the block of `panels` panels at b, row tiles [begin, end) of the split axis. */
static LLVMValueRef block_function(Codegen *cg, const Dot *dot, const Product *product, int panels, int64_t stored, int64_t *tiles,
                                   const uint8_t **shape) {
    LLVMValueRef function = cg->function;
    LLVMBasicBlockRef head = cg->head, block = LLVMGetInsertBlock(cg->builder);
    Micro micro = {.dot = dot, .product = product, .panels = panels, .vectors = dot->panel / dot->lanes, .stored = stored};
    if (dot_is_matrix(dot))
        matrix_choose(&micro);
    else
        vector_choose(&micro);
    choose_split(&micro);
    LLVMTypeRef params[] = {cg->ptr, cg->ptr, cg->ptr, cg->ptr, cg->i64, cg->i64};
    micro.function = LLVMAddFunction(cg->module, "product", LLVMFunctionType(cg->none, params, 6, false));
    LLVMSetLinkage(micro.function, LLVMInternalLinkage);
    add_attribute(cg, micro.function, (unsigned)LLVMAttributeFunctionIndex, "nounwind");
    for (unsigned i = 1; i <= 4; i++)
        add_attribute(cg, micro.function, i, "noalias");
    function_start(cg, micro.function);
    LLVMValueRef skip[2] = {NULL, NULL};
    if (dot_is_matrix(dot))
        *shape = matrix_shape(cg, &micro);
    emit_rows(cg, &micro, 0, LLVMGetParam(micro.function, 0), LLVMGetParam(micro.function, 3), skip);
    LLVMBuildRetVoid(cg->builder);
    *tiles = axis_tiles(&micro, micro.split);
    cg->function = function;
    cg->head = head;
    LLVMPositionBuilderAtEnd(cg->builder, block);
    return share_function(cg, micro.function, "product", "product");
}

/* Merges axes that are one run, and brings the number of axes to at least two. */
static void merge_rows(Product *product) {
    int kept = 0;
    for (int i = 0; i < product->rows; i++) {
        Axis axis = product->row[i];
        if (axis.count == 1)
            continue;
        Axis *before = kept > 0 ? &product->row[kept - 1] : NULL;
        if (before != NULL && before->a == axis.count * axis.a && before->c == axis.count * axis.c) {
            before->count *= axis.count;
            before->a = axis.a;
            before->c = axis.c;
        } else {
            product->row[kept++] = axis;
        }
    }
    for (; kept < 2; kept++) {
        memmove(&product->row[1], &product->row[0], sizeof product->row[0]);
        product->row[0] = (Axis){.count = 1};
        if (kept == 0)
            product->row[1] = product->row[0];
    }
    product->rows = kept;
}

/* Panels of a main block of so many rows. */
static int block_panels(const Dot *dot, int64_t rows) {
    if (dot_is_matrix(dot))
        return matrix_panels(rows);
    return dot->lanes == dot->panel && dot->lanes > 4 && !dot_has_pairs(dot) ? 2 : 1;
}

int64_t product_tile(const Dot *dot, int64_t columns) {
    int64_t panels = panel_count(dot, columns), wide = block_panels(dot, INT64_MAX);
    return dot->accumulators / ((panels < wide ? panels : wide) * (dot->panel / dot->lanes));
}

ProductCode product_new(Codegen *cg, const Dot *dot, const Product *source) {
    Product product = *source;
    merge_rows(&product);
    int64_t panels = panel_count(dot, product.columns);
    int64_t rows = 1;
    for (int i = 0; i < product.rows; i++)
        rows *= product.row[i].count;
    int wide = block_panels(dot, rows);
    ProductCode code = {.dot = *dot};
    if (product.b_group == 0) {
        product.b_group = panel_bytes(dot, 1);
        product.b_panel = panel_bytes(dot, product.groups);
    }
    bool follow = true;
    for (int i = 0; i < product.ks; i++)
        follow = follow && product.k[i].b == 0;
    for (int i = 0; follow && i < product.ks; i++)
        product.k[i].b = groups_below(&product, i + 1) * product.b_group;
    bool even = panels % wide == 0 && product.columns % dot->panel == 0;
    int rest = (int)(panels % wide);
    int last = even ? 0 : rest == 0 ? wide : panels == 1 || dot_is_matrix(dot) ? rest : wide + rest;
    code.blocks = (panels - last) / wide;
    if (code.blocks > 0)
        code.main = block_function(cg, dot, &product, wide, (int64_t)wide * dot->panel, &code.main_tiles, &code.main_shape);
    if (last > 0)
        code.last =
            block_function(cg, dot, &product, last, product.columns - code.blocks * wide * dot->panel, &code.last_tiles, &code.last_shape);
    code.block_a = dot_is_lanes(dot) ? (int64_t)wide * dot->panel * dot_group(dot) : 0;
    code.block_b = wide * product.b_panel;
    code.block_init = (int64_t)wide * dot->panel * 4;
    code.block_c = wide * product.panel_stride * type_bytes(product.type);
    return code;
}

int64_t product_blocks(const ProductCode *code) {
    return code->blocks + (code->last != NULL);
}

int64_t product_parts(const ProductCode *code) {
    return code->main == NULL ? code->last_tiles : code->main_tiles;
}

/* Operands of a block. */
typedef struct {
    LLVMValueRef a, b, init, c;
} Operands;

/* Calls the function of the main or the last block. */
static void call_block(Codegen *cg, const ProductCode *code, bool last, const Operands *first, LLVMValueRef block, LLVMValueRef part,
                       int64_t parts) {
    int64_t tiles = last ? code->last_tiles : code->main_tiles;
    LLVMValueRef function = last ? code->last : code->main;
    LLVMValueRef args[6] = {byte_at(cg, first->a, mul_by(cg, block, code->block_a)),
                            byte_at(cg, first->b, mul_by(cg, block, code->block_b)),
                            first->init == NULL ? first->b : byte_at(cg, first->init, mul_by(cg, block, code->block_init)),
                            byte_at(cg, first->c, mul_by(cg, block, code->block_c)),
                            udiv_by(cg, mul_by(cg, part, tiles), parts),
                            udiv_by(cg, mul_by(cg, add_const(cg, part, 1), tiles), parts)};
    LLVMBuildCall2(cg->builder, LLVMGlobalGetValueType(function), function, args, 6, "");
}

static void configure(Codegen *cg, const uint8_t *shape) {
    if (shape != NULL)
        matrix_configure(cg, shape);
}

static void release(Codegen *cg, const ProductCode *code) {
    if (dot_is_matrix(&code->dot))
        matrix_release(cg);
}

void product_run(Codegen *cg, const ProductCode *code, LLVMValueRef a, LLVMValueRef b, LLVMValueRef init, LLVMValueRef c, LLVMValueRef from,
                 LLVMValueRef to) {
    Operands first = {a, b, init, c};
    LLVMValueRef blocks = const64(cg, code->blocks), zero = const64(cg, 0);
    if (code->main != NULL) {
        configure(cg, code->main_shape);
        Loop block = loop_begin(cg, from, code->last != NULL ? smin(cg, to, blocks) : to);
        call_block(cg, code, false, &first, block.index, zero, 1);
        loop_end(cg, &block);
    }
    if (code->last != NULL) {
        Branch wanted = if_begin(cg, compare(cg, LLVMIntSGT, to, blocks));
        configure(cg, code->last_shape);
        call_block(cg, code, true, &first, blocks, zero, 1);
        if_end(cg, &wanted);
    }
    release(cg, code);
}

void product_call(Codegen *cg, const ProductCode *code, LLVMValueRef a, LLVMValueRef b, LLVMValueRef init, LLVMValueRef c,
                  LLVMValueRef block, LLVMValueRef part, int64_t parts) {
    Operands first = {a, b, init, c};
    if (code->main == NULL || code->last == NULL) {
        configure(cg, code->main != NULL ? code->main_shape : code->last_shape);
        call_block(cg, code, code->main == NULL, &first, block, part, parts);
    } else {
        Branch branch = if_begin(cg, compare(cg, LLVMIntSLT, block, const64(cg, code->blocks)));
        configure(cg, code->main_shape);
        call_block(cg, code, false, &first, block, part, parts);
        if_else(cg, &branch);
        configure(cg, code->last_shape);
        call_block(cg, code, true, &first, block, part, parts);
        if_end(cg, &branch);
    }
    release(cg, code);
}
