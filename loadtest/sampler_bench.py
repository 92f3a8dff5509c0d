"""The GPU sampler: does it choose what the reference chooses, and how long does it take?

    python loadtest/sampler_bench.py [--rows 256] [--vocab 151936]

Times are of CUDA graph replays, so of the kernels alone, in the one variant that steps run. Several sets of
logits take turns, since one alone would stay in the cache, and a cache full of what was just written would be
written back meanwhile. `model` logits have a few tokens far above the bulk, as a trained model's have;
`peaked` ones are a wide bell curve, whose mass lies in its tail; `flat` ones are those of random weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from kernels import graph_time_us
from torch import Tensor

from octavo.model.grammar import Grammar, GrammarKind
from octavo.model.plan import SlotStart, TokenMasks
from octavo.model.sampler import Sampler
from octavo.model.sampling_params import SamplingParams
from octavo.model.sampling_state import pinned_masks
from octavo.ops.sampling import mask_words

CASES = {
    "greedy": [SamplingParams(temperature=0)],
    "temperature": [SamplingParams(temperature=0.8)],
    "top-k 50": [SamplingParams(temperature=0.8, top_k=50)],
    "top-p 0.9": [SamplingParams(temperature=0.8, top_p=0.9)],
    "top-k 50, top-p 0.9": [SamplingParams(temperature=0.8, top_k=50, top_p=0.9)],
    "min-p 0.05": [SamplingParams(temperature=0.8, min_p=0.05)],
    "penalties": [SamplingParams(temperature=0, repetition_penalty=1.1, frequency_penalty=0.2)],
    "everything": [
        SamplingParams(
            temperature=0.8,
            top_k=50,
            top_p=0.9,
            min_p=0.01,
            repetition_penalty=1.1,
            presence_penalty=0.3,
            logit_bias={7: 2.0},
        )
    ],
}
CASES["grammar"] = [SamplingParams(temperature=0.8, structured_outputs=Grammar(GrammarKind.REGEX, "a"))]
CASES["every 8th with a grammar"] = CASES["temperature"] * 7 + CASES["grammar"]
CASES["all of these, mixed"] = [case[0] for case in CASES.values()]
SPREADS = {"model": 2.5, "peaked": 3.0, "flat": 1.0}
_NUM_SETS = 4
_NUM_FAVOURITES = 20


def started(params: Sequence[SamplingParams], rows: int, vocab: int, device: torch.device | str) -> Sampler:
    """A sampler whose slots take the params in turn."""
    sampler = Sampler(rows + 1, vocab, device)
    sampler.start(
        [
            SlotStart(
                slot=slot,
                params=params[slot % len(params)],
                seed=slot,
                stop_token_ids=frozenset(),
                prompt_tokens=range(slot, slot + 200),
                output_tokens=range(slot, slot + 50),
            )
            for slot in range(rows)
        ]
    )
    sampler.mask(half_masks(params, rows, vocab))
    return sampler


def half_masks(params: Sequence[SamplingParams], rows: int, vocab: int) -> list[TokenMasks]:
    """For rows with a grammar; each allows another half of the vocabulary."""
    slots = [slot for slot in range(rows) if params[slot % len(params)].grammar is not None]
    words = pinned_masks(len(slots), mask_words(vocab))
    words[:] = np.random.default_rng(0).integers(-(2**31), 2**31, words.shape, np.int32)
    return [TokenMasks(slots, words)] if slots else []


def inputs(rows: int, vocab: int, kind: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [rows, vocab] bf16, slots and positions [rows] int32, on the GPU."""
    torch.manual_seed(seed)
    logits = torch.randn(rows, vocab, device="cuda") * SPREADS[kind]
    if kind == "model":
        favourites = torch.randint(0, vocab, (rows, _NUM_FAVOURITES), device="cuda")
        logits.scatter_add_(1, favourites, 6 + 10 * torch.rand(rows, _NUM_FAVOURITES, device="cuda"))
    slots = torch.arange(rows, dtype=torch.int32, device="cuda")
    return logits.to(torch.bfloat16), slots, slots + 250


def differing_rows(params: Sequence[SamplingParams], rows: int, vocab: int, kind: str) -> int:
    """Rows where GPU and reference choose differently; a handful is rounding at the border of two tokens."""
    logits, slots, positions = inputs(rows, vocab, kind)
    host_slots = range(rows)
    got = started(params, rows, vocab, "cuda").sample(logits, slots, positions, host_slots).tokens
    reference = started(params, rows, vocab, "cpu")
    expected = reference.sample(logits.cpu(), slots.cpu(), positions.cpu(), host_slots).tokens
    return int((got.cpu() != expected).sum())


def microseconds(params: Sequence[SamplingParams], rows: int, vocab: int, kind: str) -> float:
    """Of one step's sampling."""
    sampler = started(params, rows, vocab, "cuda")
    sets = [inputs(rows, vocab, kind, seed) for seed in range(_NUM_SETS)]
    return graph_time_us([partial(sampler.choose_on_gpu, *one, changes=True, filters=True) for one in sets])


def mask_microseconds(rows: int, vocab: int) -> tuple[float, float]:
    """To hand all rows' masks to the device: of the host, and until the device has them; medians of 50."""
    params = CASES["grammar"]
    sampler, masks = started(params, rows, vocab, "cuda"), half_masks(params, rows, vocab)
    host: list[float] = []
    whole: list[float] = []
    for _ in range(50):
        torch.cuda.synchronize()
        began = time.perf_counter()
        sampler.mask(masks)
        host.append((time.perf_counter() - began) * 1e6)
        torch.cuda.synchronize()
        whole.append((time.perf_counter() - began) * 1e6)
    return sorted(host)[25], sorted(whole)[25]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256, help="rows in the batch (default: 256)")
    parser.add_argument("--vocab", type=int, default=151_936, help="vocabulary size (default: 151936)")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, {options.rows} x {options.vocab} bf16")
    print(f"{'settings':24} {'logits':8} {'differ':>6} {'us':>8}")
    for name, params in CASES.items():
        for kind in SPREADS:
            case = (params, options.rows, options.vocab, kind)
            print(f"{name:24} {kind:8} {differing_rows(*case):6} {microseconds(*case):8.1f}", flush=True)
    host, whole = mask_microseconds(options.rows, options.vocab)
    print(f"masks of all rows to the device: {host:.1f} us of the host, {whole:.1f} us until they are there")


if __name__ == "__main__":
    main()
