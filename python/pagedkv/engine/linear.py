"""y = x W^T + b, with every row of y independent of the other rows of x.

A BLAS picks kernels, and with them the order of additions, by the shape of the whole product: the
same row times the same weights may come out a rounding error apart at batch 1 and batch 64. A
served request would then depend on its neighbours, and a resumed one could take another turn at a
near tie.

Where the difference comes from, in OpenBLAS: one row is a matrix-vector product, few rows or small
weights take kernels for small matrices, and some kernels treat the rows at the edge of a tile of
theirs in another way. So there are two ways, and which one holds is measured when the weights are
loaded, once for each shape (`choose_grain`, `choose_tile`):

    grain g   rows are padded to a multiple of g, then multiplied at once
    tile t    x [T, in] -> [n, t, in] -> n products [t, in] x [in, out] -> [T, out]

A grain of 16 keeps OpenBLAS off the three paths above with its AVX-512 kernels (SkylakeX; also
Sandy Bridge and Nehalem), at 1 and 2 threads, and costs nothing but the padding. The AVX2 kernels
(Haswell, Zen) split any number of rows by 12 and 4, which add up differently: there tiles of 8
hold, at 1.5 to 6 times the time for prompt chunks. A tile of one row cannot fail and is the last
resort. `row_tile=0` takes neither: rows are then equal to rounding only.

Which side of a product is transposed is free for a BLAS, and not for what comes before and after.
In Fortran order, [T, out] with the tokens of one feature side by side, y = (W x^T)^T takes the
weights as they are stored, and norms and SiLU run over long stretches; OpenBLAS multiplies few rows
1.2 to 2 times as fast so than as x W^T. In C order, each token's features side by side, as
attention wants them, y = x (W^T) is as fast once the weights are stored transposed. No array is
copied from one order to the other: at 512 tokens, where every stride is a power of two and a column
falls into few lines of the cache, that took a tenth of the time of the products.

On a GPU (`TiledLinear`) nothing is measured: which kernel cuBLAS takes for which shape only cuBLAS
knows, and there are as many shapes as numbers of rows. But it promises the same bits for the same
call, on one GPU while one stream is in use, so every product is the same call: tiles of 64 rows,
each a product of its own. A batch of products would not do, since cuBLAS sees its size. What is
left is where in a tile a row stands; that must not matter to the kernel, and a test looks on a GPU.
If it does on some GPU, tiles of one row hold. 64 rows make 32 operations for each byte of the
weights: by its data sheet an H100 waits for memory below some 20.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Order

# Tried in this order. A larger grain keeps tiny weights off the kernels for small matrices.
ROW_GRAINS = (16, 32, 64)
# Likewise: 8 is the best trade between decode and prefill.
ROW_TILES = (8, 4, 2, 1)
# Row counts, in grains, that must agree: few, odd, and more than one block of a BLAS.
PROBES = (1, 2, 3, 5, 32)
GPU_ROW_TILE = 64


class Linear:
    """One projection. `weight` is [out, in] as stored in checkpoints, `bias` [out] or None.

    xp          the array module of `weight`
    row_tile    rows of one product; 0: all at once. None: measured
    x_order     "F" or "C": how the rows lie that it is given; others are copied
    y_order     "F" or "C": how the rows lie that it returns

    grain       rows are padded to a multiple of this
    """

    def __init__(
        self,
        xp: Any,
        weight: Array,
        bias: Array | None = None,
        row_tile: int | None = None,
        x_order: Order = "F",
        y_order: Order = "F",
    ) -> None:
        self.xp = xp
        self.matrix = weight.T if y_order == "F" else xp.ascontiguousarray(weight.T)
        self.bias = bias
        self.x_order = x_order
        self.y_order = y_order
        self.grain, self.row_tile = row_tile or 1, row_tile or 0
        if row_tile is None:
            self.grain, self.row_tile = choose(weight, x_order, y_order)

    def __call__(self, rows: Array) -> Array:
        """[T, in] -> [T, out]."""
        count = len(rows)
        if self.row_tile:
            out = multiply_tiled(self.xp, rows, self.matrix, self.row_tile)
            out = self.xp.asarray(out, order=self.y_order)
        else:
            rows = padded(self.xp, rows, -(-count // self.grain) * self.grain, self.x_order)
            out = multiply(self.xp, rows, self.matrix, self.y_order)
        if self.bias is not None:
            out += self.bias
        return out if len(out) == count else out[:count]


class TiledLinear:
    """One projection on a GPU, with the arguments of Linear. Rows are in C order, whatever
    `x_order` and `y_order` say, and `weight` is taken as it is stored: cuBLAS transposes.

    row_tile    rows of one product; 0: all at once. None: GPU_ROW_TILE
    """

    def __init__(
        self,
        xp: Any,
        weight: Array,
        bias: Array | None = None,
        row_tile: int | None = None,
        x_order: Order = "C",
        y_order: Order = "C",
    ) -> None:
        self.xp = xp
        self.matrix = weight.T
        self.bias = bias
        self.row_tile = GPU_ROW_TILE if row_tile is None else row_tile
        self.grain = self.row_tile or 1

    def __call__(self, rows: Array) -> Array:
        """[T, in] -> [T, out]."""
        xp, count = self.xp, len(rows)
        rows = padded(xp, rows, -(-count // self.grain) * self.grain, "C")
        out = xp.empty((len(rows), self.matrix.shape[1]), rows.dtype)
        for begin in range(0, len(rows), self.row_tile or len(rows)):
            tile = slice(begin, begin + (self.row_tile or len(rows)))
            xp.matmul(rows[tile], self.matrix, out=out[tile])
        if self.bias is not None:
            out += self.bias
        return out[:count]


def padded(xp: Any, rows: Array, count: int, order: Order) -> Array:
    """`rows` [T, in] with rows of zeros up to `count`, in `order`; themselves if they are so."""
    if len(rows) == count:
        return xp.asarray(rows, order=order)
    full = xp.zeros((count, rows.shape[1]), rows.dtype, order=order)
    full[: len(rows)] = rows
    return full


def multiply(xp: Any, rows: Array, matrix: Array, order: Order) -> Array:
    """rows [T, in] @ matrix [in, out], all at once, in `order`."""
    return xp.matmul(rows, matrix) if order == "C" else xp.matmul(matrix.T, rows.T).T


def multiply_tiled(xp: Any, rows: Array, matrix: Array, tile: int) -> Array:
    """rows [T, in] @ matrix [in, out], `tile` rows at a time; 0: all at once."""
    if tile == 0:
        return xp.matmul(rows, matrix)
    count, width = rows.shape
    tiles = -(-count // tile)
    full = xp.zeros((tiles * tile, width), rows.dtype)
    full[:count] = rows
    product = xp.matmul(full.reshape(tiles, tile, width), matrix)
    return product.reshape(tiles * tile, matrix.shape[1])[:count]


_chosen: dict[tuple[tuple[int, ...], Order, Order], tuple[int, int]] = {}


def choose(weight: NDArray[np.float32], x_order: Order, y_order: Order) -> tuple[int, int]:
    """Grain and tile for weights of this shape: by measurement, once per process."""
    key = weight.shape, x_order, y_order
    if key not in _chosen:
        grain = choose_grain(weight, x_order, y_order)
        tile = 0 if grain else choose_tile(weight, y_order)
        _chosen[key] = grain or tile, tile
    return _chosen[key]


def choose_grain(weight: NDArray[np.float32], x_order: Order = "F", y_order: Order = "F") -> int:
    """The first of ROW_GRAINS at which a row comes out the same from products of any number of
    rows, to the bit; 0: none."""
    matrix = np.asarray(weight.T, order=y_order)
    row = _some_row(matrix)

    def product(count: int) -> NDArray[np.float32]:
        copies = np.asarray(np.tile(row, (count, 1)), order=x_order)
        result: NDArray[np.float32] = multiply(np, copies, matrix, y_order)
        return result

    for grain in ROW_GRAINS:
        expected = product(grain)[0]
        if all((product(grains * grain) == expected).all() for grains in PROBES):
            return grain
    return 0


def choose_tile(weight: NDArray[np.float32], y_order: Order = "F") -> int:
    """The first of ROW_TILES in which every row of a product is treated alike."""
    matrix = np.asarray(weight.T, order=y_order)
    row = _some_row(matrix)

    def rows_alike(tile: int) -> bool:
        product = multiply_tiled(np, np.tile(row, (tile, 1)), matrix, tile)
        return bool((product == product[0]).all())

    return next((tile for tile in ROW_TILES if rows_alike(tile)), 1)


def _some_row(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    row: NDArray[np.float32] = np.random.default_rng(0).standard_normal(len(matrix), np.float32)
    return row
