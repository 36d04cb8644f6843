"""What guessing tokens ahead is worth: the engine with and without, on texts that repeat or not.

The shipped model continues prompts greedily, once without speculation and once with each way of it,
in turns; each way is compared with the run without that stood before it, and the median of these
ratios is shown. Tokens must be equal: a run in which they are not fails.

    shipped    the prompts of the package, as they are
    repeated   the same, said twice, so that their continuation has been seen
    random     random tokens: nothing has been said before
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

from environment import EnvironmentProblem

import benchmarks

if TYPE_CHECKING:
    from pagedkv.engine import Engine, Model, Request, Tokenizer

KINDS = ("shipped", "repeated", "random")
WAYS = ("ngram", "ngram-tree")
REPEATED_TOKENS = 120  # of a prompt, at most; the model was trained on contexts of some hundreds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), metavar="HOW")
    parser.add_argument("--prompts", type=int, default=16, metavar="N", help="of each kind (16)")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="of each (64)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="pairs of runs (3)")


def run(options: argparse.Namespace) -> int:
    if min(options.prompts, options.max_tokens, options.runs, *options.batch) < 1:
        raise EnvironmentProblem("all numbers must be at least 1")
    benchmarks.enter("engine")
    from pagedkv.cli import blas
    from pagedkv.cli.run import MODEL
    from pagedkv.engine import Model, Tokenizer, load_checkpoint

    blas.limit_threads(1)  # as `pagedkv run` does for a model of this size
    checkpoint = load_checkpoint(MODEL)
    model, tokenizer = Model(checkpoint), Tokenizer(MODEL, checkpoint.config.vocab)
    if not options.json:
        print(f"{benchmarks.processor()}, commit {benchmarks.commit()}")
        print(
            f"{'prompts':<10}{'batch':>5}  {'way':<16}{'right':>7}{'of':>7}"
            f"{'tokens/turn':>13}{'without':>10}{'with':>10}{'ratio':>7}"
        )
    for kind in options.kinds:
        requests = make_requests(kind, tokenizer, options)
        for batch in options.batch:
            for way in options.ways:
                figure = compare(model, requests, batch, way, options.runs)
                figure = {"prompts": kind, **figure}
                print(json.dumps(figure) if options.json else line(figure), flush=True)
    return 0


def make_requests(kind: str, tokenizer: Tokenizer, options: argparse.Namespace) -> list[Request]:
    import numpy as np
    from pagedkv.cli.prompts import read_prompts
    from pagedkv.cli.run import PROMPTS
    from pagedkv.engine import Request

    prompts = [tokenizer.encode(prompt.text) for prompt in read_prompts(PROMPTS)]
    prompts = prompts[:: max(1, len(prompts) // options.prompts)][: options.prompts]
    if kind == "repeated":
        prompts = [np.tile(prompt[:REPEATED_TOKENS], 2) for prompt in prompts]
    if kind == "random":
        random = np.random.default_rng(1)
        most = max(int(prompt.max()) for prompt in prompts)
        prompts = [random.integers(1, most, len(prompt), dtype=np.uint32) for prompt in prompts]
    return [Request(f"{kind} {i}", prompt, options.max_tokens) for i, prompt in enumerate(prompts)]


def serve(
    model: Model, requests: list[Request], batch: int, way: str | None
) -> tuple[list[list[int]], float, Engine]:
    """Tokens, seconds, and the engine with its counters."""
    from pagedkv.engine import Engine, cache_for, parse_speculate

    speculate = None if way is None else parse_speculate(way)
    with cache_for(model.config, blocks=64 * batch, batch=batch, step_tokens=256) as cache:
        engine = Engine(model, cache, batch, 256, speculate=speculate)
        began = time.perf_counter()
        done = engine.run(requests)
        seconds = time.perf_counter() - began
    return [completion.tokens.tolist() for completion in done], seconds, engine


def compare(
    model: Model, requests: list[Request], batch: int, way: str, runs: int
) -> dict[str, Any]:
    """One line of the table: `runs` pairs of a run without and one with."""
    speeds, ratios = [], []
    for _ in range(runs):
        expected, without, _engine = serve(model, requests, batch, None)
        tokens, seconds, engine = serve(model, requests, batch, way)
        if tokens != expected:
            raise EnvironmentProblem(f"{way}: the tokens are not those of plain decoding")
        count = sum(map(len, tokens))
        speeds.append((count / without, count / seconds))
        ratios.append(without / seconds)
    totals = engine.totals
    return {
        "batch": batch,
        "way": way,
        "guessed_right": totals.guessed_right,
        "guessed": totals.guessed,
        "tokens_per_turn": totals.generated / totals.turns,
        "without_per_second": statistics.median(speed[0] for speed in speeds),
        "with_per_second": statistics.median(speed[1] for speed in speeds),
        "ratio": statistics.median(ratios),
    }


def line(figure: dict[str, Any]) -> str:
    """A figure for people."""
    return (
        f"{figure['prompts']:<10}{figure['batch']:>5}  {figure['way']:<16}"
        f"{figure['guessed_right']:>7,}{figure['guessed']:>7,}{figure['tokens_per_turn']:>13.2f}"
        f"{figure['without_per_second']:>10,.0f}{figure['with_per_second']:>10,.0f}"
        f"{figure['ratio']:>7.2f}"
    )
