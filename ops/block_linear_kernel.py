"""`block_linear` as machine code, written in LLVM's language. Knows formats, not whose weights they are.

    for each pair of tiles (32 rows of W), shared out among the threads
        for each group of up to 8 rows of x
            for each block of 32 columns, for each pair of columns (i, i + 16)
                decode 2 x 16 weights of each column      stays in registers
                accumulators += x[row, column] * weights  [rows of x] x [2] vectors of 16 floats

One accumulator for each result, fed in the order of the columns: how rows are grouped changes no bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from torch import Tensor

from .block_format import BLOCK, TILE_ROWS, BlockFormat
from .native_builder import (
    F16,
    F32,
    FLOAT_BYTES,
    FLOATS,
    I8,
    I32,
    I64,
    INTS,
    POINTER,
    Writer,
    floats,
    int64,
    ints,
)
from .native_code import NativeCode, ThreadTeam, has_wide_registers

_HALF_BYTES = 2
_PAIRS = BLOCK // 2
Finish = Callable[[Writer, Sequence[Sequence[Any]], Any, Any], None]


class BlockLinearKernel:
    """The product for one format. Rows of x at most as many as the kernel's caller keeps in its cache."""

    def __init__(self, code: NativeCode, team: ThreadTeam, form: BlockFormat, tiles_at_once: int) -> None:
        self._code = code  # owns the memory that the address points into
        self._address = code.address("block_linear")
        self._team = team
        self._tiles_at_once = tiles_at_once
        self._form = form

    def __call__(self, x: Tensor, tiles: Tensor, out: Tensor) -> None:
        """See BlockLinear; x contiguous."""
        num_tiles, num_blocks, _ = tiles.shape
        arguments = (ctypes.c_int64 * 7)(
            x.data_ptr(),
            tiles.data_ptr(),
            out.data_ptr(),
            len(x),
            num_blocks,
            out.stride(0) * FLOAT_BYTES,
            num_tiles // self._tiles_at_once,
        )
        self._team.run(self._address, arguments)


def new_kernel(form: BlockFormat, team: ThreadTeam) -> BlockLinearKernel:
    """Compile for this processor."""
    max_rows, tiles_at_once = rows_and_tiles()
    module = build_module(form, max_rows, tiles_at_once)
    return BlockLinearKernel(NativeCode(module, team), team, form, tiles_at_once)


def rows_and_tiles() -> tuple[int, int]:
    """What fills the registers: the 32 of AVX-512, AVX2's 16."""
    return (8, 2) if has_wide_registers() else (4, 1)


def build_module(form: BlockFormat, max_rows: int, tiles_at_once: int) -> ir.Module:
    """LLVM's text of `block_linear(arguments)`, called by every thread of a team.

    arguments: seven int64: addresses of x, tiles and out; rows of x, blocks in a row of W, bytes from one row
    of `out` to the next, groups of `tiles_at_once` tiles.
    """
    module = ir.Module(name=f"block_linear_{form.name}")
    groups = [RowGroup(module, form, rows, tiles_at_once, _store).function for rows in range(1, max_rows + 1)]
    _write_driver(module, form, groups, tiles_at_once)
    return module


def _write_driver(
    module: ir.Module, form: BlockFormat, groups: Sequence[ir.Function], tiles_at_once: int
) -> None:
    """The loops over this thread's tiles and over groups of rows, which are as equal as can be."""
    w = Writer(module, "block_linear", [POINTER])
    b, function = w.b, w.function
    fields = [w.load(w.at(function.args[0], int64(8 * i)), I64, 8) for i in range(7)]
    x, tiles, out = (b.inttoptr(field, POINTER) for field in fields[:3])
    num_rows, num_blocks, out_stride, num_groups = fields[3:]
    x_stride = b.mul(num_blocks, int64(BLOCK * FLOAT_BYTES))
    group_bytes = b.mul(num_blocks, int64(tiles_at_once * TILE_ROWS * form.block_bytes))
    index, count = w.thread()
    first = b.udiv(b.mul(num_groups, index), count)
    last = b.udiv(b.mul(num_groups, b.add(index, int64(1))), count)
    num_calls = b.udiv(b.add(num_rows, int64(len(groups) - 1)), int64(len(groups)))

    def each_group(group: Any, _: list[Any]) -> list[Any]:
        weights = w.at(tiles, b.mul(group, group_bytes))
        column = w.at(out, b.mul(group, int64(tiles_at_once * TILE_ROWS * FLOAT_BYTES)))

        def each_call(call: Any, _: list[Any]) -> list[Any]:
            begin = b.udiv(b.mul(num_rows, call), num_calls)
            size = b.sub(b.udiv(b.mul(num_rows, b.add(call, int64(1))), num_calls), begin)
            rows, place = w.at(x, b.mul(begin, x_stride)), w.at(column, b.mul(begin, out_stride))
            after = function.append_basic_block()
            switch = b.switch(size, after)
            for i, callee in enumerate(groups):
                case = function.append_basic_block()
                switch.add_case(int64(i + 1), case)
                b.position_at_end(case)
                b.call(callee, [rows, weights, place, num_blocks, x_stride, out_stride])
                b.branch(after)
            b.position_at_end(after)
            return []

        w.loop(int64(0), num_calls, [], each_call)
        return []

    w.loop(first, last, [], each_group)
    w.done()


