"""The CPU device against the limits of this machine, and against torch.

Every figure is a median over repetitions and stands beside the limit of the same repetitions: a
sequential read of 1 GiB (decode), a peak of arithmetic in registers (prefill) or a copy (write). A
row whose result differs from the reference shows no figure, and the command ends with status 1.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks import commit, enter, processor
from benchmarks._cases import KV_SET_BYTES, Case, all_cases
from benchmarks._measure import Bench, Result, measure
from benchmarks._native import Limits, build

QUICK_RUNS = 5
QUICK_SETS = 1  # on which torch is measured in one repetition


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", choices=["torch"], help="measure it in the same repetitions")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--quick", action="store_true", help="six rows against torch, in a minute")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="rows, by part of name")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--threads", type=int, help="for the rows of one thread")
    parser.add_argument("--runs", type=int, help="repetitions (9; with --quick 5)")
    parser.add_argument("--isa", help="level of the kernels; default: the best")


def with_threads(case: Case, threads: int) -> Case:
    """A row of one thread on more of them."""
    if threads > 1 and case.work == "decode" and case.against is None:
        return replace(case, threads=threads, against="one thread")
    return replace(case, threads=threads)


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    cases = [case for case in all_cases() if case.quick or not options.quick]
    if options.threads:
        cases = [with_threads(case, options.threads) for case in cases if case.threads == 1]
    if options.only:
        patterns = [f"*{pattern}*" for pattern in options.only]
        cases = [c for c in cases if any(fnmatch.fnmatch(c.name, p) for p in patterns)]
    return cases


# ---- The table -----------------------------------------------------------------------------------

HEADER = (
    f"{'work':<42}{'time':>11}{'reached':>14}{'limit':>20}{'fraction':>10}  {'goal':<28}{'more'}"
)


def cell(value: float | None, unit: str = "", digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def time_of(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.3f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def limit_of(result: Result) -> tuple[str, str, float | None]:
    """(reached, limit, fraction) with their units."""
    if result.gflop_per_s is not None:
        reached = cell(result.gflop_per_s, " GFLOP/s", 0)
        return (
            reached,
            cell(result.peak_gflop_per_s, f" ({result.peak})", 0),
            result.fraction_of_peak,
        )
    reached = cell(result.gb_per_s, " GB/s", 1)
    if result.copy_gb_per_s is not None:
        return reached, cell(result.copy_gb_per_s, " (copy)", 1), result.fraction_of_copy
    if result.read_gb_per_s is not None:
        return reached, cell(result.read_gb_per_s, " (read)", 1), result.fraction_of_read
    return "", "", None


def goal_text(goal: dict[str, Any]) -> str:
    figure = str(goal["figure"]).replace("fraction_of_", "").replace("ratio_to_", "x ")
    sign, key = ("<=", "at_most") if "at_most" in goal else (">=", "at_least")
    text = f"{figure} {sign} {goal[key]}"
    return f"{text} or {goal_text(goal['otherwise'])}" if "otherwise" in goal else text


def goals_of(result: Result) -> str:
    verdicts = {True: "met", False: "missed", None: "open"}
    return ", ".join(f"{goal_text(goal)} {verdicts[goal['met']]}" for goal in result.goals)


def notes_of(result: Result) -> str:
    notes = []
    if result.slab_read_gb_per_s is not None:
        slabs = cell(result.slab_read_gb_per_s, " GB/s", 1)
        notes.append(f"slabs {slabs}, {cell(result.fraction_of_slab_read)} of it")
    if result.price is not None and result.against not in ("bf16", "one thread"):
        notes.append(f"{result.price:+.1%} against {result.against}")
    elif result.ratio_to_against is not None:
        notes.append(f"{result.ratio_to_against:.2f}x {result.against}")
    if result.ratio_to_torch is not None:
        notes.append(f"{result.ratio_to_torch:.1f}x torch")
    if result.ratio_to_torch_gather is not None:
        notes.append(f"{result.ratio_to_torch_gather:.1f}x torch that gathers")
    return "; ".join(notes)


def line_of(result: Result) -> str:
    if result.problem:
        return f"{result.name:<42}  {result.problem}"
    reached, limit, fraction = limit_of(result)
    return (
        f"{result.name:<42}{time_of(result.seconds):>11}{reached:>14}{limit:>20}"
        f"{cell(fraction):>10}  {goals_of(result)}  {notes_of(result)}".rstrip()
    )


# ---- The command ---------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    if options.quick:
        options.peer = "torch"
    cases = chosen_cases(options)
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    make_peer = None
    if options.peer:
        enter("check", "peers", fresh=False)
        from benchmarks._torch import Torch

        sets = QUICK_SETS if options.quick else None
        make_peer = partial(Torch, sets_per_time=sets)
    library = build()
    runs = options.runs or (QUICK_RUNS if options.quick else 9)
    with Limits(library, KV_SET_BYTES) as limits:
        bench = Bench(library, limits, options.isa, runs, commit(), make_peer)
        return report(bench, cases, options.json)


def report(bench: Bench, cases: list[Case], as_json: bool) -> int:
    if not as_json:
        print(f"{processor()}; commit {bench.commit}; medians of {bench.runs} runs")
        print(HEADER)
    wrong = 0
    for case in cases:
        result = measure(bench, case)
        wrong += result.problem is not None and not result.problem.startswith("not supported")
        print(json.dumps(result.json()) if as_json else line_of(result), flush=True)
    if not cases:
        print("no row has such a name; --list shows them", file=sys.stderr)
    return 1 if wrong or not cases else 0
