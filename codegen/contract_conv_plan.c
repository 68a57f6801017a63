/* Plans conv and conv_dgrad. Both are products over windows of a padded image; dgrad splits the result by its position modulo the stride
 * into phases, each a convolution of dy with the taps that reach it. Where its kernel reaches far past the edge, or there are few channels,
 * dgrad scatters instead: pixels of dy times all taps of a row of the kernel, added where these reach. Where Winograd serves, it takes the
 * padded image. Needs planned values of i8 or floats in any order. 1-D and 2-D are 3-D with sizes of 1. */
#include "codegen/contract_conv.h"

#include <stdlib.h>
#include <string.h>

enum { NEAR_BYTES = 256 * 1024, NEAR_SUMS = 128 * 1024, WANTED_RUNS = 16 };

/* Where one element of K is: in the staged image and among the weights. */
typedef struct {
    int64_t a, w;
} Term;

static WinogradSum sum_of(const Conv *conv) {
    int64_t taps = WINOGRAD_TAPS * WINOGRAD_TAPS;
    return (WinogradSum){conv->terms * taps, WINOGRAD_CHANNELS * taps, conv->source->bound * conv->weight->bound,
                         conv->terms * conv->columns};
}

/* The form of Winograd that can be had and is faster than direct products. */
static const WinogradForm *form_of(const Conv *conv) {
    WinogradWindow window = {conv->kernel, conv->stride, conv->dilation};
    bool serves = conv->padded.size[0] == 1 && conv->groups == 1 && conv->ys[1] == 1 && conv->result->type == T_I32 &&
                  winograd_serves(&conv->dot, window, conv->terms, conv->columns);
    WinogradSum sum = sum_of(conv);
    return serves ? winograd_choose(conv->out + 1, &sum) : NULL;
}

/* Whether an image of the result is one run of pixels of adjacent channels. */
static bool image_is_run(const Conv *conv) {
    int64_t run = conv->columns;
    bool is_run = conv->ys[1] == 1;
    for (int i = 2; i >= 0; run *= conv->out[i--])
        is_run = is_run && (conv->out[i] == 1 || conv->ys[2 + i] == run);
    return is_run && conv->ys[0] == run;
}

/* Along a row of the result the taps of a pixel and their channels are one run, and none lies outside. */
static bool can_scatter(const Conv *conv) {
    int64_t last = (conv->padded.size[2] - 1) * conv->stride[2] + conv->kernel[2] - 1;
    return conv->backward && conv->groups == 1 && !dot_is_lanes(&conv->dot) && !dot_is_matrix(&conv->dot) && conv->result->type == T_I32 &&
           conv->form == NULL && image_is_run(conv) && (conv->dilation[2] == 1 || conv->kernel[2] == 1) && conv->pad[2] == 0 &&
           last < conv->out[2];
}

/* Fewer products, if there are few channels or the kernel reaches past much of the edge; but each adds to the result in memory, which takes
 * the time of about three dots. */
static bool should_scatter(const Conv *conv) {
    int64_t places = conv->out[0] * conv->out[1] * conv->out[2],
            pixels = conv->padded.size[0] * conv->padded.size[1] * conv->padded.size[2];
    int64_t rows = conv->kernel[0] * conv->kernel[1], groups = (conv->terms + conv->dot.quad - 1) / conv->dot.quad;
    int64_t dots = places * rows * conv->kernel[2] / (conv->stride[0] * conv->stride[1] * conv->stride[2]) * groups *
                   panel_count(&conv->dot, conv->columns);
    int64_t vectors = pixels * rows * panel_count(&conv->dot, conv->kernel[2] * conv->columns);
    return vectors * (groups + 3) < dots / 10 * 9;
}

/* --- pixels beside each other --- */

/* Whether pixels of a row of the result that read the same pixels of the source can be columns of one: one run in memory, of windows that
 * overlap. Not of floats, of which a zero times infinity is none. */
