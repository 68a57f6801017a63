/* The order of the rows in an epoch: decided by the seed and the epoch alone. */
#include "runtime/runtime.h"

#define SHUFFLE_STREAM UINT64_C(0x73687566666C65) /* "shuffle": far from any tensor's stream */

void intc_rt_shuffle(uint64_t seed, uint64_t epoch, int64_t rows, uint32_t *order) {
    uint64_t key = intc_random_key(seed, epoch, SHUFFLE_STREAM);
    for (int64_t i = 0; i < rows; i++)
        order[i] = (uint32_t)i;
    for (int64_t i = rows - 1; i > 0; i--) {
        int64_t j = (int64_t)(((uint64_t)intc_random_bits(key, (uint32_t)i) * ((uint64_t)i + 1)) >> 32);
        uint32_t moved = order[i];
        order[i] = order[j];
        order[j] = moved;
    }
}
