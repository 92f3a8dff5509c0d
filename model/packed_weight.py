"""A float32 matrix in MKL's packed form, for processors. Knows no layers.

MKL rearranges an operand on every call of an ordinary product; packing does that once. Source: Intel oneMKL,
cblas_sgemm_pack and cblas_sgemm_compute, which torch's compiler uses through the operators below.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .targets import WeightTarget

_ROWS_TO_PACK_FOR = 64
"""MKL asks for how many rows it shall pack. Measured over 1 to 256 rows, 64 is best or within 3 % of it."""


class PackedWeight:
    """A matrix that is loaded as [out, in] and then packed; the loaded form is let go."""

    def __init__(self, weight: Tensor) -> None:
        self._loaded: Tensor | None = weight
        self._packed = weight
        # The operator wants the unpacked matrix too, but for packed products looks at its shape only.
        self._shape = weight.new_empty(1).expand(weight.shape)
        self._product = torch.ops.mkl._mkl_linear.default

    def targets(self, name: str, rows: slice, split: int | None) -> Iterator[WeightTarget]:
        """The rows of the matrix are one tensor of the checkpoint."""
        assert self._loaded is not None, "targets are gone once the matrix is packed"
        yield WeightTarget(f"{name}.weight", self._loaded[rows], split)

    def finish(self) -> None:
        """Pack. Call it with the number of threads that will multiply."""
        assert self._loaded is not None, "a matrix is packed once"
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(self._loaded, _ROWS_TO_PACK_FOR)
        self._loaded = None

    def apply(self, x: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
        """x [num_tokens, in_features] -> [num_tokens, out_features]."""
        # The last argument says that the pack fits this number of rows; `packing_works` made sure it does.
        product: Tensor = self._product(x, self._packed, self._shape, bias, x.shape[0])
        return product if out is None else out.copy_(product)


def packing_works() -> bool:
    """Whether this torch has MKL, and its packed products are right for other row counts than packed for.

    Packing one operand has no need to know the other, but the manual does not promise it.
    """
    if not torch.backends.mkl.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(200, 144, generator=generator)
    weight = PackedWeight(matrix)
    weight.finish()
    for num_rows in (1, 2, 5, 16, 64, 100):
        x = torch.rand(num_rows, 144, generator=generator)
        if not torch.allclose(weight.apply(x, None), x @ matrix.t(), rtol=1e-4, atol=1e-4):
            return False
    return True
