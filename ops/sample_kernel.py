"""Choosing tokens on the GPU: the Triton kernels for what sampling.py defines.

Two launches and no host decisions, so that a CUDA graph can hold them. The first reads every logit once and keeps,
per block of the row, the largest logit and the sum of weights, and per group of 64 tokens the largest logit. The
second has one program a row: it picks a block by the row's uniform number and reads that again, or, with filters
on, reads the few groups that can hold a survivor. Sums run in an order that depends on the row alone.

    row:     |  block 0: 8192 tokens  |  block 1  |  ...      max, sum of exp((x - max) / T), argmax of each
    groups:  |64|64|64| ...                                   max of each, for rows with filters only
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

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
_SEED_LOW = tl.constexpr(int(Column.SEED_LOW))
_SEED_HIGH = tl.constexpr(int(Column.SEED_HIGH))
_COLUMNS = tl.constexpr(len(Column))
_MAX_COUNT = tl.constexpr(MAX_COUNT)
_INF = tl.constexpr(float("inf"))
_MINUS_INF = tl.constexpr(float("-inf"))
# Halvings of the range of group maxima: enough for a bound that lets through little more than it must.
_BOUND_STEPS = tl.constexpr(10)
_BLOCK = 8192
_TILE = 4096
_GROUP = 64


class _Batch(NamedTuple):
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


class _Stats(NamedTuple):
    """What the first kernel finds: [R, num_blocks] float32, float32, int32 and [R, num_groups] float32."""

    block_max: Any
    block_sum: Any
    block_argmax: Any
    group_max: Any
    num_blocks: Any
    num_groups: Any


@triton.jit
def _changed(batch, x, offsets, row):
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
def _load(batch, offsets, inside, row, CHANGES: tl.constexpr):
    """Logits at `offsets` of a row as the choice sees them, float32, -inf outside."""
    inside = inside & (offsets < batch.vocab)
    x = tl.load(batch.logits + row.to(tl.int64) * batch.stride + offsets, mask=inside, other=_MINUS_INF)
    x = x.to(tl.float32)
    if CHANGES:
        x = _changed(batch, x, offsets, row)
    return x


@triton.jit
def _filtered(batch, slot):
    """Whether the slot draws through a filter."""
    floats = batch.floats + slot * _COLUMNS
    wants = (tl.load(floats + _TOP_P) < 1) | (tl.load(floats + _MIN_P) > 0)
    wants = wants | (tl.load(batch.table + slot * _COLUMNS + _TOP_K) < batch.vocab)
    return wants & (tl.load(floats + _TEMPERATURE) > 0)


@triton.jit
def _blocks_kernel(batch, stats, CHANGES: tl.constexpr, FILTERS: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    row = tl.program_id(0)
    block = tl.program_id(1)
    slot = tl.load(batch.slots + row).to(tl.int64)
    offsets = block * BLOCK + tl.arange(0, BLOCK)
    x = _load(batch, offsets, offsets >= 0, row, CHANGES)
    # Infinity stands for NaN, too, from here on: either spoils the row.
    x = tl.where(x != x, _INF, x)
    largest, place = tl.max(x, 0, return_indices=True)
    total = 0.0
    temperature = tl.load(batch.floats + slot * _COLUMNS + _TEMPERATURE)
    if temperature > 0:
        base = tl.where(tl.abs(largest) < _INF, largest, 0.0)
        total = tl.sum(tl.exp((x - base) / temperature), 0)
    out = row.to(tl.int64) * stats.num_blocks + block
    tl.store(stats.block_max + out, largest)
    tl.store(stats.block_sum + out, total)
    tl.store(stats.block_argmax + out, block * BLOCK + place)
    if FILTERS:
        if _filtered(batch, slot):
            maxima = tl.max(tl.reshape(x, (BLOCK // GROUP, GROUP)), 1)
            groups = block * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
            tl.store(stats.group_max + row.to(tl.int64) * stats.num_groups + groups, maxima)


@triton.jit
def _mix(z):
    z += 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _uniform(low, high, position):
    """sampling.uniform for one row."""
    seed = low.to(tl.uint32, bitcast=True).to(tl.uint64) | (high.to(tl.uint32, bitcast=True).to(tl.uint64) << 32)
    bits = _mix(_mix(seed) + position.to(tl.uint64) * 0x9E3779B97F4A7C15) >> 40
    return tl.maximum(bits.to(tl.float32), 0.5) * 5.9604644775390625e-08


@triton.jit
def _key(x):
    """int64 in the order of float32 x."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _bound(maxima, weights, top_k, target, by_count):
    """A value, the larger the better, that enough of a row's group maxima reach; -inf if they do not suffice."""
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
def _tile(batch, start, chosen, num_groups, row, CHANGES: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr):
    """Token ids and logits of the chosen groups from element `start` on."""
    place = start + tl.arange(0, TILE)
    inside = place < num_groups * GROUP
    offsets = tl.load(chosen + place // GROUP, mask=inside, other=0) * GROUP + place % GROUP
    return offsets, _load(batch, offsets, inside, row, CHANGES)


@triton.jit
def _mass_from(
    batch, chosen, num_groups, row, threshold, largest, temperature,
    CHANGES: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Sum of the weights of the chosen groups' logits that reach threshold."""
    mass = 0.0
    for start in range(0, num_groups * GROUP, TILE):
        _, x = _tile(batch, start, chosen, num_groups, row, CHANGES, GROUP, TILE)
        mass += tl.sum(tl.where(x >= threshold, tl.exp((x - largest) / temperature), 0.0), 0)
    return mass


@triton.jit
def _search(
    batch, chosen, num_groups, row, low, largest, temperature, wanted, by_count,
    CHANGES: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The largest logit v such that the amount of logits >= v, by count or by weight, reaches `wanted`.

    Bisection over the order of floats between low and largest; both ends snap to logits that exist, so that it
    ends after about log2 of their number. Returns low if the amount of all does not reach `wanted`.
    """
    under = _key(low)
    over = _key(largest) + 1
    while over - under > 1:
        middle = under + (over - under) // 2
        amount = 0.0
        next_up = over
        next_down = under
        for start in range(0, num_groups * GROUP, TILE):
            _, x = _tile(batch, start, chosen, num_groups, row, CHANGES, GROUP, TILE)
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
def _narrow(
    batch, stats, chosen, slot, row, largest, total, temperature,
    CHANGES: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Write down the groups that may hold survivors, in order; how many, the smallest surviving logit, their mass."""
    floats = batch.floats + slot * _COLUMNS
    top_p = tl.load(floats + _TOP_P)
    min_p = tl.load(floats + _MIN_P)
    top_k = tl.load(batch.table + slot * _COLUMNS + _TOP_K)
    by_count = top_k < batch.vocab
    group = tl.arange(0, GROUPS)
    existing = group < stats.num_groups
    maxima = tl.load(stats.group_max + row.to(tl.int64) * stats.num_groups + group, mask=existing, other=_MINUS_INF)
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
        total = _mass_from(batch, chosen, num_groups, row, threshold, largest, temperature, CHANGES, GROUP, TILE)
    if top_p < 1:
        threshold = _search(
            batch, chosen, num_groups, row, threshold, largest, temperature, top_p * total, False,
            CHANGES, GROUP, TILE,
        )  # fmt: skip
    return num_groups, threshold, min_p


@triton.jit
def _survivors(x, threshold, min_p, largest, temperature):
    weight = tl.exp((x - largest) / temperature)
    return tl.where((x >= threshold) & (weight >= min_p), weight, 0.0)


@triton.jit
def _draw(
    batch, stats, chosen, slot, row, largest, block_max, block_sum, temperature,
    CHANGES: tl.constexpr, FILTERS: tl.constexpr,
    BLOCK: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr, BLOCKS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """The first token at which the running sum of weights passes the row's uniform number times their total."""
    settings = batch.table + slot * _COLUMNS
    u = _uniform(tl.load(settings + _SEED_LOW), tl.load(settings + _SEED_HIGH), tl.load(batch.positions + row))
    block = tl.arange(0, BLOCKS)
    mass = tl.where(block_sum > 0, block_sum * tl.exp((block_max - largest) / temperature), 0.0)
    ends = tl.cumsum(mass, 0)
    total = tl.max(ends, 0)
    filtered = FILTERS
    if FILTERS:
        filtered = _filtered(batch, slot)
    if filtered:
        num_groups, threshold, min_p = _narrow(
            batch, stats, chosen, slot, row, largest, total, temperature, CHANGES, GROUP, TILE, GROUPS
        )
        total = 0.0
        for start in range(0, num_groups * GROUP, TILE):
            _, x = _tile(batch, start, chosen, num_groups, row, CHANGES, GROUP, TILE)
            total += tl.sum(_survivors(x, threshold, min_p, largest, temperature), 0)
        before = 0.0
    else:
        # Rounding may let a block without mass pass, or none: take the first that has mass, or the last.
        passing = tl.min(tl.where((ends > u * total) & (mass > 0), block, BLOCKS), 0)
        here = tl.where(passing < BLOCKS, passing, tl.max(tl.where(mass > 0, block, 0), 0))
        before = tl.sum(tl.where(block == here - 1, ends, 0.0), 0)
        num_groups = BLOCK // GROUP
        group = tl.arange(0, BLOCK // GROUP)
        tl.store(chosen + group, here * num_groups + group)
        tl.debug_barrier()
        threshold = tl.full((), _MINUS_INF, tl.float32)
        min_p = 0.0
    first = batch.vocab
    last = 0
    for start in range(0, num_groups * GROUP, TILE):
        offsets, x = _tile(batch, start, chosen, num_groups, row, CHANGES, GROUP, TILE)
        weight = _survivors(x, threshold, min_p, largest, temperature)
        passed = (before + tl.cumsum(weight, 0) > u * total) & (weight > 0)
        first = tl.minimum(first, tl.min(tl.where(passed, offsets, batch.vocab), 0))
        last = tl.maximum(last, tl.max(tl.where(weight > 0, offsets, 0), 0))
        before += tl.sum(weight, 0)
    return tl.where(first < batch.vocab, first, last)


@triton.jit
def _choose_kernel(
    batch, stats, chosen, tokens,
    CHANGES: tl.constexpr, FILTERS: tl.constexpr,
    BLOCK: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr, BLOCKS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    slot = tl.load(batch.slots + row).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    at = row.to(tl.int64) * stats.num_blocks + block
    existing = block < stats.num_blocks
    block_max = tl.load(stats.block_max + at, mask=existing, other=_MINUS_INF)
    largest = tl.max(block_max, 0)
    token = -1
    if tl.abs(largest) < _INF:
        temperature = tl.load(batch.floats + slot * _COLUMNS + _TEMPERATURE)
        if temperature > 0:
            block_sum = tl.load(stats.block_sum + at, mask=existing, other=0.0)
            token = _draw(
                batch, stats, chosen + row.to(tl.int64) * stats.num_groups, slot, row, largest, block_max,
                block_sum, temperature, CHANGES, FILTERS, BLOCK, GROUP, TILE, BLOCKS, GROUPS,
            )  # fmt: skip
        else:
            argmax = tl.load(stats.block_argmax + at, mask=existing, other=0)
            token = tl.min(tl.where(block_max == largest, argmax, batch.vocab), 0)
    tl.store(tokens + row, token)
    if CHANGES:
        past = tl.load(batch.table + slot * _COLUMNS + _HISTORY).to(tl.int64)
        if (past >= 0) & (token >= 0):
            entry = batch.history + past * batch.vocab + token
            seen = tl.load(entry)
            tl.store(entry, tl.where(seen & _MAX_COUNT < _MAX_COUNT, seen + 1, seen))


def sample(
    logits: Tensor,
    slots: Tensor,
    positions: Tensor,
    table: Tensor,
    biases: Tensor,
    history: Tensor,
    *,
    changes: bool = True,
    filters: bool = True,
) -> Tensor:
    """Choose a token for each row of logits [S, V] (any float dtype), [S] int32; -1 where the largest logit is not
    finite. Enters it into the history of slots with penalties.

    slots, positions: [S] int32.   table: [num_slots, len(Column)] int32.   biases: [num_slots, width, 3] int32.
    history: [H, V] int16, see sampling.PROMPT_SEEN.   changes, filters: whether any row may have penalties, bias
    or bans, and top-k, top-p or min-p; False compiles to less.
    """
    num_rows, vocab_size = logits.shape
    assert logits.stride(1) == 1, "a row of logits must be contiguous"
    assert table.is_contiguous() and biases.is_contiguous() and history.is_contiguous()
    tokens = torch.empty(num_rows, dtype=torch.int32, device=logits.device)
    if num_rows == 0:
        return tokens
    num_blocks = triton.cdiv(vocab_size, _BLOCK)
    num_groups = num_blocks * (_BLOCK // _GROUP)
    floats = logits.new_empty(2 * num_blocks + num_groups * filters, num_rows, dtype=torch.float32)
    indices = torch.empty(num_blocks + num_groups, num_rows, dtype=torch.int32, device=logits.device)
    batch = _Batch(
        logits,
        logits.stride(0),
        vocab_size,
        slots,
        positions,
        table,
        table.view(torch.float32),
        biases,
        biases.view(torch.float32),
        biases.shape[1],
        history,
    )
    stats = _Stats(
        floats[:num_blocks],
        floats[num_blocks : 2 * num_blocks],
        indices[:num_blocks],
        floats[2 * num_blocks :],
        num_blocks,
        num_groups,
    )
    _blocks_kernel[(num_rows, num_blocks)](
        batch, stats, CHANGES=changes, FILTERS=filters, BLOCK=_BLOCK, GROUP=_GROUP, num_warps=8
    )
    _choose_kernel[(num_rows,)](
        batch,
        stats,
        indices[num_blocks:],
        tokens,
        CHANGES=changes,
        FILTERS=filters,
        BLOCK=_BLOCK,
        GROUP=_GROUP,
        TILE=_TILE,
        BLOCKS=triton.next_power_of_2(num_blocks),
        GROUPS=triton.next_power_of_2(num_groups),
        num_warps=8,
    )
    return tokens
