"""What the library reports about itself, as immutable records."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ._ffi import check, ffi, lib

__all__ = [
    "ArenaStats",
    "FaultPoint",
    "Report",
    "Sizes",
    "Stats",
    "TraceEvent",
    "read_arena_stats",
    "read_stats",
]


@dataclass(frozen=True)
class Sizes:
    """What a configuration will take.

    block_bytes         one block: all layers, K and V
    arena_bytes         memory for all blocks
    blocks_per_extent   blocks in one extent of the arena
    extents             extents of the arena
    host_bytes          host memory for the host tier
    """

    block_bytes: int
    arena_bytes: int
    blocks_per_extent: int
    extents: int
    host_bytes: int


class _Fragmentation:
    """Shares of the memory of extents that caches hold."""

    bytes_used: int
    bytes_loose: int
    bytes_lost: int

    @property
    def external_fragmentation(self) -> float:
        """Share of the memory of held extents that is free blocks, which no other cache can use."""
        return self.bytes_loose / (self.bytes_used + self.bytes_loose + self.bytes_lost or 1)

    @property
    def internal_fragmentation(self) -> float:
        """Share of the memory of held extents that is too short for a block."""
        return self.bytes_lost / (self.bytes_used + self.bytes_loose + self.bytes_lost or 1)


@dataclass(frozen=True)
class Stats(_Fragmentation):
    """Counters of a cache at one moment. blocks_free + blocks_active + blocks_cached ==
    blocks_total.

    blocks_free             blocks that hold nothing
    blocks_active           blocks named by at least one sequence
    blocks_cached           blocks named by the prefix index only: evictable
    blocks_peak             highest blocks_active so far
    extents_used            extents that a pool holds
    sequences, plans        alive sequences, open steps
    leaves_total, _free     page table leaves
    plans_committed, _aborted
    tokens_committed        tokens computed and committed, prefix hits not counted
    prefix_query_tokens     tokens asked of Sequence.match
    prefix_hit_tokens       tokens found by it
    prefix_inserts          blocks that entered the prefix index
    prefix_duplicates       blocks given back since an equal one was in the index
    evictions               cached blocks that were dropped for room
    forks, cow_copies       forks; blocks copied since a shared one was, or would be, written
    cow_peak, cow_bytes     the most of them in one step, append or fork; bytes of all
    scrubs                  blocks zeroed on change of tenant
    rolled_blocks           table entries dropped behind the window
    table_rows_extended     rows of block tables that only grew or stayed as they were
    table_rows_rewritten    rows written from their start
    heap_calls, heap_bytes  allocations so far, bytes of host memory held
    arena_bytes             bytes of device memory held
    swap_out_bytes, swap_in_bytes           moved by transfers that ended well
    transfers_failed, transfers_cancelled
    host_blocks_total, host_blocks_free     blocks of the host tier
    transfers               transfers under way
    tokens_rejected         tokens computed, and then dropped by Step.accept
    pins, pins_expired      pins alive; pins that ended at their timeout
    eviction_fallbacks      victims that a function of eviction should have named and did not
    bytes_used, _loose, _lost   of the extents that the cache holds: blocks in use; free blocks;
                            ends too short for a block
    extents_claimed, _ceded extents that other caches of the arena gave up, and the other way round
    blocks_moved            blocks that compact() copied
    extents_emptied         extents that it made free by that
    reservations            steps and appends that took blocks
    reserve_p50_ns, _p99_ns, _max_ns    how long those took; quantiles to about an eighth
    retained                blocks that have a priority or a time to live
    expirations             cached blocks that were dropped since their time to live was over
    """

    blocks_total: int
    blocks_free: int
    blocks_active: int
    blocks_cached: int
    blocks_peak: int
    extents_total: int
    extents_used: int
    sequences: int
    plans: int
    leaves_total: int
    leaves_free: int
    plans_committed: int
    plans_aborted: int
    tokens_committed: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    prefix_inserts: int
    prefix_duplicates: int
    evictions: int
    forks: int
    cow_copies: int
    scrubs: int
    rolled_blocks: int
    table_rows_extended: int
    table_rows_rewritten: int
    heap_calls: int
    heap_bytes: int
    arena_bytes: int
    swap_out_bytes: int
    swap_in_bytes: int
    transfers_failed: int
    transfers_cancelled: int
    host_blocks_total: int
    host_blocks_free: int
    transfers: int
    tokens_rejected: int
    pins: int
    pins_expired: int
    eviction_fallbacks: int
    bytes_used: int
    bytes_loose: int
    bytes_lost: int
    extents_claimed: int
    extents_ceded: int
    blocks_moved: int
    extents_emptied: int
    reservations: int
    reserve_p50_ns: int
    reserve_p99_ns: int
    reserve_max_ns: int
    cow_bytes: int
    cow_peak: int
    retained: int
    expirations: int


@dataclass(frozen=True)
class ArenaStats(_Fragmentation):
    """What an arena is used for, at one moment.

    caches              that live in it
    extents_max         extents of the address space
    extents_total, _free    extents there are, and those that no cache holds
    extent_bytes        bytes of one
    bytes_used, _loose, _lost   of the extents that caches hold: blocks in use; free blocks;
                        ends too short for a block
    extents_claimed     extents that caches have given up for each other, or for a resize
    heap_bytes          bytes of host memory for its books
    """

    caches: int
    extents_max: int
    extents_total: int
    extents_free: int
    extent_bytes: int
    bytes_used: int
    bytes_loose: int
    bytes_lost: int
    extents_claimed: int
    heap_bytes: int


@dataclass(frozen=True)
class Report:
    """What Cache.check() found when all invariants hold.

    sequences_digest    hash of all that sequences can see: lengths, tables, references
    cache_digest        hash of the above, and of free lists, prefix index and eviction order
    """

    sequences_digest: int
    cache_digest: int


@dataclass(frozen=True)
class TraceEvent:
    """One of the last operations. `number` counts from 0 without gaps.

    time_us     microseconds since the cache was created
    what        "seq.fork", "prefix.evict", ...
    subject     handle or block number
    detail      tokens, blocks, or the status as a positive number
    """

    number: int
    time_us: int
    what: str
    subject: int
    detail: int


@dataclass(frozen=True)
class FaultPoint:
    """A place where the library can be told to fail.

    name, meaning   "device.copy.done", and what happens there
    visits          visits while a specification named the point
    fired           visits at which an action other than off was taken
    """

    name: str
    meaning: str
    visits: int
    fired: int


_STATS_FIELDS = tuple(field.name for field in fields(Stats))


def read_stats(handle: Any) -> Stats:
    """The counters of a cache."""
    filled = ffi.new("pkv_stats*", {"struct_size": ffi.sizeof("pkv_stats")})
    check(lib.pkv_cache_stats(handle, filled), "Cache.stats")
    return Stats(*(getattr(filled, name) for name in _STATS_FIELDS))


def read_arena_stats(handle: Any) -> ArenaStats:
    """The counters of an arena."""
    filled = ffi.new("pkv_arena_stats*", {"struct_size": ffi.sizeof("pkv_arena_stats")})
    check(lib.pkv_arena_get_stats(handle, filled), "Arena.stats")
    return ArenaStats(*(getattr(filled, field.name) for field in fields(ArenaStats)))