static bool can_pair(const Conv *conv) {
    bool whole = conv->groups == 1 && !dot_is_lanes(&conv->dot) && conv->result->type == T_I32;
    bool overlap = conv->dilation[2] == 1 && conv->stride[2] < conv->kernel[2] && (!conv->backward || conv->stride[2] == 1);
    return whole && overlap && conv->ys[1] == 1 && conv->ys[4] == conv->columns;
}

/* About the time of a row of the result by a row of the kernel, in parts of a dot: each group of K is multiplied with all vectors of
 * columns, and read once. Few sums at a time wait for each other; a tile of matrix registers takes the time of its rows and four more. */
static int64_t time_beside(const Codegen *cg, const Conv *conv, int64_t pixels) {
    enum { SUMS = 8, ROWS = 16, MORE = 4 };
    int64_t columns = pixels * conv->columns, run = ((pixels - 1) * conv->stride[2] + conv->kernel[2]) * conv->terms;
    Dot dot = dot_for(cg, columns, conv->source, conv->weight);
    dot_fit(&dot, run);
    int64_t groups = (run + dot.quad - 1) / dot.quad, vectors = panel_count(&dot, columns) * (dot.panel / dot.lanes);
    int64_t rows = conv->out[2] / pixels, sums = rows * vectors;
    if (dot_is_matrix(&dot))
        return groups * (2 * vectors + 1) * (rows + (rows + ROWS - 1) / ROWS * MORE);
    return groups * (4 * vectors + 1) * (sums < SUMS ? rows * SUMS / sums : rows);
}

/* Pixels that make the most of a vector where few channels come out. */
static int64_t choose_beside(const Codegen *cg, const Conv *conv) {
    enum { MOST = 16 };
    int64_t best = 1, least = time_beside(cg, conv, 1) * 9 / 10;
    for (int64_t pixels = 2; pixels <= MOST && can_pair(conv); pixels++) {
        int64_t time = conv->out[2] % pixels == 0 ? time_beside(cg, conv, pixels) : least;
        if (time < least) {
            least = time;
            best = pixels;
        }
    }
    return best;
}

static int64_t common_divisor(int64_t a, int64_t b) {
    return b == 0 ? a : common_divisor(b, a % b);
}

static void describe(const Codegen *cg, Conv *conv) {
    const Node *node = conv->node;
    int rank = conv->source->shape.rank - 2, count;
    conv->batch = conv->source->shape.dim[0];
    conv->channels = conv->source->shape.dim[1];
    conv->groups = attr_int(node, "group", 1);
    conv->terms = conv->source->shape.dim[1] / conv->groups;
    conv->columns = conv->result->shape.dim[1] / conv->groups;
    Type type = conv->source->type;
    conv->dot = dot_for(cg, conv->columns, conv->source, conv->weight);
    if (conv->groups > 1 && conv->terms == 1 && conv->columns == 1) {
        conv->dot = dot_lanes(cg, type, conv->weight->shape.dim[rank + 1] > 1);
        conv->columns = conv->channels;
        conv->groups = 1;
    }
    window_dims(rank, conv->source->shape.dim + 2, 1, conv->padded.size);
    window_dims(rank, conv->result->shape.dim + 2, 1, conv->out);
    window_dims(rank, conv->weight->shape.dim + 2, 1, conv->kernel);
    window_dims(rank, attr_ints(node, "strides", &count), 1, conv->stride);
    window_dims(rank, attr_ints(node, "pads", &count), 0, conv->pad);
    window_dims(rank, attr_ints(node, "dilations", &count), 1, conv->dilation);
    window_strides(conv->source, conv->xs);
    window_strides(conv->weight, conv->ws);
    window_strides(conv->result, conv->ys);
    if (dot_is_lanes(&conv->dot) && conv->dot.quad > 1)
        conv->apart = conv->backward ? conv->dilation[2] / common_divisor(conv->dilation[2], conv->stride[2]) : conv->dilation[2];
    for (int i = 0; i < 5; i++) {
        conv->xs[i] *= dot_source(&conv->dot);
        conv->ws[i] *= dot_source(&conv->dot);
    }
    conv->form = form_of(conv);
    conv->beside = 1;
    conv->scatters = can_scatter(conv) && should_scatter(conv);
    if (conv->form == NULL && !conv->scatters)
        conv->beside = choose_beside(cg, conv);
    if (conv->beside > 1)
        conv->dot = dot_for(cg, conv->beside * conv->columns, conv->source, conv->weight);
}

