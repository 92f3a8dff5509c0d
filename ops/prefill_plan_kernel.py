"""How prefill attention cuts long prefixes, worked out on the device once per step. Knows no keys or values.

Every tile of a row sees the row's prefix. If there are too few tiles to fill the card, prefixes are cut, so
that several programs can share a tile; the rest of a tile's keys, its own chunk included, is one more part.

    keys of a row    | split 0 | split 1 | split 2 | rest, causal

Pieces of work are numbered by row, split, KV head and tile, so that programs side by side read the same keys.
Partial results have places, numbered by row, KV head, tile and part, the rest being the last.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .paged_attention import ChunkRows
from .tuning import PrefillTiles

_BLOCK = tl.constexpr(64)
_MAX_SPLITS = tl.constexpr(16)
_PIECE_COST = tl.constexpr(256)
"""What a piece costs beside its keys, in keys: loading queries, filling the pipeline, a partial result."""


@triton.jit
def _tiles_and_prefixes(
    query_starts: tl.tensor,
    seq_lens: tl.tensor,
    rows: tl.tensor,
    num_rows: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Tiles of rows, over all KV heads, and the keys before their chunks."""
    inside = rows < num_rows
    num_queries = tl.load(query_starts + rows + 1, mask=inside, other=0)
    num_queries -= tl.load(query_starts + rows, mask=inside, other=0)
    seq_len = tl.load(seq_lens + rows, mask=inside, other=0)
    return tl.cdiv(num_queries, TOKENS) * NUM_KV_HEADS, tl.where(seq_len > 0, seq_len - num_queries, 0)


@triton.jit
def _split_size(
    num_tiles: tl.tensor,
    longest: tl.tensor,
    num_programs: tl.tensor,
    num_places: tl.tensor,
    BLOCK_N: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
) -> tl.tensor:
    """Keys of a split such that the programs end soonest; more than `longest` if no splits are best."""
    parts = tl.arange(0, _MAX_SPLITS) + 1
    waves = tl.cdiv(num_tiles * parts, num_programs)
    allowed = (num_tiles * parts <= num_places) & (parts * MIN_SPLIT <= longest)
    cost = tl.where(allowed | (parts == 1), waves * (longest // parts + _PIECE_COST), 0x7FFFFFFF)
    best = tl.argmin(cost, axis=0) + 1
    return (longest // (best * BLOCK_N) + 1) * BLOCK_N


@triton.jit(
    do_not_specialize=["query_starts", "seq_lens", "num_rows", "num_programs", "num_places"],
    do_not_specialize_on_alignment=["query_starts", "seq_lens", "num_rows", "num_programs", "num_places"],
)
def _plan_kernel(
    query_starts: tl.tensor,
    seq_lens: tl.tensor,
    plan: tl.tensor,
    num_rows: tl.tensor,
    num_programs: tl.tensor,
    num_places: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
) -> None:
    num_tiles, longest = 0, 0
    for first in range(0, num_rows, _BLOCK):
        tiles, prefixes = _tiles_and_prefixes(
            query_starts, seq_lens, first + tl.arange(0, _BLOCK), num_rows, NUM_KV_HEADS, TOKENS
        )
        num_tiles += tl.sum(tl.where(prefixes >= MIN_SPLIT, tiles, 0), axis=0)
        longest = tl.maximum(longest, tl.max(tl.where(tiles > 0, prefixes, 0), axis=0))
    split = _split_size(num_tiles, longest, num_programs, num_places, BLOCK_N, MIN_SPLIT)
    splits_before, places_before = 0, 0
    for first in range(0, num_rows, _BLOCK):
        rows = first + tl.arange(0, _BLOCK)
        tiles, prefixes = _tiles_and_prefixes(query_starts, seq_lens, rows, num_rows, NUM_KV_HEADS, TOKENS)
        splits = prefixes // split * tiles
        places = tl.where(splits > 0, splits + tiles, 0)
        inside = rows < num_rows
        tl.store(plan + 2 + rows, splits_before + tl.cumsum(splits, axis=0) - splits, mask=inside)
        tl.store(plan + 2 + num_rows + rows, places_before + tl.cumsum(places, axis=0) - places, mask=inside)
        splits_before += tl.sum(splits, axis=0)
        places_before += tl.sum(places, axis=0)
    tl.store(plan, split)
    tl.store(plan + 1, splits_before)


@triton.jit
def find_split(plan: tl.tensor, num_rows: tl.tensor, number: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The row of a split and the number of that row's first."""
    low, high = 0, num_rows
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(plan + 2 + middle) <= number:
            low = middle
        else:
            high = middle
    return low, tl.load(plan + 2 + low)


def launch_split_plan(
    rows: ChunkRows,
    tiles: PrefillTiles,
    *,
    num_programs: int,
    num_places: int,
    num_kv_heads: int,
    tokens: int,
) -> Tensor:
    """[2 + 2 R] int32: keys of a split, a multiple of block_n; splits in all; each row's first split; each
    row's first place.

    num_programs: that run at once.   num_places: partial results that there may be.   tokens: of a tile.
    """
    num_rows = len(rows.seq_lens)
    plan = torch.empty(2 + 2 * num_rows, dtype=torch.int32, device=rows.seq_lens.device)
    _plan_kernel[(1,)](
        rows.query_starts,
        rows.seq_lens,
        plan,
        num_rows,
        num_programs,
        num_places,
        NUM_KV_HEADS=num_kv_heads,
        TOKENS=tokens,
        BLOCK_N=tiles.block_n,
        MIN_SPLIT=tiles.min_split,
        num_warps=1,
    )
    return plan
