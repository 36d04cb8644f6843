"""Compares what the paged engine generated with the contiguous reference, token by token.

The reference shares the model's weights and the sampler's seed with the run under test and
nothing else: no pages, no batch, no C library. Its projections are bitwise those of the run
(linear.py), so what can differ is attention, by rounding: on the shipped model some 1e-5 in the
logits, and some 1e-3 when K and V are f16 or bf16, since a last bit then decides to which
neighbour a value is rounded. A run on a GPU is compared with the CPU: there the projections differ
by rounding too.

A difference is a difference all the same. It is reported with the logits of the two tokens: a real
defect shows a wide gap, and a tie (or, when sampling, a draw on the border) one of that size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .beam import Hypothesis
from .contiguous import generate_alone, search_alone
from .model import Model
from .request import Completion, Request
from .sampling import Sampler


@dataclass(frozen=True)
class Difference:
    """The first token in which a completion and its reference differ.

    index      which generated token, from 0
    expected   the reference's tokens from there on; empty when it had stopped
    actual     the run's tokens from there on
    logits     the reference's logits there, as (token, logit): of its own token, of the run's,
               and of the two most likely ones; none for a beam search
    """

    completion: Completion
    index: int
    expected: list[int]
    actual: list[int]
    logits: list[tuple[int, float]]


def first_difference(
    model: Model,
    completion: Completion,
    request_number: int,
    dtype: str,
    v_dtype: str | None = None,
    found: list[Hypothesis] | None = None,
) -> Difference | None:
    """Generate `completion` again by itself; None when every token is equal.

    request_number   the place of its request in the run: part of the sampler's seed
    dtype, v_dtype   the types K and V are rounded to; V as K by default
    found            of a beam search: what `search_again` gave for its request, if that is known
    """
    request = completion.request
    if request.beam is not None:
        return _difference_of_beams(
            completion, found or search_again(model, request, dtype, v_dtype)
        )
    expected, logits = generate_alone(
        model,
        request.prompt,
        request.max_tokens,
        Sampler(request.sampling, request_number, completion.sample),
        model.config.stop_tokens,
        dtype,
        v_dtype,
    )
    actual = [int(token) for token in completion.tokens]
    if actual == expected:
        return None
    index = _first_unequal(expected, actual)
    row = logits[min(index, len(logits) - 1)]
    shown = [*expected[index : index + 1], *actual[index : index + 1], *np.argsort(-row)[:2]]
    pairs_shown = [(int(token), float(row[token])) for token in dict.fromkeys(map(int, shown))]
    return Difference(completion, index, expected[index:], actual[index:], pairs_shown)


def search_again(
    model: Model, request: Request, dtype: str, v_dtype: str | None = None
) -> list[Hypothesis]:
    """All that the beam search of `request` finds without pages, best first."""
    assert request.beam is not None, "only for requests that ask for beams"
    return search_alone(
        model,
        request.prompt,
        request.max_tokens,
        request.beam,
        model.config.stop_tokens,
        dtype,
        v_dtype,
    )


def _difference_of_beams(completion: Completion, found: list[Hypothesis]) -> Difference | None:
    expected = found[completion.sample].tokens
    actual = [int(token) for token in completion.tokens]
    if actual == expected:
        return None
    index = _first_unequal(expected, actual)
    return Difference(completion, index, expected[index:], actual[index:], [])


def _first_unequal(one: list[int], other: list[int]) -> int:
    """The first place in which two lists differ; the length of the shorter one if in none."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
