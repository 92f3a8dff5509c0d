"""RMSNorm against float64, alone and after the residual addition."""

from __future__ import annotations

import pytest
import torch
from paged_cache import DTYPES, TOLERANCE
from torch import Tensor

from octavo.ops.rms_norm import add_rms_norm, rms_norm
from octavo.ops.rms_norm_kernel import launch_add_rms_norm, launch_rms_norm

EPS = 1e-5
SHAPES = [(0, 8), (1, 576), (3, 1), (5, 1536), (2, 64)]


def expected(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


def assert_close(actual: Tensor, wanted: Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_path_of_a_device(device: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(shape, dtype=dtype, device=device)
    residual, weight = torch.randn_like(x), torch.randn(shape[1], dtype=dtype, device=device)
    assert_close(rms_norm(x, weight, EPS), expected(x, weight))
    total = x + residual
    assert_close(add_rms_norm(x, residual, weight, EPS), expected(total, weight))
    torch.testing.assert_close(residual, total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel(kernel_device: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(shape, dtype=dtype, device=kernel_device)
    weight = torch.randn(shape[1], dtype=dtype, device=kernel_device)
    assert_close(launch_rms_norm(x, weight, EPS), expected(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_with_residual(
    kernel_device: torch.device, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    x = torch.randn(shape, dtype=dtype, device=kernel_device)
    residual, weight = torch.randn_like(x), torch.randn(shape[1], dtype=dtype, device=kernel_device)
    total = x + residual
    assert_close(launch_add_rms_norm(x, residual, weight, EPS), expected(total, weight))
    torch.testing.assert_close(residual, total)


def test_rows_that_lie_apart_and_a_given_output(kernel_device: torch.device, device: torch.device) -> None:
    for where, norm in ((kernel_device, launch_rms_norm), (device, rms_norm)):
        x = torch.randn(4, 100, device=where)[:, 10:74]
        weight, out = torch.randn(64, device=where), torch.empty(4, 64, device=where)
        assert norm(x, weight, EPS, out) is out
        assert_close(out, expected(x, weight))


def test_tiny_rows_are_scaled_by_eps_and_not_by_noise(
    kernel_device: torch.device, device: torch.device
) -> None:
    for where, norm in ((kernel_device, launch_rms_norm), (device, rms_norm)):
        x, weight = torch.full((1, 32), 1e-9, device=where), torch.ones(32, device=where)
        assert_close(norm(x, weight, EPS), expected(x, weight))
