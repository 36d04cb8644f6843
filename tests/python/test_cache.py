"""Creating, asking and closing a cache."""

import gc
import os
import threading
import weakref
from typing import Any

import numpy as np
import pagedkv
import pytest
from support import BLOCK, DIM, KV_HEADS, LAYERS, grow, make_cache, vectors


def test_attributes_say_what_was_asked() -> None:
    with make_cache(k_dtype="f16", v_dtype="bf16", value_dim=16, window=20, sinks=2) as cache:
        assert (cache.layers, cache.kv_heads) == (LAYERS, KV_HEADS)
        assert (cache.head_dim, cache.value_dim) == (DIM, 16)
        assert (cache.blocks, cache.block_tokens) == (64, BLOCK)
        assert (cache.k_dtype, cache.v_dtype) == ("f16", "bf16")
        assert (cache.window, cache.sinks) == (20, 2)
        assert cache.threads == 1
        assert cache.device == "cpu"
        assert "64 blocks of 4 tokens" in repr(cache)
        assert "f16/bf16" in repr(cache)


def test_defaults() -> None:
    with pagedkv.Cache(layers=1, kv_heads=1, head_dim=16, blocks=4) as cache:
        assert cache.value_dim == 16
        assert cache.block_tokens == 16
        assert cache.k_dtype == cache.v_dtype == "f32"
        assert cache.threads == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": 0}, pagedkv.InvalidArgument, "^layers: .* got 0$"),
        ({"kv_heads": 0}, pagedkv.InvalidArgument, "^kv_heads: .* got 0$"),
        ({"head_dim": 7}, pagedkv.InvalidArgument, "^head_dim: .* got 7$"),
        ({"head_dim": 24}, pagedkv.InvalidArgument, "^head_dim: .* got 24$"),
        ({"value_dim": 512}, pagedkv.InvalidArgument, "^value_dim: .* got 512$"),
        ({"blocks": 0}, pagedkv.InvalidArgument, "^blocks: .* got 0$"),
        ({"blocks": 2**25}, pagedkv.TooBig, "^blocks: .* got 33554432$"),
        ({"blocks": -1}, pagedkv.InvalidArgument, "^blocks: .* got -1$"),
        ({"blocks": 1.5}, pagedkv.InvalidArgument, "^blocks: expected an integer, got float$"),
        ({"blocks": 2**32}, pagedkv.InvalidArgument, "^blocks: .* got 4294967296$"),
        ({"block_tokens": 0}, pagedkv.InvalidArgument, "^block_tokens: .* got 0$"),
        ({"block_tokens": 3}, pagedkv.InvalidArgument, "^block_tokens: .* got 3$"),
        ({"block_tokens": 512}, pagedkv.InvalidArgument, "^block_tokens: .* got 512$"),
        ({"dtype": "f64"}, pagedkv.InvalidArgument, "^dtype: expected one of f32, f16, bf16, i8,"),
        ({"k_dtype": 3}, pagedkv.InvalidArgument, "^k_dtype: .* got 3$"),
        ({"sequence_tokens": 2**31}, pagedkv.TooBig, "^sequence_tokens: .* got 2147483648$"),
        ({"step_tokens": 2**31}, pagedkv.TooBig, "^step_tokens: .* got 2147483648$"),
        ({"sequences": 2**21}, pagedkv.TooBig, "^sequences: .* got 2097152$"),
        ({"threads": 2000}, pagedkv.TooBig, "^threads: .* got 2000$"),
        ({"cow": "later"}, pagedkv.InvalidArgument, '^cow: expected "write" or "fork", got'),
        ({"device": "abacus"}, pagedkv.NotSupported, "^device: .* got 'abacus'$"),
        ({"device": b"cpu"}, pagedkv.InvalidArgument, "^device: expected a string, got bytes$"),
        ({"device": "cpu\0"}, pagedkv.InvalidArgument, "^device: .* without NUL"),
        ({"isa": "pdp11"}, pagedkv.NotSupported, "^isa: .* got 'pdp11'$"),
        ({"seed": -1}, pagedkv.InvalidArgument, "^seed: .* got -1$"),
        ({"faults": "nonsense"}, pagedkv.FaultSpecError, "fault specification"),
    ],
)
def test_bad_option_is_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_cache(**options)


