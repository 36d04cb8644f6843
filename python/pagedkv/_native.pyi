"""What cffi made of include/pagedkv.h: untyped by nature, and reached through _ffi.py only."""

from typing import Any

ffi: Any
lib: Any
