"""From settings to a running engine, on the CPU, of a model whose weights are made up."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_harness import CONFIG, HF_CONFIG, MAX_LENGTH

from octavo.app import launch
from octavo.app.config import EngineConfig
from octavo.cache.ledger import kv_bytes_per_block
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import Request, TokenOutput

BLOCK_BYTES = kv_bytes_per_block(CONFIG, 16, 4)


@pytest.fixture
def thawed() -> Iterator[None]:
    """`launch` spares what exists from garbage collection: right for a server, not for later tests."""
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_a_launched_engine_answers_and_closes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**HF_CONFIG, "eos_token_id": [2, 5]}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.3}))
    config = EngineConfig(
        model=str(tmp_path),
        load_format="dummy",
        device="cpu",
        skip_tokenizer_init=True,
        max_num_seqs=4,
        kv_cache_memory_bytes=64 * BLOCK_BYTES,
    )

    async def main() -> list[TokenOutput]:
        launched = await launch.launch(config)
        assert launched.tokenizer is None and launched.model.eos_token_ids == {2, 5}
        assert (launched.model.max_model_len, launched.model.vocab_size) == (MAX_LENGTH, CONFIG.vocab_size)
        assert launched.model.default_params == {"temperature": 0.3}
        params = SamplingParams(temperature=0, max_tokens=7)
        stream = launched.engine.submit(
            Request(request_id="r", prompt_token_ids=[1, 2, 3], params=params, max_tokens=7)
        )
        outputs: list[TokenOutput] = []
        while not outputs or outputs[-1].finish_reason is None:
            outputs += await stream.next()
        await launched.close()
        return outputs

    outputs = asyncio.run(main())
    assert sum(len(output.token_ids) for output in outputs) == 7
