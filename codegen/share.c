/* Equal functions and tables are emitted once: most networks repeat a few shapes, and LLVM takes nearly all of the time of a compilation.
 * Functions are compared by their bodies (fingerprint.c), before alias scopes are attached and before any pass. */
#include "codegen/emit.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 256 };

struct Shared {
    uint64_t hash;
    LLVMValueRef value; /* NULL: free */
    const char *text;   /* of a string; NULL: a function or table */
    const int64_t *data;
    size_t count;
    LLVMTypeRef type; /* of the function, or of the table's elements */
};

static uint64_t hash_bytes(const void *data, size_t size) {
    const unsigned char *bytes = data;
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 0x100000001B3u;
    return hash;
}

static uint64_t hash_words(const int64_t *data, size_t count) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ (uint64_t)data[i]) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    return hash;
}

static const int64_t *keep_words(const Codegen *cg, const int64_t *data, size_t count) {
    int64_t *copy = arena_alloc(cg->memory, count + 1, sizeof *copy);
    memcpy(copy, data, count * sizeof *copy);
    return copy;
}

static bool same(const Shared *a, const Shared *b) {
    if (a->hash != b->hash || (a->text == NULL) != (b->text == NULL))
        return false;
    if (a->text == NULL)
        return a->count == b->count && a->type == b->type && memcmp(a->data, b->data, a->count * sizeof *a->data) == 0;
    return strcmp(a->text, b->text) == 0;
}

/* The entry equal to `wanted`, or the free one where it belongs. */
static Shared *find(const Codegen *cg, const Shared *wanted) {
    size_t mask = (size_t)cg->shared_room - 1, at = (size_t)(wanted->hash ^ wanted->hash >> 32) & mask;
    while (cg->shared[at].value != NULL && !same(&cg->shared[at], wanted))
        at = (at + 1) & mask;
    return &cg->shared[at];
}

static void make_room(Codegen *cg) {
    if (2 * (cg->shared_count + 1) <= cg->shared_room)
        return;
    Shared *before = cg->shared;
    int room = cg->shared_room;
    cg->shared_room = room == 0 ? FIRST_ROOM : 2 * room;
    cg->shared = arena_alloc(cg->memory, (size_t)cg->shared_room, sizeof *cg->shared);
    memset(cg->shared, 0, (size_t)cg->shared_room * sizeof *cg->shared);
    for (int i = 0; i < room; i++)
        if (before[i].value != NULL)
            *find(cg, &before[i]) = before[i];
}

LLVMValueRef share_function(Codegen *cg, LLVMValueRef function, const char *extra, const char *name) {
    make_room(cg);
    size_t count;
    int64_t *words = function_fingerprint(function, extra, &count);
    Shared wanted = {.value = function, .data = words, .count = count, .type = LLVMGlobalGetValueType(function)};
    wanted.hash = hash_words(words, count);
    Shared *place = find(cg, &wanted);
    if (place->value != NULL) {
        free(words);
        LLVMDeleteFunction(function);
        return place->value;
    }
    *place = wanted;
    place->data = keep_words(cg, words, count);
    free(words);
    const char *unique = arena_printf(cg->memory, "%s.%d", name, cg->shared_count++);
    LLVMSetValueName2(function, unique, strlen(unique));
    return function;
}

LLVMValueRef const_bytes(Codegen *cg, const void *bytes, int64_t size) {
    if (size == 0)
        return LLVMConstPointerNull(cg->ptr);
    LLVMValueRef init = LLVMConstStringInContext2(cg->context, bytes, (size_t)size, true);
    LLVMValueRef global = LLVMAddGlobal(cg->module, LLVMTypeOf(init), "");
    LLVMSetInitializer(global, init);
    LLVMSetGlobalConstant(global, true);
    LLVMSetLinkage(global, LLVMPrivateLinkage);
    LLVMSetAlignment(global, size < INTC_ARENA_ALIGN ? 1 : 16);
    return global;
}

static LLVMValueRef new_table(Codegen *cg, LLVMTypeRef type, const int64_t *data, int count) {
    LLVMValueRef *items = arena_alloc(cg->memory, (size_t)count, sizeof *items);
    for (int i = 0; i < count; i++)
        items[i] = LLVMConstInt(type, (unsigned long long)data[i], true);
    LLVMValueRef init = LLVMConstArray2(type, items, (uint64_t)count);
    LLVMValueRef global = LLVMAddGlobal(cg->module, LLVMTypeOf(init), arena_printf(cg->memory, "table.%d", cg->shared_count++));
    LLVMSetInitializer(global, init);
    LLVMSetGlobalConstant(global, true);
    LLVMSetLinkage(global, LLVMPrivateLinkage);
    LLVMSetUnnamedAddress(global, LLVMGlobalUnnamedAddr);
    LLVMSetAlignment(global, INTC_ARENA_ALIGN);
    return global;
}

LLVMValueRef const_table(Codegen *cg, LLVMTypeRef type, const int64_t *data, int count) {
    make_room(cg);
    Shared wanted = {.type = type, .data = data, .count = (size_t)count};
    wanted.hash = hash_words(data, wanted.count);
    Shared *place = find(cg, &wanted);
    if (place->value != NULL)
        return place->value;
    *place = wanted;
    place->data = keep_words(cg, data, wanted.count);
    return place->value = new_table(cg, type, data, count);
}

LLVMValueRef const_text(Codegen *cg, const char *text) {
    make_room(cg);
    Shared wanted = {.text = arena_printf(cg->memory, "text %s", text)};
    wanted.hash = hash_bytes(wanted.text, strlen(wanted.text));
    Shared *place = find(cg, &wanted);
    if (place->value != NULL)
        return place->value;
    *place = wanted;
    cg->shared_count++;
    return place->value = const_bytes(cg, text, (int64_t)strlen(text) + 1);
}

LLVMValueRef share_variable(Codegen *cg, LLVMValueRef *variable, const char *name) {
    if (*variable == NULL) {
        *variable = LLVMAddGlobal(cg->module, cg->i32, name);
        LLVMSetLinkage(*variable, LLVMInternalLinkage);
        LLVMSetInitializer(*variable, const32(cg, 0));
    }
    return *variable;
}

static void close_guesses(Codegen *cg) {
    if (cg->guesses == NULL)
        return;
    LLVMTypeRef type = LLVMArrayType2(cg->i8, (uint64_t)cg->guess_count * GUESS_BYTES);
    LLVMValueRef whole = LLVMAddGlobal(cg->module, type, "guesses");
    LLVMSetInitializer(whole, LLVMConstNull(type));
    LLVMSetLinkage(whole, LLVMInternalLinkage);
    LLVMSetAlignment(whole, INTC_ARENA_ALIGN);
    LLVMReplaceAllUsesWith(cg->guesses, whole);
    LLVMDeleteGlobal(cg->guesses);
}

void share_close(Codegen *cg) {
    calls_close(cg);
    close_guesses(cg);
}
