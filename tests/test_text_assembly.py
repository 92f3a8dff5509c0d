"""Text deltas: characters, stop strings, alignment of text, ids and log-probabilities."""

from __future__ import annotations

import pytest
from http_harness import EOS
from hypothesis import given
from hypothesis import strategies as st
from replay_engine import TOKENIZER, ReplayClient, batches_of, collect, joined

from octavo.app.text_assembly import completion_text
from octavo.model.grammar import StructuredOutputsParams
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import FinishReason, Request


def test_half_a_character_waits_for_the_other_half() -> None:
    deltas = collect(ReplayClient(batches_of(list("aé😀b".encode()))), SamplingParams())
    assert [d.text for d in deltas] == ["a", "é", "😀", "b"]
    assert [len(d.token_ids) for d in deltas] == [1, 2, 4, 1]


def test_an_unfinished_character_at_the_end_is_shown_as_such() -> None:
    text, ids = joined(collect(ReplayClient(batches_of(list("é".encode())[:1])), SamplingParams()))
    assert (text, ids) == ("\ufffd", [0xC3])


@pytest.mark.parametrize("stop_token", [EOS, ord("!")])
def test_the_token_that_stops_it_is_no_text(stop_token: int) -> None:
    batches = batches_of([*b"hi", stop_token], reason=FinishReason.STOP)
    batches[-1][-1] = batches[-1][-1]._replace(stop_reason=stop_token if stop_token != EOS else None)
    deltas = collect(ReplayClient(batches), SamplingParams(stop_token_ids=[ord("!")]))
    assert joined(deltas) == ("hi", [*b"hi", stop_token])
    assert deltas[-1].stop_reason == (stop_token if stop_token != EOS else None)
    kept = collect(
        ReplayClient(batches_of([*b"hi", ord("!")], reason=FinishReason.STOP)),
        SamplingParams(include_stop_str_in_output=True),
    )
    assert joined(kept)[0] == "hi!"


def test_the_token_that_completes_a_grammar_is_text() -> None:
    batches = batches_of([*b"hi"], reason=FinishReason.STOP)
    params = SamplingParams(structured_outputs=StructuredOutputsParams(regex="hi"), stop=["never"])
    assert joined(collect(ReplayClient(batches), params)) == ("hi", [*b"hi"])
    request = Request(request_id="r", prompt_token_ids=[65], params=params, max_tokens=9)
    assert completion_text(request, TOKENIZER, [*b"hi"], FinishReason.STOP) == "hi"


def test_without_text_tokens_pass_in_bulk() -> None:
    batches = batches_of(list(b"abcdef"), sizes=[2, 3], logprobs=True)
    for changes, params in (
        ({}, SamplingParams(detokenize=False, logprobs=0)),
        ({"tokenizer": None}, SamplingParams(logprobs=0)),
    ):
        deltas = collect(ReplayClient(batches), params, **changes)
        assert [len(d.token_ids) for d in deltas] == [2, 3, 1]
        assert joined(deltas) == ("", list(b"abcdef"))
        assert [p.logprob for d in deltas for p in d.logprobs] == [-float(b) for b in b"abcdef"]


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
    client = ReplayClient(batches_of(token_ids, sizes, logprobs=logprobs))
    deltas = collect(client, params)
    whole, ids = joined(deltas)

    one_by_one = collect(ReplayClient(batches_of(token_ids, logprobs=logprobs)), params)
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
    deltas = collect(ReplayClient(batches_of(list(b"x END y"))), SamplingParams(stop="END"))
    assert joined(deltas) == ("x ", list(b"x END"))
    assert deltas[-1].stop_reason == "END"
    deltas = collect(ReplayClient(batches_of(list(b"x EN"))), SamplingParams(stop="END"))
    assert joined(deltas)[0] == "x EN"


def test_timings_after_a_stop_string_are_what_this_side_saw() -> None:
    last = collect(ReplayClient(batches_of(list(b"ab"))), SamplingParams(stop="a"))[-1]
    assert last.timings is not None
    assert 0 < last.timings.arrival_s <= last.timings.first_token_s <= last.timings.finished_s


# Decoding at the end.


@given(text=st.text(alphabet="aé😀 ", min_size=1, max_size=12), reason=st.sampled_from(["stop", "length"]))
def test_decoded_at_once_is_what_the_stream_says(text: str, reason: str) -> None:
    ended = FinishReason(reason)
    token_ids = [*text.encode(), *([EOS] if ended is FinishReason.STOP else [])]
    client = ReplayClient(batches_of(token_ids, reason=ended))
    streamed, _ = joined(collect(client, SamplingParams(max_tokens=98)))
    assert completion_text(client.requests[0], TOKENIZER, token_ids, ended) == streamed == text
