"""Continuous batching with chunked prefill: decides which tokens the next step computes.

    waiting (sorted by policy)  --admit-->  running  --chunks-->  one step of at most step_tokens

    step   | one token of every decoding sample | chunks of prompts, oldest first |
           |<---------------------------- step_tokens ---------------------------->|

Rules, each with its reason:

R1  Decode first. A token that someone reads now is worth more than a prompt that has just begun.
R2  A request that can never fit is refused by `submit`; one that fits later waits. "Never" is a
    matter of its longest sample alone: prompt + max_tokens in an empty pool.
R3  The head of the queue is admitted when its whole prompt fits beside what running samples are
    still owed plus one block each. Nobody overtakes a head that waits for blocks, or large requests
    would starve.
R4  Samples announce what they are going to compute. A request whose prefix has been announced is
    held back until those blocks are committed, and then finds them with `match`; when the sample
    that announced them ends before that, the request is admitted and computes them itself. Without
    this, requests of one group that arrive together would each compute the preamble, since nothing
    uncommitted is ever shared. It may be overtaken meanwhile: what it waits for is under way and
    ends within a few steps.
R5  When a step runs out of blocks, the policy's victim gives all of its blocks back and waits
    again; its tokens stay. The computed part usually is still cached when it returns. The beams of
    a search give way together, and come back together.
R6  Tenants with quotas wait for themselves. A tenant at its limit holds nobody up, what fits within
    a guarantee overtakes a line for the pool, and who gives way is of the tenant that is at its
    limit, or has more than it is guaranteed (see quotas.py).

The pool is never promised beyond R3, so R5 happens when outputs grow, not as a matter of course.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .beamgroup import BeamGroup
from .config import ModelConfig
from .errors import EngineError, RequestError
from .policy import ArrivalOrder, Policy
from .quotas import Room, most_blocks, room, tenants_over_limit, tenants_that_borrow
from .request import Completion, Request, Sample

if TYPE_CHECKING:
    from pagedkv import Cache, Sequence

    from .speculate import Draft


@dataclass(frozen=True, eq=False)
class Chunk:
    """The next `count` tokens of `sample`, to be computed in one step, and guesses behind them."""

    sample: Sample
    count: int
    draft: Draft | None = None

    @property
    def entry(
        self,
    ) -> tuple[Sequence, NDArray[np.uint32]] | tuple[Sequence, NDArray[np.uint32], list[int]]:
        """The chunk as `Cache.step` takes it: the sequence, its new tokens, parents in a tree."""
        assert self.sample.sequence is not None, "only running samples are scheduled"
        begin = self.sample.computed
        tokens = self.sample.tokens[begin : begin + self.count]
        if self.draft is None:
            return self.sample.sequence, tokens
        tokens = np.concatenate([tokens, self.draft.tokens])
        if self.draft.is_chain:
            return self.sample.sequence, tokens
        return self.sample.sequence, tokens, self.draft.parent_rows

    @property
    def rows(self) -> int:
        """Tokens of the step: its own and the guesses."""
        return self.count + self.guesses

    @property
    def guesses(self) -> int:
        return 0 if self.draft is None else len(self.draft.tokens)

    def guessing(self, draft: Draft | None) -> Chunk:
        """The same chunk with these guesses."""
        return Chunk(self.sample, self.count, draft)

    def kept(self, path: list[int]) -> int | list[int]:
        """What `Step.accept` is to keep of the chunk, when those of its rows are right."""
        is_tree = self.draft is not None and not self.draft.is_chain
        return path if is_tree else self.count + len(path) - 1

    @property
    def is_last(self) -> bool:
        """Whether the chunk reaches the end of the sample's tokens: its last row is sampled."""
        return self.sample.computed + self.count == self.sample.length


