/* Where the batch is in each tensor, while --batch binds another size than the exported one. Before: the operands of an import at the
 * exported batch. After: for each operand the dimension that holds the batch and what lies inside it. */
#include "frontend/importer.h"

#include <string.h>

static const Operand *exported(const Importer *importer, const Operand *operand) {
    const Operand *then = importer->exported != NULL ? names_get(importer->exported, operand->name) : NULL;
    return then != NULL && then->known && operand->known && then->shape.rank == operand->shape.rank ? then : NULL;
}

Shape batch_exported_shape(const Importer *importer, const Operand *operand) {
    const Operand *then = exported(importer, operand);
    return then != NULL ? then->shape : operand->shape;
}

int batch_axis(const Importer *importer, const Operand *operand) {
    const Operand *then = exported(importer, operand);
    int axis = 0;
    while (then != NULL && axis < operand->shape.rank && operand->shape.dim[axis] == then->shape.dim[axis])
        axis++;
    return then == NULL ? operand->shape.rank : axis;
}

/* Elements of the batch dimension that belong to one row; 0 = not known, or no batch. */
static int64_t inside(const Importer *importer, const Operand *operand) {
    const Operand *then = exported(importer, operand);
    int axis = batch_axis(importer, operand);
    if (then == NULL || axis == operand->shape.rank)
        return 0;
    return then->shape.dim[axis] == importer->old_batch ? 1 : operand->batch_inside;
}

int64_t batch_stride(const Importer *importer, const Operand *operand) {
    const Operand *then = exported(importer, operand);
    int64_t stride = inside(importer, operand);
    if (then == NULL || stride == 0)
        return 0;
    for (int i = batch_axis(importer, operand) + 1; i < then->shape.rank; i++)
        stride *= then->shape.dim[i];
    return stride;
}

void batch_track(OnnxNode *node) {
    static const char *const reshaping[] = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"};
    const Importer *importer = node->importer;
    bool reshapes = false;
    for (size_t i = 0; i < sizeof reshaping / sizeof reshaping[0]; i++)
        reshapes = reshapes || strcmp(reshaping[i], node->from.origin.op_type) == 0;
    for (int i = 0; i < node->out_count; i++) {
        Operand *out = node->out[i];
        const Operand *then = out != NULL ? exported(importer, out) : NULL;
        if (then == NULL || out->batch_inside != 0)
            continue;
        int axis = batch_axis(importer, out);
        for (int k = 0; k < node->in_count && axis < out->shape.rank && out->batch_inside == 0; k++) {
            const Operand *in = node->in[k];
            if (in == NULL || inside(importer, in) == 0)
                continue;
            int64_t apart = 1;
            for (int d = axis + 1; d < then->shape.rank; d++)
                apart *= then->shape.dim[d];
            int64_t stride = batch_stride(importer, in);
            if (reshapes)
                out->batch_inside = apart > 0 && stride % apart == 0 ? stride / apart : 0;
            else if (in->shape.dim[batch_axis(importer, in)] == out->shape.dim[axis])
                out->batch_inside = inside(importer, in);
        }
    }
}
