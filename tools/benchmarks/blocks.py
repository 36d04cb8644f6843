"""What the books cost: reservations, page tables, the prefix index; from C and through Python.

The C figures come from the program native/blocks.c, which knows the public header alone; the Python
ones from the installed package, as an engine calls it. Medians; a goal that is missed is marked and
is no failure, since times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from environment import EnvironmentProblem

import benchmarks
from benchmarks import _native

if TYPE_CHECKING:
    from pagedkv import Cache, Sequence

BATCH = 256  # sequences that run at once
BLOCK_TOKENS = 16
CONTEXT = 1024  # tokens of each when decoding begins
STEPS = 512  # before the sequences start over
CONTEXT_MAX = CONTEXT + BLOCK_TOKENS + STEPS

# Upper limits, in the unit of the figure: ns or a count.
GOALS = {
    "decode step of 256 sequences": 50_000,
    "decode step of 256 sequences from Python, tokens in lists": 150_000,
    "decode step of 256 sequences from Python, tokens in arrays": 150_000,
    "table rows rewritten after the first step": 0,
    "append without a new block": 60,
    "append with a new block": 150,
    "reservation of 4,096 tokens": 5_000,
    "free of 4,096 tokens (256 blocks stay cached)": 5_000,
    "abort of that plan (256 blocks are free again)": 5_000,
    "match of 32,768 cached tokens": 500_000,
    "fork of 1,000,000 tokens": 5_000,
    "create of a pool of 100,000 blocks": 10_000_000,
    "host memory of a block beside its token ids": 64,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--runs", type=int, default=1000, help="samples of a figure (1000)")


def run(options: argparse.Namespace) -> int:
    if not 1 <= options.runs <= 1_000_000:
        raise EnvironmentProblem("--runs: expected 1 to 1000000")
    benchmarks.enter()
    _native.make("pkv_bench_blocks")
    if not options.json:
        print(f"{benchmarks.processor()}, commit {benchmarks.commit()}")
    for figure in figures(options.runs):
        print(json.dumps(figure) if options.json else line(figure), flush=True)
    return 0


def figures(runs: int) -> Iterator[dict[str, Any]]:
    """Every figure as C printed it, with its goal and whether that is met, or null."""
    for figure in (*native_figures(runs), *python_figures(runs)):
        goal = GOALS.get(figure["figure"])
        value: float = figure["median"] if "median" in figure else figure["value"]
        yield {**figure, "goal": goal, "met": None if goal is None else value <= goal}


def native_figures(runs: int) -> Iterator[dict[str, Any]]:
    program = _native.BUILD / "tools" / "benchmarks" / "native" / "pkv_bench_blocks"
    command = [str(program), str(runs)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        raise EnvironmentProblem(f"{program.name} ended with status {finished.returncode}")
    for text in finished.stdout.splitlines():
        yield json.loads(text)


def line(figure: dict[str, Any]) -> str:
    """A figure for people."""
    name, unit, goal = figure["figure"], figure["unit"], figure["goal"]
    verdict = "" if goal is None else f"  goal {amount(goal, unit)}"
    if figure["met"] is False:
        verdict += "  MISSED"
    if "value" in figure:
        return f"{name:<60}{amount(figure['value'], unit):>12}{'':24}{verdict}"
    spread = f"({amount(figure['p10'], unit)} to {amount(figure['p90'], unit)})"
    return f"{name:<60}{amount(figure['median'], unit):>12}  {spread:<22}{verdict}"


def amount(value: float, unit: str) -> str:
    if unit != "ns":
        return f"{value:,.0f} {unit}"
    for size, name in ((1e6, "ms"), (1e3, "us")):
        if value >= size:
            return f"{value / size:.2f} {name}"
    return f"{value:.1f} ns"


# ---- Through Python


def python_figures(runs: int) -> Iterator[dict[str, Any]]:
    """A decode step as the engine makes it: entered, its positions read, left."""
    import numpy as np
    import pagedkv

    random = np.random.default_rng(1)
    with pagedkv.Cache(
        layers=1,
        kv_heads=8,
        head_dim=128,
        dtype="bf16",
        blocks=BATCH * CONTEXT_MAX // BLOCK_TOKENS,
        block_tokens=BLOCK_TOKENS,
        sequences=BATCH,
        sequence_tokens=CONTEXT_MAX,
    ) as cache:
        for kind in ("lists", "arrays"):
            times: list[int] = []
            while len(times) < runs:
                sequences = start_batch(cache, random)
                for _ in range(min(STEPS, runs - len(times))):
                    tokens = random.integers(0, 1 << 31, (BATCH, 1), dtype=np.uint32)
                    rows = tokens.tolist() if kind == "lists" else list(tokens)
                    times.append(step_ns(cache, list(zip(sequences, rows, strict=True))))
                for sequence in sequences:
                    sequence.close()
            low, median, high = np.quantile(times, (0.1, 0.5, 0.9))
            yield {
                "figure": f"decode step of 256 sequences from Python, tokens in {kind}",
                "unit": "ns",
                "median": float(median),
                "p10": float(low),
                "p90": float(high),
                "samples": len(times),
            }
        cache.check()


def start_batch(cache: Cache, random: Any) -> list[Sequence]:
    """Sequences of random tokens, of which one in sixteen begins a new block with each step."""
    sequences = [cache.sequence() for _ in range(BATCH)]
    for i, sequence in enumerate(sequences):
        sequence.append(random.integers(0, 1 << 31, CONTEXT + i % BLOCK_TOKENS))
        sequence.commit()
    return sequences


def step_ns(cache: Cache, entries: list[tuple[Sequence, Any]]) -> int:
    started = time.perf_counter_ns()
    with cache.step(entries) as step:
        _ = step.positions
    return time.perf_counter_ns() - started
