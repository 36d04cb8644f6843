"""What is asked for, the state while it is served, and what comes out.

    Request --submit--> Sample (waiting) --admit--> Sample (running) --last token--> Completion
                            ^                            |
                            +-------- preempt -----------+   tokens stay, the sequence is freed

A Sample keeps all tokens, prompt and generated; its sequence holds K/V of the first `computed` of
them. Whatever lies between is fed next: a whole prompt, the rest of one, a single token sampled
last, or after a preemption everything again. There is no other state machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .beam import BeamParams
from .sampling import Sampler, SamplingParams

if TYPE_CHECKING:
    from pagedkv import Sequence

    from .beamgroup import BeamGroup


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt to be continued.

    id           unique among the requests of a run; names it in messages and results
    prompt       token ids, uint32 [T], at least one
    max_tokens   tokens to generate at most, at least one
    samples      continuations wanted; they share the prompt's blocks by fork
    beam         None, or: the `samples` best that a beam search finds
    group        free label; requests of a group usually share a preamble
    text         the prompt as text, for display
    tenant       whose it is: its blocks, its quota, and the only cached prefixes that it finds
    """

    id: str
    prompt: NDArray[np.uint32]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    samples: int = 1
    group: str = ""
    text: str = ""
    tenant: int = 0
    beam: BeamParams | None = None

    @property
    def seats(self) -> int:
        """Samples that run at once."""
        return self.samples if self.beam is None else self.beam.width

    @property
    def tokens_max(self) -> int:
        """The longest that one sample of this request can get."""
        return len(self.prompt) + self.max_tokens


class Sample:
    """One continuation of a request on its way. `order` is its place in the order of arrival.

    `siblings` counts samples of the same request that fork off when the prompt is computed: they
    take a seat from admission on, but have no sequence until then.
    """

    def __init__(self, request: Request, number: int, order: tuple[int, int], now: float) -> None:
        self.request = request
        self.number = number
        self.order = order
        self.sampler = Sampler(request.sampling, order[0], number)
        self.tokens = np.empty(request.tokens_max, np.uint32)
        self.tokens[: len(request.prompt)] = request.prompt
        self.length = len(request.prompt)
        self.siblings = request.seats - 1 if number == 0 else 0
        self.beams: BeamGroup | None = None
        self.sequence: Sequence | None = None
        self.computed = 0
        self.arrived = now
        self.first_token: float | None = None
        self.last_token = now
        self.reused = 0
        self.preemptions = 0

    @property
    def generated(self) -> NDArray[np.uint32]:
        """The tokens sampled so far."""
        return self.tokens[len(self.request.prompt) : self.length]

    @property
    def target(self) -> int:
        """Tokens that it, and each of its siblings, will have when they have forked."""
        return self.length if self.beams is None else self.beams.length

    def append(self, token: int, now: float) -> None:
        """Add a sampled token."""
        self.tokens[self.length] = token
        self.length += 1
        self.last_token = now
        if self.first_token is None:
            self.first_token = now

    def attach(self, sequence: Sequence, computed: int) -> None:
        """Take `sequence`, which holds K/V of the first `computed` tokens."""
        self.sequence = sequence
        self.computed = computed

    def release(self) -> None:
        """Give the sequence back to the cache; full blocks stay cached there."""
        if self.sequence is not None:
            self.sequence.close()
            self.sequence = None
            self.computed = 0


@dataclass(frozen=True, eq=False)
class Completion:
    """A finished sample. Times are in seconds.

    sample       its number in its request; of a beam search, 0 is the best
    finish       "stop" (a stop token, which is the last of `tokens`) or "length"
    ttft         time to first token, from submission
    tpot         mean time per output token after the first; None when there is only one
    reused       prompt tokens that were found in the cache at admission
    score        of a beam search: log-probability over length to the power of length_penalty
    """

    request: Request
    sample: int
    tokens: NDArray[np.uint32]
    finish: str
    ttft: float
    tpot: float | None
    reused: int
    preemptions: int
    score: float | None = None


def complete(
    sample: Sample, finish: str, number: int, tokens: NDArray[np.uint32], score: float | None = None
) -> Completion:
    """A result of `sample`, whose last token has been chosen."""
    first = sample.last_token if sample.first_token is None else sample.first_token
    gaps = len(tokens) - 1
    return Completion(
        request=sample.request,
        sample=number,
        tokens=tokens,
        finish=finish,
        ttft=first - sample.arrived,
        tpot=(sample.last_token - first) / gaps if gaps else None,
        reused=sample.reused,
        preemptions=sample.preemptions,
        score=score,
    )
