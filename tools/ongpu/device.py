"""The GPU of this machine, asked of the driver itself: before anything is built."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76  # enum CUdevice_attribute


@dataclass(frozen=True)
class Device:
    name: str
    compute: int  # 90 for sm_90
    driver: str  # the CUDA that the driver is for


class NoDevice(Exception):
    """There is no GPU that CUDA can use; the message says why."""


def find() -> Device:
    """The first GPU. Raises NoDevice."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise NoDevice("there is no NVIDIA driver") from None
    status = cuda.cuInit(0)
    if status:
        raise NoDevice(f"the NVIDIA driver does not start (error {status})")
    count, major, minor, version = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if count.value == 0:
        raise NoDevice("there is no NVIDIA GPU")
    cuda.cuDeviceGetName(name, len(name), 0)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_MAJOR, 0)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_MINOR, 0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return Device(
        name.value.decode(errors="replace"),
        10 * major.value + minor.value,
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )
