"""Reads the prompts of `pagedkv run`: plain text, one prompt per line, or JSON lines.

    {"prompt": "...", "id": "a-01", "group": "a", "max_tokens": 64}

Only `prompt` is required. `samples`, `beam`, `temperature`, `top_k`, `top_p` and `seed` may stand
there too, and mean what the options of that name mean; an option that is given counts for all
prompts.

A file is JSON lines when its first line starts with "{". Every line must be good: a mistake is
reported as file:line, and nothing is served.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagedkv.engine import RequestError

TEXTS = ("prompt", "id", "group")
COUNTS = ("max_tokens", "samples", "beam")
NUMBERS = ("temperature", "top_k", "top_p", "seed")  # ranges are SamplingParams' business
FIELDS = TEXTS + COUNTS + NUMBERS


@dataclass(frozen=True)
class Prompt:
    """One line. `where` is file:line, for messages; `options` holds what the line states of COUNTS
    and NUMBERS."""

    where: str
    id: str
    text: str
    group: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, at least one. Raises RequestError naming file and line."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RequestError(f"{path}:{line}: is not UTF-8") from error
    # Not splitlines(): a form feed or a Unicode separator belongs to its prompt.
    lines = text.removesuffix("\n").split("\n")
    parse = _parse_json if text.startswith("{") else _parse_text
    prompts = [
        parse(f"{path}:{number}", number, line.removesuffix("\r"))
        for number, line in enumerate(lines, 1)
    ]
    _refuse_twins(prompts)
    return prompts


def _parse_text(where: str, number: int, line: str) -> Prompt:
    if not line:
        raise RequestError(f"{where}: the prompt is empty")
    return Prompt(where, str(number), line)


def _parse_json(where: str, number: int, line: str) -> Prompt:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RequestError(f"{where}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(f"{where}: is not a JSON object")
    _check_fields(where, value)
    return Prompt(
        where=where,
        id=value.get("id", str(number)),
        text=value["prompt"],
        group=value.get("group", ""),
        options={name: value[name] for name in COUNTS + NUMBERS if name in value},
    )


def _check_fields(where: str, value: dict[str, Any]) -> None:
    for name, content in value.items():
        if name not in FIELDS:
            known = ", ".join(FIELDS)
            raise RequestError(f"{where}: field {name!r} is unknown; known are {known}")
        if name in TEXTS and not isinstance(content, str):
            raise RequestError(f"{where}: {name} must be a string, is {content!r}")
        if name in COUNTS and (type(content) is not int or not 1 <= content < 1 << 31):
            raise RequestError(f"{where}: {name} must be a whole number >= 1, is {content!r}")
        whole = (int,) if name in ("top_k", "seed") else (int, float)
        if name in NUMBERS and type(content) not in whole:
            raise RequestError(f"{where}: {name} must be a number, is {content!r}")
    if not value.get("prompt"):
        state = "empty" if "prompt" in value else "missing"
        raise RequestError(f"{where}: the prompt is {state}")


def _refuse_twins(prompts: list[Prompt]) -> None:
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        twin = first.setdefault(prompt.id, prompt)
        if twin is not prompt:
            raise RequestError(f"{prompt.where}: id {prompt.id!r} was used at {twin.where}")
