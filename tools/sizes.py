"""Report sizes of files and functions, to be looked at and not enforced.

python3 tools/sizes.py         one line for each folder, then what is longer than we aim for
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = (".c", ".h", ".cpp", ".cu", ".cuh", ".py")
FOLDERS = ("include", "runtime", "python", "tests", "tools", "examples")
FILE_LINES = 400
FUNCTION_LINES = 70
# A C function starts at the left margin and ends with a brace there; its body is what counts.
_C_FUNCTION = re.compile(
    r"^[A-Za-z_][^;={}]*?(\w+)\([^;{}]*\)\s*\{$(.*?)^\}", re.MULTILINE | re.DOTALL
)


class Function(NamedTuple):
    where: str
    lines: int


def c_functions(path: Path) -> Iterator[Function]:
    text = path.read_text()
    for match in _C_FUNCTION.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Function(f"{path.relative_to(ROOT)}:{line} {match[1]}", match[2].count("\n"))


def python_functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines)


def report(folder: str) -> list[str]:
    """Print the line of a folder; return what is longer than we aim for."""
    paths = [p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in SUFFIXES]
    if not paths:
        return []
    lines = {path: len(path.read_text().splitlines()) for path in paths}
    functions = [
        function
        for path in paths
        for function in (python_functions if path.suffix == ".py" else c_functions)(path)
    ]
    sizes = sorted(function.lines for function in functions) or [0]
    print(
        f"{folder:<9}{len(paths):4} files {sum(lines.values()):6} lines, "
        f"longest {max(lines.values()):4}; {len(functions):4} functions, "
        f"median {statistics.median(sizes):3.0f}, "
        f"p90 {sizes[int(0.9 * (len(sizes) - 1))]:3}, longest {sizes[-1]:3}"
    )
    long_files = [f"{p.relative_to(ROOT)}: {n} lines" for p, n in lines.items() if n > FILE_LINES]
    long = [f"{f.where}: {f.lines} lines" for f in functions if f.lines > FUNCTION_LINES]
    return long_files + long


def main() -> None:
    long = [line for folder in FOLDERS for line in report(folder)]
    print(f"longer than {FILE_LINES} lines a file or {FUNCTION_LINES} a function: {len(long)}")
    for line in long:
        print(f"  {line}")


if __name__ == "__main__":
    main()
