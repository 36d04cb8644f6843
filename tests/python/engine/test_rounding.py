"""Rounding in NumPy against the library: what is read is bit by bit what round_to says."""

import numpy as np
import pagedkv
import pytest
from pagedkv.engine import KV_DTYPES, round_to

TOKENS, HEADS = 70, 2


def through_cache(values: np.ndarray, dtype: str, device: str) -> np.ndarray:
    """Write `values` [tokens, heads, dim] as K and V, and read them back."""
    with pagedkv.Cache(
        layers=1, kv_heads=HEADS, head_dim=values.shape[-1], blocks=8, dtype=dtype, device=device
    ) as cache:
        sequence = cache.sequence()
        sequence.append(pagedkv.UnknownTokens(len(values)))
        sequence.write(0, values, values)
        sequence.commit()
        k, v = cache.read(sequence, 0)
        np.testing.assert_array_equal(k, v)
        return np.asarray(k)


def kinds(dim: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(dim)
    normal = generator.standard_normal((TOKENS, HEADS, dim)).astype(np.float32)
    channels = np.where(np.arange(dim) % 16 == 3, np.float32(12), np.float32(0))
    small = (normal * np.float32(2.0) ** generator.integers(-30, 0, (TOKENS, 1, 1))).astype("f4")
    sparse = np.where(generator.random(normal.shape) < 0.05, normal, np.float32(0))
    return {"normal": normal, "outliers": normal + channels, "small": small, "sparse": sparse}


@pytest.mark.parametrize("device", ["cpu", "sim"])
@pytest.mark.parametrize("dim", [16, 48, 128])
@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_equal_to_the_library(dtype: str, dim: int, device: str) -> None:
    for name, values in kinds(dim).items():
        read = through_cache(values, dtype, device)
        np.testing.assert_array_equal(read, round_to(values, dtype), err_msg=name)


def test_scaled_types_refuse_small_blocks() -> None:
    for dtype in KV_DTYPES[3:]:
        for types in ({"k_dtype": dtype}, {"v_dtype": dtype}):
            with pytest.raises(pagedkv.InvalidArgument, match="^block_tokens: at least 16 with"):
                pagedkv.sizes(layers=1, kv_heads=1, head_dim=64, blocks=1, block_tokens=8, **types)


def test_scaled_types_take_less() -> None:
    """Bytes of a token and head of 128 dims, K and V, with their scales."""
    expected = {
        "f32": 1024,
        "f16": 512,
        "bf16": 512,
        "i8": 264,
        "e4m3": 264,
        "e5m2": 264,
        "i4": 160,
    }
    for dtype, size in expected.items():
        sizes = pagedkv.sizes(layers=1, kv_heads=1, head_dim=128, blocks=1, dtype=dtype)
        assert sizes.block_bytes == 16 * size


def test_not_a_number_is_refused() -> None:
    for dtype in KV_DTYPES:
        with pagedkv.Cache(layers=1, kv_heads=1, head_dim=32, blocks=1, dtype=dtype) as cache:
            sequence = cache.sequence()
            sequence.append([1])
            good = np.zeros((1, 1, 32), np.float32)
            bad = good.copy()
            bad[0, 0, 31] = np.nan
            with pytest.raises(pagedkv.NonFinite):
                sequence.write(0, good, bad)
            sequence.write(0, good, good)
