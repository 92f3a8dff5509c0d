"""A step in pieces says what the whole would have said; only a row that does not fit alone is lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.model.divided_step import merged, run_within_memory
from octavo.model.plan import INVALID_TOKEN, SequenceSlice, StepPlan, StepResult, TokenLogprobs


def row(slot: int, length: int, samples: bool, targets: int) -> SequenceSlice:
    return SequenceSlice(slot, 0, length, [0] * length, [slot], samples, [0] * targets)


def result_of(plan: StepPlan) -> StepResult:
    """Each row says its slot."""
    sampled = [row.slot for row in plan.rows if row.samples]
    return StepResult(
        sampled,
        [TokenLogprobs(-slot, 1, ()) if slot % 3 == 0 else None for slot in sampled],
        [[TokenLogprobs(-row.slot, 1, ())] * len(row.targets) for row in plan.rows if row.targets],
    )


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(0, 40),
)
def test_what_fits_is_told_and_the_rest_has_errors(rows: list[tuple[int, bool, int]], room: int) -> None:
    """room: tokens that fit into memory at once."""
    plan = StepPlan(tuple(row(slot, *rest) for slot, rest in enumerate(rows)))
    refiled: list[StepPlan] = []
    attempts: list[Sequence[SequenceSlice]] = []

    def run(part: StepPlan) -> StepResult:
        attempts.append(part.rows)
        if sum(row.length for row in part.rows) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return result_of(part)

    result = merged(run_within_memory(plan, run, refiled.append))
    whole = result_of(plan)
    lost = [index for index, row in enumerate(plan.rows) if row.length > room]
    assert sorted(result.errors) == lost
    sampled = [index for index, row in enumerate(plan.rows) if row.samples]
    expected = [INVALID_TOKEN if index in lost else index for index in sampled]
    assert list(result.tokens) == expected
    for index, slot in enumerate(sampled):
        if slot not in lost:
            told = result.logprobs[index] if result.logprobs else None
            assert whole.logprobs is not None and told == whole.logprobs[index]
    asked = [index for index, row in enumerate(plan.rows) if row.targets]
    assert [bool(told) for told in result.prompt_logprobs] == [index not in lost for index in asked]
    if len(attempts) == 1:
        assert refiled == [] and attempts == [plan.rows]
    else:
        assert refiled == [plan], "the block tables are brought up to date once, before the second attempt"
        assert not any(row.new_blocks for rows in attempts[1:] for row in rows)


def test_the_request_is_told_what_did_not_fit() -> None:
    def run(part: StepPlan) -> StepResult:
        raise torch.OutOfMemoryError("CUDA out of memory")

    plan = StepPlan((row(0, 8000, True, 7999),))
    (error,) = merged(run_within_memory(plan, run, lambda plan: None)).errors.values()
    assert "out of memory at this request" in str(error)
    assert "8000 tokens and their 7999 log-probabilities" in str(error)


def test_other_errors_are_nobodys_memory() -> None:
    def run(part: StepPlan) -> StepResult:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        run_within_memory(StepPlan((row(0, 1, True, 0),)), run, lambda plan: None)
