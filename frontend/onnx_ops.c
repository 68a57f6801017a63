/* The table of ONNX operators, from onnx_ops.def, and what to do about operators that are not in it. */
#include "frontend/importer.h"

#include <string.h>

#define fold_none NULL
#define lower_none NULL
static const OnnxOp rows[] = {
#define LIST(...) {__VA_ARGS__}
#define ONNX_OP(type, domain, versions, fold, lower) {#type, domain, LIST versions, fold_##fold, lower_##lower},
#include "frontend/onnx_ops.def"
#undef ONNX_OP
};

static const struct {
    const char *op_type, *hint;
} hints[] = {
    {"ImageScaler", "scale the images when the data are read (--mean, --std)"},
};

const OnnxOp *onnx_op_find(const char *op_type, const char *domain) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].op_type, op_type) == 0 && strcmp(rows[i].domain, domain) == 0)
            return &rows[i];
    return NULL;
}

const char *onnx_op_hint(const char *op_type) {
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++)
        if (strcmp(hints[i].op_type, op_type) == 0)
            return hints[i].hint;
    return NULL;
}

void onnx_list_ops(FILE *out) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fprintf(out, "%s%s%s, versions", rows[i].domain, rows[i].domain[0] != '\0' ? "." : "", rows[i].op_type);
        for (const int *since = rows[i].since; *since != 0; since++)
            fprintf(out, " %d", *since);
        fprintf(out, "%s\n", rows[i].lower == NULL ? ", on constants and shapes only" : "");
    }
}
