"""Traces as people bring them: names of blocks, tokens, chats, text, and what is broken."""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import pagedkv
import pytest
from pagedkv.cli import main
from pagedkv.replay import Trace, load, replay

SHIPPED = Path(pagedkv.__file__).parent / "data" / "docstrings-3m"


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def loaded(folder: Path, text: str, **options: Any) -> list[list[int]]:
    path = folder / "trace.jsonl"
    path.write_text(text, encoding="utf-8")
    return numbers(load(path, **options))


def numbers(trace: Trace) -> list[list[int]]:
    return [request.tolist() for request in trace.requests]


def common(one: list[int], other: list[int]) -> int:
    """Blocks that two requests have in common from their beginnings on."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


# ---- Names of blocks -----------------------------------------------------------------------------


def test_numbers_that_fit_stay_as_they_are(tmp_path: Path) -> None:
    text = lines({"hash_ids": [0, 4294967295]}, {"hash_ids": [7]})
    assert loaded(tmp_path, text) == [[0, 4294967295], [7]]


@pytest.mark.parametrize("name", [-1, 1 << 32, 1 << 64, -(1 << 70), "a3f0", ""])
def test_names_may_be_hashes_of_any_width_or_strings(tmp_path: Path, name: int | str) -> None:
    text = lines({"hash_ids": [name, 5]}, {"hash_ids": [name, 6, name]}, {"hash_ids": [5]})
    one, other, last = loaded(tmp_path, text)
    assert one[0] == other[0] == other[2]
    assert last == [one[1]]
    assert len({*one, *other}) == 3


def test_strings_are_not_numbers(tmp_path: Path) -> None:
    assert loaded(tmp_path, lines({"hash_ids": [1, "1"]})) == [[0, 1]]


def test_requests_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    records = [{"timestamp": time, "hash_ids": [i]} for i, time in enumerate([30, 10.5, 30, -2])]
    assert loaded(tmp_path, lines(*records)) == [[3], [1], [0], [2]]
    del records[1]["timestamp"]
    assert loaded(tmp_path, lines(*records)) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("time", ["30", None, True, float("nan"), float("inf")])
def test_what_is_no_time_leaves_the_order_of_the_file(tmp_path: Path, time: Any) -> None:
    records = [{"timestamp": 9, "hash_ids": [1]}, {"timestamp": time, "hash_ids": [2]}]
    records.append({"timestamp": 3, "hash_ids": [3]})
    assert loaded(tmp_path, lines(*records)) == [[1], [2], [3]]


# ---- Tokens and text -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", ["token_ids", "prompt_token_ids", "input_ids", "tokens", "prompt"]
)
def test_token_ids_are_cut_into_blocks(tmp_path: Path, field: str) -> None:
    text = lines({field: [1, 2, 3, 4, 5]}, {field: [1, 2, 3, 4]}, {field: [1, 2, 9, 4, 5]})
    one, other, last = loaded(tmp_path, text, block_tokens=2)
    assert [len(request) for request in (one, other, last)] == [3, 2, 3]
    assert common(one, other) == 2
    assert common(one, last) == 1


def test_a_token_is_a_word_with_the_space_before_it(tmp_path: Path) -> None:
    text = lines({"input": "it's  so", "output": "x", "session_id": "s"}, {"text": "it's  soon"})
    one, other = loaded(tmp_path, text, block_tokens=1)
    assert len(one) == 5
    assert common(one, other) == 4


def test_texts_share_blocks_as_far_as_they_are_equal(tmp_path: Path) -> None:
    """Cut at any place, a text shares all but its last block with the whole, whatever is in it."""
    dice = random.Random(3)
    whole = "".join(dice.choice("ab .,\n\té语🙂'_0") for _ in range(400))
    for end in range(0, 400, 7):
        text = lines({"prompt": whole}, {"prompt": whole[:end]})
        one, other = loaded(tmp_path, text, block_tokens=4)
        assert common(one, other) >= len(other) - 1


def test_the_last_block_may_be_shorter_and_is_then_another(tmp_path: Path) -> None:
    text = lines({"prompt": "a b c"}, {"prompt": "a b c d"}, {"prompt": "a b c"}, {"prompt": ""})
    one, other, again, empty = loaded(tmp_path, text, block_tokens=2)
    assert common(one, other) == 1
    assert again == one
    assert empty == []


def test_a_chat_is_one_request_and_goes_on_in_the_next(tmp_path: Path) -> None:
    chat: list[dict[str, Any]] = [{"role": "system", "content": "be kind"}]
    chat.append({"role": "user", "content": [{"type": "text", "text": "hi"}]})
    records: list[dict[str, Any]] = [{"messages": list(chat)}]
    chat.append({"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]})
    records.append({"custom_id": "2", "body": {"messages": chat}})
    records.append({"messages": [{"role": "user", "content": "be kind"}]})
    one, other, stranger = loaded(tmp_path, lines(*records), block_tokens=1)
    assert common(one, other) == len(one) < len(other)
    assert common(one, stranger) == 0


def test_conversations_ask_once_for_each_answer(tmp_path: Path) -> None:
    said = [("human", "hi"), ("gpt", "hello"), ("human", "more"), ("gpt", "no"), ("human", "bye")]
    conversation = {"id": "c", "conversations": [{"from": f, "value": v} for f, v in said]}
    array = json.dumps([conversation, {"conversations": []}], indent=1)
    first, second = loaded(tmp_path, array, block_tokens=1)
    assert common(first, second) == len(first)
    assert len(second) > len(first)


def test_a_tokenizer_may_be_named(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "trace.jsonl"
    path.write_text(lines({"prompt": "antidisestablishmentarianism"}))
    by_word = load(path, block_tokens=1)
    by_model = load(path, block_tokens=1, tokenizer=SHIPPED)
    assert by_word.unit == "1 words"
    assert by_model.unit == "1 tokens"
    assert by_model.blocks > by_word.blocks
    assert numbers(by_model) == numbers(
        load(path, block_tokens=1, tokenizer=SHIPPED / "tokenizer.json")
    )
    with pytest.raises(pagedkv.InvalidArgument, match="tokenizer: .*cannot be loaded"):
        load(path, tokenizer=tmp_path)


def test_agents_that_repeat_their_instructions_find_them(tmp_path: Path) -> None:
    path = tmp_path / "agents.jsonl"
    rules = "You are a careful agent. " * 20
    path.write_text(lines(*({"input": rules + f"Task {i}."} for i in range(10))))
    trace = load(path)
    assert trace.unit == "16 words"
    longest = common(*numbers(trace)[:2])
    assert replay(trace, "lru", 1000).hits == 9 * longest > 0


# ---- Files ---------------------------------------------------------------------------------------


def test_several_files_are_one_trace(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl"))
    first.write_text(lines({"timestamp": 2, "prompt": "same words"}))
    with gzip.open(second, "wt") as file:
        file.write(lines({"timestamp": 1, "prompt": "same words"}, {"timestamp": 3, "prompt": "x"}))
    third.write_text("")
    trace = load(first, second, third)
    assert trace.name == "3 files"
    one, other, last = numbers(trace)
    assert one == other != last


def test_the_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for data in (lines({"hash_ids": [1, 2]}, {"hash_ids": [1]}).encode(), None):
        compressed = gzip.compress(lines({"hash_ids": [1, 2]}, {"hash_ids": [1]}).encode())
        stream = io.TextIOWrapper(io.BytesIO(data or compressed))
        monkeypatch.setattr(sys, "stdin", stream)
        assert main(["replay", "-", "--policy", "lru", "--blocks", "4", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["hits"] == 1


def test_a_mark_of_the_byte_order_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    text = "\ufeff\n" + lines({"hash_ids": [1]}) + "\r\n  \n" + lines({"hash_ids": [2]}) + "\n"
    assert loaded(tmp_path, text) == [[1], [2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines({"hash_ids": [1]}) + "\n{", ":3: not JSON"),
        (lines({"hash_ids": [1]}, [2]), ":2: expected an object"),
        (lines({"hash_ids": [1]}, {"hash_ids": [True]}), ":2: hash_ids: expected whole"),
        (lines({"hash_ids": "1"}), ":1: hash_ids: expected a list"),
        (lines({"hash_ids": [1]}, {"prompt": "a"}), ":2: tokens or text in a trace of hash_ids"),
        (lines({"prompt": "a"}, {"answer": "b"}), ":2: expected hash_ids"),
        (lines({"prompt": 5}), ":1: prompt: expected a list"),
        (lines({"token_ids": [1, "2"]}), ":1: token_ids: expected whole numbers"),
        (lines({"messages": [{"content": "a"}]}), ":1: role is missing"),
        (lines({"messages": 5}), ":1: "),
        (lines({"messages": [5]}), ":1: "),
        (lines({"requests": [{"runs": [[0, 1]]}]}), ":1: t is missing"),
        (lines({"requests": [{"t": 0, "runs": [[0]]}]}), ":1: "),
        (lines({"requests": [{"t": 0, "runs": [[-1, 1]]}]}), ":1: runs: a number below 0"),
        (lines({"requests": [{"t": 0, "runs": [[0, 10**12]]}]}), ":1: runs: more than 16,777,216"),
        (lines({"requests": [{"t": 0, "runs": [[10**12, 1]]}]}), ":1: runs: numbers of all"),
        ("[" * 100000, ": not JSON"),
        ('[{"hash_ids": [1]}, 3]', ", element 2: expected an object"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n", ":1: not JSON.*table of lengths"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(pagedkv.InvalidArgument, match="trace.jsonl" + message):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"hash_ids": [1]}\n\xff\xfe', ":2: not UTF-8"),
        (gzip.compress(b'{"hash_ids": [1]}\n')[:-9], ": a broken gzip file"),
        (b"\x1f\x8bnothing", ": a broken gzip file"),
    ],
)
def test_files_that_are_broken(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(data)
    with pytest.raises(pagedkv.InvalidArgument, match="trace" + message):
        load(path)


def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace"
    path.write_text(lines({"prompt": "a b c"}))
    command = ["replay", str(path), "--blocks", "10"]
    assert main([*command, "--block-tokens", "0"]) == 1
    assert "block_tokens: expected 1 or more" in capsys.readouterr().err
    assert main([*command, "--synthetic", "chat"]) == 1
    assert main(["replay", str(tmp_path), "--blocks", "10"]) == 1
    assert main([*command, "--block-tokens", "2"]) == 0
    assert "1 requests, 2 blocks of 2 words asked for" in capsys.readouterr().out
