"""Choices over a scripted engine: how many may be asked for, and how they are counted."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from http_harness import CHAT, COMPLETIONS, HELLO, ScriptedClient, check_error, make_app, metric, serve
from replay_engine import ReplayClient, batches_of, make_generation

from octavo.app.choices import Choices
from octavo.app.errors import EngineDeadError, EngineStoppedError
from octavo.app.metrics import ServerMetrics
from octavo.app.text_stream import TextStream
from octavo.model.sampling_params import SamplingParams


@pytest.mark.parametrize("keep_texts", [True, False])
def test_texts_that_are_kept_are_whole(monkeypatch: pytest.MonkeyPatch, keep_texts: bool) -> None:
    """What is diverted passes by: nothing is while the log wants the text."""
    diverted: list[TextStream] = []
    monkeypatch.setattr(TextStream, "divert", lambda stream, *_: diverted.append(stream))

    async def run() -> list[str]:
        choices = Choices(
            make_generation(ReplayClient(batches_of(list(b"abc")))),
            ServerMetrics("toy", "1.2"),
            [[65]],
            SamplingParams(),
            request_id="r",
            arrival_s=time.monotonic(),
            keep_texts=keep_texts,
        )
        choices.divert(lambda: True, lambda delta: None)
        async for _ in choices.batches():
            pass
        return choices.texts

    assert asyncio.run(run()) == (["abc"] if keep_texts else [])
    assert bool(diverted) == (not keep_texts)


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
        httpx.Client(base_url=url) as http,
    ):
        many = http.post(COMPLETIONS, json={"prompt": ["a", "b"], "n": 2})
        assert "at most 3 choices" in check_error(many, 400, "invalid_value", "prompt")
        check_error(http.post(CHAT, json={**HELLO, "n": 4}), 400, "invalid_value", "n")
        assert metric(http, 'octavo_requests_total{cause="refused"}') == 8
        assert http.post(COMPLETIONS, json={"prompt": ["a", "b", "c"]}).status_code == 200
