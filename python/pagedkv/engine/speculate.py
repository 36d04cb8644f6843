"""Speculative decoding by prompt lookup: guess the next tokens from what the text has said before.

    draft -> one step over the last token and all guesses -> verify -> accept what agrees

A text that repeats itself, as code, tables and quotations do, is its own best predictor: the last
tokens are looked up in the text so far, and what followed them there is the guess: prompt lookup.
No second model is needed. A step then computes several tokens of a sample instead of one, and the
greedy choice after each guess says whether the next guess was right.

    chain   the likeliest continuation, k tokens
    tree    several continuations as branches of one tree: what they share is computed once

A guess costs a row of the step. A right one saves a row of a later step, and the sample's share of
what that step takes beside its rows, such as reading all weights. So one of n samples guesses what
is right more often than n times in n + overhead: much when alone, little in a full batch.

Only the tokens that plain greedy decoding would have chosen are kept. Along a chain the logits are
those of plain decoding bit for bit; a tree sums attention in another order, so that there a tie may
fall differently, as between any two kernels.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError

if TYPE_CHECKING:
    from .request import Sample
    from .scheduler import Chunk

OCCURRENCES_MAX = 16  # of an n-gram that are looked at, the latest ones
TREE_TOKENS_MAX = 255  # what the library takes, less the last token, which is the root


@dataclass(frozen=True)
class SpeculateParams:
    """How to guess. Raises RequestError when a value is out of range.

    ngram      tokens that are looked up, at most; fewer when so many have not been seen before
    tokens     guesses of one branch, at most
    branches   continuations in one tree; 1: a chain
    overhead   what a step takes beside its rows, in rows: the more it is, the more guesses are
               worth their while. The default suits the shipped model on two cores
    """

    ngram: int = 3
    tokens: int = 8
    branches: int = 1
    overhead: int = 48

    def __post_init__(self) -> None:
        for name, most in (("ngram", 16), ("tokens", 64), ("branches", 16), ("overhead", 1 << 20)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise RequestError(f"speculate: {name} {value} must be 1 to {most}")


_NGRAM = r"(?P<ngram>\d+),(?P<tokens>\d+)"
_BEHIND = r"(?:@(?P<overhead>\d+))?"
_WAYS: tuple[tuple[re.Pattern[str], dict[str, int]], ...] = (
    (re.compile(rf"ngram(?::{_NGRAM})?{_BEHIND}"), {}),
    (re.compile(rf"ngram-tree(?::{_NGRAM},(?P<branches>\d+))?{_BEHIND}"), {"branches": 3}),
)


def parse_speculate(text: str) -> SpeculateParams:
    """ "ngram[:N,K]", or "ngram-tree[:N,K,B]", and "@R" behind for an overhead of R rows. Raises
    RequestError."""
    for pattern, preset in _WAYS:
        if match := pattern.fullmatch(text):
            given = {name: int(value) for name, value in match.groupdict().items() if value}
            return SpeculateParams(**preset | given)
    raise RequestError(
        f"speculate: expected ngram[:N,K][@R] or ngram-tree[:N,K,B][@R], got {text!r}"
    )


@dataclass(frozen=True, eq=False)
class Draft:
    """Guesses at what follows the last token of a sample.

    tokens    uint32 [count]
    parents   the place of the guess before each one, -1 for the sample's last token; in order
    """

    tokens: NDArray[np.uint32]
    parents: tuple[int, ...]

    @property
    def is_chain(self) -> bool:
        return self.parents == tuple(range(-1, len(self.parents) - 1))

    @property
    def depth(self) -> int:
        """Guesses from the last token to the farthest one."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return max(depths)

    @property
    def parent_rows(self) -> list[int]:
        """Parents as Cache.step takes them, of the sample's last token and the guesses."""
        return [-1, *(parent + 1 for parent in self.parents)]

    def verify(self, choose: Any, logits: Any) -> list[int]:
        """The rows whose tokens are right: 0, the last token, and guesses that were chosen.

        choose   from logits [vocab] to the token that follows
        logits   [1 + count, vocab] of the last token and of the guesses
        """
        path = [0]
        children = {
            (parent + 1, token): row
            for row, (parent, token) in enumerate(
                zip(self.parents, self.tokens.tolist(), strict=True), 1
            )
        }
        while (row := children.get((path[-1], choose(logits[path[-1]])))) is not None:
            path.append(row)
        return path


def continuations(
    text: NDArray[np.uint32], longest: int, tokens: int, branches: int
) -> list[list[int]]:
    """What followed the last few tokens of `text`, `longest` or fewer, at most `tokens` each: after
    longer n-grams first, of each the latest occurrence first that has so many tokens behind it."""
    found: list[list[int]] = []
    for ends in reversed(_occurrences(text, longest)):
        whole = ends[ends + tokens <= len(text)][: -OCCURRENCES_MAX - 1 : -1]
        for end in whole if len(whole) else ends[:1]:
            guess = text[end : end + tokens].tolist()
            if guess not in found:
                found.append(guess)
            if len(found) == branches:
                return found
    return found


