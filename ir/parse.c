/* The parser of the text form (ir/text.h). Before: any bytes. After: the graphs, or NULL and a diagnostic with a line number; it stops at
 * the first mistake. It checks what the text needs to be a graph at all; whether the graph is a good one is the verifier's question. */
#include "ir/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Arena *arena;
    Diag *diag;
    const char *at;
    int line;
    bool failed;
    Graph *graph;
    Value **names; /* hash table, linear probing */
    size_t name_room;
    size_t name_count;
} Parser;

static bool fail(Parser *parser, const char *expected) {
    if (parser->failed)
        return false;
    parser->failed = true;
    char found[24];
    size_t n = 0;
    while (n < sizeof found - 1 && parser->at[n] != '\0' && parser->at[n] != '\n') {
        found[n] = parser->at[n] >= ' ' && parser->at[n] <= '~' ? parser->at[n] : '?';
        n++;
    }
    found[n] = '\0';
    if (n == 0)
        diag_error(parser->diag, NULL, "line %d: expected %s, found the end of the %s", parser->line, expected,
                   *parser->at == '\0' ? "text" : "line");
    else
        diag_error(parser->diag, NULL, "line %d: expected %s, found '%s'", parser->line, expected, found);
    return false;
}

/* --- characters and words --- */

static void skip_blanks(Parser *parser) {
    while (*parser->at == ' ' || *parser->at == '\t' || *parser->at == '\r')
        parser->at++;
}

static void skip_to_line_end(Parser *parser) {
    while (*parser->at != '\0' && *parser->at != '\n')
        parser->at++;
}

/* Blanks, ends of lines and comments. */
static void skip_space(Parser *parser) {
    for (;;) {
        skip_blanks(parser);
        if (*parser->at == '#')
            skip_to_line_end(parser);
        if (*parser->at != '\n')
            return;
        parser->line++;
        parser->at++;
    }
}

static bool accept(Parser *parser, const char *text) {
    skip_blanks(parser);
    size_t n = strlen(text);
    if (parser->failed || strncmp(parser->at, text, n) != 0)
        return false;
    parser->at += n;
    return true;
}

static bool expect(Parser *parser, const char *text) {
    return accept(parser, text) || fail(parser, text);
}

static bool word_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '#';
}

static bool accept_word(Parser *parser, const char *word) {
    skip_blanks(parser);
    size_t n = strlen(word);
    if (strncmp(parser->at, word, n) != 0 || word_character(parser->at[n]))
        return false;
    return accept(parser, word);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static const char *quoted(Parser *parser) {
    if (!expect(parser, "\""))
        return "";
    size_t length = strcspn(parser->at, "\n");
    char *text = arena_alloc(parser->arena, length + 1, 1), *to = text;
    while (*parser->at != '"') {
        if (*parser->at == '\0' || *parser->at == '\n') {
            fail(parser, "a closing quote");
            return "";
        }
        if (*parser->at != '\\') {
            *to++ = *parser->at++;
            continue;
        }
        parser->at++;
        if (*parser->at == '"' || *parser->at == '\\') {
            *to++ = *parser->at++;
            continue;
        }
        int high = *parser->at == 'x' ? hex_digit(parser->at[1]) : -1, low = high >= 0 ? hex_digit(parser->at[2]) : -1;
        if (low < 0 || 16 * high + low == 0) {
            fail(parser, "\\\", \\\\ or \\x and two digits other than 00");
            return "";
        }
        *to++ = (char)(16 * high + low);
        parser->at += 3;
    }
    parser->at++;
    return text;
}

static const char *word(Parser *parser, const char *expected) {
    skip_blanks(parser);
    if (*parser->at == '"')
        return quoted(parser);
    size_t n = 0;
    while (word_character(parser->at[n]))
        n++;
    if (n == 0) {
        fail(parser, expected);
        return "";
    }
    char *text = arena_alloc(parser->arena, n + 1, 1);
    memcpy(text, parser->at, n);
    parser->at += n;
    return text;
}

static int64_t integer(Parser *parser, int64_t low, int64_t high, const char *expected) {
    skip_blanks(parser);
    char *end;
    errno = 0;
    bool digits = (*parser->at >= '0' && *parser->at <= '9') || (*parser->at == '-' && parser->at[1] >= '0' && parser->at[1] <= '9');
    long long x = digits ? strtoll(parser->at, &end, 10) : 0;
    if (!digits || errno != 0 || x < low || x > high) {
        fail(parser, expected);
        return low;
    }
    parser->at = end;
    return x;
}

static double real(Parser *parser) {
    skip_blanks(parser);
    char *end;
    double x = *parser->at == '\n' ? 0 : strtod(parser->at, &end);
    if (*parser->at == '\n' || end == parser->at) {
        fail(parser, "a number");
        return 0;
    }
    parser->at = end;
    return x;
}

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
        parser->names = arena_alloc(parser->arena, parser->name_room, sizeof *parser->names);
        for (size_t i = 0; i < room; i++)
            if (old[i] != NULL)
                parser->names[name_slot(parser, old[i]->name)] = old[i];
    }
    size_t slot = name_slot(parser, value->name);
    if (parser->names[slot] != NULL) {
        if (!parser->failed)
            diag_error(parser->diag, NULL, "line %d: %%%s is defined twice", parser->line, value->name);
        parser->failed = true;
        return;
    }
    parser->names[slot] = value;
    parser->name_count++;
}

