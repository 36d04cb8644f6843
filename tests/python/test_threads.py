"""Many Python threads on one cache, and the GIL free while the library works."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pagedkv
import pytest
from support import DIM, HEADS, LAYERS, attention, grow, make_cache, vectors, write_all


def test_the_gil_is_released() -> None:
    """While one thread sleeps in the library, another runs Python code to its end."""
    with make_cache() as cache, cache.step([(cache.sequence(), [1])]) as step:
        k = vectors([1], 0)
        finished = threading.Event()
        with pagedkv.faults("device.write=delay(100000)"):
            thread = threading.Thread(target=lambda: (step.write(0, k, k), finished.set()))
            thread.start()
            while not any(point.visits for point in cache.fault_points()):
                pass
            ran_meanwhile = not finished.is_set()
            thread.join()
    assert ran_meanwhile


def test_layers_of_one_step_in_parallel() -> None:
    tokens = list(range(40))
    with make_cache(threads=2) as cache, cache.step([(cache.sequence(), tokens)]) as step:
        write_all(step, tokens)
        q = vectors(tokens, 7, HEADS)
        with ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(lambda layer: step.attend(layer, q), list(range(LAYERS)) * 8))
    for i, out in enumerate(outputs):
        layer = i % LAYERS
        expected = attention(q, vectors(tokens, layer), vectors(tokens, 100 + layer), 0)
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_commit_while_a_call_runs_is_refused() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        step = cache.step([(sequence, [1])])
        k = vectors([1], 0)
        with pagedkv.faults("device.write=pause"):
            thread = threading.Thread(target=step.write, args=(0, k, k))
            thread.start()
            while not any(point.visits for point in cache.fault_points()):
                pass
            for end in (step.commit, step.abort):
                with pytest.raises(pagedkv.Busy):
                    end()
            assert not step.closed
        thread.join()
        step.commit()
        assert len(sequence) == 1


def test_one_cache_many_threads() -> None:
    """Threads grow, fork, shorten and read sequences of their own; none sees another's."""

    def work(cache: pagedkv.Cache, number: int) -> int:
        draw = random.Random(number)
        steps = 0
        for _ in range(30):
            text: list[int] = []
            with cache.sequence(tenant=number) as sequence:
                for _ in range(draw.randrange(1, 5)):
                    chunk = [draw.randrange(1000) for _ in range(draw.randrange(1, 9))]
                    try:
                        grow(cache, sequence, chunk)
                    except (pagedkv.OutOfBlocks, pagedkv.Busy):
                        continue
                    steps += 1
                    text += chunk
                keep = draw.randrange(len(text) + 1)
                sequence.truncate(keep)
                with sequence.fork() as child:
                    k, v = cache.read(child, 1)
                np.testing.assert_array_equal(k, vectors(text[:keep], 1))
                np.testing.assert_array_equal(v, vectors(text[:keep], 101))
        return steps

    with make_cache(blocks=32, plans=2) as cache:
        with ThreadPoolExecutor(4) as pool:
            steps = sum(pool.map(lambda number: work(cache, number), range(4)))
        cache.check()
        stats = cache.stats()
        assert (stats.sequences, stats.plans, stats.blocks_active) == (0, 0, 0)
        assert stats.plans_committed == steps > 0


def test_closing_a_cache_that_others_use() -> None:
    """Whatever the others were doing, they see StaleHandle or a result; the process lives on."""

    def work(cache: pagedkv.Cache) -> bool:
        q = np.ones((1, HEADS, DIM), np.float32)
        try:
            while True:
                with cache.sequence() as sequence, cache.step([(sequence, [1])]) as step:
                    write_all(step, [1])
                    step.attend(0, q)
        except pagedkv.StaleHandle:
            return True

    for _ in range(10):
        cache = make_cache(plans=4)
        with ThreadPoolExecutor(4) as pool:
            ends = [pool.submit(work, cache) for _ in range(4)]
            while cache.stats().plans_committed < 20:
                pass
            cache.close()
            assert all(end.result() for end in ends)
