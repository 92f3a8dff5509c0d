"""Generation and TextStream over a scripted engine and a tokenizer of single bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from http_harness import EOS, VOCAB_SIZE, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from octavo.app.errors import ContextLengthError, EngineDeadError, EngineOverloadedError, RequestError
from octavo.app.generation import Generation, TextDelta, choice_params, completion_text
from octavo.model.plan import TokenLogprobs
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import FinishReason, Request, RequestTimings, TokenOutput

TOKENIZER = byte_tokenizer()


class ScriptedStream:
    """Gives the scripted batches, then fails the test."""

    def __init__(self, batches: Sequence[Sequence[TokenOutput]], error: Exception | None = None) -> None:
        self.batches = list(batches)
        self.error = error
        self.num_aborts = 0

    async def next(self) -> Sequence[TokenOutput]:
        await asyncio.sleep(0)
        if self.batches:
            return self.batches.pop(0)
        if self.error is not None:
            raise self.error
        raise AssertionError("next() after the last output")

    def abort(self) -> None:
        self.num_aborts += 1


class ScriptedClient:
    """An EngineClient that answers every request with the same script."""

    def __init__(self, batches: Sequence[Sequence[TokenOutput]] = (), error: Exception | None = None) -> None:
        self.requests: list[Request] = []
        self.streams: list[ScriptedStream] = []
        self._script = (batches, error)

    def submit(self, request: Request) -> ScriptedStream:
        self.requests.append(request)
        self.streams.append(ScriptedStream(*self._script))
        return self.streams[-1]


def make_generation(client: Any, **changes: Any) -> Generation:
    settings: dict[str, Any] = {
        "model_name": "toy",
        "max_model_len": 100,
        "vocab_size": VOCAB_SIZE,
        "eos_token_ids": frozenset([EOS]),
        "default_params": {},
    } | changes
    return Generation(client, settings.pop("tokenizer", TOKENIZER), None, **settings)


def batches_of(
    token_ids: Sequence[int],
    sizes: Sequence[int] = (),
    reason: FinishReason = FinishReason.LENGTH,
    *,
    logprobs: bool = False,
) -> list[list[TokenOutput]]:
    """One output per token, bunched into batches of `sizes` (then of one); the last ends it with `reason`."""
    outputs = [
        TokenOutput("r", (token,), (TokenLogprobs(-float(token), 1, ()),) if logprobs else ())
        for token in token_ids
    ]
    outputs[-1] = outputs[-1]._replace(finish_reason=reason, timings=RequestTimings(1.0, num_cached_tokens=7))
    batches, left = [], list(sizes)
    while outputs:
        size = left.pop(0) if left else 1
        batches.append(outputs[:size])
        outputs = outputs[size:]
    return batches


def collect(client: ScriptedClient, params: SamplingParams, **changes: Any) -> list[TextDelta]:
    async def run() -> list[TextDelta]:
        stream = make_generation(client, **changes).start([65, 66], params, request_id="r")
        return [delta async for delta in stream]

    return asyncio.run(run())


def joined(deltas: Sequence[TextDelta]) -> tuple[str, list[int]]:
    return "".join(d.text for d in deltas), [token for d in deltas for token in d.token_ids]


# What goes in.


@pytest.mark.parametrize(
    ("prompt", "settings", "error", "param", "words"),
    [
        ([], {}, RequestError, "prompt", "must not be empty"),
        ([1, VOCAB_SIZE, 2], {}, RequestError, "prompt", "[0, 300), got 300"),
        ([1, -1], {}, RequestError, "prompt", "got -1"),
        ([1], {"stop_token_ids": [999]}, RequestError, "stop_token_ids", "got 999"),
        ([1], {"logit_bias": {5: 1.0, 400: 2.0}}, RequestError, "logit_bias", "got 400"),
        ([1] * 100, {}, ContextLengthError, "prompt", "100 tokens"),
        ([1] * 60, {"max_tokens": 41}, ContextLengthError, "max_tokens", "at most 40"),
    ],
)
def test_refuses_what_cannot_run(
    prompt: list[int], settings: dict[str, Any], error: type[RequestError], param: str, words: str
) -> None:
    client = ScriptedClient()
    with pytest.raises(error) as caught:
        make_generation(client).start(prompt, SamplingParams(**settings), request_id="r")
    assert caught.value.param == param
    assert caught.value.status == 400
    assert words in caught.value.message
    assert client.requests == []


def test_context_length_error_has_its_code() -> None:
    with pytest.raises(ContextLengthError) as caught:
        make_generation(ScriptedClient()).start([1] * 60, SamplingParams(max_tokens=50), request_id="r")
    assert caught.value.code == "context_length_exceeded"


def test_a_stop_string_needs_a_tokenizer() -> None:
    with pytest.raises(RequestError, match="without a tokenizer"):
        make_generation(ScriptedClient(), tokenizer=None).start([1], SamplingParams(stop="x"), request_id="r")


@pytest.mark.parametrize(("max_tokens", "resolved"), [(None, 98), (98, 98), (3, 3)])
def test_submits_with_max_tokens_resolved(max_tokens: int | None, resolved: int) -> None:
    client = ScriptedClient()
    params = SamplingParams(max_tokens=max_tokens)
    make_generation(client).start([65, 66], params, request_id="r", priority=3, cache_salt="s")
    (request,) = client.requests
    assert (request.request_id, request.max_tokens, request.priority, request.cache_salt) == (
        "r",
        resolved,
        3,
        "s",
    )
    assert request.eos_token_ids == {EOS}
    assert request.arrival_s > 0


def test_a_full_queue_is_passed_on() -> None:
    class Full:
        def submit(self, request: Request) -> Any:
            raise EngineOverloadedError("full")

    with pytest.raises(EngineOverloadedError):
        make_generation(Full()).start([1], SamplingParams(), request_id="r")


def test_choices_count_the_seed_up() -> None:
    assert choice_params(SamplingParams(n=1, seed=5)) == [SamplingParams(n=1, seed=5)]
    assert [p.seed for p in choice_params(SamplingParams(n=3, seed=5))] == [5, 6, 7]
    assert [p.seed for p in choice_params(SamplingParams(n=2, seed=2**63 - 1))] == [2**63 - 1, -(2**63)]
    assert choice_params(SamplingParams(n=2)) == [SamplingParams(), SamplingParams()]


# What comes out.


def test_half_a_character_waits_for_the_other_half() -> None:
    deltas = collect(ScriptedClient(batches_of(list("aé😀b".encode()))), SamplingParams())
    assert [d.text for d in deltas] == ["a", "é", "😀", "b"]
    assert [len(d.token_ids) for d in deltas] == [1, 2, 4, 1]


def test_last_delta_carries_reason_and_timings() -> None:
    deltas = collect(ScriptedClient(batches_of(list(b"abc"))), SamplingParams())
    assert [d.finish_reason for d in deltas] == [None, None, FinishReason.LENGTH]
    assert deltas[-1].timings is not None and deltas[-1].timings.num_cached_tokens == 7
    assert deltas[0].timings is None


def test_an_unfinished_character_at_the_end_is_shown_as_such() -> None:
    text, ids = joined(collect(ScriptedClient(batches_of(list("é".encode())[:1])), SamplingParams()))
    assert (text, ids) == ("\ufffd", [0xC3])


@pytest.mark.parametrize("stop_token", [EOS, ord("!")])
def test_the_token_that_stops_it_is_no_text(stop_token: int) -> None:
    batches = batches_of([*b"hi", stop_token], reason=FinishReason.STOP)
    batches[-1][-1] = batches[-1][-1]._replace(stop_reason=stop_token if stop_token != EOS else None)
    deltas = collect(ScriptedClient(batches), SamplingParams(stop_token_ids=[ord("!")]))
    assert joined(deltas) == ("hi", [*b"hi", stop_token])
    assert deltas[-1].stop_reason == (stop_token if stop_token != EOS else None)
    kept = collect(
        ScriptedClient(batches_of([*b"hi", ord("!")], reason=FinishReason.STOP)),
        SamplingParams(include_stop_str_in_output=True),
    )
    assert joined(kept)[0] == "hi!"


def test_without_text_tokens_pass_in_bulk() -> None:
    batches = batches_of(list(b"abcdef"), sizes=[2, 3], logprobs=True)
    for changes, params in (
        ({}, SamplingParams(detokenize=False, logprobs=0)),
        ({"tokenizer": None}, SamplingParams(logprobs=0)),
    ):
        deltas = collect(ScriptedClient(batches), params, **changes)
        assert [len(d.token_ids) for d in deltas] == [2, 3, 1]
        assert joined(deltas) == ("", list(b"abcdef"))
        assert [p.logprob for d in deltas for p in d.logprobs] == [-float(b) for b in b"abcdef"]


def test_an_error_of_one_request_is_told() -> None:
    batches = [[TokenOutput("r", (), finish_reason=FinishReason.ERROR, error="not finite")]]
    (delta,) = collect(ScriptedClient(batches), SamplingParams())
    assert (delta.finish_reason, delta.error) == (FinishReason.ERROR, "not finite")


def test_a_dead_engine_raises() -> None:
    client = ScriptedClient(batches_of(list(b"abc"))[:1], EngineDeadError("gone"))
    with pytest.raises(EngineDeadError, match="gone"):
        collect(client, SamplingParams())


def test_abort_is_idempotent_and_ends_the_iteration() -> None:
    async def run() -> tuple[int, int]:
        client = ScriptedClient(batches_of(list(b"abc")))
        stream = make_generation(client).start([1], SamplingParams(), request_id="r")
        num_deltas = 0
        async for _ in stream:
            num_deltas += 1
            stream.abort()
            stream.abort()
        return num_deltas, client.streams[0].num_aborts

    num_deltas, num_aborts = asyncio.run(run())
    assert num_deltas == 1
    assert num_aborts >= 1


# Stop strings.


@given(
    text=st.text(alphabet="abé😀", min_size=1, max_size=20),
    stops=st.lists(st.text(alphabet="abé", min_size=1, max_size=3), max_size=2),
    include=st.booleans(),
    logprobs=st.booleans(),
    min_tokens=st.integers(0, 6),
    sizes=st.lists(st.integers(1, 5), max_size=8),
)
def test_deltas_are_aligned_and_do_not_depend_on_bunching(
    text: str, stops: list[str], include: bool, logprobs: bool, min_tokens: int, sizes: list[int]
) -> None:
    params = SamplingParams(
        stop=stops,
        include_stop_str_in_output=include,
        logprobs=0 if logprobs else None,
        min_tokens=min_tokens,
        max_tokens=98,
    )
    token_ids = list(text.encode())
    client = ScriptedClient(batches_of(token_ids, sizes, logprobs=logprobs))
    deltas = collect(client, params)
    whole, ids = joined(deltas)

    one_by_one = collect(ScriptedClient(batches_of(token_ids, logprobs=logprobs)), params)
    assert (whole, ids) == joined(one_by_one)
    assert ids == token_ids[: len(ids)]
    if logprobs:
        assert [p.logprob for d in deltas for p in d.logprobs] == [-float(i) for i in ids]
    if stops or logprobs:
        for delta in deltas[:-1]:
            assert delta.text.encode() == bytes(delta.token_ids)

    last = deltas[-1]
    assert [d.finish_reason for d in deltas[:-1]] == [None] * (len(deltas) - 1)
    if last.finish_reason is FinishReason.STOP:
        assert last.stop_reason in stops
        assert client.streams[0].num_aborts == 1
        assert last.timings is not None
        shown = bytes(ids).decode()
        assert shown.endswith(str(last.stop_reason))
        assert len(ids) > min_tokens
        assert whole == (shown if include else shown.removesuffix(str(last.stop_reason)))
    else:
        assert whole == text
        assert client.streams[0].num_aborts == 0
        if not min_tokens:
            assert not any(stop in text for stop in stops)


def test_nothing_is_shown_that_may_become_a_stop_string() -> None:
    deltas = collect(ScriptedClient(batches_of(list(b"x END y"))), SamplingParams(stop="END"))
    assert joined(deltas) == ("x ", list(b"x END"))
    assert deltas[-1].stop_reason == "END"
    deltas = collect(ScriptedClient(batches_of(list(b"x EN"))), SamplingParams(stop="END"))
    assert joined(deltas)[0] == "x EN"


def test_timings_after_a_stop_string_are_what_this_side_saw() -> None:
    last = collect(ScriptedClient(batches_of(list(b"ab"))), SamplingParams(stop="a"))[-1]
    assert last.timings is not None
    assert 0 < last.timings.arrival_s <= last.timings.first_token_s <= last.timings.finished_s


# Decoding at the end.


@given(text=st.text(alphabet="aé😀 ", min_size=1, max_size=12), reason=st.sampled_from(["stop", "length"]))
def test_decoded_at_once_is_what_the_stream_says(text: str, reason: str) -> None:
    ended = FinishReason(reason)
    token_ids = [*text.encode(), *([EOS] if ended is FinishReason.STOP else [])]
    client = ScriptedClient(batches_of(token_ids, reason=ended))
    streamed, _ = joined(collect(client, SamplingParams(max_tokens=98)))
    assert completion_text(client.requests[0], TOKENIZER, token_ids, ended) == streamed == text
