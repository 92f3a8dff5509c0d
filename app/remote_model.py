"""A model behind a URL, for the terminal: the streaming half of the OpenAI API, with the standard library."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from .client_config import TerminalConfig
from .errors import OctavoError, StartupError

_SILENCE_S = 600.0
_COMPLETION_TOKENS = 256


class RemoteModel:
    """Implements terminal.Model.

    model: the name to ask for; None takes the first that the server has.   seed: of every request.
    Raises StartupError if the server cannot be asked.
    """

    def __init__(self, terminal: TerminalConfig, model: str | None, seed: int | None) -> None:
        assert terminal.url is not None, "no URL to ask"
        self._base = terminal.url.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = {"Content-Type": "application/json"}
        if terminal.api_key is not None:
            self._headers["Authorization"] = f"Bearer {terminal.api_key}"
        fields = {
            "temperature": terminal.temperature,
            "top_p": terminal.top_p,
            "max_tokens": terminal.max_tokens,
            "seed": seed,
        }
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._model = model or self._first_model()

    def chat(self, messages: Sequence[dict[str, Any]]) -> Generator[str]:
        """The answer to a conversation."""
        for choice in self._stream("/chat/completions", {"messages": list(messages)}):
            yield choice.get("delta", {}).get("content") or ""

    def complete(self, prompt: str) -> Generator[str]:
        """The continuation of a text."""
        body = {"max_tokens": _COMPLETION_TOKENS, "prompt": prompt}
        for choice in self._stream("/completions", body):
            yield choice.get("text") or ""

    def close(self) -> None:
        """Nothing is open between answers."""

    def _first_model(self) -> str:
        try:
            with self._open("/models", None) as response:
                return str(json.load(response)["data"][0]["id"])
        except OctavoError as error:
            raise StartupError(str(error)) from error
        except (LookupError, TypeError, ValueError) as error:
            raise StartupError(f"{self._base}/models does not answer as the OpenAI API does") from error

    def _stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """The first choice of every chunk."""
        asked = {**body, **self._fields, "model": self._model, "stream": True}
        with self._open(path, asked) as response:
            try:
                yield from _first_choices(response)
            except (OSError, http.client.HTTPException) as error:
                raise OctavoError(f"the answer broke off: {error}") from error

    def _open(self, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self._base + path, data, self._headers)
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_SILENCE_S)
        except urllib.error.HTTPError as error:
            with error:
                raise OctavoError(f"{self._base}{path}: {error.code}, {_refusal(error.read())}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:  # the last, who speaks no HTTP
            reason = getattr(error, "reason", error)
            reason = getattr(reason, "strerror", None) or reason
            raise OctavoError(f"{self._base}{path} cannot be reached: {reason}") from None
        return response


def _first_choices(lines: Iterable[bytes]) -> Generator[dict[str, Any]]:
    for line in lines:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue  # an empty line, a comment, or the end
        try:
            chunk = json.loads(line.removeprefix(b"data: "))
            error = chunk.get("error")
            choices = chunk.get("choices", [])
            choice = choices[0] if choices else {}
            choice.get("delta", {}).get("content")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as broken:
            raise OctavoError(
                f"the server does not stream as the OpenAI API does: {line[:200]!r}"
            ) from broken
        if error is not None:
            raise OctavoError(_message(chunk))
        if choices:
            yield choice


def _refusal(body: bytes) -> str:
    try:
        return _message(json.loads(body))
    except ValueError:
        return body[:200].decode(errors="replace") or "no explanation"


def _message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)
