"""Steps: what is reserved, written, attended, committed and taken back."""

import gc
from typing import Any

import numpy as np
import pagedkv
import pytest
from support import BLOCK, DIM, HEADS, LAYERS, attention, grow, make_cache, vectors, write_all

SINKS = np.array([-1.0, 0.5, 2.0, 4.0], np.float32)


def test_attention_of_a_mixed_batch() -> None:
    """A prompt, a chunk behind committed tokens, and single tokens, in one step."""
    with make_cache() as cache:
        texts = [list(range(9)), list(range(20, 31)), [40, 41, 42]]
        chunks = [texts[0], texts[1][8:], texts[2][2:]]
        sequences = [cache.sequence() for _ in texts]
        grow(cache, sequences[1], texts[1][:8])
        grow(cache, sequences[2], texts[2][:2])
        rows = [token for chunk in chunks for token in chunk]
        with cache.step(list(zip(sequences, chunks, strict=True))) as step:
            assert step.tokens == len(rows)
            write_all(step, rows)
            q = vectors(rows, 7, HEADS)
            lse = np.empty((len(rows), HEADS), np.float32)
            out = step.attend(1, q, lse=lse)
            starts = list(step.starts)
        for text, begin, end in zip(texts, starts, starts[1:], strict=False):
            first = len(text) - (end - begin)
            expected = attention(q[begin:end], vectors(text, 1), vectors(text, 101), first)
            np.testing.assert_allclose(out[begin:end], expected, atol=1e-5)
        assert np.isfinite(lse).all()
        assert [len(sequence) for sequence in sequences] == [9, 11, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.25},
        {"softcap": 2.0},
        {"window": 5},
        {"window": 5, "sinks": 2},
        {"sink_logits": SINKS},
        {"sink_logits": SINKS, "softcap": 2.0},
    ],
    ids=str,
)
def test_attention_options(options: dict[str, Any]) -> None:
    text = list(range(17))
    geometry = {key: options[key] for key in ("window", "sinks") if key in options}
    call = {key: options[key] for key in ("scale", "softcap", "sink_logits") if key in options}
    with make_cache(**geometry) as cache, cache.sequence() as sequence:
        grow(cache, sequence, text[:10])
        with cache.step([(sequence, text[10:])]) as step:
            write_all(step, text[10:])
            q = vectors(text[10:], 7, HEADS)
            out = step.attend(0, q, **call)
    expected = attention(q, vectors(text, 0), vectors(text, 100), 10, **options)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_value_dim_differs() -> None:
    with make_cache(value_dim=16) as cache, cache.sequence() as sequence:
        with cache.step([(sequence, [1, 2])]) as step:
            k, v = vectors([1, 2], 0), vectors([1, 2], 1, dim=16)
            step.write(0, k, v)
            out = step.attend(0, vectors([1, 2], 2, HEADS))
            with pytest.raises(pagedkv.InvalidArgument, match=r"^v: .*\(2, 2, 16\).*value_dim"):
                step.write(0, k, k)
        assert out.shape == (2, HEADS, 16)


