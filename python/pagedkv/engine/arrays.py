"""Which array module computes: numpy on the CPU, cupy on a GPU.

The model is written against the functions the two share and gets the module as `xp`. Type checkers
know no common type, so an array of either is an `Array`; its shape stands in the docstrings.
"""

from __future__ import annotations

import importlib
from typing import Any, TypeAlias

import numpy as np

from .errors import EngineError

Array: TypeAlias = Any


def array_module(device: str) -> Any:
    """numpy for "cpu", cupy for "cuda". Raises EngineError when there is no cupy or no GPU."""
    if device == "cpu":
        return np
    if device != "cuda":
        raise EngineError(f"device {device!r} is unknown; known are cpu, cuda")
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise EngineError("device cuda needs the cupy package, which is not installed") from error
    if not cupy.cuda.is_available():
        raise EngineError("device cuda: cupy finds no usable GPU")
    return cupy


def to_host(array: Array) -> Array:
    """The same values as a numpy array; a numpy array itself is returned as it is."""
    return array if isinstance(array, np.ndarray) else array.get()
