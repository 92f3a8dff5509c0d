"""Tile sizes of the kernels, by shape. Chosen by `loadtest/kernels.py --sweep`; knows no kernel's body."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class DecodeTiles:
    """block_n: keys per tile.   programs_per_sm: of all KV heads together, on one multiprocessor.

    num_stages: block ids are loaded a stage before their keys, so of 3 one holds the next tile's keys.
    """

    block_n: int
    num_warps: int
    num_stages: int
    programs_per_sm: int


@dataclass(frozen=True, slots=True)
class PrefillTiles:
    """block_m: query rows (tokens x heads of a group) per tile.   block_n: keys per tile.

    min_split: keys that a split of a prefix holds at least.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    min_split: int = 1024


@dataclass(frozen=True, slots=True)
class ThinTiles:
    """block_n: rows of the weight per program.   block_k: columns per iteration.   num_stages: in flight."""

    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class FixedOrderTiles:
    """block_m: rows of x.   block_n: rows of the weight.   block_k: columns per iteration."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


MAX_SHARERS = 32
"""Programs that may share a sequence's keys of one KV head: with more, merging costs more than it gains."""

NUM_SPLIT_COUNTERS = 1024
"""Counters by which attention's programs learn which ends last; decode attention has no more programs."""

MAX_THIN_ROWS = 8
"""Rows that `thin_linear` takes."""


def decode_tiles(head_dim: int, element_size: int) -> DecodeTiles:
    """For a padded head_dim (a power of two) and the cache's bytes per element."""
    if head_dim * element_size > 256:
        return DecodeTiles(block_n=32, num_warps=4, num_stages=2, programs_per_sm=2)
    return DecodeTiles(block_n=128, num_warps=4, num_stages=3, programs_per_sm=2)


@functools.cache
def num_multiprocessors(device: torch.device) -> int:
    """Of a GPU; 1 for Triton's interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def decode_programs(
    tiles: DecodeTiles, num_sequences: int, num_kv_heads: int, max_seq_len: int, num_sms: int
) -> int:
    """Programs per KV head: about as many as run at once, but fewer if there is less to do.

    A whole number per sequence, or of sequences per program, so that sequences of equal length are either
    all divided alike or not at all.
    """
    resident = max(1, min(tiles.programs_per_sm * num_sms, NUM_SPLIT_COUNTERS) // num_kv_heads)
    if num_sequences <= resident:
        sharers = min(resident // num_sequences, MAX_SHARERS, -(-max_seq_len // tiles.block_n))
        return num_sequences * sharers
    even = -(-num_sequences // -(-num_sequences // resident))
    return even if 10 * even >= 9 * resident else resident


def prefill_tiles(head_dim: int, element_size: int) -> PrefillTiles:
    """For a padded head_dim (a power of two) and the cache's bytes per element."""
    if element_size == 4:
        return PrefillTiles(block_m=64 if head_dim <= 128 else 32, block_n=32, num_warps=4, num_stages=1)
    if head_dim > 128:
        return PrefillTiles(block_m=64, block_n=64, num_warps=8, num_stages=2)
    return PrefillTiles(block_m=128, block_n=64, num_warps=8, num_stages=5)


def thin_tiles(num_rows: int, out_features: int, in_features: int) -> ThinTiles | None:
    """For x [num_rows, in_features] and a weight [out_features, in_features]; None where cuBLAS is faster.

    One or two rows are multiplied out, more go through the tensor cores. Measured for the four shapes of
    Qwen2.5-1.5B and of Llama-3.1-8B, see docs/decisions.md.
    """
    large = out_features * in_features > 1 << 25
    if num_rows == 1:
        if in_features > 4096:
            return ThinTiles(block_n=4, block_k=512, num_warps=2, num_stages=4)
        if in_features > 2048:
            return ThinTiles(block_n=1, block_k=4096, num_warps=4, num_stages=2)
        if out_features > 8192:
            return ThinTiles(block_n=16, block_k=256, num_warps=4, num_stages=4)
        return ThinTiles(block_n=2, block_k=2048, num_warps=4, num_stages=3)
    if num_rows == 2:
        if in_features > 4096:
            return ThinTiles(block_n=4, block_k=512, num_warps=2, num_stages=4)
        return None if large else ThinTiles(block_n=16, block_k=256, num_warps=4, num_stages=4)
    if num_rows > MAX_THIN_ROWS or in_features > 4096 or out_features * in_features > 25 << 20:
        return None
    if in_features > 2048:
        return ThinTiles(block_n=64, block_k=128, num_warps=4, num_stages=5)
    return ThinTiles(block_n=16, block_k=256, num_warps=4, num_stages=4)


def fixed_order_tiles(num_rows: int, out_features: int, element_size: int) -> FixedOrderTiles:
    """For x [num_rows, in_features] and a weight [out_features, in_features].

    All of them sum in the same order: measured on an H100, whose results are alike to the last bit.
    """
    if element_size == 4:
        return FixedOrderTiles(block_m=64, block_n=32, block_k=32, num_warps=4, num_stages=2)
    if out_features <= 4096 and num_rows <= 512:
        return FixedOrderTiles(block_m=64, block_n=64, block_k=128, num_warps=4, num_stages=4)
    if num_rows <= 128:
        return FixedOrderTiles(block_m=64, block_n=128, block_k=64, num_warps=4, num_stages=4)
    return FixedOrderTiles(block_m=128, block_n=128, block_k=64, num_warps=8, num_stages=4)
