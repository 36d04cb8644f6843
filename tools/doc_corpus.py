"""The documentation text of the Python standard library, as plain documents.

The shipped model and the default prompts are both made from this text, so it is collected in
one place.  Every Python installation has it, under the PSF licence.  Files are parsed with
`ast` and never imported: the text depends on the installed sources alone, not on the machine.

A document is one module, written like a stub file that keeps its documentation:

    # module heapq

    \"\"\"Heap queue algorithm (a.k.a. priority queue). ...\"\"\"

    def heappush(heap, item):
        \"\"\"Push item onto heap, maintaining the heap invariant.\"\"\"

or one language topic of `pydoc_data.topics`, headed `# topic NAME`.

What must hold: the same standard library gives the same documents in the same order, and a
document is held out of training as a whole or not at all.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Folders that installations leave out or fill with something else than the library itself.
SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "__pycache__"}
)

# One document in this many is held out.
HELD_OUT_ONE_IN = 25

# A docstring of at least this many characters is kept only where it first appears: the library
# has pure-Python twins (io and _pyio) whose text would otherwise count twice.
UNIQUE_CHARACTERS = 60

# Lines that name authors or owners say nothing about the code, and a model would learn the names.
CREDIT = re.compile(
    r"[\w.+-]+(@| at )[\w-]+\.\w+|\b(copyright|authors?|written by|contributed by)\b", re.IGNORECASE
)

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Document:
    """One text and where it is from, e.g. `heapq.py` or `topics/assert`."""

    name: str
    entries: tuple[str, ...]  # header and module docstring first, then one entry per definition

    @property
    def text(self) -> str:
        """The whole document: its entries with an empty line between them."""
        return "\n\n".join(self.entries) + "\n"

    @property
    def held_out(self) -> bool:
        """True if training must not see this document; depends on the name alone."""
        digest = hashlib.sha256(self.name.encode()).digest()
        return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def documents() -> list[Document]:
    """Every module with documentation, sorted by path, then every language topic."""
    root = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    found = [_module_document(path, root, seen) for path in _sources(root)]
    return [d for d in found if d is not None] + list(_topics(root))


def corpus_digest(docs: list[Document]) -> str:
    """A short fingerprint of all texts, to tell whether two machines have the same corpus."""
    return hashlib.sha256("\0".join(d.text for d in docs).encode()).hexdigest()[:16]


def _sources(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        folders = path.relative_to(root).parts[:-1]
        generated = path.name.startswith("_sysconfigdata") or path.name == "topics.py"
        if not generated and SKIPPED_FOLDERS.isdisjoint(folders):
            yield path


def _module_document(path: Path, root: Path, seen: set[str]) -> Document | None:
    """The document of one source file, or None if it documents nothing."""
    relative = path.relative_to(root)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [p for p in relative.with_suffix("").parts if p != "__init__"]
    head = "# module " + ".".join(parts)
    doc = _docstring(tree, seen)
    if doc:
        head += "\n\n" + _quoted(doc)
    entries = list(_entries(tree.body, 0, seen))
    if not entries and not doc:
        return None
    return Document(relative.as_posix(), (head, *entries))


def _entries(body: list[ast.stmt], depth: int, seen: set[str]) -> Iterator[str]:
    """One entry per documented definition, in source order, methods after their class."""
    for node in body:
        if not isinstance(node, Definition):
            continue
        doc = _docstring(node, seen)
        members: list[str] = []
        if isinstance(node, ast.ClassDef):
            members = list(_entries(node.body, depth + 1, seen))
        if doc or members:
            text = _signature(node)
            if doc:
                text += "\n" + textwrap.indent(_quoted(doc), "    ")
            yield textwrap.indent(text, "    " * depth)
        yield from members


def _signature(node: Definition) -> str:
    """The `def` or `class` line without the body, whatever lines the source spread it over."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(b) for b in node.bases)
        return f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    prefix = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{prefix} {node.name}({ast.unparse(node.args)}){result}:"


def _docstring(node: Definition | ast.Module, seen: set[str]) -> str:
    """The cleaned docstring without credits; empty if there is none or it was seen before."""
    doc = ast.get_docstring(node) or ""
    doc = "\n".join(line.rstrip() for line in doc.splitlines() if not CREDIT.search(line))
    doc = re.sub(r"\n{3,}", "\n\n", doc).strip()
    if doc in seen:
        return ""
    if len(doc) >= UNIQUE_CHARACTERS:
        seen.add(doc)
    return doc


def _quoted(doc: str) -> str:
    """A docstring in its quotes; the closing quotes of a long one stand on their own line."""
    return f'"""{doc}\n"""' if "\n" in doc else f'"""{doc}"""'


def _topics(root: Path) -> Iterator[Document]:
    """The language reference that `help()` shows: one document per topic."""
    tree = ast.parse((root / "pydoc_data" / "topics.py").read_text(encoding="utf-8"))
    table = next(n.value for n in tree.body if isinstance(n, ast.Assign))
    topics: dict[str, str] = ast.literal_eval(table)
    for name, text in sorted(topics.items()):
        yield Document(f"topics/{name}", (f"# topic {name}", text.strip()))
