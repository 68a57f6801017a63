/* Evaluation: runs the inference graph over a data set and adds up loss and correct predictions. */
#include "runtime/runtime.h"

#include <string.h>

Wide intc_rt_loss_value(int64_t mantissa, int exponent) {
    Wide limit = (Wide)1 << 90, value = intc_rt_fixed_to((Fixed){mantissa, exponent}, LOSS_FRACTION);
    return value > limit ? limit : value < -limit ? -limit : value;
}

int64_t intc_rt_metric_places(const struct intc_module *module) {
    for (uint32_t i = 0; i < module->tensor_count; i++) {
        const struct intc_tensor *tensor = module->tensors + i;
        if (tensor->kind == INTC_TARGET && tensor->integer)
            return intc_rt_tensor_elements(tensor) / module->batch;
    }
    return 1;
}

static Wide loss_at(const Session *session, const struct intc_tensor *loss, int64_t index) {
    Fixed x = intc_rt_tensor_number(session->arena, loss, index);
    return intc_rt_loss_value(x.mantissa, x.exponent);
}

/* Adds one batch of `rows` real rows. A scalar loss is a mean over the batch; it means nothing where rows are padding. */
static void add_batch(const Session *session, const struct intc_tensor *loss, const struct intc_tensor *metric, int64_t rows,
                      Score *score) {
    int64_t batch = session->module->batch;
    if (loss) {
        bool scalar = intc_rt_tensor_elements(loss) == 1 && loss->rank == 0;
        for (int64_t r = 0; r < rows && !scalar; r++)
            score->loss += loss_at(session, loss, r);
        if (scalar && rows == batch)
            score->loss += loss_at(session, loss, 0) * rows;
        score->loss_count += scalar && rows != batch ? 0 : rows;
    }
    if (metric)
        score->correct += intc_rt_tensor_get(session->arena, metric, 0);
    score->places += rows * intc_rt_metric_places(session->module);
}

bool intc_rt_eval(const Session *session, const Feeds *feeds, Score *score, Error *error) {
    const struct intc_module *module = session->module;
    const struct intc_tensor *loss = intc_rt_tensor_find(module, INTC_LOSS, INTC_IN_INFER);
    const struct intc_tensor *metric = intc_rt_tensor_find(module, INTC_METRIC, INTC_IN_INFER);
    *score = (Score){0};
    for (int64_t first = 0; first < feeds->rows; first += feeds->batch) {
        int64_t rows = feeds->rows - first < feeds->batch ? feeds->rows - first : feeds->batch;
        for (int64_t i = 0; i < feeds->batch; i++)
            feeds->chosen[i] = i < rows ? first + i : -1;
        if (!intc_rt_feed_batch(feeds, FEED_INFER, session->arena, error))
            return false;
        module->infer(session->arena, session->pool);
        add_batch(session, loss, metric, rows, score);
    }
    score->has_loss = score->loss_count > 0;
    score->has_metric = metric != NULL;
    return true;
}

const char *intc_rt_score_text(const Score *score, char text[160]) {
    char loss[NUMBER_TEXT] = "", accuracy[NUMBER_TEXT] = "";
    if (score->has_loss)
        intc_rt_print_fraction(score->loss / score->loss_count, LOSS_FRACTION, 6, loss);
    if (score->has_metric)
        intc_rt_print_ratio(score->correct * 100, score->places, 2, accuracy);
    snprintf(text, 160, "%s%s%s%s%s%s", score->has_loss ? "loss " : "", loss, score->has_loss && score->has_metric ? ", " : "",
             score->has_metric ? "accuracy " : "", accuracy, score->has_metric ? " %" : "");
    return text;
}

bool intc_rt_score_better(const Score *a, const Score *b) {
    if (a->has_metric && b->has_metric)
        return a->correct > b->correct;
    return a->has_loss && b->has_loss && a->loss < b->loss;
}
