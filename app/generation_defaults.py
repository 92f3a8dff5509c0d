"""A model's generation_config.json as sampling settings. Knows neither files nor requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..model.sampling_params import SamplingParams
from .errors import StartupError

_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""The file's name of a field -> SamplingParams' name."""


def default_params(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling values that the model's authors chose, by SamplingParams' names; null means not chosen.

    Raises StartupError, naming the file's field, for a value that no request could use.
    """
    found: dict[str, Any] = {}
    for theirs, ours in _FIELDS.items():
        value = generation_config.get(theirs)
        if value is None:
            continue
        try:
            SamplingParams(**{ours: value})
        except ValueError as error:
            complaint = str(error).removeprefix(ours)
            raise StartupError(f"generation_config.json: {theirs}{complaint}") from error
        found[ours] = value
    return found
