/* A folder of its own for a test, files in it, and the trainer as a child process. */
#ifndef TESTS_UNIT_RUNTIME_FILES_H
#define TESTS_UNIT_RUNTIME_FILES_H

#include "runtime/runtime.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int enter_folder(void **state) {
    char path[] = "/tmp/intc-unit-XXXXXX";
    assert_non_null(mkdtemp(path));
    assert_int_equal(chdir(path), 0);
    *state = strdup(path);
    return 0;
}

static int leave_folder(void **state) {
    char command[128];
    assert_int_equal(chdir("/"), 0);
    snprintf(command, sizeof command, "rm -rf '%s'", (char *)*state);
    free(*state);
    return system(command);
}

static void write_file(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* Up to `room` bytes, zero-terminated; -1 if there is no such file. */
static long read_file(const char *path, char *data, size_t room) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return -1;
    size_t size = fread(data, 1, room - 1, file);
    data[size] = 0;
    fclose(file);
    return (long)size;
}

static void write_npy(const char *path, const char *type, const char *shape, const void *data, size_t size) {
    static const char magic[] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, 118, 0};
    char header[118], text[100];
    int length = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", type, shape);
    assert_true(length > 0 && (size_t)length < sizeof text);
    memset(header, ' ', sizeof header);
    memcpy(header, text, (size_t)length);
    header[117] = '\n';
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(magic, 1, 10, file), 10);
    assert_int_equal(fwrite(header, 1, 118, file), 118);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

#endif
