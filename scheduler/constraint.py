"""What a sequence may say next, as far as the scheduler is concerned. Knows no grammar and no text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Constraint(Protocol):
    """Follows one sequence, token by token. Nothing here raises.

    complete: nothing may follow any more.   error: one sentence, once the sequence cannot be followed.
    """

    @property
    def complete(self) -> bool: ...

    @property
    def error(self) -> str | None: ...

    def advance(self, token: int) -> None:
        """The sequence goes on with `token`, which its mask allowed."""

    def masks(self, batch: Sequence[Any]) -> bytes | memoryview:
        """What each of `batch`, of this one's kind, may take next: `TokenMasks.words`."""
