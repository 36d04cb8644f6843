"""tools/bench speculate: a line for each case, from runs whose tokens were compared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="the shipped prompts are text")

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "bench"), "speculate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_every_case_has_its_figures() -> None:
    small = ["--prompts", "2", "--max-tokens", "12", "--runs", "1", "--batch", "2"]
    finished = bench("--json", *small)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    figures = [json.loads(line) for line in lines]
    cases = [(figure["prompts"], figure["way"]) for figure in figures]
    kinds, ways = ("shipped", "repeated", "random"), ("ngram", "ngram-tree")
    assert cases == [(kind, way) for kind in kinds for way in ways]
    for figure in figures:
        assert 0 <= figure["guessed_right"] <= figure["guessed"]
        assert figure["tokens_per_turn"] >= 1
        assert figure["ratio"] > 0


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--batch", "0"], ["--kinds", "none"]])
def test_bad_options(wrong: list[str]) -> None:
    assert bench(*wrong).returncode != 0
