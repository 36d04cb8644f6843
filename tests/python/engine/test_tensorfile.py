"""The container: what is good is read exactly, what is not is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from pagedkv.engine.errors import CheckpointError
from pagedkv.engine.tensorfile import TensorFile
from tiny import encode, write_container, write_tensors

VALUES = np.linspace(-3, 3, 12).reshape(3, 4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("F32", 1e-7), ("F16", 1e-3), ("BF16", 1e-2)])
def test_float_types_become_float32(tmp_path: Path, dtype: str, tolerance: float) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": VALUES, "y": VALUES[0]}, dtype)
    file = TensorFile(path)
    assert file.tensors["x"].shape == (3, 4)
    read = file.read("x")
    assert read.dtype == np.float32
    assert read.shape == (3, 4)
    np.testing.assert_allclose(read, VALUES, rtol=tolerance)
    np.testing.assert_array_equal(file.read("y"), read[0])


def test_bfloat16_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    values = np.array([1.0, -2.5, 3.140625, 2.0**-126, -0.0, 2.0**127])
    write_tensors(path, {"x": values}, "BF16")
    np.testing.assert_array_equal(TensorFile(path).read("x"), values.astype(np.float32))


def entry(begin: int, end: int, dtype: str = "F32", shape: object = (2,)) -> dict[str, object]:
    shape = list(shape) if isinstance(shape, tuple) else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


EIGHT = b"\0" * 8

BAD = {
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12, "b overlaps"),
    "same range": ({"a": entry(0, 8), "b": entry(0, 8)}, EIGHT, "b overlaps"),
    "hole": ({"a": entry(4, 12)}, b"\0" * 12, "4 stray bytes before a"),
    "tail": ({"a": entry(0, 8)}, b"\0" * 9, "1 stray bytes behind"),
    "truncated": ({"a": entry(0, 8)}, b"\0" * 7, "a ends at byte .* truncated"),
    "size": ({"a": entry(0, 8, shape=(3,))}, EIGHT, r"a: F32 \[3\] needs 12 bytes"),
    "huge": ({"a": entry(0, 8, shape=(2**40, 2**40))}, EIGHT, "a: F32 .* needs"),
    "backwards": ({"a": entry(8, 0)}, EIGHT, "a: data_offsets"),
    "negative": ({"a": entry(-8, 0)}, EIGHT, "a: data_offsets"),
    "negative shape": ({"a": entry(0, 8, shape=(-2,))}, EIGHT, "a: shape"),
    "bool shape": ({"a": entry(0, 8, shape=(True, 2))}, EIGHT, "a: shape"),
    "shape": ({"a": entry(0, 8, shape="2")}, EIGHT, "a: shape"),
    "dtype": ({"a": entry(0, 8, dtype="F7")}, EIGHT, "a: unknown dtype 'F7'"),
    "dtype list": ({"a": entry(0, 8, dtype=["F32"])}, EIGHT, "a: unknown dtype"),
    "entry": ({"a": 3}, b"", "a: its header entry"),
    "three offsets": (
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}, EIGHT, "a: data_offsets",
    ),
    "list": ([], b"", "not a JSON object"),
    "not JSON": (b"{nope", b"", "not JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", "not JSON"),
    "nested": (b"[" * 100000, b"", "not JSON"),
    "twice": (b'{"a": 1, "a": 2}', b"", "names 'a' twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_directory_is_refused(tmp_path: Path, case: str) -> None:
    header, data, message = BAD[case]
    path = tmp_path / "bad.safetensors"
    write_container(path, header, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        TensorFile(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"1234567", (1 << 60).to_bytes(8, "little") + b"{}"])
def test_no_container_at_all(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=str(path)):
        TensorFile(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": VALUES, "y": VALUES})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            TensorFile(path)
    path.write_bytes(whole)
    TensorFile(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        TensorFile(tmp_path / "none")


def test_integer_weights_and_nonfinite_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": VALUES}, "I64")
    with pytest.raises(CheckpointError, match="tensor x has dtype I64"):
        TensorFile(path).read("x")
    for bad in (np.nan, np.inf):
        header = json.dumps({"x": entry(0, 8)}).encode()
        write_container(path, header, encode(np.array([1.0, bad]), "F32"))
        with pytest.raises(CheckpointError, match="tensor x holds NaN"):
            TensorFile(path).read("x")
