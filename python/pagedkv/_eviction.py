"""Eviction by a Python function, which the library asks once for each reservation."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._ffi import ffi, lib
from ._tokens import uint32_array
from .errors import Busy

__all__ = ["EVICTION_POLICIES", "Chooser", "EvictionHook", "refuse_inside"]

# The policies that are built in, the default first.
EVICTION_POLICIES = ("reuse", "lru", "fifo", "lfu", "slru", "s3fifo", "arc", "greedydual")

Chooser = Callable[[NDArray[Any], int], Iterable[int]]

_CANDIDATE = np.dtype([(name, np.uint32) for name in ("block", "page", "uses", "age")])


class _Asked(threading.local):
    """The mutex that is held while this thread is inside an eviction function."""

    mutex: object = None


_asked = _Asked()


def refuse_inside(mutex: object) -> None:
    """Raise Busy inside the eviction function of a cache with that mutex: the call would wait for
    ever."""
    if _asked.mutex is mutex:
        raise Busy("an eviction function must not use its cache, nor another one of its arena")


class EvictionHook:
    """A function as a pkv_eviction_hook, for as long as this object lives.

    mutex   stands for that of the cache
    """

    mutex: object

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser
        self.error: BaseException | None = None
        self._handle = ffi.new_handle(self)

    def install(self, config: Any) -> None:
        """Make `config`, a pkv_config*, ask the function."""
        config.eviction_hook.choose = ffi.addressof(lib, "pkv_python_choose")
        config.eviction_hook.ctx = self._handle

    def name(self, candidates: Any, offered: int, count: int, victims: Any) -> int:
        """Ask the function and hand over what it says; 0 when it makes no sense."""
        table = np.frombuffer(ffi.buffer(candidates, offered * _CANDIDATE.itemsize), _CANDIDATE)
        blocks = list(islice(self.chooser(table.copy(), count), count))
        named = uint32_array("victims", blocks)
        ffi.memmove(victims, named, named.nbytes)
        return len(named)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def pkv_python_name(context: Any, candidates: Any, offered: int, count: int, victims: Any) -> int:
    """What the library calls, with the lock of the cache held.

    No garbage is collected meanwhile: it could be a sequence of the same cache, whose end would
    wait for that lock for ever. An exception is kept for Cache.eviction_error; who presses Ctrl-C
    here gets his KeyboardInterrupt as soon as the library has done its work.
    """
    hook: EvictionHook = ffi.from_handle(context)
    was_enabled = gc.isenabled()
    gc.disable()
    _asked.mutex = hook.mutex
    try:
        return hook.name(candidates, offered, count, victims)
    except BaseException as error:
        hook.error = error.with_traceback(None)
        interrupted: int = lib.PKV_PYTHON_INTERRUPTED
        return interrupted if isinstance(error, KeyboardInterrupt) else 0
    finally:
        _asked.mutex = None
        if was_enabled:
            gc.enable()
