/* Which file fills which tensor: opens the data of every input and target, and checks shapes, types and labels before the first step. */
#include "runtime/runtime.h"

#include <stdlib.h>
#include <string.h>

/* The files given for a tensor: "NAME=FILE", or a plain FILE if it is the only one of its kind. */
static const char *find_files(const List *list, const char *name, bool single) {
    size_t length = strlen(name);
    for (int i = 0; i < list->count; i++)
        if (strncmp(list->text[i], name, length) == 0 && list->text[i][length] == '=')
            return list->text[i] + length + 1;
    return single && list->count == 1 ? list->text[0] : NULL;
}

static bool first_of_name(const struct intc_module *module, uint32_t index) {
    const struct intc_tensor *tensor = module->tensors + index;
    for (uint32_t i = 0; i < index; i++)
        if (module->tensors[i].kind == tensor->kind && strcmp(module->tensors[i].name, tensor->name) == 0)
            return false;
    return true;
}

static int count_kind(const struct intc_module *module, int32_t kind) {
    int count = 0;
    for (uint32_t i = 0; i < module->tensor_count; i++)
        count += module->tensors[i].kind == kind && first_of_name(module, i);
    return count;
}

/* Every entry of the list must belong to a tensor. */
static bool check_list(const struct intc_module *module, const List *list, int32_t kind, const char *option, Error *error) {
    char names[512] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < module->tensor_count; i++)
        if (module->tensors[i].kind == kind && first_of_name(module, i) && used < sizeof names)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s'%s'", used ? ", " : "", module->tensors[i].name);
    int kinds = count_kind(module, kind);
    if (kinds == 1 && list->count == 1)
        return true;
    for (int i = 0; i < list->count; i++) {
        bool found = false;
        for (uint32_t t = 0; t < module->tensor_count && !found; t++) {
            size_t length = strlen(module->tensors[t].name);
            found = module->tensors[t].kind == kind && strncmp(list->text[i], module->tensors[t].name, length) == 0 &&
                    list->text[i][length] == '=';
        }
        if (!found)
            return intc_rt_fail(error, "%s %s: expected NAME=FILE with a name of %s", option, list->text[i],
                                kinds ? names : "(the model has none)");
    }
    return true;
}

/* Drops dimensions of 1. */
static int squeeze(int rank, const int64_t *dim, int64_t *kept) {
    int count = 0;
    for (int i = 0; i < rank; i++)
        if (dim[i] != 1)
            kept[count++] = dim[i];
    return count;
}

/* The same shape but for dimensions of 1, or one of the two is flat and has as many elements. */
static bool rows_fit(const DataShape *row, const struct intc_tensor *tensor) {
    int64_t a[8], b[8], a_elements = 1, b_elements = 1;
    int a_rank = squeeze(row->rank, row->dim, a), b_rank = squeeze(tensor->rank - 1, tensor->dim + 1, b);
    for (int i = 0; i < a_rank; i++)
        a_elements *= a[i];
    for (int i = 0; i < b_rank; i++)
        b_elements *= b[i];
    if (a_elements != b_elements)
        return false;
    return a_rank <= 1 || b_rank <= 1 || (a_rank == b_rank && memcmp(a, b, (size_t)a_rank * sizeof *a) == 0);
}

static bool check_labels(const Feed *feed, const struct intc_tensor *tensor, Error *error) {
    int64_t low = 0, high = tensor->classes - 1;
    if (tensor->classes == 0) {
        int bits = 8 * intc_rt_type_size(tensor->type);
        high = bits == 64 ? INT64_MAX : ((int64_t)1 << (bits - 1)) - 1;
        low = -high - 1;
    }
    int64_t index = 0;
    for (int64_t row = 0; row < feed->set.rows; row++) {
        const DataFile *file;
        const unsigned char *bytes = intc_rt_data_row(&feed->set, row, &file);
        if (row > 0 && bytes == file->map + file->shape.first)
            index = 0;
        for (int64_t i = 0; i < feed->elements; i++, index++) {
            int64_t value = intc_rt_data_integer(&file->shape, bytes, i);
            if ((value < low || value > high) && (value != tensor->ignored || value == INT32_MIN))
                return intc_rt_fail(error, "%s: element %lld: expected a label from %lld to %lld for '%s', found %lld", file->path,
                                    (long long)index, (long long)low, (long long)high, tensor->name, (long long)value);
        }
    }
    return true;
}

static bool check_set(const Feed *feed, const struct intc_tensor *tensor, Error *error) {
    const DataFile *file = feed->set.files;
    char expected[128], found[128];
    if (!rows_fit(&file->shape, tensor))
        return intc_rt_fail(error, "%s: expected rows of shape %s for '%s', found %s", file->path,
                            intc_rt_shape_text(tensor->rank - 1, tensor->dim + 1, expected, sizeof expected), tensor->name,
                            intc_rt_shape_text(file->shape.rank, file->shape.dim, found, sizeof found));
    if (!tensor->integer)
        return true;
    if (file->shape.type >= DATA_F16)
        return intc_rt_fail(error, "%s: expected integers for '%s', found %s", file->path, tensor->name,
                            intc_rt_data_type_name(file->shape.type));
    return check_labels(feed, tensor, error);
}

