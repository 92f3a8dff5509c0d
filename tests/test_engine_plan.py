"""From settings to a plan, of a small model on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runner_harness import CONFIG, HF_CONFIG, MAX_LENGTH

from octavo.app import engine_plan
from octavo.app.config import EngineConfig
from octavo.app.engine_plan import EnginePlan, choose_dtype, itl_target_s, plan_engine
from octavo.app.errors import StartupError
from octavo.app.model_source import ModelSource
from octavo.cache.ledger import kv_bytes_per_block
from octavo.model.config import ModelConfig
from octavo.model.memory import MemoryUse, activation_bytes, weight_bytes

GIB = 1 << 30
BLOCK_BYTES = kv_bytes_per_block(CONFIG, 16, 4)
WEIGHT_BYTES = weight_bytes(CONFIG, torch.float32)
STEP_BYTES = activation_bytes(
    CONFIG, torch.float32, max_num_batched_tokens=512, max_num_seqs=128, on_gpu=False
)


def plan(config: dict[str, Any] | None = None, **settings: Any) -> EnginePlan:
    """What is planned for the small model with these settings on a CPU."""
    source = ModelSource(
        name="small",
        path=Path("small"),
        config=config or HF_CONFIG,
        generation_config={},
        weights=None,
        num_tensors=None,
        tokenizer=None,
        chat_template=None,
    )
    return plan_engine(EngineConfig(**({"device": "cpu"} | settings)), source)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A machine with so much RAM, in bytes; 64 GiB if the test does not say."""
    total: int = getattr(request, "param", 64 * GIB)
    monkeypatch.setattr(engine_plan, "device_memory", lambda device: (total, 0))
    return total


def refused(**settings: Any) -> str:
    """The one sentence with which these settings are refused."""
    with pytest.raises(StartupError) as refusal:
        plan(**settings)
    sentence = str(refusal.value)
    assert sentence and "\n" not in sentence and "Traceback" not in sentence
    return sentence


@pytest.mark.usefixtures("memory")
def test_a_cpu_promises_no_bits() -> None:
    assert refused(deterministic=True).startswith("--deterministic needs a GPU")


@pytest.mark.usefixtures("memory")
def test_a_large_machine_gives_the_cache_its_default() -> None:
    made = plan()
    assert 4 * GIB - BLOCK_BYTES < made.ledger.kv_bytes <= 4 * GIB
    assert (made.dtype, made.device.type) == (torch.float32, "cpu")
    assert made.max_model_len == made.scheduler.max_model_len == MAX_LENGTH
    assert (made.scheduler.max_num_seqs, made.scheduler.max_num_batched_tokens) == (128, 512)
    assert made.ledger.graphs_bytes == 0
    assert made.cache.num_blocks == made.ledger.num_blocks


@pytest.mark.parametrize("memory", [WEIGHT_BYTES + STEP_BYTES + 40 * BLOCK_BYTES], indirect=True)
def test_a_small_machine_gives_the_cache_half_of_what_is_left(memory: int) -> None:
    made = plan()
    assert made.ledger.num_blocks == 20
    assert made.ledger.total_bytes == memory


