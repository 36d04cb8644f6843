"""An installation of the library in a folder of its own, which the tests here build against."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., str]
Need = Callable[[str], None]


@pytest.fixture(scope="session")
def need() -> Need:
    """Skip, saying what is missing, unless there is such a program."""

    def need(tool: str) -> None:
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")

    return need


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a command and return its output; the output of a failing one becomes the test's."""

    def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
        finished = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if finished.returncode:
            pytest.fail(f"{' '.join(map(str, command))}\n{finished.stdout}", pytrace=False)
        return finished.stdout

    return run


@pytest.fixture(scope="session")
def prefix(run: Run, need: Need, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix into which `cmake --install` has put the library."""
    need("cmake")
    need("ninja")
    build = tmp_path_factory.mktemp("build")
    prefix = tmp_path_factory.mktemp("prefix")
    options = ("-G", "Ninja", "-DCMAKE_INSTALL_LIBDIR=lib", "-DPKV_CUDA=OFF")
    run("cmake", "-S", ROOT, "-B", build, *options)
    run("cmake", "--build", build)
    run("cmake", "--install", build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="session")
def pkg_config(run: Run, need: Need, prefix: Path) -> Callable[..., list[str]]:
    """Flags from the installed pkg-config file."""
    need("pkg-config")

    def flags(*options: str) -> list[str]:
        folder = prefix / "lib" / "pkgconfig"
        return run("pkg-config", *options, "pagedkv", PKG_CONFIG_PATH=str(folder)).split()

    return flags
