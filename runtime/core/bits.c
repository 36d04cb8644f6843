/* bits.c - see bits.h. */
#include "core/bits.h"

#include <assert.h>

enum { SHIFT = 6, MASK = 63 };

static uint64_t bit_of(uint32_t number) {
    return (uint64_t)1 << (number & MASK);
}

int pkvi_bits_open(struct pkvi_bits* bits, struct pkvi_mem* mem, uint32_t count) {
    uint64_t words = 0;
    uint64_t starts[PKVI_BITS_LEVELS];
    *bits = (struct pkvi_bits){.levels = 0};
    for (uint32_t rest = count; rest > 1 || bits->levels == 0;) {
        assert(bits->levels < PKVI_BITS_LEVELS);
        starts[bits->levels++] = words;
        rest = (rest + MASK) >> SHIFT;
        words += rest;
    }
    PKVI_TRY(pkvi_mem_take(mem, words, sizeof *bits->words, (void**)&bits->words));
    for (uint32_t i = 0; i < bits->levels; i++)
        bits->level[i] = bits->words + starts[i];
    return PKV_OK;
}

void pkvi_bits_close(struct pkvi_bits* bits, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, bits->words);
}

/* A word that had members before is known to the levels above. */
void pkvi_bits_add(struct pkvi_bits* bits, uint32_t number) {
    for (uint32_t i = 0; i < bits->levels; i++, number >>= SHIFT) {
        uint64_t* word = &bits->level[i][number >> SHIFT];
        const uint64_t before = *word;
        *word |= bit_of(number);
        if (before != 0) return;
    }
}

void pkvi_bits_remove(struct pkvi_bits* bits, uint32_t number) {
    for (uint32_t i = 0; i < bits->levels; i++, number >>= SHIFT) {
        uint64_t* word = &bits->level[i][number >> SHIFT];
        *word &= ~bit_of(number);
        if (*word != 0) return;
    }
}

uint32_t pkvi_bits_lowest(const struct pkvi_bits* bits) {
    uint32_t number = 0;
    for (uint32_t i = bits->levels; i-- > 0;)
        number = number << SHIFT | (uint32_t)__builtin_ctzll(bits->level[i][number]);
    return number;
}

uint32_t pkvi_bits_highest(const struct pkvi_bits* bits) {
    uint32_t number = 0;
    for (uint32_t i = bits->levels; i-- > 0;)
        number = number << SHIFT | (MASK - (uint32_t)__builtin_clzll(bits->level[i][number]));
    return number;
}
