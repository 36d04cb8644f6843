"""What is measured, as data: the rows of the table that `tools/bench kernels` prints."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Bits of one stored element, scales included: only to choose how many layers make a KV set.
BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "i8": 8.5, "e4m3": 8.5, "e5m2": 8.5, "i4": 5.0}
KV_SET_BYTES = 1 << 30  # of a row, so that nothing of it is cached when it is read again
PREFILL_SET_BYTES = KV_SET_BYTES // 8  # arithmetic is its limit: more than any cache holds will do


@dataclass(frozen=True)
class Goal:
    """A figure of the result and what it should reach; another that would do as well."""

    figure: str  # a field of Result
    limit: float
    at_most: bool = False
    otherwise: Goal | None = None

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True)
class Case:
    """One row: `batch` sequences of `context` tokens each, of which `new` are computed now."""

    work: str  # decode, prefill, mixed, write, append
    dtype: str  # of K and V
    batch: int
    context: int
    new: int = 1
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    block_tokens: int = 16
    threads: int = 1
    shuffled: bool = True
    one_layer: bool = False  # batches lie side by side instead of layers inside blocks
    peak: str | None = None  # the arithmetic limit it is a fraction of
    against: str | None = None  # what is measured in the same repetition; see kernels.py
    goals: tuple[Goal, ...] = ()
    quick: bool = False

    @property
    def name(self) -> str:
        """What the row is called, and what --only matches."""
        parts = [self.work, self.dtype, f"{self.heads}/{self.kv_heads}"]
        if self.dim != 128:
            parts.append(f"d={self.dim}")
        if self.work in ("prefill", "mixed"):
            parts.append(f"{self.new} of {self.context}")
        else:
            parts.append(f"B={self.batch} {self.context}")
        if self.one_layer:
            parts.append(f"block {self.block_tokens} {'shuffled' if self.shuffled else 'in order'}")
        parts.append(f"{self.threads}T")
        return " ".join(parts)

    @property
    def q_dtype(self) -> str:
        """Type of queries and outputs: that of K where a model would have it so."""
        return self.dtype if self.dtype in ("f16", "bf16") else "f32"

    @property
    def source_dtype(self) -> str:
        """Type of the K and V that are written: quantised ones come from a bf16 model."""
        return self.dtype if self.dtype in ("f32", "f16", "bf16") else "bf16"

    @property
    def layer_bytes(self) -> int:
        """Bytes of K and V of the batch in one layer, about."""
        elements = 2 * self.batch * self.context * self.kv_heads * self.dim
        return int(elements * BITS[self.dtype] / 8)

    @property
    def sets(self) -> int:
        """Layers, or batches: so many that nothing of the first is cached after the last."""
        wanted = PREFILL_SET_BYTES if self.work == "prefill" else KV_SET_BYTES
        return min(1024, max(2, -(-wanted // self.layer_bytes)))

    @property
    def operations(self) -> int:
        """Floating-point operations of one call; of a causal square only the half that counts."""
        old = self.context - self.new
        pairs = self.new * old + self.new * (self.new + 1) // 2
        return 4 * pairs * self.heads * self.dim * self.batch


def read_goals(read: float, slabs: float | None = None, *more: Goal) -> tuple[Goal, ...]:
    goals = (Goal("fraction_of_read", read), *more)
    return (*goals, Goal("fraction_of_slab_read", slabs)) if slabs else goals


def _decode() -> list[Case]:
    faster = Goal("ratio_to_against", 1.0)
    kinds = {
        "f32": Case("decode", "f32", 8, 4096, goals=read_goals(0.75), quick=True),
        "bf16": Case("decode", "bf16", 8, 4096, goals=read_goals(0.65, 0.85), quick=True),
        "f16": Case("decode", "f16", 8, 4096, goals=read_goals(0.65, 0.85)),
        "i8": Case(
            "decode", "i8", 8, 4096, goals=read_goals(0.5, None, replace(faster, limit=1.5))
        ),
        "e4m3": Case("decode", "e4m3", 8, 4096, goals=read_goals(0.4, None, faster)),
        "i4": Case("decode", "i4", 8, 4096, goals=read_goals(0.3, None, faster)),
    }
    quantised = ("i8", "e4m3", "i4")
    first = [replace(c, against="bf16" if d in quantised else None) for d, c in kinds.items()]
    others = [
        replace(
            case,
            batch=batch,
            context=context,
            quick=case.dtype == "bf16" and batch == 1,
            goals=read_goals(round(0.9 * case.goals[0].limit, 3)),
        )
        for batch, context in ((1, 16384), (32, 1024))
        for case in kinds.values()
    ]
    heads = [
        Case("decode", "f32", 8, 2048, kv_heads=32, goals=read_goals(0.85)),
        Case("decode", "bf16", 8, 2048, kv_heads=32, goals=read_goals(0.75)),
        Case("decode", "bf16", 8, 4096, kv_heads=1, goals=read_goals(0.3), quick=True),
    ]
    scaling = Goal("fraction_of_read", 0.6, otherwise=Goal("ratio_to_against", 1.6))
    two = [
        replace(case, threads=2, quick=False, against="one thread", goals=(scaling,))
        for case in (*kinds.values(), *heads)
    ]
    return [*first, *others, *heads, *two]


def _prefill() -> list[Case]:
    shapes = ((512, 512), (2048, 2048), (8192, 8192), (512, 8704))
    bf16 = (Goal("fraction_of_peak", 0.65), Goal("ratio_to_torch", 2.0))
    kinds = (
        ("bf16", "bf16 dot", bf16),
        ("f32", "fma", (Goal("fraction_of_peak", 0.85),)),
        ("i8", "bf16 dot", (Goal("fraction_of_peak", 0.65),)),
    )
    return [
        Case(
            "prefill",
            dtype,
            1,
            context,
            new,
            peak=peak,
            goals=goals,
            quick=dtype == "bf16" and context in (512, 2048),
        )
        for dtype, peak, goals in kinds
        for new, context in shapes
    ]


def _others() -> list[Case]:
    price = Goal("price", 0.15, at_most=True)
    paged = Case("decode", "bf16", 8, 4096, one_layer=True, against="in order", goals=(price,))
    small = replace(price, limit=0.08)
    mixed = Goal("price", 0.10, at_most=True)
    return [
        paged,
        replace(paged, block_tokens=32, goals=(small,)),
        replace(paged, dtype="f32"),
        replace(paged, dtype="f32", block_tokens=32, goals=(small,)),
        Case("mixed", "bf16", 32, 512, 512, against="the two alone", goals=(mixed,)),
        Case("write", "bf16", 1, 8192, 512, goals=(Goal("fraction_of_copy", 0.70),)),
        Case("write", "i8", 1, 8192, 512, goals=(Goal("fraction_of_copy", 0.50),)),
        Case("append", "bf16", 32, 1024),
        Case("append", "i8", 32, 1024),
    ]


def all_cases() -> list[Case]:
    return [*_decode(), *_prefill(), *_others()]
