"""Speculative decoding by prompt lookup: guess the next tokens from what the text has said before.

    draft -> one step over the last token and all guesses -> verify -> accept what agrees

A text that repeats itself, as code, tables and quotations do, is its own best predictor: the last
tokens are looked up in the text so far, and what followed them there is the guess: prompt lookup.
No second model is needed. A step then computes several tokens of a sample instead of one, and the
greedy choice after each guess says whether the next guess was right.

    chain   the likeliest continuation, k tokens
    tree    several continuations as branches of one tree: what they share is computed once

Only the tokens that plain greedy decoding would have chosen are kept. Along a chain the logits are
those of plain decoding bit for bit; a tree sums attention in another order, so that there a tie may
fall differently, as between any two kernels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError

if TYPE_CHECKING:
    from .request import Sample
    from .scheduler import Chunk

TREE_TOKENS_MAX = 255  # what the library takes, less the last token, which is the root


@dataclass(frozen=True)
class SpeculateParams:
    """How to guess. Raises RequestError when a value is out of range.

    ngram      tokens that are looked up, at most; fewer when so many have not been seen before
    tokens     guesses of one branch, at most; after r right ones in a row a sample gets 2 r + 1
    branches   continuations in one tree; 1: a chain
    """

    ngram: int = 3
    tokens: int = 8
    branches: int = 1

    def __post_init__(self) -> None:
        for name, most in (("ngram", 16), ("tokens", 64), ("branches", 16)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise RequestError(f"speculate: {name} {value} must be 1 to {most}")


def parse_speculate(text: str) -> SpeculateParams:
    """ "ngram[:N,K]", or "ngram-tree[:N,K,B]". Raises RequestError."""
    if match := re.fullmatch(r"ngram(?::(\d+),(\d+))?", text):
        return SpeculateParams(*map(int, filter(None, match.groups())))
    if match := re.fullmatch(r"ngram-tree(?::(\d+),(\d+),(\d+))?", text):
        n, k, b = match.groups() or (None, None, None)
        return SpeculateParams(int(n or 3), int(k or 8), int(b or 3))
    raise RequestError(f"speculate: expected ngram[:N,K] or ngram-tree[:N,K,B], got {text!r}")


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


class Lookup:
    """Where each n-gram of one growing text has occurred."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._ends: list[dict[tuple[int, ...], list[int]]] = [{} for _ in range(longest)]
        self._text: list[int] = []

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text."""
        for token in tokens:
            # Only now has the end of the text so far a continuation.
            end = len(self._text)
            for size in range(1, min(self._longest, end) + 1):
                key = tuple(self._text[end - size :])
                self._ends[size - 1].setdefault(key, []).append(end)
            self._text.append(token)

    @property
    def length(self) -> int:
        return len(self._text)

    def continuations(self, tokens: int, branches: int) -> list[list[int]]:
        """What followed the last few tokens, at most `tokens` each: longer n-grams first, of each
        the latest occurrence first that has so many tokens behind it. No two begin alike but where
        one goes on differently."""
        found: list[list[int]] = []
        for size in range(min(self._longest, len(self._text)), 0, -1):
            ends = self._ends[size - 1].get(tuple(self._text[-size:]), [])
            whole = [end for end in reversed(ends) if end + tokens <= len(self._text)]
            for end in whole or ends[:1]:
                guess = self._text[end : end + tokens]
                if guess not in found:
                    found.append(guess)
                if len(found) == branches:
                    return found
        return found


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


class Speculator:
    """Adds guesses to the chunks of samples that decode greedily, where a step has room left.

    Prompts come first: guesses take what they leave of a step.
    """

    def __init__(self, params: SpeculateParams) -> None:
        self.params = params
        self._lookups: WeakKeyDictionary[Sample, Lookup] = WeakKeyDictionary()
        self._depths: WeakKeyDictionary[Sample, int] = WeakKeyDictionary()

    def extend(self, chunks: list[Chunk], step_tokens: int) -> list[Chunk]:
        """`chunks` with guesses, of no more than `step_tokens` tokens in all."""
        room = step_tokens - sum(chunk.count for chunk in chunks)
        extended = []
        for chunk in chunks:
            draft = self._draft(chunk, room) if room > 0 else None
            if draft is not None:
                chunk = chunk.guessing(draft)
                room -= len(draft.tokens)
            extended.append(chunk)
        return extended

    def learn(self, sample: Sample, right: int) -> None:
        """`right` guesses in a row were right: next time, dare twice as many, and one."""
        self._depths[sample] = min(2 * right + 1, self.params.tokens)

    def _draft(self, chunk: Chunk, room: int) -> Draft | None:
        sample = chunk.sample
        if not chunk.is_last or chunk.count > 1 or not is_greedy(sample):
            return None
        # The token after the last guess is chosen as well, and must still be wanted.
        wanted = sample.request.tokens_max - sample.length - 1
        depth = min(self._depths.get(sample, self.params.tokens), wanted)
        if depth < 1:
            return None
        lookup = self._lookups.setdefault(sample, Lookup(self.params.ngram))
        lookup.extend(sample.tokens[lookup.length : sample.length].tolist())
        branches = lookup.continuations(depth, self.params.branches)
        return grow_tree(branches, min(room, TREE_TOKENS_MAX))


def is_greedy(sample: Sample) -> bool:
    """Whether its next token is the likeliest one, and its alone."""
    return sample.beams is None and sample.siblings == 0 and sample.sampler.params.temperature == 0