/* Elements of one channel; the list must have one entry or one for each channel. 0 if it has not. */
static int64_t channel_size(const Feed *feed, const struct intc_tensor *tensor, int count) {
    const DataShape *row = &feed->set.files->shape;
    if (count <= 1)
        return feed->elements;
    if (tensor->rank >= 3 && tensor->dim[1] == count)
        return feed->elements / count;
    return row->rank >= 2 && row->dim[0] == count ? feed->elements / count : 0;
}

/* The tables of uint8 inputs. */
static bool make_table(Feed *feed, const struct intc_tensor *tensor, const FeedSource *source, bool normalised, Error *error) {
    static const Channels none;
    const Channels *mean = normalised ? source->mean : &none, *std = normalised ? source->std : &none;
    const char *path = feed->set.files->path;
    int count = mean->count > std->count ? mean->count : std->count;
    feed->channels = count > 1 ? count : 1;
    feed->channel_size = channel_size(feed, tensor, feed->channels);
    if (feed->channel_size == 0 || (mean->count > 1 && mean->count != count) || (std->count > 1 && std->count != count)) {
        char shape[128];
        return intc_rt_fail(error, "%s: --mean, --std: expected one number or one for each channel of '%s' (%s), found %d and %d", path,
                            tensor->name, intc_rt_shape_text(tensor->rank, tensor->dim, shape, sizeof shape), mean->count, std->count);
    }
    feed->table = malloc((size_t)feed->channels * 256 * sizeof *feed->table);
    feed->mapped = malloc((size_t)feed->channels * 256 * sizeof *feed->mapped);
    if (!feed->table || !feed->mapped)
        return intc_rt_fail(error, "out of memory");
    for (int c = 0; c < feed->channels; c++) {
        Fixed m = mean->count == 0 ? FIXED_ZERO : mean->value[mean->count == 1 ? 0 : c];
        Fixed s = std->count == 0 ? (Fixed){1, 0} : std->value[std->count == 1 ? 0 : c];
        if (s.mantissa <= 0)
            return intc_rt_fail(error, "--std: expected numbers above 0, found %s", std->text);
        for (int u = 0; u < 256; u++)
            if (!intc_rt_pixel(u, m, s, feed->table + 256 * c + u))
                return intc_rt_fail(error, "--mean %s --std %s: the pixels become larger than 2^20", mean->text ? mean->text : "0",
                                    std->text ? std->text : "1");
    }
    return true;
}

/* Elements of a piece, so that few rows, too, are for several threads. */
enum { PIECE = 16384 };

static bool open_feed(const struct intc_module *module, Feed *feed, const char *paths, const FeedSource *source, Error *error) {
    const struct intc_tensor *tensor = feed->step ? feed->step : feed->infer;
    if (tensor->rank < 1 || tensor->dim[0] != module->batch)
        return intc_rt_fail(error, "input '%s': expected a first dimension of %lld, the batch; this model cannot be fed from files",
                            tensor->name, (long long)module->batch);
    feed->elements = 1;
    for (int i = 1; i < tensor->rank; i++)
        feed->elements *= tensor->dim[i];
    feed->pieces = (feed->elements + PIECE - 1) / PIECE;
    feed->extremes = calloc((size_t)(module->batch * feed->pieces) + 1, sizeof *feed->extremes);
    if (!feed->extremes || (feed->step && !intc_rt_tensor_places(feed->step, 1, &feed->step_place)) ||
        (feed->infer && !intc_rt_tensor_places(feed->infer, 1, &feed->infer_place)))
        return intc_rt_fail(error, "input '%s': out of memory, or a row takes more than 2^31 elements", tensor->name);
    if (!paths)
        return true;
    if (!intc_rt_data_open(paths, tensor->integer, &feed->set, error) || !check_set(feed, tensor, error))
        return false;
    bool input = tensor->kind == INTC_INPUT, pixels = feed->set.files->shape.type == DATA_U8 && !tensor->integer;
    if (pixels)
        return make_table(feed, tensor, source, input, error);
    /* Those of the checkpoint have no text: other data than the pixels of the training are taken as they are. */
    if (input && !tensor->integer && (source->mean->text || source->std->text))
        return intc_rt_fail(error, "%s: --mean and --std apply to uint8 pixels, found %s", feed->set.files->path,
                            intc_rt_data_type_name(feed->set.files->shape.type));
    return true;
}

