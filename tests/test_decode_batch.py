"""DecodeBatch: a member has a row in every step, at the right place, until something is to be done for it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_maker import BLOCK_SIZE, make_sequence
from toy_grammar import ToyConstraint

from octavo.cache.block_pool import BlockPool
from octavo.scheduler.decode_batch import DecodeBatch
from octavo.scheduler.sequence import Sequence

NUM_SLOTS = 5


def decoding(slot: int, num_prompt: int, max_tokens: int, pool: BlockPool) -> Sequence:
    """Its prompt is scheduled and its blocks have room for no more than that, rounded up."""
    made = make_sequence(range(num_prompt), order=slot, pool=pool, max_tokens=max_tokens)
    made.begin(slot, 0)
    assert made.table.ensure(num_prompt)
    made.num_scheduled = num_prompt
    return made


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("new"), st.integers(1, 9), st.integers(1, 12)),
            st.tuples(st.just("leave"), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("step"), st.integers(0, 4 * NUM_SLOTS), st.just(0)),
        ),
        max_size=60,
    )
)
@settings(deadline=None, max_examples=300)
def test_rows_follow_each_other_and_who_cannot_go_on_is_told_in_time(
    actions: list[tuple[str, int, int]],
) -> None:
    pool, batch = BlockPool(500), DecodeBatch(NUM_SLOTS)
    scheduled: dict[Sequence, int] = {}  # of the members, as counted here
    free = list(range(NUM_SLOTS))
    for action, first, second in actions:
        if action == "new" and free:
            sequence = decoding(free.pop(), first, second, pool)
            if batch.takes(sequence):
                batch.join(sequence)
                scheduled[sequence] = first
            else:
                assert first % BLOCK_SIZE == 0 or second == 1
                free.append(sequence.slot)
        elif action == "leave" and scheduled:
            sequence = [*scheduled][first % len(scheduled)]
            batch.leave(sequence)
            assert sequence.num_scheduled == scheduled.pop(sequence) and sequence.place == -1
            free.append(sequence.slot)
        elif action == "step":
            expected = [s for s in scheduled if not batch.takes(s)]
            due = batch.due()
            assert set(due) == set(expected) and len(due) == len(expected)
            grown = [s for s in due if scheduled[s] + 1 < s.max_length and s.slot != first]
            for sequence in set(due) - set(grown):
                batch.leave(sequence)
                position = scheduled.pop(sequence)
                assert sequence.num_scheduled == position
                assert position == sequence.max_length - 1 or sequence.slot == first
                free.append(sequence.slot)
            assert all(scheduled[s] % BLOCK_SIZE == 0 for s in grown), "it could have gone on"
            batch.grow(grown, pool.allocate(len(grown)) or [])
            batch.advance()
            slots, starts, owners = batch.rows()
            assert dict(zip(owners, starts.tolist(), strict=True)) == scheduled
            assert slots.tolist() == [s.slot for s in owners]
            assert batch.context_tokens == sum(scheduled.values())
            for sequence in scheduled:
                assert scheduled[sequence] < sequence.table.capacity_tokens
                scheduled[sequence] += 1
        assert {s: s.num_scheduled for s in batch} == scheduled and len(batch) == len(scheduled)


def test_the_rows_of_a_step_stay_as_they_are() -> None:
    pool, batch = BlockPool(50), DecodeBatch(NUM_SLOTS)
    first, second = (decoding(slot, 1, 9, pool) for slot in range(2))
    batch.join(first)
    batch.join(second)
    batch.advance()
    slots, starts, owners = batch.rows()
    batch.leave(first)
    batch.advance()
    assert (slots.tolist(), starts.tolist(), owners) == ([0, 1], [1, 1], [first, second])
    assert [column.tolist() for column in batch.rows()[:2]] == [[1], [2]]


def test_a_sequence_that_left_was_in_the_last_step_that_was_launched() -> None:
    pool, batch = BlockPool(50), DecodeBatch(NUM_SLOTS)
    member = decoding(0, 1, 9, pool)
    batch.join(member)
    batch.advance()
    batch.last_step = batch.clock.now
    batch.advance()  # planned, and taken back before it was launched
    batch.leave(member)
    assert member.last_step == 1


def test_a_grammar_keeps_a_sequence_out() -> None:
    sequence = decoding(0, 1, 9, BlockPool(50))
    assert DecodeBatch.takes(sequence)
    sequence.constraint = ToyConstraint(256, 9)
    assert not DecodeBatch.takes(sequence)
