"""How decode attention's work is divided: tiles of keys, row after row, in runs of equal length.

    row 0: tiles 0 1 2 | row 1: tiles 3 | row 2: tiles 4 5 6 7 8 9 ...        one such line per KV head
    program 0: 0 1 2 3 | program 1: 4 5 6 7 | program 2: 8 9 ...

Programs find their runs from the lengths alone, so a CUDA graph can hold the launch. Reads no keys.
The division is Stream-K's: Osama et al., arXiv 2301.03598.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Run(NamedTuple):
    """A program's tiles [begin, end), of `total` that there are for its KV head.

    row: that of the first tile.   row_begin: the first tile of that row, which may be another program's.
    """

    begin: Any
    end: Any
    total: Any
    row: Any
    row_begin: Any


@triton.jit
def first_key(seq_len: tl.tensor, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr) -> tl.tensor:
    """Where a row's first tile begins: at 0 without a window."""
    return tl.maximum(seq_len - WINDOW, 0) // BLOCK_N * BLOCK_N if WINDOW > 0 else seq_len * 0


@triton.jit
def num_tiles(seq_len: tl.tensor, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr) -> tl.tensor:
    """Tiles of a row; none if it has no keys."""
    return tl.cdiv(seq_len - first_key(seq_len, WINDOW, BLOCK_N), BLOCK_N)


@triton.jit
def find_run(
    seq_lens: tl.tensor,
    num_rows: tl.tensor,
    program: tl.tensor,
    num_programs: tl.tensor,
    WINDOW: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,
) -> Run:
    """A program's run. If there are fewer tiles than programs, the last programs have none."""
    offsets = tl.arange(0, ROWS)
    total = tl.zeros((), dtype=tl.int32)
    for start in range(0, num_rows, ROWS):
        lens = tl.load(seq_lens + start + offsets, mask=start + offsets < num_rows, other=0)
        total += tl.sum(num_tiles(lens, WINDOW, BLOCK_N))
    active = tl.maximum(tl.minimum(num_programs, total), 1)
    begin = tl.where(program < active, run_begin(program, active, total), total)
    end = tl.where(program < active, run_begin(program + 1, active, total), total)
    row, row_begin, before = 0, 0, 0
    for start in range(0, num_rows, ROWS):
        lens = tl.load(seq_lens + start + offsets, mask=start + offsets < num_rows, other=0)
        tiles = num_tiles(lens, WINDOW, BLOCK_N)
        ends = before + tl.cumsum(tiles)
        row += tl.sum((ends <= begin).to(tl.int32))
        row_begin += tl.sum(tl.where(ends <= begin, tiles, 0))
        before += tl.sum(tiles)
    return Run(begin, end, total, row, row_begin)


@triton.jit
def run_begin(program: tl.tensor, num_programs: tl.tensor, total: tl.tensor) -> tl.tensor:
    """The first tile of a program's run."""
    return (program.to(tl.int64) * total // num_programs).to(tl.int32)


@triton.jit
def run_of(tile: tl.tensor, num_programs: tl.tensor, total: tl.tensor) -> tl.tensor:
    """The program that visits a tile."""
    return (((tile + 1).to(tl.int64) * num_programs - 1) // total).to(tl.int32)
