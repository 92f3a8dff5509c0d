"""Causal attention of ragged chunks of prompts over the pages that hold their prefix and themselves.

Keys and values are always read from pages, so a first chunk, a later one and a prefix-cache hit are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .decode_attention import cache_rows, gather
from .step_memo import StepMemo


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


def plan_reads(
    block_tables: Tensor,
    slots: Tensor,
    query_starts: Tensor,
    seq_lens: Tensor,
    cache: Tensor,
    window: int | None,
) -> tuple[ChunkRead, ...]:
    """One read per row that has queries and keys."""
    _, num_kv_heads, block_size, _ = cache.shape
    starts, lengths = query_starts.tolist(), seq_lens.tolist()
    reads = []
    for slot, start, end, length in zip(slots.tolist(), starts, starts[1:], lengths, strict=False):
        if end == start or length == 0:
            continue
        prefix = length - (end - start)
        first_key = max(0, prefix - window + 1) if window else 0
        first_block, last_block = first_key // block_size, -(-length // block_size)
        rows = cache_rows(block_tables[slot, first_block:last_block].unsqueeze(0), num_kv_heads)
        mask = None
        if prefix or (window and window < length):
            mask = _causal_mask(range(prefix, length), range(first_key, length), window, cache.dtype)
        skipped = first_block * block_size
        reads.append(ChunkRead(start, end, rows, first_key - skipped, length - skipped, mask))
    return tuple(reads)


def _causal_mask(queries: range, keys: range, window: int | None, dtype: torch.dtype) -> Tensor:
    distance = torch.arange(queries.start, queries.stop)[:, None] - torch.arange(keys.start, keys.stop)
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(distance.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))


def prefill_attention_reference(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    slots: Tensor,
    query_starts: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    window: int | None,
    out: Tensor,
    memo: StepMemo,
) -> Tensor:
    num_kv_heads, block_size = k_cache.shape[1:3]
    reads = memo.once(
        ("prefill reads", num_kv_heads, block_size, window),
        lambda: plan_reads(block_tables, slots, query_starts, seq_lens, k_cache, window),
    )
    for read in reads:
        out[read.start : read.end] = _attend(q, k_cache, v_cache, read, scale)
    return out


def _attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, read: ChunkRead, scale: float) -> Tensor:
    """One chunk's [queries, Hq, d]."""
    k = gather(k_cache, read.cache_rows, 1)[:, :, read.first : read.last].to(q.dtype)
    v = gather(v_cache, read.cache_rows, 1)[:, :, read.first : read.last].to(q.dtype)
    queries = q[read.start : read.end].transpose(0, 1).unsqueeze(0)
    attended = torch.nn.functional.scaled_dot_product_attention(
        queries, k, v, attn_mask=read.mask, is_causal=read.mask is None, scale=scale, enable_gqa=True
    )
    return attended.squeeze(0).transpose(0, 1)


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    slots: Tensor,
    query_starts: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    counters: Tensor | None = None,
    out: Tensor | None = None,
    memo: StepMemo | None = None,
) -> Tensor:
    """Softmax(scale q K^T) V where a row's last query sees all its keys and each one before sees one less.

    q: [T, Hq, d]; queries that no row owns may lie before, between and behind those of the rows.
    k_cache, v_cache: [num_blocks, Hkv, block_size, d].
    block_tables: [num_slots, max_blocks] int32.   slots: [R] int32, row -> row of block_tables.
    query_starts: [R + 1] int32, row -> its first query in q, ascending.
    seq_lens: [R] int32, keys of the row, the chunk's own included; 0 for a padding row.
    window: a query at position p sees keys in (p - window, p].   memo: what the step's layers share.
    counters: int32 zeros, left as zeros, with which long prefixes are split so that few queries fill a GPU;
    as many partial results as there are counters are kept at most. None is without splits.
    Returns [T, Hq, d] in q's dtype, in `out` if given; where no row's query stands it is left as it is.
    """
    out = torch.empty_like(q) if out is None else out
    if q.is_cuda:
        from .prefill_attention_kernel import launch_prefill_attention

        return launch_prefill_attention(
            q,
            k_cache,
            v_cache,
            block_tables,
            slots,
            query_starts,
            seq_lens,
            scale=scale,
            window=window,
            counters=counters,
            out=out,
            memo=memo,
        )
    return prefill_attention_reference(
        q,
        k_cache,
        v_cache,
        block_tables,
        slots,
        query_starts,
        seq_lens,
        scale=scale,
        window=window,
        out=out,
        memo=memo or StepMemo(),
    )
