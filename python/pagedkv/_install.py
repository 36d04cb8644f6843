"""Where the C library of this installation is, for programs that are built against it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["get_include", "get_library"]

_PACKAGE = Path(__file__).resolve().parent


def get_include() -> str:
    """Folder that holds pagedkv.h."""
    return str(_PACKAGE / "include")


def get_library() -> str:
    """Path of libpagedkv.so."""
    return str(_PACKAGE / "libpagedkv.so")
