"""How one row is measured: scenes for it, their check, and repetitions between limits.

A repetition of a decode row, in this order, each covering the whole KV set once:

    sequential read, bare read of the slabs, attention (and what it is compared with),
    bare read of the slabs, sequential read, torch

The fraction of a repetition is taken of the mean of the two limits around it; the row shows medians
over repetitions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Protocol

from benchmarks import _native
from benchmarks._cases import Case, Goal
from benchmarks._native import Limits, Scene, Shape, dtype_number

MIXED_DECODES = 32  # sequences beside the chunk of a mixed batch
MIXED_CONTEXT = 1024
WRITE_BYTES = 256 << 20  # written in one repetition, and the pool it comes from
PREFILL_OPERATIONS = 40e9  # of one repetition, at least, where layers suffice

# Errors (NMSE) that only a mistake exceeds. Output: relative to a reference on the values as they
# are stored, so that these allow for products and weights in the type alone. Stored: of rounding
# normally distributed values to the type once.
OUTPUT_NMSE = {"f32": 1e-9, "f16": 1e-5, "bf16": 1e-5}
OUTPUT_NMSE_QUANTISED = 1e-3
STORED_NMSE = {"f32": 0.0, "f16": 0.0, "bf16": 0.0, "i8": 3e-4, "e4m3": 3e-3, "e5m2": 1e-2}
STORED_NMSE_REST = 3e-2


class WrongResult(Exception):
    """The output is not what the reference computes; no figure is worth printing."""


class Peer(Protocol):
    """Another implementation, on data of the same sizes."""

    def times(self, repetition: int) -> dict[str, float]:
        """Seconds of one call for each way it can be asked."""

    def describe(self) -> str: ...


@dataclass
class Result:
    """One row. Rates are per second in GB (10^9 bytes) or GFLOP; None: not measured."""

    work: str
    name: str
    dtype: str
    batch: int
    context: int
    new: int
    heads: int
    kv_heads: int
    dim: int
    block_tokens: int
    threads: int
    runs: int
    isa: str
    commit: str
    seconds: float | None = None
    gb_per_s: float | None = None
    read_gb_per_s: float | None = None
    fraction_of_read: float | None = None
    slab_read_gb_per_s: float | None = None
    fraction_of_slab_read: float | None = None
    copy_gb_per_s: float | None = None
    fraction_of_copy: float | None = None
    gflop_per_s: float | None = None
    peak: str | None = None
    peak_gflop_per_s: float | None = None
    fraction_of_peak: float | None = None
    against: str | None = None
    ratio_to_against: float | None = None
    price: float | None = None
    peer: str | None = None
    ratio_to_torch: float | None = None
    ratio_to_torch_gather: float | None = None
    output_nmse: float | None = None
    goals: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None

    def json(self) -> dict[str, object]:
        return asdict(self)


# ---- Scenes --------------------------------------------------------------------------------------


def shape_of(case: Case, entries: int, layers: int, seed: int) -> Shape:
    dtype = dtype_number(case.dtype)
    return Shape(
        layers=layers,
        entries=entries,
        query_heads=case.heads,
        kv_heads=case.kv_heads,
        dim=case.dim,
        block_tokens=case.block_tokens,
        k_dtype=dtype,
        v_dtype=dtype,
        q_dtype=dtype_number(case.q_dtype),
        source_dtype=dtype_number(case.source_dtype),
        source_bytes=WRITE_BYTES if case.work in ("write", "append") else 0,
        threads=case.threads,
        is_shuffled=int(case.shuffled),
        seed=seed,
    )


@dataclass
class Set:
    """The scene of a case, and the calls that cover it once: (layer, first entry, end)."""

    case: Case
    scene: Scene
    calls: list[tuple[int, int, int]]

    def attend(self, repetition: int, limit: int | None = None) -> float:
        """Seconds of one call, on average over all of them, or over the next `limit`."""
        count = len(self.calls) if limit is None else min(limit, len(self.calls))
        first = repetition * count
        chosen = [self.calls[(first + i) % len(self.calls)] for i in range(count)]
        return sum(self.scene.attend(*call) for call in chosen) / count


def open_set(library: ctypes.CDLL, case: Case, isa: str | None, seed: int = 1) -> Set:
    """Raises NotSupported, Failed."""
    if case.one_layer:
        entries, layers = case.batch * case.sets, 1
        calls = [(0, i * case.batch, (i + 1) * case.batch) for i in range(case.sets)]
    else:
        entries, layers = case.batch, case.sets
        calls = [(layer, 0, case.batch) for layer in range(case.sets)]
    shape = shape_of(case, entries, layers, seed)
    scene = Scene(library, shape, [case.context] * entries, [case.new] * entries, isa)
    return Set(case, scene, calls)


def check(subject: Set, spoil: str | None = None) -> float:
    """Compare some rows of the first call with the reference; the largest error of an output.

    spoil: plant a mistake there first, for the test of this function. Raises WrongResult.
    """
    case = subject.case
    layer, begin, end = subject.calls[0]
    subject.scene.attend(layer, begin, end)
    if spoil:
        subject.scene.spoil(spoil)
    worst = 0.0
    for entry in sorted({begin, end - 1}):
        fresh = subject.scene.fresh[entry]
        for row in sorted({0, fresh // 2, fresh - 1}):
            output, stored = subject.scene.check(layer, entry, row)
            judge(case, output, stored)
            worst = max(worst, output)
    return worst


def judge(case: Case, output: float, stored: float) -> None:
    """Raises WrongResult. A NaN is wrong too."""
    if not stored <= STORED_NMSE.get(case.dtype, STORED_NMSE_REST):
        raise WrongResult(f"wrong: what is stored is off by NMSE {stored:.2g}")
    if not output <= OUTPUT_NMSE.get(case.dtype, OUTPUT_NMSE_QUANTISED):
        raise WrongResult(f"wrong: the output is off by NMSE {output:.2g}")


# ---- Repetitions ---------------------------------------------------------------------------------


@dataclass
class Bench:
    """What all rows have in common."""

    library: ctypes.CDLL
    limits: Limits
    isa: str | None
    runs: int
    commit: str
    make_peer: Callable[[Case], Peer] | None = None
    spoil: str | None = None  # plant a mistake in every result: see check


class Samples:
    """Figures of repetitions by name; a row shows their medians."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, **figures: float) -> None:
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        return median(self.values[name]) if name in self.values else None


