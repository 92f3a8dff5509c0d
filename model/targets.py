"""Checkpoint tensors and where they go: what layers declare and the loader fills. Knows no file format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..ops.block_format import BLOCK, BlockFormat


@dataclass(frozen=True, slots=True)
class StoredBlocks:
    """A quantized checkpoint tensor as it is stored.

    blocks: [rows, columns / 32, block_bytes] uint8.   values: makes the float tensor that it stands for.
    """

    form: BlockFormat
    blocks: Tensor
    values: Callable[[], Tensor]

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, columns] of the values."""
        return self.blocks.shape[0], self.blocks.shape[1] * BLOCK


class WeightTarget(NamedTuple):
    """A checkpoint tensor by name, and the memory that takes it.

    view: shaped like the checkpoint's tensor; any strides, so that layout and merging are done by `copy_`.
    split: the dimension that ranks of a tensor-parallel group divide; None if each takes all.
    keep: offered the tensor if it is stored in blocks; True if it was kept and `view` need not be filled.
    """

    name: str
    view: Tensor
    split: int | None = None
    keep: Callable[[StoredBlocks], bool] | None = None
