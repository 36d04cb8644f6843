"""Pins: blocks that stay when their sequence is closed."""

from __future__ import annotations

import pagedkv
import pytest
from support import BLOCK, grow, make_cache


def pinned(cache: pagedkv.Cache, **options: object) -> pagedkv.Pin:
    """Two whole blocks and a half of a sequence that is closed, pinned."""
    with cache.sequence() as seq:
        grow(cache, seq, list(range(2 * BLOCK + BLOCK // 2)))
        return seq.pin(**options)  # type: ignore[arg-type]


def test_whole_blocks_stay_active_until_release() -> None:
    with make_cache(device="sim") as cache:
        pin = pinned(cache)
        assert cache.stats().blocks_active == 2
        assert (cache.stats().pins, cache.stats().sequences) == (1, 0)
        pin.release()
        pin.release()
        assert (cache.stats().blocks_active, cache.stats().pins) == (0, 0)
        cache.check()


def test_a_block_of_code_and_the_object_end_it() -> None:
    with make_cache(device="sim") as cache:
        with pinned(cache):
            assert cache.stats().pins == 1
        assert cache.stats().pins == 0
        pin = pinned(cache)
        del pin
        assert cache.stats().pins == 0


def test_pins_end_with_their_owner() -> None:
    with make_cache(device="sim") as cache:
        pins = [pinned(cache, owner=owner) for owner in (3, 3, 4)]
        assert cache.release_pins(3) == 2
        assert cache.stats().pins == 1
        for pin in pins:
            pin.release()  # those of owner 3 have ended already
        assert cache.stats().pins == 0


def test_a_pin_ends_at_its_timeout() -> None:
    with make_cache(device="sim") as cache:
        pin = pinned(cache, timeout=0.001)
        cache.advance(2000)
        assert (cache.stats().pins, cache.stats().pins_expired) == (0, 1)
        pin.release()


def test_bad_arguments() -> None:
    with make_cache(device="sim") as cache:
        with cache.sequence() as seq, pytest.raises(pagedkv.OutOfRange):
            seq.pin(1)
        with pytest.raises(pagedkv.InvalidArgument, match="timeout"):
            pinned(cache, timeout=0)
        with pytest.raises(pagedkv.InvalidArgument, match="owner"):
            pinned(cache, owner=-1)
        with pytest.raises(pagedkv.InvalidArgument, match="owner"):
            cache.release_pins(1 << 64)
