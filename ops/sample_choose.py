"""The last of the sampler's kernels: a token for each row, the likeliest or one that is drawn.

Drawing is as in sampling.py: a block of the row, then a group of the block, then a token of the group. With
filters on, each block's mass is narrowed to what passes before that (sample_groups.py, sample_filter.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dependent_launch import wait_for_inputs
from .sample_band import Band
from .sample_filter import narrow
from .sample_groups import narrow_groups
from .sample_row import (
    COLUMNS,
    HISTORY,
    INF,
    MAX_COUNT,
    MINUS_INF,
    SEED_HIGH,
    SEED_LOW,
    Batch,
    DrawnRow,
    Stats,
    block_masses,
    filtered,
    load,
    load_temperature,
    weigh,
    weight_scale,
)
from .sampling import GROUP

_GROUP = tl.constexpr(GROUP)


@triton.jit
def _mix(z: tl.tensor) -> tl.tensor:
    z += 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _draw_key(low: tl.tensor, high: tl.tensor, position: tl.tensor) -> tl.tensor:
    """sampling.draw_keys for one row."""
    seed = low.to(tl.uint32, bitcast=True).to(tl.uint64) | (
        high.to(tl.uint32, bitcast=True).to(tl.uint64) << 32
    )
    return _mix(_mix(seed) + position.to(tl.uint64) * 0x9E3779B97F4A7C15)


@triton.jit
def _first(speeds: tl.tensor, key: tl.tensor, FROM: tl.constexpr, COUNT: tl.constexpr) -> tl.tensor:
    """Which of speeds [COUNT] arrives first; their times are sampling.arrivals from number FROM on."""
    runner = (tl.arange(0, COUNT) + FROM).to(tl.uint64)
    bits = _mix(key + runner * 0x9E3779B97F4A7C15) >> 41
    times = 0.0 - tl.log((bits.to(tl.float32) + 0.5) * 1.1920928955078125e-07)
    return tl.argmax(speeds / times, 0)


@triton.jit
def _draw(
    batch: Batch,
    stats: Stats,
    band: Band,
    slot: tl.tensor,
    row: tl.tensor,
    CHANGES: tl.constexpr,
    FILTERS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    SLOTS: tl.constexpr,
    CAPACITY: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """sampling's draw: a block, a group of it, a token of that."""
    settings = batch.table + slot * COLUMNS
    key = _draw_key(
        tl.load(settings + SEED_LOW), tl.load(settings + SEED_HIGH), tl.load(batch.positions + row)
    )
    scale = weight_scale(batch, slot)
    largest, masses = block_masses(stats, row, scale, BLOCKS)
    threshold = tl.full((), MINUS_INF, tl.float32)
    if FILTERS:  # noqa: SIM102 - one is known to the compiler, the other is not
        if filtered(batch, slot):
            drawn_row = DrawnRow(row, slot, largest, scale, tl.sum(masses, 0))
            count = tl.load(band.num_groups + row)
            if count > 0:
                threshold, masses = narrow_groups(
                    batch, band.groups + row * SLOTS, count, drawn_row, CHANGES, BLOCKS, SLOTS
                )
            else:
                threshold, masses = narrow(
                    batch, stats, band, drawn_row, CHANGES, BLOCK, BLOCKS, CAPACITY, WIDTH
                )
    block = _first(masses, key, 2 * _GROUP, BLOCKS)
    group = tl.arange(0, _GROUP)[:, None]
    x = load(batch, block * BLOCK + group * _GROUP + tl.arange(0, _GROUP)[None, :], row, CHANGES)
    weight = tl.where(x >= threshold, weigh(x, largest, scale), 0.0)
    drawn = _first(tl.sum(weight, 1), key, _GROUP, _GROUP)
    place = _first(tl.sum(tl.where(group == drawn, weight, 0.0), 0), key, 0, _GROUP)
    return block * BLOCK + drawn * _GROUP + place


@triton.jit
def choose_kernel(
    batch: Batch,
    stats: Stats,
    band: Band,
    tokens: tl.tensor,
    CHANGES: tl.constexpr,
    FILTERS: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    SLOTS: tl.constexpr,
    CAPACITY: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0)
    slot = tl.load(batch.slots + row).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    at = row.to(tl.int64) * stats.num_blocks + block
    existing = block < stats.num_blocks
    maxima = tl.load(stats.largest + at, mask=existing, other=MINUS_INF)
    largest = tl.max(maxima, 0)
    token = -1
    if tl.abs(largest) < INF:
        if load_temperature(batch, slot) > 0:
            token = _draw(
                batch, stats, band, slot, row, CHANGES, FILTERS, BLOCK, BLOCKS, SLOTS, CAPACITY, WIDTH
            )
        else:
            argmax = tl.load(stats.argmax + at, mask=existing, other=0)
            token = tl.min(tl.where(maxima == largest, argmax, batch.vocab), 0)
    tl.store(tokens + row, token)
    if CHANGES:
        past = tl.load(batch.table + slot * COLUMNS + HISTORY).to(tl.int64)
        if (past >= 0) & (token >= 0):
            entry = batch.history + past * batch.vocab + token
            seen = tl.load(entry)
            tl.store(entry, tl.where(seen & MAX_COUNT < MAX_COUNT, seen + 1, seen))
