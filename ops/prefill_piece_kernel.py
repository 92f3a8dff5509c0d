"""Which queries a program of prefill attention takes, and which keys they see. Touches no keys or values.

    tile rows   token 0 head 0 | token 0 head 1 | ... | token 1 head 0 | ...        TOKENS = BLOCK_M // GROUP

A tile's row is found by a search in query_starts: row r's tiles begin at query_starts[r] // TOKENS + r, which
leaves at most one tile per row empty, and those before the first row's. Tiles with the most keys run first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .paged_attention_kernel import KeyRange
from .prefill_plan_kernel import find_split


class Rows(NamedTuple):
    """The rows of the step's chunks, as in ChunkRows, and how many there are."""

    slots: Any
    query_starts: Any
    seq_lens: Any
    num_rows: Any


class Piece(NamedTuple):
    """A tile of a row's queries and a part of the keys that they see.

    row_start, num_queries, seq_len: of the row; num_tiles: into how many tiles its queries go.
    tile: this one's number in the row; a program that has nothing to do finds one outside [0, num_tiles).
    part: the split of the prefix, if the piece is one.
    """

    row: Any
    row_start: Any
    num_queries: Any
    seq_len: Any
    num_tiles: Any
    kv_head: Any
    tile: Any
    part: Any


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


@triton.jit
def find_piece(
    rows: Rows,
    plan: tl.tensor,
    number: tl.tensor,
    is_split: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> Piece:
    """The split of that number, or what is left for a program of that number; these count backwards."""
    last = tl.num_programs(0) - 1 - number
    kv_head, part = last % NUM_KV_HEADS, 0
    row, first_split = 0, 0
    if is_split:
        row, first_split = find_split(plan, rows.num_rows, number)
    else:
        row = _find_row(rows.query_starts, rows.num_rows, last // NUM_KV_HEADS, TOKENS)
    row_start = tl.load(rows.query_starts + row)
    num_queries = tl.load(rows.query_starts + row + 1) - row_start
    num_tiles = tl.cdiv(num_queries, TOKENS)
    seq_len = tl.load(rows.seq_lens + row)
    tile = last // NUM_KV_HEADS - (row_start // TOKENS + row)
    if is_split:
        within = number - first_split
        tile = within % num_tiles
        kv_head = within // num_tiles % NUM_KV_HEADS
        part = within // (num_tiles * NUM_KV_HEADS)
    return Piece(row, row_start, num_queries, seq_len, num_tiles, kv_head, tile, part)


@triton.jit
def key_range(
    prefix: tl.tensor,
    first_token: tl.tensor,
    last_token: tl.tensor,
    token: tl.tensor,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
) -> KeyRange:
    """All keys that tokens first_token to last_token of a chunk behind `prefix` keys see; row i is token[i].

    Rows beyond the last token repeat it, so that none is without keys.
    """
    high = prefix + tl.minimum(token, last_token)
    low = high - WINDOW + 1
    end = prefix + last_token + 1
    full_end = (prefix + first_token + 1) // BLOCK_N * BLOCK_N
    begin = 0
    full_begin = 0
    if WINDOW > 0:
        begin = tl.maximum(prefix + first_token - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
        full_begin = tl.cdiv(tl.maximum(end - WINDOW, 0), BLOCK_N) * BLOCK_N
    return KeyRange(begin, full_begin, full_end, end, low, high)
