"""tools/bench finds its modules; the one of the kernels prints its fields, refuses wrong results.

Sizes are small and nothing depends on how long anything takes.
"""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
ASKED_FIELDS = {
    *("work", "dtype", "seconds", "gb_per_s", "read_gb_per_s", "fraction_of_read"),
    *("ratio_to_torch", "fraction_of_peak", "peak", "goals", "threads", "runs", "isa", "commit"),
}


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(TOOLS)
    yield
    for name in list(sys.modules):
        if name == "environment" or name.partition(".")[0] == "benchmarks":
            del sys.modules[name]


def tool(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture
def bench() -> ModuleType:
    loader = SourceFileLoader("bench", str(TOOLS / "bench"))
    spec = spec_from_loader("bench", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


# ---- The command ---------------------------------------------------------------------------------


def test_every_command_says_what_it_is(bench: ModuleType) -> None:
    assert "kernels" in bench.names()
    for name in bench.names():
        module = bench.load(name)
        assert bench.summary(module).endswith(".")
        assert callable(module.add_arguments)
        assert callable(module.run)


def test_a_new_module_is_a_command(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "naps.py").write_text(
        '"""Naps."""\n'
        "def add_arguments(parser):\n    parser.add_argument('--count', type=int)\n"
        "def run(options):\n    return options.count\n"
    )
    (tmp_path / "_shared.py").write_text("raise AssertionError('support is no command')\n")
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    monkeypatch.setattr(tool("benchmarks"), "__path__", [str(tmp_path)])
    assert bench.names() == ["naps"]
    assert bench.main(["naps", "--count", "3"]) == 3


def test_an_unknown_command_is_refused(bench: ModuleType) -> None:
    with pytest.raises(SystemExit) as exit_info:
        bench.main(["no-such-benchmark"])
    assert exit_info.value.code == 2


def test_a_missing_environment_is_a_failure(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise bench.EnvironmentProblem("no compiler")

    monkeypatch.setattr(bench.load("kernels"), "run", fail)
    assert bench.main(["kernels"]) == 1
    assert "no compiler" in capsys.readouterr().err


def test_benchmarks_start_without_the_package() -> None:
    """Options are parsed by any Python: .venv may not exist yet."""
    command = [sys.executable, "-E", "-S", TOOLS / "bench", "kernels", "--list"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "decode bf16 32/8 B=8 4096 1T" in finished.stdout.splitlines()


# ---- Cases and goals -----------------------------------------------------------------------------


def test_rows_have_different_names_and_six_are_quick() -> None:
    cases = tool("benchmarks._cases").all_cases()
    assert len({case.name for case in cases}) == len(cases)
    assert sum(case.quick for case in cases) == 6


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--only", "decode bf16 32/8 B=1 *"], ["decode bf16 32/8 B=1 16384 1T"]),
        (["--only", "append bf16", "--threads", "3"], ["append bf16 32/8 B=32 1024 3T"]),
        (["--only", "no such row"], []),
    ],
)
def test_rows_are_chosen(arguments: list[str], names: list[str]) -> None:
    kernels, parser = tool("benchmarks.kernels"), argparse.ArgumentParser()
    kernels.add_arguments(parser)
    chosen = kernels.chosen_cases(parser.parse_args(arguments))
    assert [case.name for case in chosen] == names


def test_threads_replace_one_thread() -> None:
    kernels, cases = tool("benchmarks.kernels"), tool("benchmarks._cases").all_cases()
    names = [kernels.with_threads(case, 2).name for case in cases if case.threads == 1]
    assert len(set(names)) == len(names)


def test_operations_count_the_causal_half() -> None:
    case = tool("benchmarks._cases").Case("prefill", "f32", 1, 5, 3, heads=2, dim=16)
    visible = 3 + 4 + 5  # keys of the three new tokens
    assert case.operations == 2 * 2 * 16 * 2 * visible  # two products, two operations each


def test_goals_are_judged() -> None:
    cases, measure = tool("benchmarks._cases"), tool("benchmarks._measure")
    goal = cases.Goal("fraction_of_read", 0.6, otherwise=cases.Goal("ratio_to_against", 1.6))
    result = measure.empty_result(idle_bench(), cases.all_cases()[0], "avx2")
    assert measure.judged(goal, result)["met"] is None
    result.fraction_of_read = 0.5
    assert measure.judged(goal, result)["met"] is False
    result.ratio_to_against = 1.7
    assert measure.judged(goal, result)["met"] is True
    result.price = 0.2
    assert measure.judged(cases.Goal("price", 0.15, at_most=True), result)["met"] is False


def idle_bench() -> Any:
    return tool("benchmarks._measure").Bench(None, None, None, 1, "commit")


@pytest.mark.parametrize("wrong", [{"output": float("nan")}, {"output": 0.1}, {"stored": 0.1}])
def test_errors_are_judged(wrong: dict[str, float]) -> None:
    measure = tool("benchmarks._measure")
    for case in tool("benchmarks._cases").all_cases():
        errors = {"output": 1e-12, "stored": 0.0}
        measure.judge(case, **errors)
        with pytest.raises(measure.WrongResult, match="wrong"):
            measure.judge(case, **{**errors, **wrong})


# ---- Measuring -----------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Bench whose KV sets, limits and repetitions are small."""
    native, measure, cases = (tool(f"benchmarks.{n}") for n in ("_native", "_measure", "_cases"))
    monkeypatch.setattr(cases, "KV_SET_BYTES", 1 << 20)
    monkeypatch.setattr(cases, "PREFILL_SET_BYTES", 1 << 18)
    monkeypatch.setattr(measure, "WRITE_BYTES", 1 << 18)
    monkeypatch.setattr(measure, "PREFILL_OPERATIONS", 1.0)
    library = native.build()
    with native.Limits(library, 8 << 20) as limits:
        yield measure.Bench(library, limits, None, 2, "commit")


def small_case(**changes: Any) -> Any:
    fields = {"work": "decode", "dtype": "bf16", "batch": 2, "context": 67, "heads": 4}
    fields |= {"kv_heads": 2, "dim": 32}
    return tool("benchmarks._cases").Case(**{**fields, **changes})


SMALL_CASES: list[dict[str, Any]] = [
    {},
    {"dtype": "f32", "threads": 2, "against": "one thread"},
    {"dtype": "i8", "against": "bf16"},
    {"one_layer": True, "block_tokens": 32, "against": "in order"},
    {"work": "prefill", "batch": 1, "new": 40, "peak": "fma"},
    {"work": "mixed", "context": 64, "new": 64, "against": "the two alone"},
    {"work": "write", "batch": 1, "context": 256, "new": 64},
    {"work": "append"},
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", SMALL_CASES)
def test_a_row_has_its_figures(
    small: Any, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    kernels = tool("benchmarks.kernels")
    case = small_case(**changes)
    assert kernels.report(small, [case], True) == 0
    [line] = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert set(row) >= ASKED_FIELDS
    assert row["problem"] is None
    assert row["seconds"] > 0
    assert row["ratio_to_torch"] is None
    figure = {"prefill": "fraction_of_peak", "mixed": "price"}.get(case.work, "gb_per_s")
    assert row[figure] is not None
    assert (row["ratio_to_against"] is not None) == (case.against is not None)
    assert kernels.report(small, [case], False) == 0
    assert "problem" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        *((c, "stored") for c in SMALL_CASES),
        *((c, "output") for c in SMALL_CASES if c.get("work") not in ("write", "append")),
    ],
)
def test_a_wrong_result_is_refused(
    small: Any, changes: dict[str, Any], mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The canary: a mistake is planted, and no figure may be printed."""
    kernels = tool("benchmarks.kernels")
    small.spoil = mistake
    assert kernels.report(small, [small_case(**changes)], True) == 1
    row = json.loads(capsys.readouterr().out)
    assert row["problem"].startswith("wrong")
    assert row["seconds"] is None
    assert kernels.report(small, [small_case(**changes)], False) == 1
    assert "wrong" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
def test_what_is_not_supported_shows_no_figure(
    small: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels = tool("benchmarks.kernels")
    unknown_type = small_case(dtype="f128")
    monkeypatch.setitem(tool("benchmarks._cases").BITS, "f128", 128.0)
    small.isa = "abacus"
    assert kernels.report(small, [unknown_type, small_case()], True) == 0
    for line in capsys.readouterr().out.splitlines():
        row = json.loads(line)
        assert row["problem"].startswith("not supported")
        assert row["seconds"] is None


def test_no_row_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("benchmarks.kernels").report(idle_bench(), [], True) == 1
    assert "no row" in capsys.readouterr().err


@pytest.mark.slow
def test_torch_is_measured_on_the_same_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    peer = tool("benchmarks._torch")
    monkeypatch.setattr(tool("benchmarks._cases"), "KV_SET_BYTES", 1 << 16)
    monkeypatch.setattr(tool("benchmarks._cases"), "PREFILL_SET_BYTES", 1 << 16)
    threads = torch.get_num_threads()
    try:
        for changes in ({}, {"dtype": "i8"}, {"work": "prefill", "new": 40}, {"kv_heads": 4}):
            case = small_case(**changes)
            times = peer.Torch(case).times(0)
            assert set(times) == {"ratio_to_torch", "ratio_to_torch_gather"}
            assert all(seconds > 0 for seconds in times.values())
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("new", [1, 40, 67])
def test_all_ways_of_torch_agree(new: int) -> None:
    torch = pytest.importorskip("torch")
    peer = tool("benchmarks._torch")
    case = small_case(dtype="f32", work="prefill" if new > 1 else "decode", new=new)
    q = torch.randn(2, case.heads, new, case.dim)
    k, v = torch.randn(2, 2, case.kv_heads, case.context, case.dim)
    outputs = [way(q, k, v) for way in peer.Ways(case).all().values()]
    assert len(outputs) == 3
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0])
