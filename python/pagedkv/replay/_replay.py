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

    @property
    def rate(self) -> float:
        """Hits by blocks asked for."""
        return self.hits / self.blocks if self.blocks else 0.0


def replay(trace: Trace, policy: str, capacity: int) -> Result:
    """Ask a cache of `capacity` blocks for what the trace asks for, one request after another.

    A request attaches what it finds, computes the rest, and ends. Each block of the trace is a
    block of one token of the real cache, with the block's number as the token. Of a request that is
    longer than the cache the beginning is kept.

    Raises InvalidArgument (also for a policy that there is not).
    """
    if unsigned("capacity", capacity) == 0:
        raise InvalidArgument("capacity: expected 1 or more, got 0")
    longest = max(1, min(trace.longest, capacity))
    with Cache(
        layers=1,
        kv_heads=1,
        head_dim=16,
        block_tokens=1,
        blocks=capacity,
        sequences=1,
        sequence_tokens=longest,
        step_tokens=longest,
        threads=1,
        eviction=policy,
        faults="",
        seed=1,
    ) as cache:
        hits = _run(cache._handle, trace.requests, capacity)
        stats = cache.stats()
    return Result(
        trace.name, policy, capacity, len(trace.requests), trace.blocks, hits, stats.evictions
    )


def _run(cache: Any, requests: Iterable[Blocks], capacity: int) -> int:
    """Hits of all requests."""
    seq = ffi.new("pkv_seq*")
    matched = ffi.new("uint32_t*")
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
        check(lib.pkv_seq_free(cache, seq[0]), "replay")
        hits += found
    return hits
