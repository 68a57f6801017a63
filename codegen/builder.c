/* Builder helpers of codegen: kernels, memory, loops, arithmetic. Needs a Codegen whose module and builder exist; what is emitted goes to
 * the builder's position. */
#include "codegen/emit.h"

#include <llvm-c/DebugInfo.h>
#include <stdio.h>
#include <string.h>

/* Below this much work a kernel runs on the calling thread alone: waking threads costs more. */
enum { PARALLEL_WORK = 30000 };

/* --- kernels --- */

/* Every function starts with a head block for locals and values computed once; it ends in a branch to the first block of the body. */
void function_start(Codegen *cg, LLVMValueRef function) {
    LLVMBasicBlockRef head = LLVMAppendBasicBlockInContext(cg->context, function, "head");
    LLVMBasicBlockRef body = LLVMAppendBasicBlockInContext(cg->context, function, "body");
    LLVMPositionBuilderAtEnd(cg->builder, head);
    LLVMBuildBr(cg->builder, body);
    LLVMPositionBuilderAtEnd(cg->builder, body);
    cg->function = function;
    cg->head = head;
    memset(cg->exponents, 0, (size_t)cg->graph->value_count * sizeof *cg->exponents);
}

static void function_attribute(Codegen *cg, LLVMValueRef function, const char *name) {
    unsigned kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
    LLVMAddAttributeAtIndex(function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex, LLVMCreateEnumAttribute(cg->context, kind, 0));
}

/* intc_kernel of runtime/abi.h; the numbers are those of its parameters. */
enum { ARENA, TABLE, BEGIN, END, SLOT };

static LLVMTypeRef kernel_type(const Codegen *cg) {
    LLVMTypeRef params[] = {cg->ptr, cg->ptr, cg->i64, cg->i64, cg->i64};
    return LLVMFunctionType(cg->none, params, sizeof params / sizeof *params, false);
}

void kernel_begin(Codegen *cg, const Node *node, const char *suffix) {
    cg->entry_block = LLVMGetInsertBlock(cg->builder);
    cg->entry_head = cg->head;
    cg->node = node;
    cg->suffix = suffix;
    cg->kernel = LLVMAddFunction(cg->module, "kernel", kernel_type(cg));
    LLVMSetLinkage(cg->kernel, LLVMInternalLinkage);
    function_attribute(cg, cg->kernel, "nounwind");
    /* LLVM's choice for Intel's CPUs is half of a register. */
    if (target_has(cg, "avx512vnni"))
        LLVMAddAttributeAtIndex(cg->kernel, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                                LLVMCreateStringAttribute(cg->context, "prefer-vector-width", 19, "512", 3));
    /* Alias scopes have the same names in all kernels. */
    function_attribute(cg, cg->kernel, "noinline");
    LLVMAttributeRef align = LLVMCreateEnumAttribute(cg->context, LLVMGetEnumAttributeKindForName("align", 5), INTC_ARENA_ALIGN);
    LLVMAddAttributeAtIndex(cg->kernel, 1, align);
    cg->arena = LLVMGetParam(cg->kernel, ARENA);
    cg->table = LLVMGetParam(cg->kernel, TABLE);
    cg->begin = LLVMGetParam(cg->kernel, BEGIN);
    cg->end = LLVMGetParam(cg->kernel, END);
    cg->region_count = cg->access_count = cg->place_count = cg->byte_table_count = 0;
    cg->slotted = false;
    cg->turned = 0;
    function_start(cg, cg->kernel);
}

void kernel_for_few(Codegen *cg) {
    function_attribute(cg, cg->kernel, "optsize");
}

void kernel_turn(Codegen *cg, int64_t images) {
    cg->turned = images > 1 ? images : 0;
}

static bool regions_overlap(Region a, Region b) {
    return a.offset < b.offset + b.size && b.offset < a.offset + a.size;
}

