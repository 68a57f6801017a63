/* Data sets: files mapped into memory, their format told by their contents. Rows are read in place; nothing is copied.
 * gzip files are decompressed into an unlinked temporary file first. */
#include "runtime/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    int size;
} types[] = {[DATA_U8] = {"uint8", 1},  [DATA_I8] = {"int8", 1},     [DATA_I16] = {"int16", 2},   [DATA_I32] = {"int32", 4},
             [DATA_I64] = {"int64", 8}, [DATA_F16] = {"float16", 2}, [DATA_F32] = {"float32", 4}, [DATA_F64] = {"float64", 8}};

const char *intc_rt_data_type_name(DataType type) {
    return types[type].name;
}

int intc_rt_data_type_size(DataType type) {
    return types[type].size;
}

const char *intc_rt_shape_text(int rank, const int64_t *dim, char *text, size_t room) {
    size_t used = 0;
    snprintf(text, room, "scalar");
    for (int i = 0; i < rank && used < room; i++)
        used += (size_t)snprintf(text + used, room - used, i ? "x%lld" : "%lld", (long long)dim[i]);
    return text;
}

bool intc_rt_data_bytes(const DataShape *shape, int64_t *bytes) {
    return !__builtin_mul_overflow(shape->rows, shape->row_stride, bytes) && !__builtin_add_overflow(*bytes, shape->first, bytes);
}

