/* A hash map from names to pointers, in an arena. Before: the most entries it will hold. After: lookups in insertion-independent order
 * only. */
#include "frontend/importer.h"

#include <string.h>

struct NameMap {
    size_t mask;
    const char **keys;
    void **values;
};

NameMap *names_new(Arena *arena, size_t entries) {
    NameMap *map = arena_alloc(arena, 1, sizeof *map);
    size_t room = 16;
    while (room < 2 * entries)
        room *= 2;
    map->mask = room - 1;
    map->keys = arena_alloc(arena, room, sizeof *map->keys);
    map->values = arena_alloc(arena, room, sizeof *map->values);
    return map;
}

static size_t place_of(const NameMap *map, const char *name) {
    uint64_t hash = 14695981039346656037u;
    for (const char *at = name; *at != '\0'; at++)
        hash = (hash ^ (uint8_t)*at) * 1099511628211u;
    size_t place = (size_t)(hash ^ hash >> 29) & map->mask;
    while (map->keys[place] != NULL && strcmp(map->keys[place], name) != 0)
        place = (place + 1) & map->mask;
    return place;
}

void *names_get(const NameMap *map, const char *name) {
    return map->values[place_of(map, name)];
}

void names_set(NameMap *map, const char *name, void *value) {
    size_t place = place_of(map, name);
    map->keys[place] = name;
    map->values[place] = value;
}
