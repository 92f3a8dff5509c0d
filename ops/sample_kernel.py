"""Choosing tokens on the GPU: four launches for what sampling.py defines.

    scan [rows x blocks] -> ( bracket [rows] -> collect [rows x blocks] -> ) choose [rows]

Launches only, no host decisions, so that a CUDA graph can hold them. The scan (sample_scan.py) reads every
logit once and keeps, per block of the row, the largest logit and the sum of weights; choosing
(sample_choose.py) has one program a row, which draws a block and reads that again. With filters on, two
launches between them find out what the choice needs to narrow each block's sum: which few groups to read
again (sample_groups.py), or else a bracket of the threshold and the logits inside it (sample_band.py). Sums
run in an order that depends on the row alone.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .dependent_launch import launch_options
from .sample_band import Band, bracket_kernel, collect_kernel
from .sample_choose import choose_kernel
from .sample_row import Batch, Stats
from .sample_scan import scan_kernel
from .sampling import GROUP

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
        logits, logits.stride(0), vocab_size, slots, positions, table, table.view(torch.float32),
        biases, biases.view(torch.float32), biases.shape[1], history, masks, masks.shape[1],
    )  # fmt: skip
    stats, band = _scratch(num_rows, num_blocks, filters, logits.device)
    every_block = (num_blocks, num_rows)
    options = dict(CHANGES=changes, **launch_options(logits))
    scan_kernel[every_block](batch, stats, BLOCK=_BLOCK, **_SCAN_OPTIONS, **options)
    if filters:
        bracket_kernel[(num_rows,)](
            batch, stats, band, BLOCKS=blocks, SLOTS=_SLOTS, SAMPLE=_SAMPLE, num_warps=8, **options
        )
        collect_kernel[every_block](
            batch, stats, band, BLOCK=_BLOCK, BLOCKS=blocks, CAPACITY=_CAPACITY, **_COLLECT_OPTIONS, **options
        )
    choose_kernel[(num_rows,)](
        batch, stats, band, tokens, FILTERS=filters, BLOCK=_BLOCK, BLOCKS=blocks, SLOTS=_SLOTS,
        CAPACITY=_CAPACITY, WIDTH=min(max(_TILE // blocks, 1), _CAPACITY), num_warps=8, **options,
    )  # fmt: skip
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
