"""The project's own virtual environment, .venv: made, filled and kept up to date.

Works with a bare `python3` and its standard library: where the venv module lacks ensurepip (some
distributions split it off), pip comes from the pip beside this Python, and where there is none, as
a wheel from the package index.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOGS = ROOT / "build" / "logs"
PYTHON = VENV / "bin" / "python"
_STAMP = VENV / "pagedkv.json"
_PACKAGE_SOURCES = ("CMakeLists.txt", "pyproject.toml", "README.md", "include", "python", "runtime")


class EnvironmentProblem(Exception):
    """The environment could not be made; the message says why and where the log is."""


def ensure(*extras: str) -> None:
    """Make sure that .venv has the package, built from the present sources, with `extras`."""
    if not PYTHON.exists() or not _works([PYTHON, "-m", "pip", "--version"]):
        _create()
    digest = _digest()
    installed_digest, installed_extras = _read_stamp()
    if installed_digest == digest and installed_extras.issuperset(extras):
        return
    wanted = sorted(installed_extras.union(extras))
    package = f"pagedkv[{','.join(wanted)}]" if wanted else "pagedkv"
    print(f"Building and installing {package}", flush=True)
    _STAMP.unlink(missing_ok=True)
    log_run("install", [PYTHON, "-m", "pip", "install", f"{package} @ {ROOT.as_uri()}"])
    _STAMP.write_text(json.dumps({"digest": digest, "extras": wanted}))


def has(*extras: str) -> bool:
    """Does .venv have the package, of whatever sources, with `extras`?"""
    return PYTHON.exists() and _read_stamp()[1].issuperset(extras)


def variables() -> dict[str, str]:
    """Environment variables in which the programs of .venv are found first."""
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "VIRTUAL_ENV": str(VENV)}


def log_run(name: str, command: list[str | Path]) -> None:
    """Run a command with its output in build/logs; a failure raises with the end of it."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    with log.open("w") as output:
        finished = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=variables(), check=False
        )
    if finished.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise EnvironmentProblem(f"{end}\n{name} failed; the whole output is in {log}")


def _digest() -> str:
    """Hash of everything that the installed package is made from, and of its Python."""
    total = hashlib.sha256(f"{sys.version}\n{PYTHON}\n".encode())
    for path in _source_files():
        total.update(f"{path.relative_to(ROOT)}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _source_files() -> list[Path]:
    files: list[Path] = []
    for name in _PACKAGE_SOURCES:
        path = ROOT / name
        files += path.rglob("*") if path.is_dir() else [path]
    hidden = re.compile(r"/(__pycache__|\.[^/]*)(/|$)")
    return sorted(f for f in files if f.is_file() and not hidden.search(str(f.relative_to(ROOT))))


def _read_stamp() -> tuple[str, set[str]]:
    """Digest and extras of what .venv holds."""
    try:
        stamp = json.loads(_STAMP.read_text())
        return stamp["digest"], set(stamp["extras"])
    except (KeyError, OSError, ValueError):
        return "", set()


def _works(command: list[str | Path]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _create() -> None:
    """Make .venv with a pip in it, by the first of the ways that works."""
    print(f"Creating {VENV.name}", flush=True)
    if _works([sys.executable, "-m", "venv", "--clear", VENV]):
        return
    if not _works([sys.executable, "-m", "venv", "--clear", "--without-pip", VENV]):
        if _works([sys.executable, "-m", "virtualenv", "--clear", VENV]):
            return
        raise EnvironmentProblem(
            f"{sys.executable} has no usable venv module; on Debian: apt install python3-venv"
        )
    if _works([sys.executable, "-m", "pip", "--python", PYTHON, "install", "pip"]):
        return
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download_pip(Path(folder))
        log_run("pip", [PYTHON, wheel / "pip", "install", "--no-index", wheel])


def _download_pip(folder: Path) -> Path:
    """Fetch the newest pip wheel from the package index that pip itself would use."""
    page_url = f"{_index_url().rstrip('/')}/pip/"
    try:
        with urllib.request.urlopen(page_url) as page:
            links = re.findall(r'href="([^"]+)"', page.read().decode())
        wheels: dict[tuple[int, ...], str] = {}
        for link in links:
            match = re.search(r"/?pip-([\d.]+)-py3-none-any\.whl(?:#|$)", link)
            if match:
                wheels[tuple(map(int, match.group(1).split(".")))] = link
        url = urllib.parse.urljoin(page_url, wheels[max(wheels)].partition("#")[0])
        wheel = folder / url.rsplit("/", 1)[1]
        with urllib.request.urlopen(url) as response:
            wheel.write_bytes(response.read())
    except (OSError, ValueError) as reason:
        raise EnvironmentProblem(f"no pip here, and none from {page_url}: {reason}") from reason
    return wheel


def _index_url() -> str:
    """The index of $PIP_INDEX_URL or of pip's configuration files, else the public one."""
    if "PIP_INDEX_URL" in os.environ:
        return os.environ["PIP_INDEX_URL"]
    config = configparser.ConfigParser(interpolation=None)
    home = Path.home()
    config.read(["/etc/pip.conf", home / ".pip/pip.conf", home / ".config/pip/pip.conf"])
    return config.get("global", "index-url", fallback="https://pypi.org/simple")