@pytest.mark.parametrize("memory", [WEIGHT_BYTES // 2, WEIGHT_BYTES + STEP_BYTES], indirect=True)
def test_a_machine_too_small_for_the_model_is_told_so(memory: int) -> None:
    sentence = refused()
    assert "no memory is left" in sentence and "smaller model" in sentence
    assert "--kv-cache-memory-bytes" not in sentence  # which the user never gave, and which would not help


@pytest.mark.parametrize("memory", [WEIGHT_BYTES + STEP_BYTES + 4 * BLOCK_BYTES], indirect=True)
def test_auto_takes_the_length_that_memory_allows(memory: int) -> None:
    assert "--max-model-len to 32" in refused()  # the model's own length was asked for, silently
    assert plan(max_model_len="auto").max_model_len == 32
    assert plan(max_model_len=20).max_model_len == 20
    assert "40 tokens" in refused(max_model_len=40)


@pytest.mark.usefixtures("memory")
def test_no_sequence_is_longer_than_the_models_positions() -> None:
    assert plan(max_model_len=MAX_LENGTH).max_model_len == MAX_LENGTH
    assert plan(max_model_len="auto").max_model_len == MAX_LENGTH
    sentence = refused(max_model_len=MAX_LENGTH + 1)
    assert "--max-model-len" in sentence and str(MAX_LENGTH) in sentence and str(MAX_LENGTH + 1) in sentence


@pytest.mark.usefixtures("memory")
def test_fewer_tokens_in_a_step_mean_fewer_sequences_unless_both_are_named() -> None:
    assert plan(max_num_batched_tokens=20).scheduler.max_num_seqs == 20
    assert plan(max_num_seqs=600).scheduler.max_num_batched_tokens == 600
    both = plan(max_num_batched_tokens=600, max_num_seqs=3).scheduler
    assert (both.max_num_batched_tokens, both.max_num_seqs) == (600, 3)


@pytest.mark.usefixtures("memory")
def test_chunks_follow_a_latency_target_on_a_gpu_and_where_one_is_given() -> None:
    assert plan().scheduler.itl_target_s is None
    assert plan(itl_target_ms=200).scheduler.itl_target_s == 0.2
    for settings, target_s in (
        ({}, 0.012),
        ({"itl_target_ms": 5.0}, 0.005),
        ({"itl_target_ms": 0.0}, None),
        ({"enable_chunked_prefill": False}, None),
    ):
        assert itl_target_s(EngineConfig(**settings), on_gpu=True) == target_s


@pytest.mark.usefixtures("memory")
def test_without_chunks_a_step_has_room_for_the_longest_prompt() -> None:
    long = HF_CONFIG | {"max_position_embeddings": 2000}
    assert plan(long, enable_chunked_prefill=False).scheduler.max_num_batched_tokens == 2000
    assert plan(long).scheduler.max_num_batched_tokens == 512
    assert "max_num_batched_tokens" in refused(
        config=long, enable_chunked_prefill=False, max_num_batched_tokens=512
    )


@pytest.mark.usefixtures("memory")
def test_the_cache_is_as_large_as_was_said() -> None:
    assert plan(kv_cache_memory_bytes=10 * BLOCK_BYTES + 1).cache.num_blocks == 10
    assert plan(num_gpu_blocks_override=7, block_size=32).cache.capacity_tokens == 7 * 32
    assert "--kv-cache-memory-bytes" in refused(kv_cache_memory_bytes=1)
    assert "--kv-cache-memory-bytes" in refused(kv_cache_memory_bytes=65 * GIB)
    assert "--num-gpu-blocks-override" in refused(num_gpu_blocks_override=1 << 40)


@pytest.mark.usefixtures("memory")
def test_what_the_model_cannot_be_is_named() -> None:
    unknown = refused(config={**HF_CONFIG, "architectures": ["MambaForCausalLM"]})
    assert unknown.startswith("small cannot be run: architectures") and "MambaForCausalLM" in unknown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    assert "--device cuda needs an NVIDIA GPU" in refused(device="cuda")
    assert plan(device="auto").device.type == "cpu"


def test_the_type_of_weights_follows_checkpoint_and_device() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    types: list[tuple[str | None, torch.dtype]] = [
        ("float16", torch.float16),
        ("float32", torch.bfloat16),
        (None, torch.bfloat16),
    ]
    for checkpoint, expected in types:
        model = ModelConfig.from_hf({**HF_CONFIG, "dtype": checkpoint})
        assert choose_dtype("auto", model, gpu) == expected
        assert choose_dtype("auto", model, cpu) == torch.float32
        assert choose_dtype("float16", model, cpu) == torch.float16


@pytest.mark.usefixtures("memory")
def test_what_the_device_was_seen_to_use_decides_how_many_blocks_there_are() -> None:
    """Of 1,000 blocks' memory, 90 % may be used, and 300 are taken."""
    made = plan()
    use = MemoryUse(
        total_bytes=1000 * BLOCK_BYTES,
        others_bytes=10 * BLOCK_BYTES,
        weights_bytes=100 * BLOCK_BYTES,
        activations_bytes=150 * BLOCK_BYTES,
        graphs_bytes=40 * BLOCK_BYTES,
    )
    seen = made.measured(EngineConfig(kv_cache_memory_bytes=600 * BLOCK_BYTES), use)
    assert seen.cache.num_blocks == seen.ledger.num_blocks == 600
    assert seen.ledger.headroom_bytes == 100 * BLOCK_BYTES
    assert (seen.scheduler, seen.max_model_len) == (made.scheduler, made.max_model_len)
    with pytest.raises(StartupError, match="lower --num-gpu-blocks-override to 700"):
        made.measured(EngineConfig(num_gpu_blocks_override=701), use)


def test_a_gpu_has_more_places_where_its_cache_holds_enough_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is touched: what it has is made up, and a plan allocates nothing."""
    monkeypatch.setattr(engine_plan, "choose_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(engine_plan, "device_memory", lambda device: (64 * GIB, 0))
    enough = 2048 * 512 // 16
    for num_blocks, places in ((enough, 2048), (enough - 1, 1024), (10, 1024)):
        assert plan(device="cuda", num_gpu_blocks_override=num_blocks).scheduler.max_num_seqs == places
    assert plan(device="cuda", max_num_seqs=7).scheduler.max_num_seqs == 7
    assert plan(device="cuda", max_num_batched_tokens=64).scheduler.max_num_seqs == 64
