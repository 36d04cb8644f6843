"""`pagedkv run`: serve prompts with a real model from paged KV, and show what paging bought.

    arguments -> prompts -> checkpoint -> tokenizer -> cache -> checks -> serve -> table [-> check]

Everything left of "serve" may refuse, with one message and exit code 2, before a token is
computed. Exit code 1 means that `--check` found a difference or that serving failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pagedkv
from pagedkv.engine import (
    KV_DTYPES,
    BeamParams,
    Completion,
    Difference,
    Engine,
    EngineError,
    Hypothesis,
    Model,
    Progress,
    Request,
    RequestError,
    SamplingParams,
    Tokenizer,
    cache_for,
    default_dtype,
    first_difference,
    load_checkpoint,
    parse_speculate,
    search_again,
    summarise,
)
from pagedkv.engine.beam import EarlyStopping

from . import blas, report
from .progress import ProgressBar, Rate
from .prompts import NUMBERS, Prompt, read_prompts

DATA = Path(pagedkv.__file__).parent / "data"
MODEL = DATA / "docstrings-3m"
PROMPTS = DATA / "prompts.jsonl"
DEFAULTS = {
    "max_tokens": 64, "samples": 1, "beam": 0, "temperature": 0.0, "top_k": 0, "top_p": 1.0,
    "seed": 0,
}  # fmt: skip
EARLY_STOPPING: dict[str, EarlyStopping] = {"false": False, "true": True, "never": "never"}
# A model below this gains little by a second BLAS thread and may lose a lot (see blas.py).
SMALL_MODEL_PARAMETERS = 50_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pagedkv run`."""
    at_least_1 = _whole_number(1)
    at_least_0 = _whole_number(0)
    add = parser.add_argument
    add("--model", type=Path, default=MODEL, metavar="DIR", help="Hugging Face checkpoint folder")
    add("--prompts", type=Path, default=PROMPTS, metavar="FILE", help="one per line, or JSON lines")
    add(
        "--kv-dtype", type=_kv_dtypes, metavar="TYPE",
        help=f"type of K and V: {', '.join(KV_DTYPES)}; or two, as in i8/i4 (default: f32; f16 on"
        " cuda, which stores f16, bf16, i8 and e4m3)",
    )  # fmt: skip
    add("--blocks", type=at_least_1, default=160, metavar="N", help="blocks in the pool")
    add("--block-tokens", type=at_least_1, default=16, metavar="N", help="tokens in a block")
    add("--batch", type=at_least_1, default=32, metavar="N", help="samples that run at once")
    add("--step-tokens", type=at_least_1, default=256, metavar="N", help="new tokens of one step")
    add(
        "--threads", type=at_least_0, default=0, metavar="N",
        help="of attention and matrix products; 0: all cores (products of small models take one)",
    )  # fmt: skip
    own = "; a prompt that states its own is overruled"
    add("--temperature", type=float, metavar="T", help="default 0: greedy" + own)
    add("--top-k", type=int, metavar="K", help="default 0: off" + own)
    add("--top-p", type=float, metavar="P", help="default 1: off" + own)
    add("--seed", type=int, metavar="S", help="of sampling, default 0" + own)
    add("--samples", type=at_least_1, metavar="N", help="of each prompt, default 1" + own)
    add(
        "--beam", type=at_least_1, metavar="N",
        help="beams of a search for the likeliest output; --samples N: return the N best. Prompts'"
        " own temperatures do not count then",
    )  # fmt: skip
    add("--length-penalty", type=float, default=1.0, metavar="P", help="of --beam, default 1")
    add(
        "--early-stopping", choices=tuple(EARLY_STOPPING), default="false",
        help="of --beam: when to stop with N ended outputs, as in transformers (default: false)",
    )  # fmt: skip
    add(
        "--speculate", type=_speculate, metavar="HOW",
        help="guess the next tokens of greedy outputs from the text so far: ngram[:N,K], a chain of"
        " K tokens that followed the last N; ngram-tree[:N,K,B], B such continuations at once; @R"
        " behind it: a step's fixed costs are those of R rows (default 48)",
    )  # fmt: skip
    add("--max-tokens", type=at_least_1, metavar="N", help="of each output, default 64" + own)
    add("--check", action="store_true", help="compare with a contiguous cache, token by token")
    add("--show", type=at_least_0, default=0, metavar="N", help="print N of the texts")
    add("--json", type=Path, metavar="FILE", help="write figures and texts")
    add(
        "--device", choices=("cpu", "cuda"), default="cpu",
        help="where weights, K and V are; cuda needs a GPU and CuPy. --check computes on the CPU",
    )  # fmt: skip
    add(
        "--row-tile", type=at_least_0, metavar="N",
        help="rows per matrix product; 0: all at once, which is faster for long prompts, but"
        " rounding then depends on the batch (default: measured; 64 on cuda)",
    )  # fmt: skip


