"""Texts and conversations of clients to token ids of a length that can fit. Knows no routes.

A prompt that is far too long is refused before it is tokenized, which would take seconds for megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from .chat_formats import ChatFormats, effort_variables
from .errors import ContextLengthError, RequestError
from .generation import Generation
from .protocol import SamplingFields
from .template_worker import Job, TemplateWorker
from .tokenizer import Tokenizer
from .tool_formats import HERMES
from .tool_types import ToolUse

# Normalisation can shorten a text before it is split, but not by more than this.
_SHRINKS_AT_MOST = 4
_NEVER_TOO_LONG_CHARS = 100_000


class Truncation(NamedTuple):
    """How many tokens of a prompt to keep; -1 is as many as leave room for `max_tokens` more."""

    num_tokens: int
    keeps_end: bool
    max_tokens: int


def truncation(fields: SamplingFields, max_tokens: int | None) -> Truncation | None:
    """What `truncate_prompt_tokens` and `truncation_side` ask for; None is nothing."""
    if fields.truncate_prompt_tokens is None:
        return None
    return Truncation(fields.truncate_prompt_tokens, fields.truncation_side == "left", max_tokens or 1)


class PromptEncoder:
    """Encodes for one model. `field` below is the request's field that a RequestError names.

    worker: renders templates that requests bring.   tool_parser, reasoning_parser: see ChatFormats.
    """

    def __init__(
        self,
        generation: Generation,
        worker: TemplateWorker,
        tool_parser: str = "auto",
        reasoning_parser: str = "auto",
    ) -> None:
        self._generation = generation
        self._worker = worker
        self._max_model_len = generation.model.max_model_len
        template = generation.chat_template
        self.formats = (
            ChatFormats(None, None)
            if template is None
            else ChatFormats.of(template, tool_parser, reasoning_parser)
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises RequestError if this server runs without one."""
        tokenizer = self._generation.tokenizer
        if tokenizer is None:
            message = "This server runs without a tokenizer: prompts must be token ids"
            raise RequestError(message, param="prompt", code="unsupported_value")
        return tokenizer

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        variables: Mapping[str, Any] | None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        source: str | None = None,
        tools: ToolUse | None = None,
        reasoning_effort: str | None = None,
    ) -> str:
        """A conversation as the model's chat template writes it, or the one in `source`.

        Raises TemplateError too.
        """
        self.formats.check(tools)
        options: dict[str, Any] = {
            "messages": self.formats.fitting_ids(messages),
            "tools": None if tools is None else [tool.for_template() for tool in tools.tools],
            "plain_format": self.formats.tools or HERMES,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "variables": variables,
            "documents": documents,
        }
        if source is not None:
            tokens = self.tokenizer.special_tokens
            return self._worker.render(Job(source, tokens, reasoning_effort, options))
        template = self._generation.chat_template
        if template is None:
            message = "This model has no chat template: ask /v1/completions instead"
            raise RequestError(message, param="messages", code="unsupported_value")
        effort = effort_variables(reasoning_effort, template)
        return template.render(**{**options, "variables": {**effort, **(variables or {})}})

    def encode(self, text: str, field: str, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`, however many."""
        try:
            return self.tokenizer.encode(text, add_special_tokens)
        except ValueError as error:
            raise RequestError(f"{field}: {error}", param=field) from error

    def encode_prompt(
        self, text: str, field: str, add_special_tokens: bool, cut: Truncation | None = None
    ) -> list[int]:
        """Token ids of `text`, if they leave room for a completion. Raises ContextLengthError too."""
        if len(text) > _NEVER_TOO_LONG_CHARS and cut is None:
            least = len(text) // (self._longest_token * _SHRINKS_AT_MOST)
            if least >= self._max_model_len:
                raise ContextLengthError(self._max_model_len, least, param=field, at_least=True)
        return self.fitting(self.encode(text, field, add_special_tokens), field, cut)

    def fitting(self, ids: list[int], field: str, cut: Truncation | None = None) -> list[int]:
        """`ids`, truncated, if they leave room for a completion."""
        if cut is not None:
            ids = self._truncated(ids, cut)
        if len(ids) >= self._max_model_len:
            raise ContextLengthError(self._max_model_len, len(ids), param=field)
        return ids

    def _truncated(self, ids: list[int], cut: Truncation) -> list[int]:
        if cut.num_tokens >= self._max_model_len:
            message = f"truncate_prompt_tokens must be below {self._max_model_len}, got {cut.num_tokens}"
            raise RequestError(message, param="truncate_prompt_tokens")
        most = cut.num_tokens if cut.num_tokens != -1 else max(1, self._max_model_len - cut.max_tokens)
        return ids[-most:] if cut.keeps_end else ids[:most]

    @cached_property
    def _longest_token(self) -> int:
        """Bytes of the longest token."""
        tokenizer = self.tokenizer
        return max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