/* Makes the feed of the tensor at index, with its partner of the other scope. */
static bool add_feed(const struct intc_module *module, uint32_t index, int32_t scope, const FeedSource *source, Feeds *feeds,
                     Error *error) {
    const struct intc_tensor *tensor = module->tensors + index;
    Feed *feed = feeds->items + feeds->count++;
    for (uint32_t i = index; i < module->tensor_count; i++) {
        const struct intc_tensor *other = module->tensors + i;
        if (other->kind != tensor->kind || strcmp(other->name, tensor->name) != 0)
            continue;
        if ((other->scope & scope & INTC_IN_STEP) && !feed->step)
            feed->step = other;
        if ((other->scope & scope & INTC_IN_INFER) && !feed->infer)
            feed->infer = other;
    }
    if (!feed->step && !feed->infer) {
        feeds->count--;
        return true;
    }
    bool input = tensor->kind == INTC_INPUT;
    const List *list = input ? source->data : source->target;
    const char *paths = NULL;
    if (list) {
        paths = find_files(list, tensor->name, count_kind(module, tensor->kind) == 1);
        if (!paths)
            return intc_rt_fail(error, "%s: no file for '%s'; expected %s %s=FILE", input ? source->data_option : source->target_option,
                                tensor->name, input ? source->data_option : source->target_option, tensor->name);
    }
    if (!open_feed(module, feed, paths, source, error))
        return false;
    if (!paths)
        return true;
    for (int i = 0; i < feeds->count - 1; i++)
        if (feeds->items[i].set.count > 0 && feeds->items[i].set.rows != feed->set.rows)
            return intc_rt_fail(error, "%s: expected %lld rows as in %s, found %lld", feed->set.files->path,
                                (long long)feeds->items[i].set.rows, feeds->items[i].set.files->path, (long long)feed->set.rows);
    feeds->rows = feed->set.rows;
    return true;
}

bool intc_rt_feeds_open(const struct intc_module *module, int32_t scope, const FeedSource *source, Feeds *feeds, Error *error) {
    *feeds = (Feeds){.batch = module->batch};
    feeds->items = calloc((size_t)module->tensor_count + 1, sizeof *feeds->items);
    feeds->chosen = calloc((size_t)module->batch, sizeof *feeds->chosen);
    if (!feeds->items || !feeds->chosen)
        return intc_rt_fail(error, "out of memory");
    if (!check_list(module, source->data, INTC_INPUT, source->data_option, error))
        return false;
    if (source->target && !check_list(module, source->target, INTC_TARGET, source->target_option, error))
        return false;
    for (uint32_t i = 0; i < module->tensor_count; i++)
        if ((module->tensors[i].kind == INTC_INPUT || module->tensors[i].kind == INTC_TARGET) && first_of_name(module, i) &&
            !add_feed(module, i, scope, source, feeds, error))
            return false;
    return feeds->rows > 0 ? true : intc_rt_fail(error, "%s: the model reads no input", source->data_option);
}

void intc_rt_feeds_close(Feeds *feeds) {
    for (int i = 0; i < feeds->count; i++) {
        free(feeds->items[i].step_place);
        free(feeds->items[i].infer_place);
        free(feeds->items[i].table);
        free(feeds->items[i].mapped);
        free(feeds->items[i].extremes);
        intc_rt_data_close(&feeds->items[i].set);
    }
    free(feeds->items);
    free(feeds->chosen);
    *feeds = (Feeds){0};
}

/* Labels of one row of the files that are not the ignored one. */
static int64_t count_row(const Feed *feed, const struct intc_tensor *tensor, int64_t row) {
    const DataFile *file;
    const unsigned char *bytes = intc_rt_data_row(&feed->set, row, &file);
    int64_t count = 0;
    for (int64_t i = 0; i < feed->elements; i++)
        count += intc_rt_data_integer(&file->shape, bytes, i) != tensor->ignored;
    return count;
}

LabelCount intc_rt_label_count(const Feeds *feeds) {
    LabelCount labels = {.row = 1};
    const Feed *target = NULL;
    const struct intc_tensor *tensor = NULL;
    for (int i = 0; i < feeds->count && !target; i++) {
        tensor = feeds->items[i].step ? feeds->items[i].step : feeds->items[i].infer;
        if (tensor->kind == INTC_TARGET && tensor->integer)
            target = feeds->items + i;
    }
    if (target) {
        labels.row = target->elements;
        labels.ignores = tensor->ignored != INT32_MIN;
    }
    for (int64_t r = 0; r < feeds->batch; r++)
        if (feeds->chosen[r] >= 0)
            labels.counted += labels.ignores && target->set.count > 0 ? count_row(target, tensor, feeds->chosen[r]) : labels.row;
    return labels;
}

bool intc_rt_feed_batch(const Feeds *feeds, FeedMode mode, unsigned char *arena, struct intc_pool *pool, Error *error) {
    FeedFailure failure;
    if (intc_rt_feed(feeds, mode, arena, pool, &failure))
        return true;
    const struct intc_tensor *tensor = failure.feed->step ? failure.feed->step : failure.feed->infer;
    return intc_rt_fail(error, "%s: row %lld of '%s': expected finite numbers up to 2^62, found another", failure.file->path,
                        (long long)failure.row, tensor->name);
}
