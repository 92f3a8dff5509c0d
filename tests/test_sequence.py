"""Sequence: names of blocks, stop tokens, and what preemption keeps."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_maker import BLOCK_SIZE, make_sequence

from octavo.cache.prefix_cache import hash_chain, root_hash
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.sequence import SequenceStatus


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40), st.lists(st.integers(0, 10)), st.text(max_size=3)
)
@settings(deadline=None)
def test_blocks_named_one_by_one_are_named_as_at_once(
    tokens: list[int], counts: list[int], salt: str
) -> None:
    """In any steps, also backwards, and while the sequence grows between them."""
    expected = hash_chain(tokens, BLOCK_SIZE, root_hash(salt))
    sequence = make_sequence(tokens[:1], cache_salt=salt)
    for count in counts:
        num_blocks = min(count, len(expected))
        known = max(num_blocks * BLOCK_SIZE, len(sequence.token_ids))
        sequence.token_ids.extend(tokens[len(sequence.token_ids) : known])
        before = len(sequence.block_hashes)
        sequence.hash_blocks(num_blocks, BLOCK_SIZE)
        assert sequence.block_hashes == expected[: max(before, num_blocks)]


def test_salts_keep_equal_texts_apart() -> None:
    ours, theirs = make_sequence(range(8)), make_sequence(range(8), cache_salt="theirs")
    for sequence in (ours, theirs):
        sequence.hash_blocks(2, BLOCK_SIZE)
    assert not set(ours.block_hashes) & set(theirs.block_hashes)


def test_the_models_own_end_has_no_stop_reason_unless_it_is_asked_for() -> None:
    eos = frozenset({2})
    usual = make_sequence(params=SamplingParams(stop_token_ids=(7,)), eos_token_ids=eos)
    assert usual.stop_ids == {2, 7}
    assert (usual.stop_reason(2), usual.stop_reason(7)) == (None, 7)
    ignoring = make_sequence(params=SamplingParams(stop_token_ids=(2, 7), ignore_eos=True), eos_token_ids=eos)
    assert ignoring.stop_ids == {2, 7}
    assert (ignoring.stop_reason(2), ignoring.stop_reason(7)) == (2, 7)
    assert make_sequence(params=SamplingParams(ignore_eos=True), eos_token_ids=eos).stop_ids == frozenset()


def test_priority_comes_before_arrival() -> None:
    early, late, urgent = make_sequence(order=1), make_sequence(order=2), make_sequence(order=3, priority=-1)
    assert sorted([late, early, urgent]) == [urgent, early, late]


def test_a_preempted_sequence_comes_back_with_every_token_as_prompt() -> None:
    sequence = make_sequence([1, 2, 3])
    sequence.table.ensure(4)
    sequence.begin(5, 0)
    assert (sequence.status, sequence.slot, sequence.num_prefill) == (SequenceStatus.RUNNING, 5, 3)
    sequence.token_ids.extend([8, 9])
    sequence.give_up()
    assert (sequence.status, sequence.timings.num_preemptions) == (SequenceStatus.WAITING, 1)
    sequence.begin(1, 4)
    assert (sequence.num_prefill, sequence.num_scheduled, sequence.num_named) == (5, 4, 1)
    assert (sequence.num_prompt, sequence.num_output) == (3, 2)
