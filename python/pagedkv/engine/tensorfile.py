"""Reads one `.safetensors` file into float32 arrays, trusting nothing in it.

    offset 0        8                 8 + header_bytes                      end of file
           | u64 LE | JSON header ... | tensor data, back to back, no holes |
                      {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}

Why not the `safetensors` package: its NumPy side has no bfloat16, the type most checkpoints use,
and would need torch for it; the container itself is a page of code.

Must hold after `TensorFile(path)`: every range lies inside the file, has exactly the bytes that
its shape and type need, and overlaps no other; together they cover the data. Only then is data
read.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError

HEADER_BYTES_MAX = 100 << 20

# Bytes of one element, for every type of the container format.
ELEMENT_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOAT_DTYPES = ("F32", "F16", "BF16")


class TensorInfo(NamedTuple):
    """Where a tensor lies: type name, shape, and the half-open byte range in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """The validated directory of one file. `tensors` maps a name to its TensorInfo.

    Raises CheckpointError, naming file and tensor, when anything about the container is off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors = _directory(path)

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor as a fresh, contiguous float32 array of its own shape.

        Raises CheckpointError for a type that is no float weight and for NaN or infinite values:
        both would run and give nonsense.
        """
        info = self.tensors[name]
        self.require_float(name)
        with self.path.open("rb") as file:
            file.seek(info.begin)
            raw = file.read(info.end - info.begin)
        if len(raw) != info.end - info.begin:
            raise CheckpointError(f"{self.path}: tensor {name} was cut off while it was read")
        values = _to_float32(raw, info.dtype).reshape(info.shape)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.path}: tensor {name} holds NaN or infinite values")
        return values

    def require_float(self, name: str) -> None:
        """Raise CheckpointError unless the tensor's type is one that `read` converts."""
        dtype = self.tensors[name].dtype
        if dtype not in FLOAT_DTYPES:
            known = ", ".join(FLOAT_DTYPES)
            raise CheckpointError(
                f"{self.path}: tensor {name} has dtype {dtype}; weights must be one of {known}"
            )


def _to_float32(raw: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "F32":
        return np.frombuffer(raw, "<f4").astype(np.float32)
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32)
    # A bfloat16 is the upper half of a float32.
    bits = np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)
    values: NDArray[np.float32] = bits.view(np.float32)
    return values


def _directory(path: Path) -> dict[str, TensorInfo]:
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = _header_bytes(path, file.read(8), file_bytes)
            header = _parse_header(path, file.read(header_bytes))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    data_begin = 8 + header_bytes
    header.pop("__metadata__", None)
    tensors = {name: _tensor_info(path, name, entry, data_begin) for name, entry in header.items()}
    _check_cover(path, tensors, data_begin, file_bytes)
    return tensors


def _header_bytes(path: Path, prefix: bytes, file_bytes: int) -> int:
    if len(prefix) < 8:
        raise CheckpointError(f"{path}: {file_bytes} bytes is too short for a safetensors file")
    header_bytes = int.from_bytes(prefix, "little")
    if header_bytes > min(HEADER_BYTES_MAX, file_bytes - 8):
        raise CheckpointError(
            f"{path}: the header claims {header_bytes} bytes in a file of {file_bytes}:"
            " truncated, or no safetensors file"
        )
    return header_bytes


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in pairs:
            if name in result:
                raise CheckpointError(f"{path}: the header names {name!r} twice")
            result[name] = value
        return result

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object")
    return header


def _tensor_info(path: Path, name: str, entry: Any, data_begin: int) -> TensorInfo:
    where = f"{path}: tensor {name}"
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: its header entry is not an object")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        raise CheckpointError(f"{where}: unknown dtype {dtype!r}")
    if not _is_sizes(shape):
        raise CheckpointError(f"{where}: shape {shape!r} is not a list of sizes")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where}: data_offsets {offsets!r} are not [begin, end]")
    need = math.prod(shape) * ELEMENT_BYTES[dtype]
    if offsets[1] - offsets[0] != need:
        raise CheckpointError(
            f"{where}: {dtype} {shape} needs {need} bytes, data_offsets hold"
            f" {offsets[1] - offsets[0]}"
        )
    return TensorInfo(dtype, tuple(shape), data_begin + offsets[0], data_begin + offsets[1])


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_cover(
    path: Path, tensors: dict[str, TensorInfo], data_begin: int, file_bytes: int
) -> None:
    """Ranges in file order must follow each other exactly and end at the end of the file."""
    expected = data_begin
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.end > file_bytes:
            raise CheckpointError(
                f"{path}: tensor {name} ends at byte {info.end} of a file of {file_bytes}:"
                " the file is truncated"
            )
        if info.begin < expected:
            raise CheckpointError(f"{path}: tensor {name} overlaps the one before it")
        if info.begin > expected:
            raise CheckpointError(f"{path}: {info.begin - expected} stray bytes before {name}")
        expected = info.end
    if expected != file_bytes:
        raise CheckpointError(f"{path}: {file_bytes - expected} stray bytes behind the last tensor")
