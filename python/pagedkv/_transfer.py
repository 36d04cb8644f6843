"""A sequence on its way to the host tier, or back."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._ffi import check, ffi, lib
from .errors import Busy, Error, StaleHandle

if TYPE_CHECKING:
    from ._sequence import Sequence

__all__ = ["Transfer"]


class Transfer:
    """A swap under way. Made by Sequence.swap_out() and Sequence.swap_in().

        with seq.swap_out():
            ...                        # compute others; leaving waits, an exception cancels

    It ends once: when poll() returns True, wait() returns, either raises how it failed, or cancel()
    gives it up. A transfer that failed or was cancelled has lost nothing: the sequence is where it
    was before. Who drops the object without ending it cancels it.
    """

    __slots__ = ("__weakref__", "_handle", "_sequence")

    def __init__(self, sequence: Sequence, handle: Any) -> None:
        """Not for callers: use Sequence.swap_out() and Sequence.swap_in()."""
        self._sequence = sequence
        self._handle = handle  # pkv_transfer by value; None once it has ended

    @property
    def sequence(self) -> Sequence:
        """The sequence that is on its way."""
        return self._sequence

    @property
    def ended(self) -> bool:
        """Has it ended, well or not, or its cache been closed?"""
        return self._handle is None or self._sequence._cache.closed

    def poll(self) -> bool:
        """Go on with it for a moment; True when it is done, also when it has been before.

        Raises Busy (another thread is in a call on it), DeviceIOError (also: bytes were damaged on
        the way), DeviceTimeout, DeviceFailed: after the last three it has ended.
        """
        if self._handle is None:
            return True
        done = ffi.new("uint32_t*")
        self._end_on(lib.pkv_transfer_poll(*self._live(), done), "poll")
        if done[0]:
            self._handle = None
        return bool(done[0])

    def wait(self) -> None:
        """Return when it is done, at once when it has been before. Raises as poll()."""
        if self._handle is None:
            return
        self._end_on(lib.pkv_transfer_wait(*self._live()), "wait")
        self._handle = None

    def cancel(self) -> None:
        """Give it up: the sequence stays where it was. Does nothing when it has ended.

        Raises Busy (another thread is in a call on it, or a step names the sequence).
        """
        if self.ended:
            return
        check(lib.pkv_transfer_cancel(*self._live()), "Transfer.cancel")
        self._handle = None

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.wait()
        else:
            self.cancel()

    def __del__(self) -> None:
        # Half made, or a step counts on it: it then ends with the cache.
        with suppress(AttributeError, Error):
            self.cancel()

    def __repr__(self) -> str:
        if self.ended:
            return "<pagedkv.Transfer, ended>"
        return f"<pagedkv.Transfer of {self._sequence!r}, {self._sequence.residence}>"

    def _live(self) -> tuple[Any, Any]:
        if self._handle is None:
            raise StaleHandle("transfer: it has ended")
        return self._sequence._cache._live(), self._handle

    def _end_on(self, status: int, verb: str) -> None:
        """A status that is that of the transfer ends it; Busy and StaleHandle are of the call."""
        if status not in (lib.PKV_OK, Busy.status, StaleHandle.status):
            self._handle = None
        check(status, f"Transfer.{verb}")
