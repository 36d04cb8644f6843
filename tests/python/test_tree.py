"""Token trees: several continuations in one step, of which one is kept."""

from typing import Any

import numpy as np
import pagedkv
import pytest
from support import HEADS, attention, grow, make_cache, vectors, write_all

#   0 - 1 - 2
#    \_ 3 - 4
#        \_ 5
PARENTS = [-1, 0, 1, 0, 3, 3]
TOKENS = [10, 11, 12, 13, 14, 15]
STEM = [1, 2, 3, 4, 5]


def test_a_path_is_kept() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        grow(cache, sequence, STEM)
        with cache.step([(sequence, TOKENS, PARENTS)]) as step:
            assert list(step.positions) == [5, 6, 7, 6, 7, 7]
            write_all(step, TOKENS)
            used = cache.stats().blocks_active
            step.accept([[0, 3, 5]])
            assert step.closed
        text = [*STEM, 10, 13, 15]
        k, v = cache.read(sequence, 1)
        np.testing.assert_array_equal(k, vectors(text, 1))
        np.testing.assert_array_equal(v, vectors(text, 101))
        stats = cache.stats()
        assert (stats.tokens_rejected, stats.blocks_active) == (3, used - 1)
        with cache.sequence() as other:
            assert other.match([*STEM, 10, 11, 12]) == 6  # the path and the others part there
            other.truncate(0)
            assert other.match(text) == 8


def test_a_row_sees_its_ancestors() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        grow(cache, sequence, STEM)
        with cache.step([(sequence, TOKENS, np.array(PARENTS))]) as step:
            write_all(step, TOKENS)
            q = vectors(TOKENS, 7, HEADS)
            out = step.attend(0, q)
            step.accept([0])
        assert len(sequence) == len(STEM)
    for path in ([0, 1, 2], [0, 3, 4], [0, 3, 5]):
        text = [*STEM, *(TOKENS[row] for row in path)]
        expected = attention(q[path], vectors(text, 0), vectors(text, 100), len(STEM))
        np.testing.assert_allclose(out[path], expected, atol=1e-5)


def test_chains_are_cut() -> None:
    with make_cache() as cache:
        a, b, c = (cache.sequence() for _ in range(3))
        with cache.step([(a, [1, 2, 3]), (b, [4, 5], None), (c, [6, 7, 8], [-1, 0, 1])]) as step:
            write_all(step, [1, 2, 3, 4, 5, 6, 7, 8])
            step.accept([2, None, [0]])
        assert [len(a), len(b), len(c)] == [2, 2, 1]


def test_a_tree_that_is_a_chain_commits() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        with cache.step([(sequence, [1, 2, 3], [-1, 0, 1])]) as step:
            write_all(step, [1, 2, 3])
        assert len(sequence) == 3


def test_a_tree_without_a_choice_is_given_up() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        with (
            pytest.raises(pagedkv.InvalidArgument, match=r"tree of tokens: accept a path"),
            cache.step([(sequence, TOKENS, PARENTS)]) as step,
        ):
            write_all(step, TOKENS)
        assert step.closed
        assert len(sequence) == 0
        with pytest.raises(pagedkv.StaleHandle, match=r"^Step.accept: the step has been"):
            step.accept([1])


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([-1, 0], r"^entries\[0\]: parents: expected one for each of 3 tokens, got 2"),
        ([-1, 1, 0], r"^entries\[0\]: parents\[1\]: expected a token before it, or -1.* got 1"),
        ([-2, 0, 0], r"^entries\[0\]: parents\[0\]: expected a token before it"),
        ([-1, 0.5, 0], r"^entries\[0\]: parents: expected whole numbers"),
        ("abc", r"^entries\[0\]: parents: expected whole numbers"),
    ],
    ids=str,
)
def test_what_is_no_tree(parents: Any, message: str) -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        with pytest.raises(pagedkv.InvalidArgument, match=message):
            cache.step([(sequence, [1, 2, 3], parents)])
        assert cache.stats().plans == 0


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], r"^paths: expected one for each of 1 sequences, got 0"),
        ([7], r"^paths\[0\]: expected 0 to 6, got 7"),
        ([-1], r"^paths\[0\]: expected 0 to 6, got -1"),
        ([[0, 6]], r"^paths\[0\]: expected 0 to 5, got 6"),
        ([[3, 5]], r"^paths\[0\]: token 3 is no first token"),
        ([[0, 3, 2]], r"^paths\[0\]: token 2 is no child of 3"),
        ([None], r"^paths\[0\]: token 3 is no child of 2"),
        ([[0.5]], r"^paths\[0\]: expected whole numbers"),
    ],
    ids=str,
)
def test_what_is_no_path(paths: Any, message: str) -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        with cache.step([(sequence, TOKENS, PARENTS)]) as step:
            write_all(step, TOKENS)
            with pytest.raises(pagedkv.InvalidArgument, match=message):
                step.accept(paths)
            step.accept([[0, 1]])
        assert len(sequence) == 2


def test_a_tree_may_be_too_large() -> None:
    with (
        make_cache(step_tokens=300, sequence_tokens=400, blocks=128) as cache,
        cache.sequence() as sequence,
        pytest.raises(pagedkv.TooBig),
    ):
        cache.step([(sequence, list(range(257)), [-1] * 257)])


def test_a_move_that_fails_can_be_tried_again() -> None:
    with make_cache() as cache, cache.sequence() as sequence:
        with cache.step([(sequence, TOKENS, PARENTS)]) as step:
            write_all(step, TOKENS)
            with (
                pagedkv.faults("device.move=return(EIO)"),
                pytest.raises(pagedkv.DeviceIOError),
            ):
                step.accept([[0, 3, 4]])
            step.accept([[0, 3, 4]])
        np.testing.assert_array_equal(cache.read(sequence, 0)[0], vectors([10, 13, 14], 0))