static bool map_fd(DataFile *file, int fd, Error *error) {
    struct stat status;
    if (fstat(fd, &status) != 0)
        return intc_rt_fail(error, "%s: cannot read: %s", file->path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return intc_rt_fail(error, "%s: not a regular file", file->path);
    if (status.st_size == 0)
        return intc_rt_fail(error, "%s: the file is empty", file->path);
    file->size = (size_t)status.st_size;
    void *map = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return intc_rt_fail(error, "%s: cannot map into memory: %s", file->path, strerror(errno));
    file->map = map;
    return true;
}

static int temporary_file(void) {
    const char *folder = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/intc-data-XXXXXX", folder && *folder ? folder : "/tmp");
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* Replaces the map of a gzip file by that of its contents. */
static bool decompress(DataFile *file, Error *error) {
    int fd = temporary_file();
    if (fd < 0)
        return intc_rt_fail(error, "%s: cannot create a temporary file to decompress into: %s", file->path, strerror(errno));
    bool good = intc_rt_gunzip(file->path, file->map, file->size, fd, error);
    munmap((void *)(uintptr_t)file->map, file->size);
    file->map = NULL;
    good = good && map_fd(file, fd, error);
    close(fd);
    return good;
}

static bool open_file(DataFile *file, bool labels, Error *error) {
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return intc_rt_fail(error, "%s: cannot open: %s", file->path, strerror(errno));
    bool mapped = map_fd(file, fd, error);
    close(fd);
    if (!mapped)
        return false;
    if (file->size > 2 && file->map[0] == 0x1f && file->map[1] == 0x8b && !decompress(file, error))
        return false;
    const unsigned char *head = file->map;
    bool good;
    if (file->size >= 6 && memcmp(head, "\x93NUMPY", 6) == 0)
        good = intc_rt_npy_open(file, error);
    else if (file->size >= 4 && head[0] == 0 && head[1] == 0 && head[2] >= 8 && head[2] <= 14 && head[3] >= 1 && head[3] <= 8)
        good = intc_rt_idx_open(file, error);
    else if (intc_rt_cifar_fits(file->size))
        good = intc_rt_cifar_open(file, labels, error);
    else
        return intc_rt_fail(error,
                            "%s: unknown format: expected .npy, IDX, or CIFAR binary of 3073 or 3074 bytes a record (any of them also "
                            "gzipped), found %zu other bytes",
                            file->path, file->size);
    if (good && file->shape.rows == 0)
        return intc_rt_fail(error, "%s: holds no rows", file->path);
    return good;
}

static bool same_rows(const DataShape *a, const DataShape *b) {
    return a->type == b->type && a->rank == b->rank && memcmp(a->dim, b->dim, (size_t)a->rank * sizeof a->dim[0]) == 0;
}

bool intc_rt_data_open(const char *paths, bool labels, DataSet *set, Error *error) {
    int room = 1;
    for (const char *c = paths; *c; c++)
        room += *c == ',';
    *set = (DataSet){.files = calloc((size_t)room, sizeof *set->files)};
    if (!set->files)
        return intc_rt_fail(error, "out of memory");
    for (const char *at = paths;;) {
        size_t length = strcspn(at, ",");
        DataFile *file = set->files + set->count++;
        file->path = strndup(at, length);
        if (!file->path)
            return intc_rt_fail(error, "out of memory");
        if (!open_file(file, labels, error))
            return false;
        const DataShape *first = &set->files->shape, *shape = &file->shape;
        if (!same_rows(first, shape)) {
            char expected[128], found[128];
            return intc_rt_fail(error, "%s: expected rows of %s %s as in %s, found %s %s", file->path, intc_rt_data_type_name(first->type),
                                intc_rt_shape_text(first->rank, first->dim, expected, sizeof expected), set->files->path,
                                intc_rt_data_type_name(shape->type), intc_rt_shape_text(shape->rank, shape->dim, found, sizeof found));
        }
        set->rows += shape->rows;
        if (!at[length])
            return true;
        at += length + 1;
    }
}

void intc_rt_data_close(DataSet *set) {
    for (int i = 0; i < set->count; i++) {
        if (set->files[i].map)
            munmap((void *)(uintptr_t)set->files[i].map, set->files[i].size);
        free(set->files[i].path);
    }
    free(set->files);
    *set = (DataSet){0};
}

const unsigned char *intc_rt_data_row(const DataSet *set, int64_t row, const DataFile **file) {
    const DataFile *at = set->files;
    for (; row >= at->shape.rows; at++)
        row -= at->shape.rows;
    *file = at;
    return at->map + at->shape.first + row * at->shape.row_stride;
}

/* The bits of an element in the machine's order. */
static uint64_t element_bits(const DataShape *shape, const unsigned char *row, int64_t index) {
    int size = types[shape->type].size;
    const unsigned char *at = row + index * size;
    uint64_t bits = 0;
    for (int i = 0; i < size; i++)
        bits = bits << 8 | at[shape->swap ? i : size - 1 - i];
    return bits;
}

int64_t intc_rt_data_integer(const DataShape *shape, const unsigned char *row, int64_t index) {
    uint64_t bits = element_bits(shape, row, index);
    switch (shape->type) {
    case DATA_I8:
        return (int8_t)bits;
    case DATA_I16:
        return (int16_t)bits;
    case DATA_I32:
        return (int32_t)bits;
    default:
        return (int64_t)bits;
    }
}

bool intc_rt_data_unpack(const DataShape *shape, const unsigned char *row, int64_t index, int64_t *mantissa, int *exponent) {
    *exponent = 0;
    if (shape->type < DATA_F16) {
        *mantissa = intc_rt_data_integer(shape, row, index);
        return intc_magnitude(*mantissa) <= (uint64_t)1 << 62;
    }
    int places = shape->type == DATA_F16 ? 10 : shape->type == DATA_F32 ? 23 : 52;
    int width = shape->type == DATA_F16 ? 5 : shape->type == DATA_F32 ? 8 : 11;
    uint64_t bits = element_bits(shape, row, index);
    int field = (int)(bits >> places & (((uint64_t)1 << width) - 1));
    int64_t value = (int64_t)(bits & (((uint64_t)1 << places) - 1));
    if (field == (1 << width) - 1)
        return false;
    if (field > 0)
        value |= (int64_t)1 << places;
    *exponent = (field > 0 ? field : 1) - (1 << (width - 1)) + 1 - places;
    *mantissa = bits >> (places + width) & 1 ? -value : value;
    return true;
}
