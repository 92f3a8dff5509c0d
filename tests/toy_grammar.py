"""A grammar for the toy model of fakes.py, in plain Python: the next token depends on all before it."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.model.grammar import Grammar, GrammarKind
from octavo.model.plan import StepPlan
from octavo.scheduler.request import Request


def toy_grammar(length: int) -> Grammar:
    """Complete after `length` tokens."""
    return Grammar(GrammarKind.REGEX, f".{{{length}}}")


class ToyConstraint:
    """Implements scheduler.constraint.Constraint. Token 0 ends a text of an even sum."""

    def __init__(self, vocab_size: int, length: int) -> None:
        self.complete = False
        self.error: str | None = None
        self._vocab_size = vocab_size
        self._length = length
        self._tokens: list[int] = []

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
        self.complete = len(self._tokens) == self._length

    def masks(self, batch: Sequence[ToyConstraint]) -> bytes:
        """See Constraint."""
        num_bytes = 4 * -(-self._vocab_size // 32)
        return b"".join(sum(1 << t for t in c.allowed()).to_bytes(num_bytes, "little") for c in batch)


def forbidden(plan: StepPlan, vocab_size: int) -> dict[int, frozenset[int]]:
    """Slot -> tokens that the plan's masks leave out."""
    if plan.masks is None:
        return {}
    slots, words = plan.masks.slots, bytes(plan.masks.words)
    assert len(words) % len(slots) == 0, f"{len(words)} bytes for {len(slots)} slots"
    num_bytes = len(words) // len(slots)
    masks = [int.from_bytes(words[i : i + num_bytes], "little") for i in range(0, len(words), num_bytes)]
    return {
        slot: frozenset(token for token in range(vocab_size) if not mask >> token & 1)
        for slot, mask in zip(slots, masks, strict=True)
    }
