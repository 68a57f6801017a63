/* Checkpoints: the state region of the arena and what a run needs to go on in the same bytes.
 * Layout, little-endian: magic, ABI (u32), length of the text (u32), hash of the module (32 bytes), step, state size (u64), best present
 * (u64), two scores (6 u64 each: the running epoch's, the best), the text, the state, the best state; last the SHA-256 of everything before
 * it. */
#include "runtime/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAGIC = 8, SCORE_WORDS = 6, HEAD = MAGIC + 8 + 32 + 24 + 2 * SCORE_WORDS * 8, DIGEST = 32 };
static const char magic[MAGIC + 1] = "INTCKPT1";

typedef struct {
    Output output;
    Sha256 hash;
} Writer;

static void write_bytes(Writer *writer, const void *data, size_t size) {
    intc_rt_sha256_add(&writer->hash, data, size);
    intc_rt_output_write(&writer->output, data, size);
}

static void write_number(Writer *writer, uint64_t value, int bytes) {
    unsigned char buffer[8];
    for (int i = 0; i < bytes; i++)
        buffer[i] = (unsigned char)(value >> (8 * i));
    write_bytes(writer, buffer, (size_t)bytes);
}

static uint64_t read_number(const unsigned char **at, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)*(*at)++ << (8 * i);
    return value;
}

static void write_score(Writer *writer, const Score *score) {
    write_number(writer, (uint64_t)score->has_loss | (uint64_t)score->has_metric << 1, 8);
    write_number(writer, (uint64_t)score->loss, 8);
    write_number(writer, (uint64_t)((UWide)score->loss >> 64), 8);
    write_number(writer, (uint64_t)score->loss_count, 8);
    write_number(writer, (uint64_t)score->correct, 8);
    write_number(writer, (uint64_t)score->places, 8);
}

static Score read_score(const unsigned char **at) {
    Score score = {0};
    uint64_t flags = read_number(at, 8);
    score.has_loss = flags & 1;
    score.has_metric = flags & 2;
    UWide low = read_number(at, 8);
    score.loss = (Wide)(low | (UWide)read_number(at, 8) << 64);
    score.loss_count = (int64_t)read_number(at, 8);
    score.correct = (int64_t)read_number(at, 8);
    score.places = (int64_t)read_number(at, 8);
    return score;
}

bool intc_rt_checkpoint_save(const char *path, const struct intc_module *module, const Checkpoint *checkpoint, Error *error) {
    Writer writer;
    unsigned char digest[DIGEST];
    if (!intc_rt_output_open(&writer.output, path, error))
        return false;
    intc_rt_sha256_start(&writer.hash);
    write_bytes(&writer, magic, MAGIC);
    write_number(&writer, module->abi, 4);
    write_number(&writer, strlen(checkpoint->text), 4);
    intc_rt_module_hash(module, digest);
    write_bytes(&writer, digest, sizeof digest);
    write_number(&writer, (uint64_t)checkpoint->step, 8);
    write_number(&writer, (uint64_t)module->state_size, 8);
    write_number(&writer, checkpoint->best != NULL, 8);
    write_score(&writer, &checkpoint->epoch_score);
    write_score(&writer, &checkpoint->best_score);
    write_bytes(&writer, checkpoint->text, strlen(checkpoint->text));
    write_bytes(&writer, checkpoint->state, (size_t)module->state_size);
    if (checkpoint->best)
        write_bytes(&writer, checkpoint->best, (size_t)module->state_size);
    intc_rt_sha256_end(&writer.hash, digest);
    intc_rt_output_write(&writer.output, digest, sizeof digest);
    return intc_rt_output_close(&writer.output, true, error);
}

