"""The block pool as a picture of bounded size, for people who watch. Knows no sequences and no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from operator import gt

from .block_pool import BlockPool

MAX_BLOCKS = 4096
"""Blocks of a picture at most: of a larger pool every second, third, ... is shown."""
_DIGITS = bytes.maketrans(b"\0\1\2\3", b"0123")


@dataclass(frozen=True, slots=True)
class PoolPicture:
    """Every `stride`-th block from block 0 on, a digit each.

    states: 0 free, 1 kept since the prefix cache can find it, 2 held by one sequence, 3 held by several.
    """

    stride: int
    states: str

    @classmethod
    def of(cls, pool: BlockPool) -> PoolPicture:
        """The pool now. No statement here runs once for every block: C does, since steps wait meanwhile."""
        stride = -(-pool.num_blocks // MAX_BLOCKS)
        references, cached = pool.states(slice(None, None, stride))
        # A byte for each block; as whole numbers they add up bytewise, since no sum passes 3.
        held = int.from_bytes(bytes(map(bool, references)))
        shared = int.from_bytes(bytes(map((1).__lt__, references)))
        kept = int.from_bytes(bytes(map(gt, cached, references)))  # True > 0
        states = (2 * held + shared + kept).to_bytes(len(references))
        return cls(stride, states.translate(_DIGITS).decode())
