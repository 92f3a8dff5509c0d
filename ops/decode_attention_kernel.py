"""Decode attention on a GPU: a program takes a KV head, with all its query heads, and a split of a sequence.

The grid depends on host integers only, so that a CUDA graph can hold it: a sequence's splits grow with its
length, and programs beyond its last split leave at once. Partial results are merged in the splits' order, by
the program that finishes last or by a second kernel; both compute the same.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dependent_launch import launch_options, wait_for_inputs
from .paged_attention_kernel import attend_tile, merge_splits, num_multiprocessors
from .tuning import DecodeTiles, decode_splits, decode_tiles


@triton.jit
def _split_bounds(
    seq_len: tl.tensor,
    max_splits: tl.tensor,
    WINDOW: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """First key that counts and keys per split, both multiples of BLOCK_N, and the number of splits."""
    first = 0
    if WINDOW > 0:
        first = tl.maximum(seq_len - WINDOW, 0) // BLOCK_N * BLOCK_N
    even = tl.cdiv(tl.cdiv(seq_len - first, max_splits), BLOCK_N) * BLOCK_N
    split_size = tl.maximum(even, MIN_SPLIT)
    return first, split_size, tl.cdiv(seq_len - first, split_size)


@triton.jit
def _store_heads(
    out: tl.tensor,
    merged: tl.tensor,
    first_head: tl.tensor,
    row: tl.tensor,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
) -> None:
    column = tl.arange(0, HEAD_PAD)
    inside = (row < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
    pointers = out + (first_head + row)[:, None] * HEAD_DIM + column[None, :]
    tl.store(pointers, merged.to(out.dtype.element_ty), mask=inside)


@triton.jit(
    do_not_specialize=["slots", "seq_lens", "table_stride"],
    do_not_specialize_on_alignment=["slots", "seq_lens", "table_stride"],
)
def _decode_kernel(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_tables: tl.tensor,
    slots: tl.tensor,
    seq_lens: tl.tensor,
    out: tl.tensor,
    partials: tl.tensor,
    lse: tl.tensor,
    counters: tl.tensor,
    table_stride: tl.tensor,
    scale_log2e: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    LAST_MERGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    kv_head, sequence, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    max_splits = tl.num_programs(2)
    wait_for_inputs(DEPENDENT)
    seq_len = tl.load(seq_lens + sequence)
    first, split_size, num_splits = _split_bounds(seq_len, max_splits, WINDOW, BLOCK_N, MIN_SPLIT)
    begin = first + split * split_size
    if begin >= seq_len:
        return
    end = tl.minimum(begin + split_size, seq_len)

    row, column = tl.arange(0, GROUP_PAD), tl.arange(0, HEAD_PAD)
    pair = sequence.to(tl.int64) * NUM_KV_HEADS + kv_head
    first_head = pair * GROUP
    q_mask = (row < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
    queries = tl.load(q + (first_head + row)[:, None] * HEAD_DIM + column[None, :], mask=q_mask, other=0.0)
    table = block_tables + tl.load(slots + sequence).to(tl.int64) * table_stride
    block_stride: tl.constexpr = NUM_KV_HEADS * BLOCK_SIZE * HEAD_DIM
    k_head = k_cache + kv_head * (BLOCK_SIZE * HEAD_DIM)
    v_head = v_cache + kv_head * (BLOCK_SIZE * HEAD_DIM)
    low = tl.zeros((GROUP_PAD,), dtype=tl.int32) + (seq_len - WINDOW)
    high = tl.zeros((GROUP_PAD,), dtype=tl.int32) + (end - 1)
    windowed: tl.constexpr = WINDOW > 0

    values = tl.zeros((GROUP_PAD, HEAD_PAD), dtype=tl.float32)
    denominator = tl.zeros((GROUP_PAD,), dtype=tl.float32)
    maximum = tl.full((GROUP_PAD,), float("-inf"), dtype=tl.float32)
    full_end = begin + (end - begin) // BLOCK_N * BLOCK_N
    for start in tl.range(begin, full_end, BLOCK_N):
        values, denominator, maximum = attend_tile(
            queries, values, denominator, maximum, k_head, v_head, table, start, end, low, high,
            scale_log2e, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, block_stride, BLOCK_N, windowed, windowed,
        )  # fmt: skip
    if full_end < end:
        values, denominator, maximum = attend_tile(
            queries, values, denominator, maximum, k_head, v_head, table, full_end, end, low, high,
            scale_log2e, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, block_stride, BLOCK_N, True, windowed,
        )  # fmt: skip
    values = values / denominator[:, None]

    if num_splits == 1:
        _store_heads(out, values, first_head, row, GROUP, HEAD_DIM, HEAD_PAD)
    else:
        own_partials = partials + pair * max_splits * (GROUP * HEAD_DIM)
        own_lse = lse + pair * max_splits * GROUP
        _store_heads(own_partials, values, split * GROUP, row, GROUP, HEAD_DIM, HEAD_PAD)
        tl.store(own_lse + split * GROUP + row, maximum + tl.math.log2(denominator), mask=row < GROUP)
        if LAST_MERGES:
            # All threads' stores come before the count, and its acquire before the others' are read.
            tl.debug_barrier()
            arrived = tl.atomic_add(counters + pair, 1, sem="acq_rel")
            if arrived == num_splits - 1:
                merged = merge_splits(own_partials, own_lse, num_splits, row, GROUP, HEAD_DIM, HEAD_PAD)
                _store_heads(out, merged, first_head, row, GROUP, HEAD_DIM, HEAD_PAD)
                tl.store(counters + pair, 0)


@triton.jit(
    do_not_specialize=["seq_lens", "max_splits"], do_not_specialize_on_alignment=["seq_lens", "max_splits"]
)
def _merge_kernel(
    seq_lens: tl.tensor,
    out: tl.tensor,
    partials: tl.tensor,
    lse: tl.tensor,
    max_splits: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    """One program per (query head, sequence); a sequence of one split has its result already."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    wait_for_inputs(DEPENDENT)
    seq_len = tl.load(seq_lens + sequence)
    _, _, num_splits = _split_bounds(seq_len, max_splits, WINDOW, BLOCK_N, MIN_SPLIT)
    if num_splits > 1:
        pair = sequence.to(tl.int64) * NUM_KV_HEADS + head // GROUP
        row = head % GROUP + tl.arange(0, 1)
        own_partials = partials + pair * max_splits * (GROUP * HEAD_DIM)
        merged = merge_splits(
            own_partials, lse + pair * max_splits * GROUP, num_splits, row, GROUP, HEAD_DIM, HEAD_PAD
        )
        _store_heads(out, merged, pair * GROUP, row, GROUP, HEAD_DIM, HEAD_PAD)


