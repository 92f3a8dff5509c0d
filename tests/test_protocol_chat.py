"""Chat requests: messages, fields and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.app.errors import RequestError
from octavo.app.protocol_chat import (
    CHAT_REFUSED,
    ChatRequest,
    check_template_flags,
    read_chat,
)

HELLO = [{"role": "user", "content": "hello"}]


def test_messages_are_required() -> None:
    with pytest.raises(RequestError, match="^messages is required$") as caught:
        read_chat({"model": "x"})
    assert caught.value.code == "missing_required_parameter"


def test_unknown_fields_are_named_wherever_they_are() -> None:
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x", "cache": 1}], "mood": "good"}
        ],
        "stream": True,
        "stream_options": {"include_usage": True, "speed": 9},
        "foo": 1,
    }
    got = read_chat(body)
    assert sorted(got.ignored) == [
        "foo",
        "messages[0].content[0].cache",
        "messages[0].mood",
        "stream_options.speed",
    ]


@pytest.mark.parametrize("field", sorted(CHAT_REFUSED))
def test_known_fields_that_do_nothing_here_are_refused_by_name(field: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_chat({"messages": HELLO, field: {"anything": "else"}})
    assert (caught.value.param, caught.value.status) == (field, 400)
    for neutral in CHAT_REFUSED[field]:
        assert read_chat({"messages": HELLO, field: neutral}).ignored == []
    assert field not in ChatRequest.__struct_fields__


# OpenAI's reference of the request body, and vLLM 0.24's protocol file.
OPENAI = """
audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
metadata messages modalities model n parallel_tool_calls prediction presence_penalty prompt_cache_key
prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store
stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
"""
VLLM = """
top_k min_p repetition_penalty prompt_logprobs stop_token_ids include_stop_str_in_output ignore_eos
min_tokens bad_words allowed_token_ids skip_special_tokens spaces_between_special_tokens
truncate_prompt_tokens truncation_side use_beam_search length_penalty structured_outputs
include_reasoning thinking_token_budget chat_template chat_template_kwargs documents
add_generation_prompt continue_final_message add_special_tokens echo priority request_id cache_salt
return_tokens_as_token_ids return_token_ids return_prompt_text kv_transfer_params vllm_xargs
repetition_detection logprob_token_ids stream_interval session_id return_token_offsets
return_weight_versions watermarking routed_experts_prompt_start ec_transfer_params
"""


@pytest.mark.parametrize("field", [*OPENAI.split(), *VLLM.split()])
def test_no_field_of_openai_or_vllm_is_unknown(field: str) -> None:
    assert (field in ChatRequest.__struct_fields__) != (field in CHAT_REFUSED)


def test_length_of_the_answer_has_two_names() -> None:
    both = read_chat({"messages": HELLO, "max_tokens": 5, "max_completion_tokens": 7}).request
    old = read_chat({"messages": HELLO, "max_tokens": 5}).request
    neither = read_chat({"messages": HELLO}).request
    assert (both.max_output_tokens, both.max_tokens_field) == (7, "max_completion_tokens")
    assert (old.max_output_tokens, old.max_tokens_field) == (5, "max_tokens")
    assert neither.max_output_tokens is None


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
        ({"top_logprobs": 0}, None),
    ],
)
def test_number_of_alternatives(fields: dict[str, Any], expected: int | None) -> None:
    assert read_chat({"messages": HELLO, **fields}).request.num_logprobs == expected


@pytest.mark.parametrize(
    "fields", [{"logprobs": True, "top_logprobs": 21}, {"top_logprobs": 2}, {"top_logprobs": -1}]
)
def test_alternatives_out_of_range(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        read_chat({"messages": HELLO, **fields})
    assert caught.value.param == "top_logprobs"


def test_flags_of_the_template() -> None:
    assert check_template_flags(None, False) is True
    assert check_template_flags(None, True) is False
    assert check_template_flags(False, False) is False
    with pytest.raises(RequestError) as caught:
        check_template_flags(True, True)
    assert caught.value.param == "add_generation_prompt"
