"""What the route handlers of one server share. Knows no route."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from .edge import EdgeSettings
from .errors import ModelNotFoundError, RequestError
from .generation import Generation
from .metrics import ServerMetrics
from .protocol import DEFAULT_MAX_LOGPROBS
from .template_worker import TemplateWorker

T = TypeVar("T")

_INLINE_BYTES = 2048
"""Tokenizing costs about a microsecond a byte, and a step of a small model takes a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsRules:
    """Whose scripts may call, by which methods, with which headers; `*` is any. credentials: and cookies."""

    origins: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server meets its clients.

    model_names: names that requests may use; the first is the one shown.   api_keys: empty needs none.
    strict: refuse request fields that nobody knows.   max_body_bytes: of a request.
    keep_alive_s: silence after which a stream sends a comment.
    max_queued_requests: choices that may wait in the engine; None is any number.
    max_logprobs: likeliest tokens that a request may ask for; -1 is all.
    trust_request_chat_template: whether a request may bring a chat template of its own.
    request_timeout_s, queue_timeout_s: longest that a request may take, and wait; None is no limit.
    key_weights: shares of the engine, one for each of api_keys; empty is equal ones.
    tool_call_parser, reasoning_parser: how the model writes both; auto reads it off its chat template.
    log_prompts: whether prompts and answers may be logged.   otlp_endpoint: where traces go; None has none.
    """

    model_names: tuple[str, ...]
    version: str
    api_keys: tuple[str, ...] = ()
    strict: bool = False
    max_body_bytes: int = 16 * 2**20
    keep_alive_s: float = 15.0
    cors: CorsRules = CorsRules()
    edge: EdgeSettings = EdgeSettings()
    max_queued_requests: int | None = None
    max_logprobs: int = DEFAULT_MAX_LOGPROBS
    trust_request_chat_template: bool = False
    request_timeout_s: float | None = None
    queue_timeout_s: float | None = None
    key_weights: tuple[float, ...] = ()
    tool_call_parser: str = "auto"
    reasoning_parser: str = "auto"
    log_prompts: bool = False
    otlp_endpoint: str | None = None

    def check_trusts_templates(self) -> None:
        """Raise RequestError unless a request may bring a chat template of its own."""
        if not self.trust_request_chat_template:
            message = "chat_template must be left out: the server runs without --trust-request-chat-template"
            raise RequestError(message, param="chat_template", code="unsupported_parameter")

    @staticmethod
    def tenant_of(index: int) -> str:
        """The name of the API key with this index, fit for logs: never the key itself."""
        return f"key-{index}"

    def weight_of(self, tenant: str) -> float:
        """The share of a tenant."""
        names = map(self.tenant_of, range(len(self.api_keys)))
        return dict(zip(names, self.key_weights, strict=False)).get(tenant, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """The engine's front door, the settings, the numbers, and threads for work that would block the loop.

    templates: renders those that requests bring.
    """

    generation: Generation
    settings: ServerSettings
    metrics: ServerMetrics
    threads: ThreadPoolExecutor
    templates: TemplateWorker

    def served_name(self, model: str | None) -> str:
        """The name that the client used, the first one if none. Raises ModelNotFoundError."""
        names = self.settings.model_names
        if not model:
            return names[0]
        if model not in names:
            raise ModelNotFoundError(model)
        return model

    async def read(self, reader: Callable[[bytes], T], body: bytes) -> T:
        """`reader(body)`: here if the body is small, else in a thread, so that streams go on meanwhile.

        A body that may bring a template takes as long as the template does.
        """
        if len(body) <= _INLINE_BYTES and not self.settings.trust_request_chat_template:
            return reader(body)
        return await asyncio.get_running_loop().run_in_executor(self.threads, reader, body)
