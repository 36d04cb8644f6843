/* require.h - how checks of a config refuse it: with a status, and a sentence that names the field. */
#ifndef PKVI_CORE_REQUIRE_H
#define PKVI_CORE_REQUIRE_H

/* In a function with a `const char** why` that returns a status. */
#define REQUIRE(condition, status, sentence)                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            *why = sentence;                                                                       \
            return status;                                                                         \
        }                                                                                          \
    } while (0)

#endif
