"""The decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU, over packed tokens.

One call takes the new tokens of many sequences, packed without padding into rows [T]:

    sequence A decodes         sequence B, a chunk of its prompt       C decodes
    tokens     [ a41 |         b0  b1  b2  b3  b4  b5                | c7 ]
    positions  [ 41  |         0   1   2   3   4   5                 | 7  ]

All but attention works row by row and does not care whose row it is. Attention is a callable that
the caller brings, `attend(layer, q, k, v) -> out`: it stores k and v of the rows and returns what
q sees. The paged cache and the contiguous reference are two such callables, and nothing else
differs.

Compute is float32 whatever the checkpoint's type. `xp` is numpy, or cupy when the weights live on
a GPU (arrays.py). Every row is bitwise independent of the other rows (see linear.py), so with an
attention that keeps the same promise the logits of a sequence do not depend on what it is batched
with.

Arrays are written [T, ...]. On the CPU they lie in memory in Fortran order, the tokens of one
feature side by side: few rows multiply fastest so, and norms and SiLU become a few calls over long
stretches. What attention reads and returns is in C order; the products around it change the order
(linear.py). On a GPU all is in C order: rows are what products are cut by, and a sum over a row is
then that of one group of threads, whose size depends on the width of the row alone.
Rows are padded once, at the entrance, to what the products want (Linear.grain); what the padding
computes is never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, HostArrays, Order, arrays_for
from .checkpoint import Checkpoint
from .config import ModelConfig
from .linear import ROW_GRAINS, Linear, TiledLinear, padded
from .rope import frequencies, rotate, rotation

# attend(layer, q [T, heads, d], k [T, kv_heads, d], v [T, kv_heads, d]) -> [T, heads, d]
Attend = Callable[[int, Array, Array, Array], Array]

LINEARS: dict[str, type[Linear] | type[TiledLinear]] = {"cpu": Linear, "cuda": TiledLinear}


class Model:
    """A loaded checkpoint, ready to run.

    device      "cpu" (numpy) or "cuda" (cupy, in its current stream)
    row_tile    see linear.Linear
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", row_tile: int | None = None
    ) -> None:
        self.config = checkpoint.config
        self.arrays = arrays_for(device)
        self.xp = self.arrays.xp
        load = _Loader(self.arrays, checkpoint.weights, row_tile)
        self.embedding = load.array("model.embed_tokens.weight")
        self.layers = [_Layer(load, self.config, index) for index in range(self.config.layers)]
        self.norm = load.array("model.norm.weight")
        head = "model.embed_tokens.weight" if self.config.tied else "lm_head.weight"
        self.head = load.linear([head])
        angles, self.rope_scale = frequencies(self.config.rope, self.config.head_dim)
        self.angles = self.xp.asarray(angles)
        linears = [self.head, *(linear for layer in self.layers for linear in layer.linears)]
        # Never one row alone: NumPy then sums in another order.
        self.grain = math.lcm(ROW_GRAINS[0], *(linear.grain for linear in linears))
        if row_tile == 0:
            self.grain = 1

    def forward(self, tokens: Array, positions: Array, rows: Array, attend: Attend) -> Array:
        """Run the new `tokens` [T] at `positions` [T]; return logits [R, vocab] of the rows that
        `rows` [R] names. Only what `attend` keeps is changed."""
        xp = self.xp
        padding = (0, -len(tokens) % self.grain)
        tokens, positions = np.pad(tokens, padding), np.pad(positions, padding)
        order = self.arrays.order
        hidden = xp.asarray(self.embedding[xp.asarray(tokens)], order=order)
        turn = rotation(xp, xp.asarray(positions), self.angles, self.rope_scale)
        count = len(tokens) - padding[1]
        for layer in self.layers:
            layer.forward(hidden, turn, count, attend)
        last = padded(xp, hidden[xp.asarray(rows)], -(-len(rows) // self.grain) * self.grain, order)
        logits = self.head(rms_norm(xp, last, self.norm, self.config.norm_eps))
        return xp.ascontiguousarray(logits[: len(rows)])


class _Loader:
    """Hands out weights on the device, each moved there once; several projections of one input
    become one product."""

    def __init__(
        self, arrays: HostArrays, weights: dict[str, NDArray[np.float32]], row_tile: int | None
    ) -> None:
        self.arrays = arrays
        self.weights = weights
        self.row_tile = row_tile
        self._moved: dict[str, Array] = {}

    def array(self, name: str) -> Array:
        if name not in self._moved:
            self._moved[name] = self.arrays.xp.asarray(self.weights[name])
        return self._moved[name]

    def linear(
        self, names: list[str], x_order: Order = "F", y_order: Order = "F"
    ) -> Linear | TiledLinear:
        weight = self._joined(names)
        biases = [name.removesuffix("weight") + "bias" for name in names]
        bias = self._joined(biases) if biases[0] in self.weights else None
        kind = LINEARS[self.arrays.device]
        return kind(self.arrays.xp, weight, bias, self.row_tile, x_order, y_order)

    def _joined(self, names: list[str]) -> Array:
        if len(names) == 1:
            return self.array(names[0])
        return self.arrays.xp.asarray(np.concatenate([self.weights[name] for name in names]))


class _Layer:
    """One decoder layer."""

    def __init__(self, load: _Loader, config: ModelConfig, index: int) -> None:
        prefix = f"model.layers.{index}."
        self.index = index
        self.config = config
        self.xp = load.arrays.xp
        self.part = load.arrays.part
        self.norm_in = load.array(prefix + "input_layernorm.weight")
        self.norm_mid = load.array(prefix + "post_attention_layernorm.weight")
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        self.qkv = load.linear([f"{attention}{name}_proj.weight" for name in "qkv"], y_order="C")
        self.out = load.linear([attention + "o_proj.weight"], x_order="C")
        self.gate_up = load.linear([mlp + "gate_proj.weight", mlp + "up_proj.weight"])
        self.down = load.linear([mlp + "down_proj.weight"])
        if config.qk_norm:
            self.q_norm = load.array(attention + "q_norm.weight")
            self.k_norm = load.array(attention + "k_norm.weight")

    @property
    def linears(self) -> list[Linear | TiledLinear]:
        return [self.qkv, self.out, self.gate_up, self.down]

    def forward(self, hidden: Array, turn: tuple[Array, Array], count: int, attend: Attend) -> None:
        """Change `hidden` [T, hidden] from the input of the layer to its output. Rows from `count`
        on are padding."""
        eps = self.config.norm_eps
        normed = rms_norm(self.xp, hidden, self.norm_in, eps)
        hidden += self._attention(normed, turn, count, attend)
        normed = rms_norm(self.xp, hidden, self.norm_mid, eps)
        hidden += self.down(gated(self.xp, self.gate_up(normed), self.part))

    def _attention(
        self, normed: Array, turn: tuple[Array, Array], count: int, attend: Attend
    ) -> Array:
        config, xp = self.config, self.xp
        packed = self.qkv(normed).reshape(len(normed), -1, config.head_dim)
        kv_begin, v_begin = config.heads, config.heads + config.kv_heads
        if config.qk_norm:
            q, k = packed[:, :kv_begin], packed[:, kv_begin:v_begin]
            q[...] = rms_norm(xp, q, self.q_norm, config.norm_eps)
            k[...] = rms_norm(xp, k, self.k_norm, config.norm_eps)
        turned = rotate(xp, packed[:, :v_begin], *turn)[:count]
        q, k, v = turned[:, :kv_begin], turned[:, kv_begin:], packed[:count, v_begin:]
        seen = attend(self.index, q, k, v).reshape(count, -1)
        return self.out(padded(xp, seen, len(normed), "C"))


def rms_norm(xp: Any, x: Array, weight: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich, 1910.07467)."""
    mean_square = xp.mean(x * x, axis=-1, keepdims=True)
    out = x / xp.sqrt(mean_square + xp.float32(eps))
    out *= weight
    return out


def gated(xp: Any, gate_up: Array, numbers: int) -> Array:
    """[T, 2 n] -> [T, n]: silu of the first half times the second, about so many `numbers` at a
    time. Changes `gate_up`."""
    rows, inner = len(gate_up), gate_up.shape[1] // 2
    gate, up = gate_up[:, :inner], gate_up[:, inner:]
    step = max(1, numbers // max(rows, 1))
    for begin in range(0, inner, step):
        part = gate[:, begin : begin + step]
        xp.multiply(silu(xp, part), up[:, begin : begin + step], out=part)
    return gate


def silu(xp: Any, x: Array) -> Array:
    """x * sigmoid(x)."""
    out = xp.negative(x)
    with np.errstate(over="ignore"):  # x / infinity is the right answer there
        xp.exp(out, out=out)
    out += 1
    xp.divide(x, out, out=out)
    return out
