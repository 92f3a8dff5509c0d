"""Narrowing a row to what top-k, top-p and min-p let pass, exactly, from what sample_band.py collected.

Device functions for sample_kernel.py. What passes is defined in sampling.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .sample_band import Band
from .sample_groups import next_try
from .sample_row import (
    INF,
    LOWEST,
    MINUS_INF,
    Batch,
    DrawnRow,
    Stats,
    load,
    load_top_k,
    load_top_p,
    min_p_floor,
    weigh,
)


class Candidates(NamedTuple):
    """Logits of a row among which the threshold is searched.

    copies: the row's part of the band, in which each block has counts [BLOCKS].   whole: all of the row's
    logits are candidates instead.
    """

    copies: Any
    counts: Any
    whole: Any
    row: Any


@triton.jit
def _tile(
    batch: Batch,
    among: Candidates,
    start: tl.tensor,
    CHANGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    CAPACITY: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Candidates from `start` on in every block at once, [BLOCKS, WIDTH], -inf where there are none."""
    block = tl.arange(0, BLOCKS)[:, None]
    place = start + tl.arange(0, WIDTH)[None, :]
    if among.whole:
        x = load(batch, block * BLOCK + place, among.row.number, CHANGES)
    else:
        x = tl.load(
            among.copies + block * CAPACITY + place, mask=place < among.counts[:, None], other=MINUS_INF
        )
    return x


@triton.jit
def _reaching(
    batch: Batch,
    among: Candidates,
    threshold: tl.tensor,
    by_count: tl.tensor,
    CHANGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    CAPACITY: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Of the candidates that reach the threshold, the amounts, by count or by weight, [BLOCKS, WIDTH] in
    which a row belongs to a block, and the smallest; of the others the largest."""
    amounts = tl.zeros((BLOCKS, WIDTH), tl.float32)
    smallest = tl.full((BLOCKS, WIDTH), INF, tl.float32)
    other = tl.full((BLOCKS, WIDTH), MINUS_INF, tl.float32)
    length = tl.where(among.whole, BLOCK, tl.max(among.counts, 0))
    for start in range(0, length, WIDTH):
        x = _tile(batch, among, start, CHANGES, BLOCK, BLOCKS, CAPACITY, WIDTH)
        reaches = x >= threshold
        weight = tl.where(by_count, 1.0, weigh(x, among.row.largest, among.row.scale))
        amounts += tl.where(reaches, weight, 0.0)
        smallest = tl.minimum(smallest, tl.where(reaches, x, INF))
        other = tl.maximum(other, tl.where(reaches, MINUS_INF, x))
    return amounts, tl.min(smallest, None), tl.max(other, None)


@triton.jit
def _search(
    batch: Batch,
    among: Candidates,
    low: tl.tensor,
    top: tl.tensor,
    above: tl.tensor,
    wanted: tl.tensor,
    by_count: tl.tensor,
    CHANGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    CAPACITY: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """The largest candidate v >= low such that `above` and the amount of candidates >= v reach `wanted`.

    -inf if it is not among them: if `above` alone suffices, or all do not. No candidate is larger than top.
    Both ends of the range snap to candidates.
    """
    found = tl.full((), MINUS_INF, tl.float32)
    middle = tl.maximum(low, LOWEST)
    top = tl.where(above < wanted, top, MINUS_INF)
    amount_found = wanted
    amount_top = above
    while found < top:
        before = top * 0.5 - tl.maximum(found, LOWEST) * 0.5
        amounts, smallest, other = _reaching(
            batch, among, middle, by_count, CHANGES, BLOCK, BLOCKS, CAPACITY, WIDTH
        )
        amount = above + tl.sum(amounts, None)
        if amount >= wanted:
            found = smallest
            amount_found = amount
            top = tl.where(amount == wanted, found, top)
        else:
            top = tl.where(found > MINUS_INF, other, MINUS_INF)
            amount_top = amount
        if found < top:
            middle = next_try(found, top, amount_found, amount_top, wanted, before)
    return found


@triton.jit
def _give_up_band(
    largest: tl.tensor, BLOCKS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """`low`, `top`, `above` and `masses` for a search of the whole row: the band is too full or beside the
    threshold."""
    return tl.full((), MINUS_INF, tl.float32), largest, 0.0, tl.zeros((BLOCKS,), tl.float32)


@triton.jit
def narrow(
    batch: Batch,
    stats: Stats,
    band: Band,
    row: DrawnRow,
    CHANGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    CAPACITY: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The smallest surviving logit, and the survivors' masses in each block, [BLOCKS]."""
    top_p = load_top_p(batch, row.slot)
    top_k = load_top_k(batch, row.slot)
    low = tl.load(band.low + row.number)
    threshold = tl.load(band.high + row.number)
    block = tl.arange(0, BLOCKS)
    existing = block < stats.num_blocks
    first = row.number.to(tl.int64) * stats.num_blocks
    masses = tl.load(band.above + first + block, mask=existing, other=0.0)
    if low < threshold:
        counts = tl.load(band.counts + first + block, mask=existing, other=0)
        copies = band.copies + first * CAPACITY
        floor = min_p_floor(batch, row)
        by_count = top_k < batch.vocab
        wanted = tl.where(by_count, top_k.to(tl.float32), top_p * row.total)
        above = tl.sum(masses, 0)
        top = tl.minimum(threshold, row.largest)
        whole = tl.max(counts, 0) > CAPACITY
        if whole:
            low, top, above, masses = _give_up_band(row.largest, BLOCKS)
        kept = tl.zeros((BLOCKS, WIDTH), tl.float32)
        searching = True
        while searching:
            threshold = _search(
                batch, Candidates(copies, counts, whole, row), low, top, above, wanted, by_count,
                CHANGES, BLOCK, BLOCKS, CAPACITY, WIDTH,
            )  # fmt: skip
            missed = (threshold == MINUS_INF) & (whole == 0)
            again = by_count & (top_p < 1)  # top-p after top-k: of the mass that top-k lets pass
            threshold = tl.where(again, threshold, tl.maximum(threshold, floor))
            kept, _, _ = _reaching(
                batch, Candidates(copies, counts, whole, row), threshold, False,
                CHANGES, BLOCK, BLOCKS, CAPACITY, WIDTH,
            )  # fmt: skip
            searching = missed | again
            if missed:
                low, top, above, masses = _give_up_band(row.largest, BLOCKS)
                whole = whole | missed
            elif again:
                low = threshold
                top = row.largest
                wanted = top_p * tl.sum(kept, None)
                by_count = by_count & (top_p >= 1)
        masses += tl.sum(kept, 1)
    return threshold, masses
