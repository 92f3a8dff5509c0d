"""Pages with random contents, and attention written down directly: what attention is held against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from octavo.ops.paged_attention import DecodeRows, PagedKV

DTYPES = [torch.float32, torch.float16]
if torch.cuda.is_available():
    DTYPES.append(torch.bfloat16)  # the interpreter reads bfloat16 wrongly
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Rows' keys and values, in shuffled pages; pages that no row owns and the ends of last pages are NaN."""

    k: Tensor
    v: Tensor
    block_tables: Tensor
    slots: Tensor
    seq_lens: Tensor

    @classmethod
    def random(
        cls,
        lengths: list[int],
        num_kv_heads: int,
        head_dim: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> PagedCache:
        width = max(1, -(-max(lengths) // block_size)) + 1
        num_rows = len(lengths)
        num_blocks = num_rows * width + 3
        tables = torch.randperm(num_blocks)[: num_rows * width].view(num_rows, width).to(torch.int32)
        slots = torch.randperm(num_rows).to(torch.int32)
        shape = (num_blocks, num_kv_heads, block_size, head_dim)
        k = torch.full(shape, float("nan"), dtype=dtype)
        v = torch.full(shape, float("nan"), dtype=dtype)
        for slot, length in zip(slots.tolist(), lengths, strict=True):
            for position in range(length):
                block = tables[slot, position // block_size]
                k[block, :, position % block_size] = torch.randn(num_kv_heads, head_dim)
                v[block, :, position % block_size] = torch.randn(num_kv_heads, head_dim)
            # What lies behind a sequence's blocks is stale or never written.
            tables[slot, -(-length // block_size) :] = 1 << 20
        seq_lens = torch.tensor(lengths, dtype=torch.int32)
        return cls(*(t.to(device) for t in (k, v, tables, slots, seq_lens)))

    @property
    def kv(self) -> PagedKV:
        return PagedKV(self.k, self.v, self.block_tables)

    def decodes(self, max_seq_len: int) -> DecodeRows:
        """A query for each row."""
        return DecodeRows(self.slots, self.seq_lens, max_seq_len)

    def attend(self, q: Tensor, row: int, scale: float, window: int | None) -> Tensor:
        """Row's last len(q) positions, [n, Hq, d] in float64, key by key from the definition."""
        length = int(self.seq_lens[row])
        block_size, table = self.k.shape[2], self.block_tables[self.slots[row]].long()
        positions = torch.arange(length, device=q.device)
        blocks, offsets = table[positions // block_size], positions % block_size
        group = q.shape[1] // self.k.shape[1]
        k = self.k[blocks, :, offsets].double().repeat_interleave(group, dim=1)
        v = self.v[blocks, :, offsets].double().repeat_interleave(group, dim=1)
        distance = positions[length - len(q) :, None] - positions
        hidden = (distance < 0) | (distance >= (window or length))
        scores = torch.einsum("qhd,khd->hqk", q.double(), k) * scale
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, v)
