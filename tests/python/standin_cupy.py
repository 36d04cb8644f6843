"""A stand-in for CuPy over the emulated CUDA library: what the engine uses of it, and no more.

Arrays lie in memory of the emulated device. As with CuPy, NumPy arrays and those of a device never
mix but through asarray() and get(), new memory holds anything (here NaN), work goes to the current
stream, and matmul writes to C order alone. Unlike CuPy nothing is deferred here: before an array is
touched the current stream is waited for, which does what the cache has put into it. A cache that
works in another stream, or an array that is dropped too early, gives NaN or ends the process.
Products are those of single rows, so that none depends on its neighbours whatever BLAS there is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Stream:
    """A stream of the emulated device. In a `with` block it is the current one."""

    def __init__(self, library: Any, ptr: int) -> None:
        self.library = library
        self.ptr = ptr
        self.entered = 0

    def synchronize(self) -> None:
        assert self.library.pkvi_gpu_stream_wait(ctypes.c_void_p(self.ptr)) == 0

    def __enter__(self) -> Stream:
        self.entered += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.entered -= 1


class _Memory:
    """Memory of the device, given back when the last array in it is gone."""

    def __init__(self, stream: Stream, nbytes: int) -> None:
        self.stream = stream
        self.pointer = ctypes.c_void_p()
        size = ctypes.c_uint64(max(nbytes, 1))
        assert stream.library.pkvi_gpu_alloc(size, ctypes.byref(self.pointer)) == 0

    def __del__(self) -> None:
        self.stream.synchronize()  # a pool hands memory on in the order of the stream
        self.stream.library.pkvi_gpu_free(self.pointer)


class ndarray:  # noqa: N801 - the name that CuPy has
    """An array of the device, or a view of one."""

    __array_ufunc__ = None  # NumPy's operators leave it alone

    def __init__(self, memory: _Memory, values: np.ndarray) -> None:
        self._memory = memory
        self._values = values

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface = self._values.__array_interface__
        return {name: interface[name] for name in ("shape", "typestr", "data", "strides")} | {
            "version": 3
        }

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("an array of the device does not become one of NumPy by itself")

    def get(self) -> np.ndarray:
        return self._host().copy()

    def _host(self) -> np.ndarray:
        self._memory.stream.synchronize()
        return self._values

    @property
    def shape(self) -> tuple[int, ...]:
        return self._values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._values.dtype

    @property
    def T(self) -> ndarray:  # noqa: N802 - likewise
        return ndarray(self._memory, self._values.T)

    def __len__(self) -> int:
        return len(self._values)

    def reshape(self, *shape: int) -> ndarray:
        return self._of(self._host().reshape(*shape))

    def astype(self, dtype: Any) -> ndarray:
        return self._of(self._host().astype(dtype))

    def __getitem__(self, place: Any) -> ndarray:
        assert not isinstance(place, np.ndarray), "an index on the host"
        index = place._host() if isinstance(place, ndarray) else place
        return self._of(self._host()[index])

    def __setitem__(self, place: Any, values: Any) -> None:
        self._host()[place] = _operand(values)

    def _of(self, values: np.ndarray) -> ndarray:
        """A view of this array, or a copy where NumPy had to make one."""
        if np.may_share_memory(values, self._values):
            return ndarray(self._memory, values)
        return _on_device(self._memory.stream, values)

    def __add__(self, other: Any) -> ndarray:
        return _on_device(self._memory.stream, self._host() + _operand(other))

    def __mul__(self, other: Any) -> ndarray:
        return _on_device(self._memory.stream, self._host() * _operand(other))

    def __truediv__(self, other: Any) -> ndarray:
        return _on_device(self._memory.stream, self._host() / _operand(other))

    def __iadd__(self, other: Any) -> ndarray:
        np.add(self._host(), _operand(other), out=self._values)
        return self

    def __imul__(self, other: Any) -> ndarray:
        np.multiply(self._host(), _operand(other), out=self._values)
        return self


ndarray.__module__ = "cupy"  # by which pagedkv knows it


def _operand(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._host()
    if isinstance(value, np.ndarray) or not np.isscalar(value):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _allocate(stream: Stream, shape: Any, dtype: Any, order: str) -> ndarray:
    kind = np.dtype(dtype)
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    nbytes = int(np.prod(sizes)) * kind.itemsize
    memory = _Memory(stream, nbytes)
    raw = (ctypes.c_char * nbytes).from_address(memory.pointer.value or 0)
    return ndarray(memory, np.frombuffer(raw, kind).reshape(sizes, order=order))  # type: ignore[call-overload]


def _on_device(stream: Stream, values: np.ndarray, order: str = "K") -> ndarray:
    is_fortran = values.flags.f_contiguous and not values.flags.c_contiguous
    chosen = ("F" if is_fortran else "C") if order == "K" else order
    array = _allocate(stream, values.shape, values.dtype, chosen)
    array._values[...] = values
    return array


def make_module(library_path: Path) -> ModuleType:
    """The module, to be put into sys.modules as "cupy"."""
    library = ctypes.CDLL(str(library_path))
    library.pkvi_gpu_free.argtypes = [ctypes.c_void_p]
    handle = ctypes.c_void_p()
    assert library.pkvi_gpu_stream_open(ctypes.byref(handle)) == 0
    stream = Stream(library, handle.value or 0)

    def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        return _allocate(stream, shape, dtype, order)

    def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        array = empty(shape, dtype, order)
        array._values[...] = 0
        return array

    def asarray(values: Any, dtype: Any = None, order: str = "K") -> ndarray:
        if not isinstance(values, ndarray):
            return _on_device(stream, np.asarray(values, dtype), order)
        kept = np.asarray(values._host(), dtype, order=order)  # type: ignore[call-overload]
        return values._of(kept)

    def ascontiguousarray(values: Any) -> ndarray:
        return asarray(values, order="C")

    def elementwise(function: Any) -> Callable[..., ndarray]:
        def call(*operands: Any, out: ndarray | None = None) -> ndarray:
            values = [_operand(one) for one in operands]
            if out is None:
                return _on_device(stream, function(*values))
            function(*values, out=out._host())
            return out

        return call

    def mean(array: ndarray, axis: int, keepdims: bool) -> ndarray:
        assert array._values.flags.c_contiguous, "rows would be summed by another kernel"
        return _on_device(stream, np.mean(array._host(), axis=axis, keepdims=keepdims))

    def matmul(a: ndarray, b: ndarray, out: ndarray) -> ndarray:
        assert out._values.flags.c_contiguous
        product_rows.append(len(a))
        matrix = b._host()
        for row, result in zip(a._host(), out._host(), strict=True):
            result[...] = row @ matrix if row.any() else 0  # zeros: padding
        return out

    product_rows: list[int] = []
    module = ModuleType("cupy")
    names = ("add", "cos", "divide", "exp", "multiply", "negative", "sin", "sqrt", "subtract")
    vars(module).update({name: elementwise(getattr(np, name)) for name in names})
    vars(module).update(
        empty=empty, zeros=zeros, asarray=asarray, ascontiguousarray=ascontiguousarray, mean=mean,
        matmul=matmul, float32=np.float32, ndarray=ndarray, product_rows=product_rows,
    )  # fmt: skip
    runtime = SimpleNamespace(CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}))
    module.cuda = SimpleNamespace(get_current_stream=lambda: stream, runtime=runtime)  # type: ignore[attr-defined]
    return module
