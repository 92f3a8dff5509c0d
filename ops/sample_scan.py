"""The pass over all logits: of each block the largest and the sum of weights, of each group the largest.

Knows no filters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dependent_launch import wait_for_inputs
from .sample_row import INF, Batch, Stats, load, load_temperature, weigh, weight_scale
from .sampling import GROUP

_GROUP = tl.constexpr(GROUP)


@triton.jit
def scan_kernel(
    batch: Batch,
    stats: Stats,
    CHANGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program a block."""
    wait_for_inputs(DEPENDENT)
    block = tl.program_id(0)
    row = tl.program_id(1)
    slot = tl.load(batch.slots + row).to(tl.int64)
    draws = load_temperature(batch, slot) > 0
    group = tl.arange(0, BLOCK // _GROUP)
    offsets = block * BLOCK + group[:, None] * _GROUP + tl.arange(0, _GROUP)[None, :]
    x = load(batch, offsets, row, CHANGES)
    # Infinity stands for NaN, too, from here on: either spoils the row.
    x = tl.where(x != x, INF, x)
    maxima = tl.max(x, 1)
    largest = tl.max(maxima, 0)
    at = row.to(tl.int64) * stats.num_blocks + block
    tl.store(stats.largest + at, largest)
    if draws:
        tl.store(stats.maxima + at * (BLOCK // _GROUP) + group, maxima)
        base = tl.where(tl.abs(largest) < INF, largest, 0.0)
        tl.store(stats.total + at, tl.sum(weigh(x, base, weight_scale(batch, slot)), None))
    else:
        tl.store(stats.argmax + at, tl.min(tl.where(x == largest, offsets, batch.vocab), None))
