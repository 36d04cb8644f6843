"""torch's attention on data of the same sizes, asked in every way that a user would ask it.

    contiguous  K and V lie as SDPA wants them: nothing is paged, nothing has to grow
    gathered    K and V lie in shuffled blocks, are gathered by a block table, then go to SDPA

SDPA can be told of grouped heads by enable_gqa, by repeating K and V, or by making the heads of a
group rows of one matrix. The fastest of these is found for each case before it is measured. Types
that torch has no attention for are compared with torch in bf16. Its memory is in huge pages where
the system has them, like ours, which torch does not do by itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # is read when torch is imported

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from benchmarks._cases import Case

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
SLOW_SECONDS = 2.0  # calls that take longer are measured in every fourth repetition only
SLOW_STEP = 4
HOPELESS = 2.0  # a way that takes so many times as long as the best at first gets no second try

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def normal(dtype: torch.dtype, *sizes: int) -> Tensor:
    """Normally distributed values; 2^20 different ones, since making more takes minutes."""
    result = torch.empty(*sizes, dtype=dtype)
    flat = result.view(-1)
    values = torch.randn(min(1 << 20, flat.numel())).to(dtype)
    for begin in range(0, flat.numel(), values.numel()):
        part = flat[begin : begin + values.numel()]
        part.copy_(values[: part.numel()])
    return result


class Ways:
    """How SDPA can be called for a case: q [B, H, new, D], k and v [B, Hkv, T, D]."""

    def __init__(self, case: Case) -> None:
        self.group = case.heads // case.kv_heads
        self.is_square = case.new == case.context
        self.mask: Tensor | None = None
        self.rows_mask: Tensor | None = None
        if case.new > 1:
            visible = torch.ones(case.new, case.context, dtype=torch.bool)
            mask = visible.tril(case.context - case.new)
            self.mask = None if self.is_square else mask
            self.rows_mask = mask.repeat(self.group, 1)

    def all(self) -> dict[str, Way]:
        if self.group == 1:
            return {"sdpa": self._plain}
        return {"enable_gqa": self._gqa, "repeated heads": self._repeated, "rows": self._rows}

    def _call(self, q: Tensor, k: Tensor, v: Tensor, gqa: bool = False) -> Tensor:
        causal = self.is_square and q.shape[2] > 1
        return sdpa(q, k, v, attn_mask=self.mask, is_causal=causal, enable_gqa=gqa)

    def _plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._call(q, k, v)

    def _gqa(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._call(q, k, v, gqa=True)

    def _repeated(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(self.group, 1) for x in (k, v))
        return self._call(q, k, v)

    def _rows(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, new, dim = q.shape
        rows = q.reshape(batch, heads // self.group, self.group * new, dim)
        return sdpa(rows, k, v, attn_mask=self.rows_mask).reshape(q.shape)


class Torch:
    """The peer of one case."""

    def __init__(self, case: Case, sets_per_time: int | None = None) -> None:
        """sets_per_time: calls of one repetition; default: one for each set."""
        torch.set_num_threads(case.threads)
        self.dtype = case.dtype if case.dtype in DTYPES else "bf16"
        self.case = replace(case, dtype=self.dtype)
        self.sets = self.case.sets
        self.sets_per_time = min(self.sets, sets_per_time or self.sets)
        self._make_data(DTYPES[self.dtype])
        self._slow = False
        ways = self._ranked(Ways(self.case).all(), self._contiguous_kv)
        self.contiguous_name, self._contiguous = next(iter(ways.items()))
        ways = self._ranked(ways, self._gathered_kv)
        self.gathered_name, self._gathered = next(iter(ways.items()))

    def _make_data(self, dtype: torch.dtype) -> None:
        """Blocks and the contiguous K and V are the same memory: no value means anything."""
        case = self.case
        pages = -(-case.context // case.block_tokens)
        tokens = pages * case.block_tokens
        self.q = normal(dtype, case.batch, case.heads, case.new, case.dim)
        values = normal(dtype, self.sets, 2, case.batch * tokens * case.kv_heads * case.dim)
        self.kv = values.view(self.sets, 2, case.batch, case.kv_heads, tokens, case.dim)
        self.pool = values.view(self.sets, 2, -1, case.block_tokens, case.kv_heads, case.dim)
        self.table = torch.randperm(case.batch * pages).view(case.batch, pages)

    def _contiguous_kv(self, index: int) -> tuple[Tensor, Tensor]:
        k, v = self.kv[index, :, :, :, : self.case.context]
        return k, v

    def _gathered_kv(self, index: int) -> tuple[Tensor, Tensor]:
        k, v = (
            self.pool[index, side][self.table].flatten(1, 2)[:, : self.case.context].transpose(1, 2)
            for side in (0, 1)
        )
        return k, v

    def _ranked(
        self, ways: dict[str, Way], kv: Callable[[int], tuple[Tensor, Tensor]]
    ) -> dict[str, Way]:
        """The ways that are not hopeless, the fastest first."""
        seconds = {name: self._time(way, kv, [0]) for name, way in ways.items()}
        limit = HOPELESS * min(seconds.values())
        for name in [name for name in ways if seconds[name] <= limit and len(ways) > 1]:
            seconds[name] = min(seconds[name], self._time(ways[name], kv, [1]))
        self._slow |= min(seconds.values()) > SLOW_SECONDS
        ranked = sorted(seconds, key=lambda name: seconds[name])
        return {name: ways[name] for name in ranked if seconds[name] <= limit}

    def _time(
        self, way: Way, kv: Callable[[int], tuple[Tensor, Tensor]], indices: list[int]
    ) -> float:
        with torch.inference_mode():
            started = time.perf_counter()
            for index in indices:
                way(self.q, *kv(index))
            return (time.perf_counter() - started) / len(indices)

    def times(self, repetition: int) -> dict[str, float]:
        """Seconds of one call, by the name of the figure that they are the top of."""
        if self._slow and repetition % SLOW_STEP:
            return {}
        count = self.sets_per_time if self.case.work == "decode" else 1
        indices = [(repetition * count + i) % self.sets for i in range(count)]
        return {
            "ratio_to_torch": self._time(self._contiguous, self._contiguous_kv, indices),
            "ratio_to_torch_gather": self._time(self._gathered, self._gathered_kv, indices),
        }

    def describe(self) -> str:
        ways = f"{self.contiguous_name}; gathered: {self.gathered_name}"
        return f"torch {torch.__version__} SDPA in {self.dtype}, {ways}"
