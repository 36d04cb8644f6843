"""The steps of tools/gpu: build, tests, sanitizers, figures."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environment import ROOT

from ongpu.budget import Failed, Job, NotRun, Step, tail

SKIPPED = 77  # exit status of a program that had nothing to run on
SANITIZER_ERROR = 99
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZED_SHAPES = 6  # a sanitizer makes kernels ten to fifty times as slow
TOOLKITS = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
TEST_PROGRAMS = ("gpu_test_kernels", "gpu_test_device", "gpu_test_graphs")
TARGETS = ("pagedkv", "pagedkv_cuda", *TEST_PROGRAMS, "pkv_bench_gpu")
EMULATED_TESTS = ("cuda_test_kernels", "cuda_test_device", "cuda_test_graphs")
EMULATED_TARGETS = (*EMULATED_TESTS, "pkv_bench_gpu_emulated")
EMULATED_SHAPES = 40


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    build: Path
    wheels: Path
    arch: str
    shapes: int
    jobs: int
    is_built: bool = False  # the folder was carried in with everything in it
    emulate: bool = False

    def test(self, name: str) -> Path:
        return self.build / "tests" / "gpu" / name

    def bench(self, name: str = "pkv_bench_gpu") -> Path:
        return self.build / "tools" / "benchmarks" / "native" / name

    @property
    def python_build(self) -> Path:
        return self.build / "python-build"

    @property
    def site(self) -> Path:
        return self.build / "site"


def find_tool(name: str) -> str:
    """Raises NotRun."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *TOOLKITS))
    found = shutil.which(name, path=path)
    if found is None:
        raise NotRun(f"there is no {name}")
    return found


def must(job: Job, command: Sequence[str | Path], **variables: str) -> str:
    """The output of a command that has to succeed; on a GPU, SKIPPED is a failure too."""
    status, output = job.run(command, variables)
    if status:
        raise Failed(f"{Path(command[0]).name} ended with {status}:\n{tail(output)}")
    return output


# ---- Build ---------------------------------------------------------------------------------------


def _configure(build: Path, *definitions: str) -> list[str | Path]:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    return [find_tool("cmake"), "-S", ROOT, "-B", build, *generator, *definitions]


def build(options: Options) -> Step:
    """nvcc compiles the kernels with all processors: it is what takes longest."""

    def run(job: Job) -> None:
        targets = [*TARGETS, *(EMULATED_TARGETS if options.emulate else ())]
        if options.is_built:
            programs = [options.test("gpu_test_kernels"), options.bench()]
            missing = [str(p) for p in programs if not p.is_file()]
            if missing:
                raise Failed(f"--built, but there is no {missing[0]}")
            job.detail = "carried in"
            return
        nvcc = find_tool("nvcc")
        definitions = [
            *("-DPKV_TESTS=ON", "-DPKV_BENCH=ON", "-DPKV_CUDA=ON"),
            f"-DCMAKE_CUDA_COMPILER={nvcc}",
            f"-DCMAKE_CUDA_ARCHITECTURES={options.arch}-real",
            f"-DCMAKE_CUDA_FLAGS=--split-compile={options.jobs}",
        ]
        must(job, _configure(options.build, *definitions))
        jobs = str(options.jobs)
        must(job, ["cmake", "--build", options.build, "-j", jobs, "--target", *targets])

    return Step("build", 300, run)


def unpack_wheels(options: Options) -> None:
    """Whatever wheels were carried in can be imported from `site`."""
    for wheel in sorted(options.wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(options.site)


def python_path(options: Options) -> dict[str, str]:
    library = options.build / "runtime" / "libpagedkv_cuda.so"
    return {"PYTHONPATH": str(options.site), "PKV_CUDA_LIBRARY": str(library)}


def python_build(options: Options) -> Step:
    """The package as pip would install it, without pip and a package index."""

    def run(job: Job) -> None:
        unpack_wheels(options)
        if importlib.util.find_spec("cffi") is None and not (options.site / "cffi").is_dir():
            raise NotRun(f"there is no cffi, and no wheel of it in {options.wheels}")
        definitions = [
            *("-DPKV_PYTHON=ON", "-DPKV_CUDA=OFF"),
            f"-DPython_EXECUTABLE={sys.executable}",
        ]
        variables = python_path(options)
        folder = options.python_build
        must(job, _configure(folder, *definitions), **variables)
        jobs = ["-j", str(options.jobs), "--target", "pkv_python"]
        must(job, ["cmake", "--build", folder, *jobs], **variables)
        package = options.site / "pagedkv"
        shutil.copytree(ROOT / "python" / "pagedkv", package, dirs_exist_ok=True)
        must(job, ["cmake", "--install", folder, "--component", "python", "--prefix", package])

    return Step("python build", 200, run)


# ---- Tests ---------------------------------------------------------------------------------------


def kernel_tests(options: Options) -> Step:
    """Few thread blocks, as in the emulator, then as many as a GPU holds at once."""

    def run(job: Job) -> None:
        program = options.test("gpu_test_kernels")
        shapes = 0
        for blocks, seed in ((7, 1000), (264, 1_000_000)):
            arguments = ["--shapes", options.shapes, "--blocks", blocks, "--seed", seed]
            output = must(job, [program, *map(str, arguments)])
            shapes += sum(json_line.get("shapes", 0) for json_line in json_lines(output))
        if shapes < 2 * options.shapes:
            raise Failed(f"only {shapes} of {2 * options.shapes} shapes were tested")
        job.detail = f"{shapes} shapes"

    return Step("kernel tests", 120, run)


def unit_tests(name: str, program: Path, seconds: float) -> Step:
    """A program made with unit.h."""

    def run(job: Job) -> None:
        output = must(job, [program])
        found = re.findall(r"^\d+ passed, \d+ failed$|^\d+ skipped$", output, re.MULTILINE)
        if not found:
            raise Failed("no tests were run")
        job.detail = ", ".join(found)

    return Step(name, seconds, run)


def sanitizer(tool: str, options: Options) -> Step:
    def run(job: Job) -> None:
        program: list[str | Path] = [
            options.test("gpu_test_kernels"),
            "--shapes",
            str(SANITIZED_SHAPES),
        ]
        flags = ["--tool", tool, "--error-exitcode", str(SANITIZER_ERROR)]
        output = must(job, [find_tool("compute-sanitizer"), *flags, *program])
        summary = re.findall(r"^=+ (.*SUMMARY.*)$", output, re.MULTILINE)
        if not summary:
            raise Failed(f"{tool} said nothing:\n{tail(output)}")
        job.detail = f"{SANITIZED_SHAPES} shapes; {summary[-1]}"

    return Step(tool, 90, run)


def python_tests(options: Options) -> Step:
    def run(job: Job) -> None:
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-o",
            "filterwarnings=default",
        ]
        if not (options.site / "pagedkv").is_dir():
            raise NotRun("the package is not built")
        folder = ROOT / "tests" / "python"
        tests = [folder / "test_gpu.py", folder / "test_engine_cuda.py"]
        status, output = job.run([*command, "-k", "gpu", *tests], python_path(options))
        counts = tail(output, 1)
        if status == 5 or (status == 0 and " passed" not in counts):
            raise NotRun(counts)
        if status:
            raise Failed(tail(output))
        job.detail = counts

    return Step("python tests", 90, run)


