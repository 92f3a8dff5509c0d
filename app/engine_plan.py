"""What is to be built, decided before anything is allocated: types, limits, and the division of memory.

Estimates what a step will take; engine_build.py, which allocates, measures it on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..cache.config import CacheConfig
from ..cache.ledger import MemoryFitError, MemoryLedger, kv_bytes_per_block
from ..model.config import ModelConfig
from ..model.graph_shapes import mixed_sizes
from ..model.memory import MemoryUse, activation_bytes, device_memory, graph_bytes, weight_bytes
from ..scheduler.config import SchedulerConfig
from .config import EngineConfig
from .errors import StartupError
from .model_source import ModelSource

_GPU_ITL_TARGET_MS = 12.0
"""Longer than a decode step of models that fit one card well, shorter than a reader would notice."""
_GPU_SEQS = (2048, 1024)
_CPU_SEQS = 128
_TOKENS_PER_SEQ = 512
"""What sequences of ShareGPT's lengths reach. With less for each, more places would mean preemption."""
_CPU_KV_BYTES = 4 << 30
"""Largest KV cache on a CPU by default, since memory is shared. Pages take memory once they are written."""


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

    def measured(self, config: EngineConfig, use: MemoryUse) -> EnginePlan:
        """The plan with the KV cache that is left by what the device was seen to use. Raises StartupError."""
        try:
            ledger = _Division(config, self.model, self.dtype, self.device).fit(use, self.max_model_len)
        except MemoryFitError as error:
            raise StartupError(str(error)) from error
        return replace(self, ledger=ledger, cache=replace(self.cache, num_blocks=ledger.num_blocks))


def plan_engine(config: EngineConfig, source: ModelSource) -> EnginePlan:
    """Decide shapes and divide the memory, allocating nothing. Raises StartupError for what cannot be."""
    try:
        model = ModelConfig.from_hf(source.config)
    except ValueError as error:
        raise StartupError(f"{source.name} cannot be run: {error}") from error
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, model, device)
    if config.deterministic and device.type == "cpu":
        raise StartupError(
            "--deterministic needs a GPU: on a CPU, sums depend on how many rows are multiplied at once"
        )
    on_gpu = device.type == "cuda"
    wanted_len = (
        model.max_length if config.max_model_len in (None, "auto") else int(config.max_model_len or 0)
    )
    if wanted_len > model.max_length:
        raise StartupError(
            f"--max-model-len must be at most the model's own length, {model.max_length}, got {wanted_len}"
        )
    default_tokens = max(8192 if on_gpu else 512, 0 if config.enable_chunked_prefill else wanted_len)
    division = _Division(config, model, dtype, device)
    max_tokens = config.max_num_batched_tokens or default_tokens
    max_num_seqs = config.max_num_seqs or min(division.default_seqs(max_tokens), max_tokens)
    max_num_batched_tokens = config.max_num_batched_tokens or max(default_tokens, max_num_seqs)
    use = division.reckoned(max_num_seqs, max_num_batched_tokens)
    try:
        ledger = division.fit(use, None if config.max_model_len == "auto" else wanted_len)
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


@dataclass(frozen=True, slots=True)
class _Division:
    """How memory would be divided for one model on one device."""

    config: EngineConfig
    model: ModelConfig
    dtype: torch.dtype
    device: torch.device

    def default_seqs(self, max_tokens: int) -> int:
        """Places in the batch: many, where the KV cache would hold a conversation's worth for each."""
        if self.device.type == "cpu":
            return _CPU_SEQS
        *fewer, fewest = _GPU_SEQS
        for num_seqs in fewer:
            try:
                ledger = self.fit(self.reckoned(num_seqs, max_tokens), None)
            except MemoryFitError:
                continue
            if ledger.capacity_tokens >= num_seqs * _TOKENS_PER_SEQ:
                return num_seqs
        return fewest

    def reckoned(self, max_num_seqs: int, max_num_batched_tokens: int) -> MemoryUse:
        """An upper bound of what the engine will use beside its KV cache."""
        on_gpu = self.device.type == "cuda"
        total_bytes, others_bytes = device_memory(self.device)
        graphs_bytes = 0
        if on_gpu and not self.config.enforce_eager:
            graphs_bytes = graph_bytes(
                self.model,
                self.dtype,
                max_num_batched_tokens=max_num_batched_tokens,
                max_num_seqs=max_num_seqs,
                block_size=self.config.block_size,
            )
        activations_bytes = activation_bytes(
            self.model,
            self.dtype,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            on_gpu=on_gpu,
        )
        weights_bytes = weight_bytes(self.model, self.dtype)
        return MemoryUse(total_bytes, others_bytes, weights_bytes, activations_bytes, graphs_bytes)

    def fit(self, use: MemoryUse, max_model_len: int | None) -> MemoryLedger:
        """Divide the memory by the settings. Raises MemoryFitError."""
        config = self.config
        kv_cache_bytes = config.kv_cache_memory_bytes
        if kv_cache_bytes is None and self.device.type == "cpu":
            left_bytes = use.total_bytes - use.weights_bytes - use.activations_bytes
            kv_cache_bytes = min(_CPU_KV_BYTES, max(0, left_bytes) // 2) or None
        return MemoryLedger.fit(
            total_bytes=use.total_bytes,
            others_bytes=use.others_bytes,
            weights_bytes=use.weights_bytes,
            activations_bytes=use.activations_bytes,
            graphs_bytes=use.graphs_bytes,
            block_bytes=kv_bytes_per_block(self.model, config.block_size, self.dtype.itemsize),
            block_size=config.block_size,
            utilization=config.gpu_memory_utilization,
            kv_cache_bytes=kv_cache_bytes,
            num_blocks=config.num_gpu_blocks_override,
            max_model_len=max_model_len,
        )


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
