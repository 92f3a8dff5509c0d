"""What outlives a step on the device, by slot: block tables and the tokens sampled last.

`begin_step` brings the tables up to date and looks up the tokens that the host does not know yet, `end_step`
keeps what was sampled. Knows no model and no plan.
"""

from __future__ import annotations

from torch import Tensor


def begin_step_reference(
    block_tables: Tensor,
    update_index: Tensor,
    update_value: Tensor,
    token_ids: Tensor,
    slots: Tensor,
    last_token: Tensor,
) -> None:
    block_tables.view(-1).index_copy_(0, update_index, update_value)
    decodes = token_ids[: len(slots)]
    decodes.copy_(decodes.where(decodes >= 0, last_token.index_select(0, slots)))


def end_step_reference(last_token: Tensor, slots: Tensor, tokens: Tensor) -> None:
    last_token.index_copy_(0, slots.long(), tokens.clamp(min=0).to(last_token.dtype))


def begin_step(
    block_tables: Tensor,
    update_index: Tensor,
    update_value: Tensor,
    token_ids: Tensor,
    slots: Tensor,
    last_token: Tensor,
) -> None:
    """Write new block-table entries; replace negative ids among the first D tokens by their slots' last.

    block_tables: [num_slots, max_blocks] int32, contiguous.   last_token: [num_slots] int32.
    update_index: [U] int64, flat positions in block_tables.   update_value: [U] int32.
    token_ids: [T] int32.   slots: [D] int32, D <= T.
    """
    if token_ids.is_cuda:
        from .slot_state_kernel import launch_begin_step

        launch_begin_step(block_tables, update_index, update_value, token_ids, slots, last_token)
    else:
        begin_step_reference(block_tables, update_index, update_value, token_ids, slots, last_token)


def end_step(last_token: Tensor, slots: Tensor, tokens: Tensor) -> None:
    """last_token[slots] = tokens, [S] each; a negative token, which must never be looked up, becomes 0."""
    if tokens.is_cuda:
        from .slot_state_kernel import launch_end_step

        launch_end_step(last_token, slots, tokens)
    else:
        end_step_reference(last_token, slots, tokens)
