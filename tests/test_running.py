"""Running: slots and blocks go back once, and only when the device is done with them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_maker import BLOCK_SIZE, make_sequence

from octavo.cache.block_pool import BlockPool
from octavo.scheduler.distribution import Distribution
from octavo.scheduler.request import FinishReason
from octavo.scheduler.running import Running
from octavo.scheduler.sequence import Sequence

NUM_SLOTS, NUM_BLOCKS = 3, 32


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "decode", "launch", "leave", "commit"]), st.integers(0, 9)))
)
@settings(deadline=None)
def test_no_slot_and_no_block_is_lost_or_given_twice(actions: list[tuple[str, int]]) -> None:
    pool, running = BlockPool(NUM_BLOCKS), Running(NUM_SLOTS, Distribution((1.0,)))
    retiring: list[Sequence] = []
    committed = 0
    for order, (action, which) in enumerate(actions):
        members = [*running]
        if action == "enter" and running.has_free_slot:
            sequence = make_sequence(range(1, 2 + which), order=order, pool=pool)
            assert sequence.table.ensure(1 + which) is not None
            running.enter(sequence, 0)
        elif action == "commit" and committed < running.batch.last_step:
            committed += 1
            running.begin_commit(committed)
            running.end_commit()
            retiring = [s for s in retiring if s.last_step > committed]
        elif action == "launch":
            running.rejoin()
            for sequence in running.batch.due():
                running.set_apart(sequence)
            running.batch.advance()
            now = running.batch.last_step = running.batch.clock.now
            for sequence in running:
                if sequence.place < 0 and (sequence.order[1] + which) % 2:
                    sequence.last_step = now
        elif members:
            sequence = members[which % len(members)]
            if action == "decode" and sequence in running.prefilling:
                sequence.num_scheduled = sequence.num_prefill
                running.start_decoding(sequence)
            elif action == "leave":
                running.leave(sequence)
                if sequence.last_step > committed:
                    retiring.append(sequence)
        assert [*running.retiring] == retiring
        running.check(pool)
        holders = [*running, *retiring]
        assert len(running) == len(holders) - len(retiring)
        assert running.has_free_slot == (len(holders) < NUM_SLOTS)
        assert running.returning_blocks() == sum(len(s.table) for s in retiring)
        # A slot or a block that the device may still write to belongs to nobody else.
        assert len({s.slot for s in holders}) == len(holders)
        assert pool.num_referenced == sum(len(s.table) for s in holders)


def test_blocks_are_promised_to_prompts_that_have_room_for_their_first_chunk_only() -> None:
    pool, running = BlockPool(NUM_BLOCKS), Running(NUM_SLOTS, Distribution((1.0,)))
    long, short = make_sequence(range(20), pool=pool), make_sequence(range(3), order=1, pool=pool)
    for sequence in (long, short):
        sequence.table.ensure(BLOCK_SIZE)
        running.enter(sequence, 0)
    assert running.promised_blocks() == 4
    long.table.ensure(12)
    assert running.promised_blocks() == 2
    running.start_decoding(long)
    assert running.promised_blocks() == 0


def test_the_order_of_admission_is_kept_and_decodes_come_after_prefills() -> None:
    running = Running(NUM_SLOTS, Distribution((1.0,)))
    first, second, third = (make_sequence(order=order) for order in range(3))
    for sequence in (first, second, third):
        running.enter(sequence, 0)
    running.start_decoding(second)
    assert [*running] == [first, third, second]
    assert [sequence.slot for sequence in (first, second, third)] == [0, 1, 2]


def test_what_a_plan_in_flight_mentions_comes_back_when_it_commits() -> None:
    freed_s = Distribution((1.0,))
    pool, running = BlockPool(NUM_BLOCKS), Running(1, freed_s)
    sequence = make_sequence(range(5), pool=pool)
    sequence.table.ensure(5)
    running.enter(sequence, 0)
    running.batch.advance()
    sequence.last_step = running.batch.clock.now
    sequence.end(FinishReason.ABORT)
    running.leave(sequence)
    assert freed_s.count == 0
    assert (running.has_free_slot, pool.num_referenced, running.returning_blocks()) == (False, 2, 2)
    running.begin_commit(sequence.last_step)
    running.end_commit()
    assert (running.has_free_slot, pool.num_referenced, running.returning_blocks()) == (True, 0, 0)
    assert freed_s.counts == [1, 0]
    running.check(pool)
