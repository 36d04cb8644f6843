"""The cache: blocks, the prefix index, and everything that is made from them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from . import _arrays as arrays
from ._arena import Arena, Holders
from ._capture import Capture
from ._config import Config
from ._eviction import Chooser, refuse_inside
from ._faults import FaultSpec, current, describe, own_spec, register
from ._ffi import check, ffi, lib, text
from ._sequence import Sequence
from ._stats import FaultPoint, Report, Sizes, Stats, TraceEvent, read_stats
from ._step import Entries, Step
from ._tenant import TenantInfo, delete_quota, read_tenant, read_tenants, set_quota
from ._values import unsigned
from .errors import Corrupt, InvalidArgument, NotSupported, OutOfRange, StaleHandle

__all__ = ["Cache"]

_DTYPE_NAMES = {code: name for name, code in arrays.CACHE_DTYPES.items()}


class _Owner:
    """Frees the library's cache when its handle dies, and remembers that.

    The garbage collector ends the objects of a cycle in any order: the handle may be gone before
    the sequences and steps that name it are asked to close.
    """

    __slots__ = ("_arena", "ended")

    def __init__(self, arena: Holders | None) -> None:
        self.ended = False
        self._arena = arena
        if arena is not None:
            arena.hold()

    def __call__(self, handle: Any) -> None:
        self.ended = True
        lib.pkv_cache_destroy(handle)
        self.let_go()

    def let_go(self) -> None:
        """Of the arena: there is no cache any more, or there never was one."""
        if self._arena is not None:
            self._arena.let_go()
        self._arena = None


class Cache:
    """Keys and values of many sequences in fixed-size blocks, shared and found again by prefix.

        with pagedkv.Cache(layers=2, kv_heads=2, head_dim=64, blocks=1024) as cache:
            seq = cache.sequence()
            with cache.step([(seq, [1, 2, 3])]) as step:
                step.write(0, k, v)            # [3, kv_heads, head_dim]
                out = step.attend(0, q)        # [3, heads, head_dim]

    All keywords; sizes are in tokens, blocks or elements, and 0 means the default:

    layers, kv_heads    of the model, 1 to 1024 each: required
    head_dim            elements of one key: a multiple of 16, 16 to 256: required
    value_dim           elements of one value; default head_dim
    blocks              blocks of the pool: required. sizes() says what they take
    block_tokens        tokens in a block: a power of two, 1 to 256
    dtype               how K and V are stored: "f32", "f16", "bf16", or with scales "i8", "e4m3",
                        "e5m2" (8 bits) or "i4", which need blocks of 16 tokens or more; k_dtype,
                        v_dtype to differ
    window              sliding window in tokens, the token itself included; 0: none
    sinks               first tokens that stay visible behind the window
    sequences           sequences alive at once
    sequence_tokens     tokens of one sequence
    plans               open steps; default 2
    step_sequences      sequences in one step
    step_tokens         new tokens in one step
    table_leaves        page table leaves; default: as many as can ever be needed
    threads             threads of attention, the caller included; 0: all processors this process
                        may use
    device              "cpu"; "cuda": a GPU, see below; or "sim": deterministic, with a virtual
                        clock, for tests
    device_ordinal      which GPU
    stream              of device "cuda", see use_stream()
    isa                 of device "cpu": "scalar", "avx2", "avx512", "avx512bf16", "neon"; default:
                        $PKV_ISA, else the best
    faults, fault_seed  fault specification (see pagedkv.faults); None: $PKV_FAULTS, else none
    seed                of hashes and handles; 0: from the operating system
    prefix              False: nothing is cached after a sequence ends
    trace_events        events that trace() keeps; default 1024
    host_blocks         blocks of the host tier, where Sequence.swap_out() takes sequences; default
                        none
    transfers           swaps under way at once; default 4
    swap_layers         layers that arrive together on device "cuda"; default: so many that a copy
                        of them is efficient
    announced_pages     blocks that Sequence.announce() can keep; default blocks, but at most 4096
    key_sets            different sets of Sequence.set_keys() that are remembered; default
                        sequences, but at most 1024
    key_bytes           bytes of one set, and 12 for each of its keys; default 1024
    eviction            which cached blocks go first when room is needed: "reuse" (default), "lru",
                        "fifo", "lfu", "slru", "s3fifo", "arc", "greedydual"; or a function, see
                        below
    tenants             tenants that can have a quota, see set_tenant(); default none
    allocator           which extent of memory serves next: "first-fit", "best-fit", "ring" or
                        "lifo"; default the arena's, or the best as measured
    arena               an Arena, which several caches share; None: one of its own. `blocks` is then
                        what the cache may have at most, 0: all that fit, and `device` the arena's
    cow                 when the partly filled last block that forks share is copied: "write", at
                        the first write, or "fork", at once, so that no step copies
    cow_whole           copy all of such a block, not only its filled tiles of 16 tokens; always on
                        "cuda"
    graph_sequences, graph_sequence_tokens, graph_heads
                        of device "cuda": sequences of a captured step (see capture()), new tokens
                        of each of them (default 1), and query heads; default none
    retained            blocks that can be retained at once, see Sequence.retain(); default none

    On device "cuda" arrays are CUDA tensors of torch, CuPy arrays, or anything else that shares GPU
    memory; calls return before the GPU is done, and NaN is not looked for. head_dim is 64, 96, 128
    or 256, dtype "f16", "bf16", "i8" or "e4m3", block_tokens a multiple of 16. NotSupported says
    why there is no such device, as do `pagedkv info` and pagedkv.why_absent().

    A function of eviction is asked once for each step that needs room: function(candidates, count)
    gets a NumPy record array of all blocks that may go, least recently used first, with fields
    block, page, uses and age, and returns up to `count` block numbers. It must not use the cache,
    nor another one of its arena: that raises Busy.
    Where it raises, or names blocks that may not go, the least recently used go instead, which
    Stats.eviction_fallbacks counts; eviction_error has the last exception, and KeyboardInterrupt is
    raised once the call is done.

    All memory is taken here. Raises InvalidArgument and TooBig, which name the keyword,
    NotSupported, OutOfMemory, FaultSpecError, DeviceIOError, DeviceFailed.

    A context manager; close() ends it, and so does the garbage collector. Any method may be called
    from any thread, and raises StaleHandle after close(). The GIL is released while the library
    works.
    """

    layers: Final[int]
    kv_heads: Final[int]
    head_dim: Final[int]
    value_dim: Final[int]
    blocks: Final[int]
    block_tokens: Final[int]
    k_dtype: Final[str]
    v_dtype: Final[str]
    window: Final[int]
    sinks: Final[int]
    threads: Final[int]
    device: Final[str]
    isa: Final[str]

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        blocks: int = 0,
        value_dim: int = 0,
        block_tokens: int = 16,
        dtype: str = "f32",
        k_dtype: str | None = None,
        v_dtype: str | None = None,
        window: int = 0,
        sinks: int = 0,
        sequences: int = 256,
        sequence_tokens: int = 4096,
        plans: int = 0,
        step_sequences: int = 256,
        step_tokens: int = 4096,
        table_leaves: int = 0,
        threads: int = 0,
        device: str | None = None,
        device_ordinal: int = 0,
        stream: Any = None,
        isa: str | None = None,
        faults: str | None = None,
        fault_seed: int = 0,
        seed: int = 0,
        prefix: bool = True,
        trace_events: int = 0,
        host_blocks: int = 0,
        transfers: int = 0,
        swap_layers: int = 0,
        announced_pages: int = 0,
        key_sets: int = 0,
        key_bytes: int = 0,
        eviction: str | Chooser | None = None,
        tenants: int = 0,
        allocator: str | None = None,
        arena: Arena | None = None,
        cow: str = "write",
        cow_whole: bool = False,
        graph_sequences: int = 0,
        graph_sequence_tokens: int = 0,
        graph_heads: int = 0,
        retained: int = 0,
    ) -> None:
        if device is None:
            device = "cpu" if arena is None else arena.device
        options = dict(locals())
        del options["self"]
        self._handle: Any = None
        config = Config(options)
        self._eviction = config.hook
        self._trace_capacity = max(trace_events, 1024)
        self._tenants_max = tenants
        self._owner = _Owner(None if arena is None else arena._holders)
        self._mutex = self._owner if arena is None else arena._holders
        if self._eviction is not None:
            self._eviction.mutex = self._mutex
        try:
            sizes = self._create(config, own_spec(faults, fault_seed))
        except BaseException:
            self._owner.let_go()
            raise
        group = config.pointer.groups[0]
        self.layers = group.layers
        self.kv_heads = group.kv_heads
        self.head_dim = group.key_dim
        self.value_dim = group.value_dim or group.key_dim
        self.blocks = config.pointer.blocks or sizes.blocks_per_extent * sizes.extents
        self.block_tokens = group.block_tokens
        self.k_dtype = _DTYPE_NAMES[group.k_dtype]
        self.v_dtype = _DTYPE_NAMES[group.v_dtype]
        self.window = group.window
        self.sinks = group.sinks
        self.threads = config.pointer.threads
        self.device = device
        self.isa = text(lib.pkv_cache_isa(self._handle))
        self._stream: Any = None
        if stream is not None:
            self.use_stream(stream)

    def _create(self, config: Config, own: FaultSpec) -> Sizes:
        sizes = config.check()
        created = ffi.new("pkv_cache**")
        with register() as caches:
            faults = current(own)
            config.set_string("faults", faults.spec)
            config.pointer.fault_seed = faults.seed
            check(lib.pkv_cache_create(config.pointer, created), "Cache")
            # A call that runs in another thread holds the handle too: close() can never pull the
            # memory from under it, it is freed when the last holder lets go.
            self._handle = ffi.gc(created[0], self._owner)
            self._own_faults = own
            caches.add(self)
        return sizes

    @property
    def eviction_error(self) -> BaseException | None:
        """The last exception of the function given as `eviction`, or None."""
        return self._eviction.error if self._eviction is not None else None

    def sequence(self, tenant: int = 0) -> Sequence:
        """Start an empty sequence.

        tenant  0 to 2^64 - 1. Cached prefixes are not shared across tenants, unless they are
                published, and a block is zeroed before it passes from one to another.

        Raises OutOfSequences.
        """
        handle = ffi.new("pkv_seq*")
        owner = unsigned("tenant", tenant, bits=64)
        check(lib.pkv_seq_create(self._live(), owner, handle), "Cache.sequence")
        return Sequence(self, handle[0])

    def step(self, entries: Entries) -> Step:
        """Reserve blocks for new tokens of several sequences: all of them, or none.

        entries  pairs (sequence, tokens): a chunk of a prompt, or the one token sampled last.
                 Tokens are a list or an integer array [count], count at least 1, or
                 UnknownTokens(count). Each sequence once. Or (sequence, tokens, parents): a tree of
                 guesses at what comes next. parents [count] has for each token the place in the
                 entry of the token that it follows, which comes before it, or -1; None: a chain.
                 A tree has at most 256 tokens, and ends by Step.accept
        Returns  a Step, to be used in a `with` block: leaving commits, an exception aborts

        Raises OutOfBlocks (not now; cached blocks are evicted first, when that is enough),
        QuotaError (a tenant is at its limit: sequences of its own must end), TooBig
        (can never fit, or more than step_sequences, step_tokens, sequence_tokens), InvalidArgument,
        StaleHandle and Busy, which name the entry, OutOfLeaves, DeviceIOError, DeviceTimeout.
        """
        return Step(self, entries)

    def capture(self, sequences: int, sequence_tokens: int = 1) -> Capture:
        """A step to capture in a CUDA graph, which is then replayed for others. On device "cuda".

            with cache.capture(64) as step, torch.cuda.graph(graph):
                ...                                 # the model; step.write, step.attend
            ...
            with cache.step(entries) as step:       # of at most 64 sequences
                step.load(64)
                graph.replay()

        sequences        that a step may have for which the graph is replayed
        sequence_tokens  new tokens that each of them may have
        Returns  a Capture, to be used in a `with` block. The stream of the cache is the one that
                 is captured

        Raises NotSupported (without graph_sequences), TooBig (more than graph_sequences and
        graph_sequence_tokens), InvalidArgument, Busy (as many steps are open as `plans` allows).
        """
        return Capture(self, sequences, sequence_tokens)

    def read(
        self,
        sequence: Sequence,
        layer: int,
        begin: int = 0,
        end: int | None = None,
        dtype: str = "f32",
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Copy K and V of committed tokens [begin, end) of one layer out of the cache.

        end      None: the length of the sequence
        dtype    of the result: "f32", "f16", or "bf16" as uint16 bit patterns
        Returns  k [end - begin, kv_heads, head_dim], v [end - begin, kv_heads, value_dim]

        Raises StaleHandle, Busy (in a step), OutOfRange (also: rolled off), DeviceIOError,
        NotSupported (on a GPU, where there is read_into).
        """
        handle = self._live_sequence(sequence)
        index = self._layer(layer)
        if self.device == "cuda":
            raise NotSupported("Cache.read: the cache is on a GPU; read_into takes arrays there")
        first = unsigned("begin", begin)
        last = len(sequence) if end is None else unsigned("end", end)
        kind = arrays.numpy_dtype(arrays.dtype_code("dtype", dtype))
        rows = max(0, last - first)
        k = np.empty((rows, self.kv_heads, self.head_dim), kind)
        v = np.empty((rows, self.kv_heads, self.value_dim), kind)
        pair = self._key_value(k, v, dtype, rows, "end - begin") if rows else [ffi.NULL] * 2
        status = lib.pkv_seq_read(handle, sequence._handle, index, first, last, *pair)
        check(status, f"Cache.read: tokens [{first}, {last})")
        return k, v

    def read_into(
        self,
        sequence: Sequence,
        layer: int,
        k: Any,
        v: Any,
        begin: int = 0,
        *,
        dtype: str | None = None,
    ) -> None:
        """Copy K and V of committed tokens from `begin` on into arrays, as many as they have rows.

        k, v     [tokens, kv_heads, head_dim] and [tokens, kv_heads, value_dim], written
        dtype    "bf16" when k and v are uint16 arrays that take bfloat16

        Raises InvalidArgument, StaleHandle, Busy (in a step), OutOfRange (also: rolled off),
        DeviceIOError, DeviceFailed.
        """
        handle = self._live_sequence(sequence)
        index = self._layer(layer)
        first = unsigned("begin", begin)
        rows = arrays.view("k", k, dtype, True, self.device).shape[:1]
        last = first + (rows[0] if rows else 0)
        pair = self._key_value(k, v, dtype, last - first, "tokens", writable=True)
        status = lib.pkv_seq_read(handle, sequence._handle, index, first, last, *pair)
        check(status, f"Cache.read_into: tokens [{first}, {last})")

    def use_stream(self, stream: Any) -> None:
        """Work in the order of `stream` from now on; what came before is done first.

        stream  of torch or CuPy, a cudaStream_t as an integer, or None for the default stream, in
                which a new cache works. Arrays must be ready in its order.

        Raises InvalidArgument, NotSupported (on another device than "cuda"), DeviceFailed.
        """
        handle = ffi.cast("void*", _stream_handle(stream))
        check(lib.pkv_cache_set_stream(self._live(), handle), "Cache.use_stream: stream")
        self._stream = stream  # must not be destroyed while it is in use

    def release_pins(self, owner: int) -> int:
        """End all pins of `owner` (see Sequence.pin); return how many there were."""
        unsigned("owner", owner, 64)
        released = ffi.new("uint32_t*")
        check(lib.pkv_pins_release(self._live(), owner, released), "Cache.release_pins")
        count: int = released[0]
        return count

    def set_tenant(
        self, tenant: int, *, guaranteed: int = 0, limit: int = 0, borrow: bool = True
    ) -> None:
        """Give a tenant a quota, or another one. All tenants that are not named here share the
        rest.

        guaranteed  blocks that its sequences can always have, whatever others do
        limit       blocks that it has at most, active and cached; 0: as many as there are. Beyond
                    it, cached blocks of its own are evicted, and then steps raise QuotaError
        borrow      False: the guarantee is the limit

        Sequences keep what they have: a quota that does not fit that is refused. Raises
        InvalidArgument, TooBig (more tenants than Cache(tenants=), or more guaranteed than there
        is), QuotaError (the tenant's sequences have more than the limit), OutOfBlocks (sequences of
        others have what would be guaranteed).
        """
        set_quota(self._live(), tenant, guaranteed, limit, borrow)

    def delete_tenant(self, tenant: int) -> None:
        """Take a tenant's quota away, and evict what is cached of it.

        Raises InvalidArgument (it has none), Busy (it has sequences or pins).
        """
        delete_quota(self._live(), tenant)

    def tenant(self, tenant: int) -> TenantInfo:
        """What a tenant has; of one without a quota, what all those have together."""
        return read_tenant(self._live(), tenant)

    def tenants(self) -> list[TenantInfo]:
        """What each tenant with a quota has."""
        return read_tenants(self._live(), self._tenants_max)

    def stats(self) -> Stats:
        """The counters of the cache at this moment."""
        return read_stats(self._live())

    def compact(self, max_moves: int) -> int:
        """Move blocks together, so that whole extents of memory become free for other caches of the
        arena, or to be given back with Arena.resize().

        max_moves   blocks that may be copied; none is that does not help to empty an extent within
                    this call
        Returns     blocks that were copied; 0 when no extent can be emptied with so many

        Sequences may be in use: what an open step, a running call or a transfer holds, and appended
        tokens, stay where they are. Block numbers seen before may change.

        Raises DeviceIOError, DeviceTimeout, DeviceFailed: nothing has moved then.
        """
        moved = ffi.new("uint32_t*")
        moves = unsigned("max_moves", max_moves)
        check(lib.pkv_cache_compact(self._live(), moves, moved), "Cache.compact")
        count: int = moved[0]
        return count

    def drop(self) -> int:
        """Let nobody find what was computed before this call, for example since the weights of the
        model have changed. Returns the blocks that became free.

        Sequences, pins and open steps keep their blocks; what they have or compute is not cached
        any more, until a sequence is truncated to nothing. Published prefixes go too.
        """
        dropped = ffi.new("uint32_t*")
        check(lib.pkv_cache_drop(self._live(), dropped), "Cache.drop")
        count: int = dropped[0]
        return count

    def check(self) -> Report:
        """Recount everything and compare with the books. Takes time in proportion to the cache.

        Raises Corrupt, which names the invariant that does not hold as DESIGN.md does.
        """
        report = ffi.new("pkv_report*")
        status = lib.pkv_check(self._live(), report)
        if status == lib.PKV_ECORRUPT and report.broken:
            raise Corrupt(f"Cache.check: invariant {text(report.broken)} does not hold")
        check(status, "Cache.check")
        return Report(report.sequences_digest, report.cache_digest)

    def trace(self, limit: int | None = None) -> list[TraceEvent]:
        """The last operations, oldest first: at most `limit`, None for all that are kept."""
        capacity = self._trace_capacity if limit is None else unsigned("limit", limit)
        capacity = min(capacity, self._trace_capacity)
        events = ffi.new("pkv_trace_event[]", capacity)
        count = ffi.new("uint32_t*")
        check(lib.pkv_trace_read(self._live(), events, capacity, count), "Cache.trace")
        return [
            TraceEvent(e.number, e.time_us, text(e.what), e.subject, e.detail)
            for e in events[0 : count[0]]
        ]

    def fault_points(self) -> list[FaultPoint]:
        """Every fault point of the library with its counters in this cache."""
        return describe(self._live())

    @property
    def clock_us(self) -> int:
        """Microseconds since the cache was created; of the virtual clock with device "sim"."""
        now: int = lib.pkv_clock_us(self._live())
        return now

    def advance(self, us: int) -> None:
        """Move the virtual clock of device "sim" forward, by microseconds. Raises NotSupported."""
        duration = unsigned("us", us, bits=64)
        check(lib.pkv_clock_advance(self._live(), duration), f"Cache.advance on {self.device!r}")

    @property
    def closed(self) -> bool:
        """Has close() been called?"""
        return self._handle is None or self._owner.ended

    def close(self) -> None:
        """Free everything. Open steps and sequences die with the cache. Calling it again does
        nothing.

        A call that is running in another thread ends first; the memory goes back after it.
        """
        self._handle = None

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<pagedkv.Cache, closed>"
        dtypes = self.k_dtype if self.k_dtype == self.v_dtype else f"{self.k_dtype}/{self.v_dtype}"
        return (
            f"<pagedkv.Cache of {self.blocks} blocks of {self.block_tokens} tokens, "
            f"{self.layers} layers x {self.kv_heads} KV heads x {self.head_dim}, {dtypes}, "
            f"{self.device} ({self.isa})>"
        )

    def _live(self) -> Any:
        """The handle, or StaleHandle after close(), or Busy in its own eviction function."""
        handle = self._handle
        if handle is None or self._owner.ended:
            raise StaleHandle("cache: it has been closed")
        refuse_inside(self._mutex)
        return handle

    def _live_sequence(self, sequence: Sequence) -> Any:
        """The handle, after a look at whether `sequence` is one of this cache."""
        if not isinstance(sequence, Sequence):
            kind = type(sequence).__name__
            raise InvalidArgument(f"sequence: expected a pagedkv.Sequence, got {kind}")
        if sequence._cache is not self:
            raise StaleHandle("sequence: it belongs to another cache")
        return sequence._live()

    def _key_value(
        self, k: Any, v: Any, dtype: str | None, rows: int, word: str, writable: bool = False
    ) -> tuple[Any, Any]:
        """Pointers to a pkv_array of K and one of V, which must have `rows` rows."""
        k_words, v_words = f"[{word}, kv_heads, head_dim]", f"[{word}, kv_heads, value_dim]"
        k_shape = (rows, self.kv_heads, self.head_dim)
        v_shape = (rows, self.kv_heads, self.value_dim)
        k_view = arrays.expect("k", k, k_shape, k_words, dtype, writable, self.device)
        v_view = arrays.expect("v", v, v_shape, v_words, dtype, writable, self.device)
        pair = ffi.new("pkv_array[2]")
        arrays.pack("k", k_view, pair[0])
        arrays.pack("v", v_view, pair[1])
        return pair, pair + 1

    def _layer(self, layer: int) -> int:
        index = unsigned("layer", layer)
        if index >= self.layers:
            raise OutOfRange(f"layer: expected 0 to {self.layers - 1}, got {index}")
        return index


def _stream_handle(stream: Any) -> int:
    """The cudaStream_t of a stream of torch or CuPy, or of what is one already."""
    for name in ("cuda_stream", "ptr"):
        handle = getattr(stream, name, None)
        if isinstance(handle, int):
            return handle
    return 0 if stream is None else unsigned("stream", stream, bits=64)
