"""The engine of this package against transformers: tokens per second, memory, equal tokens.

Serves the same requests, greedily and in float32, from the same random checkpoint with

    pagedkv          continuous batching over the paged cache, NumPy: the engine of `pagedkv run`
    generate_batch   the continuous batching of transformers
    padded batch     `generate` of transformers over one batch padded to the longest prompt

New tokens are those that were asked for; total tokens count the prompts too. Seconds are medians of
runs that take turns, with the same number of threads for all. KV memory is what was in use at most,
and for generate_batch the pool that it was given, just large enough. Where two systems generate
different tokens, the first difference is shown with the logits of both; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
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
CHECKPOINTS = ROOT / "build" / "serve"
# Set on some machines for the sake of old builds of OpenBLAS; a current one then runs slowly.
BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--case", choices=CASES, action="append", help="default: all of them")
    add("--system", choices=SYSTEMS, action="append", help="default: all of them")
    add("--threads", type=int, metavar="N", help="for every system; default: the case's own")
    add("--requests", type=int, metavar="N", help="serve the first N only")
    add("--runs", type=int, default=3, metavar="N", help="of each system, default 3")
    add("--json", action="store_true", help="one object a line")


def run(options: argparse.Namespace) -> int:
    enter("engine", "peers")
    alike = [measure(CASES[name], options) for name in options.case or CASES]
    return 0 if all(alike) else 1


def measure(case: Case, options: argparse.Namespace) -> bool:
    """Measure and print one case; whether all tokens were equal."""
    case = case.first(options.requests or case.requests)
    folder = checkpoint(case, CHECKPOINTS)
    threads = options.threads or case.threads or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(system, case, folder, threads))
            for system in options.system or SYSTEMS
        ]
        for _ in range(options.runs):
            for worker in workers:
                worker.serve()
    rows = [figures(case, worker, workers[0]) for worker in workers]
    show = print_json if options.json else print_table
    show(case, rows, threads, options.runs)
    different = [worker for worker in workers[1:] if worker.tokens != workers[0].tokens]
    for worker in different:
        print(first_difference(case, folder, worker, workers[0]), file=sys.stderr)
    return not different and all(row["repeats"] for row in rows)


class Worker:
    """A system in a process of its own that has loaded its model and waits: _serve_systems.py."""

    def __init__(self, system: str, case: Case, folder: Path, threads: int) -> None:
        job = {
            "system": system,
            "case": case.name,
            "requests": case.requests,
            "folder": str(folder),
            "threads": threads,
        }
        variables = {k: v for k, v in os.environ.items() if k not in BLAS_VARIABLES}
        self.process = subprocess.Popen(
            [PYTHON, WORKER, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables | {"PYTHONPATH": str(ROOT / "tools")},
        )
        self.system = system
        self.kernels = str(self._answer()["ready"])
        self.answers: list[dict[str, Any]] = []

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def serve(self) -> None:
        """One run over all requests."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.answers.append(self._answer())

    @property
    def tokens(self) -> list[list[int]]:
        """What the first run generated."""
        tokens: list[list[int]] = self.answers[0]["tokens"]
        return tokens

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.system} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def figures(case: Case, worker: Worker, first: Worker) -> dict[str, Any]:
    """One row of the table. `equal` and `ratio` compare with the first system, `repeats` the runs
    of one; the digest is for comparing systems that were measured one at a time."""
    prompt, new = map(sum, zip(*case.lengths(), strict=True))
    runs = [answer["seconds"] for answer in worker.answers]
    seconds = statistics.median(runs)
    pairs = zip(worker.answers, first.answers, strict=True)
    return {
        "system": worker.system,
        "seconds": seconds,
        "runs": runs,
        "new_tokens_per_s": new / seconds,
        "total_tokens_per_s": (prompt + new) / seconds,
        "kv_bytes": worker.answers[0]["kv_bytes"],
        "equal": sum(one == two for one, two in zip(worker.tokens, first.tokens, strict=True)),
        "requests": len(first.tokens),
        "tokens_sha256": hashlib.sha256(json.dumps(worker.tokens).encode()).hexdigest(),
        "repeats": all(answer["tokens"] == worker.tokens for answer in worker.answers),
        "ratio": statistics.median(one["seconds"] / two["seconds"] for one, two in pairs),
        "kernels": worker.kernels,
    }


def print_json(case: Case, rows: list[dict[str, Any]], threads: int, runs: int) -> None:
    about = {"case": case.name, "threads": threads, "commit": commit(), "processor": processor()}
    for row in rows:
        print(json.dumps(about | row), flush=True)


def print_table(case: Case, rows: list[dict[str, Any]], threads: int, runs: int) -> None:
    print(f"{case.name}: {case.what}, {case.requests} requests; float32, greedy")
    print(f"{processor()}, {threads} used; commit {commit()}; medians of {runs}\n")
    print(f"{'':<16}{'new tok/s':>10}{'all tok/s':>10}{'seconds':>9}{'time':>7}", end="")
    print(f"{'KV MiB':>8}{'equal':>8}  computed by")
    for row in rows:
        alike = f"{row['equal']}/{row['requests']}"
        print(
            f"{row['system']:<16}{row['new_tokens_per_s']:>10,.1f}"
            f"{row['total_tokens_per_s']:>10,.1f}{row['seconds']:>9.2f}{row['ratio']:>6.2f}x"
            f"{row['kv_bytes'] / 2**20:>8.1f}{alike:>8}  {row['kernels']}"
        )
    print(flush=True)


def first_difference(case: Case, folder: Path, worker: Worker, first: Worker) -> str:
    """Where the tokens of two systems part, and by how much the logits of the two tokens differ.
    The logits are computed anew, without pages."""
    import numpy as np
    from pagedkv.engine import ContiguousCache, Model, load_checkpoint

    pairs = list(zip(first.tokens, worker.tokens, strict=True))
    request = next(place for place, (one, two) in enumerate(pairs) if one != two)
    one, two = pairs[request]
    index = next(place for place, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
    tokens = np.array([*case.prompts()[request], *one[:index]], np.uint32)
    model = Model(load_checkpoint(folder))
    attend = ContiguousCache(model.config, len(tokens)).attend
    [row] = model.forward(tokens, np.arange(len(tokens)), np.array([len(tokens) - 1]), attend)
    gap = abs(float(row[one[index]]) - float(row[two[index]]))
    return (
        f"{case.name}, request {request}, token {index}: {first.system} {one[index]},"
        f" {worker.system} {two[index]}; their logits are {gap:.2g} apart"
        f" (standard deviation of all: {row.std():.2g})"
    )
