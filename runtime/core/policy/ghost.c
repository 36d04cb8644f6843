/* ghost.c - see ghost.h. */
#include "core/policy/ghost.h"

#include <string.h>

enum { GHOSTS_SMALL = 65536, GHOSTS_PER_BLOCK = 1, GHOSTS_PER_BLOCK_SMALL = 64 };

static uint32_t wanted(uint32_t blocks) {
    const uint64_t large = (uint64_t)blocks * GHOSTS_PER_BLOCK;
    const uint64_t small = (uint64_t)blocks * GHOSTS_PER_BLOCK_SMALL;
    if (large >= GHOSTS_SMALL) return (uint32_t)large;
    return (uint32_t)(small < GHOSTS_SMALL ? small : GHOSTS_SMALL);
}

int pkvi_ghosts_open(struct pkvi_ghosts* ghosts, struct pkvi_mem* mem, uint32_t blocks) {
    uint32_t count = PKVI_GHOST_WAYS;
    while (count < wanted(blocks))
        count *= 2;
    *ghosts = (struct pkvi_ghosts){.count = count};
    return pkvi_mem_take(mem, count, sizeof *ghosts->entries, (void**)&ghosts->entries);
}

void pkvi_ghosts_close(struct pkvi_ghosts* ghosts, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, ghosts->entries);
}

static uint16_t tag_of(uint32_t identity) {
    return (uint16_t)(identity >> 16);
}

static struct pkvi_ghost* set_of(const struct pkvi_ghosts* ghosts, uint32_t identity) {
    const uint32_t set = identity & (ghosts->count / PKVI_GHOST_WAYS - 1);
    return &ghosts->entries[(size_t)set * PKVI_GHOST_WAYS];
}

/* Empties the place. */
static struct pkvi_ghost take(struct pkvi_ghosts* ghosts, struct pkvi_ghost* place) {
    const struct pkvi_ghost taken = *place;
    if (taken.uses > 0 && taken.list < 2) ghosts->listed[taken.list]--;
    place->uses = 0;
    return taken;
}

/* A set stands in the order in which its ghosts came, newest first, with free places anywhere. */
struct pkvi_ghost pkvi_ghosts_put(struct pkvi_ghosts* ghosts, uint32_t identity,
                                  struct pkvi_ghost ghost) {
    struct pkvi_ghost* set = set_of(ghosts, identity);
    ghost.tag = tag_of(identity);
    uint32_t place = 0;
    while (place < PKVI_GHOST_WAYS - 1 && set[place].uses > 0)
        place++;
    const struct pkvi_ghost forgotten = take(ghosts, &set[place]);
    memmove(set + 1, set, place * sizeof *set);
    set[0] = ghost;
    if (ghost.list < 2) ghosts->listed[ghost.list]++;
    return forgotten;
}

struct pkvi_ghost pkvi_ghosts_take(struct pkvi_ghosts* ghosts, uint32_t identity) {
    struct pkvi_ghost* set = set_of(ghosts, identity);
    for (struct pkvi_ghost* g = set; g < set + PKVI_GHOST_WAYS; g++)
        if (g->uses > 0 && g->tag == tag_of(identity)) return take(ghosts, g);
    return (struct pkvi_ghost){.uses = 0};
}
