/* Sequences, as far as exporters need them: the parts of one tensor, taken by position (PyTorch's chunk and split).
 * Before: SplitToSequence makes them. After: the sequence has no value of its own, each SequenceAt is a slice of the tensor. */
#include "frontend/importer.h"

/* One size a part, from the second input: a list, or the size of all parts but a smaller last one. NULL after a diagnostic. */
static const int64_t *part_sizes(OnnxNode *node, int64_t dim, int *count) {
    if (node_in(node, 1) != NULL && node->in[1]->shape.rank == 1)
        return node_ints(node, 1, "split", count);
    int64_t size = 1;
    if (node_in(node, 1) != NULL) {
        const int64_t *only = node_ints(node, 1, "split", count);
        if (only == NULL)
            return NULL;
        size = *only;
    }
    if (size < 1 || dim > INT32_MAX) {
        node_refuse(node, "parts of size %lld of an axis of size %lld", (long long)size, (long long)dim);
        return NULL;
    }
    *count = (int)((dim - 1) / size + 1);
    int64_t *sizes = arena_alloc(node->importer->arena, (size_t)*count, sizeof *sizes);
    for (int i = 0; i < *count; i++)
        sizes[i] = i + 1 < *count ? size : dim - (*count - 1) * size;
    return sizes;
}

bool lower_split_to_sequence(OnnxNode *node) {
    if (!node_check_inputs(node, 1, 2))
        return false;
    Sequence *sequence = arena_alloc(node->importer->arena, 1, sizeof *sequence);
    Operand *in = node->in[0], *out = node->out[0];
    sequence->axis = node_axis(node, node_attr_int(node, "axis", 0), in->shape.rank);
    sequence->squeezed = node_attr_int(node, "keepdims", 1) == 0 && node_in(node, 1) == NULL;
    if (sequence->axis < 0)
        return false;
    int64_t dim = in->shape.dim[sequence->axis], sum = 0;
    sequence->sizes = part_sizes(node, dim, &sequence->count);
    if (sequence->sizes == NULL)
        return false;
    for (int i = 0; i < sequence->count; i++) {
        if (sequence->sizes[i] < 0 || sequence->sizes[i] > dim - sum)
            return node_refuse(node, "parts do not add up to the size %lld of axis %d", (long long)dim, sequence->axis);
        sum += sequence->sizes[i];
    }
    if (sum != dim)
        return node_refuse(node, "parts add up to %lld, axis %d has %lld", (long long)sum, sequence->axis, (long long)dim);
    sequence->whole = node_value(node, 0);
    if (sequence->whole == NULL)
        return false;
    if (node_wants(node, 0)) {
        out->known = true;
        out->fixed = in->fixed;
        out->type = in->type;
        out->shape = in->shape;
        out->sequence = sequence;
    }
    return true;
}

bool lower_sequence_at(OnnxNode *node) {
    int count = 0;
    if (!node_check_inputs(node, 2, 2))
        return false;
    const Sequence *sequence = node->in[0]->sequence;
    if (sequence == NULL)
        return node_refuse(node, "input 0 is not a sequence that SplitToSequence makes");
    const int64_t *position = node_ints(node, 1, "position", &count);
    if (position == NULL)
        return false;
    int64_t at = *position < 0 ? *position + sequence->count : *position, start = 0;
    if (count != 1 || at < 0 || at >= sequence->count)
        return node_refuse(node, "position %lld of a sequence of %d", (long long)*position, sequence->count);
    for (int64_t i = 0; i < at; i++)
        start += sequence->sizes[i];
    Value *part = node_slice(node, sequence->whole, sequence->axis, start, sequence->sizes[at]);
    if (part != NULL && sequence->squeezed) {
        Shape shape = {.rank = part->shape.rank - 1};
        for (int d = 0; d < shape.rank; d++)
            shape.dim[d] = part->shape.dim[d < sequence->axis ? d : d + 1];
        part = node_reshape(node, part, shape);
    }
    return node_set(node, 0, part);
}
