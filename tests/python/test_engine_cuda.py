"""The engine on device "cuda", twice: over the emulated library with a stand-in for CuPy, and on a
GPU where there is one. Tokens are compared with those of the CPU."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pagedkv
import pytest
from numpy.typing import NDArray
from pagedkv.cli import main
from pagedkv.cli.run import MODEL
from pagedkv.engine import (
    Engine,
    EngineError,
    Model,
    Request,
    Sampler,
    SamplingParams,
    cache_for,
    generate_alone,
    load_checkpoint,
    parse_speculate,
)
from pagedkv.engine.arrays import arrays_for
from pagedkv.engine.linear import GPU_ROW_TILE, TiledLinear

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "engine"))
from standin_cupy import make_module
from test_cuda import EMULATED
from tiny import write_checkpoint

# Rounding may decide between tokens whose logits are nearer than this, and then all that follow.
TIE = 0.05
FAMILY_NAMES = (
    "llama", "llama-tied-biased", "llama-llama3-rope", "llama-linear-rope", "llama-dynamic-rope",
    "mistral-window", "qwen2", "qwen2-yarn", "qwen2-window", "qwen3",
)  # fmt: skip
# Openings and their tokens. The best two logits of each of the 12 tokens behind them are 0.12 or
# more apart, whatever type K and V have.
OPENINGS = {
    "Return the number of": [425, 269, 612, 313],
    "The default is": [749, 601, 300],
    "Raise ValueError if the": [2395, 550, 2001, 413, 269],
    'class Path:\n    """Create a new': [444, 513, 526, 26, 273, 286, 1343, 261, 664],
}


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in for CuPy, installed, and the emulated library."""
    if not EMULATED.is_file():
        pytest.skip("the emulated CUDA library is not built (tools/dev.py test unit)")
    monkeypatch.setenv("PKV_CUDA_LIBRARY", str(EMULATED))
    module = make_module(EMULATED)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture(params=["emulated", "gpu"])
def cupy(request: pytest.FixtureRequest) -> Any:
    """CuPy or the stand-in for it, with the device that belongs to it."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    try:
        return arrays_for("cuda").xp
    except EngineError as why:
        pytest.skip(f"needs a GPU and CuPy: {why}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder)
    return folder


def make_requests(count: int, max_tokens: int = 6) -> list[Request]:
    """Every second prompt opens with the same 20 tokens."""
    generator = np.random.default_rng(5)
    opening = generator.integers(0, 61, 20)
    requests = []
    for index in range(count):
        tail = generator.integers(0, 61, int(generator.integers(1, 24)))
        prompt = np.concatenate([opening, tail]) if index % 2 else tail
        requests.append(Request(f"r{index}", prompt.astype(np.uint32), max_tokens))
    return requests


def compared(model: Model, requests: list[Request], tokens: list[Any], dtype: str) -> int:
    """How many of `tokens` were compared with those of `model`, which is on the CPU: of each
    request those before the first tie. Fails when one differs."""
    count = 0
    for number, (request, actual) in enumerate(zip(requests, tokens, strict=True)):
        sampler = Sampler(request.sampling, number, 0)
        stop = model.config.stop_tokens
        expected, logits = generate_alone(
            model, request.prompt, request.max_tokens, sampler, stop, dtype
        )
        for place, row in enumerate(logits):
            best = np.sort(row)[-2:]
            if best[1] - best[0] < TIE:
                break
            assert actual[place] == expected[place], f"{request.id}: token {place}"
            count += 1
        else:
            assert len(actual) == len(expected), request.id
    return count


def serve(model: Model, requests: list[Request], **options: Any) -> list[Any]:
    settings: dict[str, Any] = {"blocks": 64, "batch": 8, "step_tokens": 64} | options
    device = model.arrays.device
    with cache_for(model.config, **settings, device=device) as cache:
        done = Engine(model, cache, settings["batch"], settings["step_tokens"]).run(requests)
        cache.check()
        assert cache.stats().blocks_active == 0
    return [completion.tokens.tolist() for completion in done]


# ---- The command


def test_the_command(cupy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tokenizers", reason="text prompts need the tokenizers package")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in OPENINGS))

    def tokens(*options: str) -> list[Any]:
        figures = tmp_path / "figures.json"
        common = ["--prompts", prompts, "--max-tokens", 12, "--json", figures, *options]
        assert main(["run", *map(str, common)]) == 0, capsys.readouterr()
        document = json.loads(figures.read_text())
        assert document["settings"]["kv_dtype"] == "f16"
        return [sample["tokens"] for sample in document["completions"]]

    on_gpu = tokens("--device", "cuda", "--check")
    assert f"equal: {len(OPENINGS)}/{len(OPENINGS)}" in capsys.readouterr().out
    assert on_gpu == tokens("--kv-dtype", "f16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kv-dtype", "f32"], "k_dtype: f16, bf16, i8 or e4m3 .*got 'f32'"),
        (["--kv-dtype", "i8/e4m3"], "v_dtype: as k_dtype, or beside i8 f16"),
        (["--block-tokens", "8"], "block_tokens: .*got 8"),
    ],
)
def test_what_the_device_lacks(
    emulated: Any, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--device", "cuda", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err), captured.err


def test_no_cupy(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["run", "--device", "cuda"]) == 2
    assert "pip install cupy-cuda13x" in capsys.readouterr().err


def test_no_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PKV_CUDA_LIBRARY", "/nowhere/libpagedkv_cuda.so")
    reason = pagedkv.why_absent("cuda")
    assert reason is not None
    assert main(["run", "--device", "cuda"]) == 2
    assert f"device cuda: {reason}" in capsys.readouterr().err


def test_a_cupy_that_does_not_work(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(*arguments: Any) -> Any:
        raise ImportError("libnvrtc.so.13 is missing")

    monkeypatch.setattr(emulated, "zeros", zeros)
    with pytest.raises(EngineError, match="CuPy does not work here: libnvrtc.so.13 is missing"):
        arrays_for("cuda")


# ---- The engine


@pytest.mark.parametrize("dtype", ["f16", "bf16", "i8", "e4m3"])
def test_the_shipped_model(cupy: Any, dtype: str) -> None:
    checkpoint = load_checkpoint(MODEL)
    requests = [Request(text, np.array(ids, np.uint32), 12) for text, ids in OPENINGS.items()]
    on_gpu = serve(Model(checkpoint, "cuda"), requests, dtype=dtype)
    assert [len(tokens) for tokens in on_gpu] == [12] * len(requests)
    on_cpu = Model(checkpoint)
    assert on_gpu == serve(on_cpu, requests, dtype=dtype)
    assert compared(on_cpu, requests, on_gpu, dtype) == 12 * len(requests)


@pytest.mark.parametrize("how", ["ngram:1,4", "ngram-tree:1,8,3"])
def test_speculation(cupy: Any, how: str) -> None:
    model = Model(load_checkpoint(MODEL), "cuda")
    requests = [Request(text, np.array(ids, np.uint32), 12) for text, ids in OPENINGS.items()]
    with cache_for(model.config, blocks=64, batch=8, step_tokens=64, device="cuda") as cache:
        engine = Engine(model, cache, 8, 64, speculate=parse_speculate(how))
        done = engine.run(requests)
        cache.check()
        guessed, right = engine.totals.guessed, engine.totals.guessed_right
        assert cache.stats().blocks_active == 0
    assert guessed > right > 0
    assert [completion.tokens.tolist() for completion in done] == serve(model, requests)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_families(cupy: Any, family: str, tmp_path: Path) -> None:
    families = pytest.importorskip("families", reason="needs torch and transformers")
    assert set(families.FAMILIES) == set(FAMILY_NAMES)
    families.make_checkpoint(family, tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    requests = [Request(str(len(p)), p, 6) for p in families.make_prompts(8)]
    tokens = serve(Model(checkpoint, "cuda"), requests)
    assert compared(Model(checkpoint), requests, tokens, "f16") >= 24


@pytest.mark.parametrize("dim", [16, 64, 80, 128])
def test_heads_are_widened_to_those_of_the_kernels(cupy: Any, dim: int, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, head_dim=dim)
    checkpoint = load_checkpoint(tmp_path)
    with cache_for(checkpoint.config, blocks=8, device="cuda") as cache:
        assert cache.head_dim == {16: 64, 80: 96}.get(dim, dim)
    requests = make_requests(4)
    for dtype in ("f16", "i8"):
        tokens = serve(Model(checkpoint, "cuda"), requests, dtype=dtype)
        assert compared(Model(checkpoint), requests, tokens, dtype) >= 12


def logits_of_run(model: Model, requests: list[Request], **options: Any) -> dict[Any, Any]:
    """Logits of every generated token, by request and place; how often one was preempted."""
    settings: dict[str, Any] = {"blocks": 64, "batch": 8, "step_tokens": 64} | options
    seen: dict[Any, NDArray[Any]] = {}
    with cache_for(model.config, **settings, device="cuda") as cache:
        engine = Engine(model, cache, settings["batch"], settings["step_tokens"])
        append = engine._append

        def record(sample: Any, row: Any) -> Any:
            seen[sample.request.id, sample.length] = row.copy()
            return append(sample, row)

        engine._append = record  # type: ignore[method-assign]
        engine.run(requests)
        return {"preemptions": engine.totals.preemptions, **seen}


def test_logits_are_bitwise_independent_of_batch_chunks_and_preemption(
    cupy: Any, folder: Path
) -> None:
    model = Model(load_checkpoint(folder), "cuda")
    requests = make_requests(6, max_tokens=16)
    reference = logits_of_run(model, requests, batch=1, step_tokens=70)
    assert reference.pop("preemptions") == 0
    assert len(reference) == 6 * 16
    preemptions = 0
    for options in (
        {"batch": 6, "step_tokens": 300},
        {"batch": 5, "step_tokens": 7},
        {"batch": 6, "step_tokens": 20, "blocks": 6},
    ):
        other = logits_of_run(model, requests, **options)
        preemptions += other.pop("preemptions")
        assert other.keys() == reference.keys()
        for place, row in reference.items():
            np.testing.assert_array_equal(other[place], row, err_msg=f"{options} {place}")
    assert preemptions > 0


def test_every_product_is_the_same_call(emulated: Any, folder: Path) -> None:
    model = Model(load_checkpoint(folder), "cuda")
    serve(model, make_requests(9), batch=9, step_tokens=200)
    assert set(emulated.product_rows) == {GPU_ROW_TILE}
    emulated.product_rows.clear()
    whole = Model(load_checkpoint(folder), "cuda", row_tile=0)
    serve(whole, make_requests(9), batch=9, step_tokens=200)
    assert len(set(emulated.product_rows)) > 3


def test_projections(cupy: Any) -> None:
    generator = np.random.default_rng(3)
    weight = generator.standard_normal((40, 24)).astype(np.float32)
    bias = generator.standard_normal(40).astype(np.float32)
    rows = generator.standard_normal((150, 48)).astype(np.float32)[:, :24]
    for tile in (None, 0, 7):
        linear = TiledLinear(cupy, cupy.asarray(weight), cupy.asarray(bias), tile)
        for count in (1, 64, 150):
            out = linear(cupy.asarray(rows)[:count])
            np.testing.assert_allclose(out.get(), rows[:count] @ weight.T + bias, atol=1e-4)


def test_weights_are_moved_once(emulated: Any, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tie_word_embeddings=True)
    model = Model(load_checkpoint(tmp_path), "cuda")
    embedding = model.embedding.__cuda_array_interface__["data"]
    assert model.head.matrix.__cuda_array_interface__["data"] == embedding


def test_the_cache_works_in_the_stream_of_the_arrays(emulated: Any, folder: Path) -> None:
    model = Model(load_checkpoint(folder), "cuda")
    stream = emulated.cuda.get_current_stream()
    forward = model.forward

    def checked(*arguments: Any) -> Any:
        assert stream.entered == 1
        return forward(*arguments)

    model.forward = checked  # type: ignore[method-assign]
    with cache_for(model.config, blocks=16, device="cuda") as cache:
        engine = Engine(model, cache)
        assert cache._stream is stream
        engine.run(make_requests(2))
    assert stream.entered == 0
    with cache_for(model.config, blocks=16) as cache, pytest.raises(pagedkv.NotSupported):
        Engine(model, cache)


def test_a_gpu_that_fails_when_it_is_waited_for(
    emulated: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(load_checkpoint(folder), "cuda")
    requests = make_requests(4)
    expected = serve(model, requests)
    get = emulated.ndarray.get
    with cache_for(model.config, blocks=64, device="cuda") as cache:
        engine = Engine(model, cache)
        for request in requests:
            engine.submit(request)

        def fail(array: Any) -> Iterator[Any]:
            raise emulated.cuda.runtime.CUDARuntimeError("an illegal address")

        with monkeypatch.context() as patch:
            patch.setattr(emulated.ndarray, "get", fail)
            with pytest.raises(pagedkv.DeviceFailed, match="the GPU failed: an illegal address"):
                engine.step()
        assert emulated.ndarray.get is get
        assert {sample.computed for sample in engine.scheduler.running} == {0}
        done = []
        while engine.busy:
            done += engine.step()
    done.sort(key=lambda completion: completion.request.id)
    assert [completion.tokens.tolist() for completion in done] == expected


def test_sampling(emulated: Any, folder: Path) -> None:
    """Samples of a prompt fork on the device, and draw what they draw on the CPU."""
    sampling = SamplingParams(temperature=1.0, top_k=20, seed=3)
    requests = [
        Request(f"s{i}", np.arange(i, 20 + i, dtype=np.uint32), 6, sampling, samples=3)
        for i in range(2)
    ]
    checkpoint = load_checkpoint(folder)
    on_gpu = serve(Model(checkpoint, "cuda"), requests)
    assert on_gpu == serve(Model(checkpoint), requests, dtype="f16")
    assert len({tuple(tokens) for tokens in on_gpu}) > 3
