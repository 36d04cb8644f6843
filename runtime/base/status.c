/* status.c - names and messages of every status, from the table in pagedkv.h. */
#include "base/status.h"

#include <stddef.h>

uint32_t pkv_version(void) {
    return PKV_VERSION;
}

const char* pkv_status_name(int status) {
    switch (status) {
#define CASE(name, value, message)                                                                 \
    case value:                                                                                    \
        return #name;
        PKV_STATUS_MAP(CASE)
#undef CASE
    default:
        return NULL;
    }
}

const char* pkv_status_message(int status) {
    switch (status) {
#define CASE(name, value, message)                                                                 \
    case value:                                                                                    \
        return message;
        PKV_STATUS_MAP(CASE)
#undef CASE
    default:
        return NULL;
    }
}
