"""The sampler's Triton kernels against its torch reference, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from octavo.model.grammar import Grammar, GrammarKind
from octavo.model.plan import INVALID_TOKEN, SlotStart, TokenMasks
from octavo.model.sampler import Sampler
from octavo.model.sampling_params import SamplingParams
from octavo.model.sampling_state import SamplingState
from octavo.ops import sample_kernel
from octavo.ops.sampling import mask_words

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MIXED = [
    SamplingParams(temperature=0),
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=1.0, top_k=5),
    SamplingParams(temperature=0.7, top_p=0.8),
    SamplingParams(temperature=1.3, top_k=40, top_p=0.9, min_p=0.02),
    SamplingParams(min_p=0.1),
    SamplingParams(temperature=2.0, top_p=0.99),
    SamplingParams(
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.3,
        top_p=0.9,
        logit_bias={3: 5.0, 7: -100},
    ),
    SamplingParams(temperature=0, min_tokens=5, presence_penalty=2.0),
]
GRAMMAR = Grammar(GrammarKind.REGEX, "a")  # the sampler only asks whether there is one
PLAIN = [SamplingParams(temperature=0), SamplingParams(temperature=0.8), SamplingParams(temperature=1.9)]


def started(params: Sequence[SamplingParams]) -> list[SlotStart]:
    return [
        SlotStart(
            slot=slot,
            params=p,
            seed=7919 * slot - 2**40,
            stop_token_ids=frozenset({1, 2}),
            prompt_tokens=[5, 6, 7],
            output_tokens=[8, 8, 9],
        )
        for slot, p in enumerate(params)
    ]


@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [(50, torch.float32), (1000, torch.float16), (8192, torch.float16), (9001, torch.float32)],
)
@pytest.mark.parametrize("params", [MIXED, PLAIN], ids=["mixed", "plain"])
def test_kernels_choose_what_the_reference_chooses(
    vocab_size: int, dtype: torch.dtype, params: list[SamplingParams]
) -> None:
    torch.manual_seed(vocab_size)
    num_slots = len(params) + 1
    state = SamplingState(num_slots, vocab_size, DEVICE)
    state.start(started(params))
    reference = Sampler(num_slots, vocab_size, "cpu")
    reference.start(started(params))
    order = torch.randperm(num_slots, dtype=torch.int32)
    for step in range(2):
        logits = (torch.randn(num_slots, vocab_size + 3) * 3).to(dtype)[:, :vocab_size]  # rows lie apart
        logits[1, 3] = -torch.inf
        positions = torch.full((num_slots,), 6 + step, dtype=torch.int32)
        if step:
            logits[2, 4] = torch.nan
        tokens = sample_kernel.sample(
            logits.to(DEVICE),
            order.to(DEVICE),
            positions.to(DEVICE),
            state.table,
            state.biases,
            state.history,
            state.masks,
            changes=params is MIXED,
            filters=params is MIXED,
        )
        expected = reference.sample(logits, order, positions, order.tolist()).tokens
        assert tokens.tolist() == expected.tolist()
    assert torch.equal(state.history.cpu(), reference.state.history)


@pytest.mark.parametrize("values", ["ties", "flat", "one_left"])
def test_kernels_narrow_hard_rows_like_the_reference(values: str) -> None:
    torch.manual_seed(5)
    vocab_size = 4500
    logits = torch.zeros(len(MIXED), vocab_size)
    if values == "ties":
        logits = torch.randint(-4, 4, logits.shape).float()
    elif values == "one_left":
        logits[:] = -torch.inf
        logits[:, 4321] = -7.5
    state = SamplingState(len(MIXED), vocab_size, DEVICE)
    state.start(started(MIXED))
    reference = Sampler(len(MIXED), vocab_size, "cpu")
    reference.start(started(MIXED))
    slots = torch.arange(len(MIXED), dtype=torch.int32)
    positions = slots + 6
    tables = (state.table, state.biases, state.history, state.masks)
    tokens = sample_kernel.sample(logits.to(DEVICE), slots.to(DEVICE), positions.to(DEVICE), *tables)
    assert tokens.tolist() == reference.sample(logits, slots, positions, slots.tolist()).tokens.tolist()


@pytest.mark.parametrize(
    "params",
    [SamplingParams(top_k=3), SamplingParams(top_p=0.6), SamplingParams(top_k=5, top_p=0.7, min_p=0.2)],
    ids=["top_k", "top_p", "all"],
)
def test_kernels_find_the_threshold_of_rows_with_few_survivors(params: SamplingParams) -> None:
    num_rows, vocab_size = 14, 900
    torch.manual_seed(1)
    logits = torch.randn(num_rows, vocab_size) * 2
    slots = torch.zeros(num_rows, dtype=torch.int32)
    positions = torch.arange(num_rows, dtype=torch.int32)
    state = SamplingState(2, vocab_size, DEVICE)
    state.start(started([params]))
    tables = (state.table, state.biases, state.history, state.masks)
    tokens = sample_kernel.sample(logits.to(DEVICE), slots.to(DEVICE), positions.to(DEVICE), *tables)
    reference = Sampler(2, vocab_size, "cpu")
    reference.start(started([params]))
    assert tokens.tolist() == reference.sample(logits, slots, positions, slots.tolist()).tokens.tolist()


def test_kernels_take_what_the_masks_allow() -> None:
    vocab_size, params = 4500, [*MIXED, *PLAIN]
    torch.manual_seed(2)
    masked = [replace(p, structured_outputs=GRAMMAR) if slot % 3 else p for slot, p in enumerate(params)]
    state = SamplingState(len(params), vocab_size, DEVICE)
    reference = Sampler(len(params), vocab_size, "cpu")
    slots = torch.arange(len(params), dtype=torch.int32)
    positions = slots + 6
    flagged = [slot for slot in range(len(params)) if slot % 3]
    state.start(started(masked))
    reference.start(started(masked))
    for share in (0.5, 0.01, 0.0):  # many, few, and none: what the model likes best is rarely allowed
        allowed = np.random.default_rng(3).random((len(flagged), vocab_size)) < share
        words = np.packbits(allowed, axis=1, bitorder="little")
        words = np.pad(words, ((0, 0), (0, 4 * mask_words(vocab_size) - words.shape[1])))
        masks = TokenMasks(flagged, words.view(np.int32))
        state.set_masks(masks)
        reference.mask([masks])
        logits = torch.randn(len(params), vocab_size) * 3
        logits[::5, ::7] = torch.nan if share == 0.01 else 0.0
        tables = (state.table, state.biases, state.history, state.masks)
        tokens = sample_kernel.sample(logits.to(DEVICE), slots.to(DEVICE), positions.to(DEVICE), *tables)
        assert tokens.tolist() == reference.sample(logits, slots, positions, slots.tolist()).tokens.tolist()
        for row, slot in enumerate(flagged):
            token = int(tokens[slot])
            assert allowed[row, token] if token >= 0 else share < 0.5


def test_kernels_end_a_ban_at_its_position() -> None:
    state = SamplingState(2, 40, DEVICE)
    state.start(started([SamplingParams(temperature=0, min_tokens=5)]))
    logits = torch.zeros(3, 40, device=DEVICE)
    logits[:, 2] = 1.0
    slots = torch.zeros(3, dtype=torch.int32, device=DEVICE)
    positions = torch.tensor([6, 7, 8], dtype=torch.int32, device=DEVICE)  # after 3, 4 and 5 tokens of output
    tables = (state.table, state.biases, state.history, state.masks)
    assert sample_kernel.sample(logits, slots, positions, *tables).tolist() == [0, 0, 2]


def test_kernels_take_no_rows() -> None:
    state = SamplingState(2, 10, DEVICE)
    nothing = torch.zeros(0, dtype=torch.int32, device=DEVICE)
    logits = torch.zeros(0, 10, device=DEVICE)
    tables = (state.table, state.biases, state.history, state.masks)
    assert sample_kernel.sample(logits, nothing, nothing, *tables).shape == (0,)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_kernels_give_no_token_where_a_logit_is_not_finite(bad: float) -> None:
    """Every second row has one, each somewhere else; the others are as if alone."""
    vocab_size = 1030
    torch.manual_seed(2)
    params = [params for params in MIXED for _ in range(2)]
    logits = torch.randn(len(params), vocab_size, device=DEVICE)
    slots = torch.arange(len(params), dtype=torch.int32, device=DEVICE)
    tokens = []
    for places in ((), (0, 1, 31, 32, 511, 1023, 1024, 1028, 1029)):
        state = SamplingState(len(params), vocab_size, DEVICE)
        state.start(started(params))
        for row, place in enumerate(places):
            logits[2 * row, place] = bad
        tables = (state.table, state.biases, state.history, state.masks)
        tokens.append(sample_kernel.sample(logits, slots, torch.full_like(slots, 6), *tables).tolist())
    whole, found = tokens
    assert min(whole) >= 0 and found[1::2] == whole[1::2]
    assert found[::2] == [INVALID_TOKEN] * len(MIXED)
