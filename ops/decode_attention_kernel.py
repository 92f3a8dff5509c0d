"""Decode attention on a GPU: a program takes a KV head, with all its query heads, and a run of tiles of keys.

Runs go on from row to row (decode_runs_kernel.py). Of a row that lies within its run a program writes the
result. Programs that share a row write partial results; the one that ends last merges them, in their order.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .decode_parts_kernel import Parts, merge_row, store_heads
from .decode_runs_kernel import find_run, first_key
from .dependent_launch import launch_options, let_next_start, wait_for_previous
from .paged_attention import DecodeRows, PagedKV
from .paged_attention_kernel import HeadPages, Softmax, fresh_softmax
from .tuning import DecodeTiles, decode_programs, decode_tiles, num_multiprocessors

_ROWS_AT_ONCE = 256
"""Lengths that a program adds up at a time."""


@triton.jit
def _attend_tile(
    queries: tl.tensor,
    seen: Softmax,
    head: HeadPages,
    start: tl.tensor,
    seq_len: tl.tensor,
    scale_log2e: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
) -> Softmax:
    """What has been seen after keys [start, start + BLOCK_N), of which the row sees one at least.

    Past the row's end its last key is loaded again and hidden. So loads need no mask, and what they bring is
    a real key's: a weight of 0 cancels any number, but not the NaN that unused memory may hold.
    """
    column = tl.arange(0, HEAD_PAD)
    keys = start + tl.arange(0, BLOCK_N)
    loaded = tl.minimum(keys, seq_len - 1)
    # Block ids are widened first: a cache may have more than 2^31 elements.
    blocks = tl.load(head.table + loaded // BLOCK_SIZE).to(tl.int64)
    offsets = (blocks * BLOCK_STRIDE + (loaded % BLOCK_SIZE) * HEAD_DIM)[:, None] + column[None, :]
    if HEAD_DIM == HEAD_PAD:
        k = tl.load(head.k + offsets)
    else:
        k = tl.load(head.k + offsets, mask=(column < HEAD_DIM)[None, :], other=0.0)
    scores = tl.dot(queries, tl.trans(k), input_precision="tf32x3")
    visible = keys < seq_len
    if WINDOW > 0:
        visible = visible & (keys >= seq_len - WINDOW)
    scores = tl.where(visible[None, :], scores, float("-inf"))
    new_maximum = tl.maximum(seen.maximum, tl.max(scores, axis=1) * scale_log2e)
    weights = tl.math.exp2(scores * scale_log2e - new_maximum[:, None])
    rescale = tl.math.exp2(seen.maximum - new_maximum)
    denominator = seen.denominator * rescale + tl.sum(weights, axis=1)
    if HEAD_DIM == HEAD_PAD:
        v = tl.load(head.v + offsets)
    else:
        v = tl.load(head.v + offsets, mask=(column < HEAD_DIM)[None, :], other=0.0)
    values = tl.dot(weights.to(v.dtype), v, seen.numerator * rescale[:, None], input_precision="tf32x3")
    return Softmax(values, denominator, new_maximum)


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
    # The lengths can be read before the wait: the step's first kernels wrote them.
    run = find_run(seq_lens, num_rows, program, num_programs, WINDOW, BLOCK_N, ROWS)
    head, column = tl.arange(0, GROUP_PAD), tl.arange(0, HEAD_PAD)
    inside = (head < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
    block_stride: tl.constexpr = NUM_KV_HEADS * BLOCK_SIZE * HEAD_DIM
    k_head = k_cache + kv_head * (BLOCK_SIZE * HEAD_DIM)
    v_head = v_cache + kv_head * (BLOCK_SIZE * HEAD_DIM)
    parts = Parts(
        partials + kv_head * num_programs * (2 * GROUP * HEAD_DIM),
        lse + kv_head * num_programs * (2 * GROUP),
        counters,
    )

    row, row_begin = tl.minimum(run.row, num_rows - 1), run.row_begin
    seq_len = tl.load(seq_lens + row)
    slot = tl.load(slots + row)
    start = first_key(seq_len, WINDOW, BLOCK_N) + (run.begin - run.row_begin) * BLOCK_N
    next_row = tl.minimum(row + 1, num_rows - 1)
    next_len, next_slot = tl.load(seq_lens + next_row), tl.load(slots + next_row)
    first_len = seq_len
    wait_for_previous(DEPENDENT)
    if run.begin == run.end:
        return

    seen = fresh_softmax(GROUP_PAD, HEAD_PAD)
    for tile in tl.range(run.begin, run.end):
        first_head = (row * NUM_KV_HEADS + kv_head) * GROUP
        queries = tl.load(
            q + (first_head + head)[:, None] * HEAD_DIM + column[None, :], mask=inside, other=0.0
        )
        table = block_tables + slot.to(tl.int64) * table_stride
        seen = _attend_tile(
            queries, seen, HeadPages(k_head, v_head, table), start, seq_len, scale_log2e,
            HEAD_DIM, HEAD_PAD, BLOCK_SIZE, block_stride, BLOCK_N, WINDOW,
        )  # fmt: skip
        row_ends = start + BLOCK_N >= seq_len
        if row_ends | (tile == run.end - 1):
            result = seen.numerator / seen.denominator[:, None]
            if row_ends & (row_begin >= run.begin):
                store_heads(out, result, first_head, head, GROUP, HEAD_DIM, HEAD_PAD)
            else:
                part = (2 * program + (row != run.row).to(tl.int32)) * GROUP
                store_heads(parts.results, result, part, head, GROUP, HEAD_DIM, HEAD_PAD)
                part_lse = parts.lse + part + head
                tl.store(part_lse, seen.maximum + tl.math.log2(seen.denominator), mask=head < GROUP)
        # Selected, not branched, so that the next tiles' loads depend on positions only and can run ahead.
        seen = Softmax(
            tl.where(row_ends, 0.0, seen.numerator),
            tl.where(row_ends, 0.0, seen.denominator),
            tl.where(row_ends, float("-inf"), seen.maximum),
        )
        turns = row_ends & (tile < run.end - 1)
        row += turns.to(tl.int32)
        row_begin = tl.where(turns, tile + 1, row_begin)
        seq_len = tl.where(turns, next_len, seq_len)
        slot = tl.where(turns, next_slot, slot)
        start = tl.where(turns, first_key(seq_len, WINDOW, BLOCK_N), start + BLOCK_N)
        next_row = tl.minimum(row + 1, num_rows - 1)
        next_len, next_slot = tl.load(seq_lens + next_row), tl.load(slots + next_row)

    # All threads' stores come before the counts, and a count's acquire before the others' are read.
    tl.debug_barrier()
    merge_row(
        out, parts, run, run.row, run.row_begin, first_len,
        NUM_KV_HEADS, GROUP, GROUP_PAD, HEAD_DIM, HEAD_PAD, BLOCK_N, WINDOW,
    )  # fmt: skip
    if row != run.row:
        merge_row(
            out, parts, run, row, row_begin, seq_len,
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
    """As `decode_attention`; tiles, num_programs (per KV head): in place of the table's, to measure them."""
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
