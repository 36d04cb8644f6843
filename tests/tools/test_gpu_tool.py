"""tools/gpu: budget, report, exit codes, the compile gate; without a GPU and without nvcc."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(TOOLS)
    yield
    for name in [
        n for n in sys.modules if n.partition(".")[0] in ("ongpu", "benchmarks", "environment")
    ]:
        del sys.modules[name]


def part(name: str) -> ModuleType:
    return importlib.import_module(f"ongpu.{name}")


def tool() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("gpu_tool", str(TOOLS / "gpu"))
    spec = importlib.util.spec_from_loader("gpu_tool", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


# ---- Budget --------------------------------------------------------------------------------------


def outcomes_of(tmp_path: Path, seconds: float, *steps: Any) -> list[Any]:
    budget = part("budget")
    made = [budget.Step(f"step {i}", limit, run) for i, (limit, run) in enumerate(steps)]
    deadline = time.monotonic() + seconds
    found: list[Any] = budget.run_steps(made, deadline, tmp_path, lambda outcome: None)
    return found


def test_an_error_does_not_stop_the_other_steps(tmp_path: Path) -> None:
    budget = part("budget")

    def failing(job: Any) -> None:
        job.rows = [{"row": 1}]
        raise budget.Failed("why")

    def absent(job: Any) -> None:
        job.run(["/nowhere/program"])

    def mistaken(job: Any) -> None:
        raise KeyError("oops")

    def good(job: Any) -> None:
        status, output = job.run(["sh", "-c", "echo $WORD"], {"WORD": "hello"})
        assert (status, output.splitlines()[-1]) == (0, "hello")

    steps = [(60, run) for run in (failing, absent, mistaken, good)]
    outcomes = outcomes_of(tmp_path, 60, *steps)
    assert [o.verdict for o in outcomes] == ["failed", "not run", "failed", "passed"]
    assert outcomes[0].rows == [{"row": 1}]
    assert "/nowhere/program" in outcomes[1].detail
    assert "KeyError" in outcomes[2].detail


def test_a_step_is_ended_at_its_limit_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def slow(job: Any) -> None:
        job.run(["sh", "-c", f"(sleep 2; touch {mark}) & sleep 60"])

    started = time.monotonic()
    (outcome,) = outcomes_of(tmp_path, 60, (0.3, slow))
    assert outcome.verdict == "failed"
    assert "took too long" in outcome.detail
    assert time.monotonic() - started < 30
    time.sleep(2.5)
    assert not mark.exists()


def test_what_there_is_no_time_for_is_said_to_be_skipped(tmp_path: Path) -> None:
    ran: list[int] = []
    outcomes = outcomes_of(tmp_path, 1, (60, lambda job: ran.append(1)))
    assert [o.verdict for o in outcomes] == ["skipped"]
    assert ran == []


def test_a_program_that_sees_no_gpu_is_no_success_where_there_is_one(tmp_path: Path) -> None:
    steps = part("steps")
    program = tmp_path / "tests" / "gpu" / "gpu_test_kernels"
    program.parent.mkdir(parents=True)
    options = steps.Options(tmp_path, tmp_path, "90", 3, 1)

    def verdict(text: str) -> str:
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        step = steps.kernel_tests(options)
        outcome = part("budget").run_step(step, time.monotonic() + 60, tmp_path)
        return str(outcome.verdict)

    assert verdict("""echo '{"shapes": 3}'""") == "passed"
    assert verdict("""echo '{"shapes": 2}'""") == "failed"
    assert verdict("echo not run; exit 77") == "failed"
    assert verdict("exit 1") == "failed"


# ---- Report --------------------------------------------------------------------------------------

MACHINE = {
    "section": "machine",
    "name": "GPU",
    "multiprocessors": 132,
    "clock_hz": 1.5e9,
    "l2_bytes": 50 << 20,
    "mma_operations_per_s": 6e14,
}


def decode_row(**changes: Any) -> dict[str, Any]:
    row = {
        "section": "decode",
        "row": "decode B=32 L=4096 BF16",
        "layers": 32,
        "set_bytes": 1 << 34,
        "bytes": 1 << 29,
        "operations": 2e9,
        "read_bytes_per_s": 4.5e12,
        "copy_bytes_per_s": 4.3e12,
        "nmse": 1e-6,
        "seconds": (1 << 29) / 4.0e12,
    }
    return {**row, **changes}


def judged(*rows: dict[str, Any]) -> Any:
    outcome = part("budget").Outcome("figures", "passed", rows=[MACHINE, *rows])
    return part("report").judge([outcome])


def test_a_row_is_held_against_its_goal() -> None:
    (row,) = judged(decode_row())["rows"]
    assert row["fraction_of_copy"] == pytest.approx(4.0 / 4.3)
    assert [g["met"] for g in row["goals"]] == [True]
    (row,) = judged(decode_row(seconds=(1 << 29) / 3.9e12))["rows"]
    assert [g["met"] for g in row["goals"]] == [False]


def test_a_wrong_row_has_no_goal_and_is_named() -> None:
    for nmse in (0.5, float("nan")):
        figures = judged(decode_row(nmse=nmse))
        assert figures["rows"][0]["goals"] == []
        assert part("report").wrong_rows(figures) == ["decode B=32 L=4096 BF16"]
    (row,) = judged(decode_row(set_bytes=90 << 20))["rows"]
    assert "cache of the GPU" in row["problem"]


def test_quantised_decode_is_held_against_bf16() -> None:
    other = decode_row(row="decode B=32 L=4096 I8", bytes=1 << 28, seconds=(1 << 29) / 7.0e12)
    _, row = judged(decode_row(), other)["rows"]
    assert [(g["value"], g["met"]) for g in row["goals"]][1] == (pytest.approx(1.75), True)


def copy_row(way: str, how: str, rate: float) -> dict[str, Any]:
    return {
        "section": "swap",
        "way": way,
        "how": how,
        "piece_bytes": 2 << 20,
        "count": 32,
        "bytes_per_s": rate,
    }


def test_swaps_are_held_against_large_copies() -> None:
    own = [copy_row(way, "one by one", 50e9) for way in ("out", "in")]
    rows = [copy_row("out", "batch", 46e9), copy_row("in", "batch", 44e9)]
    both = copy_row("both", "batch", 81e9)
    found = judged(*own, *rows, both)["rows"][2:]
    assert [row["goals"][0]["met"] for row in found] == [True, False, True]


def test_decode_while_swapping_is_held_against_decode_alone() -> None:
    copies = {**copy_row("both", "batch", 90e9), "section": "overlap copies"}
    row = {
        "section": "overlap",
        "row": "decode while swapping",
        "how": "batch",
        "samples": 25,
        "valid_samples": 20,
        "seconds_alone": 100e-6,
        "seconds_all": 101e-6,
        "seconds_busy": 102e-6,
        "read_bytes_per_s": 4.5e12,
    }
    figures = judged(copies, row)
    assert figures["rows"][1]["floor"] == pytest.approx(1 / 0.98)
    assert [g["met"] for g in figures["rows"][1]["goals"]] == [True]
    (late,) = judged({key: row[key] for key in row if key != "seconds_busy"})["rows"]
    assert late["goals"] == []  # and the samples that do not count are still in the report
    text = part("report").markdown(report_of(figures))
    assert "| batch | 100.0 us | 102.0 us | 2.0% | 25, 20 |" in text


def report_of(figures: Any) -> dict[str, Any]:
    step = {"name": "build", "verdict": "passed", "seconds": 1.0, "detail": "a | b\nc"}
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "device": "NVIDIA H200",
        "cuda": "13.0",
        "commit": "abc",
        "command": "tools/gpu",
        "steps": [step],
        "figures": figures,
    }


def test_reports_never_overwrite(tmp_path: Path) -> None:
    report = part("report")
    peer = {"section": "peer", "peer": "other", "row": "decode B=32 L=4096 BF16", "why": "no wheel"}
    made = report_of(judged(decode_row(), peer))
    first, second = (report.write(made, tmp_path / "new") for _ in range(2))
    assert first.name == "2026-01-02-nvidia-h200-abc.json"
    assert second.name == "2026-01-02-nvidia-h200-abc-2.json"
    assert json.loads(first.read_text())["device"] == "NVIDIA H200"
    text = first.with_suffix(".md").read_text()
    assert "| build | passed | 1.0 | a \\| b c |" in text
    assert "| decode B=32 L=4096 BF16 | 134.2 us | 4.00 | 93.0% |" in text
    assert "| other | decode B=32 L=4096 BF16 | not run |  | no wheel |" in text


# ---- Exit codes ----------------------------------------------------------------------------------


def without_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Any, *arguments: str
) -> int:
    gpu = tool()

    def find() -> None:
        raise part("device").NoDevice("there is no NVIDIA driver")

    monkeypatch.setattr(gpu, "find", find)
    monkeypatch.setattr(gpu, "LOGS", tmp_path)
    monkeypatch.setattr(
        gpu.steps, "steps_without_device", lambda options: [part("budget").Step("build", 60, run)]
    )
    return int(gpu.main(list(arguments)))


def test_no_device_has_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert without_device(monkeypatch, tmp_path, lambda job: None) == 77
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "not run: no device: there is no NVIDIA driver"


def test_a_failed_build_is_a_failure_without_a_device_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def failing(job: Any) -> None:
        raise part("budget").Failed("does not build")

    assert without_device(monkeypatch, tmp_path, failing) == 1


def test_on_a_device_the_report_is_written_and_failures_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu, budget = tool(), part("budget")
    monkeypatch.setattr(gpu, "find", lambda: part("device").Device("GPU 1", 90, "13.0"))
    monkeypatch.setattr(gpu, "LOGS", tmp_path)

    def code(nmse: float) -> int:
        def figures(job: Any) -> None:
            job.rows = [MACHINE, decode_row(nmse=nmse)]

        monkeypatch.setattr(
            gpu.steps, "all_steps", lambda options: [budget.Step("figures", 60, figures)]
        )
        return int(gpu.main(["--out", str(tmp_path / "out")]))

    assert code(1e-6) == 0
    assert code(0.5) == 1  # canary: a figure of a wrong result is no success
    assert len(list((tmp_path / "out").glob("*.json"))) == 2
    monkeypatch.setattr(gpu.steps, "all_steps", lambda options: [])
    assert gpu.main(["--out", str(tmp_path / "out")]) == 1


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--update"], ["--shapes", "x"]])
def test_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool().main(arguments)
    assert ended.value.code == 2


# ---- The compile gate ----------------------------------------------------------------------------


def ptxas(arch: str, registers: int = 151, spilled: int = 0) -> str:
    return (
        "ptxas info    : Compiling entry function "
        f"'_ZN4pkvi6decodeILj2ELi128ELi1EEEv15pkvi_gpu_attend' for '{arch}'\n"
        "ptxas info    : Function properties for x\n"
        f"    0 bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads\n"
        f"ptxas info    : Used {registers} registers, used 1 barriers, 16 bytes smem\n"
    )


def test_the_gate_reads_what_ptxas_says() -> None:
    registers = part("registers")
    usages = registers.parse(ptxas("sm_80") + ptxas("sm_90", 160))
    assert sorted(usages.values(), key=lambda u: u.registers) == [
        registers.Usage(151, 16, 0, 0),
        registers.Usage(160, 16, 0, 0),
    ]
    assert registers.faults(usages) == []
    assert "spilled" in registers.faults(registers.parse(ptxas("sm_80", spilled=8)))[0]
    assert registers.faults({}) == [
        "nothing was compiled for sm_80",
        "nothing was compiled for sm_90",
    ]


def test_the_log_of_a_build_will_do_when_everything_is_in_it(tmp_path: Path) -> None:
    registers = part("registers")
    log = tmp_path / "log"
    assert registers.usages_in(log) == {}
    log.write_text(ptxas("sm_80"))
    assert registers.usages_in(log) == {}
    log.write_text(ptxas("sm_80") + "[2/9] Building\n" + ptxas("sm_90"))
    assert len(registers.usages_in(log)) == 2


def test_the_gate_notices_another_register(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registers = part("registers")
    path = tmp_path / "new" / "registers.md"
    monkeypatch.setattr(registers.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(registers, "toolkit", lambda: "13.0")
    monkeypatch.setattr(
        registers, "demangle", lambda names: ["void pkvi::decode<pkvi::types<3u, 2u>, 128, 1>(j)"]
    )

    def gate(count: int, update: bool) -> int:
        usages = registers.parse(ptxas("sm_80") + ptxas("sm_90", count))
        text = registers.table(usages, {("decode", "3/2", "128", "1"): 1000})
        monkeypatch.setattr(registers, "look", lambda jobs, log: (usages, text))
        return int(registers.gate(path, update, 1))

    assert gate(160, False) == 1  # there is no table
    assert gate(160, True) == 0
    assert "| decode | i8/bf16 | 128 | 1 | 151 | 160 | 1016 |" in path.read_text()
    assert gate(160, False) == 0
    capsys.readouterr()
    assert gate(161, False) == 1
    assert "+| decode | i8/bf16 | 128 | 1 | 151 | 161 | 1016 |" in capsys.readouterr().out
