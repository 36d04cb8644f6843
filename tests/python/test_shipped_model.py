"""The data that ships with the package: the small model and the default prompts.

The checkpoint is read here with `struct` and NumPy and nothing of the package, so that a defect
of the engine's own loader cannot hide a defect of the files.  `Reference` is the Llama forward
pass in its plainest form; it is there to show that weights and tokenizer belong together and
that the weights have learnt the text they are said to have learnt.
"""

from __future__ import annotations

import importlib.resources
import itertools
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

DATA = Path(__file__).parents[2] / "python" / "pagedkv" / "data"
MODEL = DATA / "docstrings-3m"
END_OF_TEXT = 0

Array = np.ndarray[Any, np.dtype[np.float32]]


def read_weights(raw: bytes) -> dict[str, Array]:
    """The bf16 tensors of a safetensors file as float32; every byte must be accounted for."""
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    assert header.pop("__metadata__") == {"format": "pt"}
    body, weights, end = raw[8 + size :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        assert entry["dtype"] == "BF16"
        start, stop = entry["data_offsets"]
        assert start == end, f"a gap before {name}"
        bits = np.frombuffer(body[start:stop], "<u2").astype(np.uint32) << 16
        weights[name] = bits.view(np.float32).reshape(entry["shape"])
        end = stop
    assert end == len(body)
    return weights


def expected_shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """What a Llama of this configuration consists of, in transformers' names."""
    hidden, mlp = c["hidden_size"], c["intermediate_size"]
    q, kv = (c[k] * c["head_dim"] for k in ("num_attention_heads", "num_key_value_heads"))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(c["num_hidden_layers"]):
        parts = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (q, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q),
            "mlp.gate_proj": (mlp, hidden),
            "mlp.up_proj": (mlp, hidden),
            "mlp.down_proj": (hidden, mlp),
        }
        shapes |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
    return shapes


