"""Decode attention on a GPU: programs walk runs of tiles (decode_runs_kernel.py) with all heads of a KV head.

What a program computed of a row that begins and ends with it is the result; else it is a partial, and the
program that finishes last of those that share the row merges their partials in order.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .decode_runs_kernel import find_run, first_key, num_tiles, run_begin, run_of
from .dependent_launch import launch_options, let_next_start, wait_for_previous
from .paged_attention import DecodeRows, PagedKV
from .paged_attention_kernel import num_multiprocessors
from .tuning import DecodeTiles, decode_programs, decode_tiles

_ROWS_AT_ONCE = 256
"""Lengths that a program adds up at a time."""


@triton.jit
def _attend_tile(
    queries: tl.tensor,
    values: tl.tensor,
    denominator: tl.tensor,
    maximum: tl.tensor,
    k_head: tl.tensor,
    v_head: tl.tensor,
    table: tl.tensor,
    start: tl.tensor,
    seq_len: tl.tensor,
    scale_log2e: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Visit keys [start, start + BLOCK_N), one of which counts at least; (values, denominator, maximum).

    Behind the row's end its last key is loaded again and hidden: every load is of a real key, without a mask,
    and a weight of 0 makes up for anything but what is not a number.
    """
    column = tl.arange(0, HEAD_PAD)
    keys = start + tl.arange(0, BLOCK_N)
    loaded = tl.minimum(keys, seq_len - 1)
    # Block ids are widened first: a cache may have more than 2^31 elements.
    blocks = tl.load(table + loaded // BLOCK_SIZE).to(tl.int64)
    offsets = (blocks * BLOCK_STRIDE + (loaded % BLOCK_SIZE) * HEAD_DIM)[:, None] + column[None, :]
    if HEAD_DIM == HEAD_PAD:
        k = tl.load(k_head + offsets)
    else:
        k = tl.load(k_head + offsets, mask=(column < HEAD_DIM)[None, :], other=0.0)
    scores = tl.dot(queries, tl.trans(k), input_precision="tf32x3")
    visible = keys < seq_len
    if WINDOW > 0:
        visible = visible & (keys >= seq_len - WINDOW)
    scores = tl.where(visible[None, :], scores, float("-inf"))
    new_maximum = tl.maximum(maximum, tl.max(scores, axis=1) * scale_log2e)
    weights = tl.math.exp2(scores * scale_log2e - new_maximum[:, None])
    rescale = tl.math.exp2(maximum - new_maximum)
    denominator = denominator * rescale + tl.sum(weights, axis=1)
    if HEAD_DIM == HEAD_PAD:
        v = tl.load(v_head + offsets)
    else:
        v = tl.load(v_head + offsets, mask=(column < HEAD_DIM)[None, :], other=0.0)
    values = tl.dot(weights.to(v.dtype), v, values * rescale[:, None], input_precision="tf32x3")
    return values, denominator, new_maximum


@triton.jit
def _store_heads(
    out: tl.tensor,
    values: tl.tensor,
    first_head: tl.tensor,
    row: tl.tensor,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
) -> None:
    column = tl.arange(0, HEAD_PAD)
    inside = (row < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
    pointers = out + (first_head + row)[:, None] * HEAD_DIM + column[None, :]
    tl.store(pointers, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _merge_row(
    out: tl.tensor,
    partials: tl.tensor,
    lse: tl.tensor,
    counters: tl.tensor,
    row: tl.tensor,
    row_begin: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    total: tl.tensor,
    seq_len: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
) -> None:
    """Count a program that is done with its part of a row; the last one merges, and clears the counter.

    partials [programs, 2, GROUP, HEAD_DIM] and lse [programs, 2, GROUP] of a KV head: of a program's first
    row, and of its last if that is another.
    """
    num_programs = tl.minimum(tl.num_programs(1), total)
    row_end = row_begin + num_tiles(seq_len, WINDOW, BLOCK_N)
    if (row_begin < begin) | (row_end > end):
        pair = row * NUM_KV_HEADS + tl.program_id(0)
        first = run_of(row_begin, num_programs, total)
        count = run_of(row_end - 1, num_programs, total) - first + 1
        # The row is the last of the program in which it begins, unless it is the first there, too.
        first_part = 2 * first + (run_begin(first, num_programs, total) < row_begin).to(tl.int32)
        # One row at most goes on beyond a program, so the program in which a row begins has its counter.
        counter = counters + tl.program_id(0) * tl.num_programs(1) + first
        arrived = tl.atomic_add(counter, 1, sem="acq_rel")
        if arrived == count - 1:
            head, column = tl.arange(0, GROUP_PAD), tl.arange(0, HEAD_PAD)
            inside = (head < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
            maximum = tl.full((GROUP_PAD,), float("-inf"), dtype=tl.float32)
            denominator = tl.zeros((GROUP_PAD,), dtype=tl.float32)
            merged = tl.zeros((GROUP_PAD, HEAD_PAD), dtype=tl.float32)
            for i in tl.range(0, count, loop_unroll_factor=4):
                part = tl.where(i == 0, first_part, 2 * (first + i))
                here = part * GROUP + head
                log = tl.load(lse + here, mask=head < GROUP, other=0.0, cache_modifier=".cg")
                values = tl.load(
                    partials + here[:, None] * HEAD_DIM + column[None, :],
                    mask=inside, other=0.0, cache_modifier=".cg",
                )  # fmt: skip
                new_maximum = tl.maximum(maximum, log)
                rescale, weight = tl.math.exp2(maximum - new_maximum), tl.math.exp2(log - new_maximum)
                denominator = denominator * rescale + weight
                merged = merged * rescale[:, None] + weight[:, None] * values
                maximum = new_maximum
            _store_heads(out, merged / denominator[:, None], pair * GROUP, head, GROUP, HEAD_DIM, HEAD_PAD)
            tl.store(counter, 0)


@triton.jit(
    do_not_specialize=["slots", "seq_lens", "num_rows", "table_stride"],
    do_not_specialize_on_alignment=["slots", "seq_lens", "num_rows", "table_stride"],
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
    num_rows: tl.tensor,
    table_stride: tl.tensor,
    scale_log2e: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    kv_head, program, num_programs = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    let_next_start(DEPENDENT)
    # The step's first kernels wrote the lengths, long ago.
    begin, end, total, first_row, first_begin = find_run(
        seq_lens, num_rows, program, num_programs, WINDOW, BLOCK_N, ROWS
    )
    head, column = tl.arange(0, GROUP_PAD), tl.arange(0, HEAD_PAD)
    inside = (head < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
    block_stride: tl.constexpr = NUM_KV_HEADS * BLOCK_SIZE * HEAD_DIM
    k_head = k_cache + kv_head * (BLOCK_SIZE * HEAD_DIM)
    v_head = v_cache + kv_head * (BLOCK_SIZE * HEAD_DIM)
    own_partials = partials + kv_head * num_programs * (2 * GROUP * HEAD_DIM)
    own_lse = lse + kv_head * num_programs * (2 * GROUP)

    row, row_begin = tl.minimum(first_row, num_rows - 1), first_begin
    seq_len = tl.load(seq_lens + row)
    slot = tl.load(slots + row)
    start = first_key(seq_len, WINDOW, BLOCK_N) + (begin - first_begin) * BLOCK_N
    next_row = tl.minimum(row + 1, num_rows - 1)
    next_len, next_slot = tl.load(seq_lens + next_row), tl.load(slots + next_row)
    first_len = seq_len
    wait_for_previous(DEPENDENT)
    if begin == end:
        return

    values = tl.zeros((GROUP_PAD, HEAD_PAD), dtype=tl.float32)
    denominator = tl.zeros((GROUP_PAD,), dtype=tl.float32)
    maximum = tl.full((GROUP_PAD,), float("-inf"), dtype=tl.float32)
    for tile in tl.range(begin, end):
        first_head = (row * NUM_KV_HEADS + kv_head) * GROUP
        queries = tl.load(
            q + (first_head + head)[:, None] * HEAD_DIM + column[None, :], mask=inside, other=0.0
        )
        table = block_tables + slot.to(tl.int64) * table_stride
        values, denominator, maximum = _attend_tile(
            queries, values, denominator, maximum, k_head, v_head, table, start, seq_len, scale_log2e,
            HEAD_DIM, HEAD_PAD, BLOCK_SIZE, block_stride, BLOCK_N, WINDOW,
        )  # fmt: skip
        row_ends = start + BLOCK_N >= seq_len
        if row_ends | (tile == end - 1):
            result = values / denominator[:, None]
            if row_ends & (row_begin >= begin):
                _store_heads(out, result, first_head, head, GROUP, HEAD_DIM, HEAD_PAD)
            else:
                part = (2 * program + (row != first_row).to(tl.int32)) * GROUP
                _store_heads(own_partials, result, part, head, GROUP, HEAD_DIM, HEAD_PAD)
                tl.store(own_lse + part + head, maximum + tl.math.log2(denominator), mask=head < GROUP)
        # Selected, not branched: loads of the tiles ahead depend on where they are, and on nothing computed.
        values = tl.where(row_ends, 0.0, values)
        denominator = tl.where(row_ends, 0.0, denominator)
        maximum = tl.where(row_ends, float("-inf"), maximum)
        turns = row_ends & (tile < end - 1)
        row += turns.to(tl.int32)
        row_begin = tl.where(turns, tile + 1, row_begin)
        seq_len = tl.where(turns, next_len, seq_len)
        slot = tl.where(turns, next_slot, slot)
        start = tl.where(turns, first_key(seq_len, WINDOW, BLOCK_N), start + BLOCK_N)
        next_row = tl.minimum(row + 1, num_rows - 1)
        next_len, next_slot = tl.load(seq_lens + next_row), tl.load(slots + next_row)

    # All threads' stores come before the counts, and a count's acquire before the others' are read.
    tl.debug_barrier()
    _merge_row(
        out, own_partials, own_lse, counters, first_row, first_begin, begin, end, total, first_len,
        NUM_KV_HEADS, GROUP, GROUP_PAD, HEAD_DIM, HEAD_PAD, BLOCK_N, WINDOW,
    )  # fmt: skip
    if row != first_row:
        _merge_row(
            out, own_partials, own_lse, counters, row, row_begin, begin, end, total, seq_len,
            NUM_KV_HEADS, GROUP, GROUP_PAD, HEAD_DIM, HEAD_PAD, BLOCK_N, WINDOW,
        )  # fmt: skip


def launch_decode_attention(
    q: Tensor,
    kv: PagedKV,
    rows: DecodeRows,
    *,
    scale: float,
    window: int | None = None,
    counters: Tensor | None = None,
    out: Tensor | None = None,
    tiles: DecodeTiles | None = None,
    num_programs: int | None = None,
) -> Tensor:
    """As `decode_attention`; tiles, num_programs per KV head: other than the table's, to measure them."""
    num_sequences, num_heads, head_dim = q.shape
    _, num_kv_heads, block_size, _ = kv.k.shape
    assert q.is_contiguous() and kv.k.is_contiguous() and kv.v.is_contiguous(), "must be contiguous"
    assert kv.block_tables.stride(1) == 1 and block_size & (block_size - 1) == 0, "block_size: a power of two"
    out = torch.empty_like(q) if out is None else out
    if num_sequences == 0:
        return out
    assert out.is_contiguous(), "out must be contiguous"
    group, head_pad = num_heads // num_kv_heads, triton.next_power_of_2(head_dim)
    tiles = tiles or decode_tiles(head_pad, kv.k.element_size())
    num_programs = num_programs or decode_programs(
        tiles, num_sequences, num_kv_heads, rows.max_seq_len, num_multiprocessors(q.device)
    )
    if counters is None:
        counters = torch.zeros(num_kv_heads * num_programs, dtype=torch.int32, device=q.device)
    assert len(counters) >= num_kv_heads * num_programs, "there must be a counter for every program"
    size = 2 * num_programs * num_heads
    workspace = torch.empty(size * (head_dim + 1), dtype=torch.float32, device=q.device)
    _decode_kernel[(num_kv_heads, num_programs)](
        q, *kv, rows.slots, rows.seq_lens, out, workspace, workspace[size * head_dim :],
        counters, num_sequences, kv.block_tables.stride(0), scale * math.log2(math.e),
        NUM_KV_HEADS=num_kv_heads, GROUP=group, GROUP_PAD=max(16, triton.next_power_of_2(group)),
        HEAD_DIM=head_dim, HEAD_PAD=head_pad, BLOCK_SIZE=block_size, BLOCK_N=tiles.block_n,
        WINDOW=window or 0, ROWS=_ROWS_AT_ONCE, num_warps=tiles.num_warps, num_stages=tiles.num_stages,
        **launch_options(q),
    )  # fmt: skip
    return out