def test_unknown_keyword() -> None:
    with pytest.raises(TypeError, match="colour"):
        make_cache(colour="red")
    with pytest.raises(pagedkv.InvalidArgument, match="^colour: not a keyword of Cache$"):
        pagedkv.sizes(colour="red")  # type: ignore[misc]


def test_sizes_before_and_after() -> None:
    options = {"layers": 3, "kv_heads": 2, "head_dim": 64, "blocks": 100, "dtype": "f16"}
    sizes = pagedkv.sizes(**options)  # type: ignore[arg-type]
    assert sizes.block_bytes == 3 * 2 * 2 * 16 * 64 * 2
    assert sizes.arena_bytes >= 100 * sizes.block_bytes
    assert sizes.blocks_per_extent * sizes.extents >= 100
    with pagedkv.Cache(**options) as cache:  # type: ignore[arg-type]
        assert cache.stats().arena_bytes == sizes.arena_bytes
    with pytest.raises(pagedkv.InvalidArgument, match="^head_dim: .* got 7$"):
        pagedkv.sizes(layers=1, kv_heads=1, head_dim=7, blocks=1)


def test_stats_follow_the_life_of_a_sequence() -> None:
    with make_cache() as cache:
        before = cache.stats()
        assert before.blocks_free == before.blocks_total == 64
        sequence = cache.sequence()
        grow(cache, sequence, list(range(10)))
        during = cache.stats()
        assert (during.blocks_active, during.sequences, during.tokens_committed) == (3, 1, 10)
        sequence.close()
        after = cache.stats()
        assert (after.blocks_active, after.blocks_cached, after.sequences) == (0, 3, 0)
        assert after.blocks_peak == 3
        assert after.heap_calls == before.heap_calls
        with pytest.raises(AttributeError):
            after.forks = 3  # type: ignore[misc]


def test_read_gives_back_what_was_written() -> None:
    with make_cache() as cache:
        sequence = cache.sequence()
        tokens = list(range(11))
        grow(cache, sequence, tokens)
        for layer in range(LAYERS):
            k, v = cache.read(sequence, layer)
            np.testing.assert_array_equal(k, vectors(tokens, layer))
            np.testing.assert_array_equal(v, vectors(tokens, 100 + layer))
        k, v = cache.read(sequence, 1, 3, 6)
        np.testing.assert_array_equal(k, vectors(tokens[3:6], 1))
        assert cache.read(sequence, 0, 4, 4)[0].shape == (0, KV_HEADS, DIM)


def test_read_converts() -> None:
    with make_cache(dtype="bf16") as cache:
        sequence = cache.sequence()
        grow(cache, sequence, [1, 2, 3])
        exact, _ = cache.read(sequence, 0)
        bits, _ = cache.read(sequence, 0, dtype="bf16")
        assert bits.dtype == np.uint16
        np.testing.assert_array_equal((bits.astype(np.uint32) << 16).view(np.float32), exact)
        np.testing.assert_allclose(exact, vectors([1, 2, 3], 0), rtol=2**-8)
        half, _ = cache.read(sequence, 0, dtype="f16")
        assert half.dtype == np.float16


def test_read_refuses() -> None:
    with make_cache() as cache, make_cache() as other:
        sequence = cache.sequence()
        grow(cache, sequence, [1, 2, 3])
        with pytest.raises(pagedkv.OutOfRange, match=r"tokens \[1, 5\)"):
            cache.read(sequence, 0, 1, 5)
        with pytest.raises(pagedkv.OutOfRange, match="^layer: expected 0 to 1, got 2$"):
            cache.read(sequence, 2)
        with pytest.raises(pagedkv.StaleHandle, match="^sequence: it belongs to another cache$"):
            other.read(sequence, 0)
        with pytest.raises(pagedkv.InvalidArgument, match="^sequence: expected a pagedkv.Sequence"):
            cache.read(3, 0)  # type: ignore[arg-type]
        with pytest.raises(pagedkv.InvalidArgument, match="^dtype: "):
            cache.read(sequence, 0, dtype="int8")
        with cache.step([(sequence, [4])]), pytest.raises(pagedkv.Busy):
            cache.read(sequence, 0)


