/* Exported models: bytes with places that the runtime fills from the trained state. Made by frontend/, emitted by codegen/ as struct intc_model
 * (runtime/abi.h tells what each kind writes). Parameters and slots are named, so that the template outlives the graphs it came from. */
#ifndef INTC_IR_TEMPLATE_H
#define INTC_IR_TEMPLATE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int64_t offset, size; /* in bytes */
    int kind;             /* enum intc_patch_kind */
    const char *param;    /* the parameter whose elements are written; NULL for a scale */
    int bits;
    bool transpose;
    const char *slot;   /* calibrated exponent: the x of I32_AT, the exponent of SCALE; NULL if not of a slot */
    const char *weight; /* parameter whose 8-bit exponent is added (I32_AT) or is the scale's (SCALE); NULL = none */
} TemplatePatch;

typedef struct {
    const char *format;  /* "float", "int8", "qdq" */
    const char *refusal; /* why this format cannot be written, or NULL */
    const unsigned char *bytes;
    int64_t size;
    const TemplatePatch *patches;
    int patch_count;
} ModelTemplate;

#endif
