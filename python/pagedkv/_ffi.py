"""The only door to the C library: loading it, its version, and turning statuses into exceptions."""

from __future__ import annotations

from . import errors
from ._native import ffi, lib

__all__ = ["check", "ffi", "lib", "text"]


def _check_version() -> None:
    """Refuse a library that is not the one this extension was compiled for."""
    loaded = lib.pkv_version()
    if loaded != lib.PKV_VERSION:
        raise ImportError(
            f"pagedkv was compiled for libpagedkv {lib.PKV_VERSION:#08x}, "
            f"but the library that was loaded says {loaded:#08x}"
        )


def check(status: int, what: str) -> None:
    """Raise the exception of `status` unless it is PKV_OK. `what` names the call or argument."""
    if status:
        raise errors.error(status, what)


def text(string: object) -> str:
    """A static C string as str."""
    decoded: str = ffi.string(string).decode()
    return decoded


_check_version()
