"""The live view: events a few times a second, only while somebody watches, and never in a drain's way."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_harness import ScriptedClient, make_app, serve
from toy_server import toy_server

from octavo.app.errors import EngineDeadError
from octavo.app.live import Live
from octavo.app.metrics import ServerMetrics
from octavo.scheduler.view import EngineView


class Looker:
    """An engine that is looked at. error: raised by the looks after the third."""

    def __init__(self, error: Exception | None = None) -> None:
        self.engine = ScriptedClient()
        self.seen_since: list[int] = []
        self.num_gathered = 0
        self._error = error

    async def look(self, since: int) -> EngineView:
        if self._error is not None and len(self.seen_since) == 3:
            raise self._error
        self.seen_since.append(since)
        return await self.engine.look(since)

    async def gather(self) -> ServerMetrics:
        self.num_gathered += 1
        return ServerMetrics("toy", "1")

    def live(self) -> Live:
        return Live(self.look, self.gather, period_s=0.01)


def data_of(frame: bytes) -> Any:
    assert frame.startswith(b"data: ") and frame.endswith(b"\n\n")
    return json.loads(frame.removeprefix(b"data: "))


def test_all_who_watch_share_one_look() -> None:
    looker = Looker()

    async def test() -> None:
        live = looker.live()
        watchers = [live.frames() for _ in range(10)]
        for _ in range(8):
            frames = await asyncio.gather(*(anext(watcher) for watcher in watchers))
            assert len(set(frames)) == 1
        assert live.num_watchers == 10
        for watcher in watchers:
            await watcher.aclose()
        assert live.num_watchers == 0
        num_looks = len(looker.seen_since)
        await asyncio.sleep(0.1)
        assert len(looker.seen_since) == num_looks, "somebody looks though nobody watches"

    asyncio.run(test())
    assert 8 <= len(looker.seen_since) <= 10
    # Each look asks for what came after the one before.
    assert looker.seen_since == list(range(-1, len(looker.seen_since) - 1))
    assert looker.num_gathered <= 3


def test_who_reads_slowly_misses_views_and_holds_up_nobody() -> None:
    async def test() -> tuple[list[int], int]:
        looker = Looker()
        live = looker.live()
        slow, numbers = live.frames(), []
        for _ in range(3):
            numbers.append(data_of(await anext(slow))["engine"]["steps"][-1][0])
            enough = len(looker.seen_since) + 3
            while len(looker.seen_since) < enough:
                await asyncio.sleep(0.01)
        await slow.aclose()
        return numbers, len(looker.seen_since)

    numbers, num_looks = asyncio.run(test())
    assert numbers == sorted(set(numbers)) and num_looks > 6
    assert numbers[-1] > 4, "views were kept for it"


@pytest.mark.parametrize(
    ("error", "code"), [(EngineDeadError("gone"), "engine_dead"), (ValueError("a bug"), "generation_failed")]
)
def test_an_engine_that_fails_ends_every_view_and_others_may_begin(error: Exception, code: str) -> None:
    async def test() -> None:
        live = Looker(error).live()
        first, second = live.frames(), live.frames()
        heard = await asyncio.gather(*(_all(frames) for frames in (first, second)))
        for frames in heard:
            assert data_of(frames[-1])["error"]["code"] == code
            assert "engine" in data_of(frames[0])
        assert live.num_watchers == 0
        async with asyncio.timeout(60):
            assert data_of((await _all(live.frames()))[-1])["error"]["code"] == code

    asyncio.run(test())


async def _all(frames: Any) -> list[bytes]:
    return [frame async for frame in frames]


def test_a_closed_view_ends_those_that_are_open_and_takes_no_more() -> None:
    async def test() -> None:
        live = Looker().live()
        watching = asyncio.create_task(_all(live.frames()))
        while not live.num_watchers:
            await asyncio.sleep(0)
        live.close()
        async with asyncio.timeout(60):
            assert data_of((await watching)[-1])["error"]["code"] == "server_draining"
            assert data_of((await _all(live.frames()))[-1])["error"]["code"] == "server_draining"

    asyncio.run(test())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(make_app(ScriptedClient(), {"api_keys": ("secret",)})) as url:
        yield url


def events(url: str, num_events: int, **headers: str) -> list[Any]:
    """The first events of the view."""
    found: list[Any] = []
    with httpx.stream("GET", f"{url}/live", headers=headers, timeout=60) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == num_events:
                    break
    return found


def test_it_needs_the_key_that_everything_needs(url: str) -> None:
    assert httpx.get(f"{url}/live", timeout=60).status_code == 401
    assert len(events(url, 2, authorization="Bearer secret")) == 2


def test_so_many_may_watch(url: str) -> None:
    with httpx.Client(base_url=url, headers={"authorization": "Bearer secret"}, timeout=60) as http:
        opened = [http.stream("GET", "/live") for _ in range(32)]
        reading = [each.__enter__().iter_lines() for each in opened]
        assert all(next(lines) for lines in reading)
        refused = http.get("/live")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_watchers")
        assert refused.headers["retry-after"]
        for each in opened:
            each.__exit__(None, None, None)
        deadline = time.monotonic() + 60
        while True:
            with http.stream("GET", "/live") as response:
                if response.status_code == 200:
                    break
            assert time.monotonic() < deadline, "places did not come back"
            time.sleep(0.05)


def test_through_front_ends_and_a_drain_does_not_wait_for_it(tmp_path: Path) -> None:
    with toy_server(tmp_path, latency=0.02) as server:
        seen: list[Any] = []

        def ask() -> None:
            body = {"prompt": "a prompt of some length", "max_tokens": 1000}
            httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)

        asking = threading.Thread(target=ask)
        asking.start()
        told = False
        with httpx.stream("GET", f"{server.url}/live", timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: ")))
                num_steps = sum(len(each["engine"]["steps"]) for each in seen if "engine" in each)
                if not told and len(seen) >= 8 and num_steps > 50:
                    told = True
                    server.process.send_signal(signal.SIGTERM)
                    server.pace(0)
        asking.join()
        assert server.end() == 0
        assert "Traceback" not in server.log
    assert seen[-1]["error"]["code"] == "server_draining"
    views = [each["engine"] for each in seen if "engine" in each]
    busy = [view for view in views if view["num_running"]]
    assert busy, "the request was not seen"
    steps = [step for view in views for step in view["steps"]]
    numbers = [step[0] for step in steps]
    assert len(steps) > 50 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert all(began <= ended for _, began, ended, *_ in steps)
    assert all(before[2] <= after[1] for before, after in zip(steps, steps[1:], strict=False))
    assert {step[3] for step in steps[5:-1]} == {1}, "one request decodes"
    for view in busy:
        held = view["num_blocks"] - view["num_free_blocks"] - view["num_evictable_blocks"]
        states = view["pool"]["states"]
        assert view["pool"]["stride"] == 1 and len(states) == view["num_blocks"]
        assert states.count("0") == view["num_free_blocks"] and len(states) - states.count("0") >= held > 0
    first = seen[4]["latencies"]["time_to_first_token_seconds"]
    assert len(first["counts"]) == len(first["bounds"]) + 1
