/* Predictions of a data set as .npy files of float32, packed from mantissas and exponents. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const struct intc_tensor *tensor;
    Output output;
    int64_t elements; /* of one row */
    unsigned char *buffer;
} Writer;

static const char *find_path(const struct intc_module *module, const struct intc_tensor *tensor, const List *list) {
    int predictions = 0;
    for (uint32_t i = 0; i < module->tensor_count; i++)
        predictions += module->tensors[i].kind == INTC_PREDICTION;
    size_t length = strlen(tensor->name);
    for (int i = 0; i < list->count; i++)
        if (strncmp(list->text[i], tensor->name, length) == 0 && list->text[i][length] == '=')
            return list->text[i] + length + 1;
    return predictions == 1 && list->count == 1 ? list->text[0] : NULL;
}

static void write_header(Writer *writer, int64_t rows) {
    const struct intc_tensor *tensor = writer->tensor;
    char header[512] = "\x93NUMPY\x01";
    size_t used = 10 + (size_t)snprintf(header + 10, 256, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld,", (long long)rows);
    for (int i = 1; i < tensor->rank; i++)
        used += (size_t)snprintf(header + used, sizeof header - used, i > 1 ? ", %lld" : " %lld", (long long)tensor->dim[i]);
    used += (size_t)snprintf(header + used, sizeof header - used, "), }");
    while (used % 64 != 63)
        header[used++] = ' ';
    header[used++] = '\n';
    header[7] = 0;
    header[8] = (char)((used - 10) & 255);
    header[9] = (char)((used - 10) >> 8);
    intc_rt_output_write(&writer->output, header, used);
}

static bool open_writer(Writer *writer, const struct intc_tensor *tensor, const char *path, int64_t batch, int64_t rows, Error *error) {
    if (tensor->rank < 1 || tensor->dim[0] != batch)
        return intc_rt_fail(error, "prediction '%s': expected a first dimension of %lld, the batch; this output cannot be written by rows",
                            tensor->name, (long long)batch);
    writer->elements = intc_rt_tensor_elements(tensor) / batch;
    writer->buffer = malloc((size_t)(writer->elements * batch) * 4 + 1);
    if (!writer->buffer)
        return intc_rt_fail(error, "out of memory");
    if (!intc_rt_output_open(&writer->output, path, error)) {
        free(writer->buffer);
        return false;
    }
    writer->tensor = tensor;
    write_header(writer, rows);
    return true;
}

static void write_rows(const unsigned char *arena, Writer *writer, int64_t rows) {
    const struct intc_tensor *tensor = writer->tensor;
    int64_t count = rows * writer->elements;
    Cursor at = intc_rt_cursor(tensor);
    for (int64_t i = 0; i < count; i++, intc_rt_cursor_next(&at)) {
        Fixed x = intc_rt_tensor_number(arena, tensor, at.place);
        uint32_t bits = (uint32_t)intc_rt_float_bits(x.mantissa, x.exponent);
        for (int b = 0; b < 4; b++)
            writer->buffer[4 * i + b] = (unsigned char)(bits >> (8 * b));
    }
    intc_rt_output_write(&writer->output, writer->buffer, (size_t)count * 4);
}

static bool predict_rows(const Session *session, const Feeds *feeds, Writer *writers, int count, Error *error) {
    for (int64_t first = 0; first < feeds->rows; first += feeds->batch) {
        int64_t rows = feeds->rows - first < feeds->batch ? feeds->rows - first : feeds->batch;
        for (int64_t i = 0; i < feeds->batch; i++)
            feeds->chosen[i] = i < rows ? first + i : -1;
        if (!intc_rt_feed_batch(feeds, FEED_INFER, session->arena, session->pool, error))
            return false;
        intc_rt_set_random(session, 0, first / feeds->batch);
        session->module->infer(session->arena, session->pool);
        for (int i = 0; i < count; i++)
            write_rows(session->arena, writers + i, rows);
    }
    return true;
}

bool intc_rt_predict(const Session *session, const Feeds *feeds, const List *output, Error *error) {
    const struct intc_module *module = session->module;
    Writer writers[MAX_LIST] = {0};
    int count = 0;
    bool good = true;
    for (uint32_t i = 0; i < module->tensor_count && good; i++) {
        const struct intc_tensor *tensor = module->tensors + i;
        const char *path = tensor->kind == INTC_PREDICTION ? find_path(module, tensor, output) : NULL;
        if (!path || count == output->count)
            continue;
        good = open_writer(writers + count, tensor, path, module->batch, feeds->rows, error);
        count += good;
    }
    if (good && count < output->count) {
        char names[512] = "";
        size_t used = 0;
        for (uint32_t i = 0; i < module->tensor_count && used < sizeof names; i++)
            if (module->tensors[i].kind == INTC_PREDICTION)
                used += (size_t)snprintf(names + used, sizeof names - used, "%s'%s'", used ? ", " : "", module->tensors[i].name);
        good = intc_rt_fail(error, "--output: expected NAME=FILE with a name of %s for each prediction to write", names);
    }
    good = good && predict_rows(session, feeds, writers, count, error);
    for (int i = 0; i < count; i++) {
        free(writers[i].buffer);
        Error late;
        bool closed = intc_rt_output_close(&writers[i].output, good, &late);
        if (good && !closed)
            good = intc_rt_fail(error, "%s", late.text);
    }
    return good;
}
