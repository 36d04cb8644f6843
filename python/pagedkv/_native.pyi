"""What cffi made of include/pagedkv.h: untyped by nature, wrapped by _ffi.py and never used elsewhere."""

from typing import Any

ffi: Any
lib: Any
