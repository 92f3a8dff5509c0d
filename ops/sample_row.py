"""A row of logits in Triton as the choice sees it: after masks, bias, bans and penalties, and as weights.

Device functions for the sampling kernels. Does not know which tokens pass a filter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from . import sampling
from .sampling import Column

# Columns of the table of settings, and other constants, as kernels want them.
_TEMPERATURE = tl.constexpr(int(Column.TEMPERATURE))
_TOP_P = tl.constexpr(int(Column.TOP_P))
_MIN_P = tl.constexpr(int(Column.MIN_P))
_REPETITION = tl.constexpr(int(Column.REPETITION))
_PRESENCE = tl.constexpr(int(Column.PRESENCE))
_FREQUENCY = tl.constexpr(int(Column.FREQUENCY))
_TOP_K = tl.constexpr(int(Column.TOP_K))
HISTORY = tl.constexpr(int(Column.HISTORY))
_NUM_BIASES = tl.constexpr(int(Column.NUM_BIASES))
_MASKED = tl.constexpr(int(Column.MASKED))
SEED_LOW = tl.constexpr(int(Column.SEED_LOW))
SEED_HIGH = tl.constexpr(int(Column.SEED_HIGH))
COLUMNS = tl.constexpr(len(Column))
MAX_COUNT = tl.constexpr(sampling.MAX_COUNT)
INF = tl.constexpr(float("inf"))
MINUS_INF = tl.constexpr(float("-inf"))
LOWEST = tl.constexpr(-3.4028234663852886e38)
"""The smallest finite float32."""
_LOG2_E = tl.constexpr(1.4426950408889634)
# Keeps 0 * scale a zero however small the temperature.
_MAX_SCALE = tl.constexpr(1e30)


class Batch(NamedTuple):
    """Arguments of all sampling kernels; `floats` and `bias_floats` are `table` and `biases` read as
    float32."""

    logits: Any
    stride: Any
    vocab: Any
    slots: Any
    positions: Any
    table: Any
    floats: Any
    biases: Any
    bias_floats: Any
    bias_width: Any
    history: Any
    masks: Any
    mask_width: Any


class Stats(NamedTuple):
    """What the scan finds in each block, [R, num_blocks].

    largest: float32.   total: float32, the sum of weights relative to `largest`, of rows that draw; for them
    also maxima: [R, num_blocks * GROUP] float32, the largest of each group.
    argmax: int32, of rows that do not.
    """

    largest: Any
    total: Any
    maxima: Any
    argmax: Any
    num_blocks: Any


class DrawnRow(NamedTuple):
    """A row that draws through a filter. scale: see weight_scale.   total: the sum of its weights."""

    number: Any
    slot: Any
    largest: Any
    scale: Any
    total: Any


class Changes(NamedTuple):
    """What is done to a row's logits: its slot's mask, bias entries, and row of the history; `any` of it."""

    any: Any
    slot: Any
    position: Any
    masked: Any
    num_biases: Any
    history: Any


@triton.jit
def load_temperature(batch: Batch, slot: tl.tensor) -> tl.tensor:
    """Of a slot; 0 is greedy."""
    return tl.load(batch.floats + slot * COLUMNS + _TEMPERATURE)


@triton.jit
def load_top_p(batch: Batch, slot: tl.tensor) -> tl.tensor:
    """Of a slot; 1 is off."""
    return tl.load(batch.floats + slot * COLUMNS + _TOP_P)


@triton.jit
def load_top_k(batch: Batch, slot: tl.tensor) -> tl.tensor:
    """Of a slot; the vocabulary's size is off."""
    return tl.load(batch.table + slot * COLUMNS + _TOP_K)


@triton.jit
def _load_changes(batch: Batch, row: tl.tensor) -> Changes:
    """The changes of a row."""
    slot = tl.load(batch.slots + row).to(tl.int64)
    settings = batch.table + slot * COLUMNS
    position = tl.load(batch.positions + row)
    masked = tl.load(settings + _MASKED) != 0
    num_biases = tl.load(settings + _NUM_BIASES)
    history = tl.load(settings + HISTORY).to(tl.int64)
    return Changes(masked | (num_biases > 0) | (history >= 0), slot, position, masked, num_biases, history)


