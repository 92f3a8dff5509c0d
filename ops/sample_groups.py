"""Narrowing a row to what top-k, top-p and min-p let pass where a few groups of tokens hold all of that.

Each of the k groups with the largest maxima holds a logit no less than the last of these maxima, so the k
largest logits are no less either; and where maxima add up to the mass p, top-p keeps nothing smaller. Only
groups that reach this bound are read again. Where they are too many, sample_band.py has another way.
"""

from __future__ import annotations

import triton
import triton.language as tl

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
from .sampling import GROUP

_GROUP = tl.constexpr(GROUP)


@triton.jit
def next_try(
    found: tl.tensor,
    top: tl.tensor,
    amount_found: tl.tensor,
    amount_top: tl.tensor,
    wanted: tl.tensor,
    before: tl.tensor,
) -> tl.tensor:
    """A threshold to try in (found, top]; amounts are what reaches found, and what lies above top.

    Amounts rise almost linearly where candidates are many, so a line between both ends finds it, unless the
    last one did not halve the range, which was twice `before`.
    """
    part = (amount_found - wanted) / tl.maximum(amount_found - amount_top, 1e-30)
    part = tl.where(top * 0.5 - found * 0.5 > 0.5 * before, 0.5, part)
    middle = found * (1 - part) + top * part
    return tl.where((middle > found) & (middle < top), middle, top)


@triton.jit
def _threshold(
    x: tl.tensor,
    amounts: tl.tensor,
    low: tl.tensor,
    top: tl.tensor,
    wanted: tl.tensor,
) -> tl.tensor:
    """The largest v >= low of x such that the amounts of all x >= v reach `wanted`; -inf if there is none.

    top: the largest of x.
    """
    found = tl.full((), MINUS_INF, tl.float32)
    middle = low
    amount_found = wanted
    amount_top = 0.0
    while found < top:
        before = top * 0.5 - tl.maximum(found, LOWEST) * 0.5
        reaches = x >= middle
        amount = tl.sum(tl.where(reaches, amounts, 0.0), None)
        if amount >= wanted:
            found = tl.min(tl.where(reaches, x, INF), None)
            amount_found = amount
            top = tl.where(amount == wanted, found, top)
        else:
            other = tl.max(tl.where(reaches, MINUS_INF, x), None)
            top = tl.where(found > MINUS_INF, other, MINUS_INF)
            amount_top = amount
        if found < top:
            middle = next_try(found, top, amount_found, amount_top, wanted, before)
    return found


@triton.jit
def pick_groups(
    batch: Batch,
    stats: Stats,
    groups: tl.tensor,
    row: DrawnRow,
    BLOCKS: tl.constexpr,
    SLOTS: tl.constexpr,
) -> tl.tensor:
    """How many groups hold all that passes; 0 if it is not known that SLOTS do.

    groups: [SLOTS] int32, gets their numbers, ascending.
    """
    top_p = load_top_p(batch, row.slot)
    top_k = load_top_k(batch, row.slot)
    by_count = top_k < batch.vocab
    num_groups = stats.num_blocks * _GROUP
    group = tl.arange(0, BLOCKS * _GROUP)
    maxima = stats.maxima + row.number.to(tl.int64) * num_groups
    maxima = tl.load(maxima + group, mask=group < num_groups, other=MINUS_INF)
    bound = tl.full((), MINUS_INF, tl.float32)
    if tl.where(by_count, top_k <= SLOTS, top_p < 1):
        amounts = tl.where(by_count, 1.0, weigh(maxima, row.largest, row.scale))
        wanted = tl.where(by_count, top_k.to(tl.float32), top_p * row.total)
        bound = _threshold(maxima, amounts, LOWEST, row.largest, wanted)
    if (by_count == 0) | (top_p >= 1):
        bound = tl.maximum(bound, min_p_floor(batch, row))
    reaches = (maxima >= bound) & (maxima > MINUS_INF)
    place = tl.cumsum(reaches.to(tl.int32), 0) - 1
    tl.store(groups + place, group, mask=reaches & (place < SLOTS))
    count = tl.sum(reaches.to(tl.int32), 0)
    return tl.where(count <= SLOTS, count, 0)


@triton.jit
def narrow_groups(
    batch: Batch,
    groups: tl.tensor,
    count: tl.tensor,
    row: DrawnRow,
    CHANGES: tl.constexpr,
    BLOCKS: tl.constexpr,
    SLOTS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The smallest surviving logit, and the survivors' masses in each block, [BLOCKS].

    groups: [SLOTS] int32, of which the first `count` hold all that passes.
    """
    top_p = load_top_p(batch, row.slot)
    top_k = load_top_k(batch, row.slot)
    by_count = top_k < batch.vocab
    place = tl.arange(0, SLOTS)
    group = tl.load(groups + place, mask=place < count, other=BLOCKS * _GROUP)
    x = load(batch, group[:, None] * _GROUP + tl.arange(0, _GROUP)[None, :], row.number, CHANGES)
    weights = weigh(x, row.largest, row.scale)
    threshold = tl.full((), LOWEST, tl.float32)
    wanted = top_p * row.total
    if by_count:
        ones = tl.full((SLOTS, _GROUP), 1.0, tl.float32)
        threshold = tl.maximum(_threshold(x, ones, LOWEST, row.largest, top_k.to(tl.float32)), LOWEST)
        wanted = top_p * tl.sum(tl.where(x >= threshold, weights, 0.0), None)
    if top_p < 1:
        threshold = tl.maximum(_threshold(x, weights, threshold, row.largest, wanted), threshold)
    threshold = tl.maximum(threshold, min_p_floor(batch, row))
    masses = tl.sum(tl.where(x >= threshold, weights, 0.0), 1)
    mine = (group // _GROUP)[:, None] == tl.arange(0, BLOCKS)[None, :]
    return threshold, tl.sum(tl.where(mine, masses[:, None], 0.0), 0)
