"""A model without a device or torch, for measuring what is around a model: its steps are a script."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from octavo.app.generation import ServedModel
from octavo.model.plan import GraphCounts, StepPlan, StepResult, TokenLogprobs

_NUM_WORDS = 2000
_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def toy_model(max_model_len: int) -> ServedModel:
    """What a server says of the model."""
    return ServedModel(
        name="toy",
        max_model_len=max_model_len,
        vocab_size=_NUM_WORDS,
        eos_token_ids=frozenset(),
        default_params={},
    )


class ScriptedExecutor:
    """Implements Executor: a step ends `step_s` after the one before, and every row counts up.

    logprobs: every token is told with its log-probability.
    """

    def __init__(self, step_s: float, *, logprobs: bool = False) -> None:
        self._step_s = step_s
        self._logprobs = logprobs
        self._free_at_s = 0.0

    def launch(self, plan: StepPlan) -> ScriptedStep:
        """The next step."""
        self._free_at_s = max(self._free_at_s, time.monotonic()) + self._step_s
        tokens = [256 + row.start % (_NUM_WORDS - 256) for row in plan.rows if row.samples]
        told = [TokenLogprobs(-0.5, 1, ((token, -0.5),)) for token in tokens] if self._logprobs else None
        return ScriptedStep(self._free_at_s, StepResult(tokens, told))

    def graph_counts(self) -> GraphCounts:
        """There are no graphs."""
        return GraphCounts({}, {})

    def tend(self) -> bool:
        """Nothing can wait."""
        return False

    def close(self) -> None:
        """Nothing is held."""


class ScriptedStep:
    """Implements StepHandle."""

    def __init__(self, done_at_s: float, result: StepResult) -> None:
        self._done_at_s = done_at_s
        self._result = result

    async def result(self) -> StepResult:
        """See StepHandle."""
        await asyncio.sleep(max(0.0, self._done_at_s - time.monotonic()))
        return self._result


def write_tokenizer(folder: Path) -> None:
    """Words of one token each, as byte-level vocabularies have them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *(f"Ġ{i:04d}" for i in range(_NUM_WORDS - len(alphabet)))]
    backend = Backend(models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": _TEMPLATE}))
