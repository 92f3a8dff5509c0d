"""The device view of one step, handed to the decoder as an argument. Knows no slots, plans or sampling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """T tokens: D decodes, row i of which is token i, and C ragged chunks among the tokens behind them.

    token_ids: [T] int32.   positions: [T] int32.
    kv_slots: [T] int64, block_id * block_size + offset where the token's K and V go; -1 writes nothing.
    block_tables: [num_slots, max_blocks] int32, one row per slot, shared by all steps.
    decode_slots: [D] int32, row -> slot.
    decode_lens: [D] int32, tokens in the cache once this step's K and V are written; 0 for a padding row,
        whose token may then belong to a chunk.
    chunk_slots, chunk_lens: [C] int32, likewise.   chunk_starts: [C + 1] int32, row -> its first token.
    last_tokens: [S] int64, the token index whose logits each sampled row needs; None if all do, in order.
    last_slots, last_lens: [S] int32, slots of these tokens and how many tokens each sees, itself included;
        0 for a padding row.
    max_seq_len: host integer, upper bound of the lengths, which sizes grids.
    """

    token_ids: Tensor
    positions: Tensor
    kv_slots: Tensor
    block_tables: Tensor
    decode_slots: Tensor
    decode_lens: Tensor
    chunk_slots: Tensor
    chunk_starts: Tensor
    chunk_lens: Tensor
    last_tokens: Tensor | None
    last_slots: Tensor
    last_lens: Tensor
    max_seq_len: int
