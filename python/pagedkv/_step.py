"""One step of a model: new tokens of several sequences, written and attended layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as PySequence
from contextlib import suppress
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from . import _arrays as arrays
from ._ffi import check, ffi, lib
from ._sequence import Sequence
from ._tokens import TokenArray, Tokens, flatten
from ._tree import Parents, Path, Paths, Trees
from ._values import finite, unsigned
from .errors import Away, Busy, Error, InvalidArgument, StaleHandle, error

if TYPE_CHECKING:
    from ._cache import Cache

__all__ = ["Entries", "Step"]

Entries: TypeAlias = Iterable[tuple[Sequence, Tokens] | tuple[Sequence, Tokens, Parents]]
Query = TypeVar("Query")
Output = TypeVar("Output")

_CLOSED = ffi.new("pkv_plan*")[0]

# pkv_entry as NumPy sees it, so that a whole step is filled in with three assignments.
_ENTRY = np.dtype(
    {
        "names": ["seq", "tokens", "count"],
        "formats": [np.uint64, np.uintp, np.uint32],
        "offsets": [ffi.offsetof("pkv_entry", field) for field in ("seq", "tokens", "count")],
        "itemsize": ffi.sizeof("pkv_entry"),
    }
)


class Step:
    """Blocks reserved for new tokens, until they are committed. Made by Cache.step().

        with cache.step([(a, prompt), (b, [token])]) as step:
            for layer in range(cache.layers):
                step.write(layer, k, v)
                out = step.attend(layer, q)

    Leaving the block commits. An exception aborts: the sequences are as long as before, with the
    same content. Rows of all arrays are the new tokens in the order of the entries. A step with a
    tree of tokens has to be ended by `accept`.

    tokens      rows: the new tokens of all entries
    """

    __slots__ = (
        "__weakref__", "_cache", "_handle", "_info", "_sequences", "_table", "_trees", "tokens",
    )  # fmt: skip

    def __init__(self, cache: Cache, entries: Entries) -> None:
        """Not for callers: use Cache.step()."""
        self._handle = _CLOSED
        self._cache = cache
        self._info: _Info | None = None
        self._table: TokenArray | None = None
        self._trees: Trees | None = None
        live = cache._live()
        pairs = entries if isinstance(entries, (list, tuple)) else list(entries)
        try:
            sequences = [pair[0] for pair in pairs]
            ids = [sequence._id for sequence in sequences]
            foreign = [sequence for sequence in sequences if sequence._cache is not cache]
            flat, counts, addresses = flatten([pair[1] for pair in pairs])
            if max(map(len, pairs), default=2) > 2:
                self._trees = Trees(pairs, counts)
        except (AttributeError, IndexError, KeyError, TypeError) as reason:
            raise _explain_types(pairs) or reason from None
        if foreign:  # caches with the same seed cannot tell their handles apart
            index = sequences.index(foreign[0])
            raise StaleHandle(f"entries[{index}]: the sequence belongs to another cache")
        table = np.zeros(len(ids), _ENTRY)
        table["seq"] = ids
        table["tokens"] = addresses
        table["count"] = counts
        plan = ffi.new("pkv_plan*")
        pointer = ffi.from_buffer("pkv_entry[]", table)
        if self._trees is None:
            status = lib.pkv_plan_begin(live, pointer, len(ids), plan)
        else:
            trees = self._trees.pointer
            status = lib.pkv_plan_begin_trees(live, pointer, trees, len(ids), plan)
        if status:
            raise _explain_status(status, sequences, counts)
        del flat  # the library has read it
        self._sequences = sequences  # must not be collected while the plan names them
        self._handle = plan[0]
        self.tokens = int(counts.sum())

    def write(self, layer: int, k: Any, v: Any, *, dtype: str | None = None) -> None:
        """Store K and V of the new tokens for one layer, converted to the types of the cache.

        k       [step.tokens, kv_heads, head_dim], float32, float16 or bfloat16, any strides that
                leave the last dimension contiguous; never copied
        v       [step.tokens, kv_heads, value_dim], likewise
        dtype   "bf16" when k and v are uint16 arrays that hold bfloat16

        Raises InvalidArgument, StaleHandle, OutOfRange (layer), NonFinite, DeviceIOError,
        DeviceFailed. After the last three the slots of this layer hold nothing defined: write
        again, or leave the step. Threads may write different layers at once; the GIL is released.
        """
        cache = self._cache
        index = cache._layer(layer)
        pair = cache._key_value(k, v, dtype, self.tokens, "step.tokens")
        status = lib.pkv_write(cache._live(), self._handle, index, *pair)
        if status:
            raise self._error(status, "Step.write: k or v")

    @overload
    def attend(
        self,
        layer: int,
        q: Query,
        out: None = None,
        scale: float | None = None,
        softcap: float = 0.0,
        lse: NDArray[np.float32] | None = None,
        *,
        dtype: str | None = None,
        sink_logits: Any = None,
    ) -> Query: ...

    @overload
    def attend(
        self,
        layer: int,
        q: Any,
        out: Output,
        scale: float | None = None,
        softcap: float = 0.0,
        lse: NDArray[np.float32] | None = None,
        *,
        dtype: str | None = None,
        sink_logits: Any = None,
    ) -> Output: ...

    def attend(
        self,
        layer: int,
        q: Any,
        out: Any = None,
        scale: float | None = None,
        softcap: float = 0.0,
        lse: NDArray[np.float32] | None = None,
        *,
        dtype: str | None = None,
        sink_logits: Any = None,
    ) -> Any:
        """Attention from the new tokens to all tokens of their sequences up to themselves.

        Causal over absolute positions, within the window and sinks of the cache. Query head h reads
        KV head h // (heads / kv_heads). The output of a sequence is bitwise the same whatever else
        is in the step. K and V of the layer must have been written; this is not checked.

        q        [step.tokens, heads, head_dim], heads a multiple of kv_heads; types as for write
        out      [step.tokens, heads, value_dim], written; None: a new array of the kind and type of
                 q
        scale    factor of the scores; None: 1 / sqrt(head_dim)
        softcap  c > 0: scores become c * tanh(score / c)
        lse      float32 [step.tokens, heads], written: natural logarithm of the softmax sum
        dtype    "bf16" when q and out are uint16 arrays that hold bfloat16
        sink_logits  float32 [heads]: learned sinks, a further score of each head, as it is, that
                 has no value; part of the sum of `lse`
        Returns  out; on a GPU it is complete when the stream of the cache has come to it

        Raises InvalidArgument, StaleHandle, OutOfRange (layer), NonFinite (in q or sink_logits; out
        is untouched), DeviceIOError, DeviceFailed, NotSupported. The GIL is released.
        """
        cache = self._cache
        index = cache._layer(layer)
        words = "[step.tokens, heads, head_dim]"
        q_view = arrays.expect(
            "q", q, (self.tokens, None, cache.head_dim), words, dtype, device=cache.device
        )
        heads = q_view.shape[1]
        if heads % cache.kv_heads:
            raise InvalidArgument(
                f"q: expected heads a multiple of kv_heads = {cache.kv_heads}, got {heads}"
            )
        shape = (self.tokens, heads, cache.value_dim)
        if out is None:
            out = arrays.like(q, q_view, shape)
        words = "[step.tokens, heads, value_dim]"
        out_view = arrays.expect(
            "out", out, shape, words, dtype, writable=True, device=cache.device
        )
        call = ffi.new("pkv_attention*")
        arrays.pack("q", q_view, call.q)
        arrays.pack("out", out_view, call.out)
        if arrays.overlap(q_view, out_view):
            raise InvalidArgument("out: expected memory of its own, got memory that q uses")
        call.query_heads = heads
        call.scale = 0.0 if scale is None else finite("scale", scale)
        call.softcap = _softcap(softcap)
        if lse is not None:
            call.lse = _floats("lse", lse, (self.tokens, heads), cache.device, writable=True)
        if sink_logits is not None:
            call.sink_logits = _floats("sink_logits", sink_logits, (heads,), cache.device)
        status = lib.pkv_attend(cache._live(), self._handle, index, call)
        if status == lib.PKV_EINVAL:
            raise _explain_attend(cache.device)
        if status:
            raise self._error(status, "Step.attend: q or sink_logits")
        return out

    def load(self, sequences: int, sequence_tokens: int = 1) -> None:
        """Say that captured steps are done for this one when the stream comes to them.

        It is one copy to the GPU, in the order of the stream. Replay a graph that was captured with
        Cache.capture(sequences, sequence_tokens), or with more of both, before the step ends.

        Raises TooBig (the step does not fit), NotSupported (without graph_sequences, or the stream
        is being captured), InvalidArgument, StaleHandle, DeviceIOError, DeviceFailed.
        """
        count = unsigned("sequences", sequences)
        tokens = unsigned("sequence_tokens", sequence_tokens)
        status = lib.pkv_graph_load(self._cache._live(), self._handle, count, tokens)
        if status:
            raise self._error(status, f"Step.load: {sequences} sequences of {sequence_tokens}")

    @property
    def positions(self) -> TokenArray:
        """uint32 [tokens]: absolute position of each row in its sequence; in a tree, by depth."""
        return self._plan_info().positions

    @property
    def slots(self) -> TokenArray:
        """uint32 [tokens]: where each row is stored, block * block_tokens + offset."""
        return self._plan_info().slots

    @property
    def starts(self) -> TokenArray:
        """uint32 [entries + 1]: first row of each entry; the last element is `tokens`."""
        return self._plan_info().starts

    @property
    def lengths(self) -> TokenArray:
        """uint32 [entries]: tokens of each sequence, the new ones included."""
        return self._plan_info().lengths

    @property
    def block_table(self) -> TokenArray:
        """uint32 [entries, pages of the longest]: block of each page, NO_BLOCK behind the window.

        Elements behind the last page of a sequence mean nothing.
        """
        if self._table is None:
            self._table = _copy_table(self._plan(), self._cache.block_tokens)
        return self._table

    @property
    def closed(self) -> bool:
        """Has the step been committed or aborted?"""
        return self._handle is _CLOSED

    def commit(self) -> None:
        """Make the new tokens part of their sequences.

        Raises Busy while a write or attend runs, InvalidArgument when there is a tree of tokens.
        """
        self._end(lib.pkv_plan_commit, "Step.commit")

    def accept(self, paths: PySequence[Path]) -> None:
        """Commit one path of each sequence's new tokens and drop its other ones.

        paths   one for each entry: the tokens to keep by their places in the entry, parents first;
                a number n for the first n tokens; None for all of them

        K and V of what is kept move to where they belong, as they are stored; blocks of what is
        dropped are free at once, and nothing of it is cached. Raises InvalidArgument (what is no
        path), Busy while a write or attend runs, DeviceIOError and DeviceFailed: nothing was moved
        then, and the step is open as before.
        """
        if self.closed:
            raise StaleHandle("Step.accept: the step has been committed or aborted")
        starts = self.starts.tolist()
        counts = [end - begin for begin, end in pairwise(starts)]
        chosen = Paths(paths, counts)
        live = self._cache._live()
        status = lib.pkv_plan_accept(live, self._handle, chosen.pointer, len(counts))
        if status == lib.PKV_EINVAL:
            raise chosen.explain(self._trees)
        check(status, "Step.accept")
        self._close()

    def abort(self) -> None:
        """Give the step up: its sequences are as long as before, their content is the same.

        A shared last block that was copied for the step stays copied. Raises Busy while a write or
        attend runs.
        """
        self._end(lib.pkv_plan_abort, "Step.abort")

    def __enter__(self) -> Step:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.closed:
            return
        if kind is None:
            try:
                self.commit()
            except InvalidArgument:  # no path of a tree was accepted
                self.abort()
                raise
        elif not self._cache.closed:
            self.abort()

    def __del__(self) -> None:
        # Half made, or another thread still computes.
        with suppress(AttributeError, Error):
            if not self.closed and not self._cache.closed:
                self.abort()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.tokens} tokens"
        return f"<pagedkv.Step of {len(self._sequences)} sequences, {state}>"

    def _end(self, function: Any, what: str) -> None:
        if self.closed:
            raise StaleHandle(f"{what}: the step has been committed or aborted")
        status = function(self._cache._live(), self._handle)
        if status == lib.PKV_EINVAL:
            raise InvalidArgument(f"{what}: a sequence has a tree of tokens: accept a path of it")
        check(status, what)
        self._close()

    def _close(self) -> None:
        self._handle = _CLOSED
        self._sequences = []

    def _error(self, status: int, what: str) -> Error:
        if status == lib.PKV_ESTALE and self.closed:
            return StaleHandle(f"{what.split(':')[0]}: the step has been committed or aborted")
        return error(status, what)

    def _plan_info(self) -> _Info:
        """Copies of the plan's arrays: they stay valid when the plan is gone."""
        if self._info is None:
            self._info = _Info(self._plan())
        return self._info

    def _plan(self) -> Any:
        info = ffi.new("pkv_plan_info*")
        status = lib.pkv_plan_get_info(self._cache._live(), self._handle, 0, info)
        if status:
            raise self._error(status, "Step")
        return info


