"""Sequences to the host tier and back."""

import gc
import threading

import pagedkv
import pytest
from support import BLOCK, LAYERS, grow, make_cache, vectors

TOKENS = list(range(1, 12))


def make(**changes: object) -> pagedkv.Cache:
    return make_cache(**{"host_blocks": 8, "blocks": 8, **changes})


def contents(cache: pagedkv.Cache, sequence: pagedkv.Sequence) -> list[bytes]:
    return [a.tobytes() for layer in range(LAYERS) for a in cache.read(sequence, layer)]


def overwrite(cache: pagedkv.Cache) -> None:
    """Another tenant takes every block that is free or cached."""
    with cache.sequence(tenant=9) as other:
        stats = cache.stats()
        blocks = stats.blocks_free + stats.blocks_cached
        grow(cache, other, list(range(500, 500 + blocks * BLOCK)))


@pytest.mark.parametrize("device", ["cpu", "sim"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_round_trip(device: str, dtype: str) -> None:
    with make(device=device, dtype=dtype) as cache:
        sequence = cache.sequence()
        grow(cache, sequence, TOKENS)
        before = contents(cache, sequence)
        transfer = sequence.swap_out()
        assert sequence.residence == "leaving"
        assert repr(transfer).endswith(", leaving>")
        assert transfer.sequence is sequence
        transfer.wait()
        transfer.wait()
        assert transfer.ended
        assert transfer.poll()
        assert repr(transfer) == "<pagedkv.Transfer, ended>"
        assert (sequence.residence, len(sequence), sequence.pages) == ("away", 11, 3)
        assert cache.stats().host_blocks_free == 5
        overwrite(cache)
        transfer = sequence.swap_in()
        assert sequence.residence == "arriving"
        while not transfer.poll():
            pass
        assert sequence.residence == "resident"
        assert contents(cache, sequence) == before
        stats = cache.stats()
        assert stats.swap_in_bytes == stats.swap_out_bytes > 0
        cache.check()


def test_with_waits() -> None:
    with make() as cache, cache.sequence() as sequence:
        grow(cache, sequence, TOKENS)
        with sequence.swap_out() as transfer:
            assert not transfer.ended
        assert sequence.residence == "away"
        with pytest.raises(KeyError), sequence.swap_in():
            raise KeyError
        assert sequence.residence == "away"
        assert cache.stats().transfers_cancelled == 1


def test_cancel_and_forget() -> None:
    with make() as cache, cache.sequence() as sequence:
        grow(cache, sequence, TOKENS)
        before = contents(cache, sequence)
        transfer = sequence.swap_out()
        transfer.cancel()
        transfer.cancel()
        assert sequence.residence == "resident"
        sequence.swap_out()  # dropped: cancelled
        gc.collect()
        assert sequence.residence == "resident"
        assert contents(cache, sequence) == before
        assert cache.stats().transfers_cancelled == 2


def test_errors_name_what_is_wrong() -> None:
    with make(host_blocks=3) as cache:
        sequence, other = cache.sequence(), cache.sequence()
        grow(cache, sequence, TOKENS)
        grow(cache, other, TOKENS[:5])
        with pytest.raises(pagedkv.InvalidArgument, match=r"^Sequence\.swap_in: "):
            sequence.swap_in()
        sequence.swap_out().wait()
        with pytest.raises(pagedkv.Away, match=r"^Sequence\.swap_out: "):
            sequence.swap_out()
        with pytest.raises(pagedkv.OutOfHostBlocks):
            other.swap_out()
        with pytest.raises(pagedkv.Away, match=r"^entries\[1\]: the sequence is away"):
            cache.step([(other, [1]), (sequence, [1])])
        with pytest.raises(pagedkv.Away):
            cache.read(sequence, 0)
        for use in (sequence.fork, sequence.blocks, sequence.commit, lambda: sequence.append([1])):
            with pytest.raises(pagedkv.Away):
                use()
        transfer = sequence.swap_in()
        with pytest.raises(pagedkv.Busy, match=r"^entries\[0\]: the sequence is arriving"):
            cache.step([(sequence, [1])])
        with pytest.raises(pagedkv.Busy):
            sequence.close()
        transfer.wait()
    assert transfer.ended
    with make_cache() as cache, cache.sequence() as homely, pytest.raises(pagedkv.NotSupported):
        homely.swap_out()


def test_close_while_away() -> None:
    with make() as cache:
        sequence = cache.sequence()
        grow(cache, sequence, TOKENS)
        sequence.swap_out().wait()
        sequence.close()
        assert cache.stats().host_blocks_free == 8


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("return(EIO)", pagedkv.DeviceIOError),
        ("corrupt(3)", pagedkv.DeviceIOError),
        ("drop", pagedkv.DeviceTimeout),
    ],
)
def test_failure_loses_nothing(spec: str, error: type[pagedkv.Error]) -> None:
    with make() as cache:
        sequence = cache.sequence()
        grow(cache, sequence, TOKENS)
        before = contents(cache, sequence)
        with pagedkv.faults(f"device.transfer.done={spec}"):
            transfer = sequence.swap_out()
            with pytest.raises(error, match=r"^Transfer\.wait: "):
                transfer.wait()
            assert transfer.ended
            assert sequence.residence == "resident"
        sequence.swap_out().wait()
        faults = pagedkv.faults(f"device.transfer.done={spec}")
        with faults, pytest.raises(error), sequence.swap_in():
            pass
        assert sequence.residence == "away"
        overwrite(cache)
        sequence.swap_in().wait()
        assert contents(cache, sequence) == before
        assert cache.stats().transfers_failed == 2


def test_swapping_beside_computing() -> None:
    """Threads swap sequences of their own while others compute."""
    with make(blocks=24, host_blocks=12, transfers=3, plans=3, threads=2) as cache:
        wrong: list[str] = []

        def work(number: int) -> None:
            tokens = [100 * number + i for i in range(7)]
            sequence = cache.sequence(tenant=number)
            grow(cache, sequence, tokens)
            want = vectors(tokens, 0).tobytes()
            for _ in range(15):
                sequence.swap_out().wait()
                sequence.swap_in().wait()
                if cache.read(sequence, 0)[0].tobytes() != want:
                    wrong.append(f"thread {number}")

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        cache.check()


def test_closed_cache() -> None:
    cache = make()
    sequence = cache.sequence()
    grow(cache, sequence, TOKENS)
    transfer = sequence.swap_out()
    cache.close()
    assert transfer.ended
    transfer.cancel()
    with pytest.raises(pagedkv.StaleHandle):
        transfer.wait()
