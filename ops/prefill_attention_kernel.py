"""Prefill attention on a GPU: a program takes a KV head, with all its query heads, and a few tokens of a row.

So keys and values are read once per group, short chunks fill a tile, and a tile wastes less than a token
(prefill_piece_kernel.py). Before these programs come some that walk the splits of long prefixes, one for each
multiprocessor (prefill_plan_kernel.py). Who finishes a tile's last part merges its partial results, in the
order of the parts.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .paged_attention import ChunkRows, PagedKV
from .paged_attention_kernel import HeadPages, KeyRange, Softmax, attend_range, merge_splits
from .prefill_piece_kernel import Piece, Rows, find_piece, key_range
from .prefill_plan_kernel import launch_split_plan
from .step_memo import StepMemo
from .tuning import PrefillTiles, num_multiprocessors, prefill_tiles

_PLACES_PER_WALKER = 4
"""Partial results that there may be, for each program that walks splits: 35 MB a layer on an H100."""

_ARGUMENTS = ["slots", "query_starts", "seq_lens", "plan", "num_rows", "table_stride", "num_walkers"]


class Pages(NamedTuple):
    """PagedKV as pointers, and the entries of a row of the block tables."""

    k: Any
    v: Any
    block_tables: Any
    table_stride: Any


class Splits(NamedTuple):
    """Long prefixes in splits: what a tile sees of one part of its keys is kept in a place of its own.

    plan: what launch_split_plan returns.   partials: [places, BLOCK_M, HEAD_DIM] float32.
    lse: [places, BLOCK_M] float32, logarithms of their denominators in base 2.
    counters: [places] int32, parts that are done, at the place of the first.
    """

    plan: Any
    partials: Any
    lse: Any
    counters: Any


@triton.jit
def _keep_part(
    splits: Splits,
    first_place: tl.tensor,
    num_splits: tl.tensor,
    part: tl.tensor,
    seen: Softmax,
    values: tl.tensor,
    out: tl.tensor,
    out_offsets: tl.tensor,
    inside: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
) -> None:
    """Keep what a tile saw of one part of its keys. Who keeps the last part merges all, in their order."""
    tile_row, column = tl.arange(0, BLOCK_M), tl.arange(0, HEAD_PAD)
    own_partials = splits.partials + first_place.to(tl.int64) * BLOCK_M * HEAD_DIM
    own_lse = splits.lse + first_place * BLOCK_M
    here = part * BLOCK_M + tile_row
    inside_head = (column < HEAD_DIM)[None, :]
    tl.store(own_partials + here[:, None] * HEAD_DIM + column[None, :], values, mask=inside_head)
    tl.store(own_lse + here, seen.maximum + tl.math.log2(seen.denominator))
    # All threads' stores come before the count, and its acquire before the others' are read.
    tl.debug_barrier()
    arrived = tl.atomic_add(splits.counters + first_place, 1, sem="acq_rel")
    if arrived == num_splits:
        merged = merge_splits(own_partials, own_lse, num_splits + 1, tile_row, BLOCK_M, HEAD_DIM, HEAD_PAD)
        tl.store(out + out_offsets, merged.to(out.dtype.element_ty), mask=inside)
        tl.store(splits.counters + first_place, 0)


@triton.jit
def _attend_piece(
    q: tl.tensor,
    pages: Pages,
    rows: Rows,
    out: tl.tensor,
    splits: Splits,
    scale_log2e: tl.tensor,
    piece: Piece,
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
    tokens: tl.constexpr = BLOCK_M // GROUP
    first_token = piece.tile * tokens
    prefix = piece.seq_len - piece.num_queries
    last_token = tl.minimum(first_token + tokens, piece.num_queries) - 1

    tile_row, column = tl.arange(0, BLOCK_M), tl.arange(0, HEAD_PAD)
    token, head = first_token + tile_row // GROUP, piece.kv_head * GROUP + tile_row % GROUP
    inside = (token <= last_token)[:, None] & (column < HEAD_DIM)[None, :]
    q_rows = (piece.row_start + token).to(tl.int64) * (NUM_KV_HEADS * GROUP) + head
    q_offsets = q_rows[:, None] * HEAD_DIM + column[None, :]
    queries = tl.load(q + q_offsets, mask=inside, other=0.0)
    table = pages.block_tables + tl.load(rows.slots + piece.row).to(tl.int64) * pages.table_stride
    block_stride: tl.constexpr = NUM_KV_HEADS * BLOCK_SIZE * HEAD_DIM
    k_head = pages.k + piece.kv_head * (BLOCK_SIZE * HEAD_DIM)
    v_head = pages.v + piece.kv_head * (BLOCK_SIZE * HEAD_DIM)

    keys = key_range(prefix, first_token, last_token, token, BLOCK_N, WINDOW)
    begin, end, full_end, high = keys.begin, keys.end, keys.full_end, keys.high
    num_splits = 0
    part = piece.part
    if SPLITS:
        split = tl.load(splits.plan)
        num_splits = prefix // split
        if is_split:
            end = (part + 1) * split
            full_end = end
            high = tl.minimum(high, end - 1)
        else:
            part = num_splits
        begin = part * split
    seen = attend_range(
        queries,
        HeadPages(k_head, v_head, table),
        KeyRange(begin, keys.full_begin, full_end, end, keys.low, high),
        scale_log2e, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, block_stride, BLOCK_M, BLOCK_N, WINDOW > 0,
    )  # fmt: skip
    values = seen.numerator / seen.denominator[:, None]
    if num_splits == 0:
        tl.store(out + q_offsets, values.to(out.dtype.element_ty), mask=inside)
    else:
        first_place = tl.load(splits.plan + 2 + rows.num_rows + piece.row)
        first_place += (piece.kv_head * piece.num_tiles + piece.tile) * (num_splits + 1)
        _keep_part(
            splits, first_place, num_splits, part, seen, values, out, q_offsets, inside,
            HEAD_DIM, HEAD_PAD, BLOCK_M,
        )  # fmt: skip


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
    pages = Pages(k_cache, v_cache, block_tables, table_stride)
    rows = Rows(slots, query_starts, seq_lens, num_rows)
    splits = Splits(plan, partials, lse, counters)
    program = tl.program_id(0)
    num_splits = 0
    if SPLITS and program < num_walkers:
        num_splits = tl.cdiv(tl.maximum(tl.load(plan + 1) - program, 0), num_walkers)
    for turn in range(0, num_splits + 1):
        is_split = turn < num_splits
        number = tl.where(is_split, program + turn * num_walkers, program)
        piece = find_piece(rows, plan, number, is_split, NUM_KV_HEADS, BLOCK_M // GROUP)
        if piece.tile >= 0 and piece.tile < piece.num_tiles and piece.seq_len > 0:
            _attend_piece(
                q, pages, rows, out, splits, scale_log2e, piece, is_split,
                NUM_KV_HEADS, GROUP, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_M, BLOCK_N, WINDOW, SPLITS,
            )  # fmt: skip


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
    """As `prefill_attention`; tiles, num_walkers (programs that walk splits): in place of the table's and one
    for each multiprocessor."""
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
    walkers, places = 0, 0
    if counters is not None and not window:
        walkers = num_walkers or num_multiprocessors(q.device)
        places = min(len(counters), _PLACES_PER_WALKER * walkers)
    if 2 * num_kv_heads * (num_tokens // tokens) > places:
        walkers = places = 0  # more tiles than could be cut in two
    plan = rows.seq_lens  # not read without walkers
    if walkers:
        plan = (memo or StepMemo()).once(
            ("splits of prefill attention", num_kv_heads, tokens, tiles.block_n),
            lambda: launch_split_plan(
                rows, tiles, num_programs=walkers, num_places=places, num_kv_heads=num_kv_heads, tokens=tokens
            ),
        )
    workspace = torch.empty(places * block_m * (head_dim + 1), dtype=torch.float32, device=q.device)
    num_tiles = num_kv_heads * (num_tokens // tokens + num_rows)
    _prefill_kernel[(max(walkers, num_tiles),)](
        q, *kv, *rows, plan, out, workspace, workspace[places * block_m * head_dim :],
        rows.seq_lens if counters is None else counters,
        num_rows, kv.block_tables.stride(0), walkers, scale * math.log2(math.e),
        NUM_KV_HEADS=num_kv_heads, GROUP=group, HEAD_DIM=head_dim, HEAD_PAD=head_pad, BLOCK_SIZE=block_size,
        BLOCK_M=block_m, BLOCK_N=tiles.block_n, WINDOW=window or 0, SPLITS=walkers > 0,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    return out
