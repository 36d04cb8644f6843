"""Token ids as C wants them: one array of uint32, and entries that point into it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as PySequence
from contextlib import suppress
from itertools import chain
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._ffi import ffi
from ._values import unsigned
from .errors import InvalidArgument

__all__ = ["TokenArray", "Tokens", "UnknownTokens", "flatten", "token_array", "uint32_array"]

TokenArray: TypeAlias = NDArray[np.uint32]

_TOKEN_MAX = 2**32 - 1


class UnknownTokens:
    """`count` new tokens whose ids are not known, such as image patches.

    Takes the place of token ids in Cache.step and Sequence.append. From here on nothing of the
    sequence is cached for others, since a prefix is found by comparing ids.
    """

    __slots__ = ("_count",)

    def __init__(self, count: SupportsIndex) -> None:
        self._count = unsigned("count", count)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"UnknownTokens({self._count})"


Tokens: TypeAlias = PySequence[int] | NDArray[np.integer[Any]] | UnknownTokens


def token_array(name: str, tokens: Any) -> TokenArray:
    """Ids of the argument `name` as a contiguous uint32 array [count]."""
    return uint32_array(name, tokens, "token ids")


def uint32_array(name: str, values: Any, what: str = "integers") -> NDArray[np.uint32]:
    """The argument `name` as a contiguous uint32 array [count].

    A list, a tuple, a range, or a one-dimensional array of integers from 0 to 2^32 - 1.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError, RuntimeError) as reason:
        raise InvalidArgument(f"{name}: expected {what}, got {reason}") from reason
    if array.ndim != 1:
        raise InvalidArgument(f"{name}: expected shape (count,), got {array.shape}")
    return _as_uint32(name, array)


def _as_uint32(name: str, array: NDArray[Any]) -> TokenArray:
    if array.dtype == np.uint32:
        return np.ascontiguousarray(array)
    if array.size == 0:
        return np.empty(0, np.uint32)
    if array.dtype.kind not in "iu":
        raise InvalidArgument(f"{name}: expected integers, got {array.dtype}")
    smallest, largest = int(array.min()), int(array.max())
    if smallest < 0 or largest > _TOKEN_MAX:
        wrong = smallest if smallest < 0 else largest
        raise InvalidArgument(f"{name}: expected 0 to 2^32 - 1, got {wrong}")
    return array.astype(np.uint32)


def flatten(tokens: list[Any]) -> tuple[TokenArray, NDArray[np.uint32], NDArray[np.uint64]]:
    """The tokens of all entries in one array, and for each entry its count and its address.

    The address of UnknownTokens is 0. Addresses are valid as long as the first array lives.
    """
    counts = np.fromiter(map(len, tokens), np.uint32, len(tokens))
    kinds = set(map(type, tokens))
    if UnknownTokens not in kinds:
        flat = _join_fast(tokens, kinds)
        return flat, counts, _addresses(flat, counts)
    unknown = np.array([type(ids) is UnknownTokens for ids in tokens])
    flat = _join(tokens)
    addresses = _addresses(flat, np.where(unknown, np.uint32(0), counts))
    addresses[unknown] = 0
    return flat, counts, addresses


def _addresses(flat: TokenArray, counts: NDArray[np.uint32]) -> NDArray[np.uint64]:
    base = int(ffi.cast("uintptr_t", ffi.from_buffer(flat))) if flat.size else 0
    ends = np.cumsum(counts, dtype=np.uint64)
    first: NDArray[np.uint64] = (ends - counts) * np.uint64(flat.itemsize) + np.uint64(base)
    return first


def _join_fast(tokens: list[Any], kinds: set[type]) -> TokenArray:
    """Decoding passes many short lists, or many short arrays: they are joined in one go."""
    with suppress(OverflowError, TypeError, ValueError):
        if kinds == {list}:
            return np.asarray(array("I", chain.from_iterable(tokens)))
        if kinds == {np.ndarray}:
            flat: TokenArray = np.concatenate(tokens, dtype=np.uint32, casting="no")
            if flat.ndim == 1:
                return flat
    return _join(tokens)  # which takes other kinds, and names the entry that is wrong


def _join(tokens: list[Any]) -> TokenArray:
    parts = [
        token_array(f"entries[{i}]: tokens", ids)
        for i, ids in enumerate(tokens)
        if type(ids) is not UnknownTokens
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.uint32)
