"""How near the kernels come to what the card can do: their TB/s and TFLOP/s beside its copies and products.

    python loadtest/kernels.py [--sweep] [--only decode prefill thin small] [--model llama-3.1-8b]

Every kernel is replayed from a CUDA graph, over operands that together exceed the L2 cache, and its result is
held against float32. `--sweep` tries the candidates in kernel_cases.py, too, and marks the fastest.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from statistics import median

import torch
import triton
from kernel_cases import (
    BF16,
    CUDA,
    MODELS,
    Variants,
    decode_cases,
    prefill_cases,
    small_cases,
    thin_cases,
)
from torch import Tensor
from triton.runtime.errors import OutOfResources

GROUPS = {"decode": decode_cases, "prefill": prefill_cases, "thin": thin_cases, "small": small_cases}


def graph_time_us(calls: Sequence[Callable[[], Tensor]]) -> float:
    """Median time of one call, from replays of a graph of them all."""
    calls[0]()
    repeats = max(1, 8 // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in [*calls] * repeats:
            call()
    times = []
    for _ in range(9):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / (len(calls) * repeats))
    return float(median(times[2:]))


def ceilings() -> tuple[float, float]:
    """Bytes per second of a device copy, read and write counted, and bf16 FLOP/s of a large product."""
    source = torch.empty(1 << 32, dtype=torch.uint8, device=CUDA)
    target = torch.empty_like(source)
    # Not from a graph: there, a copy is left to the copy engine, which is slower than the multiprocessors.
    copy_us = 1000 * float(triton.testing.do_bench(lambda: target.copy_(source), return_mode="median"))
    a = torch.randn(8192, 8192, dtype=BF16, device=CUDA)
    product_us = graph_time_us([lambda: a @ a])
    return 2 * source.numel() / copy_us * 1e6, 2 * 8192**3 / product_us * 1e6


def report(variants: Variants, copy: float, products: float) -> None:
    """One line per variant; the fastest is marked."""
    lines = []
    for name, case in variants:
        try:
            error, time_us = case.error(case.calls[0]()), graph_time_us(case.calls)
        except OutOfResources as problem:
            lines.append((math.inf, f"{case.kernel:15}{case.shape:21}{name:30} {problem}"))
            continue
        if case.num_flops:
            rate, unit, ceiling = case.num_flops / time_us * 1e6, "TFLOP/s", products
        else:
            rate, unit, ceiling = case.num_bytes / time_us * 1e6, "TB/s", copy
        text = f"{case.kernel:15}{case.shape:21}{name:30}{time_us:10.1f} us {rate / 1e12:8.2f} {unit:8}"
        lines.append((time_us, f"{text}{100 * rate / ceiling:5.0f} %  error {error:.1e}"))
    best = min(time_us for time_us, _ in lines)
    for time_us, line in lines:
        print(line + ("   <- fastest" if time_us == best and len(lines) > 1 else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kernels beside the card's ceilings")
    parser.add_argument("--sweep", action="store_true", help="try candidate tiles")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=[*GROUPS], help="groups of kernels")
    parser.add_argument(
        "--model", nargs="+", choices=MODELS, default=[*MODELS], help="shapes of these models"
    )
    parser.add_argument("--block-size", type=int, default=16, help="tokens per page (default: 16)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    copy, products = ceilings()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    print(f"ceilings: copy {copy / 1e12:.2f} TB/s, product {products / 1e12:.0f} TFLOP/s")
    for group in arguments.only:
        for name in arguments.model:
            print(f"\n{group}, {name}")
            for variants in GROUPS[group](MODELS[name], arguments.block_size, arguments.sweep):
                report(variants, copy, products)


if __name__ == "__main__":
    main()