/* --- phases --- */

/* Along one dimension: results first, first + step, ... (count of them) read source places from `origin` on, `advance` apart; tap k, where
 * it takes part, reads `tap[k]` places further. */
typedef struct {
    int64_t first, step, count, origin, advance;
    int64_t taps, *tap, *index;
} Sweep;

static int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

/* Results h with (h + pad) mod stride = phase. */
static Sweep phase_of(Codegen *cg, const Conv *conv, int i, int64_t phase) {
    int64_t s = conv->stride[i], p = conv->pad[i];
    Sweep result = {.first = 0, .step = 1, .count = conv->out[i], .origin = -p, .advance = s};
    if (conv->backward) {
        int64_t start = -floor_div(phase - p, s); /* least t with s * t + phase - p >= 0 */
        result.first = s * start + phase - p;
        result.step = s;
        result.count = result.first < conv->out[i] ? (conv->out[i] - 1 - result.first) / s + 1 : 0;
        result.origin = start;
        result.advance = 1;
    }
    result.tap = arena_alloc(cg->memory, (size_t)conv->kernel[i], sizeof *result.tap);
    result.index = arena_alloc(cg->memory, (size_t)conv->kernel[i], sizeof *result.index);
    for (int64_t k = 0; k < conv->kernel[i]; k++) {
        int64_t reach = k * conv->dilation[i];
        if (conv->backward && (reach - phase) % s != 0)
            continue;
        result.index[result.taps] = k;
        result.tap[result.taps++] = conv->backward ? (phase - reach) / s : reach;
    }
    return result;
}

static int64_t phase_count(const Conv *conv, int i) {
    return conv->backward ? conv->stride[i] : 1;
}

/* The first place that is read for result 0 of a phase. */
static int64_t first_read(const Sweep *phase) {
    int64_t least = phase->tap[0];
    for (int64_t k = 1; k < phase->taps; k++)
        least = phase->tap[k] < least ? phase->tap[k] : least;
    return phase->origin + least;
}

/* Padding that all phases need. */
static void plan_image(Codegen *cg, Conv *conv) {
    for (int i = 0; i < 3; i++) {
        int64_t least = i == 2 ? -conv->apart : 0, most = conv->padded.size[i] - 1;
        for (int64_t q = 0; q < phase_count(conv, i) && !conv->scatters; q++) {
            Sweep phase = phase_of(cg, conv, i, q);
            for (int64_t k = 0; phase.count > 0 && k < phase.taps; k++) {
                int64_t from = phase.origin + phase.tap[k], to = from + (phase.count - 1) * phase.advance;
                least = from < least ? from : least;
                most = to > most ? to : most;
            }
        }
        if (conv->form != NULL && i > 0) {
            Sweep phase = phase_of(cg, conv, i, 0);
            int64_t tiles = winograd_tiles(conv->form, conv->out[i]), pixels = (tiles - 1) * conv->form->tile + conv->form->reach;
            int64_t to = first_read(&phase) + pixels - 1;
            most = to > most ? to : most;
        }
        conv->padded.low[i] = -least;
        conv->padded.staged[i] = most - least + 1;
    }
    conv->pixel = conv->channels * (dot_is_lanes(&conv->dot) ? dot_group(&conv->dot) : conv->dot.bytes);
    conv->padded.step[2] = conv->pixel;
    conv->padded.step[1] = conv->padded.step[2] * conv->padded.staged[2];
    conv->padded.step[0] = conv->padded.step[1] * conv->padded.staged[1];
    conv->image = round_up(conv->padded.step[0] * conv->padded.staged[0] + SLACK, INTC_ARENA_ALIGN);
}

