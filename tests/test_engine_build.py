"""Building what was planned: a start that runs out of memory says at what, and what to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from runner_harness import HF_CONFIG

from octavo.app import engine_build
from octavo.app.config import EngineConfig
from octavo.app.engine_build import build_executor
from octavo.app.engine_plan import plan_engine
from octavo.app.errors import StartupError
from octavo.app.model_source import find_model
from octavo.app.start import Start

CUDA_MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which 1.00 "
    "GiB is free. See documentation for Memory Management"
)


def build(folder: Path) -> Start:
    """An engine of the small model on the CPU, closed again; what its start took."""
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    config = EngineConfig(
        model=str(folder),
        load_format="dummy",
        device="cpu",
        skip_tokenizer_init=True,
        max_num_seqs=4,
        kv_cache_memory_bytes=1 << 20,
    )
    source = find_model(config.model, load_format="dummy", with_tokenizer=False)
    start = Start()
    planned = plan_engine(config, source)
    executor, plan = build_executor(config, source, planned, start)
    executor.close()
    assert plan is planned, "on a CPU nothing is measured"
    return start


def test_a_start_tells_what_it_waited_for(tmp_path: Path) -> None:
    names = [line.split("  ")[0] for line in build(tmp_path).table().splitlines()]
    assert names == ["weights", "KV cache"]


@pytest.mark.parametrize(
    ("what", "owner", "error", "sentence"),
    [
        ("DecoderLM", "the weights", torch.OutOfMemoryError(CUDA_MESSAGE), "choose a smaller model"),
        ("KVStorage", "the KV cache", torch.OutOfMemoryError(CUDA_MESSAGE), "lower the size that was given"),
        ("KVStorage", "the KV cache", MemoryError("Unable to allocate 2.00 GiB"), "lower the size that was"),
    ],
)
def test_out_of_memory_at_a_start_is_one_sentence_that_says_what_to_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, owner: str, error: Exception, sentence: str
) -> None:
    def full(*args: object, **settings: object) -> NoReturn:
        raise error

    monkeypatch.setattr(engine_build, what, full)
    with pytest.raises(StartupError) as refusal:
        build(tmp_path)
    told = str(refusal.value)
    assert told.startswith(f"out of memory at {owner}: {sentence}") and "2.00 GiB" in told
    assert "\n" not in told and "documentation" not in told


def test_a_cache_that_the_machine_cannot_give_is_such_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What numpy really raises, of a machine that says it has more memory than there are addresses."""
    monkeypatch.setattr(engine_build, "_pages", lambda plan, num_blocks: np.zeros(1 << 62, np.uint8))
    with pytest.raises(StartupError, match="out of memory at the KV cache: lower the size that was given"):
        build(tmp_path)


@pytest.mark.parametrize("owner", ["KVStorage", "fill_dummy_weights"])
def test_a_processors_memory_runs_out(owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no type of error for that."""
    monkeypatch.setattr(engine_build, owner, lambda *_, **__: torch.empty(1 << 52))
    with pytest.raises(StartupError, match="out of memory at the (weights|KV cache): .*DefaultCPUAllocator"):
        build(tmp_path)


def test_another_error_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_build, "KVStorage", lambda *_, **__: torch.empty(2).view(3))
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        build(tmp_path)
