"""The kernels for 64-bit Arm, compiled with a cross compiler and run by an emulator."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
INCLUDES = (f"-I{ROOT / 'include'}", f"-I{ROOT / 'runtime'}", f"-I{ROOT / 'tests'}")


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"not run: there is no {tool}")


def call(*command: str | Path) -> str:
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert finished.returncode == 0, f"{command[0]}:\n{finished.stdout}"
    return finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "shapes"), [("test_kernels.c", 100), ("test_invariance.c", 20)], ids=str
)
def test_kernels_run_on_arm(test: str, shapes: int, tmp_path: Path) -> None:
    need(COMPILER)
    need(EMULATOR)
    runtime = [
        path
        for part in ("base", "device", "device/cpu")  # and not the CUDA device
        for path in (ROOT / "runtime" / part).glob("*.c")
    ]
    support = [path for path in HERE.glob("*.c") if not path.name.startswith("test_")]
    program = tmp_path / "program"
    sources = [HERE / test, *support, *runtime]
    call(COMPILER, *FLAGS, *INCLUDES, *sources, "-static", "-lm", "-lpthread", "-o", program)
    output = call(EMULATOR, program, "--shapes", str(shapes))
    assert '"isa": "neon"' in output
