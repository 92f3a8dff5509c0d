"""Products with a matrix that is stored in blocks, for processors, which spend their time on reading it.

The weights that enter a product are the exact float32 values that the blocks stand for, and a row's result
is the same, bit for bit, however many rows are multiplied at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .block_format import BLOCK, TILE_ROWS, BlockFormat, tile_values
from .native_code import ThreadTeam, find_team

if TYPE_CHECKING:
    from .block_linear_kernel import BlockLinearKernel

_ROWS_AT_ONCE = 64
"""Rows of x that stay in a core's L2 cache while the weights pass by: 400 KB at 1,536 columns."""


class BlockLinear:
    """Products for all matrices of a model. Compiles for a format when it is first asked for."""

    def __init__(self, team: ThreadTeam | None = None) -> None:
        self._team = team or find_team()
        self._kernels: dict[BlockFormat, BlockLinearKernel] = {}

    def fits(self, rows: int, columns: int) -> bool:
        """Whether a matrix [rows, columns] can be multiplied, and on this processor at all."""
        return self._team is not None and rows % (2 * TILE_ROWS) == 0 and columns % BLOCK == 0

    def compile(self, form: BlockFormat) -> None:
        """Make the machine code for a format ready, a fraction of a second; later calls do nothing."""
        assert self._team is not None, "nothing fits without native code"
        if form not in self._kernels:
            from .block_linear_kernel import new_kernel  # LLVM is installed where it is of use

            self._kernels[form] = new_kernel(form, self._team)

    def __call__(self, x: Tensor, tiles: Tensor, form: BlockFormat, out: Tensor) -> None:
        """out[:] = x W^T.

        x: [T, columns] float32.   tiles: as `to_tiles` gives them, of W [rows, columns].
        out: [T, rows] float32, rows may be strided.
        """
        x = x.contiguous()
        assert out.stride(1) == 1 or out.shape[0] == 0, "elements of a row of `out` must be adjacent"
        kernel = self._kernels[form]
        for start in range(0, len(x), _ROWS_AT_ONCE):
            kernel(x[start : start + _ROWS_AT_ONCE], tiles, out[start : start + _ROWS_AT_ONCE])


def block_linear_reference(x: Tensor, tiles: Tensor, form: BlockFormat) -> Tensor:
    """What BlockLinear computes: x [T, columns] -> [T, rows], in torch."""
    return F.linear(x, tile_values(tiles, form).to(x.device, torch.float32))