class _Info:
    """The arrays of a pkv_plan_info, copied, but for the block table, which is large."""

    def __init__(self, info: Any) -> None:
        self.positions = _copy(info.positions, info.tokens)
        self.slots = _copy(info.slots, info.tokens)
        self.starts = _copy(info.starts, info.entries + 1)
        self.lengths = _copy(info.lengths, info.entries)


def _copy_table(info: Any, block_tokens: int) -> TokenArray:
    pages = -(-int(_view(info.lengths, info.entries).max()) // block_tokens)
    table = _view(info.block_table, info.entries * info.table_stride)
    rows: TokenArray = table.reshape(info.entries, info.table_stride)[:, :pages].copy()
    return rows


def _view(pointer: Any, count: int) -> TokenArray:
    view: TokenArray = np.frombuffer(ffi.buffer(pointer, 4 * count), np.uint32)
    return view


def _copy(pointer: Any, count: int) -> TokenArray:
    copied: TokenArray = _view(pointer, count).copy()
    return copied


def _softcap(softcap: float) -> float:
    value = finite("softcap", softcap)
    if value < 0:
        raise InvalidArgument(f"softcap: expected 0 or more, got {value}")
    return value


def _floats(
    name: str, array: Any, shape: tuple[int, ...], device: str, writable: bool = False
) -> Any:
    """A pointer to a packed array of float32, which has a number for each head in each row."""
    words = "[step.tokens, heads]" if len(shape) > 1 else "[heads]"
    found = arrays.expect(name, array, shape, words, "f32", writable=writable, device=device)
    if found.strides != (4 * shape[-1], 4)[-len(shape) :] or found.pointer % 4:
        raise InvalidArgument(f"{name}: expected a contiguous, aligned array")
    return ffi.cast("float*", found.pointer)


def _explain_attend(device: str) -> InvalidArgument:
    if device != "cuda":
        return InvalidArgument("out: expected elements that do not overlap each other")
    return InvalidArgument(
        "q, out, lse or sink_logits: expected memory that the GPU of the cache reaches, "
        "and elements that do not overlap each other"
    )


def _explain_types(pairs: Any) -> InvalidArgument | None:
    """The entry that is no (sequence, tokens) pair."""
    for i, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) not in (2, 3):
            return InvalidArgument(f"entries[{i}]: expected (sequence, tokens), got {pair!r}")
        sequence, tokens = pair[:2]
        if not isinstance(sequence, Sequence):
            kind = type(sequence).__name__
            return InvalidArgument(f"entries[{i}]: expected a pagedkv.Sequence, got {kind}")
        if not hasattr(tokens, "__len__"):
            kind = type(tokens).__name__
            return InvalidArgument(f"entries[{i}]: expected a list of token ids, got {kind}")
    return None


