/* CIFAR binary batches: records of one label byte (CIFAR-100: two, coarse and fine) and a 3x32x32 picture. They have no header, so the size
 * decides. */
#include "runtime/runtime.h"

enum { PICTURE = 3072 };

/* Label bytes of a record; 0 if the size fits neither. */
static int label_bytes(size_t size) {
    for (int labels = 1; labels <= 2; labels++)
        if (size > 0 && size % (size_t)(PICTURE + labels) == 0)
            return labels;
    return 0;
}

bool intc_rt_cifar_fits(size_t size) {
    return label_bytes(size) != 0;
}

bool intc_rt_cifar_open(DataFile *file, bool labels, Error *error) {
    int bytes = label_bytes(file->size);
    if (bytes == 0)
        return intc_rt_fail(error, "%s: expected records of 3073 or 3074 bytes, found %zu bytes", file->path, file->size);
    file->shape = (DataShape){.type = DATA_U8,
                              .rank = labels ? 0 : 3,
                              .dim = {3, 32, 32},
                              .rows = (int64_t)(file->size / (size_t)(PICTURE + bytes)),
                              .first = labels ? bytes - 1 : bytes,
                              .row_stride = PICTURE + bytes};
    return true;
}
