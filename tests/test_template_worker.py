"""Templates of requests: rendered elsewhere, ended when they run away, and the server serves on meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from http_harness import ScriptedClient, make_app, serve
from patience import at_some_pace

from octavo.app.errors import RequestError
from octavo.app.template_worker import Job, TemplateWorker

OPTIONS: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "variables": None}


@pytest.fixture(scope="module")
def worker() -> Iterator[TemplateWorker]:
    worker = TemplateWorker()
    yield worker
    worker.close()


def job(source: str, effort: str | None = None, **options: Any) -> Job:
    return Job(source, {"bos_token": "<s>"}, effort, {**OPTIONS, **options})


def test_renders_as_the_template_itself_does(worker: TemplateWorker) -> None:
    source = "{{ bos_token }}{{ messages[0].content }}{{ mood }}{{ enable_thinking }}"
    assert worker.render(job(source, effort="high", variables={"mood": "!"})) == "<s>hi!True"
    assert worker.render(job("é" * 100_000)) == "é" * 100_000


@pytest.mark.parametrize(
    ("source", "param"),
    [
        ("{% if %}", "chat_template"),
        ("{{ raise_exception('no') }}", "messages"),
        ("{{ messages[0].__class__.__mro__ }}", "messages"),
    ],
)
def test_errors_come_back(worker: TemplateWorker, source: str, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        worker.render(job(source))
    assert (caught.value.param, caught.value.status) == (param, 400)
    assert worker.render(job("fine")) == "fine"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ range(99999) | map('string') | map('center', 9999) | map('upper') | join | length }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a' | center(4000000000) }}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{{ " + "(" * 300 + "1" + ")" * 300 + " }}",
    ],
    ids=["loops", "filters", "format", "memory", "recursion", "nesting"],
)
def test_what_runs_away_is_ended(worker: TemplateWorker, source: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(RequestError) as caught:
        worker.render(job(source))
    assert caught.value.status == 400
    assert time.monotonic() - began_s < 60  # two seconds on an idle machine
    assert worker.render(job("fine")) == "fine"


def test_the_server_serves_on_meanwhile() -> None:
    source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    body = {"messages": OPTIONS["messages"], "max_tokens": 2}
    app = make_app(ScriptedClient(), {"trust_request_chat_template": True})
    with serve(app) as url, ThreadPoolExecutor(1) as pool:
        chat = f"{url}/v1/chat/completions"

        def check(pace: float) -> None:
            runs_away = pool.submit(httpx.post, chat, json={**body, "chat_template": source}, timeout=60)
            num_served = 0
            while not runs_away.done():
                assert httpx.post(chat, json=body, timeout=60).status_code == 200
                num_served += 1
            error = runs_away.result().json()["error"]
            assert (runs_away.result().status_code, error["param"]) == (400, "chat_template")
            assert "ran for more than 2 s" in error["message"]
            assert num_served > 1

        at_some_pace(check)
