/* Calibration: the exponents that inference uses, from some batches in the order of the files. */
#include "runtime/runtime.h"

static void raise_slot(unsigned char *arena, int64_t slot, int64_t exponent_offset) {
    int32_t exponent = intc_rt_exponent(arena, exponent_offset);
    if (exponent > intc_rt_exponent(arena, slot))
        intc_rt_set_exponent(arena, slot, exponent);
}

static bool has_slot(const struct intc_tensor *tensor) {
    return (tensor->scope & INTC_IN_INFER) && tensor->calibrated_offset >= 0 && tensor->exponent_offset >= 0;
}

bool intc_rt_calibrate(const Session *session, const Feeds *feeds, int64_t batches, Error *error) {
    const struct intc_module *module = session->module;
    unsigned char *arena = session->arena;
    if (!module->calibrate) /* float32: there are no exponents */
        return true;
    for (uint32_t i = 0; i < module->calibration_count; i++)
        intc_rt_set_exponent(arena, module->calibrations[i].slot_offset, INTC_EXPONENT_ZERO);
    for (uint32_t i = 0; i < module->tensor_count; i++)
        if (has_slot(module->tensors + i))
            intc_rt_set_exponent(arena, module->tensors[i].calibrated_offset, INTC_EXPONENT_ZERO);
    int64_t available = (feeds->rows - 1) / feeds->batch + 1;
    if (feeds->rows >= feeds->batch)
        available = feeds->rows / feeds->batch;
    for (int64_t b = 0; b < batches && b < available; b++) {
        for (int64_t i = 0; i < feeds->batch; i++)
            feeds->chosen[i] = (b * feeds->batch + i) % feeds->rows;
        if (!intc_rt_feed_batch(feeds, FEED_CALIBRATE, arena, error))
            return false;
        module->calibrate(arena, session->pool);
        for (uint32_t i = 0; i < module->calibration_count; i++)
            raise_slot(arena, module->calibrations[i].slot_offset, module->calibrations[i].exponent_offset);
        for (uint32_t i = 0; i < module->tensor_count; i++)
            if (has_slot(module->tensors + i))
                raise_slot(arena, module->tensors[i].calibrated_offset, module->tensors[i].exponent_offset);
    }
    return true;
}

bool intc_rt_calibrated(const Session *session) {
    const struct intc_module *module = session->module;
    bool any = false;
    for (uint32_t i = 0; i < module->calibration_count; i++) {
        any = true;
        if (intc_rt_exponent(session->arena, module->calibrations[i].slot_offset) != INTC_EXPONENT_ZERO)
            return true;
    }
    for (uint32_t i = 0; i < module->tensor_count; i++)
        if (has_slot(module->tensors + i)) {
            any = true;
            if (intc_rt_exponent(session->arena, module->tensors[i].calibrated_offset) != INTC_EXPONENT_ZERO)
                return true;
        }
    return !any;
}
