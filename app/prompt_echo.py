"""What an answer says of its prompts: text, log-probabilities, token ids. Knows neither streams nor HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model.plan import TokenLogprobs
from .asked import Asked
from .choices import Choices
from .logprobs import prompt_logprobs
from .tokenizer import Tokenizer


class PromptEcho:
    """Of each choice, by its index."""

    def __init__(self, asked: Asked, choices: Choices, tokenizer: Tokenizer | None) -> None:
        self._asked = asked
        self._choices = choices
        self._tokenizer = tokenizer

    def text(self, index: int) -> str:
        """The text that the choice begins with."""
        asked = self._asked
        return asked.echoes[index // asked.params.n] if asked.echoes else ""

    def logprobs(self, index: int) -> tuple[Sequence[int], Sequence[TokenLogprobs | None]]:
        """(token ids, log-probabilities) of the echoed prompt, if they were asked for."""
        asked, params = self._asked, self._asked.params
        if not asked.echoes or params.logprobs is None or params.prompt_logprobs is None:
            return (), ()
        return asked.prompts[index // params.n], [None, *self._choices.prompt_logprobs(index)]

    def told(self, index: int) -> Mapping[str, Any]:
        """What the response tells of the prompt; its log-probabilities once the choice has ended."""
        asked = self._asked
        told = asked.told[index // asked.params.n] if asked.told else {}
        if asked.fields.prompt_logprobs is None:
            return told
        ids, entries = asked.prompts[index // asked.params.n], self._choices.prompt_logprobs(index)
        assert self._tokenizer is not None, "reading the request needed one"
        return {**told, "prompt_logprobs": prompt_logprobs(ids, entries, self._tokenizer.token_text)}
