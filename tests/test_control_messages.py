"""Messages between engine and front ends, and the error that travels in one of them."""

from __future__ import annotations

import pytest

from octavo.app import control_messages as messages
from octavo.app.errors import EngineOverloadedError
from octavo.app.frames import FrameSplitter, Kind, ProtocolError
from octavo.app.generation import ServedModel
from octavo.app.metrics import ServerMetrics
from octavo.app.metrics_state import FrontendCounts
from octavo.app.pulse import Pulse
from octavo.app.server_settings import ServerSettings
from octavo.cache.config import CacheConfig
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.stats import Counters, EngineStats
from octavo.scheduler.timeline import StepRecord
from octavo.scheduler.view import EngineView


def payload_of(message: messages.Message) -> memoryview:
    ((kind, payload),) = FrameSplitter().feed(messages.encode(message))
    assert kind == Kind.CONTROL
    return payload


def counted() -> ServerMetrics:
    metrics = ServerMetrics("toy", "1")
    metrics.count_response("/version", 200)
    metrics.count_ignored("mood")
    metrics.histograms.choices.observe(3)
    return metrics


STATS = EngineStats(1, 2, 10, 5, 3, 0.2, 0.1, Counters(prompt_tokens=7))
VIEW = EngineView.of(
    Scheduler(SchedulerConfig(), CacheConfig(10, 16)), 2.5, 0.0, [StepRecord(3, 1.0, 1.5, 2, 7, 1)]
)
SETUP = messages.Setup(
    version=1,
    model_path=None,
    model=ServedModel(
        name="toy",
        max_model_len=10,
        vocab_size=5,
        eos_token_ids=frozenset([2]),
        default_params={"temperature": 0.5},
    ),
    settings=ServerSettings(model_names=("a", "b"), version="1", api_keys=("secret",)),
    log_level="info",
)


@pytest.mark.parametrize(
    "message",
    [
        SETUP,
        messages.Start(),
        messages.Accepted([1, 2]),
        messages.Refused.of(3, EngineOverloadedError("full", retry_after_s=4)),
        messages.Drain(),
        messages.Cut("because"),
        messages.Stop(),
        messages.AskNumbers(Pulse(0.5, 600.0, 3, 4, 64)),
        messages.Scraped(1, [counted().state()], STATS, FrontendCounts(2)),
        messages.Seen(5, VIEW),
        messages.Unanswered(6),
    ],
)
def test_the_engine_is_understood(message: messages.Message) -> None:
    assert messages.decode_from_engine(payload_of(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        messages.Hello(1),
        messages.Idle(),
        messages.Numbers(counted().state()),
        messages.Scrape(4),
        messages.Look(5, -1),
    ],
)
def test_front_ends_are_understood(message: messages.Message) -> None:
    assert messages.decode_from_frontend(payload_of(message)) == message


def test_neither_takes_the_others_messages() -> None:
    with pytest.raises(ProtocolError, match="not a message of the engine"):
        messages.decode_from_engine(payload_of(messages.Idle()))
    with pytest.raises(ProtocolError, match="not a message of a front end"):
        messages.decode_from_frontend(payload_of(messages.Stop()))


def test_a_refusal_keeps_what_the_client_is_told() -> None:
    original = EngineOverloadedError("full", retry_after_s=4, refusal="late")
    told = messages.Refused.of(3, original).error()
    assert told.refusal == "late"
    assert (told.status, told.retry_after_s, told.body()) == (503, 4, original.body())
