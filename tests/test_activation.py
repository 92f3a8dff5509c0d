"""SiLU and multiplication against float64."""

from __future__ import annotations

import pytest
import torch
from paged_cache import DTYPES, TOLERANCE
from torch import Tensor

from octavo.ops.activation import silu_mul
from octavo.ops.activation_kernel import launch_silu_mul

SHAPES = [(0, 16), (1, 1536), (3, 1), (2, 1500), (4, 1024)]


def assert_close(actual: Tensor, gate_up: Tensor) -> None:
    gate, up = gate_up.double().chunk(2, dim=-1)
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(
        actual.double(), gate / (1 + (-gate).exp()) * up, atol=tolerance, rtol=tolerance
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_path_of_a_device(device: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> None:
    gate_up = torch.randn(shape[0], 2 * shape[1], dtype=dtype, device=device)
    assert_close(silu_mul(gate_up), gate_up)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel(kernel_device: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> None:
    gate_up = torch.randn(shape[0], 2 * shape[1], dtype=dtype, device=kernel_device)
    assert_close(launch_silu_mul(gate_up), gate_up)


def test_large_gates_neither_overflow_nor_turn_to_nan(
    kernel_device: torch.device, device: torch.device
) -> None:
    for where, activate in ((kernel_device, launch_silu_mul), (device, silu_mul)):
        gate_up = torch.tensor([[80.0, -80.0, 1.0, 1.0]], device=where)
        assert_close(activate(gate_up), gate_up)
