"""The bytes behind the blocks: every layer's K and V pages on the device. Knows neither owners nor tokens."""

from __future__ import annotations

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
        self.layers: tuple[tuple[Tensor, Tensor], ...] = tuple(
            (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
            for _ in range(num_layers)
        )

    @property
    def num_bytes(self) -> int:
        """Memory that the pages occupy, in bytes."""
        return sum(k.nbytes + v.nbytes for k, v in self.layers)
