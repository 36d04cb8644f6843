"""tools/bench blocks: every figure is printed, and block tables are kept and not rewritten."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, object]]:
    command = [sys.executable, str(ROOT / "tools" / "bench"), "blocks", "--json", "--runs", "40"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    return {figure["figure"]: figure for figure in map(json.loads, lines)}


def test_every_goal_has_a_figure(figures: dict[str, dict[str, object]]) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    from benchmarks import blocks

    assert set(blocks.GOALS) <= set(figures)
    for name, goal in blocks.GOALS.items():
        assert figures[name]["goal"] == goal


def test_times_are_positive_and_ordered(figures: dict[str, dict[str, object]]) -> None:
    for figure in figures.values():
        if figure["unit"] == "ns":
            low, median, high = (float(str(figure[key])) for key in ("p10", "median", "p90"))
            assert 0 < low <= median <= high


def test_rows_of_a_steady_batch_are_extended_and_never_rewritten(
    figures: dict[str, dict[str, object]],
) -> None:
    """40 steps of 256 sequences, most of which add no block."""
    assert figures["table rows extended or kept"]["value"] == 40 * 256
    assert figures["table rows rewritten after the first step"]["value"] == 0
