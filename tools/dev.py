"""The two commands of a developer and of CI. Needs python3, a C compiler and a package index.

    python3 tools/dev.py run [args]      build, install, and run `pagedkv run` with `args`
    python3 tools/dev.py test            build, install, and run every test
    python3 tools/dev.py test --fast     without sanitizers, long simulations and large models
    python3 tools/dev.py test STAGE...   only these stages

Everything is made under .venv and build/. Each stage prints one line and leaves its whole output in
build/logs. What cannot be run here, because a tool is missing, is counted as skipped and says why.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import environment
import toolkit
from environment import LOGS, PYTHON, ROOT, EnvironmentProblem

JOBS = str(os.cpu_count() or 1)


@dataclass
class Result:
    """What a stage found."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped


class Job:
    """One stage being run: its log, and whether it was asked to be short."""

    def __init__(self, stage: str, fast: bool) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        self.path = LOGS / f"{stage}.log"
        self.path.write_text("")
        self.fast = fast

    def run(self, *command: str | Path, **variables: str) -> bool:
        """Append the output of a command; did it succeed?"""
        with self.path.open("a") as output:
            output.write(f"$ {' '.join(map(str, command))}\n")
            output.flush()
            finished = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**environment.variables(), **variables},
                check=False,
            )
        return finished.returncode == 0

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.path.read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True)
class Stage:
    """A named part of the test run."""

    name: str
    meaning: str
    run: Callable[[Job], Result]
    is_fast: bool


# The last line of a C test program, which holds many tests.
_C_COUNTS = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", re.MULTILINE)


def junit(path: Path) -> Result:
    """Counts of a JUnit report, and the distinct reasons of what was skipped."""
    result = Result()
    for case in ElementTree.parse(path).iter("testcase"):
        counts = _C_COUNTS.findall(case.findtext("system-out") or "")
        passed, failed, skipped = (int(count or 0) for count in (counts or [(0, 0, 0)])[-1])
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed = max(failed, 1)
        elif skip is not None:
            skipped = max(skipped, 1)
            reason = f"not run: {skip.get('message') or 'no reason given'}"
            if reason not in result.notes:
                result.notes.append(reason)
        else:
            passed = max(passed, 1)
        result.add(Result(passed, failed, skipped))
    return result


def c_tests(
    job: Job, folder: str, *options: str, prefix: tuple[str, ...] = (), **variables: str
) -> Result:
    """Build one variant of the library with its C tests, and run them."""
    build = ROOT / "build" / folder
    report = LOGS / f"ctest-{folder}.xml"
    report.unlink(missing_ok=True)
    options = ("-DPKV_TESTS=ON", "-DPKV_WERROR=ON", *options)
    configured = job.run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *options)
    if not (configured and job.run("cmake", "--build", build, "-j", JOBS)):
        return Result(failed=1, notes=["does not build"])
    job.run(
        *prefix,
        *("ctest", "--test-dir", str(build), "-j", JOBS, "--output-on-failure"),
        *("--no-tests=error", "--output-junit", str(report), "--test-output-size-passed", "100000"),
        **variables,
    )
    return junit(report) if report.exists() else Result(failed=1, notes=["ctest did not run"])


def sanitized(
    job: Job, folder: str, sanitizers: str, prefix: tuple[str, ...], **variables: str
) -> Result:
    options = (f"-DPKV_SANITIZE={sanitizers}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo")
    return c_tests(job, folder, *options, prefix=prefix, **variables)


def unit(job: Job) -> Result:
    return c_tests(job, "release", "-DPKV_EXAMPLES=ON")


def asan(job: Job) -> Result:
    options = "detect_leaks=1:detect_stack_use_after_return=1"
    return sanitized(job, "asan", "address,undefined", (), ASAN_OPTIONS=options)


def tsan(job: Job) -> Result:
    """Thread sanitizer; its shadow memory needs an address space that is not too random."""
    fixed = ("setarch", "-R")
    prefix = fixed if shutil.which("setarch") and job.run(*fixed, "true") else ()
    return sanitized(job, "tsan", "thread", prefix, TSAN_OPTIONS="halt_on_error=1")


def tiny(job: Job) -> Result:
    return c_tests(job, "tiny", "-DPKV_TINY=ON", "-DPKV_CUDA=OFF")


