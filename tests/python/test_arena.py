"""Caches that share an arena: what moves between them, what they refuse, and how they end."""

import gc

import numpy as np
import pagedkv
import pytest
from support import BLOCK, DIM, KV_HEADS, LAYERS, grow, make_cache, vectors

# A block of make_cache: K and V of 4 tokens, 2 heads of 32 elements, 2 layers, in f32.
BLOCK_BYTES = 2 * 4 * KV_HEADS * BLOCK * DIM * LAYERS
EXTENT = 4 * BLOCK_BYTES


def make_arena(extents: int = 4, **options: object) -> pagedkv.Arena:
    return pagedkv.Arena(bytes=extents * EXTENT, extent_bytes=EXTENT, **options)  # type: ignore[arg-type]


def fill(cache: pagedkv.Cache, blocks: int, first: int = 0) -> pagedkv.Sequence:
    """A sequence of so many blocks."""
    sequence = cache.sequence()
    for begin in range(0, blocks * BLOCK, 16):
        count = min(16, blocks * BLOCK - begin)
        grow(cache, sequence, list(range(first + begin, first + begin + count)))
    return sequence


def test_two_models_share_and_compute() -> None:
    with make_arena() as arena:
        big = make_cache(arena=arena, blocks=0)
        small = make_cache(arena=arena, blocks=0, kv_heads=1)
        assert (big.device, big.blocks) == ("cpu", 16)
        assert small.blocks == 32
        first = fill(big, 5)
        second = small.sequence()
        with small.step([(second, [7, 8, 9])]) as step:
            for layer in range(LAYERS):
                step.write(layer, vectors([7, 8, 9], layer, 1), vectors([7, 8, 9], 100 + layer, 1))
        assert np.array_equal(big.read(first, 1)[0], vectors(list(range(20)), 1))
        assert np.array_equal(small.read(second, 1)[1], vectors([7, 8, 9], 101, 1))
        stats = arena.stats()
        assert (stats.caches, stats.extents_total, stats.extents_free) == (2, 4, 1)
        assert stats.bytes_used == 5 * BLOCK_BYTES + BLOCK_BYTES // 2
        assert stats.bytes_lost == 0
        assert 0 < stats.external_fragmentation < 1
        assert stats.internal_fragmentation == 0
        assert big.stats().external_fragmentation == 3 / 8
        big.check()
        small.check()
        big.close()
        assert arena.stats().extents_free == 3
        small.close()


def test_cached_extents_move_and_active_ones_stay() -> None:
    with make_arena(2) as arena:
        one, two = make_cache(arena=arena), make_cache(arena=arena)
        sequence = fill(one, 8)
        with pytest.raises(pagedkv.OutOfBlocks):
            fill(two, 1)
        sequence.close()
        other = fill(two, 5)
        assert (one.stats().extents_ceded, two.stats().extents_claimed) == (2, 2)
        assert arena.stats().extents_claimed == 2
        assert np.array_equal(two.read(other, 0)[0], vectors(list(range(20)), 0))
        one.close()
        two.close()


def test_what_does_not_fit_is_refused_by_name() -> None:
    with make_arena() as arena:
        with pytest.raises(pagedkv.InvalidArgument, match="^arena: one block of groups"):
            make_cache(arena=arena, kv_heads=64)
        with pytest.raises(pagedkv.InvalidArgument, match="^arena: it is of another device"):
            make_cache(arena=arena, device="sim")
        with pytest.raises(pagedkv.InvalidArgument, match="^allocator: expected one of"):
            make_cache(arena=arena, allocator="buddy")
        assert arena.stats().caches == 0
    with pytest.raises(pagedkv.InvalidArgument, match="^blocks: must be set"):
        make_cache(blocks=0)
    with pytest.raises(pagedkv.InvalidArgument, match="^bytes: at least one extent"):
        pagedkv.Arena(bytes=4096)
    with pytest.raises(pagedkv.InvalidArgument, match="^extent_bytes: a multiple"):
        pagedkv.Arena(bytes=4096, extent_bytes=1000)
    with pytest.raises(pagedkv.NotSupported, match="^device: "):
        pagedkv.Arena(bytes=4 << 20, device="abacus")
    with pytest.raises(pagedkv.InvalidArgument, match="^bytes: "):
        pagedkv.Arena(bytes=-1)


