/* The header of NumPy's .npy files, versions 1 to 3 (NEP 1): a Python dictionary with descr, fortran_order and shape. */
#include "runtime/runtime.h"

#include <string.h>

/* The text after 'key': in the header, or NULL. */
static const char *find_key(const char *header, const char *key) {
    char quoted[32];
    for (int q = 0; q < 2; q++) {
        snprintf(quoted, sizeof quoted, q ? "\"%s\"" : "'%s'", key);
        const char *at = strstr(header, quoted);
        if (!at)
            continue;
        at += strlen(quoted);
        at += strspn(at, " :");
        return at;
    }
    return NULL;
}

static bool parse_type(const char *at, DataShape *shape) {
    static const struct {
        const char *code;
        DataType type;
    } codes[] = {{"u1", DATA_U8},  {"i1", DATA_I8},  {"b1", DATA_I8},  {"i2", DATA_I16}, {"i4", DATA_I32},
                 {"i8", DATA_I64}, {"f2", DATA_F16}, {"f4", DATA_F32}, {"f8", DATA_F64}};
    if (*at != '\'' && *at != '"')
        return false;
    char quote = *at++, order = *at++;
    if (!order || !strchr("<>|=", order))
        return false;
    const uint16_t one = 1;
    bool little_machine = *(const unsigned char *)&one == 1;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (memcmp(at, codes[i].code, 2) == 0 && at[2] == quote) {
            shape->type = codes[i].type;
            shape->swap = order == (little_machine ? '>' : '<');
            return true;
        }
    return false;
}

/* (60000, 28, 28): the first is the number of rows. */
static bool parse_shape(const char *at, DataShape *shape) {
    if (*at++ != '(')
        return false;
    int rank = 0;
    for (;;) {
        at += strspn(at, " ");
        if (*at == ')')
            break;
        int64_t value = 0;
        if (*at < '0' || *at > '9' || rank == 9)
            return false;
        for (; *at >= '0' && *at <= '9'; at++)
            if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *at - '0', &value))
                return false;
        at += strspn(at, " ");
        if (*at == ',')
            at++;
        else if (*at != ')')
            return false;
        if (rank == 0)
            shape->rows = value;
        else
            shape->dim[rank - 1] = value;
        rank++;
    }
    shape->rank = rank - 1;
    return rank >= 1;
}

static bool row_size(DataShape *shape) {
    shape->row_stride = intc_rt_data_type_size(shape->type);
    for (int i = 0; i < shape->rank; i++)
        if (__builtin_mul_overflow(shape->row_stride, shape->dim[i], &shape->row_stride))
            return false;
    return true;
}

bool intc_rt_npy_open(DataFile *file, Error *error) {
    enum { HEADER_ROOM = 4096 };
    char header[HEADER_ROOM];
    const unsigned char *map = file->map;
    size_t start = file->size > 6 && map[6] >= 2 ? 12 : 10;
    if (file->size < start)
        return intc_rt_fail(error, "%s: truncated: the .npy header needs %zu bytes, the file has %zu", file->path, start, file->size);
    size_t length = map[8] | (size_t)map[9] << 8;
    if (start == 12)
        length |= (size_t)map[10] << 16 | (size_t)map[11] << 24;
    if (length >= HEADER_ROOM)
        return intc_rt_fail(error, "%s: expected a .npy header below %d bytes, found %zu", file->path, HEADER_ROOM, length);
    if (file->size - start < length)
        return intc_rt_fail(error, "%s: truncated: the .npy header needs %zu bytes, the file has %zu", file->path, start + length,
                            file->size);
    memcpy(header, map + start, length);
    header[length] = 0;
    const char *type = find_key(header, "descr"), *order = find_key(header, "fortran_order"), *dims = find_key(header, "shape");
    if (!type || !order || !dims)
        return intc_rt_fail(error, "%s: the .npy header lacks descr, fortran_order or shape", file->path);
    DataShape *shape = &file->shape;
    if (!parse_type(type, shape))
        return intc_rt_fail(error, "%s: expected type uint8, int8, int16, int32, int64, float16, float32 or float64, found %.*s",
                            file->path, (int)strcspn(type, ","), type);
    if (!parse_shape(dims, shape))
        return intc_rt_fail(error, "%s: expected a shape of 1 to 9 dimensions, found %.*s", file->path, (int)strcspn(dims, ")") + 1, dims);
    if (strncmp(order, "False", 5) != 0 && shape->rank > 0)
        return intc_rt_fail(error, "%s: fortran_order: expected False, found %.4s; write it with numpy.ascontiguousarray", file->path,
                            order);
    shape->first = (int64_t)(start + length);
    int64_t bytes;
    if (!row_size(shape) || !intc_rt_data_bytes(shape, &bytes))
        return intc_rt_fail(error, "%s: the shape in the .npy header is too large", file->path);
    if ((uint64_t)bytes != file->size)
        return intc_rt_fail(error, "%s: %s: its .npy header asks for %lld bytes, the file has %zu", file->path,
                            (uint64_t)bytes > file->size ? "truncated" : "too long", (long long)bytes, file->size);
    return true;
}
