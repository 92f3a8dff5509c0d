"""Bracketing the threshold of top-k and top-p, so that few logits need an exact search.

For rows whose survivors are not in a few groups (sample_groups.py). A sample of the row, evenly spaced,
predicts the threshold: for top-k from how many sampled logits lie above it, for top-p from the mass below it,
which is spread over so many light tokens that a sample tells it well. One pass over the row then adds up the
mass above the bracket and copies out the logits inside it. The prediction need not always be right:
sample_filter.py sees from the exact sums when it was not, and then searches the whole row.

    logits of a row, descending:   | above high: summed up | low .. high: copied out | below low: dropped |
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .dependent_launch import wait_for_inputs
from .sample_groups import pick_groups
from .sample_row import (
    INF,
    LOWEST,
    MINUS_INF,
    Batch,
    DrawnRow,
    Stats,
    block_masses,
    filtered,
    load,
    load_top_k,
    load_top_p,
    min_p_floor,
    weigh,
    weight_scale,
)

# Tokens of a sample that lie side by side: half a sector of device memory in bf16.
_CHUNK = tl.constexpr(8)
_STEPS = tl.constexpr(10)
# Standard errors of the sample between the predicted threshold and the ends of the bracket.
_MARGIN = tl.constexpr(4.0)
_COUNT_MARGIN = tl.constexpr(3.0)
# Where a sample shows so few tokens above the bracket, they join it.
_FEW = tl.constexpr(4096.0)
# Logits that a thread loads at once in bf16.
_GROUP = tl.constexpr(8)
# Bits below the largest weight beyond which no vocabulary adds up to a mass that float32 would notice.
_DEEPEST = tl.constexpr(64.0)


class Band(NamedTuple):
    """low, high: [R] float32, the bracket.   copies: [R, num_blocks, CAPACITY] float32, each block's logits
    in [low, high), in order.   counts: [R, num_blocks] int32, how many there are, possibly more than the
    capacity, at which the copying stopped.
    groups: [R, SLOTS] int32, those that hold all that passes.   num_groups: [R] int32, how many they are; 0
    if the rest of the band is needed, some number for rows without a filter.
    above: [R, num_blocks] float32, sums of the weights from high on, relative to the row's largest logit.
    """

    low: Any
    high: Any
    groups: Any
    num_groups: Any
    copies: Any
    counts: Any
    above: Any


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
    finite = x > MINUS_INF
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
    low = INF
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
    return largest - low / scale, tl.where(whole_top, INF, largest - high / scale)


@triton.jit
def bracket_kernel(
    batch: Batch,
    stats: Stats,
    band: Band,
    CHANGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCKS: tl.constexpr,
    SLOTS: tl.constexpr,
    SAMPLE: tl.constexpr,
) -> None:
    """One program a row: which groups hold all that passes, or else where its threshold lies."""
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0)
    slot = tl.load(batch.slots + row).to(tl.int64)
    if filtered(batch, slot):
        scale = weight_scale(batch, slot)
        largest, masses = block_masses(stats, row, scale, BLOCKS)
        total = tl.sum(masses, 0)
        low = INF
        high = INF
        count = 1
        if tl.abs(largest) < INF:
            groups = band.groups + row * SLOTS
            drawn_row = DrawnRow(row, slot, largest, scale, total)
            count = pick_groups(batch, stats, groups, drawn_row, BLOCKS, SLOTS)
        tl.store(band.num_groups + row, count)
        if count == 0:
            floor = min_p_floor(batch, DrawnRow(row, slot, largest, scale, total))
            top_p = load_top_p(batch, slot)
            top_k = load_top_k(batch, slot)
            low = floor
            high = floor
            if (top_k < batch.vocab) | (top_p < 1):
                spare = (1 - top_p) * total
                low, high = _predict(batch, row, largest, scale, top_k, spare, CHANGES, SAMPLE)
                if floor >= high:  # min-p is the stricter one, wherever the threshold lies
                    low = floor
                    high = floor
        tl.store(band.low + row, tl.maximum(low, LOWEST))
        tl.store(band.high + row, high)
    else:
        tl.store(band.num_groups + row, 1)


@triton.jit
def _halves(x: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """x [N, W] without every other column, first without the odd ones."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
    return even, odd


@triton.jit
def _columns(
    x: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The columns of x [N, 8], each [N]."""
    even, odd = _halves(x)
    even_0, even_1 = _halves(even)
    odd_0, odd_1 = _halves(odd)
    x0, x4 = tl.split(even_0)
    x2, x6 = tl.split(even_1)
    x1, x5 = tl.split(odd_0)
    x3, x7 = tl.split(odd_1)
    return x0, x1, x2, x3, x4, x5, x6, x7


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
    if tl.load(band.num_groups + row) == 0:
        slot = tl.load(batch.slots + row).to(tl.int64)
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
            if high < INF:
                above = tl.sum(tl.sum(tl.where(x >= high, weigh(x, largest, scale), 0.0), 1), 0)
            if low < high:
                inside = (x >= low) & (x < high)
                counts = tl.sum(inside.to(tl.int32), 1)
                place = tl.cumsum(counts, 0)
                count = tl.max(place, 0)
                place -= counts
                # Column by column, as each thread has them: one tensor would be dealt out anew first.
                columns = _columns(tl.where(inside, x, MINUS_INF))
                for i in tl.static_range(_GROUP):
                    copied = columns[i] > MINUS_INF
                    tl.store(
                        band.copies + at * CAPACITY + place, columns[i], mask=copied & (place < CAPACITY)
                    )
                    place += copied.to(tl.int32)
        tl.store(band.above + at, above)
        tl.store(band.counts + at, count)
