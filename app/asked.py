"""What a request asks for, read, and how its route answers. Knows no engine and no HTTP."""

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


class Route(NamedTuple):
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
    prompt_only: the one token that was generated is left out of the answer.
    told: for each prompt what the response tells of it.
    parts: takes answers apart that are more than text; None if there are no such.
    prompt_field, max_tokens_field: the request's names for them, for errors that come later.
    tokenize_s: seconds that encoding the prompts took.
    grammar_field: likewise for what `params.structured_outputs` comes from, if neither response_format nor
    structured_outputs.
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
