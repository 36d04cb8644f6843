"""One sequence of tokens in a cache."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._ffi import check, ffi, lib
from ._pin import Pin
from ._tokens import TokenArray, Tokens, UnknownTokens, token_array
from ._transfer import Transfer
from ._values import positive, unsigned
from .errors import Error, InvalidArgument, OutOfRange, StaleHandle

if TYPE_CHECKING:
    from ._cache import Cache

__all__ = ["DEFAULT_PRIORITY", "NO_BLOCK", "Match", "Sequence"]

NO_BLOCK: int = lib.PKV_NO_BLOCK

DEFAULT_PRIORITY: int = lib.PKV_PRIORITY_DEFAULT

_ALL = slice(None)
_CLOSED = ffi.new("pkv_seq*")[0]

_RESIDENCES = {
    lib.PKV_RESIDENT: "resident",
    lib.PKV_LEAVING: "leaving",
    lib.PKV_AWAY: "away",
    lib.PKV_ARRIVING: "arriving",
}


class Match(NamedTuple):
    """What Sequence.lookup() found.

    matched   tokens that match() would attach now
    pending   tokens behind them that living sequences have announced and not committed yet
    """

    matched: int
    pending: int


class Sequence:
    """Tokens whose keys and values live in a cache. Made by Cache.sequence() and by fork().

    len(seq) is the number of committed tokens. A context manager; close() ends the sequence, and so
    does the garbage collector. Every method raises StaleHandle when the sequence or its cache is
    closed, Away when it has been swapped out, and Busy while it is on its way; residence, the other
    properties, swap_in() and close() work.
    """

    __slots__ = ("__weakref__", "_cache", "_handle", "_id")

    def __init__(self, cache: Cache, handle: Any) -> None:
        """Not for callers: use Cache.sequence()."""
        self._cache = cache
        self._handle = handle  # pkv_seq by value
        self._id: int = handle.id

    def match(self, tokens: Tokens) -> int:
        """Attach the longest cached prefix of `tokens` to this empty sequence; return its length.

        Only what the same tenant committed, or any has published, is found, by comparing ids one by
        one, and under the same keys (set_keys). The result is
        the number of tokens that need not be computed; it may end within a block, which is copied
        before this sequence writes to it. Pass prompt[:-1] when you need the logits of the last
        token of a prompt.

        tokens  [count] ids: a list, or an integer array

        Raises InvalidArgument, Busy (the sequence is not empty, or in a step), TooBig.
        """
        ids = token_array("tokens", tokens)
        matched = ffi.new("uint32_t*")
        pointer = ffi.from_buffer("uint32_t[]", ids)
        status = lib.pkv_seq_match(self._live(), self._handle, pointer, len(ids), matched)
        check(status, "Sequence.match")
        length: int = matched[0]
        return length

    def set_keys(self, salt: bytes = b"", keys: Iterable[tuple[int, int, bytes]] = ()) -> None:
        """Give this empty sequence keys beside its token ids, in place of those that it had.

        It finds, waits for, and makes only cached blocks whose keys over the positions of the block
        are the same, byte for byte. Forks have the same keys.

        salt  any bytes that all of the sequence depends on: an adapter, a user
        keys  (begin, end, bytes) for positions [begin, end), in order and apart: hashes of images

        When living sequences have all key_sets places, this one is not cached at all: it finds
        nothing and leaves nothing.

        Raises InvalidArgument (also: ranges that are empty or overlap), Busy (the sequence is not
        empty, or in a step), TooBig (more than key_bytes).
        """
        entries = [(unsigned("begin", b), unsigned("end", e), bytes(k)) for b, e, k in keys]
        buffers = [ffi.from_buffer("char[]", k) for _, _, k in entries]
        array = ffi.new("pkv_extra_key[]", len(entries))
        for item, (begin, end, text), buffer in zip(array, entries, buffers, strict=True):
            item.begin, item.end, item.bytes, item.size = begin, end, buffer, len(text)
        pointer = ffi.from_buffer("char[]", bytes(salt))
        status = lib.pkv_seq_set_keys(
            self._live(), self._handle, pointer, len(salt), array, len(entries)
        )
        check(status, "Sequence.set_keys")

    def publish(self, count: int | None = None) -> int:
        """Let every tenant find the first `count` committed tokens; return how many it can find.

        Whole blocks are published, up to the first that is not in the prefix index. It cannot be
        taken back: they are found until they are evicted, and stay this tenant's own in all
        accounts. Others that write into one get a copy.

        count  default: all

        Raises Busy (in a step), OutOfRange (longer than the sequence).
        """
        published = ffi.new("uint32_t*")
        tokens = len(self) if count is None else unsigned("count", count)
        status = lib.pkv_seq_publish(self._live(), self._handle, tokens, published)
        check(status, f"Sequence.publish: {tokens} tokens")
        result: int = published[0]
        return result

    def lookup(self, tokens: Tokens) -> Match:
        """What match() would find, without attaching it, and how much more others are computing.

        While `pending` is not 0 it may pay to wait: ask again after the next steps. It becomes 0
        when all is there, and when whoever announced it has ended without committing it.

        tokens  [count] ids: a list, or an integer array

        Raises as match().
        """
        ids = token_array("tokens", tokens)
        match = ffi.new("pkv_match*")
        pointer = ffi.from_buffer("uint32_t[]", ids)
        status = lib.pkv_seq_lookup(self._live(), self._handle, pointer, len(ids), match)
        check(status, "Sequence.lookup")
        return Match(match.matched, match.pending)

    def announce(self, tokens: Tokens) -> None:
        """Say that `tokens`, the sequence's own from position 0 on, will be computed.

        Others of the same tenant then see them as pending, in whole blocks, until they are
        committed or the sequence is closed, truncated or swapped out. Replaces what was announced
        before; no tokens take it back.

        tokens  [count] ids: a list, or an integer array

        Raises InvalidArgument, Busy (in a step), TooBig.
        """
        ids = token_array("tokens", tokens)
        pointer = ffi.from_buffer("uint32_t[]", ids)
        status = lib.pkv_seq_announce(self._live(), self._handle, pointer, len(ids))
        check(status, "Sequence.announce")

    def fork(self) -> Sequence:
        """A new sequence with the same committed tokens. Blocks are shared and copied on write.
        With Cache(cow="fork") a partly filled last block is copied now.

        Raises Busy (uncommitted tokens, or in a step), OutOfSequences; with cow="fork" also
        OutOfBlocks, OutOfLeaves, DeviceIOError, DeviceTimeout.
        """
        child = ffi.new("pkv_seq*")
        check(lib.pkv_seq_fork(self._live(), self._handle, child), "Sequence.fork")
        return Sequence(self._cache, child[0])

    def pin(
        self, tokens: int | None = None, *, owner: int = 0, timeout: float | None = None
    ) -> Pin:
        """Hold the whole blocks among the first `tokens` tokens, whoever else lets go of them.

        tokens   of the committed ones; None: all
        owner    any number; Cache.release_pins(owner) ends all pins that have it
        timeout  seconds after which the pin ends by itself; None: never

        Raises Busy (uncommitted tokens, or in a step), OutOfRange, OutOfSequences.
        """
        count = len(self) if tokens is None else unsigned("tokens", tokens)
        us = _microseconds("timeout", timeout)
        unsigned("owner", owner, 64)
        pin = ffi.new("pkv_pin*")
        status = lib.pkv_pin_create(self._live(), self._handle, count, owner, us, pin)
        check(status, "Sequence.pin")
        return Pin(self._cache, pin[0])

    def retain(
        self,
        tokens: slice = _ALL,
        *,
        priority: int = DEFAULT_PRIORITY,
        duration: float | None = None,
        ttl: float | None = None,
    ) -> int:
        """Ask to keep blocks in the cache for longer than others, or less long; return how many.

            seq.retain(slice(0, system_prompt), priority=90, duration=600)
            seq.retain(ttl=3600)

        Those that the tokens touch are meant, also in part. When several ask for a block, the most
        counts: the highest priority with its duration, the longest time to live. A block keeps what
        was asked until it leaves the cache. Tokens that come later are not meant: ask again, for
        what was decoded at the latest before close().

        tokens    of the committed ones, without a step; default all
        priority  0 to 100, order of eviction: blocks below 35, the default, go before all others,
                  those above it after them. It reserves nothing: no step fails for it
        duration  seconds without use after which the priority is the default; None: never
        ttl       seconds without use after which a block is dropped; None: never

        Raises InvalidArgument, NotSupported (Cache(retained=...) is 0), TooBig (more blocks than
        that would be retained), Busy (on its way to the host tier or back).
        """
        terms = ffi.new("pkv_retention*")
        terms.priority = unsigned("priority", priority)
        if terms.priority > lib.PKV_PRIORITY_HIGHEST:
            raise InvalidArgument(f"priority: expected 0 to 100, got {priority}")
        terms.duration_us = _microseconds("duration", duration)
        terms.ttl_us = _microseconds("ttl", ttl)
        return self._retain(tokens, terms, "Sequence.retain")

    def unretain(self, tokens: slice = _ALL) -> int:
        """Take back what anybody has asked for the blocks of `tokens`; return how many those are.

        Raises as retain().
        """
        return self._retain(tokens, ffi.NULL, "Sequence.unretain")

    def _retain(self, tokens: slice, terms: Any, what: str) -> int:
        begin, end = _span(tokens, len(self))
        retained = ffi.new("uint32_t*")
        status = lib.pkv_seq_retain(self._live(), self._handle, begin, end, terms, retained)
        check(status, what)
        blocks: int = retained[0]
        return blocks

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens and free the blocks behind; uncommitted tokens go too.

        Raises Busy (in a step), OutOfRange (longer than the sequence, or the window before `length`
        has rolled off).
        """
        tokens = unsigned("length", length)
        check(lib.pkv_seq_truncate(self._live(), self._handle, tokens), "Sequence.truncate")

    def append(self, tokens: Tokens) -> TokenArray:
        """Reserve slots for new tokens whose K and V come from elsewhere, not from a step.

        Then write() each layer and commit(); truncate(len(seq)) gives the tokens up.

        tokens   [count] ids, or UnknownTokens(count)
        Returns  uint32 [count]: slot of each token, block * block_tokens + offset

        Raises as Cache.step.
        """
        if isinstance(tokens, UnknownTokens):
            count, pointer = len(tokens), ffi.NULL
        else:
            ids = token_array("tokens", tokens)
            count, pointer = len(ids), ffi.from_buffer("uint32_t[]", ids)
        slots = np.empty(count, np.uint32)
        out = ffi.from_buffer("uint32_t[]", slots, require_writable=True)
        status = lib.pkv_seq_append(self._live(), self._handle, pointer, count, out)
        check(status, "Sequence.append")
        return slots

    def write(self, layer: int, k: Any, v: Any, *, dtype: str | None = None) -> None:
        """Store K and V of the appended tokens for one layer, converted to the types of the cache.

        k, v    [seq.reserved, kv_heads, head_dim] and [seq.reserved, kv_heads, value_dim]; types,
                strides, `dtype` as for Step.write

        Raises InvalidArgument, Busy (in a step), OutOfRange (layer; nothing appended), NonFinite,
        DeviceIOError. After the last two the slots of this layer hold nothing defined: write again.
        """
        index = self._cache._layer(layer)
        reserved = self.reserved
        if reserved == 0:
            raise OutOfRange("Sequence.write: no tokens have been appended")
        pair = self._cache._key_value(k, v, dtype, reserved, "seq.reserved")
        status = lib.pkv_seq_write(self._live(), self._handle, index, *pair)
        check(status, "Sequence.write: k or v")

    def commit(self) -> None:
        """Declare the K and V of appended tokens computed. Raises Busy (in a step)."""
        check(lib.pkv_seq_commit(self._live(), self._handle), "Sequence.commit")

    def blocks(self, begin: int = 0, end: int | None = None) -> TokenArray:
        """Block numbers of pages [begin, end), uint32; NO_BLOCK for pages behind the window.

        Raises OutOfRange.
        """
        first = unsigned("begin", begin)
        last = self._info().pages if end is None else unsigned("end", end)
        numbers = np.empty(max(0, last - first), np.uint32)
        out = ffi.from_buffer("uint32_t[]", numbers, require_writable=True)
        status = lib.pkv_seq_blocks(self._live(), self._handle, 0, first, last, out)
        check(status, f"Sequence.blocks: pages [{first}, {last})")
        return numbers

    def swap_out(self) -> Transfer:
        """Start moving this sequence to the host tier; others can be computed meanwhile.

        Its blocks are given back when all of them have been copied; until then nothing is lost
        whatever fails. Full blocks stay cached like those of a sequence that has been closed.

        Returns  a Transfer, to be waited for, polled or cancelled

        Raises Busy (in a step, uncommitted tokens, or as many transfers as `transfers` allows),
        Away, NotSupported (host_blocks is 0), TooBig, OutOfHostBlocks, DeviceIOError, DeviceFailed.
        """
        return self._swap("swap_out", lib.pkv_seq_swap_out)

    def swap_in(self) -> Transfer:
        """Start moving this sequence back; all its blocks are reserved now, or none.

        On device "cuda" steps may begin while it is arriving: each layer is computed when it is
        there. Leave the step when the transfer is done: to commit before raises Busy.

        Returns  a Transfer, to be waited for, polled or cancelled

        Raises InvalidArgument (it is not away), Busy (on its way, or as many transfers as
        `transfers` allows), QuotaError, OutOfBlocks, OutOfLeaves, DeviceIOError, DeviceFailed.
        """
        return self._swap("swap_in", lib.pkv_seq_swap_in)

    def _swap(self, name: str, start: Any) -> Transfer:
        handle = ffi.new("pkv_transfer*")
        check(start(self._live(), self._handle, handle), f"Sequence.{name}")
        return Transfer(self, handle[0])

    @property
    def residence(self) -> str:
        """Where it is: "resident", "leaving", "away" or "arriving"."""
        return _RESIDENCES[self._info().residence]

    @property
    def length(self) -> int:
        """Committed tokens; the same as len(seq)."""
        length: int = self._info().length
        return length

    @property
    def reserved(self) -> int:
        """Tokens behind the length that have slots and are not committed."""
        reserved: int = self._info().reserved
        return reserved

    @property
    def pages(self) -> int:
        """Pages of the table, those behind the window included."""
        pages: int = self._info().pages
        return pages

    @property
    def in_step(self) -> bool:
        """Does an open step name this sequence?"""
        return bool(self._info().in_plan)

    @property
    def tenant(self) -> int:
        """Owner of the sequence."""
        tenant: int = self._info().tenant
        return tenant

    @property
    def closed(self) -> bool:
        """Has the sequence, or its cache, been closed?"""
        return self._id == 0 or self._cache.closed

    def close(self) -> None:
        """End the sequence; its committed blocks stay cached. Calling it again does nothing.

        Raises Busy (in a step).
        """
        if self.closed:
            return
        check(lib.pkv_seq_free(self._live(), self._handle), "Sequence.close")
        self._handle = _CLOSED
        self._id = 0

    def __len__(self) -> int:
        return self.length

    def __bool__(self) -> bool:
        """True: an empty sequence is a sequence."""
        return True

    def __enter__(self) -> Sequence:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Half made, or an open step still names it: it then ends with the cache.
        with suppress(AttributeError, Error):
            self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<pagedkv.Sequence, closed>"
        info = self._info()
        return f"<pagedkv.Sequence of {info.length} tokens, tenant {info.tenant}>"

    def _live(self) -> Any:
        """The cache's handle, or StaleHandle that says what was closed."""
        handle = self._cache._live()
        if self._id == 0:
            raise StaleHandle("sequence: it has been closed")
        return handle

    def _info(self) -> Any:
        info = ffi.new("pkv_seq_info*")
        check(lib.pkv_seq_get_info(self._live(), self._handle, info), "Sequence")
        return info


def _microseconds(name: str, seconds: float | None) -> int:
    """What C takes for a time: at least one microsecond, or 0 for none."""
    if seconds is None:
        return 0
    return min(max(1, math.ceil(positive(name, seconds) * 1e6)), (1 << 64) - 1)


def _span(tokens: slice, length: int) -> tuple[int, int]:
    """[begin, end) of a slice of `length` tokens."""
    if not isinstance(tokens, slice):
        kind = type(tokens).__name__
        raise InvalidArgument(f"tokens: expected a slice, got {kind}")
    begin, end, step = tokens.indices(length)
    if step != 1:
        raise InvalidArgument(f"tokens: expected a slice without a step, got {tokens}")
    return begin, max(begin, end)
