"""Keywords of pagedkv.Cache as a pkv_config."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypedDict

from ._arrays import cache_dtype_code
from ._eviction import Chooser, EvictionHook
from ._ffi import check, ffi, lib, text
from ._stats import Sizes
from ._values import unsigned
from .errors import CLASSES, InvalidArgument

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._arena import Arena

__all__ = ["CacheOptions", "Config", "allocator_code", "sizes", "why_absent"]


class CacheOptions(TypedDict, total=False):
    """Types of the keywords of Cache and sizes; their meanings are described at Cache."""

    layers: int
    kv_heads: int
    head_dim: int
    value_dim: int
    blocks: int
    block_tokens: int
    dtype: str
    k_dtype: str | None
    v_dtype: str | None
    window: int
    sinks: int
    sequences: int
    sequence_tokens: int
    plans: int
    step_sequences: int
    step_tokens: int
    table_leaves: int
    threads: int
    device: str
    device_ordinal: int
    stream: Any
    isa: str | None
    faults: str | None
    fault_seed: int
    seed: int
    prefix: bool
    trace_events: int
    host_blocks: int
    transfers: int
    swap_layers: int
    announced_pages: int
    key_sets: int
    key_bytes: int
    eviction: str | Chooser | None
    tenants: int
    allocator: str | None
    arena: Arena | None
    cow: str
    cow_whole: bool
    graph_sequences: int
    graph_sequence_tokens: int
    graph_heads: int
    retained: int


# Keyword -> field of pkv_group_config, and of pkv_config.
_GROUP_FIELDS = {
    "layers": "layers",
    "kv_heads": "kv_heads",
    "head_dim": "key_dim",
    "value_dim": "value_dim",
    "block_tokens": "block_tokens",
    "window": "window",
    "sinks": "sinks",
}
_CONFIG_FIELDS = {
    "blocks": "blocks",
    "sequences": "sequences_max",
    "sequence_tokens": "sequence_tokens_max",
    "plans": "plans_max",
    "step_sequences": "plan_sequences_max",
    "step_tokens": "plan_tokens_max",
    "table_leaves": "table_leaves_max",
    "trace_events": "trace_events_max",
    "threads": "threads",
    "device_ordinal": "device_ordinal",
    "host_blocks": "host_blocks",
    "transfers": "transfers_max",
    "swap_layers": "swap_layers",
    "announced_pages": "announced_pages_max",
    "key_sets": "key_sets_max",
    "key_bytes": "key_bytes_max",
    "tenants": "tenants_max",
    "graph_sequences": "graph_sequences_max",
    "graph_sequence_tokens": "graph_sequence_tokens_max",
    "graph_heads": "graph_query_heads",
    "retained": "retained_max",
}
_KEYWORDS = {field: keyword for keyword, field in (_GROUP_FIELDS | _CONFIG_FIELDS).items()}
_COW: dict[Any, int] = {"write": lib.PKV_COW_WRITE, "fork": lib.PKV_COW_FORK}
_SEEDS = ("seed", "fault_seed")
_STRINGS = ("device", "isa", "faults", "eviction")
_ALLOCATORS = {
    None: "PKV_ALLOCATOR_DEFAULT",
    "first-fit": "PKV_FIRST_FIT",
    "best-fit": "PKV_BEST_FIT",
    "ring": "PKV_RING",
    "lifo": "PKV_LIFO",
}


class Config:
    """A pkv_config together with the strings that it points to."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self.pointer = ffi.new("pkv_config*")
        self._strings: list[Any] = []
        check(lib.pkv_config_init(self.pointer, lib.PKV_VERSION), "pkv_config_init")
        self._fill_group(given)
        for keyword, field in _CONFIG_FIELDS.items():
            setattr(self.pointer, field, unsigned(keyword, given.get(keyword, 0)))
        for keyword in _SEEDS:
            setattr(self.pointer, keyword, unsigned(keyword, given.get(keyword, 0), bits=64))
        self.hook: EvictionHook | None = None
        if callable(given.get("eviction")):
            self.hook = EvictionHook(given["eviction"])
            self.hook.install(self.pointer)
            given = given | {"eviction": None}
        for keyword in _STRINGS:
            self.set_string(keyword, given.get(keyword))
        self.pointer.allocator = allocator_code(given.get("allocator"))
        self._set_arena(given.get("arena"))
        self.pointer.cow = _cow_code(given.get("cow", "write"))
        self.pointer.cow_whole = bool(given.get("cow_whole", False))
        self.pointer.prefix_off = not given.get("prefix", True)
        if self.pointer.threads == 0:
            self.pointer.threads = _processors()

    def _fill_group(self, given: dict[str, Any]) -> None:
        group = self.pointer.groups[0]
        for keyword, field in _GROUP_FIELDS.items():
            setattr(group, field, unsigned(keyword, given.get(keyword, 0)))
        if given.get("block_tokens", 16) == 0:
            raise InvalidArgument("block_tokens: expected a power of two from 1 to 256, got 0")
        dtype = given.get("dtype", "f32")
        cache_dtype_code("dtype", dtype)
        for keyword in ("k_dtype", "v_dtype"):
            asked = given.get(keyword)
            code = cache_dtype_code(keyword, dtype if asked is None else asked)
            setattr(group, keyword, code)

    def _set_arena(self, arena: Arena | None) -> None:
        if arena is not None:
            self._arena = arena._live()  # the handle stays alive as long as this object
            self.pointer.arena = self._arena

    def set_string(self, field: str, value: str | None) -> None:
        """Point `field` to a copy of `value` that lives as long as this object."""
        if value is None:
            setattr(self.pointer, field, ffi.NULL)
            return
        if not isinstance(value, str):
            kind = type(value).__name__
            raise InvalidArgument(f"{field}: expected a string, got {kind}")
        if "\0" in value:
            raise InvalidArgument(f"{field}: expected a string without NUL, got {value!r}")
        self._strings.append(ffi.new("char[]", value.encode()))
        setattr(self.pointer, field, self._strings[-1])

    def check(self) -> Sizes:
        """What the cache will take, or the error that its creation would raise."""
        why = ffi.new("const char**")
        sizes = ffi.new("pkv_sizes*")
        status = lib.pkv_config_check(self.pointer, why, sizes)
        if status:
            raise CLASSES[status](self._in_python_words(text(why[0])))
        return Sizes(*(getattr(sizes, field.name) for field in fields(Sizes)))

    def _in_python_words(self, why: str) -> str:
        """The library names a field, plan_tokens_max; the caller knows it as step_tokens."""
        field, _, rest = why.removeprefix("groups[0].").partition(":")
        keyword = _KEYWORDS.get(field, field)
        given = self._given.get(keyword)
        if given is None and keyword in ("k_dtype", "v_dtype"):
            given = self._given.get("dtype", "f32")
        return f"{keyword}:{rest}, got {given!r}"


def allocator_code(name: str | None) -> int:
    """The library's number of an allocator policy."""
    if name not in _ALLOCATORS:
        names = ", ".join(f'"{name}"' for name in _ALLOCATORS if name)
        raise InvalidArgument(f"allocator: expected one of {names}, got {name!r}")
    code: int = getattr(lib, _ALLOCATORS[name])
    return code


def sizes(**options: Unpack[CacheOptions]) -> Sizes:
    """What a cache with these keywords of pagedkv.Cache would take, without creating it.

    Raises as Cache does, MemoryError and device errors aside.
    """
    for keyword in options:
        if keyword not in CacheOptions.__annotations__:
            raise InvalidArgument(f"{keyword}: not a keyword of Cache")
    return Config(dict(options)).check()


def why_absent(device: str) -> str | None:
    """Why no cache can be created on `device` here, "cuda" for example; None when one can."""
    why = lib.pkv_device_absent(device.encode())
    return None if why == ffi.NULL else text(why).removeprefix("device: ")


def _cow_code(cow: Any) -> int:
    if cow not in _COW:
        raise InvalidArgument(f'cow: expected "write" or "fork", got {cow!r}')
    return _COW[cow]


def _processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
