"""What is counted while serving, and the figures that are made of it at the end.

Words, as serving systems use them:

    TTFT    time to first token: from submission to the first sampled token, waiting included
    TPOT    time per output token: mean gap between the tokens of one sample after its first
    peak    most blocks named by sequences at once; blocks that are only cached do not count
    contiguous reservation    blocks that the same running samples would have taken if each had one
            region for prompt + max_tokens from admission to end, the way of a cache without pages

Reserved and used are compared at their own peaks, over the same schedule: what a contiguous cache
would have needed to run exactly these batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .request import Completion

if TYPE_CHECKING:
    from pagedkv import Stats


@dataclass
class Totals:
    """Counters of one Engine. `batch` is the number of samples in the latest step, `turns` how
    often a step gave a sample tokens, `guessed` and `guessed_right` tokens of speculation."""

    started: float
    steps: int = 0
    generated: int = 0
    finished: int = 0
    tokens_computed: int = 0
    batch: int = 0
    batch_peak: int = 0
    blocks_reserved_peak: int = 0
    prefix_tokens_reused: int = 0
    preemptions: int = 0
    turns: int = 0
    guessed: int = 0
    guessed_right: int = 0


@dataclass(frozen=True)
class Progress:
    """A snapshot after a step."""

    seconds: float
    generated: int
    finished: int
    running: int
    waiting: int
    batch: int
    stats: Stats


@dataclass(frozen=True)
class Distribution:
    """Mean, median and 99th percentile (linear between neighbours), in the unit of the values."""

    mean: float
    median: float
    p99: float

    @staticmethod
    def of(values: Sequence[float]) -> Distribution | None:
        """None when there is nothing to describe."""
        if not values:
            return None
        median, p99 = np.percentile(values, [50, 99])
        return Distribution(float(np.mean(values)), float(median), float(p99))


@dataclass(frozen=True)
class Summary:
    """The final figures of a run. Times are in seconds, sizes in blocks or tokens."""

    requests: int
    samples: int
    seconds: float
    prompt_tokens: int
    generated_tokens: int
    computed_tokens: int
    generated_per_second: float
    computed_per_second: float
    ttft: Distribution | None
    tpot: Distribution | None
    steps: int
    batch_peak: int
    blocks_total: int
    blocks_peak: int
    blocks_reserved_peak: int
    prefix_tokens_reused: int
    forks: int
    cow_copies: int
    evictions: int
    preemptions: int
    turns: int
    guessed_tokens: int
    guessed_right: int


def summarise(
    completions: Sequence[Completion], totals: Totals, stats: Stats, seconds: float
) -> Summary:
    """The figures of a finished run of `seconds`."""
    requests = {id(item.request): item.request for item in completions}
    return Summary(
        requests=len(requests),
        samples=len(completions),
        seconds=seconds,
        prompt_tokens=sum(len(request.prompt) for request in requests.values()),
        generated_tokens=totals.generated,
        computed_tokens=totals.tokens_computed,
        generated_per_second=totals.generated / seconds,
        computed_per_second=totals.tokens_computed / seconds,
        ttft=Distribution.of([item.ttft for item in completions]),
        tpot=Distribution.of([item.tpot for item in completions if item.tpot is not None]),
        steps=totals.steps,
        batch_peak=totals.batch_peak,
        blocks_total=stats.blocks_total,
        blocks_peak=stats.blocks_peak,
        blocks_reserved_peak=totals.blocks_reserved_peak,
        prefix_tokens_reused=totals.prefix_tokens_reused,
        forks=stats.forks,
        cow_copies=stats.cow_copies,
        evictions=stats.evictions,
        preemptions=totals.preemptions,
        turns=totals.turns,
        guessed_tokens=totals.guessed,
        guessed_right=totals.guessed_right,
    )
