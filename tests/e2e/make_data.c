/* make_data ROWSxDIM... CLASSES DATA.npy TARGET.npy: made-up data that can be learned. Each class has a random pattern of +1 and -1; a row
 * is its class's pattern plus as much noise, float32. Targets are int64 labels, or for CLASSES 1 float32 [ROWS, 1] that is 0 or 1. */
#include "runtime/fixed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Header of version 1.0: 64 bytes or a multiple, with the shape as Python writes it. */
static int write_header(FILE *out, const char *type, const char *shape) {
    char text[256];
    int length = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", type, shape);
    int total = (10 + length + 1 + 63) / 64 * 64;
    unsigned char magic[10] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)((total - 10) & 255), (unsigned char)((total - 10) >> 8)};
    fwrite(magic, 1, sizeof magic, out);
    return fprintf(out, "%-*s\n", total - 11, text);
}

static float noise(uint64_t key, uint32_t index) {
    return (float)(intc_random_bits(key, index) >> 8) / 8388608.0F - 1.0F;
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    long rows = strtol(argv[1], NULL, 10), row = 1, classes = strtol(argv[2], NULL, 10);
    char shape[128] = "", *at = argv[1];
    for (int d = 0; *at != '\0'; d++) {
        long size = strtol(at, &at, 10);
        row *= d > 0 ? size : 1;
        snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%ld, ", size);
        at += *at == 'x';
    }
    FILE *data = fopen(argv[3], "wb"), *target = fopen(argv[4], "wb");
    if (data == NULL || target == NULL)
        return 1;
    char labels[64];
    snprintf(labels, sizeof labels, classes == 1 ? "%ld, 1" : "%ld,", rows);
    write_header(data, "<f4", shape);
    write_header(target, classes == 1 ? "<f4" : "<i8", labels);
    for (long i = 0; i < rows; i++) {
        int64_t label = (int64_t)(intc_random_bits(intc_random_key(5, 0, 0), (uint32_t)i) % (uint32_t)(classes == 1 ? 2 : classes));
        float value = (float)label;
        fwrite(classes == 1 ? (const void *)&value : (const void *)&label, classes == 1 ? 4 : 8, 1, target);
        for (long k = 0; k < row; k++) {
            float pattern = intc_random_bits(intc_random_key(5, 1, (uint64_t)label), (uint32_t)k) >> 31 ? 1.0F : -1.0F;
            float x = 0.5F * pattern + 0.5F * noise(intc_random_key(5, 2, (uint64_t)i), (uint32_t)k);
            fwrite(&x, sizeof x, 1, data);
        }
    }
    return fclose(data) == 0 && fclose(target) == 0 ? 0 : 1;
}
