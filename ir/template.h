/* Exported models: bytes with places that the runtime fills from the trained state. Made by frontend/, emitted by codegen/ as struct
 * intc_model (runtime/abi.h tells what each kind writes). Parameters and slots are named, so that the template outlives the graphs it came
 * from. */
#ifndef INTC_IR_TEMPLATE_H
#define INTC_IR_TEMPLATE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int kind, a, b; /* enum intc_exponent_kind; a, b: earlier exponents */
    int constant, bits;
    const char *param; /* PARAM, MAPPED: name of the parameter's value */
    const char *slot;  /* SLOT: name of the slot's value */
} TemplateExponent;

typedef struct {
    int64_t offset, size; /* in bytes */
    int kind;             /* enum intc_patch_kind */
    const char *param;    /* name of the parameter's value; NULL for a scale */
    int bits;
    int exponent; /* -1 = none */
} TemplatePatch;

typedef struct {
    int exponent, low, high;
    const char *text;
} TemplateCondition;

/* Several templates may have one format, best first (struct intc_model). */
typedef struct {
    const char *format;  /* "float", "int8", "qdq" */
    const char *refusal; /* why this format cannot be written, or NULL */
    const unsigned char *bytes;
    int64_t size;
    const TemplateExponent *exponents;
    int exponent_count;
    const TemplatePatch *patches;
    int patch_count;
    const TemplateCondition *conditions;
    int condition_count;
} ModelTemplate;

#endif
