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
# How functions of OpenBLAS are named in NumPy's own wheels (2.x, 1.26) and in a system's.
SPELLINGS = ("scipy_openblas_{}64_", "openblas_{}64_", "openblas_{}")
MAPS = Path("/proc/self/maps")


def limit_threads(count: int) -> bool:
    """Let OpenBLAS use `count` threads from now on; False when nothing was changed."""
    if any(name in os.environ for name in VARIABLES):
        return False
    setters = _functions("set_num_threads", "void {}(int);")
    for setter in setters:
        setter(count)
    return bool(setters)


def kernels() -> set[str]:
    """The kernel sets that OpenBLAS has chosen for this processor, such as SkylakeX."""
    ffi: Any = importlib.import_module("cffi").FFI()
    return {ffi.string(name()).decode() for name in _functions("get_corename", "char* {}(void);")}


def _functions(name: str, signature: str) -> list[Any]:
    """The function of OpenBLAS called `name` in each library of this process that has it."""
    ffi: Any = importlib.import_module("cffi").FFI()
    spellings = [spelling.format(name) for spelling in SPELLINGS]
    ffi.cdef("".join(signature.format(spelling) for spelling in spellings))
    found = []
    for path in _loaded_libraries():
        try:
            library = ffi.dlopen(path)
        except OSError:
            continue
        # A symbol that a library lacks is an AttributeError.
        functions = (getattr(library, spelling, None) for spelling in spellings)
        found += [function for function in functions if function is not None][:1]
    return found


def _loaded_libraries() -> set[str]:
    """Paths of the OpenBLAS libraries in this process; empty where the system does not tell."""
    try:
        lines = MAPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and "[" not in line}
    return {path for path in paths if "openblas" in Path(path).name}
