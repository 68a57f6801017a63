/* The printer: graphs as text (ir/text.h shows the form). Before: any graph whose nodes have their outputs.
 * After: text that graph_parse reads into a graph that prints the same. */
#include "ir/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const Graph *graph;
    FILE *out;
    bool *printed;  /* by value id: the text defines it */
    bool *repeated; /* by value id: an earlier value has the same name */
} Printer;

static bool plain(const char *word) {
    if (*word == '\0')
        return false;
    for (; *word != '\0'; word++)
        if (!((*word >= 'a' && *word <= 'z') || (*word >= 'A' && *word <= 'Z') || (*word >= '0' && *word <= '9') || *word == '_' ||
              *word == '.' || *word == '#'))
            return false;
    return true;
}

static void print_quoted(FILE *out, const char *text) {
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++)
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c < ' ' || *c == 0x7F)
            fprintf(out, "\\x%02x", *c);
        else
            fputc(*c, out);
    fputc('"', out);
}

static void print_word(FILE *out, const char *word) {
    if (plain(word))
        fputs(word, out);
    else
        print_quoted(out, word);
}

static void print_name(const Printer *printer, const Value *value) {
    FILE *out = printer->out;
    fputc('%', out);
    if (!printer->repeated[value->id]) {
        print_word(out, value->name);
    } else if (plain(value->name)) {
        fprintf(out, "%s#%d", value->name, value->id);
    } else {
        size_t room = strlen(value->name) + 16;
        char *name = calloc(room, 1);
        if (name == NULL)
            internal_error("out of memory");
        snprintf(name, room, "%s#%d", value->name, value->id);
        print_quoted(out, name);
        free(name);
    }
}

static void print_real(FILE *out, double x) {
    if (isnan(x))
        fputs("nan", out);
    else
        fprintf(out, "%a", x);
}

static void print_ints(FILE *out, const int64_t *ints, int count) {
    fputc('[', out);
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%lld", i > 0 ? ", " : "", (long long)ints[i]);
    fputc(']', out);
}

static void print_exponent(FILE *out, const Value *value) {
    if (value->integer || (value->type == T_REAL && value->exponent_kind == EXPONENT_DYNAMIC))
        return;
    if (value->exponent_kind == EXPONENT_CONST)
        fprintf(out, " e%d", value->exponent);
    else if (value->exponent_kind == EXPONENT_DYNAMIC && value->exponent != 0)
        fprintf(out, " e?%d", value->exponent);
    else if (value->exponent_kind == EXPONENT_DYNAMIC)
        fputs(" e?", out);
}

static void print_declaration(const Printer *printer, const Value *value) {
    FILE *out = printer->out;
    print_name(printer, value);
    fprintf(out, " : %s[", type_name(value->type));
    bool reordered = false;
    int64_t order[MAX_RANK];
    for (int d = 0; d < value->shape.rank; d++) {
        fprintf(out, "%s%lld", d > 0 ? "x" : "", (long long)value->shape.dim[d]);
        order[d] = value->order[d];
        reordered = reordered || order[d] != d;
    }
    fputc(']', out);
    if (value->type != T_REAL || value->bound != 0)
        fprintf(out, " <=%lld", (long long)value->bound);
    print_exponent(out, value);
    if (reordered) {
        fputs(" order=", out);
        print_ints(out, order, value->shape.rank);
    }
    if (value->kind == VALUE_NODE && value->onnx_name != NULL) {
        fputs(" as ", out);
        print_quoted(out, value->onnx_name);
    }
    if (value->offset != -1 || value->exponent_offset != -1)
        fprintf(out, " @%lld:%lld", (long long)value->offset, (long long)value->exponent_offset);
}

enum { PER_LINE = 16 };

static void print_separator(FILE *out, int64_t i) {
    if (i > 0)
        fputs(i % PER_LINE == 0 ? ",\n      " : ", ", out);
}

/* A typed value has mantissas once exponents ran; its reals are then no part of its meaning. */
static void print_contents(FILE *out, const Value *value) {
    int64_t n = shape_elements(value->shape);
    if (value->mantissa != NULL && value->type != T_REAL) {
        fputs(" {", out);
        for (int64_t i = 0; i < n; i++) {
            print_separator(out, i);
            fprintf(out, "%lld", (long long)value->mantissa[i]);
        }
        fputc('}', out);
    } else if (value->real != NULL) {
        fputs(" real {", out);
        for (int64_t i = 0; i < n; i++) {
            print_separator(out, i);
            print_real(out, value->real[i]);
        }
        fputc('}', out);
    }
}

static void print_value(const Printer *printer, const Value *value) {
    fputs("  ", printer->out);
    print_declaration(printer, value);
    fprintf(printer->out, " = %s", value_kind_name(value->kind));
    if (value->onnx_name != NULL) {
        fputc(' ', printer->out);
        print_quoted(printer->out, value->onnx_name);
    }
    print_contents(printer->out, value);
    fputc('\n', printer->out);
}

