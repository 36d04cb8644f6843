"""Beam search gives the tokens and scores that `transformers` gives, from the checkpoint it saved.

Prompts of one batch are searched at once by the paged engine; `transformers` searches them one by
one, so that no padding is involved. Scores are compared with a tolerance for f32 sums.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pagedkv.engine import (
    BeamParams,
    Completion,
    Engine,
    Model,
    Request,
    cache_for,
    load_checkpoint,
    search_alone,
)

pytestmark = pytest.mark.slow

families = pytest.importorskip("families", reason="needs the test extra (torch, transformers)")

GENERATED = 20
WIDTH = 8
RETURNED = 5
PROMPTS = families.make_prompts(7)[2:]
SCORE_TOLERANCE = 1e-4  # of the sum of log-probabilities; some 1e-5 are seen
MANY = tuple(range(5, families.VOCAB, 20))  # stop tokens enough for most beams to meet one

# (length_penalty, early_stopping, stop tokens)
VARIANTS: dict[str, tuple[float, Any, tuple[int, ...]]] = {
    "default": (1.0, False, MANY),
    "no stop token": (1.0, False, ()),
    "one stop token": (0.5, False, (50,)),
    "early": (1.0, True, MANY),
    "never": (1.0, "never", MANY),
    "short": (-1.0, False, MANY),
    "short, never": (-0.5, "never", MANY),
    "long, never": (2.0, "never", MANY),
    "canonical": (0.0, "never", MANY),
}

Found = list[tuple[list[int], float]]


@dataclasses.dataclass
class Case:
    """A checkpoint on both sides."""

    model: Model
    theirs: Any

    def stopping_at(self, stop_tokens: tuple[int, ...]) -> Model:
        self.model.config = dataclasses.replace(self.model.config, stop_tokens=stop_tokens)
        return self.model


@pytest.fixture(scope="module", params=["llama", "mistral-window", "qwen2", "qwen3"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = families.make_checkpoint(request.param, folder)
    return Case(Model(load_checkpoint(folder)), theirs)


def search_theirs(model: Any, prompt: np.ndarray, variant: str) -> Found:
    """What `generate` finds for one prompt: tokens up to the stop token, and scores."""
    penalty, early, stops = VARIANTS[variant]
    torch = families.torch
    ids = torch.tensor(prompt.astype(np.int64))[None]
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=GENERATED,
            do_sample=False,
            num_beams=WIDTH,
            num_return_sequences=RETURNED,
            length_penalty=penalty,
            early_stopping=early,
            eos_token_id=list(stops) or None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    rows = out.sequences[:, len(prompt) :].tolist()
    return list(zip([cut(row, stops) for row in rows], out.sequences_scores.tolist(), strict=True))


def cut(tokens: list[int], stops: tuple[int, ...]) -> list[int]:
    """Without the padding behind a stop token."""
    ends = [place for place, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0] + 1] if ends else tokens


def make_requests(variant: str, prompts: list[np.ndarray] = PROMPTS) -> list[Request]:
    penalty, early, _ = VARIANTS[variant]
    beam = BeamParams(WIDTH, penalty, early)
    return [
        Request(str(number), prompt, GENERATED, samples=RETURNED, beam=beam)
        for number, prompt in enumerate(prompts)
    ]


def serve(model: Model, requests: list[Request], **options: int) -> list[Completion]:
    settings = {"blocks": 400, "batch": 64, "step_tokens": 96} | options
    with cache_for(model.config, **settings) as cache:
        engine = Engine(model, cache, settings["batch"], settings["step_tokens"])
        done = engine.run(requests)
        cache.check()
        assert cache.stats().blocks_active == 0
    return done


def assert_found(done: list[Completion], expected: list[Found]) -> None:
    for place, wanted in enumerate(expected):
        mine = done[place * RETURNED : (place + 1) * RETURNED]
        assert [one.sample for one in mine] == list(range(RETURNED))
        assert [one.tokens.tolist() for one in mine] == [tokens for tokens, _ in wanted]
        for one, (_, score) in zip(mine, wanted, strict=True):
            penalty = one.request.beam.length_penalty if one.request.beam else 0
            scale = len(one.tokens) ** -penalty
            assert one.score == pytest.approx(score, abs=SCORE_TOLERANCE * max(scale, 0.1), rel=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_and_scores(case: Case, variant: str) -> None:
    expected = [search_theirs(case.theirs, prompt, variant) for prompt in PROMPTS]
    model = case.stopping_at(VARIANTS[variant][2])
    assert_found(serve(model, make_requests(variant)), expected)


def test_in_a_pool_for_one_search_at_a_time(case: Case) -> None:
    """Blocks of 8 tokens, chunks of 9 tokens, and two searches that do not both fit."""
    expected = [search_theirs(case.theirs, prompt, "default") for prompt in PROMPTS]
    model = case.stopping_at(MANY)
    done = serve(
        model, make_requests("default"), blocks=60, block_tokens=8, batch=16, step_tokens=17
    )
    assert_found(done, expected)


def test_the_reference_without_pages(case: Case) -> None:
    """What `--check` compares with."""
    penalty, early, stops = VARIANTS["default"]
    params = BeamParams(WIDTH, penalty, early)
    for prompt in PROMPTS[:3]:
        expected = search_theirs(case.theirs, prompt, "default")
        found = search_alone(case.model, prompt, GENERATED, params, stops)
        assert [one.tokens for one in found[:RETURNED]] == [tokens for tokens, _ in expected]


def test_variants_are_worth_comparing(tmp_path: Path) -> None:
    """Each rule changes what is found; a search that ignored one could not pass all of the above.
    The greedy output is not among the best everywhere."""
    theirs = families.make_checkpoint("mistral-window", tmp_path)
    found = {
        variant: [[tokens for tokens, _ in search_theirs(theirs, p, variant)] for p in PROMPTS]
        for variant in ("default", "early", "short", "long, never")
    }
    different = [found["default"] != found[other] for other in ("early", "short", "long, never")]
    assert all(different)
    lengths = {len(tokens) for one in found["default"] for tokens in one}
    assert GENERATED in lengths
    assert len(lengths) > 5
    greedy = [cut(families.greedy_tokens(theirs, p, GENERATED), MANY) for p in PROMPTS]
    best = [one[0] for one in found["default"]]
    assert greedy != best
