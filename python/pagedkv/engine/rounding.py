"""What numbers become in a cache of a given type, in NumPy: `pagedkv run --check` and the figures
of the types compare the library with this.

    f16, bf16     the nearest number, ties to even
    i8            n * scale, n = -127..127
    e4m3, e5m2    an 8-bit float * scale; without subnormals
    i4            minimum + n * scale, n = 0..15, for each 32 elements of the last axis

i8, e4m3 and e5m2 take one scale for the last axis. Scales and minima are rounded so that nothing is
cut off (include/pagedkv.h). All arithmetic is in float32 as in the library: results are equal bit
by bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["KV_DTYPES", "round_to"]

Floats = NDArray[np.float32]

KV_DTYPES = ("f32", "f16", "bf16", "i8", "e4m3", "e5m2", "i4")
GROUP = 32  # elements of i4 that share a scale and a minimum
ZERO_BELOW = np.float32(2.0**-96)  # rows that stay below it are zeros
# Bits of fraction, bias of the exponent, largest number.
_MINIFLOATS = {"e4m3": (3, 7, 448.0), "e5m2": (2, 15, 57344.0)}


def round_to(values: Floats, dtype: str) -> Floats:
    """`values` [..., dims] after a write to a cache of `dtype` and a read, as float32."""
    if dtype == "f16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        return _drop_bits(values, 16)
    if dtype == "i4":
        return _through_groups(values)
    if dtype == "i8":
        scale = _scale(values, 127.0)
        rounded: Floats = np.rint(values * _inverse(scale)) * scale
        return rounded
    if dtype in _MINIFLOATS:
        scale = _scale(values, _MINIFLOATS[dtype][2])
        return _minifloat(values * _inverse(scale), dtype) * scale
    return values


def _drop_bits(values: Floats, count: int) -> Floats:
    """Round away the lowest bits of the fraction, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(count)) & np.uint32(1)
    half = np.uint32((1 << (count - 1)) - 1)
    kept = np.uint32(0xFFFFFFFF << count & 0xFFFFFFFF)
    rounded: Floats = ((bits + half + odd) & kept).view(np.float32)
    return rounded


def _scale(values: Floats, largest: float) -> Floats:
    """[..., 1]: the largest magnitude / `largest`, rounded up to 16 significant bits."""
    highest = np.abs(values).max(axis=-1, keepdims=True)
    exact = np.ascontiguousarray(highest / np.float32(largest), np.float32).view(np.uint32)
    scale = ((exact + np.uint32(0xFF)) & np.uint32(0xFFFFFF00)).view(np.float32)
    kept: Floats = np.where(highest < ZERO_BELOW, np.float32(0), scale)
    return kept


def _inverse(scale: Floats) -> Floats:
    inverse: Floats = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    return inverse


def _minifloat(values: Floats, dtype: str) -> Floats:
    fraction_bits, bias, _ = _MINIFLOATS[dtype]
    smallest = np.float32(2.0 ** (1 - bias))
    rounded = _drop_bits(values, 23 - fraction_bits)
    nearest = np.where(np.abs(values) >= smallest / 2, smallest, np.float32(0))
    return np.where(np.abs(rounded) < smallest, np.copysign(nearest, values), rounded)


def _through_groups(values: Floats) -> Floats:
    result = np.empty_like(values)
    for begin in range(0, values.shape[-1], GROUP):
        group = values[..., begin : begin + GROUP]
        minimum = _f16_not_above(group.min(axis=-1, keepdims=True)) + np.float32(0)
        step = (group.max(axis=-1, keepdims=True) - minimum) / np.float32(15)
        scale = -_f16_not_above(-step * np.float32(1 - 2.0**-20))
        codes = np.rint((group - minimum) * _inverse(scale))
        result[..., begin : begin + GROUP] = minimum + codes * scale
    return result


def _f16_not_above(values: Floats) -> Floats:
    nearest = values.astype(np.float16)
    below = np.nextafter(nearest, np.float16(-np.inf))
    return np.where(nearest.astype(np.float32) > values, below, nearest).astype(np.float32)
