"""Prefill attention on a GPU: a program takes a KV head, with all its query heads, and a few tokens of a row.

    tile rows   token 0 head 0 | token 0 head 1 | ... | token 1 head 0 | ...        TOKENS = BLOCK_M // GROUP

so keys and values are read once per group, short chunks fill a tile, and a tile wastes less than a token.
A tile's row is found by a search in query_starts: row r's tiles begin at query_starts[r] // TOKENS + r, which
leaves at most one tile per row empty, and those before the first row's. Tiles with the most keys run first.

Before them come programs that walk the splits of long prefixes (prefill_plan_kernel.py), one for each
multiprocessor. Who finishes a tile's last piece merges its partial results, in the order of the splits.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .paged_attention import ChunkRows, PagedKV
from .paged_attention_kernel import attend_range, merge_splits, num_multiprocessors
from .prefill_plan_kernel import find_split, launch_split_plan
from .step_memo import StepMemo
from .tuning import PrefillTiles, prefill_tiles

_PLACES_PER_WALKER = 4
"""Partial results of one layer at most, for each multiprocessor: 35 MB on an H100."""

_ARGUMENTS = ["slots", "query_starts", "seq_lens", "plan", "num_rows", "table_stride", "num_walkers"]


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


@triton.jit(do_not_specialize=_ARGUMENTS, do_not_specialize_on_alignment=_ARGUMENTS)
def _prefill_kernel(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_tables: tl.tensor,
    slots: tl.tensor,
    query_starts: tl.tensor,
    seq_lens: tl.tensor,
    plan: tl.tensor,
    out: tl.tensor,
    partials: tl.tensor,
    lse: tl.tensor,
    counters: tl.tensor,
    num_rows: tl.tensor,
    table_stride: tl.tensor,
    num_walkers: tl.tensor,
    scale_log2e: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    num_splits = 0
    if SPLITS and program < num_walkers:
        num_splits = tl.cdiv(tl.maximum(tl.load(plan + 1) - program, 0), num_walkers)
    for turn in range(0, num_splits + 1):
        is_split = turn < num_splits
        number = tl.where(is_split, program + turn * num_walkers, program)
        _attend_piece(
            q, k_cache, v_cache, block_tables, slots, query_starts, seq_lens, plan, out, partials, lse,
            counters, num_rows, table_stride, scale_log2e, number, is_split,
            NUM_KV_HEADS, GROUP, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_M, BLOCK_N, WINDOW, SPLITS,
        )  # fmt: skip


@triton.jit
def _attend_piece(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_tables: tl.tensor,
    slots: tl.tensor,
    query_starts: tl.tensor,
    seq_lens: tl.tensor,
    plan: tl.tensor,
    out: tl.tensor,
    partials: tl.tensor,
    lse: tl.tensor,
    counters: tl.tensor,
    num_rows: tl.tensor,
    table_stride: tl.tensor,
    scale_log2e: tl.tensor,
    number: tl.tensor,
    is_split: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """A split of that number, or what of a tile is in no split; program ids of tiles count backwards."""
    tokens: tl.constexpr = BLOCK_M // GROUP
    last = tl.num_programs(0) - 1 - number
    kv_head, part = last % NUM_KV_HEADS, 0
    row, first_split = 0, 0
    if is_split:
        row, first_split = find_split(plan, num_rows, number)
    else:
        row = _find_row(query_starts, num_rows, last // NUM_KV_HEADS, tokens)
    row_start = tl.load(query_starts + row)
    num_queries = tl.load(query_starts + row + 1) - row_start
    num_tiles = tl.cdiv(num_queries, tokens)
    seq_len = tl.load(seq_lens + row)
    tile = last // NUM_KV_HEADS - (row_start // tokens + row)
    if is_split:
        within = number - first_split
        tile = within % num_tiles
        kv_head = within // num_tiles % NUM_KV_HEADS
        part = within // (num_tiles * NUM_KV_HEADS)
    if tile >= 0 and tile < num_tiles and seq_len > 0:
        first_token = tile * tokens
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
        begin = 0
        full_begin = 0
        num_splits = 0
        if WINDOW > 0:
            begin = tl.maximum(prefix + first_token - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
            full_begin = tl.cdiv(tl.maximum(end - WINDOW, 0), BLOCK_N) * BLOCK_N
        if SPLITS:
            split = tl.load(plan)
            num_splits = prefix // split
            if is_split:
                end = (part + 1) * split
                full_end = end
                high = tl.minimum(high, end - 1)
            else:
                part = num_splits
            begin = part * split
        values, denominator, maximum = attend_range(
            queries, k_head, v_head, table, begin, full_begin, full_end, end, low, high, scale_log2e,
            HEAD_DIM, HEAD_PAD, BLOCK_SIZE, block_stride, BLOCK_M, BLOCK_N, WINDOW > 0,
        )  # fmt: skip
        values = values / denominator[:, None]

        if num_splits == 0:
            tl.store(out + q_offsets, values.to(out.dtype.element_ty), mask=inside)
        else:
            first_place = tl.load(plan + 2 + num_rows + row)
            first_place += (kv_head * num_tiles + tile) * (num_splits + 1)
            own_partials = partials + first_place.to(tl.int64) * BLOCK_M * HEAD_DIM
            own_lse = lse + first_place * BLOCK_M
            here = part * BLOCK_M + tile_row
            inside_head = (column < HEAD_DIM)[None, :]
            tl.store(own_partials + here[:, None] * HEAD_DIM + column[None, :], values, mask=inside_head)
            tl.store(own_lse + here, maximum + tl.math.log2(denominator))
            # All threads' stores come before the count, and its acquire before the others' are read.
            tl.debug_barrier()
            arrived = tl.atomic_add(counters + first_place, 1, sem="acq_rel")
            if arrived == num_splits:
                merged = merge_splits(
                    own_partials, own_lse, num_splits + 1, tile_row, BLOCK_M, HEAD_DIM, HEAD_PAD
                )
                tl.store(out + q_offsets, merged.to(out.dtype.element_ty), mask=inside)
                tl.store(counters + first_place, 0)


def launch_prefill_attention(
    q: Tensor,
    kv: PagedKV,
    rows: ChunkRows,
    *,
    scale: float,
    window: int | None = None,
    counters: Tensor | None = None,
    out: Tensor | None = None,
    memo: StepMemo | None = None,
    tiles: PrefillTiles | None = None,
    num_walkers: int | None = None,
) -> Tensor:
    """As `prefill_attention`; tiles, num_walkers: other than the table's and the card's."""
    num_tokens, num_heads, head_dim = q.shape
    _, num_kv_heads, block_size, _ = kv.k.shape
    num_rows, group = len(rows.slots), num_heads // num_kv_heads
    assert q.is_contiguous() and kv.k.is_contiguous() and kv.v.is_contiguous(), "must be contiguous"
    assert kv.block_tables.stride(1) == 1 and block_size & (block_size - 1) == 0, "block_size: a power of two"
    out = torch.empty_like(q) if out is None else out
    if num_tokens == 0:
        return out
    assert out.is_contiguous(), "out must be contiguous"
    head_pad = triton.next_power_of_2(head_dim)
    tiles = tiles or prefill_tiles(head_pad, kv.k.element_size())
    block_m = max(tiles.block_m, triton.next_power_of_2(group))
    tokens = block_m // group
    num_tiles = num_kv_heads * (num_tokens // tokens + num_rows)
    plan, walkers, places = rows.seq_lens, 0, 0
    if counters is not None and not window:
        walkers = num_walkers or num_multiprocessors(q.device)
        places = min(len(counters), _PLACES_PER_WALKER * walkers)
    if 2 * num_kv_heads * (num_tokens // tokens) > places:
        walkers = places = 0  # more tiles than could be cut in two
    if walkers:
        plan = (memo or StepMemo()).once(
            ("splits of prefill attention", num_kv_heads, tokens, tiles.block_n),
            lambda: launch_split_plan(
                rows.query_starts,
                rows.seq_lens,
                num_programs=walkers,
                num_places=places,
                num_kv_heads=num_kv_heads,
                tokens=tokens,
                block_n=tiles.block_n,
                min_split=tiles.min_split,
            ),
        )
    workspace = torch.empty(places * block_m * (head_dim + 1), dtype=torch.float32, device=q.device)
    _prefill_kernel[(max(walkers, num_tiles),)](
        q,
        *kv,
        *rows,
        plan,
        out,
        workspace,
        workspace[places * block_m * head_dim :],
        rows.seq_lens if counters is None else counters,
        num_rows,
        kv.block_tables.stride(0),
        walkers,
        scale * math.log2(math.e),
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        HEAD_PAD=head_pad,
        BLOCK_SIZE=block_size,
        BLOCK_M=block_m,
        BLOCK_N=tiles.block_n,
        WINDOW=window or 0,
        SPLITS=walkers > 0,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out