def companion_of(bench: Bench, case: Case) -> Set | None:
    """The scene that `case.against` names."""
    if case.against == "bf16":
        return open_set(bench.library, replace(case, dtype="bf16"), bench.isa)
    if case.against == "one thread":
        return open_set(bench.library, replace(case, threads=1), bench.isa)
    if case.against == "in order":
        return open_set(bench.library, replace(case, shuffled=False), bench.isa)
    return None


def repeat_decode(bench: Bench, subject: Set, other: Set | None, samples: Samples, n: int) -> None:
    case, scene = subject.case, subject.scene
    call_bytes = scene.bytes / len(subject.calls)
    reads = [bench.limits.read(case.threads)]
    slabs = [scene.read_rate(case.threads)]
    seconds = subject.attend(n)
    against = other.attend(n) if other else None
    slabs.append(scene.read_rate(case.threads))
    reads.append(bench.limits.read(case.threads))
    rate, read, slab = call_bytes / seconds, sum(reads) / 2, sum(slabs) / 2
    samples.add(seconds=seconds, gb_per_s=rate / 1e9)
    samples.add(read_gb_per_s=read / 1e9, fraction_of_read=rate / read)
    samples.add(slab_read_gb_per_s=slab / 1e9, fraction_of_slab_read=rate / slab)
    if against is not None:
        samples.add(ratio_to_against=against / seconds, price=seconds / against - 1)


def repeat_prefill(bench: Bench, subject: Set, samples: Samples, n: int) -> None:
    case = subject.case
    kind = case.peak or "fma"
    peaks = [bench.limits.peak(kind, case.threads)]
    calls = max(1, round(PREFILL_OPERATIONS / case.operations))
    seconds = subject.attend(n, calls)
    peaks.append(bench.limits.peak(kind, case.threads))
    rate = case.operations / seconds
    samples.add(seconds=seconds, gflop_per_s=rate / 1e9)
    if min(peaks) > 0:
        peak = sum(peaks) / 2
        samples.add(peak_gflop_per_s=peak / 1e9, fraction_of_peak=rate / peak)


def add_peer(peer: Peer, samples: Samples, n: int) -> None:
    ours = samples.values["seconds"][-1]
    samples.add(**{name: seconds / ours for name, seconds in peer.times(n).items()})


def measure_attention(bench: Bench, case: Case, samples: Samples) -> Result:
    with ExitStack() as stack:
        subject = open_set(bench.library, case, bench.isa)
        stack.callback(subject.scene.close)
        error = check(subject, bench.spoil)
        other = companion_of(bench, case)
        if other:
            stack.callback(other.scene.close)
        peer = bench.make_peer(case) if bench.make_peer else None
        for n in range(bench.runs):
            if case.work == "prefill":
                repeat_prefill(bench, subject, samples, n)
            else:
                repeat_decode(bench, subject, other, samples, n)
            if peer:
                add_peer(peer, samples, n)
        result = empty_result(bench, case, subject.scene.isa)
        result.output_nmse = error
        result.peer = peer.describe() if peer else None
        return result


# ---- Mixed batches -------------------------------------------------------------------------------


