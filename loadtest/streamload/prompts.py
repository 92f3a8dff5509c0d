"""Prompts of a wanted length: token ids, or made-up text for a model that has a tokenizer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

Prompt = str | list[int]
MakePrompt = Callable[[int, random.Random], Prompt]
"""(tokens, source of chance) -> a prompt of that many tokens, or nearly as many."""

_SYLLABLES = (
    "ka",
    "lo",
    "mi",
    "ten",
    "ras",
    "vo",
    "shi",
    "der",
    "an",
    "qu",
    "est",
    "for",
    "ing",
    "pla",
    "tro",
)
_CHARS_PER_TOKEN = 4


def token_ids(vocab_size: int) -> MakePrompt:
    """Prompts as ids below `vocab_size`."""

    def make(count: int, rng: random.Random) -> Prompt:
        return [rng.randrange(vocab_size) for _ in range(count)]

    return make


def words() -> MakePrompt:
    """Prompts as text, at four characters a token."""

    def make(count: int, rng: random.Random) -> Prompt:
        return _text(max(1, count * _CHARS_PER_TOKEN), rng)

    return make


def counted_words(tokenizer_file: Path) -> MakePrompt:
    """Prompts as text that this tokenizer, a tokenizer.json, makes into the wanted number of tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))

    def make(count: int, rng: random.Random) -> Prompt:
        chars = count * _CHARS_PER_TOKEN
        while True:
            text = _text(chars, rng)
            offsets = tokenizer.encode(text, add_special_tokens=False).offsets
            if len(offsets) >= count:
                return text[: offsets[count - 1][1]]
            chars *= 2

    return make


def _text(num_chars: int, rng: random.Random) -> str:
    """Words of one to four syllables."""
    parts: list[str] = []
    length = 0
    while length < num_chars:
        word = "".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4)))
        parts.append(word)
        length += len(word) + 1
    return " ".join(parts)[:num_chars]
