"""octavo's steps and kernels on an H100 that is not there: tensors without memory, launches left out.

A program, since kernels that were loaded to be interpreted cannot be compiled; it prints JSON.

    python tests/absent_card.py variants NUM_SLOTS [deterministic]    kernels of steps that were not foreseen
    python tests/absent_card.py compile                               what each takes of a multiprocessor
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from octavo.cache.storage import KVStorage
from octavo.model.config import ModelConfig
from octavo.model.decoder import DecoderLM
from octavo.model.graph_shapes import decode_shapes, mixed_shapes, varied_shapes
from octavo.model.runner import ModelRunner
from octavo.model.step_inputs import StepShape, unpack
from octavo.ops import decode_attention_kernel, dependent_launch, prefill_attention_kernel
from octavo.ops.compile_ahead import CompilingAhead, Variant, kernels_compiled_ahead

CARD = torch.device("cuda", 0)
NUM_MULTIPROCESSORS = 132
BLOCK_SIZE = 16
MAX_LENGTH = 4096
SMALL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "vocab_size": 1003,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 96,
    "max_position_embeddings": MAX_LENGTH,
}
LLAMA = Path(__file__).parent / "data" / "models" / "llama-3.1-8b" / "config.json"


class AbsentDriver:
    """What Triton asks of a driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class Indexing(TorchFunctionMode):
    """Brackets in terms of operators: torch's own have the device selected first, which is not there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            return _part(*args)
        if func is torch.Tensor.__setitem__:
            return _part(*args[:2]).fill_(args[2])
        return func(*args, **(kwargs or {}))


def _part(tensor: Tensor, key: Any) -> Tensor:
    dim = 0
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, slice):
            tensor = torch.ops.aten.slice(tensor, dim, part.start, part.stop)
            dim += 1
        elif isinstance(part, Tensor):
            tensor = tensor.index_select(dim, part)
            dim += 1
        elif part is None:
            tensor = tensor.unsqueeze(dim)
            dim += 1
        else:
            tensor = tensor.select(dim, int(part))
    return tensor


@contextmanager
def absent_card() -> Iterator[None]:
    """Inside, tensors on CARD have a shape, a type and an alignment, and no memory."""
    driver.set_active(AbsentDriver())
    dependent_launch._supported = lambda device: True  # type: ignore[assignment]
    for module in (decode_attention_kernel, prefill_attention_kernel):
        module.num_multiprocessors = lambda device: NUM_MULTIPROCESSORS  # type: ignore[attr-defined]
    CompilingAhead.begin = lambda self: None  # type: ignore[method-assign]
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
    with FakeTensorMode(), Indexing(), torch.inference_mode():
        yield


def kernels_of(
    hf_config: dict[str, Any],
    num_slots: int,
    deterministic: bool,
    shapes: Callable[[int, int], Sequence[StepShape]],
) -> list[Variant]:
    """What steps of these shapes launch, by the code that an engine runs, in bfloat16."""
    config = ModelConfig.from_hf(hf_config)
    with absent_card():
        kinds = (config.num_layers, 1, config.num_kv_heads, BLOCK_SIZE, config.head_dim)
        runner = ModelRunner(
            DecoderLM(config, torch.bfloat16, CARD, max_positions=MAX_LENGTH, deterministic=deterministic),
            KVStorage(*kinds, torch.bfloat16, CARD),
            CARD,
            vocab_size=config.vocab_size,
            num_slots=num_slots,
            max_model_len=MAX_LENGTH,
            block_size=BLOCK_SIZE,
        )
        with kernels_compiled_ahead() as ahead:
            for shape in shapes(num_slots, BLOCK_SIZE):
                packed = torch.zeros(shape.num_bytes, dtype=torch.uint8, device=CARD)
                runner._outlined_step(unpack(packed, shape))
    return ahead.variants


def many_shapes(num_slots: int, block_size: int) -> list[StepShape]:
    """Every other graph's, and those of steps that no graph holds."""
    shapes = [*decode_shapes(num_slots)[::2], *mixed_shapes(num_slots, 8192, block_size)[::3]]
    for tokens in (2, 3, 5, 8, 17, 100, 127, 129, 513, 4999, 9000):
        rows = min(num_slots, tokens - 1)
        shapes += [StepShape(tokens, rows, rows, sampled, 3) for sampled in (0, 1, rows)]
    return shapes + [StepShape(rows, rows, 0, rows, 0) for rows in (5, 7, 9, 129) if rows <= num_slots]


def unforeseen(num_slots: int, deterministic: bool) -> list[str]:
    """Kernels that steps launch though `varied_shapes`, by which they are compiled ahead, does not.

    One layer has a window and one has none.
    """
    hf_config = SMALL | {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]}
    foreseen, needed = (
        {repr(variant) for variant in kernels_of(hf_config, num_slots, deterministic, shapes)}
        for shapes in (varied_shapes, many_shapes)
    )
    assert len(foreseen) > 10, f"too few to be all: {foreseen}"
    return sorted(needed - foreseen)


def compiled(variant: Variant) -> dict[str, Any]:
    """Registers and bytes of stack of a thread, bytes of shared memory and threads of a program."""
    target = GPUTarget(*variant.target)
    kernel = triton.compile(variant.source(), target=target, options=variant.options)
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(program), "-res-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert usage is not None, f"cuobjdump does not tell what {variant.name} uses: {told}"
    return {
        "name": variant.name,
        "registers": int(usage[1]),
        "stack_bytes": int(usage[2]),
        "shared_bytes": kernel.metadata.shared,
        "threads": 32 * kernel.metadata.num_warps,
    }


def main_kernels() -> list[Variant]:
    """Of Llama-3.1-8B: every kernel, in its variants of the sizes that matter most."""
    config = json.loads(LLAMA.read_text()) | {"num_hidden_layers": 2}
    found = kernels_of(config, 1024, False, varied_shapes) + kernels_of(config, 1024, True, varied_shapes)
    chosen: dict[tuple[str, str], Variant] = {}
    for variant in found:
        flags = [value for value in variant.constants.values() if isinstance(value, bool)]
        chosen[variant.name, str(flags)] = variant
    return sorted(chosen.values(), key=lambda variant: -variant.num_lines)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["variants", num_slots, *flags]:
            print(json.dumps(unforeseen(int(num_slots), flags == ["deterministic"])))
        case ["compile"]:
            with ProcessPoolExecutor(2) as pool:
                print(json.dumps(list(pool.map(compiled, main_kernels()))))
        case _:
            sys.exit(__doc__)
