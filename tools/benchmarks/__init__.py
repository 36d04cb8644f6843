"""The benchmarks behind tools/bench: one module for each command, and what they share.

Why medians of ratios: the memory bus of a virtual machine changes speed from one second to the
next. A figure is therefore compared with a limit, or with a peer, that was measured right before
and right after it, and the median is taken over those ratios and not over the seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys

import environment
from environment import PYTHON, ROOT, VENV


def enter(*extras: str, fresh: bool = True) -> None:
    """Go on in .venv, with the package and `extras` installed; the program starts again there.

    fresh: the figures come from the installed package, so that it must be built from the present
    sources. Otherwise any build of it will do.
    """
    if fresh or not environment.has(*extras):
        environment.ensure(*extras)
    if os.path.realpath(sys.prefix) != os.path.realpath(VENV):
        sys.stdout.flush()
        os.execve(PYTHON, [str(PYTHON), *sys.argv], environment.variables())


def commit() -> str:
    """The commit that is measured, with -dirty when tracked files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def processor() -> str:
    """What the system calls this processor, and how many of its threads we may use."""
    name = "unknown processor"
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "CPU implementer"):
                name = value.strip()
                break
    return f"{name}, {len(os.sched_getaffinity(0))} threads"
