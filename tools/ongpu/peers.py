"""Other attention on the same GPU, at the sizes of pkv_bench_gpu; JSON lines, run by tools/gpu.

    torch SDPA      K and V contiguous, as it wants them: nothing is paged
    flex_attention  paged: K and V in shuffled pages, as torch's own PagedAttention lays them out
    FlashInfer      paged, pages of 16 tokens, tensor cores; where a wheel of it was carried in

Medians of CUDA graph replays where the peer can be captured, else of launches, which the note says.
As many layers as ours are called one after the other, so that no call finds its K and V in the
cache of the GPU. What cannot be imported, or fails, is a row that says why.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HEADS, KV_HEADS, DIM, PAGE = 32, 8, 128, 16
REPLAYS = 25
SET_BYTES = 512 << 20  # of all layers together, at least; twice the cache of any GPU of today
PAGED_PREFILL_MAX = 16384


@dataclass(frozen=True)
class Case:
    """Sequences of a batch: tokens with the new ones, and new ones."""

    name: str
    batch: int
    length: int
    fresh: int

    @property
    def bytes(self) -> int:
        return self.batch * self.length * KV_HEADS * DIM * 2 * 2

    @property
    def layers(self) -> int:
        return max(1, min(32, math.ceil(SET_BYTES / self.bytes)))


CASES = (
    Case("decode B=32 L=4096 BF16", 32, 4096, 1),
    Case("decode B=1 L=131072 BF16", 1, 131072, 1),
    Case("decode B=256 L=1024 BF16", 256, 1024, 1),
    Case("decode B=64 L=8192 BF16", 64, 8192, 1),
    Case("decode B=1 L=1024 BF16", 1, 1024, 1),
    Case("prefill causal 8192 BF16", 1, 8192, 8192),
    Case("prefill causal 32768 BF16", 1, 32768, 32768),
)

Call = Callable[[int], object]  # of one layer


def median_seconds(torch: Any, call: Call, layers: int, graph: bool) -> tuple[float, str]:
    """Seconds of one layer's call, and how they were measured."""

    def all_layers() -> None:
        for layer in range(layers):
            call(layer)

    for _ in range(3):
        all_layers()
    torch.cuda.synchronize()
    run: Callable[[], object] = all_layers
    note = "launches"
    if graph:
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            all_layers()
        run, note = recorded.replay, "graph"
    samples = []
    for _ in range(REPLAYS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop) / 1e3 / layers)
    return statistics.median(samples), note


def normal(torch: Any, *sizes: int) -> Any:
    return torch.randn(*sizes, device="cuda", dtype=torch.bfloat16)


# ---- Peers: each makes the call of a case --------------------------------------------------------


def torch_sdpa(torch: Any, case: Case) -> tuple[Call, bool]:
    functional = importlib.import_module("torch.nn.functional")
    q = normal(torch, case.batch, HEADS, case.fresh, DIM)
    kv = [normal(torch, 2, case.batch, KV_HEADS, case.length, DIM) for _ in range(case.layers)]
    causal = case.fresh > 1

    def call(layer: int) -> object:
        k, v = kv[layer]
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    return call, True


def torch_flex(torch: Any, case: Case) -> tuple[Call, bool]:
    """A page is 128 tokens: the blocks of its masks must not be larger than a page."""
    page = 128
    if case.fresh > PAGED_PREFILL_MAX:
        raise RuntimeError("its mask is made page by page: too large")
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    paged = importlib.import_module("torch.nn.attention.experimental._paged_attention")
    pages = case.batch * case.length // page
    manager = paged.PagedAttention(pages, page, case.batch, device="cuda")
    everyone = torch.arange(case.batch, device="cuda")
    for sequence in torch.randperm(case.batch).tolist():
        manager.reserve(
            torch.tensor(sequence, device="cuda"), torch.tensor(case.length, device="cuda")
        )
    past = case.length - case.fresh

    def causal(b: Any, h: Any, row: Any, column: Any) -> Any:
        return row + past >= column

    logical = flex.create_block_mask(
        causal, case.batch, None, case.fresh, case.length, device="cuda", BLOCK_SIZE=page
    )
    mask = manager.convert_logical_block_mask(logical, everyone)
    compiled = torch.compile(flex.flex_attention)
    q = normal(torch, case.batch, HEADS, case.fresh, DIM)
    kv = [normal(torch, 2, 1, KV_HEADS, pages * page, DIM) for _ in range(case.layers)]

    def call(layer: int) -> object:
        k, v = kv[layer]
        return compiled(q, k, v, block_mask=mask, enable_gqa=True)

    return call, False


def flashinfer_paged(torch: Any, case: Case) -> tuple[Call, bool]:
    flashinfer = importlib.import_module("flashinfer")
    pages = case.length // PAGE
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    indptr = torch.arange(case.batch + 1, dtype=torch.int32, device="cuda")
    indices = torch.randperm(case.batch * pages, device="cuda").int()
    last = torch.full((case.batch,), PAGE, dtype=torch.int32, device="cuda")
    kv = [normal(torch, case.batch * pages, 2, KV_HEADS, PAGE, DIM) for _ in range(case.layers)]
    q = normal(torch, case.batch * case.fresh, HEADS, DIM)
    types = {"q_data_type": torch.bfloat16, "kv_data_type": torch.bfloat16}
    if case.fresh == 1:
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "HND", use_tensor_cores=True
        )
        wrapper.plan(indptr * pages, indices, last, HEADS, KV_HEADS, DIM, PAGE, **types)
    else:
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "HND", backend="fa2")
        wrapper.plan(
            *(indptr * case.fresh, indptr * pages, indices, last),
            *(HEADS, KV_HEADS, DIM, PAGE),
            causal=True,
            **types,
        )
    return lambda layer: wrapper.run(q, kv[layer]), False


PEERS: dict[str, Callable[[Any, Case], tuple[Call, bool]]] = {
    "torch SDPA, contiguous": torch_sdpa,
    "flex_attention, paged": torch_flex,
    "FlashInfer, paged": flashinfer_paged,
}


def measure(torch: Any, peer: str, case: Case) -> dict[str, object]:
    row: dict[str, object] = {"section": "peer", "peer": peer, "row": case.name}
    try:
        call, graph = PEERS[peer](torch, case)
        seconds, note = median_seconds(torch, call, case.layers, graph)
    except Exception as error:  # a peer that fails is a row that says so
        lines = f"{type(error).__name__}: {error}".splitlines()
        return {**row, "why": lines[0][:200]}
    finally:
        torch.cuda.empty_cache()
    return {**row, "seconds": seconds, "note": f"{note}, {case.layers} layers"}


def main() -> int:
    try:
        torch = importlib.import_module("torch")
    except ImportError as reason:
        print(f"not run: {reason}")
        return 77
    if not torch.cuda.is_available():
        print("not run: torch sees no GPU")
        return 77
    for peer in PEERS:
        for case in CASES:
            print(json.dumps(measure(torch, peer, case)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
