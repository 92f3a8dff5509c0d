"""Rows that several programs of decode attention share: what each keeps of one, and how it is merged.

The program that ends last merges the parts, in their order, so that sums do not depend on which one it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .decode_runs_kernel import Run, num_tiles, run_begin, run_of


class Parts(NamedTuple):
    """Of one KV head: each program's partial results, one of its first row and one of its last, if another.

    results: [programs, 2, GROUP, HEAD_DIM], lse: [programs, 2, GROUP] float32: a softmax and the logarithm of
    its denominator in base 2.   counters: [programs] int32, programs done with the row that begins there.
    """

    results: Any
    lse: Any
    counters: Any


@triton.jit
def store_heads(
    out: tl.tensor,
    values: tl.tensor,
    first_head: tl.tensor,
    row: tl.tensor,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
) -> None:
    """Write values [heads, HEAD_PAD] of the query heads `row`, counted from first_head on."""
    column = tl.arange(0, HEAD_PAD)
    inside = (row < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
    pointers = out + (first_head + row)[:, None] * HEAD_DIM + column[None, :]
    tl.store(pointers, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def merge_row(
    out: tl.tensor,
    parts: Parts,
    run: Run,
    row: tl.tensor,
    row_begin: tl.tensor,
    seq_len: tl.tensor,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
) -> None:
    """Count a program that is done with its part of a row; the last one merges, and clears the counter."""
    num_programs = tl.minimum(tl.num_programs(1), run.total)
    row_end = row_begin + num_tiles(seq_len, WINDOW, BLOCK_N)
    if (row_begin < run.begin) | (row_end > run.end):
        pair = row * NUM_KV_HEADS + tl.program_id(0)
        first = run_of(row_begin, num_programs, run.total)
        count = run_of(row_end - 1, num_programs, run.total) - first + 1
        # The row is the last of the program in which it begins, unless it is the first there, too.
        first_part = 2 * first + (run_begin(first, num_programs, run.total) < row_begin).to(tl.int32)
        # One row at most goes on beyond a program, so the program in which a row begins has its counter.
        counter = parts.counters + tl.program_id(0) * tl.num_programs(1) + first
        arrived = tl.atomic_add(counter, 1, sem="acq_rel")
        if arrived == count - 1:
            head, column = tl.arange(0, GROUP_PAD), tl.arange(0, HEAD_PAD)
            inside = (head < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
            maximum = tl.full((GROUP_PAD,), float("-inf"), dtype=tl.float32)
            denominator = tl.zeros((GROUP_PAD,), dtype=tl.float32)
            merged = tl.zeros((GROUP_PAD, HEAD_PAD), dtype=tl.float32)
            for i in tl.range(0, count, loop_unroll_factor=4):
                part = tl.where(i == 0, first_part, 2 * (first + i))
                here = part * GROUP + head
                log = tl.load(parts.lse + here, mask=head < GROUP, other=0.0, cache_modifier=".cg")
                values = tl.load(
                    parts.results + here[:, None] * HEAD_DIM + column[None, :],
                    mask=inside, other=0.0, cache_modifier=".cg",
                )  # fmt: skip
                new_maximum = tl.maximum(maximum, log)
                rescale, weight = tl.math.exp2(maximum - new_maximum), tl.math.exp2(log - new_maximum)
                denominator = denominator * rescale + weight
                merged = merged * rescale[:, None] + weight[:, None] * values
                maximum = new_maximum
            store_heads(out, merged / denominator[:, None], pair * GROUP, head, GROUP, HEAD_DIM, HEAD_PAD)
            tl.store(counter, 0)
