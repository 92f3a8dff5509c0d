"""The sampler over its slots: settings come and go with their sequences, and rows do not feel one another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_harness import (
    EOS,
    NUM_SLOTS,
    SPARE,
    VOCAB_SIZE,
    generate,
    rows_of_logits,
    sample,
    sampler,
    start,
)

from octavo.model.grammar import Grammar, GrammarKind
from octavo.model.plan import INVALID_TOKEN, TokenLogprobs, TokenMasks

VARIED: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.9},
    {"top_k": 7},
    {"top_p": 0.6},
    {"min_p": 0.05, "temperature": 1.5},
    {"top_k": 50, "top_p": 0.8, "temperature": 0.7},
    {"repetition_penalty": 1.5, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    {"temperature": 0.0, "logit_bias": {5: 3.5, 9: -2.0}, "min_tokens": 3},
]


def test_a_slot_that_never_started_takes_the_likeliest_token() -> None:
    logits = rows_of_logits(4)
    assert sample(sampler(), logits, [0, 3, SPARE, SPARE]) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_of_any_float_type_are_drawn_from_in_float32(dtype: torch.dtype) -> None:
    starts = [start(slot, seed=slot, **params) for slot, params in enumerate(VARIED)]
    logits = rows_of_logits(len(VARIED)).to(dtype)
    before = logits.clone()
    slots = list(range(len(VARIED)))
    assert sample(sampler(*starts), logits, slots) == sample(sampler(*starts), logits.float(), slots)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("params", VARIED, ids=str)
def test_a_row_gets_the_same_token_alone_in_any_slot_and_among_others(params: dict[str, Any]) -> None:
    num_steps = 6
    logits = rows_of_logits(num_steps)
    alone = generate(sampler(start(0, seed=77, **params)), 0, logits)
    assert alone == generate(sampler(start(5, seed=77, **params)), 5, logits)
    others = [start(slot, seed=slot, **other) for slot, other in enumerate(VARIED) if slot != 4]
    crowded = sampler(start(4, seed=77, **params), *others)
    generator = torch.Generator().manual_seed(1)
    together = []
    for step in range(num_steps):
        order = torch.randperm(8, generator=generator).tolist()[: 3 + step]
        order = [slot for slot in order if slot != 4]
        place = step % (len(order) + 1)
        order.insert(place, 4)
        batch = rows_of_logits(len(order), seed=step + 1)
        batch[place] = logits[step]
        together.append(sample(crowded, batch, order, 3 + step)[place])
    assert alone == together


def test_a_token_depends_on_seed_and_position() -> None:
    logits = rows_of_logits(1).expand(40, -1) * 0.2
    one = generate(sampler(start(0, seed=1)), 0, logits)
    assert one == generate(sampler(start(0, seed=1)), 0, logits)
    other = generate(sampler(start(0, seed=2)), 0, logits)
    assert len(set(one)) > 20
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


@pytest.mark.parametrize("seed", [-(2**63), -1, 2**32, 2**63 - 1])
def test_all_64_bits_of_a_seed_count(seed: int) -> None:
    logits = rows_of_logits(30) * 0.1
    mine = generate(sampler(start(0, seed=seed)), 0, logits)
    for near in (seed ^ 1, seed ^ (1 << 32)):
        assert mine != generate(sampler(start(0, seed=near)), 0, logits)


@pytest.mark.parametrize("former", VARIED, ids=str)
def test_nothing_of_a_slots_former_owner_stays(former: dict[str, Any]) -> None:
    logits = rows_of_logits(5)
    for params in VARIED:
        used = sampler(start(3, seed=5, prompt=range(100), logprobs=3, **former))
        generate(used, 3, logits)
        used.start([start(3, seed=6, **params)])
        assert generate(used, 3, logits) == generate(sampler(start(3, seed=6, **params)), 3, logits)


@pytest.mark.parametrize("params", VARIED, ids=str)
def test_a_preempted_sequence_goes_on_as_if_nothing_had_happened(params: dict[str, Any]) -> None:
    logits = rows_of_logits(8)
    whole = generate(sampler(start(0, seed=9, **params)), 0, logits)
    for cut in (1, 2, 5):
        used = sampler(start(0, seed=9, **params))
        first = generate(used, 0, logits, steps=range(cut))
        used.start([start(0, seed=1), start(6, seed=9, output=first, **params)])
        assert first + generate(used, 6, logits, steps=range(cut, 8)) == whole


def test_stop_tokens_are_banned_until_min_tokens_are_out() -> None:
    logits = torch.zeros(6, VOCAB_SIZE)
    logits[:, EOS], logits[:, 30], logits[:, 40] = 9.0, 8.0, 7.0
    greedy = sampler(start(1, temperature=0, min_tokens=3, stop=[EOS, 30]))
    assert generate(greedy, 1, logits) == [40, 40, 40, EOS, EOS, EOS]
    other = sampler(start(1, temperature=0, min_tokens=3, stop=[EOS, 30]))
    assert sample(other, logits[:3], [0, 1, SPARE]) == [EOS, 40, EOS]
    drawn = sampler(start(1, temperature=0.01, min_tokens=2, stop=[EOS, VOCAB_SIZE + 10]))
    assert generate(drawn, 1, logits[:4]) == [30, 30, EOS, EOS]


def test_a_ban_ends_where_a_bias_stays() -> None:
    logits = torch.zeros(4, VOCAB_SIZE)
    logits[:, EOS], logits[:, 30], logits[:, 40] = 9.0, 8.0, 7.0
    used = sampler(start(1, temperature=0, min_tokens=2, logit_bias={40: 1.5}))
    assert generate(used, 1, logits) == [40, 40, EOS, EOS]


@pytest.mark.parametrize("params", VARIED, ids=str)
def test_rows_with_a_grammar_take_what_their_masks_allow(params: dict[str, Any]) -> None:
    grammar = Grammar(GrammarKind.REGEX, "a")  # the sampler only asks whether there is one
    logits = rows_of_logits(3)
    before = logits.clone()
    used = sampler(start(1, structured_outputs=grammar, **params), start(2, **params), start(5, **params))
    free = sampler(start(1, **params), start(2, **params), start(5, **params))
    for allowed in (700 * [1], [*(699 * [0]), 1], [0, 1, *(698 * [0])]):
        words = sum(bit << token for token, bit in enumerate(allowed)).to_bytes(88, "little")
        used.mask([TokenMasks([1], np.frombuffer(words, np.int32)[None].copy())])
        tokens = sample(used, logits, [2, 1, 5])
        unbound = sample(free, logits, [2, 1, 5])
        assert (tokens[0], tokens[2]) == (unbound[0], unbound[2])
        assert tokens[1] == (allowed.index(1) if sum(allowed) == 1 else unbound[1])
    assert torch.equal(logits, before)
    used.start([start(1, **params)])
    assert sample(used, logits, [1]) == sample(sampler(start(1, **params)), logits, [1])


def test_a_slot_keeps_the_mask_that_it_starts_with() -> None:
    logits = torch.zeros(2, VOCAB_SIZE)
    logits[:, 7], logits[:, 8], logits[:, 9] = 10.0, 9.0, 8.0
    fixed = replace(start(1, temperature=0), mask=(1 << 8 | 1 << 9).to_bytes(88, "little"))
    used = sampler(fixed, start(2, temperature=0))
    assert [sample(used, logits, [1, 2]) for _ in range(2)] == [[8, 7]] * 2
    used.start([start(1, temperature=0), replace(fixed, slot=2)])
    assert sample(used, logits, [1, 2]) == [7, 8]


def test_logit_bias_forbids_forces_and_shifts() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, 7], logits[0, 8] = 10.0, 9.0
    for bias, expected in (({7: -100}, 8), ({400: 100}, 400), ({8: 0.5}, 7), ({8: 1.5}, 8), ({9999: 100}, 7)):
        for temperature in (0.0, 0.01):
            used = sampler(start(0, temperature=temperature, logit_bias=bias))
            assert sample(used, logits, [0]) == [expected]


def test_many_biases_keep_those_of_others() -> None:
    logits = rows_of_logits(2)
    used = sampler(start(0, temperature=0, logit_bias={11: 100}))
    used.start([start(1, temperature=0, logit_bias={token: -100 for token in range(100, VOCAB_SIZE)})])
    assert sample(used, logits, [0, 1]) == [11, int(logits[1, :100].argmax())]


@settings(max_examples=40, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 11), min_size=1, max_size=12),
    output=st.lists(st.integers(0, 11), max_size=12),
    repetition=st.sampled_from([1.0, 0.5, 1.8]),
    presence=st.sampled_from([0.0, -1.0, 0.75]),
    frequency=st.sampled_from([0.0, -0.5, 1.25]),
    seed=st.integers(0, 1000),
)
def test_penalties_over_a_generation_follow_their_definition(
    prompt: list[int], output: list[int], repetition: float, presence: float, frequency: float, seed: int
) -> None:
    logits = torch.randn(6, 12, generator=torch.Generator().manual_seed(seed))
    used = sampler(
        start(
            2,
            temperature=0,
            prompt=prompt,
            output=output,
            repetition_penalty=repetition,
            presence_penalty=presence,
            frequency_penalty=frequency,
        ),
        vocab_size=12,
    )
    so_far = list(output)
    for step in range(len(logits)):
        expected = []
        for token, value in enumerate(logits[step].tolist()):
            if token in prompt or token in so_far:
                value = value / repetition if value > 0 else value * repetition
            value -= frequency * so_far.count(token) + presence * (token in so_far)
            expected.append(value)
        token = sample(used, logits[step : step + 1], [2])[0]
        assert expected[token] >= max(expected) - 1e-5
        so_far.append(token)


def test_penalties_of_all_slots_do_not_mix() -> None:
    logits = torch.zeros(NUM_SLOTS, VOCAB_SIZE)
    logits[:, :3] = torch.tensor([3.0, 2.0, 1.0])
    used = sampler()
    for slot in range(NUM_SLOTS):
        used.start([start(slot, temperature=0, presence_penalty=1.5)])
        sample(used, logits[:1], [slot])
    used.start([start(0, temperature=0), start(1, temperature=0, presence_penalty=1.5)])
    assert sample(used, logits, range(NUM_SLOTS)) == [0, 0] + [1] * (NUM_SLOTS - 2)


@pytest.mark.parametrize("params", VARIED, ids=str)
def test_a_row_of_nan_is_invalid_and_its_mates_are_not(params: dict[str, Any]) -> None:
    logits = rows_of_logits(3)
    good = sample(sampler(start(0, seed=1, **params)), logits[:1], [0])
    used = sampler(start(0, seed=1, **params), start(1, seed=2, **params))
    logits[1, 100] = torch.nan
    tokens = sample(used, logits, [0, 1, SPARE])
    assert tokens == [good[0], INVALID_TOKEN, int(logits[2].argmax())]


def test_logprobs_are_the_models_own() -> None:
    logits = rows_of_logits(5)
    logits[4, 0] = torch.nan
    settings_changed: dict[str, Any] = {"temperature": 0.3, "logit_bias": {3: 50.0}, "presence_penalty": 1.0}
    used = sampler(
        start(0, logprobs=4, **settings_changed),
        start(1),
        start(2, logprobs=0, temperature=0),
        start(3, logprobs=1, seed=4, temperature=2.0),
        start(4, logprobs=2),
    )
    slots = torch.arange(5, dtype=torch.int32)
    sampled = used.sample(logits, slots, slots + 3, range(5))
    assert sampled.logprobs is not None
    exact = logits.log_softmax(-1)
    tokens = sampled.tokens.tolist()
    assert tokens[0] == 3
    entries = sampled.logprobs_to_host(sampled.logprobs, {})
    assert entries[1] is None and entries[4] is None
    for row, num_top in ((0, 4), (2, 0), (3, 1)):
        entry = entries[row]
        assert isinstance(entry, TokenLogprobs)
        assert entry.logprob == pytest.approx(float(exact[row, tokens[row]]), abs=1e-5)
        assert entry.rank == 1 + int((exact[row] > exact[row, tokens[row]]).sum())
        best = exact[row].topk(num_top)
        assert [token for token, _ in entry.top] == best.indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_no_logprobs_unless_asked() -> None:
    used = sampler(start(0, logprobs=1))
    slot = torch.tensor([1], dtype=torch.int32)
    assert used.sample(rows_of_logits(1), slot, slot, [1]).logprobs is None


def test_logprobs_of_more_tokens_than_there_are() -> None:
    used = sampler(start(0, logprobs=20), vocab_size=6)
    slot = torch.tensor([0], dtype=torch.int32)
    sampled = used.sample(torch.zeros(1, 6), slot, slot, [0])
    assert sampled.logprobs is not None
    entry = sampled.logprobs_to_host(sampled.logprobs, {})[0]
    assert entry is not None and len(entry.top) == 6


def test_padding_rows_may_be_missing_on_the_host() -> None:
    used = sampler(start(0, seed=3), start(1, logprobs=1, min_tokens=2))
    logits = rows_of_logits(4)
    slots = torch.tensor([1, 0, SPARE, SPARE], dtype=torch.int32)
    sampled = used.sample(logits, slots, slots + 3, [1, 0])
    assert sampled.tokens[2:].tolist() == logits[2:].argmax(-1).tolist()
    assert sampled.logprobs is not None
    entries = sampled.logprobs_to_host(sampled.logprobs, {})
    assert [entry is None for entry in entries] == [False, True, True, True]


def test_an_empty_step_samples_nothing() -> None:
    nothing = torch.zeros(0, dtype=torch.int32)
    assert sampler().sample(torch.zeros(0, VOCAB_SIZE), nothing, nothing, []).tokens.shape == (0,)
