"""Runs a DecoderLM by hand: pages, block tables and batches for a few sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from octavo.cache.storage import KVStorage
from octavo.model.batch import ForwardBatch
from octavo.model.config import ModelConfig
from octavo.model.decoder import DecoderLM
from octavo.ops.paged_attention import ChunkRows, DecodeRows


class Harness:
    """One block table per slot, blocks handed out in an order that is neither ascending nor shared."""

    def __init__(
        self,
        model: DecoderLM,
        config: ModelConfig,
        *,
        num_slots: int,
        max_length: int,
        block_size: int = 4,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model
        self.block_size = block_size
        blocks_each = -(-max_length // block_size)
        order = torch.randperm(num_slots * blocks_each, generator=torch.Generator().manual_seed(7))
        self.block_tables = order.view(num_slots, blocks_each).to(torch.int32)
        self.lengths = [0] * num_slots
        self.kv = KVStorage(
            config.num_layers,
            num_slots * blocks_each,
            config.num_kv_heads,
            block_size,
            config.head_dim,
            dtype,
            torch.device("cpu"),
        )

    def step(self, tokens: Mapping[int, Sequence[int]]) -> dict[int, Tensor]:
        """Feed slot -> next tokens, returns slot -> their logits. Single tokens run as decodes."""
        batch = self.batch(tokens)
        logits, starts = self.run(batch), batch.chunks.query_starts.tolist()
        spans = zip(batch.chunks.slots.tolist(), starts, starts[1:], strict=False)
        chunks = {slot: logits[start:end] for slot, start, end in spans}
        decodes = enumerate(batch.decodes.slots.tolist())
        return chunks | {slot: logits[row : row + 1] for row, slot in decodes}

    def run(self, batch: ForwardBatch) -> Tensor:
        """The logits of the batch's last tokens."""
        with torch.inference_mode():
            return self.model.forward(batch, self.kv.layers)

    def batch(self, tokens: Mapping[int, Sequence[int]]) -> ForwardBatch:
        """The step that feeds slot -> next tokens and wants all logits; the slots' lengths grow at once."""
        rows = sorted(tokens.items(), key=lambda row: len(row[1]) != 1)
        decodes = [slot for slot, ids in rows if len(ids) == 1]
        chunks = [slot for slot, ids in rows if len(ids) != 1]
        starts, positions, kv_slots = [0], [], []
        for slot, ids in rows:
            for position in range(self.lengths[slot], self.lengths[slot] + len(ids)):
                block = int(self.block_tables[slot, position // self.block_size])
                positions.append(position)
                kv_slots.append(block * self.block_size + position % self.block_size)
            self.lengths[slot] += len(ids)
            starts.append(len(positions))
        longest = max(self.lengths[slot] for slot, _ in rows)
        return ForwardBatch(
            token_ids=integers(token for _, ids in rows for token in ids),
            positions=integers(positions),
            kv_slots=torch.tensor(kv_slots, dtype=torch.int64),
            block_tables=self.block_tables,
            decodes=DecodeRows(integers(decodes), integers(self.lengths[slot] for slot in decodes), longest),
            chunks=ChunkRows(
                integers(chunks),
                integers(starts[len(decodes) :]),
                integers(self.lengths[slot] for slot in chunks),
            ),
            last_tokens=torch.arange(len(positions)),
            last=DecodeRows(
                integers(slot for slot, ids in rows for _ in ids),
                integers(position + 1 for position in positions),
                longest,
            ),
        )


def integers(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int32)


def with_padding(rows: DecodeRows, count: int) -> DecodeRows:
    """The rows, and padding rows behind them."""
    padding = torch.zeros(count, dtype=torch.int32)
    return rows._replace(slots=torch.cat((rows.slots, padding)), seq_lens=torch.cat((rows.seq_lens, padding)))
