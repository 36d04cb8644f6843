"""Device "cuda" on a GPU, with arrays of CuPy and tensors of torch. Run by tools/gpu."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pagedkv
import pytest
from numpy.typing import NDArray

GEOMETRY: dict[str, Any] = {"layers": 2, "kv_heads": 2, "head_dim": 64, "blocks": 16}

if absent := pagedkv.why_absent("cuda"):
    pytest.skip(absent, allow_module_level=True)


class Arrays:
    """An array library: to the GPU, and back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.library = pytest.importorskip(name)

    def there(self, values: NDArray[Any]) -> Any:
        if self.name == "cupy":
            return self.library.asarray(values)
        return self.library.from_numpy(values.copy()).cuda()

    def back(self, array: Any) -> NDArray[np.float32]:
        if self.name == "cupy":
            result: NDArray[np.float32] = self.library.asnumpy(array)
        else:
            result = array.float().cpu().numpy()
        return result

    def stream(self) -> Any:
        cuda = importlib.import_module(f"{self.name}.cuda")
        return cuda.Stream(non_blocking=True) if self.name == "cupy" else cuda.Stream()

    def wait(self) -> None:
        if self.name == "cupy":
            self.library.cuda.Device().synchronize()
        else:
            self.library.cuda.synchronize()


@pytest.fixture(params=["cupy", "torch"])
def arrays(request: pytest.FixtureRequest) -> Arrays:
    return Arrays(request.param)


def drawn(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(len(shape) + shape[0]).normal(size=shape).astype(np.float32)


def on_cpu(
    k: NDArray[np.float32], v: NDArray[np.float32], q: NDArray[np.float32]
) -> NDArray[np.float32]:
    with pagedkv.Cache(**GEOMETRY, dtype="bf16") as cache:
        seq = cache.sequence()
        with cache.step([(seq, list(range(len(k))))]) as step:
            step.write(1, k, v)
            return np.array(step.attend(1, q))


@pytest.mark.parametrize("count", [1, 5, 100])
def test_a_step_agrees_with_the_cpu(arrays: Arrays, count: int) -> None:
    k, v, q = drawn(count, 2, 64), drawn(count, 2, 64), drawn(count, 8, 64)
    out = arrays.there(np.zeros_like(q))
    k_back, v_back = (arrays.there(np.zeros_like(k)) for _ in range(2))
    with pagedkv.Cache(**GEOMETRY, dtype="bf16", device="cuda") as cache:
        seq = cache.sequence()
        with cache.step([(seq, list(range(count)))]) as step:
            for layer in range(2):
                step.write(layer, arrays.there(k), arrays.there(v))
            arrays.wait()
            step.attend(1, arrays.there(q), out)
            arrays.wait()
        cache.read_into(seq, 1, k_back, v_back)
        arrays.wait()
    assert np.abs(arrays.back(k_back) - k).max() < 0.02
    assert np.abs(arrays.back(out) - on_cpu(k, v, q)).max() < 0.03


def test_the_comparison_can_fail() -> None:
    k, v, q = drawn(5, 2, 64), drawn(5, 2, 64), drawn(5, 8, 64)
    assert np.abs(on_cpu(k, v, q) - on_cpu(k, v, -q)).max() > 0.03


def test_streams_of_array_libraries(arrays: Arrays) -> None:
    k, q = drawn(20, 2, 64), drawn(20, 8, 64)
    on_gpu = [arrays.there(values) for values in (k, k, q, np.zeros_like(q))]
    arrays.wait()
    stream = arrays.stream()
    with pagedkv.Cache(**GEOMETRY, dtype="bf16", device="cuda", stream=stream) as cache:
        seq = cache.sequence()
        with cache.step([(seq, list(range(20)))]) as step:
            step.write(1, on_gpu[0], on_gpu[1])
            step.attend(1, on_gpu[2], on_gpu[3])
        stream.synchronize()
        assert np.abs(arrays.back(on_gpu[3]) - on_cpu(k, k, q)).max() < 0.03
        cache.use_stream(None)


def test_host_memory_is_refused() -> None:
    k = drawn(1, 2, 64)
    with pagedkv.Cache(**GEOMETRY, dtype="f16", device="cuda") as cache:
        seq = cache.sequence()
        with cache.step([(seq, [1])]) as step, pytest.raises(pagedkv.InvalidArgument, match="k: "):
            step.write(0, k, k)


def test_bf16_tensors_of_torch() -> None:
    torch = pytest.importorskip("torch")
    k, q = drawn(33, 2, 64), drawn(33, 8, 64)
    k_there, q_there = (torch.from_numpy(x).cuda().to(torch.bfloat16) for x in (k, q))
    out = torch.zeros_like(q_there)
    with pagedkv.Cache(**GEOMETRY, dtype="bf16", device="cuda") as cache:
        seq = cache.sequence()
        with cache.step([(seq, list(range(33)))]) as step:
            step.write(1, k_there, k_there)
            torch.cuda.synchronize()
            step.attend(1, q_there, out)
            torch.cuda.synchronize()
    wanted = on_cpu(k_there.float().cpu().numpy(), k_there.float().cpu().numpy(), q)
    assert np.abs(out.float().cpu().numpy() - wanted).max() < 0.05
