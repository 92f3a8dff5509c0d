"""RateLimits: buckets by hand, and over HTTP with the headers that OpenAI's clients read."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import pytest
from toy_server import toy_server

from octavo.app.errors import RateLimitError, RequestError
from octavo.app.rate_limits import RateLimits


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr("octavo.app.rate_limits.time.monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_minutes_requests_then_one_at_a_time(clock: Clock) -> None:
    limits = RateLimits(60, None)
    for _ in range(60):
        limits.take("a", 1)
    with pytest.raises(RateLimitError, match="60 requests a minute") as refused:
        limits.take("a", 1)
    assert refused.value.retry_after_s == 1 and refused.value.type == "requests"
    limits.take("b", 1)  # another key's affair
    clock.now_s += 1.0
    limits.take("a", 1)
    with pytest.raises(RateLimitError):
        limits.take("a", 1)


def test_answers_are_paid_when_they_come(clock: Clock) -> None:
    limits = RateLimits(None, 600)
    limits.take("a", 100)
    limits.spend("a", 700)
    with pytest.raises(RateLimitError, match="600 tokens a minute are allowed; try again in 30 s") as refused:
        limits.take("a", 100)
    assert refused.value.retry_after_s == 30 and refused.value.type == "tokens"
    assert refused.value.headers["x-ratelimit-remaining-tokens"] == "0"
    clock.now_s += 30.0
    limits.take("a", 100)


def test_a_refusal_costs_nothing(clock: Clock) -> None:
    limits = RateLimits(10, 100)
    limits.take("a", 90)
    for _ in range(20):
        with pytest.raises(RateLimitError):
            limits.take("a", 50)
    assert limits.quota("a").requests_left == 9


def test_a_prompt_that_no_minute_has_room_for_is_a_400(clock: Clock) -> None:
    with pytest.raises(RequestError, match="101 tokens, more than a minute's 100") as refused:
        RateLimits(None, 100).take("a", 101)
    assert refused.value.status == 400


def test_headers_and_429_over_http_for_each_key(tmp_path: Path) -> None:
    with toy_server(tmp_path, rpm=3, tpm=1000, keys="one") as server:
        with httpx.Client(base_url=server.url, timeout=60, headers={"authorization": "Bearer one"}) as http:
            body = {"prompt": "hello", "max_tokens": 5}
            began_s = time.monotonic()
            answers = [http.post("/v1/completions", json=body | {"stream": i == 1}) for i in range(4)]
            took_s = time.monotonic() - began_s
        assert server.end(signal.SIGTERM) == 0
    assert [answer.status_code for answer in answers[:3]] == [200] * 3
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers[:3]] == ["2", "1", "0"]
    assert {answer.headers["x-ratelimit-limit-tokens"] for answer in answers[:3]} == {"1000"}
    assert 900 < int(answers[1].headers["x-ratelimit-remaining-tokens"]) <= 1000
    if took_s < 15:  # a request comes back every 20 s
        assert answers[3].status_code == 429
        assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answers[3].headers["retry-after"]) <= 20
        assert answers[3].headers["x-ratelimit-remaining-requests"] == "0"
