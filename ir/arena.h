/* One arena per compilation: everything of a graph lives until the arena is freed. Allocation failure ends in the internal-error path. */
#ifndef INTC_IR_ARENA_H
#define INTC_IR_ARENA_H

#include <stddef.h>

typedef struct Arena Arena;

Arena *arena_new(void);
void arena_free(Arena *arena);
/* count * size zeroed bytes, aligned to 16; the product is checked. */
void *arena_alloc(Arena *arena, size_t count, size_t size);
char *arena_strdup(Arena *arena, const char *text);
char *arena_printf(Arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
