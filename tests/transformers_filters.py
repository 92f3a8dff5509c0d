"""What transformers' logits processors let pass, which is what ours are held against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

NO_TOKENS: Any = None  # the processors take the text so far, which these ignore


def expected_survivors(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Which tokens may be drawn, [R, V] bool, from logits [R, V]."""
    scores = TemperatureLogitsWarper(temperature)(NO_TOKENS, logits) if temperature != 1 else logits
    if top_k:
        scores = TopKLogitsWarper(top_k)(NO_TOKENS, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(NO_TOKENS, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(NO_TOKENS, scores)
    return scores > -torch.inf
