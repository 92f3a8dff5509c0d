"""Kernels compiled by other processes are found by this one: for a GPU that need not be here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
