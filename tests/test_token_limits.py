"""Which tokens a sequence may take, token by token, alone and beside a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from octavo.scheduler.token_limits import LimitFollower, TokenLimits


def allowed(follower: LimitFollower) -> set[int]:
    words = np.frombuffer(follower.mask(), np.uint8)
    return set(np.flatnonzero(np.unpackbits(words, bitorder="little")).tolist())


class Only:
    """A constraint that allows a few tokens, and is complete after one."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self.complete = False
        self.error: str | None = None

    def advance(self, token: int) -> None:
        self.complete = True

    def masks(self, batch: Sequence[Any]) -> bytes:
        return TokenLimits(70, tuple(self._tokens)).follower(None).mask()


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 70])
def test_all_of_a_vocabulary_and_nothing_beyond(vocab_size: int) -> None:
    assert allowed(TokenLimits(vocab_size).follower(None)) == set(range(vocab_size))


def test_a_list_without_what_is_banned() -> None:
    limits = TokenLimits(70, (0, 31, 32, 69), ((31,), (5,)))
    assert allowed(limits.follower(None)) == {0, 32, 69}


def test_a_sequence_is_refused_at_its_last_token_only() -> None:
    follower = TokenLimits(70, (1, 2, 3, 4), ((1, 2), (1, 1, 3), (2, 4))).follower(None)
    said: list[int] = []
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
    assert allowed(follower) == {40}
    assert not follower.complete
    follower.advance(40)
    assert follower.complete
    grammar.error = "lost"
    assert follower.error == "lost"


def test_a_batch_is_row_by_row() -> None:
    followers = [TokenLimits(70, (token,)).follower(None) for token in (3, 64)]
    assert followers[0].masks(followers) == followers[0].mask() + followers[1].mask()
