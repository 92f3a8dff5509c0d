"""Errors on their way back to a client that never wrote a chat request."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from http_harness import ScriptedClient, make_app, serve

from octavo.app.errors import RequestError
from octavo.app.translation import Translation, passed_on

TRANSLATION = Translation(
    chat={},
    names={"messages": "input", "stop": "stop_sequences"},
    places=["instructions", "input[0]", "input[4]"],
    ignored=(),
)


@pytest.mark.parametrize(
    "param, message, expected",
    [
        ("messages", "messages must end", ("input", "input must end")),
        ("messages[2].content[1]", "messages[2].content[1] is odd", ("input[4].content[1]",) * 1),
        ("messages[0].role", "messages[0].role is odd", ("instructions.role", "instructions.role is odd")),
        ("stop", "stop_token_ids beside stop", ("stop_sequences", "stop_token_ids beside stop_sequences")),
        ("seed", "seed must be whole", ("seed", "seed must be whole")),
        (None, "messages are fine", (None, "messages are fine")),
    ],
)
def test_names_are_the_clients(param: str | None, message: str, expected: tuple[str | None, ...]) -> None:
    error = TRANSLATION.clients(RequestError(message, param=param))
    assert (error.param, error.message)[: len(expected)] == expected


def test_only_fields_of_one_meaning_are_passed_on() -> None:
    assert passed_on({"seed": 1, "n": 2, "stop": "x", "stream": True}) == {"seed": 1, "stream": True}


@pytest.mark.parametrize("path, prompt", [("/v1/responses", "input"), ("/v1/messages", "messages")])
def test_limits_of_time_are_the_same_fields_in_every_api(path: str, prompt: str) -> None:
    engine = ScriptedClient()
    content: Any = "hi" if prompt == "input" else [{"role": "user", "content": "hi"}]
    body: dict[str, Any] = {prompt: content, "max_tokens": 9} if prompt == "messages" else {prompt: content}
    with serve(make_app(engine)) as url:
        response = httpx.post(url + path, json={**body, "timeout": 50, "queue_timeout": 20})
        assert response.status_code == 200 and "x-octavo-ignored-fields" not in response.headers
        claim = engine.requests[-1].claim
        assert claim.deadline_s - claim.arrival_s == pytest.approx(50)
        assert claim.queue_deadline_s - claim.arrival_s == pytest.approx(20)
        for name in ("timeout", "queue_timeout"):
            for value, code in ((0, "invalid_value"), (-1, "invalid_value"), ("5", "invalid_type")):
                refused = httpx.post(url + path, json={**body, name: value}, timeout=60)
                error = refused.json()["error"]
                assert (refused.status_code, error["param"], error["code"]) == (400, name, code)