class Scheduler:
    """Queues and admission over one cache.

    batch         samples that run at once
    step_tokens   new tokens of one step, at least `batch`
    """

    def __init__(
        self,
        cache: Cache,
        config: ModelConfig,
        batch: int,
        step_tokens: int,
        policy: Policy | None = None,
    ) -> None:
        if batch < 1:
            raise RequestError(f"batch {batch} must be at least 1")
        if step_tokens < batch:
            raise RequestError(f"step_tokens {step_tokens} must be at least the batch, {batch}")
        self.cache = cache
        self.config = config
        self.batch = batch
        self.step_tokens = step_tokens
        self.policy = policy or ArrivalOrder()
        self.waiting: list[Sample] = []
        self.running: list[Sample] = []
        self.preemptions = 0
        self._submitted = 0
        self._blocks_total = cache.stats().blocks_total
        # The first of a tenant was short of its limit, or of the pool, when there was so much room;
        # asked again when there is more.
        self._short: dict[int, tuple[Sample, bool, Room]] = {}
        # Somebody waits for the pool: nobody takes from it before.
        self._line = False

    # ---- Requests come and go

    def check(self, request: Request) -> None:
        """Raise RequestError when `request` could never be served. Changes nothing."""
        where = f"request {request.id}"
        if len(request.prompt) == 0:
            raise RequestError(f"{where}: the prompt is empty")
        if request.max_tokens < 1:
            raise RequestError(f"{where}: max_tokens {request.max_tokens} must be at least 1")
        if not 1 <= request.samples <= self.batch:
            raise RequestError(
                f"{where}: samples {request.samples} must be 1 to the batch, {self.batch}"
            )
        if request.beam is not None:
            self._check_beams(request, where)
        highest = int(request.prompt.max())
        if highest >= self.config.vocab:
            raise RequestError(
                f"{where}: token {highest} is beyond the model's {self.config.vocab}"
            )
        lengths = f"prompt of {len(request.prompt)} + max_tokens {request.max_tokens}"
        if request.tokens_max > self.config.context:
            raise RequestError(f"{where}: {lengths} exceeds the model's {self.config.context}")
        need = self._blocks_alone(request)
        if need > self._blocks_total:
            raise RequestError(
                f"{where}: {lengths} needs {need} blocks of {self.cache.block_tokens} tokens,"
                f" the pool has {self._blocks_total}: it can never fit"
            )
        most = most_blocks(self.cache, request.tenant)
        if need > most:
            raise RequestError(
                f"{where}: {lengths} needs {need} blocks of {self.cache.block_tokens} tokens,"
                f" tenant {request.tenant} may have {most}: it cannot fit"
            )

    def _check_beams(self, request: Request, where: str) -> None:
        assert request.beam is not None
        if not request.samples <= request.beam.width <= self.batch:
            raise RequestError(
                f"{where}: beams {request.beam.width} must be from samples, {request.samples},"
                f" to the batch, {self.batch}"
            )
        if request.sampling.temperature > 0:
            raise RequestError(f"{where}: temperature must be 0 with beams, which do not sample")

    def submit(self, request: Request, now: float) -> None:
        """Queue `request`. Raises RequestError when it could never be served (R2)."""
        self.check(request)
        sample = Sample(request, 0, (self._submitted, 0), now)
        if request.beam is not None:
            sample.beams = BeamGroup(sample, self.config.stop_tokens)
        self._enqueue(sample)
        self._submitted += 1

    def fork(self, sample: Sample) -> list[Sample]:
        """Start the siblings of a sample whose prompt has just been computed."""
        assert sample.sequence is not None
        children = []
        for number in range(1, sample.siblings + 1):
            child = Sample(sample.request, number, (sample.order[0], number), sample.arrived)
            child.attach(sample.sequence.fork(), sample.computed)
            children.append(child)
        sample.siblings = 0
        self.running += children
        return children

    def branch(self, beams: BeamGroup, choices: list[tuple[int, int]], now: float) -> None:
        """Continue a beam search as it chose: (parent, token) of each new beam."""
        self._leave(beams)
        beams.branch(choices, now)
        self.running += beams.members

    def unfold(self, beams: BeamGroup) -> None:
        """Start the beams that wait behind their lead, which has computed what they share."""
        self._leave(beams)
        beams.unfold()
        self.running += beams.members

    def finish_beams(self, beams: BeamGroup, now: float) -> list[Completion]:
        """Take a search that is over out; returns its results."""
        self._leave(beams)
        return beams.finish(now)

    def finish(self, sample: Sample) -> None:
        """Take a sample out; its full blocks stay cached for others."""
        self.running.remove(sample)
        sample.release()

    @property
    def seats_taken(self) -> int:
        return sum(1 + sample.siblings for sample in self.running)

    def _leave(self, beams: BeamGroup) -> None:
        self.running = [sample for sample in self.running if sample.beams is not beams]

    # ---- The next step

    def chunks(self, prefill_max: int | None = None) -> list[Chunk]:
        """The next step's work, without admitting anyone. Never empty while a sample runs.

        prefill_max   limit on the tokens of one chunk, default step_tokens
        """
        budget = self.step_tokens
        chunks = []
        # A beam may have nothing to compute: it waits for the others of its search.
        hungry = [sample for sample in self.running if sample.computed < sample.length]
        for sample in sorted(hungry, key=self._feeding_order):
            count = min(sample.length - sample.computed, budget, prefill_max or budget)
            if count == 0:
                break
            chunks.append(Chunk(sample, count))
            budget -= count
        return chunks

    def admit(self) -> None:
        """Move samples from waiting to running, as far as seats and blocks go (R3, R4, R6)."""
        behind: set[int] = set()  # tenants whose first request waits
        self._line = False
        for sample in list(self.waiting):
            if self.seats_taken + 1 + sample.siblings > self.batch:
                return
            if sample.request.tenant in behind or self._is_prefix_under_way(sample):
                continue
            if not self._attach(sample):
                behind.add(sample.request.tenant)
                continue
            self.waiting.remove(sample)
            self.running.append(sample)

    def make_room(self, chunks: list[Chunk], is_at_limit: bool = False) -> list[Chunk]:
        """`chunks` ran out of blocks: preempt one sample (R5) and return what to try instead.

        is_at_limit   it was the limit of a tenant that refused them

        A sample, or a beam search, that is alone, or alone with its limit, computes its tokens in
        smaller pieces: with a sliding window fewer blocks are then needed at once. Raises
        EngineError when nobody else runs and not even one token fits, which means that someone
        outside holds blocks of this cache.
        """
        candidates = self._who_may_give_way(chunks, is_at_limit)
        if _is_one(candidates if is_at_limit else self.running):
            count = max(chunk.count for chunk in chunks if chunk.sample in candidates)
            if count > 1:
                return self.chunks(prefill_max=count // 2)
            if _is_one(self.running):
                raise EngineError("no block is left for a request that runs alone")
        victim = self._give_way(self.policy.victim(candidates))
        victim.preemptions += 1
        self.preemptions += 1
        self._enqueue(victim)
        return self.chunks()

    def _who_may_give_way(self, chunks: list[Chunk], is_at_limit: bool) -> list[Sample]:
        """Running samples of the tenants that want too much (R6)."""
        find = tenants_over_limit if is_at_limit else tenants_that_borrow
        tenants = find(self.cache, chunks)
        return [s for s in self.running if s.request.tenant in tenants] or self.running

    def _give_way(self, victim: Sample) -> Sample:
        """Take `victim`, or all beams of its search, out; returns who waits then."""
        if victim.beams is not None:
            self._leave(victim.beams)
            return victim.beams.fold()
        self.running.remove(victim)
        victim.release()
        return victim

    # ---- Blocks

    def blocks_held(self, tokens: int, chunk: int | None = None) -> int:
        """The most blocks that a sequence of `tokens` holds while it grows by at most `chunk`.

        Behind a sliding window blocks return to the pool, so the bound is the window, the chunk,
        and a partly used block at either end.
        """
        size = self.cache.block_tokens
        held = -(-tokens // size)
        if self.config.window:
            span = self.config.window + (self.step_tokens if chunk is None else chunk)
            held = min(held, -(-span // size) + 1)
        return held

    def _blocks_alone(self, request: Request) -> int:
        """The most blocks that `request` needs when it has the pool to itself: those of its longest
        sample, since samples can take turns. Beams cannot: they share but the prompt's blocks."""
        longest = self.blocks_held(request.tokens_max - 1, chunk=1)
        if request.beam is None:
            return longest
        shared = len(request.prompt) // self.cache.block_tokens if not self.config.window else 0
        return shared + request.beam.width * (longest - shared)

    def blocks_reserved(self) -> int:
        """What running samples would hold if each had a contiguous region for all of its tokens,
        prompt and max_tokens, rounded up to blocks."""
        size = self.cache.block_tokens
        return sum(
            (1 + sample.siblings) * -(-sample.request.tokens_max // size) for sample in self.running
        )

    def _blocks_owed(self) -> dict[int, int]:
        """Blocks that running samples need for the tokens they have, and one more each; by
        tenant."""
        owed: dict[int, int] = {}
        for sample in self.running:
            need = self._blocks_wanted(sample, sample.computed) + 1 + sample.siblings
            owed[sample.request.tenant] = owed.get(sample.request.tenant, 0) + need
        return owed

    def _blocks_wanted(self, sample: Sample, computed: int) -> int:
        """Blocks for the tokens that `sample` and its siblings have, beyond the first `computed`,
        which it holds."""
        own = self.blocks_held(sample.target)
        ahead = own - self.blocks_held(sample.length)
        return own - self.blocks_held(computed) + sample.siblings * ahead

    def _attach(self, sample: Sample) -> bool:
        """Give `sample` a sequence with its cached prefix, if its prompt then fits (R3, R6)."""
        tenant = sample.request.tenant
        before = room(self.cache, tenant, self._blocks_owed())
        if self.running and self._is_still_short(sample, before):
            return False
        sequence = self.cache.sequence(tenant)
        # One token is left out: its logits are wanted, so it must be computed.
        reused = sequence.match(sample.tokens[: sample.length - 1]) if sample.length > 1 else 0
        need = self._blocks_wanted(sample, reused)
        need += reused % self.cache.block_tokens > 0  # a block shared in part is copied
        now = room(self.cache, tenant, self._blocks_owed())
        is_at_limit = need > now.own and any(s.request.tenant == tenant for s in self.running)
        # Alone it may begin: behind a window a prompt longer than the pool fits, in small chunks.
        if self.running and (is_at_limit or not now.fits(need, self._line)):
            sequence.close()
            self._note_short(sample, is_at_limit, before)
            return False
        self._short.pop(tenant, None)
        sequence.announce(sample.tokens[: sample.length])
        sample.attach(sequence, reused)
        if sample.preemptions == 0:
            sample.reused = reused
        return True

    def _is_still_short(self, sample: Sample, now: Room) -> bool:
        """Whether there is no need to ask again what the prompt of `sample` takes."""
        if self._line and now.ahead == 0:
            return True
        short, is_at_limit, then = self._short.get(sample.request.tenant, (None, False, now))
        if short is not sample:
            return False
        if is_at_limit:
            return now.own <= then.own
        if now.blocks > then.blocks:
            return False
        self._line = True
        return True

    def _note_short(self, sample: Sample, is_at_limit: bool, then: Room) -> None:
        """Who is behind a line for the pool is asked again when it is over."""
        if is_at_limit or not self._line:
            self._short[sample.request.tenant] = (sample, is_at_limit, then)
        if not is_at_limit:
            self._line = True

    # ---- Order

    def _enqueue(self, sample: Sample) -> None:
        bisect.insort(self.waiting, sample, key=self.policy.priority)

    def _feeding_order(self, sample: Sample) -> tuple[bool, object]:
        return sample.length - sample.computed > 1, self.policy.priority(sample)

    def _is_prefix_under_way(self, sample: Sample) -> bool:
        """Whether a running sample will soon commit full blocks that `sample` can share (R4)."""
        if sample.length == 1 or not self.running:
            return False
        with self.cache.sequence(sample.request.tenant) as sequence:
            return sequence.lookup(sample.tokens[: sample.length - 1]).pending > 0


def _is_one(samples: list[Sample]) -> bool:
    """Whether it is one request, or the beams of one search."""
    return len({id(sample.beams or sample) for sample in samples}) == 1
