"""Continuous batching over the real cache: results, sharing, pressure, failure."""

from __future__ import annotations

import copy
import dataclasses
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pagedkv
import pytest
from pagedkv.engine import (
    Completion,
    Engine,
    EngineError,
    Model,
    Progress,
    Request,
    Sampler,
    SamplingParams,
    cache_for,
    first_difference,
    generate_alone,
    summarise,
)
from sound import sound_engine

RNG = np.random.default_rng(11)
PREAMBLE = RNG.integers(0, 61, 50)


def make_requests(count: int, max_tokens: int = 12, **options: Any) -> list[Request]:
    """Every second prompt opens with the same 50 tokens."""
    generator = np.random.default_rng(5)
    requests = []
    for index in range(count):
        tail = generator.integers(0, 61, int(generator.integers(1, 40)))
        prompt = np.concatenate([PREAMBLE, tail]) if index % 2 else tail
        request = Request(f"r{index}", prompt.astype(np.uint32), max_tokens, **options)
        requests.append(request)
    return requests


def engine_for(model: Model, **options: Any) -> AbstractContextManager[Engine]:
    settings = {"blocks": 64, "batch": 8, "step_tokens": 64, "block_tokens": 8} | options
    return sound_engine(model, settings)


def tokens_of(done: list[Completion]) -> list[list[int]]:
    return [completion.tokens.tolist() for completion in done]


def alone(model: Model, requests: list[Request], dtype: str = "f32") -> list[list[int]]:
    return [
        generate_alone(
            model,
            request.prompt,
            request.max_tokens,
            Sampler(request.sampling, number, sample),
            model.config.stop_tokens,
            dtype,
        )[0]
        for number, request in enumerate(requests)
        for sample in range(request.samples)
    ]


# ---- Results


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_same_tokens_as_alone(model: Model, dtype: str) -> None:
    requests = make_requests(20)
    with engine_for(model, dtype=dtype) as engine:
        done = engine.run(requests)
    assert tokens_of(done) == alone(model, requests, dtype)
    assert [completion.request for completion in done] == requests
    assert {completion.finish for completion in done} == {"length"}


def logits_of_run(model: Model, requests: list[Request], **options: Any) -> dict[Any, Any]:
    """Logits of every generated token, by request and place."""
    seen = {}
    with engine_for(model, **options) as engine:
        append = engine._append

        def record(sample: Any, row: Any) -> list[Completion]:
            seen[sample.request.id, sample.number, sample.length] = row.copy()
            return append(sample, row)

        engine._append = record  # type: ignore[method-assign]
        engine.run(requests)
        preemptions = engine.totals.preemptions
    return {"preemptions": preemptions, **seen}


def test_logits_are_bitwise_independent_of_batch_chunks_and_preemption(model: Model) -> None:
    requests = make_requests(12, max_tokens=20)
    reference = logits_of_run(model, requests, batch=1, step_tokens=200)
    assert reference.pop("preemptions") == 0
    assert len(reference) == 12 * 20
    preemptions = 0
    for options in (
        {"batch": 12, "step_tokens": 400, "blocks": 200},
        {"batch": 5, "step_tokens": 7},
        {"batch": 12, "step_tokens": 12, "blocks": 16},
        {"batch": 8, "step_tokens": 64, "blocks": 18, "threads": 2},
        {"batch": 8, "step_tokens": 64, "block_tokens": 16},
    ):
        other = logits_of_run(model, requests, **options)
        preemptions += other.pop("preemptions")
        assert other.keys() == reference.keys()
        for place, row in reference.items():
            np.testing.assert_array_equal(other[place], row, err_msg=f"{options} {place}")
    assert preemptions > 0


def test_sampling_does_not_depend_on_the_batch(model: Model) -> None:
    sampling = SamplingParams(temperature=1.0, top_k=20, top_p=0.9, seed=3)
    requests = make_requests(10, sampling=sampling)
    expected = alone(model, requests)
    assert expected != alone(model, make_requests(10))
    for options in ({"batch": 10}, {"batch": 3, "blocks": 17}):
        with engine_for(model, **options) as engine:
            assert tokens_of(engine.run(requests)) == expected


