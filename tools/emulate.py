"""Run the CUDA kernels under the emulator, and see that planted mistakes are noticed.

Used by `tools/verify emulate`. The kernels as they are come from the build; a mutant is compiled
here, from a copy of its sources in which one line is changed, and linked with the rest of it: with
test_kernels, or into a whole library of the CUDA device, which a test loads.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "runtime" / "device" / "cuda"
# A mutant may wait for ever. It is given several times as long as what works takes here and now, so
# that a machine that has much else to do is not taken for a mistake that was noticed.
SECONDS_MAX = 600
PATIENCE = 5

sys.path.insert(0, str(ROOT / "tests" / "cuda"))
from mutants import HOST_MUTANTS, MUTANTS, Mutant  # noqa: E402

# Built and run like a mutant: it has to pass, or nothing that a mutant does means anything.
UNCHANGED = [
    Mutant("nothing changed", "attend.cuh", "enum { DECODE_WARPS", "enum { DECODE_WARPS"),
    Mutant("nothing changed", "graphs.c", "enum { GRAPH_BLOCKS", "enum { GRAPH_BLOCKS", "graphs"),
    Mutant("nothing changed", "swaps.c", "TRIALS = 3", "TRIALS = 3", "swap"),
    Mutant("nothing changed", "device.c", "LOOSE_CELLS = 2", "LOOSE_CELLS = 2", "context"),
]
# One dim is enough to notice a mistake, and compiles four times as fast.
DIMS = "-DPKVI_GPU_DIMS(X)=X(64)"
CXX = ["c++", "-std=c++17", "-O1", "-ffp-contract=off", "-Wno-unknown-pragmas", DIMS]
CC = ["cc", "-std=c11", "-O1", "-D_GNU_SOURCE", "-DPKV_TINY"]
# As a part of the library, where PKV_TINY is for split.c alone.
HOST = ["-fPIC", "-DPKV_STATIC", "-DPKVI_EMULATED"]
HOST_CC = ["cc", "-std=c11", "-O1", "-D_GNU_SOURCE", *HOST]


@dataclass(frozen=True)
class Outcome:
    """How a mutant ended."""

    mutant: Mutant
    is_caught: bool
    why: str
    seconds: float


def run(
    command: list[str | Path], folder: Path, seconds_max: float = SECONDS_MAX
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "UNIT_STOP": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds_max,
    )


def kernel_names() -> list[str]:
    """The kernels that there are, by what follows GPU_KERNEL in the sources."""
    text = "".join(path.read_text() for path in sorted(SOURCES.glob("*.cuh")))
    return re.findall(r"^(?:GPU_KERNEL\(.*\)\s*\n?\s*)(\w+)\(const", text, re.MULTILINE)


def plant(mutant: Mutant, folder: Path) -> Path:
    """Build test_kernels with a mutant. Raises RuntimeError when it does not compile."""
    sources = folder / "device" / "cuda"
    shutil.copytree(SOURCES, sources)
    changed = sources / mutant.file
    changed.write_text(mutant.apply(changed.read_text()))
    return sources


def build(mutant: Mutant, folder: Path, library: Path, support: list[Path]) -> Path:
    sources = plant(mutant, folder)
    includes = [f"-I{folder}", *(f"-I{ROOT / name}" for name in ("runtime", "include", "tests"))]
    steps: list[list[str | Path]] = [
        [*CXX, *includes, "-x", "c++", "-c", sources / "kernels.cu", "-o", "kernels.o"],
        [*CC, *includes, "-c", sources / "split.c", "-o", "split.o"],
        [*CC, *includes, "-c", sources / "nodes.c", "-o", "nodes.o"],
        [*CC, *includes, "-c", ROOT / "tests" / "cuda" / "test_kernels.c", "-o", "test.o"],
        # what is linked first counts: the library's own kernels are not used
        [
            *("c++", "test.o", "kernels.o", "split.o", "nodes.o", *support, library),
            *(f"-Wl,-rpath,{library.parent}", "-lm", "-lpthread", "-ldl", "-o", "test_kernels"),
        ],
    ]
    for step in steps:
        finished = run(step, folder)
        if finished.returncode != 0:
            raise RuntimeError(f"{mutant.name} does not build:\n{finished.stdout}")
    return folder / "test_kernels"


def source_of(file: str) -> str:
    """The source that a change of `file` changes the object of."""
    return "kernels.cu" if file.endswith(".cuh") else file


def objects_without(file: str, library: Path) -> list[Path]:
    """The objects of the library but one."""
    objects = list(library.parent.rglob("CMakeFiles/pagedkv_cuda_emulated.dir/**/*.o"))
    return [path for path in objects if path.name != f"{source_of(file)}.o"]


def build_host(mutant: Mutant, folder: Path, library: Path, support: list[Path]) -> Path:
    """Build the library with a mutant, and the test that loads it."""
    sources = plant(mutant, folder)
    program = f"test_{mutant.test}"
    mutated = folder / library.name
    includes = [f"-I{folder}", *(f"-I{ROOT / name}" for name in ("runtime", "include", "tests"))]
    compiler = [*CXX, *HOST, "-x", "c++"] if mutant.file.endswith(".cuh") else HOST_CC
    define = f'-DEMULATED_LIBRARY="{mutated}"'
    test = ROOT / "tests" / "cuda" / f"{program}.c"
    steps: list[list[str | Path]] = [
        [*compiler, *includes, "-c", sources / source_of(mutant.file), "-o", "mutated.o"],
        ["c++", "-shared", "mutated.o", *objects_without(mutant.file, library), "-o", mutated],
        ["cc", "-std=c11", "-O1", "-D_GNU_SOURCE", define, *includes, "-c", test, "-o", "test.o"],
        [
            *("c++", "test.o", *support, mutated),
            *(f"-Wl,-rpath,{folder}", "-lm", "-lpthread", "-ldl", "-o", program),
        ],
    ]
    for step in steps:
        finished = run(step, folder)
        if finished.returncode != 0:
            raise RuntimeError(f"{mutant.name} does not build:\n{finished.stdout}")
    return folder / program


def command_of(
    mutant: Mutant, folder: Path, library: Path, support: list[Path], shapes: int
) -> list[str | Path]:
    if mutant.test == "kernels":
        return [build(mutant, folder, library, support), "--shapes", str(shapes)]
    return [build_host(mutant, folder, library, support)]


def judge(
    mutant: Mutant, library: Path, support: list[Path], shapes: int, seconds_max: float
) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = command_of(mutant, folder, library, support, shapes)
        started = time.monotonic()
        try:
            finished = run(command, folder, seconds_max)
        except subprocess.TimeoutExpired:
            return Outcome(mutant, True, "it never ends", seconds_max)
        seconds = time.monotonic() - started
        lines = [line for line in finished.stdout.splitlines() if not line.startswith("ok ")]
        why = lines[0].strip() if lines else "it crashed"
        return Outcome(mutant, finished.returncode != 0, why, seconds)


def judge_all(
    build_folder: Path, shapes: int, processes: int
) -> tuple[list[Outcome], list[Outcome]]:
    """What becomes of nothing changed, once for each test program, and of every mutant in turn."""
    library = next(build_folder.resolve().rglob("libpagedkv_cuda_emulated.so"))
    support = [
        next(build_folder.resolve().rglob(f"lib{n}.a")) for n in ("pkv_test_support", "pagedkv")
    ]
    with ThreadPoolExecutor(processes) as pool:

        def judge_each(mutants: list[Mutant], seconds_max: float) -> list[Outcome]:
            return list(
                pool.map(lambda m: judge(m, library, support, shapes, seconds_max), mutants)
            )

        unchanged = judge_each(UNCHANGED, SECONDS_MAX)
        slowest = max(outcome.seconds for outcome in unchanged)
        return unchanged, judge_each([*MUTANTS, *HOST_MUTANTS], PATIENCE * slowest)
