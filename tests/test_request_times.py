"""Where a request's time went: of one choice, of several, and of what never came about."""

from __future__ import annotations

import json

import httpx
from http_harness import ScriptedClient, make_app, serve

from octavo.app.request_times import RequestTimes
from octavo.scheduler.request import RequestTimings


def test_one_choice() -> None:
    times = RequestTimes(100.0)
    times.absorb(RequestTimings(100.001, 100.002, 100.0125, 100.5, num_preemptions=1))
    assert times.usage() == {"queue_ms": 2.0, "prefill_ms": 10.5, "decode_ms": 487.5, "preemptions": 1}
    assert times.header(100.501) == "queue;dur=2.0, prefill;dur=10.5, decode;dur=487.5, total;dur=501.0"


def test_several_choices_are_one_request() -> None:
    times = RequestTimes(100.0)
    times.absorb(RequestTimings(100.0, 101.0, 103.0, 104.0, num_preemptions=2))
    times.absorb(RequestTimings(100.0, 100.5, 102.0, 109.0, num_preemptions=1))
    assert times.usage() == {
        "queue_ms": 500.0,
        "prefill_ms": 1500.0,
        "decode_ms": 7000.0,
        "preemptions": 3,
    }


def test_what_never_came_about_is_null() -> None:
    times = RequestTimes(100.0)
    times.absorb(RequestTimings(100.0, finished_s=101.0))
    assert times.usage() == {"queue_ms": None, "prefill_ms": None, "decode_ms": None, "preemptions": 0}
    assert times.header(101.0) == "total;dur=1000.0"


def test_clients_are_told() -> None:
    body = {"prompt": "late", "max_tokens": 3, "stream_options": {"include_usage": True}}
    with serve(make_app(ScriptedClient())) as url:
        whole = httpx.post(f"{url}/v1/completions", json={**body, "stream_options": None}, timeout=60)
        stream = httpx.post(f"{url}/v1/completions", json={**body, "stream": True}, timeout=60)
        chat = {"messages": [{"role": "user", "content": "late"}], "max_tokens": 3}
        other = httpx.post(f"{url}/v1/messages", json=chat, timeout=60)
    assert other.headers["server-timing"].startswith("queue;dur=")
    told = whole.json()["usage"]
    assert told["prompt_tokens_details"] == {"cached_tokens": 3}
    assert told["timings"]["queue_ms"] >= 400  # "late" waits half a second
    spans = dict(span.split(";dur=") for span in whole.headers["server-timing"].split(", "))
    assert list(spans) == ["queue", "prefill", "decode", "total"]
    assert float(spans["queue"]) == told["timings"]["queue_ms"] <= float(spans["total"])
    assert 0 <= float(stream.headers["server-timing"].removeprefix("accept;dur=")) < 400
    chunks = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
    assert chunks[-1]["usage"]["timings"].keys() == told["timings"].keys()
