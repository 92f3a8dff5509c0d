"""The device view of one step, handed to the decoder as an argument. Knows no slots, plans or sampling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..ops.paged_attention import ChunkRows, DecodeRows


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """T tokens: first one for each of D decodes, behind them those of C chunks of prompts.

    token_ids: [T] int32.   positions: [T] int32.
    kv_slots: [T] int64, block_id * block_size + offset where the token's K and V go; -1 writes nothing.
    block_tables: [num_slots, max_blocks] int32, one row per slot, shared by all steps.
    decodes: D rows, row i of which is token i, unless it is a padding row: then token i may be a chunk's.
    chunks: C rows; their query_starts count tokens of the step.
        Both rows' seq_lens are of the cache once this step's K and V are written.
    last_tokens: [S] int64, the tokens whose logits are wanted; None if those of all T are, in order.
    last: S rows, these tokens as queries of their own.
    """

    token_ids: Tensor
    positions: Tensor
    kv_slots: Tensor
    block_tables: Tensor
    decodes: DecodeRows
    chunks: ChunkRows
    last_tokens: Tensor | None
    last: DecodeRows
