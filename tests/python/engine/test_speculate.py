"""Speculative decoding: what is guessed, what is kept, and that no token differs for it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pagedkv
import pytest
from pagedkv.cli.prompts import read_prompts
from pagedkv.engine import (
    Completion,
    Engine,
    Model,
    Request,
    RequestError,
    SamplingParams,
    SpeculateParams,
    Tokenizer,
    load_checkpoint,
    parse_speculate,
)
from pagedkv.engine.speculate import Chances, Draft, continuations, grow_tree
from sound import sound_engine

DATA = Path(pagedkv.__file__).parent / "data"
KINDS = [SpeculateParams(3, 8), SpeculateParams(2, 5), SpeculateParams(3, 6, 3)]


def make_requests(count: int, max_tokens: int = 60, **options: Any) -> list[Request]:
    """Prompts that say everything twice. Small models soon repeat themselves, too."""
    generator = np.random.default_rng(7)
    prompts = [generator.integers(0, 61, int(generator.integers(3, 20))) for _ in range(count)]
    return [
        Request(f"r{i}", np.tile(prompt, 2).astype(np.uint32), max_tokens, **options)
        for i, prompt in enumerate(prompts)
    ]


def engine_for(
    model: Model, speculate: SpeculateParams | None = None, **options: Any
) -> AbstractContextManager[Engine]:
    settings = {"blocks": 96, "batch": 8, "step_tokens": 64, "block_tokens": 8} | options
    return sound_engine(model, settings, speculate)


def tokens_of(done: list[Completion]) -> list[list[int]]:
    return [completion.tokens.tolist() for completion in done]


def plain(model: Model, requests: list[Request], **options: Any) -> list[list[int]]:
    with engine_for(model, **options) as engine:
        return tokens_of(engine.run(requests))


# ---- Guesses


def after(text: list[int], longest: int, tokens: int, branches: int) -> list[list[int]]:
    return continuations(np.array(text, np.uint32), longest, tokens, branches)


def test_the_latest_whole_continuation_comes_first() -> None:
    text = [1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 2, 3]
    assert after(text, 3, 2, 1) == [[6, 7]]
    assert after(text, 3, 2, 2) == [[6, 7], [4, 5]]
    assert after(text, 3, 9, 1) == [[4, 5, 1, 2, 3, 6, 7, 2, 3]]  # [6, 7, ...] is shorter


def test_what_has_not_been_said_is_not_guessed() -> None:
    assert after([1, 2, 3], 3, 4, 2) == []
    assert after([1, 2, 3, 1], 3, 4, 2) == [[2, 3, 1]]


def test_a_text_that_stutters() -> None:
    assert after([4, 4, 4, 4, 4], 2, 3, 1) == [[4, 4, 4]]
    assert after([4] * 1000, 2, 3, 2) == [[4, 4, 4]]


def test_equal_beginnings_are_one_branch() -> None:
    draft = grow_tree([[1, 2, 3], [1, 2, 4], [5]], 9)
    assert draft is not None
    assert draft.tokens.tolist() == [1, 2, 3, 4, 5]
    assert draft.parents == (-1, 0, 1, 1, -1)
    assert draft.parent_rows == [-1, 0, 1, 2, 2, 0]
    assert not draft.is_chain
    short = grow_tree([[1, 2, 3], [1, 2, 4]], 2)
    assert short is not None
    assert short.is_chain
    assert short.tokens.tolist() == [1, 2]
    assert grow_tree([], 9) is None


def test_the_more_are_right_the_more_are_guessed() -> None:
    chances = Chances()
    before = chances.length(0, price=0.1, branch=0)
    for _ in range(20):
        chances.learn(last=0, right=0, tried=1)
        chances.learn(last=3, right=8, tried=8)
    assert chances.length(0, price=0.1, branch=0) < before < chances.length(5, price=0.1, branch=0)


def test_another_branch_is_right_when_the_first_is_not() -> None:
    chances = Chances()  # one in two
    assert [chances.length(0, price=0.1, branch=b) for b in range(5)] == [3, 2, 1, 0, 0]


def test_what_is_not_worth_it_is_tried_again_now_and_then() -> None:
    chances = Chances()
    lengths = [chances.length(0, price=0.6, branch=0) for _ in range(3 * Chances.RETRY)]
    assert sum(lengths) == 3


def test_a_path_ends_at_the_first_wrong_guess() -> None:
    draft = Draft(np.array([1, 2, 3, 4, 5], np.uint32), (-1, 0, 1, 1, -1))
    choices = {0: 1, 1: 2, 2: 4, 3: 9, 4: 7, 5: 1}
    assert draft.verify(int, [choices[row] for row in range(6)]) == [0, 1, 2, 4]
    assert draft.verify(int, [5, 0, 0, 0, 0, 8]) == [0, 5]
    assert draft.verify(int, [6, 1, 2, 3, 4, 5]) == [0]


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("ngram", SpeculateParams(3, 8, 1)),
        ("ngram:2,5", SpeculateParams(2, 5, 1)),
        ("ngram-tree", SpeculateParams(3, 8, 3)),
        ("ngram-tree:4,6,2", SpeculateParams(4, 6, 2)),
        ("ngram@9", SpeculateParams(3, 8, 1, 9)),
        ("ngram-tree:4,6,2@100", SpeculateParams(4, 6, 2, 100)),
    ],
)
def test_how_it_is_written(text: str, params: SpeculateParams) -> None:
    assert parse_speculate(text) == params


@pytest.mark.parametrize(
    "text", ["", "ngrams", "ngram:", "ngram:2", "ngram:0,5", "ngram:17,5", "ngram:2,65",
             "ngram-tree:2,5", "ngram-tree:2,5,0", "ngram-tree:2,5,17", "ngram:-1,5",
             "ngram@", "ngram@0", "ngram@x", "ngram:2,5@-1", "ngram:2,5,3@9"]
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"^speculate: "):
        parse_speculate(text)


# ---- Tokens


@pytest.mark.parametrize("params", KINDS, ids=str)
def test_tokens_are_those_of_plain_decoding(model: Model, params: SpeculateParams) -> None:
    requests = make_requests(12)
    with engine_for(model, params) as engine:
        done = tokens_of(engine.run(requests))
        totals = engine.totals
        assert engine.cache.stats().tokens_rejected == totals.guessed - totals.guessed_right
    assert done == plain(model, requests)
    assert 0 < totals.guessed_right < totals.guessed
    assert totals.turns < totals.generated


@pytest.mark.parametrize("params", KINDS, ids=str)
def test_behind_a_window(window_model: Model, params: SpeculateParams) -> None:
    requests = make_requests(6)
    with engine_for(window_model, params) as engine:
        assert tokens_of(engine.run(requests)) == plain(window_model, requests)
        assert engine.totals.guessed_right > 0


@pytest.mark.parametrize("params", KINDS, ids=str)
def test_with_hardly_any_blocks(model: Model, params: SpeculateParams) -> None:
    """Guesses give way before samples do, and samples give way as without."""
    requests = make_requests(8)
    with engine_for(model, params, blocks=26) as engine:
        assert tokens_of(engine.run(requests)) == plain(model, requests)
        assert engine.totals.preemptions > 0


def test_a_stop_token_may_be_guessed(model: Model) -> None:
    requests = make_requests(6)
    text = plain(model, requests)
    stop = text[0][40]
    stopping = Model.__new__(Model)
    stopping.__dict__.update(model.__dict__)
    stopping.config = type(model.config)(
        **{**model.config.__dict__, "stop_tokens": frozenset([stop])}
    )
    with engine_for(stopping, KINDS[0]) as engine:
        done = engine.run(requests)
    assert tokens_of(done) == plain(stopping, requests)
    assert any(completion.finish == "stop" for completion in done)


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_no_token_too_many(model: Model, max_tokens: int) -> None:
    requests = make_requests(4, max_tokens)
    with engine_for(model, KINDS[0]) as engine:
        assert tokens_of(engine.run(requests)) == plain(model, requests)


def test_samples_that_draw_are_left_alone(model: Model) -> None:
    requests = make_requests(4, sampling=SamplingParams(temperature=0.8), samples=2)
    with engine_for(model, KINDS[0]) as engine:
        assert tokens_of(engine.run(requests)) == plain(model, requests)
        assert engine.totals.guessed == 0


def test_a_full_batch_guesses_less(model: Model) -> None:
    shares = []
    for batch in (1, 8):
        with engine_for(model, SpeculateParams(overhead=8), batch=batch) as engine:
            engine.run(make_requests(16))
            shares.append(engine.totals.guessed / engine.totals.turns)
    assert 0 < shares[1] < shares[0]


def test_guesses_take_what_prompts_leave(model: Model) -> None:
    with engine_for(model, KINDS[0], batch=4, step_tokens=4) as engine:
        requests = make_requests(6)
        assert tokens_of(engine.run(requests)) == plain(model, requests)


def test_a_move_that_fails_loses_nothing(model: Model) -> None:
    requests = make_requests(4)
    failures = 0
    with engine_for(model, KINDS[2]) as engine:
        for request in requests:
            engine.submit(request)
        done: list[Completion] = []
        with pagedkv.faults("device.move=50%return(EIO)", seed=3):
            while engine.busy:
                try:
                    done += engine.step()
                except pagedkv.DeviceIOError:
                    failures += 1
    assert failures > 0
    order = {request.id: i for i, request in enumerate(requests)}
    done.sort(key=lambda completion: order[completion.request.id])
    assert tokens_of(done) == plain(model, requests)


def test_believing_every_guess_is_noticed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary of the comparisons above."""
    requests = make_requests(12)
    expected = plain(model, requests)

    def believe(draft: Draft, choose: Any, logits: Any) -> list[int]:
        return list(range(len(draft.tokens) + 1)) if draft.is_chain else [0]

    monkeypatch.setattr(Draft, "verify", believe)
    with engine_for(model, KINDS[0]) as engine:
        assert tokens_of(engine.run(requests)) != expected


@pytest.mark.parametrize("params", [SpeculateParams(), SpeculateParams(branches=3)], ids=str)
def test_the_shipped_prompts(params: SpeculateParams) -> None:
    """All of them, greedily, in f32."""
    folder = DATA / "docstrings-3m"
    checkpoint = load_checkpoint(folder)
    tokenizer = Tokenizer(folder, checkpoint.config.vocab)
    model = Model(checkpoint)
    requests = [
        Request(prompt.id, tokenizer.encode(prompt.text), 64)
        for prompt in read_prompts(DATA / "prompts.jsonl")
    ]
    settings = {"blocks": 320, "batch": 32, "step_tokens": 256, "block_tokens": 16}
    with engine_for(model, params, **settings) as engine:
        done = tokens_of(engine.run(requests))
        assert engine.totals.guessed_right > 0
    assert len(done) == len(requests) > 70
    assert done == plain(model, requests, **settings)
