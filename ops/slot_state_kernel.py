"""The two ends of a step on a GPU, one small launch each."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256


@triton.jit(do_not_specialize=["num_updates", "num_decodes"])
def _begin_kernel(
    block_tables: tl.tensor,
    update_index: tl.tensor,
    update_value: tl.tensor,
    token_ids: tl.tensor,
    slots: tl.tensor,
    last_token: tl.tensor,
    num_updates: tl.tensor,
    num_decodes: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    updates = here < num_updates
    index = tl.load(update_index + here, mask=updates, other=0)
    tl.store(block_tables + index, tl.load(update_value + here, mask=updates, other=0), mask=updates)
    decodes = here < num_decodes
    unknown = decodes & (tl.load(token_ids + here, mask=decodes, other=0) < 0)
    slot = tl.load(slots + here, mask=unknown, other=0)
    tl.store(token_ids + here, tl.load(last_token + slot, mask=unknown, other=0), mask=unknown)


@triton.jit(do_not_specialize=["num_rows"])
def _end_kernel(
    last_token: tl.tensor,
    slots: tl.tensor,
    tokens: tl.tensor,
    num_rows: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = here < num_rows
    slot = tl.load(slots + here, mask=inside, other=0)
    token = tl.load(tokens + here, mask=inside, other=0)
    tl.store(last_token + slot, tl.maximum(token, 0), mask=inside)


def launch_begin_step(
    block_tables: Tensor,
    update_index: Tensor,
    update_value: Tensor,
    token_ids: Tensor,
    slots: Tensor,
    last_token: Tensor,
) -> None:
    """As `begin_step`."""
    assert block_tables.is_contiguous(), "block_tables must be contiguous"
    num_updates, num_decodes = len(update_index), len(slots)
    if work := max(num_updates, num_decodes):
        _begin_kernel[(triton.cdiv(work, _BLOCK),)](
            block_tables,
            update_index,
            update_value,
            token_ids,
            slots,
            last_token,
            num_updates,
            num_decodes,
            BLOCK=_BLOCK,
        )


def launch_end_step(last_token: Tensor, slots: Tensor, tokens: Tensor) -> None:
    """As `end_step`."""
    if len(tokens):
        _end_kernel[(triton.cdiv(len(tokens), _BLOCK),)](last_token, slots, tokens, len(tokens), BLOCK=_BLOCK)
