"""The bytes behind the blocks: every layer's K and V pages on the device. Knows neither owners nor tokens."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class KVStorage:
    """Pages of all layers.

    layers: for each layer (k_cache, v_cache), each [num_blocks, num_kv_heads, block_size, head_dim] dtype,
    contiguous. Zeroed: attention may read an unwritten row whose weight is 0, and 0 * NaN is not 0.
    Raises torch.OutOfMemoryError (GPU) or RuntimeError (CPU) if the device has too little memory.
    """

    __slots__ = ("layers",)

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        num_kv_heads: int,
        block_size: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape = (num_blocks, num_kv_heads, block_size, head_dim)
        # In one piece: allocators round each up, and there may be a hundred and more.
        pages = _zeros((num_layers, 2, *shape), dtype, device)
        self.layers: tuple[tuple[Tensor, Tensor], ...] = tuple((k, v) for k, v in pages)

    @property
    def num_bytes(self) -> int:
        """Memory that the pages occupy, in bytes."""
        return sum(k.nbytes + v.nbytes for k, v in self.layers)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks the system for zeroed pages, which cost neither time nor memory until they are written.
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)
