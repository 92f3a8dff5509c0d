"""The line of a request, of a real server: what it says, and what it keeps to itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_harness import ScriptedClient, make_app, serve
from toy_server import wait_for

KEY = "sesame-open-up"
SECRET = "my mother's maiden name"


class Lines(logging.Handler):
    """The fields of every request's line."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def fields(self) -> list[dict[str, Any]]:
        return [{"message": r.getMessage(), "level": r.levelname, **vars(r)["fields"]} for r in self.records]

    def one(self) -> dict[str, Any]:
        wait_for(lambda: self.records)
        (line,) = self.fields()
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    log, handler = logging.getLogger("octavo.requests"), Lines()
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)
    yield handler
    log.setLevel(before)
    log.removeHandler(handler)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with serve(make_app(ScriptedClient(), {"api_keys": (KEY,)})) as url:
        headers = {"authorization": f"Bearer {KEY}", "x-request-id": "my-id"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            yield client


def test_a_request_that_ended_well(http: httpx.Client, lines: Lines) -> None:
    http.post("/v1/completions?token=hush", json={"prompt": SECRET, "max_tokens": 3}).raise_for_status()
    line = lines.one()
    assert line["message"] == "POST /v1/completions 200" and line["level"] == "INFO"
    assert (line["request_id"], line["response_id"]) == ("my-id", "cmpl-my-id")
    assert (line["cause"], line["output_tokens"], line["prompt_tokens"]) == ("length", 3, len(SECRET))
    assert 0 <= line["queue_ms"] <= line["first_token_ms"] <= line["total_ms"]
    assert line["client"] == "127.0.0.1"
    assert not [word for word in (KEY, SECRET, "hush") if word in str(line)]


def test_a_request_that_was_refused_is_told_by_its_code(http: httpx.Client, lines: Lines) -> None:
    assert http.post("/v1/completions", json={"prompt": [SECRET, 7]}).status_code == 400
    line = lines.one()
    assert line["message"] == "POST /v1/completions 400"
    assert (line["cause"], line["code"]) == ("refused", "invalid_type")
    assert SECRET not in str(line)


def test_a_full_queue_is_no_failure_of_the_server(http: httpx.Client, lines: Lines) -> None:
    assert http.post("/v1/completions", json={"prompt": "full"}).status_code == 503
    line = lines.one()
    assert (line["level"], line["cause"], line["code"]) == ("INFO", "refused", "server_overloaded")


@pytest.mark.parametrize("stream", [True, False])
def test_what_the_engine_said_of_a_failure_is_kept(http: httpx.Client, lines: Lines, stream: bool) -> None:
    http.post("/v1/completions", json={"prompt": "broken", "stream": stream})
    line = lines.one()
    assert (line["level"], line["cause"], line["error"]) == ("ERROR", "error", "The logits were NaN.")
    assert line["output_tokens"] == 3


def test_a_client_that_leaves(http: httpx.Client, lines: Lines) -> None:
    body = {"prompt": "slow", "stream": True, "max_tokens": 500}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    line = lines.one()
    assert line["cause"] == "disconnect" and line["output_tokens"] < 500


def test_choices_share_a_line(http: httpx.Client, lines: Lines) -> None:
    http.post("/v1/completions", json={"prompt": ["slow", "x"], "n": 2, "max_tokens": 4}).raise_for_status()
    line = lines.one()
    assert (line["choices"], line["cause"], line["output_tokens"]) == (4, "length", 16)


def test_probes_are_quiet_and_nonsense_is_bounded(http: httpx.Client, lines: Lines) -> None:
    for path in ("/livez", "/health", "/metrics", "/no/such\nthing"):
        http.get(path.replace("\n", "%0A"))
    line = lines.one()
    assert (line["message"], line["code"]) == ("GET other 404", "not_found")
    assert "cause" not in line


def test_a_wrong_key_leaves_a_line_without_it(http: httpx.Client, lines: Lines) -> None:
    wrong = {"authorization": "Bearer guessed-it"}
    assert http.post("/v1/completions", json={"prompt": "x"}, headers=wrong).status_code == 401
    line = lines.one()
    assert line["code"] == "invalid_api_key" and "guessed" not in str(line)


def test_prompts_and_answers_are_logged_if_asked_for(lines: Lines) -> None:
    with serve(make_app(ScriptedClient(), {"log_prompts": True})) as url:
        httpx.post(
            f"{url}/v1/completions", json={"prompt": ["count", "count"], "seed": 7, "n": 1}, timeout=60
        )
    line = lines.one()
    assert line["prompts"] == ("count", "count")
    assert line["texts"] == ("7", "7")
