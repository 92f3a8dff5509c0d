"""Matrix products on a GPU whose rows are summed in one order, however many there are: k by k, never split.

A tile's size decides which elements a program computes, not in which order one element is summed: its
accumulator takes the columns 16 at a time. So tiles may follow the number of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import FixedOrderTiles, fixed_order_tiles

_GROUP = 8
"""Tiles of x that pass over the same rows of the weight one after the other, while these are in the L2."""


@triton.jit(do_not_specialize=["num_rows"])
def _linear_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    x_stride: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
) -> None:
    tiles_m, tiles_n = tl.cdiv(num_rows, BLOCK_M), tl.cdiv(N, BLOCK_N)
    program = tl.program_id(0)
    first_m = program // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first_m, GROUP)
    tile_m = first_m + program % (GROUP * tiles_n) % height
    tile_n = program % (GROUP * tiles_n) // height

    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    features = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_K)
    # What lies outside repeats the first row: its results are not stored.
    x_rows = x + tl.where(rows < num_rows, rows, 0).to(tl.int64)[:, None] * x_stride
    weight_rows = weight + tl.where(features < N, features, 0).to(tl.int64)[None, :] * K
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in tl.range(0, K, BLOCK_K):
        column = start + columns
        if K % BLOCK_K == 0:
            x_tile = tl.load(x_rows + column[None, :])
            w = tl.load(weight_rows + column[:, None])
        else:
            x_tile = tl.load(x_rows + column[None, :], mask=(column < K)[None, :], other=0.0)
            w = tl.load(weight_rows + column[:, None], mask=(column < K)[:, None], other=0.0)
        total = tl.dot(x_tile, w, total, input_precision="ieee")
    if HAS_BIAS:
        total += tl.load(bias + features, mask=features < N, other=0.0).to(tl.float32)[None, :]
    inside = (rows < num_rows)[:, None] & (features < N)[None, :]
    out_ptrs = out + rows.to(tl.int64)[:, None] * N + features[None, :]
    tl.store(out_ptrs, total.to(out.dtype.element_ty), mask=inside)


def launch_fixed_order_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    *,
    tiles: FixedOrderTiles | None = None,
) -> Tensor:
    """As `fixed_order_linear`; tiles: other than the table's, to measure them."""
    (num_rows, k), n = x.shape, weight.shape[0]
    assert x.stride(1) == 1 and weight.is_contiguous(), "columns of x and weight must lie side by side"
    out = torch.empty((num_rows, n), dtype=x.dtype, device=x.device) if out is None else out
    assert out.is_contiguous(), "out must be contiguous"
    if num_rows:
        tiles = tiles or fixed_order_tiles(num_rows, n, x.element_size())
        _linear_kernel[(triton.cdiv(num_rows, tiles.block_m) * triton.cdiv(n, tiles.block_n),)](
            x,
            weight,
            x if bias is None else bias,
            out,
            num_rows,
            x.stride(0),
            N=n,
            K=k,
            BLOCK_M=tiles.block_m,
            BLOCK_N=tiles.block_n,
            BLOCK_K=tiles.block_k,
            GROUP=_GROUP,
            HAS_BIAS=bias is not None,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
    return out
