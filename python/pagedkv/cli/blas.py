"""How many threads NumPy's matrix products use, which NumPy itself has no call for.

A step of a small model is hundreds of products of some 50 microseconds. OpenBLAS splits each over
all cores and its threads spin while they wait for each other: worth little on an idle machine,
and ruinous on a busy one, where a product waits for a thread that is not running (here: 305 steps
took 3 s with one thread and 34 s with two, on two cores that others used as well). Products of
large models gain.

The library is found among those the process has loaded, and its own setter is called. An
environment variable that says otherwise (OPENBLAS_NUM_THREADS, OMP_NUM_THREADS) is left in
charge, and a BLAS that is not OpenBLAS is left alone.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
# As named in NumPy's own wheels (2.x, 1.26) and in a system's OpenBLAS.
SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)
MAPS = Path("/proc/self/maps")


def limit_threads(count: int) -> bool:
    """Let OpenBLAS use `count` threads from now on; False when nothing was changed."""
    if any(name in os.environ for name in VARIABLES):
        return False
    changed = [_set_threads(path, count) for path in _loaded_libraries()]
    return any(changed)


def _loaded_libraries() -> set[str]:
    """Paths of the OpenBLAS libraries in this process; empty where the system does not tell."""
    try:
        lines = MAPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and "[" not in line}
    return {path for path in paths if "openblas" in Path(path).name}


def _set_threads(path: str, count: int) -> bool:
    ffi: Any = importlib.import_module("cffi").FFI()
    ffi.cdef("".join(f"void {name}(int);" for name in SETTERS))
    try:
        library = ffi.dlopen(path)
    except OSError:
        return False
    for name in SETTERS:
        setter = getattr(library, name, None)
        if setter is not None:
            setter(count)
            return True
    return False
