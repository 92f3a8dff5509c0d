"""/v1/chat/completions: the request's fields and messages, and the answer's objects. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from ..model.plan import TokenLogprobs
from .errors import RequestError
from .logprob_objects import finite, id_name
from .protocol import (
    DEFAULT_MAX_LOGPROBS,
    REFUSED,
    SamplingFields,
    check_common,
    check_num_logprobs,
    read_stream_options,
)
from .protocol_grammar import read_grammar_fields
from .validation import Refused, check_fields, convert, join, refuse_unknown, show, without_nulls

ROLES = ("system", "developer", "user", "assistant")

CHAT_REFUSED: Refused = {
    **REFUSED,
    # OpenAI
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": (),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM
    "include_reasoning": (True,),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
}

# An assistant's message comes back with the keys that an answer has, most of them null or empty.
_MESSAGE_REFUSED: Refused = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "reasoning": ("",),
    "reasoning_content": ("",),
    "refusal": ("",),
    "tool_call_id": (),
    "tool_calls": ([],),
}
_PART_REFUSED: Refused = {"annotations": ([],)}


class ChatRequest(SamplingFields, kw_only=True):
    """The fields of a chat request that are understood; `messages` are checked by `read_messages`."""

    messages: list[Any]
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


class _Message(Struct, kw_only=True):
    role: str
    content: str | list[Any] | None = None
    name: str | None = None


class _TextPart(Struct, kw_only=True):
    type: str
    text: str


class ChatPrompt(NamedTuple):
    """A chat request, checked; `messages` as a chat template takes them, `ignored`: unknown fields' paths."""

    request: ChatRequest
    messages: list[dict[str, Any]]
    ignored: list[str]


def read_chat(
    body: Mapping[str, Any], *, strict: bool = False, max_logprobs: int = DEFAULT_MAX_LOGPROBS
) -> ChatPrompt:
    """Raises RequestError with the path of the field at fault; an unknown field is one if `strict`.

    max_logprobs: the most likeliest tokens that may be asked for; -1 is all.
    """
    ignored = check_fields(body, ChatRequest, CHAT_REFUSED)
    body = read_grammar_fields(read_stream_options(body, ignored), ignored)
    known = {*ChatRequest.__struct_fields__, *CHAT_REFUSED} if strict else None
    refuse_unknown(ignored, known)
    request = convert(body, ChatRequest)
    check_common(request, max_logprobs)
    _check_chat(request, max_logprobs)
    messages = read_messages(request.messages, ignored)
    refuse_unknown(ignored, known)
    return ChatPrompt(request, messages, ignored)


def read_messages(entries: Sequence[Any], ignored: list[str]) -> list[dict[str, Any]]:
    """Messages as a chat template takes them, text parts joined; unknown fields' paths go to `ignored`."""
    if not entries:
        raise RequestError("messages must hold at least one message, got []", param="messages")
    return [_read_message(entry, f"messages[{i}]", ignored) for i, entry in enumerate(entries)]


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
    if top and not request.logprobs:
        raise RequestError("top_logprobs must be 0 or left out unless logprobs is true", param="top_logprobs")


def _read_message(entry: Any, path: str, ignored: list[str]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise RequestError(f"{path} must be an object, got {show(entry)}", param=path, code="invalid_type")
    ignored += check_fields(entry, _Message, _MESSAGE_REFUSED, path)
    message = convert(without_nulls(entry), _Message, path)
    if message.role not in ROLES:
        rule = f"must be one of {', '.join(ROLES)}"
        raise RequestError(f"{path}.role {rule}, got {show(message.role)}", param=f"{path}.role")
    if message.content is None:
        name = f"{path}.content"
        raise RequestError(f"{name} is required", param=name, code="missing_required_parameter")
    # Open models are trained on "system"; "developer" is OpenAI's newer word for it.
    role = "system" if message.role == "developer" else message.role
    rendered: dict[str, Any] = {"role": role, "content": _read_content(message.content, path, ignored)}
    if message.name is not None:
        rendered["name"] = message.name
    return rendered


def _read_content(content: str | list[Any], message_path: str, ignored: list[str]) -> str:
    if isinstance(content, str):
        return content
    if not content:
        path = join(message_path, "content")
        raise RequestError(f"{path} must hold at least one part, got []", param=path)
    texts = []
    for i, entry in enumerate(content):
        path = f"{message_path}.content[{i}]"
        kind = entry.get("type") if isinstance(entry, dict) else None
        if isinstance(kind, str) and kind != "text":
            message = f'{path}.type must be "text", got {show(kind)}'
            raise RequestError(message, param=f"{path}.type", code="unsupported_value")
        part = convert(entry, _TextPart, path)
        ignored += check_fields(entry, _TextPart, _PART_REFUSED, path)
        texts.append(part.text)
    return "\n".join(texts)


def chat_logprobs(
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs],
    token_bytes: Callable[[int], bytes],
    as_ids: bool = False,
) -> dict[str, Any]:
    """The `logprobs` object of a chat choice or chunk, for tokens in order; as_ids: named by their ids."""
    content = [
        {
            **_token(token_id, entry.logprob, token_bytes, as_ids),
            "top_logprobs": [_token(other, logprob, token_bytes, as_ids) for other, logprob in entry.top],
        }
        for token_id, entry in zip(token_ids, logprobs, strict=True)
    ]
    return {"content": content, "refusal": None}


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


def _token(
    token_id: int, logprob: float, token_bytes: Callable[[int], bytes], as_ids: bool
) -> dict[str, Any]:
    data = token_bytes(token_id)
    name = id_name(token_id) if as_ids else data.decode("utf-8", "replace")
    return {"token": name, "logprob": finite(logprob), "bytes": list(data)}
