"""Where the engine computes: NumPy arrays on the CPU, or CuPy arrays on a GPU.

The model is written against the functions that the two modules share, and gets them as `xp`. What
differs is gathered in an object that the model holds as `arrays`:

    device    "cpu" or "cuda"
    xp        the array module
    order     how rows of tokens lie in memory, "F" or "C" (see model.py)
    part      how many numbers a call takes at once where each stands for itself
    stream    a context: what is computed in it goes to the stream that the cache works in

Type checkers know no type that both modules share, so an array of either is an `Array`; its shape
stands in the docstrings. CuPy is imported when device "cuda" is asked for, and only then.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pagedkv import Cache, why_absent
from pagedkv.errors import DeviceFailed

from .errors import EngineError

Array: TypeAlias = Any
Order: TypeAlias = Literal["C", "F"]

HOW_TO_INSTALL = (
    "device cuda needs CuPy, which is not installed: pip install cupy-cuda13x, which is also what"
    " the extra `cuda` of this package brings"
)


class HostArrays:
    """NumPy."""

    device: ClassVar[str] = "cpu"
    order: Order = "F"
    # Scratch of this many numbers stays in a cache of the processor.
    part = 1 << 16

    def __init__(self) -> None:
        self.xp: Any = np
        self.stream: AbstractContextManager[Any] = nullcontext()

    def join(self, cache: Cache) -> None:
        """Make `cache` work in the order in which these arrays are computed."""

    def to_host(self, array: Array) -> NDArray[Any]:
        """The values as a NumPy array. On a GPU this waits for them."""
        result: NDArray[Any] = array
        return result


class GpuArrays(HostArrays):
    """CuPy, in the stream that is current when this is made.

    Memory of an array that is dropped goes back to a pool of that stream, so what takes it next
    comes later in the stream than what used it last, the kernels of the cache included.
    """

    device: ClassVar[str] = "cuda"
    order: Order = "C"
    part = 1 << 62  # launches cost more than scratch

    def __init__(self) -> None:
        self.xp = _working_cupy()
        self.stream = self.xp.cuda.get_current_stream()

    def join(self, cache: Cache) -> None:
        cache.use_stream(self.stream)

    def to_host(self, array: Array) -> NDArray[Any]:
        try:
            result: NDArray[Any] = array.get()
        except self.xp.cuda.runtime.CUDARuntimeError as error:
            raise DeviceFailed(f"the GPU failed: {error}") from error
        return result


def arrays_for(device: str) -> HostArrays:
    """The arrays of "cpu" or "cuda". Raises EngineError that says what is missing for the latter:
    the CUDA device of the library, CuPy, or something that CuPy needs."""
    if device == "cpu":
        return HostArrays()
    if device != "cuda":
        raise EngineError(f"device {device!r} is unknown; known are cpu, cuda")
    reason = why_absent("cuda")
    if reason is not None:
        raise EngineError(f"device cuda: {reason}")
    return GpuArrays()


def _working_cupy() -> Any:
    """CuPy, once it has computed something: that takes a driver, a compiler and its headers."""
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise EngineError(HOW_TO_INSTALL) from error
    try:
        worked = int((cupy.zeros(1, np.float32) + np.float32(1)).get()[0]) == 1
    except Exception as error:  # of many kinds: of CUDA, of loading libraries, of compiling
        raise EngineError(f"device cuda: CuPy does not work here: {error}") from error
    if not worked:
        raise EngineError("device cuda: CuPy does not work here: it cannot add 1")
    return cupy
