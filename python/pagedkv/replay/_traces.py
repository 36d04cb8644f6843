"""Traces: which blocks each request asks for, in order.

A block has a number. Two requests share what they have in common from their beginnings on; what
stands behind different blocks is never shared, whatever its number.

Files are JSON lines, or one JSON array, may be compressed with gzip, and are told apart by their
content (_formats.py). Requests come in the order of their `timestamp`, where all have one that is a
number; else, and among equal times, in that of the files.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgument
from ._formats import Reader, Request, to_numbers

__all__ = ["Blocks", "Trace", "load"]

Blocks = NDArray[np.uint32]


@dataclass(frozen=True)
class Trace:
    """Requests in the order in which they come, each as the blocks that it asks for."""

    name: str
    requests: list[Blocks]
    unit: str = ""  # what a block is, where that is known: "16 words"

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


def load(*paths: str | Path, block_tokens: int = 16, tokenizer: str | Path | None = None) -> Trace:
    """Read a trace from one file or several; "-" is the standard input.

    block_tokens  tokens in a block, where the trace has tokens or text
    tokenizer     a tokenizer.json, for text; None: words (see _text.py)

    Raises InvalidArgument, with file and line, for what is no trace, and OSError for a file that
    cannot be read.
    """
    if not paths:
        raise InvalidArgument("expected a file")
    reader = Reader(block_tokens, tokenizer)
    requests: list[Request] = []
    for path in paths:
        for where, record in _records(str(path)):
            requests += reader.read(where, record)
    if not requests:
        raise InvalidArgument(f"{', '.join(map(str, paths))}: no requests")
    name = Path(paths[0]).name if len(paths) == 1 else f"{len(paths)} files"
    return Trace(name, to_numbers(_in_order(requests)), reader.unit)


def _in_order(requests: list[Request]) -> list[Request]:
    times = [request.time for request in requests if request.time is not None]
    if len(times) < len(requests):
        return requests
    return [request for _, request in sorted(zip(times, requests, strict=True), key=_time)]


def _time(timed: tuple[float, Request]) -> float:
    return timed[0]


def _text(path: str) -> str:
    data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    try:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (EOFError, OSError, zlib.error) as problem:
        raise InvalidArgument(f"{path}: a broken gzip file ({problem})") from problem
    except UnicodeDecodeError as problem:
        line = data[: problem.start].count(b"\n") + 1
        raise InvalidArgument(f"{path}:{line}: not UTF-8") from problem


def _records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with the place where it stands."""
    text = _text(path)
    if text.lstrip().startswith("["):
        yield from _array(path, text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", _object(f"{path}:{number}", _parse(f"{path}:{number}", line))


def _array(path: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, value in enumerate(_parse(path, text), 1):
        where = f"{path}, element {number}"
        yield where, _object(where, value)


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise InvalidArgument(f"{where}: not JSON ({problem}){_hint(text)}") from problem


def _hint(text: str) -> str:
    """Tables of lengths, as of Azure and BurstGPT, are what people try first."""
    first = text.split("\n", 1)[0]
    if "," not in first or "{" in first:
        return ""
    return ". A table of lengths does not say what requests have in common"


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: expected an object")
    return value