def _store(w: Writer, rows: Sequence[Sequence[Any]], out: Any, out_stride: Any) -> None:
    for row, tiles in enumerate(rows):
        for tile, sums in enumerate(tiles):
            at = w.b.add(w.b.mul(out_stride, int64(row)), int64(tile * TILE_ROWS * FLOAT_BYTES))
            w.store(sums, w.at(out, at))


class RowGroup:
    """The function for `num_rows` rows of x and `num_tiles` tiles of W over all columns.

    Its arguments: addresses of the first row, of the first tile and of where results go, blocks in a row of
    W, bytes from one row of x to the next, and what else `finish` needs, an int64.
    finish: writes what is done with the sums, [num_rows] [num_tiles] vectors: (w, sums, results, the int64).
    """

    def __init__(
        self, module: ir.Module, form: BlockFormat, num_rows: int, num_tiles: int, finish: Finish
    ) -> None:
        self._w = Writer(module, f"rows_{num_rows}", [POINTER] * 3 + [I64] * 3, inner=True)
        self.function = self._w.function
        self._form, self._num_tiles = form, num_tiles
        self._write(num_rows, finish)

    def _write(self, num_rows: int, finish: Finish) -> None:
        w, b, form, num_tiles = self._w, self._w.b, self._form, self._num_tiles
        x, tiles, results, num_blocks, x_stride, given = self.function.args
        tile_bytes = b.mul(num_blocks, int64(TILE_ROWS * form.block_bytes))
        rows = [w.at(x, b.mul(x_stride, int64(row))) for row in range(num_rows)]
        places = [w.at(tiles, b.mul(tile_bytes, int64(tile))) for tile in range(num_tiles)]

        def each_block(block: Any, sums: list[Any]) -> list[Any]:
            at_x = b.mul(block, int64(BLOCK * FLOAT_BYTES))
            at_tile = b.mul(block, int64(TILE_ROWS * form.block_bytes))
            headers = [w.at(place, at_tile) for place in places]
            codes = [w.at(header, int64(TILE_ROWS * form.header_bytes)) for header in headers]
            fields = [self._fields(header) for header in headers]
            numbers = [w.at(row, at_x) for row in rows]

            def each_pair(pair: Any, sums: list[Any]) -> list[Any]:
                stored = [self._stored(place, pair) for place in codes]
                for half in range(2):
                    weights = [self._decode(*given, half) for given in zip(stored, fields, strict=True)]
                    at = b.mul(b.add(pair, int64(half * _PAIRS)), int64(FLOAT_BYTES))
                    for row, place in enumerate(numbers):
                        number = w.spread(w.load(w.at(place, at), F32))
                        for tile in range(num_tiles):
                            i = row * num_tiles + tile
                            sums[i] = w.fma(number, weights[tile], sums[i])
                return sums

            return w.loop(int64(0), int64(_PAIRS), sums, each_pair)

        zeros = [floats(0.0)] * (num_rows * num_tiles)
        sums = w.loop(int64(0), num_blocks, zeros, each_block)
        finish(w, [sums[i : i + num_tiles] for i in range(0, len(sums), num_tiles)], results, given)
        w.done()

    def _fields(self, header: Any) -> list[Any]:
        """Scale and offset of 16 rows, as far as the format has them."""
        w = self._w
        places = [
            w.at(header, int64(i * TILE_ROWS * _HALF_BYTES))
            for i in range(self._form.has_scale + self._form.has_offset)
        ]
        halves = ir.VectorType(F16, TILE_ROWS)
        return [w.b.fpext(w.load(place, halves, _HALF_BYTES), FLOATS) for place in places]

    def _stored(self, codes: Any, pair: Any) -> tuple[Any, Any]:
        """Codes of 16 rows in columns `pair` and `pair` + 16, as they are in memory."""
        kind = {4: I8, 8: I8, 16: ir.IntType(16), 32: I32}[self._form.code_bits]
        first = self._load(codes, pair, kind)
        if self._form.code_bits == 4:
            return first, first
        return first, self._load(codes, self._w.b.add(pair, int64(_PAIRS)), kind)

    def _load(self, codes: Any, column: Any, kind: ir.IntType) -> Any:
        num_bytes = kind.width // 8
        place = self._w.at(codes, self._w.b.mul(column, int64(TILE_ROWS * num_bytes)))
        return self._w.load(place, ir.VectorType(kind, TILE_ROWS), num_bytes)

    def _decode(self, stored: tuple[Any, Any], fields: list[Any], half: int) -> Any:
        """The float32 weights of one of the two columns, rounded as torch and the gguf package round."""
        b, form, code = self._w.b, self._form, stored[half]
        if form.name == "F32":
            return b.bitcast(code, FLOATS)
        if form.name == "F16":
            return b.fpext(b.bitcast(code, ir.VectorType(F16, TILE_ROWS)), FLOATS)
        if form.name == "BF16":
            return b.bitcast(b.shl(b.zext(code, INTS), ints(16)), FLOATS)
        if form.code_bits == 8:
            whole = b.sext(code, INTS)
        else:
            both = b.zext(code, INTS)
            whole = b.lshr(both, ints(4)) if half else b.and_(both, ints(15))
        if form.bias:
            whole = b.sub(whole, ints(form.bias))
        number = b.sitofp(whole, FLOATS)
        # 11 bits of a float16 by 8 of a code are exact in float32, so one rounding is as good as two.
        return self._w.fma(number, *fields) if form.has_offset else b.fmul(number, fields[0])
