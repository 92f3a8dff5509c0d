"""Pacing: when the target rules, when it gives way, and what happens before anything is known."""

from __future__ import annotations

import pytest

from octavo.scheduler.pacing import BEHIND, PATIENCE_S, Pacing
from octavo.scheduler.prompt_budget import UNIT
from octavo.scheduler.step_time import StepLoad

DECODES = StepLoad(32, 20_000)
TOKEN_S, DECODE_S = 20e-6, 6e-3


def taught(target_s: float | None) -> Pacing:
    """Of a device whose decode step takes 6 ms, and 20 us more for each prompt token."""
    pacing = Pacing(target_s)
    for _ in range(100):
        pacing.observe(DECODES, DECODE_S, left_over=False)
        for length in (100, 300, 1000, 4000):
            load = DECODES._replace(prompt_tokens=length, prompt_work=length * length / 2)
            pacing.observe(load, DECODE_S + length * TOKEN_S, left_over=False)
    return pacing


def chunk(pacing: Pacing, decodes: StepLoad = DECODES, *, streams: bool = True) -> int:
    return pacing.budget(decodes, 8192, streams=streams, whole=False).take(0, 100_000)


@pytest.mark.parametrize("target_s", [0.012, 0.02, 0.05])
def test_a_chunk_fills_what_the_target_leaves(target_s: float) -> None:
    length = chunk(taught(target_s))
    assert length == pytest.approx((target_s - DECODE_S) / TOKEN_S, rel=0.1, abs=UNIT)


def test_without_target_or_without_streams_the_whole_budget_is_used() -> None:
    assert chunk(taught(None)) == 8192 - 32  # and a step of 8192 tokens is a multiple of 64
    assert chunk(taught(0.012), StepLoad(0, 0), streams=False) == 8192
    # Streams whose next token waits for a grammar have no row in this step, but wait for its end.
    assert chunk(taught(0.012), StepLoad(0, 0)) < 1000


def test_whole_prompts_know_no_target() -> None:
    assert taught(0.012).budget(DECODES, 8192, streams=True, whole=True).take(0, 5000) == 5000


def test_the_share_of_prompts_grows_while_they_are_left_over_and_falls_back_at_once() -> None:
    pacing = taught(0.008)
    calm = chunk(pacing)
    assert calm == pytest.approx(2e-3 / TOKEN_S, abs=UNIT)
    lengths = []
    for _ in range(10):
        pacing.observe(DECODES, PATIENCE_S / 10, left_over=True)
        lengths.append(chunk(pacing))
    assert lengths == sorted(lengths)
    # The pauses that were just observed have made the model believe in longer decodes, too.
    step_s = DECODE_S + TOKEN_S * lengths[-1]
    assert TOKEN_S * lengths[-1] / step_s >= 0.95 * BEHIND
    pacing.observe(DECODES, DECODE_S, left_over=False)
    assert chunk(pacing) < lengths[0] + 4 * UNIT


def test_a_target_below_a_decode_step_does_not_stop_prompts() -> None:
    length = chunk(taught(0.001))
    assert length * TOKEN_S / DECODE_S == pytest.approx(1 / 3, rel=0.3)


def test_before_anything_is_known_chunks_are_small_and_then_grow_by_doubling() -> None:
    pacing = Pacing(0.05)
    lengths = []
    for _ in range(6):
        lengths.append(chunk(pacing))
        load = DECODES._replace(prompt_tokens=lengths[-1], prompt_work=0.0)
        pacing.observe(load, 1e-3 + lengths[-1] * 2e-6, left_over=True)  # a fast device
    assert lengths[0] <= 256 - 32
    assert all(later <= 2 * sooner + 32 for sooner, later in zip(lengths, lengths[1:], strict=False))
    assert lengths[-1] > 4 * lengths[0]
