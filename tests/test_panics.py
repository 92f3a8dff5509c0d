"""What a library in Rust raises when it breaks is an error, and one request's affair."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from http_harness import COMPLETIONS, ScriptedClient, byte_tokenizer, check_error, make_app, serve

from octavo.app.panics import PANICS_ARE_ERRORS, PanicError
from octavo.app.tokenizer import Tokenizer


class PanicException(BaseException):
    """By its name alone that is what it is."""


class PanickyBackend:
    """The tokenizers library, which panics at some texts."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
        """Whatever is unlucky panics."""
        if "unlucky" in texts[0]:
            raise PanicException("index out of bounds")
        return self._backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    def decode(self, ids: list[int], skip_special_tokens: bool) -> Any:
        """So does an uppercase letter."""
        if any(65 <= token <= 90 for token in ids):
            raise PanicException("index out of bounds")
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)


def test_a_panic_becomes_an_error_and_nothing_else_does() -> None:
    with pytest.raises(PanicError, match="oh no"), PANICS_ARE_ERRORS:
        raise PanicException("oh no")
    for other in (KeyboardInterrupt, ValueError):
        with pytest.raises(other), PANICS_ARE_ERRORS:
            raise other
    with PANICS_ARE_ERRORS:
        pass


def panicky_tokenizer() -> Tokenizer:
    tokenizer = byte_tokenizer()
    broken: Any = PanickyBackend(tokenizer.backend)
    tokenizer.backend = broken
    tokenizer._visible_bytes = tokenizer._all_bytes = None  # so that its decoder is asked
    return tokenizer


def test_one_request_fails_and_the_server_goes_on() -> None:
    client = ScriptedClient(reply="all is Well")
    body = {"prompt": "please", "max_tokens": 50}
    app = make_app(client, tokenizer=panicky_tokenizer())
    with serve(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        check_error(http.post(COMPLETIONS, json={**body, "prompt": "unlucky"}), 500, "internal_error", None)
        check_error(http.post(COMPLETIONS, json=body), 500, "internal_error", None)
        streamed = http.post(COMPLETIONS, json={**body, "stream": True}).text
        assert '"text":"a"' in streamed and "failed at this request" in streamed
        assert streamed.endswith("data: [DONE]\n\n")
        client.reply = "all is well"
        assert http.post(COMPLETIONS, json=body).json()["choices"][0]["text"] == "all is well"
        ended = {
            line.split('"')[1]: float(line.split()[1])
            for line in http.get("/metrics").text.splitlines()
            if line.startswith("octavo_requests_total{")
        }
        assert (ended["error"], ended["stop"]) == (3, 1)
    assert not client.running
