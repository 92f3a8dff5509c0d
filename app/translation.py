"""A request of another API as the chat request that asks for the same, and its errors in the client's words.

Knows no API: each brings its own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import RequestError

PASSED_ON = (
    "model",
    "stream",
    "temperature",
    "top_k",
    "top_p",
    # vLLM's extensions
    "cache_salt",
    "chat_template_kwargs",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "min_p",
    "min_tokens",
    "presence_penalty",
    "priority",
    "repetition_penalty",
    "request_id",
    "seed",
    "skip_special_tokens",
    "stop_token_ids",
)
"""Fields that mean in every API what they mean in chat completions."""

_MESSAGE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """The chat request, and the way back.

    names: fields of a chat request -> the client's.   places: for each message, where the client wrote it.
    ignored: the client's fields that nobody knows.
    """

    chat: dict[str, Any]
    names: Mapping[str, str]
    places: Sequence[str]
    ignored: Sequence[str]

    def clients(self, error: RequestError) -> RequestError:
        """`error`, raised at the chat request, with the client's own field in `param` and message."""
        param = error.param
        place = _MESSAGE.fullmatch(param or "")
        name = f"{self.places[int(place[1])]}{place[2]}" if place else self.names.get(param or "")
        if param is not None and name is not None and name != param:
            error.message = re.sub(
                rf"(?<!\w){re.escape(param)}(?!\w)", lambda _: name, error.message, count=1
            )
            error.param = name
        return error


def passed_on(body: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `body` that go into the chat request as they are."""
    return {name: body[name] for name in PASSED_ON if name in body}
