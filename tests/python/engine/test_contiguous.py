"""The reference itself: attention against loops, rounding against exact cases."""

from pathlib import Path

import numpy as np
import pytest
from pagedkv.engine import ContiguousCache, Model, Sampler, SamplingParams, load_checkpoint
from pagedkv.engine.contiguous import QUERY_ROWS, generate_alone
from pagedkv.engine.errors import EngineError
from pagedkv.engine.rounding import round_to
from tiny import write_checkpoint

RNG = np.random.default_rng(3)


def by_loops(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int) -> np.ndarray:
    """Attention written out for the last len(q) positions, one head and one key at a time."""
    out = np.zeros(q.shape)
    share = q.shape[1] // k.shape[1]
    for row in range(len(q)):
        position = len(k) - len(q) + row
        for head in range(q.shape[1]):
            first = max(0, position - window + 1) if window else 0
            scores = [
                float(np.dot(q[row, head], k[key, head // share])) / np.sqrt(q.shape[2])
                for key in range(first, position + 1)
            ]
            weights = np.exp(np.array(scores) - max(scores))
            weights /= weights.sum()
            for key, weight in enumerate(weights):
                out[row, head] += weight * v[first + key, head // share]
    return out


@pytest.mark.parametrize("window", [0, 1, 5, 1000])
@pytest.mark.parametrize("rows", [1, 3, QUERY_ROWS + 5])
def test_attention_by_loops(tmp_path: Path, window: int, rows: int) -> None:
    write_checkpoint(
        tmp_path,
        model_type="mistral",
        architectures=["MistralForCausalLM"],
        sliding_window=window or None,
    )
    config = load_checkpoint(tmp_path).config
    cache = ContiguousCache(config, rows + 7)
    past, new = 7, rows
    q = RNG.standard_normal((past + new, config.heads, config.head_dim)).astype(np.float32)
    k, v = RNG.standard_normal((2, past + new, config.kv_heads, config.head_dim)).astype("f4")
    cache.attend(1, q[:past], k[:past], v[:past])
    cache.length = past
    out = cache.attend(1, q[past:], k[past:], v[past:])
    np.testing.assert_allclose(out, by_loops(q[past:], k, v, window), rtol=1e-4, atol=1e-5)


def test_rounding() -> None:
    values = RNG.standard_normal(1000).astype(np.float32)
    np.testing.assert_array_equal(round_to(values, "f32"), values)
    np.testing.assert_array_equal(round_to(values, "f16"), values.astype("f2").astype("f4"))
    rounded = round_to(values, "bf16")
    assert not (rounded.view("u4") & 0xFFFF).any()
    assert np.abs(rounded - values).max() <= np.abs(values).max() * 2.0**-8
    ties = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF808000], "u4").view("f4")
    expected = np.array([0x3F800000, 0x3F820000, 0x3F810000, 0xBF800000], "u4")
    np.testing.assert_array_equal(round_to(ties, "bf16").view("u4"), expected)


def test_dtype_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    with pytest.raises(EngineError, match="dtype 'int3' is unknown; known are f32, f16, bf16"):
        ContiguousCache(load_checkpoint(tmp_path).config, 8, "int3")
    with pytest.raises(EngineError, match="dtype 'i2' is unknown"):
        ContiguousCache(load_checkpoint(tmp_path).config, 8, "i8", "i2")


def test_generation_stops(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = Model(load_checkpoint(tmp_path))
    prompt = np.array([3, 1, 4], np.uint32)
    tokens, logits = generate_alone(model, prompt, 12, Sampler(SamplingParams()))
    assert len(tokens) == len(logits) == 12
    assert [int(row.argmax()) for row in logits] == tokens
    stop = tokens[5]
    cut, _ = generate_alone(model, prompt, 12, Sampler(SamplingParams()), (stop,))
    assert cut == tokens[: tokens.index(stop) + 1]