/* Which region each access touches and which regions overlap: what mark_all goes by. */
static const char *access_pattern(Codegen *cg) {
    size_t room = (size_t)cg->access_count * 4 + (size_t)(cg->region_count * cg->region_count) + 2, at = 0;
    char *text = arena_alloc(cg->memory, room, 1);
    for (int i = 0; i < cg->access_count; i++)
        at += (size_t)snprintf(text + at, room - at, "%d,", cg->accesses[i].region);
    for (int i = 0; i < cg->region_count; i++)
        for (int j = 0; j < i; j++)
            text[at++] = regions_overlap(cg->regions[i], cg->regions[j]) ? '1' : '0';
    text[at] = '\0';
    return text;
}

/* Gives every recorded access its alias scope, and the scopes of all disjoint regions as those it does not alias. */
static void mark_all(Codegen *cg) {
    LLVMContextRef context = cg->context;
    unsigned scope_kind = LLVMGetMDKindIDInContext(context, "alias.scope", 11), none_kind = LLVMGetMDKindIDInContext(context, "noalias", 7);
    LLVMMetadataRef domain_name = LLVMMDStringInContext2(context, "kernel", 6);
    LLVMMetadataRef domain = LLVMMDNodeInContext2(context, &domain_name, 1);
    LLVMMetadataRef scopes[MAX_REGIONS];
    for (int i = 0; i < cg->region_count; i++) {
        const char *text = arena_printf(cg->memory, "region.%d", i);
        LLVMMetadataRef parts[2] = {LLVMMDStringInContext2(context, text, strlen(text)), domain};
        scopes[i] = LLVMMDNodeInContext2(context, parts, 2);
    }
    LLVMValueRef own[MAX_REGIONS], others[MAX_REGIONS];
    for (int i = 0; i < cg->region_count; i++) {
        LLVMMetadataRef disjoint[MAX_REGIONS];
        size_t count = 0;
        for (int j = 0; j < cg->region_count; j++)
            if (!regions_overlap(cg->regions[i], cg->regions[j]))
                disjoint[count++] = scopes[j];
        own[i] = LLVMMetadataAsValue(context, LLVMMDNodeInContext2(context, &scopes[i], 1));
        others[i] = count == 0 ? NULL : LLVMMetadataAsValue(context, LLVMMDNodeInContext2(context, disjoint, count));
    }
    for (int i = 0; i < cg->access_count; i++) {
        Access access = cg->accesses[i];
        LLVMSetMetadata(access.instruction, scope_kind, own[access.region]);
        if (others[access.region] != NULL)
            LLVMSetMetadata(access.instruction, none_kind, others[access.region]);
    }
}

/* For profiles: the operator of the model that a node comes from, else the value that it makes. */
static const char *origin_text(Codegen *cg, const Node *node) {
    if (node == NULL)
        return "";
    const Origin *origin = &node->origin;
    const Value *made = node->out[0];
    if (origin->name == NULL)
        return made->onnx_name != NULL ? made->onnx_name : made->name;
    return arena_printf(cg->memory, "%s%s%s", origin->op_type != NULL ? origin->op_type : "", origin->op_type != NULL ? " " : "",
                        origin->name);
}

static int64_t slot_count(int64_t tiles) {
    return tiles < INTC_SLOTS ? tiles : INTC_SLOTS;
}

void kernel_end(Codegen *cg, int64_t tiles, int64_t work) {
    LLVMBuildRetVoid(cg->builder);
    const char *op = cg->node != NULL ? op_info(cg->node->op)->name : "entry", *dot = *cg->suffix != '\0' ? "." : "";
    const char *name = arena_printf(cg->memory, "%s%s%s", op, dot, cg->suffix);
    LLVMValueRef kernel = share_function(cg, cg->kernel, access_pattern(cg), name);
    if (kernel == cg->kernel)
        mark_all(cg);
    cg->kernel = NULL;
    cg->function = cg->entry;
    cg->head = cg->entry_head;
    cg->arena = cg->table = cg->begin = cg->end = NULL;
    memset(cg->exponents, 0, (size_t)cg->graph->value_count * sizeof *cg->exponents);
    LLVMPositionBuilderAtEnd(cg->builder, cg->entry_block);
    int64_t threads = cg->slotted ? slot_count(tiles) : INT16_MAX;
    calls_add(cg, &(Call){.kernel = kernel,
                          .tiles = tiles,
                          .images = cg->turned,
                          .threads = tiles <= 1 || work < PARALLEL_WORK ? 1 : threads,
                          .name = name,
                          .origin = origin_text(cg, cg->node),
                          .gradient = cg->node != NULL && cg->node->origin.name != NULL && cg->node->origin.gradient});
}

