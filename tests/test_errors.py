"""The error types' bodies, and the sentences with numbers."""

from __future__ import annotations

import pytest

from octavo.app.errors import (
    AuthenticationError,
    BodyTooLargeError,
    ContextLengthError,
    DeadlineError,
    EngineDeadError,
    EngineOverloadedError,
    EngineStoppedError,
    GenerationError,
    ModelNotFoundError,
    RequestError,
)


@pytest.mark.parametrize(
    "error, status, code, param",
    [
        (RequestError("x"), 400, "invalid_value", None),
        (ContextLengthError(10, 20), 400, "context_length_exceeded", "prompt"),
        (ModelNotFoundError("m"), 404, "model_not_found", "model"),
        (AuthenticationError("x"), 401, "invalid_api_key", None),
        (DeadlineError("x"), 504, "deadline_exceeded", None),
        (BodyTooLargeError(5), 413, "request_too_large", None),
        (EngineOverloadedError("x"), 503, "server_overloaded", None),
        (GenerationError("x"), 500, "generation_failed", None),
        (EngineDeadError("x"), 500, "engine_dead", None),
        (EngineStoppedError("x"), 503, "server_draining", None),
    ],
)
def test_status_code_and_body(error: RequestError, status: int, code: str, param: str | None) -> None:
    body = error.body()["error"]
    assert error.status == status
    assert list(body) == ["message", "type", "param", "code"]
    assert (body["code"], body["param"], body["message"]) == (code, param, str(error))
    assert body["type"]


def test_context_length_names_what_is_too_long() -> None:
    prompt_alone = ContextLengthError(100, 100, 5)
    together = ContextLengthError(100, 60, 50)
    bound = ContextLengthError(100, 5000, param="messages", at_least=True)
    assert "your prompt has 100 tokens" in prompt_alone.message and prompt_alone.param == "prompt"
    assert "you requested 110 tokens (60 in the prompt, 50 for the completion)" in together.message
    assert "at most 40" in together.message and together.param == "max_tokens"
    assert "at least 5000 tokens" in bound.message and bound.param == "messages"


def test_overload_says_when_to_come_back() -> None:
    assert EngineOverloadedError("full", retry_after_s=7).retry_after_s == 7