@pytest.mark.parametrize("seed", range(24))
def test_random_settings_change_nothing(model: Model, window_model: Model, seed: int) -> None:
    """Any pool that holds the largest request, any batch, chunk, block and type: the tokens are
    those of four samples at a time with room to spare."""
    generator = np.random.default_rng(seed)
    draw = generator.integers
    chosen = window_model if draw(2) else model
    batch, block_tokens = int(draw(1, 12)), int(2 ** draw(0, 6))
    settings: dict[str, Any] = {
        "batch": batch,
        "step_tokens": int(draw(batch, batch + 80)),
        "block_tokens": block_tokens,
        "dtype": str(generator.choice(["f32", "f16", "bf16"])),
        "threads": int(draw(1, 3)),
    }
    sampling = SamplingParams(temperature=float(draw(2)), seed=seed)
    requests = [
        Request(
            str(index),
            np.append(PREAMBLE[: draw(50)], draw(0, 61, draw(1, 30))).astype(np.uint32),
            int(draw(1, 30)),
            sampling,
            samples=int(draw(1, min(4, batch) + 1)),
        )
        for index in range(draw(1, 20))
    ]
    with engine_for(chosen, **settings, blocks=100) as engine:
        need = max(engine.scheduler.blocks_held(one.tokens_max - 1, 1) for one in requests)
    with engine_for(chosen, **settings, blocks=need + int(draw(0, 12))) as engine:
        tight = tokens_of(engine.run(requests))
    roomy = settings | {"batch": 4, "step_tokens": 1000, "threads": 1}
    with engine_for(chosen, **roomy, blocks=4000) as engine:
        assert tokens_of(engine.run(requests)) == tight, f"seed {seed}: {settings}"


def test_stop_tokens(model: Model) -> None:
    requests = make_requests(6, max_tokens=30)
    stop = alone(model, requests)[0][4]
    stopping = copy.copy(model)
    stopping.config = dataclasses.replace(model.config, stop_tokens=(stop,))
    with engine_for(stopping) as engine:
        done = engine.run(requests)
    assert tokens_of(done) == alone(stopping, requests)
    assert done[0].finish == "stop"
    assert done[0].tokens[-1] == stop


# ---- Sharing


def group(count: int, **options: Any) -> list[Request]:
    """Requests with 50 equal tokens in front, six whole blocks of 8, and one of their own."""
    return [
        Request(f"g{i}", np.append(PREAMBLE, i).astype(np.uint32), 4, **options)
        for i in range(count)
    ]


def test_a_preamble_is_computed_once(model: Model) -> None:
    with engine_for(model) as engine:
        done = engine.run(group(6))
        assert engine.totals.prefix_tokens_reused == 5 * 48
        assert [completion.reused for completion in done] == [0] + [48] * 5
        # 51 of the first prompt, 3 of each other, and 3 generated tokens that were fed back.
        assert engine.totals.tokens_computed == 51 + 5 * 3 + 6 * 3


