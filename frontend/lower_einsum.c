/* Lowering of Einsum. Before: known operands. After: sums, transposes, and one matmul (or mul, where nothing is summed) for each further
 * operand. Source: ONNX Operators.md, Einsum. */
#include "frontend/importer.h"

#include <string.h>

enum { ELLIPSIS = 128, LABELS = ELLIPSIS + MAX_RANK };

/* A value and the label of each of its dimensions: a letter, or ELLIPSIS + k for the k-th of the dimensions "..." stands for, counted from
 * the right. */
typedef struct {
    Value *value;
    int label[MAX_RANK];
} Term;

/* Reads the labels of a term up to `end`; ellipsis: number of dimensions that "..." stands for. -1 after a diagnostic. */
static int read_labels(OnnxNode *node, const char *text, const char *end, int ellipsis, int *label) {
    int count = 0;
    for (; text < end; text++) {
        bool dots = *text == '.', letter = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z');
        if (*text == ' ')
            continue;
        if (!letter && (!dots || end - text < 3 || text[1] != '.' || text[2] != '.')) {
            node_refuse(node, "its equation has '%c' where a letter or '...' is expected", *text);
            return -1;
        }
        if (count + (dots ? ellipsis : 1) > MAX_RANK) {
            node_refuse(node, "a term of its equation has more than %d dimensions", MAX_RANK);
            return -1;
        }
        for (int k = 0; k < (dots ? ellipsis : 1); k++)
            label[count++] = dots ? ELLIPSIS + ellipsis - 1 - k : *text;
        text += dots ? 2 : 0;
    }
    return count;
}

static int letters(const char *text, const char *end) {
    int count = 0;
    for (; text < end; text++)
        count += *text != '.' && *text != ' ';
    return count;
}

static int find(const int *label, int rank, int wanted) {
    for (int i = 0; i < rank; i++)
        if (label[i] == wanted)
            return i;
    return -1;
}

/* Sums over the dimensions whose label is not kept. */
static bool sum_unused(OnnxNode *node, Term *term, const bool *kept) {
    int64_t axes[MAX_RANK];
    int count = 0, rank = 0;
    for (int i = 0; i < term->value->shape.rank; i++) {
        if (!kept[term->label[i]])
            axes[count++] = i;
        else
            term->label[rank++] = term->label[i];
    }
    if (count > 0)
        term->value = node_emit(node, OP_reduce_sum, INPUTS(term->value), ATTRS(ATTR_L("axes", count, axes), ATTR_I("keepdims", 0)));
    return term->value != NULL;
}

/* The dimensions of a term by label, in the order of `order`; those it lacks are 1. */
static Value *arranged(OnnxNode *node, const Term *term, const int *order, int count, int64_t dims[MAX_RANK]) {
    int64_t perm[MAX_RANK];
    int rank = 0;
    for (int i = 0; i < count; i++) {
        int at = find(term->label, term->value->shape.rank, order[i]);
        dims[i] = at < 0 ? 1 : term->value->shape.dim[at];
        if (at >= 0)
            perm[rank++] = at;
    }
    return node_transpose(node, term->value, perm);
}

typedef struct {
    int batch[MAX_RANK], left[MAX_RANK], right[MAX_RANK], summed[MAX_RANK];
    int batches, lefts, rights, sums;
} Roles;

static int append(int *list, int count, const int *more, int more_count) {
    memcpy(list + count, more, (size_t)more_count * sizeof *more);
    return count + more_count;
}

static int64_t extent(const int64_t *dims, int count) {
    int64_t n = 1;
    for (int i = 0; i < count; i++)
        n *= dims[i];
    return n;
}

/* a and b as batch x rows x summed and batch x summed x columns. */
static bool multiply(OnnxNode *node, Term *a, const Term *b, const Roles *r) {
    int order[2 * MAX_RANK], n;
    int64_t da[2 * MAX_RANK], db[2 * MAX_RANK], dims[MAX_RANK];
    n = append(order, append(order, append(order, 0, r->batch, r->batches), r->left, r->lefts), r->summed, r->sums);
    Value *x = arranged(node, a, order, n, da);
    n = append(order, append(order, append(order, 0, r->batch, r->batches), r->summed, r->sums), r->right, r->rights);
    Value *y = arranged(node, b, order, n, db);
    if (x == NULL || y == NULL)
        return false;
    int64_t rows = extent(da + r->batches, r->lefts), columns = extent(db + r->batches + r->sums, r->rights);
    int64_t sum = extent(da + r->batches + r->lefts, r->sums);
    if (extent(db + r->batches, r->sums) != sum)
        return node_refuse(node, "sums over dimensions of different sizes");
    int rank = r->batches + r->lefts + r->rights;
    if (r->batches + 2 > MAX_RANK || rank > MAX_RANK)
        return node_refuse(node, "makes more than %d dimensions on the way", MAX_RANK);
    Shape left = {.rank = r->batches + 2}, right = left, result = {.rank = rank};
    for (int i = 0; i < r->batches; i++) {
        left.dim[i] = da[i];
        right.dim[i] = db[i];
        dims[i] = da[i] == 1 ? db[i] : da[i];
    }
    left.dim[r->batches] = rows;
    left.dim[r->batches + 1] = right.dim[r->batches] = sum;
    right.dim[r->batches + 1] = columns;
    x = node_reshape(node, x, left);
    y = node_reshape(node, y, right);
    Value *product = r->sums == 0 ? node_emit(node, OP_mul, INPUTS(x, y), NO_ATTRS)
                                  : node_emit(node, OP_matmul, INPUTS(x, y), ATTRS(ATTR_I("ta", 0), ATTR_I("tb", 0)));
    append(a->label, append(a->label, append(a->label, 0, r->batch, r->batches), r->left, r->lefts), r->right, r->rights);
    for (int i = 0; i < rank; i++)
        result.dim[i] = i < r->batches ? dims[i] : i < r->batches + r->lefts ? da[i] : db[i - r->lefts + r->sums];
    a->value = node_reshape(node, product, result);
    return a->value != NULL;
}

