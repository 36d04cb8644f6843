"""Folders: whole and sharded files load alike, and nothing incomplete or left over passes."""

import json
from pathlib import Path

import numpy as np
import pytest
from pagedkv.engine.checkpoint import load_checkpoint
from pagedkv.engine.errors import CheckpointError
from tiny import CONFIG, random_weights, write_checkpoint, write_tensors

INDEX = "model.safetensors.index.json"


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_whole_and_sharded(tmp_path: Path, shards: int) -> None:
    weights = write_checkpoint(tmp_path, shards=shards)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.weights.keys() == weights.keys()
    assert checkpoint.parameters == sum(weight.size for weight in weights.values())
    for name, weight in weights.items():
        np.testing.assert_array_equal(checkpoint.weights[name], weight)


def test_one_file_of_another_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    load_checkpoint(str(tmp_path))


def test_missing_things(tmp_path: Path) -> None:
    refuse(tmp_path / "none", "no such folder")
    refuse(tmp_path, r"config\.json: cannot be read")
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    refuse(tmp_path, r"no model\.safetensors and no")
    write_tensors(tmp_path / "a.safetensors", {})
    write_tensors(tmp_path / "b.safetensors", {})
    refuse(tmp_path, "several .safetensors files but no")


def test_each_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path)
    for name in weights:
        part = {other: weight for other, weight in weights.items() if other != name}
        write_tensors(tmp_path / "model.safetensors", part)
        refuse(tmp_path, f"tensor {name} is missing")


def test_wrong_shape_type_and_leftovers(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    name = "model.layers.1.mlp.down_proj.weight"
    write_tensors(file, {**weights, name: weights[name].T})
    refuse(tmp_path, rf"{name} has shape \[48, 32\]; config.json asks for \[32, 48\]")
    write_tensors(file, weights, "F64")
    refuse(tmp_path, "has dtype F64; weights must be one of F32, F16, BF16")
    bias = "model.layers.0.self_attn.q_proj.bias"
    write_tensors(file, {**weights, bias: np.zeros(64)})
    refuse(tmp_path, f"tensor {bias} is not used by a llama model")
    write_tensors(file, {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8)})
    load_checkpoint(tmp_path)


def test_tied_embedding(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in weights
    assert "lm_head.weight" not in load_checkpoint(tmp_path).weights
    copy = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
    write_tensors(tmp_path / "model.safetensors", copy)
    load_checkpoint(tmp_path)


def test_nothing_is_read_before_everything_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, shards=3)
    last = tmp_path / "model-00003-of-00003.safetensors"
    last.write_bytes(last.read_bytes()[:-1])

    def must_not_run(*_: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr("pagedkv.engine.tensorfile.TensorFile.read", must_not_run)
    refuse(tmp_path, "model-00003-of-00003.safetensors: tensor .* is truncated")
    write_checkpoint(tmp_path, shards=3)
    with pytest.raises(AssertionError, match="data was read"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map is missing"),
        ({"weight_map": []}, "weight_map is missing"),
        ({"weight_map": {"x": "../secret.safetensors"}}, "no plain file name"),
        ({"weight_map": {"x": 3}}, "no plain file name"),
        ({"weight_map": {"x": "none.safetensors"}}, "none.safetensors: cannot be read"),
    ],
)
def test_bad_index(tmp_path: Path, index: object, message: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / INDEX).write_text(json.dumps(index))
    refuse(tmp_path, message)


def test_index_names_a_tensor_that_its_file_lacks(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=2)
    index = json.loads((tmp_path / INDEX).read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "model-00002-of-00002.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    refuse(tmp_path, f"model-00002-of-00002.safetensors: tensor {name} is missing")


def test_random_weights_cover_biases() -> None:
    names = random_weights({**CONFIG, "attention_bias": True, "mlp_bias": True})
    assert "model.layers.0.mlp.up_proj.bias" in names
    assert "model.layers.0.self_attn.o_proj.bias" in names
