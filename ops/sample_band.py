"""Bracketing the threshold of top-k and top-p, so that few logits need an exact search.

A sample of the row, evenly spaced, predicts the threshold: top-k by how many sampled logits lie above, top-p
by the mass that lies below, since what lies below is many light tokens, of which a sample tells much, and
the total is known. One pass over the row then adds up the mass above the bracket and copies out the logits
inside it. The prediction only has to be right most of the time: sample_filter.py sees from the exact sums
when it was not, and searches the whole row.

    logits of a row, descending:   | above high: summed up | low .. high: copied out | below low: dropped |
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .dependent_launch import wait_for_inputs
from .sample_row import Batch, Stats, block_masses, filtered, load, weigh, weight_scale
from .sampling import Column

_TOP_P = tl.constexpr(int(Column.TOP_P))
_MIN_P = tl.constexpr(int(Column.MIN_P))
_TOP_K = tl.constexpr(int(Column.TOP_K))
_COLUMNS = tl.constexpr(len(Column))
_INF = tl.constexpr(float("inf"))
_MINUS_INF = tl.constexpr(float("-inf"))
_LOWEST = tl.constexpr(-3.4028234663852886e38)
# Tokens of a sample that lie side by side: half a sector of device memory in bf16.
_CHUNK = tl.constexpr(8)
_STEPS = tl.constexpr(10)
# Standard errors of the sample between the predicted threshold and the ends of the bracket.
_MARGIN = tl.constexpr(4.0)
_COUNT_MARGIN = tl.constexpr(3.0)
# Where a sample shows so few tokens above the bracket, they join it.
_FEW = tl.constexpr(4096.0)
# Logits that a thread loads at once in bf16; their number fits the digits of `_places`.
_GROUP = tl.constexpr(8)
# Bits below the largest weight beyond which no vocabulary adds up to a mass that float32 would notice.
_DEEPEST = tl.constexpr(64.0)


class Band(NamedTuple):
    """low, high: [R] float32, the bracket.   copies: [R, num_blocks, CAPACITY] float32, each block's logits
    in [low, high), in order.   counts: [R, num_blocks] int32, how many there are, possibly more than the
    capacity, at which the copying stopped.
    above: [R, num_blocks] float32, sums of the weights from high on, relative to the row's largest logit.
    """

    low: Any
    high: Any
    copies: Any
    counts: Any
    above: Any


@triton.jit
def min_p_floor(
    batch: Batch,
    slot: tl.tensor,
    largest: tl.tensor,
    scale: tl.tensor,
) -> tl.tensor:
    """The logit whose weight is min_p times that of the largest; -inf without min_p."""
    min_p = tl.load(batch.floats + slot * _COLUMNS + _MIN_P)
    return tl.where(min_p > 0, largest + tl.log2(tl.maximum(min_p, 1e-37)) / scale, _MINUS_INF)


@triton.jit
def _predict(
    batch: Batch,
    row: tl.tensor,
    largest: tl.tensor,
    scale: tl.tensor,
    top_k: tl.tensor,
    spare: tl.tensor,
    CHANGES: tl.constexpr,
    SAMPLE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """A bracket of the threshold of top-k or, if that is off, of top-p; spare: the mass that top-p drops."""
    step = tl.cdiv(tl.cdiv(batch.vocab, _CHUNK), SAMPLE // _CHUNK) * _CHUNK
    place = tl.arange(0, SAMPLE)
    offsets = place // _CHUNK * step + place % _CHUNK
    x = load(batch, offsets, row, CHANGES)
    sampled = tl.sum((offsets < batch.vocab).to(tl.float32), 0)
    share = sampled / batch.vocab
    depth = (largest - x) * scale  # in bits of weight
    finite = x > _MINUS_INF
    by_count = top_k < batch.vocab
    margin = tl.where(by_count, _COUNT_MARGIN, _MARGIN) * tl.sqrt(1.0 - share)
    weight = tl.where(by_count, 1.0, tl.where(finite, tl.exp2(-depth), 0.0))
    wanted = tl.where(by_count, top_k.to(tl.float32), spare) * share
    # Twice the mean reaches past the bulk, and a few outliers do not stretch it.
    end = 2 * tl.sum(tl.where(finite, depth, 0.0), 0) / tl.maximum(tl.sum(finite.to(tl.float32), 0), 1.0)
    end = tl.where(by_count, end, tl.minimum(end, _DEEPEST))
    # Both halve: low lies in (low_not, low_end], high in [high, high_end).
    low_not = 0.0
    low_end = end
    low = _INF
    high = 0.0
    high_end = end
    for _ in range(_STEPS):
        middle = (low_not + low_end) * 0.5
        amount = tl.sum(tl.where((depth > middle) != by_count, weight, 0.0), 0)
        if by_count:
            enough = amount - margin * tl.sqrt(amount) >= wanted
        else:
            # Sums of squared weights are bounded by the largest of them. And what the sample missed is
            # no more than a few of these.
            unit = tl.exp2(-middle)
            enough = amount + margin * (tl.sqrt(amount * unit) + 0.5 * margin * unit) <= wanted
            higher = (high + high_end) * 0.5
            amount = tl.sum(tl.where(depth >= higher, weight, 0.0), 0)
            too_much = amount - margin * tl.sqrt(amount * tl.exp2(-higher)) > wanted
            high = tl.where(too_much, higher, high)
            high_end = tl.where(too_much, high_end, higher)
        low_not = tl.where(enough, low_not, middle)
        low_end = tl.where(enough, middle, low_end)
        low = tl.where(enough, middle, low)
    above = tl.sum((depth <= high).to(tl.float32), 0)
    whole_top = by_count | (above < share * _FEW) | (high == 0)
    return largest - low / scale, tl.where(whole_top, _INF, largest - high / scale)


@triton.jit
def bracket_kernel(
    batch: Batch,
    stats: Stats,
    band: Band,
    CHANGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCKS: tl.constexpr,
    SAMPLE: tl.constexpr,
) -> None:
    """One program a row: where its threshold lies."""
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0)
    slot = tl.load(batch.slots + row).to(tl.int64)
    if filtered(batch, slot):
        scale = weight_scale(batch, slot)
        largest, masses = block_masses(stats, row, scale, BLOCKS)
        low = _INF
        high = _INF
        if tl.abs(largest) < _INF:
            floor = min_p_floor(batch, slot, largest, scale)
            top_p = tl.load(batch.floats + slot * _COLUMNS + _TOP_P)
            top_k = tl.load(batch.table + slot * _COLUMNS + _TOP_K)
            low = floor
            high = floor
            if (top_k < batch.vocab) | (top_p < 1):
                spare = (1 - top_p) * tl.sum(masses, 0)
                low, high = _predict(batch, row, largest, scale, top_k, spare, CHANGES, SAMPLE)
                if floor >= high:  # min-p is the stricter one, wherever the threshold lies
                    low = floor
                    high = floor
        tl.store(band.low + row, tl.maximum(low, _LOWEST))
        tl.store(band.high + row, high)


@triton.jit
def _places(
    inside: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """How many of inside [N, _GROUP] lie before each, and how many there are.

    A group's flags become the digits of one number, which a product turns into their running sums, so that
    the scan, which is slow, is of groups only.
    """
    shift = 4 * tl.arange(0, _GROUP)[None, :]
    digits = tl.sum(inside.to(tl.int32) << shift, 1)
    counts = ((digits * 0x11111111) >> 28) & 15
    ends = tl.cumsum(counts, 0)
    before = ((digits * 0x11111110)[:, None] >> shift) & 15
    return (ends - counts)[:, None] + before, tl.max(ends, 0)


@triton.jit
def collect_kernel(
    batch: Batch,
    stats: Stats,
    band: Band,
    CHANGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    CAPACITY: tl.constexpr,
) -> None:
    """One program a block: the mass above the bracket, and the logits inside it."""
    wait_for_inputs(DEPENDENT)
    block = tl.program_id(0)
    row = tl.num_programs(1) - 1 - tl.program_id(1)  # the rows scanned last are still in the cache
    slot = tl.load(batch.slots + row).to(tl.int64)
    if filtered(batch, slot):
        scale = weight_scale(batch, slot)
        low = tl.load(band.low + row)
        high = tl.load(band.high + row)
        at = row.to(tl.int64) * stats.num_blocks + block
        above = 0.0
        count = 0
        if tl.load(stats.largest + at) >= low:
            largest, _ = block_masses(stats, row, scale, BLOCKS)
            group = tl.arange(0, BLOCK // _GROUP)[:, None]
            x = load(batch, block * BLOCK + group * _GROUP + tl.arange(0, _GROUP)[None, :], row, CHANGES)
            if high < _INF:
                above = tl.sum(tl.sum(tl.where(x >= high, weigh(x, largest, scale), 0.0), 1), 0)
            if low < high:
                inside = (x >= low) & (x < high)
                place, count = _places(inside)
                place = tl.where(inside & (place < CAPACITY), place, -1)
                tl.store(band.copies + at * CAPACITY + place, x, mask=place >= 0)
        tl.store(band.above + at, above)
        tl.store(band.counts + at, count)
