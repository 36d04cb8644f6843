"""The compile gate: what ptxas says of every kernel, held against a table that is committed.

No kernel may spill, and none may use other registers or shared memory than the table says, so that
a change of either is seen in review. Registers and static shared memory are ptxas's; the dynamic
part, which a launch asks for, are constants of the sources, printed by a program that is compiled
as C++ and includes them.
"""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from environment import ROOT

ARCHITECTURES = ("sm_80", "sm_90")
PTX = "compute_90"
SOURCE = ROOT / "runtime" / "device" / "cuda" / "kernels.cu"
INCLUDES = tuple(f"-I{ROOT / name}" for name in ("runtime", "include", "tests"))
DTYPES = {"1": "f16", "2": "bf16", "3": "i8", "4": "e4m3"}  # enum pkv_dtype
NOT_HERE = 77

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
_INSTANCE = re.compile(
    r"(decode|prefill)<pkvi::types<(?:\(unsigned int\))?(\d+)u?, (?:\(unsigned int\))?(\d+)u?>, "
    r"(\d+), (\d+)>"
)

SHARED_PROGRAM = """
#include "device/cuda/attend.cuh"
#include <cstdio>
using namespace pkvi;
template <uint32_t K, uint32_t V, int DIM, int PARTS> void print() {
    using decode = decode_shape<types<K, V>, DIM, PARTS>;
    using prefill = prefill_shape<types<K, V>, DIM, PARTS>;
    printf("decode %u/%u %d %d %d\\n", K, V, DIM, PARTS, (int)decode::shared_bytes);
    printf("prefill %u/%u %d %d %d\\n", K, V, DIM, PARTS, (int)prefill::shared_bytes);
}
template <uint32_t K, uint32_t V, int PARTS> void print_dims() {
    print<K, V, 64, PARTS>();
    print<K, V, 96, PARTS>();
    print<K, V, 128, PARTS>();
    print<K, V, 256, PARTS>();
}
int main() {
    print_dims<PKV_F16, PKV_F16, 1>(), print_dims<PKV_F16, PKV_F16, 2>();
    print_dims<PKV_BF16, PKV_BF16, 1>(), print_dims<PKV_BF16, PKV_BF16, 2>();
    print_dims<PKV_I8, PKV_I8, 1>(), print_dims<PKV_E4M3, PKV_E4M3, 1>();
    print_dims<PKV_I8, PKV_F16, 1>(), print_dims<PKV_I8, PKV_BF16, 1>();
}
"""


@dataclass(frozen=True)
class Usage:
    """Of one kernel on one architecture; bytes."""

    registers: int
    static_shared: int
    stack: int
    spilled: int


def parse(output: str) -> dict[tuple[str, str], Usage]:
    """(mangled name, architecture) -> usage, of what ptxas -v prints."""
    found: dict[tuple[str, str], Usage] = {}
    entry: tuple[str, str] | None = None
    stack, spilled = 0, 0
    for line in output.splitlines():
        if match := _ENTRY.search(line):
            entry, stack, spilled = (match[1], match[2]), 0, 0
        elif match := _SPILLS.search(line):
            stack, spilled = int(match[1]), int(match[2]) + int(match[3])
        elif (match := _USED.search(line)) and entry is not None:
            found[entry] = Usage(int(match[1]), int(match[2] or 0), stack, spilled)
            entry = None
    return found


def demangle(names: Sequence[str]) -> list[str]:
    text = "\n".join(names)
    done = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def instance_of(name: str) -> tuple[str, str, str, str]:
    """(kernel, dtype numbers, dim, parts) of a demangled name; where there are none, ""."""
    if match := _INSTANCE.search(name):
        return match[1], f"{match[2]}/{match[3]}", match[4], match[5]
    plain = re.search(r"(\w+)\(", name)
    return (plain[1] if plain else name), "", "", ""


def cache_name(dtypes: str) -> str:
    """f16, or i8/f16 when K and V differ."""
    return "/".join(dict.fromkeys(DTYPES[dtype] for dtype in dtypes.split("/") if dtype))


def table(
    usages: Mapping[tuple[str, str], Usage], shared: Mapping[tuple[str, str, str, str], int]
) -> str:
    """The text of the committed table."""
    mangled = sorted({name for name, _ in usages})
    instances = dict(zip(mangled, map(instance_of, demangle(mangled)), strict=True))
    lines = [
        "# Registers and shared memory of the CUDA kernels",
        "",
        "Written by `tools/gpu --compile --update`; `tools/gpu --compile` compares. As ptxas of",
        f"CUDA {toolkit()} says. Queries in f32 are split into two parts for 16-bit caches.",
        "",
        "| kernel | cache | dim | query parts | "
        + " | ".join(f"{arch} registers" for arch in ARCHITECTURES)
        + " | shared bytes |",
        f"|{'---|' * (5 + len(ARCHITECTURES))}",
    ]

    def key(name: str) -> tuple[str, bool, str, int, int]:
        kernel, dtypes, dim, parts = instances[name]
        return (
            kernel,
            bool(dtypes) and dtypes[0] != dtypes[2],
            dtypes,
            int(dim or 0),
            int(parts or 0),
        )

    for name in sorted(mangled, key=key):
        kernel, dtypes, dim, parts = instances[name]
        used = [usages.get((name, arch)) for arch in ARCHITECTURES]
        static = max((u.static_shared for u in used if u), default=0)
        lines.append(
            f"| {kernel} | {cache_name(dtypes)} | {dim} | {parts} | "
            + " | ".join(str(u.registers) if u else "missing" for u in used)
            + f" | {static + shared.get(instances[name], 0)} |"
        )
    return "\n".join(lines) + "\n"