/* Never NULL where the parser has not failed. */
static Value *find(Parser *parser, const char *name) {
    Value *value = parser->failed || parser->name_room == 0 ? NULL : parser->names[name_slot(parser, name)];
    if (value == NULL && !parser->failed) {
        diag_error(parser->diag, NULL, "line %d: %%%s is not defined", parser->line, name);
        parser->failed = true;
    }
    return value;
}

static Value *operand(Parser *parser) {
    if (!expect(parser, "%"))
        return NULL;
    return find(parser, word(parser, "a name"));
}

/* --- declarations --- */

/* [32x784]: dimensions up to the closing bracket. */
static Shape shape(Parser *parser) {
    Shape s = {0};
    if (!expect(parser, "["))
        return s;
    while (!parser->failed && !accept(parser, "]")) {
        if (s.rank == MAX_RANK) {
            fail(parser, "at most 8 dimensions");
            break;
        }
        if (s.rank > 0 && !expect(parser, "x"))
            break;
        s.dim[s.rank++] = integer(parser, 0, TEXT_MAX_ELEMENTS, "a dimension");
    }
    if (!parser->failed && !shape_valid(s.rank, s.dim))
        fail(parser, "a shape of at most 2^40 elements");
    return parser->failed ? (Shape){0} : s;
}

static int int_list(Parser *parser, int64_t *list, int room) {
    int n = 0;
    if (!expect(parser, "["))
        return 0;
    while (!parser->failed && !accept(parser, "]")) {
        if (n > 0 && !expect(parser, ","))
            break;
        if (n == room) {
            fail(parser, "a shorter list");
            break;
        }
        list[n++] = integer(parser, INT64_MIN, INT64_MAX, "an integer");
    }
    return parser->failed ? 0 : n;
}

static void exponent(Parser *parser, Value *value) {
    skip_blanks(parser);
    bool present = *parser->at == 'e' && (parser->at[1] == '?' || parser->at[1] == '-' || (parser->at[1] >= '0' && parser->at[1] <= '9'));
    value->integer = !present && value->type != T_REAL;
    value->exponent_kind = value->integer ? EXPONENT_NONE : EXPONENT_DYNAMIC;
    if (!present)
        return;
    parser->at++;
    bool dynamic = accept(parser, "?");
    if (!dynamic)
        value->exponent_kind = EXPONENT_CONST;
    if (!dynamic || *parser->at == '-' || (*parser->at >= '0' && *parser->at <= '9'))
        value->exponent = (int)integer(parser, -(1 << 20), 1 << 20, "an exponent");
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
        fail(parser, "an order of all dimensions");
}

