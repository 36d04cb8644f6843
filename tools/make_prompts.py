"""Makes the default prompts of `pagedkv run` from the documentation of the standard library.

    python tools/make_prompts.py --model python/pagedkv/data/docstrings-3m \\
        --out python/pagedkv/data/prompts.jsonl

Each prompt asks the shipped model to finish a docstring.  Those of one group open with the same
words, as the requests of one application do, so a cache that shares prefixes has something to
share:

    | beginning of a module: its docstring, its first definitions | signature | first words |
    |<------------------ the same for the whole group ----------->|<----- of one prompt ---->|

`short` has no common beginning; `long` fills most of the model's context.  Half of the modules
were held out of training (`Document.held_out`).

What must hold: the text is the library's own, cut but never edited; a prompt and its output fit
the model's context; the same standard library and tokenizer give the same file.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from doc_corpus import Document, documents
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Group:
    """Prompts that share the first entries of one module, at least `shared_tokens` of them."""

    name: str
    module: str
    prompts: int
    shared_tokens: int = 160


GROUPS = (
    Group("ipaddress", "ipaddress.py", 8),
    Group("functools", "functools.py", 8),
    Group("inspect", "inspect.py", 8),
    Group("elementtree", "xml/etree/ElementTree.py", 8),
    Group("random", "random.py", 8),
    Group("tempfile", "tempfile.py", 8),
    Group("collections", "collections/__init__.py", 8),
    Group("long", "argparse.py", 6, shared_tokens=600),
)

SHORT_MODULES = (
    "heapq.py", "json/__init__.py", "copy.py", "fnmatch.py", "secrets.py", "statistics.py",
    "ast.py", "ftplib.py", "pickle.py", "tabnanny.py", "colorsys.py", "sched.py",
)  # fmt: skip

# How many words of the docstring a prompt gives away, and how much output it asks for.  The
# lengths of the lists have no common factor, so that every combination turns up.
WORDS_GIVEN = (2, 5, 1, 9, 3)
MAX_TOKENS = (32, 64, 16, 96, 24, 48, 80)

# A docstring must go on after the words given, and leave room for them in the context.
DOCSTRING_WORDS = range(12, 120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the default prompts.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    options = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
    docs = {d.name: d for d in documents()}
    texts = [("short", _start(docs[name], i)) for i, name in enumerate(SHORT_MODULES)]
    for group in GROUPS:
        texts += [(group.name, t) for t in _group(group, docs[group.module], tokenizer)]

    lines = []
    for i, (group_name, text) in enumerate(texts):
        tokens, output = len(tokenizer.encode(text).ids), MAX_TOKENS[i % len(MAX_TOKENS)]
        if tokens + output > config["max_position_embeddings"]:
            raise SystemExit(f"prompt {i} of group {group_name} has {tokens} tokens: too many")
        row = {"id": f"{i:03}", "group": group_name, "prompt": text, "max_tokens": output}
        if group_name == "short":
            row |= {"samples": 3, "temperature": 0.8, "seed": i}  # several answers: forks
        lines.append(json.dumps(row, ensure_ascii=False))
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _start(doc: Document, turn: int) -> str:
    """The beginning of a module, without anything shared: its header and a few words."""
    return _cut(doc.entries[0], WORDS_GIVEN[turn % len(WORDS_GIVEN)])


def _group(group: Group, doc: Document, tokenizer: Tokenizer) -> Iterator[str]:
    """The shared beginning, each time followed by another definition cut in its docstring.

    The definitions are spread evenly over the rest of the module.
    """
    used = tokens = 0
    while tokens < group.shared_tokens:
        tokens += len(tokenizer.encode(doc.entries[used]).ids)
        used += 1
    shared = "\n\n".join(doc.entries[:used])
    rest = [e for e in doc.entries[used:] if len(_words(e)) in DOCSTRING_WORDS]
    if len(rest) < group.prompts:
        raise SystemExit(f"{doc.name} has {len(rest)} definitions to choose from, too few")
    for i in range(group.prompts):
        entry = rest[i * len(rest) // group.prompts]
        yield shared + "\n\n" + _cut(entry, WORDS_GIVEN[i % len(WORDS_GIVEN)])


def _words(entry: str) -> list[re.Match[str]]:
    """The words of an entry's docstring, where they stand in the entry."""
    opening = entry.find('"""')
    return [] if opening < 0 else list(re.compile(r"\S+").finditer(entry, opening))


def _cut(entry: str, words: int) -> str:
    """An entry up to and with the given number of words of its docstring."""
    return entry[: _words(entry)[words - 1].end()]


if __name__ == "__main__":
    main()