/* Images are staged together where the weights do not stay in a near cache, or an image has few rows. */
static void plan_runs(Conv *conv) {
    int64_t weights = conv->terms * conv->columns * conv->groups * conv->kernel[0] * conv->kernel[1] * conv->kernel[2] * conv->dot.bytes;
    bool heavy = weights > NEAR_BYTES, few = conv->out[0] * conv->out[1] * conv->out[2] < 64;
    int64_t tasks = heavy ? conv->batch / 4 : conv->batch, most = heavy || few ? 2 * NEAR_BYTES / conv->image : 1;
    int64_t each = conv->batch / (tasks < 1 ? 1 : tasks < WANTED_RUNS ? tasks : WANTED_RUNS);
    int64_t wanted = conv->form != NULL ? winograd_together(conv->form, conv->out + 1) : 1;
    most = most < wanted ? wanted : most;
    conv->together = most > 8 ? 8 : most < 1 ? 1 : most;
    while (each % conv->together != 0)
        conv->together--;
}

/* Bands of rows of an image whose sums would not stay near: all phases have as many rows in each, which are one run of the result. */
static void plan_bands(Conv *conv) {
    int64_t high = conv->out[1], bytes = conv->ys[0] * 4, step = conv->backward ? conv->stride[1] : 1;
    if (conv->together > 1 || conv->form != NULL || conv->scatters || conv->out[0] != 1 || !image_is_run(conv))
        return;
    for (int64_t bands = 2; bytes / conv->bands > NEAR_SUMS && bands * step <= high; bands++)
        if (high % (bands * step) == 0)
            conv->bands = bands;
    conv->band = high / conv->bands * (conv->backward ? 1 : conv->stride[1]) / step * conv->padded.step[1];
}

/* --- K --- */

static int by_place(const void *left, const void *right) {
    const Term *a = left, *b = right;
    return (a->a > b->a) - (a->a < b->a);
}

/* All terms of a phase in order of their place in the image; *least is subtracted from the places. */
static int64_t phase_terms(Codegen *cg, const Conv *conv, const Sweep phase[3], Term **terms, int64_t *least) {
    int64_t taps = phase[0].taps * phase[1].taps * phase[2].taps, count = 0;
    *terms = arena_alloc(cg->memory, (size_t)(taps * conv->terms) + 1, sizeof **terms);
    *least = 0;
    int64_t sum = conv->backward ? conv->ws[0] : conv->ws[1];
    for (int64_t tap = 0; tap < taps; tap++) {
        int64_t at[3] = {tap / phase[2].taps / phase[1].taps, tap / phase[2].taps % phase[1].taps, tap % phase[2].taps};
        Term term = {0, 0};
        for (int i = 0; i < 3; i++) {
            term.a += phase[i].tap[at[i]] * conv->padded.step[i];
            term.w += phase[i].index[at[i]] * conv->ws[2 + i];
        }
        for (int64_t c = 0; c < conv->terms; c++)
            (*terms)[count++] = (Term){term.a + c * conv->dot.bytes, term.w + c * sum};
    }
    qsort(*terms, (size_t)count, sizeof **terms, by_place);
    if (count > 0)
        *least = (*terms)[0].a;
    for (int64_t i = 0; i < count; i++)
        (*terms)[i].a -= *least;
    return count;
}

/* The weight of the term at that place, which is taken; -1: there is none from the first on, or it was taken. */
static int64_t take(Term *terms, int64_t first, int64_t count, int64_t place) {
    int64_t i = first;
    while (i < count && terms[i].a < place)
        i++;
    int64_t w = i < count && terms[i].a == place ? terms[i].w : -1;
    if (w >= 0)
        terms[i].w = -1;
    return w;
}

/* Covers terms with groups whose elements are `mate` bytes apart; fills the groups' offsets and the weights of their lanes. */
static int64_t cover(const Dot *dot, Term *terms, int64_t count, int64_t mate, int64_t *offsets, int64_t *lanes) {
    int64_t groups = 0;
    for (int64_t i = 0; i < count; i++) {
        if (terms[i].w < 0)
            continue;
        offsets[groups] = terms[i].a;
        for (int lane = 0; lane < dot->quad; lane++)
            lanes[groups * dot->quad + lane] = take(terms, i, count, offsets[groups] + lane * mate);
        groups++;
    }
    return groups;
}

