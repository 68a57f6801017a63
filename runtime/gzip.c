/* Inflate (RFC 1951) in gzip members (RFC 1952), written out as it is decoded: needs 64 KiB and the mapped input. */
#include "runtime/runtime.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WINDOW = 65536, HISTORY = 32768, MAX_BITS = 15, FAST_BITS = 10, LITERALS = 288, DISTANCES = 30 };

/* Canonical Huffman code: count of codes of each length, symbols in order of code; fast: symbol * 16 + length by the next bits, 0 for
 * longer codes. */
typedef struct {
    uint16_t count[MAX_BITS + 1], symbol[LITERALS], fast[1 << FAST_BITS];
} Code;

typedef struct {
    const unsigned char *at, *end;
    uint64_t bits;
    int held;
    bool truncated, full; /* the input ended; the output could not be written */
    int fd;
    unsigned char *window; /* WINDOW bytes; flushed when full, the last HISTORY kept */
    size_t used, flushed;  /* bytes in the window, of them already written */
    uint64_t total;        /* bytes of this member */
    uint32_t crc, table[256];
} Inflate;

static uint32_t take_bits(Inflate *z, int n) {
    while (z->held < n) {
        if (z->at == z->end) {
            z->truncated = true;
            return 0;
        }
        z->bits |= (uint64_t)*z->at++ << z->held;
        z->held += 8;
    }
    uint32_t value = (uint32_t)(z->bits & (((uint64_t)1 << n) - 1));
    z->bits >>= n;
    z->held -= n;
    return value;
}

static void flush(Inflate *z) {
    for (size_t i = z->flushed; i < z->used; i++)
        z->crc = z->table[(z->crc ^ z->window[i]) & 255] ^ z->crc >> 8;
    while (z->flushed < z->used && !z->full) {
        ssize_t written = write(z->fd, z->window + z->flushed, z->used - z->flushed);
        if (written > 0)
            z->flushed += (size_t)written;
        else if (written == 0 || errno != EINTR)
            z->full = true;
    }
    z->flushed = z->used;
}

static void put_byte(Inflate *z, unsigned char byte) {
    if (z->used == WINDOW) {
        flush(z);
        memcpy(z->window, z->window + WINDOW - HISTORY, HISTORY);
        z->used = z->flushed = HISTORY;
    }
    z->window[z->used++] = byte;
    z->total++;
}

static void make_fast(Code *code) {
    uint32_t next = 0;
    memset(code->fast, 0, sizeof code->fast);
    for (int bits = 1, index = 0; bits <= FAST_BITS; bits++, next <<= 1)
        for (int k = 0; k < code->count[bits]; k++, next++, index++) {
            uint32_t reversed = 0;
            for (int b = 0; b < bits; b++)
                reversed |= (next >> b & 1) << (bits - 1 - b);
            for (uint32_t at = reversed; at < 1 << FAST_BITS; at += (uint32_t)1 << bits)
                code->fast[at] = (uint16_t)(code->symbol[index] * 16 + bits);
        }
}

/* False if the lengths over-subscribe the code. */
static bool make_code(Code *code, const unsigned char *length, int n) {
    uint16_t next[MAX_BITS + 1];
    memset(code->count, 0, sizeof code->count);
    for (int i = 0; i < n; i++)
        code->count[length[i]]++;
    code->count[0] = 0;
    int left = 1;
    for (int bits = 1; bits <= MAX_BITS; bits++) {
        left = 2 * left - code->count[bits];
        if (left < 0)
            return false;
    }
    next[1] = 0;
    for (int bits = 1; bits < MAX_BITS; bits++)
        next[bits + 1] = (uint16_t)(next[bits] + code->count[bits]);
    for (int i = 0; i < n; i++)
        if (length[i])
            code->symbol[next[length[i]]++] = (uint16_t)i;
    make_fast(code);
    return true;
}

/* -1 if the bits are no code. */
static int take_symbol(Inflate *z, const Code *code) {
    int value = 0, first = 0, index = 0;
    for (; z->held < FAST_BITS && z->at < z->end; z->held += 8)
        z->bits |= (uint64_t)*z->at++ << z->held;
    uint16_t fast = code->fast[z->bits & ((1 << FAST_BITS) - 1)];
    if (fast && (fast & 15) <= z->held) {
        z->bits >>= fast & 15;
        z->held -= fast & 15;
        return fast >> 4;
    }
    for (int bits = 1; bits <= MAX_BITS; bits++) {
        value |= (int)take_bits(z, 1);
        int count = code->count[bits];
        if (value - count < first)
            return code->symbol[index + value - first];
        index += count;
        first = (first + count) << 1;
        value <<= 1;
        if (z->truncated)
            return -1;
    }
    return -1;
}

static bool copy_back(Inflate *z, int length_symbol, const Code *distances) {
    static const uint16_t base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                      31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t far[DISTANCES] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                            193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    if (length_symbol >= 29)
        return false;
    uint32_t length = base[length_symbol] + take_bits(z, extra[length_symbol]);
    int symbol = take_symbol(z, distances);
    if (symbol < 0 || symbol >= DISTANCES)
        return false;
    uint32_t distance = far[symbol] + take_bits(z, symbol < 2 ? 0 : symbol / 2 - 1);
    if (z->truncated || distance > z->total)
        return false;
    for (; length > 0; length--) {
        /* A full window keeps its last HISTORY bytes, so the source stays inside. */
        unsigned char byte = z->window[z->used - distance];
        put_byte(z, byte);
    }
    return true;
}

