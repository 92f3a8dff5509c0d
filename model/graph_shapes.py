"""For which shapes of steps there are CUDA graphs. Numbers only: knows no graph and no device.

There are two families: steps of decodes alone, and mixed steps, whose rows are decodes and chunks in any
proportion. A step is padded to a shape that holds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .step_inputs import StepShape

_MIXED_TOKENS = (
    *(64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048),
    *(2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192),
)
"""Beyond 8,192 the device takes longer than launching kernel by kernel does."""
_MIXED_ROWS = (16, 64, 256, 512, 1024, 1536)
_LARGE_TOKENS = 2048
_LARGE_ROWS = (64, 256, 1024, 2048)
"""Rows of graphs of more than _LARGE_TOKENS, which take so long that padding costs little."""
_MIN_CHUNKS = 64
_TOKENS_PER_CHUNK = 32
_SPARE_UPDATES = 256
"""Block-table entries that a mixed graph has room for beside one a row and those of its own tokens: a prompt
that begins with cached blocks appends them all at once."""


def decode_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes to capture, ascending; from 64 on, padding costs at most an eighth."""
    sizes = [*range(1, 17), *range(24, 257, 8), *range(288, 513, 32), *range(576, 1025, 64)]
    sizes += range(1152, 2049, 128)
    return sorted({*(size for size in sizes if size < max_num_seqs), min(max_num_seqs, sizes[-1])})


def decode_shapes(max_num_seqs: int) -> list[StepShape]:
    """Steps whose every token is sampled, ascending. A row takes a new block at most, or a cached prefix."""
    return [StepShape(size, size, 0, size, size) for size in decode_sizes(max_num_seqs)]


def mixed_sizes(max_num_tokens: int) -> tuple[int, ...]:
    """Tokens of the steps with chunks that are captured, ascending."""
    return tuple(tokens for tokens in _MIXED_TOKENS if tokens <= max_num_tokens)


def mixed_shapes(max_num_seqs: int, max_num_tokens: int, block_size: int) -> list[StepShape]:
    """Steps with chunks, ascending by tokens, then by rows."""
    return [
        StepShape(
            tokens,
            size,
            min(size, max_chunks(tokens)),
            size,
            size + -(-tokens // block_size) + _SPARE_UPDATES,
        )
        for tokens in mixed_sizes(max_num_tokens)
        for size in _mixed_rows(tokens, max_num_seqs)
        if size < tokens
    ]


def _mixed_rows(num_tokens: int, max_num_seqs: int) -> list[int]:
    rows = _MIXED_ROWS if num_tokens <= _LARGE_TOKENS else _LARGE_ROWS
    return sorted({min(num_rows, max_num_seqs) for num_rows in rows})


def max_chunks(num_tokens: int) -> int:
    """Chunks of a mixed graph at most; room for one costs next to nothing."""
    return max(_MIN_CHUNKS, num_tokens // _TOKENS_PER_CHUNK)


def first_shapes(decodes: Sequence[StepShape], mixed: Sequence[StepShape]) -> set[StepShape]:
    """Shapes to capture before all others: any step finds one among them that is not much larger."""
    doubled = {shape for shape in decodes if shape.num_tokens.bit_count() == 1}
    widest = {shape.num_tokens: shape for shape in mixed}  # rows ascend, so the last stays
    return {*doubled, *decodes[-1:], *widest.values()}


def varied_shapes(max_num_seqs: int, block_size: int) -> list[StepShape]:
    """A few steps that between them need every kernel variant that any step needs."""
    *decodes, largest = decode_shapes(max_num_seqs)
    sizes = {1, 2, 3, 8, 16, 32, 64, 128, 256, 512}
    # Small steps with chunks split prefixes, large ones do not: where, depends on the heads.
    few, *mixed, many = mixed_shapes(max_num_seqs, _MIXED_TOKENS[-1], block_size)
    every_width = (shape for shape in mixed if shape.num_tokens == _LARGE_TOKENS)
    # Where fewer sequences run than thin products take rows, chunks may have as many tokens.
    short = (StepShape(tokens, 1, 1, 1, 1) for tokens in (2, 3, 8) if tokens > max_num_seqs)
    named = (shape for shape in decodes if shape.num_tokens in sizes)
    return [*named, largest, *short, few, *every_width, many]
