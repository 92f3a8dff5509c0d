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
    assert (meter.rows.total, meter.tokens.total, meter.prompt_tokens.total) == (4, 44, 42)


def test_a_step_without_a_prompt_has_no_chunk_size() -> None:
    meter = StepMeter()
    meter.planned(plan(1, 1, 1), 0.001, 0.002)
    assert (meter.rows.total, meter.tokens.total, meter.prompt_tokens.count) == (3, 3, 0)


def test_every_phase_is_filed_once_a_step() -> None:
    meter = StepMeter()
    meter.planned(plan(1), 1.0, 2.0)
    meter.completed(step_s=9.0, wait_s=3.0, commit_s=4.0, deliver_s=5.0)
    assert [meter.phases[phase].total for phase in PHASES] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert {meter.phases[phase].count for phase in PHASES} == {1}
    assert meter.step_s.total == 9.0
