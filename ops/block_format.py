"""Weights in fewer bits than they are computed in, which give back the very same float32 values.

GGUF's blocks of 32 weights (docs/gguf.md and ggml-common.h in the ggml repository), and floats. Knows files
and products of neither. In memory, tiles of 16 rows and 32 columns:

    one block of a row        scale (offset) c0 c1 ... c15       4-bit codes: ci holds columns i and i + 16
    a tile, Q4_1              16 scales | 16 offsets | 16 x c0 | 16 x c1 | ... | 16 x c15

so that one load brings the same column of 16 rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 32
"""Columns of a block."""
TILE_ROWS = 16


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How 32 weights of a row are stored: float16 scale and offset, if any, then codes.

    name: GGUF's.   code_bits: of a weight; 16 and 32 are floats.   bias: subtracted from a code.
    """

    name: str
    code_bits: int
    has_scale: bool = False
    has_offset: bool = False
    bias: int = 0

    @property
    def header_bytes(self) -> int:
        """Of scale and offset."""
        return 2 * (self.has_scale + self.has_offset)

    @property
    def block_bytes(self) -> int:
        """Of 32 weights."""
        return self.header_bytes + BLOCK * self.code_bits // 8


BLOCK_FORMATS = {
    each.name: each
    for each in (
        BlockFormat("Q4_0", 4, has_scale=True, bias=8),
        BlockFormat("Q4_1", 4, has_scale=True, has_offset=True),
        BlockFormat("Q8_0", 8, has_scale=True),
        BlockFormat("F16", 16),
        BlockFormat("BF16", 16),
        BlockFormat("F32", 32),
    )
}

_FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def to_tiles(blocks: Tensor, form: BlockFormat) -> Tensor:
    """[rows, columns / 32, block_bytes] uint8 -> [rows / 16, columns / 32, 16 * block_bytes]."""
    rows, num_blocks, _ = blocks.shape
    assert rows % TILE_ROWS == 0, f"rows must be a multiple of {TILE_ROWS}, got {rows}"
    tiles = blocks.reshape(rows // TILE_ROWS, TILE_ROWS, num_blocks, form.block_bytes).transpose(1, 2)
    parts = (
        (tiles[..., : form.header_bytes], 2),
        (tiles[..., form.header_bytes :], max(1, form.code_bits // 8)),
    )
    return torch.cat([_by_item(part, num_bytes) for part, num_bytes in parts], dim=-1)


def tile_values(tiles: Tensor, form: BlockFormat) -> Tensor:
    """`to_tiles`'s result -> the weights, [rows, columns] float32."""
    num_tiles, num_blocks, _ = tiles.shape
    header = TILE_ROWS * form.header_bytes
    fields = tiles[..., :header].contiguous().view(torch.float16).float()
    fields = fields.view(num_tiles, num_blocks, -1, 1, TILE_ROWS)
    values = _codes(tiles[..., header:].contiguous(), form)
    if form.has_scale:
        values = (values - form.bias) * fields[:, :, 0]
    if form.has_offset:
        values = values + fields[:, :, 1]
    # [tiles, blocks, 32 columns, 16 rows]
    return values.permute(0, 3, 1, 2).reshape(num_tiles * TILE_ROWS, num_blocks * BLOCK)


def _by_item(part: Tensor, num_bytes: int) -> Tensor:
    """[..., 16 rows, n items of num_bytes] -> [..., n items of 16 rows], flat."""
    items = part.unflatten(-1, (-1, num_bytes)) if part.shape[-1] else part.unsqueeze(-1)
    return items.transpose(-3, -2).flatten(-3)


def _codes(stored: Tensor, form: BlockFormat) -> Tensor:
    """Codes of tiles, [tiles, blocks, 32 columns, 16 rows] float32."""
    if form.name in _FLOATS:
        values = stored.view(_FLOATS[form.name])
    elif form.code_bits == 8:
        values = stored.view(torch.int8)
    else:
        pairs = stored.unflatten(-1, (BLOCK // 2, TILE_ROWS))
        values = torch.cat((pairs & 15, pairs >> 4), dim=-2).flatten(-2)
    columns: Tensor = values.float().unflatten(-1, (BLOCK, TILE_ROWS))
    return columns
