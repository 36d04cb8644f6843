"""y = x W^T + b, with every row of y independent of the other rows of x.

A BLAS picks kernels, and with them the order of additions, by the shape of the whole product: the
same row times the same weights comes out a rounding error apart at batch 1 and batch 64. A served
request would then depend on its neighbours, and a resumed one could take another turn at a near
tie.

So rows are multiplied in tiles of one fixed shape:

    x [T, in] -> padded to [n, tile, in] -> n products [tile, in] x [in, out] -> [T, out]

One shape means one kernel; what is left is whether that kernel treats all rows of a tile alike.
Not all do: a 16-row tile is split 12 + 4 by some. This is measured when the weights are loaded
(`choose_tile`), and a tile of one row, which cannot fail, is the last resort. Tiles of 8 passed
on every OpenBLAS kernel set tried (Nehalem to Cooper Lake, 1 and 2 threads). The price is 1.5 to
6 times the time of one large product for prompt chunks, and next to nothing for decode steps.
`row_tile=0` buys the speed back: one product per call, rows then equal to rounding only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array

# Tried in this order: 8 is the best trade between decode and prefill.
ROW_TILES = (8, 4, 2, 1)


class Linear:
    """One projection. `weight` is [out, in] as stored in checkpoints, `bias` [out] or None.

    xp          the array module of `weight`: numpy or cupy
    row_tile    rows per product; 0: all at once. None: chosen by measurement (numpy), 0 (cupy)
    """

    def __init__(
        self,
        xp: Any,
        weight: Array,
        bias: Array | None = None,
        row_tile: int | None = None,
    ) -> None:
        self.xp = xp
        self.matrix = weight.T
        self.bias = bias
        if row_tile is None:
            row_tile = choose_tile(weight) if xp is np else 0
        self.row_tile = row_tile

    def __call__(self, rows: Array) -> Array:
        """[T, in] -> [T, out]."""
        out = multiply_tiled(self.xp, rows, self.matrix, self.row_tile)
        if self.bias is not None:
            out += self.bias
        return out


def multiply_tiled(xp: Any, rows: Array, matrix: Array, tile: int) -> Array:
    """rows [T, in] @ matrix [in, out], `tile` rows at a time; 0: all at once."""
    if tile == 0:
        return xp.matmul(rows, matrix)
    count, width = rows.shape
    tiles = -(-count // tile)
    if tiles * tile != count:
        padded = xp.zeros((tiles * tile, width), rows.dtype)
        padded[:count] = rows
        rows = padded
    product = xp.matmul(rows.reshape(tiles, tile, width), matrix)
    return product.reshape(tiles * tile, matrix.shape[1])[:count]


def choose_tile(weight: NDArray[np.float32]) -> int:
    """The first tile of ROW_TILES in which every row of a product is treated alike."""
    for tile in ROW_TILES:
        if _rows_alike(weight.T, tile):
            return tile
    return 1


def _rows_alike(matrix: NDArray[np.float32], tile: int) -> bool:
    """Fill a tile with copies of one row: all rows of the product must be the same bits."""
    generator = np.random.default_rng(0)
    row = generator.standard_normal(matrix.shape[0], dtype=np.float32)
    product = np.matmul(np.tile(row, (1, tile, 1)), matrix)[0]
    return bool((product == product[0]).all())
