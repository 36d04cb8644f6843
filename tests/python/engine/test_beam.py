"""Beam search: the rules by themselves, and its beams beside other requests under pressure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pagedkv
import pytest
from pagedkv.engine import (
    BeamParams,
    BeamSearch,
    Completion,
    Engine,
    Model,
    Request,
    RequestError,
    Sampler,
    SamplingParams,
    first_difference,
    generate_alone,
    load_checkpoint,
    search_alone,
)
from pagedkv.engine.beam import log_softmax
from sound import sound_engine
from tiny import write_checkpoint

# ---- The search by itself

VOCAB = 4
STOP = 3


def logits_of(tokens: tuple[int, ...]) -> np.ndarray:
    """A made-up model: logits behind some tokens, the same whenever they are asked for."""
    return 2 * np.random.default_rng([7, *tokens]).standard_normal(VOCAB)


def run_search(params: BeamParams, max_tokens: int, stops: tuple[int, ...]) -> BeamSearch:
    search = BeamSearch(params, max_tokens, stops)
    beams: list[tuple[int, ...]] = [()]
    while choices := search.step(np.stack([logits_of(beam) for beam in beams])):
        beams = [(*beams[parent], token) for parent, token in choices]
        assert beams == [tuple(tokens) for tokens in search.generated]
        assert search.scores == sorted(search.scores, reverse=True)
    return search


def every_output(max_tokens: int) -> Iterator[tuple[float, list[int]]]:
    """(log-probability, tokens) of all that the model can put out."""
    for length in range(1, max_tokens + 1):
        for tokens in itertools.product(range(VOCAB), repeat=length):
            if STOP in tokens[:-1] or (tokens[-1] != STOP and length < max_tokens):
                continue
            rows = [log_softmax(logits_of(tokens[:i])[None])[0] for i in range(length)]
            yield float(sum(row[t] for row, t in zip(rows, tokens, strict=True))), list(tokens)


@pytest.mark.parametrize("penalty", [0.0, 1.0, -1.0, 2.0])
def test_wide_enough_to_miss_nothing(penalty: float) -> None:
    """With as many beams as there are outputs, and no early end, the best outputs are found."""
    outputs = [(total / len(tokens) ** penalty, tokens) for total, tokens in every_output(4)]
    outputs.sort(reverse=True)
    params = BeamParams(len(outputs), penalty, "never")
    search = run_search(params, 4, (STOP,))
    assert [one.tokens for one in search.hypotheses] == [tokens for _, tokens in outputs]
    scores = [score for score, _ in outputs]
    assert [one.score for one in search.hypotheses] == pytest.approx(scores)
    stopped = [one.finish == "stop" for one in search.hypotheses]
    assert stopped == [tokens[-1] == STOP for _, tokens in outputs]


def test_one_beam_is_greedy() -> None:
    tokens: list[int] = []
    while len(tokens) < 6:
        tokens.append(int(np.argmax(logits_of(tuple(tokens)))))
    search = run_search(BeamParams(1), 6, ())
    assert [one.tokens for one in search.hypotheses] == [tokens]


def test_a_stop_token_beyond_the_first_candidates_ends_nothing() -> None:
    """B1: of two beams the stop token is third, behind both that go on."""
    search = BeamSearch(BeamParams(2, 0.0, "never"), 5, (STOP,))
    assert search.step(np.array([[4.0, 3.0, 0.0, 2.0]])) == [(0, 0), (0, 1)]
    assert search.hypotheses == []
    search.step(np.array([[0.0, 1.0, 0.0, 9.0], [5.0, 0.0, 0.0, 0.0]]))
    assert [one.tokens for one in search.hypotheses] == [[0, STOP]]


@pytest.mark.parametrize(("early", "goes_on"), [(True, False), (False, False), ("never", True)])
def test_when_it_is_over(early: Any, goes_on: bool) -> None:
    """One hypothesis of one beam; only a long tail of certain tokens could improve on it."""
    search = BeamSearch(BeamParams(1, 1.0, early), 1000, (STOP,))
    assert bool(search.step(np.array([[0.0, 0.0, 0.0, 1.0]]))) is goes_on
    assert len(search.hypotheses) == 1


def test_not_over_while_a_beam_is_better() -> None:
    search = BeamSearch(BeamParams(2, 0.0), 1000, (STOP,))
    assert search.step(np.array([[9.0, 0.0, 0.0, 1.0]]))  # [STOP] ends, far behind [0]
    assert search.step(np.array([[9.0, 0.0, 0.0, 8.0], [0.0, 0.0, 0.0, 0.0]]))
    assert len(search.hypotheses) == 2
    assert search.scores[0] > search.hypotheses[-1].score


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite(value: float) -> None:
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        BeamSearch(BeamParams(2), 5, ()).step(np.array([[0.0, value, 0.0, 0.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "beams 0 must be at least 1"),
        ({"width": 2, "length_penalty": float("nan")}, "length_penalty nan must be a finite"),
        ({"width": 2, "early_stopping": "often"}, "early_stopping 'often' must be"),
    ],
)
def test_bad_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        BeamParams(**options)


# ---- In the engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder, eos_token_id=[5, 23, 44])
    return Model(load_checkpoint(folder))


@pytest.fixture(scope="module")
def window_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("window")
    family = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    write_checkpoint(folder, **family, sliding_window=20, eos_token_id=[5, 23, 44])
    return Model(load_checkpoint(folder))


def make_requests(count: int, width: int = 4, max_tokens: int = 14) -> list[Request]:
    """Every second request is a search; all prompts open with the same 20 tokens."""
    generator = np.random.default_rng(3)
    opening = generator.integers(0, 61, 20)
    requests = []
    for index in range(count):
        tail = generator.integers(0, 61, int(generator.integers(1, 30)))
        prompt = np.concatenate([opening, tail]).astype(np.uint32)
        options: dict[str, Any] = {}
        if index % 2 == 0:
            options = {"samples": width // 2, "beam": BeamParams(width)}
        requests.append(Request(f"r{index}", prompt, max_tokens, **options))
    return requests


def engine_for(model: Model, **options: Any) -> AbstractContextManager[Engine]:
    settings = {"blocks": 120, "batch": 16, "step_tokens": 32, "block_tokens": 8} | options
    return sound_engine(model, settings)


def alone(model: Model, requests: list[Request]) -> list[list[int]]:
    """Tokens of all samples, one after the other and without pages."""
    stops = model.config.stop_tokens
    tokens = []
    for number, one in enumerate(requests):
        if one.beam is None:
            sampler = Sampler(one.sampling, number, 0)
            tokens.append(generate_alone(model, one.prompt, one.max_tokens, sampler, stops)[0])
        else:
            found = search_alone(model, one.prompt, one.max_tokens, one.beam, stops)
            tokens += [hypothesis.tokens for hypothesis in found[: one.samples]]
    return tokens


def tokens_of(done: list[Completion]) -> list[list[int]]:
    return [completion.tokens.tolist() for completion in done]


def test_searches_and_other_requests_in_one_batch(model: Model) -> None:
    requests = make_requests(9)
    with engine_for(model) as engine:
        done = engine.run(requests)
        stats = engine.cache.stats()
    assert tokens_of(done) == alone(model, requests)
    assert engine.totals.batch_peak > 9
    assert engine.totals.preemptions == 0
    assert engine.totals.generated == sum(len(completion.tokens) for completion in done)
    assert stats.forks >= 5 * 3
    assert stats.cow_copies > 0
    for completion in done:
        assert (completion.score is None) == (completion.request.beam is None)


@pytest.mark.parametrize(
    ("blocks", "step_tokens"), [(34, 32), (30, 16), (27, 32)], ids=["34", "30", "27"]
)
def test_preempted_as_a_whole(model: Model, blocks: int, step_tokens: int) -> None:
    """Searches give way to older requests, all beams at once, and lose nothing by it."""
    requests = make_requests(9, max_tokens=20)
    with engine_for(model, blocks=blocks, step_tokens=step_tokens) as engine:
        folded: list[int] = []
        give_way = engine.scheduler._give_way

        def watch(victim: Any) -> Any:
            lead = give_way(victim)
            if lead.beams is not None:
                folded.append(len(lead.beams.members))
                assert all(member.sequence is None for member in lead.beams.members)
                assert not any(one.beams is lead.beams for one in engine.scheduler.running)
            return lead

        engine.scheduler._give_way = watch  # type: ignore[method-assign]
        done = engine.run(requests)
    assert tokens_of(done) == alone(model, requests)
    assert max(folded) == 4, "no search was preempted with all of its beams"
    assert sum(completion.preemptions for completion in done) > 0


def test_behind_a_window(window_model: Model) -> None:
    requests = make_requests(9, max_tokens=30)
    for blocks in (120, 36):
        with engine_for(window_model, blocks=blocks) as engine:
            done = engine.run(requests)
        assert tokens_of(done) == alone(window_model, requests)


@pytest.mark.parametrize(("prompt", "max_tokens", "need"), [(13, 12, 9), (9, 8, 5)])
def test_in_the_smallest_pool_that_is_accepted(
    model: Model, prompt: int, max_tokens: int, need: int
) -> None:
    """4 beams share a whole block of 8 tokens; two or one more are each beam's own."""
    tokens = np.arange(prompt, dtype=np.uint32)
    request = Request("r", tokens, max_tokens, samples=4, beam=BeamParams(4))
    message = f"needs {need} blocks of 8 tokens, the pool has {need - 1}"
    with engine_for(model, blocks=need - 1) as engine, pytest.raises(RequestError, match=message):
        engine.submit(request)
    with engine_for(model, blocks=need) as engine:
        done = engine.run([request])
    assert tokens_of(done) == alone(model, [request])


