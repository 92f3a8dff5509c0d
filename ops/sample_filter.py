"""Reading a row of logits in Triton as the sampler sees it, and narrowing it to what top-k and top-p let
pass.

Device functions for sample_kernel.py, which owns the launches. What passes is defined in sampling.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .sampling import MAX_COUNT, Column

_TEMPERATURE = tl.constexpr(int(Column.TEMPERATURE))
_TOP_P = tl.constexpr(int(Column.TOP_P))
_MIN_P = tl.constexpr(int(Column.MIN_P))
_REPETITION = tl.constexpr(int(Column.REPETITION))
_PRESENCE = tl.constexpr(int(Column.PRESENCE))
_FREQUENCY = tl.constexpr(int(Column.FREQUENCY))
_TOP_K = tl.constexpr(int(Column.TOP_K))
_HISTORY = tl.constexpr(int(Column.HISTORY))
_NUM_BIASES = tl.constexpr(int(Column.NUM_BIASES))
_COLUMNS = tl.constexpr(len(Column))
_MAX_COUNT = tl.constexpr(MAX_COUNT)
_INF = tl.constexpr(float("inf"))
_MINUS_INF = tl.constexpr(float("-inf"))
# Halvings of the range of group maxima: enough for a bound that lets through little more than it must.
_BOUND_STEPS = tl.constexpr(10)


class Batch(NamedTuple):
    """Arguments of both kernels; `floats` and `bias_floats` are `table` and `biases` read as float32."""

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


class Stats(NamedTuple):
    """What the first kernel finds: [R, num_blocks] float32, float32, int32 and [R, num_groups] float32."""

    block_max: Any
    block_sum: Any
    block_argmax: Any
    group_max: Any
    num_blocks: Any
    num_groups: Any


@triton.jit
def _changed(
    batch: Batch,
    x: tl.tensor,
    offsets: tl.tensor,
    row: tl.tensor,
) -> tl.tensor:
    """Logits x at `offsets` of a row after bias, bans and penalties."""
    slot = tl.load(batch.slots + row).to(tl.int64)
    position = tl.load(batch.positions + row)
    for i in range(tl.load(batch.table + slot * _COLUMNS + _NUM_BIASES)):
        entry = (slot * batch.bias_width + i) * 3
        applies = (offsets == tl.load(batch.biases + entry)) & (position < tl.load(batch.biases + entry + 2))
        x = tl.where(applies, x + tl.load(batch.bias_floats + entry + 1), x)
    past = tl.load(batch.table + slot * _COLUMNS + _HISTORY).to(tl.int64)
    if past >= 0:
        floats = batch.floats + slot * _COLUMNS
        seen = tl.load(batch.history + past * batch.vocab + offsets, mask=offsets < batch.vocab, other=0)
        count = (seen & _MAX_COUNT).to(tl.float32)
        factor = tl.load(floats + _REPETITION)
        x = tl.where(seen != 0, tl.where(x > 0, x / factor, x * factor), x)
        x -= tl.load(floats + _FREQUENCY) * count
        x -= tl.where(count > 0, tl.load(floats + _PRESENCE), 0.0)
    return x


@triton.jit
def load(
    batch: Batch,
    offsets: tl.tensor,
    inside: tl.tensor,
    row: tl.tensor,
    CHANGES: tl.constexpr,
) -> tl.tensor:
    """Logits at `offsets` of a row as the choice sees them, float32, -inf outside."""
    inside = inside & (offsets < batch.vocab)
    x = tl.load(batch.logits + row.to(tl.int64) * batch.stride + offsets, mask=inside, other=_MINUS_INF)
    x = x.to(tl.float32)
    if CHANGES:
        x = _changed(batch, x, offsets, row)
    return x


@triton.jit
def filtered(
    batch: Batch,
    slot: tl.tensor,
) -> tl.tensor:
    """Whether the slot draws through a filter."""
    floats = batch.floats + slot * _COLUMNS
    wants = (tl.load(floats + _TOP_P) < 1) | (tl.load(floats + _MIN_P) > 0)
    wants = wants | (tl.load(batch.table + slot * _COLUMNS + _TOP_K) < batch.vocab)
    return wants & (tl.load(floats + _TEMPERATURE) > 0)


@triton.jit
def _key(
    x: tl.tensor,
) -> tl.tensor:
    """int64 in the order of float32 x."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _bound(
    maxima: tl.tensor,
    weights: tl.tensor,
    top_k: tl.tensor,
    target: tl.tensor,
    by_count: tl.tensor,
) -> tl.tensor:
    """A value, the larger the better, that enough of a row's group maxima reach; -inf if they do not
    suffice."""
    amount = tl.where(by_count, tl.where(maxima > _MINUS_INF, 1.0, 0.0), weights)
    wanted = tl.where(by_count, top_k.to(tl.float32), target)
    bound = tl.full((), _MINUS_INF, tl.float32)
    if tl.sum(amount, 0) >= wanted:
        bound = tl.min(tl.where(maxima > _MINUS_INF, maxima, _INF), 0)
        over = tl.max(maxima, 0)
        for _ in range(_BOUND_STEPS):
            middle = bound + (over - bound) * 0.5
            if tl.sum(tl.where(maxima >= middle, amount, 0.0), 0) >= wanted:
                bound = middle
            else:
                over = middle
    return bound


