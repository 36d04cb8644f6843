"""Traces: which blocks each request asks for, in order.

A block has a number. Two requests share what they have in common from their beginnings on; what
stands behind different blocks is never shared, whatever its number. Formats, told by their content;
files may be compressed with gzip:

    mooncake      a line for each request, with `hash_ids`: a list of numbers
    ragpulse      likewise, `hash_ids` being numbers of segments by part of the prompt
    coding agent  a line for each session, with `requests`; `runs` are pairs of first number and
                  count, numbers are the session's own, and requests of a subagent are nested.
                  All sessions begin at the same time
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgument

__all__ = ["Blocks", "Trace", "load"]

Blocks = NDArray[np.uint32]

# Parts of a prompt of ragpulse, in their order.
_SEGMENTS = ("sys_prompt", "passages_ids", "history", "web_search", "user_input")


@dataclass(frozen=True)
class Trace:
    """Requests in the order in which they come, each as the blocks that it asks for."""

    name: str
    requests: list[Blocks]

    @cached_property
    def blocks(self) -> int:
        """Blocks that are asked for, all requests together."""
        return sum(len(request) for request in self.requests)

    @cached_property
    def longest(self) -> int:
        """Blocks of the longest request."""
        return max((len(request) for request in self.requests), default=0)

    @cached_property
    def distinct(self) -> int:
        """Blocks that a cache holds when nothing is ever evicted."""
        nodes: dict[tuple[int, int], int] = {}
        for request in self.requests:
            parent = 0
            for block in request.tolist():
                parent = nodes.setdefault((parent, block), len(nodes) + 1)
        return len(nodes)


def load(path: str | Path) -> Trace:
    """Read a trace; see the head of this module for the formats.

    Raises InvalidArgument for a file that has none of them, OSError when it cannot be read.
    """
    path = Path(path)
    lines = list(_lines(path))
    if not lines:
        raise InvalidArgument(f"{path}: no requests")
    try:
        return Trace(path.name, _requests(lines))
    except (KeyError, TypeError, ValueError, OverflowError) as problem:
        raise InvalidArgument(f"{path}: not a trace of a known format ({problem})") from problem


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == b"\x1f\x8b"
    opener = gzip.open if is_compressed else open
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as problem:
                raise InvalidArgument(f"{path}:{number}: not JSON ({problem})") from problem
            if not isinstance(record, dict):
                raise InvalidArgument(f"{path}:{number}: expected an object")
            yield record


def _requests(lines: list[dict[str, Any]]) -> list[Blocks]:
    if "requests" in lines[0]:
        return _sessions(lines)
    if isinstance(lines[0]["hash_ids"], dict):
        return [_segments(line["hash_ids"]) for line in lines]
    return [_array(line["hash_ids"]) for line in lines]


def _array(numbers: list[int]) -> Blocks:
    return np.array(list(numbers), dtype=np.uint32)


def _segments(parts: dict[str, list[int]]) -> Blocks:
    return _array([number for part in _SEGMENTS for number in parts.get(part, [])])


def _sessions(sessions: list[dict[str, Any]]) -> list[Blocks]:
    """All sessions side by side; numbers are moved so that no two sessions share one."""
    timed: list[tuple[float, int, Blocks]] = []
    base = 0
    for index, session in enumerate(sessions):
        highest = 0
        for when, runs in sorted(_calls(session["requests"], 0.0), key=lambda call: call[0]):
            timed.append((when, index, _expand(runs, base)))
            highest = max([highest, *(first + count for first, count in runs)])
        base += highest
    timed.sort(key=lambda request: request[:2])
    return [blocks for _, _, blocks in timed]


def _calls(
    requests: list[dict[str, Any]], start: float
) -> Iterator[tuple[float, list[tuple[int, int]]]]:
    for request in requests:
        when = start + request["t"]
        if "requests" in request:
            yield from _calls(request["requests"], when)
        elif "runs" in request:
            yield when, request["runs"]


def _expand(runs: list[tuple[int, int]], base: int) -> Blocks:
    pieces = [
        np.arange(base + first, base + first + count, dtype=np.uint32) for first, count in runs
    ]
    return np.concatenate(pieces) if pieces else _array([])
