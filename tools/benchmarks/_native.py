"""The library pkv_bench: built when its sources have changed, and opened with ctypes.

The structures and functions repeat native/bench.h; sizes are not checked by a compiler here, so a
change there must be made here too.
"""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_uint32, c_uint64, c_void_p
from pathlib import Path

import environment
from environment import ROOT

BUILD = ROOT / "build" / "bench"
_LIBRARY = BUILD / "tools" / "benchmarks" / "native" / "libpkv_bench.so"
PEAKS = {"fma": 0, "bf16 dot": 1, "int8 dot": 2}


class NotSupported(Exception):
    """This build or processor has no such type or level."""


class Failed(Exception):
    """A call of the library failed; the message names the call and the status."""


class Shape(ctypes.Structure):
    """struct bench_shape."""

    _fields_ = (
        ("layers", c_uint32),
        ("entries", c_uint32),
        ("query_heads", c_uint32),
        ("kv_heads", c_uint32),
        ("dim", c_uint32),
        ("block_tokens", c_uint32),
        ("k_dtype", c_uint32),
        ("v_dtype", c_uint32),
        ("q_dtype", c_uint32),
        ("source_dtype", c_uint32),
        ("source_bytes", c_uint32),
        ("threads", c_uint32),
        ("is_shuffled", c_uint32),
        ("seed", c_uint32),
    )


def make(target: str) -> None:
    """Build one target of the benchmarks as it is released. Raises EnvironmentProblem."""
    path = environment.variables()["PATH"]
    if shutil.which("cmake", path=path) is None:
        environment.ensure("check")
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=path) else []
    if not (BUILD / "CMakeCache.txt").exists():
        configure: list[str | Path] = ["cmake", "-S", ROOT, "-B", BUILD, *generator]
        environment.log_run("bench-configure", [*configure, "-DPKV_BENCH=ON"])
    environment.log_run("bench-build", ["cmake", "--build", BUILD, "--target", target])


def build() -> ctypes.CDLL:
    """The library, built from the present sources. Raises EnvironmentProblem."""
    make("pkv_bench")
    return _declare(ctypes.CDLL(str(_LIBRARY)))


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    scene, numbers = c_void_p, POINTER(c_uint32)
    for name, result, arguments in (
        ("scene_open", c_int, (POINTER(Shape), c_char_p, numbers, numbers, POINTER(c_void_p))),
        ("scene_close", None, (scene,)),
        ("scene_isa", c_char_p, (scene,)),
        ("scene_bytes", c_uint64, (scene,)),
        ("scene_attend", c_int, (scene, c_uint32, c_uint32, c_uint32, POINTER(c_double))),
        ("scene_write", c_int, (scene, c_uint32, c_uint32, c_uint32, POINTER(c_double))),
        ("scene_read", c_double, (scene, c_uint32)),
        (
            "scene_check",
            c_int,
            (scene, c_uint32, c_uint32, c_uint32, POINTER(c_double), POINTER(c_double)),
        ),
        ("scene_spoil", None, (scene, c_uint32)),
        ("limits_open", c_int, (c_uint64, POINTER(c_void_p))),
        ("limits_close", None, (c_void_p,)),
        ("limits_read", c_double, (c_void_p, c_uint32)),
        ("limits_copy", c_double, (c_void_p, c_uint32)),
        ("peak", c_double, (c_uint32, c_uint32)),
    ):
        function = getattr(library, f"bench_{name}")
        function.restype = result
        function.argtypes = arguments
    library.pkv_status_name.restype = c_char_p
    library.pkv_status_name.argtypes = (c_int,)
    return library


def _header_numbers(enum: str) -> dict[str, int]:
    header = (ROOT / "include" / "pagedkv.h").read_text()
    match = re.search(rf"enum {enum} {{([^}}]*)}}", header)
    body = match.group(1) if match else ""
    return {name: int(value) for name, value in re.findall(r"PKV_(\w+) = (-?\d+)", body)}


