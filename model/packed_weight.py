"""A float32 matrix in the packed form of a matrix library, for processors. Knows no layers.

Libraries rearrange an operand on every call of an ordinary product; packing does that once. Sources: Intel
oneMKL, cblas_sgemm_pack and cblas_sgemm_compute, and oneDNN's inner product; the operators below are torch's
own for its compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .targets import WeightTarget

_CPU_INFO = Path("/proc/cpuinfo")


class Packing(Protocol):
    """A library that packs. `shape`: a matrix of the packed one's shape, whose content nobody looks at."""

    def pack(self, weight: Tensor) -> Tensor: ...

    def product(self, x: Tensor, packed: Tensor, shape: Tensor, bias: Tensor | None) -> Tensor: ...


class MklPacking:
    """oneMKL. Asked to pack for 64 rows: measured over 1 to 256 rows, that is best or within 3 % of it."""

    def pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, 64)
        return packed

    def product(self, x: Tensor, packed: Tensor, shape: Tensor, bias: Tensor | None) -> Tensor:
        # The last argument says that the pack fits this number of rows; `works` made sure it does.
        product: Tensor = torch.ops.mkl._mkl_linear(x, packed, shape, bias, x.shape[0])
        return product


class OneDnnPacking:
    """oneDNN. Packed for 16 rows: for 1 row, the form is one that others read slowly."""

    def pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
        return packed

    def product(self, x: Tensor, packed: Tensor, shape: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return product


class PackedWeight:
    """A matrix that is loaded as [out, in] and then packed; the loaded form is let go."""

    def __init__(self, weight: Tensor, packing: Packing) -> None:
        self._loaded: Tensor | None = weight
        self._packed = weight
        self._shape = weight.new_empty(1).expand(weight.shape)
        self._packing = packing

    def targets(self, name: str, rows: slice, split: int | None) -> Iterator[WeightTarget]:
        """The rows of the matrix are one tensor of the checkpoint."""
        assert self._loaded is not None, "targets are gone once the matrix is packed"
        yield WeightTarget(f"{name}.weight", self._loaded[rows], split)

    def finish(self) -> None:
        """Pack. Call it with the number of threads that will multiply."""
        assert self._loaded is not None, "a matrix is packed once"
        self._packed = self._packing.pack(self._loaded)
        self._loaded = None

    def apply(self, x: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
        """x [num_tokens, in_features] -> [num_tokens, out_features]."""
        product = self._packing.product(x, self._packed, self._shape, bias)
        return product if out is None else out.copy_(product)

    def likeliest(self, x: Tensor) -> Tensor | None:
        """There is no such way."""
        return None


def best_packing() -> Packing | None:
    """The library that multiplies fastest on this processor; None if this torch has none that is right.

    On processors that are not Intel's, MKL takes slow paths, and oneDNN is up to twice as fast.
    """
    candidates: list[tuple[Packing, bool]] = [
        (MklPacking(), torch.backends.mkl.is_available()),
        (OneDnnPacking(), torch.backends.mkldnn.is_available()),
    ]
    if not _is_intel():
        candidates.reverse()
    return next((packing for packing, exists in candidates if exists and _is_right(packing)), None)


def _is_intel() -> bool:
    return _CPU_INFO.is_file() and "GenuineIntel" in _CPU_INFO.read_text()


def _is_right(packing: Packing) -> bool:
    """Whether packed products are right for other row counts than packed for, which no manual promises."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(200, 144, generator=generator)
    weight = PackedWeight(matrix, packing)
    weight.finish()
    for num_rows in (1, 2, 5, 16, 64, 100):
        x = torch.rand(num_rows, 144, generator=generator)
        if not torch.allclose(weight.apply(x, None), x @ matrix.t(), rtol=1e-4, atol=1e-4):
            return False
    return True
