/* Decompression by zlib: of gzip files (RFC 1952), written out as they are decoded, which needs one buffer and the mapped input; and of
 * what the compiler packed (RFC 1950). */
#include "runtime/runtime.h"

#ifdef INTC_NO_ZLIB
bool intc_rt_gunzip(const char *path, const unsigned char *data, size_t size, int fd, Error *error) {
    (void)data, (void)size, (void)fd;
    return intc_rt_fail(error, "%s: this trainer was linked without zlib; decompress the file", path);
}

bool intc_rt_unpack(const unsigned char *packed, int64_t packed_size, unsigned char *to, int64_t size, Error *error) {
    (void)packed, (void)packed_size, (void)to, (void)size;
    return intc_rt_fail(error, "internal error: packed data in a trainer without zlib");
}
#else

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define ZLIB_CONST
#include <zlib.h>

enum { OUTPUT_SIZE = 1 << 18, INPUT_MOST = 1 << 30, GZIP_WINDOW = 16 + MAX_WBITS };

static bool write_all(int fd, const unsigned char *bytes, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        size -= (size_t)n;
    }
    return true;
}

/* Why the contents could not be written out, or NULL. Several members one after another are one file. */
static const char *inflate_all(z_stream *z, const unsigned char *data, size_t size, int fd, unsigned char *buffer) {
    size_t taken = 0;
    int status = Z_OK;
    while (status != Z_STREAM_END || taken < size || z->avail_in > 0) {
        if (status == Z_STREAM_END && inflateReset(z) != Z_OK)
            return "damaged";
        if (z->avail_in == 0) {
            z->next_in = data + taken;
            z->avail_in = (uInt)(size - taken < INPUT_MOST ? size - taken : INPUT_MOST);
            taken += z->avail_in;
        }
        z->next_out = buffer;
        z->avail_out = OUTPUT_SIZE;
        status = inflate(z, Z_NO_FLUSH);
        if (status == Z_BUF_ERROR && z->avail_in == 0 && taken == size)
            return "truncated";
        if (status != Z_OK && status != Z_STREAM_END)
            return status == Z_MEM_ERROR ? "too large for this memory" : "damaged";
        if (!write_all(fd, buffer, OUTPUT_SIZE - z->avail_out))
            return "";
    }
    return NULL;
}

bool intc_rt_gunzip(const char *path, const unsigned char *data, size_t size, int fd, Error *error) {
    z_stream z = {0};
    unsigned char *buffer = malloc(OUTPUT_SIZE);
    if (buffer == NULL || inflateInit2(&z, GZIP_WINDOW) != Z_OK) {
        free(buffer);
        return intc_rt_fail(error, "out of memory");
    }
    const char *why = inflate_all(&z, data, size, fd, buffer);
    inflateEnd(&z);
    free(buffer);
    if (why == NULL)
        return true;
    if (*why == '\0')
        return intc_rt_fail(error, "%s: no room for the decompressed data in the folder of temporary files (TMPDIR)", path);
    return intc_rt_fail(error, "%s: the gzip data is %s", path, why);
}

bool intc_rt_unpack(const unsigned char *packed, int64_t packed_size, unsigned char *to, int64_t size, Error *error) {
    uLongf got = (uLongf)size;
    int status = uncompress(to, &got, packed, (uLong)packed_size);
    if (status == Z_MEM_ERROR)
        return intc_rt_fail(error, "out of memory");
    return (status == Z_OK && got == (uLongf)size) || intc_rt_fail(error, "internal error: packed data is damaged");
}

#endif
