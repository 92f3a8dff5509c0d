"""/v1/chat/completions: the request's fields and the answer's objects. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .chat_messages import read_messages
from .errors import RequestError
from .protocol import (
    DEFAULT_MAX_LOGPROBS,
    REFUSED,
    SamplingFields,
    check_common,
    check_num_logprobs,
    read_stream_options,
)
from .protocol_grammar import read_grammar_fields
from .tool_types import ToolUse, read_tools
from .validation import Refused, check_fields, convert, refuse_unknown

CHAT_REFUSED: Refused = {
    **REFUSED,
    # OpenAI
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
}


class ChatRequest(SamplingFields, kw_only=True):
    """The fields of a chat request that are understood; messages and tools are checked by their readers."""

    messages: list[Any]
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    include_reasoning: bool = True
    reasoning_effort: str | None = None
    thinking_token_budget: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    echo: bool = False
    return_prompt_text: bool = False
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False

    @property
    def max_tokens_field(self) -> str:
        """The field that sets the length of the answer."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def max_output_tokens(self) -> int | None:
        """None: as many as fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to report per token; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class ChatPrompt(NamedTuple):
    """A chat request, checked.

    messages: as a chat template takes them.   tools: None if the model is told of none.
    ignored: paths of unknown fields.
    """

    request: ChatRequest
    messages: list[dict[str, Any]]
    tools: ToolUse | None
    ignored: list[str]


def read_chat(
    body: Mapping[str, Any], *, strict: bool = False, max_logprobs: int = DEFAULT_MAX_LOGPROBS
) -> ChatPrompt:
    """Raises RequestError with the path of the field at fault; an unknown field is one if `strict`.

    max_logprobs: how many likeliest tokens may be asked for; -1 is all.
    """
    ignored = check_fields(body, ChatRequest, CHAT_REFUSED)
    body = read_grammar_fields(read_stream_options(body, ignored), ignored)
    known = {*ChatRequest.__struct_fields__, *CHAT_REFUSED} if strict else None
    refuse_unknown(ignored, known)
    request = convert(body, ChatRequest)
    check_common(request, max_logprobs)
    _check_chat(request, max_logprobs)
    messages = read_messages(request.messages, ignored)
    tools = read_tools(request.tools, request.tool_choice, request.parallel_tool_calls, ignored)
    refuse_unknown(ignored, known)
    return ChatPrompt(request, messages, tools, ignored)


def check_template_flags(add_generation_prompt: bool | None, continue_final_message: bool) -> bool:
    """Whether to add the generation prompt; unset means yes, unless the final message is continued."""
    if add_generation_prompt and continue_final_message:
        message = "add_generation_prompt must be false when continue_final_message is true"
        raise RequestError(message, param="add_generation_prompt")
    return not continue_final_message if add_generation_prompt is None else add_generation_prompt


def _check_chat(request: ChatRequest, max_logprobs: int) -> None:
    top = request.top_logprobs
    if top is not None:
        check_num_logprobs("top_logprobs", top, max_logprobs)
    budget = request.thinking_token_budget
    if budget is not None and budget < 0:
        message = f"thinking_token_budget must be at least 0, got {budget}"
        raise RequestError(message, param="thinking_token_budget")
    if top and not request.logprobs:
        raise RequestError("top_logprobs must be 0 or left out unless logprobs is true", param="top_logprobs")


def chat_choice(
    index: int, text: str, logprobs: Any, finish_reason: str | None, stop_reason: str | int | None
) -> dict[str, Any]:
    """One finished choice."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": finish_reason,
        "stop_reason": stop_reason,
    }