def verify(*arguments: str) -> Callable[[Job], Result]:
    """A goal of tools/verify: one test."""

    def run(job: Job) -> Result:
        build = ROOT / "build" / "release"  # that of `unit`
        succeeded = job.run(PYTHON, ROOT / "tools" / "verify", *arguments, "--build", build)
        return Result(passed=int(succeeded), failed=int(not succeeded))

    return run


def registers(job: Job) -> Result:
    """What `unit` compiled, or the kernels compiled anew. Without any nvcc: skipped."""
    try:
        nvcc = toolkit.nvcc_folder()
    except toolkit.NoToolkit as problem:
        return Result(skipped=1, notes=[f"not run: {problem}"])
    log = LOGS / "unit.log"
    path = f"{nvcc}{os.pathsep}{environment.variables()['PATH']}"
    succeeded = job.run(PYTHON, ROOT / "tools" / "gpu", "--compile", "--log", log, PATH=path)
    if not succeeded and "\nnot run: " in job.tail():
        return Result(skipped=1, notes=["not run: there is no c++ or c++filt"])
    return Result(passed=int(succeeded), failed=int(not succeeded))


def static_checks(job: Job) -> Result:
    succeeded = job.run(PYTHON, ROOT / "tools" / "check", "--static")
    return Result(passed=int(succeeded), failed=int(not succeeded))


def python_tests(job: Job) -> Result:
    report = LOGS / "pytest.xml"
    report.unlink(missing_ok=True)
    subset = ["-m", "not slow"] if job.fast else []
    job.run(PYTHON, "-m", "pytest", "-q", f"--junitxml={report}", *subset, "tests")
    return junit(report) if report.exists() else Result(failed=1, notes=["pytest did not run"])


STAGES = [
    Stage("check", "format, layers, ABI, header, types", static_checks, True),
    Stage("unit", "C tests, release build", unit, True),
    Stage("nvcc", "registers and shared memory of the CUDA kernels", registers, True),
    Stage("tiny", "C tests, tiny limits", tiny, True),
    Stage("asan", "C tests, address and undefined sanitizers", asan, False),
    Stage("tsan", "C tests, thread sanitizer", tsan, False),
    Stage("sim", "10^7 random operations against the model", verify("sim"), False),
    Stage(
        "emulate",
        "CUDA kernels under the emulator, with mistakes planted",
        verify("emulate"),
        False,
    ),
    Stage("python", "Python, linking and engine tests", python_tests, True),
]


def run_stages(stages: list[Stage], fast: bool) -> Result:
    total = Result()
    for stage in stages:
        started = time.monotonic()
        job = Job(stage.name, fast)
        print(f"{stage.name:<9}{stage.meaning} ... ", end="", flush=True)
        result = stage.run(job)
        seconds = time.monotonic() - started
        counts = f"{result.passed} passed, {result.failed} failed, {result.skipped} skipped"
        print(f"{counts}, {seconds:.0f} s", flush=True)
        for note in result.notes:
            print(f"{'':9}{note}")
        if result.failed:
            print(f"{job.tail()}\n{'':9}the whole output is in {job.path}", flush=True)
        total.add(result)
    return total


def test(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/dev.py test")
    parser.add_argument("--fast", action="store_true", help="only what takes seconds")
    names = [stage.name for stage in STAGES]
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(names)}")
    options = parser.parse_args(arguments)
    unknown = set(options.stages) - set(names)
    if unknown:
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    started = time.monotonic()
    try:
        environment.ensure("engine", "test")
    except EnvironmentProblem as problem:
        print(f"{problem}\nTrying again without torch and transformers", flush=True)
        environment.ensure("engine", "check")
    chosen = [
        stage
        for stage in STAGES
        if (stage.name in options.stages if options.stages else stage.is_fast or not options.fast)
    ]
    total = run_stages(chosen, options.fast)
    seconds = time.monotonic() - started
    print(f"all stages took {seconds:.0f} s")
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    return 1 if total.failed or not total.passed else 0


def run(arguments: list[str]) -> int:
    environment.ensure("engine")
    return subprocess.run([PYTHON, "-m", "pagedkv", "run", *arguments], check=False).returncode


def main(arguments: list[str]) -> int:
    commands = {"run": run, "test": test}
    if not arguments or arguments[0] not in commands:
        print(__doc__)
        return 2
    if shutil.which(os.environ.get("CC", "cc")) is None:
        print("A C compiler is needed: no cc on the path. On Debian: apt install gcc libc6-dev")
        return 1
    try:
        return commands[arguments[0]](arguments[1:])
    except EnvironmentProblem as problem:
        print(problem)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
