/* The ONNX backend cases on the interpreter. Arguments: the folder of the unpacked data, the list of cases, the list of the cases that are
 * refused on purpose, the list of those that are beyond the bounds of integer mode. Each case is imported without a loss, run on its inputs
 * in real mode and compared within the ONNX runner's tolerances; then its graph is run in integer mode on the inputs in 8 bits. Fails on a
 * wrong result, on a case of either kind that is not listed and on a listed case that is none. */
#include "frontend/frontend.h"
#include "tests/op/backend_integer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST_TENSORS = 16 };
static const double RELATIVE = 1e-3, ABSOLUTE = 1e-7;

typedef enum { PASSED, FAILED, REFUSED } Outcome;

typedef struct {
    Arena *arena;
    Diag *diag;
    const char *folder;
    OnnxFile *file;
    OnnxTensor inputs[MOST_TENSORS];
    KnownInput known[MOST_TENSORS];
    int input_count;
    Graph *graph;
} Case;

static bool exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

static bool read_inputs(Case *test) {
    int count = onnx_input_count(test->file);
    for (int i = 0; i < count && i < MOST_TENSORS; i++) {
        const char *path = arena_printf(test->arena, "%s/test_data_set_0/input_%d.pb", test->folder, i);
        if (!exists(path) || !onnx_read_tensor(test->arena, path, &test->inputs[i], test->diag))
            return false;
        test->known[test->input_count++] = (KnownInput){.name = onnx_input_name(test->file, i), .tensor = &test->inputs[i]};
    }
    return true;
}

static void fill_inputs(const Case *test, Eval *eval) {
    for (int v = 0; v < test->graph->value_count; v++) {
        const Value *value = test->graph->values[v];
        for (int i = 0; i < test->input_count && value->kind == VALUE_INPUT; i++) {
            if (value->onnx_name == NULL || strcmp(value->onnx_name, test->known[i].name) != 0)
                continue;
            const OnnxTensor *tensor = test->known[i].tensor;
            Tensor *to = &eval->tensors[value->id];
            for (int64_t k = 0; k < tensor->count; k++) {
                if (tensor->ints != NULL && to->mantissa != NULL)
                    to->mantissa[k] = tensor->ints[k];
                if (to->real != NULL)
                    to->real[k] = tensor->reals != NULL ? tensor->reals[k] : (double)tensor->ints[k];
            }
        }
    }
}

static IntegerResult run_integer(Case *test) {
    Given given[MOST_TENSORS];
    int count = 0;
    for (int v = 0; v < test->graph->value_count; v++) {
        const Value *value = test->graph->values[v];
        for (int i = 0; i < test->input_count && value->kind == VALUE_INPUT; i++)
            if (value->onnx_name != NULL && strcmp(value->onnx_name, test->known[i].name) == 0)
                given[count++] = (Given){value, test->inputs[i].reals, test->inputs[i].ints};
    }
    return integer_check(test->graph, given, count, test->diag);
}

static bool close_enough(double found, double expected) {
    if (isnan(expected) || isinf(expected))
        return isnan(expected) ? isnan(found) : found == expected;
    return fabs(found - expected) <= ABSOLUTE + RELATIVE * fabs(expected);
}

/* NULL if the output is as expected, else what is wrong. */
static const char *compare_output(const Case *test, const Eval *eval, int index) {
    const char *path = arena_printf(test->arena, "%s/test_data_set_0/output_%d.pb", test->folder, index);
    const char *name = onnx_output_name(test->file, index);
    OnnxTensor expected;
    if (!exists(path) || !onnx_read_tensor(test->arena, path, &expected, test->diag))
        return "cannot read the expected output";
    const Value *value = NULL;
    for (int i = 0; i < test->graph->output_count; i++)
        if (strcmp(test->graph->outputs[i].name, name) == 0)
            value = test->graph->outputs[i].value;
    if (value == NULL)
        return arena_printf(test->arena, "no output '%s'", name);
    if (!shape_equal(value->shape, expected.shape))
        return arena_printf(test->arena, "output '%s' has shape [%s], expected [%s]", name, shape_text(test->arena, value->shape),
                            shape_text(test->arena, expected.shape));
    const Tensor *tensor = &eval->tensors[value->id];
    for (int64_t k = 0; k < expected.count; k++) {
        double found = value->integer ? (double)tensor->mantissa[k] : tensor->real[k];
        double wanted = expected.reals != NULL ? expected.reals[k] : (double)expected.ints[k];
        if (!close_enough(found, wanted))
            return arena_printf(test->arena, "output '%s' element %lld is %g, expected %g", name, (long long)k, found, wanted);
    }
    return NULL;
}

