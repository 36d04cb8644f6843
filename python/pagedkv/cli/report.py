"""What `pagedkv run` prints and writes at the end: table, texts, difference, JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pagedkv.engine import Completion, Difference, Distribution, Summary, Tokenizer

CONTEXT_TOKENS = 12  # shown before and after the first difference


def table(summary: Summary) -> str:
    """The final figures, for people."""
    saved = 1 - summary.blocks_peak / summary.blocks_reserved_peak
    rows = [
        ("requests", f"{summary.requests:,} ({summary.samples:,} samples)"),
        ("time", f"{summary.seconds:.2f} s in {summary.steps:,} steps"),
        ("throughput", f"{summary.generated_per_second:,.0f} generated tokens/s"),
        ("", f"{summary.computed_per_second:,.0f} computed tokens/s (prompts included)"),
        ("tokens", f"{summary.prompt_tokens:,} prompt, {summary.generated_tokens:,} generated"),
        ("TTFT", _milliseconds(summary.ttft)),
        ("TPOT", _milliseconds(summary.tpot)),
        ("largest batch", f"{summary.batch_peak}"),
        ("peak pages", f"{summary.blocks_peak:,} of {summary.blocks_total:,}"),
        (
            "contiguous reservation",
            f"{summary.blocks_reserved_peak:,} for the same batches ({saved:+.0%} saved by paging)",
        ),
        ("prefix tokens reused", f"{summary.prefix_tokens_reused:,}"),
        ("forks", f"{summary.forks:,}"),
        ("copy on write", f"{summary.cow_copies:,} pages"),
        ("preemptions", f"{summary.preemptions:,}"),
        ("evictions", f"{summary.evictions:,} cached pages"),
    ]
    if summary.guessed_tokens:
        rows.append(("speculation", _speculation(summary)))
    return "\n".join(f"{name:<24}{value}".rstrip() for name, value in rows)


def _speculation(summary: Summary) -> str:
    right = summary.guessed_right / summary.guessed_tokens
    return (
        f"{summary.guessed_right:,} of {summary.guessed_tokens:,} guesses right ({right:.0%}),"
        f" {summary.generated_tokens / summary.turns:.2f} tokens per sample and step"
    )


def _milliseconds(values: Distribution | None) -> str:
    if values is None:
        return "none"
    mean, median, p99 = (1000 * value for value in (values.mean, values.median, values.p99))
    return f"mean {mean:,.1f} ms   median {median:,.1f} ms   p99 {p99:,.1f} ms"


def texts(completions: list[Completion], tokenizer: Tokenizer, count: int) -> str:
    """`count` of the completions, spread over the run, each behind the end of its prompt."""
    count = min(count, len(completions))
    parts = []
    for index in range(count):
        done = completions[index * len(completions) // count]
        name = f"{done.request.id}" + (f" sample {done.sample}" if done.sample else "")
        prompt = done.request.text
        parts.append(
            f"--- {name} ({len(done.request.prompt)} + {len(done.tokens)} tokens, {done.finish})\n"
            f"{'...' if len(prompt) > 160 else ''}{prompt[-160:]}"
            f"[=>]{tokenizer.decode(done.tokens.tolist())}"
        )
    return "\n".join(parts)


def difference(found: Difference, tokenizer: Tokenizer) -> str:
    """The first difference of a run with its reference, in context."""
    done = found.completion
    before = done.tokens[max(0, found.index - CONTEXT_TOKENS) : found.index].tolist()
    lines = [
        f"first difference: request {done.request.id} sample {done.sample},"
        f" generated token {found.index}",
        f"  before      {tokenizer.decode(before)!r}",
        f"  paged       {_ahead(found.actual, tokenizer)}",
        f"  contiguous  {_ahead(found.expected, tokenizer)}",
    ]
    lines += [
        f"  contiguous logit {logit:.6f} for token {token} {tokenizer.decode([token])!r}"
        for token, logit in found.logits
    ]
    return "\n".join(lines)


def _ahead(tokens: list[int], tokenizer: Tokenizer) -> str:
    if not tokens:
        return "had ended"
    shown = tokens[:CONTEXT_TOKENS]
    return f"token {tokens[0]}: {tokenizer.decode(shown)!r}"


def as_json(
    settings: dict[str, Any],
    summary: Summary,
    completions: list[Completion],
    tokenizer: Tokenizer,
    check: dict[str, Any] | None,
) -> str:
    """Everything a machine may want, times in seconds."""
    return json.dumps(
        {
            "settings": settings,
            "summary": asdict(summary),
            "check": check,
            "completions": [_completion(done, tokenizer) for done in completions],
        },
        indent=1,
        ensure_ascii=False,
    )


def _completion(done: Completion, tokenizer: Tokenizer) -> dict[str, Any]:
    tokens = done.tokens.tolist()
    return {
        "id": done.request.id,
        "group": done.request.group,
        "sample": done.sample,
        "prompt_tokens": len(done.request.prompt),
        "tokens": tokens,
        "text": tokenizer.decode(tokens),
        "finish": done.finish,
        "score": done.score,
        "ttft": done.ttft,
        "tpot": done.tpot,
        "reused": done.reused,
        "preemptions": done.preemptions,
    }


def write_whole(path: Path, text: str) -> None:
    """Write `path` so that a reader finds the old file or all of the new one."""
    draft = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
