"""Generation and TextStream over a scripted engine: what goes in, how it ends."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from typing import Any

import pytest
from http_harness import EOS, VOCAB_SIZE
from replay_engine import TOKENIZER, ReplayClient, batches_of, collect, make_generation
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from octavo.app.client import OutputStream
from octavo.app.errors import ContextLengthError, EngineDeadError, EngineOverloadedError, RequestError
from octavo.app.generation import RequestOptions, TextDelta, TextStream, choice_params
from octavo.app.tokenizer import Tokenizer
from octavo.model.plan import TokenLogprobs
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import FinishReason, Request, RequestTimings, TokenOutput

# What goes in.


def test_no_spaces_between_special_tokens() -> None:
    """Text is the concatenation of its tokens: nothing has to be taken out, whatever is asked for."""
    shown: dict[str, Any] = {"skip_special_tokens": False, "max_tokens": 4, "ignore_eos": True}
    for spaces in (True, False):
        client = ReplayClient(batches_of([65, EOS, EOS, 66]))
        params = SamplingParams(spaces_between_special_tokens=spaces, **shown)
        assert "".join(delta.text for delta in collect(client, params)) == "A<end><end>B"


def test_spaces_of_a_decoder_that_puts_some_cannot_be_suppressed() -> None:
    backend = Backend(models.WordPiece(vocab={"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece(cleanup=False)
    generation = make_generation(ReplayClient(), tokenizer=Tokenizer(backend))
    params = SamplingParams(spaces_between_special_tokens=False, skip_special_tokens=False)
    with pytest.raises(RequestError) as caught:
        generation.request([1], params, request_id="r")
    assert (caught.value.param, caught.value.status) == ("spaces_between_special_tokens", 400)
    hidden = replace(params, skip_special_tokens=True)
    assert generation.request([1], hidden, request_id="r").params == hidden


@pytest.mark.parametrize(
    ("prompt", "settings", "error", "param", "words"),
    [
        ([], {}, RequestError, "prompt", "must not be empty"),
        ([1, VOCAB_SIZE, 2], {}, RequestError, "prompt", "[0, 300), got 300"),
        ([1, -1], {}, RequestError, "prompt", "got -1"),
        ([1], {"stop_token_ids": [999]}, RequestError, "stop_token_ids", "got 999"),
        ([1], {"logit_bias": {5: 1.0, 400: 2.0}}, RequestError, "logit_bias", "got 400"),
        ([1] * 60, {"max_tokens": None, "min_tokens": 41}, RequestError, "min_tokens", "at most 40"),
        ([1], {"logprobs": VOCAB_SIZE + 1}, RequestError, "logprobs", "at most 300"),
        ([1] * 100, {}, ContextLengthError, "prompt", "100 tokens"),
        ([1] * 60, {"max_tokens": 41}, ContextLengthError, "max_tokens", "at most 40"),
    ],
)
def test_refuses_what_cannot_run(
    prompt: list[int], settings: dict[str, Any], error: type[RequestError], param: str, words: str
) -> None:
    client = ReplayClient()
    with pytest.raises(error) as caught:
        make_generation(client).start(prompt, SamplingParams(**settings), request_id="r")
    assert caught.value.param == param
    assert caught.value.status == 400
    assert words in caught.value.message
    assert client.requests == []


def test_context_length_error_has_its_code() -> None:
    with pytest.raises(ContextLengthError) as caught:
        make_generation(ReplayClient()).start([1] * 60, SamplingParams(max_tokens=50), request_id="r")
    assert caught.value.code == "context_length_exceeded"


def test_a_stop_string_needs_a_tokenizer() -> None:
    with pytest.raises(RequestError, match="without a tokenizer"):
        make_generation(ReplayClient(), tokenizer=None).start([1], SamplingParams(stop="x"), request_id="r")


@pytest.mark.parametrize(("max_tokens", "resolved"), [(None, 98), (98, 98), (3, 3)])
def test_submits_with_max_tokens_resolved(max_tokens: int | None, resolved: int) -> None:
    client = ReplayClient()
    params = SamplingParams(max_tokens=max_tokens)
    options = RequestOptions(priority=3, cache_salt="s")
    make_generation(client).start([65, 66], params, request_id="r", options=options)
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


@pytest.mark.parametrize(("chosen", "expected"), [(None, None), (30, 30), (1000, 40)])
def test_the_models_own_limit_is_cut_to_the_room_left(chosen: int | None, expected: int | None) -> None:
    defaults = {} if chosen is None else {"max_tokens": chosen}
    generation = make_generation(ReplayClient(), default_params=defaults)
    assert generation.default_max_tokens(60) == expected
    if chosen is not None:
        assert generation.default_max_tokens(200) == 1


def test_ids_of_the_engine_differ_even_if_those_of_clients_do_not() -> None:
    generation = make_generation(ReplayClient())
    ids = [generation.engine_id("same") for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(i.startswith(f"same-{os.getpid():x}-") for i in ids), "other processes have ids of their own"


# What comes out.


def test_last_delta_carries_reason_and_timings() -> None:
    deltas = collect(ReplayClient(batches_of(list(b"abc"))), SamplingParams())
    assert [d.finish_reason for d in deltas] == [None, None, FinishReason.LENGTH]
    assert deltas[-1].timings is not None and deltas[-1].timings.num_cached_tokens == 7
    assert deltas[0].timings is None


@pytest.mark.parametrize("bunched", [False, True])
def test_a_stop_string_keeps_what_the_engine_told_with_the_first_output(bunched: bool) -> None:
    batches = batches_of(list(b"abcd"), [4] if bunched else [])
    timings = RequestTimings(1.0, scheduled_s=2.0, first_token_s=3.0, num_cached_tokens=5)
    batches[0][0] = batches[0][0]._replace(timings=timings)
    deltas = collect(ReplayClient(batches), SamplingParams(stop="c"))
    last = deltas[-1]
    assert (last.stop_reason, [d.timings for d in deltas[:-1]]) == ("c", [None] * (len(deltas) - 1))
    assert last.timings is not None and last.timings.finished_s > 3.0
    assert replace(last.timings, finished_s=0.0) == timings
    assert timings.finished_s == 0


def test_a_stop_string_without_the_engines_word_has_what_was_seen_here() -> None:
    (*_, last) = collect(ReplayClient(batches_of(list(b"abcd"))), SamplingParams(stop="c"))
    assert last.timings is not None and last.timings.scheduled_s == 0
    assert last.timings.arrival_s <= last.timings.first_token_s <= last.timings.finished_s


def test_timings_of_the_first_output_do_not_leave_early() -> None:
    batches = batches_of(list(b"abc"))
    batches[0][0] = batches[0][0]._replace(timings=RequestTimings(1.0))
    for params in (SamplingParams(), SamplingParams(detokenize=False), SamplingParams(logprobs=0)):
        deltas = collect(ReplayClient(batches), params)
        assert [d.timings is None for d in deltas] == [True, True, False]


def test_an_error_of_one_request_is_told() -> None:
    batches = [[TokenOutput("r", (), finish_reason=FinishReason.ERROR, error="not finite")]]
    (delta,) = collect(ReplayClient(batches), SamplingParams())
    assert (delta.finish_reason, delta.error) == (FinishReason.ERROR, "not finite")


def test_a_dead_engine_raises() -> None:
    client = ReplayClient(batches_of(list(b"abc"))[:1], EngineDeadError("gone"))
    with pytest.raises(EngineDeadError, match="gone"):
        collect(client, SamplingParams())


def test_abort_is_idempotent_and_ends_the_iteration() -> None:
    async def run() -> tuple[int, int]:
        client = ReplayClient(batches_of(list(b"abc")))
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


@pytest.mark.parametrize("params", [{}, {"stop": ("zzz",)}, {"stop": ("bald! G",)}, {"logprobs": 1}])
def test_what_is_diverted_and_what_is_read_are_the_same_deltas_in_order(params: dict[str, Any]) -> None:
    """Half characters, a writer that is not always ready, several tokens in a turn: nothing is lost."""
    text = "Grüße, 🙂 und bis bald! " * 3
    tokens = list(text.encode())
    stops = "bald! G" in params.get("stop", ())

    async def run() -> tuple[list[TextDelta], int]:
        buffered = OutputStream(lambda reason: None)
        settings = SamplingParams(temperature=0, max_tokens=len(tokens) + 1, **params)
        request = make_generation(ReplayClient(), max_model_len=500).request([65], settings, request_id="r")
        stream = TextStream(buffered, request, TOKENIZER)
        everything: list[TextDelta] = []
        num_diverted = 0
        rng = random.Random(0)

        def heard(delta: TextDelta) -> None:
            nonlocal num_diverted
            assert delta.finish_reason is None and everything, "the first and the last go the usual way"
            everything.append(delta)
            num_diverted += 1

        async def read() -> None:
            stream.divert(lambda: rng.random() < 0.7, heard)
            async for delta in stream:
                everything.append(delta)

        reading = asyncio.create_task(read())
        for i, token in enumerate(tokens):
            entry = (TokenLogprobs(-1.0, 1, ()),) if params.get("logprobs") else ()
            output = TokenOutput("r", (token,), entry)
            buffered.push(
                output._replace(finish_reason=FinishReason.LENGTH) if i == len(tokens) - 1 else output
            )
            if rng.random() < 0.7:
                await asyncio.sleep(0)
        await asyncio.wait_for(reading, 60)
        return everything, num_diverted

    everything, num_diverted = asyncio.run(run())
    assert "".join(delta.text for delta in everything) == ("Grüße, 🙂 und bis " if stops else text)
    assert everything[-1].finish_reason is (FinishReason.STOP if stops else FinishReason.LENGTH)
    assert num_diverted > 2
    if params.get("logprobs"):
        assert all(len(delta.logprobs) == len(delta.token_ids) for delta in everything)
