"""Rotary position embedding (Su et al., RoFormer, arXiv 2104.09864) and its published scalings.

A head of `d` dims is `d / 2` planes; plane i of a token at position p is turned by p * f[i], where
f[i] = theta ** (-2 i / d). Models for long contexts change f:

    default   f as above
    linear    f / factor                       (position interpolation, arXiv 2306.15595)
    dynamic   f as above up to the trained length; see below
    llama3    long waves are divided by factor, short ones kept, between them a linear blend
    yarn      the same idea with the blend over planes, and cos/sin scaled (arXiv 2309.00071)

"dynamic" changes f once a sequence outgrows the trained length, so that keys already in a cache
were turned by other angles: the result would depend on how the prompt was cut into chunks. Here
such a model runs up to its trained length, where it equals "default", and longer requests are
refused.

Halves are rotated as Hugging Face checkpoints store them: dim i pairs with dim i + d / 2. Angles
are computed in float32, as the models were trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True)
class RopeConfig:
    """One rotary embedding. Fields that a type does not use keep their defaults."""

    type: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    original_context: int = 0  # tokens the base model was trained on; llama3 and yarn
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: derived from factor and the two below
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool = True  # yarn: round the blend's borders to whole planes


def frequencies(rope: RopeConfig, head_dim: int) -> tuple[NDArray[np.float32], float]:
    """Angles per position [head_dim / 2], and the factor on cos and sin."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    plain: NDArray[np.float64] = rope.theta**-exponents
    if rope.type == "linear":
        plain = plain / rope.factor
    elif rope.type == "llama3":
        plain = _llama3(rope, plain)
    elif rope.type == "yarn":
        return _yarn(rope, plain, head_dim).astype(np.float32), _yarn_attention_factor(rope)
    return plain.astype(np.float32), 1.0


def _llama3(rope: RopeConfig, plain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep waves that turn at least high_freq_factor times in the trained context, stretch those
    that turn at most low_freq_factor times, blend linearly in the number of turns between."""
    turns = rope.original_context * plain / (2 * math.pi)
    keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = np.clip(keep, 0.0, 1.0)
    blend: NDArray[np.float64] = keep * plain + (1 - keep) * plain / rope.factor
    return blend


def _yarn(rope: RopeConfig, plain: NDArray[np.float64], head_dim: int) -> NDArray[np.float64]:
    """Blend over plane numbers: from `low`, which turns beta_fast times in the trained context, to
    `high`, which turns beta_slow times."""

    def plane(turns: float) -> float:
        wavelength = rope.original_context / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = plane(rope.beta_fast), plane(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = high - low if high != low else 0.001
    stretch = np.clip((np.arange(head_dim // 2) - low) / span, 0.0, 1.0)
    blend: NDArray[np.float64] = plain * (1 - stretch) + plain / rope.factor * stretch
    return blend


def _yarn_attention_factor(rope: RopeConfig) -> float:
    def magnitude(mscale: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * mscale * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    return magnitude(1.0)


def rotation(xp: Any, positions: Array, angles: Array, factor: float) -> tuple[Array, Array]:
    """cos and sin for `positions` [T], each [T, 1, head_dim / 2], ready to multiply with heads."""
    turned = positions.astype(xp.float32)[:, None] * angles
    scale = xp.float32(factor)
    return (xp.cos(turned) * scale)[:, None, :], (xp.sin(turned) * scale)[:, None, :]


def rotate(xp: Any, heads: Array, cos: Array, sin: Array) -> Array:
    """Turn `heads` [T, heads, head_dim] by the angles of `rotation`. A new array, in C order."""
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]
    out = xp.empty(heads.shape, heads.dtype)
    xp.subtract(first * cos, second * sin, out=out[..., :half])
    xp.add(second * cos, first * sin, out=out[..., half:])
    return out
