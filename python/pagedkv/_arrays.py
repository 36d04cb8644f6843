"""Arrays of other libraries as pkv_array: where their memory is, never a copy of it.

Taken in this order: NumPy arrays, anything with a buffer or `__array_interface__`, CPU tensors of
torch, anything with DLPack. bfloat16, which NumPy does not have, comes as a torch tensor, as an
array of the dtype of ml_dtypes, or as uint16 bit patterns together with dtype="bf16".

For a cache on a GPU: CUDA tensors of torch, anything with `__cuda_array_interface__` (CuPy, Numba),
and with CuPy installed anything with DLPack.

Every refusal is an InvalidArgument that names the argument and says what was expected and what
came.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np

from ._ffi import ffi, lib
from .errors import InvalidArgument

__all__ = [
    "CACHE_DTYPES",
    "DTYPES",
    "View",
    "cache_dtype_code",
    "dtype_code",
    "expect",
    "like",
    "numpy_dtype",
    "overlap",
    "pack",
]

# The names of element types everywhere in Python, and enum pkv_dtype: of arrays, and of caches.
DTYPES: dict[str, int] = {"f32": lib.PKV_F32, "f16": lib.PKV_F16, "bf16": lib.PKV_BF16}
CACHE_DTYPES: dict[str, int] = {
    **DTYPES,
    "i8": lib.PKV_I8,
    "e4m3": lib.PKV_E4M3,
    "e5m2": lib.PKV_E5M2,
    "i4": lib.PKV_I4,
}

_NUMPY_CODES = {np.dtype(np.float32): lib.PKV_F32, np.dtype(np.float16): lib.PKV_F16}
_TORCH_CODES = {
    "torch.float32": lib.PKV_F32,
    "torch.float16": lib.PKV_F16,
    "torch.bfloat16": lib.PKV_BF16,
}
_NUMPY_DTYPES = {lib.PKV_F32: np.float32, lib.PKV_F16: np.float16, lib.PKV_BF16: np.uint16}
_DLPACK_HOST_DEVICES = (1, 3)  # kDLCPU and kDLCUDAHost
_DLPACK_CUDA_DEVICES = (2, 13)  # kDLCUDA and kDLCUDAManaged
_CUDA_CODES = {"<f4": lib.PKV_F32, "<f2": lib.PKV_F16}  # of __cuda_array_interface__
_EXPECTED_DTYPES = 'float32, float16 or bfloat16 (a torch tensor, or uint16 with dtype="bf16")'


class View(NamedTuple):
    """Where the elements of an array are. Valid as long as `owner` lives."""

    owner: Any
    pointer: int
    dtype: int  # enum pkv_dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes


def dtype_code(name: str, value: str | None) -> int:
    """enum pkv_dtype of the name of a type that arrays can have."""
    return _code(name, value, DTYPES)


def cache_dtype_code(name: str, value: str | None) -> int:
    """enum pkv_dtype of the name of a type that K and V can be stored in."""
    return _code(name, value, CACHE_DTYPES)


def _code(name: str, value: str | None, known: dict[str, int]) -> int:
    code = known.get(value) if isinstance(value, str) else None
    if code is None:
        raise InvalidArgument(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    return code


def numpy_dtype(code: int) -> np.dtype[Any]:
    """The NumPy dtype that holds elements of enum pkv_dtype; uint16 bit patterns for bf16."""
    return np.dtype(_NUMPY_DTYPES[code])


def view(
    name: str,
    array: Any,
    dtype: str | None = None,
    writable: bool = False,
    device: str = "cpu",
) -> View:
    """Find the memory of `array`, the argument called `name`, for a cache on `device`."""
    if device == "cuda":
        return _view_on_gpu(name, array, dtype, writable)
    if isinstance(array, np.ndarray):
        return _view_numpy(name, array, dtype, writable)
    if _is_torch(array):
        return _view_torch(name, array, dtype, "cpu")
    return _view_numpy(name, _as_numpy(name, array), dtype, writable)


def _as_numpy(name: str, array: Any) -> np.ndarray[Any, Any]:
    """Wrap a foreign array without copying it, or say why that is impossible."""
    if hasattr(array, "__cuda_array_interface__"):
        raise _not_on_host(name, array, "a CUDA device")
    if hasattr(array, "__array_interface__"):
        return np.asarray(array)
    try:
        return np.asarray(memoryview(array))
    except TypeError:
        pass
    if not hasattr(array, "__dlpack_device__"):
        kind = type(array).__name__
        raise InvalidArgument(f"{name}: expected an array, got {kind}, which shares no memory")
    device = int(array.__dlpack_device__()[0])
    if device not in _DLPACK_HOST_DEVICES:
        raise _not_on_host(name, array, f"DLPack device type {device}")
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError) as reason:
        raise InvalidArgument(f"{name}: expected {_EXPECTED_DTYPES}; DLPack: {reason}") from reason


def _not_on_host(name: str, array: object, where: str) -> InvalidArgument:
    kind = f"{type(array).__module__}.{type(array).__name__}"
    return InvalidArgument(
        f"{name}: expected host memory, since the cache is on the CPU; got {kind} on {where}"
    )


def _is_torch(array: Any) -> bool:
    return hasattr(array, "data_ptr") and hasattr(array, "is_contiguous")


def _view_torch(name: str, tensor: Any, dtype: str | None, device: str) -> View:
    if tensor.device.type != device:
        wrong = _not_on_host if device == "cpu" else _not_on_gpu
        raise wrong(name, tensor, str(tensor.device))
    if str(tensor.layout) != "torch.strided":
        raise InvalidArgument(f"{name}: expected a dense tensor, got {tensor.layout}")
    torch_dtype = str(tensor.dtype)
    code = _TORCH_CODES.get(torch_dtype)
    code = _resolve_dtype(name, code, torch_dtype == "torch.uint16", torch_dtype, dtype)
    strides = tuple(stride * tensor.element_size() for stride in tensor.stride())
    return View(tensor, tensor.data_ptr(), code, tuple(tensor.shape), strides)


def _not_on_gpu(name: str, array: object, where: str) -> InvalidArgument:
    kind = f"{type(array).__module__}.{type(array).__name__}"
    return InvalidArgument(
        f"{name}: expected memory of a GPU, since the cache is on one; got {kind} on {where}"
    )


def _view_on_gpu(name: str, array: Any, dtype: str | None, writable: bool) -> View:
    if _is_torch(array):
        return _view_torch(name, array, dtype, "cuda")
    if hasattr(array, "__cuda_array_interface__"):
        return _view_cuda_interface(name, array, dtype, writable)
    if not hasattr(array, "__dlpack_device__"):
        kind = type(array).__name__
        raise InvalidArgument(f"{name}: expected an array, got {kind}, which shares no GPU memory")
    device = int(array.__dlpack_device__()[0])
    if device not in _DLPACK_CUDA_DEVICES:
        raise _not_on_gpu(name, array, f"DLPack device type {device}")
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as missing:
        raise InvalidArgument(
            f"{name}: expected a torch tensor or an array with __cuda_array_interface__; "
            "others need CuPy, which is not installed"
        ) from missing
    return _view_cuda_interface(name, cupy.from_dlpack(array), dtype, writable)


def _view_cuda_interface(name: str, array: Any, dtype: str | None, writable: bool) -> View:
    interface = array.__cuda_array_interface__
    kind = interface["typestr"]
    code = _CUDA_CODES.get(kind)
    if getattr(getattr(array, "dtype", None), "name", "") == "bfloat16":
        code = lib.PKV_BF16
    code = _resolve_dtype(name, code, kind == "<u2", kind, dtype)
    pointer, is_read_only = interface["data"]
    if writable and is_read_only:
        raise InvalidArgument(f"{name}: expected a writable array, got a read-only one")
    shape = tuple(interface["shape"])
    strides = interface.get("strides")
    if strides is None:
        strides = _packed_strides(shape, 4 if code == lib.PKV_F32 else 2)
    return View(array, pointer, code, shape, tuple(strides))


def _packed_strides(shape: tuple[int, ...], element: int) -> tuple[int, ...]:
    strides = []
    for size in reversed(shape):
        strides.append(element)
        element *= size
    return tuple(reversed(strides))


def _view_numpy(name: str, array: np.ndarray[Any, Any], dtype: str | None, writable: bool) -> View:
    code = _NUMPY_CODES.get(array.dtype)
    if code is None or dtype is not None:
        if array.dtype.name == "bfloat16":
            code = lib.PKV_BF16
        is_bits = array.dtype == np.uint16
        code = _resolve_dtype(name, code, is_bits, str(array.dtype), dtype)
    flags = array.flags
    if writable and not flags.writeable:
        raise InvalidArgument(f"{name}: expected a writable array, got a read-only one")
    if flags.c_contiguous and code is not lib.PKV_BF16:
        pointer = int(ffi.cast("uintptr_t", ffi.from_buffer(array)))  # a third of the other's time
    else:
        pointer = array.ctypes.data
    return View(array, pointer, code, array.shape, array.strides)


def _resolve_dtype(name: str, code: int | None, is_bits: bool, got: str, dtype: str | None) -> int:
    """The type of elements from what the array says and what the caller adds."""
    if dtype is not None:
        asked = dtype_code("dtype", dtype)
        if asked == code or (asked == lib.PKV_BF16 and is_bits):
            return asked
        raise InvalidArgument(f"{name}: expected {dtype} as dtype= says, got {got}")
    if code is None:
        raise InvalidArgument(f"{name}: expected {_EXPECTED_DTYPES}, got {got}")
    return code


def expect(
    name: str,
    array: Any,
    shape: tuple[int | None, ...],
    words: str,
    dtype: str | None = None,
    writable: bool = False,
    device: str = "cpu",
) -> View:
    """A view of an array that must have `shape`, called `words`; None in it is any size but 0."""
    found = view(name, array, dtype, writable, device)
    if found.shape != shape and not _fits(found.shape, shape):
        sizes = ", ".join("any" if want is None else str(want) for want in shape)
        raise InvalidArgument(f"{name}: expected shape ({sizes}) = {words}, got {found.shape}")
    return found


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size == want if want is not None else size > 0
        for size, want in zip(shape, expected, strict=True)
    )


def pack(name: str, array: View, into: Any) -> None:
    """Fill a pkv_array from a view of shape [rows][heads][dim], after a look at its strides."""
    rows, heads, dim = array.shape
    row_bytes, head_bytes, dim_bytes = array.strides
    element = _element_bytes(array)
    if dim_bytes != element:
        raise InvalidArgument(
            f"{name}: expected the last dimension contiguous, got a stride of {dim_bytes} bytes"
        )
    # The stride of a dimension of one element means nothing and may be any number.
    head_stride, head_rest = divmod(head_bytes, element) if heads > 1 else (dim, 0)
    row_stride, row_rest = divmod(row_bytes, element) if rows > 1 else (heads * head_stride, 0)
    if head_stride <= 0 or row_stride <= 0:
        raise InvalidArgument(
            f"{name}: expected positive strides, got {array.strides} bytes "
            "(a reversed or broadcast array)"
        )
    if head_rest or row_rest or array.pointer % element:
        raise InvalidArgument(f"{name}: expected memory and strides aligned to its elements")
    into.data = ffi.cast("void*", array.pointer)
    into.dtype = array.dtype
    into.row_stride = row_stride
    into.head_stride = head_stride


def overlap(a: View, b: View) -> bool:
    """Do the spans of memory of two views that pack() has accepted have a byte in common?"""
    a_begin, a_end = _span(a)
    b_begin, b_end = _span(b)
    return a_begin < b_end and b_begin < a_end


def _span(array: View) -> tuple[int, int]:
    last = sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True))
    return array.pointer, array.pointer + last + _element_bytes(array)


def _element_bytes(array: View) -> int:
    return 4 if array.dtype == lib.PKV_F32 else 2


def like(array: Any, source: View, shape: tuple[int, ...]) -> Any:
    """A new array of `shape` with the element type of `array`: torch for torch, CuPy for CuPy, else
    NumPy; on a GPU, InvalidArgument when `array` is neither."""
    if _is_torch(array):
        return array.new_empty(shape)
    if hasattr(array, "__cuda_array_interface__") or hasattr(
        source.owner, "__cuda_array_interface__"
    ):
        if type(array).__module__.partition(".")[0] != "cupy":
            raise InvalidArgument(
                "out: expected an array, which only torch and CuPy can do without"
            )
        return importlib.import_module("cupy").empty(shape, array.dtype)
    if isinstance(array, np.ndarray):
        return np.empty(shape, array.dtype)
    return np.empty(shape, numpy_dtype(source.dtype))
