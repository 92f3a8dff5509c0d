"""Code made at start: it runs on every thread, with the arguments given; elsewhere there is none."""

from __future__ import annotations

import ctypes
import platform

import pytest
import torch
from llvmlite import ir

from octavo.ops import native_code
from octavo.ops.native_code import NativeCode, find_team

I32, I64 = ir.IntType(32), ir.IntType(64)


def marker() -> ir.Module:
    """`mark(arguments)`: arguments[1 + thread's number] = arguments[0]."""
    module = ir.Module()
    thread = ir.Function(module, ir.FunctionType(I32, []), "omp_get_thread_num")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()]), "mark")
    b = ir.IRBuilder(function.append_basic_block())
    place = b.add(b.zext(b.call(thread, []), I64), ir.Constant(I64, 1))
    value = b.load(function.args[0], typ=I64)
    b.store(value, b.gep(function.args[0], [place], source_etype=I64))
    b.ret_void()
    return module


@pytest.mark.skipif(find_team() is None, reason="no native code on this processor")
def test_every_thread_runs_it_once() -> None:
    team = find_team()
    assert team is not None
    code = NativeCode(marker(), team)
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            arguments = (ctypes.c_int64 * 5)(7, 0, 0, 0, 0)
            team.run(code.address("mark"), arguments)
            assert list(arguments) == [7] + [7] * num_threads + [0] * (4 - num_threads)
    finally:
        torch.set_num_threads(before)


def test_other_processors_have_no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert find_team() is None
    monkeypatch.undo()
    monkeypatch.setattr(native_code, "_loaded_openmp", lambda: None)
    assert find_team() is None
