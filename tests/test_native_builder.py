"""Pieces of functions, seen at work: exp and sum of 16 floats, loops that carry values."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from llvmlite import ir
from torch import Tensor

from octavo.ops.native_builder import F32, FLOATS, I64, POINTER, Writer, int64
from octavo.ops.native_code import NativeCode, find_team

TEAM = find_team()
pytestmark = pytest.mark.skipif(TEAM is None, reason="no native code on this processor")


def run(writer: Writer, module: ir.Module, x: Tensor, y: Tensor) -> Tensor:
    assert TEAM is not None
    writer.done()
    code = NativeCode(module, TEAM)
    arguments = (ctypes.c_int64 * 2)(x.data_ptr(), y.data_ptr())
    TEAM.run(code.address("function"), arguments, alone=True)
    return y


def begin() -> tuple[ir.Module, Writer, ir.Value, ir.Value]:
    """A function of two addresses, x and y."""
    module = ir.Module()
    w = Writer(module, "function", [POINTER])
    x, y = (w.b.inttoptr(w.load(w.at(w.function.args[0], int64(8 * i)), I64, 8), POINTER) for i in range(2))
    return module, w, x, y


def test_exp_is_as_good_as_float32() -> None:
    module, w, x, y = begin()

    def each(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        at = w.b.mul(index, int64(64))
        w.store(w.exp(w.load(w.at(x, at), FLOATS)), w.at(y, at))
        return values

    w.loop(int64(0), int64(64), [], each)
    numbers = torch.linspace(-87, 88, 1024)
    result = run(w, module, numbers, torch.zeros(1024))
    torch.testing.assert_close(result.double(), numbers.double().exp(), rtol=5e-7, atol=0)


def test_exp_of_what_is_no_number() -> None:
    module, w, x, y = begin()
    w.store(w.exp(w.load(x, FLOATS)), y)
    numbers = torch.tensor([math.nan, -math.inf, -1e30, 0.0] * 4)
    result = run(w, module, numbers, torch.zeros(16))
    assert result[0::4].isnan().all()
    assert (result[1::4] < 1e-37).all() and (result[2::4] < 1e-37).all() and (result[3::4] == 1).all()


def test_the_largest_of_a_vector() -> None:
    module, w, x, y = begin()
    w.store(w.largest(w.load(x, FLOATS)), y)
    numbers = torch.arange(16, dtype=torch.float32).sub(20)
    numbers[5], numbers[9] = -3, -math.inf
    assert run(w, module, numbers, torch.zeros(1)).item() == -3


def test_a_loop_carries_values_and_a_vector_is_summed() -> None:
    module, w, x, y = begin()

    def each(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        return [w.b.fadd(values[0], w.sum(w.load(w.at(x, w.b.mul(index, int64(64))), FLOATS)))]

    (total,) = w.loop(int64(2), int64(5), [ir.Constant(F32, 0.5)], each)
    w.store(total, y)
    result = run(w, module, torch.arange(96, dtype=torch.float32), torch.zeros(1))
    assert result.item() == 0.5 + sum(range(32, 80))
