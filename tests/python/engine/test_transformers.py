"""Every family gives the greedy tokens that `transformers` gives, from the checkpoint it saved.

Prompts of 1 to 70 tokens with 20 more generated cross the borders of 16-token pages in every way.
The paged engine serves 1, 7 and 64 of them at once, in a pool that makes requests wait, and with
chunked prompts; the contiguous reference serves them alone. Sabotage shows that the comparison
can fail.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pagedkv.engine import (
    Engine,
    Model,
    Request,
    Sampler,
    SamplingParams,
    cache_for,
    generate_alone,
    load_checkpoint,
)

pytestmark = pytest.mark.slow

families = pytest.importorskip("families", reason="needs the test extra (torch, transformers)")

GENERATED = 20
PROMPTS = families.make_prompts(64)
LONG_PROMPT = np.random.default_rng(2).integers(0, families.VOCAB, 480).astype(np.uint32)


@dataclasses.dataclass
class Case:
    """A checkpoint, loaded here, and what transformers generates with it."""

    model: Model
    expected: list[list[int]]
    expected_long: list[int]


@pytest.fixture(scope="module", params=families.FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = families.make_checkpoint(request.param, folder)
    expected = [families.greedy_tokens(theirs, prompt, GENERATED) for prompt in PROMPTS]
    expected_long = families.greedy_tokens(theirs, LONG_PROMPT, GENERATED)
    return Case(Model(load_checkpoint(folder)), expected, expected_long)


def serve(model: Model, prompts: list[np.ndarray], **options: Any) -> list[list[int]]:
    """Generate with the paged engine, all prompts at once."""
    settings = {"blocks": 200, "batch": 64, "step_tokens": 96, "block_tokens": 16} | options
    engine_settings = {name: settings[name] for name in ("batch", "step_tokens")}
    requests = [Request(str(i), prompt, GENERATED) for i, prompt in enumerate(prompts)]
    with cache_for(model.config, **settings) as cache:
        done = Engine(model, cache, **engine_settings).run(requests)
    return [completion.tokens.tolist() for completion in done]


@pytest.mark.parametrize("count", [1, 7, 64])
def test_paged(case: Case, count: int) -> None:
    assert serve(case.model, PROMPTS[:count]) == case.expected[:count]


def test_paged_in_a_pool_that_is_too_small_for_all(case: Case) -> None:
    """12 blocks of 8 tokens: about one request fits; prompts in chunks of 8, samples preempted."""
    tokens = serve(case.model, PROMPTS[:12], blocks=12, block_tokens=8, batch=6, step_tokens=8)
    assert tokens == case.expected[:12]


def test_a_long_prompt(case: Case) -> None:
    """30 pages, in chunks of 7: beyond every window, and every length a rope was stretched from."""
    assert serve(case.model, [LONG_PROMPT], batch=1, step_tokens=7) == [case.expected_long]


def test_contiguous(case: Case) -> None:
    """Also checks the margin that makes the other comparisons independent of rounding."""
    smallest = np.inf
    wanted = [*zip(PROMPTS, case.expected, strict=True), (LONG_PROMPT, case.expected_long)]
    for prompt, expected in wanted:
        tokens, logits = generate_alone(case.model, prompt, GENERATED, Sampler(SamplingParams()))
        assert tokens == expected
        for row in logits:
            second, first = np.partition(row, -2)[-2:]
            smallest = min(smallest, float(first - second))
    assert smallest > families.MARGIN


def test_outputs_are_worth_comparing(case: Case) -> None:
    """A model that repeats one token, or ignores its prompt, would make every test pass."""
    assert np.mean([len(set(tokens)) for tokens in case.expected]) > GENERATED / 2
    assert len({tuple(tokens) for tokens in case.expected}) == len(PROMPTS)


def wrong_theta(model: Model) -> None:
    model.angles = model.angles * np.float32(1.01)


def wrong_window(model: Model) -> None:
    model.config = dataclasses.replace(model.config, window=model.config.window + 1)


def wrong_heads(model: Model) -> None:
    """Query heads read the other KV head."""
    dim, heads = model.config.head_dim, model.config.heads
    for layer in model.layers:
        queries = layer.qkv.matrix[:, : heads * dim]
        layer.qkv.matrix = np.concatenate(
            [np.roll(queries, dim, axis=1), layer.qkv.matrix[:, heads * dim :]], axis=1
        )


def wrong_norm(model: Model) -> None:
    model.layers[1].norm_mid = np.ones_like(model.layers[1].norm_mid)


def wrong_bias(model: Model) -> None:
    model.layers[0].qkv.bias = None


@pytest.mark.parametrize(
    ("name", "sabotage"),
    [
        ("llama", wrong_theta),
        ("llama", wrong_heads),
        ("llama", wrong_norm),
        ("qwen2", wrong_bias),
        ("mistral-window", wrong_window),
    ],
)
def test_canary_small_mistakes_change_tokens(
    name: str, sabotage: Callable[[Model], None], tmp_path: Path
) -> None:
    theirs = families.make_checkpoint(name, tmp_path)
    prompts = PROMPTS[:12]
    expected = [families.greedy_tokens(theirs, prompt, GENERATED) for prompt in prompts]
    model = Model(load_checkpoint(tmp_path))
    assert serve(model, prompts) == expected
    sabotage(model)
    assert serve(model, prompts) != expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_and_sharded_files(dtype: str, tmp_path: Path) -> None:
    """What transformers computes in float32 from a checkpoint of half precision, in many files."""
    made = families.make_checkpoint("llama", tmp_path / "wide")
    narrow = getattr(families.torch, dtype)
    made.to(narrow).save_pretrained(tmp_path / "narrow", max_shard_size="50KB")
    assert len(list((tmp_path / "narrow").glob("*.safetensors"))) > 1
    theirs = families.transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "narrow", dtype=families.torch.float32
    )
    prompts = PROMPTS[:7]
    expected = [families.greedy_tokens(theirs, prompt, GENERATED) for prompt in prompts]
    assert serve(Model(load_checkpoint(tmp_path / "narrow")), prompts) == expected
