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
from .native_code import NativeCode, ThreadTeam, has_wide_registers

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_F16, _F32, _POINTER = ir.HalfType(), ir.FloatType(), ir.PointerType()
_FLOATS, _INTS = ir.VectorType(_F32, TILE_ROWS), ir.VectorType(_I32, TILE_ROWS)
_FLOAT_BYTES, _HALF_BYTES = 4, 2
_PAIRS = BLOCK // 2


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
            out.stride(0) * _FLOAT_BYTES,
            num_tiles // self._tiles_at_once,
        )
        self._team.run(self._address, arguments)


def new_kernel(form: BlockFormat, team: ThreadTeam) -> BlockLinearKernel:
    """Compile for this processor. 8 rows and 2 tiles fill the 32 registers of AVX-512, 4 and 1 AVX2's 16."""
    max_rows, tiles_at_once = (8, 2) if has_wide_registers() else (4, 1)
    module = build_module(form, max_rows, tiles_at_once)
    return BlockLinearKernel(NativeCode(module, team), team, form, tiles_at_once)


def build_module(form: BlockFormat, max_rows: int, tiles_at_once: int) -> ir.Module:
    """LLVM's text of `block_linear(arguments)`, called by every thread of a team.

    arguments: seven int64: addresses of x, tiles and out; rows of x, blocks in a row of W, bytes from one row
    of `out` to the next, groups of `tiles_at_once` tiles.
    """
    module = ir.Module(name=f"block_linear_{form.name}")
    fma = ir.Function(module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{TILE_ROWS}f32")
    groups = [_RowGroup(module, fma, form, rows, tiles_at_once).function for rows in range(1, max_rows + 1)]
    _define_driver(module, form, groups, tiles_at_once)
    return module


def _define_driver(
    module: ir.Module, form: BlockFormat, groups: Sequence[ir.Function], tiles_at_once: int
) -> None:
    """The loops over this thread's tiles and over groups of rows, which are as equal as can be."""
    asks = ir.FunctionType(_I32, [])
    thread = ir.Function(module, asks, "omp_get_thread_num")
    threads = ir.Function(module, asks, "omp_get_num_threads")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER]), "block_linear")
    b = ir.IRBuilder(function.append_basic_block())
    fields = [b.load(_at(b, function.args[0], _int(8 * i)), typ=_I64) for i in range(7)]
    x, tiles, out = (b.inttoptr(field, _POINTER) for field in fields[:3])
    num_rows, num_blocks, out_stride, num_groups = fields[3:]
    x_stride = b.mul(num_blocks, _int(BLOCK * _FLOAT_BYTES))
    group_bytes = b.mul(num_blocks, _int(tiles_at_once * TILE_ROWS * form.block_bytes))
    index, count = (b.zext(b.call(ask, []), _I64) for ask in (thread, threads))
    first = b.udiv(b.mul(num_groups, index), count)
    last = b.udiv(b.mul(num_groups, b.add(index, _int(1))), count)
    num_calls = b.udiv(b.add(num_rows, _int(len(groups) - 1)), _int(len(groups)))

    def each_group(group: Any, _: list[Any]) -> list[Any]:
        weights = _at(b, tiles, b.mul(group, group_bytes))
        column = _at(b, out, b.mul(group, _int(tiles_at_once * TILE_ROWS * _FLOAT_BYTES)))

        def each_call(call: Any, _: list[Any]) -> list[Any]:
            begin = b.udiv(b.mul(num_rows, call), num_calls)
            size = b.sub(b.udiv(b.mul(num_rows, b.add(call, _int(1))), num_calls), begin)
            rows, place = _at(b, x, b.mul(begin, x_stride)), _at(b, column, b.mul(begin, out_stride))
            after = function.append_basic_block()
            switch = b.switch(size, after)
            for i, callee in enumerate(groups):
                case = function.append_basic_block()
                switch.add_case(_int(i + 1), case)
                b.position_at_end(case)
                b.call(callee, [rows, weights, place, num_blocks, x_stride, out_stride])
                b.branch(after)
            b.position_at_end(after)
            return []

        _loop(b, _int(0), num_calls, [], each_call)
        return []

    _loop(b, first, last, [], each_group)
    b.ret_void()


