"""The largest step that there may be: as many rows and tokens as the limits say, within one block's pages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runner_harness import BLOCK_SIZE, MAX_LENGTH, make_runner

from octavo.model.rehearsal import largest_step, rehearse


@given(st.integers(1, 40), st.integers(1, 300), st.integers(2, 64))
def test_no_step_has_more_rows_or_more_tokens(num_slots: int, max_tokens: int, max_length: int) -> None:
    plan = largest_step(num_slots, max_tokens, max_length, BLOCK_SIZE, 3)
    lengths = [row.length for row in plan.rows]
    assert lengths == sorted(lengths), "rows of one token come first"
    assert len(lengths) == min(num_slots, max_tokens)
    assert max(lengths) <= max_length - 1
    assert sum(lengths) == min(max_tokens, len(lengths) * (max_length - 1))
    assert [start.slot for start in plan.starts] == [row.slot for row in plan.rows]
    assert all(row.samples and len(row.targets) == row.length - 1 for row in plan.rows)


def test_it_runs_on_pages_of_one_block_and_tells_everything() -> None:
    runner = make_runner(num_slots=4, num_blocks=1)
    sampled = runner.run(largest_step(4, 100, MAX_LENGTH, BLOCK_SIZE, 3))
    assert sampled is not None and sampled.logprobs is not None and sampled.prompt_scores is not None
    assert sampled.tokens.shape == (4,) and sampled.logprobs.top.shape == (4, 3)
    assert sampled.prompt_scores.tensors.chosen.shape == (96,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("with_graphs", [True, False])
def test_what_is_measured_is_what_is_there(with_graphs: bool) -> None:
    runner = make_runner(num_slots=20, num_blocks=1, device=torch.device("cuda", 0))
    use = rehearse(
        runner, max_tokens=256, max_length=MAX_LENGTH, block_size=BLOCK_SIZE, with_graphs=with_graphs
    )
    assert use.total_bytes == torch.cuda.mem_get_info()[1]
    assert use.weights_bytes == runner.weight_bytes > 0
    assert use.weights_bytes + use.activations_bytes > torch.cuda.memory_reserved()
    assert use.activations_bytes > 0 and (use.graphs_bytes > 0) == with_graphs
    assert use.others_bytes + use.weights_bytes <= use.total_bytes
