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
    from .block_likeliest_kernel import BlockLikeliestKernel
    from .block_linear_kernel import BlockLinearKernel

_ROWS_AT_ONCE = 256
"""Rows of x for which the weights pass by once. With 64, whose x would always stay in a core's L2 cache, 256
rows took 1 to 20 % longer, the more the larger the weights."""
_LIKELIEST_ROWS = 16
"""From how many on the product is better not written down."""


class BlockLinear:
    """Products for all matrices of a model. Compiles for a format when it is first asked for."""

    def __init__(self, team: ThreadTeam | None = None) -> None:
        self._team = team or find_team()
        self._kernels: dict[BlockFormat, BlockLinearKernel] = {}
        self._choosers: dict[BlockFormat, BlockLikeliestKernel] = {}

    def fits(self, rows: int, columns: int) -> bool:
        """Whether a matrix [rows, columns] can be multiplied, and on this processor at all."""
        return self._team is not None and rows % (2 * TILE_ROWS) == 0 and columns % BLOCK == 0

    def compile(self, form: BlockFormat) -> None:
        """Make the machine code for a format ready, a fraction of a second; later calls do nothing."""
        assert self._team is not None, "nothing fits without native code"
        if form not in self._kernels:
            from .block_linear_kernel import new_kernel  # LLVM is installed where it is of use

            self._kernels[form] = new_kernel(form, self._team)

    def compile_likeliest(self, form: BlockFormat) -> None:
        """The same for `likeliest`."""
        assert self._team is not None, "nothing fits without native code"
        if form not in self._choosers:
            from .block_likeliest_kernel import new_kernel

            self._choosers[form] = new_kernel(form, self._team)

    def likeliest(self, x: Tensor, tiles: Tensor, form: BlockFormat) -> Tensor | None:
        """`choose_greedy` of the product, bit for bit, [T] int64; the product is never written down.

        None for so few rows that it would be no quicker. See __call__.
        """
        if len(x) < _LIKELIEST_ROWS:
            return None
        parts = x.contiguous().tensor_split(-(-len(x) // _ROWS_AT_ONCE))
        return torch.cat([self._choosers[form](part, tiles) for part in parts])

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
