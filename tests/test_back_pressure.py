"""Too much work, over HTTP and through front ends: who waits, who is refused, who runs out of time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import at_some_pace
from server_process import samples, wait_idle
from toy_server import ToyServer, toy_server

STEP_S = 0.01


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyServer]:
    with toy_server(tmp_path_factory.mktemp("toy"), max_seqs=8, max_queued=64) as server:
        yield server


@pytest.fixture
def server(served: ToyServer) -> ToyServer:
    """8 places, 64 that may wait, 10 ms a step unless a test says otherwise."""
    served.pace(STEP_S)
    return served


def ask(http: httpx.Client, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return http.post("/v1/completions", json={"prompt": "hello", "max_tokens": 20} | body, headers=headers)


@pytest.mark.parametrize(
    ("body", "headers"), [({"timeout": 0.2}, {}), ({}, {"x-request-timeout": "0.2"})], ids=["body", "header"]
)
def test_an_answer_that_takes_too_long_is_a_504(
    server: ToyServer, body: dict[str, Any], headers: dict[str, str]
) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        before = samples(http)
        response = ask(http, headers, max_tokens=1900, **body)
        assert response.status_code == 504
        error = response.json()["error"]
        assert error["code"] == "deadline_exceeded"
        assert error["message"] == "the request was not finished within its 0.2 s"
        after = wait_idle(http)
    cause = 'octavo_requests_total{cause="deadline"}'
    assert after[cause] - before[cause] == 1


def test_a_stream_that_takes_too_long_ends_with_an_error_event(server: ToyServer) -> None:
    def check(pace: float) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            response = ask(http, max_tokens=1900, stream=True, timeout=0.3 * pace)
        assert response.status_code == 200
        events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["error"]["code"] == "deadline_exceeded"
        assert len(events) > 3, "some tokens came in time"

    at_some_pace(check)


@pytest.mark.parametrize("field", ["timeout", "queue_timeout"])
@pytest.mark.parametrize("value", [0, -1, "soon", True])
def test_a_limit_that_is_none_is_refused(server: ToyServer, field: str, value: Any) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        response = ask(http, **{field: value})
    assert response.status_code == 400 and response.json()["error"]["param"] == field


def test_300_at_once_against_8_places_and_a_queue_of_64_all_end(server: ToyServer) -> None:
    async def flood() -> list[tuple[int, dict[str, str]]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as http:

            async def one(number: int) -> tuple[int, dict[str, str]]:
                body = {"prompt": f"{number}", "max_tokens": 10, "stream": number % 2 == 0}
                response = await http.post("/v1/completions", json=body)
                if response.status_code == 200 and body["stream"]:
                    assert response.text.endswith("data: [DONE]\n\n") and "error" not in response.text
                return response.status_code, dict(response.headers)

            return await asyncio.gather(*map(one, range(300)))

    with httpx.Client(base_url=server.url, timeout=60) as http:
        before = samples(http)
    ends = asyncio.run(flood())
    statuses = Counter(status for status, _ in ends)
    assert set(statuses) <= {200, 429, 503}
    assert statuses[200] >= 72, statuses
    for status, headers in ends:
        if status != 200:
            assert int(headers["retry-after"]) >= 1
    with httpx.Client(base_url=server.url, timeout=60) as http:
        after = wait_idle(http)
    refused = {name: after[name] - before[name] for name in after if "_refused_total{" in name}
    full = 'octavo_requests_refused_total{cause="queue_full"}'
    assert refused.pop(full) == 300 - statuses[200] and not any(refused.values())


def test_what_waits_too_long_is_dropped_and_what_runs_is_not_disturbed(server: ToyServer) -> None:
    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
            server.pace(0.2)  # for the long ones to run as long as it takes
            long = {"prompt": "long", "max_tokens": 150}
            running = [asyncio.create_task(http.post("/v1/completions", json=long)) for _ in range(8)]
            while (await http.get("/health")).json()["running"] < 8:
                await asyncio.sleep(0.05)
            late = {"prompt": "late", "max_tokens": 5, "queue_timeout": 0.1}
            waiting = [asyncio.create_task(http.post("/v1/completions", json=late)) for _ in range(8)]
            await asyncio.wait(waiting)
            server.pace(0)
            return list(await asyncio.gather(*running, *waiting))

    with httpx.Client(base_url=server.url, timeout=60) as http:
        before = samples(http)
        ended = asyncio.run(crowd())
        after = wait_idle(http)
    assert [response.status_code for response in ended] == [200] * 8 + [504] * 8
    messages = {response.json()["error"]["message"] for response in ended[8:]}
    assert messages == {"the request did not start within its 0.1 s"}
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['octavo_expired_requests_total{state="waiting"}'] == 8
    assert grown['octavo_expired_requests_total{state="running"}'] == 0
    assert grown["octavo_prompt_tokens_total"] == 8 * len("long"), "no prompt of those that were late"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("how", ["body", "header"])
@pytest.mark.parametrize("streams", [False, True])
def test_the_other_apis_have_deadlines_too(server: ToyServer, path: str, how: str, streams: bool) -> None:
    body: dict[str, Any] = {"model": "toy", "stream": streams, "ignore_eos": True}
    if path == "/v1/responses":
        body |= {"input": "hi", "max_output_tokens": 1900}
    else:
        body |= {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1900}
    if how == "body":
        body["timeout"] = 0.3
    headers = {"x-request-timeout": "0.3"} if how == "header" else {}
    with httpx.Client(base_url=server.url, timeout=60) as http:
        before = samples(http)
        response = http.post(path, json=body, headers=headers)
        assert "the request was not finished within its 0.3 s" in response.text
        assert response.status_code == (200 if streams else 504)
        after = wait_idle(http)
    assert (
        after['octavo_requests_total{cause="deadline"}'] - before['octavo_requests_total{cause="deadline"}']
        == 1
    )
    # Running, but for a machine that stands still before the first step.
    expired = [name for name in after if name.startswith("octavo_expired_requests_total{")]
    assert sum(after[name] - before[name] for name in expired) == 1


def test_every_refusal_has_its_cause(tmp_path: Path) -> None:
    """A rate, what a request asks for, a first token that would be late, and a drain."""
    with (
        toy_server(tmp_path, frontends=1, rpm=6, max_ttft=0.05, max_seqs=1, latency=0.05) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert ask(http, max_tokens=3).status_code == 200  # so that it is known how fast requests are served
        assert ask(http, max_tokens=-3).status_code == 400

        async def crowd() -> list[int]:
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as many:
                body = {"prompt": "hello", "max_tokens": 60}
                server.pace(0.2)
                asked = [asyncio.create_task(many.post("/v1/completions", json=body)) for _ in range(12)]
                await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                while sum(task.done() for task in asked) < 11:  # one runs as long as others come
                    await asyncio.sleep(0.05)
                server.pace(0)
                return [response.status_code for response in await asyncio.gather(*asked)]

        statuses = Counter(asyncio.run(crowd()))
        now = samples(http)
    name = "octavo_requests_refused_total{cause=%s}"
    assert statuses[429] and statuses[503] and statuses[200] + statuses[429] + statuses[503] == 12
    assert now[name % '"rate_limit"'] == statuses[429] and now[name % '"late"'] == statuses[503]
    assert now[name % '"request"'] == 1 and now[name % '"queue_full"'] == 0
    assert now['octavo_requests_total{cause="refused"}'] == 1 + statuses[429] + statuses[503]
