"""Matrix products of few rows against float64."""

from __future__ import annotations

import pytest
import torch
from paged_cache import DTYPES, TOLERANCE
from torch import Tensor

from octavo.ops.thin_linear import thin_linear
from octavo.ops.thin_linear_kernel import launch_thin_linear


def assert_close(actual: Tensor, x: Tensor, weight: Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    wanted = x.double() @ weight.double().T
    torch.testing.assert_close(actual.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", range(9))
def test_kernel_and_path_of_the_device(
    kernel_device: torch.device, num_rows: int, dtype: torch.dtype
) -> None:
    for n, k in ((40, 600), (17, 512), (1, 16)):
        x = torch.randn(num_rows, k, dtype=dtype, device=kernel_device)
        weight = torch.randn(n, k, dtype=dtype, device=kernel_device) / k**0.5
        assert_close(launch_thin_linear(x, weight), x, weight)
        assert_close(thin_linear(x, weight), x, weight)


def test_more_rows_than_it_is_made_for_are_refused(kernel_device: torch.device) -> None:
    with pytest.raises(AssertionError, match="at most 8 rows, got 9"):
        launch_thin_linear(torch.empty(9, 16, device=kernel_device), torch.empty(4, 16, device=kernel_device))
