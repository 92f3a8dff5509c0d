"""Products with blocks: torch's result for any number of rows; a row's bits whatever stands beside it."""

from __future__ import annotations

import pytest
import torch
from test_block_format import stored
from torch import Tensor

from octavo.ops import block_linear_kernel
from octavo.ops.block_format import BLOCK_FORMATS, to_tiles
from octavo.ops.block_linear import BlockLinear, block_linear_reference
from octavo.ops.native_code import find_team, has_wide_registers
from octavo.ops.sampling import choose_greedy

TEAM = find_team()
needs_native_code = pytest.mark.skipif(
    TEAM is None, reason="native code needs Linux, x86-64 with AVX2 and GNU's OpenMP"
)


def product(products: BlockLinear, x: Tensor, tiles: Tensor, name: str, num_rows: int) -> Tensor:
    out = torch.full((len(x), num_rows), float("nan"))
    products(x, tiles, BLOCK_FORMATS[name], out)
    return out


@needs_native_code
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_product_is_right_for_any_number_of_rows(
    name: str, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wide: as for AVX-512; otherwise the shapes of AVX2, which this processor can run as well."""
    if wide is not has_wide_registers():
        monkeypatch.setattr(block_linear_kernel, "has_wide_registers", lambda: wide)
    products, form = BlockLinear(), BLOCK_FORMATS[name]
    products.compile(form)
    for rows, columns in ((32, 32), (96, 160), (224, 96)):
        blocks, weight = stored(name, rows, columns)
        tiles = to_tiles(blocks, form)
        x = torch.randn(150, columns, generator=torch.Generator().manual_seed(1))
        expected = (x.double() @ weight.double().t()).float()
        torch.testing.assert_close(block_linear_reference(x, tiles, form), expected, atol=1e-4, rtol=1e-4)
        whole = product(products, x, tiles, name, rows)
        torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)
        for num in (0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 129):
            assert torch.equal(product(products, x[:num], tiles, name, rows), whole[:num])


@needs_native_code
def test_rows_may_be_strided_on_both_sides() -> None:
    blocks, weight = stored("Q4_1", 64, 32)
    products, form = BlockLinear(), BLOCK_FORMATS["Q4_1"]
    products.compile(form)
    wide, out = torch.randn(5, 70), torch.zeros(5, 100)
    products(wide[:, 3:35], to_tiles(blocks, form), form, out[:, 20:84])
    torch.testing.assert_close(out[:, 20:84], wide[:, 3:35] @ weight.t(), atol=1e-5, rtol=1e-4)
    assert not out[:, :20].any() and not out[:, 84:].any()


@needs_native_code
@pytest.mark.parametrize("num_threads", [1, 2, 3, 5])
def test_threads_share_the_rows_of_the_matrix(num_threads: int) -> None:
    blocks, weight = stored("Q8_0", 96, 64)
    products, form = BlockLinear(), BLOCK_FORMATS["Q8_0"]
    products.compile(form)
    x, before = torch.randn(3, 64), torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        out = product(products, x, to_tiles(blocks, form), "Q8_0", 96)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(out, x @ weight.t(), atol=1e-5, rtol=1e-4)


@needs_native_code
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_the_likeliest_are_those_of_the_product(
    name: str, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_linear_kernel, "has_wide_registers", lambda: wide)
    products, form, before = BlockLinear(), BLOCK_FORMATS[name], torch.get_num_threads()
    products.compile(form)
    products.compile_likeliest(form)
    blocks, _ = stored(name, 96, 64)
    blocks[40:60] = blocks[10:30]  # of equals, the first
    tiles = to_tiles(blocks, form)
    x = torch.randn(515, 64, generator=torch.Generator().manual_seed(1))
    x[3, 5], x[4, 5], x[5] = float("nan"), float("inf"), 0
    try:
        for num in (16, 17, 23, 255, 256, 257, 515):
            torch.set_num_threads(1 + num % 5)
            expected = choose_greedy(product(products, x[:num], tiles, name, 96))
            tokens = products.likeliest(x[:num], tiles, form)
            assert tokens is not None and torch.equal(tokens, expected)
            assert tokens[3] == tokens[4] == -1 and tokens[5] == 0 and len(tokens.unique()) > 10
        assert products.likeliest(x[:3], tiles, form) is None
    finally:
        torch.set_num_threads(before)


@needs_native_code
def test_what_is_no_number_in_one_column_spoils_its_rows() -> None:
    weight = torch.randn(64, 32)
    weight[50] = float("nan")
    products, form = BlockLinear(), BLOCK_FORMATS["F32"]
    products.compile_likeliest(form)
    tiles = to_tiles(weight.view(torch.uint8).view(64, 1, -1), form)
    tokens = products.likeliest(torch.randn(20, 32), tiles, form)
    assert tokens is not None and (tokens == -1).all()


@needs_native_code
def test_what_does_not_divide_does_not_fit() -> None:
    products = BlockLinear()
    assert products.fits(64, 96)
    assert not products.fits(48, 96) and not products.fits(64, 100)
