"""Small random checkpoints written here, byte by byte: no torch, no safetensors package needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pagedkv.engine.checkpoint import expected_shapes
from pagedkv.engine.config import Fields, parse_config

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "eos_token_id": None,
}


def encode(values: np.ndarray, dtype: str) -> bytes:
    """The little-endian bytes of `values` as `dtype`; bfloat16 by cutting the lower half off."""
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8"}
    return values.astype(kinds[dtype]).tobytes()


def write_tensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    """A valid .safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        raw = encode(values, dtype)
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += raw
    write_container(path, header, data)


def write_container(path: Path, header: Any, data: bytes) -> None:
    """Header and data as they are, valid or not."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for every tensor that `config` asks for, wide enough for context to matter."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in expected_shapes(parse_config(Fields("tiny", config))).items():
        values = 0.3 * generator.standard_normal(shape)
        weights[name] = (values + ("norm" in name)).astype(np.float32)
    return weights


def write_checkpoint(
    folder: Path, dtype: str = "F32", seed: int = 0, shards: int = 1, **overrides: Any
) -> dict[str, np.ndarray]:
    """Write a checkpoint folder; returns its weights as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **overrides}
    (folder / "config.json").write_text(json.dumps(config))
    weights = random_weights(config, seed)
    if shards == 1:
        write_tensors(folder / "model.safetensors", weights, dtype)
        return weights
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(weights.items())[shard::shards])
        write_tensors(folder / name, part, dtype)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


def write_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer.json without merges: one token per byte. Returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocab)
