"""The reference that `--check` compares with: one request alone, K and V in plain NumPy arrays.

    keys, values   [layers][capacity][kv_heads][head_dim] float32, filled from the front

Nothing here knows of pages, blocks, batches or the C library, so a mistake in any of them cannot
hide in both paths. K and V are rounded to the types of the cache under test on the way in; scores,
softmax and the weighted sum are computed in float64.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from .beam import BeamParams, BeamSearch, Hypothesis
from .config import ModelConfig
from .errors import EngineError
from .model import Model
from .rounding import KV_DTYPES, round_to
from .sampling import Sampler

QUERY_ROWS = 128  # query rows per score matrix: bounds memory for long prompts


class ContiguousCache:
    """K and V of one sequence. Its `attend` fits `Model.forward`."""

    def __init__(
        self, config: ModelConfig, capacity: int, dtype: str = "f32", v_dtype: str | None = None
    ) -> None:
        """dtype, v_dtype    the types that K and V are rounded to; V as K by default."""
        v_dtype = dtype if v_dtype is None else v_dtype
        for name in (dtype, v_dtype):
            if name not in KV_DTYPES:
                raise EngineError(f"dtype {name!r} is unknown; known are {', '.join(KV_DTYPES)}")
        shape = (config.layers, capacity, config.kv_heads, config.head_dim)
        self.keys = np.zeros(shape, np.float32)
        self.values = np.zeros(shape, np.float32)
        self.window = config.window
        self.k_dtype = dtype
        self.v_dtype = v_dtype
        self.length = 0

    def attend(
        self,
        layer: int,
        q: NDArray[np.float32],
        k: NDArray[np.float32],
        v: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Store k, v [T, kv_heads, d] behind the committed tokens, return what q [T, heads, d]
        sees. The caller moves `length` when all layers are done."""
        begin, end = self.length, self.length + len(q)
        self.keys[layer, begin:end] = round_to(k, self.k_dtype)
        self.values[layer, begin:end] = round_to(v, self.v_dtype)
        out = np.empty_like(q)
        for first in range(0, len(q), QUERY_ROWS):
            part = slice(first, min(first + QUERY_ROWS, len(q)))
            out[part] = self._attend_rows(layer, q[part], begin + first)
        return out

    def copy(self) -> ContiguousCache:
        """Another cache with the same content."""
        twin = copy.copy(self)
        twin.keys, twin.values = self.keys.copy(), self.values.copy()
        return twin

    def _attend_rows(
        self, layer: int, q: NDArray[np.float32], position: int
    ) -> NDArray[np.float64]:
        rows, heads, dim = q.shape
        end = position + rows
        begin = max(0, position + 1 - self.window) if self.window else 0
        keys = self.keys[layer, begin:end].astype(np.float64).transpose(1, 2, 0)
        values = self.values[layer, begin:end].astype(np.float64).transpose(1, 0, 2)
        groups = len(values)
        # Query head h reads KV head h // (heads / kv_heads): [kv_heads, rows * share, dim].
        grouped = q.astype(np.float64).reshape(rows, groups, heads // groups, dim)
        grouped = grouped.transpose(1, 0, 2, 3).reshape(groups, -1, dim)
        scores = (grouped @ keys / np.sqrt(dim)).reshape(groups, rows, -1, end - begin)
        scores = np.where(self._visible(position, rows, begin)[:, None, :], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        seen = weights.reshape(groups, -1, end - begin) @ values
        seen = seen.reshape(groups, rows, heads // groups, dim).transpose(1, 0, 2, 3)
        result: NDArray[np.float64] = seen.reshape(rows, heads, dim)
        return result

    def _visible(self, position: int, rows: int, begin: int) -> NDArray[np.bool_]:
        """[rows, keys]: which keys from `begin` on each query position may see."""
        query = np.arange(position, position + rows)[:, None]
        key = np.arange(begin, position + rows)[None, :]
        visible = key <= query
        return visible & (key > query - self.window) if self.window else visible


def generate_alone(
    model: Model,
    prompt: NDArray[np.uint32],
    max_tokens: int,
    sampler: Sampler,
    stop_tokens: tuple[int, ...] = (),
    dtype: str = "f32",
    v_dtype: str | None = None,
) -> tuple[list[int], list[NDArray[np.float32]]]:
    """Serve one prompt by itself: the generated tokens, and the logits [vocab] each came from.

    The last token of the list is a stop token, or the list has `max_tokens`.
    """
    cache = ContiguousCache(model.config, len(prompt) + max_tokens, dtype, v_dtype)
    tokens: list[int] = []
    logits: list[NDArray[np.float32]] = []
    feed = prompt
    while len(tokens) < max_tokens and not (tokens and tokens[-1] in stop_tokens):
        row = _last_row(model, cache, feed)
        tokens.append(sampler(row))
        logits.append(row)
        feed = np.array(tokens[-1:], np.uint32)
    return tokens, logits


def search_alone(
    model: Model,
    prompt: NDArray[np.uint32],
    max_tokens: int,
    params: BeamParams,
    stop_tokens: tuple[int, ...] = (),
    dtype: str = "f32",
    v_dtype: str | None = None,
) -> list[Hypothesis]:
    """Search for the best continuations of one prompt, each beam with a cache of its own. Returns
    the hypotheses, best first."""
    search = BeamSearch(params, max_tokens, stop_tokens)
    caches = [ContiguousCache(model.config, len(prompt) + max_tokens, dtype, v_dtype)]
    feeds = [prompt]
    while True:
        rows = [_last_row(model, cache, feed) for cache, feed in zip(caches, feeds, strict=True)]
        choices = search.step(np.stack(rows))
        if not choices:
            return search.hypotheses
        parents = [parent for parent, _ in choices]
        # The last that continues a parent takes its cache over, the others copy it.
        caches = [
            caches[parent].copy() if parent in parents[place:] else caches[parent]
            for place, parent in enumerate(parents, 1)
        ]
        feeds = [np.array([token], np.uint32) for _, token in choices]


def _last_row(
    model: Model, cache: ContiguousCache, feed: NDArray[np.uint32]
) -> NDArray[np.float32]:
    """Logits [vocab] behind `feed`, which becomes part of `cache`."""
    positions = np.arange(cache.length, cache.length + len(feed))
    row: NDArray[np.float32] = model.forward(
        feed, positions, np.array([len(feed) - 1]), cache.attend
    )[0]
    cache.length += len(feed)
    return row
