"""A step that is captured in a CUDA graph, to be replayed for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._ffi import check, ffi, lib
from ._step import _CLOSED, Step
from ._values import unsigned
from .errors import InvalidArgument

if TYPE_CHECKING:
    from ._cache import Cache

__all__ = ["Capture"]


class Capture(Step):
    """Stands for every step that fits. Made by Cache.capture().

    It has write() and attend() of a Step, with arrays of sequences * sequence_tokens rows and as
    many query heads as the cache has graph_heads. Captured or not, they are done for the step that
    is loaded when the stream comes to them. It names no sequence, and has nothing to commit:
    leaving the block gives its place back.
    """

    __slots__ = ()

    def __init__(self, cache: Cache, sequences: int, sequence_tokens: int) -> None:
        """Not for callers: use Cache.capture()."""
        self._handle = _CLOSED
        self._cache = cache
        self._info = None
        self._table = None
        self._sequences = []
        count = unsigned("sequences", sequences)
        tokens = unsigned("sequence_tokens", sequence_tokens)
        plan = ffi.new("pkv_plan*")
        status = lib.pkv_graph_begin(cache._live(), count, tokens, plan)
        check(status, f"Cache.capture: {sequences} sequences of {sequence_tokens}")
        self._handle = plan[0]
        self.tokens = count * tokens

    def commit(self) -> None:
        """There is nothing to commit: raises InvalidArgument."""
        raise InvalidArgument("Capture.commit: a captured step has no tokens; abort() ends it")

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *reason: object) -> None:
        if not self.closed and not self._cache.closed:
            self.abort()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.tokens} rows"
        return f"<pagedkv.Capture, {state}>"
