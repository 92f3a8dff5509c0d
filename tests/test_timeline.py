"""The timeline: what is kept of steps, and that nothing is kept when nobody looks."""

from __future__ import annotations

from octavo.model.plan import SequenceSlice, StepPlan
from octavo.scheduler.timeline import StepRecord, Timeline


def plan(*lengths: int) -> StepPlan:
    rows = [SequenceSlice(slot, 0, length, [1] * length, [], True) for slot, length in enumerate(lengths)]
    return StepPlan(tuple(rows))


def test_steps_say_what_they_carried() -> None:
    timeline = Timeline(7)
    timeline.look(-1, 0.0)
    assert timeline.record(plan(1, 1, 5, 20), 0.5, 1.0)
    assert timeline.record(plan(1, 1, 1), 1.0, 1.5)
    assert timeline.look(-1, 2.0) == [StepRecord(7, 0.5, 1.0, 2, 25, 2), StepRecord(8, 1.0, 1.5, 3, 0, 0)]
    assert timeline.look(7, 2.0) == [StepRecord(8, 1.0, 1.5, 3, 0, 0)]
    assert timeline.look(8, 2.0) == []


def test_who_has_not_looked_for_long_gets_the_newest() -> None:
    timeline = Timeline(0)
    timeline.look(-1, 0.0)
    for number in range(2000):
        timeline.record(plan(1), number / 1000, number / 1000)
    steps = timeline.look(-1, 2.0)
    assert len(steps) == 512 and steps[-1].number == 1999
    assert [step.number for step in steps] == sorted(step.number for step in steps)


def test_it_says_when_nobody_watches_any_more() -> None:
    timeline = Timeline(0)
    timeline.look(-1, 10.0)
    assert timeline.record(plan(1), 12.0, 12.9)
    assert not timeline.record(plan(1), 12.9, 13.1)
    timeline.look(-1, 13.2)
    assert timeline.record(plan(1), 13.1, 13.3)
