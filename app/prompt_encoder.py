"""Texts and conversations of clients to token ids of a length that can fit. Knows no routes.

What is far too long is refused before it is tokenized: a body of megabytes costs seconds otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from .errors import ContextLengthError, RequestError
from .generation import Generation
from .tokenizer import Tokenizer

# Normalisation can shorten a text before it is split, though not by this much.
_SHRINKS_AT_MOST = 4
_NEVER_TOO_LONG_CHARS = 100_000


class PromptEncoder:
    """Encodes for one model. `field` below is the request field to name in a RequestError."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._max_model_len = generation.max_model_len

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
    ) -> str:
        """A conversation as the model's chat template writes it. Raises TemplateError too."""
        template = self._generation.chat_template
        if template is None:
            message = "This model has no chat template: ask /v1/completions instead"
            raise RequestError(message, param="messages", code="unsupported_value")
        return template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )

    def encode(self, text: str, field: str, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`, however many."""
        try:
            return self.tokenizer.encode(text, add_special_tokens)
        except ValueError as error:
            raise RequestError(f"{field}: {error}", param=field) from error

    def encode_prompt(self, text: str, field: str, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`, if they leave room for a completion. Raises ContextLengthError too."""
        if len(text) > _NEVER_TOO_LONG_CHARS:
            least = len(text) // (self._longest_token * _SHRINKS_AT_MOST)
            if least >= self._max_model_len:
                raise ContextLengthError(self._max_model_len, least, param=field, at_least=True)
        return self.fitting(self.encode(text, field, add_special_tokens), field)

    def fitting(self, ids: list[int], field: str) -> list[int]:
        """`ids`, if they leave room for a completion."""
        if len(ids) >= self._max_model_len:
            raise ContextLengthError(self._max_model_len, len(ids), param=field)
        return ids

    @cached_property
    def _longest_token(self) -> int:
        """Bytes of the longest token."""
        tokenizer = self.tokenizer
        return max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