class _RowGroup:
    """The function for `num_rows` rows of x and `num_tiles` tiles of W over all columns."""

    def __init__(
        self, module: ir.Module, fma: ir.Function, form: BlockFormat, num_rows: int, num_tiles: int
    ) -> None:
        kind = ir.FunctionType(ir.VoidType(), [_POINTER] * 3 + [_I64] * 3)
        self.function = ir.Function(module, kind, f"rows_{num_rows}")
        self.function.linkage = "internal"
        self.function.attributes.add("noinline")
        self._b = ir.IRBuilder(self.function.append_basic_block())
        self._fma, self._form, self._num_tiles = fma, form, num_tiles
        self._define(num_rows)

    def _define(self, num_rows: int) -> None:
        b, form, num_tiles = self._b, self._form, self._num_tiles
        x, tiles, out, num_blocks, x_stride, out_stride = self.function.args
        tile_bytes = b.mul(num_blocks, _int(TILE_ROWS * form.block_bytes))
        rows = [_at(b, x, b.mul(x_stride, _int(row))) for row in range(num_rows)]
        places = [_at(b, tiles, b.mul(tile_bytes, _int(tile))) for tile in range(num_tiles)]

        def each_block(block: Any, sums: list[Any]) -> list[Any]:
            at_x = b.mul(block, _int(BLOCK * _FLOAT_BYTES))
            at_tile = b.mul(block, _int(TILE_ROWS * form.block_bytes))
            headers = [_at(b, place, at_tile) for place in places]
            codes = [_at(b, header, _int(TILE_ROWS * form.header_bytes)) for header in headers]
            fields = [self._fields(header) for header in headers]
            numbers = [_at(b, row, at_x) for row in rows]

            def each_pair(pair: Any, sums: list[Any]) -> list[Any]:
                stored = [self._stored(place, pair) for place in codes]
                for half in range(2):
                    weights = [self._decode(*given, half) for given in zip(stored, fields, strict=True)]
                    at = b.mul(b.add(pair, _int(half * _PAIRS)), _int(_FLOAT_BYTES))
                    for row, place in enumerate(numbers):
                        number = self._spread(b.load(_at(b, place, at), typ=_F32, align=_FLOAT_BYTES))
                        for tile in range(num_tiles):
                            i = row * num_tiles + tile
                            sums[i] = b.call(self._fma, [number, weights[tile], sums[i]])
                return sums

            return _loop(b, _int(0), _int(_PAIRS), sums, each_pair)

        zeros = [ir.Constant(_FLOATS, [0.0] * TILE_ROWS)] * (num_rows * num_tiles)
        for i, total in enumerate(_loop(b, _int(0), num_blocks, zeros, each_block)):
            row, tile = divmod(i, num_tiles)
            place = _at(b, out, b.add(b.mul(out_stride, _int(row)), _int(tile * TILE_ROWS * _FLOAT_BYTES)))
            b.store(total, place, align=_FLOAT_BYTES)
        b.ret_void()

    def _fields(self, header: Any) -> list[Any]:
        """Scale and offset of 16 rows, as far as the format has them."""
        b = self._b
        halves = ir.VectorType(_F16, TILE_ROWS)
        places = [
            _at(b, header, _int(i * TILE_ROWS * _HALF_BYTES))
            for i in range(self._form.has_scale + self._form.has_offset)
        ]
        return [b.fpext(b.load(place, typ=halves, align=_HALF_BYTES), _FLOATS) for place in places]

    def _stored(self, codes: Any, pair: Any) -> tuple[Any, Any]:
        """Codes of 16 rows in columns `pair` and `pair` + 16, as they are in memory."""
        kind = {4: _I8, 8: _I8, 16: ir.IntType(16)}[self._form.code_bits]
        first = self._load(codes, pair, kind)
        if self._form.code_bits == 4:
            return first, first
        return first, self._load(codes, self._b.add(pair, _int(_PAIRS)), kind)

    def _decode(self, stored: tuple[Any, Any], fields: list[Any], half: int) -> Any:
        """The float32 weights of one of the two columns, rounded as torch and the gguf package round."""
        b, form, code = self._b, self._form, stored[half]
        if form.name == "F16":
            return b.fpext(b.bitcast(code, ir.VectorType(_F16, TILE_ROWS)), _FLOATS)
        if form.name == "BF16":
            return b.bitcast(b.shl(b.zext(code, _INTS), _ints(16)), _FLOATS)
        if form.code_bits == 8:
            whole = b.sext(code, _INTS)
        else:
            both = b.zext(code, _INTS)
            whole = b.lshr(both, _ints(4)) if half else b.and_(both, _ints(15))
        if form.bias:
            whole = b.sub(whole, _ints(form.bias))
        number = b.sitofp(whole, _FLOATS)
        # 11 bits of a float16 by 8 of a code are exact in float32, so one rounding is as good as two.
        return b.call(self._fma, [number, *fields]) if form.has_offset else b.fmul(number, fields[0])

    def _load(self, codes: Any, column: Any, kind: ir.IntType) -> Any:
        num_bytes = kind.width // 8
        place = _at(self._b, codes, self._b.mul(column, _int(TILE_ROWS * num_bytes)))
        return self._b.load(place, typ=ir.VectorType(kind, TILE_ROWS), align=num_bytes)

    def _spread(self, number: Any) -> Any:
        """One float in all 16 places."""
        nothing = ir.Constant(_FLOATS, ir.Undefined)
        first = self._b.insert_element(nothing, number, ir.Constant(_I32, 0))
        return self._b.shuffle_vector(first, nothing, _ints(0))


def _loop(
    b: ir.IRBuilder, first: Any, last: Any, values: list[Any], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """for i in range(first, last): values = body(i, values). Leaves `b` behind the loop, returns the last."""
    before = b.block
    head, inside, behind = (b.function.append_basic_block() for _ in range(3))
    b.branch(head)
    b.position_at_end(head)
    phis = [b.phi(value.type) for value in (first, *values)]
    for phi, value in zip(phis, (first, *values), strict=True):
        phi.add_incoming(value, before)
    b.cbranch(b.icmp_unsigned("<", phis[0], last), inside, behind)
    b.position_at_end(inside)
    results = body(phis[0], list(phis[1:]))
    results = [b.add(phis[0], _int(1)), *results]
    for phi, value in zip(phis, results, strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(behind)
    return phis[1:]


def _at(b: ir.IRBuilder, pointer: Any, num_bytes: Any) -> Any:
    return b.gep(pointer, [num_bytes], source_etype=_I8)


def _int(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _ints(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * TILE_ROWS)
