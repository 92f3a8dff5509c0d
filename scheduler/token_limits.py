"""Tokens that a sequence may not take, by a list of those allowed and by sequences that must not come about.

Knows no text. What does not depend on the tokens before it is a mask of the slot, `fixed_mask`; the rest, and
what holds beside a grammar, follows a sequence as a Constraint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .constraint import Constraint, MaskRow, prepare_masks

_WORD_BITS = 32


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """allowed: None is all.   banned: sequences whose last token is refused after the others."""

    vocab_size: int
    allowed: tuple[int, ...] | None = None
    banned: tuple[tuple[int, ...], ...] = ()

    def fixed_mask(self) -> NDArray[np.int32]:
        """What may be taken whatever comes before: `MaskRow.words`."""
        num_words = -(-self.vocab_size // _WORD_BITS)
        bits = np.zeros(num_words * _WORD_BITS, np.uint8)
        bits[range(self.vocab_size) if self.allowed is None else list(self.allowed)] = 1
        bits[[ids[0] for ids in self.banned if len(ids) == 1]] = 0
        return np.packbits(bits, bitorder="little").view(np.int32)

    def follower(self, beside: Constraint | None) -> Constraint | None:
        """For one sequence; None if the fixed mask is all there is. beside: holds at the same time."""
        if beside is None and all(len(ids) == 1 for ids in self.banned):
            return None
        return LimitFollower(self, beside)


class LimitFollower:
    """Implements Constraint."""

    __slots__ = ("_always", "_beside", "_longer", "_mask", "_tail")

    def __init__(self, limits: TokenLimits, beside: Constraint | None) -> None:
        self._beside = beside
        self._longer = [ids for ids in limits.banned if len(ids) > 1]
        self._tail: list[int] = []
        self._always = limits.fixed_mask()
        self._mask: MaskRow | None = None

    @property
    def complete(self) -> bool:
        """See Constraint."""
        return self._beside is not None and self._beside.complete

    @property
    def error(self) -> str | None:
        """See Constraint."""
        return None if self._beside is None else self._beside.error

    @property
    def binds_from(self) -> int:
        """See Constraint."""
        return 0

    def advance(self, token: int) -> None:
        """See Constraint."""
        self._mask = None
        if self._beside is not None:
            self._beside.advance(token)
        if self._longer:
            self._tail.append(token)
            del self._tail[: -max(map(len, self._longer)) + 1]

    def prepare(self, batch: Sequence[LimitFollower], came: Callable[[], None]) -> None:
        """See Constraint. Its own part is computed when it is asked for."""
        prepare_masks([follower._beside for follower in batch if follower._beside is not None], came)

    @property
    def mask(self) -> MaskRow | None:
        """See Constraint."""
        if self._mask is None:
            other = None
            if self._beside is not None and (other := self._beside.mask) is None:
                return None
            self._mask = MaskRow.of(self._words(other))
        return self._mask

    def _words(self, other: MaskRow | None) -> NDArray[np.int32]:
        words = self._always
        ends = [ids[-1] for ids in self._longer if self._tail[-len(ids) + 1 :] == list(ids[:-1])]
        if ends or other is not None:
            words = words.copy()
        bits = words.view(np.uint32)
        for token in ends:
            bits[token // _WORD_BITS] &= ~np.uint32(1 << token % _WORD_BITS)
        if other is not None:
            words &= other.words
        return words
