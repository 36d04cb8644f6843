"""Eviction from Python: a policy by name, or a function that is asked for victims."""

from __future__ import annotations

import gc
import itertools
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pagedkv
import pytest
from numpy.typing import NDArray

Chooser = Callable[[NDArray[Any], int], Any]


def cache_of(eviction: str | Chooser | None, arena: pagedkv.Arena | None = None) -> pagedkv.Cache:
    return pagedkv.Cache(
        layers=1, kv_heads=1, head_dim=16, blocks=16, block_tokens=1, eviction=eviction, seed=1,
        arena=arena,
    )  # fmt: skip


def ask(cache: pagedkv.Cache, tokens: range) -> int:
    """One request; returns the tokens found."""
    with cache.sequence() as seq:
        found = seq.match(list(tokens))
        if found < len(tokens):
            seq.append(list(tokens)[found:])
            seq.commit()
        return found


def test_a_policy_by_name() -> None:
    for name in pagedkv.EVICTION_POLICIES:
        with cache_of(name) as cache:
            ask(cache, range(16))
            ask(cache, range(100, 104))
            assert ask(cache, range(16)) == 12
            cache.check()
    with pytest.raises(pagedkv.NotSupported, match="eviction"):
        cache_of("least")


def test_a_function_is_asked_once_for_a_step() -> None:
    calls: list[tuple[int, int]] = []

    def youngest(candidates: NDArray[Any], count: int) -> Any:
        calls.append((len(candidates), count))
        assert candidates["uses"].min() >= 1
        assert (np.diff(candidates["age"].astype(int)) <= 0).all()
        return candidates["block"][::-1][:count]

    with cache_of(youngest) as cache:
        ask(cache, range(8))
        ask(cache, range(100, 108))
        ask(cache, range(200, 208))
        assert calls == [(16, 8)]
        assert ask(cache, range(8)) == 8
        assert cache.stats().eviction_fallbacks == 0
        assert cache.eviction_error is None
        cache.check()


def raises(candidates: NDArray[Any], count: int) -> Any:
    raise ValueError("no idea")


@pytest.mark.parametrize(
    "chooser",
    [
        raises,
        lambda candidates, count: None,
        lambda candidates, count: ["a"],
        lambda candidates, count: [-1] * count,
        lambda candidates, count: [1 << 40] * count,
        lambda candidates, count: candidates["block"][:count] + 0.5,
        lambda candidates, count: [True] * count,
        lambda candidates, count: candidates["block"].reshape(4, -1),
        lambda candidates, count: [999] * count,
        lambda candidates, count: [],
    ],
)
def test_nonsense_does_no_harm(chooser: Chooser) -> None:
    with cache_of(chooser) as cache:
        ask(cache, range(16))
        with cache.sequence() as held:
            assert held.match(list(range(4))) == 4
            ask(cache, range(100, 104))
            assert cache.stats().eviction_fallbacks == 4
            cache.check()
        assert ask(cache, range(12)) == 12


def test_the_exception_is_kept() -> None:
    with cache_of(raises) as cache:
        ask(cache, range(16))
        ask(cache, range(100, 101))
        assert isinstance(cache.eviction_error, ValueError)


def test_more_names_than_asked_for() -> None:
    with cache_of(lambda candidates, count: itertools.cycle(candidates["block"])) as cache:
        ask(cache, range(16))
        ask(cache, range(100, 104))
        assert cache.stats().eviction_fallbacks == 0
        assert cache.eviction_error is None


def test_an_interrupt_reaches_the_caller() -> None:
    """The step is done all the same, and nothing is lost."""

    def interrupted(candidates: NDArray[Any], count: int) -> Any:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)  # where Python looks for signals

    with cache_of(interrupted) as cache:
        ask(cache, range(16))
        with pytest.raises(KeyboardInterrupt):
            ask(cache, range(100, 104))
        assert isinstance(cache.eviction_error, KeyboardInterrupt)
        assert cache.stats().evictions == 4
        cache.check()


@pytest.mark.parametrize("use", ["stats", "sequence", "arena", "other"])
def test_a_function_that_uses_its_cache_is_told_so(use: str) -> None:
    """It would wait for itself."""

    def chooser(candidates: NDArray[Any], count: int) -> Any:
        calls[use]()
        return candidates["block"][:count]

    with (
        pagedkv.Arena(bytes=1 << 20, extent_bytes=4096) as arena,
        cache_of(chooser, arena=arena) as cache,
        cache_of(None, arena=arena) as other,
        cache_of(None) as stranger,
    ):
        calls: dict[str, Callable[[], Any]] = {
            "stats": cache.stats,
            "sequence": cache.sequence,
            "arena": arena.stats,
            "other": other.stats,
            "none": stranger.stats,
        }
        ask(cache, range(16))
        ask(cache, range(100, 101))
        assert isinstance(cache.eviction_error, pagedkv.Busy)
        assert cache.stats().eviction_fallbacks == 1
        use = "none"
        ask(cache, range(200, 201))
        assert cache.stats().eviction_fallbacks == 1


def test_a_block_in_use_stays() -> None:
    with cache_of(lambda candidates, count: range(16)) as cache:
        ask(cache, range(8))
        with cache.sequence() as held:
            assert held.match(list(range(8))) == 8
            ask(cache, range(100, 108))
            ask(cache, range(200, 208))
            cache.check()
        assert ask(cache, range(8)) == 8


def test_no_garbage_is_collected_while_the_function_runs() -> None:
    """A sequence that dies in a collection would wait for the cache's lock for ever."""
    seen: list[bool] = []

    def chooser(candidates: NDArray[Any], count: int) -> Any:
        seen.append(gc.isenabled())
        return candidates["block"][:count]

    with cache_of(chooser) as cache:
        ask(cache, range(16))
        ask(cache, range(100, 101))
    assert seen == [False]
    assert gc.isenabled()