class Reference:
    """A Llama in float32, one sequence, no cache."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Array]) -> None:
        self.config = config
        self.weights = weights

    def loss(self, ids: list[int]) -> float:
        """Mean loss in nats of predicting every token but the first."""
        logits = self.logits(ids[:-1])
        logits -= logits.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(logits).sum(axis=1))
        return float((log_sums - logits[np.arange(len(logits)), ids[1:]]).mean())

    def logits(self, ids: list[int]) -> Array:
        """[tokens] -> [tokens, vocabulary]."""
        embedding = self.weights["model.embed_tokens.weight"]
        x = embedding[ids]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            x = x + self._attention(self._norm(x, name + "input_layernorm"), name + "self_attn.")
            x = x + self._mlp(self._norm(x, name + "post_attention_layernorm"), name + "mlp.")
        return self._norm(x, "model.norm") @ embedding.T

    def _norm(self, x: Array, name: str) -> Array:
        mean_square = (x * x).mean(axis=-1, keepdims=True) + self.config["rms_norm_eps"]
        return x / np.sqrt(mean_square) * self.weights[name + ".weight"]

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self.weights[name + ".weight"].T

    def _mlp(self, x: Array, name: str) -> Array:
        gate = self._linear(x, name + "gate_proj")
        swish = gate / (1 + np.exp(-gate))
        return self._linear(swish * self._linear(x, name + "up_proj"), name + "down_proj")

    def _attention(self, x: Array, name: str) -> Array:
        c, length = self.config, len(x)
        heads = {
            part: self._linear(x, f"{name}{part}_proj").reshape(length, -1, c["head_dim"])
            for part in "qkv"
        }
        share = c["num_attention_heads"] // c["num_key_value_heads"]
        q, k = self._rotated(heads["q"]), np.repeat(self._rotated(heads["k"]), share, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(np.float32(c["head_dim"]))
        scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        y = np.einsum("hij,jhd->ihd", p, np.repeat(heads["v"], share, axis=1))
        return self._linear(y.reshape(length, -1), name + "o_proj")

    def _rotated(self, x: Array) -> Array:
        size = self.config["head_dim"]
        rate = self.config["rope_theta"] ** (-np.arange(0, size, 2, dtype=np.float32) / size)
        angle = np.arange(len(x), dtype=np.float32)[:, None, None] * rate.astype(np.float32)
        low, high = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    return value


@pytest.fixture(scope="module")
def weights() -> dict[str, Array]:
    return read_weights((MODEL / "model.safetensors").read_bytes())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def prompts() -> list[dict[str, Any]]:
    text = (DATA / "prompts.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# The model --------------------------------------------------------------------------------------


def test_weights_take_at_most_eight_megabytes() -> None:
    assert (MODEL / "model.safetensors").stat().st_size <= 8_000_000


def test_config_describes_a_small_grouped_query_llama(config: dict[str, Any]) -> None:
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["model_type"] == "llama"
    assert config["tie_word_embeddings"] is True
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["head_dim"] % 16 == 0
    assert 2048 <= config["vocab_size"] <= 4096
    assert config["max_position_embeddings"] in (1024, 2048)
    assert config["bos_token_id"] == config["eos_token_id"] == END_OF_TEXT


def test_weights_are_those_of_the_config(config: dict[str, Any], weights: dict[str, Array]) -> None:
    assert {name: w.shape for name, w in weights.items()} == expected_shapes(config)
    for name, w in weights.items():
        assert np.isfinite(w).all(), name
        assert w.std() > 0, name


def test_a_truncated_weight_file_is_noticed() -> None:
    raw = (MODEL / "model.safetensors").read_bytes()
    with pytest.raises((AssertionError, ValueError)):
        read_weights(raw[:-2])


def test_the_model_has_learnt_the_text(
    config: dict[str, Any],
    weights: dict[str, Array],
    tokenizer: Tokenizer,
    prompts: list[dict[str, Any]],
) -> None:
    """Chance is ln(vocabulary), about 8 nats; real text must be far below and shuffled text not."""
    model = Reference(config, weights)
    for group in ("ipaddress", "random"):
        text = next(p["prompt"] for p in prompts if p["group"] == group)
        ids = tokenizer.encode(text).ids
        shuffled = random.Random(1).sample(ids, len(ids))
        assert model.loss(ids) < 4.5, group
        assert model.loss(shuffled) > 6.5, group


# The tokenizer ----------------------------------------------------------------------------------


def test_tokenizer_and_config_agree(config: dict[str, Any], tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    told = json.loads((MODEL / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert told["model_max_length"] == config["max_position_embeddings"]
    assert tokenizer.token_to_id(told["eos_token"]) == END_OF_TEXT


def test_every_character_survives_the_tokenizer(tokenizer: Tokenizer) -> None:
    """Each code point, except the surrogates, which are no text."""
    points = itertools.chain(range(0xD800), range(0xE000, 0x110000))
    while chunk := "".join(map(chr, itertools.islice(points, 0x4000))):
        assert tokenizer.decode(tokenizer.encode(chunk).ids) == chunk


def test_random_mixtures_survive_the_tokenizer(tokenizer: Tokenizer) -> None:
    chance = random.Random(7)
    alphabet = "aZ09_ \t\n\r\x00\"'\\.,éßжשّ漢字🙂\u200d\u0301\ufffd\u2028\U0010ffff"
    for _ in range(500):
        text = "".join(chance.choices(alphabet, k=chance.randrange(80)))
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
        assert END_OF_TEXT not in ids


def test_the_end_marker_is_one_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|endoftext|>").ids == [END_OF_TEXT]


# The prompts ------------------------------------------------------------------------------------


def shared_tokens(tokenizer: Tokenizer, texts: list[str]) -> int:
    """How many leading tokens all texts have in common."""
    ids = [tokenizer.encode(text).ids for text in texts]
    columns = zip(*ids, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def grouped(prompts: list[dict[str, Any]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for p in prompts:
        groups.setdefault(p["group"], []).append(p["prompt"])
    return groups


def test_prompts_have_the_promised_fields(prompts: list[dict[str, Any]]) -> None:
    assert len(prompts) >= 64
    for p in prompts:
        sampled = {"samples", "temperature", "seed"} if p["group"] == "short" else set()
        assert set(p) == {"id", "group", "prompt", "max_tokens"} | sampled
        assert p["prompt"].strip()
        assert 16 <= p["max_tokens"] <= 96
    assert len({p["id"] for p in prompts}) == len(prompts)
    assert len({p["prompt"] for p in prompts}) == len(prompts)


def test_groups_share_a_long_preamble(prompts: list[dict[str, Any]], tokenizer: Tokenizer) -> None:
    groups = grouped(prompts)
    del groups["short"]
    assert 6 <= len(groups) <= 8
    for name, texts in groups.items():
        assert len(texts) >= 4, name
        assert shared_tokens(tokenizer, texts) >= 128, name


def test_strangers_do_not_share_a_preamble(
    prompts: list[dict[str, Any]], tokenizer: Tokenizer
) -> None:
    firsts = [texts[0] for texts in grouped(prompts).values()]
    assert shared_tokens(tokenizer, firsts) < 16
    assert shared_tokens(tokenizer, grouped(prompts)["short"]) < 16


def test_prompts_are_short_and_long_and_fit(
    prompts: list[dict[str, Any]], tokenizer: Tokenizer, config: dict[str, Any]
) -> None:
    lengths = [len(tokenizer.encode(p["prompt"]).ids) for p in prompts]
    assert min(lengths) < 32
    assert 600 < max(lengths) < 800
    assert len({p["max_tokens"] for p in prompts}) >= 5
    for p, length in zip(prompts, lengths, strict=True):
        assert length + p["max_tokens"] <= config["max_position_embeddings"], p["id"]


def test_the_installed_package_carries_the_same_data() -> None:
    installed = importlib.resources.files("pagedkv") / "data"
    shipped = ["prompts.jsonl", "LICENSE-PSF.txt"]
    shipped += [
        f"docstrings-3m/{name}"
        for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md")
    ]
    for name in shipped:
        assert installed.joinpath(name).read_bytes() == (DATA / name).read_bytes(), name
