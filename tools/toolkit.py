"""nvcc for machines that have none: from wheels of the package index, under build/nvcc.

The kernels are compiled there for what ptxas says of them, which needs no GPU. Wheels of CUDA 13
hold the whole compiler; those of CUDA 12 lack nvcc, cicc and cudafe++.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from environment import PYTHON, ROOT

_FOLDER = ROOT / "build" / "nvcc"
# As of the table of registers: another ptxas gives other numbers.
_WHEELS = (
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
)
_SECONDS = 300  # for a download of 100 MB


class NoToolkit(Exception):
    """There is no nvcc here; the message says why."""


def nvcc_folder() -> Path:
    """The folder of a nvcc that works; installs one when there is none. Raises NoToolkit."""
    found = shutil.which("nvcc")
    if found:
        return Path(found).parent
    folder = _FOLDER / "nvidia" / "cu13" / "bin"
    if not _works(folder / "nvcc"):
        _install()
    if not _works(folder / "nvcc"):
        raise NoToolkit("the nvcc of the package index does not run here")
    return folder


def _works(nvcc: Path) -> bool:
    return (
        nvcc.exists()
        and subprocess.run([nvcc, "--version"], capture_output=True, check=False).returncode == 0
    )


def _install() -> None:
    shutil.rmtree(_FOLDER, ignore_errors=True)
    options = ("--no-deps", "--retries", "1", "--target", _FOLDER)
    try:
        done = subprocess.run(
            [PYTHON, "-m", "pip", "install", *options, *_WHEELS],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        shutil.rmtree(_FOLDER, ignore_errors=True)
        raise NoToolkit(f"no nvcc, and none from the package index in {_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NoToolkit(f"no nvcc, and none from the package index ({(lines or ['?'])[-1]})")