static bool inflate_codes(Inflate *z, const Code *literals, const Code *distances) {
    for (;;) {
        int symbol = take_symbol(z, literals);
        if (symbol < 0 || z->full)
            return false;
        if (symbol == 256)
            return true;
        if (symbol < 256)
            put_byte(z, (unsigned char)symbol);
        else if (!copy_back(z, symbol - 257, distances))
            return false;
    }
}

static bool inflate_stored(Inflate *z) {
    z->bits >>= z->held & 7;
    z->held -= z->held & 7;
    uint32_t length = take_bits(z, 16), inverse = take_bits(z, 16);
    if (z->truncated || length != (~inverse & 0xffff))
        return false;
    for (; length > 0 && !z->truncated && !z->full; length--)
        put_byte(z, (unsigned char)take_bits(z, 8));
    return !z->truncated && !z->full;
}

static bool inflate_dynamic(Inflate *z) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    unsigned char length[LITERALS + 32] = {0};
    Code literals, distances;
    int literal_count = (int)take_bits(z, 5) + 257, distance_count = (int)take_bits(z, 5) + 1, order_count = (int)take_bits(z, 4) + 4;
    if (literal_count > 286 || distance_count > DISTANCES)
        return false;
    for (int i = 0; i < order_count; i++)
        length[order[i]] = (unsigned char)take_bits(z, 3);
    if (!make_code(&literals, length, 19))
        return false;
    memset(length, 0, 19);
    for (int i = 0; i < literal_count + distance_count;) {
        int symbol = take_symbol(z, &literals);
        if (symbol < 0 || z->truncated)
            return false;
        if (symbol < 16) {
            length[i++] = (unsigned char)symbol;
            continue;
        }
        unsigned char repeated = 0;
        if (symbol == 16) {
            if (i == 0)
                return false;
            repeated = length[i - 1];
        }
        int count = symbol == 16 ? 3 + (int)take_bits(z, 2) : symbol == 17 ? 3 + (int)take_bits(z, 3) : 11 + (int)take_bits(z, 7);
        if (i + count > literal_count + distance_count)
            return false;
        for (; count > 0; count--)
            length[i++] = repeated;
    }
    return make_code(&distances, length + literal_count, distance_count) && make_code(&literals, length, literal_count) &&
           inflate_codes(z, &literals, &distances);
}

static bool inflate_fixed(Inflate *z) {
    unsigned char length[LITERALS];
    Code literals, distances;
    for (int i = 0; i < LITERALS; i++)
        length[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    make_code(&literals, length, LITERALS);
    memset(length, 5, DISTANCES);
    make_code(&distances, length, DISTANCES);
    return inflate_codes(z, &literals, &distances);
}

/* The header of a member: z->at is behind it afterwards. */
static bool skip_header(Inflate *z) {
    const unsigned char *at = z->at;
    z->truncated = z->end - at < 10;
    if (z->truncated || at[0] != 0x1f || at[1] != 0x8b || at[2] != 8)
        return false;
    int flags = at[3];
    z->truncated = true;
    at += 10;
    if (flags & 4) {
        if (z->end - at < 2 || z->end - at - 2 < (at[0] | at[1] << 8))
            return false;
        at += 2 + (at[0] | at[1] << 8);
    }
    for (int field = 8; field <= 16; field *= 2)
        if (flags & field) {
            at = memchr(at, 0, (size_t)(z->end - at));
            if (!at)
                return false;
            at++;
        }
    int checksum = flags & 2;
    if (z->end - at < checksum)
        return false;
    z->at = at + checksum;
    z->truncated = false;
    return true;
}

static bool inflate_member(Inflate *z) {
    z->crc = 0xffffffff;
    z->used = z->flushed = 0;
    z->total = 0;
    z->bits = 0;
    z->held = 0;
    if (!skip_header(z))
        return false;
    bool last, good;
    do {
        last = take_bits(z, 1);
        uint32_t kind = take_bits(z, 2);
        good = !z->truncated && (kind == 0 ? inflate_stored(z) : kind == 1 ? inflate_fixed(z) : kind == 2 && inflate_dynamic(z));
    } while (good && !last);
    flush(z);
    if (!good || z->full)
        return false;
    z->bits >>= z->held & 7;
    z->held -= z->held & 7;
    uint32_t crc = take_bits(z, 32), size = take_bits(z, 32);
    return !z->truncated && crc == ~z->crc && size == (uint32_t)z->total;
}

bool intc_rt_gunzip(const char *path, const unsigned char *data, size_t size, int fd, Error *error) {
    Inflate *z = calloc(1, sizeof *z);
    unsigned char *window = malloc(WINDOW);
    bool good = z && window;
    if (good) {
        *z = (Inflate){.at = data, .end = data + size, .fd = fd, .window = window};
        for (uint32_t i = 0; i < 256; i++) {
            z->table[i] = i;
            for (int k = 0; k < 8; k++)
                z->table[i] = (z->table[i] & 1 ? 0xedb88320u : 0) ^ z->table[i] >> 1;
        }
        do
            good = inflate_member(z);
        while (good && z->at < z->end);
        if (!good && z->full)
            intc_rt_fail(error, "%s: no room for the decompressed data in the folder of temporary files (TMPDIR)", path);
        else if (!good)
            intc_rt_fail(error, "%s: the gzip data is %s", path, z->truncated || z->at == z->end ? "truncated" : "damaged");
    } else {
        intc_rt_fail(error, "out of memory");
    }
    free(window);
    free(z);
    return good;
}
