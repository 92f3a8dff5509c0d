"""Causal attention of ragged chunks of prompts over the pages that hold their prefix and themselves.

Keys and values are always read from pages, so a first chunk, a later one and a prefix-cache hit are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .paged_attention import ChunkRows, DecodeRows, PagedKV, cache_rows, gather
from .step_memo import StepMemo

if TYPE_CHECKING:
    from .attention_native import NativeAttention

_SHORT_PAIRS = 1 << 12
"""Queries times keys of a chunk up to which its queries are better done as if each were a decode."""


@dataclass(frozen=True, slots=True)
class ChunkRead:
    """One row as the reference reads it: queries [start, end), keys [first, last) of the gathered blocks.

    mask: [queries, last - first] float, 0 or -inf; None if plain causal masking does (no prefix, no window).
    """

    start: int
    end: int
    cache_rows: Tensor
    first: int
    last: int
    mask: Tensor | None


def plan_reads(kv: PagedKV, rows: ChunkRows, window: int | None) -> tuple[ChunkRead, ...]:
    """One read per row that has queries and keys."""
    _, num_kv_heads, block_size, _ = kv.k.shape
    slots, starts, lengths = (numbers.tolist() for numbers in rows)
    reads = []
    for slot, start, end, length in zip(slots, starts, starts[1:], lengths, strict=False):
        if end == start or length == 0:
            continue
        prefix = length - (end - start)
        first_key = max(0, prefix - window + 1) if window else 0
        first_block, last_block = first_key // block_size, -(-length // block_size)
        blocks = cache_rows(kv.block_tables[slot, first_block:last_block].unsqueeze(0), num_kv_heads)
        mask = None
        if prefix or (window and window < length):
            mask = _causal_mask(range(prefix, length), range(first_key, length), window, kv.k.dtype)
        skipped = first_block * block_size
        reads.append(ChunkRead(start, end, blocks, first_key - skipped, length - skipped, mask))
    return tuple(reads)


def _causal_mask(queries: range, keys: range, window: int | None, dtype: torch.dtype) -> Tensor:
    distance = torch.arange(queries.start, queries.stop)[:, None] - torch.arange(keys.start, keys.stop)
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(distance.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))


def prefill_attention_reference(
    q: Tensor,
    kv: PagedKV,
    rows: ChunkRows,
    *,
    scale: float,
    window: int | None,
    out: Tensor,
    memo: StepMemo,
) -> Tensor:
    num_kv_heads, block_size = kv.k.shape[1:3]
    reads = memo.once(
        ("prefill reads", num_kv_heads, block_size, window), lambda: plan_reads(kv, rows, window)
    )
    for read in reads:
        out[read.start : read.end] = _attend(q, kv, read, scale)
    return out


def _attend(q: Tensor, kv: PagedKV, read: ChunkRead, scale: float) -> Tensor:
    """One chunk's [queries, Hq, d]."""
    k = gather(kv.k, read.cache_rows, 1)[:, :, read.first : read.last].to(q.dtype)
    v = gather(kv.v, read.cache_rows, 1)[:, :, read.first : read.last].to(q.dtype)
    queries = q[read.start : read.end].transpose(0, 1).unsqueeze(0)
    attended = torch.nn.functional.scaled_dot_product_attention(
        queries, k, v, attn_mask=read.mask, is_causal=read.mask is None, scale=scale, enable_gqa=True
    )
    return attended.squeeze(0).transpose(0, 1)


class SharedOut(NamedTuple):
    """Chunks by their size.

    queries: where in q all of them are.   short: every query there as a row of its own; those of long chunks
        see nothing.   long: the chunks, of which the short ones see nothing.
    """

    queries: slice
    short: DecodeRows
    long: ChunkRows


def share_out(rows: ChunkRows) -> SharedOut:
    """A chunk of few queries and keys is short: torch's operations would take longer than its work."""
    slots, starts, lens = (numbers.numpy() for numbers in rows)
    counts = np.diff(starts)
    short = counts.astype(np.int64) * lens <= _SHORT_PAIRS
    # The last query sees all keys, each one before it one less.
    seen = np.arange(starts[0], starts[-1], dtype=np.int32) - np.repeat(
        starts[1:] - lens - np.int32(1), counts
    )
    seen *= np.repeat(short & (lens > 0), counts)
    queries = torch.from_numpy(np.repeat(slots, counts)), torch.from_numpy(seen)
    return SharedOut(
        slice(int(starts[0]), int(starts[-1])),
        DecodeRows(*queries, int(seen.max(initial=0))),
        rows._replace(seq_lens=torch.from_numpy(np.where(short, np.int32(0), lens))),
    )


def prefill_attention(
    q: Tensor,
    kv: PagedKV,
    rows: ChunkRows,
    *,
    scale: float,
    window: int | None = None,
    counters: Tensor | None = None,
    out: Tensor | None = None,
    memo: StepMemo | None = None,
    native: NativeAttention | None = None,
) -> Tensor:
    """Causal softmax(scale q K^T) V of each row's queries: q [T, Hq, d] -> [T, Hq, d] in q's dtype.

    q may hold queries that no row owns, before, between and behind those of the rows; where they stand, the
    result, in `out` if given, is left as it is.
    window: a query at position p sees keys in (p - window, p].   memo: what the step's layers share.
    native: machine code for a processor, if there is any.
    counters: int32 zeros, left as zeros, with which long prefixes are split so that few queries fill a GPU;
    as many partial results as there are counters are kept at most. None is without splits.
    """
    out = torch.empty_like(q) if out is None else out
    if q.is_cuda:
        from .prefill_attention_kernel import launch_prefill_attention

        return launch_prefill_attention(
            q, kv, rows, scale=scale, window=window, counters=counters, out=out, memo=memo
        )
    memo = memo or StepMemo()
    if native is not None and native.attends(q, kv.k, out):
        queries, short, rows = memo.once("chunks shared out", lambda: share_out(rows))
        if short.max_seq_len:
            native.decode_attention(q[queries], kv, short, scale=scale, window=window, out=out[queries])
    return prefill_attention_reference(q, kv, rows, scale=scale, window=window, out=out, memo=memo)
