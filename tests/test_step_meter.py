"""What a step carried, read off its plan, and where its time went."""

from __future__ import annotations

from octavo.model.plan import SequenceSlice, StepPlan
from octavo.scheduler.step_meter import PHASES, StepMeter


def plan(*lengths: int) -> StepPlan:
    return StepPlan(
        tuple(SequenceSlice(slot, 0, length, None, (), True) for slot, length in enumerate(lengths))
    )


def test_prompt_tokens_are_those_of_the_chunks() -> None:
    meter = StepMeter()
    meter.planned(plan(1, 1, 30, 12), 0.001, 0.002)
    meter.settle()
    assert (meter.rows.total, meter.tokens.total, meter.prompt_tokens.total) == (4, 44, 42)


def test_a_step_without_a_prompt_has_no_chunk_size() -> None:
    meter = StepMeter()
    meter.planned(plan(1, 1, 1), 0.001, 0.002)
    meter.settle()
    assert (meter.rows.total, meter.tokens.total, meter.prompt_tokens.count) == (3, 3, 0)


def test_every_phase_is_filed_once_a_step() -> None:
    meter = StepMeter()
    meter.planned(plan(1), 1.0, 2.0)
    meter.completed(step_s=9.0, wait_s=3.0, commit_s=4.0, deliver_s=5.0)
    meter.settle()
    assert [meter.phases[phase].total for phase in PHASES] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert {meter.phases[phase].count for phase in PHASES} == {1}
    assert meter.step_s.total == 9.0


def test_steps_are_counted_in_order_however_many_and_once() -> None:
    meter = StepMeter()
    for _ in range(1000):
        meter.planned(plan(1, 4), 1.0, 2.0)
        meter.completed(step_s=9.0, wait_s=3.0, commit_s=4.0, deliver_s=5.0)
        assert len(meter.launched) == len(meter.ended) < 100
    meter.settle()
    meter.settle()
    assert meter.rows.count == meter.step_s.count == meter.phases["deliver"].count == 1000
    assert meter.prompt_tokens.total == 4000
