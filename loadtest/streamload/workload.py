"""From a description of a workload to requests: lengths, prompts, bodies, due times. Knows no sockets."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .arrivals import Arrivals
from .ask import Ask
from .prompts import MakePrompt, Prompt
from .sharegpt import Turn, lengths

Length = tuple[int, int]
"""(prompt, output) in tokens."""

_CHARS_PER_TOKEN = 4
_MAX_PROMPT_TOKENS, _MIN_TOKENS, _MAX_BOTH_TOKENS = 1024, 4, 2048  # as vLLM's benchmark filters ShareGPT


@dataclass(frozen=True, slots=True)
class Style:
    """How a request is written.

    chat: messages instead of a prompt.   force: the output length is obeyed, whatever the model says
    (`ignore_eos`; also `min_tokens` if `use_min_tokens`).   extra: further fields.
    """

    model: str
    chat: bool = False
    force: bool = True
    use_min_tokens: bool = False
    extra: tuple[tuple[str, Any], ...] = (("temperature", 0),)

    def body(self, prompt: Prompt, max_tokens: int) -> bytes:
        """The JSON to post."""
        fields: dict[str, Any] = {"model": self.model}
        fields |= {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        fields |= {"max_tokens": max_tokens, "stream": True, "stream_options": {"include_usage": True}}
        if self.force:
            fields["ignore_eos"] = True
            if self.use_min_tokens:
                fields["min_tokens"] = max_tokens
        return json.dumps(fields | dict(self.extra)).encode()


class Prefixes(NamedTuple):
    """Prompts begin with one of `num_prefixes` prefixes of `num_tokens`."""

    num_tokens: int
    num_prefixes: int


def parse_lengths(text: str, count: int, rng: random.Random) -> list[Length]:
    """`IN:OUT` with numbers or ranges such as `100-1024`, or `sharegpt`. Raises ValueError."""
    if text == "sharegpt":
        return lengths(count)
    try:
        prompt, output = (tuple(int(n) for n in part.split("-")) for part in text.split(":"))
        (low_in, high_in), (low_out, high_out) = ((p[0], p[-1]) for p in (prompt, output))
        return [(rng.randint(low_in, high_in), rng.randint(low_out, high_out)) for _ in range(count)]
    except ValueError:
        raise ValueError(
            f"lengths must be sharegpt or IN:OUT such as 512:256 or 10-99:8, got {text!r}"
        ) from None


def made_up(
    wanted: Sequence[Length],
    make: MakePrompt,
    style: Style,
    rng: random.Random,
    prefixes: Prefixes | None = None,
) -> list[Ask]:
    """Requests of the wanted lengths; a shared prefix is part of the prompt's length."""
    shared = [make(prefixes.num_tokens, rng) for _ in range(prefixes.num_prefixes)] if prefixes else []
    asks = []
    for num_prompt, num_output in wanted:
        if shared:
            own = make(max(1, num_prompt - (prefixes.num_tokens if prefixes else 0)), rng)
            prompt = _joined(rng.choice(shared), own)
        else:
            prompt = make(num_prompt, rng)
        asks.append(Ask(style.body(prompt, num_output), 0.0, num_output if style.force else None))
    return asks


def _joined(prefix: Prompt, rest: Prompt) -> Prompt:
    if isinstance(prefix, str) and isinstance(rest, str):
        return f"{prefix} {rest}"
    return [*prefix, *rest]


def conversations(turns: Iterable[Turn], count: int, style: Style) -> list[Ask]:
    """The first `count` turns of middling length; outputs as long as the answers, at 4 characters a token.

    Raises ValueError if there are fewer.
    """
    asks = []
    for turn in turns:
        num_prompt = len(turn.prompt) // _CHARS_PER_TOKEN
        num_output = len(turn.answer) // _CHARS_PER_TOKEN
        if min(num_prompt, num_output) < _MIN_TOKENS or num_prompt > _MAX_PROMPT_TOKENS:
            continue
        if num_prompt + num_output > _MAX_BOTH_TOKENS:
            continue
        asks.append(Ask(style.body(turn.prompt, num_output), 0.0, num_output if style.force else None))
        if len(asks) == count:
            return asks
    raise ValueError(f"asked for {count} conversations, the file has {len(asks)}")


def scheduled(asks: Sequence[Ask], arrivals: Arrivals, rng: random.Random) -> list[Ask]:
    """The same requests with times at which they are due."""
    times = arrivals.times(len(asks), rng)
    return [replace(ask, due_s=due_s) for ask, due_s in zip(asks, times, strict=True)]


def with_disconnects(asks: Sequence[Ask], share: float, rng: random.Random) -> list[Ask]:
    """A random `share` of the requests hangs up, each after a random number of reads."""
    return [
        replace(ask, cut_after=rng.randint(1, ask.num_tokens or 100)) if rng.random() < share else ask
        for ask in asks
    ]


def with_texts_kept(asks: Sequence[Ask], count: int, rng: random.Random) -> list[Ask]:
    """The same requests; of `count` among them, drawn at random, the text is kept."""
    chosen = set(rng.sample(range(len(asks)), min(count, len(asks))))
    return [replace(ask, keep_text=True) if i in chosen else ask for i, ask in enumerate(asks)]
