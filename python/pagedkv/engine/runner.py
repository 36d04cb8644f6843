"""The engine: one model, one paged cache, many requests.

    submit -> [ scheduler.admit -> chunks -> cache.step -> model.forward -> sample ]* -> completions
                                   ^-- make_room when the step finds no blocks

With speculation (speculate.py) guesses are added to the chunks, and the step accepts those that are
what the model chooses; they are given up first when blocks run out.

One step computes the chunks that the scheduler chose. K and V go to the cache and attention comes
from it; leaving the step commits. Tokens are sampled after the commit, so a step that fails leaves
every sample as it was and can simply be tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import chain
from typing import Any

import numpy as np

from pagedkv import Cache, OutOfBlocks, QuotaError, Step, TooBig

from .arrays import Array
from .beamgroup import BeamGroup
from .config import ModelConfig
from .metrics import Progress, Totals
from .model import Attend, Model
from .policy import Policy
from .request import Completion, Request, Sample, complete
from .scheduler import Chunk, Scheduler
from .speculate import SpeculateParams, Speculator

GPU_HEAD_DIMS = (64, 96, 128, 256)  # of the kernels, as the cache says when it refuses one


class Engine:
    """Serves requests by continuous batching.

    model         what to compute
    cache         where K and V live; its geometry must be the model's (see `cache_for`)
    batch         samples that run at once
    step_tokens   new tokens of one step, decode and prefill together; at least `batch`
    policy        who goes first and who is preempted; default ArrivalOrder
    clock         seconds; for times in completions only, never for decisions
    speculate     guess the next tokens of samples that decode greedily; default: do not
    """

    def __init__(
        self,
        model: Model,
        cache: Cache,
        batch: int = 32,
        step_tokens: int = 512,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.perf_counter,
        speculate: SpeculateParams | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.scheduler = Scheduler(cache, model.config, batch, step_tokens, policy)
        self.clock = clock
        self.totals = Totals(started=clock())
        self.speculator = None if speculate is None else Speculator(speculate)
        model.arrays.join(cache)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises RequestError when it can never be served; nothing is queued."""
        self.scheduler.submit(request, self.clock())

    def run(
        self,
        requests: Iterable[Request],
        on_step: Callable[[Progress], None] | None = None,
    ) -> list[Completion]:
        """Serve `requests` to the end. All are checked first: one bad request refuses the run.

        on_step   called after every step
        Returns   completions in the order of requests and samples.
        """
        requests = list(requests)
        for request in requests:
            self.scheduler.check(request)
        for request in requests:
            self.submit(request)
        place = {id(request): index for index, request in enumerate(requests)}
        done: list[Completion] = []
        while self.busy:
            done += self.step()
            if on_step is not None:
                on_step(self.progress())
        return sorted(done, key=lambda item: (place[id(item.request)], item.sample))

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self.scheduler.waiting or self.scheduler.running)

    def step(self) -> list[Completion]:
        """Compute one step; returns the samples that it finished."""
        self.scheduler.admit()
        chunks = self.scheduler.chunks()
        if not chunks:
            return []
        if self.speculator is not None:
            chunks = self.speculator.extend(chunks, self.scheduler.step_tokens)
        logits, chunks, paths = self._compute(chunks)
        pairs = list(zip(chunks, paths, strict=True))
        ready = [(chunk.sample, path) for chunk, path in pairs if chunk.is_last]
        for chunk, path in pairs:
            chunk.sample.computed += chunk.count + len(path) - 1
            if self.speculator is not None and chunk.draft is not None:
                self.speculator.learn(chunk.sample, chunk.draft, len(path) - 1)
        done: list[Completion] = []
        for (sample, path), rows in zip(ready, logits, strict=True):
            for row in path:
                ended = self._advance(sample, rows[row])
                done += ended
                if ended:  # by a stop token that was guessed: what is behind it does not count
                    break
        self._count(chunks, paths, done)
        return done

    def progress(self) -> Progress:
        """A snapshot for a progress display."""
        return Progress(
            seconds=self.clock() - self.totals.started,
            generated=self.totals.generated,
            finished=self.totals.finished,
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            batch=self.totals.batch,
            stats=self.cache.stats(),
        )

    # ---- One step

    def _compute(self, chunks: list[Chunk]) -> tuple[list[Array], list[Chunk], list[list[int]]]:
        """Run the model over `chunks`, or over what is left of them when blocks run out.

        Returns, of the chunks that are the last of their sample, logits [1 + guesses, vocab] on
        the host; the chunks; and of each chunk the rows of its logits to go on from: [0], and
        guesses that turned out right.
        """
        arrays = self.model.arrays
        with arrays.stream, ExitStack() as stack:
            step, chunks = self._reserve(stack, chunks)
            reserved = self.scheduler.blocks_reserved()
            self.totals.blocks_reserved_peak = max(self.totals.blocks_reserved_peak, reserved)
            ends = np.cumsum([chunk.rows for chunk in chunks])
            wanted = [
                range(end - 1 - chunk.guesses, end)
                for chunk, end in zip(chunks, ends.tolist(), strict=True)
                if chunk.is_last
            ]
            rows = np.fromiter(chain.from_iterable(wanted), np.intp)
            tokens = np.concatenate([chunk.entry[1] for chunk in chunks])
            logits = self.model.forward(tokens, step.positions, rows, self._attention(step))
            # While the step can still be given up: a GPU fails when it is waited for.
            logits = arrays.to_host(logits)
            sizes = np.array([len(part) for part in wanted], np.intp)
            parts = np.split(logits, np.cumsum(sizes)[:-1])[: len(wanted)]
            paths = _verify(chunks, parts)
            if any(chunk.guesses for chunk in chunks):
                step.accept([chunk.kept(path) for chunk, path in zip(chunks, paths, strict=True)])
        return parts, chunks, paths

    def _attention(self, step: Step) -> Attend:
        dim, stored = self.model.config.head_dim, self.cache.head_dim
        if dim == stored:
            return _through(step)
        return _through_wider(step, self.model.xp, dim, stored)

    def _reserve(self, stack: ExitStack, chunks: list[Chunk]) -> tuple[Step, list[Chunk]]:
        while True:
            entries = [chunk.entry for chunk in chunks]
            try:
                return stack.enter_context(self.cache.step(entries)), chunks
            except (OutOfBlocks, QuotaError, TooBig) as error:
                # TooBig: more blocks in one step than there are in all.
                if any(chunk.guesses for chunk in chunks):
                    chunks = [chunk.guessing(None) for chunk in chunks]
                else:
                    chunks = self.scheduler.make_room(chunks, isinstance(error, QuotaError))

    def _advance(self, sample: Sample, row: Any) -> list[Completion]:
        """Choose the next token of `sample`, and of siblings that fork off here."""
        if sample.beams is not None:
            return self._advance_beams(sample.beams, sample, row)
        group = [sample, *self.scheduler.fork(sample)]
        return [done for member in group for done in self._append(member, row)]

    def _append(self, sample: Sample, row: Any) -> list[Completion]:
        token = sample.sampler(row)
        sample.append(token, self.clock())
        self.totals.generated += 1
        if token in self.model.config.stop_tokens:
            finish = "stop"
        elif sample.length == sample.request.tokens_max:
            finish = "length"
        else:
            return []
        self.scheduler.finish(sample)
        self.totals.finished += 1
        return [complete(sample, finish, sample.number, sample.generated.copy())]

    def _advance_beams(self, beams: BeamGroup, sample: Sample, row: Any) -> list[Completion]:
        """Note the logits of one beam; with those of all, let the search go on."""
        if beams.is_folded:
            self.scheduler.unfold(beams)
            return []
        rows = beams.take(sample, row)
        if rows is None:
            return []
        choices = beams.search.step(rows)
        if choices:
            self.scheduler.branch(beams, choices, self.clock())
            return []
        done = self.scheduler.finish_beams(beams, self.clock())
        self.totals.generated += sum(len(completion.tokens) for completion in done)
        self.totals.finished += len(done)
        return done

    def _count(self, chunks: list[Chunk], paths: list[list[int]], done: list[Completion]) -> None:
        totals = self.totals
        totals.steps += 1
        totals.tokens_computed += sum(chunk.rows for chunk in chunks)
        totals.turns += sum(chunk.is_last for chunk in chunks)
        totals.guessed += sum(chunk.guesses for chunk in chunks)
        totals.guessed_right += sum(len(path) - 1 for path in paths)
        totals.batch = len(chunks)
        totals.batch_peak = max(totals.batch_peak, len(chunks))
        totals.prefix_tokens_reused += sum(completion.reused for completion in done)
        totals.preemptions = self.scheduler.preemptions


