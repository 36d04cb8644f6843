"""`tools/bench serve`: its cases, its table, and that it notices tokens that differ."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"

# Stands in for _serve_systems.py: a system that invents tokens, as many as were asked for.
FAKE = """
import json, os, sys
from benchmarks._serve_cases import CASES
job = json.loads(sys.argv[1])
case = CASES[job["case"]].first(job["requests"])
blas = [name for name in os.environ if name.startswith("OPENBLAS_")]
print(json.dumps({{"ready": f"{{job['threads']}} threads, {{blas}}"}}), flush=True)
for _ in sys.stdin:
    tokens = [[7] * new for _, new in case.lengths()]
    if job["system"] in {wrong}:
        tokens[1][3] = 8
    seconds = {{"pagedkv": 1.0, "generate_batch": 4.0, "padded batch": 2.0}}[job["system"]]
    print(json.dumps({{"seconds": seconds, "tokens": tokens, "kv_bytes": 1 << 20}}), flush=True)
"""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(TOOLS)
    yield importlib.import_module("benchmarks.serve")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
    sys.modules.pop("environment", None)


@pytest.fixture
def cases(serve: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = serve.CASES
    return found


Measure = Callable[..., bool]


@pytest.fixture
def measure(serve: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measure:
    """Measure the first three requests of a case with systems that only pretend."""

    def run(*arguments: str, wrong: list[str] | None = None) -> bool:
        worker = tmp_path / "worker.py"
        worker.write_text(FAKE.format(wrong=wrong or []))
        monkeypatch.setattr(serve, "WORKER", worker)
        monkeypatch.setattr(serve, "PYTHON", sys.executable)
        monkeypatch.setattr(serve, "checkpoint", lambda case, root: tmp_path)
        parser = argparse.ArgumentParser()
        serve.add_arguments(parser)
        options = parser.parse_args(["--requests", "3", *arguments])
        alike: bool = serve.measure(serve.CASES["19m"], options)
        return alike

    return run


def parameters(geometry: dict[str, int]) -> int:
    """Of a Llama with its own output projection."""
    hidden, inner = geometry["hidden_size"], geometry["intermediate_size"]
    kv = hidden // geometry["num_attention_heads"] * geometry["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * kv * hidden + 3 * inner * hidden + 2 * hidden
    return geometry["num_hidden_layers"] * layer + 2 * geometry["vocab_size"] * hidden + hidden


def test_cases_are_what_they_say(cases: dict[str, Any]) -> None:
    for name, case in cases.items():
        millions = round(parameters(case.geometry) / 1e6)
        assert name == f"{millions}m"
        assert f"{millions} M parameters" in case.what
        assert f"d={case.geometry['hidden_size']}" in case.what


def test_requests_are_drawn_once_and_for_all(cases: dict[str, Any]) -> None:
    for case in cases.values():
        lengths = case.lengths()
        assert lengths == case.lengths()
        assert [len(prompt) for prompt in case.prompts()] == [prompt for prompt, _ in lengths]
        assert all(case.prompt[0] <= prompt <= case.prompt[1] for prompt, _ in lengths)
        assert all(case.new[0] <= new <= case.new[1] for _, new in lengths)
        few = case.first(3)
        assert (few.lengths(), few.prompts()) == (lengths[:3], case.prompts()[:3])
        assert replace(case, seed=case.seed + 1).prompts() != case.prompts()


def test_table(
    measure: Measure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    assert measure("--runs", "2", "--threads", "5")
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = [line for line in captured.out.splitlines() if "3/3" in line]
    assert [row.split("  ")[0] for row in rows] == ["pagedkv", "generate_batch", "padded batch"]
    assert [row.split("x ")[0].split()[-1] for row in rows] == ["1.00", "4.00", "2.00"]
    assert all(row.endswith("5 threads, []") for row in rows)


def test_json(measure: Measure, cases: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("--json", "--runs", "1", "--system", "pagedkv", "--system", "padded batch")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["system"] for row in rows] == ["pagedkv", "padded batch"]
    new = sum(count for _, count in cases["19m"].first(3).lengths())
    assert [row["new_tokens_per_s"] for row in rows] == [new, new / 2]
    assert [row["seconds"] for row in rows] == [1.0, 2.0]
    assert all(row["equal"] == row["requests"] == 3 and row["repeats"] for row in rows)
    assert len({row["tokens_sha256"] for row in rows}) == 1


def test_canary_one_token_of_another_system(
    measure: Measure,
    serve: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def shown(case: Any, folder: Path, worker: Any, first: Any) -> str:
        seen.append((worker.system, first.system))
        return "they differ"

    monkeypatch.setattr(serve, "first_difference", shown)
    assert not measure("--runs", "1", wrong=["padded batch"])
    captured = capsys.readouterr()
    rows = [line for line in captured.out.splitlines() if "/3 " in line]
    assert ["3/3" in row for row in rows] == [True, True, False]
    assert captured.err == "they differ\n"
    assert seen == [("padded batch", "pagedkv")]


def test_a_system_that_dies_is_named(
    measure: Measure, serve: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(serve, "SYSTEMS", ("pagedkv",))
    monkeypatch.setitem(serve.CASES, "19m", serve.CASES["156m"])
    script = FAKE.replace("for _ in sys.stdin:", "for _ in ():")
    monkeypatch.setitem(globals(), "FAKE", script)
    with pytest.raises(SystemExit, match="pagedkv ended with status 0"):
        measure("--runs", "1")


@pytest.mark.slow
def test_all_systems_agree_on_a_small_checkpoint(
    serve: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real systems, in this process; then a changed token and what is said about it."""
    pytest.importorskip("transformers", reason="compares with transformers; needs the test extra")
    systems = importlib.import_module("benchmarks._serve_systems")
    geometry = {"hidden_size": 96, "intermediate_size": 128, "vocab_size": 199}
    case = replace(
        serve.CASES["19m"].first(5),
        geometry=serve.CASES["19m"].geometry | geometry | {"num_hidden_layers": 2},
        prompt=(1, 70),
        new=(1, 20),
    )
    folder = serve.checkpoint(case, tmp_path)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 96
    prompts, new = case.prompts(), [count for _, count in case.lengths()]
    torch: Any = importlib.import_module("torch")
    gradients = torch.is_grad_enabled()
    try:
        results = {
            name: make(case, folder, 1).serve(prompts, new)
            for name, make in systems.SYSTEMS.items()
        }
    finally:
        torch.set_grad_enabled(gradients)
    tokens, _ = results["pagedkv"]
    assert [len(row) for row in tokens] == new
    assert len({tuple(row) for row in tokens}) == len(tokens)
    for name, (others, kv_bytes) in results.items():
        assert others == tokens, name
        assert kv_bytes > 0

    class Answered:
        def __init__(self, tokens: list[list[int]]) -> None:
            self.system, self.tokens = "one", tokens

    place = next(place for place, row in enumerate(tokens) if len(row) > 3)
    changed = [list(row) for row in tokens]
    changed[place][2] = (changed[place][2] + 1) % 199
    text = serve.first_difference(case, folder, Answered(tokens), Answered(changed))
    assert f"request {place}, token 2: one {changed[place][2]}, one {tokens[place][2]}" in text
    gap = float(text.split("logits are ")[1].split()[0])
    assert gap > 0
    assert not math.isnan(gap)
