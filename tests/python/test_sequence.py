"""Sequences: length, sharing, tables, and slots for kernels of one's own."""

import gc

import numpy as np
import pagedkv
import pytest
from support import BLOCK, LAYERS, grow, make_cache, vectors


def test_length_and_state() -> None:
    with make_cache() as cache, cache.sequence(tenant=2**64 - 1) as sequence:
        assert len(sequence) == sequence.length == 0
        assert sequence
        assert sequence.tenant == 2**64 - 1
        with cache.step([(sequence, [1, 2, 3, 4, 5])]):
            assert sequence.in_step
            assert (sequence.length, sequence.reserved) == (0, 5)
        assert not sequence.in_step
        assert (len(sequence), sequence.reserved, sequence.pages) == (5, 0, 2)
        assert repr(sequence) == f"<pagedkv.Sequence of 5 tokens, tenant {2**64 - 1}>"


def test_close_is_idempotent_and_final() -> None:
    with make_cache() as cache:
        sequence = cache.sequence()
        sequence.close()
        sequence.close()
        assert sequence.closed
        assert repr(sequence) == "<pagedkv.Sequence, closed>"
        for use in (sequence.fork, sequence.blocks, lambda: len(sequence)):
            with pytest.raises(pagedkv.StaleHandle, match="^sequence: it has been closed$"):
                use()
        assert cache.stats().sequences == 0


def test_garbage_collection_ends_a_sequence() -> None:
    with make_cache() as cache:
        sequence = cache.sequence()
        assert cache.stats().sequences == 1
        del sequence
        gc.collect()
        assert cache.stats().sequences == 0


def test_too_many_sequences() -> None:
    with make_cache(sequences=2) as cache:
        kept = [cache.sequence(), cache.sequence()]
        with pytest.raises(pagedkv.OutOfSequences):
            cache.sequence()
        kept.pop().close()
        kept.append(cache.sequence())


@pytest.mark.parametrize("tenant", [-1, 2**64, 1.0, "me"])
def test_bad_tenant(tenant: object) -> None:
    with make_cache() as cache, pytest.raises(pagedkv.InvalidArgument, match="^tenant: "):
        cache.sequence(tenant)  # type: ignore[arg-type]


def test_match_finds_what_the_same_tenant_committed() -> None:
    prompt = list(range(3 * BLOCK + 2))
    with make_cache() as cache:
        with cache.sequence(tenant=7) as first:
            grow(cache, first, prompt)
        with cache.sequence(tenant=7) as again:
            assert again.match(prompt[:-1]) == len(prompt) - 1
            assert len(again) == len(prompt) - 1
            k, _ = cache.read(again, 1)
            np.testing.assert_array_equal(k, vectors(prompt[:-1], 1))
        with cache.sequence(tenant=8) as stranger:
            assert stranger.match(prompt) == 0
        with cache.sequence(tenant=7) as other:
            assert other.match([99, *prompt[1:]]) == 0
            assert other.match(np.array(prompt, np.int64)) == len(prompt)
            with pytest.raises(pagedkv.Busy):
                other.match(prompt)


def test_match_without_prefix_index() -> None:
    with make_cache(prefix=False) as cache:
        with cache.sequence() as first:
            grow(cache, first, list(range(8)))
        assert cache.stats().blocks_cached == 0
        with cache.sequence() as again:
            assert again.match(list(range(8))) == 0


def test_fork_shares_and_then_diverges() -> None:
    with make_cache() as cache:
        parent = cache.sequence()
        grow(cache, parent, [1, 2, 3, 4, 5, 6])
        child = parent.fork()
        assert list(child.blocks()) == list(parent.blocks())
        grow(cache, child, [70])
        grow(cache, parent, [80])
        assert parent.blocks()[0] == child.blocks()[0]
        assert parent.blocks()[1] != child.blocks()[1]
        assert cache.stats().cow_copies == 1
        np.testing.assert_array_equal(cache.read(child, 0)[0][6:], vectors([70], 0))
        np.testing.assert_array_equal(cache.read(parent, 0)[0][6:], vectors([80], 0))
        np.testing.assert_array_equal(cache.read(child, 0, 0, 6)[0], vectors([1, 2, 3, 4, 5, 6], 0))


