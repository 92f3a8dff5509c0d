"""Sequences with a grammar among others: who runs in which step, and that masks are never stale."""

from __future__ import annotations

import pytest
from fakes import EOS, ToyModel
from stepper import Stepper
from toy_grammar import ToyConstraint, toy_grammar

from octavo.model.plan import StepPlan
from octavo.scheduler.request import FinishReason
from octavo.scheduler.token_limits import TokenLimits


def slots_by_step(stepper: Stepper, num_steps: int) -> list[set[int]]:
    for _ in range(num_steps):
        stepper.step()
    return [{row.slot for row in plan.rows} for plan in stepper.executor.plans]


def masked_slots(plan: StepPlan) -> list[int]:
    return [slot for masks in plan.masks for slot in masks.slots]


def test_a_bound_sequence_runs_in_every_second_step_and_the_others_in_each() -> None:
    stepper = Stepper()
    stepper.add([1, 2], max_tokens=12, structured_outputs=toy_grammar(40))
    stepper.add([3, 4], max_tokens=12)
    steps = slots_by_step(stepper, 8)
    assert [0 in slots for slots in steps] == [True, False] * 4
    assert all(1 in slots for slots in steps)
    assert [masked_slots(plan) for plan in stepper.executor.plans] == [[0], []] * 4
    stepper.run()


def test_bound_sequences_alone_leave_no_step_empty() -> None:
    stepper = Stepper()
    stepper.add([1, 2], max_tokens=6, structured_outputs=toy_grammar(40))
    stepper.run()
    assert len(stepper.executor.plans) == 6


def test_without_overlap_a_bound_sequence_runs_in_every_step() -> None:
    stepper = Stepper(depth=0)
    stepper.add([1, 2], max_tokens=12, structured_outputs=toy_grammar(40))
    assert all(0 in slots for slots in slots_by_step(stepper, 6))
    stepper.run()


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_complete_grammar_ends_the_sequence(ignore_eos: bool) -> None:
    stepper = Stepper()
    request_id = stepper.add(
        [1, 2], max_tokens=12, min_tokens=8, ignore_eos=ignore_eos, structured_outputs=toy_grammar(5)
    )
    stepper.run()
    received = stepper.received[request_id]
    assert len(received.token_ids) == 5
    assert (received.end.finish_reason, received.end.stop_reason) == (FinishReason.STOP, None)


def test_the_end_token_is_taken_only_where_the_grammar_allows_it() -> None:
    stepper = Stepper(model=ToyModel(eos_probability=0.9))
    for seed in range(12):
        stepper.add(
            [1, 2],
            max_tokens=20,
            temperature=1,
            seed=seed,
            eos_token_ids=frozenset({EOS}),
            structured_outputs=toy_grammar(40),
        )
    stepper.run()  # every answer is compared with what the grammar allows, token by token
    texts = [received.token_ids for received in stepper.received.values()]
    assert all(sum(text) % 2 == 0 for text in texts if text[-1] == EOS)
    assert any(text[-1] == EOS and len(text) > 1 for text in texts)


def test_a_chunked_prompt_needs_no_mask_before_its_last_chunk() -> None:
    stepper = Stepper(max_num_batched_tokens=8)
    stepper.add(list(range(1, 21)), max_tokens=3, structured_outputs=toy_grammar(40))
    stepper.run()
    assert [masked_slots(plan) for plan in stepper.executor.plans] == [[], [], [0], [0], [0]]


def test_a_preempted_sequence_goes_on_where_its_grammar_was() -> None:
    stepper = Stepper(num_blocks=9, block_size=2, prefix_caching=False)
    for _ in range(3):
        stepper.add([1, 2], max_tokens=10, structured_outputs=toy_grammar(40))
    stepper.run()
    assert stepper.scheduler.counters.num_preemptions > 0


def test_a_constraint_that_fails_ends_its_own_request() -> None:
    stepper = Stepper()
    request_id = stepper.add([1, 2], max_tokens=6, structured_outputs=toy_grammar(40))
    sequence = stepper.scheduler._sequences[request_id]
    assert sequence.constraint is not None
    sequence.constraint.error = "lost"  # type: ignore[misc]  # the toy's is a plain attribute
    other = stepper.add([3, 4], max_tokens=6)
    for _ in range(2):
        plan = stepper.schedule()
        assert plan is not None
        (output, *_) = stepper.scheduler.commit(plan, stepper.executor.launch(plan).get())
        if output.finish_reason is not None:
            break
    assert (output.request_id, output.finish_reason, output.error) == (
        request_id,
        FinishReason.ERROR,
        "lost",
    )
    assert stepper.scheduler.request_ids() == [other]


