"""Which tokens a sequence may take, token by token, alone and beside a grammar."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from octavo.scheduler.constraint import Constraint, MaskRow, prepare_masks
from octavo.scheduler.token_limits import TokenLimits


def allowed(follower: Constraint | None) -> set[int]:
    assert follower is not None and follower.mask is not None
    words = follower.mask.words.view(np.uint8)
    return set(np.flatnonzero(np.unpackbits(words, bitorder="little")).tolist())


class Only:
    """A constraint that allows a few tokens, late if asked, and is complete after one."""

    binds_from = 0

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tuple(tokens)
        self.complete = False
        self.error: str | None = None
        self.mask: MaskRow | None = None

    def advance(self, token: int) -> None:
        self.complete = True

    def prepare(self, batch: Sequence[Only], came: Callable[[], None]) -> None:
        for one in batch:
            one.mask = MaskRow.of(TokenLimits(70, one._tokens).fixed_mask())
        came()


def fixed(limits: TokenLimits) -> set[int]:
    words = limits.fixed_mask().view(np.uint8)
    return set(np.flatnonzero(np.unpackbits(words, bitorder="little")).tolist())


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 70])
def test_all_of_a_vocabulary_and_nothing_beyond(vocab_size: int) -> None:
    assert fixed(TokenLimits(vocab_size)) == set(range(vocab_size))


def test_a_list_without_what_is_banned() -> None:
    limits = TokenLimits(70, (0, 31, 32, 69), ((31,), (5,)))
    assert fixed(limits) == {0, 32, 69}
    assert limits.follower(None) is None, "nothing depends on what was said"


def test_a_sequence_is_refused_at_its_last_token_only() -> None:
    follower = TokenLimits(70, (1, 2, 3, 4), ((1, 2), (1, 1, 3), (2, 4))).follower(None)
    said: list[int] = []
    assert follower is not None
    for token in (1, 1, 4, 2, 1, 1, 2):
        refused = {1, 2, 3, 4} - allowed(follower)
        expected = set()
        if said[-1:] == [1]:
            expected.add(2)
        if said[-2:] == [1, 1]:
            expected.add(3)
        if said[-1:] == [2]:
            expected.add(4)
        assert refused == expected, said
        said.append(token)
        follower.advance(token)
    assert (follower.complete, follower.error) == (False, None)


def test_beside_a_grammar_both_hold() -> None:
    grammar = Only((1, 2, 40))
    follower = TokenLimits(70, (2, 40, 41), ((2,),)).follower(grammar)
    assert follower is not None and follower.mask is None, "the grammar's has not come"
    came: list[bool] = []
    prepare_masks([follower], lambda: came.append(True))
    assert came and allowed(follower) == {40}
    assert not follower.complete
    follower.advance(40)
    assert follower.complete
    grammar.error = "lost"
    assert follower.error == "lost"


def test_masks_of_many_are_asked_for_at_once() -> None:
    pairs = [(Only((token, 7)), TokenLimits(70, (token,))) for token in (3, 64)]
    followers = [limits.follower(grammar) for grammar, limits in pairs]
    alone = TokenLimits(70, None, ((1, 2),)).follower(None)
    came: list[bool] = []
    prepare_masks([f for f in (*followers, alone) if f is not None], lambda: came.append(True))
    assert [allowed(follower) for follower in followers] == [{3}, {64}]
    assert came == [True]
