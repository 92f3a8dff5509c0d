"""Requests that are wrong, and what must be said of them: (path, body, status, code, param)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
_HELLO = [{"role": "user", "content": "hi"}]


class BadInput(NamedTuple):
    path: str
    body: bytes
    status: int
    code: str
    param: str | None


def _json(path: str, fields: Any, code: str, param: str | None, status: int = 400) -> BadInput:
    return BadInput(path, json.dumps(fields).encode(), status, code, param)


def _chat(fields: dict[str, Any], param: str, code: str = "invalid_value", status: int = 400) -> BadInput:
    return _json(CHAT, {"messages": _HELLO, **fields}, code, param, status)


def _completion(
    fields: dict[str, Any], param: str, code: str = "invalid_value", status: int = 400
) -> BadInput:
    return _json(COMPLETIONS, {"prompt": "hi", **fields}, code, param, status)


def _tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


_MALFORMED = {
    "empty": b"",
    "spaces": b"   ",
    "open": b'{"prompt": "hi"',
    "text": b"hello",
    "trailing": b'{"prompt": "hi"} x',
    "single quotes": b"{'prompt': 'hi'}",
    "nan": b'{"prompt": "hi", "temperature": NaN}',
    "infinity": b'{"prompt": "hi", "temperature": 1e999}',
    "list": b'["prompt"]',
    "number": b"3",
    "utf-8": b'{"prompt": "\xff\xfe"}',
    "utf-8 cut": b'{"prompt": "\xc3"}',
    "utf-16": '{"prompt": "hi"}'.encode("utf-16"),
    "surrogate": b'{"prompt": "\\ud83d"}',
    "deep": b'{"prompt": ' + b"[" * 100_000,
    "form": b"prompt=hi&max_tokens=3",
    "nul": b"\0" * 10,
}

BAD_INPUTS = {
    **{
        f"{name} {path}": BadInput(path, body, 400, "invalid_json", None)
        for name, body in _MALFORMED.items()
        for path in (CHAT, COMPLETIONS, "/tokenize", "/detokenize")
    },
    "no messages": _json(CHAT, {}, "missing_required_parameter", "messages"),
    "no prompt": _json(COMPLETIONS, {}, "missing_required_parameter", "prompt"),
    "null prompt": _json(COMPLETIONS, {"prompt": None}, "missing_required_parameter", "prompt"),
    "empty messages": _chat({"messages": []}, "messages"),
    "message is text": _chat({"messages": ["hi"]}, "messages[0]", "invalid_type"),
    "role": _chat({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    "no content": _chat(
        {"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"
    ),
    "content": _chat({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "invalid_type"),
    "image": _chat(
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
        "unsupported_value",
    ),
    "empty prompt": _completion({"prompt": ""}, "prompt"),
    "empty list": _completion({"prompt": []}, "prompt"),
    "empty second": _completion({"prompt": ["a", ""]}, "prompt[1]"),
    "empty ids": _completion({"prompt": [[]]}, "prompt[0]"),
    "mixed prompts": _completion({"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
    "ids out of vocabulary": _completion({"prompt": [1, 10**8]}, "prompt"),
    "negative ids": _completion({"prompt": [-1]}, "prompt"),
    "huge ids": _completion({"prompt": [10**40]}, "prompt"),
    "fractional ids": _completion({"prompt": [1.5]}, "prompt[0]", "invalid_type"),
    "object prompt": _completion({"prompt": {"text": "hi"}}, "prompt", "invalid_type"),
    "model": _completion({"model": "gpt-4"}, "model", "model_not_found", 404),
    "chat model": _chat({"model": "gpt-4"}, "model", "model_not_found", 404),
    "model type": _chat({"model": 4}, "model", "invalid_type"),
    "temperature": _completion({"temperature": 2.5}, "temperature"),
    "temperature type": _completion({"temperature": "hot"}, "temperature", "invalid_type"),
    "top_p": _chat({"top_p": 0}, "top_p"),
    "top_k": _chat({"top_k": -5}, "top_k"),
    "top_k type": _chat({"top_k": 1.5}, "top_k", "invalid_type"),
    "min_p": _chat({"min_p": 1.5}, "min_p"),
    "n": _chat({"n": 0}, "n"),
    "n too many": _chat({"n": 10**6}, "n"),
    "n type": _chat({"n": True}, "n", "invalid_type"),
    "max_tokens": _chat({"max_tokens": 0}, "max_tokens"),
    "max_tokens negative": _completion({"max_tokens": -1}, "max_tokens"),
    "max_completion_tokens": _chat({"max_completion_tokens": 0}, "max_completion_tokens"),
    "max_tokens cannot fit": _completion({"max_tokens": 10**7}, "max_tokens", "context_length_exceeded"),
    "max_tokens beyond all": _completion({"max_tokens": 10**30}, "max_tokens", "context_length_exceeded"),
    "chat cannot fit": _chat(
        {"max_completion_tokens": 10**7}, "max_completion_tokens", "context_length_exceeded"
    ),
    "prompt too long": _completion({"prompt": "word " * 50_000}, "prompt", "context_length_exceeded"),
    "second prompt too long": _completion(
        {"prompt": ["a", "word " * 50_000]}, "prompt[1]", "context_length_exceeded"
    ),
    "ids too long": _completion({"prompt": [5] * 50_000}, "prompt", "context_length_exceeded"),
    "chat too long": _chat(
        {"messages": [{"role": "user", "content": "word " * 50_000}]}, "messages", "context_length_exceeded"
    ),
    "seed": _chat({"seed": 2**70}, "seed"),
    "stop": _chat({"stop": [""]}, "stop"),
    "stop type": _chat({"stop": [1]}, "stop[0]", "invalid_type"),
    "stop_token_ids": _chat({"stop_token_ids": [10**8]}, "stop_token_ids"),
    "logit_bias": _chat({"logit_bias": {"x": 1}}, "logit_bias"),
    "logit_bias value type": _chat({"logit_bias": {"1": "5"}}, "logit_bias", "invalid_type"),
    "integral fraction": _chat({"max_tokens": 2.0}, "max_tokens", "invalid_type"),
    "n fraction": _chat({"n": 1.0}, "n", "invalid_type"),
    "user type": _chat({"user": 5}, "user", "invalid_type"),
    "stop of null": _chat({"stop": [None]}, "stop[0]", "invalid_type"),
    "temperature of true": _chat({"temperature": True}, "temperature", "invalid_type"),
    "negative top_logprobs": _chat({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    "prompt of true": _completion({"prompt": [True]}, "prompt[0]", "invalid_type"),
    "prompt of null": _completion({"prompt": [None]}, "prompt[0]", "invalid_type"),
    "prompt of lists of lists": _completion({"prompt": [[[1]]]}, "prompt[0][0]", "invalid_type"),
    "nothing to say": _completion({"max_tokens": 0}, "max_tokens"),
    "negative logprobs": _completion({"logprobs": -1}, "logprobs"),
    "usage without usage": _completion(
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
        "stream_options.continuous_usage_stats",
    ),
    "tool_choice without tools": _chat({"tool_choice": "auto"}, "tool_choice"),
    "refused variable": _chat({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    "logit_bias value": _chat({"logit_bias": {"1": 1000}}, "logit_bias"),
    "logit_bias token": _chat({"logit_bias": {"99999999": 1}}, "logit_bias"),
    "penalty": _chat({"presence_penalty": 9}, "presence_penalty"),
    "repetition": _chat({"repetition_penalty": 0}, "repetition_penalty"),
    "min_tokens": _chat({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
    "top_logprobs": _chat({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "top_logprobs alone": _chat({"top_logprobs": 2}, "top_logprobs"),
    "logprobs": _completion({"logprobs": 21}, "logprobs"),
    "logprobs type": _completion({"logprobs": True}, "logprobs", "invalid_type"),
    "chat logprobs type": _chat({"logprobs": 3}, "logprobs", "invalid_type"),
    "stream type": _chat({"stream": "yes"}, "stream", "invalid_type"),
    "stream_options": _chat({"stream_options": {}}, "stream_options"),
    "both prompts": _chat(
        {"add_generation_prompt": True, "continue_final_message": True}, "add_generation_prompt"
    ),
    "format": _chat({"response_format": {"type": "xml"}}, "response_format.type", "unsupported_value"),
    "no schema": _chat(
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    "two grammars": _chat({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs"),
    "no choice": _completion({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    "no tools": _chat({"tools": []}, "tools"),
    "tools type": _chat({"tools": {}}, "tools", "invalid_type"),
    "tool without function": _chat(
        {"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"
    ),
    "tool type": _chat({"tools": [{"type": "custom", "function": {}}]}, "tools[0].type"),
    "tool name": _chat({"tools": [_tool(name="a b")]}, "tools[0].function.name"),
    "tool twice": _chat({"tools": [_tool(), _tool()]}, "tools[1].function.name"),
    "tool schema": _chat(
        {"tools": [_tool(parameters={"type": "array"})]}, "tools[0].function.parameters.type"
    ),
    "tool_choice": _chat({"tools": [_tool()], "tool_choice": "always"}, "tool_choice"),
    "tool_choice type": _chat({"tools": [_tool()], "tool_choice": 1}, "tool_choice", "invalid_type"),
    "tool_choice alone": _chat({"tool_choice": "auto"}, "tool_choice"),
    "tool_choice of another": _chat(
        {"tools": [_tool()], "tool_choice": _tool(name="g")}, "tool_choice.function.name"
    ),
    "tool_choice and a format": _chat(
        {"tools": [_tool()], "tool_choice": "required", "response_format": {"type": "json_object"}},
        "response_format",
    ),
    "tools and a regex": _chat(
        {"tools": [_tool()], "structured_outputs": {"regex": "a"}}, "structured_outputs.regex"
    ),
    "parallel_tool_calls": _chat({"parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_type"),
    "functions": _chat({"functions": [{"name": "f"}]}, "functions", "unsupported_value"),
    "function_call": _chat({"function_call": "auto"}, "function_call", "unsupported_value"),
    "reasoning_effort": _chat({"reasoning_effort": "most"}, "reasoning_effort"),
    "reasoning_effort unheard": _chat(
        {"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"
    ),
    "truncate to nothing": _chat({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    "truncate to too much": _chat({"truncate_prompt_tokens": 10**6}, "truncate_prompt_tokens"),
    "truncation_side": _chat({"truncation_side": "up"}, "truncation_side"),
    "chat_template": _chat({"chat_template": "x"}, "chat_template", "unsupported_parameter"),
    "all logprobs": _chat({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    "documents": _chat({"documents": ["x"]}, "documents[0]", "invalid_type"),
    "documents of a completion": _completion({"documents": [{}]}, "documents", "unsupported_value"),
    "prompt_logprobs": _chat({"prompt_logprobs": 21}, "prompt_logprobs"),
    "prompt_logprobs type": _completion({"prompt_logprobs": True}, "prompt_logprobs", "invalid_type"),
    "prompt_logprobs streamed": _chat(
        {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "unsupported_value"
    ),
    "no tokens without echo": _completion({"max_tokens": 0}, "max_tokens"),
    "allowed_token_ids": _chat({"allowed_token_ids": []}, "allowed_token_ids"),
    "allowed token": _completion({"allowed_token_ids": [10**7]}, "allowed_token_ids"),
    "bad_words": _chat({"bad_words": ["a", " "]}, "bad_words"),
    "bad_words type": _completion({"bad_words": "a"}, "bad_words", "invalid_type"),
    "suffix": _completion({"suffix": "x"}, "suffix", "unsupported_value"),
    "beam": _completion({"use_beam_search": True}, "use_beam_search", "unsupported_value"),
    "best_of": _completion({"best_of": 4}, "best_of", "unsupported_value"),
    "guided": _chat({"guided_json": {}}, "guided_json", "unsupported_parameter"),
    "tokens": _json("/detokenize", {"tokens": "x"}, "invalid_type", "tokens"),
    "no tokens": _json("/detokenize", {}, "missing_required_parameter", "tokens"),
    "negative tokens": _json("/detokenize", {"tokens": [-1]}, "invalid_value", "tokens[0]"),
}
