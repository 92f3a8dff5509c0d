"""CORS rules and a proxy's prefix, each around an application."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from http_harness import ScriptedClient, check_error, make_app, serve
from starlette.types import Receive, Scope, Send

from octavo.app.config import ServerConfig
from octavo.app.middleware import RootPath
from octavo.app.server_settings import CorsRules
from octavo.app.settings import SettingError

ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}


def ask(rules: CorsRules, origin: str, **headers: str) -> tuple[httpx.Response, httpx.Response]:
    """A browser's question, and the answer to a request beside it."""
    with serve(make_app(ScriptedClient(), {"cors": rules})) as url:
        asked = {**ASKS, "origin": origin, **headers}
        question = httpx.options(f"{url}/v1/completions", headers=asked)
        return question, httpx.get(f"{url}/v1/models", headers={"origin": origin}, timeout=60)


def test_any_page_may_call_and_read_our_headers() -> None:
    question, answer = ask(CorsRules(), "https://anywhere.example")
    assert question.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    exposed = answer.headers["access-control-expose-headers"]
    assert all(name in exposed for name in ("x-request-id", "server-timing", "x-octavo-ignored-fields"))
    assert "access-control-allow-credentials" not in answer.headers


def test_only_named_pages_may() -> None:
    rules = CorsRules(origins=("https://mine.example",), credentials=True)
    question, answer = ask(rules, "https://mine.example")
    assert question.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://mine.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    question, answer = ask(rules, "https://other.example")
    assert "origin" in check_error(question, 400, "cors_refused", None)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "rules", [CorsRules(methods=("GET",)), CorsRules(origins=("*",), headers=("x-mine",))]
)
def test_methods_and_headers_are_restricted(rules: CorsRules) -> None:
    headers = {"access-control-request-headers": "x-other"}
    question, _ = ask(rules, "https://anywhere.example", **headers)
    check_error(question, 400, "cors_refused", None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"allow_credentials": True}, "allow_credentials needs --allowed-origins"),
        ({"ssl_keyfile": "key.pem"}, "ssl_keyfile needs --ssl-certfile"),
        ({"uds": "/tmp/x", "port": 9000}, "uds cannot be given together with --host or --port"),
        ({"root_path": "llm"}, "root_path must be empty or a path that begins with /"),
        ({"max_body_bytes": 0}, "max_body_bytes must be"),
    ],
)
def test_settings_that_contradict_each_other(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        ServerConfig(**values)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/llm/v1/models", "/v1/models"),
        ("/v1/models", "/v1/models"),
        ("/llm/", "/"),
        ("/llm", "/"),
        ("/llmx/v1", "/llmx/v1"),
        ("/llm/llm/x", "/llm/x"),
    ],
)
def test_paths(path: str, seen: str) -> None:
    scopes: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    async def nothing(*_: Any) -> Any:
        return {}

    scope = {"type": "http", "path": path, "raw_path": path.encode()}
    asyncio.run(RootPath(app, "/llm")(scope, nothing, nothing))
    assert (scopes[0]["path"], scopes[0]["raw_path"]) == (seen, seen.encode())
    assert scope["path"] == path, "the caller's scope is not changed"
