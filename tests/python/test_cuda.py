"""Device "cuda": over the emulated library where the C tests have built it, and its absence."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pagedkv
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
EMULATED = Path(
    os.environ.get(
        "PKV_EMULATED_LIBRARY",
        ROOT / "build" / "release" / "tests" / "emulator" / "libpagedkv_cuda_emulated.so",
    )
)
GEOMETRY: dict[str, Any] = {"layers": 2, "kv_heads": 2, "head_dim": 64, "blocks": 16}


class Gpu:
    """The emulated library, and memory of its device."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(EMULATED))
        self.memory: list[ctypes.c_void_p] = []

    def array(self, values: NDArray[Any]) -> GpuArray:
        pointer = ctypes.c_void_p()
        size = ctypes.c_uint64(values.nbytes)
        assert self.library.pkvi_gpu_alloc(size, ctypes.byref(pointer)) == 0
        self.memory.append(pointer)
        ctypes.memmove(pointer, values.ctypes.data, values.nbytes)
        return GpuArray(self, pointer.value or 0, values)

    def wait(self) -> None:
        assert self.library.pkvi_gpu_wait() == 0

    def close(self) -> None:
        for pointer in self.memory:
            self.library.pkvi_gpu_free(pointer)


class GpuArray:
    """What an array library of a GPU shows of an array: its interface, and no host memory."""

    def __init__(self, gpu: Gpu, pointer: int, like: NDArray[Any]) -> None:
        self._gpu = gpu
        self._like = like
        self.__cuda_array_interface__ = {
            "shape": like.shape,
            "typestr": like.dtype.str,
            "data": (pointer, False),
            "strides": None,
            "version": 3,
        }

    def read(self) -> NDArray[Any]:
        self._gpu.wait()
        values = np.empty_like(self._like)
        pointer = self.__cuda_array_interface__["data"][0]  # type: ignore[index]
        ctypes.memmove(values.ctypes.data, pointer, values.nbytes)
        return values


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    if not EMULATED.is_file():
        pytest.skip("the emulated CUDA library is not built (tools/dev.py test unit)")
    monkeypatch.setenv("PKV_CUDA_LIBRARY", str(EMULATED))
    gpu = Gpu()
    yield gpu
    gpu.close()


