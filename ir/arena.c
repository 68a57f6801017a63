/* Arena: a list of chunks, bump-allocated. Before: nothing. After: pointers stay valid until arena_free. */
#include "ir/arena.h"

#include "ir/diag.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Chunk Chunk;
struct Chunk {
    Chunk *next;
    size_t used, size;
    _Alignas(16) unsigned char bytes[];
};

struct Arena {
    Chunk *chunks;
};

enum { CHUNK_SIZE = 1 << 16 };

Arena *arena_new(void) {
    Arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL)
        internal_error("out of memory");
    return arena;
}

void arena_free(Arena *arena) {
    if (arena == NULL)
        return;
    for (Chunk *chunk = arena->chunks, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    free(arena);
}

void *arena_alloc(Arena *arena, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2)
        internal_error("allocation of %zu elements of %zu bytes", count, size);
    bytes = (bytes + 15) & ~(size_t)15;
    Chunk *chunk = arena->chunks;
    if (chunk == NULL || chunk->size - chunk->used < bytes) {
        size_t room = bytes > CHUNK_SIZE ? bytes : CHUNK_SIZE;
        chunk = calloc(1, sizeof *chunk + room);
        if (chunk == NULL)
            internal_error("out of memory for %zu bytes", bytes);
        chunk->size = room;
        chunk->next = arena->chunks;
        arena->chunks = chunk;
    }
    void *memory = chunk->bytes + chunk->used;
    chunk->used += bytes;
    return memory;
}

char *arena_strdup(Arena *arena, const char *text) {
    size_t length = strlen(text) + 1;
    return memcpy(arena_alloc(arena, length, 1), text, length);
}

char *arena_printf(Arena *arena, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        internal_error("format '%s'", format);
    char *text = arena_alloc(arena, (size_t)length + 1, 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}
