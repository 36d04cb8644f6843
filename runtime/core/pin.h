/* pin.h - pins: holds on blocks that outlive the sequence that computed them.
 *
 * A pin holds whole blocks as a sequence does: it is a sequence, a fork cut to whole pages, which no
 * call but those on pins can reach. So its references are counted, checked and moved like any
 * other's, and a block that is pinned is active. Pins end by release, with their owner, or at their
 * deadline, so that none is left behind by an owner that has died. A deadline takes effect when
 * somebody needs room, looks for a prefix or asks for figures after it: pkvi_settle.
 *
 * Holds   N1  pins.count sequences are pins; no plan, transfer or reader has one, and none has a
 *             deadline before pins.next_deadline_us
 * Threads the cache's lock. */
#ifndef PKVI_CORE_PIN_H
#define PKVI_CORE_PIN_H

#include "core/seq.h"

struct pkvi_pins {
    uint32_t count;
    uint64_t next_deadline_us; /* no pin ends before it; UINT64_MAX when none has a deadline */
};

/* Errors  PKV_ERANGE, PKV_EBUSY, PKV_EAWAY, PKV_ENOSEQS, PKV_ENOLEAVES. */
int pkvi_pin_create(pkv_cache* cache, const struct pkvi_seq* seq, uint32_t tokens, uint64_t owner,
                    uint64_t timeout_us, pkv_pin* pin);

/* Errors  PKV_ESTALE. */
int pkvi_pin_release(pkv_cache* cache, pkv_pin pin);

/* End all pins of `owner`, and say how many there were. */
uint32_t pkvi_pins_release(pkv_cache* cache, uint64_t owner);

/* End the pins whose time is over, and let terms of cached blocks run out (retention.h). Cheap when
 * there are none. */
void pkvi_settle(pkv_cache* cache);

#endif
