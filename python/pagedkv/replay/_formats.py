"""Records of traces, told apart by their fields: numbers of blocks, tokens, or text.

    hash_ids       a list: names of blocks, numbers or strings, as of Mooncake and of Qwen; or an
                   object, names of segments by part of the prompt, as of ragpulse
    requests       a session of a coding agent: `runs` are pairs of first number and count, numbers
                   are the session's own, requests of a subagent are nested, and `t` are seconds.
                   All sessions begin at the same time
    token_ids      a list of numbers; also called prompt_token_ids, input_ids or tokens
    messages       a chat, a list of `role` and `content`: one request for all of it
    conversations  a chat as of ShareGPT, `from` and `value`: a request for each answer, with all
                   that was said before it
    prompt         text, or a list of token ids; also called input or text

Of several the first of this list counts. `body`, as in batches of OpenAI, stands for what is in it.
Other fields are passed over: what is asked for is the prompt, and an output counts when a later
prompt has it. All records of a trace are of one kind, since numbers of different kinds have nothing
to do with each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgument
from ._text import Pieces

__all__ = ["Reader", "Request", "to_numbers"]

_TOKENS = ("token_ids", "prompt_token_ids", "input_ids", "tokens")
_TEXTS = ("prompt", "input", "text")
_ANSWERERS = ("gpt", "chatgpt", "assistant", "model")
_BLOCKS_MAX = 1 << 24  # of a pool
_NUMBER_MAX = (1 << 32) - 1

# Parts of a prompt of ragpulse, in their order.
_SEGMENTS = ("sys_prompt", "passages_ids", "history", "web_search", "user_input")

Names = list[Any] | NDArray[np.uint32]


@dataclass(frozen=True)
class Request:
    """When it comes, if that is known, and the names of its blocks."""

    time: float | None
    names: Names


class Reader:
    """Makes requests of records, from one file or several."""

    def __init__(self, block_tokens: int, tokenizer: str | Path | None) -> None:
        self._pieces = Pieces(block_tokens, tokenizer)
        self._kind = ""
        self._base = 0  # of the numbers of the next session
        self.unit = ""

    def read(self, where: str, record: dict[str, Any]) -> list[Request]:
        """Requests of a record. Raises InvalidArgument, which begins with `where`."""
        try:
            return list(self._requests(record))
        except KeyError as problem:
            raise InvalidArgument(f"{where}: {problem.args[0]} is missing") from problem
        except (AttributeError, TypeError, ValueError, RecursionError) as problem:
            raise InvalidArgument(f"{where}: {problem}") from problem

    def _requests(self, record: dict[str, Any]) -> Iterator[Request]:
        time = _time(record)
        if isinstance(record.get("body"), dict):
            record = record["body"]
        if "hash_ids" in record:
            self._expect("hash_ids")
            yield Request(time, _bounded(_names(record["hash_ids"])))
        elif "requests" in record:
            self._expect("requests")
            yield from self._session(record["requests"])
        else:
            for prompt in _prompts(record):
                self._expect("tokens or text")
                self.unit = self._pieces.unit(prompt)
                yield Request(time, _bounded(self._pieces.cut(prompt)))

    def _expect(self, kind: str) -> None:
        if self._kind not in ("", kind):
            raise ValueError(f"{kind} in a trace of {self._kind}")
        self._kind = kind

    def _session(self, requests: list[dict[str, Any]]) -> list[Request]:
        """Numbers are moved so that no two sessions share one."""
        base = self._base
        made = []
        for when, runs in sorted(_calls(requests, 0.0), key=lambda call: call[0]):
            made.append(Request(when, _expand(runs, base)))
            self._base = max([self._base, *(base + first + count for first, count in runs)])
        return made


def to_numbers(requests: list[Request]) -> list[NDArray[np.uint32]]:
    """Names as numbers: as they are where all are numbers that fit, else from 0 on."""
    if all(_are_numbers(request.names) for request in requests):
        return [np.asarray(request.names, dtype=np.uint32) for request in requests]
    numbers: dict[Any, int] = {}
    return [
        np.array([numbers.setdefault(name, len(numbers)) for name in request.names], np.uint32)
        for request in requests
    ]


def _are_numbers(names: Names) -> bool:
    if isinstance(names, np.ndarray):
        return True
    return all(isinstance(name, int) and 0 <= name <= _NUMBER_MAX for name in names)


def _time(record: dict[str, Any]) -> float | None:
    time = record.get("timestamp")
    if not isinstance(time, int | float) or isinstance(time, bool):
        return None
    return time if isinstance(time, int) or math.isfinite(time) else None


def _bounded(names: list[Any]) -> list[Any]:
    if len(names) > _BLOCKS_MAX:
        raise ValueError(f"a request of {len(names):,} blocks; at most {_BLOCKS_MAX:,}")
    return names


# ---- Numbers -------------------------------------------------------------------------------------


def _names(hash_ids: Any) -> list[Any]:
    if isinstance(hash_ids, dict):
        return [name for part in _SEGMENTS for name in _names(hash_ids.get(part, []))]
    if not isinstance(hash_ids, list):
        raise TypeError(f"hash_ids: expected a list or an object, got {_shown(hash_ids)}")
    for name in hash_ids:
        if not isinstance(name, int | str) or isinstance(name, bool):
            raise TypeError(f"hash_ids: expected whole numbers or strings, got {_shown(name)}")
    return hash_ids


def _calls(
    requests: list[dict[str, Any]], start: float
) -> Iterator[tuple[float, list[tuple[int, int]]]]:
    for request in requests:
        when = start + request["t"]
        if "requests" in request:
            yield from _calls(request["requests"], when)
        elif "runs" in request:
            yield when, request["runs"]


def _expand(runs: list[tuple[int, int]], base: int) -> NDArray[np.uint32]:
    if any(first < 0 or count < 0 for first, count in runs):
        raise ValueError("runs: a number below 0")
    if sum(count for _, count in runs) > _BLOCKS_MAX:
        raise ValueError(f"runs: more than {_BLOCKS_MAX:,} blocks")
    if max((base + first + count for first, count in runs), default=0) > _NUMBER_MAX:
        raise ValueError("runs: numbers of all sessions together do not fit 32 bits")
    pieces = [
        np.arange(base + first, base + first + count, dtype=np.uint32) for first, count in runs
    ]
    return np.concatenate(pieces) if pieces else np.array([], dtype=np.uint32)


# ---- Tokens and text -----------------------------------------------------------------------------


def _prompts(record: dict[str, Any]) -> Iterator[str | list[int]]:
    for field in _TOKENS:
        if field in record:
            yield _ids(field, record[field])
            return
    if "messages" in record:
        yield "".join(_said(message, "role", "content") for message in record["messages"])
    elif "conversations" in record:
        yield from _turns(record["conversations"])
    else:
        yield _prompt(record)


def _ids(field: str, value: Any) -> list[int]:
    if not isinstance(value, list):
        raise TypeError(f"{field}: expected a list, got {_shown(value)}")
    for number in value:
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"{field}: expected whole numbers, got {_shown(number)}")
    return value


def _prompt(record: dict[str, Any]) -> str | list[int]:
    for field in _TEXTS:
        if field in record:
            value = record[field]
            return value if isinstance(value, str) else _ids(field, value)
    raise ValueError(
        "expected hash_ids, requests, token_ids, messages, conversations, prompt, input or text"
    )


def _turns(messages: list[dict[str, Any]]) -> Iterator[str]:
    said = ""
    for message in messages:
        if said and message["from"] in _ANSWERERS:
            yield said
        said += _said(message, "from", "value")


def _said(message: dict[str, Any], who: str, what: str) -> str:
    """One message of a chat, as it might stand in a prompt."""
    content = message.get(what)
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    calls = message.get("tool_calls")
    called = "" if not calls else json.dumps(calls, sort_keys=True) + "\n"
    return f"{message[who]}\n{text}\n{called}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
