"""What a sequence may say next, as far as the scheduler is concerned. Knows no grammar and no text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class MaskRow(NamedTuple):
    """A row of TokenMasks.words. block: [N, ceil(vocab_size / 32)] int32, to which nobody writes any more."""

    block: NDArray[np.int32]
    row: int

    @classmethod
    def of(cls, words: NDArray[np.int32]) -> MaskRow:
        """A row by itself, [ceil(vocab_size / 32)]."""
        return cls(words[None], 0)

    @property
    def words(self) -> NDArray[np.int32]:
        """The row."""
        words: NDArray[np.int32] = self.block[self.row]
        return words


class Constraint(Protocol):
    """Follows one sequence, token by token. What `mask` and `advance` raise ends that sequence's request.

    complete: nothing may follow any more.   error: one sentence, once the sequence cannot be followed.
    mask: what may come next; None while it is computed, see `prepare`.
    binds_from: the place in the output from which on `mask` is to be asked for; the tokens before it may be
        any that the slot's own mask allows, whatever comes before them.
    """

    @property
    def complete(self) -> bool: ...

    @property
    def error(self) -> str | None: ...

    @property
    def mask(self) -> MaskRow | None: ...

    @property
    def binds_from(self) -> int: ...

    def advance(self, token: int) -> None:
        """The sequence goes on with `token`, which its mask allowed."""

    def prepare(self, batch: Sequence[Any], came: Callable[[], None]) -> None:
        """Have the masks of `batch`, of this one's kind, computed, and return at once.

        came: called by the event loop whenever some of them are there.
        """


def prepare_masks(constraints: Iterable[Constraint], came: Callable[[], None]) -> None:
    """`Constraint.prepare`, kind by kind."""
    kinds = groupby(sorted(constraints, key=_kind), key=_kind)
    for batch in [list(same) for _, same in kinds]:
        batch[0].prepare(batch, came)


def _kind(constraint: Constraint) -> str:
    return type(constraint).__name__
