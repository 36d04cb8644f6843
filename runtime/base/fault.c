/* fault.c - see fault.h. Parsing is in fault_spec.c; here is what happens at a visit.
 *
 * A build with PKV_NO_FAULTS keeps the names of the points and refuses every specification; nothing
 * else of this file is compiled then, and visits vanish from their callers. */
#include "base/fault.h"

#include "base/fault_spec.h"
#include "base/hash.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char* name;
    const char* meaning;
} points[] = {
#define POINT(id, name, meaning) {name, meaning},
    PKVI_FAULT_MAP(POINT)
#undef POINT
};

const char* pkvi_fault_name(enum pkvi_fault_point point) {
    return points[point].name;
}

const char* pkvi_fault_meaning(enum pkvi_fault_point point) {
    return points[point].meaning;
}

#ifdef PKV_NO_FAULTS

int pkvi_faults_init(struct pkvi_faults* faults, const char* spec, uint64_t seed) {
    memset(faults, 0, sizeof *faults);
    return pkvi_faults_set(faults, spec, seed);
}

void pkvi_faults_free(struct pkvi_faults* faults) {
    (void)faults;
}

int pkvi_faults_set(struct pkvi_faults* faults, const char* spec, uint64_t seed) {
    (void)faults;
    (void)seed;
    if (spec == NULL) return PKV_OK;
    return spec[strspn(spec, "; \t\n\v\f\r")] == '\0' ? PKV_OK : PKV_ENOTSUP;
}

void pkvi_faults_counts(struct pkvi_faults* faults, enum pkvi_fault_point point, uint64_t* visits,
                        uint64_t* fired) {
    (void)faults;
    (void)point;
    *visits = 0;
    *fired = 0;
}

#else

struct pkvi_fault_state {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* the edition, or the number of paused threads */
    uint64_t edition;       /* of the specification; a new one ends every pause */
    uint32_t paused;        /* threads that wait for the next edition */
    struct pkvi_fault_program programs[PKVI_FAULT_COUNT];
};

int pkvi_faults_init(struct pkvi_faults* faults, const char* spec, uint64_t seed) {
    memset(faults, 0, sizeof *faults);
    struct pkvi_fault_state* state = calloc(1, sizeof *state);
    if (state == NULL) return PKV_ENOMEM;
    pthread_mutex_init(&state->lock, NULL);
    pthread_cond_init(&state->changed, NULL);
    faults->state = state;
    const int status = pkvi_faults_set(faults, spec, seed);
    if (status != PKV_OK) pkvi_faults_free(faults);
    return status;
}

static void release_paused(struct pkvi_fault_state* state) {
    state->edition++;
    pthread_cond_broadcast(&state->changed);
}

/* Paused threads still hold on to the state: it goes when the last of them has left. */
void pkvi_faults_free(struct pkvi_faults* faults) {
    struct pkvi_fault_state* state = faults->state;
    pthread_mutex_lock(&state->lock);
    release_paused(state);
    while (state->paused > 0)
        pthread_cond_wait(&state->changed, &state->lock);
    pthread_mutex_unlock(&state->lock);
    pthread_cond_destroy(&state->changed);
    pthread_mutex_destroy(&state->lock);
    free(state);
    faults->state = NULL;
}

static void install(struct pkvi_faults* faults, const struct pkvi_fault_program* programs,
                    uint64_t seed) {
    struct pkvi_fault_state* state = faults->state;
    pthread_mutex_lock(&state->lock);
    memcpy(state->programs, programs, sizeof state->programs);
    for (int point = 0; point < PKVI_FAULT_COUNT; point++) {
        const struct pkvi_hash_key key = {seed, 0};
        struct pkvi_fault_program* program = &state->programs[point];
        program->random = pkvi_hash(key, points[point].name, strlen(points[point].name));
        atomic_store_explicit(&faults->armed[point], program->term_count > 0, memory_order_relaxed);
    }
    release_paused(state);
    pthread_mutex_unlock(&state->lock);
}

