"""Tokens that a sequence may not take, by a list of those allowed and by sequences that must not come about.

Knows no text. Follows one sequence as a Constraint, alone or beside a grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .constraint import Constraint

_WORD_BITS = 32


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """allowed: None is all.   banned: sequences whose last token is refused after the others."""

    vocab_size: int
    allowed: tuple[int, ...] | None = None
    banned: tuple[tuple[int, ...], ...] = ()

    def follower(self, beside: Constraint | None) -> LimitFollower:
        """For one sequence. beside: a constraint that holds at the same time."""
        return LimitFollower(self, beside)


class LimitFollower:
    """Implements Constraint."""

    __slots__ = ("_always", "_beside", "_longer", "_tail")

    def __init__(self, limits: TokenLimits, beside: Constraint | None) -> None:
        self._beside = beside
        single = [ids[0] for ids in limits.banned if len(ids) == 1]
        self._longer = [ids for ids in limits.banned if len(ids) > 1]
        self._tail: list[int] = []
        self._always = _words(limits.vocab_size, limits.allowed, single)

    @property
    def complete(self) -> bool:
        """See Constraint."""
        return self._beside is not None and self._beside.complete

    @property
    def error(self) -> str | None:
        """See Constraint."""
        return None if self._beside is None else self._beside.error

    def advance(self, token: int) -> None:
        """See Constraint."""
        if self._beside is not None:
            self._beside.advance(token)
        if self._longer:
            self._tail.append(token)
            del self._tail[: -max(map(len, self._longer)) + 1]

    def masks(self, batch: Sequence[Any]) -> bytes:
        """See Constraint."""
        return b"".join(follower.mask() for follower in batch)

    def mask(self) -> bytes:
        """What it may take next."""
        words = self._always
        ends = [ids[-1] for ids in self._longer if self._tail[-len(ids) + 1 :] == list(ids[:-1])]
        if ends or self._beside is not None:
            words = words.copy()
        for token in ends:
            words[token // _WORD_BITS] &= ~np.uint32(1 << token % _WORD_BITS)
        if self._beside is not None:
            words &= np.frombuffer(self._beside.masks([self._beside]), np.uint32)
        return words.tobytes()


def _words(vocab_size: int, allowed: Sequence[int] | None, banned: Sequence[int]) -> NDArray[np.uint32]:
    """Bits of TokenMasks.words."""
    num_words = -(-vocab_size // _WORD_BITS)
    bits = np.zeros(num_words * _WORD_BITS, np.uint8)
    bits[range(vocab_size) if allowed is None else list(allowed)] = 1
    bits[list(banned)] = 0
    return np.packbits(bits, bitorder="little").view(np.uint32)
