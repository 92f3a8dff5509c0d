"""Too much work, over HTTP and through front ends: who waits, who is refused, who runs out of time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from server_process import samples, wait_idle
from toy_server import ToyServer, toy_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyServer]:
    """8 places, 64 that may wait, 10 ms a step."""
    with toy_server(tmp_path_factory.mktemp("toy"), max_seqs=8, max_queued=64) as server:
        yield server


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
        response = ask(http, headers, max_tokens=1000, **body)
        assert response.status_code == 504
        error = response.json()["error"]
        assert error["code"] == "deadline_exceeded"
        assert error["message"] == "the request was not finished within its 0.2 s"
        after = wait_idle(http)
    cause = 'octavo_requests_total{cause="deadline"}'
    assert after[cause] - before[cause] == 1


def test_a_stream_that_takes_too_long_ends_with_an_error_event(server: ToyServer) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        response = ask(http, max_tokens=1000, stream=True, timeout=0.3)
    assert response.status_code == 200
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "deadline_exceeded"
    assert len(events) > 3, "some tokens came in time"


@pytest.mark.parametrize("field", ["timeout", "queue_timeout"])
@pytest.mark.parametrize("value", [0, -1, "soon", True])
def test_a_limit_that_is_none_is_refused(server: ToyServer, field: str, value: Any) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        response = ask(http, **{field: value})
    assert response.status_code == 400 and response.json()["error"]["param"] == field


def test_300_at_once_against_8_places_and_a_queue_of_64_all_end(server: ToyServer) -> None:
    async def flood() -> list[tuple[int, dict[str, str]]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http:

            async def one(number: int) -> tuple[int, dict[str, str]]:
                body = {"prompt": f"{number}", "max_tokens": 10, "stream": number % 2 == 0}
                response = await http.post("/v1/completions", json=body)
                if response.status_code == 200 and body["stream"]:
                    assert response.text.endswith("data: [DONE]\n\n") and "error" not in response.text
                return response.status_code, dict(response.headers)

            return await asyncio.gather(*map(one, range(300)))

    ends = asyncio.run(flood())
    statuses = Counter(status for status, _ in ends)
    assert set(statuses) <= {200, 429, 503}
    assert statuses[200] >= 72, statuses
    for status, headers in ends:
        if status != 200:
            assert int(headers["retry-after"]) >= 1
    with httpx.Client(base_url=server.url, timeout=60) as http:
        wait_idle(http)


def test_what_waits_too_long_is_dropped_and_what_runs_is_not_disturbed(server: ToyServer) -> None:
    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            long = {"prompt": "long", "max_tokens": 150}
            running = [asyncio.create_task(http.post("/v1/completions", json=long)) for _ in range(8)]
            await asyncio.sleep(0.5)
            late = {"prompt": "late", "max_tokens": 5, "queue_timeout": 0.1}
            waiting = [asyncio.create_task(http.post("/v1/completions", json=late)) for _ in range(8)]
            return list(await asyncio.gather(*running, *waiting))

    ended = asyncio.run(crowd())
    assert [response.status_code for response in ended] == [200] * 8 + [504] * 8
    messages = {response.json()["error"]["message"] for response in ended[8:]}
    assert messages == {"the request did not start within its 0.1 s"}
