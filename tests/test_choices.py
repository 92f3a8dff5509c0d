"""Choices over a scripted engine: how many may be asked for, and how they are counted."""

from __future__ import annotations

import asyncio
import random
import time

import httpx
import pytest
from http_harness import (
    CHAT,
    COMPLETIONS,
    HELLO,
    PushingClient,
    ScriptedClient,
    check_error,
    make_app,
    metric,
    serve,
)
from replay_engine import ReplayClient, batches_of, make_generation

from octavo.app.choices import Choices
from octavo.app.errors import EngineDeadError, EngineStoppedError
from octavo.app.metrics import ServerMetrics
from octavo.app.text_assembly import TextDelta
from octavo.model.sampling_params import SamplingParams


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("keep_texts", [True, False])
def test_choices_whose_deltas_are_diverted_say_the_same_in_order(n: int, keep_texts: bool) -> None:
    """What is told at once and what the iterator, which may be busy, tells: neither overtakes the other."""
    rng = random.Random(n)
    metrics = ServerMetrics("toy", "1.2")

    async def run() -> tuple[list[str], list[str], int]:
        choices = Choices(
            make_generation(PushingClient("abcdefgh" * 4), max_model_len=500),
            metrics,
            [[65]],
            SamplingParams(n=n, max_tokens=40),
            request_id="r",
            arrival_s=time.monotonic(),
            keep_texts=keep_texts,
        )
        said = [""] * n
        num_diverted = 0

        def heard(delta: TextDelta) -> None:
            nonlocal num_diverted
            said[0] += delta.text
            num_diverted += 1

        choices.divert(lambda: True, heard)
        async for batch in choices.batches():
            await asyncio.sleep(rng.choice([0, 0.005]))  # it is being sent
            for index, delta in batch:
                said[index] += delta.text
        return said, choices.texts, num_diverted

    said, texts, num_diverted = asyncio.run(run())
    assert said == ["abcdefgh" * 4] * n and texts == (said if keep_texts else [])
    assert num_diverted > 10 if n == 1 else num_diverted == 0, "several are joined, in one write"
    assert {name: count for name, count in metrics.ended.items() if count} == {"stop": n}


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (EngineStoppedError("stopped"), "drained"),
        (EngineDeadError("dead"), "error"),
        (OSError("bug"), "error"),
    ],
)
@pytest.mark.parametrize("n", [1, 3])
def test_what_ends_all_choices_is_their_cause(error: Exception, cause: str, n: int) -> None:
    metrics = ServerMetrics("toy", "1.2")
    client = ReplayClient(batches_of(list(b"abc"))[:1], error)

    async def run() -> None:
        choices = Choices(
            make_generation(client),
            metrics,
            [[65], [66]],
            SamplingParams(n=n),
            request_id="r",
            arrival_s=time.monotonic(),
        )
        with pytest.raises(type(error)):
            async for _ in choices.batches():
                assert metrics.num_open == 2 * n
        choices.stop()

    asyncio.run(run())
    assert {name: count for name, count in metrics.ended.items() if count} == {cause: 2 * n}
    assert metrics.num_open == 0
    assert len({request.request_id for request in client.requests}) == 2 * n
    assert all(stream.num_aborts for stream in client.streams)


def test_more_choices_than_may_wait_are_refused_for_good() -> None:
    with (
        serve(make_app(ScriptedClient(), {"max_queued_requests": 3})) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        many = http.post(COMPLETIONS, json={"prompt": ["a", "b"], "n": 2})
        assert "at most 3 choices" in check_error(many, 400, "invalid_value", "prompt")
        check_error(http.post(CHAT, json={**HELLO, "n": 4}), 400, "invalid_value", "n")
        assert metric(http, 'octavo_requests_total{cause="refused"}') == 1 + 4  # the first is not encoded
        too_long = http.post(COMPLETIONS, json={"prompt": ["x" * 5000] * 4})
        assert "at most 3 choices" in check_error(too_long, 400, "invalid_value", "prompt")
        assert http.post(COMPLETIONS, json={"prompt": ["a", "b", "c"]}).status_code == 200
