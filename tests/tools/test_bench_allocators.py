"""tools/bench allocators: a row for each mix and policy; equal draws give equal shares."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows() -> list[dict[str, object]]:
    command = [sys.executable, str(ROOT / "tools" / "bench"), "allocators", "--json"]
    finished = subprocess.run(
        [*command, "--steps", "6000", "--runs", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]


def without_times(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if not name.endswith("_ns")}


def test_every_policy_is_measured_and_draws_repeat() -> None:
    first = rows()
    policies = ["first-fit", "best-fit", "ring", "lifo"]
    assert [(row["mix"], row["policy"]) for row in first] == [
        (mix, policy) for mix in ("plain", "cached") for policy in policies
    ]
    for row in first:
        assert 0 < float(str(row["loose"])) < 1
        assert 0 < float(str(row["reserve_p50_ns"])) <= float(str(row["reserve_p99_ns"]))
    assert [without_times(row) for row in rows()] == [without_times(row) for row in first]
