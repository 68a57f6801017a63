/* What a trainer was compiled from. */
#include "runtime/runtime.h"

#include <stdlib.h>

static const char *kind_name(int32_t kind) {
    static const char *const names[] = {"input", "target", "parameter", "momentum", "hyper", "prediction", "loss", "metric"};
    return kind >= INTC_INPUT && kind <= INTC_METRIC ? names[kind] : "?";
}

/* state: at the start; NULL: not known. */
static void print_tensor(const struct intc_module *module, const struct intc_tensor *tensor, const unsigned char *state) {
    char shape[160];
    printf("  %-10s %-24s %s %s%d", kind_name(tensor->kind), tensor->name,
           intc_rt_shape_text(tensor->rank, tensor->dim, shape, sizeof shape), tensor->type == INTC_F32 ? "float" : "int",
           8 * intc_rt_type_size(tensor->type));
    bool mapped = tensor->type != INTC_F32;
    if (mapped && (tensor->kind == INTC_INPUT || (tensor->kind == INTC_TARGET && !tensor->integer)))
        printf(", mapped to %d bits", tensor->bits);
    if (tensor->classes > 0)
        printf(", labels below %lld", (long long)tensor->classes);
    if (tensor->kind == INTC_TARGET && tensor->integer && tensor->ignored != INT32_MIN)
        printf(", %lld is ignored", (long long)tensor->ignored);
    if (state && tensor->exponent_offset >= 0 && tensor->exponent_offset + 4 <= module->state_size) {
        int exponent = intc_rt_exponent(state, tensor->exponent_offset);
        if (exponent != INTC_EXPONENT_ZERO)
            printf(", exponent %d at the start", exponent);
    }
    printf("\n");
}

void intc_rt_info(const struct intc_module *module) {
    int64_t parameters = 0;
    for (uint32_t i = 0; i < module->tensor_count; i++)
        if (module->tensors[i].kind == INTC_PARAM)
            parameters += intc_rt_tensor_elements(module->tensors + i);
    printf("model       %s\noptions     %s\nloss        %s\nbatch       %lld\n", module->name, module->options, module->loss,
           (long long)module->batch);
    printf("parameters  %lld\n", (long long)parameters);
    printf("arena       %lld bytes, of them %lld state and %lld constants\n", (long long)module->arena_size, (long long)module->state_size,
           (long long)module->constants_size);
    printf("exports    ");
    for (uint32_t i = 0; i < module->model_count; i++)
        printf(" %s%s", module->models[i].format, module->models[i].refusal ? " (not possible)" : "");
    printf("\n");
    for (uint32_t i = 0; i < module->model_count; i++)
        if (module->models[i].refusal)
            printf("  no %s: %s\n", module->models[i].format, module->models[i].refusal);
    unsigned char *state = calloc((size_t)(module->state_size + module->constants_size) + 1, 1);
    if (state)
        intc_image_copy(&module->initial, state);
    printf("tensors\n");
    for (int32_t kind = INTC_INPUT; kind <= INTC_METRIC; kind++)
        for (uint32_t i = 0; i < module->tensor_count; i++)
            if (module->tensors[i].kind == kind && kind != INTC_HYPER && kind != INTC_STATE)
                print_tensor(module, module->tensors + i, state);
    free(state);
}