static int64_t align_up(int64_t bytes) {
    return (bytes + INTC_ARENA_ALIGN - 1) / INTC_ARENA_ALIGN * INTC_ARENA_ALIGN;
}

static int output_count(const Graph *graph) {
    return graph != NULL ? graph->output_count : 0;
}

int64_t output_exponent_place(const Codegen *cg, const Output *output) {
    const ModuleSource *source = cg->source;
    const Graph *graphs[] = {source->step, source->calibrate, source->infer};
    int64_t at = align_up(source->arena_size);
    for (int g = 0; g < 3; g++) {
        int count = output_count(graphs[g]);
        if (count > 0 && output >= graphs[g]->outputs && output < graphs[g]->outputs + count)
            return at + 4 * (output - graphs[g]->outputs);
        at += 4 * count;
    }
    internal_error("codegen: output of no graph");
}

int64_t scratch_base(const Codegen *cg) {
    const ModuleSource *source = cg->source;
    int64_t outputs = output_count(source->step) + output_count(source->calibrate) + output_count(source->infer);
    return align_up(source->arena_size) + align_up(4 * outputs);
}

int64_t scratch_alloc(Codegen *cg, int64_t bytes) {
    int64_t at = scratch_base(cg) + cg->scratch;
    cg->scratch += align_up(bytes);
    if (cg->scratch > cg->scratch_size)
        cg->scratch_size = cg->scratch;
    return at;
}

int64_t slots_bytes(int64_t bytes, int64_t tiles) {
    return slot_count(tiles) * align_up(bytes);
}

int64_t slots_alloc(Codegen *cg, int64_t bytes, int64_t tiles) {
    return scratch_alloc(cg, slots_bytes(bytes, tiles));
}

LLVMValueRef slot_at(Codegen *cg, int64_t slots, int64_t bytes) {
    cg->slotted = true;
    LLVMValueRef offset = mul_by(cg, LLVMGetParam(cg->kernel, SLOT), align_up(bytes));
    return LLVMBuildInBoundsGEP2(cg->builder, cg->i8, arena_at(cg, slots), &offset, 1, "");
}

/* --- constants, types --- */

LLVMValueRef const32(const Codegen *cg, int64_t x) {
    return LLVMConstInt(cg->i32, (unsigned long long)x, true);
}

LLVMValueRef const64(const Codegen *cg, int64_t x) {
    return LLVMConstInt(cg->i64, (unsigned long long)x, true);
}

LLVMTypeRef element_type(const Codegen *cg, Type type) {
    switch (type) {
    case T_I8:
        return cg->i8;
    case T_I16:
        return cg->i16;
    case T_I32:
        return cg->i32;
    case T_I64:
        return cg->i64;
    case T_REAL:
        return cg->f32;
    }
    internal_error("codegen met a value without a type");
}

bool target_has(const Codegen *cg, const char *feature) {
    size_t length = strlen(feature);
    bool has = false;
    for (const char *at = cg->features; *at != '\0';) {
        const char *end = strchr(at, ',');
        size_t size = end == NULL ? strlen(at) : (size_t)(end - at);
        if (size == length + 1 && memcmp(at + 1, feature, length) == 0)
            has = *at == '+';
        at += size + (end != NULL);
    }
    return has;
}

bool target_is_avx2(const Codegen *cg) {
    return target_has(cg, "avx2") && !target_has(cg, "avx512bw");
}

/* --- memory --- */

void place_add(Codegen *cg, int64_t number) {
    if (cg->place_count == MAX_PLACES)
        internal_error("codegen: a kernel of more than %d places", MAX_PLACES);
    cg->places[cg->place_count++] = (PlaceEntry){number, NULL};
}

LLVMValueRef listed_place(Codegen *cg, LLVMValueRef index) {
    LLVMTypeRef type = place_type(cg);
    LLVMValueRef address = LLVMBuildInBoundsGEP2(cg->builder, type, cg->table, &index, 1, "");
    return as_bits(cg, LLVMBuildLoad2(cg->builder, type, address, ""), 64);
}