static Outcome run_case(Case *test, const char **reason) {
    char *text = NULL;
    size_t size = 0;
    ImportOptions options = {.known = test->known};
    test->file = onnx_read(test->arena, arena_printf(test->arena, "%s/model.onnx", test->folder), test->diag);
    bool read = test->file != NULL && read_inputs(test);
    options.known_count = test->input_count;
    Graph *train;
    if (!read || !onnx_import(test->file, &options, &train, &test->graph, test->diag)) {
        FILE *out = open_memstream(&text, &size);
        diag_print(test->diag, out);
        fclose(out);
        *reason = arena_printf(test->arena, "%.*s", (int)strcspn(text, "\n"), text);
        free(text);
        return REFUSED;
    }
    if (!graph_verify(test->graph, test->diag)) {
        diag_print(test->diag, stdout);
        *reason = "the verifier refuses the graph";
        return FAILED;
    }
    Eval *eval = eval_new(test->graph, EVAL_REAL);
    fill_inputs(test, eval);
    eval_nodes(eval);
    *reason = NULL;
    for (int i = 0; i < onnx_output_count(test->file) && *reason == NULL; i++)
        *reason = compare_output(test, eval, i);
    eval_free(eval);
    return *reason == NULL ? PASSED : FAILED;
}

/* Whether the file, one name a line, holds the name. */
static bool is_listed(const char *path, const char *name) {
    char line[512];
    bool found = false;
    FILE *in = fopen(path, "r");
    while (in != NULL && !found && fgets(line, sizeof line, in) != NULL) {
        line[strcspn(line, " \n")] = '\0';
        found = strcmp(line, name) == 0;
    }
    if (in != NULL)
        fclose(in);
    return found;
}

typedef struct {
    int outcomes[3], within, beyond, close, surprises;
} Counts;

static const double CLOSE = 0x1p-5;

/* Integer mode of a case that passed in real mode. */
static void count_integer(Counts *counts, Case *test, const char *name, bool listed) {
    IntegerResult result = run_integer(test);
    *(result.beyond == NULL ? &counts->within : &counts->beyond) += 1;
    counts->close += result.beyond == NULL && result.error <= CLOSE;
    if ((result.beyond != NULL) != listed)
        counts->surprises++;
    if (result.beyond != NULL || listed)
        printf("integers %s %s%s: %s\n", result.beyond != NULL ? "beyond" : "within", name,
               (result.beyond != NULL) != listed ? " (unexpected)" : "", result.beyond != NULL ? result.beyond : "listed as beyond");
    else if (result.error > CLOSE)
        printf("integers far    %s: outputs differ by %.3f of the largest\n", name, result.error);
}

static void count_case(Counts *counts, const char *folder, const char *name, const char *refused, const char *beyond) {
    Arena *arena = arena_new();
    Case test = {.arena = arena, .diag = diag_new(NULL), .folder = arena_printf(arena, "%s/%s", folder, name)};
    const char *reason = "";
    Outcome outcome = run_case(&test, &reason);
    counts->outcomes[outcome]++;
    bool listed = is_listed(refused, name), surprise = outcome != FAILED && (outcome == REFUSED) != listed;
    if (outcome == FAILED || surprise)
        counts->surprises++;
    if (outcome != PASSED || listed)
        printf("%s %s%s: %s\n",
               outcome == FAILED    ? "FAILED "
               : outcome == REFUSED ? "refused"
                                    : "passed ",
               name, surprise ? " (unexpected)" : "", outcome == PASSED ? "listed as refused" : reason);
    if (outcome == PASSED)
        count_integer(counts, &test, name, is_listed(beyond, name));
    diag_free(test.diag);
    arena_free(arena);
}

int main(int argc, char **argv) {
    char line[512];
    Counts counts = {0};
    FILE *list = argc == 5 ? fopen(argv[2], "r") : NULL;
    if (list == NULL) {
        fprintf(stderr, "usage: backend DATA CASES REFUSED BEYOND\n");
        return 2;
    }
    while (fgets(line, sizeof line, list) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] != '\0')
            count_case(&counts, argv[1], line, argv[3], argv[4]);
    }
    fclose(list);
    printf("backend: %d passed, %d failed, %d refused\n", counts.outcomes[PASSED], counts.outcomes[FAILED], counts.outcomes[REFUSED]);
    printf("integer mode: of %d that passed, %d are within the bound of every operator, %d beyond; of the former %d end within %g of the "
           "largest "
           "output\n",
           counts.outcomes[PASSED], counts.within, counts.beyond, counts.close, CLOSE);
    return counts.surprises == 0 && counts.outcomes[PASSED] > 0 && counts.within > 0 ? 0 : 1;
}
