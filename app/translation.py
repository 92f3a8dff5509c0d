"""A request of another API as a chat request, and errors in it with the client's own names of fields.

Knows no API: each brings its own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import RequestError
from .protocol import CommonFields

_TOOL = re.compile(r"(tools\[\d+\])\.function(.*)", re.DOTALL)
_MESSAGE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)


class ExtendedFields(CommonFields, kw_only=True):
    """What the translated APIs share with chat completions."""

    chat_template_kwargs: dict[str, Any] | None = None
    thinking_token_budget: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """The chat request, and the way back.

    names: a chat request's fields -> the client's; whatever is below them keeps its name.
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
    """The entries of `body` that the chat request takes unchanged."""
    return {name: body[name] for name in ExtendedFields.__struct_fields__ if name in body}


def json_schema_format(form: Mapping[str, Any]) -> dict[str, Any]:
    """`form`, which has its schema beside its type, as the `response_format` of a chat request."""
    kind = form.get("type")
    below = {name: value for name, value in form.items() if name != "type"}
    return {"type": kind, "json_schema": below} if kind == "json_schema" else {"type": kind}