/* Loads the next entry of the table; the builder is in the head. */
static LLVMValueRef place_load(Codegen *cg, int64_t number) {
    LLVMValueRef place = listed_place(cg, const64(cg, cg->place_count));
    place_add(cg, number);
    return place;
}

LLVMValueRef node_number(Codegen *cg, int64_t number) {
    return place_load(cg, number);
}

LLVMValueRef arena_at(Codegen *cg, int64_t offset) {
    if (cg->kernel == NULL)
        internal_error("codegen: memory is used outside kernels");
    for (int i = 0; i < cg->place_count; i++)
        if (cg->places[i].address != NULL && cg->places[i].number == offset)
            return cg->places[i].address;
    LLVMBasicBlockRef saved = head_enter(cg);
    LLVMValueRef index = place_load(cg, offset);
    PlaceEntry *place = &cg->places[cg->place_count - 1];
    place->address = LLVMBuildInBoundsGEP2(cg->builder, cg->i8, cg->arena, &index, 1, "");
    head_leave(cg, saved);
    return place->address;
}

int64_t value_bytes(const Value *value) {
    return shape_elements(value->shape) * type_bytes(value->type);
}

void mark_access(Codegen *cg, LLVMValueRef instruction, int64_t offset, int64_t size) {
    if (cg->function != cg->kernel || cg->access_count == MAX_ACCESSES || LLVMIsAInstruction(instruction) == NULL)
        return;
    int region = 0;
    while (region < cg->region_count && (cg->regions[region].offset != offset || cg->regions[region].size != size))
        region++;
    if (region == cg->region_count) {
        if (region == MAX_REGIONS)
            return;
        cg->regions[cg->region_count++] = (Region){offset, size};
    }
    cg->accesses[cg->access_count++] = (Access){instruction, region};
}

LLVMValueRef load_at(Codegen *cg, int64_t offset, int64_t size, LLVMTypeRef type, LLVMTypeRef element, LLVMValueRef index, unsigned align) {
    LLVMValueRef base = arena_at(cg, offset);
    LLVMValueRef address = LLVMBuildInBoundsGEP2(cg->builder, element, base, &index, 1, "");
    LLVMValueRef load = LLVMBuildLoad2(cg->builder, type, address, "");
    LLVMSetAlignment(load, align);
    mark_access(cg, load, offset, size);
    return load;
}

void store_at(Codegen *cg, int64_t offset, int64_t size, LLVMTypeRef element, LLVMValueRef index, LLVMValueRef x, unsigned align) {
    LLVMValueRef base = arena_at(cg, offset);
    LLVMValueRef address = LLVMBuildInBoundsGEP2(cg->builder, element, base, &index, 1, "");
    LLVMValueRef store = LLVMBuildStore(cg->builder, x, address);
    LLVMSetAlignment(store, align);
    mark_access(cg, store, offset, size);
}

LLVMValueRef load_element(Codegen *cg, const Value *value, LLVMValueRef index) {
    LLVMTypeRef type = element_type(cg, value->type);
    if (value == cg->near) {
        LLVMValueRef load = LLVMBuildLoad2(cg->builder, type, LLVMBuildGEP2(cg->builder, type, cg->near_at, &index, 1, ""), "");
        LLVMSetAlignment(load, (unsigned)type_bytes(value->type));
        mark_access(cg, load, cg->near_region.offset, cg->near_region.size);
        return load;
    }
    if (value->offset < 0)
        internal_error("codegen: value %s is read but not stored", value->name);
    return load_at(cg, value->offset, value_bytes(value), type, type, index, (unsigned)type_bytes(value->type));
}

LLVMValueRef load_as(Codegen *cg, const Value *value, LLVMValueRef index, int bits) {
    return as_bits(cg, load_element(cg, value, index), bits);
}

void store_element(Codegen *cg, const Value *value, LLVMValueRef index, LLVMValueRef x) {
    LLVMTypeRef type = element_type(cg, value->type);
    if (value->offset < 0)
        internal_error("codegen: value %s has no place", value->name);
    store_at(cg, value->offset, value_bytes(value), type, index, as_bits(cg, x, type_bytes(value->type) * 8),
             (unsigned)type_bytes(value->type));
}

