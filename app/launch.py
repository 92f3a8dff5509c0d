"""From settings to a running engine: resolve the model, divide memory, build, load, start.

The only place where all layers meet. Knows how they fit together, not how any of them works.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..cache.config import CacheConfig
from ..cache.ledger import MemoryFitError, MemoryLedger, kv_bytes_per_block
from ..cache.storage import KVStorage
from ..model.config import ModelConfig
from ..model.decoder import DecoderLM
from ..model.executor import StreamExecutor, ThreadExecutor
from ..model.graphs import mixed_sizes
from ..model.memory import activation_bytes, device_memory, graph_bytes, weight_bytes
from ..model.plan import Executor
from ..model.runner import ModelRunner
from ..model.sampling_state import pinned_masks
from ..model.warm_up import warm_up
from ..model.weights import fill_dummy_weights, load_weights
from ..scheduler.config import SchedulerConfig
from ..scheduler.scheduler import Scheduler
from ..scheduler.stats import EngineStats
from .chat_template import ChatTemplate
from .client import EngineClient
from .config import EngineConfig
from .engine_host import HostOptions
from .errors import StartupError
from .generation_defaults import default_params
from .grammar_compiler import GrammarCompiler
from .grammar_matcher import GrammarVocabulary, in_memory
from .inproc_client import InprocClient
from .model_source import LoadFormat, ModelSource, find_model
from .rate_limits import RateLimits
from .tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_GPU_ITL_TARGET_MS = 12.0
"""Above a decode step of the models that one card holds well, below what a reader would notice."""
_CPU_KV_BYTES = 4 << 30
"""KV cache on a CPU at most, shared as its memory is with everything else. Pages cost memory once written."""


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Everything that is decided before memory is touched. max_model_len: tokens."""

    model: ModelConfig
    dtype: torch.dtype
    device: torch.device
    max_model_len: int
    scheduler: SchedulerConfig
    cache: CacheConfig
    ledger: MemoryLedger


@dataclass(frozen=True, slots=True)
class Launched:
    """A running engine and what its callers need to know of the model. default_params: sampling settings."""

    client: EngineClient
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None
    model_name: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    default_params: Mapping[str, Any]
    ledger: MemoryLedger
    engine: InprocClient
    stats: Callable[[], EngineStats]

    async def close(self) -> None:
        """Stop the engine; whatever still runs ends with an error."""
        await self.engine.close()


async def launch(config: EngineConfig, rates: RateLimits | None = None) -> Launched:
    """Build the engine and start it in the running event loop. Raises StartupError, one sentence.

    rates: see HostOptions.
    """
    source, plan = plan_launch(config)
    defaults = default_params(source.generation_config)
    executor = build_executor(config, source, plan)
    client = InprocClient(new_scheduler(config, plan), executor, host_options(config, source, plan, rates))
    client.start()
    freeze_garbage()
    return Launched(
        client=client,
        tokenizer=source.tokenizer,
        chat_template=source.chat_template,
        model_name=source.name,
        max_model_len=plan.max_model_len,
        vocab_size=plan.model.vocab_size,
        eos_token_ids=eos_token_ids(source, plan),
        default_params=defaults,
        ledger=plan.ledger,
        engine=client,
        stats=client.stats,
    )


def freeze_garbage() -> None:
    """Spare what stays anyway, model and tokenizer, from later collections, which take 20 ms and more."""
    gc.collect()
    gc.freeze()


def plan_launch(config: EngineConfig) -> tuple[ModelSource, EnginePlan]:
    """The model's files, found, and what is to be built of them. Raises StartupError."""
    source = find_model(
        config.model,
        load_format=cast(LoadFormat, config.load_format),
        with_tokenizer=not config.skip_tokenizer_init,
    )
    plan = plan_engine(config, source)
    logger.info("memory of %s:\n%s", plan.device, plan.ledger.table())
    return source, plan


def new_scheduler(config: EngineConfig, plan: EnginePlan) -> Scheduler:
    """An empty scheduler."""
    return Scheduler(plan.scheduler, plan.cache, seed=config.seed)


def host_options(
    config: EngineConfig, source: ModelSource, plan: EnginePlan, rates: RateLimits | None
) -> HostOptions:
    """How the engine is run. Grammars need a tokenizer, and a token that ends a text."""
    ends = frozenset(token for token in eos_token_ids(source, plan) if token < plan.model.vocab_size)
    grammars = None
    if source.tokenizer is not None and ends:
        allocate = pinned_masks if plan.device.type == "cuda" else in_memory
        vocabulary = GrammarVocabulary(source.tokenizer, plan.model.vocab_size, ends, allocate)
        grammars = GrammarCompiler(vocabulary)
    return HostOptions(
        overlap=config.overlap, grammars=grammars, step_timeout_s=config.step_timeout, rates=rates
    )


def eos_token_ids(source: ModelSource, plan: EnginePlan) -> frozenset[int]:
    """Ids that end a text."""
    return source.tokenizer.eos_token_ids if source.tokenizer else frozenset(plan.model.eos_token_ids)