def dtype_number(name: str) -> int:
    """The number of a type ("bf16") in the public header. Raises NotSupported."""
    numbers = _header_numbers("pkv_dtype")
    if name.upper() not in numbers:
        raise NotSupported(f"the header knows no type {name}")
    return numbers[name.upper()]


class Scene:
    """K and V of some sequences in the memory of a CPU device; a context manager."""

    def __init__(
        self,
        library: ctypes.CDLL,
        shape: Shape,
        lengths: Sequence[int],
        fresh: Sequence[int],
        isa: str | None = None,
    ) -> None:
        self.library = library
        self.fresh = list(fresh)
        self._scene = c_void_p()
        numbers = c_uint32 * len(lengths)
        status = library.bench_scene_open(
            byref(shape),
            isa.encode() if isa else None,
            numbers(*lengths),
            numbers(*fresh),
            byref(self._scene),
        )
        self._expect(status, "scene_open")
        self.isa = library.bench_scene_isa(self._scene).decode()
        self.bytes = int(library.bench_scene_bytes(self._scene))

    def close(self) -> None:
        self.library.bench_scene_close(self._scene)
        self._scene = c_void_p()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _expect(self, status: int, call: str) -> None:
        if status == 0:
            return
        name = self.library.pkv_status_name(status).decode()
        if name == "ENOTSUP":
            raise NotSupported(f"{call}: the device refuses the level or a type")
        raise Failed(f"{call}: {name}")

    def attend(self, layer: int, begin: int = 0, end: int | None = None) -> float:
        """Seconds of one call for entries [begin, end)."""
        seconds = c_double()
        last = len(self.fresh) if end is None else end
        self._expect(
            self.library.bench_scene_attend(self._scene, layer, begin, last, byref(seconds)),
            "attend",
        )
        return seconds.value

    def write(self, layer: int, position: int, count: int) -> float:
        """Seconds of writing tokens [position, position + count) of every entry."""
        seconds = c_double()
        self._expect(
            self.library.bench_scene_write(self._scene, layer, position, count, byref(seconds)),
            "write",
        )
        return seconds.value

    def read_rate(self, threads: int) -> float:
        """Bytes per second of a bare read of all slabs in the order of the block tables."""
        return self.bytes / float(self.library.bench_scene_read(self._scene, threads))

    def check(self, layer: int, entry: int, row: int) -> tuple[float, float]:
        """Errors (NMSE) of the output of one query row, and of what is stored."""
        output, stored = c_double(), c_double()
        self._expect(
            self.library.bench_scene_check(
                self._scene, layer, entry, row, byref(output), byref(stored)
            ),
            "check",
        )
        return output.value, stored.value

    def spoil(self, what: str) -> None:
        """Plant a mistake in the "output", or in what is "stored"."""
        self.library.bench_scene_spoil(self._scene, int(what == "stored"))


class Limits:
    """The limits of this machine, measured anew at each call; a context manager."""

    def __init__(self, library: ctypes.CDLL, memory_bytes: int) -> None:
        self.library = library
        self._limits = c_void_p()
        if library.bench_limits_open(memory_bytes, byref(self._limits)):
            raise Failed("no memory to measure the limits with")

    def close(self) -> None:
        self.library.bench_limits_close(self._limits)
        self._limits = c_void_p()

    def __enter__(self) -> Limits:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, threads: int) -> float:
        """Bytes per second of a sequential read."""
        return float(self.library.bench_limits_read(self._limits, threads))

    def copy(self, threads: int) -> float:
        """Bytes per second copied, each byte counted once."""
        return float(self.library.bench_limits_copy(self._limits, threads))

    def peak(self, kind: str, threads: int) -> float:
        """Operations per second of an instruction (see PEAKS); 0 where there is none."""
        return float(self.library.bench_peak(PEAKS[kind], threads))