/* Leaves the builder where it was: at the end of its block, or before the head's terminator. */
static LLVMValueRef stack_place(Codegen *cg, LLVMTypeRef type, LLVMValueRef count) {
    LLVMBasicBlockRef saved = LLVMGetInsertBlock(cg->builder);
    LLVMPositionBuilderBefore(cg->builder, LLVMGetFirstInstruction(cg->head));
    LLVMValueRef place = count == NULL ? LLVMBuildAlloca(cg->builder, type, "") : LLVMBuildArrayAlloca(cg->builder, type, count, "");
    LLVMPositionBuilderAtEnd(cg->builder, saved);
    if (saved == cg->head)
        LLVMPositionBuilderBefore(cg->builder, LLVMGetBasicBlockTerminator(saved));
    return place;
}

LLVMValueRef local_new(Codegen *cg, LLVMTypeRef type, LLVMValueRef init) {
    LLVMValueRef local = stack_place(cg, type, NULL);
    LLVMBuildStore(cg->builder, init, local);
    return local;
}

LLVMValueRef local_get(Codegen *cg, LLVMTypeRef type, LLVMValueRef local) {
    return LLVMBuildLoad2(cg->builder, type, local, "");
}

void local_set(Codegen *cg, LLVMValueRef local, LLVMValueRef x) {
    LLVMBuildStore(cg->builder, x, local);
}

LLVMValueRef local_array(Codegen *cg, LLVMTypeRef type, int64_t count) {
    return stack_place(cg, type, const64(cg, count));
}

/* --- control flow --- */

static LLVMBasicBlockRef block_new(Codegen *cg, const char *name) {
    return LLVMAppendBasicBlockInContext(cg->context, cg->function, name);
}

Loop loop_begin_step(Codegen *cg, LLVMValueRef begin, LLVMValueRef end, int64_t step) {
    Loop loop = {.body = block_new(cg, "loop"), .step = const64(cg, step)};
    LLVMBasicBlockRef exit = block_new(cg, "done");
    LLVMBasicBlockRef before = LLVMGetInsertBlock(cg->builder);
    loop.exit = exit;
    LLVMValueRef any = LLVMBuildICmp(cg->builder, LLVMIntSLT, begin, end, "");
    LLVMBuildCondBr(cg->builder, any, loop.body, exit);
    LLVMPositionBuilderAtEnd(cg->builder, loop.body);
    loop.index = LLVMBuildPhi(cg->builder, cg->i64, "");
    LLVMAddIncoming(loop.index, &begin, &before, 1);
    loop.end = end;
    return loop;
}

Loop loop_begin(Codegen *cg, LLVMValueRef begin, LLVMValueRef end) {
    return loop_begin_step(cg, begin, end, 1);
}

static LLVMMetadataRef loop_wish(Codegen *cg, const char *name, int64_t number) {
    LLVMMetadataRef pair[] = {LLVMMDStringInContext2(cg->context, name, strlen(name)), LLVMValueAsMetadata(const32(cg, number))};
    return LLVMMDNodeInContext2(cg->context, pair, 2);
}

/* LLVM knows a loop by a list that begins with itself. */
static void wish_vectors(Codegen *cg, LLVMValueRef branch, Vectors vectors) {
    static const char kind[] = "llvm.loop";
    LLVMMetadataRef itself = LLVMTemporaryMDNode(cg->context, NULL, 0);
    LLVMMetadataRef list[] = {itself, loop_wish(cg, "llvm.loop.vectorize.width", vectors.lanes),
                              loop_wish(cg, "llvm.loop.interleave.count", vectors.together)};
    LLVMMetadataRef loop = LLVMMDNodeInContext2(cg->context, list, sizeof list / sizeof *list);
    LLVMMetadataReplaceAllUsesWith(itself, loop);
    LLVMSetMetadata(branch, LLVMGetMDKindIDInContext(cg->context, kind, sizeof kind - 1), LLVMMetadataAsValue(cg->context, loop));
}

