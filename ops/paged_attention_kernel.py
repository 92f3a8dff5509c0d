"""What the attention kernels share: keys and values taken from pages into a running softmax, and merging.

The softmax is kept in base 2 and rescaled as its maximum grows (Milakov and Gimelshein, arXiv 1805.02867;
Dao et al., arXiv 2205.14135). Knows nothing of who is split, and where.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl


@triton.jit
def attend_tile(
    queries: tl.tensor,
    values: tl.tensor,
    denominator: tl.tensor,
    maximum: tl.tensor,
    k_head: tl.tensor,
    v_head: tl.tensor,
    table: tl.tensor,
    start: tl.tensor,
    limit: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    scale_log2e: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    WINDOWED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Visit keys [start, start + BLOCK_N), a multiple of BLOCK_N; returns (values, denominator, maximum).

    queries [M, HEAD_PAD].   values [M, HEAD_PAD], denominator and maximum [M]: float32, the running softmax.
    k_head, v_head: the caches at this KV head of block 0.   table: the sequence's row of the block table.
    If MASKED, row i sees keys up to high[i] (if WINDOWED, from low[i]), and keys from `limit` are not loaded.
    """
    offsets_n = tl.arange(0, BLOCK_N)
    offsets_d = tl.arange(0, HEAD_PAD)
    keys = start + offsets_n
    # Block ids are widened first: a cache may have more than 2^31 elements.
    if BLOCK_SIZE >= BLOCK_N:
        block = tl.load(table + start // BLOCK_SIZE).to(tl.int64)
        page = block * BLOCK_STRIDE + (start % BLOCK_SIZE) * HEAD_DIM
        k_ptrs = k_head + page + (offsets_n[:, None] * HEAD_DIM + offsets_d[None, :])
        v_ptrs = v_head + page + (offsets_n[:, None] * HEAD_DIM + offsets_d[None, :])
    else:
        if MASKED:
            blocks = tl.load(table + keys // BLOCK_SIZE, mask=keys < limit, other=0)
        else:
            blocks = tl.load(table + keys // BLOCK_SIZE)
        rows = blocks.to(tl.int64) * BLOCK_STRIDE + (keys % BLOCK_SIZE) * HEAD_DIM
        k_ptrs = k_head + rows[:, None] + offsets_d[None, :]
        v_ptrs = v_head + rows[:, None] + offsets_d[None, :]

    partial: tl.constexpr = MASKED or HEAD_DIM != HEAD_PAD
    if partial:
        loaded = (offsets_d < HEAD_DIM)[None, :]
        if MASKED:
            loaded = loaded & (keys < limit)[:, None]
        # Zeros, since a weight of 0 does not make up for what is not a number.
        k = tl.load(k_ptrs, mask=loaded, other=0.0)
    else:
        k = tl.load(k_ptrs)
    scores = tl.dot(queries, tl.trans(k), input_precision="tf32x3")
    if MASKED:
        visible = keys[None, :] <= high[:, None]
        if WINDOWED:
            visible = visible & (keys[None, :] >= low[:, None])
        scores = tl.where(visible, scores, float("-inf"))
    new_maximum = tl.maximum(maximum, tl.max(scores, axis=1) * scale_log2e)
    if MASKED and WINDOWED:
        # A row may have seen no key yet: then subtract 0, for -inf - -inf is not a number.
        subtracted = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
    else:
        subtracted = new_maximum
    weights = tl.math.exp2(scores * scale_log2e - subtracted[:, None])
    rescale = tl.math.exp2(maximum - subtracted)
    denominator = denominator * rescale + tl.sum(weights, axis=1)
    v = tl.load(v_ptrs, mask=loaded, other=0.0) if partial else tl.load(v_ptrs)
    values = tl.dot(weights.to(v.dtype), v, values * rescale[:, None], input_precision="tf32x3")
    return values, denominator, new_maximum


@triton.jit
def attend_range(
    queries: tl.tensor,
    k_head: tl.tensor,
    v_head: tl.tensor,
    table: tl.tensor,
    begin: tl.tensor,
    full_begin: tl.tensor,
    full_end: tl.tensor,
    end: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    scale_log2e: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOWED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Visit keys [begin, end), all but `end` multiples of BLOCK_N; as `attend_tile`, from a fresh softmax.

    Every row sees keys [full_begin, full_end); of the others row i sees those from low[i] to high[i] < end.
    """
    values = tl.zeros((BLOCK_M, HEAD_PAD), dtype=tl.float32)
    denominator = tl.zeros((BLOCK_M,), dtype=tl.float32)
    maximum = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    if WINDOWED:
        for start in tl.range(begin, tl.minimum(full_begin, end), BLOCK_N):
            values, denominator, maximum = attend_tile(
                queries, values, denominator, maximum, k_head, v_head, table, start, end, low, high,
                scale_log2e, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_STRIDE, BLOCK_N, True, True,
            )  # fmt: skip
    first_full = tl.multiple_of(tl.maximum(begin, full_begin), BLOCK_N)
    for start in tl.range(first_full, full_end, BLOCK_N):
        values, denominator, maximum = attend_tile(
            queries, values, denominator, maximum, k_head, v_head, table, start, end, low, high,
            scale_log2e, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_STRIDE, BLOCK_N, False, False,
        )  # fmt: skip
    for start in tl.range(tl.maximum(first_full, full_end), end, BLOCK_N, num_stages=1):
        values, denominator, maximum = attend_tile(
            queries, values, denominator, maximum, k_head, v_head, table, start, end, low, high,
            scale_log2e, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_STRIDE, BLOCK_N, True, WINDOWED,
        )  # fmt: skip
    return values, denominator, maximum


@triton.jit
def merge_splits(
    partials: tl.tensor,
    lse: tl.tensor,
    count: tl.tensor,
    row: tl.tensor,
    NUM_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
) -> tl.tensor:
    """Rows `row`, merged from `count` splits in their order.

    partials [splits, NUM_ROWS, HEAD_DIM], lse [splits, NUM_ROWS]: float32, each split's softmax on its own.
    """
    column = tl.arange(0, HEAD_PAD)
    row_inside = row < NUM_ROWS
    inside = row_inside[:, None] & (column < HEAD_DIM)[None, :]
    maximum = tl.full(row.shape, float("-inf"), dtype=tl.float32)
    for split in range(count):
        maximum = tl.maximum(
            maximum, tl.load(lse + split * NUM_ROWS + row, mask=row_inside, other=0.0, cache_modifier=".cg")
        )
    total = tl.zeros(row.shape, dtype=tl.float32)
    merged = tl.zeros((row.shape[0], HEAD_PAD), dtype=tl.float32)
    for split in tl.range(0, count, loop_unroll_factor=4):
        here = split * NUM_ROWS + row
        log = tl.load(lse + here, mask=row_inside, other=0.0, cache_modifier=".cg")
        part = tl.load(
            partials + here[:, None] * HEAD_DIM + column[None, :],
            mask=inside,
            other=0.0,
            cache_modifier=".cg",
        )
        weight = tl.math.exp2(log - maximum)
        total += weight
        merged += weight[:, None] * part
    return merged / total[:, None]


@functools.cache
def num_multiprocessors(device: torch.device) -> int:
    """Of a GPU; 1 for the interpreter's."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
