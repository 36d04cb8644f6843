"""Which arrays Step.write and Step.attend take, without copying, and which they refuse."""

import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pagedkv
import pytest
from support import DIM, HEADS, KV_HEADS, LAYERS, Floats, attention, make_cache, vectors

TOKENS = list(range(6))
ROWS = len(TOKENS)


def as_bf16(values: Floats) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Bit patterns of bfloat16, cut off instead of rounded."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray[Any, np.dtype[np.uint16]]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Interface:
    """An array of another library, as far as `__array_interface__` shows it."""

    def __init__(self, inner: np.ndarray[Any, Any]) -> None:
        self.inner = inner
        self.__array_interface__ = inner.__array_interface__


class DLPack:
    """An array of another library, as far as DLPack shows it."""

    def __init__(self, inner: np.ndarray[Any, Any], device: int = 1) -> None:
        self.inner = inner
        self.device = device

    def __dlpack__(self, **options: Any) -> Any:
        return self.inner.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


class Cuda:
    """An array in GPU memory."""

    __cuda_array_interface__ = {"shape": (ROWS, KV_HEADS, DIM), "data": (1, False)}  # noqa: RUF012


@pytest.fixture
def cache() -> Iterator[pagedkv.Cache]:
    with make_cache() as cache:
        yield cache


@pytest.fixture
def step(cache: pagedkv.Cache) -> Iterator[pagedkv.Step]:
    with cache.step([(cache.sequence(), TOKENS)]) as step:
        yield step


def transposed(values: Floats) -> Floats:
    """The same array with heads outermost in memory, as models have it after RoPE."""
    return np.ascontiguousarray(values.transpose(1, 0, 2)).transpose(1, 0, 2)


def padded(values: Floats) -> Floats:
    """The same array as a slice of a wider one, such as packed q, k and v."""
    wide = np.full((values.shape[0], values.shape[1] + 3, values.shape[2] + 8), np.nan, np.float32)
    view = wide[:, 2:-1, 4:-4]
    view[:] = values
    return view


def flat_buffer(values: Floats) -> memoryview:
    return memoryview(array.array("f", values.ravel().tolist())).cast("B").cast("f", values.shape)