void loop_end(Codegen *cg, Loop *loop) {
    LLVMValueRef next = LLVMBuildNSWAdd(cg->builder, loop->index, loop->step, "");
    LLVMValueRef more = LLVMBuildICmp(cg->builder, LLVMIntSLT, next, loop->end, "");
    LLVMBasicBlockRef last = LLVMGetInsertBlock(cg->builder);
    LLVMValueRef branch = LLVMBuildCondBr(cg->builder, more, loop->body, loop->exit);
    if (loop->vectors.lanes > 0)
        wish_vectors(cg, branch, loop->vectors);
    LLVMAddIncoming(loop->index, &next, &last, 1);
    LLVMMoveBasicBlockAfter(loop->exit, last);
    LLVMPositionBuilderAtEnd(cg->builder, loop->exit);
}

Branch if_begin(Codegen *cg, LLVMValueRef condition) {
    LLVMBasicBlockRef then = block_new(cg, "then");
    Branch branch = {.otherwise = block_new(cg, "else"), .exit = block_new(cg, "endif")};
    LLVMBuildCondBr(cg->builder, condition, then, branch.otherwise);
    LLVMPositionBuilderAtEnd(cg->builder, then);
    return branch;
}

void if_else(Codegen *cg, Branch *branch) {
    LLVMBuildBr(cg->builder, branch->exit);
    LLVMPositionBuilderAtEnd(cg->builder, branch->otherwise);
    branch->otherwise = NULL;
}

void if_end(Codegen *cg, Branch *branch) {
    if (branch->otherwise != NULL)
        if_else(cg, branch);
    LLVMBuildBr(cg->builder, branch->exit);
    LLVMPositionBuilderAtEnd(cg->builder, branch->exit);
}

/* --- arithmetic --- */

bool is_float(LLVMValueRef x) {
    LLVMTypeRef type = LLVMTypeOf(x);
    if (LLVMGetTypeKind(type) == LLVMVectorTypeKind)
        type = LLVMGetElementType(type);
    return LLVMGetTypeKind(type) == LLVMFloatTypeKind || LLVMGetTypeKind(type) == LLVMDoubleTypeKind;
}

int bits_of(LLVMValueRef x) {
    return (int)LLVMGetIntTypeWidth(LLVMTypeOf(x));
}

LLVMValueRef const_like(LLVMValueRef x, int64_t value) {
    return is_float(x) ? LLVMConstReal(LLVMTypeOf(x), (double)value) : LLVMConstInt(LLVMTypeOf(x), (unsigned long long)value, true);
}

LLVMValueRef as_bits(Codegen *cg, LLVMValueRef x, int bits) {
    if (is_float(x))
        return x;
    LLVMTypeRef type = LLVMIntTypeInContext(cg->context, (unsigned)bits);
    int have = bits_of(x);
    return have == bits ? x : have < bits ? LLVMBuildSExt(cg->builder, x, type, "") : LLVMBuildTrunc(cg->builder, x, type, "");
}

LLVMValueRef as_unsigned(Codegen *cg, LLVMValueRef x, int bits) {
    LLVMTypeRef type = LLVMIntTypeInContext(cg->context, (unsigned)bits);
    int have = bits_of(x);
    return have == bits ? x : have < bits ? LLVMBuildZExt(cg->builder, x, type, "") : LLVMBuildTrunc(cg->builder, x, type, "");
}

LLVMValueRef add(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    return is_float(a) ? LLVMBuildFAdd(cg->builder, a, b, "") : LLVMBuildAdd(cg->builder, a, b, "");
}

LLVMValueRef add_term(Codegen *cg, LLVMValueRef sum, LLVMValueRef x) {
    LLVMValueRef next = add(cg, sum, x);
    if (is_float(next) && LLVMIsAInstruction(next) != NULL)
        LLVMSetFastMathFlags(next, LLVMFastMathAllowReassoc);
    return next;
}

LLVMValueRef sub(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    return is_float(a) ? LLVMBuildFSub(cg->builder, a, b, "") : LLVMBuildSub(cg->builder, a, b, "");
}

LLVMValueRef mul(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    return is_float(a) ? LLVMBuildFMul(cg->builder, a, b, "") : LLVMBuildMul(cg->builder, a, b, "");
}

