"""A float32 matrix kept in fewer bits that give back the same values, for processors. Knows no layers.

A step of a small batch takes as long as reading the weights does. A matrix from quantized blocks stays in
them; one whose floats all fit into 16 bits, as most checkpoints' do, is kept in 16; another is packed
whole, but for heads: what `likeliest` multiplies must be what `apply` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from ..ops.block_format import BLOCK_FORMATS, TILE_ROWS, BlockFormat, to_tiles
from ..ops.block_linear import BlockLinear
from .targets import StoredBlocks, WeightTarget


class Whole(Protocol):
    """The matrix in 32 bits a weight."""

    def finish(self) -> None: ...

    def apply(self, x: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of the matrix.   tiles: of ops/block_format.py."""

    rows: slice
    tiles: Tensor
    form: BlockFormat


class CompactWeight:
    """A matrix that is loaded as [out, in] or kept in blocks.

    weight: memory to load into, used only as far as no blocks come.   is_table: whether others read it too.
    whole: makes the matrix that is used if it cannot be kept in fewer bits.   is_head: see LinearMethod.
    """

    def __init__(
        self,
        weight: Tensor,
        products: BlockLinear,
        whole: Callable[[Tensor], Whole],
        *,
        is_table: bool,
        is_head: bool = False,
    ) -> None:
        self._loaded: Tensor | None = weight
        self._num_rows = weight.shape[0]
        self._products = products
        self._make_whole = whole
        self._is_table = is_table
        self._is_head = is_head
        self._kept: dict[int, StoredBlocks] = {}
        self._parts: tuple[Part, ...] = ()
        self._whole: Whole | None = None

    def targets(self, name: str, rows: slice, split: int | None) -> Iterator[WeightTarget]:
        """The rows of the matrix are one tensor of the checkpoint."""
        assert self._loaded is not None, "targets are gone once the matrix is finished"
        first = rows.indices(self._num_rows)[0]
        yield WeightTarget(f"{name}.weight", self._loaded[rows], split, partial(self._keep, first))

    def _keep(self, first: int, blocks: StoredBlocks) -> bool:
        self._kept[first] = blocks
        return not self._is_table

    def finish(self) -> None:
        """Bring the matrix into the form in which it is multiplied, and let the loaded one go."""
        assert self._loaded is not None, "a matrix is finished once"
        weight, self._loaded = self._loaded, None
        kept, self._kept = sorted(self._kept.items()), {}
        in_order = all(_can_be_part(blocks) for _, blocks in kept)
        if kept and in_order and sum(blocks.shape[0] for _, blocks in kept) == self._num_rows:
            self._parts = tuple(_joined(kept))
        else:
            for first, blocks in kept if not self._is_table else ():
                weight[first : first + blocks.shape[0]] = blocks.values()
            self._parts = _in_16_bits(weight) or ((_floats("F32", weight),) if self._is_head else ())
        if not self._parts:
            self._whole = self._make_whole(weight)
            self._whole.finish()
        for part in self._parts:
            self._products.compile(part.form)
        self._is_head = self._is_head and len(self._parts) == 1
        if self._is_head:
            self._products.compile_likeliest(self._parts[0].form)

    def apply(self, x: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
        """x [num_tokens, in_features] -> [num_tokens, out_features] of the same dtype."""
        if self._whole is not None:
            return self._whole.apply(x, bias, out)
        if out is None:
            out = x.new_empty(len(x), self._num_rows)
        if len(self._parts) == 1:
            self._products(x, self._parts[0].tiles, self._parts[0].form, out)
        else:
            for part in self._parts:
                self._products(x, part.tiles, part.form, out[:, part.rows])
        return out if bias is None else out.add_(bias)

    def likeliest(self, x: Tensor) -> Tensor | None:
        """See LinearWeight."""
        if not self._is_head:
            return None
        return self._products.likeliest(x, self._parts[0].tiles, self._parts[0].form)


def _can_be_part(blocks: StoredBlocks) -> bool:
    """Whether these rows can be a part of their own."""
    return blocks.shape[0] % (2 * TILE_ROWS) == 0


def _joined(kept: list[tuple[int, StoredBlocks]]) -> Iterator[Part]:
    """One part for neighbours of one format."""
    for form, group in groupby(kept, key=lambda item: item[1].form):
        members = list(group)
        first = members[0][0]
        blocks = torch.cat([blocks.blocks for _, blocks in members])
        yield Part(slice(first, first + len(blocks)), to_tiles(blocks, form), form)


def _in_16_bits(weight: Tensor) -> tuple[Part, ...]:
    """All of the matrix as one part, if that loses nothing; else none."""
    for name, dtype in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        halved = weight.to(dtype)
        if torch.equal(halved.to(weight.dtype), weight):
            return (_floats(name, halved),)
    return ()


def _floats(name: str, weight: Tensor) -> Part:
    form = BLOCK_FORMATS[name]
    blocks = weight.view(torch.uint8).view(len(weight), -1, form.block_bytes)
    return Part(slice(0, len(weight)), to_tiles(blocks, form), form)
