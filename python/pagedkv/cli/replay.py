"""`pagedkv replay`: what policies of eviction make of a trace."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

import pagedkv
from pagedkv.replay import KINDS, Result, Trace, load, replay, synthetic

_EVERYTHING = "inf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pagedkv replay`."""
    parser.add_argument(
        "traces",
        nargs="*",
        metavar="TRACE",
        help="JSON lines with hash_ids (Mooncake, Qwen, ragpulse), sessions of coding agents, token"
        " ids, chats or text; gzip too; several files are one trace; - is the standard input",
    )
    parser.add_argument(
        "--block-tokens",
        type=int,
        default=16,
        metavar="N",
        help="tokens in a block, of traces with tokens or text; default 16",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="a tokenizer.json, or its folder, for text; default: a token is a word",
    )
    parser.add_argument("--synthetic", choices=KINDS, help="make a trace instead of reading one")
    parser.add_argument("--requests", type=int, default=5000, help="of a synthetic trace")
    parser.add_argument("--seed", type=int, default=1, help="of a synthetic trace")
    parser.add_argument(
        "--policy",
        nargs="+",
        default=["reuse"],
        metavar="POLICY",
        help=f"one or several of {', '.join(pagedkv.EVICTION_POLICIES)}",
    )
    parser.add_argument(
        "--blocks",
        nargs="+",
        required=True,
        metavar="N",
        help=f"blocks of the cache, one or several; {_EVERYTHING}: all that the trace asks for",
    )
    parser.add_argument(
        "--retain-first",
        type=int,
        default=0,
        metavar="N",
        help="retain the first N blocks of each request with a higher priority; default none",
    )
    parser.add_argument(
        "--beside",
        action="store_true",
        help="requests run beside the N blocks instead of among them, as in simulators that evict"
        " after a request and not before it",
    )
    parser.add_argument("--json", action="store_true", help="print an object a line")


def run(options: argparse.Namespace) -> int:
    """Replay and print; returns the exit code."""
    try:
        trace = _trace(options)
        capacities = [
            _capacity(trace, text) for given in options.blocks for text in given.split(",")
        ]
        policies = [name for given in options.policy for name in given.split(",")]
        results = _results(trace, policies, capacities, options)
        _print_json(results) if options.json else _print_table(trace, results)
    except (pagedkv.Error, OSError) as problem:
        print(f"pagedkv replay: {problem}", file=sys.stderr)
        return 1
    return 0


def _trace(options: argparse.Namespace) -> Trace:
    if bool(options.traces) == (options.synthetic is not None):
        raise pagedkv.InvalidArgument("expected either TRACE or --synthetic")
    if options.synthetic is not None:
        return synthetic(options.synthetic, options.requests, options.seed)
    return load(*options.traces, block_tokens=options.block_tokens, tokenizer=options.tokenizer)


def _capacity(trace: Trace, text: str) -> int:
    if text == _EVERYTHING:
        return max(1, trace.distinct)
    if not text.isdecimal() or int(text) == 0:
        raise pagedkv.InvalidArgument(f"--blocks: expected 1 or more, or inf, got {text!r}")
    return int(text)


def _results(
    trace: Trace, policies: list[str], capacities: list[int], options: argparse.Namespace
) -> Iterator[Result]:
    for capacity in capacities:
        for policy in policies:
            yield replay(trace, policy, capacity, options.retain_first, options.beside)


def _print_json(results: Iterator[Result]) -> None:
    for result in results:
        print(json.dumps(asdict(result) | {"rate": round(result.rate, 5)}), flush=True)


def _print_table(trace: Trace, results: Iterator[Result]) -> None:
    unit = f" of {trace.unit}" if trace.unit else ""
    print(
        f"{trace.name}: {len(trace.requests):,} requests, {trace.blocks:,} blocks{unit} asked for"
    )
    print(f"{'capacity':>10}  {'policy':<10}  {'hits':>12}  {'rate':>7}  {'evictions':>12}")
    for result in results:
        print(
            f"{result.capacity:>10,}  {result.policy:<10}  {result.hits:>12,}  {result.rate:>7.5f}"
            f"  {result.evictions:>12,}",
            flush=True,
        )
