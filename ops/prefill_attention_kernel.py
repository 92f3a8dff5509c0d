"""Prefill attention on a GPU: a program takes a KV head, with all its query heads, and a few tokens of a row.

    tile rows   token 0 head 0 | token 0 head 1 | ... | token 1 head 0 | ...        TOKENS = BLOCK_M // GROUP

so keys and values are read once per group, short chunks fill a tile, and a tile wastes less than a token.
A tile's row is found by a search in query_starts: row r's tiles begin at query_starts[r] // TOKENS + r, which
leaves at most one tile per row empty, and those before the first row's. Tiles with the most keys run first.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .paged_attention_kernel import attend_tile
from .tuning import PrefillTiles, prefill_tiles


@triton.jit
def _find_row(
    query_starts: tl.tensor, num_rows: tl.tensor, tile: tl.tensor, TOKENS: tl.constexpr
) -> tl.tensor:
    """The last row whose first tile is not after `tile`."""
    low, high = 0, num_rows
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(query_starts + middle) // TOKENS + middle <= tile:
            low = middle
        else:
            high = middle
    return low


@triton.jit(
    do_not_specialize=["slots", "query_starts", "seq_lens", "num_rows", "table_stride"],
    do_not_specialize_on_alignment=["slots", "query_starts", "seq_lens", "num_rows", "table_stride"],
)
def _prefill_kernel(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_tables: tl.tensor,
    slots: tl.tensor,
    query_starts: tl.tensor,
    seq_lens: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    table_stride: tl.tensor,
    scale_log2e: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
) -> None:
    tokens: tl.constexpr = BLOCK_M // GROUP
    kv_head = tl.program_id(0)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    row = _find_row(query_starts, num_rows, tile, tokens)
    row_start = tl.load(query_starts + row)
    num_queries = tl.load(query_starts + row + 1) - row_start
    seq_len = tl.load(seq_lens + row)
    first_token = (tile - (row_start // tokens + row)) * tokens
    if first_token < 0 or first_token >= num_queries or seq_len == 0:
        return
    prefix = seq_len - num_queries
    last_token = tl.minimum(first_token + tokens, num_queries) - 1

    tile_row, column = tl.arange(0, BLOCK_M), tl.arange(0, HEAD_PAD)
    token, head = first_token + tile_row // GROUP, kv_head * GROUP + tile_row % GROUP
    inside = (token <= last_token)[:, None] & (column < HEAD_DIM)[None, :]
    q_rows = (row_start + token).to(tl.int64) * (NUM_KV_HEADS * GROUP) + head
    q_offsets = q_rows[:, None] * HEAD_DIM + column[None, :]
    queries = tl.load(q + q_offsets, mask=inside, other=0.0)
    table = block_tables + tl.load(slots + row).to(tl.int64) * table_stride
    block_stride: tl.constexpr = NUM_KV_HEADS * BLOCK_SIZE * HEAD_DIM
    k_head = k_cache + kv_head * (BLOCK_SIZE * HEAD_DIM)
    v_head = v_cache + kv_head * (BLOCK_SIZE * HEAD_DIM)

    # Keys [begin, full_begin) and [full_end, end) are masked, those between are seen by every row.
    # Rows beyond the last token repeat it, so that none is without keys.
    high = prefix + tl.minimum(token, last_token)
    low = high - WINDOW + 1
    end = prefix + last_token + 1
    full_end = (prefix + first_token + 1) // BLOCK_N * BLOCK_N
    windowed: tl.constexpr = WINDOW > 0
    begin = 0
    full_begin = 0
    if windowed:
        begin = tl.maximum(prefix + first_token - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
        full_begin = tl.cdiv(tl.maximum(end - WINDOW, 0), BLOCK_N) * BLOCK_N
        full_end = tl.maximum(full_begin, full_end)

    values = tl.zeros((BLOCK_M, HEAD_PAD), dtype=tl.float32)
    denominator = tl.zeros((BLOCK_M,), dtype=tl.float32)
    maximum = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    if windowed:
        for start in tl.range(begin, tl.minimum(full_begin, end), BLOCK_N):
            values, denominator, maximum = attend_tile(
                queries, values, denominator, maximum, k_head, v_head, table, start, end, low, high,
                scale_log2e, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, block_stride, BLOCK_N, True, True,
            )  # fmt: skip
    for start in tl.range(full_begin, full_end, BLOCK_N):
        values, denominator, maximum = attend_tile(
            queries, values, denominator, maximum, k_head, v_head, table, start, end, low, high,
            scale_log2e, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, block_stride, BLOCK_N, False, False,
        )  # fmt: skip
    for start in tl.range(full_end, end, BLOCK_N, num_stages=1):
        values, denominator, maximum = attend_tile(
            queries, values, denominator, maximum, k_head, v_head, table, start, end, low, high,
            scale_log2e, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, block_stride, BLOCK_N, True, windowed,
        )  # fmt: skip
    values = values / denominator[:, None]
    tl.store(out + q_offsets, values.to(out.dtype.element_ty), mask=inside)


def launch_prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    slots: Tensor,
    query_starts: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    out: Tensor | None = None,
    tiles: PrefillTiles | None = None,
) -> Tensor:
    """As `prefill_attention`; tiles: other than the table's, to measure them."""
    num_tokens, num_heads, head_dim = q.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    num_rows, group = slots.shape[0], num_heads // num_kv_heads
    assert q.is_contiguous() and k_cache.is_contiguous() and v_cache.is_contiguous(), "must be contiguous"
    assert block_tables.stride(1) == 1 and block_size & (block_size - 1) == 0, "block_size: a power of two"
    out = torch.empty_like(q) if out is None else out
    if num_tokens == 0:
        return out
    assert out.is_contiguous(), "out must be contiguous"
    head_pad = triton.next_power_of_2(head_dim)
    tiles = tiles or prefill_tiles(head_pad, k_cache.element_size())
    block_m = max(tiles.block_m, triton.next_power_of_2(group))
    grid = (num_kv_heads, num_tokens // (block_m // group) + num_rows)
    _prefill_kernel[grid](
        q,
        k_cache,
        v_cache,
        block_tables,
        slots,
        query_starts,
        seq_lens,
        out,
        num_rows,
        block_tables.stride(0),
        scale * math.log2(math.e),
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        HEAD_PAD=head_pad,
        BLOCK_SIZE=block_size,
        BLOCK_M=block_m,
        BLOCK_N=tiles.block_n,
        WINDOW=window or 0,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out