def test_check_gives_digests_that_follow_the_state() -> None:
    with make_cache() as cache:
        sequence = cache.sequence()
        empty = cache.check()
        grow(cache, sequence, [1, 2, 3])
        grown = cache.check()
        assert grown != empty
        assert cache.check() == grown


def test_trace() -> None:
    with make_cache() as cache:
        sequence = cache.sequence()
        child = sequence.fork()
        events = cache.trace()
        assert [event.number for event in events] == list(range(len(events)))
        assert "seq.fork" in [event.what for event in events]
        assert cache.trace(limit=1) == events[-1:]
        assert cache.trace(limit=0) == []
        child.close()


def test_virtual_clock() -> None:
    with make_cache(device="sim") as cache:
        before = cache.clock_us
        cache.advance(1500)
        assert cache.clock_us == before + 1500
    with make_cache() as cache:
        with pytest.raises(pagedkv.NotSupported, match="'cpu'"):
            cache.advance(1)
        assert cache.clock_us <= cache.clock_us


def test_drop_lets_nobody_find_what_was_computed_before() -> None:
    with make_cache() as cache:
        tokens = list(range(2 * BLOCK))
        with cache.sequence() as ended:
            grow(cache, ended, tokens)
        running = cache.sequence()
        grow(cache, running, tokens[:BLOCK])
        assert cache.drop() == 1  # the other is one that `running` has, too
        other = cache.sequence()
        assert other.match(tokens) == 0
        assert len(running) == BLOCK
        assert cache.stats().blocks_active == 1
        cache.check()


def test_closed_cache_says_so() -> None:
    cache = make_cache()
    sequence = cache.sequence()
    step = cache.step([(sequence, [1])])
    cache.close()
    cache.close()
    assert cache.closed
    assert sequence.closed
    assert repr(cache) == "<pagedkv.Cache, closed>"
    for call in (cache.stats, cache.check, cache.trace, cache.sequence, cache.fault_points):
        with pytest.raises(pagedkv.StaleHandle, match="^cache: it has been closed$"):
            call()
    for use in (sequence.fork, sequence.commit, lambda: len(sequence), step.commit):
        with pytest.raises(pagedkv.StaleHandle, match="^cache: it has been closed$"):
            use()
    sequence.close()
    with pytest.raises(pagedkv.StaleHandle):
        step.write(0, vectors([1], 0), vectors([1], 1))


def test_exception_in_a_step_survives_a_closed_cache() -> None:
    cache = make_cache()
    with pytest.raises(KeyError, match="mine"), cache.step([(cache.sequence(), [1])]):
        cache.close()
        raise KeyError("mine")


def test_cache_goes_with_its_last_reference() -> None:
    cache = make_cache()
    gone = weakref.ref(cache)
    sequence = cache.sequence()
    del cache
    assert gone() is not None
    assert len(sequence) == 0
    del sequence
    gc.collect()
    assert gone() is None


def test_collector_may_end_a_cache_before_its_sequences() -> None:
    """In a cycle it ends objects in any order: who comes later must not touch freed memory."""
    seen: list[bool] = []

    class Late:
        def __init__(self, cache: pagedkv.Cache) -> None:
            self.cache = cache
            self.sequence = cache.sequence()
            self.cycle = self

        def __del__(self) -> None:
            seen.append(self.cache.closed)
            with pytest.raises(pagedkv.StaleHandle, match="^cache: it has been closed$"):
                self.cache.stats()
            self.sequence.close()

    Late(make_cache())
    gc.collect()
    assert seen == [True]


def test_close_waits_for_a_call_in_another_thread() -> None:
    """A call that sleeps in the library keeps the memory until it returns."""
    cache = make_cache()
    sequence = cache.sequence()
    step = cache.step([(sequence, [1])])
    k = vectors([1], 0)
    outcome: list[object] = []

    def work() -> None:
        try:
            step.write(0, k, k)
            outcome.append("done")
        except pagedkv.Error as error:
            outcome.append(error)

    with pagedkv.faults("device.write=delay(200000)"):
        thread = threading.Thread(target=work)
        thread.start()
        while not any(point.visits for point in cache.fault_points()):
            pass
        cache.close()
        thread.join()
    assert outcome == ["done"]