/* a becomes the product of both, summed over what is not kept. */
static bool join(OnnxNode *node, Term *a, Term *b, const bool *kept) {
    bool needed[LABELS];
    Roles r = {.batches = 0};
    memcpy(needed, kept, sizeof needed);
    for (int i = 0; i < b->value->shape.rank; i++)
        needed[b->label[i]] = true;
    if (!sum_unused(node, a, needed))
        return false;
    memcpy(needed, kept, sizeof needed);
    for (int i = 0; i < a->value->shape.rank; i++)
        needed[a->label[i]] = true;
    if (!sum_unused(node, b, needed))
        return false;
    for (int i = 0; i < a->value->shape.rank; i++) {
        int label = a->label[i], at = find(b->label, b->value->shape.rank, label);
        if (at >= 0 && kept[label])
            r.batch[r.batches++] = label;
        else if (at >= 0)
            r.summed[r.sums++] = label;
        else
            r.left[r.lefts++] = label;
        int64_t m = a->value->shape.dim[i], n = at >= 0 ? b->value->shape.dim[at] : m;
        if (m != n && !(label >= ELLIPSIS && (m == 1 || n == 1)))
            return node_refuse(node, "a dimension of its equation is %lld and %lld", (long long)m, (long long)n);
    }
    for (int i = 0; i < b->value->shape.rank; i++)
        if (find(a->label, a->value->shape.rank, b->label[i]) < 0)
            r.right[r.rights++] = b->label[i];
    return multiply(node, a, b, &r);
}

/* The labels of each operand and of the output ("" = letters that occur once, in alphabetical order). */
static bool parse(OnnxNode *node, const char *equation, Term *terms, int *output, int *outputs) {
    int uses[LABELS] = {0}, most = 0;
    const char *arrow = strstr(equation, "->"), *end = arrow != NULL ? arrow : equation + strlen(equation), *at = equation;
    for (int i = 0; i < node->in_count; i++) {
        const char *comma = memchr(at, ',', (size_t)(end - at)), *stop = comma != NULL ? comma : end;
        int rank = node->in[i]->shape.rank, ellipsis = memchr(at, '.', (size_t)(stop - at)) != NULL ? rank - letters(at, stop) : 0;
        if (ellipsis < 0 || read_labels(node, at, stop, ellipsis, terms[i].label) != rank || (comma == NULL) != (i == node->in_count - 1))
            return node_refuse(node, "equation '%s' does not fit its operands", equation);
        for (int k = 0; k < rank; k++) {
            if (find(terms[i].label, k, terms[i].label[k]) >= 0)
                return node_refuse(node, "takes a diagonal: '%c' occurs twice in a term", (char)terms[i].label[k]);
            uses[terms[i].label[k]]++;
        }
        most = ellipsis > most ? ellipsis : most;
        at = stop + 1;
    }
    if (arrow != NULL) {
        *outputs = read_labels(node, arrow + 2, equation + strlen(equation), most, output);
        for (int i = 0; i < *outputs; i++)
            if (uses[output[i]] == 0 || find(output, i, output[i]) >= 0)
                return node_refuse(node, "the result of equation '%s' has a dimension that no operand has, or twice", equation);
        return *outputs >= 0;
    }
    *outputs = 0;
    for (int k = most; k-- > 0;)
        output[(*outputs)++] = ELLIPSIS + k;
    for (int letter = 0; letter < ELLIPSIS; letter++)
        if (uses[letter] == 1 && *outputs < MAX_RANK)
            output[(*outputs)++] = letter;
    return true;
}

bool lower_einsum(OnnxNode *node) {
    if (!node_check_inputs(node, 1, INT32_MAX))
        return false;
    const char *equation = node_attr_text(node, "equation", "");
    Term *terms = arena_alloc(node->importer->arena, (size_t)node->in_count, sizeof *terms);
    int output[MAX_RANK], outputs = 0;
    for (int i = 0; i < node->in_count; i++)
        if (node->in[i] == NULL || (terms[i].value = node_value(node, i)) == NULL)
            return false;
    if (!parse(node, equation, terms, output, &outputs))
        return false;
    for (int i = 1; i <= node->in_count; i++) {
        bool kept[LABELS] = {false};
        for (int k = 0; k < outputs; k++)
            kept[output[k]] = true;
        for (int j = i + 1; j < node->in_count; j++)
            for (int k = 0; k < terms[j].value->shape.rank; k++)
                kept[terms[j].label[k]] = true;
        if (i < node->in_count ? !join(node, &terms[0], &terms[i], kept) : !sum_unused(node, &terms[0], kept))
            return false;
    }
    int64_t dims[MAX_RANK];
    Value *result = arranged(node, &terms[0], output, outputs, dims);
    return node_set(node, 0, node_reshape(node, result, shape_of(outputs, dims)));
}