def test_canary_without_holding_back_it_is_computed_many_times(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_for(model) as engine:
        monkeypatch.setattr(engine.scheduler, "_is_prefix_under_way", lambda sample: False)
        engine.run(group(6))
        assert engine.totals.prefix_tokens_reused == 0


def test_holding_back_does_not_hold_up_others(model: Model) -> None:
    requests = [*group(2), *make_requests(1)]
    with engine_for(model, step_tokens=16, batch=8) as engine:
        for request in requests:
            engine.submit(request)
        engine.step()
        running = [sample.request.id for sample in engine.scheduler.running]
        assert running == ["g0", "r0"]
        while engine.busy:
            engine.step()


def test_samples_fork(model: Model) -> None:
    sampling = SamplingParams(temperature=1.0, seed=9)
    requests = make_requests(4, samples=3, sampling=sampling)
    with engine_for(model, batch=6) as engine:
        done = engine.run(requests)
        stats = engine.cache.stats()
    assert stats.forks == 4 * 2
    assert stats.cow_copies > 0
    assert [(completion.request.id, completion.sample) for completion in done] == [
        (f"r{number}", sample) for number in range(4) for sample in range(3)
    ]
    assert tokens_of(done) == alone(model, requests)
    assert len({tuple(tokens) for tokens in tokens_of(done)}) > 8


def test_many_forks_write_in_one_step(model: Model) -> None:
    """All samples of a batch fork and take their own leaf and tail in the same step."""
    requests = make_requests(8, samples=4, sampling=SamplingParams(temperature=1.0))
    with engine_for(model, batch=32, step_tokens=512, blocks=200) as engine:
        assert tokens_of(engine.run(requests)) == alone(model, requests)


def test_samples_under_pressure(model: Model) -> None:
    requests = make_requests(6, max_tokens=24, samples=4, sampling=SamplingParams(temperature=1.0))
    with engine_for(model, batch=8, blocks=16) as engine:
        assert tokens_of(engine.run(requests)) == alone(model, requests)
        assert engine.totals.preemptions > 0


# ---- Pressure


def test_requests_wait_for_blocks_and_all_finish(model: Model) -> None:
    requests = make_requests(10)
    with engine_for(model, blocks=13) as engine:
        waited = []
        done = engine.run(requests, lambda progress: waited.append(progress.waiting))
    assert tokens_of(done) == alone(model, requests)
    assert max(waited) >= 8
    assert waited[-1] == 0


def test_preempted_requests_resume(model: Model) -> None:
    """Short prompts with long outputs: admission cannot know that they will not all fit."""
    requests = [Request(f"p{i}", np.array([i], np.uint32), 60) for i in range(8)]
    with engine_for(model, blocks=24) as engine:
        done = engine.run(requests)
        assert engine.totals.preemptions > 0
    assert tokens_of(done) == alone(model, requests)
    assert sum(completion.preemptions for completion in done) == engine.totals.preemptions
    assert done[0].preemptions == 0, "the oldest is never preempted"


def test_a_prompt_longer_than_the_pool_fits_behind_a_window(window_model: Model) -> None:
    prompts = [RNG.integers(0, 61, 200).astype(np.uint32) for _ in range(3)]
    requests = [Request(f"w{i}", prompt, 8) for i, prompt in enumerate(prompts)]
    with engine_for(window_model, blocks=5, batch=4) as engine:
        assert tokens_of(engine.run(requests)) == alone(window_model, requests)
        assert engine.cache.stats().rolled_blocks > 0


def test_blocks_that_others_hold(model: Model) -> None:
    with cache_for(model.config, blocks=8, block_tokens=8) as cache:
        other = cache.sequence()
        other.append(list(range(60)))
        engine = Engine(model, cache)
        with pytest.raises(EngineError, match="no block is left"):
            engine.run([Request("a", np.arange(20, dtype=np.uint32), 4)])


# ---- Failure


def test_a_failed_step_leaves_no_trace(model: Model) -> None:
    requests = make_requests(4)
    expected = alone(model, requests)
    with engine_for(model) as engine:
        for request in requests:
            engine.submit(request)
        done: list[Completion] = []
        failures = 0
        with pagedkv.faults("device.attend=20%return(EIO); device.write=5%return(EIO)", seed=4):
            while engine.busy:
                try:
                    done += engine.step()
                except pagedkv.DeviceIOError:
                    failures += 1
        assert failures > 5
    done.sort(key=lambda completion: completion.request.id)
    assert tokens_of(done) == expected


def test_injected_lack_of_blocks_preempts(model: Model) -> None:
    requests = make_requests(6)
    with (
        pagedkv.faults("pool.take=4*off->3*return(ENOBLOCKS)"),
        engine_for(model) as engine,
    ):
        done = engine.run(requests)
        assert engine.totals.preemptions == 3
    assert tokens_of(done) == alone(model, requests)


def test_one_bad_request_refuses_the_run(model: Model) -> None:
    with engine_for(model) as engine:
        bad = Request("bad", np.array([], np.uint32), 4)
        with pytest.raises(EngineError, match="request bad: the prompt is empty"):
            engine.run([*make_requests(2), bad])
        assert not engine.busy
        assert engine.step() == []


# ---- Figures


def test_times_and_totals(model: Model) -> None:
    ticks = iter(range(10**6))
    requests = make_requests(5, max_tokens=6)
    with cache_for(model.config, blocks=64, block_tokens=8) as cache:
        engine = Engine(model, cache, clock=lambda: float(next(ticks)))
        snapshots: list[Progress] = []
        done = engine.run(requests, snapshots.append)
        summary = summarise(done, engine.totals, cache.stats(), 10.0)
    assert summary.requests == summary.samples == 5
    assert summary.generated_tokens == 30
    assert summary.generated_per_second == 3.0
    assert summary.prompt_tokens == sum(len(request.prompt) for request in requests)
    assert snapshots[-1].finished == 5
    assert snapshots[-1].running == snapshots[-1].waiting == 0
    for completion in done:
        assert completion.ttft > 0
        assert completion.tpot is not None
        assert completion.tpot >= 1
    assert summary.blocks_peak <= summary.blocks_reserved_peak
    pages = [-(-request.tokens_max // 8) for request in requests]
    assert max(pages) < summary.blocks_reserved_peak <= sum(pages)


def test_one_token_has_no_gap(model: Model) -> None:
    with engine_for(model) as engine:
        (done,) = engine.run(make_requests(1, max_tokens=1))
    assert done.tpot is None
    assert summarise([done], engine.totals, engine_stats(), 1.0).tpot is None


def engine_stats() -> pagedkv.Stats:
    with pagedkv.Cache(layers=1, kv_heads=1, head_dim=16, blocks=1) as cache:
        return cache.stats()


def test_check_finds_a_changed_token(model: Model) -> None:
    with engine_for(model) as engine:
        done = engine.run(make_requests(3))
    assert [first_difference(model, one, n, "f32") for n, one in enumerate(done)] == [None] * 3
    good = done[1].tokens.tolist()
    done[1].tokens[7] = (good[7] + 1) % 61
    found = first_difference(model, done[1], 1, "f32")
    assert found is not None
    assert found.index == 7
    assert found.expected == good[7:]
    assert found.actual[0] == done[1].tokens[7]
    assert found.logits[0][0] == good[7]
    assert found.logits[1][0] == done[1].tokens[7]
    assert found.logits[0][1] == max(logit for _, logit in found.logits)


def test_check_finds_a_missing_end(model: Model) -> None:
    with engine_for(model) as engine:
        (done,) = engine.run(make_requests(1))
    short = Completion(**{**vars(done), "tokens": done.tokens[:-2]})
    found = first_difference(model, short, 0, "f32")
    assert found is not None
    assert found.index == len(done.tokens) - 2
    assert found.actual == []