def collect(options: Options) -> Step:
    """What can be said of the tests without a GPU: they are there, and say "not run"."""

    def run(job: Job) -> None:
        programs = [*map(options.test, TEST_PROGRAMS), options.bench()]
        for program in programs:
            status, output = job.run([program])
            if status != SKIPPED or "not run: " not in output:
                raise Failed(f"{program.name} ended with {status} where there is no GPU")
        job.detail = f"{len(programs)} programs, which say that there is no GPU"

    return Step("collect", 30, run)


def emulated(options: Options) -> list[Step]:
    """The same tests and the same benchmark in the emulator. Its times mean nothing."""
    tests = options.build / "tests"

    def kernels(job: Job) -> None:
        output = must(job, [tests / "cuda_test_kernels", "--shapes", str(EMULATED_SHAPES)])
        job.detail = f"{sum(line.get('shapes', 0) for line in json_lines(output))} shapes"

    def figures(job: Job) -> None:
        sections = [section for part in FIGURES for section in part.sections]
        program = options.bench("pkv_bench_gpu_emulated")
        rows = json_lines(must(job, [program, *sections, "--tiny"]))
        wrong = [row["row"] for row in rows if row.get("nmse", 0.0) > 1e-3]
        if wrong:
            raise Failed(f"wrong: {', '.join(wrong)}")
        job.detail = f"{len(rows)} rows; times in the emulator mean nothing"

    return [
        Step("emulated kernel tests", 120, kernels),
        unit_tests("emulated device tests", tests / "cuda_test_device", 60),
        unit_tests("emulated graph tests", tests / "cuda_test_graphs", 120),
        Step("emulated benchmark", 120, figures),
    ]


# ---- Figures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Sections of pkv_bench_gpu that run together, and their limit in seconds."""

    name: str
    sections: tuple[str, ...]
    seconds: float


FIGURES = (
    Part("decode figures", ("decode",), 90),
    Part("prefill figures", ("prefill",), 60),
    Part("swap figures", ("swap", "overlap"), 60),
    Part("more figures", ("layout", "mixed", "small", "store"), 90),
)


def json_lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def read_rows(job: Job) -> None:
    """Rows printed so far, those of a program that then failed included."""
    job.rows = json_lines(job.log.read_text(errors="replace"))


def keeping_rows(run: Callable[[Job], object]) -> Callable[[Job], None]:
    def kept(job: Job) -> None:
        try:
            run(job)
        finally:
            read_rows(job)
        job.detail = job.detail or f"{len(job.rows)} rows"

    return kept


def figures(part: Part, options: Options) -> Step:
    command: list[str | Path] = [options.bench(), *part.sections]
    return Step(part.name, part.seconds, keeping_rows(lambda job: must(job, command)))


def peers(options: Options) -> Step:
    command: list[str | Path] = [sys.executable, Path(__file__).parent / "peers.py"]

    def run(job: Job) -> None:
        unpack_wheels(options)
        status, output = job.run(command, python_path(options))
        if status == SKIPPED:
            raise NotRun(tail(output, 1).removeprefix("not run: "))
        if status:
            raise Failed(tail(output))

    return Step("peers", 150, keeping_rows(run))


# ---- In order of worth ---------------------------------------------------------------------------


def all_steps(options: Options) -> list[Step]:
    decode, prefill, swap, more = (figures(part, options) for part in FIGURES)
    memcheck, *others = (sanitizer(tool, options) for tool in SANITIZERS)
    device_tests = unit_tests("device tests", options.test("gpu_test_device"), 60)
    graph_tests = unit_tests("graph tests", options.test("gpu_test_graphs"), 60)
    return [
        build(options),
        kernel_tests(options),
        decode,
        device_tests,
        graph_tests,
        prefill,
        swap,
        memcheck,
        python_build(options),
        python_tests(options),
        more,
        peers(options),
        *others,
        *(emulated(options) if options.emulate else []),
    ]


def steps_without_device(options: Options) -> list[Step]:
    return [build(options), collect(options), *(emulated(options) if options.emulate else [])]