def _whole_number(minimum: int) -> Any:
    def parse(text: str) -> int:
        value = int(text)
        if not minimum <= value < 1 << 31:
            raise argparse.ArgumentTypeError(f"{text} must be at least {minimum} and below 2^31")
        return value

    parse.__name__ = "whole number"
    return parse


def _speculate(text: str) -> str:
    try:
        parse_speculate(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _kv_dtypes(text: str) -> str:
    """One type, or that of K and that of V with a slash between them."""
    names = text.split("/")
    if len(names) > 2 or not set(names) <= set(KV_DTYPES):
        known = ", ".join(KV_DTYPES)
        raise argparse.ArgumentTypeError(f"invalid type: {text!r} (choose from {known})")
    return text


def _pair(text: str) -> tuple[str, str]:
    """The types of K and of V."""
    k_dtype, _, v_dtype = text.partition("/")
    return k_dtype, v_dtype or k_dtype


def run(options: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    options.kv_dtype = options.kv_dtype or default_dtype(options.device)
    with ExitStack() as stack:
        try:
            job = _prepare(options, stack)
        except (EngineError, MemoryError, pagedkv.Error) as error:
            print(f"pagedkv run: {str(error) or 'out of memory'}", file=sys.stderr)
            return 2
        try:
            return _serve(job, options)
        except (FloatingPointError, OSError, EngineError, MemoryError, pagedkv.Error) as error:
            print(f"pagedkv run: failed: {str(error) or 'out of memory'}", file=sys.stderr)
            return 1


@dataclass(frozen=True)
class _Job:
    """All that a run needs, loaded and checked."""

    engine: Engine
    reference: Model  # on the CPU; the engine's own if that is there
    tokenizer: Tokenizer
    requests: list[Request]


def _prepare(options: argparse.Namespace, stack: ExitStack) -> _Job:
    """Read and check everything, cheapest first."""
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise RequestError(f"{options.json}: its folder does not exist")
    prompts = read_prompts(options.prompts)
    checkpoint = load_checkpoint(options.model)
    tokenizer = Tokenizer(options.model, checkpoint.config.vocab)
    requests = [_request(prompt, tokenizer, options) for prompt in prompts]
    if checkpoint.parameters < SMALL_MODEL_PARAMETERS:
        blas.limit_threads(1)
    elif options.threads:
        blas.limit_threads(min(options.threads, os.cpu_count() or 1))
    model = Model(checkpoint, options.device, options.row_tile)
    k_dtype, v_dtype = _pair(options.kv_dtype)
    cache = stack.enter_context(
        cache_for(
            checkpoint.config,
            blocks=options.blocks,
            block_tokens=options.block_tokens,
            dtype=k_dtype,
            v_dtype=v_dtype,
            batch=options.batch,
            step_tokens=options.step_tokens,
            threads=options.threads,
            device=options.device,
        )
    )
    speculate = parse_speculate(options.speculate) if options.speculate else None
    engine = Engine(model, cache, options.batch, options.step_tokens, speculate=speculate)
    for request in requests:
        engine.scheduler.check(request)
    reference = model
    if options.check and options.device != "cpu":
        reference = Model(checkpoint, row_tile=options.row_tile)
    return _Job(engine, reference, tokenizer, requests)


def _request(prompt: Prompt, tokenizer: Tokenizer, options: argparse.Namespace) -> Request:
    tokens = tokenizer.encode(prompt.text)
    if len(tokens) == 0:
        raise RequestError(f"{prompt.where}: the prompt has no tokens")
    given = {name: getattr(options, name) for name in DEFAULTS}
    values = {**DEFAULTS, **prompt.options}
    values |= {name: value for name, value in given.items() if value is not None}
    if options.beam and options.temperature is None:
        values["temperature"] = 0.0
    try:
        sampling = SamplingParams(*(values[name] for name in NUMBERS))
        beam = _beam(values["beam"], options)
    except RequestError as error:
        raise RequestError(f"{prompt.where}: {error}") from error
    return Request(
        id=prompt.id,
        prompt=tokens,
        max_tokens=values["max_tokens"],
        sampling=sampling,
        samples=values["samples"],
        group=prompt.group,
        text=prompt.text,
        beam=beam,
    )


def _beam(width: int, options: argparse.Namespace) -> BeamParams | None:
    if width == 0:
        return None
    return BeamParams(width, options.length_penalty, EARLY_STOPPING[options.early_stopping])


def _serve(job: _Job, options: argparse.Namespace) -> int:
    engine = job.engine
    began = time.perf_counter()
    with ProgressBar("serve", sum(request.samples for request in job.requests)) as bar:
        rate = Rate()

        def on_step(now: Progress) -> None:
            speed = rate.update(now.seconds, now.generated)
            bar.update(now.finished, _details(now, speed))

        completions = engine.run(job.requests, on_step)
    seconds = time.perf_counter() - began
    summary = summarise(completions, engine.totals, engine.cache.stats(), seconds)
    if options.show:
        print(report.texts(completions, job.tokenizer, options.show))
    print(report.table(summary))
    check = _check(job, completions, options) if options.check else None
    if options.json is not None:
        text = report.as_json(_settings(job, options), summary, completions, job.tokenizer, check)
        report.write_whole(options.json, text)
    return 0 if check is None or check["equal"] == check["samples"] else 1


def _details(now: Progress, speed: float) -> str:
    stats = now.stats
    return (
        f"{speed:,.0f} tok/s   pages {stats.blocks_active}/{stats.blocks_total}"
        f"   batch {now.batch}   waiting {now.waiting}"
    )


def _check(job: _Job, completions: list[Completion], options: argparse.Namespace) -> dict[str, Any]:
    """Serve everything again, one by one and without pages; print and return the outcome."""
    number = {id(request): index for index, request in enumerate(job.requests)}
    found: list[Difference] = []
    best: list[Hypothesis] | None = None
    dtypes = _pair(options.kv_dtype)
    with ProgressBar("check", len(completions)) as bar:
        for index, done in enumerate(completions, 1):
            order = number[id(done.request)]
            if done.sample == 0:
                beam = done.request.beam
                best = search_again(job.reference, done.request, *dtypes) if beam else None
            different = first_difference(job.reference, done, order, *dtypes, best)
            found += [different] if different else []
            bar.update(index, f"{len(found)} different")
    equal = len(completions) - len(found)
    print(f"equal: {equal}/{len(completions)}")
    if found:
        print(report.difference(found[0], job.tokenizer))
    return {
        "samples": len(completions),
        "equal": equal,
        "different": [[one.completion.request.id, one.completion.sample] for one in found],
    }


def _settings(job: _Job, options: argparse.Namespace) -> dict[str, Any]:
    config = job.engine.model.config
    values = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if isinstance(value, str | int | float | Path | None)
    }
    return {"version": pagedkv.__version__, "family": config.family, **values}
