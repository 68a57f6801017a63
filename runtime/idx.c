/* IDX files as of MNIST: two zero bytes, type, rank, big-endian dimensions, data. */
#include "runtime/runtime.h"

bool intc_rt_idx_open(DataFile *file, Error *error) {
    const unsigned char *map = file->map;
    DataShape *shape = &file->shape;
    int rank = map[3];
    switch (map[2]) {
    case 0x08:
        shape->type = DATA_U8;
        break;
    case 0x09:
        shape->type = DATA_I8;
        break;
    case 0x0b:
        shape->type = DATA_I16;
        break;
    case 0x0c:
        shape->type = DATA_I32;
        break;
    case 0x0d:
        shape->type = DATA_F32;
        break;
    case 0x0e:
        shape->type = DATA_F64;
        break;
    default:
        return intc_rt_fail(error, "%s: expected IDX type 8, 9, 11, 12, 13 or 14, found %d", file->path, map[2]);
    }
    const uint16_t one = 1;
    shape->swap = *(const unsigned char *)&one == 1;
    shape->first = 4 + 4 * rank;
    if (file->size < (size_t)shape->first)
        return intc_rt_fail(error, "%s: truncated: the IDX header needs %lld bytes, the file has %zu", file->path, (long long)shape->first,
                            file->size);
    shape->rank = rank - 1;
    shape->row_stride = intc_rt_data_type_size(shape->type);
    bool fits = true;
    for (int i = 0; i < rank; i++) {
        const unsigned char *at = map + 4 + 4 * i;
        int64_t dim = (int64_t)at[0] << 24 | (int64_t)at[1] << 16 | (int64_t)at[2] << 8 | at[3];
        if (i == 0)
            shape->rows = dim;
        else
            shape->dim[i - 1] = dim;
        if (i > 0)
            fits = fits && !__builtin_mul_overflow(shape->row_stride, dim, &shape->row_stride);
    }
    int64_t bytes;
    if (!fits || !intc_rt_data_bytes(shape, &bytes))
        return intc_rt_fail(error, "%s: the shape in the IDX header is too large", file->path);
    if ((uint64_t)bytes != file->size)
        return intc_rt_fail(error, "%s: %s: its IDX header asks for %lld bytes, the file has %zu", file->path,
                            (uint64_t)bytes > file->size ? "truncated" : "too long", (long long)bytes, file->size);
    return true;
}
