"""A prefix is taken off, whether the proxy has done so or not, and nothing else is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from octavo.app.root_path import RootPath


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
