"""The OpenAPI document: routes, the fields that they take, refuse and answer with. Made from the types.

Knows the types of requests and answers, not the handlers; a test compares its routes with the server's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.json import schema_components

from . import answer_types as answers
from . import translated_types as translated
from .json_response import is_anthropic
from .protocol_anthropic import MESSAGES_REFUSED, CountRequest, MessagesRequest
from .protocol_chat import CHAT_REFUSED, ChatRequest
from .protocol_completion import COMPLETION_REFUSED, CompletionRequest
from .protocol_responses import RESPONSES_REFUSED, ResponsesRequest
from .responses_input import ITEM_TYPES
from .tokenize import TOKENIZE_REFUSED, DetokenizeRequest, TokenizeRequest
from .validation import Refused, show

_GENERATES = {
    401: "No API key, or a wrong one.",
    404: "No such model.",
    413: "The body is too large.",
    415: "The body is compressed.",
    429: "The API key has used up its rate; see Retry-After.",
    500: "The engine failed at this request.",
    503: "The queue is full, or the server is shutting down; see Retry-After.",
    504: "The request ran out of time.",
}
_NEEDS_KEY = {401: _GENERATES[401]}
_FINDS = {status: _GENERATES[status] for status in (401, 404)}
_READS = {**_FINDS, 413: _GENERATES[413], 415: _GENERATES[415]}
_NOT_READY = {503: "Not now; the message says why."}
_INTRODUCTION = (
    "Every response has the header x-request-id. A request field that nobody knows is passed over and named "
    "in the header x-octavo-ignored-fields, or refused where the server runs with --strict; fields that are "
    "known and not supported are refused by name, except with the values listed, which ask for nothing. "
    "Null means the same as leaving a field out."
)


class Operation(NamedTuple):
    """One route and method.

    answer: the type of its JSON, or the media type of another body.
    request: the type of its body, if it takes one.   refused: fields that are known and not supported.
    event: if it can be streamed, the type of an event or a sentence about them.
    errors: status to reason, beside 400 where there is a body.
    """

    method: str
    path: str
    summary: str
    answer: type[Struct] | str
    errors: dict[int, str] = {}
    request: type[Struct] | None = None
    refused: Refused = {}
    event: type[Struct] | str | None = None


OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a conversation",
        answers.ChatCompletion,
        _GENERATES,
        ChatRequest,
        CHAT_REFUSED,
        answers.ChatCompletionChunk,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue texts",
        answers.Completion,
        _GENERATES,
        CompletionRequest,
        COMPLETION_REFUSED,
        answers.Completion,
    ),
    Operation(
        "post",
        "/v1/responses",
        "Answer a conversation, with OpenAI's newer API; nothing is stored",
        translated.ResponseObject,
        _GENERATES,
        ResponsesRequest,
        RESPONSES_REFUSED,
        "named events, from response.created to response.completed, response.incomplete or response.failed",
    ),
    Operation(
        "post",
        "/v1/messages",
        "Answer a conversation, with Anthropic's API",
        translated.Message,
        _GENERATES,
        MessagesRequest,
        MESSAGES_REFUSED,
        "named events, from message_start to message_stop, or error",
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "Count the tokens of a prompt",
        translated.TokenCount,
        _READS,
        CountRequest,
        MESSAGES_REFUSED,
    ),
    Operation("get", "/v1/models", "The names of the model", answers.ModelList, _NEEDS_KEY),
    Operation("get", "/v1/models/{model}", "One of them", answers.ModelCard, _FINDS),
    Operation(
        "post",
        "/tokenize",
        "Token ids of a text or a conversation",
        answers.Tokens,
        _READS,
        TokenizeRequest,
        TOKENIZE_REFUSED,
    ),
    Operation("post", "/detokenize", "The text of token ids", answers.Text, _READS, DetokenizeRequest),
    Operation("get", "/health", "Whether requests are served", answers.Readiness, _NOT_READY),
    Operation("get", "/readyz", "Whether one more request finds room", answers.Readiness, _NOT_READY),
    Operation("get", "/livez", "Whether the event loop turns", answers.Status),
    Operation("get", "/version", "The server's version", answers.Version, _NEEDS_KEY),
    Operation("get", "/metrics", "Numbers for Prometheus", "text/plain", _NEEDS_KEY),
    Operation("get", "/openapi.json", "This document", "application/json"),
    Operation("get", "/docs", "This document, for people", "text/html"),
)


def openapi_document(version: str) -> dict[str, Any]:
    """The document of a server of that version, OpenAPI 3.1."""
    types: list[type[Struct]] = [answers.ErrorBody, answers.AnthropicErrorBody]
    for operation in OPERATIONS:
        for each in (operation.request, operation.answer, operation.event):
            if isinstance(each, type) and each not in types:
                types.append(each)
    types += ITEM_TYPES.values()
    _, components = schema_components(types, ref_template="#/components/schemas/{name}")
    _describe_input(components)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "octavo", "version": version, "description": _INTRODUCTION},
        "security": [{"bearer": []}, {"x-api-key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _describe_input(components: dict[str, Any]) -> None:
    """Tell which items the input of a response may have; the type holds them unread."""
    for kind, item in ITEM_TYPES.items():
        schema = components[item.__name__]
        schema["properties"]["type"] = {"enum": [kind]}
        if kind != "message":  # which is what an item without a type is
            schema["required"] = [*schema["required"], "type"] if "required" in schema else ["type"]
    items = {"anyOf": [_schema(item)["schema"] for item in ITEM_TYPES.values()]}
    field = components[ResponsesRequest.__name__]["properties"]["input"]
    field["anyOf"] = [{"type": "string"}, {"type": "array", "items": items}]


def _described(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}_{operation.path.strip('/').translate(_PLAIN)}",
    }
    if "{" in operation.path:
        name = operation.path.partition("{")[2].rstrip("}")
        string = {"type": "string"}
        described["parameters"] = [{"name": name, "in": "path", "required": True, "schema": string}]
    errors = dict(operation.errors)
    if operation.request is not None:
        errors[400] = "A field is wrong, not supported, or missing; `param` names it."
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": _schema(operation.request)},
        }
        described["x-octavo-refused"] = {
            name: [show(value) for value in accepted] for name, accepted in sorted(operation.refused.items())
        }
    responses = {"200": {"description": "The answer.", "content": _content(operation)}}
    body = answers.AnthropicErrorBody if is_anthropic(operation.path) else answers.ErrorBody
    for status, reason in sorted(errors.items()):
        responses[str(status)] = {"description": reason, "content": {"application/json": _schema(body)}}
    described["responses"] = responses
    return described


def _content(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.answer, str):
        of_json = operation.answer == "application/json"
        return {operation.answer: {"schema": {"type": "object" if of_json else "string"}}}
    content: dict[str, Any] = {"application/json": _schema(operation.answer)}
    if operation.event is not None:
        event = operation.event
        kind = event if isinstance(event, str) else f"events of type {event.__name__}, then [DONE]"
        content["text/event-stream"] = {"schema": {"type": "string", "description": f"With stream: {kind}."}}
    return content


def _schema(into: type[Struct]) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{into.__name__}"}}


_PLAIN = str.maketrans({"/": "_", ".": "_", "{": None, "}": None})