KINDS: dict[str, Callable[[Floats], Any]] = {
    "numpy": lambda values: values,
    "transposed": transposed,
    "padded": padded,
    "buffer": flat_buffer,
    "array interface": Interface,
    "dlpack": DLPack,
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_arrays(step: pagedkv.Step, kind: str) -> None:
    make = KINDS[kind]
    k, v = vectors(TOKENS, 0), vectors(TOKENS, 1)
    q = vectors(TOKENS, 2, HEADS)
    step.write(0, make(k), make(v))
    out = step.attend(0, make(q))
    assert isinstance(out, np.ndarray)
    np.testing.assert_allclose(out, attention(q, k, v, 0), atol=1e-5)


def test_output_goes_to_a_strided_array(step: pagedkv.Step) -> None:
    k, q = vectors(TOKENS, 0), vectors(TOKENS, 2, HEADS)
    step.write(0, k, k)
    plain = step.attend(0, q)
    for make in (padded, transposed):
        target = make(np.zeros_like(q))
        assert step.attend(0, q, target) is target
        np.testing.assert_array_equal(target, plain)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_sixteen_bits_in_and_out(step: pagedkv.Step, dtype: str) -> None:
    k, v, q = vectors(TOKENS, 0), vectors(TOKENS, 1), vectors(TOKENS, 2, HEADS)
    if dtype == "f16":
        narrow, widen, hint = (lambda x: x.astype(np.float16)), (lambda x: x.astype("f4")), None
    else:
        narrow, widen, hint = as_bf16, from_bf16, "bf16"
    step.write(0, narrow(k), narrow(v), dtype=hint)
    out = step.attend(0, narrow(q), dtype=hint)
    assert out.dtype == (np.float16 if dtype == "f16" else np.uint16)
    expected = attention(widen(narrow(q)), widen(narrow(k)), widen(narrow(v)), 0)
    np.testing.assert_allclose(widen(out), expected, rtol=2**-7, atol=2**-7)


def test_types_may_be_mixed(step: pagedkv.Step) -> None:
    k, q = vectors(TOKENS, 0), vectors(TOKENS, 2, HEADS)
    step.write(0, k.astype(np.float16), k)
    out = step.attend(0, q.astype(np.float16), np.empty_like(q))
    expected = attention(q.astype(np.float16), k.astype(np.float16), k, 0)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_nothing_is_copied(step: pagedkv.Step) -> None:
    """What another view of the memory sees is what was written to it."""
    k, q = vectors(TOKENS, 0), vectors(TOKENS, 2, HEADS)
    step.write(0, k, k)
    memory = bytearray(q.nbytes)
    step.attend(0, q, memoryview(memory).cast("f", q.shape))
    assert bytes(memory) == step.attend(0, q).tobytes()


def test_one_row_may_have_any_stride(cache: pagedkv.Cache) -> None:
    k = np.broadcast_to(vectors([1], 0), (1, KV_HEADS, DIM))
    strange = np.lib.stride_tricks.as_strided(k, strides=(0, k.strides[1], k.strides[2]))
    with cache.step([(cache.sequence(), [1])]) as step:
        step.write(0, strange, strange)
        step.write(1, k, k)


def bad_arrays() -> dict[str, tuple[Any, str]]:
    good = vectors(TOKENS, 0)
    wide = np.zeros((ROWS, KV_HEADS, 2 * DIM), np.float32)
    bytes_ = np.zeros(good.nbytes + 1, np.uint8)
    shape = r"^{}: expected shape \(6, 2, 32\) = \[step.tokens, kv_heads, head_dim\], got "
    contiguous = "^{}: expected the last dimension contiguous, got a stride of "
    return {
        "rows": (good[:5], shape + r"\(5, 2, 32\)$"),
        "heads": (np.zeros((6, 4, 32), np.float32), shape + r"\(6, 4, 32\)$"),
        "dim": (np.zeros((6, 2, 16), np.float32), shape + r"\(6, 2, 16\)$"),
        "dimensions": (good.reshape(-1), shape + r"\(384,\)$"),
        "float64": (good.astype(np.float64), "^{}: expected float32, .* got float64$"),
        "int32": (good.astype(np.int32), "^{}: expected float32, .* got int32$"),
        "uint16": (good.astype(np.uint16), "^{}: expected float32, .* got uint16$"),
        "byte order": (good.astype(">f4"), "^{}: expected float32, .* got >f4$"),
        "last stride": (wide[:, :, ::2], contiguous + "8 bytes$"),
        "broadcast": (np.broadcast_to(good[:1], good.shape), "^{}: expected positive strides"),
        "broadcast heads": (
            np.broadcast_to(good[:, :1], good.shape),
            "^{}: expected positive strides",
        ),
        "reversed": (good[::-1], "^{}: expected positive strides, got .* reversed or broadcast"),
        "unaligned": (
            bytes_[1:].view(np.float32).reshape(good.shape),
            "^{}: expected memory and strides aligned",
        ),
        "list": (good.tolist(), "^{}: expected an array, got list, which shares no memory$"),
        "none": (None, "^{}: expected an array, got NoneType"),
        "cuda": (Cuda(), r"^{}: expected host memory.*; got .*Cuda on a CUDA device$"),
        "dlpack device": (DLPack(good, 2), "^{}: expected host memory.* DLPack device type 2$"),
        "dlpack dtype": (DLPack(good.astype(np.float64)), "^{}: expected float32, .* got float64$"),
    }


@pytest.mark.parametrize("case", bad_arrays())
def test_bad_key_or_value_is_named(cache: pagedkv.Cache, case: str) -> None:
    bad, message = bad_arrays()[case]
    good = vectors(TOKENS, 0)
    with cache.step([(cache.sequence(), TOKENS)]) as step:
        for layer in range(LAYERS):
            step.write(layer, good, good)
        before = cache.check()
        for name, k, v in (("k", bad, good), ("v", good, bad)):
            pattern = message.replace("{}", name)
            if name == "v":
                pattern = pattern.replace("head_dim", "value_dim")
            with pytest.raises(pagedkv.InvalidArgument, match=pattern):
                step.write(0, k, v)
        assert cache.check() == before


@pytest.mark.parametrize("case", ["float64", "list", "none", "cuda", "reversed"])
def test_bad_query_is_named(step: pagedkv.Step, case: str) -> None:
    bad, message = bad_arrays()[case]
    with pytest.raises(pagedkv.InvalidArgument, match=message.replace("{}", "q")):
        step.attend(0, bad)


def test_query_heads_fit_the_cache(step: pagedkv.Step) -> None:
    with pytest.raises(pagedkv.InvalidArgument, match="^q: .* multiple of kv_heads = 2, got 3$"):
        step.attend(0, np.zeros((ROWS, 3, DIM), np.float32))
    with pytest.raises(pagedkv.InvalidArgument, match=r"^q: expected shape \(6, any, 32\)"):
        step.attend(0, np.zeros((ROWS, 0, DIM), np.float32))


def test_bad_output_is_named_and_left_alone(step: pagedkv.Step) -> None:
    k, q = vectors(TOKENS, 0), vectors(TOKENS, 2, HEADS)
    step.write(0, k, k)
    frozen = np.zeros_like(q)
    frozen.flags.writeable = False
    big = np.zeros((2 * ROWS, HEADS, DIM), np.float32)
    overlapping = np.lib.stride_tricks.as_strided(big, q.shape, (DIM * 4, DIM * 4, 4))
    for out, message in (
        (frozen, "^out: expected a writable array, got a read-only one$"),
        (memoryview(bytes(q.nbytes)).cast("f", q.shape), "^out: expected a writable array"),
        (np.zeros((ROWS, 2, DIM), np.float32), r"^out: expected shape \(6, 4, 32\)"),
        (np.zeros(q.shape, np.float64), "^out: expected float32"),
        (q, "^out: expected memory of its own, got memory that q uses$"),
        (overlapping, "^out: expected elements that do not overlap each other$"),
    ):
        with pytest.raises(pagedkv.InvalidArgument, match=message):
            step.attend(0, q, out)
    assert not frozen.any()
    assert not big.any()


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("f16", "^k: expected f16 as dtype= says, got float32$"),
        ("bf16", "^k: expected bf16 as dtype= says, got float32$"),
        ("int8", "^dtype: expected one of f32, f16, bf16, got 'int8'$"),
    ],
)
def test_dtype_argument_must_agree(step: pagedkv.Step, dtype: str, message: str) -> None:
    k = vectors(TOKENS, 0)
    with pytest.raises(pagedkv.InvalidArgument, match=message):
        step.write(0, k, k, dtype=dtype)
    step.write(0, k, k, dtype="f32")


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_torch_tensors(step: pagedkv.Step, name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    dtype = getattr(torch, name)
    k, v, q = (
        torch.from_numpy(vectors(TOKENS, salt, heads)).to(dtype)
        for salt, heads in ((0, KV_HEADS), (1, KV_HEADS), (2, HEADS))
    )
    heads_first = k.transpose(0, 1).contiguous().transpose(0, 1)
    step.write(0, heads_first, v)
    out = step.attend(0, q)
    assert out.dtype is dtype
    expected = attention(*(x.float().numpy() for x in (q, k, v)), 0)
    atol = 1e-5 if name == "float32" else 2**-7
    np.testing.assert_allclose(out.float().numpy(), expected, rtol=atol, atol=atol)
    given = torch.zeros_like(q)
    assert step.attend(0, q, given) is given
    assert torch.equal(given, out)


def test_torch_tensors_that_are_refused(step: pagedkv.Step) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    good = torch.zeros(ROWS, KV_HEADS, DIM)
    for bad, message in (
        (good.double(), "^k: expected float32, .* got torch.float64$"),
        (good.to("meta"), r"^k: expected host memory.*; got torch\.Tensor on meta$"),
        (good.to_sparse(), "^k: expected a dense tensor, got torch.sparse_coo$"),
        (good[:1].expand(ROWS, -1, -1), "^k: expected positive strides"),
        (good[:5], r"^k: expected shape \(6, 2, 32\)"),
    ):
        with pytest.raises(pagedkv.InvalidArgument, match=message):
            step.write(0, bad, good)


def test_torch_bf16_bits(step: pagedkv.Step) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    k = torch.from_numpy(vectors(TOKENS, 0)).bfloat16()
    step.write(0, k.view(torch.uint16), k, dtype="bf16")