def drawn(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(len(shape) + shape[0]).normal(size=shape).astype(np.float32)


def test_a_step_agrees_with_the_cpu(gpu: Gpu) -> None:
    k, v, q, sinks = drawn(20, 2, 64), drawn(20, 2, 64), drawn(20, 8, 64), drawn(8)
    out, lse = gpu.array(np.zeros_like(q)), gpu.array(np.zeros((20, 8), np.float32))
    with pagedkv.Cache(**GEOMETRY, dtype="bf16", device="cuda") as cache:
        assert cache.isa == "sm_90"
        seq = cache.sequence()
        with cache.step([(seq, list(range(20)))]) as step:
            step.write(1, gpu.array(k), gpu.array(v))
            there = gpu.array(sinks)
            assert step.attend(1, gpu.array(q), out, lse=lse, sink_logits=there) is out
        k_back = gpu.array(np.zeros((15, 2, 64), np.float32))
        v_back = gpu.array(np.zeros((15, 2, 64), np.float32))
        cache.read_into(seq, 1, k_back, v_back, begin=5)
        assert np.abs(k_back.read() - k[5:]).max() < 0.02
        assert np.abs(v_back.read() - v[5:]).max() < 0.02
    with pagedkv.Cache(**GEOMETRY, dtype="bf16") as cache:
        seq = cache.sequence()
        wanted_lse = np.zeros((20, 8), np.float32)
        with cache.step([(seq, list(range(20)))]) as step:
            step.write(1, k, v)
            wanted = step.attend(1, q, lse=wanted_lse, sink_logits=sinks)
    assert np.abs(out.read() - wanted).max() < 0.03
    assert np.abs(lse.read() - wanted_lse).max() < 0.01


def test_streams(gpu: Gpu) -> None:
    handle = ctypes.c_void_p()
    assert gpu.library.pkvi_gpu_stream_open(ctypes.byref(handle)) == 0

    class OfTorch:
        cuda_stream = handle.value

    class OfCupy:
        ptr = handle.value

    with pagedkv.Cache(**GEOMETRY, dtype="f16", device="cuda", stream=OfTorch()) as cache:
        cache.use_stream(OfCupy())
        cache.use_stream(handle.value)
        cache.use_stream(None)
        with pytest.raises(pagedkv.InvalidArgument, match="use_stream: stream"):
            cache.use_stream(12345)
        with pytest.raises(pagedkv.InvalidArgument, match="stream"):
            cache.use_stream("default")
    gpu.library.pkvi_gpu_stream_close(handle)
    with pagedkv.Cache(**GEOMETRY) as cache, pytest.raises(pagedkv.NotSupported):
        cache.use_stream(None)


def test_arrays_that_are_refused(gpu: Gpu) -> None:
    k = drawn(1, 2, 64)
    q = drawn(1, 4, 64)
    with pagedkv.Cache(**GEOMETRY, dtype="f16", device="cuda") as cache:
        seq = cache.sequence()
        with cache.step([(seq, [1])]) as step:
            with pytest.raises(pagedkv.InvalidArgument, match="k: .*GPU"):
                step.write(0, k, k)
            with pytest.raises(pagedkv.InvalidArgument, match=r"k: expected shape"):
                step.write(0, gpu.array(q), gpu.array(k))
            with pytest.raises(pagedkv.InvalidArgument, match="k: expected float32"):
                step.write(0, gpu.array(k.astype(np.float64)), gpu.array(k))
            with pytest.raises(pagedkv.InvalidArgument, match="out: "):
                step.attend(0, gpu.array(q))
            lying = gpu.array(q)
            lying.__cuda_array_interface__["data"] = (q.ctypes.data, False)
            with pytest.raises(pagedkv.InvalidArgument, match="GPU of the cache reaches"):
                step.attend(0, lying, gpu.array(q))
            read_only = gpu.array(q)
            read_only.__cuda_array_interface__["data"] = (4096, True)
            with pytest.raises(pagedkv.InvalidArgument, match="out: expected a writable"):
                step.attend(0, gpu.array(q), read_only)
        with pytest.raises(pagedkv.NotSupported, match="read_into"):
            cache.read(seq, 0)


def test_geometry_without_a_kernel(gpu: Gpu) -> None:
    with pytest.raises(
        pagedkv.NotSupported, match='head_dim: 64, 96, 128 or 256 on "cuda", got 80'
    ):
        pagedkv.Cache(**{**GEOMETRY, "head_dim": 80}, dtype="f16", device="cuda")
    with pytest.raises(pagedkv.NotSupported, match="k_dtype: f16, bf16, i8 or e4m3"):
        pagedkv.Cache(**GEOMETRY, device="cuda")
    with pytest.raises(pagedkv.NotSupported, match="device_ordinal: .*got 3"):
        pagedkv.Cache(**GEOMETRY, dtype="f16", device="cuda", device_ordinal=3)


def test_absence_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKV_CUDA_LIBRARY", "/nowhere/libpagedkv_cuda.so")
    reason = pagedkv.why_absent("cuda")
    assert reason is not None
    assert "$PKV_CUDA_LIBRARY" in reason
    with pytest.raises(pagedkv.NotSupported, match="device: libpagedkv_cuda.so lies neither"):
        pagedkv.Cache(**GEOMETRY, dtype="f16", device="cuda")
    assert pagedkv.why_absent("cpu") is None
    assert pagedkv.why_absent("abacus") == "there is none of that name"


def test_read_into_works_on_the_cpu_too() -> None:
    k, v = drawn(6, 2, 64), drawn(6, 2, 64)
    with pagedkv.Cache(**GEOMETRY) as cache:
        seq = cache.sequence()
        with cache.step([(seq, list(range(6)))]) as step:
            for layer in range(2):
                step.write(layer, k, v)
        k_back, v_back = np.zeros((4, 2, 64), np.float32), np.zeros((4, 2, 64), np.float32)
        cache.read_into(seq, 0, k_back, v_back, begin=2)
        assert (k_back == k[2:]).all()
        assert (v_back == v[2:]).all()
        with pytest.raises(pagedkv.OutOfRange, match="read_into"):
            cache.read_into(seq, 0, k_back, v_back, begin=3)
        with pytest.raises(pagedkv.InvalidArgument, match="v: expected shape"):
            cache.read_into(seq, 0, k_back, v_back[:3])


def test_a_step_begins_while_its_sequence_is_arriving(gpu: Gpu) -> None:
    options = {"host_blocks": 8, "swap_layers": 1, "dtype": "f16"}
    rng = np.random.default_rng(5)
    prompt = gpu.array(rng.standard_normal((20, 2, 64)).astype(np.float16))
    new = gpu.array(rng.standard_normal((1, 2, 64)).astype(np.float16))
    q = gpu.array(rng.standard_normal((1, 4, 64)).astype(np.float32))
    with pagedkv.Cache(**GEOMETRY, **options, device="cuda") as cache:
        sequence = cache.sequence()
        with cache.step([(sequence, list(range(20)))]) as step:
            for layer in range(2):
                step.write(layer, prompt, prompt)
        outs = [gpu.array(np.zeros((1, 4, 64), np.float32)) for _ in range(4)]
        for swaps in (False, True):
            transfer = None
            if swaps:
                sequence.swap_out().wait()
                transfer = sequence.swap_in()
            step = cache.step([(sequence, [99])])
            for layer in range(2):
                step.write(layer, new, new)
                step.attend(layer, q, out=outs[2 * swaps + layer])
            if transfer is None:
                step.abort()
                continue
            with pytest.raises(pagedkv.Busy):
                transfer.cancel()
            transfer.wait()
            step.commit()
        results = [out.read() for out in outs]
        np.testing.assert_array_equal(results[0], results[2])
        np.testing.assert_array_equal(results[1], results[3])
        assert len(sequence) == 21


GRAPHS: dict[str, Any] = {"graph_sequences": 3, "graph_sequence_tokens": 2, "graph_heads": 4}


def test_a_captured_step_does_what_the_loaded_one_says(gpu: Gpu) -> None:
    """Not in a graph here: calls of a Capture go by what is loaded, captured or not."""
    k, v, q = (gpu.array(drawn(6, heads, 64)) for heads in (2, 2, 4))
    outs = [gpu.array(np.zeros((6, 4, 64), np.float32)) for _ in range(2)]
    rows = {"k": drawn(6, 2, 64)[:3], "q": drawn(6, 4, 64)[:3]}
    with pagedkv.Cache(**GEOMETRY, **GRAPHS, dtype="f16", device="cuda") as cache:
        first, second = cache.sequence(), cache.sequence()
        with cache.capture(3, 2) as captured:
            assert captured.tokens == 6
            with cache.step([(first, [1]), (second, [2, 3])]) as step:
                step.load(3, 2)
                captured.write(0, k, v)
                captured.attend(0, q, outs[0])
                few = [gpu.array(rows["k"]), gpu.array(rows["k"]), gpu.array(rows["q"])]
                wanted = gpu.array(np.zeros((3, 4, 64), np.float32))
                step.write(0, *few[:2])
                step.attend(0, few[2], wanted)
            np.testing.assert_array_equal(outs[0].read()[:3], wanted.read())
            assert not outs[0].read()[3:].any()
            with pytest.raises(pagedkv.InvalidArgument, match="nothing|no tokens"):
                captured.commit()
            with pytest.raises(pagedkv.InvalidArgument):
                captured.positions  # noqa: B018
            assert "6 rows" in repr(captured)
        assert captured.closed
        assert (len(first), len(second)) == (1, 2)


def test_captured_steps_that_are_refused(gpu: Gpu) -> None:
    with pagedkv.Cache(**GEOMETRY, **GRAPHS, dtype="f16", device="cuda") as cache:
        with pytest.raises(pagedkv.TooBig, match="4 sequences of 1"):
            cache.capture(4)
        with pytest.raises(pagedkv.InvalidArgument, match="sequences: "):
            cache.capture(-1)
        with cache.step([(cache.sequence(), [1, 2])]) as step:
            with pytest.raises(pagedkv.TooBig, match=r"Step\.load: 1 sequences of 1"):
                step.load(1)
            step.load(1, 2)
    with pytest.raises(pagedkv.NotSupported, match="graph_sequences: .*cuda.* got 3"):
        pagedkv.Cache(**GEOMETRY, **GRAPHS)
    with pagedkv.Cache(**GEOMETRY) as cache, pytest.raises(pagedkv.NotSupported, match="capture"):
        cache.capture(1)