def _explain_status(status: int, sequences: list[Sequence], counts: Any) -> Error:
    """The error of pkv_plan_begin, naming the entry where one entry is to blame."""
    if status == lib.PKV_EINVAL:
        return _explain_invalid(sequences, counts)
    if status == lib.PKV_ESTALE:
        for i, sequence in enumerate(sequences):
            if sequence.closed:
                return StaleHandle(f"entries[{i}]: the sequence has been closed")
    if status == lib.PKV_EBUSY:
        for i, sequence in enumerate(sequences):
            if sequence.in_step:
                return Busy(f"entries[{i}]: the sequence is in an open step")
            if sequence.reserved:
                return Busy(f"entries[{i}]: the sequence has uncommitted tokens")
            if sequence.residence in ("leaving", "arriving"):
                return Busy(f"entries[{i}]: the sequence is {sequence.residence}")
        return Busy("Cache.step: as many steps are open as `plans` allows")
    if status == lib.PKV_EAWAY:
        for i, sequence in enumerate(sequences):
            if sequence.residence == "away":
                return Away(f"entries[{i}]: the sequence is away; swap it in first")
    return error(status, f"Cache.step of {len(sequences)} sequences, {int(counts.sum())} tokens")


def _explain_invalid(sequences: list[Sequence], counts: Any) -> Error:
    seen: dict[int, int] = {}
    for i, (sequence, count) in enumerate(zip(sequences, counts, strict=True)):
        if count == 0:
            return InvalidArgument(f"entries[{i}]: expected at least one token, got none")
        if sequence._id in seen:
            first = seen[sequence._id]
            return InvalidArgument(f"entries[{i}]: the same sequence as entries[{first}]")
        seen[sequence._id] = i
    return error(lib.PKV_EINVAL, "Cache.step: entries")
