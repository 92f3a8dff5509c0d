"""Kernels compiled by other processes are found by this one: for a GPU that need not be here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from octavo.ops.compiler_process import CompilerProcess

SCRIPT = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from octavo.ops.activation_kernel import launch_silu_mul
from octavo.ops.compile_ahead import kernels_compiled_ahead
from octavo.ops.rms_norm_kernel import launch_rms_norm


class SomewhereElse:
    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


driver.set_active(SomewhereElse())
for dtype in (torch.float32, torch.bfloat16):
    with kernels_compiled_ahead(num_workers=2) as ahead:
        for _ in range(3):
            launch_rms_norm(torch.zeros(4, 64, dtype=dtype), torch.zeros(64, dtype=dtype), 1e-6)
            launch_silu_mul(torch.zeros(4, 64, dtype=dtype))
    ahead.wait()
    found = ahead.variants
    print(*(variant.name for variant in found), all(variant.is_cached() for variant in found))
"""


def test_every_variant_that_was_met_is_in_the_cache_afterwards(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert told.stdout.splitlines() == ["_rms_norm_kernel _silu_mul_kernel True"] * 2, told.stderr
    assert len(list(tmp_path.rglob("*.cubin"))) == 4


def test_a_compiler_that_has_died_costs_a_warning_and_not_the_start(caplog: pytest.LogCaptureFixture) -> None:
    compiler = CompilerProcess()
    compiler._process.kill()
    compiler._process.wait()
    compiler.give(b"work" * 100_000)
    compiler.wait()
    assert "the process that compiles kernels ended with -9" in caplog.text


def told_by_absent_card(*arguments: str) -> Any:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = Path(__file__).with_name("absent_card.py")
    told = subprocess.run(
        [sys.executable, str(program), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("arguments", [("1",), ("3", "deterministic"), ("300",)])
def test_no_step_launches_what_was_not_compiled_ahead(arguments: tuple[str, ...]) -> None:
    """Types, constants, alignment and options of every launch, by the code that an engine on a GPU runs."""
    assert told_by_absent_card("variants", *arguments) == []


@pytest.mark.timeout(900)
def test_every_kernel_compiles_for_a_card_and_leaves_room_on_it() -> None:
    """Few registers of kernels that are held to few go through memory; more would show in their times."""
    kernels = told_by_absent_card("compile")
    assert len({kernel["name"] for kernel in kernels}) > 12
    for kernel in kernels:
        assert kernel["registers"] * kernel["threads"] <= 1 << 16, kernel
        assert kernel["shared_bytes"] <= 227 << 10, kernel
        assert kernel["stack_bytes"] <= 128, kernel
