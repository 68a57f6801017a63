/* Shared by the tests of ir/: graphs from text, diagnostics as text, tensors by name. */
#ifndef TESTS_IR_HELPER_H
#define TESTS_IR_HELPER_H

#include "ir/ir.h"
#include "runtime/fixed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above first. */
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The caller frees the text. */
static inline char *diag_as_text(const Diag *diag) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    diag_print(diag, out);
    fclose(out);
    return text;
}

static inline char *graph_as_text(const Graph *graph) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    graph_print(graph, out);
    fclose(out);
    return text;
}

/* The first graph of a text that must parse and be valid. */
static inline Graph *graph_from(Arena *arena, const char *text) {
    Diag *diag = diag_new(NULL);
    int count;
    Graph **graphs = graph_parse(arena, text, diag, &count);
    if (graphs == NULL || !graph_verify(graphs[0], diag)) {
        diag_print(diag, stderr);
        fail_msg("the graph is not valid:\n%s", text);
    }
    diag_free(diag);
    return graphs[0];
}

static inline Value *value_named(const Graph *graph, const char *name) {
    for (int i = 0; i < graph->value_count; i++)
        if (strcmp(graph->values[i]->name, name) == 0)
            return graph->values[i];
    fail_msg("no value %s", name);
    return NULL;
}

static inline Tensor *tensor_named(const Eval *eval, const char *name) {
    return &eval->tensors[value_named(eval->graph, name)->id];
}

static inline void fill(const Eval *eval, const char *name, int exponent, const int64_t *mantissas) {
    const Value *value = value_named(eval->graph, name);
    Tensor *tensor = &eval->tensors[value->id];
    memcpy(tensor->mantissa, mantissas, (size_t)shape_elements(value->shape) * sizeof *mantissas);
    tensor->exponent = exponent;
}

static inline void expect_tensor(const Eval *eval, const char *name, int exponent, const int64_t *mantissas) {
    const Value *value = value_named(eval->graph, name);
    const Tensor *tensor = &eval->tensors[value->id];
    if (!value->integer)
        assert_int_equal(tensor->exponent, exponent);
    int64_t n = shape_elements(value->shape);
    for (int64_t i = 0; i < n; i++)
        if (tensor->mantissa[i] != mantissas[i])
            fail_msg("%%%s[%lld] is %lld, expected %lld", name, (long long)i, (long long)tensor->mantissa[i], (long long)mantissas[i]);
}

#define M(...) ((const int64_t[]){__VA_ARGS__})

/* Numbers that look random and are the same everywhere. */
static inline uint64_t next_random(uint64_t *state) {
    *state += 0x9E3779B97F4A7C15u;
    uint64_t x = *state;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

#endif
