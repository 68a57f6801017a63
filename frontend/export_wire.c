/* Packed models. Before: a complete ModelProto. After: its bytes, and where the payload of every initializer lies in them, found by walking
 * the wire format (protobuf.dev/programming-guides/encoding), so that the runtime can fill them without protobuf. */
#include "frontend/export.h"

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum { FIELD_MODEL_GRAPH = 7, FIELD_GRAPH_INITIALIZER = 5, FIELD_TENSOR_RAW_DATA = 9 };
/* protobuf refuses larger messages. */
#define MODEL_LIMIT ((size_t)INT32_MAX)

typedef struct {
    const uint8_t *bytes;
    size_t at, end;
} Wire;

static uint64_t varint(Wire *wire) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (wire->at >= wire->end)
            internal_error("packed model ends within a number");
        uint8_t byte = wire->bytes[wire->at++];
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return value;
    }
    internal_error("number without end in a packed model");
}

/* Steps over one field; true if it is the wanted one, whose contents are then `inner`. */
static bool next_field(Wire *wire, uint64_t wanted, Wire *inner) {
    uint64_t key = varint(wire), length = 0;
    switch (key & 7) {
    case WIRE_VARINT:
        varint(wire);
        break;
    case WIRE_FIXED64:
        length = 8;
        break;
    case WIRE_FIXED32:
        length = 4;
        break;
    case WIRE_BYTES:
        length = varint(wire);
        break;
    default:
        internal_error("unknown wire type %d in a packed model", (int)(key & 7));
    }
    if (length > wire->end - wire->at)
        internal_error("field beyond the end of a packed model");
    *inner = (Wire){.bytes = wire->bytes, .at = wire->at, .end = wire->at + (size_t)length};
    wire->at = inner->end;
    return key >> 3 == wanted && (key & 7) == WIRE_BYTES;
}

static int64_t raw_data(Wire tensor) {
    int64_t offset = 0;
    Wire inner;
    while (tensor.at < tensor.end)
        if (next_field(&tensor, FIELD_TENSOR_RAW_DATA, &inner))
            offset = (int64_t)inner.at;
    return offset;
}

static void find_payloads(Wire model, size_t count, int64_t *offset) {
    size_t found = 0;
    Wire graph, tensor;
    while (model.at < model.end)
        if (next_field(&model, FIELD_MODEL_GRAPH, &graph))
            while (graph.at < graph.end)
                if (next_field(&graph, FIELD_GRAPH_INITIALIZER, &tensor) && found < count)
                    offset[found++] = raw_data(tensor);
    if (found != count)
        internal_error("%zu initializers in a packed model of %zu", found, count);
}

bool export_pack(Arena *arena, const Onnx__ModelProto *model, const uint8_t **bytes, int64_t *size, int64_t *offset) {
    size_t needed = onnx__model_proto__get_packed_size(model);
    if (needed > MODEL_LIMIT)
        return false;
    uint8_t *packed = arena_alloc(arena, needed, 1);
    if (onnx__model_proto__pack(model, packed) != needed)
        internal_error("packed model has another size than announced");
    find_payloads((Wire){.bytes = packed, .end = needed}, model->graph->n_initializer, offset);
    *bytes = packed;
    *size = (int64_t)needed;
    return true;
}
