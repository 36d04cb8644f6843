"""Fault injection: what `with pagedkv.faults(...)` reaches, and that it leaves no trace."""

import threading
from typing import Any

import pagedkv
import pytest
from support import grow, make_cache

NO_BLOCKS = "pool.take=return(ENOBLOCKS)"


def visits(cache: pagedkv.Cache, name: str) -> int:
    return next(point.visits for point in cache.fault_points() if point.name == name)


def test_points_are_listed() -> None:
    points = pagedkv.fault_points()
    names = [point.name for point in points]
    assert {"mem.alloc", "pool.take", "device.copy.done"} <= set(names)
    assert len(names) == len(set(names))
    assert all(point.meaning and point.visits == point.fired == 0 for point in points)
    with make_cache() as cache:
        assert [point.name for point in cache.fault_points()] == names
        assert pagedkv.fault_points(cache) == cache.fault_points()


def test_a_fault_fires_inside_the_block_only() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        before = cache.check()
        with pagedkv.faults(NO_BLOCKS):
            with pytest.raises(pagedkv.OutOfBlocks):
                cache.step([(sequence, [1])])
            assert visits(cache, "pool.take") == 1
        assert cache.check() == before
        grow(cache, sequence, [1])


def test_every_status_comes_back_as_its_exception() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        for cls in pagedkv.errors.CLASSES.values():
            with pagedkv.faults(f"plan.begin=return({cls.status_name})"):
                with pytest.raises(pagedkv.Error) as caught:
                    cache.step([(sequence, [1])])
                assert caught.value.status == cls.status


def test_all_live_caches_and_those_made_inside() -> None:
    with make_cache() as first, make_cache() as second:
        with pagedkv.faults("seq.create=return(ENOSEQS)"):
            with make_cache() as third:
                for cache in (first, second, third):
                    with pytest.raises(pagedkv.OutOfSequences):
                        cache.sequence()
            survivor = make_cache()
        for cache in (first, second, survivor):
            cache.sequence()
        survivor.close()


def test_creation_itself_can_fail() -> None:
    for point, error in (
        ("mem.alloc=return(ENOMEM)", pagedkv.OutOfMemory),
        ("device.alloc=return(ENOMEM)", MemoryError),
        ("device.open=return(EIO)", OSError),
    ):
        with pagedkv.faults(point), pytest.raises(error):
            make_cache()
    make_cache().close()


def test_what_was_there_before_is_restored() -> None:
    with make_cache(faults="seq.create=2*return(ENOSEQS)") as cache:
        with pytest.raises(pagedkv.OutOfSequences):
            cache.sequence()
        with pagedkv.faults("seq.fork=return(ENOSEQS)"):
            sequence = cache.sequence()
            with pytest.raises(pagedkv.OutOfSequences):
                sequence.fork()
        # Its own specification starts again from the beginning.
        for _ in range(2):
            with pytest.raises(pagedkv.OutOfSequences):
                cache.sequence()
        cache.sequence()


def test_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKV_FAULTS", "seq.create=return(ENOSEQS)")
    with make_cache() as cache, make_cache(faults="") as quiet:
        monkeypatch.delenv("PKV_FAULTS")
        with pagedkv.faults(""):
            cache.sequence()
        with pytest.raises(pagedkv.OutOfSequences):
            cache.sequence()
        quiet.sequence()


def test_blocks_nest() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        with pagedkv.faults(NO_BLOCKS):
            with pagedkv.faults(""):
                grow(cache, sequence, [1])
            with pytest.raises(pagedkv.OutOfBlocks):
                cache.step([(sequence, [2, 3, 4, 5])])
        grow(cache, sequence, [2, 3, 4, 5])


def test_an_exception_passes_through() -> None:
    with make_cache() as cache:
        with pytest.raises(KeyError), pagedkv.faults("seq.create=return(ENOSEQS)"):
            raise KeyError
        cache.sequence()


@pytest.mark.parametrize("live", [0, 2])
def test_bad_specification_changes_nothing(live: int) -> None:
    caches = [make_cache(faults="seq.create=return(ENOSEQS)") for _ in range(live)]
    with pytest.raises(pagedkv.FaultSpecError, match="no.such.point"):
        pagedkv.faults("no.such.point=off").__enter__()
    not_a_string: Any = 3
    with pytest.raises(pagedkv.InvalidArgument, match="^spec: .*"), pagedkv.faults(not_a_string):
        pytest.fail("entered")
    with pytest.raises(pagedkv.InvalidArgument, match="^seed: "), pagedkv.faults("", seed=-1):
        pytest.fail("entered")
    for cache in caches:
        with pytest.raises(pagedkv.OutOfSequences):
            cache.sequence()
        cache.close()
    make_cache().sequence()


def test_the_seed_decides() -> None:
    def course(seed: int) -> str:
        with make_cache() as cache, pagedkv.faults("seq.create=50%return(ENOSEQS)", seed=seed):
            return "".join(attempt(cache) for _ in range(64))

    def attempt(cache: pagedkv.Cache) -> str:
        try:
            cache.sequence().close()
        except pagedkv.OutOfSequences:
            return "x"
        return "."

    assert course(1) == course(1)
    assert course(1) != course(2)
    assert 10 < course(1).count("x") < 54


def test_leaving_ends_a_pause() -> None:
    with make_cache() as cache:
        made: list[pagedkv.Sequence] = []
        with pagedkv.faults("seq.create=pause"):
            thread = threading.Thread(target=lambda: made.append(cache.sequence()))
            thread.start()
            while not visits(cache, "seq.create"):
                pass
            assert not made
        thread.join()
        assert len(made) == 1
