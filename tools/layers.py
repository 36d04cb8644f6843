"""Check that includes point downwards: base < device < core < api; all else sits on the header.

python3 tools/layers.py        prints each include that breaks a rule; exits with 1 on any
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("base", "device", "core", "api")
PUBLIC_HEADER = "pagedkv.h"
SUFFIXES = (".c", ".h", ".cu", ".cuh")
# A library of its own: libpagedkv knows one header of it, and kernels a machine that tests emulate.
CUDA = "device/cuda/"
CUDA_PUBLIC = "device/cuda/plugin.h"
EMULATED = ("device/cuda/machine.h", "emulator/machine.h")
_INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)
# An installed header may name these and nothing else.
_STANDARD_OF_HEADER = {"stddef.h", "stdint.h"}


def includes(path: Path) -> list[tuple[str, str]]:
    """Pairs (opening quote, name) of the includes of a file."""
    return _INCLUDE.findall(path.read_text())


def runtime_violations(root: Path) -> Iterator[str]:
    """A file may include its own layer and those below, by a path that starts with the layer."""
    for path in sorted(p for p in (root / "runtime").rglob("*") if p.suffix in SUFFIXES):
        within = path.relative_to(root / "runtime").as_posix()
        layer = within.split("/")[0]
        if layer not in LAYERS:
            yield f"{path.relative_to(root)}: lies in none of the layers {', '.join(LAYERS)}"
            continue
        for quote, name in includes(path):
            target = name.split("/")[0]
            if quote == "<" or name == PUBLIC_HEADER or (within, name) == EMULATED:
                continue
            if target not in LAYERS:
                yield f"{path.relative_to(root)}: includes {name}, which names no layer"
            elif LAYERS.index(target) > LAYERS.index(layer):
                yield f"{path.relative_to(root)}: includes {name}, of a layer above {layer}"
            elif name.startswith(CUDA) and not within.startswith(CUDA) and name != CUDA_PUBLIC:
                yield f"{path.relative_to(root)}: includes {name}; only {CUDA_PUBLIC} is for others"


def outside_violations(root: Path) -> Iterator[str]:
    """The header stands alone; examples and the binding know it and what lies beside them."""
    for quote, name in includes(root / "include" / PUBLIC_HEADER):
        if quote != "<" or name not in _STANDARD_OF_HEADER:
            yield f"include/{PUBLIC_HEADER}: includes {name}"
    users = [*(root / "examples").rglob("*.c"), *(root / "python").rglob("*.py")]
    for path in sorted(users):
        for quote, name in includes(path):
            beside = "/" not in name and (path.parent / name).is_file()
            if quote == '"' and name != PUBLIC_HEADER and not beside:
                yield f"{path.relative_to(root)}: includes {name}; only {PUBLIC_HEADER} is public"


def main() -> int:
    violations = [*runtime_violations(ROOT), *outside_violations(ROOT)]
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
