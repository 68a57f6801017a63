/* The smooth functions of `curve`, `gated` and `curve_grad`: which table a function reads and what its halves have in common
 * (docs/operators.md, "Functions"). Shared by the interpreter, the code generator and the int8 export. */
#ifndef INTC_IR_FUNCTIONS_H
#define INTC_IR_FUNCTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* offset + sign * T(|x|), 15 fraction bits. */
typedef struct {
    int32_t offset, sign;
} CurveSide;

/* A function of |x| in [0, 2^domain), saturated beyond; or of one turn, when the function is periodic. */
typedef struct {
    const char *name; /* of the table */
    const int32_t *table;
    int domain;
    CurveSide above, below; /* x > 0, x <= 0 */
    bool two;               /* the table of x <= 0 follows that of x > 0 */
    int quarters;           /* periodic: quarter turns added to the argument */
} Curve;

typedef enum {
    FORM_PLAIN,   /* value(x) */
    FORM_GATED,   /* x * value(x) */
    FORM_PERIODIC /* value(x mod 2 pi) */
} FunctionForm;

typedef struct {
    const char *name;
    FunctionForm form;
    Curve value, slope; /* the slope is that of the whole function */
    double (*real)(double x), (*real_slope)(double x);
} Function;

/* NULL if there is none of that name. */
const Function *function_find(const char *name);

/* A normal number of 12 fraction bits from 32 random ones: the sign, and the probability of what lies further out, of which the leading
 * place chooses the octave of table_quantile. */
int32_t function_normal(uint32_t bits);

/* The argument of a periodic function: |x| with 24 fraction bits below 2^10, times 2^28 / (2 pi). */
enum { TURN_FRACTION = 24, TURN_RANGE = 34, TURN_FACTOR = 42722830 };
/* 30 fraction bits. */
enum { LOG2E = 1549082005, LN2 = 744261118 };

#endif
