"""Choosing tokens on the GPU: the Triton kernels for what sampling.py defines.

Two launches and no host decisions, so that a CUDA graph can hold them. The first reads every logit once and
keeps, per block of the row, the largest logit and the sum of weights, and per group of 64 tokens the
largest logit. The second has one program a row: it picks a block by the row's uniform number and reads that
again, or, with filters on, reads the few groups that can hold a survivor. Sums run in an order that depends
on the row alone.

    row:     |  block 0: 8192 tokens  |  block 1  |  ...      max, sum of exp((x - max) / T), argmax of each
    groups:  |64|64|64| ...                                   max of each, for rows with filters only
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .sample_filter import Batch, Stats, filtered, load, narrow, tile
from .sampling import MAX_COUNT, Column

_TEMPERATURE = tl.constexpr(int(Column.TEMPERATURE))
_HISTORY = tl.constexpr(int(Column.HISTORY))
_SEED_LOW = tl.constexpr(int(Column.SEED_LOW))
_SEED_HIGH = tl.constexpr(int(Column.SEED_HIGH))
_COLUMNS = tl.constexpr(len(Column))
_MAX_COUNT = tl.constexpr(MAX_COUNT)
_INF = tl.constexpr(float("inf"))
_MINUS_INF = tl.constexpr(float("-inf"))
_BLOCK = 8192
_TILE = 4096
_GROUP = 64


@triton.jit
def _blocks_kernel(
    batch: Batch,
    stats: Stats,
    CHANGES: tl.constexpr,
    FILTERS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    block = tl.program_id(1)
    slot = tl.load(batch.slots + row).to(tl.int64)
    offsets = block * BLOCK + tl.arange(0, BLOCK)
    x = load(batch, offsets, offsets >= 0, row, CHANGES)
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
    if FILTERS:  # noqa: SIM102 - one is known to the compiler, the other is not
        if filtered(batch, slot):
            maxima = tl.max(tl.reshape(x, (BLOCK // GROUP, GROUP)), 1)
            groups = block * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
            tl.store(stats.group_max + row.to(tl.int64) * stats.num_groups + groups, maxima)


@triton.jit
def _mix(
    z: tl.tensor,
) -> tl.tensor:
    z += 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _uniform(
    low: tl.tensor,
    high: tl.tensor,
    position: tl.tensor,
) -> tl.tensor:
    """sampling.uniform for one row."""
    seed = low.to(tl.uint32, bitcast=True).to(tl.uint64) | (
        high.to(tl.uint32, bitcast=True).to(tl.uint64) << 32
    )
    bits = _mix(_mix(seed) + position.to(tl.uint64) * 0x9E3779B97F4A7C15) >> 40
    return tl.maximum(bits.to(tl.float32), 0.5) * 5.9604644775390625e-08


@triton.jit
def _survivors(
    x: tl.tensor,
    threshold: tl.tensor,
    min_p: tl.tensor,
    largest: tl.tensor,
    temperature: tl.tensor,
) -> tl.tensor:
    weight = tl.exp((x - largest) / temperature)
    return tl.where((x >= threshold) & (weight >= min_p), weight, 0.0)


@triton.jit
def _draw(
    batch: Batch,
    stats: Stats,
    chosen: tl.tensor,
    slot: tl.tensor,
    row: tl.tensor,
    largest: tl.tensor,
    block_max: tl.tensor,
    block_sum: tl.tensor,
    temperature: tl.tensor,
    CHANGES: tl.constexpr,
    FILTERS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    BLOCKS: tl.constexpr,
    GROUPS: tl.constexpr,
) -> tl.tensor:
    """The first token at which the running sum of weights passes the row's uniform number times their
    total."""
    settings = batch.table + slot * _COLUMNS
    u = _uniform(
        tl.load(settings + _SEED_LOW), tl.load(settings + _SEED_HIGH), tl.load(batch.positions + row)
    )
    block = tl.arange(0, BLOCKS)
    mass = tl.where(block_sum > 0, block_sum * tl.exp((block_max - largest) / temperature), 0.0)
    ends = tl.cumsum(mass, 0)
    total = tl.max(ends, 0)
    through_filter = FILTERS
    if FILTERS:
        through_filter = filtered(batch, slot)
    if through_filter:
        num_groups, threshold, min_p = narrow(
            batch, stats, chosen, slot, row, largest, total, temperature, CHANGES, GROUP, TILE, GROUPS
        )
        total = 0.0
        for start in range(0, num_groups * GROUP, TILE):
            _, x = tile(batch, start, chosen, num_groups, row, CHANGES, GROUP, TILE)
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
        offsets, x = tile(batch, start, chosen, num_groups, row, CHANGES, GROUP, TILE)
        weight = _survivors(x, threshold, min_p, largest, temperature)
        passed = (before + tl.cumsum(weight, 0) > u * total) & (weight > 0)
        first = tl.minimum(first, tl.min(tl.where(passed, offsets, batch.vocab), 0))
        last = tl.maximum(last, tl.max(tl.where(weight > 0, offsets, 0), 0))
        before += tl.sum(weight, 0)
    return tl.where(first < batch.vocab, first, last)


@triton.jit
def _choose_kernel(
    batch: Batch,
    stats: Stats,
    chosen: tl.tensor,
    tokens: tl.tensor,
    CHANGES: tl.constexpr,
    FILTERS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    BLOCKS: tl.constexpr,
    GROUPS: tl.constexpr,
) -> None:
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
    """Choose a token for each row of logits [S, V] (any float dtype), [S] int32; -1 where the largest logit
    is not finite. Enters it into the history of slots with penalties.

    slots, positions: [S] int32.   table: [num_slots, len(Column)] int32.   biases: [num_slots, width, 3]
    int32.
    history: [H, V] int16, see sampling.PROMPT_SEEN.   changes, filters: whether any row may have penalties,
    bias or bans, and top-k, top-p or min-p; False compiles to less.
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
    batch = Batch(
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
    stats = Stats(
        floats[:num_blocks],
        floats[num_blocks : 2 * num_blocks],
        indices[:num_blocks],
        floats[2 * num_blocks :],
        num_blocks,
        num_groups,
    )
    _blocks_kernel[(num_rows, num_blocks)](
        batch,
        stats,
        CHANGES=changes,
        FILTERS=filters,
        BLOCK=_BLOCK,
        GROUP=_GROUP,
        num_warps=8,
        enable_fp_fusion=False,
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
        enable_fp_fusion=False,
    )
    return tokens
