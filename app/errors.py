"""What goes wrong, as types. Knows nothing of HTTP libraries: a status is a number, a body is a mapping.

OctavoError
  StartupError              one sentence; the command line prints it and exits with 2
  RequestError              one request is at fault, or cannot be served
    ContextLengthError      400 context_length_exceeded, with the numbers
    ModelNotFoundError      404 model_not_found
    AuthenticationError     401 invalid_api_key
    BodyTooLargeError       413 request_too_large
    RateLimitError          429 rate_limit_exceeded, with Retry-After and x-ratelimit headers
    EngineOverloadedError   503 server_overloaded, with Retry-After
    DeadlineError           504 deadline_exceeded: the request ran out of time, waiting or running
    GenerationError         500 generation_failed: this request failed in the engine, others live on
    EngineDeadError         500 engine_dead: nothing can be served any more
      EngineStoppedError    503 server_draining: as its owner wanted; the request had not ended
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REFUSALS = ("request", "rate_limit", "queue_full", "late", "stuck", "grammars", "draining")
"""Why a request is not taken. request: what it asks for.   late: its first token would come too late.
stuck: the device does not answer.   grammars: too many are being compiled."""
ADMISSION_REFUSALS = ("queue_full", "late")
"""Those of a server that has too much to do."""
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Status -> type of error in Anthropic's API."""


class OctavoError(Exception):
    """Base of everything that octavo raises on purpose."""


class StartupError(OctavoError):
    """The server or model cannot start; the message is one sentence for a person at a terminal."""


class RequestError(OctavoError):
    """An error with the shape of the OpenAI API. What is not given is the class's own.

    param: the field at fault, as a path (`messages[0].content`), if one is.
    code: a word that programs compare.   retry_after_s: whole seconds for the Retry-After header.
    headers: more headers of the response.   refusal: one of REFUSALS, if the request is not taken.
    """

    code = "invalid_value"
    status = 400
    type = "invalid_request_error"
    retry_after_s: int | None = None
    refusal = "request"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        type: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        refusal: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.status = status or self.status
        self.type = type or self.type
        self.retry_after_s = self.retry_after_s if retry_after_s is None else retry_after_s
        self.headers = dict(headers or {})
        self.refusal = refusal or self.refusal
        assert self.refusal in REFUSALS, f"refusal must be one of {REFUSALS}, got {self.refusal!r}"

    def body(self) -> dict[str, Any]:
        """The JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def anthropic_body(self, request_id: str) -> dict[str, Any]:
        """Anthropic's body, with the `param` and `code` that every error of this server has."""
        usual = "invalid_request_error" if self.status < 500 else "api_error"
        kind = _ANTHROPIC_TYPES.get(self.status, usual)
        told = {"type": kind, "message": self.message, "param": self.param, "code": self.code}
        return {"type": "error", "error": told, "request_id": request_id}


class ContextLengthError(RequestError):
    """The prompt, or the prompt and the completion asked for, is longer than the model.

    num_prompt_tokens may be a lower bound when the prompt was refused before tokenizing (`at_least`).
    param: the field that holds the prompt if the prompt alone is too long, else the one that sets max_tokens.
    """

    code = "context_length_exceeded"

    def __init__(
        self,
        max_model_len: int,
        num_prompt_tokens: int,
        max_tokens: int | None = None,
        *,
        param: str | None = None,
        at_least: bool = False,
    ) -> None:
        self.max_model_len = max_model_len
        self.num_prompt_tokens = num_prompt_tokens
        self.max_tokens = max_tokens
        self.prompt_alone = num_prompt_tokens >= max_model_len
        limit = f"This model's maximum context length is {max_model_len} tokens."
        if self.prompt_alone or max_tokens is None:
            bound = "at least " if at_least else ""
            asked = (
                f"your prompt has {bound}{num_prompt_tokens} tokens, which leaves no room for a completion"
            )
            advice = "Please shorten the prompt."
        else:
            asked = (
                f"you requested {num_prompt_tokens + max_tokens} tokens "
                f"({num_prompt_tokens} in the prompt, {max_tokens} for the completion)"
            )
            room = max_model_len - num_prompt_tokens
            advice = f"Please shorten the prompt, or set max_tokens to at most {room}."
        super().__init__(
            f"{limit} However, {asked}. {advice}",
            param=param or ("prompt" if self.prompt_alone or max_tokens is None else "max_tokens"),
        )


class ModelNotFoundError(RequestError):
    """The request names a model that is not served here."""

    code, status = "model_not_found", 404

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {model!r} does not exist.", param="model")


class AuthenticationError(RequestError):
    """No API key, or a wrong one."""

    code, status, type = "invalid_api_key", 401, "authentication_error"


class BodyTooLargeError(RequestError):
    """The request body is larger than the server reads."""

    code, status = "request_too_large", 413

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The request body must be at most {max_bytes} bytes.")


class RateLimitError(RequestError):
    """An API key has used up what it may ask for in a minute. type: OpenAI's word, requests or tokens."""

    code, status, refusal = "rate_limit_exceeded", 429, "rate_limit"


class EngineOverloadedError(RequestError):
    """There is too much to do: by default, the queue is full. The client should come back later."""

    code, status, type = "server_overloaded", 503, "server_error"
    retry_after_s, refusal = 1, "queue_full"


class DeadlineError(RequestError):
    """The request did not start or end in the time that it had."""

    code, status, type = "deadline_exceeded", 504, "timeout_error"


class GenerationError(RequestError):
    """The engine failed at this one request."""

    code, status, type = "generation_failed", 500, "server_error"


class EngineDeadError(RequestError):
    """The engine has stopped; the message carries the cause in one line."""

    code, status, type = "engine_dead", 500, "server_error"


class EngineStoppedError(EngineDeadError):
    """The engine was stopped on purpose while the request ran: a drain was out of time."""

    code, status, retry_after_s = "server_draining", 503, 5
