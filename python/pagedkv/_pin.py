"""A hold on blocks that outlives the sequence that computed them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ._ffi import check, lib
from .errors import Error, StaleHandle

if TYPE_CHECKING:
    from ._cache import Cache

__all__ = ["Pin"]


class Pin:
    """Blocks that stay until this is released. Made by Sequence.pin().

        with seq.pin():
            ...                        # the blocks stay, also when `seq` is closed

    It ends by release(), by Cache.release_pins() of its owner, at its timeout, or with the object.
    """

    __slots__ = ("__weakref__", "_cache", "_handle")

    def __init__(self, cache: Cache, handle: Any) -> None:
        """Not for callers: use Sequence.pin()."""
        self._cache = cache
        self._handle = handle  # pkv_pin by value; None once it was released

    def release(self) -> None:
        """Let go of the blocks, which are cached from then on. Does nothing when it has ended."""
        if self._handle is None or self._cache.closed:
            return
        handle, self._handle = self._handle, None
        with suppress(StaleHandle):  # its time was over, or its owner's pins were released
            check(lib.pkv_pin_release(self._cache._live(), handle), "Pin.release")

    def __enter__(self) -> Pin:
        return self

    def __exit__(self, *reason: object) -> None:
        self.release()

    def __del__(self) -> None:
        with suppress(AttributeError, Error):
            self.release()

    def __repr__(self) -> str:
        return f"<pagedkv.Pin{', released' if self._handle is None else ''}>"
