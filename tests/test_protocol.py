"""Fields that both routes share, and what they become."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.app.errors import ContextLengthError, RequestError
from octavo.app.protocol import SamplingFields, check_common, client_names, sampling_params, usage
from octavo.app.validation import convert
from octavo.model.sampling_params import SamplingParams


def params_of(
    fields: dict[str, Any], defaults: dict[str, Any] | None = None, **changes: Any
) -> SamplingParams:
    request = convert(fields, SamplingFields)
    check_common(request, 20)
    settings: dict[str, Any] = {
        "max_tokens": 16,
        "max_tokens_field": "max_tokens",
        "logprobs": None,
        "prompt_logprobs": None,
    } | changes
    return sampling_params(request, defaults or {}, **settings)


def test_every_sampling_field_arrives() -> None:
    fields: dict[str, Any] = {
        "n": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.4,
        "logit_bias": {"5": -100, "7": 2.5},
        "seed": 11,
        "stop": ["a", "b"],
        "stop_token_ids": [1, 2],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "min_tokens": 4,
        "skip_special_tokens": False,
    }
    got = params_of(fields, max_tokens=9, logprobs=2)
    expected = SamplingParams(**{**fields, "logit_bias": {5: -100, 7: 2.5}}, max_tokens=9, logprobs=2)
    assert got == expected


def test_nothing_given_is_the_default() -> None:
    assert params_of({}) == SamplingParams()


def test_model_defaults_fill_what_is_unset() -> None:
    defaults = {"temperature": 0.2, "top_k": 7, "repetition_penalty": 1.1, "top_p": None, "do_sample": True}
    got = params_of({"temperature": 0.9}, defaults)
    assert (got.temperature, got.top_k, got.repetition_penalty, got.top_p) == (0.9, 7, 1.1, 1.0)


def test_seed_of_minus_one_is_none() -> None:
    assert params_of({"seed": -1}).seed is None
    assert params_of({"seed": -2}).seed == -2


@pytest.mark.parametrize(
    "fields, param, rule",
    [
        ({"temperature": 2.1}, "temperature", "in [0, 2], got 2.1"),
        ({"temperature": -0.1}, "temperature", "in [0, 2]"),
        ({"top_p": 0}, "top_p", "in (0, 1]"),
        ({"top_p": 1.01}, "top_p", "in (0, 1]"),
        ({"top_k": -2}, "top_k", "-1 (off)"),
        ({"min_p": 2}, "min_p", "in [0, 1]"),
        ({"repetition_penalty": 0}, "repetition_penalty", "in [0.01, 100]"),
        ({"presence_penalty": 3}, "presence_penalty", "in [-2, 2]"),
        ({"frequency_penalty": -3}, "frequency_penalty", "in [-2, 2]"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "keyed by token ids, got 'x'"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "keyed by token ids"),
        ({"logit_bias": {"\u0663": 1}}, "logit_bias", "keyed by token ids"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "in [-100, 100]"),
        ({"seed": 2**63}, "seed", "64-bit"),
        ({"stop": ""}, "stop", "non-empty"),
        ({"stop": ["a", ""]}, "stop", "non-empty"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "not negative"),
        ({"min_tokens": -1}, "min_tokens", "in [0, 2147483647)"),
        ({"min_tokens": 17}, "min_tokens", "at most max_tokens (16)"),
        ({"n": 0}, "n", "in [1, 128], got 0"),
        ({"n": 129}, "n", "in [1, 128]"),
        ({"priority": 2**63}, "priority", "64-bit"),
        ({"cache_salt": ""}, "cache_salt", "non-empty"),
        ({"request_id": ""}, "request_id", "printable"),
        ({"request_id": "a\nb"}, "request_id", "printable"),
        ({"request_id": "x" * 129}, "request_id", "1 to 128"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "unless stream is true"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
            "unless include_usage is true",
        ),
    ],
)
def test_values_out_of_range_name_the_field(fields: dict[str, Any], param: str, rule: str) -> None:
    with pytest.raises(RequestError) as caught:
        params_of(fields)
    assert (caught.value.param, caught.value.status, caught.value.code) == (param, 400, "invalid_value")
    assert rule in caught.value.message
    assert caught.value.message.startswith(param)


def test_max_tokens_goes_by_the_name_that_the_client_used() -> None:
    with pytest.raises(RequestError, match="^max_completion_tokens must be at least 1, got 0") as caught:
        params_of({}, max_tokens=0, max_tokens_field="max_completion_tokens")
    assert caught.value.param == "max_completion_tokens"


def test_late_errors_go_by_the_names_that_the_client_used() -> None:
    names = {"prompt": "messages", "max_tokens": "max_completion_tokens"}
    together = client_names(ContextLengthError(100, 60, 50), names)
    alone = client_names(ContextLengthError(100, 200), names)
    other = client_names(RequestError("x", param="logit_bias"), names)
    assert together.param == "max_completion_tokens" and "set max_completion_tokens to" in together.message
    assert (alone.param, other.param) == ("messages", "logit_bias")
    assert together.body()["error"]["message"] == together.message


def test_usage_adds_up() -> None:
    counted = usage(7, 5, 3)
    assert counted["total_tokens"] == 12
    assert counted["prompt_tokens_details"] == {"cached_tokens": 3}
