"""Tensors out of safetensors files, one at a time, memory-mapped. Knows no model and no names' meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def safetensors_files(directory: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: one, or the shards of its index.

    Raises ValueError if there are none, the index is malformed, or shards are missing.
    """
    if (directory / _INDEX).is_file():
        return _shards(directory / _INDEX)
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    raise ValueError(f"{directory} has no safetensors weights: neither {_SINGLE} nor {_INDEX} is there")


def _shards(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(weight_map.values()))
        files = [index.parent / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not a safetensors index: {error!r}") from error
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing:
        raise ValueError(f"{index} names files that are missing: {', '.join(missing)}")
    return files


def count_tensors(files: Sequence[Path]) -> int:
    """How many tensors `read_tensors` will yield; reads headers only. Raises ValueError as it does."""
    return sum(len(names) for names in map(_names, files))


def read_tensors(files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor on the CPU) in the order of the bytes in each file.

    A tensor is a view of the mapped file: nothing is read before it is used, and nothing need be kept.
    Raises ValueError, naming the file, if one is truncated or malformed.
    """
    for file in files:
        names = _names(file)
        with safe_open(file, framework="pt") as opened:
            for name in names:
                yield name, opened.get_tensor(name)


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.offset_keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is truncated or no safetensors file: {error}") from error
