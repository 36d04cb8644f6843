/* arc.c - Adaptive Replacement Cache (Megiddo, Modha, 2003).
 *
 * Blocks that were used once stand on one list, the others on a second, each least recently used
 * first. A block that comes back after it was evicted from a list says that this list should have
 * been longer: `level` is how long the first one should be. */
#include "core/policy/builtin.h"

enum { ONCE, OFTEN };

/* Steps are larger for the list that has fewer ghosts. */
static uint32_t step(uint32_t own, uint32_t other) {
    return own > 0 && other > own ? other / own : 1;
}

static void enter(struct pkvi_domain* domain, uint32_t block, const struct pkvi_ghost* was_ghost) {
    if (was_ghost == NULL) return;
    const uint32_t* ghosts = domain->shared->ghosts->listed;
    pkvi_candidate(domain, block)->kind = OFTEN;
    if (was_ghost->list == ONCE) {
        const uint32_t rise = step(ghosts[ONCE], ghosts[OFTEN]);
        const uint32_t room = domain->capacity - domain->level;
        domain->level += rise < room ? rise : room;
    } else {
        const uint32_t fall = step(ghosts[OFTEN], ghosts[ONCE]);
        domain->level -= fall < domain->level ? fall : domain->level;
    }
}

static void hold(struct pkvi_domain* domain, uint32_t block) {
    pkvi_domain_remove(domain, block);
    pkvi_candidate(domain, block)->kind = OFTEN;
}

static void rest(struct pkvi_domain* domain, uint32_t block) {
    pkvi_domain_append(domain, pkvi_candidate(domain, block)->kind, block);
}

static uint32_t evict(struct pkvi_domain* domain) {
    const uint32_t once = domain->lists[ONCE].count;
    const bool is_once = once > domain->level || domain->lists[OFTEN].count == 0;
    return pkvi_domain_pop(domain, is_once && once > 0 ? ONCE : OFTEN);
}

const struct pkvi_policy pkvi_policy_arc = {
    .name = "arc", .has_ghosts = true, .enter = enter, .hold = hold, .rest = rest, .evict = evict};
