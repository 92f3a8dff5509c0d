"""Attention of one new token per sequence over its pages of keys and values.

On a GPU, programs share the batch's keys evenly, whatever its sequences' lengths. Does not know prompts:
`prefill_attention` takes rows of many tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .paged_attention import DecodeRows, PagedKV, cache_rows, gather
from .step_memo import StepMemo

if TYPE_CHECKING:
    from .attention_native import NativeAttention

GROUP_ELEMENTS = 1 << 17
"""Elements of keys that the reference gathers at once: what stays in a core's L2 cache until it is used."""


@dataclass(frozen=True, slots=True)
class ReadGroup:
    """Sequences that the reference reads as one dense tensor.

    sequences: [n] int64, their rows in the batch; None if they are all of it, in order.
    cache_rows: [n * num_kv_heads * num_blocks] int64 rows of the cache seen as [blocks * num_kv_heads, -1].
    first, last: the keys that count within the blocks, if the same for all; then mask is None.
    mask: [n, 1, 1, last - first] float, 0 or -inf, where the sequences differ.
    hidden_rows: the hidden keys as int64 rows of the gathered tensor seen as [-1, head_dim]. They are set to
        zero: past its sequence's end a page may hold anything, and a weight of zero times NaN is NaN.
    """

    sequences: Tensor | None
    cache_rows: Tensor
    size: int
    first: int
    last: int
    mask: Tensor | None
    hidden_rows: Tensor | None


def plan_reads(kv: PagedKV, rows: DecodeRows, window: int | None) -> tuple[ReadGroup, ...]:
    """Group sequences of like length up to GROUP_ELEMENTS of keys; those of length 0 are in no group."""
    _, num_kv_heads, block_size, head_dim = kv.k.shape
    lengths, tables = rows.seq_lens.tolist(), kv.block_tables[rows.slots]
    spans = [(max(0, n - window) if window else 0, n) for n in lengths]
    blocks = [(first // block_size, -(-last // block_size)) for first, last in spans]
    order = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: blocks[i][1] - blocks[i][0])
    groups = []
    block_elements = block_size * num_kv_heads * head_dim
    for start, end in pairwise(_cuts([(blocks[i][1] - blocks[i][0]) * block_elements for i in order])):
        members = order[start:end]
        width = max(blocks[i][1] - blocks[i][0] for i in members)
        ids = torch.stack(
            [
                torch.nn.functional.pad(
                    tables[i, blocks[i][0] : blocks[i][1]], (0, width - blocks[i][1] + blocks[i][0])
                )
                for i in members
            ]
        )
        bounds = [
            (spans[i][0] - blocks[i][0] * block_size, spans[i][1] - blocks[i][0] * block_size)
            for i in members
        ]
        first, last = min(f for f, _ in bounds), max(n for _, n in bounds)
        mask = hidden_rows = None
        if len(set(bounds)) > 1:
            keys = torch.arange(width * block_size)
            low, high = torch.tensor(bounds).unsqueeze(2).unbind(1)
            hidden = (keys < low) | (keys >= high)
            mask = torch.zeros(hidden.shape, dtype=kv.k.dtype).masked_fill_(hidden, float("-inf"))
            mask = mask[:, None, None, first:last]
            hidden_rows = hidden[:, None].expand(-1, num_kv_heads, -1).flatten().nonzero().squeeze(1)
        whole = members == list(range(len(lengths)))
        sequences = None if whole else torch.tensor(members)
        groups.append(
            ReadGroup(sequences, cache_rows(ids, num_kv_heads), len(members), first, last, mask, hidden_rows)
        )
    return tuple(groups)


def _cuts(widths: list[int]) -> list[int]:
    """Borders of the groups. widths: elements that each sequence takes, ascending."""
    cuts = [0]
    for i, width in enumerate(widths):
        if (i + 1 - cuts[-1]) * width > GROUP_ELEMENTS and i > cuts[-1]:
            cuts.append(i)
    return [*cuts, len(widths)] if widths else cuts


def decode_attention_reference(
    q: Tensor, kv: PagedKV, rows: DecodeRows, *, scale: float, window: int | None, memo: StepMemo
) -> Tensor:
    num_sequences, num_heads, head_dim = q.shape
    num_kv_heads, block_size = kv.k.shape[1:3]
    reads = memo.once(
        ("decode reads", num_kv_heads, block_size, window), lambda: plan_reads(kv, rows, window)
    )
    grouped = q.reshape(num_sequences, num_kv_heads, num_heads // num_kv_heads, head_dim)
    if len(reads) == 1 and reads[0].sequences is None:
        return _attend(grouped, kv, reads[0], scale).reshape(q.shape)
    out = torch.zeros_like(grouped)
    for read in reads:
        assert read.sequences is not None
        attended = _attend(grouped.index_select(0, read.sequences), kv, read, scale)
        out.index_copy_(0, read.sequences, attended)
    return out.view(q.shape)


def _attend(grouped: Tensor, kv: PagedKV, read: ReadGroup, scale: float) -> Tensor:
    """A KV head's query heads stand where a prompt's tokens would, so keys are read once for all of them."""
    k, v = gather(kv.k, read.cache_rows, read.size), gather(kv.v, read.cache_rows, read.size)
    if read.hidden_rows is not None:
        k.view(-1, k.shape[-1]).index_fill_(0, read.hidden_rows, 0)
        v.view(-1, v.shape[-1]).index_fill_(0, read.hidden_rows, 0)
    k, v = k[:, :, read.first : read.last], v[:, :, read.first : read.last]
    mask = None if read.mask is None else read.mask.expand(-1, 1, grouped.shape[2], -1)
    return torch.nn.functional.scaled_dot_product_attention(
        grouped, k.to(grouped.dtype), v.to(grouped.dtype), attn_mask=mask, scale=scale
    )


def decode_attention(
    q: Tensor,
    kv: PagedKV,
    rows: DecodeRows,
    *,
    scale: float,
    window: int | None = None,
    counters: Tensor | None = None,
    out: Tensor | None = None,
    memo: StepMemo | None = None,
    native: NativeAttention | None = None,
) -> Tensor:
    """Softmax(scale q K^T) V of each row's query: q [B, Hq, d] -> [B, Hq, d] in q's dtype, in `out` if given.

    kv.block_tables and rows must have been written before the previous kernel began (dependent_launch.py).
    window: the query sees its last `window` keys only.
    counters: [NUM_SPLIT_COUNTERS] int32 zeros, left as zeros, which spare a launch if given; one tensor
        per stream, shared by all layers.
    memo: what the step's layers share.   native: machine code for a processor, if there is any.
    """
    if q.is_cuda:
        from .decode_attention_kernel import launch_decode_attention

        return launch_decode_attention(q, kv, rows, scale=scale, window=window, counters=counters, out=out)
    if native is not None:
        result = torch.empty_like(q) if out is None else out
        if native.attends(q, kv.k, result):
            native.decode_attention(q, kv, rows, scale=scale, window=window, out=result)
            return result
    attended = decode_attention_reference(q, kv, rows, scale=scale, window=window, memo=memo or StepMemo())
    return attended if out is None else out.copy_(attended)