def test_a_constraint_that_fails_at_its_mask_does_not_end_as_if_all_were_well() -> None:
    stepper = Stepper(model=ToyModel(eos_probability=1.0))
    request_id = stepper.add(
        [2], max_tokens=6, eos_token_ids=frozenset({EOS}), structured_outputs=toy_grammar(40)
    )
    plan = stepper.schedule()
    assert plan is not None
    constraint = stepper.scheduler._sequences[request_id].constraint
    constraint.error = "too difficult"  # type: ignore[union-attr, misc]
    (output,) = stepper.scheduler.commit(plan, stepper.executor.launch(plan).get())
    assert (list(output.token_ids), output.finish_reason) == ([EOS], FinishReason.ERROR)
    assert output.error == "too difficult"


def test_logits_that_are_not_finite_or_banned_altogether_are_told_so() -> None:
    stepper = Stepper(model=ToyModel(nan_probability=1.0))
    stepper.add([1], structured_outputs=toy_grammar(40))
    stepper.run()
    assert "no token was left" in (stepper.received["r0"].end.error or "")


def test_a_fixed_mask_travels_with_the_start_and_leaves_no_step_out() -> None:
    """What does not depend on the tokens before is the slot's own; the device checks every token."""
    stepper = Stepper()
    limits = TokenLimits(ToyModel().vocab_size, (1, 2, 3, 4), ((2,),))
    bound = stepper.add([1, 2], max_tokens=8, limits=limits, allowed_token_ids=(1, 2, 3, 4), bad_words=("b",))
    stepper.add([3, 4], max_tokens=8)
    steps = slots_by_step(stepper, 8)
    assert all(slots == {0, 1} for slots in steps)
    assert [masked_slots(plan) for plan in stepper.executor.plans] == [[]] * 8
    stepper.run()
    assert set(stepper.received[bound].token_ids) <= {1, 3, 4}


def test_a_row_whose_mask_is_late_sits_out_and_the_others_go_on() -> None:
    stepper = Stepper(depth=0)
    late = stepper.add([1, 2], max_tokens=4, structured_outputs=toy_grammar(40))
    stepper.add([3, 4], max_tokens=8, structured_outputs=toy_grammar(40))
    constraint = stepper.scheduler._sequences[late].constraint
    assert isinstance(constraint, ToyConstraint)
    assert constraint.mask is not None, "the first is there with the grammar"
    constraint.late = True
    heard: list[bool] = []
    stepper.scheduler.on_masks = lambda: heard.append(True)
    assert slots_by_step(stepper, 3) == [{0, 1}, {1}, {1}]
    assert stepper.scheduler.awaits_masks and not stepper.scheduler.masks_under_way, "asked for two steps ago"
    constraint.arrive()
    assert heard == [True] and not stepper.scheduler.awaits_masks
    assert slots_by_step(stepper, 1)[-1] == {0, 1}
    constraint.late = False
    stepper.run()


def test_masks_that_were_computed_together_stay_where_they_are() -> None:
    stepper = Stepper(depth=0)
    for first in (1, 3, 5):
        stepper.add([first, 2], max_tokens=6, structured_outputs=toy_grammar(40))
    slots_by_step(stepper, 2)
    constraints = [sequence.constraint for sequence in stepper.scheduler._sequences.values()]
    blocks = [c.mask.block for c in constraints if c is not None and c.mask is not None]
    slots_by_step(stepper, 1)
    *_, last = stepper.executor.plans
    (together,) = last.masks
    assert together.words is blocks[0] is blocks[1] is blocks[2]
    stepper.run()


def test_a_preempted_sequence_whose_mask_is_late_comes_back_when_it_is_there() -> None:
    stepper = Stepper(num_blocks=9, block_size=2, prefix_caching=False, depth=0)
    names = [stepper.add([1, 2], max_tokens=10, structured_outputs=toy_grammar(40)) for _ in range(3)]
    constraints = [stepper.scheduler._sequences[name].constraint for name in names]
    for constraint in constraints:
        assert isinstance(constraint, ToyConstraint) and constraint.mask is not None
        constraint.late = True
    for _ in range(60):
        if stepper.scheduler.request_ids():
            stepper.step()
        for constraint in constraints:
            assert isinstance(constraint, ToyConstraint)
            if constraint.late and constraint.mask is None and not constraint.complete:
                constraint.arrive()
    stepper.run()
    assert stepper.scheduler.counters.num_preemptions > 0
