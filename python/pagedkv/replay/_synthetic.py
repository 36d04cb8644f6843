"""Traces made by dice, for where there are no real ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np

from ..errors import InvalidArgument
from ._traces import Blocks, Trace

__all__ = ["KINDS", "synthetic"]


class _Numbers:
    """Numbers of blocks that nobody has had before."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, count: int) -> list[int]:
        first = self._next
        self._next += count
        return list(range(first, first + count))


def _pages(dice: random.Random, mean: float) -> int:
    """A length: many short ones, few long ones."""
    return 1 + int(dice.expovariate(1 / mean))


def _chat(dice: random.Random, count: int) -> Iterator[list[int]]:
    """Conversations behind one of eight system prompts; turns come back after some others.

    A conversation goes on with a chance that grows with its turns; the last block of a turn is not
    full, and is another one in the next turn.
    """
    numbers = _Numbers()
    prompts = [numbers.take(_pages(dice, 6)) for _ in range(8)]
    waiting: list[tuple[float, int, list[int]]] = []
    for now in range(count):
        waiting.sort(key=lambda turn: turn[0], reverse=True)
        if waiting and waiting[-1][0] <= now:
            _, turns, history = waiting.pop()
        else:
            turns, history = 0, list(prompts[min(int(dice.expovariate(1)), 7)])
        history = history + numbers.take(_pages(dice, 12 if turns == 0 else 2))
        yield history + numbers.take(1)
        if dice.random() < (0.3, 0.45, 0.55)[min(turns, 2)]:
            waiting.append((now + dice.lognormvariate(5.5, 0.8), turns + 1, history))


def _agent(dice: random.Random, count: int) -> Iterator[list[int]]:
    """Sixteen sessions side by side, each asking again and again with all that was before."""
    numbers = _Numbers()
    tools = numbers.take(24)
    sessions = [list(tools) for _ in range(16)]
    for _ in range(count):
        index = dice.randrange(len(sessions))
        sessions[index] += numbers.take(_pages(dice, 4))
        yield list(sessions[index])
        if dice.random() < 0.03:
            sessions[index] = list(tools)


def _documents(dice: random.Random, count: int) -> Iterator[list[int]]:
    """A question about one of 2,000 documents, whose popularity falls as Zipf has it."""
    numbers = _Numbers()
    documents = [numbers.take(_pages(dice, 10)) for _ in range(2000)]
    weights = [1 / (rank + 1) for rank in range(len(documents))]
    for document in dice.choices(documents, weights, k=count):
        yield document + numbers.take(1)


def _scan(dice: random.Random, count: int) -> Iterator[list[int]]:
    """A prefix of 40 blocks that every eighth request has; the others are never seen again."""
    numbers = _Numbers()
    prefix = numbers.take(40)
    for index in range(count):
        is_hot = index % 8 == 0
        yield (prefix if is_hot else []) + numbers.take(_pages(dice, 20))


def _loop(dice: random.Random, count: int) -> Iterator[list[int]]:
    """300 prompts in turn, again and again: nothing that is least recently used comes back."""
    numbers = _Numbers()
    prompts = [numbers.take(_pages(dice, 10)) for _ in range(300)]
    for index in range(count):
        yield prompts[index % len(prompts)]


_MAKERS: dict[str, Callable[[random.Random, int], Iterator[list[int]]]] = {
    "agent": _agent,
    "chat": _chat,
    "documents": _documents,
    "loop": _loop,
    "scan": _scan,
}
KINDS = tuple(_MAKERS)


def synthetic(kind: str, requests: int = 5000, seed: int = 1) -> Trace:
    """A trace of a kind of KINDS, the same for the same arguments.

    Raises InvalidArgument for a kind that there is not.
    """
    if kind not in _MAKERS:
        raise InvalidArgument(f"synthetic: expected one of {', '.join(KINDS)}, got {kind!r}")
    dice = random.Random(f"{kind} {seed}")
    made: list[Blocks] = [
        np.array(request, dtype=np.uint32) for request in _MAKERS[kind](dice, requests)
    ]
    return Trace(f"synthetic {kind}", made)
