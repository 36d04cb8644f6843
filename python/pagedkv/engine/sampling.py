"""From logits to a token: greedy, or temperature with top-k and top-p (nucleus, arXiv 1904.09751).

Every sample of every request has a random generator of its own, and draws from it exactly once
per token. Its seed is (seed, request number, sample number), so the text of a request depends
neither on the requests around it nor on whether it was preempted on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens. Raises RequestError when a value is out of range.

    temperature   0: greedy, the most likely token (the lowest id among equals)
    top_k         choose among the k most likely tokens only; 0: all
    top_p         choose among the most likely tokens that together reach p; 1: all
    seed          0 or more
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise RequestError(f"temperature {self.temperature} must be 0 (greedy) or positive")
        if self.top_k < 0:
            raise RequestError(f"top_k {self.top_k} must be 0 (off) or positive")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p {self.top_p} must be above 0 and at most 1")
        if self.seed < 0:
            raise RequestError(f"seed {self.seed} must not be negative")


class Sampler:
    """Chooses the tokens of one sample: call it once per token with that token's logits."""

    def __init__(self, params: SamplingParams, request: int = 0, sample: int = 0) -> None:
        self.params = params
        self._random = np.random.default_rng([params.seed, request, sample])

    def __call__(self, logits: NDArray[Any]) -> int:
        """`logits` [vocab] on the host. Raises FloatingPointError when they are not finite."""
        if not np.isfinite(logits).all():
            raise FloatingPointError("the model gave logits that are NaN or infinite")
        if self.params.temperature == 0:
            return int(np.argmax(logits))
        order, weights = self._candidates(logits.astype(np.float64))
        cumulative = np.cumsum(weights)
        point = self._random.random() * cumulative[-1]
        return int(order[min(np.searchsorted(cumulative, point, "right"), len(order) - 1)])

    def _candidates(self, logits: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Token ids, most likely first, and their unnormalised probabilities."""
        order = np.argsort(-logits, kind="stable")
        if self.params.top_k:
            order = order[: self.params.top_k]
        weights = np.exp((logits[order] - logits[order[0]]) / self.params.temperature)
        if self.params.top_p < 1:
            reached = np.cumsum(weights) / weights.sum()
            # Keep the token that crosses the border, so at least one is left.
            keep = int(np.searchsorted(reached, self.params.top_p, "left")) + 1
            order, weights = order[:keep], weights[:keep]
        return order, weights
