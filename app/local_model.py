"""A model in this process, for the terminal. Knows no terminal and no HTTP."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from ..model.sampling_params import SamplingParams
from .client_config import TerminalConfig
from .config import EngineConfig
from .errors import GenerationError
from .llm import LLM
from .prompts import Prompt, parse_prompt

_COMPLETION_TOKENS = 256


class LocalModel:
    """Implements terminal.Model. Raises StartupError if the model cannot be loaded."""

    def __init__(self, engine: EngineConfig, terminal: TerminalConfig) -> None:
        self._llm = LLM(**asdict(engine))
        defaults = self._llm.get_default_sampling_params()
        self._params = replace(
            defaults,
            max_tokens=terminal.max_tokens,
            temperature=defaults.temperature if terminal.temperature is None else terminal.temperature,
            top_p=defaults.top_p if terminal.top_p is None else terminal.top_p,
        )

    def chat(self, messages: Sequence[dict[str, Any]]) -> Generator[str]:
        """The answer to a conversation, as long as the model's length allows."""
        return self._texts(self._llm.render_chat(messages), self._params)

    def complete(self, prompt: str) -> Generator[str]:
        """The continuation of a text."""
        params = replace(self._params, max_tokens=self._params.max_tokens or _COMPLETION_TOKENS)
        return self._texts(parse_prompt(prompt, self._llm.get_tokenizer()), params)

    def close(self) -> None:
        """Free the model."""
        self._llm.close()

    def _texts(self, prompt: Prompt, params: SamplingParams) -> Generator[str]:
        with closing(self._llm.stream(prompt, params)) as deltas:
            for delta in deltas:
                if delta.error is not None:
                    raise GenerationError(delta.error)
                if delta.text:
                    yield delta.text
