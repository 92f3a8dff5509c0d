"""One request's failure is one request's end: something is planted at each place that touches one of several.

What concerns them all still ends the engine: a device that fails (test_engine.py), books that are wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from stepper import Stepper
from toy_grammar import ToyConstraint, toy_grammar

from octavo.cache.block_table import BlockTable
from octavo.scheduler.constraint import MaskRow
from octavo.scheduler.draft import StepDraft
from octavo.scheduler.sequence import Sequence as Running

VICTIM = "r1"


class Planted(Exception):
    """What is planted."""


def plant(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, after: int = 0) -> None:
    """`owner.name` raises when it has to do with the victim, from the `after`th time on."""
    original: Callable[..., Any] = getattr(owner, name)
    times = 0

    def planted(*args: Any, **settings: Any) -> Any:
        nonlocal times
        if any(isinstance(arg, Running) and arg.request_id == VICTIM for arg in args):
            times += 1
            if times > after:
                raise Planted(name)
        return original(*args, **settings)

    monkeypatch.setattr(owner, name, planted)


def others_live(depth: int, **settings: Any) -> Stepper:
    """Six requests, of which the second is broken, to their ends. Stepper checks the right answers of the
    others, and after every step that no block and no slot is lost."""
    stepper = Stepper(depth=depth, num_blocks=30)
    stepper.broken.add(VICTIM)
    for index in range(6):
        stepper.add([index + 1] * (3 + 5 * (index % 3)), max_tokens=9, **settings)
    stepper.run()
    assert stepper.received[VICTIM].last is not None
    # And afterwards, as if nothing had been.
    stepper.add([7, 8, 9], max_tokens=5)
    stepper.run()
    return stepper


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (Running, "hash_blocks", 0),  # admission, which looks for its prefix
        (Running, "slot_start", 0),
        (Running, "targets", 0),
        (StepDraft, "add_prefill", 0),
        (StepDraft, "add_decode", 0),
        (Running, "append", 0),  # commit: the first token
        (Running, "append", 1),  # the last, or one that fills a block
        (Running, "hash_blocks", 1),  # a block that got full
    ],
)
def test_a_failure_in_planning_or_filing_ends_its_own_request(
    monkeypatch: pytest.MonkeyPatch, depth: int, owner: type, name: str, after: int
) -> None:
    plant(monkeypatch, owner, name, after)
    others_live(depth)


@pytest.mark.parametrize("depth", [0, 1])
def test_prompt_scores_that_cannot_be_told_end_their_own_request(
    monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    plant(monkeypatch, Running, "tell")
    others_live(depth, prompt_logprobs=2)


class BrokenConstraint(ToyConstraint):
    """Fails at `fails`, the `after`th time and later."""

    fails, after, times = "", 0, 0

    @property
    def mask(self) -> MaskRow | None:
        """See Constraint."""
        self.count("mask")
        return super().mask

    def advance(self, token: int) -> None:
        """See Constraint."""
        self.count("advance")
        super().advance(token)

    def count(self, called: str) -> None:
        self.times += called == self.fails
        if called == self.fails and self.times > self.after:
            raise Planted(called)


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(("name", "after"), [("mask", 2), ("mask", 9), ("advance", 0), ("advance", 3)])
def test_a_grammar_that_fails_ends_its_own_request(
    monkeypatch: pytest.MonkeyPatch, depth: int, name: str, after: int
) -> None:
    def constraint(request: Any, vocab_size: int) -> ToyConstraint | None:
        if request.params.grammar is None:
            return None
        made = BrokenConstraint(vocab_size, int(request.params.grammar.source[2:-1]))
        if request.request_id == VICTIM:
            made.fails, made.after = name, after
        return made

    stepper = Stepper(depth=depth, num_blocks=30)
    stepper.broken.add(VICTIM)
    with monkeypatch.context() as patched:
        patched.setattr("stepper.ToyConstraint.of", constraint)
        for index in range(5):
            stepper.add([index + 1] * 4, max_tokens=9, structured_outputs=toy_grammar(8) if index else None)
    stepper.run()


@pytest.mark.parametrize("depth", [0, 1])
def test_what_the_device_says_of_one_slot_ends_its_own_request(depth: int) -> None:
    stepper = Stepper(depth=depth, num_blocks=30)
    stepper.executor.refuses = lambda start: start.prompt_tokens[0] == 2
    stepper.broken.add(VICTIM)
    for index in range(6):
        stepper.add([index + 1] * (3 + 30 * (index == 1)), max_tokens=9)
    stepper.run()
    assert not stepper.received[VICTIM].token_ids


def test_books_that_are_wrong_afterwards_end_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks that the victim was about to take over belong to nobody then."""
    stepper = Stepper(depth=0)
    stepper.add([1] * 12, max_tokens=4)
    stepper.run()

    def adopt(table: BlockTable, blocks: list[int]) -> None:
        raise Planted("adopt")

    monkeypatch.setattr(BlockTable, "adopt", adopt)
    stepper.add([1] * 12, max_tokens=4)
    with pytest.raises(AssertionError, match="a block leaked"):
        stepper.scheduler.schedule()