def launch_decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    slots: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    max_seq_len: int,
    num_splits: int | None = None,
    counters: Tensor | None = None,
    out: Tensor | None = None,
    tiles: DecodeTiles | None = None,
) -> Tensor:
    """As `decode_attention`; tiles: other than the table's, to measure them."""
    num_sequences, num_heads, head_dim = q.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    assert q.is_contiguous() and k_cache.is_contiguous() and v_cache.is_contiguous(), "must be contiguous"
    assert block_tables.stride(1) == 1 and block_size & (block_size - 1) == 0, "block_size: a power of two"
    out = torch.empty_like(q) if out is None else out
    if num_sequences == 0:
        return out
    assert out.is_contiguous(), "out must be contiguous"
    group, head_pad = num_heads // num_kv_heads, triton.next_power_of_2(head_dim)
    tiles = tiles or decode_tiles(head_pad, k_cache.element_size())
    fitting = decode_splits(
        num_sequences, num_kv_heads, max_seq_len, tiles.min_split, num_multiprocessors(q.device)
    )
    splits = min(num_splits or fitting, -(-max_seq_len // tiles.min_split))
    size = num_sequences * num_heads * splits if splits > 1 else 0
    workspace = torch.empty(size * (head_dim + 1), dtype=torch.float32, device=q.device)
    shape = dict(GROUP=group, HEAD_DIM=head_dim, HEAD_PAD=head_pad, NUM_KV_HEADS=num_kv_heads)
    if counters is not None and num_sequences * num_kv_heads > len(counters):
        counters = None
    split = dict(BLOCK_N=tiles.block_n, MIN_SPLIT=tiles.min_split, WINDOW=window or 0, **launch_options(q))
    _decode_kernel[(num_kv_heads, num_sequences, splits)](
        q,
        k_cache,
        v_cache,
        block_tables,
        slots,
        seq_lens,
        out,
        workspace,
        workspace[size * head_dim :],
        seq_lens if counters is None else counters,
        block_tables.stride(0),
        scale * math.log2(math.e),
        GROUP_PAD=max(16, triton.next_power_of_2(group)),
        BLOCK_SIZE=block_size,
        LAST_MERGES=counters is not None,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **shape,
        **split,
    )
    if splits > 1 and counters is None:
        _merge_kernel[(num_heads, num_sequences)](
            seq_lens, out, workspace, workspace[size * head_dim :], splits, num_warps=1, **shape, **split
        )
    return out
