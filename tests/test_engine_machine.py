"""Everything but sockets, over a device that fails at random: handlers, engine, scheduler, block accounting.

Clients ask, stream, leave and are late; the device is slow, has NaN, cannot start some, hangs for a while, or
dies. Each request
ends in a way that was promised, answers that end well are the right ones, nothing is left.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from expected import expected_output
from fakes import FakeExecutor, ToyModel
from http_harness import byte_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.app.application import create_app
from octavo.app.drain import DoorClient
from octavo.app.engine_host import HostOptions
from octavo.app.generation import Generation, ServedModel
from octavo.app.inproc_client import InprocClient
from octavo.app.metrics import ServerMetrics
from octavo.app.server_settings import ServerSettings
from octavo.cache.config import CacheConfig
from octavo.model.plan import SlotStart, StepPlan
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Request
from octavo.scheduler.scheduler import Scheduler

STEP_TIMEOUT_S = 0.3
NUM_SLOTS, NUM_BLOCKS, BLOCK_SIZE = 3, 24, 4

ASKED = st.fixed_dictionaries(
    {
        "prompt": st.text("abc", min_size=1, max_size=20),
        "max_tokens": st.integers(1, 30),
        "stream": st.booleans(),
        "n": st.sampled_from([1, 1, 2]),
        "timeout": st.sampled_from([None, None, 0.001, 0.05]),
        "temperature": st.sampled_from([0, 0, -1]),
    }
)
CLIENT = st.tuples(
    ASKED, st.sampled_from([0.0, 0.0, 0.01, 0.05]), st.sampled_from([None, None, None, 0.005, 0.03])
)
"""(body, seconds until it is sent, seconds until the client leaves)"""


def refuses(start: SlotStart) -> bool:
    """What the device cannot start: it says so in the step's result."""
    return list(start.prompt_tokens[:2]) == list(b"cb")


class Device:
    """Latency of each step: usually none, once a pause."""

    def __init__(self, pause_at: int | None, pause_s: float) -> None:
        self._pause_at, self._pause_s, self._steps = pause_at, pause_s, 0

    def __call__(self, plan: StepPlan) -> float:
        self._steps += 1
        return self._pause_s if self._steps == self._pause_at else 0.0005


def answer_of(model: ToyModel, body: dict[str, Any]) -> str:
    request = Request(
        request_id="alone",
        prompt_token_ids=list(body["prompt"].encode()),
        params=SamplingParams(temperature=0),
        max_tokens=body["max_tokens"],
    )
    return byte_tokenizer().decode(expected_output(request, model).token_ids)


def check(model: ToyModel, body: dict[str, Any], response: httpx.Response) -> None:
    """One promised end."""
    if response.status_code != 200:
        assert response.status_code in (400, 500, 503, 504), response.text
        assert response.json()["error"]["code"] in {
            "invalid_value",
            "generation_failed",
            "deadline_exceeded",
            "server_overloaded",
            "engine_dead",
            "context_length_exceeded",
        }
        return
    assert "error" in response.text or not body["prompt"].startswith("cb"), "it could not start"
    if not body["stream"]:
        texts = [choice["text"] for choice in response.json()["choices"]]
        assert texts == [answer_of(model, body)] * body["n"]
        return
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    failed = any("error" in chunk for chunk in chunks)
    for index in range(body["n"]):
        choices = [chunk["choices"][0] for chunk in chunks if "choices" in chunk]
        parts = [choice["text"] for choice in choices if choice["index"] == index]
        right = answer_of(model, body)
        assert "".join(parts) == right or (failed and right.startswith("".join(parts).rstrip("\ufffd")))


async def live(clients: list[Any], model: ToyModel, fail_at: int | None, device: Device) -> None:
    executor = FakeExecutor(
        model,
        num_slots=NUM_SLOTS,
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK_SIZE,
        latency_s=device,
        fail_at_step=fail_at,
    )
    executor.refuses = refuses
    limits = SchedulerConfig(
        max_num_seqs=NUM_SLOTS, max_num_batched_tokens=16, max_model_len=60, max_queued_requests=6
    )
    scheduler = Scheduler(limits, CacheConfig(NUM_BLOCKS, BLOCK_SIZE))
    engine = InprocClient(scheduler, executor, HostOptions(step_timeout_s=STEP_TIMEOUT_S))
    engine.start()
    door = DoorClient(engine)
    served = ServedModel(
        name="toy", max_model_len=60, vocab_size=256, eos_token_ids=frozenset(), default_params={}
    )
    generation = Generation(door, byte_tokenizer(), None, served)
    metrics = ServerMetrics("toy", "0", engine.stats)
    app = create_app(
        generation, ServerSettings(model_names=("toy",), version="0"), metrics, pulse=engine.pulse
    )
    num_sent = 0

    async def ask(body: dict[str, Any], after_s: float, leaves_s: float | None) -> None:
        nonlocal num_sent
        await asyncio.sleep(after_s)
        num_sent += body["n"] if body["temperature"] == 0 else 1
        post = http.post("/v1/completions", json={k: v for k, v in body.items() if v is not None})
        try:
            response = await asyncio.wait_for(post, leaves_s)
        except TimeoutError:
            return
        check(model, body, response)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=None) as http:
        await asyncio.wait_for(asyncio.gather(*(ask(*client) for client in clients)), 120)
    await asyncio.sleep(0.01)
    while scheduler.load()[:2] != (0, 0):
        await asyncio.sleep(0.01)
    await engine.close()
    assert metrics.num_open == 0
    assert sum(metrics.ended.values()) == num_sent, metrics.ended
    if fail_at is None:
        scheduler.check()


@given(
    st.lists(CLIENT, min_size=1, max_size=12),
    st.sampled_from([0.0, 0.0, 0.02]),
    st.none() | st.none() | st.integers(0, 40),
    st.none() | st.integers(1, 40),
    st.sampled_from([0.05, 0.4]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_happens_every_request_ends_as_promised(
    clients: list[Any], nan: float, fail_at: int | None, pause_at: int | None, pause_s: float
) -> None:
    model = ToyModel(vocab_size=128, nan_probability=nan)
    asyncio.run(live(clients, model, fail_at, Device(pause_at, pause_s)))
