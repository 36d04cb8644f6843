"""Loads a Hugging Face checkpoint folder: `config.json` and its `.safetensors` files.

    folder/config.json                      what to compute
    folder/model.safetensors                the weights, or
    folder/model.safetensors.index.json     {"weight_map": {tensor: file}} over several files

The order is the point: configuration, then every file's directory, then names, shapes and types
of all tensors, and only when all agree the data. A folder that lacks one tensor in its last shard
is refused in milliseconds, not after gigabytes were read. Tensors that the architecture does not
use are refused too, since a bias or a quantisation scale left out would change the output without
a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig, load_config, read_json
from .errors import CheckpointError
from .tensorfile import TensorFile

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A validated, loaded checkpoint. `weights` maps Hugging Face names to float32 arrays."""

    folder: Path
    config: ModelConfig
    weights: dict[str, NDArray[np.float32]]

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.size for weight in self.weights.values())


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Load `folder`.

    Raises CheckpointError that names the file, and the field or tensor, for whatever is missing,
    truncated, overlapping, of the wrong shape or type, or not supported.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    config = load_config(folder)
    places = _places(folder)
    _check_tensors(folder, places, expected_shapes(config), config)
    weights = {name: places[name].read(name) for name in expected_shapes(config)}
    return Checkpoint(folder, config, weights)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of this configuration has."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab, config.hidden),
        "model.norm.weight": (config.hidden,),
    }
    if not config.tied:
        shapes["lm_head.weight"] = (config.vocab, config.hidden)
    for layer in range(config.layers):
        for name, shape in _layer_shapes(config):
            shapes[f"model.layers.{layer}.{name}"] = shape
    return shapes


def _layer_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    query, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    hidden, inner = config.hidden, config.intermediate
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    if config.qk_norm:
        yield "self_attn.q_norm.weight", (config.head_dim,)
        yield "self_attn.k_norm.weight", (config.head_dim,)
    for name, rows, columns, bias in (
        ("self_attn.q_proj", query, hidden, config.qkv_bias),
        ("self_attn.k_proj", kv, hidden, config.qkv_bias),
        ("self_attn.v_proj", kv, hidden, config.qkv_bias),
        ("self_attn.o_proj", hidden, query, config.out_bias),
        ("mlp.gate_proj", inner, hidden, config.mlp_bias),
        ("mlp.up_proj", inner, hidden, config.mlp_bias),
        ("mlp.down_proj", hidden, inner, config.mlp_bias),
    ):
        yield f"{name}.weight", (rows, columns)
        if bias:
            yield f"{name}.bias", (rows,)


def _places(folder: Path) -> dict[str, TensorFile]:
    """Which file holds which tensor. Opens and validates every file's directory."""
    if (folder / SINGLE_FILE).is_file():
        return _whole_file(folder / SINGLE_FILE)
    if (folder / INDEX_FILE).is_file():
        return _sharded(folder)
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return _whole_file(found[0])
    if found:
        raise CheckpointError(f"{folder}: several .safetensors files but no {INDEX_FILE}")
    raise CheckpointError(f"{folder}: no {SINGLE_FILE} and no {INDEX_FILE}")


def _whole_file(path: Path) -> dict[str, TensorFile]:
    file = TensorFile(path)
    return dict.fromkeys(file.tensors, file)


def _sharded(folder: Path) -> dict[str, TensorFile]:
    index_path = folder / INDEX_FILE
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path}: weight_map is missing or no object")
    files: dict[str, TensorFile] = {}
    places: dict[str, TensorFile] = {}
    for name, file_name in weight_map.items():
        # A name with a separator could point anywhere on the machine.
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise CheckpointError(f"{index_path}: {name} is in {file_name!r}, no plain file name")
        if file_name not in files:
            files[file_name] = TensorFile(folder / file_name)
        if name not in files[file_name].tensors:
            raise CheckpointError(f"{folder / file_name}: tensor {name} is missing")
        places[name] = files[file_name]
    return places


def _check_tensors(
    folder: Path,
    places: dict[str, TensorFile],
    expected: dict[str, tuple[int, ...]],
    config: ModelConfig,
) -> None:
    for name, shape in expected.items():
        if name not in places:
            raise CheckpointError(f"{folder}: tensor {name} is missing")
        file = places[name]
        found = file.tensors[name].shape
        if found != shape:
            raise CheckpointError(
                f"{file.path}: tensor {name} has shape {list(found)}; config.json asks for"
                f" {list(shape)}"
            )
        file.require_float(name)
    for name in sorted(set(places) - set(expected)):
        if not _is_redundant(name, config):
            raise CheckpointError(
                f"{places[name].path}: tensor {name} is not used by a {config.family} model with"
                " this config.json; leaving it out would change the output"
            )


def _is_redundant(name: str, config: ModelConfig) -> bool:
    """Old checkpoints store rotary frequencies, and tied ones a second copy of the embedding."""
    tied_copy = config.tied and name == "lm_head.weight"
    return tied_copy or name.endswith(".rotary_emb.inv_freq")
