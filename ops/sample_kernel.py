"""Choosing tokens on the GPU: the Triton kernels for what sampling.py defines.

Launches only, no host decisions, so that a CUDA graph can hold them. The scan reads every logit once and
keeps, per block of the row, the largest logit and the sum of weights; choosing has one program a row, which
draws a block and reads that again. With filters on, two launches between them find out what the choice needs
to narrow each block's sum: which few groups to read again (sample_groups.py), or else a bracket of the
threshold and the logits inside it (sample_band.py). Sums run in an order that depends on the row alone.

    scan [rows x blocks] -> ( bracket [rows] -> collect [rows x blocks] -> ) choose [rows]
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dependent_launch import launch_options, wait_for_inputs
from .sample_band import Band, bracket_kernel, collect_kernel
from .sample_filter import narrow
from .sample_groups import narrow_groups
from .sample_row import Batch, Stats, block_masses, filtered, load, weigh, weight_scale
from .sample_scan import scan_kernel
from .sampling import GROUP, MAX_COUNT, Column

_TEMPERATURE = tl.constexpr(int(Column.TEMPERATURE))
_HISTORY = tl.constexpr(int(Column.HISTORY))
_SEED_LOW = tl.constexpr(int(Column.SEED_LOW))
_SEED_HIGH = tl.constexpr(int(Column.SEED_HIGH))
_COLUMNS = tl.constexpr(len(Column))
_MAX_COUNT = tl.constexpr(MAX_COUNT)
_INF = tl.constexpr(float("inf"))
_MINUS_INF = tl.constexpr(float("-inf"))
_GROUP = tl.constexpr(GROUP)
_BLOCK = GROUP * GROUP
_CAPACITY = 1024
"""Logits of a block that the band holds: several times what a row with an even spread needs."""
_SAMPLE = 4096
_TILE = 2048
"""Candidates that a program looks at in one go."""
_SLOTS = 64
"""Groups that are read again where they hold all that passes."""
_SCAN_OPTIONS = {"num_warps": 4, "maxnreg": 96}
"""Programs wait for what they load while others compute, so several must fit a multiprocessor: without the
limit, what rows with penalties need takes 128 registers from all."""
_COLLECT_OPTIONS = {"num_warps": 4, "maxnreg": 80}


@triton.jit
def _mix(
    z: tl.tensor,
) -> tl.tensor:
    z += 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _draw_key(
    low: tl.tensor,
    high: tl.tensor,
    position: tl.tensor,
) -> tl.tensor:
    """sampling.draw_keys for one row."""
    seed = low.to(tl.uint32, bitcast=True).to(tl.uint64) | (
        high.to(tl.uint32, bitcast=True).to(tl.uint64) << 32
    )
    return _mix(_mix(seed) + position.to(tl.uint64) * 0x9E3779B97F4A7C15)


@triton.jit
def _first(
    speeds: tl.tensor,
    key: tl.tensor,
    FROM: tl.constexpr,
    COUNT: tl.constexpr,
) -> tl.tensor:
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
    settings = batch.table + slot * _COLUMNS
    key = _draw_key(
        tl.load(settings + _SEED_LOW), tl.load(settings + _SEED_HIGH), tl.load(batch.positions + row)
    )
    scale = weight_scale(batch, slot)
    largest, masses = block_masses(stats, row, scale, BLOCKS)
    threshold = tl.full((), _MINUS_INF, tl.float32)
    if FILTERS:  # noqa: SIM102 - one is known to the compiler, the other is not
        if filtered(batch, slot):
            total = tl.sum(masses, 0)
            count = tl.load(band.num_groups + row)
            if count > 0:
                threshold, masses = narrow_groups(
                    batch, band.groups + row * SLOTS, count, slot, row, largest, scale, total,
                    CHANGES, BLOCKS, SLOTS,
                )  # fmt: skip
            else:
                threshold, masses = narrow(
                    batch, stats, band, slot, row, largest, scale, total,
                    CHANGES, BLOCK, BLOCKS, CAPACITY, WIDTH,
                )  # fmt: skip
    block = _first(masses, key, 2 * _GROUP, BLOCKS)
    group = tl.arange(0, _GROUP)[:, None]
    x = load(batch, block * BLOCK + group * _GROUP + tl.arange(0, _GROUP)[None, :], row, CHANGES)
    weight = tl.where(x >= threshold, weigh(x, largest, scale), 0.0)
    drawn = _first(tl.sum(weight, 1), key, _GROUP, _GROUP)
    place = _first(tl.sum(tl.where(group == drawn, weight, 0.0), 0), key, 0, _GROUP)
    return block * BLOCK + drawn * _GROUP + place


@triton.jit
def _choose_kernel(
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
    maxima = tl.load(stats.largest + at, mask=existing, other=_MINUS_INF)
    largest = tl.max(maxima, 0)
    token = -1
    if tl.abs(largest) < _INF:
        if tl.load(batch.floats + slot * _COLUMNS + _TEMPERATURE) > 0:
            token = _draw(
                batch, stats, band, slot, row, CHANGES, FILTERS, BLOCK, BLOCKS, SLOTS, CAPACITY, WIDTH
            )
        else:
            argmax = tl.load(stats.argmax + at, mask=existing, other=0)
            token = tl.min(tl.where(maxima == largest, argmax, batch.vocab), 0)
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
    masks: Tensor,
    *,
    changes: bool = True,
    filters: bool = True,
) -> Tensor:
    """Choose a token for each row of logits [S, V] (any float dtype), [S] int32; -1 where the largest logit
    is not finite. Enters it into the history of slots with penalties.

    slots, positions: [S] int32.   table: [num_slots, len(Column)] int32.   biases: [num_slots, width, 3]
    int32.
    history: [H, V] int16, see sampling.PROMPT_SEEN.   masks: [num_slots, mask_words(V)] int32.
    changes, filters: whether any row may have a mask, penalties, bias or bans, and top-k, top-p or min-p;
    False compiles to less.
    """
    num_rows, vocab_size = logits.shape
    assert logits.stride(1) == 1, "a row of logits must be contiguous"
    assert all(tensor.is_contiguous() for tensor in (table, biases, history, masks))
    tokens = torch.empty(num_rows, dtype=torch.int32, device=logits.device)
    if num_rows == 0:
        return tokens
    num_blocks = triton.cdiv(vocab_size, _BLOCK)
    blocks = triton.next_power_of_2(num_blocks)
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
        masks,
        masks.shape[1],
    )
    stats, band = _scratch(num_rows, num_blocks, filters, logits.device)
    every_block = (num_blocks, num_rows)
    options = launch_options(logits)
    scan_kernel[every_block](batch, stats, CHANGES=changes, BLOCK=_BLOCK, **_SCAN_OPTIONS, **options)
    if filters:
        bracket_kernel[(num_rows,)](
            batch,
            stats,
            band,
            CHANGES=changes,
            BLOCKS=blocks,
            SLOTS=_SLOTS,
            SAMPLE=_SAMPLE,
            num_warps=8,
            **options,
        )
        collect_kernel[every_block](
            batch,
            stats,
            band,
            CHANGES=changes,
            BLOCK=_BLOCK,
            BLOCKS=blocks,
            CAPACITY=_CAPACITY,
            **_COLLECT_OPTIONS,
            **options,
        )
    _choose_kernel[(num_rows,)](
        batch,
        stats,
        band,
        tokens,
        CHANGES=changes,
        FILTERS=filters,
        BLOCK=_BLOCK,
        BLOCKS=blocks,
        SLOTS=_SLOTS,
        CAPACITY=_CAPACITY,
        WIDTH=min(max(_TILE // blocks, 1), _CAPACITY),
        num_warps=8,
        **options,
    )
    return tokens


def _scratch(num_rows: int, num_blocks: int, filters: bool, device: torch.device) -> tuple[Stats, Band]:
    """Uninitialised; the band is a token of its kind without filters. Each tensor has memory of its own: a
    view into another is aligned in some batches and not in others, and kernels are compiled for either."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    blocks = (num_rows, num_blocks)
    maxima = empty(*blocks, GROUP)
    stats = Stats(empty(*blocks), empty(*blocks), maxima, empty(*blocks, dtype=torch.int32), num_blocks)
    groups = empty(num_rows, _SLOTS, dtype=torch.int32)
    num_groups = empty(num_rows, dtype=torch.int32)
    copies = empty(*blocks, _CAPACITY if filters else 0)
    counts = empty(*blocks, dtype=torch.int32)
    return stats, Band(empty(num_rows), empty(num_rows), groups, num_groups, copies, counts, empty(*blocks))
