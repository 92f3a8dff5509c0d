"""How long a model may think: forced to close in time, left alone before and after."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from fakes import ToyModel
from stepper import Stepper

from octavo.scheduler.thinking_limit import ThinkingFollower, ThinkingLimit
from octavo.scheduler.token_limits import TokenLimits

VOCAB_SIZE = ToyModel().vocab_size
OPEN, CLOSE = VOCAB_SIZE - 2, VOCAB_SIZE - 1
EVERYTHING = set(range(VOCAB_SIZE))


def limit(num_tokens: int, inside: bool) -> ThinkingLimit:
    return ThinkingLimit(num_tokens, OPEN, CLOSE, inside, VOCAB_SIZE)


def follower(num_tokens: int, *, inside: bool = False, said: tuple[int, ...] = ()) -> ThinkingFollower:
    made = limit(num_tokens, inside).follower(TokenLimits(VOCAB_SIZE), None)
    for token in said:
        made.advance(token)
    return made


def allowed(follower: ThinkingFollower) -> set[int]:
    assert follower.mask is not None
    words = follower.mask.words.view(np.uint8)
    return set(np.flatnonzero(np.unpackbits(words, bitorder="little")).tolist())


@pytest.mark.parametrize(
    ("said", "binds_from"),
    [
        ((), 4),  # <think> 1 2 3 </think>, at the earliest
        ((OPEN,), 4),
        ((5,), 5),
        ((5, OPEN), 5),
        ((5, 6, 7), sys.maxsize),  # answers without thinking
        ((OPEN, 1, CLOSE), sys.maxsize),
        ((OPEN, 1, 2, 3), 4),
        ((OPEN, 1, 2, 3, CLOSE), 0),  # the next is told that it is free
        ((OPEN, 1, 2, 3, CLOSE, 9), sys.maxsize),
        ((OPEN, 1, 2, 3, CLOSE, OPEN, 9), sys.maxsize),
        ((CLOSE,), sys.maxsize),
    ],
)
def test_from_where_on_it_binds(said: tuple[int, ...], binds_from: int) -> None:
    assert follower(3, said=said).binds_from == binds_from


def test_what_may_come_at_the_limit_and_after() -> None:
    assert allowed(follower(3, said=(OPEN, 1, 2, 3))) == {CLOSE}
    assert allowed(follower(3, said=(OPEN, 1, 2, 3, CLOSE))) == EVERYTHING
    assert follower(3, inside=True).binds_from == 3
    assert allowed(follower(3, inside=True, said=(1, 2, 3))) == {CLOSE}
    assert allowed(follower(0, inside=True)) == {CLOSE}, "no reasoning at all"


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("num_tokens", [0, 1, 5, 40])
def test_a_sequence_thinks_no_longer_and_skips_steps_only_at_the_limit(num_tokens: int, depth: int) -> None:
    stepper = Stepper(depth=depth)
    thinking = stepper.add([1, 2], max_tokens=16, thinking=limit(num_tokens, True))
    free = stepper.add([1, 2], max_tokens=16)
    stepper.run()
    said, usual = (stepper.received[name].token_ids for name in (thinking, free))
    assert CLOSE not in usual, "the toy does not close by itself"
    assert said[:num_tokens] == usual[:num_tokens]
    assert said[num_tokens : num_tokens + 1] == [CLOSE][: max(0, 16 - num_tokens)]
    skipped = sum(all(row.slot != 0 for row in plan.rows) for plan in stepper.executor.plans[:16])
    assert skipped <= 3 * depth  # before the tag, before and after the token that is told it is free
    assert len({*said[num_tokens + 1 :]} - {CLOSE}) > 1 or num_tokens > 5, "free again"


def test_a_preempted_sequence_goes_on_thinking_where_it_was() -> None:
    stepper = Stepper(num_blocks=9, block_size=2, prefix_caching=False)
    names = [stepper.add([1, 2], max_tokens=12, thinking=limit(4, True)) for _ in range(3)]
    stepper.run()
    assert stepper.scheduler.counters.num_preemptions > 0
    texts = [stepper.received[name].token_ids for name in names]
    assert texts[0] == texts[1] == texts[2] and texts[0][4] == CLOSE
