"""How long a model may think before it answers: after so many tokens it must close its reasoning.

Knows ids of tags and no text. Follows one sequence as a Constraint that binds nothing until the limit, so the
sequence runs in every step until then, and again once the reasoning is over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .constraint import Constraint, MaskRow, prepare_masks
from .token_limits import TokenLimits

_MAX_BEFORE = 2
"""Tokens that may stand before the opening tag; a sequence that has not opened by then answers right away."""
_NEVER = sys.maxsize


@dataclass(frozen=True, slots=True)
class ThinkingLimit:
    """num_tokens: between the tags, at most.   opening, closing: the tags' ids.

    inside: the prompt ends within the reasoning.
    """

    num_tokens: int
    opening: int
    closing: int
    inside: bool
    vocab_size: int

    def follower(self, limits: TokenLimits, beside: Constraint | None) -> ThinkingFollower:
        """For one sequence. limits: what its slot's own mask allows.   beside: holds at the same time."""
        return ThinkingFollower(self, limits, beside)


class ThinkingFollower:
    """Implements Constraint.

    place in the output   0          1 ... num_tokens   num_tokens + 1   + 2        + 3 ...
    may be                any        any                </think>         any        any
    told with the step                                  yes              yes
    """

    __slots__ = (
        "_any",
        "_beside",
        "_closing",
        "_forced_at",
        "_limit",
        "_mask",
        "_num",
        "_opened_at",
        "_over",
    )

    def __init__(self, limit: ThinkingLimit, limits: TokenLimits, beside: Constraint | None) -> None:
        self._limit = limit
        self._any = limits.fixed_mask()
        self._closing = TokenLimits(limits.vocab_size, (limit.closing,)).fixed_mask()
        self._beside = beside
        self._num = 0  # tokens of the output
        self._opened_at: int | None = -1 if limit.inside else None
        self._over = False
        self._forced_at: int | None = None
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
    def _closes_at(self) -> int:
        """Where the closing tag must be, at the earliest if nothing has been opened."""
        opened_at = self._num if self._opened_at is None else self._opened_at
        return opened_at + 1 + self._limit.num_tokens

    @property
    def binds_from(self) -> int:
        """See Constraint. The token after a forced tag needs to be told, too, that it is free."""
        other = _NEVER if self._beside is None else self._beside.binds_from
        if not self._over:
            return min(self._closes_at, other)
        released = self._forced_at is None or self._num > self._forced_at + 1
        return other if released else 0

    def advance(self, token: int) -> None:
        """See Constraint."""
        place, self._num, self._mask = self._num, self._num + 1, None
        if self._beside is not None:
            self._beside.advance(token)
        if self._over:
            return
        if token == self._limit.closing:
            self._over = True
            if place >= self._closes_at:
                self._forced_at = place
        elif self._opened_at is None:
            if token == self._limit.opening:
                self._opened_at = place
            elif place >= _MAX_BEFORE:
                self._over = True

    def prepare(self, batch: Sequence[ThinkingFollower], came: Callable[[], None]) -> None:
        """See Constraint. Its own part is computed when it is asked for."""
        prepare_masks([follower._beside for follower in batch if follower._beside is not None], came)

    @property
    def mask(self) -> MaskRow | None:
        """See Constraint. A grammar that does not let the tag through wins."""
        if self._mask is None:
            words = self._closing if not self._over and self._num >= self._closes_at else self._any
            if self._beside is not None:
                other = self._beside.mask
                if other is None:
                    return None
                both = words & other.words
                words = both if both.any() else other.words
            self._mask = MaskRow.of(words)
        return self._mask
