"""Formats of few bits: tiles give back, bit for bit, what the gguf package and torch read in the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor

from octavo.ops.block_format import BLOCK, BLOCK_FORMATS, TILE_ROWS, tile_values, to_tiles

FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def stored(name: str, rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(blocks [rows, columns / 32, bytes], the float32 values that they are by others' reading)."""
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    form = BLOCK_FORMATS[name]
    if name in FLOATS:
        short = values.to(FLOATS[name])
        return short.view(torch.uint8).view(rows, -1, form.block_bytes), short.float()
    kind = GGMLQuantizationType[name]
    raw: np.ndarray = quantize(values.numpy(), kind)
    return torch.from_numpy(raw).view(rows, -1, form.block_bytes), torch.from_numpy(dequantize(raw, kind))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("rows, columns", [(16, 32), (48, 160), (160, 32)])
def test_tiles_hold_the_very_values(name: str, rows: int, columns: int) -> None:
    blocks, values = stored(name, rows, columns)
    form = BLOCK_FORMATS[name]
    tiles = to_tiles(blocks, form)
    assert tiles.shape == (rows // TILE_ROWS, columns // BLOCK, TILE_ROWS * form.block_bytes)
    assert torch.equal(tile_values(tiles, form), values)


def test_rows_that_fill_no_tile_are_refused() -> None:
    blocks, _ = stored("Q8_0", 24, 32)
    with pytest.raises(AssertionError, match="multiple of 16, got 24"):
        to_tiles(blocks, BLOCK_FORMATS["Q8_0"])
