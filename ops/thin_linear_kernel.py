"""Matrix products with few rows on a GPU: a weight is loaded once, past the caches, and summed in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dependent_launch import launch_options, wait_for_inputs
from .tuning import MAX_THIN_ROWS, ThinTiles, thin_tiles


@triton.jit
def _load_weight(
    weight_rows: tl.tensor, rows: tl.tensor, columns: tl.tensor, N: tl.constexpr, K: tl.constexpr
) -> tl.tensor:
    mask = (rows < N)[:, None] & (columns < K)[None, :]
    return tl.load(weight_rows + columns[None, :], mask=mask, other=0.0, eviction_policy="evict_first").to(
        tl.float32
    )


@triton.jit
def _products_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    """One or two rows of x, multiplied out; the columns are summed after the last iteration."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_K)
    weight_rows = weight + rows.to(tl.int64)[:, None] * K
    # The first tile of the weight comes while the kernel before this one still makes x.
    w = _load_weight(weight_rows, rows, columns, N, K)
    wait_for_inputs(DEPENDENT)
    first = w * tl.load(x + columns, mask=columns < K, other=0.0).to(tl.float32)[None, :]
    if NUM_ROWS == 2:
        second = w * tl.load(x + K + columns, mask=columns < K, other=0.0).to(tl.float32)[None, :]
    for start in tl.range(BLOCK_K, K, BLOCK_K, num_stages=STAGES):
        column = start + columns
        w = _load_weight(weight_rows, rows, column, N, K)
        first += w * tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)[None, :]
        if NUM_ROWS == 2:
            second += w * tl.load(x + K + column, mask=column < K, other=0.0).to(tl.float32)[None, :]
    tl.store(out + rows, tl.sum(first, axis=1).to(out.dtype.element_ty), mask=rows < N)
    if NUM_ROWS == 2:
        tl.store(out + N + rows, tl.sum(second, axis=1).to(out.dtype.element_ty), mask=rows < N)


@triton.jit(do_not_specialize=["num_rows"])
def _dot_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    """Three to eight rows of x, padded to the 16 columns of a tensor-core product."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_K)
    x_row = tl.arange(0, 16)
    weight_rows = weight + rows.to(tl.int64)[:, None] * K
    inside = (rows < N)[:, None]
    total = tl.zeros((BLOCK_N, 16), dtype=tl.float32)
    wait_for_inputs(DEPENDENT)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        column = start + columns
        within = column < K
        w = tl.load(
            weight_rows + column[None, :],
            mask=inside & within[None, :],
            other=0.0,
            eviction_policy="evict_first",
        )
        x_mask = within[:, None] & (x_row < num_rows)[None, :]
        x_tile = tl.load(x + x_row[None, :] * K + column[:, None], mask=x_mask, other=0.0)
        total = tl.dot(w, x_tile, total, input_precision="ieee")
    out_mask = inside & (x_row < num_rows)[None, :]
    tl.store(out + x_row[None, :] * N + rows[:, None], total.to(out.dtype.element_ty), mask=out_mask)


_FALLBACK = ThinTiles(block_n=16, block_k=256, num_warps=4, num_stages=4)
"""Where the table prefers cuBLAS and the caller does not."""


def launch_thin_linear(x: Tensor, weight: Tensor, tiles: ThinTiles | None = None) -> Tensor:
    """As `thin_linear`; tiles: other than the table's, to measure them."""
    (num_rows, k), n = x.shape, weight.shape[0]
    assert num_rows <= MAX_THIN_ROWS, f"thin_linear takes at most {MAX_THIN_ROWS} rows, got {num_rows}"
    assert x.is_contiguous() and weight.is_contiguous(), "x and weight must be contiguous"
    out = torch.empty((num_rows, n), dtype=x.dtype, device=x.device)
    if num_rows:
        tiles = tiles or thin_tiles(num_rows, n, k) or _FALLBACK
        grid = (triton.cdiv(n, tiles.block_n),)
        options = dict(
            N=n,
            K=k,
            BLOCK_N=tiles.block_n,
            BLOCK_K=tiles.block_k,
            STAGES=tiles.num_stages,
            num_warps=tiles.num_warps,
            **launch_options(x),
        )
        if num_rows <= 2:
            _products_kernel[grid](x, weight, out, NUM_ROWS=num_rows, **options)
        else:
            _dot_kernel[grid](x, weight, out, num_rows, **options)
    return out