def faults(usages: Mapping[tuple[str, str], Usage]) -> list[str]:
    """What no table can allow: spills, a stack, and no kernels at all."""
    found = [
        f"{name} for {arch}: {usage.stack} bytes of stack, {usage.spilled} bytes spilled"
        for (name, arch), usage in sorted(usages.items())
        if usage.spilled or usage.stack
    ]
    for arch in ARCHITECTURES:
        if not any(compiled == arch for _, compiled in usages):
            found.append(f"nothing was compiled for {arch}")
    return found


# ---- Compilers -----------------------------------------------------------------------------------


def run(command: Sequence[str | Path]) -> str:
    """Output of both kinds. Raises RuntimeError with the end of it."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def toolkit() -> str:
    match = re.search(r"release ([\d.]+)", run(["nvcc", "--version"]))
    return match[1] if match else "unknown"


def ptxas_flags(folder: Path) -> str:
    """With spills as errors where ptxas knows how; `faults` finds them anyway."""
    empty = folder / "empty.cu"
    empty.write_text("")
    strict = "-Xptxas=-v,-warn-spills,-Werror"
    try:
        run(["nvcc", strict, "-cubin", f"-arch={ARCHITECTURES[0]}", empty, "-o", folder / "empty"])
    except RuntimeError:
        return "-Xptxas=-v"
    return strict


def compile_commands(folder: Path) -> list[list[str | Path]]:
    common: list[str | Path] = ["nvcc", "-std=c++17", "-O3", "-DPKV_STATIC", *INCLUDES]
    ptxas = ptxas_flags(folder)
    machine: list[list[str | Path]] = [
        [*common, ptxas, "-cubin", f"-arch={arch}", SOURCE, "-o", folder / f"{arch}.cubin"]
        for arch in ARCHITECTURES
    ]
    return [*machine, [*common, "-ptx", f"-arch={PTX}", SOURCE, "-o", folder / "kernels.ptx"]]


def shared_bytes(folder: Path) -> dict[tuple[str, str, str, str], int]:
    source = folder / "shared.cpp"
    source.write_text(SHARED_PROGRAM)
    program = folder / "shared"
    flags = ["-std=c++17", "-O0", "-w", "-DPKVI_EMULATED", "-DPKV_STATIC", *INCLUDES]
    run(["c++", *flags, "-c", source, "-o", folder / "shared.o"])
    run(["c++", folder / "shared.o", "-o", program])
    found = {}
    for line in run([program]).splitlines():
        kernel, dtype, dim, parts, count = line.split()
        found[kernel, dtype, dim, parts] = int(count)
    return found


def compile_all(jobs: int, folder: Path) -> str:
    """What ptxas says. Raises RuntimeError when something does not compile."""
    with ThreadPoolExecutor(jobs) as pool:
        return "\n".join(pool.map(run, compile_commands(folder)))


def usages_in(log: Path | None) -> dict[tuple[str, str], Usage]:
    """What the log of a build says, when all architectures were compiled in it; else nothing."""
    if log is None or not log.is_file():
        return {}
    usages = parse(log.read_text(errors="replace"))
    compiled = {arch for _, arch in usages}
    return usages if compiled.issuperset(ARCHITECTURES) else {}


def look(jobs: int, log: Path | None) -> tuple[dict[tuple[str, str], Usage], str]:
    """Usage of every kernel, and the table. Raises RuntimeError when something does not compile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        usages = usages_in(log) or parse(compile_all(jobs, folder))
        return usages, table(usages, shared_bytes(folder))


def difference(committed: str, found: str) -> list[str]:
    return [
        line
        for line in difflib.unified_diff(
            committed.splitlines(), found.splitlines(), "committed", "compiled", n=0, lineterm=""
        )
        if not line.startswith("@@")
    ]


def gate(path: Path, update: bool, jobs: int, log: Path | None = None) -> int:
    """0 when everything is as the table says; 1 when not; NOT_HERE without nvcc.

    log: of a build that has just compiled the kernels, not compiled again then.
    """
    for tool in ("nvcc", "c++", "c++filt"):
        if shutil.which(tool) is None:
            print(f"not run: there is no {tool}")
            return NOT_HERE
    try:
        usages, found = look(jobs, log)
    except RuntimeError as failure:
        print(failure, file=sys.stderr)
        return 1
    problems = faults(usages)
    if not problems and update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found)
    elif not problems:
        problems = difference(path.read_text() if path.exists() else "", found)
    for problem in problems:
        print(problem)
    print(f"{len(usages)} kernels compiled: {'FAILED' if problems else 'as the table says'}")
    return 1 if problems else 0