def _occurrences(text: NDArray[np.uint32], longest: int) -> list[NDArray[np.intp]]:
    """Where the last token has occurred before, the last two, and so on: positions behind them."""
    ends = np.flatnonzero(text[:-1] == text[-1]) + 1
    levels = []
    for size in range(1, longest + 1):
        if size > 1:
            ends = ends[ends >= size]
            ends = ends[text[ends - size] == text[-size]]
        if not len(ends):
            break
        levels.append(ends)
    return levels


def grow_tree(branches: list[list[int]], most: int) -> Draft | None:
    """Branches as one tree of at most `most` tokens, in which equal beginnings are one."""
    places: dict[tuple[int, int], int] = {}
    for branch in branches:
        at = -1
        for token in branch:
            if (at, token) not in places:
                if len(places) == most:
                    break
                places[at, token] = len(places)
            at = places[at, token]
    if not places:
        return None
    parents, tokens = zip(*places, strict=True)
    return Draft(np.array(tokens, np.uint32), parents)


class Chances:
    """How often the next guess was right, by how many were right the last time: of a sample whose
    guesses were right more will be. Learned from all samples, beginning with one in two."""

    KINDS = 4
    RETRY = 16  # a guess that does not seem worth it is made all the same once in so many times

    def __init__(self) -> None:
        self._right = [1.0] * self.KINDS
        self._tried = [2.0] * self.KINDS
        self._passed = [0] * self.KINDS

    def learn(self, last: int, right: int, tried: int) -> None:
        """Of `tried` guesses in a row, up to the first wrong one, `right` were right."""
        kind = self._kind(last)
        self._right[kind] += right
        self._tried[kind] += tried

    def length(self, last: int, price: float, branch: int) -> int:
        """How many guesses in a row are right more often than `price`, on a branch that is the
        right one only when so many others are not."""
        kind = self._kind(last)
        chance = self._right[kind] / self._tried[kind]
        length = int(math.log(price / (1 - chance) ** branch) / math.log(chance))
        if length > 0 or branch > 0:
            return max(length, 0)
        self._passed[kind] = (self._passed[kind] + 1) % self.RETRY
        return int(self._passed[kind] == 0)

    def _kind(self, last: int) -> int:
        return min(last, self.KINDS - 1)


class Speculator:
    """Adds guesses to the chunks of samples that decode greedily, where a step has room left.

    Prompts come first: guesses take what they leave of a step. What is guessed depends on the
    requests alone, never on time.
    """

    def __init__(self, params: SpeculateParams) -> None:
        self.params = params
        self.chances = Chances()
        self._last: WeakKeyDictionary[Sample, int] = WeakKeyDictionary()  # right guesses

    def extend(self, chunks: list[Chunk], step_tokens: int) -> list[Chunk]:
        """`chunks` with guesses, of no more than `step_tokens` tokens in all."""
        room = step_tokens - sum(chunk.count for chunk in chunks)
        decoding = sum(chunk.is_last for chunk in chunks)
        price = decoding / (decoding + self.params.overhead)
        extended = []
        for chunk in chunks:
            draft = self._draft(chunk, room, price) if room > 0 else None
            if draft is not None:
                chunk = chunk.guessing(draft)
                room -= len(draft.tokens)
            extended.append(chunk)
        return extended

    def learn(self, sample: Sample, draft: Draft, right: int) -> None:
        """Of a draft so many guesses in a row were right."""
        tried = min(right + 1, draft.depth)
        self.chances.learn(self._last.get(sample, 0), right, tried)
        self._last[sample] = right

    def _draft(self, chunk: Chunk, room: int, price: float) -> Draft | None:
        sample = chunk.sample
        if not chunk.is_last or chunk.count > 1 or not is_greedy(sample):
            return None
        # The token after the last guess is chosen as well, and must still be wanted.
        wanted = sample.request.tokens_max - sample.length - 1
        last = self._last.get(sample, 0)
        most = [
            min(self.chances.length(last, price, branch), self.params.tokens, wanted)
            for branch in range(self.params.branches)
        ]
        if most[0] < 1:
            return None
        text = sample.tokens[: sample.length]
        found = continuations(text, self.params.ngram, most[0], self.params.branches)
        branches = [guess[:length] for guess, length in zip(found, most, strict=False)]
        return grow_tree(branches, min(room, TREE_TOKENS_MAX))


def is_greedy(sample: Sample) -> bool:
    """Whether its next token is the likeliest one, and its alone."""
    return sample.beams is None and sample.siblings == 0 and sample.sampler.params.temperature == 0
