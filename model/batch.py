"""The device view of one step, handed to the decoder as an argument. Knows no slots, plans or sampling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """T tokens in R rows; rows [0, num_decodes) have one token each, the rest are ragged chunks.

    token_ids: [T] int32.   positions: [T] int32.
    kv_slots: [T] int64, block_id * block_size + offset where the token's K and V go; -1 writes nothing.
    block_tables: [num_slots, max_blocks] int32, one row per slot, shared by all steps.
    slots: [R] int32, row -> slot.   query_starts: [R + 1] int32, row -> first token.
    seq_lens: [R] int32, tokens in the cache once this step's K and V are written; 0 for a padding row.
    last_tokens: [S] int64, the token index whose logits each sampled row needs.
    max_query_len, max_seq_len: host integers, upper bounds that size grids and paddings.
    """

    token_ids: Tensor
    positions: Tensor
    kv_slots: Tensor
    block_tables: Tensor
    slots: Tensor
    query_starts: Tensor
    seq_lens: Tensor
    last_tokens: Tensor
    num_decodes: int
    max_query_len: int
    max_seq_len: int
