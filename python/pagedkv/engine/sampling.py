"""From logits to a token: greedy, or temperature with top-k and top-p (nucleus, arXiv 1904.09751).

Every sample of every request has a random generator of its own, seeded by (seed, request number,
sample number), which draws one number for every token of the vocabulary at every step. The text
of a request therefore depends neither on the requests around it nor on whether it was preempted.

The draw is Gumbel-max: the token with the largest logit / temperature + noise, where the noise
belongs to the token id, has exactly the softmax's distribution. The usual way, one uniform number
looked up in the cumulative sum of probabilities, has it too, but there a rounding error in any
logit moves the borders of all tokens behind it, and near-equal tokens may swap places in the sum.
Here it matters only between the best two. That keeps runs equal that differ by rounding: other
kernels, other processors.
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
        scaled = logits.astype(np.float64) / self.params.temperature
        # log(0) would be a certain win; the generator can give 0, once in 2^53 numbers.
        waits = np.maximum(self._random.standard_exponential(len(scaled)), 1e-300)
        kept = self._candidates(scaled)
        return int(kept[np.argmax(scaled[kept] - np.log(waits[kept]))])

    def _candidates(self, scaled: NDArray[np.float64]) -> NDArray[np.intp]:
        """The token ids that top-k and top-p leave."""
        if self.params.top_k == 0 and self.params.top_p == 1:
            return np.arange(len(scaled))
        order = np.argsort(-scaled, kind="stable")
        if self.params.top_k:
            order = order[: self.params.top_k]
        if self.params.top_p < 1:
            weights = np.exp(scaled[order] - scaled[order[0]])
            reached = np.cumsum(weights) / weights.sum()
            # Keep the token that crosses the border, so at least one is left.
            order = order[: int(np.searchsorted(reached, self.params.top_p, "left")) + 1]
        return order
