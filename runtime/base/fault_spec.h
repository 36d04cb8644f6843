/* fault_spec.h - a fault specification, parsed: what each point has been told. */
#ifndef PKVI_BASE_FAULT_SPEC_H
#define PKVI_BASE_FAULT_SPEC_H

#include "base/fault.h"

enum { PKVI_FAULT_TERMS_MAX = 8 };

/* One [P%][N*]action[(argument)]. */
struct pkvi_fault_term {
    enum pkvi_fault_action action;
    int status;
    uint64_t argument;
    double percent; /* of visits */
    uint64_t limit; /* times it may be used; 0: any number */
    uint64_t used;
};

/* The chain of terms of one point; term_count 0 means that the specification does not name it. */
struct pkvi_fault_program {
    struct pkvi_fault_term terms[PKVI_FAULT_TERMS_MAX];
    uint32_t term_count;
    uint64_t random; /* state of the point's generator */
    uint64_t visits;
    uint64_t fired;
};

/* Parse `spec` (grammar in pagedkv.h) into programs[PKVI_FAULT_COUNT], which are zeroed first. When
 * several parts name a point, the last one counts. Numbers are below 2^32, only a percentage may
 * have decimals, and white space may stand between any two things.
 * Errors  PKV_EFAULTSPEC. */
int pkvi_fault_parse(const char* spec, struct pkvi_fault_program* programs);

#endif
