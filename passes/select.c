/* Which parameters learn: --train and --freeze. Before: STAGE_LOWERED. After: the parameters that do not learn are constants of the graph.
 */
#include "passes/passes.h"

#include <fnmatch.h>
#include <string.h>

static const char *name_of(const Value *value) {
    return value->onnx_name != NULL ? value->onnx_name : value->name;
}

/* Marks by id the parameters that one of the comma-separated globs matches; each glob must match one. */
static bool match(const Graph *graph, const char *option, const char *globs, bool *marked, Diag *diag) {
    bool good = true;
    char *text = arena_strdup(graph->arena, globs), *rest = NULL;
    for (const char *glob = strtok_r(text, ",", &rest); glob != NULL; glob = strtok_r(NULL, ",", &rest)) {
        int found = 0;
        for (int i = 0; i < graph->value_count; i++) {
            const Value *value = graph->values[i];
            if (value->kind == VALUE_PARAM && fnmatch(glob, name_of(value), 0) == 0) {
                marked[i] = true;
                found++;
            }
        }
        if (found == 0) {
            diag_error(diag, NULL, "%s: '%s' matches no parameter", option, glob);
            good = false;
        }
    }
    return good;
}

bool pass_select(Graph *graph, const PassOptions *options, Diag *diag) {
    bool *train = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof(bool));
    bool *freeze = arena_alloc(graph->arena, (size_t)graph->value_count, sizeof(bool));
    bool good = true;
    if (options->train != NULL)
        good = match(graph, "--train", options->train, train, diag);
    if (options->freeze != NULL)
        good = match(graph, "--freeze", options->freeze, freeze, diag) && good;
    for (int i = 0; good && i < graph->value_count; i++) {
        Value *value = graph->values[i];
        if (value->kind == VALUE_PARAM && ((options->train != NULL && !train[i]) || freeze[i]))
            value->kind = VALUE_CONST;
    }
    return good;
}