def _verify(chunks: list[Chunk], parts: list[Array]) -> list[list[int]]:
    """The rows of each chunk's logits to go on from."""
    logits = iter(parts)
    paths = []
    for chunk in chunks:
        rows = next(logits) if chunk.is_last else None
        if chunk.draft is None:
            paths.append([0])
        else:
            paths.append(chunk.draft.verify(chunk.sample.sampler, rows))
    return paths


def cache_for(
    config: ModelConfig,
    blocks: int,
    block_tokens: int = 16,
    dtype: str | None = None,
    v_dtype: str | None = None,
    batch: int = 32,
    step_tokens: int = 512,
    threads: int = 0,
    device: str = "cpu",
    tenants: int = 0,
) -> Cache:
    """A cache with the geometry of a model and room for an Engine of this batch and step.

    dtype    None: "f16" on a GPU, which cannot store f32, else "f32"
    device   "cuda": heads are as wide as the next wider ones that there are kernels for
    tenants  tenants that can have a quota (`Cache.set_tenant`)

    Raises pagedkv.Error when the library refuses a value, such as a type it has no kernel for.
    """
    # Tables are sized for the longest sequence: no longer than the model can, or the pool holds.
    longest = config.context if config.window else min(config.context, blocks * block_tokens)
    return Cache(
        layers=config.layers,
        kv_heads=config.kv_heads,
        head_dim=_stored_dim(config.head_dim, device),
        blocks=blocks,
        block_tokens=block_tokens,
        dtype=default_dtype(device) if dtype is None else dtype,
        v_dtype=v_dtype,
        window=config.window,
        # One more than run at once: the head of the queue asks for its prefix before it has a seat.
        sequences=batch + 1,
        sequence_tokens=longest,
        step_sequences=batch,
        step_tokens=step_tokens,
        threads=threads,
        device=device,
        tenants=tenants,
    )


def default_dtype(device: str) -> str:
    """The type in which K and V are stored unless another is asked for."""
    return "f16" if device == "cuda" else "f32"


def _stored_dim(head_dim: int, device: str) -> int:
    if device != "cuda":
        return head_dim
    return next((dim for dim in GPU_HEAD_DIMS if dim >= head_dim), head_dim)


def _through(step: Step) -> Attend:
    """Attention by the paged cache: store, then read through the page tables."""

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        step.write(layer, k, v)
        return step.attend(layer, q)

    return attend


def _through_wider(step: Step, xp: Any, dim: int, stored: int) -> Attend:
    """The same by a cache of wider heads. Zeros behind q and k add nothing to a score, those behind
    v nothing to a sum, and none of them changes the scale of a stored row."""

    def widened(heads: Array) -> Array:
        wide = xp.zeros((*heads.shape[:2], stored), heads.dtype)
        wide[..., :dim] = heads
        return wide

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        step.write(layer, widened(k), widened(v))
        return step.attend(layer, widened(q), scale=dim**-0.5)[..., :dim]

    return attend
