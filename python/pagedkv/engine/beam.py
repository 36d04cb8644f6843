"""Beam search: the likeliest continuations of a prompt, by keeping the best few at each step.

    live beams, best first       candidates                              what becomes of them
    b0  -1.2  "the cat"    ->    all tokens of all beams, by the sum ->  ended: hypotheses
    b1  -1.9  "the dog"          of their log-probabilities              others: the next beams

Nothing here knows of a cache or of batches: logits go in, and (parent, token) come out. That is how
the paged engine (beamgroup.py) and the contiguous reference (contiguous.py) share it.

The rules are those of `transformers` at its defaults, so that outputs can be compared:

B1  Of width * max(2, 1 + stop tokens) candidates the first `width` may end, by a stop token or by
    being as long as allowed; the others only see to it that `width` beams go on.
B2  An ended candidate becomes a hypothesis with the score: sum of log-probabilities divided by its
    generated tokens to the power of `length_penalty`. The best `width` hypotheses are kept.
B3  With `width` hypotheses it is over at once when early_stopping is True. Else when the best beam,
    scored as if it ended now, is not better than the worst of them; "never" scores it at the full
    length instead, when a positive penalty makes that the better one: then nothing is missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True)
class BeamParams:
    """How to search. Raises RequestError when a value is out of range.

    width            beams that are kept, at least 1
    length_penalty   above 0 favours long outputs, below 0 short ones
    early_stopping   see B3 above: False, True or "never"
    """

    width: int
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise RequestError(f"beams {self.width} must be at least 1")
        if not abs(self.length_penalty) < float("inf"):
            raise RequestError(f"length_penalty {self.length_penalty} must be a finite number")
        if self.early_stopping not in (False, True, "never"):
            raise RequestError(
                f"early_stopping {self.early_stopping!r} must be False, True or 'never'"
            )


@dataclass(frozen=True)
class Hypothesis:
    """A continuation that has ended.

    tokens   all that were generated; the last is a stop token when `finish` is "stop"
    score    see B2 above
    """

    tokens: list[int]
    score: float
    finish: str


class BeamSearch:
    """The search for one prompt. It starts with one beam, the prompt itself.

    scores       [beams] sum of the log-probabilities of each live beam, best first
    generated    [beams] its tokens
    hypotheses   the best so far, best first
    """

    def __init__(self, params: BeamParams, max_tokens: int, stop_tokens: tuple[int, ...]) -> None:
        self.params = params
        self.max_tokens = max_tokens
        self.stop_tokens = stop_tokens
        self.scores: list[float] = [0.0]
        self.generated: list[list[int]] = [[]]
        self.hypotheses: list[Hypothesis] = []

    def step(self, logits: NDArray[Any]) -> list[tuple[int, int]]:
        """Choose the next beams. `logits` [beams, vocab] of the live beams, on the host.

        Returns  (parent, token) of each new beam, best first; parents index the beams there were.
                 Empty when the search is over.

        Raises FloatingPointError when logits are not finite.
        """
        candidates = self._candidates(logits)
        ended = [self._finish(parent, token) for _, parent, token in candidates]
        self._keep(candidates, ended)
        going = [one for one, finish in zip(candidates, ended, strict=True) if not finish]
        going = going[: self.params.width]
        self.generated = [[*self.generated[parent], token] for _, parent, token in going]
        self.scores = [score for score, _, _ in going]
        if not going or self._is_over():
            return []
        return [(parent, token) for _, parent, token in going]

    def _candidates(self, logits: NDArray[Any]) -> list[tuple[float, int, int]]:
        """(score, parent, token) of the best candidates, best first (B1)."""
        if not np.isfinite(logits).all():
            raise FloatingPointError("the model gave logits that are NaN or infinite")
        totals = log_softmax(logits) + np.array(self.scores)[:, None]
        count = self.params.width * max(2, 1 + len(self.stop_tokens))
        flat = totals.ravel()
        best = np.argpartition(-flat, count)[:count] if count < len(flat) else np.arange(len(flat))
        best = best[np.lexsort((best, -flat[best]))]
        parents, tokens = np.divmod(best, logits.shape[1])
        return list(zip(flat[best].tolist(), parents.tolist(), tokens.tolist(), strict=True))

    def _finish(self, parent: int, token: int) -> str:
        """Why a candidate ends; empty when it does not."""
        if token in self.stop_tokens:
            return "stop"
        return "length" if len(self.generated[parent]) + 1 == self.max_tokens else ""

    def _keep(self, candidates: list[tuple[float, int, int]], ended: list[str]) -> None:
        """Turn candidates that have ended into hypotheses (B1, B2)."""
        width = self.params.width
        for (score, parent, token), finish in zip(candidates[:width], ended, strict=False):
            if finish:
                tokens = [*self.generated[parent], token]
                scored = score / float(len(tokens) ** self.params.length_penalty)
                self.hypotheses.append(Hypothesis(tokens, scored, finish))
        self.hypotheses.sort(key=lambda one: -one.score)
        del self.hypotheses[width:]

    def _is_over(self) -> bool:
        """Whether no beam is expected to become one of the best hypotheses (B3)."""
        if len(self.hypotheses) < self.params.width:
            return False
        if self.params.early_stopping is True:
            return True
        penalty = self.params.length_penalty
        to_the_end = self.params.early_stopping == "never" and penalty > 0
        length = self.max_tokens if to_the_end else len(self.generated[0])
        best = self.scores[0] / float(length**penalty)
        return best <= self.hypotheses[-1].score


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms of the probabilities of each row, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
