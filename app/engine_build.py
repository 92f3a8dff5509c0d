"""Allocates and fills what an engine plan says, in an order that saves time; measures what is left for KV.

weights are allocated  ->  the kernels that steps need are found, and compiled by other processes
weights are filled     ->  the largest step is rehearsed, and its memory measured     (GPU only)
KV cache               ->  graphs
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..cache.ledger import format_bytes
from ..cache.storage import KVStorage
from ..model.decoder import DecoderLM
from ..model.executor import StreamExecutor, ThreadExecutor
from ..model.memory import MemoryUse, device_memory
from ..model.plan import Executor
from ..model.rehearsal import rehearse
from ..model.runner import ModelRunner
from ..model.warm_up import warm_up
from ..model.weights import fill_dummy_weights, load_weights
from .config import EngineConfig
from .engine_plan import EnginePlan
from .errors import StartupError
from .model_source import ModelSource
from .start import Start

log = logging.getLogger(__name__)

_CPU_ALLOCATOR = "DefaultCPUAllocator"
"""What torch's complaint names when a CPU's memory runs out, which is no type of error of its own."""


def build_executor(
    config: EngineConfig, source: ModelSource, plan: EnginePlan, start: Start
) -> tuple[Executor, EnginePlan]:
    """An executor with the model and its KV pages, and the plan as measured. Raises StartupError."""
    with _fitting("the weights", "choose a smaller model, or free the device of other programs"):
        model = DecoderLM(
            plan.model,
            plan.dtype,
            plan.device,
            max_positions=plan.max_model_len,
            deterministic=config.deterministic,
        )
    if plan.device.type == "cpu":
        with _fitting("the weights", "choose a smaller model, or free memory of other programs"):
            _fill(model, config, source, plan)
        start.mark("weights")
        executor = ThreadExecutor(_runner(model, plan, plan.cache.num_blocks))
        start.mark("KV cache")
        return executor, plan
    return _on_gpu(model, config, source, plan, start)


def _on_gpu(
    model: DecoderLM, config: EngineConfig, source: ModelSource, plan: EnginePlan, start: Start
) -> tuple[Executor, EnginePlan]:
    torch.cuda.set_per_process_memory_fraction(1.0, plan.device)  # an engine before this one may have set it
    strangers_bytes = torch.cuda.memory_reserved(plan.device)
    max_tokens, max_length = plan.scheduler.max_num_batched_tokens, plan.max_model_len
    block_size = plan.cache.block_size
    with _fitting("the largest step", "lower --max-num-batched-tokens or --max-num-seqs"):
        runner = _runner(model, plan, num_blocks=1)
        compiling = runner.compile_kernels(start.compiler)
        start.mark("kernels found")
        _fill(model, config, source, plan)
        start.mark("weights")
        compiling.wait()
        start.mark("kernels compiled")
        warm_up(
            runner,
            max_tokens=max_tokens,
            max_length=max_length,
            block_size=block_size,
            num_slots=runner.num_slots,
        )
        start.mark("warm-up")
        use = rehearse(
            runner,
            max_tokens=max_tokens,
            max_length=max_length,
            block_size=block_size,
            with_graphs=not config.enforce_eager,
        )
        start.mark("rehearsal")
    plan = plan.measured(config, use)
    with _fitting("the KV cache", "lower --gpu-memory-utilization, or the size that was given for it"):
        runner.use_pages(_pages(plan, plan.cache.num_blocks))
        start.mark("KV cache")
        if not config.enforce_eager:
            runner.capture_graphs(max_tokens)
            while start.patient and runner.capture_more():
                pass
            start.mark("graphs")
    if config.kv_cache_memory_bytes is None and config.num_gpu_blocks_override is None:
        _keep_within(config.gpu_memory_utilization, use, plan.device, strangers_bytes)
    log.info("memory of %s, measured:\n%s", plan.device, plan.ledger.table())
    return StreamExecutor(runner), plan


def _keep_within(utilization: float, use: MemoryUse, device: torch.device, strangers_bytes: int) -> None:
    """Make the allocator refuse what would exceed the share of the device that may be used.

    strangers_bytes: what this process had allocated before the engine.
    """
    _, others_bytes = device_memory(device)
    limit_bytes = int(utilization * use.total_bytes) - others_bytes + strangers_bytes
    torch.cuda.empty_cache()
    needed_bytes = torch.cuda.memory_reserved(device) + use.step_bytes
    if limit_bytes < needed_bytes:
        excess = format_bytes(needed_bytes - limit_bytes)
        log.warning("the largest step will pass --gpu-memory-utilization %g by %s", utilization, excess)
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, max(limit_bytes, needed_bytes) / use.total_bytes), device
    )


def _fill(model: DecoderLM, config: EngineConfig, source: ModelSource, plan: EnginePlan) -> None:
    if source.weights is None:
        fill_dummy_weights(model, seed=config.seed or 0)
        return
    try:
        load_weights(model, source.tensors(plan.dtype), source.num_tensors)
    except ValueError as error:
        raise StartupError(f"{source.name} cannot be loaded: {error}") from error


def _runner(model: DecoderLM, plan: EnginePlan, num_blocks: int) -> ModelRunner:
    with _fitting("the KV cache", "lower the size that was given for it"):
        pages = _pages(plan, num_blocks)
    return ModelRunner(
        model,
        pages,
        plan.device,
        vocab_size=plan.model.vocab_size,
        num_slots=plan.scheduler.max_num_seqs,
        max_model_len=plan.max_model_len,
        block_size=plan.cache.block_size,
    )


def _pages(plan: EnginePlan, num_blocks: int) -> KVStorage:
    return KVStorage(
        plan.model.num_layers,
        num_blocks,
        plan.model.num_kv_heads,
        plan.cache.block_size,
        plan.model.head_dim,
        plan.dtype,
        plan.device,
    )


@contextmanager
def _fitting(what: str, advice: str) -> Iterator[None]:
    """Turns out of memory inside into one sentence that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and _CPU_ALLOCATOR not in str(error):
            raise
        cause = ". ".join(str(error).split(". ")[:2])  # what, and how much; the rest is advice on allocators
        raise StartupError(f"out of memory at {what}: {advice} ({cause})") from error
