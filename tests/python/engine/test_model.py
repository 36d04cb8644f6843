"""The pieces of the model against formulas written down again, and independence of the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pagedkv.engine import ContiguousCache, Model, load_checkpoint
from pagedkv.engine.arrays import arrays_for
from pagedkv.engine.errors import EngineError
from pagedkv.engine.linear import (
    ROW_GRAINS,
    ROW_TILES,
    Linear,
    choose_grain,
    choose_tile,
    multiply_tiled,
)
from pagedkv.engine.model import rms_norm, silu
from pagedkv.engine.rope import RopeConfig, frequencies, rotate, rotation
from tiny import write_checkpoint

RNG = np.random.default_rng(7)


def test_rms_norm_and_silu() -> None:
    x = RNG.standard_normal((5, 32)).astype(np.float32)
    weight = RNG.standard_normal(32).astype(np.float32)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(rms_norm(np, x, weight, 1e-5), expected, rtol=1e-5)
    np.testing.assert_allclose(silu(np, x), wide / (1 + np.exp(-wide)), rtol=1e-5)
    extreme = np.array([-1e30, -200.0, 200.0, 1e30], np.float32)
    np.testing.assert_array_equal(silu(np, extreme), np.array([-0.0, -0.0, 200.0, 1e30], "f4"))


def test_rotation_turns_pairs_by_the_angle() -> None:
    heads = RNG.standard_normal((3, 2, 8)).astype(np.float32)
    positions = np.array([0, 1, 1000])
    angles, factor = frequencies(RopeConfig(theta=100.0), 8)
    assert factor == 1.0
    out = rotate(np, heads, *rotation(np, positions, angles, factor))
    for token, position in enumerate(positions):
        for plane in range(4):
            angle = position * 100.0 ** (-2 * plane / 8)
            pair = heads[token, :, plane] + 1j * heads[token, :, plane + 4]
            turned = pair * np.exp(1j * angle)
            np.testing.assert_allclose(out[token, :, plane], turned.real, atol=1e-4)
            np.testing.assert_allclose(out[token, :, plane + 4], turned.imag, atol=1e-4)


def test_rope_scalings_by_hand() -> None:
    plain, _ = frequencies(RopeConfig(theta=10000.0), 64)
    linear, _ = frequencies(RopeConfig("linear", theta=10000.0, factor=4.0), 64)
    np.testing.assert_allclose(linear, plain / 4, rtol=1e-6)
    llama3 = RopeConfig("llama3", theta=10000.0, factor=8.0, original_context=8192)
    scaled, _ = frequencies(llama3, 64)
    turns = 8192 * plain / (2 * np.pi)
    np.testing.assert_array_equal(scaled[turns > 4.001], plain[turns > 4.001])
    np.testing.assert_allclose(scaled[turns < 0.999], plain[turns < 0.999] / 8, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()
    yarn = RopeConfig("yarn", theta=10000.0, factor=4.0, original_context=4096)
    scaled, factor = frequencies(yarn, 64)
    assert scaled[0] == plain[0]
    np.testing.assert_allclose(scaled[-1], plain[-1] / 4, rtol=1e-6)
    np.testing.assert_allclose(factor, 0.1 * np.log(4.0) + 1)
    assert frequencies(RopeConfig("yarn", factor=4.0, original_context=64), 64)[1] == factor
    fixed = RopeConfig("yarn", factor=4.0, original_context=64, attention_factor=0.5)
    assert frequencies(fixed, 64)[1] == 0.5
    both = RopeConfig("yarn", factor=4.0, original_context=64, mscale=1.0, mscale_all_dim=1.0)
    assert frequencies(both, 64)[1] == 1.0


@pytest.mark.parametrize("orders", ["FF", "FC", "CF", "CC"])
@pytest.mark.parametrize("shape", [(96, 64), (37, 100), (513, 192), (768, 256), (256, 688)])
def test_rows_do_not_depend_on_their_neighbours(shape: tuple[int, int], orders: str) -> None:
    weight = RNG.standard_normal(shape).astype(np.float32)
    rows = RNG.standard_normal((75, shape[1])).astype(np.float32)
    project = Linear(np, weight, None, None, *orders)
    assert project.grain in ROW_GRAINS or project.row_tile in ROW_TILES
    together = project(rows)
    np.testing.assert_allclose(together, rows.astype("f8") @ weight.T, rtol=1e-3, atol=1e-3)
    for begin, end in ((0, 1), (3, 4), (7, 9), (20, 51), (74, 75)):
        np.testing.assert_array_equal(project(rows[begin:end]), together[begin:end])


def test_tile_choice_rejects_what_treats_rows_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary: with a product that adds the row number, only a tile of one row is left."""
    honest = np.matmul

    def crooked(a: Any, b: Any) -> Any:
        product = honest(a, b)
        return product + np.arange(product.shape[-2], dtype=np.float32)[:, None] * 1e-3

    weight = RNG.standard_normal((16, 16)).astype(np.float32)
    monkeypatch.setattr(np, "matmul", crooked)
    assert choose_tile(weight) == 1


