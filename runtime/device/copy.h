/* copy.h - what is copied within an arena: a run of bytes, or what the first tokens of a block take.
 *
 * In every order of elements the tokens of a tile stand together, and tiles one behind the other
 * (cpu/packed.h); scales likewise. So the first tiles of a head's K or V begin its piece, and those
 * of its scales the scales, and a block of few tokens is copied in pieces:
 *
 *   block   [K of head 0: ####......][scales: ##..] [K of head 1: ####......][##..] ... */
#ifndef PKVI_DEVICE_COPY_H
#define PKVI_DEVICE_COPY_H

#include "device/device.h"

enum { PKVI_COPY_TILE_TOKENS = 16 };

/* Copy `tokens` tokens of a block, whole tiles of them; all of it when they fill it. */
struct pkvi_copy_job pkvi_copy_tokens(const struct pkvi_layout* layout, void* to, const void* from,
                                      uint32_t tokens);

void pkvi_copy_run(const struct pkvi_copy_job* job);

/* What faults do to a copy: fill where it went to; and its `index`-th byte there, below `bytes`. */
void pkvi_copy_fill(const struct pkvi_copy_job* job, unsigned char value);
unsigned char* pkvi_copy_at(const struct pkvi_copy_job* job, uint64_t index);

#endif
