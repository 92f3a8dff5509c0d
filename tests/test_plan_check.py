"""PlanCheck: what a scheduler plans passes, each way to break a plan is caught before it is launched."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fakes import FakeExecutor, ToyModel
from stepper import Stepper

from octavo.cache.config import CacheConfig
from octavo.model.plan import PlainRows, SequenceSlice, SlotStart, StepPlan
from octavo.model.plan_check import PlanCheck, PlanError
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.engine import Engine
from octavo.scheduler.request import FinishReason, Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

START = SlotStart(0, SamplingParams(), 0, frozenset(), [1] * 5, [])
ROW = SequenceSlice(0, 0, 5, [1] * 5, [3, 4], True)
DECODE = SequenceSlice(1, 0, 1, None, [7], True)


def test_all_that_a_scheduler_plans_passes() -> None:
    stepper = Stepper(num_blocks=12)
    for number in range(12):
        stepper.add([number + 1] * 9, max_tokens=12)
    stepper.run()
    check = PlanCheck(stepper.config.max_num_seqs, 12, 4)
    assert stepper.scheduler.counters.num_preemptions > 0
    for plan in stepper.executor.plans:
        check.check(plan)


@pytest.mark.parametrize(
    ("rows", "starts", "message"),
    [
        ([ROW._replace(slot=4)], [], r"slots must differ and be in \[0, 4\), got \[4\]"),
        ([ROW._replace(slot=-1)], [], "slots must differ"),
        ([DECODE._replace(slot=0), ROW], [], "slots must differ"),
        ([ROW._replace(start=-1)], [START], "begin at 0 or later"),
        ([ROW._replace(length=0, tokens=[])], [START], "have a token"),
        ([ROW, DECODE], [START], "rows of one token must come first"),
        ([DECODE], [START], "slot 0 starts without a row"),
        ([ROW._replace(new_blocks=[3, 10])], [START], r"blocks in \[0, 10\), got \[3, 10\]"),
        ([ROW._replace(new_blocks=[3])], [START], "room for 4 tokens, and would hold 5"),
        ([ROW._replace(tokens=[1] * 4)], [START], "must bring 5 tokens"),
        ([ROW._replace(tokens=None)], [START], "must bring 5 tokens, got None"),
    ],
)
def test_a_broken_plan_is_named(rows: list[SequenceSlice], starts: list[SlotStart], message: str) -> None:
    check = PlanCheck(4, 10, 4)
    with pytest.raises(PlanError, match=message):
        check.check(StepPlan(tuple(rows), tuple(starts)))


@pytest.mark.parametrize(
    ("slots", "starts", "grown", "blocks", "message"),
    [
        ([0, 1], [5, 5], [], [], None),
        ([0, 1], [8, 5], [0], [9], None),
        ([0, 0], [5, 5], [], [], r"slots must differ and be in \[0, 4\), got \[0, 0\]"),
        ([0, 4], [5, 5], [], [], "slots must differ"),
        ([0, 1], [5, -1], [], [], "begin at 0 or later"),
        ([0, 1], [5, 8], [0], [9], "slot 1 has room for 8 tokens, and would hold 9"),
        ([0, 1], [8, 5], [0], [10], r"slot 0 must get blocks in \[0, 10\), got \[10\]"),
    ],
)
def test_plain_rows_are_checked_too(
    slots: list[int], starts: list[int], grown: list[int], blocks: list[int], message: str | None
) -> None:
    check = PlanCheck(4, 10, 4)
    check.check(StepPlan((ROW, ROW._replace(slot=1, new_blocks=[5, 6])), (START,)))
    plain = PlainRows(np.array(slots, np.int32), np.array(starts, np.int32), grown, blocks)
    if message is None:
        check.check(StepPlan((), plain=plain))
    else:
        with pytest.raises(PlanError, match=message):
            check.check(StepPlan((), plain=plain))


def test_an_engine_whose_plan_is_broken_ends_before_the_device_sees_it() -> None:
    class Broken(Scheduler):
        """Plans a block that the device does not have."""

        def schedule(self) -> StepPlan | None:
            plan = super().schedule()
            if plan is not None:
                row = plan.rows[0]._replace(new_blocks=[10_000])
                plan = StepPlan((row, *plan.rows[1:]), plan.starts)
            return plan

    async def run() -> list[TokenOutput]:
        config = SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=16, max_model_len=64)
        executor = FakeExecutor(ToyModel(), num_slots=2, num_blocks=64, block_size=4)
        heard: list[TokenOutput] = []
        engine = Engine(Broken(config, CacheConfig(64, 4)), executor, heard.extend)
        params = SamplingParams(temperature=0, max_tokens=3)
        engine.add(Request(request_id="r", prompt_token_ids=[1, 2], params=params, max_tokens=3))
        with pytest.raises(PlanError, match="slot 0 must get blocks"):
            await engine.run()
        assert not executor.plans
        return heard

    (output,) = asyncio.run(run())
    assert output.finish_reason is FinishReason.ERROR
    assert output.error is not None and output.error.startswith("PlanError: slot 0 must get blocks")
