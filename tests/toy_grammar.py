"""A grammar for the toy model of fakes.py, in plain Python: the next token depends on all before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from octavo.model.grammar import Grammar, GrammarKind
from octavo.scheduler.constraint import MaskRow
from octavo.scheduler.request import Request
from octavo.scheduler.thinking_limit import ThinkingLimit


def toy_grammar(length: int) -> Grammar:
    """Complete after `length` tokens."""
    return Grammar(GrammarKind.REGEX, f".{{{length}}}")


class ToyConstraint:
    """Implements scheduler.constraint.Constraint. Token 0 ends a text of an even sum.

    late: its masks come when `arrive` is called.
    """

    binds_from = 0

    def __init__(self, vocab_size: int, length: int) -> None:
        self.complete = False
        self.error: str | None = None
        self._vocab_size = vocab_size
        self._length = length
        self._tokens: list[int] = []
        self.late = False
        self.came: Callable[[], None] = lambda: None
        self._row: MaskRow | None = None

    @classmethod
    def of(cls, request: Request, vocab_size: int) -> ToyConstraint | None:
        """What the request's toy_grammar means, if it has one."""
        grammar = request.params.grammar
        return None if grammar is None else cls(vocab_size, int(grammar.source[2:-1]))

    def allowed(self) -> frozenset[int]:
        """Tokens that may come next."""
        total = sum(self._tokens)
        going_on = {token for token in range(1, self._vocab_size) if (token + total) % 3}
        return frozenset(going_on if total % 2 else going_on | {0})

    def advance(self, token: int) -> None:
        """See Constraint."""
        assert not self.complete, f"{token} comes after the end"
        assert token in self.allowed(), f"{token} may not follow {self._tokens}"
        self._tokens.append(token)
        self._row = None
        self.complete = len(self._tokens) == self._length

    @property
    def mask(self) -> MaskRow | None:
        """See Constraint."""
        if self._row is None and not self.late:
            self._fill([self])
        return self._row

    def prepare(self, batch: Sequence[ToyConstraint], came: Callable[[], None]) -> None:
        """See Constraint. Those that are not late are computed together."""
        self._fill([constraint for constraint in batch if not constraint.late])
        for constraint in batch:
            constraint.came = came

    def _fill(self, batch: Sequence[ToyConstraint]) -> None:
        if batch:
            block = np.stack([mask_words(c.allowed(), self._vocab_size) for c in batch])
            for row, constraint in enumerate(batch):
                constraint._row = MaskRow(block, row)

    def arrive(self) -> None:
        """The mask of a late one has come."""
        assert self.late and self._row is None
        self._row = MaskRow.of(mask_words(self.allowed(), self._vocab_size))
        self.came()


def mask_words(tokens: Iterable[int], vocab_size: int) -> NDArray[np.int32]:
    """The mask that lets these through."""
    num_bytes = 4 * -(-vocab_size // 32)
    return np.frombuffer(sum(1 << token for token in tokens).to_bytes(num_bytes, "little"), np.int32)


def forbidden(words: NDArray[np.int32] | bytes, vocab_size: int) -> frozenset[int]:
    """Tokens that a mask leaves out."""
    mask = int.from_bytes(bytes(words), "little")
    return frozenset(token for token in range(vocab_size) if not mask >> token & 1)


def must_close(limit: ThinkingLimit, said: Sequence[int]) -> bool:
    """Whether a model that has said this must end its reasoning now."""
    text = [limit.opening, *said] if limit.inside else list(said)
    if limit.opening not in text[: 4 if limit.inside else 3]:
        return False
    thought = text[text.index(limit.opening) + 1 :]
    return limit.closing not in text and len(thought) >= limit.num_tokens
