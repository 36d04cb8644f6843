"""Replaying: each policy against an oracle on paper, the formats of traces, the command."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pagedkv
import pytest
from eviction_oracle import POLICIES, hits
from pagedkv.cli import main
from pagedkv.replay import KINDS, Trace, load, replay, synthetic

# Exact hits of LRU on the conversation trace of Mooncake (FAST'25), computed independently.
CONVERSATION = {1000: 12847, 10000: 61046, 30000: 93978, 50000: 102290, 100000: 104924}
CONVERSATION_ALL = 105710


def short(kind: str, requests: int = 160) -> Trace:
    return synthetic(kind, requests, seed=3)


def test_the_policies_are_those_of_the_library() -> None:
    assert {"reuse", *POLICIES} == set(pagedkv.EVICTION_POLICIES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_does_what_it_does_on_paper(policy: str, kind: str) -> None:
    trace = short(kind)
    requests = [request.tolist() for request in trace.requests]
    for capacity in (max(1, trace.distinct // 6), max(1, trace.distinct // 2)):
        result = replay(trace, policy, capacity)
        assert result.hits == hits(requests, policy, capacity), capacity
        assert result.blocks == trace.blocks


def test_the_oracle_can_tell_policies_apart() -> None:
    """Else its agreement would say nothing."""
    found = {
        policy: tuple(
            hits([r.tolist() for r in short(kind).requests], policy, short(kind).distinct // 6)
            for kind in KINDS
        )
        for policy in POLICIES
    }
    assert len(set(found.values())) == len(POLICIES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_is_never_much_worse_than_lru(kind: str) -> None:
    trace = synthetic(kind, 3000)
    for capacity in (100, 300, 1000, 3000, 10000):
        lru = replay(trace, "lru", capacity).hits
        assert replay(trace, "reuse", capacity).hits >= 0.99 * lru, capacity


def test_the_default_is_better_where_lru_is_bad() -> None:
    for kind, capacity, factor in (("loop", 1000, 5), ("scan", 200, 1.3), ("chat", 1000, 1.1)):
        trace = synthetic(kind, 3000)
        lru = replay(trace, "lru", capacity).hits
        assert replay(trace, "reuse", capacity).hits > factor * lru, kind


def test_requests_longer_than_the_cache_keep_their_beginning() -> None:
    trace = Trace("long", [np.arange(10, dtype=np.uint32)] * 3)
    result = replay(trace, "lru", 4)
    assert (result.blocks, result.hits, result.evictions) == (30, 8, 0)


def test_requests_may_be_longer_than_a_step_is_by_default() -> None:
    trace = Trace("long", [np.arange(9000, dtype=np.uint32)] * 2)
    assert replay(trace, "lru", 10000).hits == 9000


def test_beside_a_request_nothing_has_to_go() -> None:
    """A prefix that is asked for often, and requests in between that fill the cache."""
    requests = [[1, 2, 3], [1, 2, 4], [1, 2, 5], [10, 11, 12, 13], [1, 2, 6], [20, 21, 22, 23]]
    trace = Trace("beside", [np.array(blocks, np.uint32) for blocks in [*requests, [1, 2, 7]]])
    assert replay(trace, "lfu", 4).hits == 4
    result = replay(trace, "lfu", 4, beside=True)
    assert (result.hits, result.beside) == (8, True)


@pytest.mark.parametrize("kind", KINDS)
def test_to_lru_it_is_the_same_whether_a_request_runs_beside(kind: str) -> None:
    """Whoever evicts the oldest evicts the same ones earlier or later."""
    trace = short(kind)
    capacity = max(trace.longest, trace.distinct // 4)
    assert replay(trace, "lru", capacity, beside=True).hits == replay(trace, "lru", capacity).hits


# ---- Formats -------------------------------------------------------------------------------------


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def numbers(trace: Trace) -> list[list[int]]:
    return [request.tolist() for request in trace.requests]


def test_mooncake(tmp_path: Path) -> None:
    path = write(tmp_path / "trace.jsonl", [{"hash_ids": [0, 1, 2]}, {"hash_ids": [0, 1, 7]}])
    trace = load(path)
    assert numbers(trace) == [[0, 1, 2], [0, 1, 7]]
    assert (trace.blocks, trace.distinct, trace.longest) == (6, 4, 3)


def test_ragpulse(tmp_path: Path) -> None:
    parts = {
        "user_input": [9],
        "sys_prompt": [1, 2],
        "passages_ids": [5],
        "history": [],
        "web_search": [7],
    }
    assert numbers(load(write(tmp_path / "t", [{"hash_ids": parts}]))) == [[1, 2, 5, 7, 9]]


def test_coding_agents(tmp_path: Path) -> None:
    first = {
        "requests": [
            {"t": 0.0, "runs": [[1, 2]]},
            {"t": 5.0, "requests": [{"t": 1.0, "runs": [[4, 1]]}]},
            {"t": 9.0, "runs": [[1, 3]]},
        ]
    }
    second = {"requests": [{"t": 1.0, "runs": [[1, 1], [3, 1]]}]}
    path = tmp_path / "sessions.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(first) + "\n\n" + json.dumps(second) + "\n")
    trace = load(path)
    own, other = numbers(trace)[:2]
    assert [len(request) for request in numbers(trace)] == [2, 2, 1, 3]
    assert numbers(trace)[3][:2] == own
    assert not {block for i in (0, 2, 3) for block in numbers(trace)[i]} & set(other)


@pytest.mark.parametrize(
    "text", ["", "x\n", "[1]\n", "{}\n", '{"hash_ids": 5}\n', '{"hash_ids": [1.5]}\n']
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(pagedkv.InvalidArgument, match="trace"):
        load(path)


# ---- The command ---------------------------------------------------------------------------------


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "trace.jsonl", [{"hash_ids": [0, 1]}, {"hash_ids": [0, 2]}])
    assert main(["replay", str(path), "--policy", "lru", "--blocks", "inf", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["policy"] == "lru"
    assert (result["capacity"], result["requests"]) == (3, 2)
    assert (result["blocks"], result["hits"]) == (4, 1)


def test_several_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--synthetic", "chat", "--requests", "50", "--blocks", "100,200", "300"]
    assert main(["replay", *arguments, "--policy", "lru", "arc", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["capacity"], line["policy"]) for line in lines] == [
        (capacity, policy) for capacity in (100, 200, 300) for policy in ("lru", "arc")
    ]
    assert main(["replay", *arguments]) == 0
    assert capsys.readouterr().out.count("reuse") == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--blocks", "10"],
        ["nowhere", "--blocks", "10"],
        ["--synthetic", "chat", "--blocks", "0"],
        ["--synthetic", "chat", "--blocks", "10", "--policy", "least"],
    ],
)
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *arguments]) == 1
    assert capsys.readouterr().err.startswith("pagedkv replay: ")


@pytest.mark.skipif("PKV_TRACES" not in os.environ, reason="PKV_TRACES names no folder of traces")
def test_the_conversation_trace() -> None:
    trace = load(Path(os.environ["PKV_TRACES"]) / "mooncake" / "conversation_trace.jsonl")
    assert (trace.blocks, trace.distinct) == (288500, 182790)
    for capacity, expected in CONVERSATION.items():
        assert replay(trace, "lru", capacity).hits == expected
    assert replay(trace, "lru", trace.distinct).hits == CONVERSATION_ALL
    assert replay(trace, "reuse", 1000).hits >= 0.079 * trace.blocks
    assert replay(trace, "reuse", 10000).hits >= 0.245 * trace.blocks
    for capacity in (30000, 50000, 100000):
        assert replay(trace, "reuse", capacity).hits >= 0.99 * CONVERSATION[capacity]


def test_retained_beginnings_outlive_a_scan() -> None:
    """Three beginnings that many requests share, each followed by much that nobody asks again."""
    requests = []
    for i in range(200):
        blocks = [1 + i % 3 * 4 + b for b in range(4)] + [100 + 30 * i + b for b in range(30)]
        requests.append(np.array(blocks, np.uint32))
    trace = Trace("shared", requests)
    assert replay(trace, "lru", 44).hits == 0
    result = replay(trace, "lru", 44, retain_first=4)
    assert (result.hits, result.retain_first) == (197 * 4, 4)


def test_the_command_replays_beside(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["replay", "--synthetic", "chat", "--requests", "50", "--blocks", "100", "--json"]
    assert main([*command, "--beside"]) == 0
    assert json.loads(capsys.readouterr().out)["beside"] is True


def test_the_command_retains(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["replay", "--synthetic", "chat", "--requests", "50", "--blocks", "100", "--json"]
    assert main([*command, "--retain-first", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["retain_first"] == 3
    assert main([*command, "--retain-first", "-1"]) == 1
    assert "retain_first: expected" in capsys.readouterr().err
