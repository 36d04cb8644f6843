"""A hypothesis state machine: Cache, Sequence and Step beside a model made of Python lists.

The model knows what each sequence holds and nothing of blocks. What the library says about blocks
is compared with what can be counted from the tables that it shows.
"""

from collections import Counter
from typing import Any

import numpy as np
import pagedkv
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import BLOCK, HEADS, attention, make_cache, vectors, write_all

BLOCKS, SEQUENCES, SEQUENCE_TOKENS = 12, 6, 32

# Few different tokens, so that prefixes meet.
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=10)


class Model:
    """What one sequence must hold."""

    def __init__(self, sequence: pagedkv.Sequence, tenant: int, text: list[int]) -> None:
        self.sequence = sequence
        self.tenant = tenant
        self.text = text


class Machine(RuleBasedStateMachine):
    """Random programs over one small cache."""

    models = Bundle("models")

    def __init__(self) -> None:
        super().__init__()
        self.cache = make_cache(
            blocks=BLOCKS, sequences=SEQUENCES, sequence_tokens=SEQUENCE_TOKENS, step_tokens=32
        )
        self.alive: list[Model] = []
        self.committed = self.forks = self.queried = self.hit = 0
        self.seen: set[tuple[int, tuple[int, ...]]] = set()

    def teardown(self) -> None:
        self.cache.close()

    def fails(self, error: type[Exception], call: Any) -> None:
        """A call that must fail, and leave everything as it was."""
        before = self.cache.check()
        with pytest.raises(error):
            call()
        assert self.cache.check() == before

    @rule(target=models, tenant=st.integers(0, 1))
    def create(self, tenant: int) -> Any:
        if len(self.alive) == SEQUENCES:
            self.fails(pagedkv.OutOfSequences, lambda: self.cache.sequence(tenant))
            return multiple()
        model = Model(self.cache.sequence(tenant), tenant, [])
        self.alive.append(model)
        return model

    @rule(model=models, prompt=tokens)
    def match(self, model: Model, prompt: list[int]) -> None:
        if model.text:
            self.fails(pagedkv.Busy, lambda: model.sequence.match(prompt))
            return
        reused = model.sequence.match(prompt)
        assert reused == 0 or (model.tenant, tuple(prompt[:reused])) in self.seen
        model.text = prompt[:reused]
        self.queried += len(prompt)
        self.hit += reused

    @rule(models=st.lists(models, min_size=1, max_size=3, unique=True), data=st.data())
    def step(self, models: list[Model], data: st.DataObject) -> None:
        chunks = [data.draw(tokens, label="tokens") for _ in models]
        entries = [(model.sequence, chunk) for model, chunk in zip(models, chunks, strict=True)]
        fits = all(
            len(model.text) + len(chunk) <= SEQUENCE_TOKENS
            for model, chunk in zip(models, chunks, strict=True)
        )
        before = self.cache.check()
        copies = self.cache.stats().cow_copies
        try:
            step = self.cache.step(entries)
        except pagedkv.TooBig:
            assert not fits or self.pages(models, chunks) > BLOCKS
            assert self.cache.check() == before
            return
        except pagedkv.OutOfBlocks:
            stats = self.cache.stats()
            assert stats.blocks_free + stats.blocks_cached < self.pages(models, chunks)
            assert self.cache.check() == before
            return
        assert fits
        commits = data.draw(st.booleans(), label="commits")
        rows = [token for chunk in chunks for token in chunk]
        try:
            with step:
                self.compute(step, models, chunks, rows)
                if not commits:
                    raise InterruptedError
        except InterruptedError:
            # A shared last block that was copied for the step stays copied: same content.
            if self.cache.stats().cow_copies == copies:
                assert self.cache.check().sequences_digest == before.sequences_digest
            return
        self.committed += len(rows)
        for model, chunk in zip(models, chunks, strict=True):
            model.text = model.text + chunk
            self.seen |= {
                (model.tenant, tuple(model.text[:n])) for n in range(1, len(model.text) + 1)
            }

    @staticmethod
    def pages(models: list[Model], chunks: list[list[int]]) -> int:
        """Most blocks that the step could need: all pages of its sequences."""
        return sum(
            -(-(len(model.text) + len(chunk)) // BLOCK)
            for model, chunk in zip(models, chunks, strict=True)
        )

    @staticmethod
    def compute(
        step: pagedkv.Step, models: list[Model], chunks: list[list[int]], rows: list[int]
    ) -> None:
        """Write and attend, and compare with attention over plain lists."""
        write_all(step, rows)
        q = vectors(rows, 7, HEADS)
        out = step.attend(1, q)
        for model, chunk, begin in zip(models, chunks, step.starts, strict=False):
            text = model.text + chunk
            end = begin + len(chunk)
            expected = attention(
                q[begin:end], vectors(text, 1), vectors(text, 101), len(model.text)
            )
            np.testing.assert_allclose(out[begin:end], expected, atol=1e-5)

    @rule(target=models, model=models)
    def fork(self, model: Model) -> Any:
        if len(self.alive) == SEQUENCES:
            self.fails(pagedkv.OutOfSequences, model.sequence.fork)
            return multiple()
        child = Model(model.sequence.fork(), model.tenant, list(model.text))
        self.alive.append(child)
        self.forks += 1
        return child

    @rule(model=models, data=st.data())
    def truncate(self, model: Model, data: st.DataObject) -> None:
        length = data.draw(st.integers(0, len(model.text) + 1), label="length")
        if length > len(model.text):
            self.fails(pagedkv.OutOfRange, lambda: model.sequence.truncate(length))
            return
        model.sequence.truncate(length)
        model.text = model.text[:length]

    @rule(model=consumes(models))
    def close(self, model: Model) -> None:
        model.sequence.close()
        self.alive.remove(model)
        self.fails(pagedkv.StaleHandle, lambda: self.cache.step([(model.sequence, [1])]))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.alive), label="sequence")
        for layer in range(2):
            k, v = self.cache.read(model.sequence, layer)
            np.testing.assert_array_equal(k, vectors(model.text, layer))
            np.testing.assert_array_equal(v, vectors(model.text, 100 + layer))

    @invariant()
    def lengths_agree(self) -> None:
        assert [len(model.sequence) for model in self.alive] == [len(m.text) for m in self.alive]

    @invariant()
    def books_agree(self) -> None:
        self.cache.check()
        stats = self.cache.stats()
        tables = [list(model.sequence.blocks()) for model in self.alive]
        assert [len(table) for table in tables] == [-(-len(m.text) // BLOCK) for m in self.alive]
        references = Counter(block for table in tables for block in table)
        assert stats.blocks_active == len(references)
        assert stats.blocks_free + stats.blocks_active + stats.blocks_cached == BLOCKS
        assert stats.sequences == len(self.alive)
        assert stats.tokens_committed == self.committed
        assert stats.forks == self.forks
        assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (self.queried, self.hit)


def run(
    machine: type[RuleBasedStateMachine],
    examples: int,
    steps: int,
    phases: tuple[Phase, ...] = tuple(Phase),
) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_programs() -> None:
    run(Machine, examples=60, steps=30)


@pytest.mark.slow
def test_longer_random_programs() -> None:
    run(Machine, examples=300, steps=60)


class Forgetful(Machine):
    """A model with a mistake: it forgets what stands behind the second block."""

    def compute(self, *arguments: Any) -> None:  # type: ignore[override]
        super().compute(*arguments)
        for model in self.alive:
            model.text = model.text[: 2 * BLOCK]


def test_the_machine_finds_a_planted_mistake() -> None:
    with pytest.raises(AssertionError):
        run(Forgetful, examples=200, steps=30, phases=(Phase.generate,))
