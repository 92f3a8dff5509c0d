"""What a model's generation_config.json asks for, and what it may not."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from http_harness import CHAT, COMPLETIONS, ScriptedClient, make_app, serve

from octavo.app.errors import StartupError
from octavo.app.model_source import default_params
from octavo.model.sampling_params import SamplingParams


def test_what_is_set_gets_our_names() -> None:
    config = {
        "bos_token_id": 1,
        "do_sample": True,
        "max_new_tokens": 2048,
        "min_p": None,
        "temperature": 0.6,
        "top_k": 20,
    }
    assert default_params(config) == {"max_tokens": 2048, "temperature": 0.6, "top_k": 20}
    assert SamplingParams(**default_params(config)).max_tokens == 2048
    assert default_params({}) == {}


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("temperature", -1, "must be in [0, 2], got -1"),
        ("top_p", "0.9", "must be a finite number, got '0.9'"),
        ("top_k", 20.0, "must be an integer, got 20.0"),
        ("repetition_penalty", 0, "must be in [0.01, 100], got 0"),
        ("max_new_tokens", 0, "must be at least 1, got 0"),
        ("max_new_tokens", 1.5, "must be an integer or None, got 1.5"),
    ],
)
def test_a_wrong_value_stops_the_start(field: str, value: Any, complaint: str) -> None:
    with pytest.raises(StartupError) as caught:
        default_params({"top_k": 1, field: value})
    assert str(caught.value) == f"generation_config.json: {field} {complaint}"


@pytest.mark.parametrize(("prompt_len", "given", "expected"), [(0, None, 50), (0, 60, 60), (1950, None, 32)])
def test_max_new_tokens_of_the_model_limits_a_chat(prompt_len: int, given: int | None, expected: int) -> None:
    messages = [{"role": "user", "content": "x" * (prompt_len or 1)}]
    engine = ScriptedClient()
    app = make_app(engine, default_params={"max_tokens": 50})
    with serve(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        answer = http.post(CHAT, json={"messages": messages, "max_tokens": given})
        assert answer.status_code == 200, answer.text
        assert engine.requests[-1].max_tokens == expected
        http.post(COMPLETIONS, json={"prompt": "hi"})
        assert engine.requests[-1].max_tokens == 16