/* Groups that cover sorted terms, in place of the dot's own number of elements. */
static int64_t count_groups(const Term *terms, int64_t count, int64_t quad) {
    int64_t groups = 0, end = -1;
    for (int64_t i = 0; i < count; i++)
        if (terms[i].a >= end) {
            end = terms[i].a + quad;
            groups++;
        }
    return groups;
}

/* The dot for a phase: as few groups as possible, and then short ones. */
static Dot fit(const Dot *dot, const Term *terms, int64_t count) {
    Dot fitted = *dot;
    int64_t run = 0;
    while (run < count && terms[run].a == run)
        run++;
    dot_fit(&fitted, run);
    return count_groups(terms, count, fitted.quad) > count_groups(terms, count, dot->quad) ? *dot : fitted;
}

static Axis row_axis(const Conv *conv, const Sweep sweep[3], int i) {
    int64_t beside = i == 2 ? conv->beside : 1;
    return (Axis){.count = sweep[i].count / (i == 1 ? conv->bands : beside),
                  .a = beside * sweep[i].advance * conv->padded.step[i],
                  .c = beside * sweep[i].step * conv->ys[2 + i]};
}

static Axis images_axis(const Conv *conv) {
    return (Axis){.count = conv->together, .a = conv->image, .c = conv->ys[0]};
}

/* Its rows begin `a` bytes behind what the sweeps read first. */
static void add_piece(Codegen *cg, Conv *conv, const Dot *dot, const Sweep sweep[3], int64_t a, const Product *product, Columns columns) {
    Piece *piece = &conv->pieces[conv->count++];
    *piece = (Piece){.columns = columns, .code = product_new(cg, dot, product), .a = a, .b = conv->b_bytes, .init = conv->init_bytes};
    for (int i = 0; i < 3; i++) {
        piece->a += (sweep[i].origin + conv->padded.low[i]) * conv->padded.step[i];
        piece->c += sweep[i].first * conv->ys[2 + i] * type_bytes(conv->result->type);
    }
    int64_t panels = panel_count(dot, columns.columns);
    conv->b_bytes += panels * panel_bytes(dot, columns.groups);
    conv->init_bytes += panels * dot->panel * 4;
}

/* lanes: of one pixel of those beside each other after the other, lanes_step entries each. */
static void add_phase(Codegen *cg, Conv *conv, const Dot *dot, const Sweep phase[3], const int64_t *offsets, const int64_t *lanes,
                      int64_t lanes_step, int64_t groups, int64_t a, bool more, bool sliced) {
    int64_t columns = conv->beside * conv->columns;
    Product product = {.row = {images_axis(conv), row_axis(conv, phase, 0), row_axis(conv, phase, 1), row_axis(conv, phase, 2)},
                       .rows = 4,
                       .columns = columns,
                       .column_stride = conv->ys[1],
                       .panel_stride = dot->panel * conv->ys[1],
                       .type = conv->result->type,
                       .accumulate = more,
                       .exclusive = sliced,
                       .init = dot->biased};
    product_groups(&product, offsets, groups);
    int64_t column_stride = conv->backward && !dot_is_lanes(dot) ? conv->ws[1] : conv->ws[0];
    bool several = conv->beside > 1;
    add_piece(cg, conv, dot, phase, a, &product,
              (Columns){groups, columns, column_stride, lanes, .run = several ? conv->columns : 0, .lanes_step = several ? lanes_step : 0});
}

/* The places that the pixels beside each other read, each once, as terms whose weight is their place. */
static int64_t all_places(Codegen *cg, const Conv *conv, const Term *terms, int64_t count, int64_t shift, Term **all) {
    Term *places = arena_alloc(cg->memory, (size_t)(conv->beside * count) + 1, sizeof *places);
    int64_t some = 0, kept = 0;
    for (int64_t pixel = 0; pixel < conv->beside; pixel++)
        for (int64_t i = 0; i < count; i++, some++)
            places[some].a = places[some].w = terms[i].a + pixel * shift;
    qsort(places, (size_t)some, sizeof *places, by_place);
    for (int64_t i = 0; i < some; i++)
        if (i == 0 || places[i].a != places[i - 1].a)
            places[kept++] = places[i];
    *all = places;
    return kept;
}

