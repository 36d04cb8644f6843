"""Allocator policies beside each other, on a long random mix of two models in one arena.

The program native/allocators.c says what the mix is and what the columns mean. Each policy sees the
same draws; shares are means over the runs, whose seeds differ, and times are medians of the runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from statistics import fmean, median
from typing import Any

from environment import EnvironmentProblem

import benchmarks
from benchmarks import _native

SHARES = ("loose", "free", "refused", "hit_rate")
TIMES = ("reserve_p50_ns", "reserve_p99_ns", "reserve_max_ns")
COUNTS = ("claimed", "evictions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--steps", type=int, default=200_000, help="of each run (200000)")
    parser.add_argument("--runs", type=int, default=5, help="with different seeds (5)")


def run(options: argparse.Namespace) -> int:
    if options.steps < 1 or options.runs < 1:
        raise EnvironmentProblem("--steps and --runs: expected at least 1")
    benchmarks.enter()
    _native.make("pkv_bench_allocators")
    runs = [one_run(options.steps, seed) for seed in range(1, options.runs + 1)]
    rows = [summary([run[i] for run in runs]) for i in range(len(runs[0]))]
    if not options.json:
        print(f"{benchmarks.processor()}, commit {benchmarks.commit()}")
        print(f"{options.runs} runs of {options.steps:,} steps")
        print("mix     policy     loose   free    refused  claimed  p50     p99      max")
    for row in rows:
        print(json.dumps(row) if options.json else line(row), flush=True)
    return 0


def one_run(steps: int, seed: int) -> list[dict[str, Any]]:
    """One row for each mix and policy, as C printed it."""
    program = _native.BUILD / "tools" / "benchmarks" / "native" / "pkv_bench_allocators"
    command = [str(program), str(steps), str(seed)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        raise EnvironmentProblem(f"{program.name} ended with status {finished.returncode}")
    return [json.loads(text) for text in finished.stdout.splitlines()]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same mix and policy over several seeds."""
    return {
        "mix": rows[0]["mix"],
        "policy": rows[0]["policy"],
        "runs": len(rows),
        **{name: fmean(row[name] for row in rows) for name in (*SHARES, *COUNTS)},
        **{name: median(row[name] for row in rows) for name in TIMES},
    }


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    return (
        f"{row['mix']:<8}{row['policy']:<11}{row['loose']:<8.2%}{row['free']:<8.2%}"
        f"{row['refused']:<9.2%}{row['claimed']:<9,.0f}{row['reserve_p50_ns']:<4,.0f} ns "
        f"{row['reserve_p99_ns']:<6,.0f} ns {row['reserve_max_ns'] / 1e3:,.0f} us"
    )