@pytest.mark.parametrize("allocator", ["first-fit", "best-fit", "ring", "lifo"])
def test_every_policy_serves(allocator: str) -> None:
    with make_arena(allocator=allocator) as arena, make_cache(arena=arena) as cache:
        fill(cache, 9)
        cache.check()
    with make_cache(allocator=allocator) as cache:
        fill(cache, 9)
        cache.check()


def test_an_arena_lives_as_long_as_its_caches() -> None:
    arena = make_arena()
    cache = make_cache(arena=arena)
    arena.close()
    assert arena.closed
    assert repr(arena) == "<pagedkv.Arena, closed>"
    with pytest.raises(pagedkv.StaleHandle):
        arena.stats()
    with pytest.raises(pagedkv.StaleHandle):
        make_cache(arena=arena)
    sequence = fill(cache, 3)
    assert len(sequence) == 12
    cache.close()


def test_cycles_of_arena_and_caches_end() -> None:
    for _ in range(20):
        arena = make_arena()
        assert "0/4 extents held" in repr(arena)
        knot: list[object] = [arena, make_cache(arena=arena), make_cache(arena=arena)]
        knot.append(knot)
        del arena, knot
        gc.collect()


def test_compaction_empties_extents() -> None:
    with make_arena(4) as arena, make_cache(arena=arena) as cache:
        sequences = [fill(cache, 1, 100 * i) for i in range(12)]
        for i, sequence in enumerate(sequences):
            if i % 4:
                sequence.truncate(0)
        cache_free = cache.sequence()
        cache_free.append(pagedkv.UnknownTokens(16 * BLOCK - 3 * BLOCK))  # evicts what is cached
        cache_free.close()
        assert cache.stats().extents_used == 3
        assert cache.compact(0) == 0
        assert cache.compact(1) == 1
        assert cache.compact(100) == 1
        stats = cache.stats()
        assert (stats.extents_used, stats.blocks_moved, stats.extents_emptied) == (1, 2, 2)
        for i in range(0, 12, 4):
            tokens = list(range(100 * i, 100 * i + BLOCK))
            assert np.array_equal(cache.read(sequences[i], 0)[0], vectors(tokens, 0))
        cache.check()
        with pytest.raises(pagedkv.InvalidArgument, match="^max_moves: "):
            cache.compact(-1)


def test_an_arena_gives_memory_back_and_takes_it_again() -> None:
    arena = pagedkv.Arena(bytes=2 * EXTENT, bytes_max=4 * EXTENT, extent_bytes=EXTENT)
    with arena, make_cache(arena=arena) as cache:
        with pytest.raises(pagedkv.OutOfBlocks):
            cache.sequence().append(pagedkv.UnknownTokens(12 * BLOCK))
        arena.resize(4 * EXTENT)
        sequence = cache.sequence()
        sequence.append(pagedkv.UnknownTokens(12 * BLOCK))
        with pytest.raises(pagedkv.OutOfBlocks):
            arena.resize(2 * EXTENT)
        arena.resize(3 * EXTENT)
        assert arena.stats().extents_total == 3
        with pytest.raises(pagedkv.TooBig):
            arena.resize(5 * EXTENT)
        sequence.close()
        arena.resize(0)
        assert arena.stats().extents_total == 0
        assert cache.stats().blocks_total == 0
        cache.check()


def test_latency_of_reservations_is_told() -> None:
    with make_cache() as cache:
        assert cache.stats().reserve_p99_ns == 0
        fill(cache, 9)
        stats = cache.stats()
        assert stats.reservations == 3
        assert 0 < stats.reserve_p50_ns <= stats.reserve_p99_ns <= stats.reserve_max_ns
