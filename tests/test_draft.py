"""StepDraft: the rows of a plan, and that a row taken back leaves nothing behind."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_maker import make_sequence

from octavo.model.plan import PlainRows, SequenceSlice, SlotStart, StepPlan
from octavo.scheduler.decode_batch import DecodeBatch
from octavo.scheduler.draft import StepDraft
from octavo.scheduler.sequence import Sequence
from octavo.scheduler.step_time import StepLoad


def running_sequence(slot: int, num_prompt: int, num_scheduled: int) -> Sequence:
    sequence = make_sequence(range(100 * slot, 100 * slot + num_prompt), order=slot)
    sequence.begin(slot, num_scheduled)
    return sequence


def test_decodes_and_single_tokens_come_first_each_with_its_owner() -> None:
    chunk, single, last, decode = (
        running_sequence(slot, 8, start) for slot, start in enumerate((0, 3, 4, 8))
    )
    draft = StepDraft(20)
    draft.add_prefill(chunk, 0, 5, [7, 8])
    draft.add_prefill(single, 3, 1, ())
    draft.add_prefill(last, 4, 4, [9])
    draft.add_decode(decode, 8, [6])
    plan, owners = draft.build()
    assert plan.rows == (
        SequenceSlice(1, 3, 1, array("i", [103]), (), False),
        SequenceSlice(3, 8, 1, None, [6], True),
        SequenceSlice(0, 0, 5, array("i", range(5)), [7, 8], False),
        SequenceSlice(2, 4, 4, array("i", range(204, 208)), [9], True),  # its prompt ends here
    )
    assert all(type(row) is SequenceSlice for row in plan.rows)
    assert owners == [single, decode, chunk, last]
    assert draft.budget == 20 - 5 - 1 - 4 - 1
    assert [s.num_scheduled for s in (chunk, single, last, decode)] == [5, 4, 8, 9]


@given(st.lists(st.integers(0, 4), max_size=6), st.data())
@settings(deadline=None)
def test_remove_undoes_all_of_an_add(lengths: list[int], data: st.DataObject) -> None:
    """lengths: of prefill rows; 0 is a decode. The draft is as if the removed had never been there."""
    removed = data.draw(st.sets(st.sampled_from(range(len(lengths)))) if lengths else st.just(set[int]()))

    def build(skip: set[int], remove: set[int]) -> tuple[StepDraft, list[Sequence]]:
        draft = StepDraft(50)
        sequences = [
            running_sequence(slot, 9, 9 if length == 0 else 2) for slot, length in enumerate(lengths)
        ]
        for slot, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            if slot in skip:
                continue
            if length == 0:
                draft.add_decode(sequence, 9, [slot])
            else:
                draft.add_prefill(sequence, 2, length, [slot])
        for slot in remove:
            draft.remove(sequences[slot])
        return draft, sequences

    (draft, sequences), (never, expected) = build(set(), removed), build(removed, set())
    (plan, owners), (expected_plan, expected_owners) = draft.build(), never.build()
    assert plan == expected_plan
    assert [s.slot for s in owners] == [s.slot for s in expected_owners]
    assert draft.budget == never.budget
    assert [s.num_scheduled for s in sequences] == [s.num_scheduled for s in expected]


def test_removing_who_has_no_row_changes_nothing() -> None:
    draft, sequence, stranger = StepDraft(5), running_sequence(0, 4, 4), running_sequence(1, 4, 2)
    draft.add_decode(sequence, 4, ())
    draft.remove(stranger)
    assert len(draft.build()[0].rows) == 1
    assert (draft.budget, stranger.num_scheduled) == (4, 2)


def test_starts_are_part_of_the_plan() -> None:
    draft, sequence = StepDraft(5), running_sequence(2, 4, 0)
    start = SlotStart(2, sequence.request.params, 0, frozenset(), sequence.token_ids, ())
    draft.starts.append(start)
    assert draft.build() == (StepPlan((), (start,)), [])


def test_plain_rows_come_first_count_for_the_load_and_can_be_taken_back() -> None:
    batch, draft = DecodeBatch(4), StepDraft(100)
    first, second, third, other = (running_sequence(slot, 4 + slot, 4 + slot) for slot in range(4))
    for sequence in (first, second, third):
        assert sequence.table.ensure(8)
        batch.join(sequence)
    batch.advance()
    slots, starts, owners = batch.rows()
    draft.add_plain(PlainRows(slots, starts, [2, 1], [30, 31]), owners, batch.context_tokens)
    draft.add_decode(other, 7, [5])
    assert draft.load() == StepLoad(4, 4 + 5 + 6 + 7) and draft.budget == 96
    batch.leave(second)
    draft.remove(second)
    plan, owners = draft.build()
    assert plan.rows == (
        SequenceSlice(0, 4, 1, None, (), True),
        SequenceSlice(2, 6, 1, None, [30], True),
        SequenceSlice(3, 7, 1, None, [5], True),
    )
    assert plan.num_rows == 3 and all(type(row) is SequenceSlice for row in plan.rows)
    assert draft.plain_owners == [first, third] and owners == [other] and draft.budget == 97
    assert [s.num_scheduled for s in (first, second, third, other)] == [5, 5, 7, 8]
