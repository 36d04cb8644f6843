"""An arena: memory that several caches, one for each model, share."""

from __future__ import annotations

import threading
from typing import Any, Final

from ._config import allocator_code
from ._eviction import refuse_inside
from ._ffi import check, ffi, lib, text
from ._stats import ArenaStats, read_arena_stats
from ._values import unsigned
from .errors import CLASSES, InvalidArgument, StaleHandle

__all__ = ["Arena", "Holders"]


class Holders:
    """Frees the library's arena when the last of those who hold it lets go: the Arena, its caches.

    The garbage collector ends the objects of a cycle in any order, so that references alone do not
    keep an arena alive for longer than its caches.
    """

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self._count = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        with self._lock:
            self._count += 1

    def let_go(self, handle: Any = None) -> None:
        """`handle` is the one that dies, when that is why."""
        with self._lock:
            self._count -= 1
            is_last = self._count == 0
        if is_last:
            lib.pkv_arena_destroy(self._pointer)


class Arena:
    """Memory that several caches share, cut into extents that move to whoever needs them.

        with pagedkv.Arena(bytes=1 << 30) as arena:
            big = pagedkv.Cache(layers=32, kv_heads=8, head_dim=128, arena=arena)
            draft = pagedkv.Cache(layers=4, kv_heads=2, head_dim=64, arena=arena)

    Each cache cuts its extents into blocks of its own size. One that is out of blocks takes free
    extents, then evicts what it has cached itself, and then makes others give up extents whose
    blocks are only cached; never those that sequences name. Cache.compact() empties extents,
    resize() gives memory back to the system and takes it again.

    bytes           memory: required; rounded down to whole extents
    bytes_max       address space; 0: bytes
    extent_bytes    a multiple of 4096, 0: 2 MiB. One block of each cache must fit
    device          "cpu" or "sim"; caches have the same
    allocator       which extent with room serves next: "first-fit", "best-fit", "ring" or "lifo";
                    None: the best, as measured

    Raises InvalidArgument and TooBig, which name the keyword, NotSupported, OutOfMemory.

    A context manager. The memory goes back when the arena and all its caches have been closed, in
    any order. Any method may be called from any thread, and raises StaleHandle after close().
    """

    device: Final[str]

    def __init__(
        self,
        *,
        bytes: int,
        bytes_max: int = 0,
        extent_bytes: int = 0,
        device: str = "cpu",
        allocator: str | None = None,
    ) -> None:
        self._handle: Any = None
        if not isinstance(device, str):
            raise InvalidArgument(f"device: expected a string, got {type(device).__name__}")
        name = ffi.new("char[]", device.encode())
        config = ffi.new("pkv_arena_config*")
        check(lib.pkv_arena_config_init(config, lib.PKV_VERSION), "pkv_arena_config_init")
        config.device = name
        config.bytes = unsigned("bytes", bytes, bits=64)
        config.bytes_max = unsigned("bytes_max", bytes_max, bits=64)
        config.extent_bytes = unsigned("extent_bytes", extent_bytes, bits=64)
        config.allocator = allocator_code(allocator)
        _check(config)
        created = ffi.new("pkv_arena**")
        check(lib.pkv_arena_create(config, created), "Arena")
        self._holders = Holders(created[0])
        self._handle = ffi.gc(created[0], self._holders.let_go)
        self.device = device

    def stats(self) -> ArenaStats:
        """The counters of the arena at this moment."""
        return read_arena_stats(self._live())

    def resize(self, bytes: int) -> None:
        """Let the arena have `bytes` from now on, rounded down to whole extents.

        What it loses is given back to the system: free extents wherever they lie, and when those
        are not enough extents whose blocks are only cached. What it gains is zeroed.

        Raises TooBig (more than bytes_max), OutOfBlocks (caches hold more: nothing has changed),
        DeviceIOError.
        """
        size = unsigned("bytes", bytes, bits=64)
        check(lib.pkv_arena_resize(self._live(), size), "Arena.resize")

    @property
    def closed(self) -> bool:
        """Has close() been called?"""
        return self._handle is None

    def close(self) -> None:
        """Give the memory back, once the last cache in it has been closed too. Calling it again
        does nothing.
        """
        self._handle = None

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<pagedkv.Arena, closed>"
        stats = self.stats()
        used = stats.extents_total - stats.extents_free
        return f"<pagedkv.Arena, {stats.caches} caches, {used}/{stats.extents_total} extents held>"

    def _live(self) -> Any:
        if self._handle is None:
            raise StaleHandle("Arena: it has been closed")
        refuse_inside(self._holders)
        return self._handle


def _check(config: Any) -> None:
    """Raise for what the library refuses, in its words; fields and keywords have the same names."""
    why = ffi.new("const char**")
    status = lib.pkv_arena_config_check(config, why)
    if status:
        raise CLASSES[status](text(why[0]))