@pytest.mark.parametrize(("cow_whole", "tiles"), [(False, 2), (True, 4)])
def test_how_much_a_fork_copies(cow_whole: bool, tiles: int) -> None:
    with make_cache(block_tokens=64, cow_whole=cow_whole) as cache:
        parent = cache.sequence()
        ids = list(range(1, 18))
        grow(cache, parent, ids)
        child = parent.fork()
        grow(cache, child, [70])
        tile = 2 * 4 * cache.layers * 16 * cache.kv_heads * cache.head_dim
        assert cache.stats().cow_bytes == tiles * tile
        np.testing.assert_array_equal(cache.read(child, 0)[0], vectors([*ids, 70], 0))
        np.testing.assert_array_equal(cache.read(parent, 0)[0], vectors(ids, 0))


def test_fork_that_copies_at_once() -> None:
    with make_cache(cow="fork") as cache:
        parent = cache.sequence()
        grow(cache, parent, [1, 2, 3, 4, 5, 6])
        child = parent.fork()
        assert parent.blocks()[0] == child.blocks()[0]
        assert parent.blocks()[1] != child.blocks()[1]
        stats = cache.stats()
        assert (stats.cow_copies, stats.cow_peak) == (1, 1)
        # One block: K and V, f32, of all layers.
        assert stats.cow_bytes == 2 * 4 * cache.layers * BLOCK * cache.kv_heads * cache.head_dim
        grow(cache, child, [70])
        grow(cache, parent, [80])
        assert cache.stats().cow_copies == 1
        np.testing.assert_array_equal(cache.read(child, 0, 0, 6)[0], vectors([1, 2, 3, 4, 5, 6], 0))


def test_truncate() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        grow(cache, sequence, list(range(10)))
        sequence.truncate(5)
        assert (len(sequence), sequence.pages) == (5, 2)
        with pytest.raises(pagedkv.OutOfRange):
            sequence.truncate(6)
        with pytest.raises(pagedkv.InvalidArgument, match="^length: "):
            sequence.truncate(-1)
        assert len(sequence) == 5


def test_window_rolls_blocks_off() -> None:
    with make_cache(window=BLOCK, sinks=1) as cache, cache.sequence() as sequence:
        grow(cache, sequence, list(range(4 * BLOCK)))
        table = sequence.blocks()
        assert len(table) == 4
        assert table[0] != pagedkv.NO_BLOCK
        assert pagedkv.NO_BLOCK in table[1:3]
        with pytest.raises(pagedkv.OutOfRange):
            cache.read(sequence, 0)


def test_blocks_of_a_range() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        grow(cache, sequence, list(range(10)))
        table = sequence.blocks()
        assert table.dtype == np.uint32
        assert list(sequence.blocks(1, 2)) == [table[1]]
        assert list(sequence.blocks(2)) == [table[2]]
        assert list(sequence.blocks(3, 3)) == []
        for begin, end in [(0, 4), (2, 1)]:
            with pytest.raises(pagedkv.OutOfRange, match=rf"pages \[{begin}, {end}\)"):
                sequence.blocks(begin, end)


