/* The scanner of the text form: blanks, words, quoted texts and numbers. Before: a text that ends in NUL. After each call: the place behind
 * what was read, or `failed` and one diagnostic with its line; a scanner that has failed accepts nothing more. */
#include "ir/scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool scan_fail(Scanner *scanner, const char *expected) {
    if (scanner->failed)
        return false;
    scanner->failed = true;
    char found[24];
    size_t n = 0;
    while (n < sizeof found - 1 && scanner->at[n] != '\0' && scanner->at[n] != '\n') {
        found[n] = scanner->at[n] >= ' ' && scanner->at[n] <= '~' ? scanner->at[n] : '?';
        n++;
    }
    found[n] = '\0';
    if (n == 0)
        diag_error(scanner->diag, NULL, "line %d: expected %s, found the end of the %s", scanner->line, expected,
                   *scanner->at == '\0' ? "text" : "line");
    else
        diag_error(scanner->diag, NULL, "line %d: expected %s, found '%s'", scanner->line, expected, found);
    return false;
}

void scan_skip_blanks(Scanner *scanner) {
    while (*scanner->at == ' ' || *scanner->at == '\t' || *scanner->at == '\r')
        scanner->at++;
}

void scan_skip_to_line_end(Scanner *scanner) {
    while (*scanner->at != '\0' && *scanner->at != '\n')
        scanner->at++;
}

/* Blanks, ends of lines and comments. */
void scan_skip_space(Scanner *scanner) {
    for (;;) {
        scan_skip_blanks(scanner);
        if (*scanner->at == '#' || *scanner->at == ';')
            scan_skip_to_line_end(scanner);
        if (*scanner->at != '\n')
            return;
        scanner->line++;
        scanner->at++;
    }
}

bool scan_accept(Scanner *scanner, const char *text) {
    scan_skip_blanks(scanner);
    size_t n = strlen(text);
    if (scanner->failed || strncmp(scanner->at, text, n) != 0)
        return false;
    scanner->at += n;
    return true;
}

bool scan_expect(Scanner *scanner, const char *text) {
    return scan_accept(scanner, text) || scan_fail(scanner, text);
}

static bool word_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '#';
}

bool scan_accept_word(Scanner *scanner, const char *word) {
    scan_skip_blanks(scanner);
    size_t n = strlen(word);
    if (strncmp(scanner->at, word, n) != 0 || word_character(scanner->at[n]))
        return false;
    return scan_accept(scanner, word);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

const char *scan_quoted(Scanner *scanner) {
    if (!scan_expect(scanner, "\""))
        return "";
    size_t length = strcspn(scanner->at, "\n");
    char *text = arena_alloc(scanner->arena, length + 1, 1), *to = text;
    while (*scanner->at != '"') {
        if (*scanner->at == '\0' || *scanner->at == '\n') {
            scan_fail(scanner, "a closing quote");
            return "";
        }
        if (*scanner->at != '\\') {
            *to++ = *scanner->at++;
            continue;
        }
        scanner->at++;
        if (*scanner->at == '"' || *scanner->at == '\\') {
            *to++ = *scanner->at++;
            continue;
        }
        int high = *scanner->at == 'x' ? hex_digit(scanner->at[1]) : -1, low = high >= 0 ? hex_digit(scanner->at[2]) : -1;
        if (low < 0 || 16 * high + low == 0) {
            scan_fail(scanner, "\\\", \\\\ or \\x and two digits other than 00");
            return "";
        }
        *to++ = (char)(16 * high + low);
        scanner->at += 3;
    }
    scanner->at++;
    return text;
}

const char *scan_word(Scanner *scanner, const char *expected) {
    scan_skip_blanks(scanner);
    if (*scanner->at == '"')
        return scan_quoted(scanner);
    size_t n = 0;
    while (word_character(scanner->at[n]))
        n++;
    if (n == 0) {
        scan_fail(scanner, expected);
        return "";
    }
    char *text = arena_alloc(scanner->arena, n + 1, 1);
    memcpy(text, scanner->at, n);
    scanner->at += n;
    return text;
}

int64_t scan_integer(Scanner *scanner, int64_t low, int64_t high, const char *expected) {
    scan_skip_blanks(scanner);
    char *end;
    errno = 0;
    bool digits = (*scanner->at >= '0' && *scanner->at <= '9') || (*scanner->at == '-' && scanner->at[1] >= '0' && scanner->at[1] <= '9');
    long long x = digits ? strtoll(scanner->at, &end, 10) : 0;
    if (!digits || errno != 0 || x < low || x > high) {
        scan_fail(scanner, expected);
        return low;
    }
    scanner->at = end;
    return x;
}

double scan_real(Scanner *scanner) {
    scan_skip_blanks(scanner);
    char *end;
    double x = *scanner->at == '\n' ? 0 : strtod(scanner->at, &end);
    if (*scanner->at == '\n' || end == scanner->at) {
        scan_fail(scanner, "a number");
        return 0;
    }
    scanner->at = end;
    return x;
}