@pytest.mark.parametrize("few", [16, 40, 100])
def test_grain_choice_rejects_another_way_for_few_rows(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary: a product that is another one below `few` rows, as kernels for small matrices."""
    honest = np.matmul

    def crooked(weight: Any, columns: Any) -> Any:
        product = honest(weight, columns)
        return product if columns.shape[-1] >= few else product * np.float32(1 + 1e-6)

    weight = RNG.standard_normal((256, 256)).astype(np.float32)
    monkeypatch.setattr(np, "matmul", crooked)
    grain = choose_grain(weight)
    assert grain == 0 or grain >= few


@pytest.mark.parametrize("tile", [0, 1, 3, 8, 64])
def test_any_tile_gives_the_product(tile: int) -> None:
    rows = RNG.standard_normal((10, 5)).astype(np.float32)
    matrix = RNG.standard_normal((5, 7)).astype(np.float32)
    np.testing.assert_allclose(multiply_tiled(np, rows, matrix, tile), rows @ matrix, rtol=1e-4)


def test_bias_and_joined_projections(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, attention_bias=True)
    layer = Model(load_checkpoint(tmp_path)).layers[0]
    x = RNG.standard_normal((3, 32)).astype(np.float32)
    parts = []
    for name in "qkv":
        prefix = f"model.layers.0.self_attn.{name}_proj."
        parts.append(x @ weights[prefix + "weight"].T + weights[prefix + "bias"])
    np.testing.assert_allclose(layer.qkv(x), np.concatenate(parts, axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("window", [None, 9])
def test_chunks_do_not_change_logits(tmp_path: Path, dtype: str, window: int | None) -> None:
    write_checkpoint(
        tmp_path,
        model_type="mistral",
        architectures=["MistralForCausalLM"],
        sliding_window=window,
    )
    model = Model(load_checkpoint(tmp_path))
    prompt = RNG.integers(0, 61, 40)

    def logits(splits: list[int]) -> Any:
        cache = ContiguousCache(model.config, 64, dtype)
        for begin, end in zip([0, *splits], [*splits, len(prompt)], strict=True):
            rows = np.array([end - begin - 1])
            last = model.forward(prompt[begin:end], np.arange(begin, end), rows, cache.attend)
            cache.length = end
        return last

    whole = logits([])
    assert whole.shape == (1, 61)
    tolerance = {"f32": 1e-4, "bf16": 0.05}[dtype]
    np.testing.assert_allclose(logits([17]), whole, rtol=0, atol=tolerance)
    np.testing.assert_allclose(logits(list(range(1, 40))), whole, rtol=0, atol=tolerance)


def test_devices() -> None:
    arrays = arrays_for("cpu")
    assert arrays.xp is np
    with pytest.raises(EngineError, match="device 'tpu' is unknown; known are cpu, cuda"):
        arrays_for("tpu")
    array = np.zeros(3)
    assert arrays.to_host(array) is array
