"""Requests of a trace through a cache: what is found, what is computed, what is evicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._cache import Cache
from .._ffi import check, ffi, lib
from .._values import unsigned
from ..errors import InvalidArgument
from ._traces import Blocks, Trace

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Result", "replay"]


@dataclass(frozen=True)
class Result:
    """What came of a trace."""

    trace: str
    policy: str
    capacity: int  # blocks of the cache
    requests: int
    blocks: int  # asked for
    hits: int  # of them, found
    evictions: int
    retain_first: int = 0  # blocks of each request that were retained
    beside: bool = False  # requests ran beside the `capacity` blocks

    @property
    def rate(self) -> float:
        """Hits by blocks asked for."""
        return self.hits / self.blocks if self.blocks else 0.0


def replay(
    trace: Trace, policy: str, capacity: int, retain_first: int = 0, beside: bool = False
) -> Result:
    """Ask a cache of `capacity` blocks for what the trace asks for, one request after another.

    A request attaches what it finds, computes the rest, and ends. Each block of the trace is a
    block of one token of the real cache, with the block's number as the token. Of a request that is
    longer than the cache the beginning is kept.

    retain_first  so many blocks at the beginning of each request are retained with a priority above
                  the default, as an application would do with its system prompts
    beside        the request that runs has room of its own, and `capacity` blocks are kept from one
                  to the next: what it leaves competes with what was there, and pushes nothing out
                  while it runs. So do simulators that evict after a request and not before it; a
                  pool of this capacity cannot

    Raises InvalidArgument (also for a policy that there is not).
    """
    if unsigned("capacity", capacity) == 0:
        raise InvalidArgument("capacity: expected 1 or more, got 0")
    longest = max(1, min(trace.longest, capacity))
    room = longest if beside else 0
    with Cache(
        layers=1,
        kv_heads=1,
        head_dim=16,
        block_tokens=1,
        blocks=capacity + room,
        sequences=1,
        sequence_tokens=longest,
        step_tokens=longest,
        threads=1,
        eviction=policy,
        retained=capacity if unsigned("retain_first", retain_first) else 0,
        faults="",
        seed=1,
    ) as cache:
        hits = _run(cache._handle, trace.requests, capacity, retain_first, room)
        stats = cache.stats()
    counts = (len(trace.requests), trace.blocks, hits, stats.evictions)
    return Result(trace.name, policy, capacity, *counts, retain_first, beside)


def _run(
    cache: Any, requests: Iterable[Blocks], capacity: int, retain_first: int, room: int
) -> int:
    """Hits of all requests."""
    seq = ffi.new("pkv_seq*")
    matched = ffi.new("uint32_t*")
    terms = ffi.new("pkv_retention*", {"priority": lib.PKV_PRIORITY_DEFAULT + 1})
    hits = 0
    for request in requests:
        blocks = request[:capacity]
        tokens = ffi.from_buffer("uint32_t[]", blocks)
        count = len(blocks)
        check(lib.pkv_seq_create(cache, 0, seq), "replay")
        check(lib.pkv_seq_match(cache, seq[0], tokens, count, matched), "replay")
        found = matched[0]
        if found < count:
            status = lib.pkv_seq_append(cache, seq[0], tokens + found, count - found, ffi.NULL)
            check(status, "replay")
            check(lib.pkv_seq_commit(cache, seq[0]), "replay")
        if retain_first:
            end = min(count, retain_first)
            check(lib.pkv_seq_retain(cache, seq[0], 0, end, terms, ffi.NULL), "replay")
        check(lib.pkv_seq_free(cache, seq[0]), "replay")
        if room:
            _make_room(cache, seq, room)
        hits += found
    return hits


def _make_room(cache: Any, seq: Any, count: int) -> None:
    """Evict until `count` blocks are free: reserve so many and let go of them."""
    check(lib.pkv_seq_create(cache, 0, seq), "replay")
    tokens = ffi.new("uint32_t[]", count)
    check(lib.pkv_seq_append(cache, seq[0], tokens, count, ffi.NULL), "replay")
    check(lib.pkv_seq_free(cache, seq[0]), "replay")
