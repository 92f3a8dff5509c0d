"""The column of each row's largest product as machine code: `block_linear` whose results are never written.

Of 256 rows and a vocabulary of 49,152, the results are 50 MB, which the system gives page by page.

    for each pair of tiles (32 rows of W), shared out among the threads in order
        for each group of rows of x
            sums as in block_linear, the same bits
            best[thread, row] [16 lanes], tile[thread, row] [16 lanes]: replaced where a sum is larger

A lane meets its columns in order, so of equals it keeps the first; the lanes are compared at the end.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from llvmlite import ir
from torch import Tensor

from .block_format import BLOCK, TILE_ROWS, BlockFormat
from .block_linear_kernel import RowGroup, rows_and_tiles
from .native_builder import FLOAT_BYTES, FLOATS, I32, I64, INTS, POINTER, Writer, int64
from .native_code import NativeCode, ThreadTeam

_LANES_BYTES = TILE_ROWS * FLOAT_BYTES
_ROW_BYTES = 2 * _LANES_BYTES
"""The best of a row and their tiles."""


class BlockLikeliestKernel:
    """For one format.   Rows of x at least 8."""

    def __init__(self, form: BlockFormat, team: ThreadTeam, group_rows: int, tiles_at_once: int) -> None:
        module = ir.Module(name=f"block_likeliest_{form.name}")
        group = RowGroup(module, form, group_rows, tiles_at_once, _keep_largest).function
        _write_driver(module, form, group, group_rows, tiles_at_once)
        self._code = NativeCode(module, team)  # owns the memory that the address points into
        self._address = self._code.address("block_likeliest")
        self._team = team
        self._tiles_at_once = tiles_at_once
        self._group_rows = group_rows

    def __call__(self, x: Tensor, tiles: Tensor) -> Tensor:
        """See BlockLinear.likeliest; x contiguous."""
        num_tiles, num_blocks, _ = tiles.shape
        assert len(x) >= self._group_rows, f"rows must fill a group of {self._group_rows}, got {len(x)}"
        found = torch.empty(torch.get_num_threads(), len(x), 2, TILE_ROWS)
        best, where = found[:, :, 0], found[:, :, 1].view(torch.int32)
        best.fill_(-torch.inf)
        arguments = (ctypes.c_int64 * 6)(
            x.data_ptr(),
            tiles.data_ptr(),
            found.data_ptr(),
            len(x),
            num_blocks,
            num_tiles // self._tiles_at_once,
        )
        self._team.run(self._address, arguments)
        largest = best.amax((0, 2))
        columns = where * TILE_ROWS + torch.arange(TILE_ROWS, dtype=torch.int32)
        others = num_tiles * TILE_ROWS
        first = columns.where(best == largest[:, None], others).amin((0, 2))
        return first.where(largest.isfinite(), -1).to(torch.int64)


def new_kernel(form: BlockFormat, team: ThreadTeam) -> BlockLikeliestKernel:
    """Compile for this processor."""
    return BlockLikeliestKernel(form, team, *rows_and_tiles())


def _keep_largest(w: Writer, rows: Sequence[Sequence[Any]], found: Any, tile: Any) -> None:
    """What is no number is larger than all, and stays."""
    for row, tiles in enumerate(rows):
        at_best = w.at(found, int64(row * _ROW_BYTES))
        at_where = w.at(found, int64(row * _ROW_BYTES + _LANES_BYTES))
        best, where = w.load(at_best, FLOATS), w.load(at_where, INTS)
        for i, sums in enumerate(tiles):
            larger = w.b.or_(w.b.fcmp_ordered(">", sums, best), w.b.fcmp_unordered("uno", sums, sums))
            best = w.b.select(larger, sums, best)
            number = w.b.trunc(w.b.add(tile, int64(i)), I32)
            where = w.b.select(larger, w.spread(number), where)
        w.store(best, at_best)
        w.store(where, at_where)


def _write_driver(
    module: ir.Module, form: BlockFormat, group: ir.Function, group_rows: int, tiles_at_once: int
) -> None:
    """`block_likeliest(arguments)`, called by every thread of a team.

    arguments: six int64: addresses of x, tiles and [threads, rows, 2, 16] results; rows of x, blocks in a
    row of W, groups of tiles. Rows that fill no group are computed with some of those before them, once more.
    """
    w = Writer(module, "block_likeliest", [POINTER])
    b = w.b
    fields = [w.load(w.at(w.function.args[0], int64(8 * i)), I64, 8) for i in range(6)]
    x, tiles, found = (b.inttoptr(field, POINTER) for field in fields[:3])
    num_rows, num_blocks, num_groups = fields[3:]
    x_stride = b.mul(num_blocks, int64(BLOCK * FLOAT_BYTES))
    group_bytes = b.mul(num_blocks, int64(tiles_at_once * TILE_ROWS * form.block_bytes))
    index, count = w.thread()
    mine = w.at(found, b.mul(index, b.mul(num_rows, int64(_ROW_BYTES))))
    num_calls = b.udiv(b.add(num_rows, int64(group_rows - 1)), int64(group_rows))

    def each_group(tile_group: Any, _: list[Any]) -> list[Any]:
        weights = w.at(tiles, b.mul(tile_group, group_bytes))
        tile = b.mul(tile_group, int64(tiles_at_once))

        def each_call(call: Any, _: list[Any]) -> list[Any]:
            begin = w.least(b.mul(call, int64(group_rows)), b.sub(num_rows, int64(group_rows)))
            rows, place = w.at(x, b.mul(begin, x_stride)), w.at(mine, b.mul(begin, int64(_ROW_BYTES)))
            b.call(group, [rows, weights, place, num_blocks, x_stride, tile])
            return []

        w.loop(int64(0), num_calls, [], each_call)
        return []

    first = b.udiv(b.mul(num_groups, index), count)
    last = b.udiv(b.mul(num_groups, b.add(index, int64(1))), count)
    w.loop(first, last, [], each_group)
    w.done()