def test_append_and_commit() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        slots = sequence.append([1, 2, 3, 4, 5])
        table = sequence.blocks()
        assert list(slots) == [table[i // BLOCK] * BLOCK + i % BLOCK for i in range(5)]
        assert (len(sequence), sequence.reserved) == (0, 5)
        with pytest.raises(pagedkv.Busy):
            sequence.fork()
        sequence.truncate(0)
        assert (len(sequence), sequence.reserved) == (0, 0)
        sequence.append([1, 2])
        sequence.commit()
        assert len(sequence) == 2
        with pytest.raises(pagedkv.InvalidArgument):
            sequence.append([])


def test_unknown_tokens_are_not_cached() -> None:
    with make_cache() as cache:
        with cache.sequence() as sequence:
            assert len(sequence.append(pagedkv.UnknownTokens(BLOCK))) == BLOCK
            sequence.commit()
        assert cache.stats().blocks_cached == 0
    assert repr(pagedkv.UnknownTokens(3)) == "UnknownTokens(3)"
    with pytest.raises(pagedkv.InvalidArgument, match="^count: "):
        pagedkv.UnknownTokens(-3)


def test_write_appended_tokens() -> None:
    """K and V that were computed elsewhere come in without a step, and are shared like others."""
    prompt = list(range(BLOCK + 1))
    with make_cache() as cache:
        with cache.sequence() as sequence:
            with pytest.raises(pagedkv.OutOfRange, match="no tokens have been appended"):
                sequence.write(0, vectors(prompt, 0), vectors(prompt, 100))
            sequence.append(prompt)
            with pytest.raises(pagedkv.InvalidArgument, match=r"^k: .*= \[seq.reserved, kv_heads"):
                sequence.write(0, vectors(prompt[1:], 0), vectors(prompt, 100))
            with pytest.raises(pagedkv.OutOfRange, match="^layer: "):
                sequence.write(LAYERS, vectors(prompt, 0), vectors(prompt, 100))
            for layer in range(LAYERS):
                sequence.write(layer, vectors(prompt, layer), vectors(prompt, 100 + layer))
            sequence.commit()
        with cache.sequence() as again:
            assert again.match(prompt) == len(prompt)
            np.testing.assert_array_equal(cache.read(again, 1)[0], vectors(prompt, 1))


def test_lookup_finds_and_announcements_are_pending() -> None:
    prompt = list(range(3 * BLOCK + 2))
    with make_cache() as cache, cache.sequence() as owner, cache.sequence() as other:
        assert other.lookup(prompt) == pagedkv.Match(matched=0, pending=0)
        owner.announce(prompt)
        assert other.lookup(prompt) == (0, 3 * BLOCK)
        grow(cache, owner, prompt[: BLOCK + 1])
        assert other.lookup(prompt) == (BLOCK, 2 * BLOCK)
        assert len(other) == 0, "nothing is attached"
        owner.announce([])
        assert other.lookup(prompt) == (BLOCK, 0)
        owner.announce(np.array(prompt))
        owner.close()
        assert other.lookup(prompt) == (BLOCK + 1, 0)


def test_announced_pages_are_bounded() -> None:
    with make_cache(announced_pages=1) as cache, cache.sequence() as owner:
        owner.announce(list(range(2 * BLOCK)))
        with cache.sequence() as other:
            assert other.lookup(list(range(2 * BLOCK))).pending == BLOCK


def test_keys_are_part_of_what_is_found() -> None:
    prompt = list(range(3 * BLOCK))
    image = (BLOCK + 1, 2 * BLOCK, b"image")
    with make_cache() as cache:
        with cache.sequence() as first:
            first.set_keys(b"adapter", [image])
            grow(cache, first, prompt)
        for salt, keys, expected in (
            (b"adapter", [image], len(prompt)),
            (b"adapter", [(BLOCK + 1, 2 * BLOCK, b"other")], BLOCK + 1),
            (b"another", [image], 0),
            (b"", [], 0),
        ):
            with cache.sequence() as again:
                again.set_keys(salt, keys)
                assert again.match(prompt) == expected
        with cache.sequence() as sequence:
            with pytest.raises(pagedkv.InvalidArgument):
                sequence.set_keys(keys=[(3, 3, b"empty")])
            with pytest.raises(pagedkv.TooBig):
                sequence.set_keys(bytes(2000))


def test_a_published_prefix_is_found_by_every_tenant() -> None:
    prompt = list(range(3 * BLOCK))
    with make_cache() as cache, cache.sequence(tenant=1) as owner:
        grow(cache, owner, prompt)
        assert owner.publish(2 * BLOCK + 1) == 2 * BLOCK
        with cache.sequence(tenant=2) as other:
            assert other.match(prompt) == 2 * BLOCK
            np.testing.assert_array_equal(cache.read(other, 1)[0], vectors(prompt[: 2 * BLOCK], 1))
        with pytest.raises(pagedkv.OutOfRange):
            owner.publish(len(prompt) + 1)
        assert owner.publish() == len(prompt)