/* The whole file with a zero byte behind it. */
static unsigned char *read_file(const char *path, size_t *size, Error *error) {
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        intc_rt_fail(error, "%s: cannot open: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    size_t room = S_ISREG(status.st_mode) ? (size_t)status.st_size : 0, used = 0;
    unsigned char *data = malloc(room + 1);
    ssize_t got = 1;
    while (data && used < room && (got = read(fd, data + used, room - used)) > 0)
        used += (size_t)got;
    close(fd);
    if (!data || got < 0) {
        intc_rt_fail(error, "%s: cannot read: %s", path, data ? strerror(errno) : "out of memory");
        free(data);
        return NULL;
    }
    *size = used;
    return data;
}

static bool parse(const char *path, const struct intc_module *module, unsigned char *data, size_t size, Checkpoint *checkpoint,
                  Error *error) {
    unsigned char digest[DIGEST];
    if (size < MAGIC || memcmp(data, magic, MAGIC) != 0)
        return intc_rt_fail(error, "%s: expected a checkpoint of an intc trainer, found another file", path);
    if (size < HEAD + DIGEST)
        return intc_rt_fail(error, "%s: truncated: a checkpoint has at least %d bytes, the file has %zu", path, HEAD + DIGEST, size);
    const unsigned char *at = data + MAGIC;
    uint64_t abi = read_number(&at, 4), text = read_number(&at, 4);
    if (abi != module->abi)
        return intc_rt_fail(error, "%s: expected a checkpoint of ABI %u, found %llu", path, module->abi, (unsigned long long)abi);
    intc_rt_module_hash(module, digest);
    if (memcmp(at, digest, DIGEST) != 0)
        return intc_rt_fail(error, "%s: the checkpoint belongs to another model or was compiled with other options than %s (%s)", path,
                            module->name, module->options);
    at += DIGEST;
    checkpoint->step = (int64_t)read_number(&at, 8);
    uint64_t state = read_number(&at, 8), best = read_number(&at, 8);
    uint64_t expected = HEAD + text + state * (best ? 2 : 1) + DIGEST;
    if (state != (uint64_t)module->state_size || best > 1 || expected != size)
        return intc_rt_fail(error, "%s: truncated or damaged: expected %llu bytes, found %zu", path, (unsigned long long)expected, size);
    Sha256 hash;
    intc_rt_sha256_start(&hash);
    intc_rt_sha256_add(&hash, data, size - DIGEST);
    intc_rt_sha256_end(&hash, digest);
    if (memcmp(data + size - DIGEST, digest, DIGEST) != 0)
        return intc_rt_fail(error, "%s: damaged: the checksum at the end does not agree with the contents", path);
    checkpoint->epoch_score = read_score(&at);
    checkpoint->best_score = read_score(&at);
    /* One byte down, over the scores, which are read: room for the terminating zero. */
    memmove(data + HEAD - 1, data + HEAD, text);
    data[HEAD - 1 + text] = 0;
    checkpoint->text = (char *)data + HEAD - 1;
    checkpoint->state = data + HEAD + text;
    checkpoint->best = best ? checkpoint->state + state : NULL;
    return true;
}

bool intc_rt_checkpoint_load(const char *path, const struct intc_module *module, Checkpoint *checkpoint, void **memory, Error *error) {
    size_t size;
    *checkpoint = (Checkpoint){0};
    unsigned char *data = read_file(path, &size, error);
    *memory = data;
    if (!data)
        return false;
    if (parse(path, module, data, size, checkpoint, error))
        return true;
    free(data);
    *memory = NULL;
    return false;
}

const char *intc_rt_checkpoint_option(const Checkpoint *checkpoint, const char *key, char *value, size_t room) {
    size_t length = strlen(key);
    for (const char *line = checkpoint->text; line && *line;) {
        size_t end = strcspn(line, "\n");
        if (end > length && line[length] == '=' && memcmp(line, key, length) == 0 && end - length - 1 < room) {
            memcpy(value, line + length + 1, end - length - 1);
            value[end - length - 1] = 0;
            return value;
        }
        line += end + (line[end] == '\n');
    }
    return NULL;
}
