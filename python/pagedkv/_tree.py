"""Token trees as C wants them: the parents of entries, and the paths that are accepted."""

from __future__ import annotations

from collections.abc import Sequence as PySequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._ffi import ffi, lib
from ._tokens import TokenArray
from .errors import InvalidArgument

__all__ = ["Parents", "Path", "Paths", "Trees"]

Parents: TypeAlias = PySequence[int] | NDArray[np.integer[Any]] | None
Path: TypeAlias = int | PySequence[int] | NDArray[np.integer[Any]] | None


class Trees:
    """The parents of all entries of a step; `pointer` is valid as long as this lives."""

    __slots__ = ("_parents", "pointer")

    def __init__(self, pairs: PySequence[Any], counts: Any) -> None:
        given = [pair[2] if len(pair) > 2 else None for pair in pairs]
        self._parents = [
            None if parents is None else _parents(f"entries[{i}]: parents", parents, int(count))
            for i, (parents, count) in enumerate(zip(given, counts, strict=True))
        ]
        self.pointer = ffi.new(
            "const uint32_t*[]",
            [
                ffi.NULL if parents is None else ffi.from_buffer("uint32_t[]", parents)
                for parents in self._parents
            ],
        )

    def __getitem__(self, entry: int) -> TokenArray | None:
        return self._parents[entry]


class Paths:
    """One path for each entry of a step. `pointer` is valid as long as this lives."""

    __slots__ = ("_rows", "pointer")

    def __init__(self, paths: PySequence[Path], counts: PySequence[int]) -> None:
        if len(paths) != len(counts):
            raise InvalidArgument(
                f"paths: expected one for each of {len(counts)} sequences, got {len(paths)}"
            )
        self._rows: list[TokenArray] = []
        self.pointer = ffi.new("pkv_path[]", len(counts))
        for i, (path, count) in enumerate(zip(paths, counts, strict=True)):
            self._fill(i, path, int(count))

    def _fill(self, entry: int, path: Path, count: int) -> None:
        call = self.pointer[entry]
        if path is None:
            call.count = count
        elif isinstance(path, (int, np.integer)):
            call.count = _within(f"paths[{entry}]", int(path), 0, count)
        else:
            rows = _whole_numbers(f"paths[{entry}]", path)
            for row in rows.tolist():
                _within(f"paths[{entry}]", row, 0, count - 1)
            self._rows.append(rows.astype(np.uint32))
            call.rows = ffi.from_buffer("uint32_t[]", self._rows[-1])
            call.count = len(rows)

    def explain(self, trees: Trees | None) -> InvalidArgument:
        """Why the library refused them: the first path that is none."""
        for i in range(len(self.pointer)):
            call = self.pointer[i]
            rows = [call.rows[j] for j in range(call.count)] if call.rows else range(call.count)
            parents = None if trees is None else trees[i]
            before = lib.PKV_NO_PARENT
            for row in rows:
                chain = row - 1 if row else lib.PKV_NO_PARENT
                if before != (chain if parents is None else parents[row]):
                    what = "first token" if before == lib.PKV_NO_PARENT else f"child of {before}"
                    return InvalidArgument(f"paths[{i}]: token {row} is no {what}")
                before = row
        return InvalidArgument("paths: expected a path of each sequence's tokens")


def _parents(name: str, parents: Any, count: int) -> TokenArray:
    """As uint32, with PKV_NO_PARENT in place of -1."""
    found = _whole_numbers(name, parents)
    if len(found) != count:
        raise InvalidArgument(f"{name}: expected one for each of {count} tokens, got {len(found)}")
    wrong = np.flatnonzero((found < -1) | (found >= np.arange(count)))
    if len(wrong):
        at = int(wrong[0])
        raise InvalidArgument(
            f"{name}[{at}]: expected a token before it, or -1 for none, got {found[at]}"
        )
    filled: TokenArray = np.where(found < 0, lib.PKV_NO_PARENT, found).astype(np.uint32)
    return filled


def _whole_numbers(name: str, values: Any) -> NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError) as reason:
        raise InvalidArgument(f"{name}: expected whole numbers, got {reason}") from reason
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InvalidArgument(f"{name}: expected whole numbers [count], got {values!r}")
    return array.astype(np.int64)


def _within(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidArgument(f"{name}: expected {low} to {high}, got {value}")
    return value