static void print_attrs(FILE *out, const Node *node) {
    if (node->attr_count == 0)
        return;
    fputs(" {", out);
    for (int i = 0; i < node->attr_count; i++) {
        const Attr *attr = &node->attrs[i];
        fputs(i > 0 ? ", " : "", out);
        print_word(out, attr->name);
        fputc('=', out);
        if (attr->kind == ATTR_INT)
            fprintf(out, "%lld", (long long)attr->integer);
        else if (attr->kind == ATTR_REAL)
            print_real(out, attr->real);
        else if (attr->kind == ATTR_TEXT)
            print_quoted(out, attr->text);
        else
            print_ints(out, attr->ints, attr->count);
    }
    fputc('}', out);
}

static void print_origin(FILE *out, const Origin *origin) {
    if (origin->op_type == NULL && origin->name == NULL && !origin->gradient)
        return;
    fputs(" ; from ", out);
    if (origin->op_type != NULL)
        print_word(out, origin->op_type);
    else
        fputc('-', out);
    if (origin->name != NULL) {
        fputc(' ', out);
        print_quoted(out, origin->name);
    }
    if (origin->gradient)
        fputs(" gradient", out);
}

/* The forward node of a gradient may have been dropped, or belong to the graph this one was cloned from. */
static bool present(const Printer *printer, const Node *node) {
    if (node == NULL || node->graph != printer->graph || node->out_count == 0)
        return false;
    const Value *value = node->out[0];
    return value != NULL && value->id < printer->graph->value_count && printer->graph->values[value->id] == value && value->def == node &&
           printer->printed[value->id];
}

static void print_node(const Printer *printer, const Node *node) {
    FILE *out = printer->out;
    fputs("  ", out);
    for (int i = 0; i < node->out_count; i++) {
        fputs(i > 0 ? ", " : "", out);
        print_declaration(printer, node->out[i]);
    }
    fprintf(out, " = %s", op_info(node->op)->name);
    for (int i = 0; i < node->in_count; i++) {
        fputs(i > 0 ? ", " : " ", out);
        print_name(printer, node->in[i]);
    }
    print_attrs(out, node);
    if (node->phase != PHASE_FORWARD)
        fprintf(out, " %s", phase_name(node->phase));
    if (present(printer, node->forward)) {
        fputs(" of ", out);
        print_name(printer, node->forward->out[0]);
    }
    if (present(printer, node->fused_into)) {
        fputs(" into ", out);
        print_name(printer, node->fused_into->out[0]);
    }
    if (present(printer, node->beside)) {
        fputs(" beside ", out);
        print_name(printer, node->beside->out[0]);
    }
    print_origin(out, &node->origin);
    fputc('\n', out);
}

static int by_name(const void *a, const void *b) {
    const Value *x = *(const Value *const *)a, *y = *(const Value *const *)b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x->id > y->id) - (x->id < y->id);
}

/* Of the printed values with one name all but the first get their id behind it. */
static void find_repeated(Printer *printer) {
    const Graph *graph = printer->graph;
    const Value **sorted = calloc((size_t)graph->value_count + 1, sizeof *sorted);
    if (sorted == NULL)
        internal_error("out of memory");
    int count = 0;
    for (int i = 0; i < graph->value_count; i++)
        if (printer->printed[i])
            sorted[count++] = graph->values[i];
    qsort(sorted, (size_t)count, sizeof *sorted, by_name);
    for (int i = 1; i < count; i++)
        printer->repeated[sorted[i]->id] = strcmp(sorted[i]->name, sorted[i - 1]->name) == 0;
    free(sorted);
}

void graph_print(const Graph *graph, FILE *out) {
    size_t n = (size_t)graph->value_count + 1;
    Printer printer = {.graph = graph, .out = out, .printed = calloc(n, 1), .repeated = calloc(n, 1)};
    if (printer.printed == NULL || printer.repeated == NULL)
        internal_error("out of memory");
    for (int i = 0; i < graph->value_count; i++)
        printer.printed[i] = graph->values[i]->kind != VALUE_NODE;
    for (int i = 0; i < graph->node_count; i++)
        for (int k = 0; k < graph->nodes[i]->out_count; k++)
            printer.printed[graph->nodes[i]->out[k]->id] = true;
    find_repeated(&printer);
    fputs("graph @", out);
    print_word(out, graph->name);
    fprintf(out, " stage=%s", stage_name(graph->stage));
    if (graph->arena_size != 0)
        fprintf(out, " arena=%lld", (long long)graph->arena_size);
    fputs(" {\n", out);
    for (int i = 0; i < graph->value_count; i++)
        if (graph->values[i]->kind != VALUE_NODE)
            print_value(&printer, graph->values[i]);
    for (int i = 0; i < graph->node_count; i++)
        print_node(&printer, graph->nodes[i]);
    for (int i = 0; i < graph->update_count; i++) {
        fputs("  update ", out);
        print_name(&printer, graph->updates[i].state);
        fputs(" <- ", out);
        print_name(&printer, graph->updates[i].next);
        fputc('\n', out);
    }
    for (int i = 0; i < graph->output_count; i++) {
        fputs("  output ", out);
        print_quoted(out, graph->outputs[i].name);
        fprintf(out, " %s ", role_name(graph->outputs[i].role));
        print_name(&printer, graph->outputs[i].value);
        fputc('\n', out);
    }
    fputs("}\n", out);
    free(printer.printed);
    free(printer.repeated);
}
