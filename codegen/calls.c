/* The tables of a module that grow with its kernels' calls: struct intc_call of runtime/abi.h, and the places that the kernels are to read.
 * They become data in calls_close. */
#include "codegen/emit.h"

#include <string.h>

/* At least `count` items more, in the memory of the emission. */
static void *grown(const Codegen *cg, void *items, int have, int *room, int count, size_t size) {
    if (have + count <= *room)
        return items;
    *room = 2 * (have + count);
    void *more = arena_alloc(cg->memory, (size_t)*room, size);
    if (have > 0)
        memcpy(more, items, (size_t)have * size);
    return more;
}

void calls_add(Codegen *cg, const Call *call) {
    PlacesTable *all = &cg->all_places;
    all->numbers = grown(cg, all->numbers, all->count, &all->room, cg->place_count, sizeof *all->numbers);
    cg->calls.rows = grown(cg, cg->calls.rows, cg->calls.count, &cg->calls.room, 1, sizeof *cg->calls.rows);
    Call *row = &cg->calls.rows[cg->calls.count++];
    *row = *call;
    row->first_place = all->count;
    for (int i = 0; i < cg->place_count; i++)
        all->numbers[all->count++] = cg->places[i].number;
}

void calls_repeat(Codegen *cg, int first) {
    cg->calls.rows[cg->calls.count - 1].again = cg->calls.count - 1 - first;
}

/* --- as data --- */

/* Where the arena is small, so are all offsets, and numbers of nodes count elements of it or less. */
LLVMTypeRef place_type(const Codegen *cg) {
    enum { SMALL = 1 << 30 };
    return scratch_base(cg) < SMALL ? cg->i32 : cg->i64;
}

static LLVMValueRef fitting(LLVMTypeRef type, int64_t x) {
    unsigned bits = LLVMGetIntTypeWidth(type);
    if (bits < 64 && (x < -((int64_t)1 << (bits - 1)) || x >= (int64_t)1 << (bits - 1)))
        internal_error("codegen: a number of a call has more than %u bits", bits);
    return LLVMConstInt(type, (unsigned long long)x, true);
}

static LLVMValueRef table_global(Codegen *cg, LLVMTypeRef item, int count, const char *name) {
    LLVMValueRef table = LLVMAddGlobal(cg->module, LLVMArrayType2(item, (uint64_t)count), name);
    LLVMSetGlobalConstant(table, true);
    LLVMSetLinkage(table, LLVMPrivateLinkage);
    LLVMSetAlignment(table, INTC_ARENA_ALIGN);
    return table;
}

static LLVMValueRef item_address(const Codegen *cg, LLVMTypeRef item, LLVMValueRef table, int index) {
    LLVMValueRef at = const64(cg, index);
    return LLVMConstInBoundsGEP2(item, table, &at, 1);
}

static LLVMValueRef places_data(Codegen *cg) {
    LLVMTypeRef type = place_type(cg);
    int count = cg->all_places.count;
    LLVMValueRef *items = arena_alloc(cg->memory, (size_t)count + 1, sizeof *items), table = table_global(cg, type, count, "places");
    for (int i = 0; i < count; i++)
        items[i] = fitting(type, cg->all_places.numbers[i]);
    LLVMSetInitializer(table, LLVMConstArray2(type, items, (uint64_t)count));
    return table;
}

/* The 32 bits that lead from `here` to `there`. */
static LLVMValueRef distance(const Codegen *cg, LLVMValueRef there, LLVMValueRef here) {
    LLVMTargetDataRef layout = LLVMGetModuleDataLayout(cg->module);
    LLVMTypeRef whole = LLVMIntPtrTypeInContext(cg->context, layout);
    LLVMValueRef bytes = LLVMConstSub(LLVMConstPtrToInt(there, whole), LLVMConstPtrToInt(here, whole));
    return LLVMGetIntTypeWidth(whole) > 32 ? LLVMConstTrunc(bytes, cg->i32) : bytes;
}

LLVMTypeRef call_type(const Codegen *cg) {
    LLVMTypeRef fields[] = {cg->i32, cg->i32, cg->i32, cg->i32, cg->i64, cg->i32, cg->i16, cg->i8, cg->i8};
    return LLVMStructTypeInContext(cg->context, fields, sizeof fields / sizeof *fields, false);
}

static LLVMValueRef call_data(Codegen *cg, const Call *call, LLVMValueRef here, LLVMValueRef places) {
    LLVMValueRef fields[] = {distance(cg, call->kernel, here),
                             distance(cg, item_address(cg, place_type(cg), places, call->first_place), here),
                             distance(cg, const_text(cg, call->name), here),
                             distance(cg, const_text(cg, call->origin), here),
                             const64(cg, call->tiles),
                             fitting(cg->i32, call->images),
                             fitting(cg->i16, call->threads),
                             fitting(cg->i8, call->again),
                             fitting(cg->i8, call->gradient)};
    return LLVMConstStructInContext(cg->context, fields, sizeof fields / sizeof *fields, false);
}

void calls_close(Codegen *cg) {
    LLVMTypeRef type = call_type(cg);
    int count = cg->calls.count;
    LLVMValueRef *items = arena_alloc(cg->memory, (size_t)count + 1, sizeof *items), places = places_data(cg);
    cg->calls.address = table_global(cg, type, count, "calls");
    for (int i = 0; i < count; i++)
        items[i] = call_data(cg, &cg->calls.rows[i], item_address(cg, type, cg->calls.address, i), places);
    LLVMSetInitializer(cg->calls.address, LLVMConstArray2(type, items, (uint64_t)count));
}
