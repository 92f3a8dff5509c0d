"""A running softmax over keys and values in pages: prefill attention's inner loop, and what decodes share.

The softmax is kept in base 2 and rescaled as its maximum grows (Milakov and Gimelshein, arXiv 1805.02867;
Dao et al., arXiv 2205.14135). Does not know how the work is split among programs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Softmax(NamedTuple):
    """What M rows of queries have seen so far, float32.

    numerator: [M, HEAD_PAD], the weighted sum of values.   denominator: [M], the sum of weights.
    maximum: [M], the largest score in base 2, relative to which the weights are.
    """

    numerator: Any
    denominator: Any
    maximum: Any


class HeadPages(NamedTuple):
    """Pointers to one KV head of one sequence.

    k, v: the caches at this head of block 0.   table: the sequence's row of the block tables.
    """

    k: Any
    v: Any
    table: Any


class KeyRange(NamedTuple):
    """Keys [begin, end) that a tile of queries visits; all borders but `end` are multiples of BLOCK_N.

    Every row sees keys [full_begin, full_end). Of the others, row i sees those from low[i] to high[i] < end.

        begin ......... full_begin ............ full_end .......... end
        row by row (window)   |  seen by every row  |  row by row (causal)
    """

    begin: Any
    full_begin: Any
    full_end: Any
    end: Any
    low: Any
    high: Any


@triton.jit
def fresh_softmax(ROWS: tl.constexpr, HEAD_PAD: tl.constexpr) -> Softmax:
    """Nothing seen yet."""
    return Softmax(
        tl.zeros((ROWS, HEAD_PAD), dtype=tl.float32),
        tl.zeros((ROWS,), dtype=tl.float32),
        tl.full((ROWS,), float("-inf"), dtype=tl.float32),
    )


@triton.jit
def attend_tile(
    queries: tl.tensor,
    seen: Softmax,
    head: HeadPages,
    start: tl.tensor,
    visited: KeyRange,
    scale_log2e: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    WINDOWED: tl.constexpr,
) -> Softmax:
    """What has been seen after keys [start, start + BLOCK_N), a multiple of BLOCK_N. queries: [M, HEAD_PAD].

    Unless MASKED, every row sees all of these keys. `low` is looked at if WINDOWED.
    """
    offsets_n = tl.arange(0, BLOCK_N)
    offsets_d = tl.arange(0, HEAD_PAD)
    keys = start + offsets_n
    # Block ids are widened first: a cache may have more than 2^31 elements.
    if BLOCK_SIZE >= BLOCK_N:
        block = tl.load(head.table + start // BLOCK_SIZE).to(tl.int64)
        page = block * BLOCK_STRIDE + (start % BLOCK_SIZE) * HEAD_DIM
        k_ptrs = head.k + page + (offsets_n[:, None] * HEAD_DIM + offsets_d[None, :])
        v_ptrs = head.v + page + (offsets_n[:, None] * HEAD_DIM + offsets_d[None, :])
    else:
        if MASKED:
            blocks = tl.load(head.table + keys // BLOCK_SIZE, mask=keys < visited.end, other=0)
        else:
            blocks = tl.load(head.table + keys // BLOCK_SIZE)
        rows = blocks.to(tl.int64) * BLOCK_STRIDE + (keys % BLOCK_SIZE) * HEAD_DIM
        k_ptrs = head.k + rows[:, None] + offsets_d[None, :]
        v_ptrs = head.v + rows[:, None] + offsets_d[None, :]

    partial: tl.constexpr = MASKED or HEAD_DIM != HEAD_PAD
    if partial:
        loaded = (offsets_d < HEAD_DIM)[None, :]
        if MASKED:
            loaded = loaded & (keys < visited.end)[:, None]
        # Zeros, since a weight of 0 does not make up for what is not a number.
        k = tl.load(k_ptrs, mask=loaded, other=0.0)
    else:
        k = tl.load(k_ptrs)
    scores = tl.dot(queries, tl.trans(k), input_precision="tf32x3")
    if MASKED:
        visible = keys[None, :] <= visited.high[:, None]
        if WINDOWED:
            visible = visible & (keys[None, :] >= visited.low[:, None])
        scores = tl.where(visible, scores, float("-inf"))
    new_maximum = tl.maximum(seen.maximum, tl.max(scores, axis=1) * scale_log2e)
    if MASKED and WINDOWED:
        # A row may have seen no key yet: then subtract 0, for -inf - -inf is not a number.
        subtracted = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
    else:
        subtracted = new_maximum
    weights = tl.math.exp2(scores * scale_log2e - subtracted[:, None])
    rescale = tl.math.exp2(seen.maximum - subtracted)
    denominator = seen.denominator * rescale + tl.sum(weights, axis=1)
    v = tl.load(v_ptrs, mask=loaded, other=0.0) if partial else tl.load(v_ptrs)
    values = tl.dot(weights.to(v.dtype), v, seen.numerator * rescale[:, None], input_precision="tf32x3")
    return Softmax(values, denominator, new_maximum)


@triton.jit
def attend_range(
    queries: tl.tensor,
    head: HeadPages,
    visited: KeyRange,
    scale_log2e: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOWED: tl.constexpr,
) -> Softmax:
    """What queries [BLOCK_M, HEAD_PAD] see of a range."""
    seen: Softmax = fresh_softmax(BLOCK_M, HEAD_PAD)
    begin, full_begin, full_end, end = visited.begin, visited.full_begin, visited.full_end, visited.end
    if WINDOWED:
        for start in tl.range(begin, tl.minimum(full_begin, end), BLOCK_N):
            seen = attend_tile(
                queries, seen, head, start, visited, scale_log2e,
                HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_STRIDE, BLOCK_N, True, True,
            )  # fmt: skip
    first_full = tl.multiple_of(tl.maximum(begin, full_begin), BLOCK_N)
    for start in tl.range(first_full, full_end, BLOCK_N):
        seen = attend_tile(
            queries, seen, head, start, visited, scale_log2e,
            HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_STRIDE, BLOCK_N, False, False,
        )  # fmt: skip
    for start in tl.range(tl.maximum(first_full, full_end), end, BLOCK_N, num_stages=1):
        seen = attend_tile(
            queries, seen, head, start, visited, scale_log2e,
            HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_STRIDE, BLOCK_N, True, WINDOWED,
        )  # fmt: skip
    return seen


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