def test_arrays_of_the_plan() -> None:
    with make_cache() as cache:
        a, b = cache.sequence(), cache.sequence()
        grow(cache, a, list(range(6)))
        with cache.step([(a, [6, 7, 8]), (b, [1])]) as step:
            assert list(step.positions) == [6, 7, 8, 0]
            assert list(step.starts) == [0, 3, 4]
            assert list(step.lengths) == [9, 1]
            table = step.block_table
            assert table.shape == (2, 3)
            positions = step.positions
            row = [0, 0, 0, 1]
            expected = table[row, positions // BLOCK] * BLOCK + positions % BLOCK
            assert list(step.slots) == list(expected)
            assert positions.dtype == np.uint32
        assert list(a.blocks()) == list(table[0])
        assert list(step.positions) == [6, 7, 8, 0]


def test_plan_arrays_need_an_open_step() -> None:
    with make_cache() as cache:
        step = cache.step([(cache.sequence(), [1])])
        step.commit()
        with pytest.raises(pagedkv.StaleHandle, match="committed or aborted"):
            _ = step.positions


def test_exception_leaves_no_trace() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        grow(cache, sequence, [1, 2, 3])
        before = cache.check()
        with pytest.raises(ZeroDivisionError), cache.step([(sequence, [4, 5, 6])]) as step:
            write_all(step, [4, 5, 6])
            raise ZeroDivisionError
        assert step.closed
        assert len(sequence) == 3
        assert cache.check().sequences_digest == before.sequences_digest
        assert cache.stats().plans_aborted == 1


def test_commit_and_abort_by_hand() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        step = cache.step([(sequence, [1])])
        step.abort()
        assert len(sequence) == 0
        with cache.step([(sequence, [1])]) as step:
            step.commit()
            assert repr(step).endswith("closed>")
        assert len(sequence) == 1
        for end in (step.commit, step.abort):
            with pytest.raises(pagedkv.StaleHandle, match="committed or aborted"):
                end()
        k = vectors([1], 0)
        with pytest.raises(pagedkv.StaleHandle, match=r"^Step\.write: .*committed or aborted"):
            step.write(0, k, k)


def test_a_forgotten_step_is_aborted() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        step = cache.step([(sequence, [1])])
        assert repr(step) == "<pagedkv.Step of 1 sequences, 1 tokens>"
        del step
        gc.collect()
        assert cache.stats().plans == 0
        assert len(sequence) == 0


def test_a_step_keeps_its_sequences() -> None:
    with make_cache() as cache:
        with cache.step([(cache.sequence(), [1])]):
            gc.collect()
            assert cache.stats().sequences == 1
        gc.collect()
        assert cache.stats().sequences == 0


def test_closing_a_sequence_inside_a_step() -> None:
    with make_cache() as cache:
        sequence = cache.sequence()
        with cache.step([(sequence, [1])]), pytest.raises(pagedkv.Busy, match=r"Sequence\.close"):
            sequence.close()
        sequence.close()


def test_all_or_nothing() -> None:
    with make_cache(blocks=4) as cache:
        a, b = cache.sequence(), cache.sequence()
        grow(cache, a, list(range(2 * BLOCK)))
        before = cache.check()
        with pytest.raises(pagedkv.OutOfBlocks, match=r"2 sequences, 12 tokens"):
            cache.step([(a, [1, 2, 3, 4]), (b, list(range(8)))])
        assert cache.check() == before
        with pytest.raises(pagedkv.TooBig):
            cache.step([(b, list(range(5 * BLOCK)))])
        assert cache.check() == before


class Refused:
    """Entries that are refused, each with its error and its message."""

    def __init__(self, cache: pagedkv.Cache, other: pagedkv.Cache) -> None:
        self.kept = [good, busy, reserved, closed, foreign] = [
            *(cache.sequence() for _ in range(4)),
            other.sequence(),
        ]
        self.step = cache.step([(busy, [1])])
        reserved.append([1])
        closed.close()
        invalid, stale = pagedkv.InvalidArgument, pagedkv.StaleHandle
        self.cases: list[tuple[Any, type[Exception], str]] = [
            ([], invalid, "entries"),
            ([(good, [])], invalid, r"^entries\[0\]: expected at least one token"),
            ([(good, [1]), (good, [2])], invalid, r"^entries\[1\]: .* as entries\[0\]$"),
            ([(good, [1, -1])], invalid, r"^entries\[0\]: tokens: .* got -1$"),
            ([(good, [2**32])], invalid, r"^entries\[0\]: tokens: .* got 4294967296$"),
            ([(good, [2**70])], invalid, r"^entries\[0\]: tokens: "),
            ([(good, [1.5])], invalid, r"^entries\[0\]: tokens: expected integers, got float64$"),
            ([(good, ["a"])], invalid, r"^entries\[0\]: tokens: expected integers"),
            ([(good, [[1], [2, 3]])], invalid, r"^entries\[0\]: tokens: "),
            ([(good, [[1, 2]])], invalid, r"^entries\[0\]: tokens: expected shape \(count,\)"),
            ([(good, np.zeros((2, 2), np.uint32))], invalid, r"^entries\[0\]: tokens: expected sh"),
            ([(good, np.zeros(2, np.float32))], invalid, r"^entries\[0\]: .* got float32$"),
            ([(good, 5)], invalid, r"^entries\[0\]: expected a list of token ids, got int$"),
            ([good], invalid, r"^entries\[0\]: expected \(sequence, tokens\)"),
            ([(good, [1]), (3, [1])], invalid, r"^entries\[1\]: expected a pagedkv.Sequence"),
            ([(good, pagedkv.UnknownTokens(0))], invalid, r"^entries\[0\]: expected at least one"),
            ([(good, [1]), (closed, [1])], stale, r"^entries\[1\]: .* been closed$"),
            ([(foreign, [1])], stale, r"^entries\[0\]: .* another cache$"),
            ([(busy, [1])], pagedkv.Busy, r"^entries\[0\]: .* open step$"),
            ([(reserved, [1])], pagedkv.Busy, r"^entries\[0\]: .* uncommitted tokens$"),
        ]


def test_refused_entries_are_named_and_change_nothing() -> None:
    with make_cache() as cache, make_cache() as other:  # the same seed: equal handles
        refused = Refused(cache, other)
        before = cache.check()
        for entries, error, message in refused.cases:
            with pytest.raises(error, match=message):
                cache.step(entries)
            assert cache.check() == before
        refused.step.abort()


def test_too_many_open_steps() -> None:
    with make_cache(plans=1) as cache:
        a, b = cache.sequence(), cache.sequence()
        with cache.step([(a, [1])]), pytest.raises(pagedkv.Busy, match="as many steps are open"):
            cache.step([(b, [1])])


def test_kinds_of_tokens() -> None:
    with make_cache() as cache:
        kinds: list[Any] = [
            [1, 2],
            (1, 2),
            range(1, 3),
            np.array([1, 2]),
            np.array([1, 2], np.uint8),
            np.array([1, 9, 2], np.uint32)[::2],
        ]
        sequences = [cache.sequence() for _ in kinds]
        with cache.step(zip(sequences, kinds, strict=True)) as step:
            assert step.tokens == 12
        grow(cache, sequences[0], [3, 4])
        for sequence in sequences[1:]:
            grow(cache, sequence, [3, 4])
            with cache.sequence() as again:
                assert again.match([1, 2, 3, 4]) == 4
        assert cache.stats().prefix_duplicates == len(kinds) - 1


def test_unknown_tokens_beside_known_ones() -> None:
    with make_cache() as cache:
        a, b, c = (cache.sequence() for _ in range(3))
        unknown = pagedkv.UnknownTokens(BLOCK)
        with cache.step([(a, [1, 2, 3, 4]), (b, unknown), (c, [5, 6, 7, 8])]) as step:
            assert step.tokens == 3 * BLOCK
        assert cache.stats().prefix_inserts == 2
        for tokens, expected in (([1, 2, 3, 4], 4), ([5, 6, 7, 8], 4), ([0, 0, 0, 0], 0)):
            with cache.sequence() as again:
                assert again.match(tokens) == expected


def test_output_does_not_depend_on_the_batch() -> None:
    """The same sequence alone and among others, on one thread and on three, gives the same bits."""
    text = list(range(50))
    outputs = []
    for threads, crowd in ((1, 0), (3, 5)):
        with make_cache(threads=threads) as cache:
            others = [cache.sequence() for _ in range(crowd)]
            sequence = cache.sequence()
            entries = [(other, [200 + i]) for i, other in enumerate(others)]
            rows = [200 + i for i in range(crowd)] + text
            with cache.step([*entries, (sequence, text)]) as step:
                write_all(step, rows)
                outputs.append(step.attend(0, vectors(rows, 7, HEADS))[crowd:])
    np.testing.assert_array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize("layer", [-1, LAYERS, 1.0, None])
def test_bad_layer(layer: Any) -> None:
    with make_cache() as cache, cache.step([(cache.sequence(), [1])]) as step:
        k, q = vectors([1], 0), vectors([1], 0, HEADS)
        with pytest.raises(pagedkv.Error, match="^layer: expected"):
            step.write(layer, k, k)
        with pytest.raises(pagedkv.Error, match="^layer: expected"):
            step.attend(layer, q)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "big"}, "^scale: expected a number, got str$"),
        ({"scale": float("nan")}, "^scale: expected a finite number, got nan$"),
        ({"softcap": -1.0}, "^softcap: expected 0 or more, got -1.0$"),
        ({"softcap": float("inf")}, "^softcap: expected a finite number"),
        ({"lse": np.zeros((1, 3), np.float32)}, r"^lse: expected shape \(1, 4\)"),
        ({"lse": np.zeros((1, 4), np.float64)}, "^lse: expected f32"),
        ({"lse": np.zeros((1, 8), np.float32)[:, ::2]}, "^lse: expected a contiguous"),
        ({"sink_logits": np.zeros(3, np.float32)}, r"^sink_logits: expected shape \(4\) = \[heads"),
        ({"sink_logits": np.zeros(4)}, "^sink_logits: expected f32"),
        ({"sink_logits": np.zeros(8, np.float32)[::2]}, "^sink_logits: expected a contiguous"),
    ],
)
def test_bad_attention_argument(options: dict[str, Any], message: str) -> None:
    with make_cache() as cache, cache.step([(cache.sequence(), [1])]) as step:
        write_all(step, [1])
        q = vectors([1], 7, HEADS)
        out = np.full_like(q, 5)
        with pytest.raises(pagedkv.InvalidArgument, match=message):
            step.attend(0, q, out, **options)
        assert (out == 5).all()


def test_not_a_number() -> None:
    with make_cache(dtype="f16") as cache, cache.step([(cache.sequence(), [1])]) as step:
        write_all(step, [1])
        q = vectors([1], 7, HEADS)
        q[0, 2, 3] = np.nan
        out = np.full_like(q, 5)
        with pytest.raises(pagedkv.NonFinite, match="^Step.attend: q or sink_logits: "):
            step.attend(0, q, out)
        infinite = np.full(HEADS, -np.inf, np.float32)
        with pytest.raises(pagedkv.NonFinite, match="^Step.attend: q or sink_logits: "):
            step.attend(0, vectors([1], 7, HEADS), out, sink_logits=infinite)
        assert (out == 5).all()
        k = vectors([1], 0)
        too_large = np.full_like(k, 1e6)
        for bad in (np.full_like(k, np.inf), too_large):
            with pytest.raises(pagedkv.NonFinite, match="^Step.write: k or v: "):
                step.write(0, bad, k)
        step.write(0, k, k)
        assert np.isfinite(step.attend(0, np.ones((1, HEADS, DIM), np.float32))).all()
