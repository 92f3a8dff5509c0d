"""What a request asks for, once it is read, and how its route answers. Knows no engine and no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..model.sampling_params import SamplingParams
from ..scheduler.thinking_limit import ThinkingLimit
from .answer_parts import PartsMaker
from .chunks import ChunkShape
from .logprobs import LogprobsWriter
from .protocol import SamplingFields


class AnswerShape(NamedTuple):
    """What distinguishes one route's answers.

    choice: (index, text, logprobs, finish reason, stop reason) -> the choice's object.
    logprobs: a writer for one choice; true names tokens by their ids.
    """

    id_prefix: str
    object: str
    chunk: ChunkShape
    choice: Callable[[int, str, Any, str | None, str | int | None], dict[str, Any]]
    logprobs: Callable[[bool], LogprobsWriter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, read: what to generate.

    echoes: for each prompt the text that its answers begin with.
    prompt_only: the answer is the prompt; the one token that is generated is left out.
    told: for each prompt what the response tells of it.
    parts: takes apart answers that are more than text; None if they are text only.
    prompt_field, max_tokens_field, grammar_field: the request's names of these, for later errors; the last is
    empty if the grammar comes from response_format or structured_outputs.
    tokenize_s: seconds that encoding the prompts took.
    thinking: how long the model may reason.
    """

    fields: SamplingFields
    model: str
    prompts: Sequence[Sequence[int]]
    params: SamplingParams
    ignored: Sequence[str] = ()
    echoes: Sequence[str] = ()
    prompt_only: bool = False
    told: Sequence[Mapping[str, Any]] = ()
    parts: PartsMaker | None = None
    prompt_field: str = "prompt"
    max_tokens_field: str = "max_tokens"
    tokenize_s: float = 0.0
    grammar_field: str = ""
    thinking: ThinkingLimit | None = None
