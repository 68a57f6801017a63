/* Reads model and tensor files. Before: any bytes at all. After: a parsed message whose nesting is bounded, or a diagnostic; external
 * data come only from files beside the model. */
#include "frontend/onnx_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Deeper messages than any exporter writes would only serve to exhaust the stack of the parser. */
enum { NESTING_LIMIT = 64 };

bool file_read(Arena *arena, const char *path, const uint8_t **bytes, size_t *size, Diag *diag, const Origin *origin) {
    FILE *in = fopen(path, "rb");
    if (in == NULL) {
        diag_error(diag, origin, "cannot open '%s': %s", path, strerror(errno));
        return false;
    }
    struct stat info;
    if (fstat(fileno(in), &info) != 0 || !S_ISREG(info.st_mode)) {
        diag_error(diag, origin, "'%s' is not a regular file", path);
        fclose(in);
        return false;
    }
    uint8_t *buffer = arena_alloc(arena, (size_t)info.st_size + 1, 1);
    size_t got = fread(buffer, 1, (size_t)info.st_size, in);
    bool ok = got == (size_t)info.st_size && ferror(in) == 0;
    fclose(in);
    if (!ok) {
        diag_error(diag, origin, "cannot read '%s'", path);
        return false;
    }
    *bytes = buffer;
    *size = got;
    return true;
}

static bool varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 64 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return true;
    }
    return false;
}

/* False if known sub-messages nest deeper than the limit; malformed bytes are left to the parser. */
static bool nesting_ok(const ProtobufCMessageDescriptor *type, const uint8_t *at, const uint8_t *end, int depth) {
    if (depth > NESTING_LIMIT)
        return false;
    uint64_t key, length;
    while (at < end && varint(&at, end, &key)) {
        switch (key & 7) {
        case 0:
            if (!varint(&at, end, &length))
                return true;
            break;
        case 1:
        case 5:
            length = (key & 7) == 1 ? 8 : 4;
            if ((uint64_t)(end - at) < length)
                return true;
            at += length;
            break;
        case 2: {
            if (!varint(&at, end, &length) || (uint64_t)(end - at) < length)
                return true;
            const ProtobufCFieldDescriptor *field =
                key >> 3 <= UINT32_MAX ? protobuf_c_message_descriptor_get_field(type, (unsigned)(key >> 3)) : NULL;
            if (field != NULL && field->type == PROTOBUF_C_TYPE_MESSAGE && !nesting_ok(field->descriptor, at, at + length, depth + 1))
                return false;
            at += length;
            break;
        }
        default:
            return true;
        }
    }
    return true;
}

static void *arena_allocate(void *arena, size_t size) {
    return arena_alloc(arena, size, 1);
}

static void arena_ignore(void *arena, void *pointer) {
    (void)arena;
    (void)pointer;
}

static ProtobufCMessage *parse(Arena *arena, const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t size) {
    if (!nesting_ok(type, bytes, bytes + size, 0))
        return NULL;
    ProtobufCAllocator allocator = {.alloc = arena_allocate, .free = arena_ignore, .allocator_data = arena};
    return protobuf_c_message_unpack(type, &allocator, size, bytes);
}

OnnxFile *onnx_read(Arena *arena, const char *path, Diag *diag) {
    OnnxFile *file = arena_alloc(arena, 1, sizeof *file);
    file->arena = arena;
    file->path = arena_strdup(arena, path);
    const char *slash = strrchr(path, '/');
    file->folder = slash == NULL ? "" : arena_printf(arena, "%.*s", (int)(slash + 1 - path), path);
    if (!file_read(arena, path, &file->bytes, &file->size, diag, NULL))
        return NULL;
    file->model = (const Onnx__ModelProto *)parse(arena, &onnx__model_proto__descriptor, file->bytes, file->size);
    if (file->model == NULL) {
        diag_error(diag, NULL, "is not an ONNX model: damaged or cut off");
        return NULL;
    }
    if (file->model->graph == NULL || file->model->n_opset_import == 0) {
        diag_error(diag, NULL, "is not an ONNX model: it has no %s", file->model->graph == NULL ? "graph" : "opset");
        return NULL;
    }
    return file;
}