@triton.jit
def tile(
    batch: Batch,
    start: tl.tensor,
    chosen: tl.tensor,
    num_groups: tl.tensor,
    row: tl.tensor,
    CHANGES: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Token ids and logits of the chosen groups from element `start` on."""
    place = start + tl.arange(0, TILE)
    inside = place < num_groups * GROUP
    offsets = tl.load(chosen + place // GROUP, mask=inside, other=0) * GROUP + place % GROUP
    return offsets, load(batch, offsets, inside, row, CHANGES)


@triton.jit
def _mass_from(
    batch: Batch,
    chosen: tl.tensor,
    num_groups: tl.tensor,
    row: tl.tensor,
    threshold: tl.tensor,
    largest: tl.tensor,
    temperature: tl.tensor,
    CHANGES: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
) -> tl.tensor:
    """Sum of the weights of the chosen groups' logits that reach threshold."""
    mass = 0.0
    for start in range(0, num_groups * GROUP, TILE):
        _, x = tile(batch, start, chosen, num_groups, row, CHANGES, GROUP, TILE)
        mass += tl.sum(tl.where(x >= threshold, tl.exp((x - largest) / temperature), 0.0), 0)
    return mass


@triton.jit
def _search(
    batch: Batch,
    chosen: tl.tensor,
    num_groups: tl.tensor,
    row: tl.tensor,
    low: tl.tensor,
    largest: tl.tensor,
    temperature: tl.tensor,
    wanted: tl.tensor,
    by_count: tl.tensor,
    CHANGES: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
) -> tl.tensor:
    """The largest logit v such that the amount of logits >= v, by count or by weight, reaches `wanted`.

    Bisection over the order of floats between low and largest; both ends snap to logits that exist, so that
    it ends after about log2 of their number. Returns low if the amount of all does not reach `wanted`.
    """
    under = _key(low)
    over = _key(largest) + 1
    while over - under > 1:
        middle = under + (over - under) // 2
        amount = 0.0
        next_up = over
        next_down = under
        for start in range(0, num_groups * GROUP, TILE):
            _, x = tile(batch, start, chosen, num_groups, row, CHANGES, GROUP, TILE)
            key = _key(x)
            weight = tl.where(by_count, 1.0, tl.exp((x - largest) / temperature))
            amount += tl.sum(tl.where(key >= middle, weight, 0.0), 0)
            next_up = tl.minimum(next_up, tl.min(tl.where(key >= middle, key, over), 0))
            next_down = tl.maximum(next_down, tl.max(tl.where(key < middle, key, under), 0))
        if amount >= wanted:
            under = tl.minimum(next_up, over - 1)
            over = tl.where(by_count & (amount == wanted), under + 1, over)
        else:
            over = next_down + 1
    bits = under.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def narrow(
    batch: Batch,
    stats: Stats,
    chosen: tl.tensor,
    slot: tl.tensor,
    row: tl.tensor,
    largest: tl.tensor,
    total: tl.tensor,
    temperature: tl.tensor,
    CHANGES: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    GROUPS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Write down the groups that may hold survivors, in order; how many, the smallest surviving logit,
    their mass."""
    floats = batch.floats + slot * _COLUMNS
    top_p = tl.load(floats + _TOP_P)
    min_p = tl.load(floats + _MIN_P)
    top_k = tl.load(batch.table + slot * _COLUMNS + _TOP_K)
    by_count = top_k < batch.vocab
    group = tl.arange(0, GROUPS)
    existing = group < stats.num_groups
    maxima = tl.load(
        stats.group_max + row.to(tl.int64) * stats.num_groups + group, mask=existing, other=_MINUS_INF
    )
    weights = tl.exp((maxima - largest) / temperature)
    bound = tl.full((), _MINUS_INF, tl.float32)
    if by_count | (top_p < 1):
        bound = _bound(maxima, weights, top_k, top_p * total, by_count)
    # Top-p after top-k weighs all that top-k lets pass, also what min-p drops later.
    least = tl.where(by_count, 0.0, min_p)
    wanted = (maxima >= bound) & (maxima > _MINUS_INF) & (weights >= least)
    num_groups = tl.sum(wanted.to(tl.int32), 0)
    tl.store(chosen + tl.cumsum(wanted.to(tl.int32), 0) - 1, group, mask=wanted)
    tl.debug_barrier()
    threshold = bound
    if by_count:
        threshold = _search(
            batch, chosen, num_groups, row, bound, largest, temperature, top_k.to(tl.float32), True,
            CHANGES, GROUP, TILE,
        )  # fmt: skip
        total = _mass_from(
            batch, chosen, num_groups, row, threshold, largest, temperature, CHANGES, GROUP, TILE
        )
    if top_p < 1:
        threshold = _search(
            batch, chosen, num_groups, row, threshold, largest, temperature, top_p * total, False,
            CHANGES, GROUP, TILE,
        )  # fmt: skip
    return num_groups, threshold, min_p
