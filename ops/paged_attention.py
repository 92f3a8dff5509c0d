"""What both kinds of attention take: a layer's keys and values in pages, and the rows that attend to them.

    slots[row]  ->  block_tables[slot]  ->  k[block], v[block]: block_size keys and values of every KV head

Also how the torch references read pages. Does not know how attention is computed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PagedKV(NamedTuple):
    """One layer's keys and values, and in which blocks each slot has its own.

    k, v: [num_blocks, Hkv, block_size, d], contiguous.
    block_tables: [num_slots, max_blocks] int32: a slot's keys [i * block_size, (i + 1) * block_size) are in
        the block that entry i of its row names.
    """

    k: Tensor
    v: Tensor
    block_tables: Tensor


class DecodeRows(NamedTuple):
    """B rows of one query each.

    slots: [B] int32.
    seq_lens: [B] int32, keys that the query sees, its own included; 0 for a padding row, whose result is
        arbitrary. Padding rows come last.
    max_seq_len: a bound of seq_lens, known on the host, which sizes grids.
    """

    slots: Tensor
    seq_lens: Tensor
    max_seq_len: int


class ChunkRows(NamedTuple):
    """R rows, each with the queries of neighbouring tokens.

    slots: [R] int32.
    query_starts: [R + 1] int32, where a row's queries begin and the previous row's end.
    seq_lens: [R] int32, keys that the row's last query sees, its own included; each query before it sees one
        less. 0 for a padding row.
    """

    slots: Tensor
    query_starts: Tensor
    seq_lens: Tensor


def cache_rows(block_ids: Tensor, num_kv_heads: int) -> Tensor:
    """[n, blocks] block ids -> int64 rows of a cache seen as [num_blocks * Hkv, block_size * d].

    Flat, ordered by (n, KV head, block).
    """
    heads = torch.arange(num_kv_heads, device=block_ids.device)
    return (block_ids[:, None, :].long() * num_kv_heads + heads[:, None]).flatten()


def gather(cache: Tensor, rows: Tensor, size: int) -> Tensor:
    """The pages that `cache_rows` named for n = size, as one dense tensor [size, Hkv, keys, d]."""
    _, num_kv_heads, block_size, head_dim = cache.shape
    pages = cache.view(-1, block_size * head_dim).index_select(0, rows)
    return pages.view(size, num_kv_heads, -1, head_dim)
