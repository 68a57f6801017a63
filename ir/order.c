/* Memory orders: which order of one side of a transpose or reshape lets no byte move. Before and after: pure functions. Dimensions of one
 * element are nowhere in memory, and never tell orders apart. */
#include "ir/ir.h"

bool order_equal(const Value *a, const Value *b) {
    int i = 0, j = 0;
    for (;;) {
        while (i < a->shape.rank && a->shape.dim[a->order[i]] == 1)
            i++;
        while (j < b->shape.rank && b->shape.dim[b->order[j]] == 1)
            j++;
        if (i == a->shape.rank || j == b->shape.rank)
            return i == a->shape.rank && j == b->shape.rank;
        if (a->order[i++] != b->order[j++])
            return false;
    }
}

bool order_is_row_major(const Value *value) {
    int previous = -1;
    for (int k = 0; k < value->shape.rank; k++) {
        int d = value->order[k];
        if (value->shape.dim[d] == 1)
            continue;
        if (d < previous)
            return false;
        previous = d;
    }
    return true;
}

/* --- reshape --- */

enum { MOST_PARTS = 2 * MAX_RANK };

/* The common factors of two shapes, innermost first, each with the dimension of either shape that it belongs to. */
typedef struct {
    int count;
    int of_x[MOST_PARTS], of_y[MOST_PARTS];
} Parts;

/* False if the dimensions do not split into common factors. */
static bool parts_split(Shape x, Shape y, Parts *parts) {
    int i = x.rank - 1, j = y.rank - 1;
    parts->count = 0;
    for (;;) {
        while (i >= 0 && x.dim[i] == 1)
            i--;
        while (j >= 0 && y.dim[j] == 1)
            j--;
        if (i < 0 || j < 0)
            return i < 0 && j < 0;
        int64_t part = x.dim[i] < y.dim[j] ? x.dim[i] : y.dim[j];
        if (part == 0 || x.dim[i] % part != 0 || y.dim[j] % part != 0)
            return false;
        parts->of_x[parts->count] = i;
        parts->of_y[parts->count++] = j;
        x.dim[i] /= part;
        y.dim[j] /= part;
    }
}

/* Dimensions of one element go behind the one before them, so that row-major stays the identity. */
static void place_ones(Shape shape, int placed, uint8_t *order) {
    for (int d = 0; d < shape.rank; d++) {
        if (shape.dim[d] != 1)
            continue;
        int at = 0;
        while (d > 0 && order[at++] != d - 1)
            ;
        for (int k = placed++; k > at; k--)
            order[k] = order[k - 1];
        order[at] = (uint8_t)d;
    }
}

/* The order of y's dimensions that walks the factors as x's memory does. */
static bool reshape_order(const Value *x, Shape y, uint8_t *order) {
    if (order_is_row_major(x)) {
        for (int d = 0; d < y.rank; d++)
            order[d] = (uint8_t)d;
        return true;
    }
    Parts parts;
    if (!parts_split(x->shape, y, &parts))
        return false;
    bool seen[MAX_RANK] = {false};
    int last = -1, count = 0; /* last: the factor before */
    for (int k = 0; k < x->shape.rank; k++)
        for (int p = parts.count - 1; p >= 0; p--) {
            if (parts.of_x[p] != x->order[k])
                continue;
            int d = parts.of_y[p];
            bool inner = last >= 0 && parts.of_y[last] == d && p == last - 1;
            bool outermost = p == parts.count - 1 || parts.of_y[p + 1] != d;
            if (!inner && (seen[d] || !outermost))
                return false;
            if (!inner)
                order[count++] = (uint8_t)d;
            seen[d] = true;
            last = p;
        }
    place_ones(y, count, order);
    return true;
}

/* --- both --- */

bool move_order(const Node *node, bool backwards, uint8_t order[MAX_RANK]) {
    const Value *in = node->in[0], *out = node->out[0];
    if (node->op == OP_reshape)
        return backwards ? reshape_order(out, in->shape, order) : reshape_order(in, out->shape, order);
    if (node->op != OP_transpose)
        return false;
    int count;
    const int64_t *perm = attr_ints(node, "perm", &count);
    for (int k = 0; k < count && backwards; k++)
        order[k] = (uint8_t)perm[out->order[k]];
    for (int i = 0; i < count && !backwards; i++)
        for (int k = 0; k < count; k++)
            if (in->order[k] == perm[i])
                order[k] = (uint8_t)i;
    return true;
}

bool move_is_free(const Node *node) {
    Value moved = *node->out[0];
    return move_order(node, false, moved.order) && order_equal(&moved, node->out[0]);
}