def plan_engine(config: EngineConfig, source: ModelSource) -> EnginePlan:
    """Decide shapes and divide the memory, allocating nothing. Raises StartupError for what cannot be."""
    try:
        model = ModelConfig.from_hf(source.config)
    except ValueError as error:
        raise StartupError(f"{source.name} cannot be run: {error}") from error
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, model, device)
    on_gpu = device.type == "cuda"
    default_seqs = 1024 if on_gpu else 128
    max_num_seqs = config.max_num_seqs or min(default_seqs, config.max_num_batched_tokens or default_seqs)
    wanted_len = (
        model.max_length if config.max_model_len in (None, "auto") else int(config.max_model_len or 0)
    )
    if wanted_len > model.max_length:
        raise StartupError(
            f"--max-model-len must be at most the model's own length, {model.max_length}, got {wanted_len}"
        )
    max_num_batched_tokens = config.max_num_batched_tokens or max(
        8192 if on_gpu else 512, max_num_seqs, 0 if config.enable_chunked_prefill else wanted_len
    )
    total_bytes, others_bytes = device_memory(device)
    weights_bytes = weight_bytes(model, dtype)
    activations_bytes = activation_bytes(
        model,
        dtype,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        on_gpu=on_gpu,
    )
    graphs_bytes = 0
    if on_gpu and not config.enforce_eager:
        graphs_bytes = graph_bytes(
            model,
            dtype,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            block_size=config.block_size,
        )
    cpu_kv_bytes = min(_CPU_KV_BYTES, max(0, total_bytes - weights_bytes - activations_bytes) // 2)
    try:
        ledger = MemoryLedger.fit(
            total_bytes=total_bytes,
            others_bytes=others_bytes,
            weights_bytes=weights_bytes,
            activations_bytes=activations_bytes,
            graphs_bytes=graphs_bytes,
            block_bytes=kv_bytes_per_block(model, config.block_size, dtype.itemsize),
            block_size=config.block_size,
            utilization=config.gpu_memory_utilization,
            kv_cache_bytes=config.kv_cache_memory_bytes or (None if on_gpu else cpu_kv_bytes or None),
            num_blocks=config.num_gpu_blocks_override,
            max_model_len=None if config.max_model_len == "auto" else wanted_len,
        )
        max_model_len = min(wanted_len, ledger.capacity_tokens)
        scheduler = SchedulerConfig(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
            enable_chunked_prefill=config.enable_chunked_prefill,
            itl_target_s=itl_target_s(config, on_gpu=on_gpu),
            step_sizes=mixed_sizes(max_num_batched_tokens) if on_gpu and not config.enforce_eager else (),
            max_queued_requests=config.max_queued_requests,
            max_ttft_s=config.max_ttft,
        )
    except (MemoryFitError, ValueError) as error:
        raise StartupError(str(error)) from error
    cache = CacheConfig(ledger.num_blocks, config.block_size, config.enable_prefix_caching)
    return EnginePlan(model, dtype, device, max_model_len, scheduler, cache, ledger)


def build_executor(config: EngineConfig, source: ModelSource, plan: EnginePlan) -> Executor:
    """Allocate and fill the model and its KV pages. Raises StartupError."""
    model = DecoderLM(plan.model, plan.dtype, plan.device, max_positions=plan.max_model_len)
    if source.weights is None:
        fill_dummy_weights(model, seed=config.seed or 0)
    else:
        try:
            load_weights(model, source.tensors(plan.dtype), source.num_tensors)
        except ValueError as error:
            raise StartupError(f"{source.name} cannot be loaded: {error}") from error
    kv = KVStorage(
        plan.model.num_layers,
        plan.cache.num_blocks,
        plan.model.num_kv_heads,
        plan.cache.block_size,
        plan.model.head_dim,
        plan.dtype,
        plan.device,
    )
    runner = ModelRunner(
        model,
        kv,
        plan.device,
        vocab_size=plan.model.vocab_size,
        num_slots=plan.scheduler.max_num_seqs,
        max_model_len=plan.max_model_len,
        block_size=plan.cache.block_size,
    )
    if plan.device.type == "cpu":
        return ThreadExecutor(runner)
    runner.compile_kernels()
    warm_up(
        runner,
        max_tokens=plan.scheduler.max_num_batched_tokens,
        max_length=plan.max_model_len,
        block_size=plan.cache.block_size,
        num_slots=plan.scheduler.max_num_seqs,
    )
    if not config.enforce_eager:
        runner.capture_graphs(plan.scheduler.max_num_batched_tokens)
    return StreamExecutor(runner)


def itl_target_s(config: EngineConfig, *, on_gpu: bool) -> float | None:
    """What chunk sizes aim for; None is no target."""
    target_ms = config.itl_target_ms
    if target_ms is None:
        target_ms = _GPU_ITL_TARGET_MS if on_gpu and config.enable_chunked_prefill else 0.0
    return target_ms / 1000 or None


def choose_device(name: str) -> torch.device:
    """The device that `--device` means. Raises StartupError if there is no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise StartupError(
            "--device cuda needs an NVIDIA GPU that torch can use, and there is none; try --device cpu"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


def choose_dtype(name: str, model: ModelConfig, device: torch.device) -> torch.dtype:
    """`auto` is the checkpoint's 16-bit type on a GPU (bfloat16 if it has none), float32 on a CPU."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    return _DTYPES["float16" if model.dtype == "float16" else "bfloat16"]


_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