LLVMValueRef add_const(Codegen *cg, LLVMValueRef a, int64_t b) {
    return b == 0 ? a : LLVMBuildAdd(cg->builder, a, const_like(a, b), "");
}

LLVMValueRef mul_by(Codegen *cg, LLVMValueRef a, int64_t b) {
    return b == 1 ? a : LLVMBuildMul(cg->builder, a, const_like(a, b), "");
}

LLVMValueRef udiv_by(Codegen *cg, LLVMValueRef a, int64_t b) {
    return b == 1 ? a : LLVMBuildUDiv(cg->builder, a, const_like(a, b), "");
}

LLVMValueRef urem_by(Codegen *cg, LLVMValueRef a, int64_t b) {
    return b == 1 ? const_like(a, 0) : LLVMBuildURem(cg->builder, a, const_like(a, b), "");
}

/* Comparisons with a NaN are false, != is true. */
static LLVMRealPredicate float_predicate(LLVMIntPredicate predicate) {
    switch (predicate) {
    case LLVMIntEQ:
        return LLVMRealOEQ;
    case LLVMIntNE:
        return LLVMRealUNE;
    case LLVMIntSGT:
        return LLVMRealOGT;
    case LLVMIntSGE:
        return LLVMRealOGE;
    case LLVMIntSLT:
        return LLVMRealOLT;
    case LLVMIntSLE:
        return LLVMRealOLE;
    default:
        internal_error("codegen: floats have no unsigned comparison");
    }
}

LLVMValueRef compare(Codegen *cg, LLVMIntPredicate predicate, LLVMValueRef a, LLVMValueRef b) {
    if (is_float(a))
        return LLVMBuildFCmp(cg->builder, float_predicate(predicate), a, b, "");
    return LLVMBuildICmp(cg->builder, predicate, a, b, "");
}

LLVMValueRef choose(Codegen *cg, LLVMValueRef condition, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildSelect(cg->builder, condition, a, b, "");
}

LLVMValueRef intrinsic(Codegen *cg, const char *name, LLVMTypeRef *overloads, int overload_count, LLVMValueRef *args, int arg_count) {
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
    if (id == 0)
        internal_error("LLVM has no intrinsic %s", name);
    LLVMValueRef function = LLVMGetIntrinsicDeclaration(cg->module, id, overloads, (size_t)overload_count);
    LLVMTypeRef type = LLVMIntrinsicGetType(cg->context, id, overloads, (size_t)overload_count);
    return LLVMBuildCall2(cg->builder, type, function, args, (unsigned)arg_count, "");
}

void fetch_line(Codegen *cg, LLVMValueRef address) {
    enum { TO_READ = 0, NEAREST_CACHE = 3, DATA = 1 };
    LLVMValueRef args[] = {address, const32(cg, TO_READ), const32(cg, NEAREST_CACHE), const32(cg, DATA)};
    intrinsic(cg, "llvm.prefetch", &cg->ptr, 1, args, 4);
}

static LLVMValueRef binary_intrinsic(Codegen *cg, const char *name, LLVMValueRef a, LLVMValueRef b) {
    LLVMTypeRef type = LLVMTypeOf(a);
    return intrinsic(cg, name, &type, 1, (LLVMValueRef[]){a, b}, 2);
}

LLVMValueRef smin(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    return binary_intrinsic(cg, "llvm.smin", a, b);
}

LLVMValueRef smax(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    return binary_intrinsic(cg, "llvm.smax", a, b);
}

LLVMValueRef umin(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    return binary_intrinsic(cg, "llvm.umin", a, b);
}

LLVMValueRef umax(Codegen *cg, LLVMValueRef a, LLVMValueRef b) {
    return binary_intrinsic(cg, "llvm.umax", a, b);
}

LLVMValueRef magnitude(Codegen *cg, LLVMValueRef a) {
    return binary_intrinsic(cg, "llvm.abs", a, LLVMConstInt(cg->i1, 0, false));
}

LLVMValueRef negate(Codegen *cg, LLVMValueRef a) {
    return is_float(a) ? LLVMBuildFNeg(cg->builder, a, "") : LLVMBuildNeg(cg->builder, a, "");
}
