"""From settings to a running engine: find the model, divide memory, build, load, start.

The only place where all layers meet. Knows how they fit together, not how they work.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

from ..cache.ledger import MemoryLedger
from ..model.plan import Executor
from ..model.sampling_state import pinned_masks
from ..scheduler.scheduler import Scheduler
from .chat_template import ChatTemplate
from .client import EngineClient
from .config import EngineConfig
from .engine_build import build_executor
from .engine_host import HostOptions
from .engine_plan import EnginePlan, plan_engine
from .generation import Generation, ServedModel
from .grammar_compiler import GrammarCompiler
from .grammar_matcher import GrammarVocabulary, in_memory
from .inproc_client import InprocClient
from .model_source import LoadFormat, ModelSource, default_params, find_model
from .process import freeze_garbage
from .rate_limits import RateLimits
from .start import Start
from .tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launched:
    """A running engine, and what its callers need to know of the model."""

    engine: InprocClient
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None
    model: ServedModel
    ledger: MemoryLedger

    def generation(self, client: EngineClient | None = None) -> Generation:
        """Starts completions on the engine, through `client` if one is put in front of it."""
        return Generation(client or self.engine, self.tokenizer, self.chat_template, self.model)

    async def close(self) -> None:
        """Stop the engine; whatever still runs ends with an error."""
        await self.engine.close()


async def launch(
    config: EngineConfig, rates: RateLimits | None = None, start: Start | None = None
) -> Launched:
    """Build the engine and start it in the running event loop. Raises StartupError, one sentence.

    rates: see HostOptions.   start: is told what took how long.
    """
    start = start or Start(patient=True)
    source, plan = plan_launch(config, start)
    model = served_model(source, plan)
    executor, plan, options = build(config, source, plan, rates, start)
    engine = InprocClient(new_scheduler(config, plan), executor, options)
    engine.start()
    freeze_garbage()
    return Launched(engine, source.tokenizer, source.chat_template, model, plan.ledger)


def build(
    config: EngineConfig, source: ModelSource, plan: EnginePlan, rates: RateLimits | None, start: Start
) -> tuple[Executor, EnginePlan, HostOptions]:
    """The executor, the plan as memory was measured, and how the engine is run. Raises StartupError."""
    with ThreadPoolExecutor(1) as beside:
        # Grammars of a large vocabulary take a second; meanwhile the device waits for kernels.
        options = beside.submit(host_options, config, source, plan, rates)
        executor, plan = build_executor(config, source, plan, start)
        return executor, plan, options.result()


def plan_launch(config: EngineConfig, start: Start) -> tuple[ModelSource, EnginePlan]:
    """The model's files, and the plan for them. Raises StartupError."""
    source = find_model(
        config.model,
        load_format=cast(LoadFormat, config.load_format),
        with_tokenizer=not config.skip_tokenizer_init,
    )
    start.mark("tokenizer and config")
    plan = plan_engine(config, source)
    start.mark("device")
    logger.info("memory of %s, reckoned:\n%s", plan.device, plan.ledger.table())
    return source, plan


def new_scheduler(config: EngineConfig, plan: EnginePlan) -> Scheduler:
    """An empty scheduler."""
    return Scheduler(plan.scheduler, plan.cache, seed=config.seed)


def host_options(
    config: EngineConfig, source: ModelSource, plan: EnginePlan, rates: RateLimits | None
) -> HostOptions:
    """How the engine is run. Grammars need a tokenizer, and a token that ends a text."""
    ends = frozenset(token for token in _eos_token_ids(source, plan) if token < plan.model.vocab_size)
    grammars = None
    if source.tokenizer is not None and ends:
        allocate = pinned_masks if plan.device.type == "cuda" else in_memory
        vocabulary = GrammarVocabulary(source.tokenizer, plan.model.vocab_size, ends, allocate)
        grammars = GrammarCompiler(vocabulary)
    return HostOptions(
        overlap=config.overlap, grammars=grammars, step_timeout_s=config.step_timeout, rates=rates
    )


def served_model(source: ModelSource, plan: EnginePlan) -> ServedModel:
    """What requests depend on. Raises StartupError for defaults that no request could use."""
    return ServedModel(
        name=source.name,
        max_model_len=plan.max_model_len,
        vocab_size=plan.model.vocab_size,
        eos_token_ids=_eos_token_ids(source, plan),
        default_params=default_params(source.generation_config),
    )


def _eos_token_ids(source: ModelSource, plan: EnginePlan) -> frozenset[int]:
    """Ids that end a text."""
    return source.tokenizer.eos_token_ids if source.tokenizer else frozenset(plan.model.eos_token_ids)
