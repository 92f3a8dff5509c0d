"""Products in a fixed order: right, and a row's bits are its own."""

from __future__ import annotations

import pytest
import torch
from paged_cache import DTYPES, TOLERANCE
from torch import Tensor

from octavo.ops.fixed_order_linear import fixed_order_linear
from octavo.ops.fixed_order_linear_kernel import launch_fixed_order_linear
from octavo.ops.tuning import FixedOrderTiles, fixed_order_tiles


def operands(num_rows: int, n: int, k: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    x = torch.randn(num_rows, k, dtype=dtype, device=device)
    weight = torch.randn(n, k, dtype=dtype, device=device) / k**0.5
    return x, weight, torch.randn(n, dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, k", [(40, 300), (17, 512), (300, 64), (1, 16)])
def test_kernel_and_path_of_the_device(
    kernel_device: torch.device, n: int, k: int, dtype: torch.dtype
) -> None:
    for num_rows in (0, 1, 3, 64, 70):
        x, weight, bias = operands(num_rows, n, k, dtype, kernel_device)
        for addend in (None, bias):
            wanted = x.double() @ weight.double().T + (0 if addend is None else addend.double())
            for product in (launch_fixed_order_linear, fixed_order_linear):
                got = product(x, weight, addend).double()
                torch.testing.assert_close(got, wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_product_lands_in_the_given_memory_and_takes_strided_rows(device: torch.device) -> None:
    wide, weight, bias = operands(5, 7, 48, torch.float32, device)
    out = torch.zeros(5, 7, device=device)
    assert fixed_order_linear(wide[:, 16:48], weight[:, :32].contiguous(), bias, out) is out
    torch.testing.assert_close(out, wide[:, 16:48] @ weight[:, :32].T + bias, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_to_the_last_bit_among_any_number_of_others(
    kernel_device: torch.device, dtype: torch.dtype
) -> None:
    # The interpreter multiplies whole tiles, so there it is true of tiles of one size only.
    num_rows = 300 if kernel_device.type == "cuda" else 64
    x, weight, bias = operands(num_rows, 272, 208, dtype, kernel_device)
    together = launch_fixed_order_linear(x, weight, bias)
    for first, last in ((0, 1), (num_rows - 1, num_rows), (7, 64), (3, 20)):
        assert torch.equal(launch_fixed_order_linear(x[first:last], weight, bias), together[first:last])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="tensor cores sum otherwise than the interpreter")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tiles_of_any_size_give_the_same_bits(dtype: torch.dtype) -> None:
    x, weight, bias = operands(300, 5000, 1536, dtype, torch.device("cuda"))
    tiles = {fixed_order_tiles(num_rows, n, 2) for num_rows in (1, 64, 200, 1000) for n in (64, 5000)}
    assert len(tiles) > 2
    tiles.add(FixedOrderTiles(block_m=16, block_n=32, block_k=128, num_warps=4, num_stages=4))
    first, *others = (launch_fixed_order_linear(x, weight, bias, tiles=chosen) for chosen in tiles)
    assert all(torch.equal(first, other) for other in others)