def measure_mixed(bench: Bench, case: Case, samples: Samples) -> Result:
    """A chunk and decodes in one call, against the sum of a call for each."""
    decodes = replace(case, work="decode", batch=MIXED_DECODES, context=MIXED_CONTEXT, new=1)
    entries = 1 + MIXED_DECODES
    shape = shape_of(case, entries, decodes.sets, seed=1)
    lengths = [case.context, *[MIXED_CONTEXT] * MIXED_DECODES]
    fresh = [case.new, *[1] * MIXED_DECODES]
    with Scene(bench.library, shape, lengths, fresh, bench.isa) as scene:
        layers = range(decodes.sets)
        both = Set(case, scene, [(layer, 0, entries) for layer in layers])
        chunk = Set(case, scene, [(layer, 0, 1) for layer in layers])
        rest = Set(decodes, scene, [(layer, 1, entries) for layer in layers])
        error = check(both, bench.spoil)
        for n in range(bench.runs):
            alone = chunk.attend(n) + rest.attend(n)
            together = both.attend(n)
            samples.add(seconds=together, ratio_to_against=alone / together)
            samples.add(price=together / alone - 1)
        result = empty_result(bench, case, scene.isa)
        result.output_nmse = error
        return result


# ---- Writing -------------------------------------------------------------------------------------


def write_calls(case: Case, count: int) -> list[tuple[int, int]]:
    """(layer, position) of every write call that covers the scene once."""
    steps = range(0, case.context - count + 1, count)
    return [(layer, position) for layer in range(case.sets) for position in steps]


def measure_write(bench: Bench, case: Case, samples: Samples) -> Result:
    """Bytes that move (read from arrays, stored in blocks), against those of a copy."""
    count = case.new if case.work == "write" else 1
    with open_set(bench.library, case, bench.isa).scene as scene:
        if bench.spoil:
            scene.spoil(bench.spoil)
        judge(case, 0.0, scene.check(0, 0, 0)[1])
        calls = write_calls(case, count)
        stored = scene.bytes / (case.sets * case.context) * count
        elements = 2 * case.batch * count * case.kv_heads * case.dim
        moved = stored + elements * (4 if case.source_dtype == "f32" else 2)
        many = max(1, min(len(calls), int(WRITE_BYTES / stored)))
        many = many if case.work == "write" else min(many, 2000)
        for n in range(bench.runs):
            before = bench.limits.copy(case.threads)
            chosen = [calls[(n * many + i) % len(calls)] for i in range(many)]
            seconds = sum(scene.write(*call, count) for call in chosen) / many
            copy = (before + bench.limits.copy(case.threads)) / 2
            samples.add(seconds=seconds, gb_per_s=moved / 2 / seconds / 1e9)
            samples.add(copy_gb_per_s=copy / 1e9, fraction_of_copy=moved / 2 / seconds / copy)
        return empty_result(bench, case, scene.isa)


# ---- Rows ----------------------------------------------------------------------------------------


def empty_result(bench: Bench, case: Case, isa: str) -> Result:
    return Result(
        work=case.work,
        name=case.name,
        dtype=case.dtype,
        batch=case.batch,
        context=case.context,
        new=case.new,
        heads=case.heads,
        kv_heads=case.kv_heads,
        dim=case.dim,
        block_tokens=case.block_tokens,
        threads=case.threads,
        runs=bench.runs,
        isa=isa,
        commit=bench.commit,
        peak=case.peak,
        against=case.against,
    )


def judged(goal: Goal, result: Result) -> dict[str, Any]:
    """A goal and whether the result meets it; None: its figure was not measured."""
    value = getattr(result, goal.figure)
    met = None if value is None else goal.is_met(value)
    entry: dict[str, Any] = {
        "figure": goal.figure,
        "at_most" if goal.at_most else "at_least": goal.limit,
    }
    if goal.otherwise:
        entry["otherwise"] = otherwise = judged(goal.otherwise, result)
        met = True if otherwise["met"] else met
    return {**entry, "met": met}


def measure(bench: Bench, case: Case) -> Result:
    """One row; with `problem` and without figures when it cannot be measured or is wrong."""
    samples = Samples()
    works = {"mixed": measure_mixed, "write": measure_write, "append": measure_write}
    try:
        result = works.get(case.work, measure_attention)(bench, case, samples)
    except (_native.NotSupported, _native.Failed, WrongResult) as problem:
        result = empty_result(bench, case, bench.isa or "")
        result.problem = str(problem) or type(problem).__name__
        if isinstance(problem, _native.NotSupported):
            result.problem = f"not supported: {problem}"
        return result
    for name in samples.values:
        setattr(result, name, samples.median(name))
    result.goals = [judged(goal, result) for goal in case.goals]
    return result
