/* The parser of the text form (ir/text.h). Before: any bytes. After: the graphs, or NULL and a diagnostic with a line number; it stops at
 * the first mistake. It checks what the text needs to be a graph at all; whether the graph is a good one is the verifier's question. */
#include "ir/scan.h"
#include "ir/text.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Scanner scan;
    Graph *graph;
    Value **names; /* hash table, linear probing */
    size_t name_room;
    size_t name_count;
} Parser;

/* --- names --- */

static size_t name_slot(const Parser *parser, const char *name) {
    uint64_t hash = 14695981039346656037u;
    for (const char *c = name; *c != '\0'; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    size_t i = (size_t)hash & (parser->name_room - 1);
    while (parser->names[i] != NULL && strcmp(parser->names[i]->name, name) != 0)
        i = (i + 1) & (parser->name_room - 1);
    return i;
}

static void define(Parser *parser, Value *value) {
    if (2 * (parser->name_count + 1) > parser->name_room) {
        Value **old = parser->names;
        size_t room = parser->name_room;
        parser->name_room = room == 0 ? 64 : 2 * room;
        parser->names = arena_alloc(parser->scan.arena, parser->name_room, sizeof *parser->names);
        for (size_t i = 0; i < room; i++)
            if (old[i] != NULL)
                parser->names[name_slot(parser, old[i]->name)] = old[i];
    }
    size_t slot = name_slot(parser, value->name);
    if (parser->names[slot] != NULL) {
        if (!parser->scan.failed)
            diag_error(parser->scan.diag, NULL, "line %d: %%%s is defined twice", parser->scan.line, value->name);
        parser->scan.failed = true;
        return;
    }
    parser->names[slot] = value;
    parser->name_count++;
}

/* Never NULL where the parser has not failed. */
static Value *find(Parser *parser, const char *name) {
    Value *value = parser->scan.failed || parser->name_room == 0 ? NULL : parser->names[name_slot(parser, name)];
    if (value == NULL && !parser->scan.failed) {
        diag_error(parser->scan.diag, NULL, "line %d: %%%s is not defined", parser->scan.line, name);
        parser->scan.failed = true;
    }
    return value;
}

static Value *operand(Parser *parser) {
    if (!scan_expect(&parser->scan, "%"))
        return NULL;
    return find(parser, scan_word(&parser->scan, "a name"));
}

/* --- declarations --- */

/* [32x784]: dimensions up to the closing bracket. */
static Shape shape(Parser *parser) {
    Shape s = {0};
    if (!scan_expect(&parser->scan, "["))
        return s;
    while (!parser->scan.failed && !scan_accept(&parser->scan, "]")) {
        if (s.rank == MAX_RANK) {
            scan_fail(&parser->scan, "at most 8 dimensions");
            break;
        }
        if (s.rank > 0 && !scan_expect(&parser->scan, "x"))
            break;
        s.dim[s.rank++] = scan_integer(&parser->scan, 0, TEXT_MAX_ELEMENTS, "a dimension");
    }
    if (!parser->scan.failed && !shape_valid(s.rank, s.dim))
        scan_fail(&parser->scan, "a shape of at most 2^40 elements");
    return parser->scan.failed ? (Shape){0} : s;
}

static int int_list(Parser *parser, int64_t *list, int room) {
    int n = 0;
    if (!scan_expect(&parser->scan, "["))
        return 0;
    while (!parser->scan.failed && !scan_accept(&parser->scan, "]")) {
        if (n > 0 && !scan_expect(&parser->scan, ","))
            break;
        if (n == room) {
            scan_fail(&parser->scan, "a shorter list");
            break;
        }
        list[n++] = scan_integer(&parser->scan, INT64_MIN, INT64_MAX, "an integer");
    }
    return parser->scan.failed ? 0 : n;
}

static void exponent(Parser *parser, Value *value) {
    scan_skip_blanks(&parser->scan);
    bool present = *parser->scan.at == 'e' &&
                   (parser->scan.at[1] == '?' || parser->scan.at[1] == '-' || (parser->scan.at[1] >= '0' && parser->scan.at[1] <= '9'));
    value->integer = !present && value->type != T_REAL;
    value->exponent_kind = value->integer ? EXPONENT_NONE : EXPONENT_DYNAMIC;
    if (!present)
        return;
    parser->scan.at++;
    bool dynamic = scan_accept(&parser->scan, "?");
    if (!dynamic)
        value->exponent_kind = EXPONENT_CONST;
    if (!dynamic || *parser->scan.at == '-' || (*parser->scan.at >= '0' && *parser->scan.at <= '9'))
        value->exponent = (int)scan_integer(&parser->scan, -(1 << 20), 1 << 20, "an exponent");
}

static void order(Parser *parser, Value *value) {
    int64_t list[MAX_RANK];
    int n = int_list(parser, list, MAX_RANK);
    bool seen[MAX_RANK] = {false};
    bool good = n == value->shape.rank;
    for (int i = 0; i < n && good; i++) {
        good = list[i] >= 0 && list[i] < n && !seen[list[i]];
        if (!good)
            break;
        seen[list[i]] = true;
        value->order[i] = (uint8_t)list[i];
    }
    if (!good)
        scan_fail(&parser->scan, "an order of all dimensions");
}

/* What follows the name of a value; kind and name are the caller's. */
static void declaration(Parser *parser, Value *value) {
    static const Type types[] = {T_REAL, T_I8, T_I16, T_I32, T_I64};
    const char *type = scan_word(&parser->scan, "a type");
    size_t i = 0;
    while (i < 5 && strcmp(type, type_name(types[i])) != 0)
        i++;
    if (i == 5) {
        scan_fail(&parser->scan, "real, i8, i16, i32 or i64");
        return;
    }
    value->type = types[i];
    value->shape = shape(parser);
    if (scan_accept(&parser->scan, "<="))
        value->bound = scan_integer(&parser->scan, 0, INT64_MAX, "a bound");
    exponent(parser, value);
    if (scan_accept_word(&parser->scan, "order") && scan_expect(&parser->scan, "="))
        order(parser, value);
    if (scan_accept_word(&parser->scan, "as"))
        value->onnx_name = scan_quoted(&parser->scan);
    if (scan_accept(&parser->scan, "@")) {
        value->offset = scan_integer(&parser->scan, -1, INT64_MAX, "an offset");
        if (scan_expect(&parser->scan, ":"))
            value->exponent_offset = scan_integer(&parser->scan, -1, INT64_MAX, "an offset");
    }
}

/* --- contents --- */

/* The numbers of {…}; as many as the value has elements. */
static void contents(Parser *parser, Value *value, bool reals) {
    size_t n = (size_t)shape_elements(value->shape), count = 0, room = 0;
    union Number {
        double real;
        int64_t integer;
    } *numbers = NULL;
    scan_skip_space(&parser->scan);
    while (!parser->scan.failed && !scan_accept(&parser->scan, "}")) {
        if (count > 0 && !scan_expect(&parser->scan, ","))
            break;
        scan_skip_space(&parser->scan);
        if (count == n) {
            scan_fail(&parser->scan, "no more numbers");
            break;
        }
        if (count == room) {
            room = room == 0 ? 64 : 2 * room;
            numbers = reallocarray(numbers, room, sizeof *numbers);
            if (numbers == NULL)
                internal_error("out of memory");
        }
        if (reals)
            numbers[count++].real = scan_real(&parser->scan);
        else
            numbers[count++].integer = scan_integer(&parser->scan, INT64_MIN, INT64_MAX, "an integer");
        scan_skip_space(&parser->scan);
    }
    if (!parser->scan.failed && count < n)
        scan_fail(&parser->scan, "more numbers");
    if (!parser->scan.failed) {
        double *real_copy = reals ? arena_alloc(parser->scan.arena, n, sizeof *real_copy) : NULL;
        int64_t *copy = reals ? NULL : arena_alloc(parser->scan.arena, n, sizeof *copy);
        for (size_t i = 0; i < n; i++)
            if (reals)
                real_copy[i] = numbers[i].real;
            else
                copy[i] = numbers[i].integer;
        if (reals)
            value->real = real_copy;
        else
            value->mantissa = copy;
    }
    free(numbers);
}

static bool value_kind(Parser *parser, ValueKind *kind) {
    for (ValueKind k = VALUE_INPUT; k <= VALUE_HYPER; k++)
        if (scan_accept_word(&parser->scan, value_kind_name(k))) {
            *kind = k;
            return true;
        }
    return false;
}

/* --- nodes --- */

static void attribute(Parser *parser, Node *node) {
    Attr attr = {.name = scan_word(&parser->scan, "an attribute")};
    if (attr_find(node, attr.name) != NULL) {
        scan_fail(&parser->scan, "an attribute that is not there yet");
        return;
    }
    if (!scan_expect(&parser->scan, "="))
        return;
    scan_skip_blanks(&parser->scan);
    size_t n = strcspn(parser->scan.at, ",}\n");
    if (*parser->scan.at == '[') {
        size_t room = 1;
        for (const char *c = parser->scan.at; *c != '\0' && *c != ']' && *c != '\n'; c++)
            room += *c == ',';
        if (room > INT32_MAX / 2) {
            scan_fail(&parser->scan, "a shorter list");
            return;
        }
        int64_t *list = arena_alloc(parser->scan.arena, room, sizeof *list);
        attr.kind = ATTR_INTS;
        attr.count = int_list(parser, list, (int)room);
        attr.ints = list;
    } else if (*parser->scan.at == '"') {
        attr.kind = ATTR_TEXT;
        attr.text = scan_quoted(&parser->scan);
    } else if (strcspn(parser->scan.at, "xX.eEnN") < n) {
        attr.kind = ATTR_REAL;
        attr.real = scan_real(&parser->scan);
    } else {
        attr.kind = ATTR_INT;
        attr.integer = scan_integer(&parser->scan, INT64_MIN, INT64_MAX, "a number, a list or a text");
    }
    if (!parser->scan.failed)
        attr_set(node, attr);
}

static void attributes(Parser *parser, Node *node) {
    bool first = true;
    while (!parser->scan.failed && !scan_accept(&parser->scan, "}")) {
        if (!first && !scan_expect(&parser->scan, ","))
            return;
        first = false;
        attribute(parser, node);
    }
}

/* `from Gemm "fc" gradient` behind a semicolon; anything else there is a comment. */
static void origin(Parser *parser, Node *node) {
    if (!scan_accept(&parser->scan, ";"))
        return;
    if (!scan_accept_word(&parser->scan, "from")) {
        scan_skip_to_line_end(&parser->scan);
        return;
    }
    if (!scan_accept(&parser->scan, "-"))
        node->origin.op_type = scan_word(&parser->scan, "an operator");
    scan_skip_blanks(&parser->scan);
    if (*parser->scan.at == '"')
        node->origin.name = scan_quoted(&parser->scan);
    node->origin.gradient = scan_accept_word(&parser->scan, "gradient");
}

/* Nodes may be fused into a later one, or computed beside it: the name is kept until the graph is complete. */
typedef struct Pending {
    Node *node;
    const char *root;
    bool beside;
    int line;
    struct Pending *next;
} Pending;

static void node_tail(Parser *parser, Node *node, Pending **pending) {
    if (scan_accept_word(&parser->scan, "backward"))
        node->phase = PHASE_BACKWARD;
    else if (scan_accept_word(&parser->scan, "update"))
        node->phase = PHASE_UPDATE;
    if (scan_accept_word(&parser->scan, "of")) {
        const Value *value = operand(parser);
        if (value != NULL && value->def == NULL)
            scan_fail(&parser->scan, "an output of a node before this place");
        node->forward = value != NULL ? value->def : NULL;
    }
    bool into = scan_accept_word(&parser->scan, "into"), beside = !into && scan_accept_word(&parser->scan, "beside");
    if ((into || beside) && scan_expect(&parser->scan, "%")) {
        Pending *entry = arena_alloc(parser->scan.arena, 1, sizeof *entry);
        *entry = (Pending){
            .node = node, .root = scan_word(&parser->scan, "a name"), .beside = beside, .line = parser->scan.line, .next = *pending};
        *pending = entry;
    }
    origin(parser, node);
}

static void operands(Parser *parser, Node *node) {
    enum { MOST = 64 };
    Value *in[MOST];
    scan_skip_blanks(&parser->scan);
    bool more = *parser->scan.at == '%';
    while (more && !parser->scan.failed) {
        if (node->in_count == MOST) {
            scan_fail(&parser->scan, "at most 64 operands");
            return;
        }
        in[node->in_count++] = operand(parser);
        more = scan_accept(&parser->scan, ",");
    }
    node->in = arena_alloc(parser->scan.arena, (size_t)node->in_count, sizeof(Value *));
    for (int i = 0; i < node->in_count && !parser->scan.failed; i++)
        node->in[i] = in[i];
}

static void append(Parser *parser, Node *node) {
    Graph *graph = parser->graph;
    if (graph->node_count == graph->node_room) {
        graph->node_room = graph->node_room == 0 ? 64 : 2 * graph->node_room;
        Node **nodes = arena_alloc(parser->scan.arena, (size_t)graph->node_room, sizeof *nodes);
        if (graph->node_count > 0)
            memcpy(nodes, graph->nodes, (size_t)graph->node_count * sizeof *nodes);
        graph->nodes = nodes;
    }
    node->id = graph->next_node++;
    graph->nodes[graph->node_count++] = node;
}

/* Outputs that the text does not declare. */
static bool infer(Parser *parser, Node *node) {
    const OpInfo *info = op_info(node->op);
    const char *where = arena_printf(parser->scan.arena, "line %d: ", parser->scan.line);
    parser->scan.failed = true;
    if (node->in_count < info->min_in || node->in_count > info->max_in) {
        diag_error(parser->scan.diag, NULL, "%s%s takes %d to %d operands, found %d", where, info->name, info->min_in, info->max_in,
                   node->in_count);
        return false;
    }
    if (!node_check_attrs(node, parser->scan.diag, where))
        return false;
    if (!info->infer(node, parser->scan.diag)) {
        diag_error(parser->scan.diag, NULL, "%sthe shape of %s cannot be inferred", where, info->name);
        return false;
    }
    for (int i = 0; i < node->out_count; i++)
        if (!shape_valid(node->out[i]->shape.rank, node->out[i]->shape.dim)) {
            diag_error(parser->scan.diag, NULL, "%sthe result of %s is too large", where, info->name);
            return false;
        }
    if (parser->graph->stage >= STAGE_SCALED)
        node_infer_width(node);
    parser->scan.failed = false;
    return true;
}

enum { MOST_OUTS = 4 };

/* Names and declarations in front of '='; the values are templates, not yet in the graph. */
static int left_side(Parser *parser, Value *values, bool *declared) {
    int count = 0;
    do {
        if (count == MOST_OUTS) {
            scan_fail(&parser->scan, "fewer results");
            return 0;
        }
        if (!scan_expect(&parser->scan, "%"))
            return 0;
        Value *value = &values[count];
        *value =
            (Value){.name = scan_word(&parser->scan, "a name"), .offset = -1, .exponent_offset = -1, .exponent_kind = EXPONENT_DYNAMIC};
        for (int i = 0; i < MAX_RANK; i++)
            value->order[i] = (uint8_t)i;
        bool typed = scan_accept(&parser->scan, ":");
        if (typed)
            declaration(parser, value);
        if (count > 0 && typed != *declared)
            scan_fail(&parser->scan, "declarations of all results or of none");
        *declared = typed;
        count++;
    } while (scan_accept(&parser->scan, ","));
    scan_expect(&parser->scan, "=");
    return parser->scan.failed ? 0 : count;
}

static Value *enter(Parser *parser, const Value *from, ValueKind kind) {
    Value *value = graph_value(parser->graph, kind, from->name, from->shape);
    int id = value->id;
    *value = *from;
    value->id = id;
    value->kind = kind;
    define(parser, value);
    return value;
}

static void node_statement(Parser *parser, const Value *results, int count, bool declared, Pending **pending) {
    const char *name = scan_word(&parser->scan, "a kind of value or an operator");
    Op op = op_find(name);
    if (parser->scan.failed)
        return;
    if (op == OP_NONE || op_info(op)->outs != count) {
        diag_error(parser->scan.diag, NULL, "line %d: %s '%s'", parser->scan.line,
                   op == OP_NONE ? "no operator" : "wrong number of results of", name);
        parser->scan.failed = true;
        return;
    }
    Node *node = arena_alloc(parser->scan.arena, 1, sizeof *node);
    node->op = op;
    node->graph = parser->graph;
    node->out_count = count;
    node->out = arena_alloc(parser->scan.arena, (size_t)count, sizeof(Value *));
    operands(parser, node);
    if (scan_accept(&parser->scan, "{"))
        attributes(parser, node);
    node_tail(parser, node, pending);
    if (parser->scan.failed || (!declared && !infer(parser, node)))
        return;
    for (int i = 0; i < count; i++) {
        if (declared) {
            node->out[i] = enter(parser, &results[i], VALUE_NODE);
        } else {
            node->out[i]->name = results[i].name;
            define(parser, node->out[i]);
        }
        node->out[i]->def = node;
        node->out[i]->out = i;
    }
    append(parser, node);
}

static void value_statement(Parser *parser, Pending **pending) {
    Value results[MOST_OUTS];
    bool declared = false;
    int count = left_side(parser, results, &declared);
    ValueKind kind;
    if (parser->scan.failed)
        return;
    if (!value_kind(parser, &kind)) {
        node_statement(parser, results, count, declared, pending);
        return;
    }
    if (count != 1 || !declared) {
        scan_fail(&parser->scan, "one value with its type");
        return;
    }
    scan_skip_blanks(&parser->scan);
    if (*parser->scan.at == '"')
        results[0].onnx_name = scan_quoted(&parser->scan);
    if (scan_accept_word(&parser->scan, "real") && scan_expect(&parser->scan, "{"))
        contents(parser, &results[0], true);
    if (scan_accept(&parser->scan, "{"))
        contents(parser, &results[0], false);
    if (!parser->scan.failed)
        enter(parser, &results[0], kind);
}

/* --- graphs --- */

static void update_statement(Parser *parser) {
    Value *state = operand(parser);
    if (!scan_expect(&parser->scan, "<-"))
        return;
    Value *next = operand(parser);
    if (!parser->scan.failed)
        graph_update(parser->graph, state, next);
}

static void output_statement(Parser *parser) {
    const char *name = scan_quoted(&parser->scan);
    for (Role role = ROLE_PREDICTION; role < ROLE_COUNT; role++)
        if (scan_accept_word(&parser->scan, role_name(role))) {
            Value *value = operand(parser);
            if (!parser->scan.failed)
                graph_output(parser->graph, name, role, value);
            return;
        }
    scan_fail(&parser->scan, "prediction, loss, metric or gradient");
}

static void resolve(Parser *parser, const Pending *pending) {
    for (; pending != NULL && !parser->scan.failed; pending = pending->next) {
        parser->scan.line = pending->line;
        const Value *value = find(parser, pending->root);
        if (value != NULL && value->def == NULL)
            scan_fail(&parser->scan, pending->beside ? "an output of a node behind 'beside'" : "an output of a node behind 'into'");
        Node *root = value != NULL ? value->def : NULL;
        *(pending->beside ? &pending->node->beside : &pending->node->fused_into) = root;
    }
}

static void header(Parser *parser) {
    if (!scan_accept_word(&parser->scan, "graph")) {
        scan_fail(&parser->scan, "graph");
        return;
    }
    if (!scan_expect(&parser->scan, "@"))
        return;
    parser->graph = graph_new(parser->scan.arena, scan_word(&parser->scan, "a name"));
    if (!scan_accept_word(&parser->scan, "stage") || !scan_expect(&parser->scan, "=")) {
        scan_fail(&parser->scan, "stage=");
        return;
    }
    const char *stage = scan_word(&parser->scan, "a stage");
    int i = STAGE_IMPORTED;
    while (i <= STAGE_PLANNED && strcmp(stage, stage_name((Stage)i)) != 0)
        i++;
    if (i > STAGE_PLANNED) {
        scan_fail(&parser->scan, "imported, lowered, trained, updated, scaled or planned");
        return;
    }
    parser->graph->stage = (Stage)i;
    if (scan_accept_word(&parser->scan, "arena") && scan_expect(&parser->scan, "="))
        parser->graph->arena_size = scan_integer(&parser->scan, 0, INT64_MAX, "a size");
}

static Graph *graph(Parser *parser) {
    Pending *pending = NULL;
    parser->names = NULL;
    parser->name_room = parser->name_count = 0;
    header(parser);
    scan_expect(&parser->scan, "{");
    for (;;) {
        scan_skip_space(&parser->scan);
        if (parser->scan.failed || scan_accept(&parser->scan, "}"))
            break;
        if (scan_accept_word(&parser->scan, "update"))
            update_statement(parser);
        else if (scan_accept_word(&parser->scan, "output"))
            output_statement(parser);
        else
            value_statement(parser, &pending);
        scan_skip_blanks(&parser->scan);
        if (!parser->scan.failed && *parser->scan.at != '\n' && *parser->scan.at != '\0' && *parser->scan.at != '}' &&
            *parser->scan.at != '#')
            scan_fail(&parser->scan, "the end of the line");
    }
    resolve(parser, pending);
    return parser->scan.failed ? NULL : parser->graph;
}

Graph **graph_parse(Arena *arena, const char *text, Diag *diag, int *count) {
    Parser parser = {.scan = {.arena = arena, .diag = diag, .at = text, .line = 1}};
    Graph **graphs = NULL;
    int room = 0;
    *count = 0;
    scan_skip_space(&parser.scan);
    do {
        Graph *next = graph(&parser);
        if (next == NULL)
            return NULL;
        if (*count == room) {
            room = room == 0 ? 4 : 2 * room;
            Graph **grown = arena_alloc(arena, (size_t)room, sizeof *grown);
            if (*count > 0)
                memcpy(grown, graphs, (size_t)*count * sizeof *grown);
            graphs = grown;
        }
        graphs[(*count)++] = next;
        scan_skip_space(&parser.scan);
    } while (*parser.scan.at != '\0');
    return graphs;
}
