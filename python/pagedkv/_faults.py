"""Fault injection from Python: one specification for all caches, and the old ones restored."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from ._ffi import check, ffi, lib, text
from ._stats import FaultPoint
from ._values import unsigned
from .errors import InvalidArgument

if TYPE_CHECKING:
    from ._cache import Cache

__all__ = ["FaultSpec", "current", "describe", "fault_points", "faults", "own_spec", "register"]


class FaultSpec(NamedTuple):
    """What a cache was told to do wrong."""

    spec: str
    seed: int


def own_spec(spec: str | None, seed: int) -> FaultSpec:
    """What a cache has outside of `with faults(...)`: as given, or the environment's."""
    return FaultSpec(os.environ.get("PKV_FAULTS", "") if spec is None else spec, seed)


_lock = threading.RLock()
_caches: WeakSet[Cache] = WeakSet()
_active: list[FaultSpec] = []  # of the open `with faults(...)` blocks, innermost last


@contextmanager
def faults(spec: str, seed: int = 0) -> Iterator[None]:
    """Make operations fail on purpose inside a `with` block.

        with pagedkv.faults("pool.take=5%return(ENOBLOCKS)", seed=7):
            ...

    Applies to every live cache, of every thread, and to caches created inside. At the end each
    cache has the specification it had before, or was created with. Blocks may nest; the innermost
    one counts. Counters of fault_points() restart at both ends.

    spec    point=term[->term...] [; point=...], term [P%][N*]action[(argument)]; the actions are
            off, return(STATUS), delay(US), drop, dup, corrupt(BITS), pause, yield, crash;
            a point may end in * to name several
    seed    of the random choices

    Raises FaultSpecError, NotSupported (a library built without fault points).
    """
    if not isinstance(spec, str):
        raise InvalidArgument(f"spec: expected a string, got {type(spec).__name__}")
    entry = FaultSpec(spec, unsigned("seed", seed, bits=64))
    with _lock:
        _check_spec(entry)
        _active.append(entry)
        _apply_to_all()
    try:
        yield
    finally:
        with _lock:
            _active[:] = [other for other in _active if other is not entry]
            _apply_to_all()


def fault_points(cache: Cache | None = None) -> list[FaultPoint]:
    """Every fault point of the library, with the counters of `cache` (0 without one)."""
    return describe(ffi.NULL if cache is None else cache._live())


def describe(handle: Any) -> list[FaultPoint]:
    """fault_points of a pkv_cache pointer, which may be NULL."""
    info = ffi.new("pkv_fault_info*")
    points = []
    for index in range(lib.pkv_fault_count()):
        check(lib.pkv_fault_get(handle, index, info), "fault_points")
        points.append(FaultPoint(text(info.name), text(info.meaning), info.visits, info.fired))
    return points


def current(own: FaultSpec) -> FaultSpec:
    """What holds now for a cache that was created with `own`."""
    return _active[-1] if _active else own


@contextmanager
def register() -> Iterator[WeakSet[Cache]]:
    """Hold specifications still while a cache is created and added to the set of live ones."""
    with _lock:
        yield _caches


def _apply_to_all() -> None:
    for cache in list(_caches):
        handle = cache._handle
        if handle is not None:
            _set(handle, current(cache._own_faults))


def _set(handle: Any, faults: FaultSpec) -> None:
    check(lib.pkv_faults_set(handle, faults.spec.encode(), faults.seed), f"faults: {faults.spec!r}")


def _check_spec(faults: FaultSpec) -> None:
    """Let the library parse the specification in a small cache of its own, which nobody uses."""
    from ._config import Config

    config = Config({"layers": 1, "kv_heads": 1, "head_dim": 16, "blocks": 1, "sequences": 1})
    config.set_string("faults", "")
    created = ffi.new("pkv_cache**")
    check(lib.pkv_cache_create(config.pointer, created), "faults")
    try:
        _set(created[0], faults)
    finally:
        lib.pkv_cache_destroy(created[0])
