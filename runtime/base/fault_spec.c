/* fault_spec.c - the parser of fault specifications: recursive descent, one function a rule.
 *
 * A cursor walks over the text. Each function takes what it understands and moves on, or says
 * PKV_EFAULTSPEC; nothing is stored outside `programs`, which the caller throws away then. */
#include "base/fault_spec.h"

#ifndef PKV_NO_FAULTS

#include <string.h>

struct cursor {
    const char* at;
};

/* The character classes are spelled out: the C library's depend on the locale of the program. */
static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static void skip_space(struct cursor* cursor) {
    cursor->at += strspn(cursor->at, " \t\n\v\f\r");
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
    if (is_letter(c)) return true;
    if (is_digit(c)) return true;
    return c == '_' || c == '.' || c == '*';
}

/* Take a run of word characters. */
static size_t take_word(struct cursor* cursor, const char** word) {
    skip_space(cursor);
    *word = cursor->at;
    while (is_word_char(*cursor->at))
        cursor->at++;
    return (size_t)(cursor->at - *word);
}

/* Take a run of digits that says a number below 2^32. */
static bool take_number(struct cursor* cursor, uint64_t* number) {
    skip_space(cursor);
    if (!is_digit(*cursor->at)) return false;
    *number = 0;
    for (; is_digit(*cursor->at); cursor->at++) {
        *number = *number * 10 + (uint64_t)(*cursor->at - '0');
        if (*number > UINT32_MAX) return false;
    }
    return true;
}

/* Take a number that is followed by `mark`; leave the cursor alone when none is. */
static bool take_number_before(struct cursor* cursor, const char* mark, uint64_t* number) {
    struct cursor ahead = *cursor;
    uint64_t value;
    if (!take_number(&ahead, &value)) return false;
    if (!take(&ahead, mark)) return false;
    *number = value;
    *cursor = ahead;
    return true;
}

/* Take the decimals behind a point, as many as there are. */
static double take_decimals(struct cursor* cursor) {
    double value = 0.0;
    double weight = 0.1;
    for (; is_digit(*cursor->at); cursor->at++, weight /= 10.0)
        value += weight * (*cursor->at - '0');
    return value;
}

/* Take 5% or 0.25%; leave the cursor alone when there is no such thing. */
static bool take_percent(struct cursor* cursor, double* percent) {
    struct cursor ahead = *cursor;
    uint64_t whole;
    if (!take_number(&ahead, &whole)) return false;
    double value = (double)whole;
    if (*ahead.at == '.') {
        ahead.at++;
        if (!is_digit(*ahead.at)) return false;
        value += take_decimals(&ahead);
    }
    if (!take(&ahead, "%")) return false;
    *percent = value;
    *cursor = ahead;
    return true;
}

/* ---- Terms ----------------------------------------------------------------------------------- */

enum argument_kind { NO_ARGUMENT, A_NUMBER, A_STATUS };

struct action {
    const char* name;
    enum pkvi_fault_action action;
    enum argument_kind argument;
};

static const struct action actions[] = {
    {"off", PKVI_ACT_OFF, NO_ARGUMENT},     {"return", PKVI_ACT_RETURN, A_STATUS},
    {"delay", PKVI_ACT_DELAY, A_NUMBER},    {"drop", PKVI_ACT_DROP, NO_ARGUMENT},
    {"dup", PKVI_ACT_DUP, NO_ARGUMENT},     {"corrupt", PKVI_ACT_CORRUPT, A_NUMBER},
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

/* The value of a status by its name without PKV_; 0 when there is none. */
static int find_status(const char* word, size_t length) {
    static const struct {
        const char* name;
        int value;
    } statuses[] = {
#define STATUS(name, value, message) {#name, value},
        PKV_STATUS_MAP(STATUS)
#undef STATUS
    };
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        if (strlen(statuses[i].name) != length) continue;
        if (memcmp(statuses[i].name, word, length) == 0) return statuses[i].value;
    }
    return PKV_OK;
}

/* Success is not something that an operation can fail with: return(OK) is refused. */
static int parse_status(struct cursor* cursor, int* status) {
    const char* word;
    const size_t length = take_word(cursor, &word);
    *status = find_status(word, length);
    return *status != PKV_OK ? PKV_OK : PKV_EFAULTSPEC;
}

static int parse_argument(struct cursor* cursor, enum argument_kind kind,
                          struct pkvi_fault_term* term) {
    if (kind == NO_ARGUMENT) return PKV_OK;
    if (!take(cursor, "(")) return PKV_EFAULTSPEC;
    if (kind == A_STATUS) PKVI_TRY(parse_status(cursor, &term->status));
    if (kind == A_NUMBER && !take_number(cursor, &term->argument)) return PKV_EFAULTSPEC;
    return take(cursor, ")") ? PKV_OK : PKV_EFAULTSPEC;
}

static int parse_term(struct cursor* cursor, struct pkvi_fault_term* term) {
    *term = (struct pkvi_fault_term){.percent = 100.0};
    take_percent(cursor, &term->percent);
    if (term->percent > 100.0) return PKV_EFAULTSPEC;
    const bool is_limited = take_number_before(cursor, "*", &term->limit);
    if (is_limited && term->limit == 0) return PKV_EFAULTSPEC;
    const char* word;
    const size_t length = take_word(cursor, &word);
    const struct action* action = find_action(word, length);
    if (action == NULL) return PKV_EFAULTSPEC;
    term->action = action->action;
    return parse_argument(cursor, action->argument, term);
}

/* ---- Parts ----------------------------------------------------------------------------------- */

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

#endif
