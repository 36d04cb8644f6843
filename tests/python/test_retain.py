"""Retention: blocks that stay cached longer, or go sooner, than the policy says."""

from __future__ import annotations

import math
from typing import Any

import pagedkv
import pytest
from support import BLOCK, grow, make_cache


def cache_of(**options: Any) -> pagedkv.Cache:
    """16 blocks on the simulated device, whose clock the tests move."""
    defaults: dict[str, Any] = {"device": "sim", "blocks": 16, "eviction": "lru", "retained": 16}
    return make_cache(**{**defaults, "sequence_tokens": 16 * BLOCK, **options})


def leave(cache: pagedkv.Cache, first: int, blocks: int, **terms: Any) -> None:
    """Blocks of tokens from `first` on, cached."""
    with cache.sequence() as seq:
        grow(cache, seq, list(range(first, first + blocks * BLOCK)))
        if terms:
            assert seq.retain(**terms) == blocks


def found(cache: pagedkv.Cache, first: int, blocks: int) -> int:
    with cache.sequence() as seq:
        return seq.lookup(list(range(first, first + blocks * BLOCK))).matched // BLOCK


def press(cache: pagedkv.Cache, blocks: int) -> None:
    """Make so many cached blocks go."""
    with cache.sequence() as seq:
        count = (cache.stats().blocks_free + blocks) * BLOCK
        seq.append(pagedkv.UnknownTokens(count))


def test_order_of_priorities() -> None:
    with cache_of() as cache:
        leave(cache, 100, 2, priority=90)
        leave(cache, 200, 2)
        leave(cache, 300, 2, priority=10)
        press(cache, 3)
        assert (found(cache, 100, 2), found(cache, 200, 2), found(cache, 300, 2)) == (2, 1, 0)
        press(cache, 2)
        assert (found(cache, 100, 2), found(cache, 200, 2)) == (1, 0)
        assert cache.stats().retained == 1
        cache.check()


def test_a_priority_lapses() -> None:
    with cache_of() as cache:
        leave(cache, 100, 1, priority=90, duration=2)
        cache.advance(1_999_999)
        assert cache.stats().retained == 1
        cache.advance(1)
        assert cache.stats().retained == 0
        assert found(cache, 100, 1) == 1


def test_a_time_to_live_ends() -> None:
    with cache_of() as cache:
        leave(cache, 100, 2, ttl=1.5)
        cache.advance(1_499_999)
        assert found(cache, 100, 2) == 2
        cache.advance(1)
        assert found(cache, 100, 2) == 0
        assert (cache.stats().expirations, cache.stats().blocks_cached) == (2, 0)


def test_tokens_are_a_slice_of_the_committed_ones() -> None:
    with cache_of() as cache, cache.sequence() as seq:
        grow(cache, seq, list(range(3 * BLOCK + 1)))
        assert seq.retain(slice(0, 1), priority=50) == 1
        assert seq.retain(slice(-1, None), priority=50) == 1
        assert cache.stats().retained == 2
        assert seq.retain(slice(BLOCK - 1, BLOCK + 1), priority=50) == 2
        assert seq.retain(slice(3, 3), priority=50) == 0
        assert seq.retain(slice(5, 2), priority=50) == 0
        assert seq.retain(priority=50) == 4
        assert seq.unretain(slice(0, BLOCK)) == 1
        assert cache.stats().retained == 3
        assert seq.unretain() == 4
        assert cache.stats().retained == 0


def test_the_most_that_was_asked_counts() -> None:
    with cache_of() as cache:
        with cache.sequence() as seq:
            grow(cache, seq, list(range(BLOCK)))
            seq.retain(priority=90)
            seq.retain(priority=pagedkv.DEFAULT_PRIORITY, ttl=1)
            seq.retain(priority=1)
        leave(cache, 200, 1)
        cache.advance(5_000_000)
        press(cache, 1)
        assert (found(cache, 0, 1), found(cache, 200, 1)) == (1, 0)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"priority": 101}, "^priority: expected 0 to 100, got 101"),
        ({"priority": -1}, "^priority: expected 0 to"),
        ({"priority": 1.5}, "^priority: expected an integer"),
        ({"duration": -1}, "^duration: expected more than 0"),
        ({"duration": 0}, "^duration: expected more than 0"),
        ({"ttl": math.nan}, "^ttl: expected a finite number"),
        ({"ttl": math.inf}, "^ttl: expected a finite number"),
        ({"ttl": 10**400}, "^ttl: expected a finite number"),
        ({"ttl": "60"}, "^ttl: expected a number, got str$"),
        ({"ttl": "soon"}, "^ttl: expected a number"),
        ({"tokens": 7}, "^tokens: expected a slice, got int"),
        ({"tokens": slice(0, 4, 2)}, "^tokens: expected a slice without a step"),
    ],
)
def test_bad_terms(terms: dict[str, Any], message: str) -> None:
    with cache_of() as cache, cache.sequence() as seq:
        grow(cache, seq, list(range(BLOCK)))
        with pytest.raises(pagedkv.InvalidArgument, match=message):
            seq.retain(**terms)
        assert cache.stats().retained == 0


def test_a_time_of_thousands_of_years_is_one() -> None:
    with cache_of() as cache:
        leave(cache, 100, 1, ttl=1e300)
        cache.advance(10**15)
        assert found(cache, 100, 1) == 1


def test_no_table_and_a_full_one() -> None:
    with make_cache() as cache, cache.sequence() as seq, pytest.raises(pagedkv.NotSupported):
        seq.retain(priority=90)
    with cache_of(retained=1) as cache, cache.sequence() as seq:
        grow(cache, seq, list(range(2 * BLOCK)))
        with pytest.raises(pagedkv.TooBig):
            seq.retain(priority=90)
        assert cache.stats().retained == 0
        assert seq.retain(slice(0, BLOCK), priority=90) == 1
    with pytest.raises(pagedkv.TooBig, match=r"^retained: at most 2\^24"):
        cache_of(retained=1 << 25)
    with pytest.raises(pagedkv.StaleHandle):
        seq.retain(priority=90)
