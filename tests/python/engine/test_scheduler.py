"""Admission, order, and what is refused at the door."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pagedkv import QuotaError
from pagedkv.engine import ArrivalOrder, ModelConfig, Request, RequestError, Scheduler, cache_for
from pagedkv.engine.config import Fields, parse_config
from tiny import CONFIG

MODEL = parse_config(Fields("tiny", CONFIG))


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    """20 blocks of 8 tokens, 4 seats, 32 tokens a step."""
    with cache_for(MODEL, blocks=20, block_tokens=8, batch=4) as cache:
        yield Scheduler(cache, MODEL, batch=4, step_tokens=32)


def request(length: int, max_tokens: int = 4, name: str = "r", first: int = 0) -> Request:
    prompt = np.arange(first, first + length, dtype=np.uint32) % 61
    return Request(name, prompt, max_tokens)


def compute(scheduler: Scheduler) -> list[tuple[str, int]]:
    """Commit the next step without a model; returns what was in it."""
    chunks = scheduler.chunks()
    k = np.zeros((sum(chunk.count for chunk in chunks), MODEL.kv_heads, MODEL.head_dim), "f4")
    with scheduler.cache.step([chunk.entry for chunk in chunks]) as step:
        for layer in range(MODEL.layers):
            step.write(layer, k, k)
    for chunk in chunks:
        chunk.sample.computed += chunk.count
        assert chunk.sample.sequence is not None
        assert len(chunk.sample.sequence) == chunk.sample.computed
        if chunk.sample.computed == chunk.sample.length:
            chunk.sample.append(60, 0.0)
    return [(chunk.sample.request.id, chunk.count) for chunk in chunks]


BAD = {
    "empty": (request(0), "request r: the prompt is empty"),
    "no output": (request(3, 0), "max_tokens 0 must be at least 1"),
    "no samples": (dataclasses.replace(request(3), samples=0), "samples 0 must be 1 to the batch"),
    "samples": (dataclasses.replace(request(3), samples=5), "samples 5 must be 1 to the batch, 4"),
    "vocabulary": (
        Request("r", np.array([5, 61], np.uint32), 4), "token 61 is beyond the model's 61",
    ),
    "context": (request(500, 13), r"prompt of 500 \+ max_tokens 13 exceeds the model's 512"),
    "pool": (request(150, 12), "needs 21 blocks of 8 tokens, the pool has 20: it can never fit"),
    "2^31": (request(3, 2**31), "exceeds the model's 512"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused_at_admission(scheduler: Scheduler, case: str) -> None:
    bad, message = BAD[case]
    with pytest.raises(RequestError, match=message):
        scheduler.submit(bad, 0.0)
    assert scheduler.waiting == []


def test_the_last_generated_token_needs_no_room(scheduler: Scheduler) -> None:
    scheduler.check(request(150, 11))


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": 8, "step_tokens": 7}])
def test_bad_limits(scheduler: Scheduler, options: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="must be at least"):
        Scheduler(scheduler.cache, MODEL, **{"step_tokens": 64, **options})


def test_decode_first_then_prompts_in_order(scheduler: Scheduler) -> None:
    scheduler.submit(request(5, name="a"), 0.0)
    scheduler.admit()
    assert compute(scheduler) == [("a", 5)]
    scheduler.submit(request(40, name="b", first=10), 0.0)
    scheduler.submit(request(20, name="c", first=30), 0.0)
    scheduler.admit()
    assert compute(scheduler) == [("a", 1), ("b", 31)]
    assert compute(scheduler) == [("a", 1), ("b", 9), ("c", 20)]
    assert compute(scheduler) == [("a", 1), ("b", 1), ("c", 1)]


def test_seats(scheduler: Scheduler) -> None:
    for index in range(5):
        scheduler.submit(request(4, name=str(index), first=7 * index), 0.0)
    scheduler.admit()
    assert [sample.request.id for sample in scheduler.running] == list("0123")
    scheduler.finish(scheduler.running[1])
    scheduler.admit()
    assert [sample.request.id for sample in scheduler.running] == list("0234")


def test_siblings_take_seats_from_the_start(scheduler: Scheduler) -> None:
    scheduler.submit(dataclasses.replace(request(4, name="a"), samples=3), 0.0)
    scheduler.submit(dataclasses.replace(request(4, name="b", first=9), samples=2), 0.0)
    scheduler.admit()
    assert scheduler.seats_taken == 3
    compute(scheduler)
    children = scheduler.fork(scheduler.running[0])
    assert [child.number for child in children] == [1, 2]
    assert scheduler.seats_taken == 3
    scheduler.admit()
    assert len(scheduler.waiting) == 1


def test_nobody_overtakes_a_head_that_waits_for_blocks(scheduler: Scheduler) -> None:
    scheduler.submit(request(100, name="big"), 0.0)
    scheduler.submit(request(100, name="head", first=3), 0.0)
    scheduler.submit(request(4, name="small", first=50), 0.0)
    scheduler.admit()
    assert [sample.request.id for sample in scheduler.running] == ["big"]
    big = scheduler.running[0]
    before = scheduler.cache.stats().prefix_query_tokens
    for _ in range(5):
        scheduler.admit()
    assert scheduler.cache.stats().prefix_query_tokens == before, "asked again without new room"
    scheduler.finish(big)
    scheduler.admit()
    assert [sample.request.id for sample in scheduler.running] == ["head", "small"]


def test_a_request_that_fits_later_is_not_forgotten(scheduler: Scheduler) -> None:
    """The running one ends before it took a block: as much is free as when the head did not fit."""
    scheduler.submit(request(100, name="a"), 0.0)
    scheduler.submit(request(100, name="b", first=3), 0.0)
    scheduler.admit()
    scheduler.finish(scheduler.running[0])
    scheduler.admit()
    assert [sample.request.id for sample in scheduler.running] == ["b"]


def test_equal_prefix_waits_until_it_is_committed(scheduler: Scheduler) -> None:
    scheduler.submit(request(60, name="a"), 0.0)
    scheduler.submit(request(50, name="b"), 0.0)
    scheduler.submit(request(7, name="c"), 0.0)
    scheduler.admit()
    # c shares less than a block: nothing to wait for.
    assert [sample.request.id for sample in scheduler.running] == ["a", "c"]
    assert compute(scheduler) == [("a", 32)]
    scheduler.admit()
    assert "b" not in [sample.request.id for sample in scheduler.running]
    assert compute(scheduler) == [("a", 28), ("c", 4)]
    scheduler.admit()
    waited = scheduler.running[-1]
    assert waited.request.id == "b"
    assert waited.reused == waited.computed == 49, "six blocks, and a token of the seventh"


def test_two_equal_prompts_that_arrive_together_are_computed_once(scheduler: Scheduler) -> None:
    scheduler.submit(request(25, name="a"), 0.0)
    scheduler.submit(request(25, name="b"), 0.0)
    scheduler.admit()
    assert compute(scheduler) == [("a", 25)]
    scheduler.admit()
    assert compute(scheduler) == [("a", 1), ("b", 1)]
    assert scheduler.running[1].reused == 24
    assert scheduler.cache.stats().prefix_duplicates == 0


def test_who_waits_goes_on_when_the_owner_is_cancelled(scheduler: Scheduler) -> None:
    scheduler.submit(request(60, name="a"), 0.0)
    scheduler.submit(request(60, name="b"), 0.0)
    scheduler.admit()
    assert compute(scheduler) == [("a", 32)]
    scheduler.admit()
    assert [sample.request.id for sample in scheduler.running] == ["a"]
    scheduler.finish(scheduler.running[0])
    scheduler.admit()
    assert [sample.request.id for sample in scheduler.running] == ["b"]
    assert scheduler.running[0].reused == 32
    assert compute(scheduler) == [("b", 28)]


def test_victims_are_the_youngest_and_keep_their_place(scheduler: Scheduler) -> None:
    for index, name in enumerate("abc"):
        scheduler.submit(request(8, name=name, first=9 * index), 0.0)
    scheduler.admit()
    compute(scheduler)
    left = scheduler.make_room(scheduler.chunks())
    assert [chunk.sample.request.id for chunk in left] == ["a", "b"]
    scheduler.submit(request(8, name="d", first=40), 0.0)
    assert [sample.request.id for sample in scheduler.waiting] == ["c", "d"]
    victim = scheduler.waiting[0]
    assert (victim.computed, victim.sequence, victim.preemptions) == (0, None, 1)
    assert len(victim.generated) == 1
    scheduler.admit()
    assert victim.computed == 8, "its own block was still cached"
    assert victim.reused == 0, "reuse counts what the first admission found"


def test_alone_the_chunk_shrinks(scheduler: Scheduler) -> None:
    scheduler.submit(request(20), 0.0)
    scheduler.admit()
    chunks = scheduler.chunks()
    sizes = []
    for _ in range(4):
        chunks = scheduler.make_room(chunks)
        sizes.append(chunks[0].count)
    assert sizes == [10, 5, 2, 1]


def test_a_policy_of_ones_own(scheduler: Scheduler) -> None:
    class ShortestFirst(ArrivalOrder):
        def priority(self, sample: Any) -> Any:
            return (len(sample.request.prompt), sample.order)

    scheduler.policy = ShortestFirst()
    for length in (30, 5, 12):
        scheduler.submit(request(length, name=str(length), first=length), 0.0)
    assert [sample.request.id for sample in scheduler.waiting] == ["5", "12", "30"]


def test_blocks_behind_a_window() -> None:
    config: ModelConfig = dataclasses.replace(MODEL, window=20)
    with cache_for(config, blocks=20, block_tokens=8) as cache:
        scheduler = Scheduler(cache, config, batch=4, step_tokens=32)
        assert scheduler.blocks_held(16) == 2
        assert scheduler.blocks_held(400, chunk=1) == 4
        assert scheduler.blocks_held(400) == 8
        scheduler.check(request(400))


# ---- Tenants with quotas

CHAT, BATCH = 1, 2


@pytest.fixture
def shared() -> Iterator[Scheduler]:
    """20 blocks of 8 tokens, 8 seats, for tenants with quotas."""
    with cache_for(MODEL, blocks=20, block_tokens=8, batch=8, tenants=2) as cache:
        yield Scheduler(cache, MODEL, batch=8, step_tokens=256)


def ask(scheduler: Scheduler, tenant: int, length: int, name: str, first: int = 0) -> None:
    scheduler.submit(
        dataclasses.replace(request(length, name=name, first=first), tenant=tenant), 0.0
    )


def names(samples: list[Any]) -> list[str]:
    return [sample.request.id for sample in samples]


def test_a_tenant_at_its_limit_holds_nobody_up(shared: Scheduler) -> None:
    shared.cache.set_tenant(BATCH, limit=6)
    ask(shared, BATCH, 30, "b1")
    ask(shared, BATCH, 30, "b2", 5)
    ask(shared, BATCH, 3, "b3", 9)
    ask(shared, CHAT, 50, "c", 7)
    shared.admit()
    assert names(shared.running) == ["b1", "c"]
    before = shared.cache.stats().prefix_query_tokens
    shared.admit()
    assert shared.cache.stats().prefix_query_tokens == before, "asked again without new room"
    shared.finish(shared.running[0])
    shared.admit()
    assert names(shared.running) == ["c", "b2", "b3"]


def test_a_guarantee_overtakes_the_line_for_the_pool(shared: Scheduler) -> None:
    shared.cache.set_tenant(CHAT, guaranteed=8)
    ask(shared, BATCH, 70, "b1")
    ask(shared, BATCH, 70, "b2", 5)
    ask(shared, 3, 5, "other", 11)
    ask(shared, CHAT, 50, "c1", 7)
    ask(shared, CHAT, 50, "c2", 13)
    shared.admit()
    assert names(shared.running) == ["b1", "c1"]
    shared.finish(shared.running[0])
    shared.admit()
    assert names(shared.running) == ["c1", "b2", "other"]


def test_prefixes_under_way_are_those_of_the_same_tenant(shared: Scheduler) -> None:
    ask(shared, CHAT, 40, "c1")
    ask(shared, BATCH, 40, "b")
    ask(shared, CHAT, 40, "c2")
    shared.admit()
    assert names(shared.running) == ["c1", "b"]


def test_what_a_quota_can_never_hold_is_refused(shared: Scheduler) -> None:
    shared.cache.set_tenant(BATCH, limit=6)
    shared.cache.set_tenant(CHAT, guaranteed=4)
    with pytest.raises(RequestError, match="needs 7 blocks of 8 tokens, tenant 2 may have 6"):
        ask(shared, BATCH, 50, "b")
    with pytest.raises(RequestError, match="tenant 3 may have 16: it cannot fit"):
        ask(shared, 3, 130, "other")


def test_who_gives_way_is_of_the_tenant_at_its_limit(shared: Scheduler) -> None:
    ask(shared, BATCH, 16, "b1")
    ask(shared, BATCH, 16, "b2", 5)
    ask(shared, CHAT, 16, "c", 9)
    shared.admit()
    compute(shared)
    shared.cache.set_tenant(BATCH, limit=5)
    chunks = shared.chunks()
    with pytest.raises(QuotaError):
        shared.cache.step([chunk.entry for chunk in chunks]).abort()
    shared.make_room(chunks, is_at_limit=True)
    assert names(shared.running) == ["b1", "c"]
    assert names(shared.waiting) == ["b2"]
    compute(shared)


def test_who_gives_way_has_more_than_it_is_guaranteed(shared: Scheduler) -> None:
    shared.cache.set_tenant(CHAT, guaranteed=6)
    ask(shared, BATCH, 16, "b1")
    ask(shared, BATCH, 16, "b2", 5)
    ask(shared, CHAT, 16, "c", 9)
    shared.admit()
    compute(shared)
    shared.make_room(shared.chunks())
    assert names(shared.running) == ["b1", "c"]