/* What follows the name of a value; kind and name are the caller's. */
static void declaration(Parser *parser, Value *value) {
    static const Type types[] = {T_REAL, T_I8, T_I16, T_I32, T_I64};
    const char *type = word(parser, "a type");
    size_t i = 0;
    while (i < 5 && strcmp(type, type_name(types[i])) != 0)
        i++;
    if (i == 5) {
        fail(parser, "real, i8, i16, i32 or i64");
        return;
    }
    value->type = types[i];
    value->shape = shape(parser);
    if (accept(parser, "<="))
        value->bound = integer(parser, 0, INT64_MAX, "a bound");
    exponent(parser, value);
    if (accept_word(parser, "order") && expect(parser, "="))
        order(parser, value);
    if (accept_word(parser, "as"))
        value->onnx_name = quoted(parser);
    if (accept(parser, "@")) {
        value->offset = integer(parser, -1, INT64_MAX, "an offset");
        if (expect(parser, ":"))
            value->exponent_offset = integer(parser, -1, INT64_MAX, "an offset");
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
    skip_space(parser);
    while (!parser->failed && !accept(parser, "}")) {
        if (count > 0 && !expect(parser, ","))
            break;
        skip_space(parser);
        if (count == n) {
            fail(parser, "no more numbers");
            break;
        }
        if (count == room) {
            room = room == 0 ? 64 : 2 * room;
            numbers = reallocarray(numbers, room, sizeof *numbers);
            if (numbers == NULL)
                internal_error("out of memory");
        }
        if (reals)
            numbers[count++].real = real(parser);
        else
            numbers[count++].integer = integer(parser, INT64_MIN, INT64_MAX, "an integer");
        skip_space(parser);
    }
    if (!parser->failed && count < n)
        fail(parser, "more numbers");
    if (!parser->failed) {
        double *real_copy = reals ? arena_alloc(parser->arena, n, sizeof *real_copy) : NULL;
        int64_t *copy = reals ? NULL : arena_alloc(parser->arena, n, sizeof *copy);
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
        if (accept_word(parser, value_kind_name(k))) {
            *kind = k;
            return true;
        }
    return false;
}

/* --- nodes --- */

static void attribute(Parser *parser, Node *node) {
    Attr attr = {.name = word(parser, "an attribute")};
    if (attr_find(node, attr.name) != NULL) {
        fail(parser, "an attribute that is not there yet");
        return;
    }
    if (!expect(parser, "="))
        return;
    skip_blanks(parser);
    size_t n = strcspn(parser->at, ",}\n");
    if (*parser->at == '[') {
        size_t room = 1;
        for (const char *c = parser->at; *c != '\0' && *c != ']' && *c != '\n'; c++)
            room += *c == ',';
        if (room > INT32_MAX / 2) {
            fail(parser, "a shorter list");
            return;
        }
        int64_t *list = arena_alloc(parser->arena, room, sizeof *list);
        attr.kind = ATTR_INTS;
        attr.count = int_list(parser, list, (int)room);
        attr.ints = list;
    } else if (*parser->at == '"') {
        attr.kind = ATTR_TEXT;
        attr.text = quoted(parser);
    } else if (strcspn(parser->at, "xX.eEnN") < n) {
        attr.kind = ATTR_REAL;
        attr.real = real(parser);
    } else {
        attr.kind = ATTR_INT;
        attr.integer = integer(parser, INT64_MIN, INT64_MAX, "a number, a list or a text");
    }
    if (!parser->failed)
        attr_set(node, attr);
}

static void attributes(Parser *parser, Node *node) {
    bool first = true;
    while (!parser->failed && !accept(parser, "}")) {
        if (!first && !expect(parser, ","))
            return;
        first = false;
        attribute(parser, node);
    }
}

/* `from Gemm "fc" gradient` behind a semicolon; anything else there is a comment. */
static void origin(Parser *parser, Node *node) {
    if (!accept(parser, ";"))
        return;
    if (!accept_word(parser, "from")) {
        skip_to_line_end(parser);
        return;
    }
    if (!accept(parser, "-"))
        node->origin.op_type = word(parser, "an operator");
    skip_blanks(parser);
    if (*parser->at == '"')
        node->origin.name = quoted(parser);
    node->origin.gradient = accept_word(parser, "gradient");
}

/* Nodes may be fused into a later one: the name is kept until the graph is complete. */
typedef struct Pending {
    Node *node;
    const char *into;
    int line;
    struct Pending *next;
} Pending;

static void node_tail(Parser *parser, Node *node, Pending **pending) {
    if (accept_word(parser, "backward"))
        node->phase = PHASE_BACKWARD;
    else if (accept_word(parser, "update"))
        node->phase = PHASE_UPDATE;
    if (accept_word(parser, "of")) {
        const Value *value = operand(parser);
        if (value != NULL && value->def == NULL)
            fail(parser, "an output of a node before this place");
        node->forward = value != NULL ? value->def : NULL;
    }
    if (accept_word(parser, "into") && expect(parser, "%")) {
        Pending *entry = arena_alloc(parser->arena, 1, sizeof *entry);
        *entry = (Pending){.node = node, .into = word(parser, "a name"), .line = parser->line, .next = *pending};
        *pending = entry;
    }
    origin(parser, node);
}

static void operands(Parser *parser, Node *node) {
    enum { MOST = 64 };
    Value *in[MOST];
    skip_blanks(parser);
    bool more = *parser->at == '%';
    while (more && !parser->failed) {
        if (node->in_count == MOST) {
            fail(parser, "at most 64 operands");
            return;
        }
        in[node->in_count++] = operand(parser);
        more = accept(parser, ",");
    }
    node->in = arena_alloc(parser->arena, (size_t)node->in_count, sizeof(Value *));
    for (int i = 0; i < node->in_count && !parser->failed; i++)
        node->in[i] = in[i];
}

static void append(Parser *parser, Node *node) {
    Graph *graph = parser->graph;
    if (graph->node_count == graph->node_room) {
        graph->node_room = graph->node_room == 0 ? 64 : 2 * graph->node_room;
        Node **nodes = arena_alloc(parser->arena, (size_t)graph->node_room, sizeof *nodes);
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
    const char *where = arena_printf(parser->arena, "line %d: ", parser->line);
    parser->failed = true;
    if (node->in_count < info->min_in || node->in_count > info->max_in) {
        diag_error(parser->diag, NULL, "%s%s takes %d to %d operands, found %d", where, info->name, info->min_in, info->max_in,
                   node->in_count);
        return false;
    }
    if (!node_check_attrs(node, parser->diag, where))
        return false;
    if (!info->infer(node, parser->diag)) {
        diag_error(parser->diag, NULL, "%sthe shape of %s cannot be inferred", where, info->name);
        return false;
    }
    for (int i = 0; i < node->out_count; i++)
        if (!shape_valid(node->out[i]->shape.rank, node->out[i]->shape.dim)) {
            diag_error(parser->diag, NULL, "%sthe result of %s is too large", where, info->name);
            return false;
        }
    if (parser->graph->stage >= STAGE_SCALED)
        node_infer_width(node);
    parser->failed = false;
    return true;
}

enum { MOST_OUTS = 4 };

/* Names and declarations in front of '='; the values are templates, not yet in the graph. */
static int left_side(Parser *parser, Value *values, bool *declared) {
    int count = 0;
    do {
        if (count == MOST_OUTS) {
            fail(parser, "fewer results");
            return 0;
        }
        if (!expect(parser, "%"))
            return 0;
        Value *value = &values[count];
        *value = (Value){.name = word(parser, "a name"), .offset = -1, .exponent_offset = -1, .exponent_kind = EXPONENT_DYNAMIC};
        for (int i = 0; i < MAX_RANK; i++)
            value->order[i] = (uint8_t)i;
        bool typed = accept(parser, ":");
        if (typed)
            declaration(parser, value);
        if (count > 0 && typed != *declared)
            fail(parser, "declarations of all results or of none");
        *declared = typed;
        count++;
    } while (accept(parser, ","));
    expect(parser, "=");
    return parser->failed ? 0 : count;
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
    const char *name = word(parser, "a kind of value or an operator");
    Op op = op_find(name);
    if (parser->failed)
        return;
    if (op == OP_NONE || op_info(op)->outs != count) {
        diag_error(parser->diag, NULL, "line %d: %s '%s'", parser->line, op == OP_NONE ? "no operator" : "wrong number of results of",
                   name);
        parser->failed = true;
        return;
    }
    Node *node = arena_alloc(parser->arena, 1, sizeof *node);
    node->op = op;
    node->graph = parser->graph;
    node->out_count = count;
    node->out = arena_alloc(parser->arena, (size_t)count, sizeof(Value *));
    operands(parser, node);
    if (accept(parser, "{"))
        attributes(parser, node);
    node_tail(parser, node, pending);
    if (parser->failed || (!declared && !infer(parser, node)))
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
    if (parser->failed)
        return;
    if (!value_kind(parser, &kind)) {
        node_statement(parser, results, count, declared, pending);
        return;
    }
    if (count != 1 || !declared) {
        fail(parser, "one value with its type");
        return;
    }
    skip_blanks(parser);
    if (*parser->at == '"')
        results[0].onnx_name = quoted(parser);
    if (accept_word(parser, "real") && expect(parser, "{"))
        contents(parser, &results[0], true);
    if (accept(parser, "{"))
        contents(parser, &results[0], false);
    if (!parser->failed)
        enter(parser, &results[0], kind);
}

/* --- graphs --- */

static void update_statement(Parser *parser) {
    Value *state = operand(parser);
    if (!expect(parser, "<-"))
        return;
    Value *next = operand(parser);
    if (!parser->failed)
        graph_update(parser->graph, state, next);
}

static void output_statement(Parser *parser) {
    const char *name = quoted(parser);
    for (Role role = ROLE_PREDICTION; role <= ROLE_METRIC; role++)
        if (accept_word(parser, role_name(role))) {
            Value *value = operand(parser);
            if (!parser->failed)
                graph_output(parser->graph, name, role, value);
            return;
        }
    fail(parser, "prediction, loss or metric");
}

static void resolve(Parser *parser, const Pending *pending) {
    for (; pending != NULL && !parser->failed; pending = pending->next) {
        parser->line = pending->line;
        const Value *value = find(parser, pending->into);
        if (value != NULL && value->def == NULL)
            fail(parser, "an output of a node behind 'into'");
        pending->node->fused_into = value != NULL ? value->def : NULL;
    }
}

static void header(Parser *parser) {
    if (!accept_word(parser, "graph")) {
        fail(parser, "graph");
        return;
    }
    if (!expect(parser, "@"))
        return;
    parser->graph = graph_new(parser->arena, word(parser, "a name"));
    if (!accept_word(parser, "stage") || !expect(parser, "=")) {
        fail(parser, "stage=");
        return;
    }
    const char *stage = word(parser, "a stage");
    int i = STAGE_IMPORTED;
    while (i <= STAGE_PLANNED && strcmp(stage, stage_name((Stage)i)) != 0)
        i++;
    if (i > STAGE_PLANNED) {
        fail(parser, "imported, lowered, trained, updated, scaled or planned");
        return;
    }
    parser->graph->stage = (Stage)i;
    if (accept_word(parser, "arena") && expect(parser, "="))
        parser->graph->arena_size = integer(parser, 0, INT64_MAX, "a size");
}

static Graph *graph(Parser *parser) {
    Pending *pending = NULL;
    parser->names = NULL;
    parser->name_room = parser->name_count = 0;
    header(parser);
    expect(parser, "{");
    for (;;) {
        skip_space(parser);
        if (parser->failed || accept(parser, "}"))
            break;
        if (accept_word(parser, "update"))
            update_statement(parser);
        else if (accept_word(parser, "output"))
            output_statement(parser);
        else
            value_statement(parser, &pending);
        skip_blanks(parser);
        if (!parser->failed && *parser->at != '\n' && *parser->at != '\0' && *parser->at != '}' && *parser->at != '#')
            fail(parser, "the end of the line");
    }
    resolve(parser, pending);
    return parser->failed ? NULL : parser->graph;
}

Graph **graph_parse(Arena *arena, const char *text, Diag *diag, int *count) {
    Parser parser = {.arena = arena, .diag = diag, .at = text, .line = 1};
    Graph **graphs = NULL;
    int room = 0;
    *count = 0;
    skip_space(&parser);
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
        skip_space(&parser);
    } while (*parser.at != '\0');
    return graphs;
}