/* The weights of the lanes of each pixel, from the places of the lanes. */
static int64_t *lanes_of_pixels(Codegen *cg, const Conv *conv, const Term *terms, int64_t count, int64_t shift, const int64_t *places,
                                int64_t lanes) {
    int64_t *all = arena_alloc(cg->memory, (size_t)(conv->beside * lanes) + 1, sizeof *all);
    for (int64_t i = 0; i < conv->beside * lanes; i++) {
        int64_t place = places[i % lanes] < 0 ? -1 : places[i % lanes] - i / lanes * shift;
        const Term *term = bsearch(&(Term){place, 0}, terms, (size_t)count, sizeof *terms, by_place);
        all[i] = term != NULL ? term->w : -1;
    }
    return all;
}

static void plan_phase(Codegen *cg, Conv *conv, const Sweep phase[3]) {
    Term *terms, *own;
    int64_t least, own_count = phase_terms(cg, conv, phase, &own, &least), count = own_count;
    int64_t shift = phase[2].advance * conv->padded.step[2];
    terms = own;
    if (conv->beside > 1)
        count = all_places(cg, conv, own, own_count, shift, &terms);
    Dot dot = fit(&conv->dot, terms, count);
    int quad = dot.quad;
    int64_t most_groups = dot_is_matrix(&dot) ? count_groups(terms, count, quad) : count;
    int64_t *offsets = arena_alloc(cg->memory, (size_t)most_groups + 1, sizeof *offsets);
    int64_t *lanes = arena_alloc(cg->memory, (size_t)(most_groups * quad) + 1, sizeof *lanes);
    int64_t mate = conv->apart > 0 ? conv->apart * conv->pixel : conv->dot.bytes;
    int64_t groups = cover(&dot, terms, count, mate, offsets, lanes), lanes_step = groups * quad;
    if (conv->beside > 1)
        lanes = lanes_of_pixels(cg, conv, own, own_count, shift, lanes, lanes_step);
    int64_t most = conv->result->type == T_I64 ? MAX_I32_TERMS / quad : groups;
    int64_t from = 0;
    do {
        int64_t some = groups - from < most ? groups - from : most, base = groups > 0 ? offsets[from] : 0;
        for (int64_t i = from; i < from + some; i++)
            offsets[i] -= base;
        add_phase(cg, conv, &dot, phase, offsets + from, lanes + from * quad, lanes_step, some, least + base, from > 0, groups > most);
        from += some;
    } while (from < groups);
}

static void plan_pieces(Codegen *cg, Conv *conv) {
    int64_t phases = phase_count(conv, 0) * phase_count(conv, 1) * phase_count(conv, 2), most = 1;
    if (conv->result->type == T_I64)
        most += conv->terms * conv->kernel[0] * conv->kernel[1] * conv->kernel[2] / (MAX_I32_TERMS / 8);
    conv->pieces = arena_alloc(cg->memory, (size_t)(phases * most), sizeof *conv->pieces);
    for (int64_t i = 0; i < phases; i++) {
        int64_t at[3] = {i / conv->stride[2] / conv->stride[1], i / conv->stride[2] % conv->stride[1], i % conv->stride[2]};
        Sweep phase[3];
        bool any = true;
        for (int k = 0; k < 3; k++) {
            phase[k] = phase_of(cg, conv, k, conv->backward ? at[k] : 0);
            any = any && phase[k].count > 0;
        }
        if (any)
            plan_phase(cg, conv, phase);
    }
}

/* --- scattering --- */

/* The pixels of dy that tap k reaches the result from, and where. */
static Sweep scatter_of(const Conv *conv, int i, int64_t k) {
    int64_t s = conv->stride[i], to = k * conv->dilation[i] - conv->pad[i];
    int64_t from = to < 0 ? -floor_div(to, s) : 0, last = floor_div(conv->out[i] - 1 - to, s);
    last = last < conv->padded.size[i] - 1 ? last : conv->padded.size[i] - 1;
    return (Sweep){.first = from * s + to, .step = s, .count = last - from + 1, .origin = from, .advance = 1};
}

