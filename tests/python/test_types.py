"""Every type of the cache, K and V apart: what is written comes out, is attended, and is kept."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pagedkv
import pytest
from support import DIM, HEADS, KV_HEADS, LAYERS, Floats, attention, grow, make_cache, vectors

PLAIN = ["f32", "f16", "bf16"]
SCALED = ["i8", "e4m3", "e5m2", "i4"]
TYPES = PLAIN + SCALED
PAIRS = list(itertools.product(TYPES, TYPES))
BLOCK = 16

# Half a step of a type: of the number itself (floats), or of the row's largest magnitude (i8) or
# range (i4). Scales are rounded upwards, which makes steps of i8 longer by 2^-15, of i4 by 2^-10.
HALF_STEPS = {
    "f32": 0.0,
    "f16": 2**-11,
    "bf16": 2**-8,
    "i8": 0.5 / 127 * (1 + 2**-15),
    "e4m3": 2**-4,
    "e5m2": 2**-3,
    "i4": 0.5 / 15 * (1 + 2**-9),
}
SMALLEST = {"e4m3": 2**-6 / 448, "e5m2": 2**-14 / 57344}  # normal numbers, of a row's largest


def error_limit(dtype: str, rows: Floats) -> Floats:
    """How far each number of `rows` [tokens, heads, dim] may be from what is stored of it."""
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    if dtype == "i8":
        return np.broadcast_to(largest * HALF_STEPS[dtype], rows.shape)
    if dtype == "i4":  # DIM is one group
        low, high = rows.min(axis=-1, keepdims=True), rows.max(axis=-1, keepdims=True)
        # The minimum is an f16 at or below the lowest number.
        step = (high - low) + np.abs(low) * np.float32(2**-10)
        return np.broadcast_to(step * HALF_STEPS[dtype], rows.shape)
    limit: Floats = np.abs(rows) * np.float32(HALF_STEPS[dtype] * (1 + 2**-12))
    return np.maximum(limit, largest * np.float32(SMALLEST.get(dtype, 0.0)))


def make(k_dtype: str, v_dtype: str, **changes: Any) -> pagedkv.Cache:
    return make_cache(k_dtype=k_dtype, v_dtype=v_dtype, block_tokens=BLOCK, blocks=8, **changes)


@pytest.fixture(params=PAIRS, ids="-".join)
def cache(request: pytest.FixtureRequest) -> Iterator[pagedkv.Cache]:
    with make(*request.param) as cache:
        yield cache


def test_what_is_read_is_what_the_type_holds(cache: pagedkv.Cache) -> None:
    """Within half a step of what was written, and writing it again changes no bit."""
    text = list(range(21))
    with cache.sequence() as sequence, cache.sequence() as again:
        grow(cache, sequence, text)
        with cache.step([(again, pagedkv.UnknownTokens(len(text)))]) as step:
            for layer in range(LAYERS):
                step.write(layer, *cache.read(sequence, layer))
        for layer in range(LAYERS):
            for side, salt, dtype in ((0, 0, cache.k_dtype), (1, 100, cache.v_dtype)):
                written = vectors(text, salt + layer)
                stored = cache.read(sequence, layer)[side]
                assert (np.abs(stored - written) <= error_limit(dtype, written)).all()
                np.testing.assert_array_equal(cache.read(again, layer)[side], stored)


def test_attention_is_that_of_what_is_stored(cache: pagedkv.Cache) -> None:
    text = list(range(40))
    with cache.sequence() as sequence:
        grow(cache, sequence, text[:25])
        with cache.step([(sequence, text[25:])]) as step:
            for layer in range(LAYERS):
                step.write(layer, vectors(text[25:], layer), vectors(text[25:], 100 + layer))
            q = vectors(text[25:], 7, HEADS)
            out = step.attend(1, q)
        expected = attention(q, *cache.read(sequence, 1), 25)
        written = attention(q, vectors(text, 1), vectors(text, 101), 25)
    error = ((out - expected) ** 2).sum() / (expected**2).sum()
    assert error <= 1e-4
    assert ((out - written) ** 2).sum() / (written**2).sum() <= 0.02


def test_forks_and_cuts_keep_every_bit(cache: pagedkv.Cache) -> None:
    """A fork in the middle of a block, and a cut that is written again, beside each alone."""
    stem, left, right = list(range(21)), [30, 31], [40, 41, 42]
    with cache.sequence() as parent:
        grow(cache, parent, stem)
        with parent.fork() as child:
            grow(cache, child, right)
            parent.truncate(18)
            grow(cache, parent, left)
            forked, cut = cache.read(child, 1), cache.read(parent, 1)
        assert cache.stats().cow_copies == 1
    for text, found in ((stem + right, forked), (stem[:18] + left, cut)):
        with make(cache.k_dtype, cache.v_dtype) as other, other.sequence() as alone:
            grow(other, alone, text)
            for got, wanted in zip(found, other.read(alone, 1), strict=True):
                np.testing.assert_array_equal(got, wanted)


def test_both_devices_store_the_same(cache: pagedkv.Cache) -> None:
    text = list(range(19))
    with (
        make(cache.k_dtype, cache.v_dtype, device="sim") as other,
        cache.sequence() as here,
        other.sequence() as there,
    ):
        grow(cache, here, text)
        grow(other, there, text)
        for layer in range(LAYERS):
            pairs = zip(cache.read(here, layer), other.read(there, layer), strict=True)
            for mine, theirs in pairs:
                np.testing.assert_array_equal(mine, theirs)


def test_another_tenant_finds_zeros(cache: pagedkv.Cache) -> None:
    tokens = cache.blocks * BLOCK
    with cache.sequence(1) as before:
        grow(cache, before, list(range(tokens)))
    with cache.sequence(2) as after:
        with cache.step([(after, pagedkv.UnknownTokens(tokens))]):
            pass
        assert cache.stats().scrubs == cache.blocks
        for layer in range(LAYERS):
            for side in cache.read(after, layer):
                assert not side.any()


@pytest.mark.parametrize("dtype", TYPES)
def test_names_and_sizes(dtype: str) -> None:
    """What a block takes: codes of all elements, scales of all tokens, K and V each in 64 bytes."""
    with make(dtype, "f32") as cache:
        assert (cache.k_dtype, cache.v_dtype) == (dtype, "f32")
        assert ("f32" if dtype == "f32" else f"{dtype}/f32") in repr(cache)
    bits = {"f32": 32, "f16": 16, "bf16": 16, "i4": 4}.get(dtype, 8)
    scales = 4 * BLOCK if dtype in SCALED else 0
    head = -(-(BLOCK * DIM * bits // 8 + scales) // 64) * 64
    sizes = pagedkv.sizes(layers=3, kv_heads=2, head_dim=DIM, blocks=4, dtype=dtype)
    assert sizes.block_bytes == 3 * 2 * 2 * head


@pytest.mark.parametrize("dtype", SCALED)
@pytest.mark.parametrize("side", ["dtype", "k_dtype", "v_dtype"])
def test_scales_need_whole_tiles(dtype: str, side: str) -> None:
    with pytest.raises(pagedkv.InvalidArgument, match="^block_tokens: .*16 .*i8, e4m3, .* got 8$"):
        make_cache(block_tokens=8, **{side: dtype})
    make_cache(block_tokens=16, **{side: dtype}).close()


@pytest.mark.parametrize("dtype", SCALED)
def test_types_of_the_cache_are_not_those_of_arrays(dtype: str) -> None:
    """Arrays are floats: codes without their scales mean nothing."""
    with make(dtype, dtype) as cache, cache.sequence() as sequence:
        grow(cache, sequence, [1, 2])
        expected = f"^dtype: expected one of f32, f16, bf16, got '{dtype}'$"
        with pytest.raises(pagedkv.InvalidArgument, match=expected):
            cache.read(sequence, 0, dtype=dtype)
        with cache.step([(sequence, [3])]) as step:
            k = vectors([3], 0)
            with pytest.raises(pagedkv.InvalidArgument, match=expected):
                step.write(0, k, k, dtype=dtype)
            for code in (np.int8, np.uint8):
                with pytest.raises(pagedkv.InvalidArgument, match="^k: expected float32, .* got "):
                    step.write(0, k.astype(code), k)
            with pytest.raises(pagedkv.InvalidArgument, match=expected):
                step.attend(0, vectors([3], 7, HEADS), dtype=dtype)


@pytest.mark.parametrize("dtype", SCALED)
@pytest.mark.parametrize("array", PLAIN)
def test_arrays_of_every_type(dtype: str, array: str) -> None:
    """Narrow arrays are stored as the floats that they stand for, and read back rounded once."""
    rows = vectors([1, 2, 3], 0)
    narrow = (rows.view(np.uint32) >> 16).astype(np.uint16)
    given = {"f32": rows, "f16": rows.astype(np.float16), "bf16": narrow}[array]
    wide = (narrow.astype(np.uint32) << 16).view(np.float32) if array == "bf16" else given
    with make(dtype, dtype) as cache, cache.sequence() as a, cache.sequence() as b:
        with cache.step([(a, [1, 2, 3])]) as step:
            step.write(0, given, given, dtype=array)
        with cache.step([(b, [1, 2, 3])]) as step:
            step.write(0, wide.astype(np.float32), wide.astype(np.float32))
        exact = cache.read(a, 0)
        for mine, theirs in zip(exact, cache.read(b, 0), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        half = cache.read(a, 0, dtype="f16")
        np.testing.assert_array_equal(half[0], exact[0].astype(np.float16))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_numbers_that_are_not_finite_are_refused(dtype: str, bad: float, side: int) -> None:
    with make(dtype, dtype) as cache, cache.sequence() as sequence:
        grow(cache, sequence, [1, 2, 3])
        stored = cache.read(sequence, 0)
        arrays = [vectors([4, 5], 0), vectors([4, 5], 1)]
        arrays[side][1, KV_HEADS - 1, 3] = bad
        with (
            pytest.raises(pagedkv.NonFinite),
            cache.step([(sequence, [4, 5])]) as step,
        ):
            step.write(0, arrays[0], arrays[1])
        assert len(sequence) == 3
        for before, after in zip(stored, cache.read(sequence, 0), strict=True):
            np.testing.assert_array_equal(before, after)
