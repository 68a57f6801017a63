/* Calls a function on every case of cases.def. */
#ifndef INTC_TESTS_OP_CASE_LIST_H
#define INTC_TESTS_OP_CASE_LIST_H

#include "tests/op/build.h"

typedef void CaseTest(const Case *test);

static inline int for_each_case(CaseTest *run) {
    int count = 0;
#define CASE(label, case_op, case_inputs_text, ...)                                                                                        \
    {                                                                                                                                      \
        const Attr attrs[] = {__VA_ARGS__};                                                                                                \
        run(&(const Case){#label, OP_##case_op, case_inputs_text, attrs, (int)(sizeof attrs / sizeof attrs[0])});                          \
        count++;                                                                                                                           \
    }
#define CASE0(label, case_op, case_inputs_text)                                                                                            \
    run(&(const Case){#label, OP_##case_op, case_inputs_text, NULL, 0});                                                                   \
    count++;
#include "tests/op/cases.def"
#undef CASE
#undef CASE0
    return count;
}

#endif
