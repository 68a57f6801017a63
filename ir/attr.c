/* Attributes of a node: a short list searched by name. Before: names are unique in a node. After: lookups never change it. */
#include "ir/ir.h"

#include <string.h>

const Attr *attr_find(const Node *node, const char *name) {
    for (int i = 0; i < node->attr_count; i++)
        if (strcmp(node->attrs[i].name, name) == 0)
            return &node->attrs[i];
    return NULL;
}

static const Attr *expect(const Node *node, const char *name, AttrKind kind) {
    const Attr *attr = attr_find(node, name);
    if (attr != NULL && attr->kind != kind)
        internal_error("attribute '%s' of %s has another kind", name, op_info(node->op)->name);
    return attr;
}

int64_t attr_int(const Node *node, const char *name, int64_t absent) {
    const Attr *attr = expect(node, name, ATTR_INT);
    return attr != NULL ? attr->integer : absent;
}

double attr_real(const Node *node, const char *name, double absent) {
    const Attr *attr = expect(node, name, ATTR_REAL);
    return attr != NULL ? attr->real : absent;
}

const char *attr_text(const Node *node, const char *name, const char *absent) {
    const Attr *attr = expect(node, name, ATTR_TEXT);
    return attr != NULL ? attr->text : absent;
}

const int64_t *attr_ints(const Node *node, const char *name, int *count) {
    const Attr *attr = expect(node, name, ATTR_INTS);
    *count = attr != NULL ? attr->count : 0;
    return attr != NULL ? attr->ints : NULL;
}

bool attr_ints_equal(const Node *a, const Node *b, const char *name) {
    int count, other;
    const int64_t *list = attr_ints(a, name, &count), *others = attr_ints(b, name, &other);
    bool equal = count == other;
    for (int i = 0; equal && i < count; i++)
        equal = list[i] == others[i];
    return equal;
}

void attr_set(Node *node, Attr attr) {
    for (int i = 0; i < node->attr_count; i++)
        if (strcmp(node->attrs[i].name, attr.name) == 0) {
            node->attrs[i] = attr;
            return;
        }
    Attr *attrs = arena_alloc(node->graph->arena, (size_t)node->attr_count + 1, sizeof *attrs);
    if (node->attr_count > 0)
        memcpy(attrs, node->attrs, (size_t)node->attr_count * sizeof *attrs);
    attrs[node->attr_count++] = attr;
    node->attrs = attrs;
}