/* Of each row of the kernel a product of dy with all its taps. */
static void plan_scatter(Codegen *cg, Conv *conv) {
    const Dot *dot = &conv->dot;
    int64_t groups = (conv->terms + dot->quad - 1) / dot->quad, columns = conv->kernel[2] * conv->columns;
    int64_t rows = conv->kernel[0] * conv->kernel[1];
    conv->pieces = arena_alloc(cg->memory, (size_t)rows, sizeof *conv->pieces);
    for (int64_t row = 0; row < rows; row++) {
        int64_t depth = row / conv->kernel[1], high = row % conv->kernel[1];
        const Sweep sweep[3] = {scatter_of(conv, 0, depth), scatter_of(conv, 1, high), scatter_of(conv, 2, 0)};
        if (sweep[0].count <= 0 || sweep[1].count <= 0)
            continue;
        Product product = {.row = {row_axis(conv, sweep, 0), row_axis(conv, sweep, 2), images_axis(conv), row_axis(conv, sweep, 1)},
                           .rows = 4,
                           .k = {{.count = groups, .a = dot_group(dot)}},
                           .ks = 1,
                           .groups = groups,
                           .columns = columns,
                           .column_stride = 1,
                           .panel_stride = dot->panel,
                           .type = conv->result->type,
                           .accumulate = true,
                           .exclusive = true,
                           .scatters = true,
                           .init = dot->biased};
        add_piece(cg, conv, dot, sweep, 0, &product,
                  (Columns){groups, columns, conv->ws[1], NULL, conv->terms, conv->ws[0], conv->columns, conv->ws[4], 0});
        conv->pieces[conv->count - 1].w = depth * conv->ws[2] + high * conv->ws[3];
    }
}

/* --- the whole --- */

static void plan_winograd(Codegen *cg, Conv *conv) {
    bool back = conv->backward;
    Sweep high = phase_of(cg, conv, 1, 0), wide = phase_of(cg, conv, 2, 0);
    conv->reach = conv->padded.low[0] * conv->padded.step[0] + (first_read(&high) + conv->padded.low[1]) * conv->padded.step[1] +
                  (first_read(&wide) + conv->padded.low[2]) * conv->padded.step[2];
    WinogradSum sum = sum_of(conv);
    WinogradShape shape = {.form = conv->form,
                           .terms = conv->terms,
                           .columns = conv->columns,
                           .part = winograd_part(conv->form, conv->out + 1, &sum) / WINOGRAD_TAPS / WINOGRAD_TAPS,
                           .images = conv->together,
                           .image = {conv->image, conv->ys[0]},
                           .out = {conv->out[1], conv->out[2]},
                           .result = {conv->ys[3], conv->ys[4]},
                           .bytes = conv->dot.bytes,
                           .step = {conv->padded.step[1], conv->padded.step[2]},
                           .column = conv->ws[back ? 1 : 0],
                           .term = conv->ws[back ? 0 : 1],
                           .first = back ? 2 * (conv->ws[3] + conv->ws[4]) : 0,
                           .tap = {back ? -conv->ws[3] : conv->ws[3], back ? -conv->ws[4] : conv->ws[4]}};
    conv->winograd = winograd_new(cg, &shape);
    conv->b_bytes = winograd_weight_bytes(conv->winograd);
}

Conv *conv_plan(Codegen *cg, const Node *node, bool near) {
    Conv *conv = arena_alloc(cg->memory, 1, sizeof *conv);
    *conv = (Conv){.node = node, .source = node->in[0], .weight = node->in[1], .result = node->out[0]};
    conv->backward = node->op == OP_conv_dgrad;
    describe(cg, conv);
    plan_image(cg, conv);
    plan_runs(conv);
    conv->bands = 1;
    if (near)
        plan_bands(conv);
    if (conv->form != NULL)
        plan_winograd(cg, conv);
    else if (conv->scatters)
        plan_scatter(cg, conv);
    else
        plan_pieces(cg, conv);
    return conv;
}
