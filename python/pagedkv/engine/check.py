"""Compares what the paged engine generated with the contiguous reference, token by token.

The reference shares the model's weights and the sampler's seed with the run under test and
nothing else: no pages, no batch, no C library. Its projections are bitwise those of the run
(linear.py), so what can differ is attention, by rounding. A difference is a difference all the
same, and is reported with the two logits that were closest to each other there: a real defect
shows a wide gap, a near tie a gap of a few float32 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contiguous import generate_alone
from .model import Model
from .request import Completion
from .sampling import Sampler


@dataclass(frozen=True)
class Difference:
    """The first token in which a completion and its reference differ.

    index      which generated token, from 0
    expected   the reference's tokens from there on; empty when it had stopped
    actual     the run's tokens from there on
    top        the reference's two largest logits there, as (token, logit)
    """

    completion: Completion
    index: int
    expected: list[int]
    actual: list[int]
    top: list[tuple[int, float]]


def first_difference(
    model: Model, completion: Completion, request_number: int, dtype: str
) -> Difference | None:
    """Generate `completion` again by itself; None when every token is equal.

    request_number   the place of its request in the run: part of the sampler's seed
    dtype            the type K and V are rounded to
    """
    request = completion.request
    expected, logits = generate_alone(
        model,
        request.prompt,
        request.max_tokens,
        Sampler(request.sampling, request_number, completion.sample),
        model.config.stop_tokens,
        dtype,
    )
    actual = [int(token) for token in completion.tokens]
    if actual == expected:
        return None
    pairs = zip(expected, actual, strict=False)
    index = next(
        (place for place, (one, other) in enumerate(pairs) if one != other),
        min(len(expected), len(actual)),
    )
    row = logits[min(index, len(logits) - 1)]
    top = [(int(token), float(row[token])) for token in np.argsort(-row)[:2]]
    return Difference(completion, index, expected[index:], actual[index:], top)
