/* Evaluation: runs the inference graph over a data set and adds up loss and correct predictions. */
#include "runtime/runtime.h"

#include <string.h>

Wide intc_rt_loss_value(int64_t mantissa, int exponent) {
    Wide limit = (Wide)1 << 90, value = intc_rt_fixed_to((Fixed){mantissa, exponent}, LOSS_FRACTION);
    return value > limit ? limit : value < -limit ? -limit : value;
}

static Wide loss_at(const Session *session, const struct intc_tensor *loss, int64_t index) {
    Fixed x = intc_rt_tensor_number(session->arena, loss, intc_rt_tensor_place(loss, index));
    return intc_rt_loss_value(x.mantissa, x.exponent);
}

/* Adds one batch of `rows` real rows. A scalar loss is a mean over the batch; it means nothing where rows are padding. The loss of a row is
 * a mean over all of its labels: where some are ignored, the sum over the others counts, so that the result is the mean over them. */
static void add_batch(const Session *session, const Feeds *feeds, const struct intc_tensor *loss, const struct intc_tensor *metric,
                      int64_t rows, Score *score) {
    LabelCount labels = intc_rt_label_count(feeds);
    if (loss) {
        bool scalar = intc_rt_tensor_elements(loss) == 1 && loss->rank == 0;
        for (int64_t r = 0; r < rows && !scalar; r++)
            score->loss += loss_at(session, loss, r) * (labels.ignores ? labels.row : 1);
        if (scalar && rows == feeds->batch)
            score->loss += loss_at(session, loss, 0) * rows;
        score->loss_count += !scalar && labels.ignores ? labels.counted : scalar && rows != feeds->batch ? 0 : rows;
    }
    if (metric)
        score->correct += intc_rt_load(session->arena + metric->offset, metric->type);
    score->places += labels.counted;
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
        if (!intc_rt_feed_batch(feeds, FEED_INFER, session->arena, session->pool, error))
            return false;
        intc_rt_set_random(session, 0, first / feeds->batch);
        module->infer(session->arena, session->pool);
        add_batch(session, feeds, loss, metric, rows, score);
    }
    score->has_loss = score->loss_count > 0;
    score->has_metric = metric != NULL && score->places > 0;
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
