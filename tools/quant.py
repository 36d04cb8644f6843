"""What the types of the cache cost in accuracy, one JSON line for each figure.

    python tools/quant.py [--documents N]       (tools/verify quant does it)

NMSE is the sum of squared errors over the sum of squares of what pagedkv.Cache gives back for

    gaussian   independent normal numbers, 8 heads of 128 dims
    outliers   the same, with 4 of 128 dims 10 to 20 times as large and off zero, as keys have them
    model K, V keys (after rotation) and values of the shipped model on held-out text

Perplexity is that of the shipped model on the first 1,024 tokens of documents that it was not
trained on, all of whose attention reads K and V from a cache of the type.

`e4m3 with subnormals` is no type of the cache, but what the one without them could have been.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pagedkv
from doc_corpus import documents
from numpy.typing import NDArray
from pagedkv.engine import KV_DTYPES, ContiguousCache, Model, Tokenizer, load_checkpoint

Floats = NDArray[np.float32]
Tokens = NDArray[np.uint32]

MODEL = Path(pagedkv.__file__).parent / "data" / "docstrings-3m"
CONTEXT = 1024
END_OF_TEXT = 0  # begins and ends a document
PAIRS = [*((name, name) for name in KV_DTYPES), ("i8", "i4"), ("i4", "i8"), ("bf16", "i4")]


def say(figure: str, dtype: str, value: float) -> None:
    print(json.dumps({"figure": figure, "dtype": dtype, "value": value}), flush=True)


# ---- NMSE ----------------------------------------------------------------------------------------


def through_cache(values: Floats, dtype: str) -> Floats:
    """What a cache of `dtype` gives back for `values` [tokens, heads, dims]."""
    tokens, heads, dims = values.shape
    blocks = -(-tokens // 16)
    with pagedkv.Cache(
        layers=1,
        kv_heads=heads,
        head_dim=dims,
        blocks=blocks,
        sequence_tokens=tokens,
        step_tokens=tokens,
        dtype=dtype,
    ) as cache:
        sequence = cache.sequence()
        sequence.append(pagedkv.UnknownTokens(tokens))
        sequence.write(0, values, values)
        sequence.commit()
        return np.asarray(cache.read(sequence, 0)[0])


def with_subnormals(values: Floats) -> Floats:
    """E4M3 as other libraries have it."""
    scale = np.abs(values).max(axis=-1, keepdims=True) / np.float32(448)
    exponent = np.frexp(values / scale)[1] - 1
    step = np.ldexp(np.float32(1), np.maximum(exponent, -6) - 3)
    return np.asarray(np.rint(values / scale / step) * step * scale)


def nmse(values: Floats, back: Floats) -> float:
    wanted = values.astype(np.float64)
    return float(((back - wanted) ** 2).sum() / (wanted**2).sum())


def made_up() -> Iterator[tuple[str, Floats]]:
    generator = np.random.default_rng(1)
    normal = generator.standard_normal((2048, 8, 128)).astype(np.float32)
    yield "gaussian", normal
    channels = normal.copy()
    chosen = generator.choice(128, 4, replace=False)
    size = generator.uniform(10, 20, 4) * np.where(generator.random(4) < 0.5, -1, 1)
    channels[..., chosen] = channels[..., chosen] * 2 + size.astype(np.float32)
    yield "outliers", channels


def of_model(model: Model, texts: list[Tokens]) -> Iterator[tuple[str, Floats]]:
    sides: dict[str, list[Floats]] = {"model K": [], "model V": []}
    for tokens in texts:
        cache = ContiguousCache(model.config, len(tokens))
        positions = np.arange(len(tokens))
        model.forward(tokens, positions, positions[-1:], cache.attend)
        for side, stored in (("model K", cache.keys), ("model V", cache.values)):
            sides[side] += list(stored)
    for side, layers in sides.items():
        yield side, np.concatenate(layers)


def say_errors(figure: str, values: Floats) -> None:
    for dtype in KV_DTYPES:
        say(f"NMSE, {figure}", dtype, nmse(values, through_cache(values, dtype)))
    say(f"NMSE, {figure}", "e4m3 with subnormals", nmse(values, with_subnormals(values)))


# ---- Perplexity ----------------------------------------------------------------------------------


def losses(model: Model, cache: pagedkv.Cache, tokens: Tokens) -> float:
    """Sum of -ln p(token) over all tokens but the first, in nats."""
    sequence = cache.sequence()
    with cache.step([(sequence, tokens)]) as step:
        logits = model.forward(tokens, step.positions, np.arange(len(tokens) - 1), through(step))
    sequence.close()
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    chosen = rows[np.arange(len(rows)), tokens[1:]]
    return float((np.log(np.exp(rows).sum(axis=1)) - chosen).sum())


def through(step: pagedkv.Step) -> Callable[..., Any]:
    def attend(layer: int, q: Floats, k: Floats, v: Floats) -> Any:
        step.write(layer, k, v)
        return step.attend(layer, q)

    return attend


def perplexity(model: Model, texts: list[Tokens], k_dtype: str, v_dtype: str) -> float:
    config = model.config
    with pagedkv.Cache(
        layers=config.layers,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        blocks=CONTEXT // 16,
        k_dtype=k_dtype,
        v_dtype=v_dtype,
        prefix=False,
    ) as cache:
        total = sum(losses(model, cache, tokens) for tokens in texts)
    return math.exp(total / sum(len(tokens) - 1 for tokens in texts))


# ---- Command line --------------------------------------------------------------------------------


def held_out(tokenizer: Tokenizer, count: int) -> list[Tokens]:
    texts = [document.text for document in documents() if document.held_out][:count]
    return [
        np.array([END_OF_TEXT, *tokenizer.encode(text), END_OF_TEXT], np.uint32)[:CONTEXT]
        for text in texts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000, help="of the held-out ones")
    options = parser.parse_args()
    model = Model(load_checkpoint(MODEL))
    texts = held_out(Tokenizer(MODEL, model.config.vocab), options.documents)
    for figure, values in made_up():
        say_errors(figure, values)
    for figure, values in of_model(model, texts[:8]):
        say_errors(figure, values)
    for k_dtype, v_dtype in PAIRS:
        name = k_dtype if k_dtype == v_dtype else f"{k_dtype}/{v_dtype}"
        say("perplexity", name, perplexity(model, texts, k_dtype, v_dtype))


if __name__ == "__main__":
    main()