int pkvi_faults_set(struct pkvi_faults* faults, const char* spec, uint64_t seed) {
    struct pkvi_fault_program programs[PKVI_FAULT_COUNT];
    PKVI_TRY(pkvi_fault_parse(spec != NULL ? spec : "", programs));
    install(faults, programs, seed);
    return PKV_OK;
}

void pkvi_faults_counts(struct pkvi_faults* faults, enum pkvi_fault_point point, uint64_t* visits,
                        uint64_t* fired) {
    struct pkvi_fault_state* state = faults->state;
    pthread_mutex_lock(&state->lock);
    *visits = state->programs[point].visits;
    *fired = state->programs[point].fired;
    pthread_mutex_unlock(&state->lock);
}

/* ---- Visits ---------------------------------------------------------------------------------- */

static struct pkvi_fault_term* current_term(struct pkvi_fault_program* program) {
    for (uint32_t i = 0; i < program->term_count; i++) {
        struct pkvi_fault_term* term = &program->terms[i];
        if (term->limit == 0 || term->used < term->limit) return term;
    }
    return NULL;
}

static bool dice_say_yes(struct pkvi_fault_program* program, double percent) {
    if (percent >= 100.0) return true;
    const double unit = (double)(pkvi_random_next(&program->random) >> 11) * 0x1p-53;
    return unit * 100.0 < percent;
}

/* One visit, under the lock. A thread that saw the point armed may find the specification replaced
 * by one that does not name it: then this was no visit. */
static struct pkvi_fault draw(struct pkvi_fault_program* program) {
    struct pkvi_fault fault = {PKVI_ACT_OFF, PKV_OK, 0, 0};
    if (program->term_count == 0) return fault;
    program->visits++;
    struct pkvi_fault_term* term = current_term(program);
    if (term == NULL) return fault;
    if (!dice_say_yes(program, term->percent)) return fault;
    term->used++;
    program->fired += term->action != PKVI_ACT_OFF;
    fault.action = term->action;
    fault.status = term->status;
    fault.argument = term->argument;
    fault.random = pkvi_random_next(&program->random);
    return fault;
}

static void wait_until_replaced(struct pkvi_fault_state* state) {
    const uint64_t edition = state->edition;
    state->paused++;
    while (state->edition == edition)
        pthread_cond_wait(&state->changed, &state->lock);
    state->paused--;
    if (state->paused == 0) pthread_cond_broadcast(&state->changed);
}

struct pkvi_fault pkvi_fault_draw(struct pkvi_faults* faults, enum pkvi_fault_point point) {
    struct pkvi_fault_state* state = faults->state;
    pthread_mutex_lock(&state->lock);
    struct pkvi_fault fault = draw(&state->programs[point]);
    if (fault.action == PKVI_ACT_PAUSE) wait_until_replaced(state);
    pthread_mutex_unlock(&state->lock);
    if (fault.action == PKVI_ACT_CRASH) raise(SIGKILL);
    if (fault.action == PKVI_ACT_YIELD) sched_yield();
    const bool is_done = fault.action == PKVI_ACT_PAUSE || fault.action == PKVI_ACT_YIELD;
    if (is_done) fault.action = PKVI_ACT_OFF;
    return fault;
}

static void sleep_for(struct pkvi_faults* faults, uint64_t us) {
    struct pkvi_clock real = {.is_virtual = false};
    pkvi_clock_sleep(faults->clock != NULL ? faults->clock : &real, us);
}

int pkvi_fault_check_slow(struct pkvi_faults* faults, enum pkvi_fault_point point) {
    const struct pkvi_fault fault = pkvi_fault_draw(faults, point);
    if (fault.action == PKVI_ACT_DELAY) sleep_for(faults, fault.argument);
    return fault.action == PKVI_ACT_RETURN ? fault.status : PKV_OK;
}

#endif
