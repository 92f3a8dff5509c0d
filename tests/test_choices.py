"""Choices over a scripted engine: how they are counted when they do not end by themselves."""

from __future__ import annotations

import asyncio
import time

import pytest
from scripted_engine import ScriptedClient, batches_of, make_generation

from octavo.app.choices import Choices
from octavo.app.errors import EngineDeadError, EngineStoppedError
from octavo.app.metrics import ServerMetrics
from octavo.model.sampling_params import SamplingParams


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
    client = ScriptedClient(batches_of(list(b"abc"))[:1], error)

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
