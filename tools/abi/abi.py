"""Compare the ABI of the installed library with the golden file beside this script.

    .venv/bin/python tools/abi/abi.py            prints the differences; exits with 1 on any
    .venv/bin/python tools/abi/abi.py --write    accepts the present ABI as the golden one

The description holds every exported symbol, every function with its types, every constant, and size
and offsets of every struct. While the major version is 0 the ABI may change with the minor version;
within one minor version it may not, except that symbols and constants are added and fields appended
to structs that begin with struct_size.
"""

from __future__ import annotations

import difflib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pagedkv
from pagedkv._ffi import ffi, lib

OPAQUE = ("pkv_arena", "pkv_cache")  # structs whose inside is not public
BINDING = ("pkv_python_", "PKV_PYTHON_")  # begins what is of the binding, not of the library
GOLDEN = Path(__file__).parent / "pagedkv.abi"


def exported_symbols(library: str) -> list[str]:
    """Names that a shared library defines for others."""
    command = ["nm", "-D", "--defined-only", library]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sorted(line.split()[2] for line in output.splitlines())


def constants_and_functions() -> Iterator[str]:
    for name in sorted(dir(lib)):
        value = getattr(lib, name)
        if name.startswith(BINDING):
            continue
        if isinstance(value, int):
            yield f"constant {name} = {value}"
        else:
            yield f"function {name}: {ffi.typeof(value).cname}"


def structs() -> Iterator[str]:
    for name in sorted(ffi.list_types()[0]):
        kind = ffi.typeof(name)
        if kind.kind != "struct" or name in OPAQUE:
            continue
        yield f"struct {name}: {ffi.sizeof(kind)} bytes"
        for field_name, field in kind.fields:
            yield f"    {field.offset:4} {field_name}: {field.type.cname}"


def describe() -> list[str]:
    symbols = [f"symbol {name}" for name in exported_symbols(pagedkv.get_library())]
    return [*symbols, *constants_and_functions(), *structs()]


def main(arguments: list[str]) -> int:
    present = describe()
    if arguments == ["--write"]:
        GOLDEN.write_text("\n".join(present) + "\n")
        return 0
    golden = GOLDEN.read_text().splitlines()
    differences = list(difflib.unified_diff(golden, present, "golden", "present", lineterm="", n=0))
    print("\n".join(differences[2:]))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
