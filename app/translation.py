"""A request of another API as the chat request that asks for the same, and its errors in the client's words.

Knows no API: each brings its own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from .errors import RequestError
from .protocol_grammar import StructuredOutputs

_TOOL = re.compile(r"(tools\[\d+\])\.function(.*)", re.DOTALL)
_MESSAGE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)


class ExtendedFields(Struct, kw_only=True):
    """Fields that mean in every API what they mean in chat completions, most of them vLLM's extensions."""

    model: str | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    priority: int = 0
    cache_salt: str | None = None
    request_id: str | None = None
    timeout: float | None = None
    queue_timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """The chat request, and the way back.

    names: fields of a chat request -> the client's, what is below them included.
    places: for each message, where the client wrote it.
    ignored: the client's fields that nobody knows.
    tool_names: what is below a tool's `function` in a chat request -> what is below the tool here.
    """

    chat: dict[str, Any]
    names: Mapping[str, str]
    places: Sequence[str]
    ignored: Sequence[str]
    tool_names: Mapping[str, str] = field(default_factory=dict)

    def clients(self, error: RequestError) -> RequestError:
        """`error`, raised at the chat request, with the client's own field in `param` and message."""
        param = error.param
        name = None if param is None else self._name(param)
        if param is not None and name is not None and name != param:
            error.message = re.sub(
                rf"(?<!\w){re.escape(param)}(?!\w)", lambda _: name, error.message, count=1
            )
            error.param = name
        return error

    def _name(self, param: str) -> str | None:
        place = _MESSAGE.fullmatch(param)
        if place:
            return f"{self.places[int(place[1])]}{place[2]}"
        tool = _TOOL.fullmatch(param)
        if tool:
            rest = tool[2]
            for known, name in self.tool_names.items():
                if rest.startswith(known):
                    rest = name + rest.removeprefix(known)
            return f"{tool[1]}{rest}"
        for known, name in self.names.items():
            rest = param.removeprefix(known)
            if param.startswith(known) and (not rest or rest[0] in ".["):
                return name + rest
        return None


def passed_on(body: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `body` that go into the chat request as they are."""
    return {name: body[name] for name in ExtendedFields.__struct_fields__ if name in body}


def json_schema_format(form: Mapping[str, Any]) -> dict[str, Any]:
    """A form of answer whose schema stands beside its type, as the `response_format` of a chat request."""
    kind = form.get("type")
    below = {name: value for name, value in form.items() if name != "type"}
    return {"type": kind, "json_schema": below} if kind == "json_schema" else {"type": kind}
