"""Where a checkpoint's tensors go: what layers declare and the loader fills. Knows no file format."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class WeightTarget(NamedTuple):
    """A checkpoint tensor by name, and the memory that takes it.

    view: shaped like the checkpoint's tensor; any strides, so that layout and merging are done by `copy_`.
    split: the dimension that ranks of a tensor-parallel group divide; None if each takes all.
    """

    name: str
    view: Tensor
    split: int | None = None