@triton.jit
def _changed(batch: Batch, changes: Changes, x: tl.tensor, offsets: tl.tensor) -> tl.tensor:
    """Logits x at `offsets` of a row after masks, bias, bans and penalties."""
    if changes.any:
        slot = changes.slot
        if changes.masked:
            word = batch.masks + slot * batch.mask_width + offsets // 32
            bits = tl.load(word, mask=offsets < batch.vocab, other=0)
            x += tl.where((bits >> (offsets % 32)) & 1 != 0, 0.0, MINUS_INF)
        for i in range(changes.num_biases):
            entry = (slot * batch.bias_width + i) * 3
            until = tl.load(batch.biases + entry + 2)
            applies = (offsets == tl.load(batch.biases + entry)) & (changes.position < until)
            x = tl.where(applies, x + tl.load(batch.bias_floats + entry + 1), x)
        if changes.history >= 0:
            floats = batch.floats + slot * COLUMNS
            past = batch.history + changes.history * batch.vocab + offsets
            seen = tl.load(past, mask=offsets < batch.vocab, other=0)
            if tl.max(seen, None) > 0:
                count = (seen & MAX_COUNT).to(tl.float32)
                factor = tl.load(floats + _REPETITION)
                inverse = 1.0 / factor
                x = tl.where(seen != 0, x * tl.where(x > 0, inverse, factor), x)
                x -= tl.load(floats + _FREQUENCY) * count
                x -= tl.where(count > 0, tl.load(floats + _PRESENCE), 0.0)
    return x


@triton.jit
def load(batch: Batch, offsets: tl.tensor, row: tl.tensor, CHANGES: tl.constexpr) -> tl.tensor:
    """Logits at `offsets` of a row as the choice sees them, float32, -inf past the vocabulary."""
    logits = batch.logits + row.to(tl.int64) * batch.stride
    x = tl.load(logits + offsets, mask=offsets < batch.vocab, other=MINUS_INF).to(tl.float32)
    if CHANGES:
        x = _changed(batch, _load_changes(batch, row), x, offsets)
    return x


@triton.jit
def weight_scale(batch: Batch, slot: tl.tensor) -> tl.tensor:
    """What differences of logits are multiplied by to become exponents of 2; the slot has a temperature."""
    temperature = load_temperature(batch, slot)
    # The number comes second: Triton 3.7's interpreter makes a constant of constant / tensor.
    return tl.minimum(1.0 / temperature * _LOG2_E, _MAX_SCALE)


@triton.jit
def weigh(x: tl.tensor, largest: tl.tensor, scale: tl.tensor) -> tl.tensor:
    """exp((x - largest) / temperature)."""
    return tl.exp2((x - largest) * scale)


@triton.jit
def filtered(batch: Batch, slot: tl.tensor) -> tl.tensor:
    """Whether the slot draws through a filter."""
    floats = batch.floats + slot * COLUMNS
    wants = (tl.load(floats + _TOP_P) < 1) | (tl.load(floats + _MIN_P) > 0)
    wants = wants | (load_top_k(batch, slot) < batch.vocab)
    return wants & (tl.load(floats + _TEMPERATURE) > 0)


@triton.jit
def block_masses(
    stats: Stats,
    row: tl.tensor,
    scale: tl.tensor,
    BLOCKS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The largest logit of a row and, if that is finite, the sums of weights relative to it in each block,
    [BLOCKS]."""
    block = tl.arange(0, BLOCKS)
    at = row.to(tl.int64) * stats.num_blocks + block
    existing = block < stats.num_blocks
    maxima = tl.load(stats.largest + at, mask=existing, other=MINUS_INF)
    totals = tl.load(stats.total + at, mask=existing, other=0.0)
    largest = tl.max(maxima, 0)
    base = tl.where(tl.abs(largest) < INF, largest, 0.0)
    return largest, tl.where(totals > 0, totals * weigh(maxima, base, scale), 0.0)


@triton.jit
def min_p_floor(batch: Batch, row: DrawnRow) -> tl.tensor:
    """The logit whose weight is min_p times that of the largest; -inf without min_p."""
    min_p = tl.load(batch.floats + row.slot * COLUMNS + _MIN_P)
    return tl.where(min_p > 0, row.largest + tl.log2(tl.maximum(min_p, 1e-37)) / row.scale, MINUS_INF)