def test_a_vocabulary_smaller_than_the_beams_want(model: Model) -> None:
    """61 tokens, 80 beams: the first step has too few candidates, and the search goes on."""
    request = Request("r", np.arange(9, dtype=np.uint32), 3, samples=3, beam=BeamParams(80))
    with engine_for(model, blocks=400, batch=80, step_tokens=80) as engine:
        done = engine.run([request])
    assert tokens_of(done) == alone(model, [request])


BAD = {
    "fewer beams than samples": (
        {"samples": 4, "beam": BeamParams(3)},
        "beams 3 must be from samples, 4, to the batch, 16",
    ),
    "more beams than seats": ({"beam": BeamParams(17)}, "beams 17 must be from samples, 1, to"),
    "sampling": (
        {"beam": BeamParams(2), "sampling": SamplingParams(0.5)},
        "temperature must be 0 with beams",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(model: Model, case: str) -> None:
    options, message = BAD[case]
    with engine_for(model) as engine, pytest.raises(RequestError, match=message):
        engine.submit(Request("r", np.arange(3, dtype=np.uint32), 4, **options))


def test_a_step_that_fails_is_tried_again(model: Model) -> None:
    """Copies of shared tails fail now and then; no beam notices."""
    requests = make_requests(5)
    with engine_for(model) as engine:
        for request in requests:
            engine.submit(request)
        done: list[Completion] = []
        failures = 0
        with pagedkv.faults("device.copy.submit=30%return(EIO)", seed=5):
            while engine.busy:
                try:
                    done += engine.step()
                except pagedkv.DeviceIOError:
                    failures += 1
        done.sort(key=lambda one: (requests.index(one.request), one.sample))
    assert failures > 0
    assert tokens_of(done) == alone(model, requests)


def test_first_difference_of_a_search(model: Model) -> None:
    requests = make_requests(1)
    with engine_for(model) as engine:
        done = engine.run(requests)
    assert first_difference(model, done[1], 0, "f32") is None
    done[1].tokens[2] ^= 1
    different = first_difference(model, done[1], 0, "f32")
    assert different is not None
    assert different.index == 2
    assert different.logits == []
