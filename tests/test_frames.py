"""Frames: what goes in comes out, however the socket cuts it, and what was never sent is refused."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.app.frames import (
    MAX_FRAME_BYTES,
    FrameSplitter,
    Kind,
    ProtocolError,
    StepEncoder,
    UnreadableRequestError,
    decode_abort,
    decode_add,
    decode_step,
    encode_abort,
    encode_add,
    frame,
)
from octavo.model.grammar import Grammar, GrammarKind
from octavo.model.plan import TokenLogprobs
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import Claim, FinishReason, Request, RequestTimings, TokenOutput

HEADER_BYTES = 5

numbers = st.integers(0, 2**32 - 1)
tokens = st.integers(0, 2**31 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
logprobs = st.builds(
    TokenLogprobs, floats, st.integers(1, 300_000), st.lists(st.tuples(tokens, floats), max_size=3).map(tuple)
)
timings = st.builds(RequestTimings, floats, floats, floats, floats, st.integers(0, 9), st.integers(0, 9))
plain = st.builds(
    lambda token_ids, entries, prompt: TokenOutput(
        "", token_ids, tuple(entries), prompt_logprobs=tuple(prompt)
    ),
    st.lists(tokens, max_size=4),
    st.lists(logprobs, max_size=2),
    st.just([]) | st.lists(logprobs, max_size=2),
)
last = st.builds(
    lambda output, reason, stop, times, error: output._replace(
        finish_reason=reason, stop_reason=stop, timings=times, error=error
    ),
    plain,
    st.sampled_from(FinishReason),
    st.none() | tokens,
    st.none() | timings,
    st.none() | st.text(),
)
outputs = plain | last
requests = st.builds(
    Request,
    request_id=st.text(),
    prompt_token_ids=st.lists(tokens, min_size=1, max_size=50),
    params=st.builds(
        SamplingParams,
        temperature=st.floats(0, 2),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        stop=st.lists(st.text(min_size=1), max_size=3),
        stop_token_ids=st.lists(tokens, max_size=3),
        logit_bias=st.none() | st.dictionaries(tokens, st.floats(-100, 100), max_size=3),
        ignore_eos=st.booleans(),
        logprobs=st.none() | st.integers(0, 20),
        prompt_logprobs=st.none() | st.integers(0, 20),
        structured_outputs=st.none()
        | st.builds(Grammar, st.sampled_from(GrammarKind), st.text(), st.none() | st.text()),
    ),
    max_tokens=st.integers(1, 100_000),
    eos_token_ids=st.frozensets(tokens, max_size=3),
    priority=st.integers(-5, 5),
    cache_salt=st.text(),
    arrival_s=floats,
    claim=st.builds(
        Claim,
        tenant=st.text(),
        weight=st.floats(0.1, 9),
        arrival_s=floats,
        deadline_s=floats | st.just(math.inf),
        queue_deadline_s=floats | st.just(math.inf),
    ),
)


def payload_of(data: bytes) -> memoryview:
    return memoryview(data)[HEADER_BYTES:]


@given(st.lists(st.tuples(numbers, outputs), max_size=8))
def test_a_step_comes_out_as_it_went_in(step: list[tuple[int, TokenOutput]]) -> None:
    encoder = StepEncoder()
    for _ in range(2):  # an encoder begins anew
        for number, output in step:
            encoder.add(number, output)
        assert list(decode_step(payload_of(encoder.take()))) == step


@given(numbers, requests)
def test_a_request_comes_out_as_it_went_in(number: int, request: Request) -> None:
    assert decode_add(payload_of(encode_add(number, request))) == (number, request)


@given(numbers)
def test_an_abort_comes_out_as_it_went_in(number: int) -> None:
    assert decode_abort(payload_of(encode_abort(number, FinishReason.STOP))) == (number, FinishReason.STOP)


@given(st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=40)), max_size=6), st.data())
def test_frames_survive_any_cut(sent: list[tuple[Kind, bytes]], data: st.DataObject) -> None:
    stream = b"".join(frame(kind, payload) for kind, payload in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    splitter = FrameSplitter()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += [(kind, bytes(payload)) for kind, payload in splitter.feed(stream[start:end])]
    assert received == sent


def test_a_step_that_tells_very_much_is_several_frames() -> None:
    """64 rows that ask for all 150,000 alternatives would otherwise be a frame that nobody may send."""
    told = TokenLogprobs(-0.5, 1, tuple((token, -float(token)) for token in range(150_000)))
    output = TokenOutput("", (7,), (told,))
    encoder = StepEncoder()
    for number in range(20):
        encoder.add(number, output)
        encoder.add(100 + number, TokenOutput("", (8,)))
    frames = list(FrameSplitter().feed(encoder.take()))
    assert len(frames) > 1 and max(len(payload) for _, payload in frames) < 20 << 20
    step = [pair for kind, payload in frames for pair in decode_step(payload)]
    assert [number for number, _ in step] == [n for number in range(20) for n in (number, 100 + number)]
    assert all(tuple(read.logprobs) == ((told,) if number < 100 else ()) for number, read in step)
    assert not list(decode_step(payload_of(encoder.take())))


def test_what_cannot_be_encoded_is_not_added() -> None:
    encoder = StepEncoder()
    encoder.add(1, TokenOutput("", (5,)))
    with pytest.raises(UnicodeEncodeError):
        encoder.add(2, TokenOutput("", (6,), finish_reason=FinishReason.ERROR, error="\ud800"))
    encoder.add(3, TokenOutput("", (7,)))
    assert [number for number, _ in decode_step(payload_of(encoder.take()))] == [1, 3]


def test_a_plain_token_costs_ten_bytes() -> None:
    encoder = StepEncoder()
    for number in range(100):
        encoder.add(number, TokenOutput("a long request id", (7,)))
    assert len(encoder.take()) <= HEADER_BYTES + 8 + 100 * 10


def test_a_frame_that_is_too_long_is_neither_sent_nor_awaited() -> None:
    with pytest.raises(ProtocolError, match="a frame may have"):
        frame(Kind.ADD, bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(ProtocolError, match="a frame may have"):
        list(FrameSplitter().feed(struct.pack("=IB", MAX_FRAME_BYTES + 1, Kind.ADD)))


@given(st.binary(max_size=60))
def test_noise_is_refused_or_read_but_never_another_error(noise: bytes) -> None:
    for decode in (lambda data: list(decode_step(data)), decode_add, decode_abort):
        try:
            decode(memoryview(noise))
        except ProtocolError:
            continue


def test_a_step_whose_counts_lie_is_refused() -> None:
    encoder = StepEncoder()
    encoder.add(1, TokenOutput("", (5, 6)))
    payload = bytearray(payload_of(encoder.take()))
    payload[12] = 3  # the count of the only stream
    with pytest.raises(ProtocolError, match="2 tokens announced, 3 counted"):
        decode_step(memoryview(bytes(payload)))


def test_sampling_params_that_break_a_rule_are_refused() -> None:
    request = Request(
        request_id="r", prompt_token_ids=[1], params=SamplingParams(temperature=1.5), max_tokens=1
    )
    data = encode_add(1, replace(request)).replace(struct.pack(">d", 1.5), struct.pack(">d", 9.0))
    with pytest.raises(UnreadableRequestError, match="temperature must be in") as refused:
        decode_add(payload_of(data))
    assert refused.value.number == 1