bool onnx_read_tensor(Arena *arena, const char *path, OnnxTensor *tensor, Diag *diag) {
    const uint8_t *bytes;
    size_t size;
    if (!file_read(arena, path, &bytes, &size, diag, NULL))
        return false;
    const Onnx__TensorProto *proto = (const Onnx__TensorProto *)parse(arena, &onnx__tensor_proto__descriptor, bytes, size);
    if (proto == NULL) {
        diag_error(diag, NULL, "is not an ONNX tensor: damaged or cut off");
        return false;
    }
    const OnnxTensor *decoded = onnx_decode(NULL, arena, proto, NULL, diag);
    if (decoded == NULL)
        return false;
    *tensor = *decoded;
    return true;
}

/* A relative path that stays below its folder. */
static bool path_is_inside(const char *path) {
    if (path[0] == '\0' || path[0] == '/')
        return false;
    for (const char *part = path; part != NULL; part = strchr(part, '/')) {
        part += part[0] == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            return false;
    }
    return true;
}

static bool parse_size(const char *text, int64_t *value) {
    char *end;
    errno = 0;
    long long parsed = strtoll(text, &end, 10);
    *value = parsed;
    return errno == 0 && end != text && *end == '\0' && parsed >= 0;
}

static bool read_range(Arena *arena, const char *path, int64_t offset, int64_t length, const uint8_t **bytes, size_t *size) {
    FILE *in = fopen(path, "rb");
    struct stat info;
    bool ok = in != NULL && fstat(fileno(in), &info) == 0 && S_ISREG(info.st_mode) && offset <= info.st_size;
    if (ok && length < 0)
        length = info.st_size - offset;
    ok = ok && length <= info.st_size - offset && fseeko(in, offset, SEEK_SET) == 0;
    if (ok) {
        uint8_t *buffer = arena_alloc(arena, (size_t)length + 1, 1);
        ok = fread(buffer, 1, (size_t)length, in) == (size_t)length;
        *bytes = buffer;
        *size = (size_t)length;
    }
    if (in != NULL)
        fclose(in);
    return ok;
}

bool file_read_external(const OnnxFile *file, Arena *arena, const Onnx__TensorProto *proto, const uint8_t **bytes, size_t *size,
                        Diag *diag) {
    const char *location = NULL;
    int64_t offset = 0, length = -1;
    bool ok = true;
    for (size_t i = 0; i < proto->n_external_data; i++) {
        const Onnx__StringStringEntryProto *entry = proto->external_data[i];
        if (entry->key == NULL || entry->value == NULL)
            continue;
        if (strcmp(entry->key, "location") == 0)
            location = entry->value;
        else if (strcmp(entry->key, "offset") == 0)
            ok = ok && parse_size(entry->value, &offset);
        else if (strcmp(entry->key, "length") == 0)
            ok = ok && parse_size(entry->value, &length);
    }
    const char *name = proto->name != NULL ? proto->name : "";
    if (location == NULL || !ok) {
        diag_error(diag, NULL, "initializer '%s': external data without a location or with a malformed offset or length", name);
        return false;
    }
    if (!path_is_inside(location)) {
        diag_error(diag, NULL, "initializer '%s': external data in '%s', which is not beside the model", name, location);
        return false;
    }
    const char *path = arena_printf(arena, "%s%s", file->folder, location);
    if (!read_range(arena, path, offset, length, bytes, size)) {
        diag_error(diag, NULL, "initializer '%s': cannot read its external data from '%s' (missing or too short)", name, path);
        return false;
    }
    return true;
}

int onnx_output_count(const OnnxFile *file) {
    return (int)file->model->graph->n_output;
}

const char *onnx_output_name(const OnnxFile *file, int index) {
    const char *name = file->model->graph->output[index]->name;
    return name != NULL ? name : "";
}

/* The i-th input that is no initializer; NULL past the last. */
static const Onnx__ValueInfoProto *free_input(const OnnxFile *file, int index) {
    const Onnx__GraphProto *graph = file->model->graph;
    for (size_t i = 0; i < graph->n_input; i++) {
        bool given = graph->input[i]->name == NULL;
        for (size_t k = 0; k < graph->n_initializer && !given; k++)
            given = graph->initializer[k]->name != NULL && strcmp(graph->initializer[k]->name, graph->input[i]->name) == 0;
        if (!given && index-- == 0)
            return graph->input[i];
    }
    return NULL;
}

int onnx_input_count(const OnnxFile *file) {
    int count = 0;
    while (free_input(file, count) != NULL)
        count++;
    return count;
}

const char *onnx_input_name(const OnnxFile *file, int index) {
    return free_input(file, index)->name;
}
