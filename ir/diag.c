/* Diagnostics, collected in order. Before: nothing. After: diag_print writes each distinct line once. */
#include "ir/diag.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct Diag {
    const char *file;
    char **lines;
    int count, room, errors;
};

Diag *diag_new(const char *file) {
    Diag *diag = calloc(1, sizeof *diag);
    if (diag == NULL)
        internal_error("out of memory");
    diag->file = file;
    return diag;
}

void diag_free(Diag *diag) {
    if (diag == NULL)
        return;
    for (int i = 0; i < diag->count; i++)
        free(diag->lines[i]);
    free(diag->lines);
    free(diag);
}

static void add(Diag *diag, const char *severity, const Origin *origin, const char *format, va_list args) {
    char *line = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&line, &length);
    if (out == NULL)
        internal_error("out of memory");
    fprintf(out, "intc: %s: ", severity);
    if (diag->file != NULL)
        fprintf(out, "%s: ", diag->file);
    if (origin != NULL && origin->op_type != NULL)
        fprintf(out, "%s%s '%s': ", origin->gradient ? "gradient of " : "", origin->op_type, origin->name != NULL ? origin->name : "");
    vfprintf(out, format, args);
    fclose(out);
    for (int i = 0; i < diag->count; i++)
        if (strcmp(diag->lines[i], line) == 0) {
            free(line);
            return;
        }
    if (diag->count == diag->room) {
        diag->room = diag->room == 0 ? 16 : 2 * diag->room;
        diag->lines = realloc(diag->lines, (size_t)diag->room * sizeof *diag->lines);
        if (diag->lines == NULL)
            internal_error("out of memory");
    }
    diag->lines[diag->count++] = line;
}

void diag_error(Diag *diag, const Origin *origin, const char *format, ...) {
    va_list args;
    va_start(args, format);
    add(diag, "error", origin, format, args);
    va_end(args);
    diag->errors++;
}

void diag_note(Diag *diag, const Origin *origin, const char *format, ...) {
    va_list args;
    va_start(args, format);
    add(diag, "note", origin, format, args);
    va_end(args);
}

int diag_errors(const Diag *diag) {
    return diag->errors;
}

void diag_print(const Diag *diag, FILE *out) {
    for (int i = 0; i < diag->count; i++)
        fprintf(out, "%s\n", diag->lines[i]);
}

void internal_error(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("intc: internal error: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}
