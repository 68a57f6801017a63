/* Internal to the parser of the text form. */
#ifndef INTC_IR_SCAN_H
#define INTC_IR_SCAN_H

#include "ir/ir.h"

typedef struct {
    Arena *arena;
    Diag *diag;
    const char *at;
    int line;
    bool failed;
} Scanner;

/* Reports what was expected and what is there instead, once; false. */
bool scan_fail(Scanner *scanner, const char *expected);
void scan_skip_blanks(Scanner *scanner);
void scan_skip_to_line_end(Scanner *scanner);
/* Blanks, ends of lines and comments. */
void scan_skip_space(Scanner *scanner);
/* Reads the text, or the word that it is all of, if it comes next on this line. */
bool scan_accept(Scanner *scanner, const char *text);
bool scan_accept_word(Scanner *scanner, const char *word);
/* The same, failing where it does not come. */
bool scan_expect(Scanner *scanner, const char *text);
/* A text in quotes; a word, in quotes or not. "" after a failure. */
const char *scan_quoted(Scanner *scanner);
const char *scan_word(Scanner *scanner, const char *expected);
/* An integer in [low, high]; low after a failure. */
int64_t scan_integer(Scanner *scanner, int64_t low, int64_t high, const char *expected);
double scan_real(Scanner *scanner);

#endif
