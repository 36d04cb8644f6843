"""A small cache, K/V made from tokens, and attention as it stands in textbooks."""

from typing import Any

import numpy as np
import pagedkv
from numpy.typing import NDArray

LAYERS, KV_HEADS, HEADS, DIM, BLOCK = 2, 2, 4, 32, 4

Floats = NDArray[np.float32]


def make_cache(**changes: Any) -> pagedkv.Cache:
    """A cache of 64 blocks of 4 tokens, one thread, the same secrets every time."""
    options: dict[str, Any] = {
        "layers": LAYERS,
        "kv_heads": KV_HEADS,
        "head_dim": DIM,
        "blocks": 64,
        "block_tokens": BLOCK,
        "sequences": 16,
        "sequence_tokens": 128,
        "step_sequences": 16,
        "step_tokens": 128,
        "threads": 1,
        "seed": 1,
    }
    return pagedkv.Cache(**{**options, **changes})


def vectors(tokens: list[int], salt: int, heads: int = KV_HEADS, dim: int = DIM) -> Floats:
    """Random vectors [tokens, heads, dim] that depend on the tokens and `salt` alone."""
    rows = [np.random.default_rng([salt, token]).standard_normal((heads, dim)) for token in tokens]
    return np.array(rows, np.float32).reshape(len(tokens), heads, dim)


def write_all(step: pagedkv.Step, tokens: list[int]) -> None:
    """Write K and V of `tokens`, which are all tokens of the step, to every layer."""
    for layer in range(LAYERS):
        step.write(layer, vectors(tokens, layer), vectors(tokens, 100 + layer))


def grow(cache: pagedkv.Cache, sequence: pagedkv.Sequence, tokens: list[int]) -> None:
    """One committed step of one sequence."""
    with cache.step([(sequence, tokens)]) as step:
        write_all(step, tokens)


def attention(q: Floats, k: Floats, v: Floats, first: int, **options: Any) -> NDArray[np.float64]:
    """softmax(scale q k^T) v in double precision.

    q [rows, heads, dim] stands at position `first` on; k and v [tokens, kv_heads, dim] at 0 on.
    """
    group = q.shape[1] // k.shape[1]
    keys = np.repeat(k.astype(np.float64), group, axis=1)
    values = np.repeat(v.astype(np.float64), group, axis=1)
    scale = options.get("scale", q.shape[2] ** -0.5)
    scores = np.einsum("rhd,thd->hrt", q.astype(np.float64), keys) * scale
    if softcap := options.get("softcap", 0.0):
        scores = softcap * np.tanh(scores / softcap)
    position = first + np.arange(len(q))[:, None]
    token = np.arange(len(k))[None, :]
    visible = token <= position
    if window := options.get("window", 0):
        visible &= (token > position - window) | (token < options.get("sinks", 0))
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total = weights.sum(axis=-1, keepdims=True)
    if (sinks := options.get("sink_logits")) is not None:
        total += np.exp(sinks[:, None, None] - scores.max(axis=-1, keepdims=True))
    return np.einsum("hrt,thd->rhd", weights / total, values)
