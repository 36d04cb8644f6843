/* fault_spec.c - the parser of fault specifications: recursive descent, one function a rule.
 *
 * A cursor walks over the text. Each function takes what it understands and moves on, or says
 * PKV_EFAULTSPEC; nothing is stored outside `programs`, which the caller throws away then. */
#include "base/fault_spec.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct cursor {
    const char* at;
};

static void skip_space(struct cursor* cursor) {
    while (isspace((unsigned char)*cursor->at))
        cursor->at++;
}

/* Take `text` if it stands here. */
static bool take(struct cursor* cursor, const char* text) {
    skip_space(cursor);
    const size_t length = strlen(text);
    if (strncmp(cursor->at, text, length) != 0) return false;
    cursor->at += length;
    return true;
}

static bool is_word_char(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '.' || c == '*';
}

/* Take a run of word characters. */
static size_t take_word(struct cursor* cursor, const char** word) {
    skip_space(cursor);
    *word = cursor->at;
    while (is_word_char(*cursor->at))
        cursor->at++;
    return (size_t)(cursor->at - *word);
}

/* Take a number that is followed by `mark`; leave the cursor alone when it is not. */
static bool take_number_before(struct cursor* cursor, char mark, double* number) {
    struct cursor ahead = *cursor;
    skip_space(&ahead);
    if (!isdigit((unsigned char)*ahead.at)) return false;
    char* end;
    *number = strtod(ahead.at, &end);
    if (*end != mark) return false;
    cursor->at = end + 1;
    return true;
}

/* ---- Terms ------------------------------------------------------------------------------------- */

enum argument_kind { NO_ARGUMENT, NUMBER, STATUS };

struct action {
    const char* name;
    enum pkvi_fault_action action;
    enum argument_kind argument;
};

static const struct action actions[] = {
    {"off", PKVI_ACT_OFF, NO_ARGUMENT},     {"return", PKVI_ACT_RETURN, STATUS},
    {"delay", PKVI_ACT_DELAY, NUMBER},      {"drop", PKVI_ACT_DROP, NO_ARGUMENT},
    {"dup", PKVI_ACT_DUP, NO_ARGUMENT},     {"corrupt", PKVI_ACT_CORRUPT, NUMBER},
    {"pause", PKVI_ACT_PAUSE, NO_ARGUMENT}, {"yield", PKVI_ACT_YIELD, NO_ARGUMENT},
    {"crash", PKVI_ACT_CRASH, NO_ARGUMENT},
};

static const struct action* find_action(const char* word, size_t length) {
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (strlen(actions[i].name) != length) continue;
        if (memcmp(actions[i].name, word, length) == 0) return &actions[i];
    }
    return NULL;
}

/* A status by its name without PKV_; success is not one that an operation can fail with. */
static int parse_status(struct cursor* cursor, int* status) {
    const char* word;
    const size_t length = take_word(cursor, &word);
    for (int candidate = -1; pkv_status_name(candidate) != NULL; candidate--) {
        const char* name = pkv_status_name(candidate);
        if (strlen(name) != length) continue;
        if (memcmp(name, word, length) != 0) continue;
        *status = candidate;
        return PKV_OK;
    }
    return PKV_EFAULTSPEC;
}

static int parse_argument(struct cursor* cursor, enum argument_kind kind,
                          struct pkvi_fault_term* term) {
    if (kind == NO_ARGUMENT) return PKV_OK;
    if (!take(cursor, "(")) return PKV_EFAULTSPEC;
    if (kind == STATUS) {
        PKVI_TRY(parse_status(cursor, &term->status));
        return take(cursor, ")") ? PKV_OK : PKV_EFAULTSPEC;
    }
    double number;
    if (!take_number_before(cursor, ')', &number)) return PKV_EFAULTSPEC;
    if (number >= 1e15) return PKV_EFAULTSPEC;
    term->argument = (uint64_t)number;
    return PKV_OK;
}

static int parse_term(struct cursor* cursor, struct pkvi_fault_term* term) {
    *term = (struct pkvi_fault_term){.percent = 100.0};
    double number;
    if (take_number_before(cursor, '%', &number)) {
        if (number > 100.0) return PKV_EFAULTSPEC;
        term->percent = number;
    }
    if (take_number_before(cursor, '*', &number)) {
        if (number < 1.0) return PKV_EFAULTSPEC;
        if (number >= 1e15) return PKV_EFAULTSPEC;
        term->limit = (uint64_t)number;
    }
    const char* word;
    const size_t length = take_word(cursor, &word);
    const struct action* action = find_action(word, length);
    if (action == NULL) return PKV_EFAULTSPEC;
    term->action = action->action;
    return parse_argument(cursor, action->argument, term);
}

/* ---- Parts ------------------------------------------------------------------------------------- */

/* Does `pattern` name `point`? A final * stands for any ending. */
static bool names_point(const char* pattern, size_t length, enum pkvi_fault_point point) {
    const char* name = pkvi_fault_name(point);
    if (length > 0 && pattern[length - 1] == '*') return strncmp(pattern, name, length - 1) == 0;
    return strlen(name) == length && memcmp(pattern, name, length) == 0;
}

static bool assign(const char* pattern, size_t length, const struct pkvi_fault_program* program,
                   struct pkvi_fault_program* programs) {
    bool found = false;
    for (int point = 0; point < PKVI_FAULT_COUNT; point++) {
        if (!names_point(pattern, length, (enum pkvi_fault_point)point)) continue;
        programs[point] = *program;
        found = true;
    }
    return found;
}

static int parse_part(struct cursor* cursor, struct pkvi_fault_program* programs) {
    const char* pattern;
    struct pkvi_fault_program program = {.term_count = 0};
    const size_t length = take_word(cursor, &pattern);
    if (!take(cursor, "=")) return PKV_EFAULTSPEC;
    do {
        if (program.term_count == PKVI_FAULT_TERMS_MAX) return PKV_EFAULTSPEC;
        PKVI_TRY(parse_term(cursor, &program.terms[program.term_count++]));
    } while (take(cursor, "->"));
    return assign(pattern, length, &program, programs) ? PKV_OK : PKV_EFAULTSPEC;
}

int pkvi_fault_parse(const char* spec, struct pkvi_fault_program* programs) {
    memset(programs, 0, PKVI_FAULT_COUNT * sizeof *programs);
    struct cursor cursor = {spec};
    for (;;) {
        while (take(&cursor, ";"))
            continue;
        if (*cursor.at == '\0') return PKV_OK;
        PKVI_TRY(parse_part(&cursor, programs));
        skip_space(&cursor);
        if (*cursor.at != '\0' && *cursor.at != ';') return PKV_EFAULTSPEC;
    }
}
